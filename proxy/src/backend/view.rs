//! A backend as it is shown to people (docs/admin-api.md): made on a worker when somebody asks, and added up over the workers.

use serde::Serialize;
use std::{collections::BTreeMap, net::SocketAddr};

/// A backend, of one worker or of all.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct BackendView {
    pub name: String,
    /// How an endpoint is chosen.
    pub balancer: &'static str,
    /// Requests under way, and how many there may be.
    pub in_flight: u32,
    pub in_flight_max: u32,
    /// Retries that the budget has left now.
    pub budget: f64,
    pub endpoints: Vec<EndpointView>,
}

/// One endpoint of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct EndpointView {
    pub address: SocketAddr,
    /// Namespace and name of its pod, as far as they are known.
    pub pod: String,
    /// Its SPIFFE ID; empty outside the mesh.
    pub identity: String,
    pub zone: String,
    #[serde(flatten)]
    pub seen: EndpointSeen,
}

/// What the balancer knows of an endpoint.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct EndpointSeen {
    pub state: EndpointState,
    /// Why it is not in rotation.
    pub why: Option<&'static str>,
    /// Until it is probed, in milliseconds.
    pub for_ms: Option<u64>,
    pub in_flight: u32,
    /// What its answers took in the mean when the last of them came, or how long it has been silent; none before its first answer.
    pub latency_ms: Option<f64>,
    /// Tries, and those that failed, since it is known.
    pub requests: u64,
    pub failures: u64,
    pub last_failure: Option<LastFailure>,
}

/// Whether an endpoint is in rotation; in the order of what counts where workers differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum EndpointState {
    Ready,
    /// Passed over for a time, as it refuses what is over a rate limit.
    Limited,
    Probing,
    Ejected,
}

/// The last try that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct LastFailure {
    pub reason: &'static str,
    /// How long ago, in milliseconds.
    pub ago_ms: u64,
}

/// What several workers say of their backends, as one.
pub(crate) fn merge(workers: impl IntoIterator<Item = Vec<BackendView>>) -> Vec<BackendView> {
    let mut all: BTreeMap<String, BackendView> = BTreeMap::new();
    for backend in workers.into_iter().flatten() {
        match all.get_mut(&backend.name) {
            Some(known) => known.add(backend),
            None => {
                all.insert(backend.name.clone(), backend);
            }
        }
    }
    all.into_values().collect()
}

impl BackendView {
    fn add(&mut self, other: Self) {
        self.in_flight += other.in_flight;
        self.in_flight_max = self.in_flight_max.saturating_add(other.in_flight_max);
        self.budget += other.budget;
        for endpoint in other.endpoints {
            match self.endpoints.iter_mut().find(|known| known.address == endpoint.address) {
                Some(known) => known.seen.add(endpoint.seen),
                None => self.endpoints.push(endpoint),
            }
        }
    }
}

