//! Plans: what a worker needs to send a request of a target on its way, made once per change, read per request.

use super::{Handle, Kept};
use crate::{
    balance::{Balancer, Client, InFlight, Member, NoEndpoint},
    config::Config,
    http::client::{Table, Upstream},
    limits,
    retry::Budget,
    telemetry::{
        self, DENIED, Direction, Found, OTHER, PathTemplates, Proto, Reason, RouteKey, RouteStats, Routes, TemplateId,
        Tls,
    },
};
use remora_api::sync::Name;
use remora_model::{Backend, BackendId, BackendRefState, BackendSettings, Filter, Outbound, Protocol, Rule};
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
pub(crate) struct Plan {
    pub outbound: Arc<Outbound>,
    /// Where requests go that no rule speaks for, and bytes.
    pub parent: Rc<Pool>,
    rules: Vec<Vec<Branch>>,
    pools: HashMap<BackendId, Rc<Pool>>,
    pub signals: Signals,
}

/// One backend of a rule.
#[derive(Debug)]
pub(crate) struct Branch {
    /// `None`: the reference is invalid, its requests get a 500.
    pub pool: Option<Rc<Pool>>,
    weight: u32,
    pub filters: Vec<Filter>,
}

impl Plan {
    /// Of a target whose parent is this pool; `pools` has every backend that its rules name.
    pub(super) fn new(
        routes: Arc<Routes>,
        outbound: Arc<Outbound>,
        parent: Rc<Pool>,
        pools: HashMap<BackendId, Rc<Pool>>,
    ) -> Self {
        let branch = |backend: &remora_model::BackendRef| Branch {
            pool: match backend.state {
                BackendRefState::Valid => pools.get(&backend.backend).cloned(),
                BackendRefState::Invalid => None,
            },
            weight: backend.weight,
            filters: backend.filters.clone(),
        };
        let rules = outbound.rules.iter().map(|rule| rule.backends.iter().map(branch).collect()).collect();
        let name = parent.id.to_string().into();
        let labels = outbound.rules.iter().map(|rule| rule.label.clone()).collect();
        let signals = Signals::new(routes, Direction::Outbound, name, labels);
        Self { outbound, parent, rules, pools, signals }
    }

    /// The pool of a mirror's backend.
    pub(crate) fn pool(&self, id: &BackendId) -> Option<&Rc<Pool>> {
        self.pools.get(id)
    }

    /// Draws one of rule `rule`'s branches by weight. `None`: the rule has no backends with a share.
    pub(crate) fn draw(&self, rule: usize, rng: &mut fastrand::Rng) -> Option<usize> {
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
    pub(crate) fn branch(&self, rule: usize, branch: usize) -> Option<&Branch> {
        self.rules.get(rule)?.get(branch)
    }

    /// Rule `index`, as written.
    pub(crate) fn rule(&self, index: usize) -> Option<&Rule> {
        self.outbound.rules.get(index)
    }
}

/// The endpoints of one backend as one worker sees them.
pub(crate) struct Pool {
    pub id: BackendId,
    balancer: RefCell<Balancer<Rc<Upstream>>>,
    settings: RefCell<BackendSettings>,
    budget: RefCell<Budget>,
    /// How many of these there are for one backend, one per worker.
    workers: usize,
    client: Client,
    connections: Rc<Table>,
    handle: Handle,
    protocol: Cell<Protocol>,
    /// Who answers, for signals; empty where endpoints have several identities or none.
    identity: RefCell<Arc<str>>,
    in_flight: Rc<Cell<u32>>,
    /// Why nothing is known of its endpoints, if nothing is.
    blocked: Cell<Option<Reason>>,
    /// When discovery was last asked about that.
    doubted: Cell<Option<Instant>>,
    /// What keeps it current.
    _kept: Kept,
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Pool {
    pub(super) fn new(id: BackendId, handle: Handle, connections: Rc<Table>, config: &Config, kept: Kept) -> Self {
        let settings = BackendSettings::default();
        Self {
            id,
            balancer: RefCell::new(Balancer::new(settings.accrual)),
            budget: RefCell::new(budget(&settings, config.workers)),
            workers: config.workers,
            client: Client::new(&config.namespace, &config.pod),
            settings: RefCell::new(settings),
            connections,
            handle,
            protocol: Cell::new(Protocol::Detect),
            identity: RefCell::new("".into()),
            in_flight: Rc::default(),
            blocked: Cell::new(Some(Reason::DiscoverySilent)),
            doubted: Cell::default(),
            _kept: kept,
        }
    }

    /// Nothing is known of its endpoints, for this reason.
    pub(super) fn blocked(&self, reason: Reason) {
        self.blocked.set(Some(reason));
    }

    pub(super) fn update(&self, backend: &Backend) {
        self.blocked.set(None);
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
                local: self.handle.zone.is(&endpoint.zone),
                // Connections follow who it is and the way there, not what else is said of it.
                payload: match balancer.get(&endpoint.address) {
                    Some(known) if known.is(endpoint, connect_timeout) => known.clone(),
                    _ => Upstream::shared(&self.connections, endpoint.clone(), connect_timeout),
                },
            })
            .collect();
        balancer.update(members);
    }

