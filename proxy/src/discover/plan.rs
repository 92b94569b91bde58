//! Plans: what a worker needs to send a request of a target on its way, made once per change, read per request.

use crate::{
    backend::Pool,
    telemetry::{Counters, Direction, Routes},
};
use remora_model::{BackendId, BackendRefState, Filter, Outbound, Rule};
use std::{collections::HashMap, rc::Rc, sync::Arc};

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
