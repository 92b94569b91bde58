//! Stage 4 of 8: policy. In: who calls, and what. Out: a [`Permit`]. Refuses: plaintext in strict mode, whatever the
//! authorisation rules deny, whatever no allow rule allows. Pure.
//!
//! Only this module makes a [`Permit`], and nothing dials or forwards without one.

pub mod path;

use http::Method;
use remora_model::{Action, AuthorizationRule, Inbound, MtlsMode, Operation, PathPattern, Source, SpiffeId};
use std::net::IpAddr;

/// Proof that policy let this through. Not `Clone`: one permit, one forward.
#[derive(Debug)]
pub struct Permit(());

/// Who is at the other end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// From its certificate; `None` is plaintext.
    pub identity: Option<SpiffeId>,
    pub address: IpAddr,
}

/// What a peer wants to do.
#[derive(Debug, Clone, Copy)]
pub enum Act<'a> {
    /// Bytes of no protocol that policy could read.
    Bytes,
    /// An HTTP request; the path as it came, query excluded.
    Request { method: &'a Method, path: &'a str },
}

/// Why something was refused, in words for an operator.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denial {
    #[error("port {port} takes mesh TLS only and this connection is plaintext")]
    Plaintext { port: u16 },
    #[error("denied by {rule}")]
    Denied { rule: std::sync::Arc<str> },
    #[error("no allow rule of {parent} matches")]
    NotAllowed { parent: std::sync::Arc<str> },
    #[error("policy judges paths here, and {0}")]
    Ambiguous(#[from] path::Ambiguous),
}

/// Lets an outbound connection or request go. Every destination is open today; egress policy belongs here.
pub fn outbound() -> Permit {
    Permit(())
}

/// Whether a connection may exist at all: the mTLS mode of the port.
pub fn admit(inbound: &Inbound, peer: &Peer) -> Result<(), Denial> {
    match (inbound.mtls, &peer.identity) {
        (MtlsMode::Strict, None) => Err(Denial::Plaintext { port: inbound.port }),
        _ => Ok(()),
    }
}

/// Judges `act` by the port's mode and rules. Deny rules come first; where anything is allowed by rule, the rest is
/// denied.
pub fn authorize(inbound: &Inbound, peer: &Peer, act: Act<'_>) -> Result<Permit, Denial> {
    admit(inbound, peer)?;
    if inbound.rules.is_empty() && !inbound.default_deny {
        return Ok(Permit(()));
    }
    let judges_paths = inbound.rules.iter().any(|rule| rule.to.iter().any(|op| !op.paths.is_empty()));
    let canonical = match act {
        Act::Request { method, path } if path == "*" && method == Method::OPTIONS => None,
        Act::Request { path, .. } if judges_paths => Some(path::canonical(path)?),
        _ => None,
    };
    let with = |action| inbound.rules.iter().filter(move |rule| rule.action == action);
    for rule in with(Action::Audit) {
        if matches(rule, peer, act, canonical.as_deref()) {
            tracing::info!(policy = %rule.name, peer = ?peer.identity, "audit");
        }
    }
    if let Some(rule) = with(Action::Deny).find(|rule| matches(rule, peer, act, canonical.as_deref())) {
        return Err(Denial::Denied { rule: rule.name.clone() });
    }
    let allowed =
        !inbound.default_deny || with(Action::Allow).any(|rule| matches(rule, peer, act, canonical.as_deref()));
    if allowed { Ok(Permit(())) } else { Err(Denial::NotAllowed { parent: inbound.parent.clone() }) }
}

fn matches(rule: &AuthorizationRule, peer: &Peer, act: Act<'_>, path: Option<&str>) -> bool {
    let from = rule.from.is_empty() || rule.from.iter().any(|source| source_matches(source, peer));
    from && (rule.to.is_empty() || rule.to.iter().any(|op| operation_matches(op, rule.action, act, path)))
}

fn source_matches(source: &Source, peer: &Peer) -> bool {
    let identity = peer.identity.as_ref();
    (source.identities.is_empty() || identity.is_some_and(|id| source.identities.contains(id)))
        && (source.namespaces.is_empty()
            || identity.and_then(SpiffeId::namespace).is_some_and(|ns| source.namespaces.iter().any(|n| &**n == ns)))
        && (source.cidrs.is_empty() || source.cidrs.iter().any(|cidr| cidr.contains(&peer.address)))
}

/// Bytes might be the very request that a deny rule forbids, in a disguise: a deny rule counts them as it, an allow
/// rule does not.
fn operation_matches(operation: &Operation, action: Action, act: Act<'_>, path: Option<&str>) -> bool {
    let Act::Request { method, .. } = act else {
        let any = operation.methods.is_empty() && operation.paths.is_empty();
        return any || action == Action::Deny;
    };
    (operation.methods.is_empty() || operation.methods.contains(method))
        && (operation.paths.is_empty()
            || path.is_some_and(|path| operation.paths.iter().any(|pattern| path_matches(pattern, path))))
}

fn path_matches(pattern: &PathPattern, path: &str) -> bool {
    match pattern {
        PathPattern::Exact(exact) => &**exact == path,
        PathPattern::Prefix(prefix) => {
            path.strip_prefix(&**prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        }
    }
}
