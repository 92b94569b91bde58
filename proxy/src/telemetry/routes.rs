//! All routes of this proxy: who counts under which key, and everything together as JSON.
//!
//! Workers come here when they build a route, and keep the [`RouteStats`] they get; the admin port reads. The keys are
//! made of the mesh's own names (routes, services, SPIFFE IDs, learned templates), and there are at most
//! [`limits::SERIES_MAX`] of them; what comes later takes the place of what was idle for long, or is counted under the route `other`
//! of its direction.

use super::{
    RouteStats,
    errors::{Errors, RecentError},
    histogram::Snapshot,
    stats::Reading,
    template::OTHER,
};
use crate::limits;
use serde::Serialize;
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::time::Instant;

macro_rules! label {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
        #[serde(rename_all = "lowercase")]
        pub(crate) enum $name { $($(#[$variant_doc])* $variant,)* }

        impl $name {
            /// The word in labels and JSON.
            pub(crate) const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }
        }
    };
}

label! {
    /// Which way the traffic goes, seen from the application.
    Direction {
        /// To the application of this pod.
        Inbound = "inbound",
        /// From it.
        Outbound = "outbound",
    }
}

label! {
    /// What protects the bytes on the mesh's side of this proxy.
    Tls {
        /// TLS of the mesh, both sides authenticated.
        Mtls = "mtls",
        /// Nothing.
        Plain = "plain",
        /// TLS of the application's own, not opened.
        Passthrough = "passthrough",
        /// Mesh TLS to some endpoints of the backend, and plaintext to others, which are outside the mesh.
        Mixed = "mixed",
    }
}

label! {
    /// What is spoken.
    Proto {
        /// HTTP/1.0 or 1.1.
        Http1 = "http1",
        /// HTTP/2.
        Http2 = "http2",
        /// gRPC.
        Grpc = "grpc",
        /// Opaque bytes.
        Tcp = "tcp",
    }
}

/// What is counted together.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct RouteKey {
    /// Inbound or outbound.
    pub direction: Direction,
    /// The Service (or port, or external authority) that was called: `shop/api:8080`.
    pub parent: Arc<str>,
    /// The route rule, gRPC method or path template; `tcp` for opaque bytes.
    pub route: Arc<str>,
    /// The SPIFFE ID at the other end, empty if it has none.
    pub peer: Arc<str>,
    /// How the bytes are protected.
    pub tls: Tls,
    /// What is spoken.
    pub protocol: Proto,
}

/// Counters that were found for a route.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    /// Where to count.
    pub stats: Arc<RouteStats>,
    /// They are those of `other`, because there was no room; and how often there was room again until then.
    short_of_room: Option<u32>,
}

/// The registry of routes, shared by all threads.
#[derive(Debug)]
pub(crate) struct Routes {
    pod: String,
    started: Instant,
    identity: Mutex<String>,
    series: Mutex<HashMap<RouteKey, Arc<RouteStats>>>,
    /// When room was looked for last.
    swept: Mutex<Option<Instant>>,
    /// Whether something had no room since it was looked for.
    short: AtomicBool,
    /// How often there was room again.
    rooms: AtomicU32,
    errors: Arc<Errors>,
}

impl Routes {
    /// An empty registry of the pod `namespace/name`.
    pub(crate) fn new(pod: String) -> Arc<Self> {
        Arc::new(Self {
            pod,
            started: Instant::now(),
            identity: Mutex::default(),
            series: Mutex::default(),
            swept: Mutex::default(),
            short: AtomicBool::default(),
            rooms: AtomicU32::default(),
            errors: Arc::default(),
        })
    }

    /// The counters of a route, while they are [current](Self::is_current). Locks: for when a route is built, not for every
    /// request.
    pub(crate) fn find(&self, key: RouteKey) -> Found {
        self.find_at(key, Instant::now())
    }

    /// Whether what was found is still what would be.
    pub(crate) fn is_current(&self, found: &Found) -> bool {
        !found.stats.is_retired() && found.short_of_room.is_none_or(|rooms| rooms == self.rooms.load(Relaxed))
    }

    /// The counters of a route, whether of its own or not.
    #[cfg(test)]
    pub(crate) fn stats(&self, key: RouteKey) -> Arc<RouteStats> {
        self.find(key).stats
    }

    #[cfg(test)]
    fn stats_at(&self, key: RouteKey, now: Instant) -> Arc<RouteStats> {
        self.find_at(key, now).stats
    }

