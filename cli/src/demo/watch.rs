//! Looks at every proxy's `/routes` and `/certificate`, and whether the control plane is ready; makes of them who calls whom.

use super::layout::{ADMIN_PORT, Layout};
use crate::{
    admin::{self, Certificate, Route, Routes},
    signals::Signals,
};
use futures_util::future::{join, join_all};
use serde::Serialize;
use std::{collections::BTreeMap, net::SocketAddr, time::Duration};
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval},
};

/// How often the admin ports are asked.
const PERIOD: Duration = Duration::from_secs(1);

/// What one pod's proxy says.
#[derive(Debug, Clone)]
pub(super) struct Pod {
    pub(super) name: &'static str,
    pub(super) admin: SocketAddr,
    /// The last answer, if the proxy answers now.
    pub(super) now: Option<Routes>,
    /// Its certificate, if it answers now and has one.
    pub(super) certificate: Option<Certificate>,
    /// What it said last before it answered no more.
    last: Option<Routes>,
    /// What its predecessors had counted when they died.
    before: Vec<Routes>,
}

/// A component of the control plane.
#[derive(Debug, Clone)]
pub(super) struct Control {
    pub(super) name: &'static str,
    pub(super) admin: SocketAddr,
    pub(super) ready: bool,
}

/// Everything seen.
#[derive(Debug, Clone, Default)]
pub(super) struct Sight {
    pub(super) pods: Vec<Pod>,
    pub(super) control: Vec<Control>,
}

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
    /// Those that have begun; some may be under way.
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

impl Sight {
    pub(super) fn new(layout: Layout) -> Self {
        let (identity, discovery) = (layout.identity().1, layout.discovery().1);
        Self {
            pods: layout.pods().iter().map(|pod| Pod::new(pod.name, layout.at(pod, ADMIN_PORT))).collect(),
            control: [("identity", identity), ("discovery", discovery)]
                .map(|(name, admin)| Control { name, admin, ready: false })
                .into(),
        }
    }

    /// Every admin port.
    pub(super) fn admins(&self) -> impl Iterator<Item = (&'static str, SocketAddr)> {
        let control = self.control.iter().map(|it| (it.name, it.admin));
        control.chain(self.pods.iter().map(|it| (it.name, it.admin)))
    }

    /// Who does not answer, or is not ready.
    pub(super) fn down(&self) -> Vec<String> {
        let control = self.control.iter().filter(|it| !it.ready).map(|it| it.name);
        let pods = self.pods.iter().filter(|it| it.now.is_none()).map(|it| it.name);
        control.chain(pods).map(str::to_owned).collect()
    }

    /// Who calls whom.
    pub(super) fn hops(&self) -> Vec<Hop> {
        let mut hops: BTreeMap<[String; 6], Hop> = BTreeMap::new();
        for pod in &self.pods {
            let latest = pod.last.iter().map(|routes| (routes, pod.now.is_some()));
            for (routes, live) in latest.chain(pod.before.iter().map(|routes| (routes, false))) {
                for route in routes.routes.iter().filter(|route| route.direction == "outbound") {
                    let key = [&routes.identity, &route.peer, &route.parent, &route.route, &route.protocol, &route.tls];
                    hops.entry(key.map(Clone::clone)).or_default().add(&routes.identity, route, live);
                }
            }
        }
        hops.into_values().filter(|hop| hop.requests > 0).collect()
    }
}

/// Looks until the receiver is dropped.
pub(super) async fn look(layout: Layout, sender: watch::Sender<Sight>) {
    let mut every = interval(PERIOD);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut sight = Sight::new(layout);
    while !sender.is_closed() {
        every.tick().await;
        let control = join_all(sight.control.iter_mut().map(async |it| {
            it.ready = admin::get(it.admin, "/ready").await.is_ok_and(|answer| answer.status.is_success());
        }));
        let pods = join_all(sight.pods.iter_mut().map(async |pod| {
            let (routes, certificate) =
                join(admin::page(pod.admin, "/routes"), admin::page(pod.admin, "/certificate")).await;
            pod.update(routes.ok());
            pod.certificate = certificate.ok().flatten();
        }));
        join(control, pods).await;
        sender.send_replace(sight.clone());
    }
}

impl Pod {
    fn new(name: &'static str, admin: SocketAddr) -> Self {
        Self { name, admin, now: None, certificate: None, last: None, before: Vec::new() }
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

    /// Its golden signals.
    pub(super) fn signals(&self) -> Signals {
        Signals {
            rps: self.rps,
            success: self.success,
            failures: self.failures.clone(),
            p50_ms: self.p50_ms,
            p95_ms: self.p95_ms,
            p99_ms: self.p99_ms,
            retries: self.retries,
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

    fn pod(name: &'static str) -> Pod {
        Pod::new(name, SocketAddr::from(([127, 0, 0, 1], 4191)))
    }

    fn hops(pods: &[Pod]) -> Vec<Hop> {
        Sight { pods: pods.to_vec(), control: Vec::new() }.hops()
    }

    #[test]
    fn replicas_of_a_caller_are_one_hop() {
        let (mut one, mut two) = (pod("api-1"), pod("api-2"));
        one.update(Some(routes(1.0, 10, 3.0)));
        two.update(Some(routes(1.0, 20, 4.0)));
        let hops = hops(&[one, two]);
        assert_eq!(hops.len(), 1);
        assert_eq!((hops[0].requests, hops[0].success), (30, 30));
        assert!(hops[0].p95_ms > 3.9 && hops[0].rps > 9.9);
    }

    #[test]
    fn a_restart_loses_no_count() {
        let mut pod = pod("api-1");
        pod.update(Some(routes(9.0, 10, 3.0)));
        pod.update(None);
        assert_eq!(hops(std::slice::from_ref(&pod))[0].requests, 10);
        pod.update(Some(routes(1.0, 2, 3.0)));
        assert_eq!(hops(&[pod])[0].requests, 12);
    }

    #[test]
    fn who_does_not_answer_is_down() {
        let control = |ready| Control { name: "identity", admin: SocketAddr::from(([127, 0, 0, 1], 4192)), ready };
        let sight = Sight { pods: vec![pod("api-1")], control: vec![control(true)] };
        assert_eq!(sight.down(), ["api-1"]);
        assert_eq!(Sight { pods: Vec::new(), control: vec![control(false)] }.down(), ["identity"]);
    }
}
