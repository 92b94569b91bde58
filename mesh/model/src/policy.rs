//! What discovery answers for an inbound port: who may come in, and how.

use crate::{FieldRule, GrpcRule, HostRule, PathPattern, Protocol, SpiffeId, TrustDomain};
use http::Method;
use ipnet::IpNet;
use std::{fmt, str::FromStr, sync::Arc};

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

/// Where a request comes from: all that is said must hold. A source that says nothing is anybody.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Source {
    /// Any of these. A peer without identity matches none, but of a deny rule as [`Unidentified`] says.
    pub identities: Vec<SpiffeId>,
    /// The namespace of the peer's identity is any of these, and its trust domain one of `trust_domains`, or without any our own
    /// ([`Inbound::trust_domain`]). Of a peer without identity the same holds as for `identities`.
    pub namespaces: Vec<Arc<str>>,
    /// The peer's identity is any of these, in the same trust domains.
    pub service_accounts: Vec<ServiceAccount>,
    /// The trust domain of the peer's identity is any of these.
    pub trust_domains: Vec<TrustDomain>,
    /// `Some(true)`: the peer has an identity, whichever. `Some(false)`: it has none.
    pub authenticated: Option<bool>,
    pub cidrs: Vec<IpNet>,
    /// None of these, whatever else holds.
    pub except: SourceExcept,
}

/// Whom a [`Source`] does not mean.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct SourceExcept {
    pub identities: Vec<SpiffeId>,
    /// In the trust domains of the source's own namespaces.
    pub namespaces: Vec<Arc<str>>,
    pub cidrs: Vec<IpNet>,
}

/// `shop/web`: a service account by its namespace and name.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct ServiceAccount {
    pub namespace: Arc<str>,
    pub name: Arc<str>,
}

/// The text is no [`ServiceAccount`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is no service account of the form namespace/name")]
pub struct InvalidServiceAccount;

impl ServiceAccount {
    /// Reads `namespace/name`.
    pub fn parse(text: &str) -> Result<Self, InvalidServiceAccount> {
        let part = |text: &str| {
            let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.';
            let edge = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_alphanumeric());
            let whole = text.len() <= NAME_BYTES_MAX && text.bytes().all(allowed);
            whole && edge(text.bytes().next()) && edge(text.bytes().next_back())
        };
        match text.split_once('/') {
            Some((namespace, name)) if part(namespace) && part(name) && !namespace.contains('.') => {
                Ok(Self { namespace: namespace.into(), name: name.into() })
            }
            _ => Err(InvalidServiceAccount),
        }
    }
}

impl fmt::Display for ServiceAccount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// The longest name of a Kubernetes object (RFC 1123, a subdomain).
const NAME_BYTES_MAX: usize = 253;

impl Source {
    /// Whether it asks for the identity of a caller, so that one without is a matter of doubt.
    pub fn asks_identity(&self) -> bool {
        let lists =
            [self.identities.len(), self.namespaces.len(), self.service_accounts.len(), self.trust_domains.len()];
        lists.iter().any(|length| *length > 0) || self.authenticated == Some(true)
    }

    /// Whether what it excepts asks for it.
    pub fn excepts_identity(&self) -> bool {
        !self.except.identities.is_empty() || !self.except.namespaces.is_empty()
    }
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

/// What a request does: all that is said must hold. In doubt an allow rule does not match, and a deny rule does. So of a
/// connection that is not HTTP an allow rule matches what names ports alone, and a deny rule everything at these ports: its bytes may
/// be the very request that is denied.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Operation {
    pub methods: Vec<Method>,
    pub paths: Vec<PathPattern>,
    pub hosts: Vec<HostRule>,
    /// All of these.
    pub headers: Vec<FieldRule>,
    pub grpc: Vec<GrpcRule>,
    /// Ports of the pod.
    pub ports: Vec<u16>,
    /// None of these, whatever else holds.
    pub except: OperationExcept,
}

/// What an [`Operation`] does not mean.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct OperationExcept {
    pub methods: Vec<Method>,
    pub paths: Vec<PathPattern>,
}

