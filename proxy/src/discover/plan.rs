//! Plans: what a worker needs to send a request of a target on its way, made once per change, read per request.

use super::Zone;
use crate::{
    balance::{Balancer, Client, InFlight, Member, NoEndpoint},
    config::Config,
    http::client::Upstream,
    limits,
    retry::Budget,
    telemetry::{Direction, PathTemplates, Proto, Reason, RouteKey, RouteStats, Routes, Tls},
};
use remora_model::{Backend, BackendId, BackendRefState, BackendSettings, Filter, Outbound, Protocol, Rule, Target};
use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    fmt,
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    time::Instant,
};

/// A target's routes with their pools and counters.
#[derive(Debug)]
pub struct Plan {
    pub outbound: Arc<Outbound>,
    /// Where requests go that no rule speaks for, and bytes. `None`: the target is unknown to the mesh.
    pub parent: Option<Rc<Pool>>,
    rules: Vec<Vec<Branch>>,
    pools: HashMap<BackendId, Rc<Pool>>,
    pub signals: Signals,
}

/// One backend of a rule.
#[derive(Debug)]
pub struct Branch {
    /// `None`: the reference is invalid, its requests get a 500.
    pub pool: Option<Rc<Pool>>,
    weight: u32,
    pub filters: Vec<Filter>,
}

impl Plan {
    pub(super) fn unknown(routes: Arc<Routes>, target: &Target) -> Self {
        let outbound = Outbound {
            target: target.clone(),
            parent: None,
            protocol: Protocol::Detect,
            matches: Vec::new(),
            rules: Vec::new(),
        };
        Self::new(routes, Arc::new(outbound), &HashMap::new())
    }

    pub(super) fn new(routes: Arc<Routes>, outbound: Arc<Outbound>, pools: &HashMap<BackendId, Rc<Pool>>) -> Self {
        let branch = |backend: &remora_model::BackendRef| Branch {
            pool: match backend.state {
                BackendRefState::Valid => pools.get(&backend.backend).cloned(),
                BackendRefState::Invalid => None,
            },
            weight: backend.weight,
            filters: backend.filters.clone(),
        };
        let rules = outbound.rules.iter().map(|rule| rule.backends.iter().map(branch).collect()).collect();
        let parent = outbound.parent.as_ref().and_then(|id| pools.get(id)).cloned();
        let name: Arc<str> = match &outbound.parent {
            Some(id) => id.to_string().into(),
            None => "unknown".into(), // never the address: labels come from what discovery vouches for
        };
        let labels = outbound.rules.iter().map(|rule| rule.label.clone()).collect();
        let signals = Signals::new(routes, Direction::Outbound, name, labels);
        Self { outbound, parent, rules, pools: pools.clone(), signals }
    }

    /// The pool of a mirror's backend.
    pub fn pool(&self, id: &BackendId) -> Option<&Rc<Pool>> {
        self.pools.get(id)
    }

    /// Draws one of rule `rule`'s branches by weight. `None`: the rule has no backends with a share.
    pub fn draw(&self, rule: usize, rng: &mut fastrand::Rng) -> Option<usize> {
        let branches = self.rules.get(rule)?;
        if let [only] = &branches[..] {
            return (only.weight > 0).then_some(0);
        }
        let total: u64 = branches.iter().map(|branch| u64::from(branch.weight)).sum();
        if total == 0 {
            return None;
        }
        let mut ticket = rng.u64(..total);
        branches.iter().position(|branch| match ticket.checked_sub(u64::from(branch.weight)) {
            Some(rest) => {
                ticket = rest;
                false
            }
            None => true,
        })
    }

    /// A branch that was drawn.
    pub fn branch(&self, rule: usize, branch: usize) -> Option<&Branch> {
        self.rules.get(rule)?.get(branch)
    }

    /// Rule `index`, as written.
    pub fn rule(&self, index: usize) -> Option<&Rule> {
        self.outbound.rules.get(index)
    }
}