    /// Whether a request goes on to another endpoint because nobody was there at the last of those `tried`. That is the
    /// way to a server and no retry: no application had any work with it, so no budget bounds it, but only endpoints in
    /// rotation are walked to, each once, and one that refuses two requests is not in rotation any more.
    pub(crate) fn passes_over(&self, tried: &[SocketAddr], reason: Reason) -> bool {
        matches!(reason, Reason::ConnectRefused | Reason::ConnectFailed | Reason::Draining)
            && tried.len() <= limits::ENDPOINTS_PASSED_OVER_MAX
            && self.balancer.borrow().has_another(tried)
    }

    /// An endpoint for one request or connection, not among those `tried`.
    pub(crate) fn pick(
        &self,
        now: Instant,
        rng: &mut fastrand::Rng,
        tried: &[SocketAddr],
    ) -> Result<(Rc<Upstream>, InFlight), Reason> {
        match self.balancer.borrow().pick(now, rng, tried) {
            Ok(picked) => Ok(picked),
            Err(NoEndpoint::Empty) => Err(self.why_empty(now)),
            Err(NoEndpoint::AllEjected) => Err(Reason::AllEjected),
        }
    }

    /// Why there is no endpoint. What is not known, or cannot be used, is asked for again as long as somebody meets it.
    fn why_empty(&self, now: Instant) -> Reason {
        let Some(reason) = self.blocked.get() else { return Reason::NoEndpoints };
        let due = self.doubted.get().is_none_or(|at| now.saturating_duration_since(at) >= limits::DOUBT_MIN / 2);
        if due && matches!(reason, Reason::DiscoverySilent | Reason::UnusableConfig) {
            self.doubted.set(Some(now));
            self.handle.doubt(Name::Backend(self.id.clone()));
        }
        reason
    }

    /// Whether one more request may wait here; counts it until the guard is dropped.
    pub(crate) fn enter(&self) -> Option<Entered> {
        if self.in_flight.get() >= self.settings.borrow().pending_max.max(limits::REQUESTS_PER_BACKEND_MAX) {
            return None;
        }
        self.in_flight.set(self.in_flight.get() + 1);
        Some(Entered(self.in_flight.clone()))
    }

    /// A request came: the budget grows.
    pub(crate) fn deposit(&self, now: Instant) {
        self.budget.borrow_mut().deposit(now);
    }

    /// A retry is due: whether the budget has it.
    pub(crate) fn withdraw(&self, now: Instant) -> bool {
        self.budget.borrow_mut().withdraw(now)
    }

    /// The identity that its endpoints share.
    pub(crate) fn identity(&self) -> Arc<str> {
        self.identity.borrow().clone()
    }

    /// What the backend speaks, where somebody said so.
    pub(crate) fn protocol(&self) -> Protocol {
        self.protocol.get()
    }
}

/// One worker's part of the backend's retry budget.
fn budget(settings: &BackendSettings, workers: usize) -> Budget {
    Budget::new(settings.retry_ratio, f64::from(settings.retries_per_second) / workers.max(1) as f64)
}

/// A request counted against its backend's bound.
#[derive(Debug)]
pub(crate) struct Entered(Rc<Cell<u32>>);

impl Drop for Entered {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// The counters of a target or port, resolved once per route and found by index.
pub(crate) struct Signals {
    routes: Arc<Routes>,
    direction: Direction,
    parent: Arc<str>,
    labels: Vec<Arc<str>>,
    templates: RefCell<PathTemplates>,
    known: RefCell<HashMap<Slot, Found>>,
    /// What was found last: one request in a row of many is like the one before.
    last: RefCell<Option<(Slot, Found)>>,
    methods: RefCell<HashMap<Box<str>, Method>>,
    born: Instant,
    /// When room for methods is looked for again, in seconds since then.
    next_sweep: Cell<u32>,
}

impl fmt::Debug for Signals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signals").field("parent", &self.parent).finish_non_exhaustive()
    }
}

/// A gRPC method that is counted by name.
struct Method {
    name: Arc<str>,
    /// When it was met last, in seconds.
    used: Cell<u32>,
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
    Template(TemplateId),
    Method(Arc<str>),
    Bytes,
    Denied,
}

