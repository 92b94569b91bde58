//! Whether one rule means one request. In: the rule, and who asks for what. Out: yes or no.
//!
//! What is in doubt, a deny rule takes for a match and any other rule for none; and in what a rule excepts it is the other way around.
//! In doubt are: a caller without an identity, where one is asked for; bytes, whatever they are; a method in another case, and HEAD where
//! GET is named; a host that is not said or can be read in two ways; a header with several values, or one that cannot be read.

use super::{Act, Caller};
use http::{HeaderMap, Method};
use remora_jose::claims::Verified;
use remora_model::{
    Action, AuthorizationRule, ClaimCondition, JwtCondition, Operation, PathPattern, Source, SpiffeId, TrustDomain,
    Unidentified, host, path,
};
use std::{borrow::Cow, sync::Arc};

/// One request or byte connection, as rules see it.
pub(crate) struct Asking<'a> {
    caller: &'a Caller,
    /// Whether its identity is of the mesh's own trust domain.
    own: bool,
    namespace: Option<&'a str>,
    account: Option<&'a str>,
    /// The pod's port.
    port: u16,
    act: Act<'a>,
    /// Of a request, where a rule asks for it.
    host: Option<host::Asked<'a>>,
    pub(crate) path: Compared<'a>,
}

/// A path in the form that rules are compared with.
pub(crate) enum Compared<'a> {
    /// No rule asks for it, or it is `*`.
    None,
    Path(Cow<'a, str>),
    Ambiguous(path::Ambiguous),
}

impl<'a> Asking<'a> {
    /// Paths and hosts are read if they are wanted.
    pub(crate) fn new(
        (caller, own): (&'a Caller, &TrustDomain),
        port: u16,
        act: Act<'a>,
        (paths, hosts): (bool, bool),
    ) -> Self {
        let identity = caller.identity.as_ref();
        let host = match act {
            Act::Request { host, .. } if hosts => host.and_then(host::Asked::read),
            Act::Request { .. } | Act::Bytes => None,
        };
        Self {
            own: identity.is_some_and(|id| id.member_of(own)),
            namespace: identity.and_then(SpiffeId::namespace),
            account: identity.and_then(SpiffeId::service_account),
            caller,
            port,
            act,
            host,
            path: compared(act, paths),
        }
    }

    pub(crate) fn identity(&self) -> Option<&'a SpiffeId> {
        self.caller.identity.as_ref()
    }

    pub(crate) fn namespace(&self) -> Option<&'a str> {
        self.namespace
    }

    pub(crate) fn is_bytes(&self) -> bool {
        matches!(self.act, Act::Bytes)
    }
}

