//! Tap: requests and byte connections that ended, read from the workers' rings, whether anybody was looking or not.
//!
//! In: a [`Filter`]. Out: JSON (docs/admin-api.md). It reads what workers wrote and costs them nothing; a reader that comes too late for some
//! is told how many.

use super::{
    RouteKey, Routes,
    filter::Filter,
    record::{Entry, Rings, Which},
};
use serde::ser::{Serialize, SerializeMap as _, Serializer};
use serde_json::{Value, json};
use std::{collections::HashMap, sync::Arc, time::Duration};

/// What tap found.
#[derive(Debug)]
pub(crate) struct Tapped {
    /// The latest first.
    pub records: Vec<Value>,
    /// How many ended since the start, …
    pub seen: u64,
    /// … how many of these are kept, …
    pub kept: u64,
    /// … and since when all are, in milliseconds since 1970. Failures and slow ones are kept longer.
    pub since_ms: u64,
}

impl Routes {
    /// The last `most` records that `filter` takes.
    pub(crate) fn tap(&self, filter: &Filter, most: usize) -> Tapped {
        let (names, rings) = (self.names(), self.rings());
        let mut entries: Vec<(Entry, bool)> = Vec::new();
        let mut complete = Duration::ZERO;
        for rings in &rings {
            let recent: Vec<Entry> = rings.since(Which::Recent, 0).collect();
            if rings.written(Which::Recent) > recent.len() as u64 {
                complete = complete.max(recent.last().map_or(Duration::ZERO, |oldest| oldest.ended));
            }
            entries.extend(recent.into_iter().map(|entry| (entry, true)));
            for which in [Which::Failed, Which::Slow] {
                entries.extend(rings.since(which, 0).map(|entry| (entry, false)));
            }
        }
        entries.sort_by(|(a, a_recent), (b, b_recent)| (b.ended, b_recent).cmp(&(a.ended, a_recent)));
        // One that is in two rings is the same in both, and those that ended at that moment may stand in between.
        let mut once: Vec<Entry> = Vec::new();
        for (entry, recent) in entries {
            let mut same_moment = once.iter().rev().take_while(|other| other.ended == entry.ended);
            if recent || entry.refused || !same_moment.any(|other| *other == entry) {
                once.push(entry);
            }
        }
        let kept = once.len() as u64;
        let taken = once.iter().filter_map(|entry| {
            let key = names.get(&entry.series)?;
            filter.takes(key, entry, self.wall_ms(entry.ended)).then(|| json!(self.shown(key, entry)))
        });
        let seen = rings.iter().map(|rings| rings.written(Which::Recent)).sum();
        Tapped { records: taken.take(most).collect(), seen, kept, since_ms: self.wall_ms(complete) }
    }

    /// A reader of what ends from now on.
    pub(crate) fn follow(self: &Arc<Self>, filter: Filter) -> Follow {
        let rings = self.rings();
        let next = rings.iter().map(|rings| KINDS.map(|which| rings.written(which))).collect();
        Follow { routes: self.clone(), filter, rings, next }
    }

    fn shown<'a>(&self, key: &'a RouteKey, entry: &'a Entry) -> Shown<'a> {
        Shown { key, entry, at_ms: self.wall_ms(entry.ended) }
    }
}

/// A record as it is told, field by field: a tree of values would take five times as long.
#[derive(Debug)]
pub(crate) struct Shown<'a> {
    key: &'a RouteKey,
    entry: &'a Entry,
    at_ms: u64,
}

impl Serialize for Shown<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { key, entry, at_ms } = self;
        let ms = |time: Duration| (time.as_secs_f64() * 1e6).round() / 1e3;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("at_ms", at_ms)?;
        map.serialize_entry("direction", &key.direction)?;
        map.serialize_entry("parent", &key.parent)?;
        map.serialize_entry("route", &key.route)?;
        map.serialize_entry("peer", entry.head.peer().unwrap_or(&key.peer))?;
        map.serialize_entry("tls", &key.tls)?;
        map.serialize_entry("protocol", &key.protocol)?;
        map.serialize_entry("method", &entry.head.method)?;
        map.serialize_entry("path", &entry.head.path)?;
        map.serialize_entry("outcome", entry.outcome.as_str())?;
        map.serialize_entry("status", &entry.status)?;
        map.serialize_entry("grpc", &entry.grpc)?;
        map.serialize_entry("reason", &entry.reason.map(|reason| reason.as_str()))?;
        map.serialize_entry("fault", &entry.fault.map(|fault| fault.as_str()))?;
        map.serialize_entry("tries", &entry.tries)?;
        map.serialize_entry("endpoint", &entry.endpoint)?;
        map.serialize_entry("bytes_in", &entry.bytes_in)?;
        map.serialize_entry("bytes_out", &entry.bytes_out)?;
        map.serialize_entry("ms", &ms(entry.latency))?;
        map.serialize_entry("before_ms", &ms(entry.times.before))?;
        map.serialize_entry("connect_ms", &ms(entry.times.connect))?;
        map.serialize_entry("server_ms", &ms(entry.times.server))?;
        map.serialize_entry("after_ms", &ms(entry.times.after))?;
        map.serialize_entry("trace", &entry.trace())?;
        map.serialize_entry("headers", &Headers(&entry.head.fields))?;
        map.end()
    }
}

