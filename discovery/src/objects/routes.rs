//! HTTPRoute, GRPCRoute, TLSRoute, TCPRoute, ReferenceGrant of the Gateway API.

use super::{
    Metadata, Resource, Unknown,
    kind::{self, Defined, Kind, StatusList, its_metadata},
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};
use std::fmt::Debug;

/// The group of the Gateway API's kinds.
const GROUP: &str = "gateway.networking.k8s.io";

/// An HTTPRoute.
pub type HttpRoute = Route<HttpRule>;
/// A GRPCRoute.
pub type GrpcRoute = Route<GrpcRule>;
/// A TLSRoute.
pub type TlsRoute = Route<TlsRule>;
/// A TCPRoute.
pub type TcpRoute = Route<TcpRule>;
/// A ReferenceGrant.
pub type ReferenceGrant = Resource<GrantSpec>;

/// A route with rules of one kind.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(bound(deserialize = "R: Deserialize<'de>"))]
pub struct Route<R> {
    pub metadata: Metadata,
    pub spec: RouteSpec<R>,
    #[serde(default)]
    pub status: RouteStatus,
    /// What is the matter with its newest version, if that cannot be read at all.
    #[serde(skip)]
    pub unreadable: Option<Unreadable>,
}

/// The rules of a kind of routes.
pub trait RouteRule: Clone + Debug + PartialEq + DeserializeOwned + Send + Sync + 'static {
    /// The kind of the routes that have them, and how the API is asked for it.
    const KIND: &'static str;
    const VERSION: &'static str;
    const PLURAL: &'static str;
}

impl RouteRule for HttpRule {
    const KIND: &'static str = "HTTPRoute";
    const VERSION: &'static str = "v1";
    const PLURAL: &'static str = "httproutes";
}

impl RouteRule for GrpcRule {
    const KIND: &'static str = "GRPCRoute";
    const VERSION: &'static str = "v1";
    const PLURAL: &'static str = "grpcroutes";
}

impl RouteRule for TlsRule {
    const KIND: &'static str = "TLSRoute";
    const VERSION: &'static str = "v1";
    const PLURAL: &'static str = "tlsroutes";
}

impl RouteRule for TcpRule {
    const KIND: &'static str = "TCPRoute";
    const VERSION: &'static str = "v1";
    const PLURAL: &'static str = "tcproutes";
}

impl<R: RouteRule> Kind for Route<R> {
    const KIND: &'static str = R::KIND;
    const GROUP: &'static str = GROUP;
    const VERSION: &'static str = R::VERSION;
    const PLURAL: &'static str = R::PLURAL;
    const DEFINED: Defined = Defined::Custom;
    const STATUS: Option<StatusList> = Some(StatusList::Parents);

    its_metadata!();

    fn means_the_same(&self, other: &Self) -> bool {
        self.spec == other.spec && self.unreadable == other.unreadable && self.metadata.means_the_same(&other.metadata)
    }

    fn said(&self) -> Value {
        json!({ "parents": self.status.parents })
    }

    fn kept(&self, newest: &kind::Unreadable) -> Option<Self> {
        Some(Self {
            metadata: newest.metadata.clone(),
            status: RouteStatus::of(&newest.status),
            unreadable: Some(Unreadable::Before(newest.problem.clone())),
            ..self.clone()
        })
    }

    /// It answers 500 in the place of the parents that can be read.
    fn stand_in(newest: &kind::Unreadable) -> Option<Self> {
        let parents = newest.spec["parentRefs"].as_array().into_iter().flatten();
        let parent_refs = parents.filter_map(|parent| ParentRef::deserialize(parent).ok()).collect();
        Some(Self {
            metadata: newest.metadata.clone(),
            spec: RouteSpec { parent_refs, hostnames: Vec::new(), rules: Vec::new(), unknown: Unknown::default() },
            status: RouteStatus::of(&newest.status),
            unreadable: Some(Unreadable::Closed(newest.problem.clone())),
        })
    }
}

/// Why the newest version of a route cannot be read, and what holds instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unreadable {
    /// The version before it, which is this.
    Before(String),
    /// There was none: one rule that answers 500, for the parents that can be read.
    Closed(String),
}

/// What controllers say of a route, as it was read: others' words must be written back as they were.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct RouteStatus {
    #[serde(default)]
    pub parents: Vec<Value>,
}

