//! What the registry shows to people and programs, as JSON: `/routes`, `/errors`, `/signals` and `/signals/heatmap` (docs/admin-api.md).

use super::{
    RouteKey, RouteStats, Routes,
    history::Span,
    record::{Entry, Which},
    stats::Reading,
    tracks::{Of, Track},
};
use crate::limits;
use serde_json::{Map, Value, json};
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};
use tokio::time::Instant;

impl Routes {
    /// Whose signals these are, for `/routes`.
    pub(crate) fn head(&self) -> Map<String, Value> {
        self.head_at(Instant::now())
    }

    fn head_at(&self, now: Instant) -> Map<String, Value> {
        let mut head = Map::new();
        head.insert("pod".to_owned(), json!(self.pod));
        head.insert("identity".to_owned(), json!(self.identity()));
        head.insert("uptime_s".to_owned(), json!(self.uptime_s(now)));
        head
    }

    /// Everything since the start, by route and peer, as `/routes` shows it: each row is made when it is asked for.
    pub(crate) fn by_route(&self) -> impl Iterator<Item = Value> {
        let now = Instant::now();
        self.series().into_iter().map(move |stats| self.route_json(&stats, now))
    }

    /// The same as a whole.
    #[cfg(test)]
    pub(crate) fn json(&self) -> Value {
        self.json_at(Instant::now())
    }

    #[cfg(test)]
    fn json_at(&self, now: Instant) -> Value {
        let mut shown = self.head_at(now);
        shown.insert("routes".to_owned(), self.by_route().collect());
        Value::Object(shown)
    }

    /// The failures that are kept, the latest first.
    pub(crate) fn errors(&self) -> Vec<Value> {
        let names = self.names();
        let mut failed: Vec<Entry> = self.rings().iter().flat_map(|rings| rings.since(Which::Failed, 0)).collect();
        failed.retain(|entry| entry.reason.is_some());
        failed.sort_by_key(|entry| std::cmp::Reverse(entry.ended));
        failed.truncate(limits::ERRORS_SHOWN);
        failed.iter().filter_map(|entry| self.error_json(&names, entry)).collect()
    }

    fn error_json(&self, names: &HashMap<u32, RouteKey>, entry: &Entry) -> Option<Value> {
        let key = names.get(&entry.series)?;
        Some(json!({
            "unix_time": self.wall_ms(entry.ended) as f64 / 1e3,
            "direction": key.direction,
            "parent": key.parent,
            "route": key.route,
            "peer": entry.head.peer().unwrap_or(&key.peer),
            "reason": entry.reason?.as_str(),
            "fault": entry.fault?.as_str(),
            "after_ms": rounded(entry.latency.as_secs_f64() * 1e3),
        }))
    }

    /// What happens now, as `/signals` shows it: routes, who calls them, and peers.
    pub(crate) fn signals(&self) -> Signals<'_> {
        let now = Instant::now();
        let series: Vec<(Arc<RouteStats>, Reading)> =
            self.series().into_iter().map(|stats| (stats.clone(), stats.read(now))).collect();
        let mut sums: HashMap<u32, Sum> = HashMap::new();
        for (stats, reading) in &series {
            sums.entry(stats.route.id).or_default().add(reading);
        }
        Signals { of: self, now, series, sums, tracks: self.tracks() }
    }

    /// Latencies of the route with this number over the last ten minutes; none if there is no such route.
    pub(crate) fn heatmap(&self, route: u32) -> Option<Value> {
        let track = self.tracks().0.into_iter().find(|track| track.id == route)?;
        let clock = self.clock();
        Some(track.heatmap(&clock, |at| self.wall_ms(at.saturating_duration_since(self.started()))))
    }

    fn uptime_s(&self, now: Instant) -> f64 {
        rounded(now.saturating_duration_since(self.started()).as_secs_f64())
    }

    fn track_json(&self, track: &Track, sum: &Sum, histograms: bool) -> Value {
        let mut row = Map::from_iter([("id".to_owned(), json!(track.id))]);
        match &track.of {
            Of::Route { direction, parent, route } => {
                row.insert("direction".to_owned(), json!(direction));
                row.insert("parent".to_owned(), json!(parent));
                row.insert("route".to_owned(), json!(route));
                sum.show(&mut row);
                row.insert("time".to_owned(), track.time());
            }
            Of::Peer { direction, peer, tls } => {
                row.insert("direction".to_owned(), json!(direction));
                row.insert("peer".to_owned(), json!(peer));
                row.insert("tls".to_owned(), json!(tls));
            }
        }
        track.windows(&self.clock(), histograms, &mut row);
        Value::Object(row)
    }

    fn route_json(&self, stats: &RouteStats, now: Instant) -> Value {
        let (key, reading) = (&stats.key, stats.read(now));
        // Of the route, whoever called it: of the last ten seconds, or of all if there was nothing.
        let lately = stats.route.window(&self.clock(), Span::Seconds10).and_then(|window| window.quantiles);
        let [p50, p95, p99] = lately.unwrap_or_else(|| {
            let all = stats.route.latency();
            [0.5, 0.95, 0.99].map(|share| all.quantile(share).unwrap_or(Duration::ZERO))
        });
        let quantile_ms = |quantile: Duration| rounded(quantile.as_secs_f64() * 1000.0);
        let mut row = Map::from_iter([
            ("direction".to_owned(), json!(key.direction)),
            ("parent".to_owned(), json!(key.parent)),
            ("route".to_owned(), json!(key.route)),
            ("peer".to_owned(), json!(key.peer)),
            ("tls".to_owned(), json!(key.tls)),
            ("protocol".to_owned(), json!(key.protocol)),
            ("rps".to_owned(), json!(rounded(reading.rps))),
            ("p50_ms".to_owned(), json!(quantile_ms(p50))),
            ("p95_ms".to_owned(), json!(quantile_ms(p95))),
            ("p99_ms".to_owned(), json!(quantile_ms(p99))),
        ]);
        let mut sum = Sum::default();
        sum.add(&reading);
        sum.show(&mut row);
        Value::Object(row)
    }
}