impl Signals {
    pub(super) fn new(routes: Arc<Routes>, direction: Direction, parent: Arc<str>, labels: Vec<Arc<str>>) -> Self {
        Self {
            routes,
            direction,
            parent,
            labels,
            templates: RefCell::new(PathTemplates::new(limits::TEMPLATES_MAX)),
            known: RefCell::default(),
            last: RefCell::default(),
            methods: RefCell::default(),
            born: Instant::now(),
            next_sweep: Cell::default(),
        }
    }

    pub(super) fn inbound(routes: Arc<Routes>, parent: Arc<str>) -> Self {
        Self::new(routes, Direction::Inbound, parent, Vec::new())
    }

    /// What they are counted under.
    pub(super) fn parent(&self) -> &str {
        &self.parent
    }

    /// The counters of a request: of its rule, else of its gRPC method, else of its path's template.
    pub(crate) fn request<B>(
        &self,
        rule: Option<usize>,
        request: &http::Request<B>,
        protocol: Proto,
        peer: &Arc<str>,
        tls: Tls,
        now: Instant,
    ) -> Arc<RouteStats> {
        let labelled = rule.filter(|index| self.labels.get(*index).is_some_and(|label| !label.is_empty()));
        let route = match labelled {
            Some(index) => Which::Rule(index),
            None if protocol == Proto::Grpc => Which::Method(self.method(request.uri().path(), self.second(now))),
            None => Which::Template(self.template(request.method(), request.uri().path(), self.second(now))),
        };
        self.find(route, peer, tls, protocol)
    }

    /// The counters of what is refused: one for all that is refused here, whoever sends it and whatever it is, so that it takes
    /// no room from what is let in.
    pub(crate) fn denied(&self, protocol: Proto, tls: Tls) -> Arc<RouteStats> {
        self.search(&Slot { route: Which::Denied, peer: "".into(), tls, protocol }).stats
    }

    fn second(&self, now: Instant) -> u32 {
        now.saturating_duration_since(self.born).as_secs() as u32
    }

    fn template(&self, method: &http::Method, path: &str, second: u32) -> TemplateId {
        let mut templates = self.templates.borrow_mut();
        let before = templates.generation();
        let id = templates.learn(method, path, second);
        if templates.generation() != before {
            self.known.borrow_mut().retain(|slot, _| !matches!(slot.route, Which::Template(_)));
            *self.last.borrow_mut() = None;
        }
        id
    }

    /// The counters of a byte connection.
    pub(crate) fn bytes(&self, peer: &Arc<str>, tls: Tls) -> Arc<RouteStats> {
        self.find(Which::Bytes, peer, tls, Proto::Tcp)
    }

    fn find(&self, route: Which, peer: &Arc<str>, tls: Tls, protocol: Proto) -> Arc<RouteStats> {
        if let Some((last, found)) = &*self.last.borrow()
            && Arc::ptr_eq(&last.peer, peer)
            && (&last.route, last.tls, last.protocol) == (&route, tls, protocol)
            && self.routes.is_current(found)
        {
            return found.stats.clone();
        }
        let slot = Slot { route, peer: peer.clone(), tls, protocol };
        let found = self.search(&slot);
        let stats = found.stats.clone();
        *self.last.borrow_mut() = Some((slot, found));
        stats
    }

    fn search(&self, slot: &Slot) -> Found {
        if let Some(found) = self.known.borrow().get(slot).filter(|found| self.routes.is_current(found)) {
            return found.clone();
        }
        let route = match &slot.route {
            Which::Rule(index) => self.labels.get(*index).cloned().unwrap_or_else(|| OTHER.into()),
            Which::Template(id) => self.templates.borrow().name(*id),
            Which::Method(name) => name.clone(),
            Which::Bytes => "tcp".into(),
            Which::Denied => DENIED.into(),
        };
        let (direction, parent) = (self.direction, self.parent.clone());
        let Slot { peer, tls, protocol, .. } = slot.clone();
        let found = self.routes.find(RouteKey { direction, parent, route, peer, tls, protocol });
        let mut known = self.known.borrow_mut();
        if known.len() >= limits::SERIES_PER_TARGET_MAX {
            known.retain(|_, found| self.routes.is_current(found));
        }
        if known.len() < limits::SERIES_PER_TARGET_MAX {
            known.insert(slot.clone(), found.clone());
        }
        found
    }

