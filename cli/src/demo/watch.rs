//! Reads every proxy's `/routes` and makes of them who calls whom.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::future::join_all;
use serde::Serialize;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

use super::layout::{ADMIN_PORT, Layout};
use crate::admin::{self, Route, Routes};

/// How often the admin ports are asked.
const PERIOD: Duration = Duration::from_secs(1);

/// What one pod's proxy says.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    pub(super) pod: &'static str,
    pub(super) admin: SocketAddr,
    /// The last answer, if the proxy answers now.
    pub(super) now: Option<Routes>,
    /// What it said last before it answered no more.
    last: Option<Routes>,
    /// What its predecessors had counted when they died.
    before: Vec<Routes>,
}

/// Everything seen, pod by pod.
pub(super) type Sight = Vec<Seen>;

/// One row of who calls whom: all replicas of the caller together.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct Hop {
    pub(super) caller: String,
    pub(super) callee: String,
    pub(super) target: String,
    pub(super) route: String,
    pub(super) protocol: String,
    pub(super) tls: String,
    pub(super) rps: f64,
    pub(super) requests: u64,
    pub(super) success: u64,
    pub(super) failures: BTreeMap<String, u64>,
    pub(super) retries: u64,
    /// Over the replicas, weighted by requests.
    pub(super) p50_ms: f64,
    /// The worst replica's: quantiles cannot be added.
    pub(super) p95_ms: f64,
    pub(super) p99_ms: f64,
}

/// Looks at all proxies for as long as somebody is interested.
pub(super) async fn look(layout: Layout, sender: watch::Sender<Sight>) {
    let mut every = interval(PERIOD);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let pods = layout.pods().iter();
    let mut sight: Sight = pods.map(|pod| Seen::new(pod.name, layout.at(pod, ADMIN_PORT))).collect();
    while !sender.is_closed() {
        every.tick().await;
        let answers = join_all(sight.iter().map(|seen| admin::routes(seen.admin))).await;
        for (seen, answer) in sight.iter_mut().zip(answers) {
            seen.update(answer.ok());
        }
        sender.send_replace(sight.clone());
    }
}

impl Seen {
    fn new(pod: &'static str, admin: SocketAddr) -> Self {
        Self { pod, admin, now: None, last: None, before: Vec::new() }
    }

    fn update(&mut self, now: Option<Routes>) {
        if let Some(now) = &now {
            match self.last.replace(now.clone()) {
                // Younger than it was: another process, which counts from nothing.
                Some(last) if now.uptime_s < last.uptime_s => self.before.push(last),
                _ => {}
            }
        }
        self.now = now;
    }

    /// What comes in at this pod: requests per second, and the slowest route's p95.
    pub(super) fn inbound(&self) -> (f64, f64) {
        let routes = self.now.iter().flat_map(|now| &now.routes).filter(|route| route.direction == "inbound");
        routes.fold((0.0, 0.0), |(rps, p95), route| (rps + route.rps, f64::max(p95, route.p95_ms)))
    }
}

/// Who calls whom.
pub(super) fn hops(sight: &Sight) -> Vec<Hop> {
    let mut hops: BTreeMap<[String; 6], Hop> = BTreeMap::new();
    for seen in sight {
        let live = seen.now.is_some();
        let latest = seen.last.iter().map(|routes| (routes, live));
        for (routes, live) in latest.chain(seen.before.iter().map(|routes| (routes, false))) {
            for route in routes.routes.iter().filter(|route| route.direction == "outbound") {
                let key = [&routes.identity, &route.peer, &route.parent, &route.route, &route.protocol, &route.tls];
                hops.entry(key.map(Clone::clone)).or_default().add(&routes.identity, route, live);
            }
        }
    }
    hops.into_values().filter(|hop| hop.requests > 0).collect()
}

impl Hop {
    fn add(&mut self, caller: &str, route: &Route, live: bool) {
        self.caller = caller.to_owned();
        self.callee.clone_from(&route.peer);
        self.target.clone_from(&route.parent);
        self.route.clone_from(&route.route);
        self.protocol.clone_from(&route.protocol);
        self.tls.clone_from(&route.tls);
        if live {
            #[allow(clippy::cast_precision_loss, reason = "weights need no 53 bits")]
            let (old, new) = (self.requests as f64, route.requests as f64);
            if old + new > 0.0 {
                self.p50_ms = (self.p50_ms * old + route.p50_ms * new) / (old + new);
            }
            self.p95_ms = self.p95_ms.max(route.p95_ms);
            self.p99_ms = self.p99_ms.max(route.p99_ms);
            self.rps += route.rps;
        }
        self.requests += route.requests;
        self.success += route.success;
        self.retries += route.retries;
        for (reason, count) in &route.failures {
            *self.failures.entry(reason.clone()).or_default() += count;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routes(uptime_s: f64, requests: u64, p95_ms: f64) -> Routes {
        let route = Route {
            direction: "outbound".to_owned(),
            parent: "shop/pricing:9090".to_owned(),
            tls: "mtls".to_owned(),
            requests,
            success: requests,
            p95_ms,
            rps: 5.0,
            ..Route::default()
        };
        Routes {
            identity: "spiffe://cluster.local/ns/shop/sa/api".to_owned(),
            uptime_s,
            routes: vec![route],
            ..Routes::default()
        }
    }

    fn seen(pod: &'static str) -> Seen {
        Seen::new(pod, SocketAddr::from(([127, 0, 0, 1], 4191)))
    }

    #[test]
    fn replicas_of_a_caller_are_one_hop() {
        let (mut one, mut two) = (seen("api-1"), seen("api-2"));
        one.update(Some(routes(1.0, 10, 3.0)));
        two.update(Some(routes(1.0, 20, 4.0)));
        let hops = hops(&vec![one, two]);
        assert_eq!(hops.len(), 1);
        assert_eq!((hops[0].requests, hops[0].success), (30, 30));
        assert!(hops[0].p95_ms > 3.9 && hops[0].rps > 9.9);
    }

    #[test]
    fn a_restart_loses_no_count() {
        let mut pod = seen("api-1");
        pod.update(Some(routes(9.0, 10, 3.0)));
        pod.update(None);
        assert_eq!(hops(&vec![pod.clone()])[0].requests, 10);
        pod.update(Some(routes(1.0, 2, 3.0)));
        assert_eq!(hops(&vec![pod])[0].requests, 12);
    }
}
