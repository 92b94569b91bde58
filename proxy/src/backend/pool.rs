//! The endpoints of one backend as one worker sees them: which may be asked, how often again, and on what connections.

use super::{
    balance::{Balancer, Client, InFlight, Member, NoEndpoint},
    budget::Budget,
    endpoint::{Dialing, Table, Upstream},
    view::{BackendView, EndpointView},
    zone::Zone,
};
use crate::{
    limits,
    resources::Resources,
    telemetry::{Reason, Tls},
};
use http::HeaderMap;
use remora_model::{Backend, BackendId, BackendSettings, Endpoint, Locality, Protocol, SpiffeId};
use std::{
    cell::{Cell, RefCell},
    convert::Infallible,
    fmt,
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
};
use tokio::{sync::oneshot, time::Instant};

/// Asks discovery about a backend again, because what is known of it does not work.
pub(crate) type Doubt = Box<dyn Fn()>;

/// The endpoints of one backend as one worker sees them.
pub(crate) struct Pool {
    pub id: BackendId,
    balancer: RefCell<Balancer<Rc<Upstream>>>,
    settings: RefCell<BackendSettings>,
    budget: RefCell<Budget>,
    client: Client,
    connections: Rc<Table>,
    resources: Rc<Resources>,
    doubt: Doubt,
    zone: Zone,
    protocol: Cell<Protocol>,
    /// Who answers, for signals.
    peers: RefCell<(Arc<str>, Tls)>,
    in_flight: Rc<Cell<u32>>,
    /// How many of these there may be.
    places: Cell<u32>,
    /// Why nothing is known of its endpoints, if nothing is.
    blocked: Cell<Option<Reason>>,
    /// When discovery was last asked about that.
    doubted: Cell<Option<Instant>>,
    /// What keeps it current.
    _kept: oneshot::Sender<Infallible>,
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Pool {
    /// Knows no endpoint yet. It is kept current for as long as `kept` is not dropped.
    pub(crate) fn new(
        id: BackendId,
        (doubt, zone): (Doubt, Zone),
        (resources, connections): (&Rc<Resources>, &Rc<Table>),
        kept: oneshot::Sender<Infallible>,
    ) -> Self {
        let (settings, config) = (BackendSettings::default(), &resources.config);
        Self {
            id,
            balancer: RefCell::new(Balancer::new(settings.accrual)),
            budget: RefCell::new(budget(&settings, resources.config.workers)),
            client: Client::new(&config.namespace, &config.pod, &config.service_account),
            settings: RefCell::new(settings),
            connections: connections.clone(),
            resources: resources.clone(),
            doubt,
            zone,
            protocol: Cell::new(Protocol::Detect),
            peers: RefCell::new(("".into(), Tls::Plain)),
            in_flight: Rc::default(),
            places: Cell::new(limits::REQUESTS_PER_BACKEND_MAX),
            blocked: Cell::new(Some(Reason::DiscoverySilent)),
            doubted: Cell::default(),
            _kept: kept,
        }
    }

    /// Nothing is known of its endpoints, for this reason.
    pub(crate) fn blocked(&self, reason: Reason) {
        self.blocked.set(Some(reason));
    }

    /// Applies a new state of the backend from discovery. Endpoints that stay keep their health, load and connections.
    pub(crate) fn update(&self, backend: &Backend) {
        self.blocked.set(None);
        // Only changed settings make a new retry budget: an unchanged one keeps its balance.
        if *self.settings.borrow() != backend.settings {
            *self.settings.borrow_mut() = backend.settings.clone();
            let settings = &backend.settings;
            let workers = u32::try_from(self.resources.config.workers.max(1)).unwrap_or(u32::MAX);
            self.places.set(settings.pending_max.div_ceil(workers).min(limits::REQUESTS_PER_BACKEND_MAX));
            *self.budget.borrow_mut() = budget(settings, self.resources.config.workers);
            let mut balancer = self.balancer.borrow_mut();
            balancer.set_accrual(settings.accrual);
            balancer.set_load_balancer(&settings.load_balancer, settings.locality, self.client);
        }
        self.protocol.set(backend.protocol);
        if let Some(peers) = peers(&backend.endpoints) {
            *self.peers.borrow_mut() = peers;
        }
        let dialing = Dialing::from(&backend.settings);
        let mut balancer = self.balancer.borrow_mut();
        let members = backend
            .endpoints
            .iter()
            .filter_map(|endpoint| Some((endpoint, self.tier(endpoint, backend.settings.locality)?)))
            .map(|(endpoint, tier)| Member {
                key: endpoint.address,
                weight: endpoint.weight,
                tier,
                // Connections follow who it is and the way there, not what else is said of it.
                payload: match balancer.get(&endpoint.address) {
                    Some(known) if known.is(endpoint, dialing) => known.clone(),
                    _ => Upstream::shared(&self.resources, &self.connections, endpoint.clone(), dialing),
                },
            })
            .collect();
        balancer.update(members);
    }

    /// How far an endpoint is, from 0, as the Service counts it. `None`: too far.
    fn tier(&self, endpoint: &Endpoint, locality: Locality) -> Option<u8> {
        let node = &self.resources.config.node;
        let same_node = endpoint.node.as_ref().is_some_and(|other| !node.is_empty() && other == node);
        let same_zone = self.zone.is(&endpoint.zone);
        match locality {
            Locality::Spill | Locality::Zone => Some(u8::from(!same_zone)),
            Locality::Node if same_node => Some(0),
            Locality::Node => Some(if same_zone { 1 } else { 2 }),
            Locality::NodeOnly => same_node.then_some(0),
        }
    }

    /// No endpoint could be used, or one turned out not to be what it was: discovery is asked again.
    pub(crate) fn doubt(&self) {
        (self.doubt)();
    }

    /// Whether a request goes on to another endpoint because the last of those `tried` was unreachable. That
    /// is no retry: no application had any work with it, so no budget bounds it; but only endpoints in
    /// rotation are tried, each once, and an endpoint that refuses two requests is ejected.
    pub(crate) fn passes_over(&self, tried: &[SocketAddr], reason: Reason) -> bool {
        matches!(reason, Reason::ConnectRefused | Reason::ConnectFailed | Reason::Draining)
            && tried.len() <= limits::ENDPOINTS_PASSED_OVER_MAX
            && self.balancer.borrow().has_another(tried)
    }

    /// An endpoint for one request or connection, not among those `tried`. A request has header fields.
    pub(crate) fn pick(
        &self,
        now: Instant,
        rng: &mut fastrand::Rng,
        tried: &[SocketAddr],
        fields: Option<&HeaderMap>,
    ) -> Result<(Rc<Upstream>, InFlight), Reason> {
        match self.balancer.borrow().pick(now, rng, tried, fields) {
            Ok(picked) => Ok(picked),
            Err(NoEndpoint::Empty) => Err(self.why_empty(now)),
            Err(NoEndpoint::AllEjected) => Err(Reason::AllEjected),
        }
    }

    /// Why there is no endpoint. Asks discovery again if the backend is unknown or unusable, as long as requests need it.
    fn why_empty(&self, now: Instant) -> Reason {
        let Some(reason) = self.blocked.get() else { return Reason::NoEndpoints };
        let due = self.doubted.get().is_none_or(|at| now.saturating_duration_since(at) >= limits::DOUBT_MIN / 2);
        if due && matches!(reason, Reason::DiscoverySilent | Reason::UnusableConfig) {
            self.doubted.set(Some(now));
            (self.doubt)();
        }
        reason
    }

    /// Whether one more request may wait here; counts it until the guard is dropped. The bound is the proxy's, of which each worker has its
    /// part.
    pub(crate) fn enter(&self) -> Option<Entered> {
        if self.in_flight.get() >= self.places.get() {
            return None;
        }
        self.in_flight.set(self.in_flight.get() + 1);
        Some(Entered(self.in_flight.clone()))
    }

    /// It, as it is shown to people.
    pub(crate) fn view(&self, now: Instant) -> BackendView {
        let balancer = self.balancer.borrow();
        let endpoints = balancer.views(now).map(|(upstream, seen)| {
            let Endpoint { address, identity, zone, pod, .. } = &upstream.endpoint;
            let identity = identity.as_ref().map(|id| id.as_str().to_owned()).unwrap_or_default();
            EndpointView { address: *address, pod: pod.to_string(), identity, zone: zone.to_string(), seen }
        });
        BackendView {
            name: self.id.to_string(),
            balancer: balancer.algorithm(),
            in_flight: self.in_flight.get(),
            in_flight_max: self.places.get(),
            // Tenths of a retry are nothing to see; nor are those that are owed, as requests that paid for them are forgotten before them.
            budget: (self.budget.borrow().left(now).max(0.0) * 10.0).round() / 10.0,
            endpoints: endpoints.collect(),
        }
    }

    /// The requests that have entered and not left.
    #[cfg(test)]
    pub(crate) fn under_way(&self) -> u32 {
        self.in_flight.get()
    }

    /// A request came: the budget grows.
    pub(crate) fn deposit(&self, now: Instant) {
        self.budget.borrow_mut().deposit(now);
    }

    /// A retry is due: whether the budget has it.
    pub(crate) fn withdraw(&self, now: Instant) -> bool {
        self.budget.borrow_mut().withdraw(now)
    }

    /// Who answers and how it is reached, as far as that is the same for all of its endpoints.
    pub(crate) fn peers(&self) -> (Arc<str>, Tls) {
        self.peers.borrow().clone()
    }

    /// The declared protocol of the backend, if there is one.
    pub(crate) fn protocol(&self) -> Protocol {
        self.protocol.get()
    }
}

/// How signals name these endpoints, if there are any.
fn peers(endpoints: &[Endpoint]) -> Option<(Arc<str>, Tls)> {
    let mut identities = endpoints.iter().map(|endpoint| endpoint.identity.as_ref());
    let first = identities.next()?;
    let (mut same, mut meshed) = (true, usize::from(first.is_some()));
    for identity in identities {
        same &= identity == first;
        meshed += usize::from(identity.is_some());
    }
    let tls = match meshed {
        0 => Tls::Plain,
        all if all == endpoints.len() => Tls::Mtls,
        _ => Tls::Mixed,
    };
    let name = if same { first.map(SpiffeId::as_str).unwrap_or_default() } else { SEVERAL };
    Some((name.into(), tls))
}

/// One worker's part of the backend's retry budget.
fn budget(settings: &BackendSettings, workers: usize) -> Budget {
    let rate = f64::from(settings.min_retries) / workers.max(1) as f64;
    Budget::new(settings.retry_ratio, rate, settings.retry_intervals)
}

/// In place of a peer's name where endpoints have several.
const SEVERAL: &str = "several";

/// A request counted against its backend's bound.
#[derive(Debug)]
pub(crate) struct Entered(Rc<Cell<u32>>);

impl Drop for Entered {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_say_of_a_backend_what_holds_for_all_of_its_endpoints() {
        let endpoint = |name: &str| Endpoint {
            address: "192.0.2.1:80".parse().unwrap(),
            identity: (!name.is_empty()).then(|| format!("spiffe://cluster.local/ns/shop/sa/{name}").parse().unwrap()),
            proxy: None,
            weight: 1,
            zone: "".into(),
            pod: "".into(),
            node: None,
        };
        for (names, peer, tls) in [
            (&["api", "api"][..], "spiffe://cluster.local/ns/shop/sa/api", Tls::Mtls),
            (&["", ""], "", Tls::Plain),
            (&["api", "canary", "api"], "several", Tls::Mtls),
            (&["api", ""], "several", Tls::Mixed),
            (&["", "api", "api"], "several", Tls::Mixed),
        ] {
            let endpoints: Vec<_> = names.iter().map(|name| endpoint(name)).collect();
            assert_eq!(peers(&endpoints), Some((peer.into(), tls)), "{names:?}");
        }
        assert_eq!(peers(&[]), None, "what was known of those who were there stays");
    }
}