/// The endpoints of one backend as one worker sees them.
pub struct Pool {
    pub id: BackendId,
    balancer: RefCell<Balancer<Rc<Upstream>>>,
    settings: RefCell<BackendSettings>,
    budget: RefCell<Budget>,
    /// How many of these there are for one backend, one per worker.
    workers: usize,
    client: Client,
    zone: Zone,
    protocol: Cell<Protocol>,
    /// Who answers, for signals; empty where endpoints have several identities or none.
    identity: RefCell<Arc<str>>,
    in_flight: Rc<Cell<u32>>,
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Pool {
    pub(super) fn new(id: BackendId, zone: Zone, config: &Config) -> Self {
        let settings = BackendSettings::default();
        Self {
            id,
            balancer: RefCell::new(Balancer::new(settings.accrual)),
            budget: RefCell::new(budget(&settings, config.workers)),
            workers: config.workers,
            client: Client::new(&config.namespace, &config.pod),
            settings: RefCell::new(settings),
            zone,
            protocol: Cell::new(Protocol::Detect),
            identity: RefCell::new("".into()),
            in_flight: Rc::default(),
        }
    }

    pub(super) fn update(&self, backend: &Backend) {
        if *self.settings.borrow() != backend.settings {
            *self.settings.borrow_mut() = backend.settings.clone();
            let settings = &backend.settings;
            *self.budget.borrow_mut() = budget(settings, self.workers);
            let mut balancer = self.balancer.borrow_mut();
            balancer.set_accrual(settings.accrual);
            balancer.set_affinity(settings.session_affinity.then_some(self.client));
        }
        self.protocol.set(backend.protocol);
        let mut identities: Vec<_> = backend.endpoints.iter().map(|endpoint| endpoint.identity.as_ref()).collect();
        identities.dedup();
        *self.identity.borrow_mut() = match &identities[..] {
            [Some(one)] => one.as_str().into(),
            _ => "".into(),
        };
        let connect_timeout = backend.settings.connect_timeout;
        let mut balancer = self.balancer.borrow_mut();
        let members = backend
            .endpoints
            .iter()
            .map(|endpoint| Member {
                key: endpoint.address,
                weight: endpoint.weight,
                local: self.zone.is(&endpoint.zone),
                // An endpoint that changed in anything (its identity!) starts with fresh connections.
                payload: match balancer.get(&endpoint.address) {
                    Some(known) if known.endpoint == *endpoint => known.clone(),
                    _ => Upstream::new(endpoint.clone(), connect_timeout),
                },
            })
            .collect();
        balancer.update(members);
    }

    /// Whether a request goes on to another endpoint because nobody was there at the last of those `tried`. That is the
    /// way to a server and no retry: no application had any work with it, so no budget bounds it, but only endpoints in
    /// rotation are walked to, each once, and one that refuses two requests is not in rotation any more.
    pub fn passes_over(&self, tried: &[SocketAddr], reason: Reason) -> bool {
        matches!(reason, Reason::ConnectRefused | Reason::ConnectFailed | Reason::Draining)
            && tried.len() <= limits::ENDPOINTS_PASSED_OVER_MAX
            && self.balancer.borrow().has_another(tried)
    }

    /// An endpoint for one request or connection, not among those `tried`.
    pub fn pick(
        &self,
        now: Instant,
        rng: &mut fastrand::Rng,
        tried: &[SocketAddr],
    ) -> Result<(Rc<Upstream>, InFlight), Reason> {
        match self.balancer.borrow().pick(now, rng, tried) {
            Ok(picked) => Ok(picked),
            Err(NoEndpoint::Empty) => Err(Reason::NoEndpoints),
            Err(NoEndpoint::AllEjected) => Err(Reason::AllEjected),
        }
    }

    /// Whether one more request may wait here; counts it until the guard is dropped.
    pub fn enter(&self) -> Option<Entered> {
        if self.in_flight.get() >= self.settings.borrow().pending_max.max(limits::MESH_STREAMS_MAX) {
            return None;
        }
        self.in_flight.set(self.in_flight.get() + 1);
        Some(Entered(self.in_flight.clone()))
    }

    /// A request came: the budget grows.
    pub fn deposit(&self, now: Instant) {
        self.budget.borrow_mut().deposit(now);
    }

    /// A retry is due: whether the budget has it.
    pub fn withdraw(&self, now: Instant) -> bool {
        self.budget.borrow_mut().withdraw(now)
    }

    /// The identity that its endpoints share.
    pub fn identity(&self) -> Arc<str> {
        self.identity.borrow().clone()
    }

    /// What the backend speaks, where somebody said so.
    pub fn protocol(&self) -> Protocol {
        self.protocol.get()
    }

    /// Every endpoint with this worker's connections to it.
    pub fn upstreams(&self) -> Vec<Rc<Upstream>> {
        self.balancer.borrow().iter().cloned().collect()
    }
}

/// One worker's part of the backend's retry budget.
fn budget(settings: &BackendSettings, workers: usize) -> Budget {
    Budget::new(settings.retry_ratio, f64::from(settings.retries_per_second) / workers.max(1) as f64)
}

/// A request counted against its backend's bound.
#[derive(Debug)]
pub struct Entered(Rc<Cell<u32>>);

impl Drop for Entered {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// The counters of a target or port, resolved once per route and found by index.
pub struct Signals {
    routes: Arc<Routes>,
    direction: Direction,
    parent: Arc<str>,
    labels: Vec<Arc<str>>,
    templates: RefCell<PathTemplates>,
    known: RefCell<HashMap<Slot, Arc<RouteStats>>>,
    /// What was found last: one request in a row of many is like the one before.
    last: RefCell<Option<(Slot, Arc<RouteStats>)>>,
    methods: RefCell<HashMap<Box<str>, Arc<str>>>,
}

impl fmt::Debug for Signals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signals").field("parent", &self.parent).finish_non_exhaustive()
    }
}