/// What was counted at one moment. Its rows are made one by one, when they are asked for: there may be thousands.
pub(crate) struct Signals<'a> {
    of: &'a Routes,
    now: Instant,
    series: Vec<(Arc<RouteStats>, Reading)>,
    /// By the number of the route.
    sums: HashMap<u32, Sum>,
    tracks: (Vec<Arc<Track>>, Vec<Arc<Track>>),
}

impl Signals<'_> {
    /// All that is no list.
    pub(crate) fn head(&self) -> Map<String, Value> {
        let mut head = self.of.head_at(self.now);
        head.insert("version".to_owned(), json!(env!("CARGO_PKG_VERSION")));
        let since = self.now.saturating_duration_since(self.of.started());
        head.insert("at_ms".to_owned(), json!(self.of.wall_ms(since)));
        head.insert("dropped".to_owned(), json!({ "series": self.of.full() }));
        head
    }

    /// With the latencies of each window where those are asked for.
    pub(crate) fn routes(&self, histograms: bool) -> impl Iterator<Item = Value> {
        self.tracks.0.iter().filter_map(move |track| {
            let sum = self.sums.get(&track.id)?;
            Some(self.of.track_json(track, sum, histograms))
        })
    }

    /// Who calls which route.
    pub(crate) fn edges(&self) -> impl Iterator<Item = Value> {
        self.series.iter().map(|(stats, reading)| edge_json(stats, reading))
    }

    /// With the latencies of each window where those are asked for.
    pub(crate) fn peers(&self, histograms: bool) -> impl Iterator<Item = Value> {
        self.tracks.1.iter().map(move |track| self.of.track_json(track, &Sum::default(), histograms))
    }
}

/// Counts of one or more series.
#[derive(Debug, Default)]
struct Sum {
    requests: u64,
    success: u64,
    cancelled: u64,
    failures: BTreeMap<&'static str, u64>,
    faults: BTreeMap<&'static str, u64>,
    retries: u64,
    retry_overflow: u64,
    bytes_in: u64,
    bytes_out: u64,
    in_flight: u64,
    connections: u64,
}

impl Sum {
    fn add(&mut self, reading: &Reading) {
        for failed in &reading.failures {
            *self.failures.entry(failed.reason).or_insert(0) += failed.count;
            *self.faults.entry(failed.fault.as_str()).or_insert(0) += failed.count;
        }
        for (sum, count) in [
            (&mut self.requests, reading.requests),
            (&mut self.success, reading.success),
            (&mut self.cancelled, reading.cancelled),
            (&mut self.retries, reading.retries),
            (&mut self.retry_overflow, reading.retry_overflow),
            (&mut self.bytes_in, reading.bytes_in),
            (&mut self.bytes_out, reading.bytes_out),
            (&mut self.in_flight, reading.in_flight),
            (&mut self.connections, reading.connections),
        ] {
            *sum += count;
        }
    }

