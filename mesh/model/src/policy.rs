//! What discovery answers for an inbound port: who may come in, and how.

use crate::{PathPattern, Protocol, SpiffeId, Traffic, TrustDomain};
use http::Method;
use ipnet::IpNet;
use std::sync::Arc;

/// Whether plaintext is taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum MtlsMode {
    /// Mesh TLS and plaintext.
    #[default]
    Permissive,
    /// Mesh TLS only.
    Strict,
}

/// What a rule does with a request that it matches.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    Allow,
    Deny,
    /// Logs and counts, decides nothing.
    Audit,
}

/// Where a request comes from; every non-empty list must hold.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Source {
    /// Any of these. A peer without identity matches none, but of a deny rule as [`Unidentified`] says.
    pub identities: Vec<SpiffeId>,
    /// The namespace of the peer's identity is any of these, and its trust domain our own ([`Inbound::trust_domain`]). Of a
    /// peer without identity the same holds as for `identities`.
    pub namespaces: Vec<Arc<str>>,
    pub cidrs: Vec<IpNet>,
}

/// Whether a caller without an identity counts as named by a deny rule that names identities or namespaces.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Unidentified {
    /// It may be anybody, so it is denied.
    #[default]
    Match,
    /// The rule is for callers with an identity only.
    Ignore,
}

/// Why a text is no method that a policy may name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidMethod {
    #[error("is no HTTP method")]
    Token,
    /// Methods are case-sensitive (RFC 9110 §9.1): `get` would match no GET.
    #[error("has lower-case letters, and methods are case-sensitive: write GET, not get")]
    LowerCase,
}

/// A method as policies name it: compared byte for byte with a request's.
pub fn method(text: &str) -> Result<Method, InvalidMethod> {
    let method = Method::from_bytes(text.as_bytes()).map_err(|_| InvalidMethod::Token)?;
    if text.bytes().any(|b| b.is_ascii_lowercase()) { Err(InvalidMethod::LowerCase) } else { Ok(method) }
}

/// What a request does; every non-empty list must hold. A connection that is not HTTP matches an allow rule only by an
/// empty operation, and a deny rule by any: its bytes may be the very request that is denied.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Operation {
    pub methods: Vec<Method>,
    pub paths: Vec<PathPattern>,
}

/// One rule of an AuthorizationPolicy: any of `from` (empty: anybody) doing any of `to` (empty: anything).
#[derive(Clone, PartialEq, Debug)]
pub struct AuthorizationRule {
    /// `namespace/name rule N` of the policy it comes from: in logs, and in the reason that an operator reads.
    pub name: Arc<str>,
    pub action: Action,
    pub from: Vec<Source>,
    pub to: Vec<Operation>,
    /// For deny rules: what a caller without an identity counts as.
    pub unidentified: Unidentified,
}

impl AuthorizationRule {
    /// What stands in for a rule that cannot be read: a deny rule that matches everybody doing anything.
    pub fn deny_everything(name: Arc<str>) -> Self {
        let unidentified = Unidentified::Match;
        Self { name, action: Action::Deny, from: Vec::new(), to: Vec::new(), unidentified }
    }
}

/// Everything that rules one inbound port. Deny rules come before allow rules; where there is any allow rule, what
/// none allows is denied; without one, all is allowed that no rule denies.
#[derive(Clone, PartialEq, Debug)]
pub struct Inbound {
    pub port: u16,
    /// `shop/api:8080`: the workload port as signals name it.
    pub parent: Arc<str>,
    pub protocol: Protocol,
    pub mtls: MtlsMode,
    pub rules: Vec<AuthorizationRule>,
    /// Whether any allow policy selects the port, even one without rules (which then denies everything).
    pub default_deny: bool,
    /// Whether the pod is shutting down. Discovery tells peers; the pod's proxy must tell all other clients.
    pub ending: bool,
    /// The trust domain whose namespaces the rules name.
    pub trust_domain: TrustDomain,
    /// What bounds or disturbs what the rules let in.
    pub traffic: Traffic,
}

/// What rules the inbound ports that have no resource of their own: those that neither the pod declares nor a Service or
/// policy names. One for all of them, so that connections to arbitrary ports cost no subscriptions.
#[derive(Clone, PartialEq, Debug)]
pub struct InboundDefault {
    /// With port 0.
    pub inbound: Inbound,
    /// The ports that have a resource of their own, in order.
    pub declared: Vec<u16>,
}