/// Which counters.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Slot {
    route: Which,
    peer: Arc<str>,
    tls: Tls,
    protocol: Proto,
}

#[derive(Clone, PartialEq, Eq, Hash)]
enum Which {
    Rule(usize),
    Template(crate::telemetry::TemplateId),
    Method(Arc<str>),
    Bytes,
}

impl Signals {
    fn new(routes: Arc<Routes>, direction: Direction, parent: Arc<str>, labels: Vec<Arc<str>>) -> Self {
        Self {
            routes,
            direction,
            parent,
            labels,
            templates: RefCell::new(PathTemplates::new(limits::TEMPLATES_MAX)),
            known: RefCell::default(),
            last: RefCell::default(),
            methods: RefCell::default(),
        }
    }

    pub(super) fn inbound(routes: Arc<Routes>, parent: Arc<str>) -> Self {
        Self::new(routes, Direction::Inbound, parent, Vec::new())
    }

    /// The counters of a request: of its rule, else of its gRPC method, else of its path's template.
    pub fn request<B>(
        &self,
        rule: Option<usize>,
        request: &http::Request<B>,
        protocol: Proto,
        peer: &Arc<str>,
        tls: Tls,
    ) -> Arc<RouteStats> {
        let labelled = rule.filter(|index| self.labels.get(*index).is_some_and(|label| !label.is_empty()));
        let route = match labelled {
            Some(index) => Which::Rule(index),
            None if protocol == Proto::Grpc => Which::Method(self.method(request.uri().path())),
            None => Which::Template(self.templates.borrow_mut().learn(request.method(), request.uri().path())),
        };
        self.find(route, peer, tls, protocol)
    }

    /// The counters of a byte connection.
    pub fn bytes(&self, peer: &Arc<str>, tls: Tls) -> Arc<RouteStats> {
        self.find(Which::Bytes, peer, tls, Proto::Tcp)
    }

    fn find(&self, route: Which, peer: &Arc<str>, tls: Tls, protocol: Proto) -> Arc<RouteStats> {
        if let Some((last, stats)) = &*self.last.borrow()
            && Arc::ptr_eq(&last.peer, peer)
            && (&last.route, last.tls, last.protocol) == (&route, tls, protocol)
        {
            return stats.clone();
        }
        let slot = Slot { route, peer: peer.clone(), tls, protocol };
        let stats = self.search(&slot);
        *self.last.borrow_mut() = Some((slot, stats.clone()));
        stats
    }

    fn search(&self, slot: &Slot) -> Arc<RouteStats> {
        if let Some(stats) = self.known.borrow().get(slot) {
            return stats.clone();
        }
        let route = match &slot.route {
            Which::Rule(index) => self.labels.get(*index).cloned().unwrap_or_else(|| "other".into()),
            Which::Template(id) => self.templates.borrow().name(*id),
            Which::Method(name) => name.clone(),
            Which::Bytes => "tcp".into(),
        };
        let (direction, parent) = (self.direction, self.parent.clone());
        let Slot { peer, tls, protocol, .. } = slot.clone();
        let stats = self.routes.stats(RouteKey { direction, parent, route, peer, tls, protocol });
        if self.known.borrow().len() < limits::SERIES_PER_TARGET_MAX {
            self.known.borrow_mut().insert(slot.clone(), stats.clone());
        }
        stats
    }

    /// A gRPC method's name, from a bounded set.
    fn method(&self, path: &str) -> Arc<str> {
        if let Some(name) = self.methods.borrow().get(path) {
            return name.clone();
        }
        let mut methods = self.methods.borrow_mut();
        let plain =
            path.len() <= 200 && path.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'/' | b'.' | b'_'));
        if methods.len() >= limits::TEMPLATES_MAX || !plain {
            return "other".into();
        }
        let name: Arc<str> = path.into();
        methods.insert(path.into(), name.clone());
        name
    }
}