/// What was kept of a head's fields.
struct Headers<'a>(&'a [(String, String)]);

impl Serialize for Headers<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // Of a field that is there twice the last one is told, as ever.
        let last = |at: usize, name: &str| !self.0[at + 1..].iter().any(|(later, _)| later == name);
        let told = self.0.iter().enumerate().filter(|(at, (name, _))| name != ":peer" && last(*at, name));
        serializer.collect_map(told.map(|(_, (name, value))| (name, value)))
    }
}

/// The rings that a follower reads: what is refused is in the second alone.
const KINDS: [Which; 2] = [Which::Recent, Which::Failed];

/// See [`Routes::follow`].
#[derive(Debug)]
pub(crate) struct Follow {
    routes: Arc<Routes>,
    filter: Filter,
    rings: Vec<Arc<Rings>>,
    /// The next number in each ring of each worker.
    next: Vec<[u64; KINDS.len()]>,
}

impl Follow {
    /// What ended since it was asked last, the oldest first, and how many were overwritten before they were read. At most `most`, the
    /// latest; the others count as missed too.
    pub(crate) fn next(&mut self, most: usize) -> (Vec<Value>, u64) {
        let mut taken = Vec::new();
        let (_, missed) = self.each(most, |record| taken.push(json!(record)));
        (taken, missed)
    }

