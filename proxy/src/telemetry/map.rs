//! What the map of the mesh needs of this proxy, as JSON (`/map`, docs/admin-api.md): whom it calls, who calls it, and what it serves.
//!
//! In: the registry of routes. Out: rows by Service and by peer, which is less than [`view`](super::view) shows by route: discovery asks every
//! proxy of the mesh for it while somebody looks at the map.

use super::{
    Direction, Fault, Routes, STATUS_5XX, Tls,
    history::{Clock, Span, Window},
    record::{Entry, Outcome, Which},
    stats::Reading,
    tracks::{Of, Track},
};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};
use tokio::time::Instant;

/// Failures that ended so lately are told by reason, as far as they are kept.
const LATELY: Duration = Duration::from_secs(60);

/// Who is at the other end, and how the bytes are protected.
type End = (Arc<str>, Tls);

/// How often requests failed lately, by reason and by whose fault.
type Failures = BTreeMap<(&'static str, &'static str), u64>;

/// What is told of one Service that is called, or of one peer that calls.
#[derive(Default)]
struct Row {
    windows: [Option<Sum>; Span::ALL.len()],
    failures: Failures,
    /// Requests since the start, and a second, of each end.
    ends: BTreeMap<End, (u64, f64)>,
    /// The Services that it calls.
    parents: BTreeSet<Arc<str>>,
}

/// A window of several routes.
#[derive(Default)]
struct Sum {
    requests: u64,
    failed: u64,
    rps: f64,
    latencies: BTreeMap<u64, u64>,
}

impl Sum {
    fn add(&mut self, window: &Window) {
        self.requests += window.ended;
        self.failed += window.failed;
        self.rps += window.ended as f64 / window.seconds;
        for (middle, count) in &window.latencies {
            *self.latencies.entry(*middle).or_default() += count;
        }
    }
}

impl Row {
    fn add_windows(&mut self, track: &Track, clock: &Clock) {
        for (span, sum) in Span::ALL.into_iter().zip(&mut self.windows) {
            if let Some(window) = track.window(clock, span) {
                sum.get_or_insert_default().add(&window);
            }
        }
    }

    fn add_end(&mut self, end: End, reading: &Reading) {
        let (requests, rps) = self.ends.entry(end).or_default();
        *requests += reading.requests;
        *rps += reading.rps;
    }

    /// With its latencies, or without.
    fn windows(&self, latencies: bool) -> Value {
        let window = |sum: &Sum| {
            let mut shown = json!({ "requests": sum.requests, "failed": sum.failed, "rps": rounded(sum.rps) });
            if latencies {
                shown["latencies_ns"] = json!(sum.latencies.iter().collect::<Vec<_>>());
            }
            shown
        };
        let named = Span::ALL.into_iter().zip(&self.windows);
        Value::Object(named.map(|(span, sum)| (span.as_str().to_owned(), json!(sum.as_ref().map(window)))).collect())
    }

    fn failures(&self) -> Value {
        let rows = self.failures.iter();
        rows.map(|((reason, fault), count)| json!({ "reason": reason, "fault": fault, "count": count })).collect()
    }
}

impl Routes {
    /// Whom this proxy calls, who calls it, and what it serves.
    pub(crate) fn map(&self) -> Value {
        let now = Instant::now();
        let (mut calls, mut callers) = self.rows(now);
        self.lately_failed(now, &mut calls, &mut callers);
        let called = |(parent, row): (&Arc<str>, &Row)| {
            let end = |((peer, tls), (requests, rps)): (&End, &(u64, f64))| json!({ "peer": peer, "tls": tls, "requests": requests, "rps": rounded(*rps) });
            json!({
                "parent": parent,
                "windows": row.windows(true),
                "to": row.ends.iter().map(end).collect::<Value>(),
                "failures": row.failures(),
            })
        };
        let calling = |((peer, tls), row): (&End, &Row)| {
            // The latencies of callers in the mesh are told by their own proxies.
            json!({
                "peer": peer,
                "tls": tls,
                "parents": row.parents,
                "windows": row.windows(peer.is_empty()),
                "failures": row.failures(),
            })
        };
        let serves: BTreeSet<&Arc<str>> = callers.values().flat_map(|row| &row.parents).collect();
        json!({
            "pod": self.pod,
            "identity": self.identity(),
            "version": env!("CARGO_PKG_VERSION"),
            "at_ms": self.wall_ms(now.saturating_duration_since(self.started())),
            "calls": calls.iter().map(called).collect::<Value>(),
            "callers": callers.iter().map(calling).collect::<Value>(),
            "serves": serves,
        })
    }

    /// By the Services that are called, and by those who call.
    fn rows(&self, now: Instant) -> (BTreeMap<Arc<str>, Row>, BTreeMap<End, Row>) {
        let (mut calls, mut callers) = (BTreeMap::<Arc<str>, Row>::new(), BTreeMap::<End, Row>::new());
        for stats in self.series() {
            let key = &stats.key;
            let end = (key.peer.clone(), key.tls);
            match key.direction {
                Direction::Outbound => {
                    calls.entry(key.parent.clone()).or_default().add_end(end, &stats.read(now));
                }
                // What had no room of its own has no parent.
                Direction::Inbound => {
                    let parent = Some(&key.parent).filter(|parent| !parent.is_empty());
                    callers.entry(end).or_default().parents.extend(parent.cloned());
                }
            }
        }
        let ((routes, peers), clock) = (self.tracks(), self.clock());
        for track in routes.iter().chain(&peers) {
            let row = match &track.of {
                Of::Route { direction: Direction::Outbound, parent, .. } => calls.get_mut(parent),
                Of::Peer { direction: Direction::Inbound, peer, tls } => callers.get_mut(&(peer.clone(), *tls)),
                _ => None,
            };
            if let Some(row) = row {
                row.add_windows(track, &clock);
            }
        }
        (calls, callers)
    }