    fn find_at(&self, key: RouteKey, now: Instant) -> Found {
        let mut series = lock(&self.series);
        if let Some(stats) = series.get(&key) {
            return Found { stats: stats.clone(), short_of_room: None };
        }
        if series.len() >= limits::SERIES_MAX {
            self.make_room(&mut series, now);
        }
        // How it was protected and what was spoken stay true, at the price of a dozen keys beyond the bound.
        let (key, short_of_room) = if series.len() < limits::SERIES_MAX {
            (key, None)
        } else {
            super::series_full("series");
            self.short.store(true, Relaxed);
            let other = RouteKey { parent: "".into(), route: OTHER.into(), peer: "".into(), ..key };
            (other, Some(self.rooms.load(Relaxed)))
        };
        let make = |key: &RouteKey| Arc::new(RouteStats::new(key.clone(), self.errors.clone(), now));
        let stats = series.entry(key).or_insert_with_key(make).clone();
        Found { stats, short_of_room }
    }

    /// Gives up what was idle for long.
    fn make_room(&self, series: &mut HashMap<RouteKey, Arc<RouteStats>>, now: Instant) {
        let mut swept = lock(&self.swept);
        if swept.is_some_and(|at| now.saturating_duration_since(at) < limits::SIGNALS_SWEEP) {
            return;
        }
        *swept = Some(now);
        series.retain(|_, stats| !stats.retire(now, limits::SIGNALS_IDLE));
        if series.len() < limits::SERIES_MAX && self.short.swap(false, Relaxed) {
            self.rooms.fetch_add(1, Relaxed);
        }
    }

    /// Tells the SPIFFE ID of this proxy's certificate.
    pub(crate) fn set_identity(&self, id: &str) {
        id.clone_into(&mut lock(&self.identity));
    }

    /// Moves the sliding windows on. To be called once a second.
    pub(crate) fn tick(&self, now: Instant) {
        for (_, stats) in self.sorted() {
            stats.tick(now);
        }
        // A caller for which there was no room goes on with the series it got, and does not look again.
        if self.short.load(Relaxed) {
            self.make_room(&mut lock(&self.series), now);
        }
    }

    /// The errors remembered, the latest first.
    pub(crate) fn errors(&self) -> Vec<RecentError> {
        self.errors.latest()
    }

    /// Everything, as `/routes` shows it.
    pub(crate) fn json(&self) -> Value {
        self.json_at(Instant::now())
    }

    /// Appends everything in Prometheus' text format.
    pub(crate) fn prometheus(&self, out: &mut String) {
        let now = Instant::now();
        let readings: Vec<_> = self.sorted().into_iter().map(|(key, stats)| (key, stats.read(now))).collect();
        super::prometheus::render(&readings, out);
    }

    fn json_at(&self, now: Instant) -> Value {
        let routes: Vec<Value> =
            self.sorted().into_iter().map(|(key, stats)| route_json(&key, &stats.read(now))).collect();
        json!({
            "pod": self.pod,
            "identity": *lock(&self.identity),
            "uptime_s": rounded(now.saturating_duration_since(self.started).as_secs_f64()),
            "routes": routes,
        })
    }

    /// A copy of the registry in a stable order, so that workers do not wait for a reader.
    fn sorted(&self) -> Vec<(RouteKey, Arc<RouteStats>)> {
        let mut all: Vec<_> = lock(&self.series).iter().map(|(key, stats)| (key.clone(), stats.clone())).collect();
        all.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        all
    }
}

fn route_json(key: &RouteKey, reading: &Reading) -> Value {
    let (mut failures, mut faults) = (BTreeMap::new(), BTreeMap::new());
    for failed in &reading.failures {
        *failures.entry(failed.reason).or_insert(0) += failed.count;
        *faults.entry(failed.fault.as_str()).or_insert(0) += failed.count;
    }
    json!({
        "direction": key.direction,
        "parent": key.parent,
        "route": key.route,
        "peer": key.peer,
        "tls": key.tls,
        "protocol": key.protocol,
        "requests": reading.requests,
        "success": reading.success,
        "failures": failures,
        "faults": faults,
        "cancelled": reading.cancelled,
        "rps": rounded(reading.rps),
        "p50_ms": quantile_ms(&reading.recent, 0.50),
        "p95_ms": quantile_ms(&reading.recent, 0.95),
        "p99_ms": quantile_ms(&reading.recent, 0.99),
        "retries": reading.retries,
        "retry_overflow": reading.retry_overflow,
        "connections": reading.connections,
        "bytes_in": reading.bytes_in,
        "bytes_out": reading.bytes_out,
    })
}

/// A quantile in milliseconds; 0 if nothing was measured, so that the field is always a number.
fn quantile_ms(snapshot: &Snapshot, q: f64) -> f64 {
    rounded(snapshot.quantile(q).unwrap_or(Duration::ZERO).as_secs_f64() * 1000.0)
}

/// To three decimals.
fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

