//! What discovery answers for an inbound port: who may come in, and how.

use crate::{Protocol, SpiffeId};
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
    /// Any of these. A peer without identity matches none.
    pub identities: Vec<SpiffeId>,
    /// The namespace of the peer's identity is any of these.
    pub namespaces: Vec<Arc<str>>,
    pub cidrs: Vec<IpNet>,
}

/// A path as policies name it; compared with the canonical path.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PathPattern {
    Exact(Arc<str>),
    /// `/a/*`: whole segments below and including `/a`.
    Prefix(Arc<str>),
}

/// What a request does; every non-empty list must hold. Connections that are not HTTP match only an empty operation.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Operation {
    pub methods: Vec<Method>,
    pub paths: Vec<PathPattern>,
}

/// One rule of an AuthorizationPolicy: any of `from` (empty: anybody) doing any of `to` (empty: anything).
#[derive(Clone, PartialEq, Debug)]
pub struct AuthorizationRule {
    /// `namespace/name rule N` of the policy it comes from: in logs, and in the reason told to an operator.
    pub name: Arc<str>,
    pub action: Action,
    pub from: Vec<Source>,
    pub to: Vec<Operation>,
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
    /// Whether the pod is about to end. Peers learn of that from discovery; others must be told by the pod's proxy.
    pub ending: bool,
}
