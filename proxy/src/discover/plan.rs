//! Plans: what a worker needs to send a request of a target on its way, made once per change, read per request.

use super::{Handle, Kept};
use crate::{
    balance::{Balancer, Client, InFlight, Member, NoEndpoint},
    config::Config,
    http::client::{Table, Upstream},
    limits,
    retry::Budget,
    telemetry::{Counters, Direction, Reason, Routes},
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
    pub signals: Counters,
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
        let signals = Counters::new(routes, Direction::Outbound, name, labels);
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