/// The lock's content; nothing under these locks can be left half done by a panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::telemetry::Reason;

    pub(in super::super) fn key(route: &str) -> RouteKey {
        RouteKey {
            direction: Direction::Outbound,
            parent: "shop/api:8080".into(),
            route: route.into(),
            peer: "spiffe://cluster.local/ns/shop/sa/api".into(),
            tls: Tls::Mtls,
            protocol: Proto::Http1,
        }
    }

    #[test]
    fn the_same_key_has_the_same_counters() {
        let routes = Routes::new("shop/web-1".into());
        assert!(Arc::ptr_eq(&routes.stats(key("GET /")), &routes.stats(key("GET /"))));
        assert!(!Arc::ptr_eq(&routes.stats(key("GET /")), &routes.stats(key("GET /a"))));
    }

    #[test]
    fn beyond_the_cap_everything_of_a_direction_is_other() {
        let routes = Routes::new("shop/web-1".into());
        for i in 0..limits::SERIES_MAX {
            routes.stats(key(&format!("GET /{i}")));
        }
        let late = routes.stats(key("GET /late"));
        assert!(Arc::ptr_eq(&late, &routes.stats(key("GET /later"))));
        let inbound = routes.stats(RouteKey { direction: Direction::Inbound, ..key("GET /late") });
        assert!(!Arc::ptr_eq(&late, &inbound));
        assert!(!Arc::ptr_eq(&late, &routes.stats(key("GET /7"))), "what was there stays itself");
        let json = routes.json();
        let all = json["routes"].as_array().unwrap();
        assert_eq!(all.len(), limits::SERIES_MAX + 2);
        assert_eq!(all.iter().filter(|route| route["route"] == OTHER && route["parent"] == "").count(), 2);
    }

    #[test]
    fn the_json_has_the_fields_that_the_demo_reads() {
        let routes = Routes::new("shop/web-1".into());
        routes.set_identity("spiffe://cluster.local/ns/shop/sa/web");
        let stats = routes.stats(key("GET /users/:id"));
        for _ in 0..4 {
            stats.request();
        }
        stats.success(Duration::from_millis(10));
        stats.failure(Reason::Timeout, Duration::from_millis(10));
        stats.server_error(Duration::from_millis(10));
        stats.cancelled(Duration::from_millis(1));
        stats.retry();
        stats.retry_overflow();
        stats.connection_opened();
        stats.connection_opened();
        stats.connection_closed();
        stats.bytes_in(5);
        stats.bytes_out(7);
        let mut shown = routes.json_at(routes.started + Duration::from_millis(12_300));
        let p99 = shown["routes"][0]["p99_ms"].take().as_f64().unwrap();
        assert!((p99 - 10.0).abs() < 0.2, "{p99}");
        shown["routes"][0]["p50_ms"].take();
        shown["routes"][0]["p95_ms"].take();
        shown["routes"][0]["rps"] = json!(shown["routes"][0]["rps"].is_f64());
        assert_eq!(
            shown,
            json!({
                "pod": "shop/web-1",
                "identity": "spiffe://cluster.local/ns/shop/sa/web",
                "uptime_s": 12.3,
                "routes": [{
                    "direction": "outbound", "parent": "shop/api:8080", "route": "GET /users/:id",
                    "peer": "spiffe://cluster.local/ns/shop/sa/api", "tls": "mtls", "protocol": "http1",
                    "requests": 4, "success": 1, "failures": {"timeout": 1, "status_5xx": 1}, "faults": {"application": 2}, "cancelled": 1,
                    "rps": true, "p50_ms": null, "p95_ms": null, "p99_ms": null,
                    "retries": 1, "retry_overflow": 1, "connections": 1, "bytes_in": 5, "bytes_out": 7,
                }],
            })
        );
    }

    #[test]
    fn what_was_idle_for_long_gives_way_and_what_is_under_way_does_not() {
        let routes = Routes::new("shop/web-1".into());
        let start = Instant::now();
        let all: Vec<_> = (0..limits::SERIES_MAX).map(|i| routes.stats_at(key(&format!("GET /{i}")), start)).collect();
        all.iter().for_each(|stats| stats.request());
        all[2..].iter().for_each(|stats| stats.success(Duration::ZERO));
        all[0].connection_opened();
        all[0].success(Duration::ZERO);
        routes.tick(start + Duration::from_secs(1));
        let later = start + limits::SIGNALS_IDLE;
        all[3].request();
        all[3].success(Duration::ZERO);
        routes.tick(later);
        routes.stats_at(key("GET /early"), later - Duration::from_secs(1));
        assert!(all.iter().all(|stats| !stats.is_retired()), "a moment too early");
        let late = later + limits::SIGNALS_SWEEP;
        let new = routes.stats_at(key("GET /new"), late);
        let kept: Vec<_> = (0..limits::SERIES_MAX).filter(|i| !all[*i].is_retired()).collect();
        assert_eq!(kept, [0, 1, 3], "a connection, a request under way, and one that was asked for");
        assert!(Arc::ptr_eq(&new, &routes.stats_at(key("GET /new"), late)) && !new.is_retired());
        assert!(!Arc::ptr_eq(&all[7], &routes.stats_at(key("GET /7"), late)), "it begins anew");
    }
}
