//! Which rules a client has, in their order of precedence.

use super::attached::Attached;
use remora_model::{RouteMatch, Rule};

/// The rules for a client in `namespace`, in order: its own namespace's routes if there are any, else the producer's.
/// Of several types of routes only the most specific one counts: GRPCRoute, then HTTPRoute (GEP-1426).
pub(super) fn select(attached: &[Attached], namespace: &str) -> Option<(Vec<RouteMatch>, Vec<Rule>)> {
    let own = attached.iter().any(|one| one.consumer.as_deref() == Some(namespace));
    let ours = || attached.iter().filter(|one| one.consumer.as_deref() == own.then_some(namespace));
    let kind = ours().map(|one| one.kind).min()?;
    let (mut ranked, mut rules) = (Vec::new(), Vec::new());
    for one in ours().filter(|one| one.kind == kind) {
        for (rank, found) in &one.matches {
            ranked.push((rank, RouteMatch { rule: rules.len(), ..found.clone() }));
        }
        rules.push(one.rule.clone());
    }
    ranked.sort_by(|a, b| a.0.cmp(b.0));
    Some((ranked.into_iter().map(|(_, found)| found).collect(), rules))
}
