//! What governs a request: the plan of its target, the rule that matched and the backend that was drawn.

use crate::discover::Plan;
use remora_model::{Filter, Retry, Rule};
use std::rc::Rc;

/// The plan of a request's target, and which of its rules and backends was chosen.
#[derive(Debug)]
pub(super) struct Governed {
    pub(super) plan: Rc<Plan>,
    pub(super) rule: Option<usize>,
    /// Index into the rule's backends.
    pub(super) branch: Option<usize>,
}

impl Governed {
    pub(super) fn rule(&self) -> Option<&Rule> {
        self.rule.and_then(|rule| self.plan.rule(rule))
    }

    pub(super) fn retry(&self) -> Option<&Retry> {
        self.rule().and_then(|rule| rule.retry.as_ref())
    }

    /// The rule's filters, then the backend's own.
    pub(super) fn filters(&self) -> impl Iterator<Item = &Filter> {
        let rule = self.rule().map(|rule| &rule.filters[..]).unwrap_or_default();
        let branch = self.rule.zip(self.branch).and_then(|(rule, branch)| self.plan.branch(rule, branch));
        rule.iter().chain(branch.map(|branch| &branch.filters[..]).unwrap_or_default())
    }
}
