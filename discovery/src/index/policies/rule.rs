//! One rule of an AuthorizationPolicy. What the CRD refuses is refused here too (charts/remora/templates/crds.yaml): the
//! directory has no API server before it, and the CRD keeps fields that it does not know.
//!
//! Errors begin with the field, as a suffix to the path of the rule: `.from[0].cidrs[1]: "x" is no CIDR`.

use crate::{
    index::fields,
    objects::{
        names::is_label,
        policy::{PolicyAction, PolicyOperation, PolicyRule, PolicySource, UnidentifiedCallers},
    },
};
use remora_api::convert::check;
use remora_model::{
    Action, AuthorizationRule, Operation, PathPattern, Source, SpiffeId, Unidentified, network, policy,
};
use std::sync::Arc;

/// Entries of any list in a policy, as in the CRD.
pub(super) const LIST_MAX: usize = 64;
/// Bytes of a SPIFFE id (its standard), of a method, of a path, as in the CRD.
const ID_BYTES_MAX: usize = 2048;
const METHOD_BYTES_MAX: usize = 64;
const PATH_BYTES_MAX: usize = 1024;

/// Reads a rule, of which nothing is left out: what cannot be read makes the whole of it unreadable.
pub(super) fn read(name: Arc<str>, action: PolicyAction, rule: &PolicyRule) -> Result<AuthorizationRule, String> {
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
    let rule = AuthorizationRule { name, action: model(action), from, to, unidentified };
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

fn list<T, U>(field: &str, given: &[T], read: impl Fn(&T) -> Result<U, String>) -> Result<Vec<U>, String> {
    if given.len() > LIST_MAX {
        return Err(format!(".{field}: has {} entries, more than the {LIST_MAX} allowed", given.len()));
    }
    given.iter().enumerate().map(|(i, one)| read(one).map_err(|e| format!(".{field}[{i}]{e}"))).collect()
}

/// A list that must not be empty where it is given: empty, it would match everything.
fn some<U>(
    field: &str,
    given: &Option<Vec<String>>,
    read: impl Fn(&str) -> Result<U, String>,
) -> Result<Vec<U>, String> {
    match given.as_deref() {
        None => Ok(Vec::new()),
        Some([]) => Err(format!(".{field}: is empty, which would match everything; leave it out to mean that")),
        Some(given) => list(field, given, |text: &String| read(text).map_err(|e| format!(": {text:?} {e}"))),
    }
}

fn source(source: &PolicySource) -> Result<Source, String> {
    source.unknown.none().map_err(|e| format!(".{e}"))?;
    if source.identities.is_none() && source.namespaces.is_none() && source.cidrs.is_none() {
        return Err(": is empty, which would match everybody; say `from: []` to mean that".to_owned());
    }
    let id = |id: &str| match SpiffeId::parse(id) {
        _ if id.len() > ID_BYTES_MAX => Err(format!("is longer than {ID_BYTES_MAX} bytes")),
        Ok(id) => Ok(id),
        Err(error) => Err(format!("is no SPIFFE id: {error}")),
    };
    let namespace = |name: &str| is_label(name).then(|| name.into()).ok_or_else(|| "is no namespace".to_owned());
    let cidr = |cidr: &str| network::parse(cidr).map_err(|problem| problem.to_string());
    Ok(Source {
        identities: some("identities", &source.identities, id)?,
        namespaces: some("namespaces", &source.namespaces, namespace)?,
        cidrs: some("cidrs", &source.cidrs, cidr)?,
    })
}

fn operation(operation: &PolicyOperation) -> Result<Operation, String> {
    operation.unknown.none().map_err(|e| format!(".{e}"))?;
    if operation.methods.is_none() && operation.paths.is_none() {
        return Err(": is empty, which would match anything; say `to: []` to mean that".to_owned());
    }
    let method = |text: &str| match policy::method(text) {
        _ if text.len() > METHOD_BYTES_MAX => Err(format!("is longer than {METHOD_BYTES_MAX} bytes")),
        read => read.map_err(|problem| problem.to_string()),
    };
    let path = |text: &str| match PathPattern::parse(text) {
        _ if text.len() > PATH_BYTES_MAX => Err(format!("is longer than {PATH_BYTES_MAX} bytes")),
        read => read.map_err(|problem| problem.to_string()),
    };
    Ok(Operation {
        methods: some("methods", &operation.methods, method)?,
        paths: some("paths", &operation.paths, path)?,
    })
}
