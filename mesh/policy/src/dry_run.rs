//! What policies in dry run would do. In: a request, and what was decided of it. Out: what would be otherwise if all of them held beside
//! the rest, as notes; never another decision.

use super::{
    Denial, Noted,
    index::Set,
    rule::{Asking, Compared, Rule},
};
use remora_model::{DryRun, Inbound, MtlsMode};
use std::sync::Arc;

/// The policies of a port that are in dry run.
#[derive(Debug)]
pub(crate) struct DryRuns {
    deny: Set,
    allow: Set,
    /// The Allow policies, because of which what none allows would be denied, and the MeshTLSPolicy that would make the port strict.
    policies: DryRun,
    /// Whether a deny rule, of these or of those that hold, names paths: then a path without a canonical form would be refused.
    denies_paths: bool,
    /// Whether what is allowed by rule is so by default, where no Allow policy selects the port.
    by_default: bool,
    /// Whether there is nothing in dry run.
    none: bool,
}

impl DryRuns {
    /// Of these rules. Rules and policies are numbered in the order of [`DryRuns::names`].
    pub(crate) fn new(inbound: &Inbound, deny: Set, allow: Set, denies_paths: bool) -> Self {
        let mut policies = inbound.dry_run.clone();
        policies.strict = policies.strict.filter(|_| inbound.mtls == MtlsMode::Permissive);
        Self {
            denies_paths: denies_paths || deny.rules().iter().any(Rule::names_paths),
            by_default: inbound.rules.iter().any(|rule| rule.by_default),
            none: deny.rules().is_empty() && allow.rules().is_empty() && policies == DryRun::default(),
            deny,
            allow,
            policies,
        }
    }

    pub(crate) fn sets(&self) -> impl Iterator<Item = &Set> {
        [&self.deny, &self.allow].into_iter()
    }

    /// Deny rules, allow rules, Allow policies, and the MeshTLSPolicy.
    pub(crate) fn names(&self) -> impl Iterator<Item = &Arc<str>> {
        let rules = self.sets().flat_map(Set::rules).map(|rule| &rule.name);
        rules.chain(&self.policies.allow).chain(&self.policies.strict)
    }

    /// Adds what would be otherwise; the first of them has the number `from`.
    pub(crate) fn note<T>(
        &self,
        asking: &Asking<'_>,
        live: &Result<Option<T>, Denial>,
        from: usize,
        noted: &mut Vec<(usize, Noted)>,
    ) {
        if self.none {
            return;
        }
        let (denies, allows) = (self.deny.all(asking), self.allow.all(asking));
        let strict = self.policies.strict.is_some() && asking.identity().is_none();
        let ambiguous = self.denies_paths && matches!(asking.path, Compared::Ambiguous(_));
        let first_allow = from + self.deny.rules().len();
        let first_policy = first_allow + self.allow.rules().len();

        let denied = if live.is_ok() { Noted::Denies } else { Noted::Matched };
        noted.extend(denies.iter().map(|rule| (from + *rule as usize, denied)));
        if live.is_ok() && ambiguous && denies.is_empty() {
            let named = self.deny.rules().iter().enumerate().filter(|(_, rule)| rule.names_paths());
            noted.extend(named.map(|(rule, _)| (from + rule, Noted::Ambiguous)));
        } else {
            let unsaid = matches!(live, Err(Denial::NotAllowed { .. } | Denial::Ambiguous(_)));
            let opens = unsaid && denies.is_empty() && !strict && !ambiguous;
            let allowed = if opens { Noted::Allows } else { Noted::Matched };
            noted.extend(allows.iter().map(|rule| (first_allow + *rule as usize, allowed)));
            // A rule that holds by default would be gone.
            let still = matches!(live, Ok(Some(_))) && !self.by_default;
            if live.is_ok() && denies.is_empty() && allows.is_empty() && !still {
                noted.extend((0..self.policies.allow.len()).map(|policy| (first_policy + policy, Noted::Denies)));
            }
        }
        if live.is_ok() && strict {
            noted.push((first_policy + self.policies.allow.len(), Noted::Denies));
        }
    }
}