    fn show(&self, row: &mut Map<String, Value>) {
        for (name, count) in [
            ("requests", self.requests),
            ("success", self.success),
            ("cancelled", self.cancelled),
            ("retries", self.retries),
            ("retry_overflow", self.retry_overflow),
            ("bytes_in", self.bytes_in),
            ("bytes_out", self.bytes_out),
            ("in_flight", self.in_flight),
            ("connections", self.connections),
        ] {
            row.insert(name.to_owned(), json!(count));
        }
        row.insert("failures".to_owned(), json!(self.failures));
        row.insert("faults".to_owned(), json!(self.faults));
    }
}

fn edge_json(stats: &RouteStats, reading: &Reading) -> Value {
    let mut row = Map::from_iter([
        ("id".to_owned(), json!(stats.id())),
        ("route".to_owned(), json!(stats.route.id)),
        ("peer".to_owned(), json!(stats.key.peer)),
        ("tls".to_owned(), json!(stats.key.tls)),
        ("protocol".to_owned(), json!(stats.key.protocol)),
        ("rps".to_owned(), json!(rounded(reading.rps))),
    ]);
    let mut sum = Sum::default();
    sum.add(reading);
    sum.show(&mut row);
    Value::Object(row)
}

/// To three decimals.
fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Blame, Reason, routes::tests::key},
        *,
    };

    #[test]
    fn the_json_has_the_fields_that_the_demo_reads() {
        let routes = Routes::new("shop/web-1".into());
        routes.set_identity("spiffe://cluster.local/ns/shop/sa/web");
        let stats = routes.stats(key("GET /users/:id"));
        for _ in 0..4 {
            stats.request();
        }
        stats.success(Duration::from_millis(10));
        stats.failure(Reason::Timeout.into(), Duration::from_millis(10));
        stats.server_error(Duration::from_millis(10));
        stats.cancelled();
        stats.retry();
        stats.retry_overflow();
        stats.connection_opened();
        stats.connection_opened();
        stats.connection_closed();
        stats.bytes_in(5);
        stats.bytes_out(7);
        let mut shown = routes.json_at(routes.started() + Duration::from_millis(12_300));
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
                    "rps": true, "p50_ms": null, "p95_ms": null, "p99_ms": null, "in_flight": 0,
                    "retries": 1, "retry_overflow": 1, "connections": 1, "bytes_in": 5, "bytes_out": 7,
                }],
            })
        );
    }

    #[test]
    fn a_route_shows_the_sum_of_its_peers_and_each_of_them_is_an_edge() {
        let routes = Routes::new("shop/api-1".into());
        for peer in ["a", "b", "b"] {
            let stats = routes.stats(RouteKey { peer: peer.into(), ..key("GET /") });
            stats.request();
            stats.failure(Blame::from(Reason::Timeout), Duration::from_millis(5));
        }
        routes.tick(routes.started() + Duration::from_secs(1));
        let signals = routes.signals();
        assert!(signals.routes(false).all(|row| row["s10"].get("latencies_ns").is_none()));
        let shown = json!({
            "routes": signals.routes(true).collect::<Vec<_>>(),
            "edges": signals.edges().collect::<Vec<_>>(),
            "peers": signals.peers(true).collect::<Vec<_>>(),
        });
        let latencies = shown["routes"][0]["s10"]["latencies_ns"].as_array().unwrap();
        assert!(
            latencies.len() == 1
                && latencies[0][1] == 3
                && latencies[0][0].as_u64().unwrap().abs_diff(5_000_000) < 100_000
        );
        let (all, edges, peers) = (&shown["routes"], &shown["edges"], &shown["peers"]);
        assert_eq!((all[0]["requests"].as_u64(), all[0]["failures"]["timeout"].as_u64()), (Some(3), Some(3)));
        assert_eq!((all[0]["s10"]["requests"].as_u64(), all[0]["s10"]["errors"].as_f64()), (Some(3), Some(1.0)));
        assert_eq!(all[0]["before"], Value::Null);
        assert_eq!((edges.as_array().unwrap().len(), peers.as_array().unwrap().len()), (2, 2));
        assert!(edges.as_array().unwrap().iter().all(|edge| edge["route"] == all[0]["id"]));
        assert_eq!(peers[1]["s10"]["failed"], 2);
        let map = routes.heatmap(all[0]["id"].as_u64().unwrap() as u32).unwrap();
        assert_eq!((map["step_s"].as_u64(), routes.heatmap(0)), (Some(10), None));
    }
}
