//! Plans: what a worker needs to send a request of a target on its way, made once per change, read per request.

use super::shares::Shares;
use crate::{
    backend::Pool,
    http::layer::{Branch, MirrorTarget},
    resources::Resources,
    telemetry::{Counters, Direction, Journal, Reason},
};
use remora_model::{BackendId, BackendRef, BackendRefState, Filter, Outbound, Rule, bytes};
use std::{cell::RefCell, collections::HashMap, fmt, rc::Rc, sync::Arc};

/// Makes the stack of one backend of one rule. Handed in from above, so that what knows the order of the layers may use plans.
pub(crate) type MakeBranch = fn(BranchSpec<'_>) -> Branch;

/// What a branch is made of.
#[derive(Debug)]
pub(crate) struct BranchSpec<'a> {
    pub resources: &'a Rc<Resources>,
    pub counters: &'a Rc<Counters>,
    /// The rule with its index; `None` where a target has no rules.
    pub rule: Option<(usize, &'a Rule)>,
    /// `None`: there is no such backend, its requests get a 500.
    pub pool: Option<&'a Rc<Pool>>,
    /// The target's own backend.
    pub parent: &'a Rc<Pool>,
    /// The rule's, then the backend's own.
    pub filters: Vec<&'a Filter>,
    pub mirrors: Vec<MirrorTarget>,
}

/// A target's routes with their backends' stacks and counters.
pub(crate) struct Plan {
    pub outbound: Arc<Outbound>,
    /// Where bytes go that no rule speaks for, and requests of a target without rules.
    pub parent: Rc<Pool>,
    /// The stack of requests that no rule speaks for.
    unruled: RefCell<Branch>,
    rules: Vec<Branches>,
    /// The backends of each rule for TLS, and of the rule for bytes.
    tls: Vec<Connections>,
    tcp: Option<Connections>,
    pub counters: Rc<Counters>,
}

impl fmt::Debug for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Plan").field("parent", &self.parent.id).finish_non_exhaustive()
    }
}

/// The backends of a rule for connections; `None`: there is no such backend, its connections are refused.
type Connections = Shares<Option<Rc<Pool>>>;

/// The backends of a rule, by weight.
struct Branches {
    weighted: Shares<RefCell<Branch>>,
    /// For a rule whose backends have no share: redirects, or a 500.
    none: RefCell<Branch>,
}

impl Plan {
    /// Of a target whose parent is this pool; `pools` has every backend that its rules name.
    pub(super) fn new(
        (resources, make): (&Rc<Resources>, MakeBranch),
        journal: Rc<Journal>,
        outbound: Arc<Outbound>,
        parent: Rc<Pool>,
        pools: &HashMap<BackendId, Rc<Pool>>,
    ) -> Self {
        let name = parent.id.to_string().into();
        let labels = outbound.rules.iter().map(|rule| rule.label.clone()).collect();
        let counters = Rc::new(Counters::new(journal, Direction::Outbound, name, labels));
        let branch = |rule: Option<(usize, &Rule)>, pool: Option<&Rc<Pool>>, own: &[Filter]| {
            let of_rule = rule.map(|(_, rule)| &rule.filters[..]).unwrap_or_default();
            let filters: Vec<&Filter> = of_rule.iter().chain(own).collect();
            let mirrors = filters.iter().filter_map(|filter| MirrorTarget::of(filter, pools)).collect();
            let (counters, parent) = (&counters, &parent);
            RefCell::new(make(BranchSpec { resources, counters, rule, pool, parent, filters, mirrors }))
        };
        let pool_of = |backend: &BackendRef| match backend.state {
            BackendRefState::Valid => pools.get(&backend.backend),
            BackendRefState::Invalid => None,
        };
        let weighted =
            |rule, backend: &BackendRef| (backend.weight, branch(Some(rule), pool_of(backend), &backend.filters));
        let rules = outbound.rules.iter().enumerate().map(|rule| Branches {
            weighted: Shares::new(rule.1.backends.iter().map(|backend| weighted(rule, backend))),
            none: branch(Some(rule), None, &[]),
        });
        let connections =
            |all: &[BackendRef]| Shares::new(all.iter().map(|backend| (backend.weight, pool_of(backend).cloned())));
        let tls = outbound.tls.iter().map(|rule| connections(&rule.backends)).collect();
        let tcp = outbound.tcp.as_ref().map(|rule| connections(&rule.backends));
        let (rules, unruled) = (rules.collect(), branch(None, Some(&parent), &[]));
        Self { rules, unruled, tls, tcp, outbound, parent, counters }
    }

    /// Where a connection goes that is no request, nor TLS that a route speaks for.
    pub(crate) fn bytes(&self, rng: &mut fastrand::Rng) -> Result<Rc<Pool>, Reason> {
        match &self.tcp {
            None => Ok(self.parent.clone()),
            Some(shares) => shares.draw(rng).cloned().flatten().ok_or(Reason::InvalidBackend),
        }
    }

    /// Whether connections of the application's own TLS go by the name that they ask for.
    pub(crate) fn routes_tls(&self) -> bool {
        !self.tls.is_empty()
    }

    /// Where a connection goes whose ClientHello asks for `name`.
    pub(crate) fn tls(&self, name: Option<&str>, rng: &mut fastrand::Rng) -> Result<Rc<Pool>, Reason> {
        let rule = name.and_then(|name| bytes::select(&self.outbound.tls, name));
        let shares = rule.and_then(|rule| self.tls.get(rule)).ok_or(Reason::NoRoute)?;
        shares.draw(rng).cloned().flatten().ok_or(Reason::InvalidBackend)
    }

    /// The stack of one of the rule's backends, drawn by weight; that of requests which no rule speaks for without one.
    pub(crate) fn draw(&self, rule: Option<usize>, rng: &mut fastrand::Rng) -> &RefCell<Branch> {
        let Some(rule) = rule.and_then(|rule| self.rules.get(rule)) else { return &self.unruled };
        rule.weighted.draw(rng).unwrap_or(&rule.none)
    }
}
