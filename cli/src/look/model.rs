//! What `/signals` of a proxy says (docs/admin-api.md), as far as it is read here, and how that of several proxies is added up.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What one proxy says.
#[derive(Debug, Deserialize)]
pub(super) struct Signals {
    pub(super) pod: String,
    pub(super) identity: String,
    pub(super) version: String,
    pub(super) uptime_s: f64,
    pub(super) routes: Vec<Route>,
    pub(super) edges: Vec<Edge>,
    pub(super) backends: Vec<Backend>,
    pub(super) discovery: Discovery,
    pub(super) saturation: Saturation,
}

#[derive(Debug, Deserialize)]
pub(super) struct Route {
    pub(super) id: u32,
    pub(super) direction: String,
    pub(super) parent: String,
    pub(super) route: String,
    /// Since the start.
    #[serde(default)]
    pub(super) requests: u64,
    pub(super) failures: BTreeMap<String, u64>,
    pub(super) retries: u64,
    pub(super) in_flight: u64,
    pub(super) s10: Window,
    pub(super) m1: Window,
    pub(super) m5: Window,
    pub(super) m15: Window,
    pub(super) before: Option<Window>,
    pub(super) time: Time,
}

#[derive(Debug, Clone, Default, Deserialize)]
pub(super) struct Window {
    pub(super) rps: f64,
    pub(super) requests: u64,
    pub(super) failed: u64,
    #[serde(default)]
    pub(super) latencies_ns: Vec<(u64, u64)>,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
pub(super) struct Time {
    pub(super) before_ms: f64,
    pub(super) connect_ms: f64,
    pub(super) server_ms: f64,
    pub(super) after_ms: f64,
}

#[derive(Debug, Deserialize)]
pub(super) struct Edge {
    pub(super) route: u32,
    pub(super) peer: String,
    pub(super) tls: String,
    #[serde(default)]
    pub(super) protocol: String,
    pub(super) requests: u64,
    pub(super) success: u64,
    pub(super) failures: BTreeMap<String, u64>,
    pub(super) rps: f64,
    #[serde(default)]
    pub(super) bytes_in: u64,
    #[serde(default)]
    pub(super) bytes_out: u64,
}

#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Backend {
    pub(super) name: String,
    pub(super) balancer: String,
    pub(super) in_flight: u64,
    pub(super) in_flight_max: u64,
    pub(super) budget: f64,
    pub(super) endpoints: Vec<Endpoint>,
}

#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Endpoint {
    pub(super) address: String,
    pub(super) pod: String,
    #[serde(default)]
    pub(super) identity: String,
    pub(super) zone: String,
    pub(super) state: String,
    pub(super) why: Option<String>,
    pub(super) for_ms: Option<u64>,
    pub(super) in_flight: u64,
    pub(super) latency_ms: Option<f64>,
    pub(super) requests: u64,
    pub(super) failures: u64,
    pub(super) last_failure: Option<LastFailure>,
}

#[derive(Debug, Deserialize, Serialize)]
pub(super) struct LastFailure {
    pub(super) reason: String,
    pub(super) ago_ms: u64,
}

#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Discovery {
    pub(super) state: String,
    pub(super) for_ms: u64,
}

#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Saturation {
    #[serde(default)]
    pub(super) cpu: f64,
    #[serde(default)]
    pub(super) workers: Vec<f64>,
    pub(super) memory_bytes: Option<u64>,
    pub(super) memory_limit_bytes: u64,
    /// Workers that did not say in time what they hold.
    #[serde(default)]
    pub(super) workers_silent: u64,
}

/// Which window of a route.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum, Serialize)]
pub(crate) enum Span {
    /// The last ten seconds
    #[value(name = "10s")]
    #[serde(rename = "10s")]
    Seconds10,
    /// The last minute
    #[default]
    #[value(name = "1m")]
    #[serde(rename = "1m")]
    Minute,
    /// The last five minutes
    #[value(name = "5m")]
    #[serde(rename = "5m")]
    Minutes5,
    /// The last fifteen minutes
    #[value(name = "15m")]
    #[serde(rename = "15m")]
    Minutes15,
}

impl Route {
    pub(super) fn window(&self, span: Span) -> &Window {
        match span {
            Span::Seconds10 => &self.s10,
            Span::Minute => &self.m1,
            Span::Minutes5 => &self.m5,
            Span::Minutes15 => &self.m15,
        }
    }
}

/// Windows of one kind, of several proxies.
#[derive(Debug, Clone, Default)]
pub(super) struct Sum {
    pub(super) rps: f64,
    pub(super) requests: u64,
    pub(super) failed: u64,
    latencies: BTreeMap<u64, u64>,
}

impl Sum {
    pub(super) fn add(&mut self, window: &Window) {
        self.rps += window.rps;
        self.requests += window.requests;
        self.failed += window.failed;
        for (ns, count) in &window.latencies_ns {
            *self.latencies.entry(*ns).or_insert(0) += count;
        }
    }

    /// The share of what ended that failed; none if nothing ended.
    pub(super) fn errors(&self) -> Option<f64> {
        (self.requests > 0).then(|| self.failed as f64 / self.requests as f64)
    }

    /// The latency, in milliseconds, that this share does not exceed.
    pub(super) fn quantile_ms(&self, share: f64) -> Option<f64> {
        let all: u64 = self.latencies.values().sum();
        let rank = ((share * all as f64).ceil() as u64).max(1);
        let mut seen = 0;
        self.latencies.iter().find_map(|(ns, count)| {
            seen += count;
            (seen >= rank).then_some(*ns as f64 / 1e6)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(requests: u64, ns: u64) -> Window {
        Window { rps: requests as f64, requests, failed: 1, latencies_ns: vec![(ns, requests)] }
    }

    #[test]
    fn latencies_of_several_proxies_are_added_up_and_their_quantiles_never_averaged() {
        let mut sum = Sum::default();
        sum.add(&window(98, 1_000_000));
        sum.add(&window(2, 900_000_000));
        assert_eq!((sum.requests, sum.failed, sum.rps), (100, 2, 100.0));
        assert_eq!(
            (sum.quantile_ms(0.5), sum.quantile_ms(0.98), sum.quantile_ms(0.99)),
            (Some(1.0), Some(1.0), Some(900.0))
        );
        assert_eq!((Sum::default().errors(), Sum::default().quantile_ms(0.5)), (None, None));
    }
}
