//! One rule of an AuthorizationPolicy. What the CRD refuses is refused here too (charts/remora/templates/crds.yaml): the
//! directory has no API server before it, and the CRD keeps fields that it does not know.
//!
//! Errors begin with the field, as a suffix to the path of the rule: `.from[0].cidrs[1]: "x" is no CIDR`.

use super::conditions::{list, operation, source};
use crate::{
    index::fields,
    objects::policy::{PolicyAction, PolicyMode, PolicyRule, UnidentifiedCallers},
};
use remora_api::convert::check;
use remora_model::{Action, AuthorizationRule, Unidentified};
use std::sync::Arc;

/// Reads a rule, of which nothing is left out: what cannot be read makes the whole of it unreadable.
pub(super) fn read(
    name: Arc<str>,
    (action, mode): (PolicyAction, PolicyMode),
    rule: &PolicyRule,
) -> Result<AuthorizationRule, String> {
    rule.unknown.none().map_err(|e| format!(".{e}"))?;
    if rule.from.is_none() && rule.to.is_none() {
        return Err(": is empty; to match everything, say `from: []`".to_owned());
    }
    let unidentified = match rule.unidentified {
        Some(_) if action != PolicyAction::Deny => {
            return Err(".unidentified: has a meaning in a Deny policy only".to_owned());
        }
        Some(UnidentifiedCallers::Ignore) => Unidentified::Ignore,
        Some(UnidentifiedCallers::Match) | None => Unidentified::Match,
    };
    let from = list("from", rule.from.as_deref().unwrap_or_default(), source)?;
    let to = list("to", rule.to.as_deref().unwrap_or_default(), operation)?;
    let dry_run = mode == PolicyMode::DryRun;
    let rule = AuthorizationRule { from, to, unidentified, dry_run, ..AuthorizationRule::of(name, model(action)) };
    check::authorization(&rule).map_err(|error| format!(".{}", fields::of_policy(&error)))?;
    Ok(rule)
}

pub(super) fn model(action: PolicyAction) -> Action {
    match action {
        PolicyAction::Allow => Action::Allow,
        PolicyAction::Deny => Action::Deny,
        PolicyAction::Audit => Action::Audit,
    }
}
