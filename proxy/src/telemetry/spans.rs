//! Spans of requests that ended, read from the workers' rings.
//!
//! In: what workers wrote of sampled requests. Out: each of them once, with the series that it is counted in. It costs workers nothing; what was
//! overwritten before it was read is counted as missed.

use super::{
    RouteKey, Routes,
    record::{Entry, Rings, Which},
};
use std::{sync::Arc, time::Duration};

/// A sampled request that ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub key: RouteKey,
    pub entry: Entry,
    /// The time of day.
    pub began: Duration,
}

/// See [`Routes::follow_spans`].
#[derive(Debug)]
pub(crate) struct FollowSpans {
    routes: Arc<Routes>,
    rings: Vec<Arc<Rings>>,
    /// The next number in the ring of each worker.
    next: Vec<u64>,
}

impl Routes {
    /// A reader of the spans that end from now on.
    pub(crate) fn follow_spans(self: &Arc<Self>) -> FollowSpans {
        let rings = self.rings();
        let next = rings.iter().map(|rings| rings.written(Which::Traced)).collect();
        FollowSpans { routes: self.clone(), rings, next }
    }
}

impl FollowSpans {
    /// What ended since it was asked last, the oldest first, and how many are missing: overwritten before they were read, or of a series that is known no more.
    pub(crate) fn next(&mut self) -> (Vec<Ended>, u64) {
        // A worker may have begun since.
        self.rings.extend(self.routes.rings_after(self.rings.len()));
        self.next.resize(self.rings.len(), 0);
        let (mut entries, mut written_all) = (Vec::new(), 0);
        for (rings, next) in self.rings.iter().zip(&mut self.next) {
            let written = rings.written(Which::Traced);
            if written > *next {
                let mut of_ring: Vec<Entry> = rings.between(Which::Traced, *next..written).collect();
                of_ring.reverse();
                entries.extend(of_ring);
                written_all += written - *next;
                *next = written;
            }
        }
        if written_all == 0 {
            return (Vec::new(), 0);
        }
        entries.sort_by_key(|entry| entry.ended);
        let names = self.routes.names();
        let ended = entries.into_iter().filter_map(|entry| {
            let key = names.get(&entry.series)?.clone();
            let began = self.routes.wall_now(entry.ended).saturating_sub(entry.latency);
            Some(Ended { key, entry, began })
        });
        let ended: Vec<Ended> = ended.collect();
        let missed = written_all.saturating_sub(ended.len() as u64);
        (ended, missed)
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Counters, Direction, Journal, Proto, Span, Tls},
        *,
    };
    use crate::limits;
    use http::Request;
    use tokio::time::Instant;

    fn ask(counters: &Counters, id: u64, now: Instant) {
        let request = Request::get("/a").body(()).unwrap();
        let mut begun = counters.request(None, &request, Proto::Http1, (&"".into(), Tls::Mtls), now);
        if id > 0 {
            begun.record().traced(Span { trace: 7, id, parent: None });
        }
        begun.success(now + Duration::from_millis(3));
    }

    #[test]
    fn a_sampled_request_is_told_once_and_others_push_none_out() {
        let routes = Routes::new("shop/web-1".into());
        let (mut follow, now) = (routes.follow_spans(), routes.started());
        let counters = Counters::new(Journal::new(&routes), Direction::Outbound, "shop/api:80".into(), Vec::new());
        ask(&counters, 5, now);
        (0..5000).for_each(|_| ask(&counters, 0, now));
        let (ended, missed) = follow.next();
        let [one] = &ended[..] else { panic!("{ended:?}") };
        assert_eq!((one.entry.span.map(|span| span.id), &*one.key.parent, missed), (Some(5), "shop/api:80", 0));
        assert!(one.began > Duration::from_secs(1_600_000_000), "{:?} since 1970", one.began);
        assert!(follow.next().0.is_empty());
        let room = limits::RECORD_CHUNKS_TRACED as u64 * 32;
        (0..room + 9).for_each(|_| ask(&counters, 5, now));
        let (ended, missed) = follow.next();
        assert_eq!((ended.len() as u64, missed), (room, 9));
    }

    #[test]
    fn a_trace_that_begins_here_is_told_to_who_looks_at_the_record() {
        let routes = Routes::new("shop/web-1".into());
        let counters = Counters::new(Journal::new(&routes), Direction::Outbound, "shop/api:80".into(), Vec::new());
        ask(&counters, 5, routes.started());
        let trace = "00000000000000000000000000000007";
        let found = routes.tap(&super::super::Filter::parse(&format!("trace={trace}")).unwrap(), 10);
        assert_eq!((found.records.len(), &found.records[0]["trace"]), (1, &trace.into()));
    }
}