    /// A gRPC method's name, from a bounded set.
    fn method(&self, path: &str, second: u32) -> Arc<str> {
        if let Some(known) = self.methods.borrow().get(path) {
            known.used.set(second);
            return known.name.clone();
        }
        let mut methods = self.methods.borrow_mut();
        let plain =
            path.len() <= 200 && path.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'/' | b'.' | b'_'));
        if !plain {
            return OTHER.into();
        }
        if methods.len() >= limits::TEMPLATES_MAX && second >= self.next_sweep.get() {
            self.next_sweep.set(second.saturating_add(limits::SIGNALS_SWEEP.as_secs() as u32));
            let idle = limits::SIGNALS_IDLE.as_secs() as u32;
            methods.retain(|_, known| second.saturating_sub(known.used.get()) < idle);
        }
        if methods.len() >= limits::TEMPLATES_MAX {
            telemetry::series_full("method");
            return OTHER.into();
        }
        let name: Arc<str> = path.into();
        methods.insert(path.into(), Method { name: name.clone(), used: Cell::new(second) });
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{Method, Request};
    use std::time::Duration;

    fn request(path: &str) -> Request<()> {
        Request::builder().method(Method::GET).uri(path).body(()).unwrap()
    }

    fn shown(routes: &Routes) -> Vec<String> {
        let json = routes.json();
        let name = |route: &serde_json::Value| route["route"].as_str().map(str::to_owned);
        json["routes"].as_array().into_iter().flatten().filter_map(name).collect()
    }

    #[test]
    fn what_is_refused_has_one_series_however_much_there_is_of_it() {
        let routes = Routes::new("shop/web-1".into());
        let signals = Signals::inbound(routes.clone(), "shop/api:80".into());
        let one = signals.denied(Proto::Http1, Tls::Plain);
        for _ in 0..3000 {
            assert!(Arc::ptr_eq(&one, &signals.denied(Proto::Http1, Tls::Plain)));
        }
        signals.request(None, &request("/orders"), Proto::Http1, &"".into(), Tls::Mtls, Instant::now());
        assert_eq!(shown(&routes), ["GET /orders", "denied"]);
    }

    #[test]
    fn what_had_no_room_has_its_own_series_as_soon_as_there_is_some() {
        let routes = Routes::new("shop/web-1".into());
        let start = Instant::now();
        let full: Vec<_> = (0..limits::SERIES_MAX)
            .map(|i| {
                let (direction, parent, peer) = (Direction::Inbound, "shop/old:80".into(), "".into());
                let (tls, protocol) = (Tls::Plain, Proto::Http1);
                routes.find(RouteKey { direction, parent, route: i.to_string().into(), peer, tls, protocol })
            })
            .collect();
        let signals = Signals::inbound(routes.clone(), "shop/api:80".into());
        let peer: Arc<str> = "".into();
        let ask = || signals.request(None, &request("/orders"), Proto::Http1, &peer, Tls::Mtls, start);
        let (other, denied) = (ask(), signals.denied(Proto::Http1, Tls::Mtls));
        assert!(Arc::ptr_eq(&other, &denied), "there is no room");
        assert!(full.iter().all(|found| routes.is_current(found)));
        other.request(); // so it is not given up itself
        routes.tick(start + limits::SIGNALS_IDLE + Duration::from_secs(60));
        assert!(!Arc::ptr_eq(&other, &ask()) && !Arc::ptr_eq(&denied, &signals.denied(Proto::Http1, Tls::Mtls)));
        assert_eq!(shown(&routes).iter().filter(|name| *name == "GET /orders" || *name == DENIED).count(), 2);
    }

    #[test]
    fn paths_and_methods_that_nobody_asks_for_make_room_for_those_that_somebody_does() {
        let routes = Routes::new("shop/web-1".into());
        let signals = Signals::inbound(routes.clone(), "shop/api:80".into());
        let (peer, start): (Arc<str>, _) = ("".into(), Instant::now());
        let ask = |path: &str, protocol, now| signals.request(None, &request(path), protocol, &peer, Tls::Mtls, now);
        let letters =
            |i: usize| ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"].map(|c| c.repeat(i / 10 + 1))[i % 10].clone();
        for i in 0..limits::TEMPLATES_MAX {
            ask(&format!("/{}/{}", letters(i / 10), letters(i % 10)), Proto::Http1, start);
            ask(&format!("/p.S/M{i}"), Proto::Grpc, start);
        }
        let other = ask("/orders", Proto::Http1, start);
        assert!(Arc::ptr_eq(&other, &ask("/orders/x", Proto::Http1, start)), "there is no room");
        let later = start + limits::SIGNALS_IDLE + Duration::from_secs(11);
        assert!(!Arc::ptr_eq(&other, &ask("/orders", Proto::Http1, later)));
        assert!(!Arc::ptr_eq(&ask("/p.S/New", Proto::Grpc, later), &ask("/p.S/Newer", Proto::Grpc, later)));
        let names = shown(&routes);
        assert!(["GET /orders", "/p.S/New"].iter().all(|name| names.iter().any(|shown| shown == name)), "{names:?}");
    }
}
