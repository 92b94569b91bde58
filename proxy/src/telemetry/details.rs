//! What Prometheus' text format has no room for, of the latencies of routes: native histograms, and exemplars, which are the traces of requests
//! that tap keeps.
//!
//! In: the routes' histograms and the workers' rings. Out: [`Details`]. All of it is made when a scraper asks: requests pay nothing for it.

use super::{
    Direction, Routes,
    histogram::BOUNDS,
    prometheus::{DURATION, route_labels},
    record::Which,
    tracks::{Of, Traced, Track},
};
use remora_runtime::admin::exposition::{Detail, Details, Exemplar};
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

/// A route, as far as its latencies are told.
type Route = (Direction, Arc<str>, Arc<str>);
/// For each bucket of the text, the latest request in it that said which trace it belongs to.
type Latest = BTreeMap<usize, Traced>;

impl Routes {
    /// What text has no room for, by name and labels of each route's latencies.
    pub(crate) fn details(&self) -> Details {
        let mut traced = self.traced();
        let detail = |track: &Arc<Track>| {
            let Of::Route { direction, parent, route } = &track.of else { return None };
            let latest = traced.remove(&(*direction, parent.clone(), route.clone())).unwrap_or_default();
            let exemplars = track.show(latest).into_iter().map(|traced| self.exemplar(traced)).collect();
            let labels = route_labels(*direction, parent, route);
            Some((format!("{}{{{labels}}}", DURATION.0), Detail { native: track.latency().native(), exemplars }))
        };
        self.tracks().0.iter().filter_map(detail).collect()
    }

    /// The latest requests of each route and bucket that have a trace.
    fn traced(&self) -> HashMap<Route, Latest> {
        let names = self.names();
        let mut traced: HashMap<Route, Latest> = HashMap::new();
        for rings in self.rings() {
            for which in [Which::Recent, Which::Failed, Which::Slow] {
                for entry in rings.since(which, 0) {
                    let of_head = || u128::from_str_radix(entry.head.trace()?, 16).ok();
                    let trace = entry.span.map(|span| span.trace).or_else(of_head);
                    let Some((key, trace)) = names.get(&entry.series).zip(trace) else { continue };
                    let new = Traced { ended: entry.ended, latency: entry.latency, trace };
                    let latest = traced.entry((key.direction, key.parent.clone(), key.route.clone())).or_default();
                    let known = latest.entry(bucket(entry.latency)).or_insert(new);
                    if known.ended < new.ended {
                        *known = new;
                    }
                }
            }
        }
        traced
    }

    fn exemplar(&self, Traced { ended, latency, trace }: Traced) -> Exemplar {
        Exemplar { trace: format!("{trace:032x}"), value: latency.as_secs_f64(), at: self.wall_ms(ended) as f64 / 1e3 }
    }
}

/// Which bucket of the text a latency belongs to.
fn bucket(latency: Duration) -> usize {
    BOUNDS.partition_point(|bound| *bound < latency)
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Counters, Journal, Proto, Tls},
        *,
    };
    use tokio::time::Instant;

    const MS: Duration = Duration::from_millis(1);
    const LABELS: &str = "direction=\"outbound\",parent=\"shop/api:8080\",route=\"GET /a\"";

    fn answered(counters: &Counters, trace: Option<&str>, latency: Duration) {
        let mut request = http::Request::get("/a").body(()).unwrap();
        if let Some(trace) = trace {
            let value = format!("00-{trace}-00f067aa0ba902b7-01").parse().unwrap();
            request.headers_mut().insert("traceparent", value);
        }
        let began = Instant::now();
        let mut begun = counters.request(None, &request, Proto::Http1, (&"".into(), Tls::Plain), began);
        begun.success(began + latency);
    }

    #[test]
    fn a_bucket_shows_the_latest_request_that_has_a_trace() {
        let routes = Routes::new("shop/web-1".into());
        let counters = Counters::new(Journal::new(&routes), Direction::Outbound, "shop/api:8080".into(), Vec::new());
        let trace = |digit: &str| digit.repeat(32);
        answered(&counters, Some(&trace("a")), MS);
        answered(&counters, Some(&trace("b")), 3 * MS);
        answered(&counters, None, 3 * MS);
        answered(&counters, Some(&trace("c")), 4 * MS);
        answered(&counters, Some(&trace("d")), 20_000 * MS);
        let details = routes.details();
        let detail = &details[&format!("remora_request_duration_seconds{{{LABELS}}}")];
        let shown: Vec<_> = detail.exemplars.iter().map(|exemplar| (exemplar.trace.as_str(), exemplar.value)).collect();
        assert_eq!(shown, [(&*trace("a"), 0.001), (&*trace("c"), 0.004), (&*trace("d"), 20.0)]);
        assert_eq!(detail.native.iter().map(|(_, count)| count).sum::<u64>(), 5);
    }

    #[test]
    fn a_bucket_never_goes_back_to_an_older_request() {
        let routes = Routes::new("shop/web-1".into());
        let counters = Counters::new(Journal::new(&routes), Direction::Outbound, "shop/api:8080".into(), Vec::new());
        let shown = || routes.details().into_values().flat_map(|detail| detail.exemplars).collect::<Vec<_>>();
        answered(&counters, Some(&"e".repeat(32)), MS);
        let first = shown();
        // So many that the last of all have pushed it out.
        (0..3000).for_each(|_| answered(&counters, None, MS));
        assert_eq!((shown(), first.len()), (first, 1));
    }

    #[test]
    fn a_latency_belongs_to_the_bucket_whose_bound_it_does_not_exceed() {
        for (latency, wanted) in
            [(Duration::ZERO, 0), (BOUNDS[0], 0), (BOUNDS[0] + Duration::from_nanos(1), 1), (BOUNDS[14], 14)]
        {
            assert_eq!(bucket(latency), wanted, "{latency:?}");
        }
        assert_eq!(bucket(BOUNDS[14] + MS), 15);
    }

    #[test]
    fn byte_connections_have_native_histograms() {
        let routes = Routes::new("shop/web-1".into());
        let counters = Counters::new(Journal::new(&routes), Direction::Outbound, "shop/db:5432".into(), Vec::new());
        let mut begun = counters.bytes(&"".into(), Tls::Plain, Instant::now());
        begun.success(Instant::now());
        assert_eq!(routes.details().len(), 1);
    }
}
