//! Routes: what discovery answers for an outbound target, in the Gateway API's terms.

use crate::{BackendId, Cors, GrpcCodes, Pattern, Protocol, Target, TcpRule, TlsRule};
use http::{HeaderName, HeaderValue, Method, StatusCode};
use std::{sync::Arc, time::Duration};

/// How a value is compared.
#[derive(Clone, PartialEq, Debug)]
pub enum ValueMatch {
    Exact(Arc<str>),
    Pattern(Pattern),
}

impl ValueMatch {
    /// Whether `value` is meant.
    pub fn matches(&self, value: &[u8]) -> bool {
        match self {
            Self::Exact(text) => text.as_bytes() == value,
            Self::Pattern(pattern) => pattern.matches(value),
        }
    }
}

/// How a path is compared (query excluded).
#[derive(Clone, PartialEq, Debug)]
pub enum PathMatch {
    Exact(Arc<str>),
    /// Whole segments: `/a` matches `/a` and `/a/b`, not `/ab`. Kept without a trailing slash (`/` is empty).
    Prefix(Arc<str>),
    Pattern(Pattern),
}

/// A header that must be there with this value.
#[derive(Clone, PartialEq, Debug)]
pub struct HeaderMatch {
    pub name: HeaderName,
    pub value: ValueMatch,
}

/// A query parameter that must be there with this value; the first of that name counts.
#[derive(Clone, PartialEq, Debug)]
pub struct QueryMatch {
    pub name: Arc<str>,
    pub value: ValueMatch,
}

/// One set of conditions, all of which must hold, and the rule that it selects.
#[derive(Clone, PartialEq, Debug)]
pub struct RouteMatch {
    pub path: Option<PathMatch>,
    pub method: Option<Method>,
    pub headers: Vec<HeaderMatch>,
    pub query: Vec<QueryMatch>,
    /// Index into [`Outbound::rules`].
    pub rule: usize,
}

/// Header changes, in the order set, add, remove.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct HeaderEdit {
    pub set: Vec<(HeaderName, HeaderValue)>,
    pub add: Vec<(HeaderName, HeaderValue)>,
    pub remove: Vec<HeaderName>,
}

/// What a rewrite or redirect does to the path.
#[derive(Clone, PartialEq, Debug)]
pub enum PathRewrite {
    Full(Arc<str>),
    /// Replaces the prefix that the rule matched.
    Prefix(Arc<str>),
}

/// An answer that sends the client elsewhere.
#[derive(Clone, PartialEq, Debug)]
pub struct Redirect {
    pub scheme: Option<Arc<str>>,
    pub hostname: Option<Arc<str>>,
    pub port: Option<u16>,
    pub path: Option<PathRewrite>,
    /// 301, 302, 303, 307 or 308.
    pub status: StatusCode,
}

/// One step on the way of a request or its response.
#[derive(Clone, PartialEq, Debug)]
pub enum Filter {
    RequestHeaders(HeaderEdit),
    ResponseHeaders(HeaderEdit),
    Redirect(Redirect),
    Rewrite {
        hostname: Option<Arc<str>>,
        path: Option<PathRewrite>,
    },
    /// A copy of `numerator / denominator` of the requests; their responses are dropped.
    Mirror {
        backend: BackendId,
        numerator: u32,
        denominator: u32,
    },
    /// Answers browsers that ask whether a script may send a request, and marks the answers that it may read.
    Cors(Arc<Cors>),
}

/// Whether a backend can be used at all.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BackendRefState {
    Valid,
    /// Named by the route, but missing, of a wrong kind or not permitted: its share of requests gets a 500.
    Invalid,
}

/// A share of a rule's requests.
#[derive(Clone, PartialEq, Debug)]
pub struct BackendRef {
    pub backend: BackendId,
    /// 0 takes none.
    pub weight: u32,
    pub state: BackendRefState,
    pub filters: Vec<Filter>,
}

/// Bounds on a request's life; `None` is no bound of the route's own.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Timeouts {
    /// From the request's arrival to the response's end.
    pub request: Option<Duration>,
    /// Each try, to the response's head.
    pub backend_request: Option<Duration>,
}