impl EndpointSeen {
    fn add(&mut self, other: Self) {
        if other.state > self.state {
            (self.state, self.why, self.for_ms) = (other.state, other.why, other.for_ms);
        }
        self.in_flight += other.in_flight;
        self.requests += other.requests;
        self.failures += other.failures;
        self.latency_ms = match (self.latency_ms, other.latency_ms) {
            (Some(one), Some(another)) => Some(one.max(another)),
            (one, another) => one.or(another),
        };
        self.last_failure = match (self.last_failure, other.last_failure) {
            (Some(one), Some(another)) if one.ago_ms <= another.ago_ms => Some(one),
            (one, None) => one,
            (_, another) => another,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(state: EndpointState, requests: u64, ago_ms: Option<u64>) -> EndpointView {
        EndpointView {
            address: ([10, 0, 0, 1], 80).into(),
            pod: String::new(),
            identity: String::new(),
            zone: String::new(),
            seen: EndpointSeen {
                state,
                why: (state == EndpointState::Ejected).then_some("unreachable"),
                for_ms: None,
                in_flight: 1,
                latency_ms: Some(requests as f64),
                requests,
                failures: 1,
                last_failure: ago_ms.map(|ago_ms| LastFailure { reason: "timeout", ago_ms }),
            },
        }
    }

    #[test]
    fn what_workers_say_of_one_backend_is_added_up_and_the_worst_state_is_shown() {
        let backend = |endpoint| BackendView {
            name: "shop/api:80".to_owned(),
            balancer: "peak_ewma",
            in_flight: 2,
            in_flight_max: 10,
            budget: 1.5,
            endpoints: vec![endpoint],
        };
        let one = backend(endpoint(EndpointState::Ready, 3, Some(500)));
        let other = backend(endpoint(EndpointState::Ejected, 5, Some(20)));
        let [merged] = &merge([vec![one], vec![other]])[..] else { panic!("one backend") };
        assert_eq!((merged.in_flight, merged.in_flight_max, merged.budget), (4, 20, 3.0));
        let [endpoint] = &merged.endpoints[..] else { panic!("one endpoint") };
        let endpoint = &endpoint.seen;
        assert_eq!((endpoint.state, endpoint.why), (EndpointState::Ejected, Some("unreachable")));
        assert_eq!((endpoint.requests, endpoint.failures, endpoint.in_flight), (8, 2, 2));
        assert_eq!((endpoint.latency_ms, endpoint.last_failure.unwrap().ago_ms), (Some(5.0), 20));
    }

    fn random(rng: &mut fastrand::Rng) -> EndpointView {
        let state = [EndpointState::Ready, EndpointState::Probing, EndpointState::Ejected][rng.usize(..3)];
        let mut view = endpoint(state, rng.u64(..100), rng.bool().then(|| rng.u64(..1000)));
        view.address.set_port(rng.u16(80..84));
        view.seen.latency_ms = rng.bool().then(|| f64::from(rng.u32(..50)));
        view.seen.in_flight = rng.u32(..5);
        view
    }

    #[test]
    fn in_whichever_order_workers_answer_each_endpoint_is_there_once_with_the_sums_and_extremes_of_all() {
        let mut rng = fastrand::Rng::with_seed(6);
        for _ in 0..200 {
            let mut workers: Vec<Vec<BackendView>> = Vec::new();
            for _ in 0..4 {
                let mut names = ["shop/b:80", "shop/a:80", "other/c:80"];
                rng.shuffle(&mut names);
                let backend = |name: &&str, rng: &mut fastrand::Rng| {
                    let endpoints: BTreeMap<SocketAddr, _> =
                        (0..rng.u32(..4)).map(|_| random(rng)).map(|it| (it.address, it)).collect();
                    let endpoints = endpoints.into_values().collect();
                    let (balancer, in_flight) = ("nearest", rng.u32(..9));
                    BackendView { name: (*name).into(), balancer, in_flight, in_flight_max: 9, budget: 0.5, endpoints }
                };
                let known = rng.usize(..=3);
                workers.push(names[..known].iter().map(|name| backend(name, &mut rng)).collect());
            }
            let all: Vec<BackendView> = workers.iter().flatten().cloned().collect();
            rng.shuffle(&mut workers);
            let merged = merge(workers);
            assert!(merged.is_sorted_by(|a, b| a.name < b.name));
            for backend in &merged {
                let of: Vec<_> = all.iter().filter(|it| it.name == backend.name).collect();
                assert_eq!(backend.in_flight, of.iter().map(|it| it.in_flight).sum::<u32>());
                assert_eq!((backend.in_flight_max, backend.budget), (9 * of.len() as u32, 0.5 * of.len() as f64));
                let known: std::collections::BTreeSet<_> =
                    of.iter().flat_map(|it| &it.endpoints).map(|it| it.address).collect();
                assert_eq!(backend.endpoints.len(), known.len());
                for endpoint in &backend.endpoints {
                    check(endpoint, of.iter().flat_map(|it| &it.endpoints));
                }
            }
        }
    }

    /// That `merged` is what `all` say of it.
    fn check<'a>(merged: &EndpointView, all: impl Iterator<Item = &'a EndpointView>) {
        let of: Vec<_> = all.filter(|it| it.address == merged.address).map(|it| &it.seen).collect();
        let (seen, latencies) = (&merged.seen, of.iter().filter_map(|it| it.latency_ms));
        assert_eq!(Some(seen.state), of.iter().map(|it| it.state).max());
        assert_eq!(seen.why.is_some(), seen.state == EndpointState::Ejected, "the reason is of that state");
        assert_eq!(seen.requests, of.iter().map(|it| it.requests).sum::<u64>());
        assert_eq!(seen.failures, of.len() as u64);
        assert_eq!(seen.in_flight, of.iter().map(|it| it.in_flight).sum::<u32>());
        assert_eq!(seen.latency_ms, latencies.reduce(f64::max));
        let ago = of.iter().filter_map(|it| it.last_failure).map(|it| it.ago_ms);
        assert_eq!(seen.last_failure.map(|it| it.ago_ms), ago.min());
    }

    #[test]
    fn an_endpoint_is_one_flat_object_with_its_state_in_a_word() {
        let shown = serde_json::to_value(endpoint(EndpointState::Ejected, 3, Some(20))).unwrap();
        let expected = serde_json::json!({
            "address": "10.0.0.1:80", "pod": "", "identity": "", "zone": "", "state": "ejected", "why": "unreachable", "for_ms": null,
            "in_flight": 1, "latency_ms": 3.0, "requests": 3, "failures": 1, "last_failure": {"reason": "timeout", "ago_ms": 20},
        });
        assert_eq!(shown, expected);
        for (state, word) in
            [(EndpointState::Ready, "ready"), (EndpointState::Limited, "limited"), (EndpointState::Probing, "probing")]
        {
            assert_eq!(serde_json::to_value(endpoint(state, 1, None)).unwrap()["state"], word);
        }
    }
}