    /// Adds why requests failed lately.
    fn lately_failed(&self, now: Instant, calls: &mut BTreeMap<Arc<str>, Row>, callers: &mut BTreeMap<End, Row>) {
        let names = self.names();
        let since = now.saturating_duration_since(self.started()).saturating_sub(LATELY);
        for rings in self.rings() {
            for entry in rings.since(Which::Failed, 0).take_while(|entry| entry.ended >= since) {
                let (Some(key), Some(why)) = (names.get(&entry.series), why(&entry)) else { continue };
                let row = match key.direction {
                    Direction::Outbound => calls.get_mut(&key.parent),
                    Direction::Inbound => callers.get_mut(&(key.peer.clone(), key.tls)),
                };
                if let Some(row) = row {
                    *row.failures.entry(why).or_default() += 1;
                }
            }
        }
    }
}

/// Why a request failed, and whose fault it was, in the words of the counters.
fn why(entry: &Entry) -> Option<(&'static str, &'static str)> {
    match entry.outcome {
        Outcome::ServerError => Some((STATUS_5XX, Fault::Application.as_str())),
        _ => Some((entry.reason?.as_str(), entry.fault?.as_str())),
    }
}

/// To three decimals.
fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::{Counters, Journal, Proto, Reason};

    fn counters(routes: &Arc<Routes>, direction: Direction, parent: &str) -> Counters {
        Counters::new(Journal::new(routes), direction, parent.into(), Vec::new())
    }

    fn ask(counters: &Counters, (path, peer, tls): (&str, &str, Tls), ends: Outcome) {
        let (request, now) = (http::Request::get(path).body(()).unwrap(), Instant::now());
        let mut begun = counters.request(None, &request, Proto::Http1, (&peer.into(), tls), now);
        let at = now + Duration::from_millis(4);
        match ends {
            Outcome::Failure => begun.failure(Reason::Timeout, at),
            Outcome::ServerError => begun.server_error(at),
            Outcome::Success | Outcome::Cancelled => begun.success(at),
        }
    }

    fn minute(routes: &Routes) {
        let now = Instant::now();
        (1..=60).for_each(|second| routes.tick(now + Duration::from_secs(second)));
    }

    const API: &str = "spiffe://cluster.local/ns/shop/sa/api";

    #[test]
    fn a_service_has_one_row_however_many_routes_and_ends_it_has() {
        let routes = Routes::new("shop/web-1".into());
        let api = counters(&routes, Direction::Outbound, "shop/api:80");
        for path in ["/a", "/b", "/c"] {
            ask(&api, (path, API, Tls::Mtls), Outcome::Success);
        }
        ask(&api, ("/a", "", Tls::Plain), Outcome::Failure);
        minute(&routes);
        let map = routes.map();
        let [call] = map["calls"].as_array().unwrap().as_slice() else { panic!("{map:#}") };
        let m1 = &call["windows"]["m1"];
        assert_eq!((&m1["requests"], &m1["failed"]), (&json!(4), &json!(1)));
        let counted: u64 =
            m1["latencies_ns"].as_array().unwrap().iter().map(|bucket| bucket[1].as_u64().unwrap()).sum();
        assert_eq!(counted, 4, "the latencies of all routes, added up");
        assert_eq!(call["to"].as_array().unwrap().len(), 2, "mTLS and plaintext are told apart");
        assert_eq!(call["failures"][0]["reason"], "timeout");
        assert_eq!(call["windows"]["before"], Value::Null);
    }

    #[test]
    fn callers_are_told_by_who_they_are_and_their_latencies_only_where_nobody_else_tells_them() {
        let routes = Routes::new("shop/api-1".into());
        let api = counters(&routes, Direction::Inbound, "shop/api:80");
        ask(&api, ("/", API, Tls::Mtls), Outcome::Success);
        ask(&api, ("/", "", Tls::Plain), Outcome::Success);
        minute(&routes);
        let map = routes.map();
        assert_eq!(map["serves"], json!(["shop/api:80"]));
        let callers = map["callers"].as_array().unwrap();
        let of = |peer: &str| callers.iter().find(|caller| caller["peer"] == peer).unwrap();
        assert_eq!(of("")["windows"]["m1"]["latencies_ns"].as_array().unwrap().len(), 1);
        assert_eq!(of(API)["windows"]["m1"]["latencies_ns"], Value::Null);
        assert_eq!(of(API)["parents"], json!(["shop/api:80"]));
        assert_eq!(map["calls"], json!([]));
    }

    #[test]
    fn an_answer_of_500_has_a_reason_as_well_the_applications_own() {
        let routes = Routes::new("shop/web-1".into());
        let api = counters(&routes, Direction::Outbound, "shop/api:80");
        ask(&api, ("/a", API, Tls::Mtls), Outcome::ServerError);
        ask(&api, ("/a", API, Tls::Mtls), Outcome::ServerError);
        minute(&routes);
        let told = json!([{ "reason": "status_5xx", "fault": "application", "count": 2 }]);
        assert_eq!(routes.map()["calls"][0]["failures"], told);
    }
}