/// When a request is sent again.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Retry {
    /// Tries beyond the first.
    pub attempts: u32,
    /// Response codes worth another try, beside connection failures.
    pub codes: Vec<StatusCode>,
    /// Statuses of gRPC worth another try, whatever the method, if the head of the response has them.
    pub grpc_codes: GrpcCodes,
    /// Least wait before a try; jitter goes on top.
    pub backoff: Duration,
    /// Whether requests with methods that are not idempotent may be sent twice.
    pub any_method: bool,
}

/// A rule of an HTTPRoute or GRPCRoute, or the default rule of a Service.
#[derive(Clone, PartialEq, Debug)]
pub struct Rule {
    /// The label of its signals: `HTTPRoute/shop/api rule 0`. Empty for a Service's default rule, whose requests are
    /// counted by learned path or gRPC method.
    pub label: Arc<str>,
    pub filters: Vec<Filter>,
    pub backends: Vec<BackendRef>,
    pub timeouts: Timeouts,
    /// `None`: the default (safe methods, connection failures only).
    pub retry: Option<Retry>,
}

impl Rule {
    /// Every backend that it names and that can be used.
    pub fn named(&self) -> impl Iterator<Item = &BackendId> {
        let filters = self.filters.iter().chain(self.backends.iter().flat_map(|backend| &backend.filters));
        let valid = self.backends.iter().filter(|backend| backend.state == BackendRefState::Valid);
        valid.map(|backend| &backend.backend).chain(filters.filter_map(mirror_backend))
    }

    /// What stands in for a rule that cannot be read: it answers 500, as for a backend that is not there.
    pub fn closed(label: Arc<str>) -> Self {
        Self { label, filters: Vec::new(), backends: Vec::new(), timeouts: Timeouts::default(), retry: None }
    }
}

/// What a target is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Parent {
    /// A Service port or a pod.
    Backend(BackendId),
    /// Discovery says that it is outside the mesh: passed through, if the proxy's setting permits.
    Outside,
    /// Within the cluster's ranges, or a name, and nothing that discovery knows. Never passed through in plaintext; it may
    /// become known at any moment.
    Unknown,
}

impl Parent {
    /// The Service port or pod, if it is one.
    pub fn backend(&self) -> Option<&BackendId> {
        match self {
            Self::Backend(id) => Some(id),
            Self::Outside | Self::Unknown => None,
        }
    }

    /// The same, by value.
    pub fn into_backend(self) -> Option<BackendId> {
        match self {
            Self::Backend(id) => Some(id),
            Self::Outside | Self::Unknown => None,
        }
    }
}

/// What is known of an outbound target.
#[derive(Clone, PartialEq, Debug)]
pub struct Outbound {
    pub target: Target,
    pub parent: Parent,
    pub protocol: Protocol,
    /// Of HTTP requests. In precedence order (Gateway API): the first that holds wins. None holding is a 404 if there are
    /// rules with matches at all.
    pub matches: Vec<RouteMatch>,
    pub rules: Vec<Rule>,
    /// Of connections that begin with a ClientHello. If there are any, one that none matches is refused; see
    /// [`select`](crate::bytes::select).
    pub tls: Vec<TlsRule>,
    /// Of all other connections; `None`: they go to the parent.
    pub tcp: Option<TcpRule>,
}

impl Outbound {
    /// Without any rule.
    pub fn bare(target: Target, parent: Parent) -> Self {
        let (matches, rules) = (Vec::new(), Vec::new());
        Self { target, parent, protocol: Protocol::Detect, matches, rules, tls: Vec::new(), tcp: None }
    }

    /// Every backend that the rules and the parent name, without repetition.
    pub fn backends(&self) -> Vec<&BackendId> {
        let mut all: Vec<&BackendId> = self.parent.backend().into_iter().collect();
        all.extend(self.rules.iter().flat_map(Rule::named));
        let of_bytes = self.tls.iter().map(|rule| &rule.backends).chain(self.tcp.as_ref().map(|rule| &rule.backends));
        all.extend(of_bytes.flatten().filter(|one| one.state == BackendRefState::Valid).map(|one| &one.backend));
        all.sort();
        all.dedup();
        all
    }
}

fn mirror_backend(filter: &Filter) -> Option<&BackendId> {
    match filter {
        Filter::Mirror { backend, .. } => Some(backend),
        _ => None,
    }
}