/// `*` is no path (RFC 9112 §3.2.4), and policies that name paths do not mean it.
fn compared(act: Act<'_>, wanted: bool) -> Compared<'_> {
    match act {
        Act::Request { method, path, .. } if wanted && !(path == "*" && method == Method::OPTIONS) => {
            path::canonical(path).map_or_else(Compared::Ambiguous, Compared::Path)
        }
        Act::Request { .. } | Act::Bytes => Compared::None,
    }
}

/// A rule, ready to be asked.
#[derive(Debug)]
pub(crate) struct Rule {
    pub(crate) name: Arc<str>,
    /// Whether it matches in doubt.
    pub(crate) doubt: bool,
    pub(crate) from: Vec<Source>,
    pub(crate) to: Vec<Means>,
    /// Whether a caller without an identity counts as named, and as not excepted. Only ever of deny rules.
    pub(crate) unidentified: bool,
}

/// An operation, ready to be asked.
#[derive(Debug)]
pub(crate) struct Means {
    operation: Operation,
    /// The paths of its gRPC calls.
    grpc: Vec<PathPattern>,
}

impl Means {
    /// The paths by which it can be found, of which one must match; without any it may mean every path.
    pub(crate) fn paths(&self) -> &[PathPattern] {
        if self.operation.paths.is_empty() { &self.grpc } else { &self.operation.paths }
    }
}

impl Rule {
    /// `None`: it means nothing at this port, whatever is asked. 0 stands for several ports.
    pub(crate) fn new(rule: &AuthorizationRule, port: u16) -> Option<Self> {
        let doubt = rule.action == Action::Deny;
        let here = |to: &&Operation| port == 0 || to.ports.is_empty() || to.ports.contains(&port);
        let means = |to: &Operation| {
            let grpc = to.grpc.iter().map(|grpc| grpc.paths(doubt)).collect();
            Means { operation: to.clone(), grpc }
        };
        let to: Vec<Means> = rule.to.iter().filter(here).map(means).collect();
        (rule.to.is_empty() || !to.is_empty()).then(|| Self {
            name: rule.name.clone(),
            doubt,
            from: rule.from.clone(),
            to,
            unidentified: doubt && rule.unidentified == Unidentified::Match,
        })
    }

    pub(crate) fn names_paths(&self) -> bool {
        self.to.iter().any(|to| to.operation.names_paths())
    }

    pub(crate) fn names_hosts(&self) -> bool {
        self.to.iter().any(|to| !to.operation.hosts.is_empty())
    }

    /// Whether it would match if the path, which has no canonical form, were one that it names.
    pub(crate) fn might_match(&self, asking: &Asking<'_>) -> bool {
        let named = self.from.is_empty()
            || self.from.iter().any(|source| names(source, (self.doubt, self.unidentified), asking));
        named && self.to.iter().any(|to| to.operation.names_paths() && self.means_but_for_paths(to, asking))
    }

    /// Whether it means what is asked by this operation.
    pub(crate) fn means(&self, to: &Means, asking: &Asking<'_>) -> bool {
        self.means_but_for_paths(to, asking) && (asking.is_bytes() || of_paths(to, &asking.path))
    }

    fn means_but_for_paths(&self, Means { operation, grpc }: &Means, asking: &Asking<'_>) -> bool {
        if !operation.ports.is_empty() && !operation.ports.contains(&asking.port) {
            return false;
        }
        let Act::Request { method, headers, .. } = asking.act else {
            return self.doubt || operation.is_of_ports_alone();
        };
        is_method(&operation.methods, method, self.doubt)
            && (grpc.is_empty() || self.doubt || *method == Method::POST)
            && self.means_hosts(operation, asking.host)
            && self.means_headers(operation, headers)
            && (operation.except.methods.is_empty() || !is_method(&operation.except.methods, method, !self.doubt))
    }

    fn means_hosts(&self, operation: &Operation, asked: Option<host::Asked<'_>>) -> bool {
        operation.hosts.is_empty() || operation.hosts.iter().any(|host| host.matches(asked, self.doubt))
    }

    fn means_headers(&self, operation: &Operation, headers: &HeaderMap) -> bool {
        operation.headers.iter().all(|field| field.matches(headers, self.doubt))
    }
}

fn of_paths(Means { operation, grpc }: &Means, path: &Compared<'_>) -> bool {
    let any = |patterns: &[PathPattern]| matches!(path, Compared::Path(path) if patterns.iter().any(|pattern| pattern.matches(path)));
    (operation.paths.is_empty() || any(&operation.paths))
        && (grpc.is_empty() || any(grpc))
        && !any(&operation.except.paths)
}

/// Methods are case-sensitive (RFC 9110 §9.1), and servers are lenient; HEAD is GET without the content (§9.3.2). So in doubt
/// what some server may take for a method of the list is one, else that method alone. An empty list means all.
fn is_method(list: &[Method], method: &Method, doubt: bool) -> bool {
    let lenient = |listed: &Method| {
        listed.as_str().eq_ignore_ascii_case(method.as_str())
            || (*listed == Method::GET && method.as_str().eq_ignore_ascii_case("HEAD"))
    };
    list.is_empty() || list.contains(method) || (doubt && list.iter().any(lenient))
}

/// Whether a source means who asks. `doubt`: whether it does in doubt. `unidentified`: whether a caller without an identity counts as named, and
/// as not excepted.
pub(crate) fn names(source: &Source, (doubt, unidentified): (bool, bool), asking: &Asking<'_>) -> bool {
    let named = match asking.identity() {
        None => unidentified || !source.asks_identity(),
        Some(id) => names_identity(source, id, asking),
    };
    named
        && (source.cidrs.is_empty() || source.cidrs.iter().any(|cidr| cidr.contains(&asking.caller.address)))
        && source.jwt.as_ref().is_none_or(|asked| has_token(asked, doubt, asking.act))
        && !excepts(source, unidentified, asking)
}

/// Bytes may be a request with any token. A request that has none certainly has none.
fn has_token(asked: &JwtCondition, doubt: bool, act: Act<'_>) -> bool {
    let holds = |token: &Verified| {
        let of_these = token.issuers.iter().any(|issuer| asked.issuers.contains(issuer));
        of_these && asked.claims.iter().all(|one| claims(token, one))
    };
    match act {
        Act::Request { tokens, .. } => tokens.into_iter().flatten().any(holds),
        Act::Bytes => doubt,
    }
}

fn claims(token: &Verified, asked: &ClaimCondition) -> bool {
    if asked.values.is_empty() {
        return token.claim(&asked.claim).is_some_and(|claim| !claim.is_null());
    }
    asked.values.iter().any(|value| token.says(&asked.claim, value))
}

fn names_identity(source: &Source, id: &SpiffeId, asking: &Asking<'_>) -> bool {
    let account = |one: &remora_model::ServiceAccount| {
        asking.namespace == Some(&*one.namespace) && asking.account == Some(&*one.name)
    };
    source.authenticated != Some(false)
        && (source.identities.is_empty() || source.identities.contains(id))
        && (source.trust_domains.is_empty() || is_of_domains(source, id))
        && (source.namespaces.is_empty() || is_in(&source.namespaces, source, id, asking))
        && (source.service_accounts.is_empty()
            || (is_of_named_domain(source, id, asking) && source.service_accounts.iter().any(account)))
}

fn excepts(source: &Source, unidentified: bool, asking: &Asking<'_>) -> bool {
    let by_identity = match asking.identity() {
        None => source.excepts_identity() && !unidentified,
        Some(id) => source.except.identities.contains(id) || is_in(&source.except.namespaces, source, id, asking),
    };
    by_identity || source.except.cidrs.iter().any(|cidr| cidr.contains(&asking.caller.address))
}

fn is_of_domains(source: &Source, id: &SpiffeId) -> bool {
    source.trust_domains.iter().any(|domain| id.member_of(domain))
}

/// The trust domain of its namespaces: one of its own, or the mesh's where it names none.
fn is_of_named_domain(source: &Source, id: &SpiffeId, asking: &Asking<'_>) -> bool {
    if source.trust_domains.is_empty() { asking.own } else { is_of_domains(source, id) }
}

fn is_in(namespaces: &[Arc<str>], source: &Source, id: &SpiffeId, asking: &Asking<'_>) -> bool {
    let named = |own: &str| namespaces.iter().any(|namespace| **namespace == *own);
    asking.namespace.is_some_and(named) && is_of_named_domain(source, id, asking)
}