impl RouteStatus {
    /// As it stands in the API.
    pub fn of(status: &Value) -> Self {
        Self { parents: status["parents"].as_array().cloned().unwrap_or_default() }
    }
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", bound(deserialize = "R: Deserialize<'de>"))]
pub struct RouteSpec<R> {
    #[serde(default)]
    pub parent_refs: Vec<ParentRef>,
    /// Of a TLSRoute: which server names it is for. Of others without meaning on a Service (GEP-1426); read so that it can be
    /// reported.
    #[serde(default)]
    pub hostnames: Vec<String>,
    #[serde(default = "Vec::new")]
    pub rules: Vec<R>,
    #[serde(flatten)]
    pub unknown: Unknown,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ParentRef {
    #[serde(default)]
    pub group: Option<String>,
    #[serde(default)]
    pub kind: Option<String>,
    #[serde(default)]
    pub namespace: Option<String>,
    pub name: String,
    /// The name of a Service port. With `port`, both must agree.
    #[serde(default)]
    pub section_name: Option<String>,
    #[serde(default)]
    pub port: Option<u16>,
    #[serde(flatten)]
    pub unknown: Unknown,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HttpRule {
    #[serde(default)]
    pub name: Option<String>,
    #[serde(default)]
    pub matches: Vec<HttpMatch>,
    #[serde(default)]
    pub filters: Vec<Filter>,
    #[serde(default)]
    pub backend_refs: Vec<BackendRef>,
    #[serde(default)]
    pub timeouts: Option<Timeouts>,
    #[serde(default)]
    pub retry: Option<Retry>,
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// A rule of a TLSRoute.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(transparent)]
pub struct TlsRule(pub BytesRule);

/// A rule of a TCPRoute.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(transparent)]
pub struct TcpRule(pub BytesRule);

/// Where connections go.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BytesRule {
    #[serde(default)]
    pub name: Option<String>,
    #[serde(default)]
    pub backend_refs: Vec<BackendRef>,
    #[serde(flatten)]
    pub unknown: Unknown,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HttpMatch {
    #[serde(default)]
    pub path: Option<PathMatch>,
    #[serde(default)]
    pub method: Option<String>,
    #[serde(default)]
    pub headers: Vec<ValueMatch>,
    #[serde(default)]
    pub query_params: Vec<ValueMatch>,
    #[serde(flatten)]
    pub unknown: Unknown,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct PathMatch {
    #[serde(default, rename = "type")]
    pub kind: PathMatchType,
    #[serde(default)]
    pub value: Option<String>,
    #[serde(flatten)]
    pub unknown: Unknown,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub enum PathMatchType {
    Exact,
    #[default]
    PathPrefix,
    RegularExpression,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub enum MatchType {
    #[default]
    Exact,
    RegularExpression,
}

/// A header or query parameter match.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct ValueMatch {
    #[serde(default, rename = "type")]
    pub kind: MatchType,
    pub name: String,
    pub value: String,
    #[serde(flatten)]
    pub unknown: Unknown,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GrpcRule {
    #[serde(default)]
    pub name: Option<String>,
    #[serde(default)]
    pub matches: Vec<GrpcMatch>,
    #[serde(default)]
    pub filters: Vec<Filter>,
    #[serde(default)]
    pub backend_refs: Vec<BackendRef>,
    #[serde(flatten)]
    pub unknown: Unknown,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct GrpcMatch {
    #[serde(default)]
    pub method: Option<GrpcMethod>,
    #[serde(default)]
    pub headers: Vec<ValueMatch>,
    #[serde(flatten)]
    pub unknown: Unknown,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct GrpcMethod {
    #[serde(default, rename = "type")]
    pub kind: MatchType,
    #[serde(default)]
    pub service: Option<String>,
    #[serde(default)]
    pub method: Option<String>,
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// `type` names which of the other fields is meant.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Filter {
    #[serde(rename = "type")]
    pub kind: String,
    #[serde(default)]
    pub request_header_modifier: Option<HeaderModifier>,
    #[serde(default)]
    pub response_header_modifier: Option<HeaderModifier>,
    #[serde(default)]
    pub request_redirect: Option<RequestRedirect>,
    #[serde(default, rename = "urlRewrite")]
    pub url_rewrite: Option<UrlRewrite>,
    #[serde(default)]
    pub request_mirror: Option<RequestMirror>,
    #[serde(default)]
    pub cors: Option<Cors>,
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// HTTPCORSFilter.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Cors {
    #[serde(default)]
    pub allow_origins: Vec<String>,
    #[serde(default)]
    pub allow_credentials: Option<bool>,
    #[serde(default)]
    pub allow_methods: Vec<String>,
    #[serde(default)]
    pub allow_headers: Vec<String>,
    #[serde(default)]
    pub expose_headers: Vec<String>,
    #[serde(default)]
    pub max_age: Option<i64>,
    #[serde(flatten)]
    pub unknown: Unknown,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct HeaderModifier {
    #[serde(default)]
    pub set: Vec<Header>,
    #[serde(default)]
    pub add: Vec<Header>,
    #[serde(default)]
    pub remove: Vec<String>,
    #[serde(flatten)]
    pub unknown: Unknown,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Header {
    pub name: String,
    pub value: String,
    #[serde(flatten)]
    pub unknown: Unknown,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RequestRedirect {
    #[serde(default)]
    pub scheme: Option<String>,
    #[serde(default)]
    pub hostname: Option<String>,
    #[serde(default)]
    pub path: Option<PathModifier>,
    #[serde(default)]
    pub port: Option<u16>,
    #[serde(default)]
    pub status_code: Option<u16>,
    #[serde(flatten)]
    pub unknown: Unknown,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct UrlRewrite {
    #[serde(default)]
    pub hostname: Option<String>,
    #[serde(default)]
    pub path: Option<PathModifier>,
    #[serde(flatten)]
    pub unknown: Unknown,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PathModifier {
    /// Says which of the others is meant.
    #[serde(default, rename = "type")]
    pub kind: Option<String>,
    #[serde(default)]
    pub replace_full_path: Option<String>,
    #[serde(default)]
    pub replace_prefix_match: Option<String>,
    #[serde(flatten)]
    pub unknown: Unknown,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RequestMirror {
    pub backend_ref: BackendRef,
    #[serde(default)]
    pub percent: Option<u32>,
    #[serde(default)]
    pub fraction: Option<Fraction>,
    #[serde(flatten)]
    pub unknown: Unknown,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Fraction {
    pub numerator: u32,
    #[serde(default)]
    pub denominator: Option<u32>,
    #[serde(flatten)]
    pub unknown: Unknown,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct BackendRef {
    #[serde(default)]
    pub group: Option<String>,
    #[serde(default)]
    pub kind: Option<String>,
    #[serde(default)]
    pub namespace: Option<String>,
    pub name: String,
    #[serde(default)]
    pub port: Option<u16>,
    #[serde(default)]
    pub weight: Option<u32>,
    #[serde(default)]
    pub filters: Vec<Filter>,
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// Durations as GEP-2257 writes them.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Timeouts {
    #[serde(default)]
    pub request: Option<String>,
    #[serde(default)]
    pub backend_request: Option<String>,
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// GEP-1731.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct Retry {
    #[serde(default)]
    pub codes: Vec<u16>,
    #[serde(default)]
    pub attempts: Option<u32>,
    #[serde(default)]
    pub backoff: Option<String>,
    #[serde(flatten)]
    pub unknown: Unknown,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct GrantSpec {
    pub from: Vec<GrantFrom>,
    pub to: Vec<GrantTo>,
    #[serde(flatten)]
    pub unknown: Unknown,
}

impl Kind for ReferenceGrant {
    const KIND: &'static str = "ReferenceGrant";
    const GROUP: &'static str = GROUP;
    const VERSION: &'static str = "v1beta1";
    const PLURAL: &'static str = "referencegrants";
    const DEFINED: Defined = Defined::Custom;

    its_metadata!();
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct GrantFrom {
    #[serde(default)]
    pub group: String,
    pub kind: String,
    pub namespace: String,
    #[serde(flatten)]
    pub unknown: Unknown,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct GrantTo {
    #[serde(default)]
    pub group: String,
    pub kind: String,
    #[serde(default)]
    pub name: Option<String>,
    #[serde(flatten)]
    pub unknown: Unknown,
}