    /// The same, handed over one by one: how many were, and how many were missed.
    pub(crate) fn each(&mut self, most: usize, mut take: impl FnMut(&Shown<'_>)) -> (u64, u64) {
        // A worker may have begun since, above all where somebody follows from the process's start on.
        self.rings.extend(self.routes.rings_after(self.rings.len()));
        self.next.resize(self.rings.len(), [0; KINDS.len()]);
        let mut missed = 0;
        let mut entries: Vec<Entry> = Vec::new();
        for (rings, next) in self.rings.iter().zip(&mut self.next) {
            for (which, next) in KINDS.into_iter().zip(next) {
                let written = rings.written(which);
                let before = entries.len();
                // Not what is written meanwhile: that is for the next time.
                entries.extend(rings.between(which, *next..written));
                let read = (entries.len() - before) as u64;
                if which == Which::Recent {
                    missed += (written - *next).saturating_sub(read);
                } else {
                    // Others were among the last already.
                    let of_failed = entries.split_off(before);
                    entries.extend(of_failed.into_iter().filter(|entry| entry.refused));
                }
                *next = written;
            }
        }
        let names: HashMap<u32, RouteKey> = if entries.is_empty() { HashMap::new() } else { self.routes.names() };
        entries.sort_by_key(|entry| entry.ended);
        let routes = &self.routes;
        let named = entries.iter().filter_map(|entry| Some(routes.shown(names.get(&entry.series)?, entry)));
        let taken: Vec<Shown<'_>> =
            named.filter(|record| self.filter.takes(record.key, record.entry, record.at_ms)).collect();
        let over = taken.len().saturating_sub(most);
        taken[over..].iter().for_each(&mut take);
        ((taken.len() - over) as u64, missed + over as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Counters, Direction, Journal, Proto, Reason, Span, Tls},
        *,
    };
    use http::Request;
    use tokio::time::Instant;

    struct World {
        routes: Arc<Routes>,
        counters: Counters,
        start: Instant,
    }

    impl World {
        fn new() -> Self {
            let routes = Routes::new("shop/web-1".into());
            let counters = Counters::new(Journal::new(&routes), Direction::Outbound, "shop/api:80".into(), Vec::new());
            Self { start: routes.started(), routes, counters }
        }

        fn ask(&self, path: &str, at_ms: u64, fails: bool) {
            let request = Request::get(path).header("x-number", at_ms.to_string()).body(()).unwrap();
            let at = self.start + Duration::from_millis(at_ms);
            let mut begun = self.counters.request(None, &request, Proto::Http1, (&"".into(), Tls::Mtls), at);
            match fails {
                true => begun.failure(Reason::Timeout, at),
                false => begun.success(at),
            }
        }

        fn deny(&self, at_ms: u64) {
            let at = self.start + Duration::from_millis(at_ms);
            let request = Request::get("/denied").body(()).unwrap();
            self.counters
                .denied(Some(&request), Proto::Http1, ("spiffe://a/ns/shop/sa/stranger", Tls::Mtls), at)
                .failure(Reason::Denied, at);
        }

        fn paths(&self, filter: &str, most: usize) -> Vec<String> {
            let found = self.routes.tap(&Filter::parse(filter).unwrap(), most);
            found.records.iter().map(|record| record["path"].as_str().unwrap().to_owned()).collect()
        }
    }

    #[test]
    fn what_has_already_happened_is_found_by_a_filter() {
        let world = World::new();
        world.ask("/a", 1, false);
        world.ask("/b", 2, true);
        world.ask("/c", 3, false);
        world.deny(4);
        assert_eq!(world.paths("", 100), ["/denied", "/c", "/b", "/a"]);
        assert_eq!(world.paths("", 2), ["/denied", "/c"]);
        assert_eq!(world.paths("failed", 100), ["/denied", "/b"]);
        assert_eq!(world.paths("peer=shop/stranger", 100), ["/denied"], "its series does not tell who");
        assert_eq!(world.paths("header.x-number=3", 100), ["/c"]);
        let found = world.routes.tap(&Filter::parse("path=/b").unwrap(), 100);
        assert_eq!((found.seen, found.kept, found.records.len()), (3, 4, 1));
        assert_eq!(found.records[0]["reason"], "timeout");
    }

    #[test]
    fn a_trace_that_begins_here_is_told_and_found() {
        let world = World::new();
        let request = Request::get("/a").body(()).unwrap();
        let mut begun = world.counters.request(None, &request, Proto::Http1, (&"".into(), Tls::Mtls), world.start);
        begun.record().traced(Span { trace: 0xabc, id: 1, parent: None });
        begun.success(world.start);
        let trace = format!("{:032x}", 0xabc);
        let found = world.routes.tap(&Filter::parse(&format!("trace={trace}")).unwrap(), 100);
        assert_eq!(found.records[0]["trace"], trace);
        let exemplars: Vec<_> = world.routes.details().into_values().flat_map(|detail| detail.exemplars).collect();
        assert_eq!(exemplars[0].trace, trace);
    }

    #[test]
    fn a_field_that_is_there_twice_is_told_once() {
        let fields = [(":peer", "x"), ("accept", "a"), ("via", "b"), ("accept", "c")];
        let fields: Vec<_> = fields.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        assert_eq!(serde_json::to_string(&Headers(&fields)).unwrap(), r#"{"via":"b","accept":"c"}"#);
    }

    #[test]
    fn failures_are_still_there_when_many_others_came_after_them() {
        let world = World::new();
        world.ask("/failed", 1, true);
        for number in 0..5000 {
            world.ask("/fine", 10 + number, false);
        }
        assert_eq!(world.paths("failed", 100), ["/failed"]);
        let found = world.routes.tap(&Filter::parse("").unwrap(), 10_000);
        assert_eq!((found.seen, found.kept), (5001, 1025));
        assert_eq!(found.since_ms, world.routes.wall_ms(Duration::from_millis(10 + 5000 - 1024)));
    }

    #[test]
    fn a_follower_hears_of_workers_that_begin_after_it() {
        let routes = Routes::new("shop/web-1".into());
        let mut follow = routes.follow(Filter::parse("").unwrap());
        let counters = Counters::new(Journal::new(&routes), Direction::Outbound, "shop/api:80".into(), Vec::new());
        let world = World { start: routes.started(), routes, counters };
        world.ask("/a", 1, false);
        let (records, missed) = follow.next(100);
        assert_eq!((records.len(), missed), (1, 0));
    }

    #[test]
    fn a_follower_gets_each_record_once_and_hears_how_many_it_missed() {
        let world = World::new();
        world.ask("/before", 1, true);
        let mut follow = world.routes.follow(Filter::parse("").unwrap());
        assert_eq!(follow.next(100), (Vec::new(), 0));
        world.ask("/a", 2, false);
        world.ask("/b", 3, true);
        world.deny(4);
        let (records, missed) = follow.next(100);
        let paths: Vec<_> = records.iter().map(|record| record["path"].as_str().unwrap()).collect();
        assert_eq!((paths, missed), (vec!["/a", "/b", "/denied"], 0));
        (0..3000).for_each(|number| world.ask("/c", 10 + number, false));
        let (records, missed) = follow.next(100);
        assert_eq!((records.len(), missed), (100, 2900));
        assert_eq!(follow.next(100), (Vec::new(), 0));
    }
}
