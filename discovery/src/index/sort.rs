//! Which rules a client has, in their order of precedence.

use super::attached::{Attached, Kind};
use remora_model::{HostPattern, RouteMatch, Rule};
use std::sync::Arc;

/// The rules of the kind of routes that counts.
#[derive(Debug, PartialEq)]
pub(super) struct Selected {
    pub(super) kind: Kind,
    pub(super) matches: Vec<RouteMatch>,
    pub(super) rules: Vec<Rule>,
    /// The server names of each rule.
    pub(super) hostnames: Vec<Arc<[HostPattern]>>,
}

/// The rules for a client in `namespace`, in order: its own namespace's routes if there are any, else the producer's.
/// Of several types of routes only the most specific one counts: GRPCRoute, HTTPRoute, TLSRoute, TCPRoute (GEP-1294).
pub(super) fn select(attached: &[Attached], namespace: &str) -> Option<Selected> {
    let own = attached.iter().any(|one| one.consumer.as_deref() == Some(namespace));
    let ours = || attached.iter().filter(|one| one.consumer.as_deref() == own.then_some(namespace));
    let kind = ours().map(|one| one.kind).min()?;
    let (mut ranked, mut rules, mut hostnames) = (Vec::new(), Vec::new(), Vec::new());
    for one in ours().filter(|one| one.kind == kind) {
        for (rank, found) in &one.matches {
            ranked.push((rank, RouteMatch { rule: rules.len(), ..found.clone() }));
        }
        rules.push(one.rule.clone());
        hostnames.push(Arc::clone(&one.hostnames));
    }
    ranked.sort_by(|a, b| a.0.cmp(b.0));
    let matches = ranked.into_iter().map(|(_, found)| found).collect();
    Some(Selected { kind, matches, rules, hostnames })
}
