//! Plans: what a worker needs to send a request of a target on its way, made once per change, read per request.

use crate::{
    backend::Pool,
    http::layer::{Branch, MirrorTarget},
    resources::Resources,
    telemetry::{Counters, Direction, Routes},
};
use remora_model::{BackendId, BackendRef, BackendRefState, Filter, Outbound, Rule};
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
    /// Where bytes go, and requests of a target without rules.
    pub parent: Rc<Pool>,
    /// The stack of requests that no rule speaks for.
    unruled: RefCell<Branch>,
    rules: Vec<Branches>,
    pub counters: Rc<Counters>,
}

impl fmt::Debug for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Plan").field("parent", &self.parent.id).finish_non_exhaustive()
    }
}

/// The backends of a rule, by weight.
struct Branches {
    weighted: Vec<(u32, RefCell<Branch>)>,
    /// For a rule whose backends have no share: redirects, or a 500.
    none: RefCell<Branch>,
}

impl Plan {
    /// Of a target whose parent is this pool; `pools` has every backend that its rules name.
    pub(super) fn new(
        (resources, make): (&Rc<Resources>, MakeBranch),
        routes: Arc<Routes>,
        outbound: Arc<Outbound>,
        parent: Rc<Pool>,
        pools: &HashMap<BackendId, Rc<Pool>>,
    ) -> Self {
        let name = parent.id.to_string().into();
        let labels = outbound.rules.iter().map(|rule| rule.label.clone()).collect();
        let counters = Rc::new(Counters::new(routes, Direction::Outbound, name, labels));
        let branch = |rule: Option<(usize, &Rule)>, pool: Option<&Rc<Pool>>, own: &[Filter]| {
            let of_rule = rule.map(|(_, rule)| &rule.filters[..]).unwrap_or_default();
            let filters: Vec<&Filter> = of_rule.iter().chain(own).collect();
            let mirrors = filters.iter().filter_map(|filter| MirrorTarget::of(filter, pools)).collect();
            let (counters, parent) = (&counters, &parent);
            RefCell::new(make(BranchSpec { resources, counters, rule, pool, parent, filters, mirrors }))
        };
        let weighted = |rule, backend: &BackendRef| {
            let pool = match backend.state {
                BackendRefState::Valid => pools.get(&backend.backend),
                BackendRefState::Invalid => None,
            };
            (backend.weight, branch(Some(rule), pool, &backend.filters))
        };
        let rules = outbound.rules.iter().enumerate().map(|rule| Branches {
            weighted: rule.1.backends.iter().map(|backend| weighted(rule, backend)).collect(),
            none: branch(Some(rule), None, &[]),
        });
        Self { rules: rules.collect(), unruled: branch(None, Some(&parent), &[]), outbound, parent, counters }
    }

    /// The stack of one of the rule's backends, drawn by weight; that of requests which no rule speaks for without one.
    pub(crate) fn draw(&self, rule: Option<usize>, rng: &mut fastrand::Rng) -> &RefCell<Branch> {
        let Some(rule) = rule.and_then(|rule| self.rules.get(rule)) else { return &self.unruled };
        if let [(weight, only)] = &rule.weighted[..] {
            return if *weight > 0 { only } else { &rule.none };
        }
        let total: u64 = rule.weighted.iter().map(|(weight, _)| u64::from(*weight)).sum();
        if total == 0 {
            return &rule.none;
        }
        let mut ticket = rng.u64(..total);
        let drawn = rule.weighted.iter().find(|(weight, _)| match ticket.checked_sub(u64::from(*weight)) {
            Some(rest) => {
                ticket = rest;
                false
            }
            None => true,
        });
        drawn.map_or(&rule.none, |(_, branch)| branch)
    }
}