impl Operation {
    /// Whether it asks for the path of a request.
    pub fn names_paths(&self) -> bool {
        !self.paths.is_empty() || !self.except.paths.is_empty() || !self.grpc.is_empty()
    }

    /// Whether it asks for nothing but the port.
    pub fn is_of_ports_alone(&self) -> bool {
        let Self { methods, paths, hosts, headers, grpc, ports: _, except } = self;
        methods.is_empty()
            && paths.is_empty()
            && hosts.is_empty()
            && headers.is_empty()
            && grpc.is_empty()
            && *except == OperationExcept::default()
    }
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
    /// Decides nothing: what it would do is counted.
    pub dry_run: bool,
    /// An allow rule of no policy, which would not be there if any Allow policy selected the port. Of a dry run alone it matters.
    pub by_default: bool,
}

impl AuthorizationRule {
    /// One that matches everybody doing anything.
    pub fn of(name: Arc<str>, action: Action) -> Self {
        let (from, to, unidentified) = (Vec::new(), Vec::new(), Unidentified::Match);
        Self { name, action, from, to, unidentified, dry_run: false, by_default: false }
    }

    /// What stands in for a rule that cannot be read: a deny rule that matches everybody doing anything.
    pub fn deny_everything(name: Arc<str>) -> Self {
        Self::of(name, Action::Deny)
    }

    /// Whether it is there to be taken into account: it is no dry run.
    pub fn decides(&self) -> bool {
        !self.dry_run && self.action != Action::Audit
    }
}

/// What holds for a port that no Allow policy selects.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum DefaultInbound {
    /// Everybody may do anything.
    #[default]
    Allow,
    /// Whoever has an identity may do anything.
    Authenticated,
    /// Whoever is of the pod's own namespace may do anything.
    SameNamespace,
    /// Nobody may do anything.
    Deny,
}

/// A word that names no [`DefaultInbound`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is allow, authenticated, same-namespace or deny")]
pub struct InvalidDefaultInbound;

impl DefaultInbound {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Allow, Self::Authenticated, Self::SameNamespace, Self::Deny];

    /// As annotations and the chart say it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Authenticated => "authenticated",
            Self::SameNamespace => "same-namespace",
            Self::Deny => "deny",
        }
    }

    /// The rule that holds for the pods of a namespace, and whether what it does not allow is denied.
    pub fn rule(self, namespace: &str) -> (Option<AuthorizationRule>, bool) {
        let source = match self {
            Self::Allow => return (None, false),
            Self::Deny => return (None, true),
            Self::Authenticated => Source { authenticated: Some(true), ..Source::default() },
            Self::SameNamespace => Source { namespaces: vec![namespace.into()], ..Source::default() },
        };
        let name = format!("default-inbound-policy {}", self.name()).into();
        let rule = AuthorizationRule::of(name, Action::Allow);
        (Some(AuthorizationRule { from: vec![source], by_default: true, ..rule }), true)
    }
}

impl FromStr for DefaultInbound {
    type Err = InvalidDefaultInbound;

    fn from_str(text: &str) -> Result<Self, InvalidDefaultInbound> {
        Self::ALL.into_iter().find(|word| word.name() == text).ok_or(InvalidDefaultInbound)
    }
}

/// What policies in dry run would make of a port, beside their rules.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct DryRun {
    /// The MeshTLSPolicy that would make it strict.
    pub strict: Option<Arc<str>>,
    /// The Allow policies that select it, so that what none allows would be denied. At most [`DRY_RUN_POLICIES_MAX`].
    pub allow: Vec<Arc<str>>,
}

/// So many policies in dry run are named for a port: each costs a count where a request would be denied.
pub const DRY_RUN_POLICIES_MAX: usize = 64;

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
    pub dry_run: DryRun,
    /// Whether the pod is shutting down. Discovery tells peers; the pod's proxy must tell all other clients.
    pub ending: bool,
    /// The trust domain whose namespaces the rules name.
    pub trust_domain: TrustDomain,
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
