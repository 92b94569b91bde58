//! The Kubernetes objects that discovery reads, cut down to the fields that it uses.
//!
//! In: YAML or JSON by serde. Out: [`Object`]. The same structs serve whatever source they come from. They hold what was
//! written, unjudged: what it means, and whether it makes sense, is `index`'s business. Unknown fields are ignored, as
//! the API server would have refused wrong ones.

pub mod core;
pub mod policy;
pub mod routes;

use serde::Deserialize;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// Where an object was read, for whoever must mend it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Origin {
    /// As the source names it.
    pub file: Arc<str>,
    /// The first of the object.
    pub line: usize,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: line {}", self.file, self.line)
    }
}

/// `metadata`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Metadata {
    pub name: String,
    #[serde(default = "default_namespace")]
    pub namespace: String,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
    /// RFC 3339 in UTC as Kubernetes writes it, so that text order is time order.
    #[serde(default)]
    pub creation_timestamp: Option<String>,
    /// Set while it is being deleted: a pod with one is terminating.
    #[serde(default)]
    pub deletion_timestamp: Option<String>,
    #[serde(skip)]
    pub origin: Origin,
}

fn default_namespace() -> String {
    "default".to_owned()
}

/// An object with a `spec`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Resource<S> {
    pub metadata: Metadata,
    pub spec: S,
}

/// One object of a kind that matters.
#[derive(Debug, Clone, PartialEq)]
pub enum Object {
    Pod(core::Pod),
    Service(core::Service),
    EndpointSlice(core::EndpointSlice),
    HttpRoute(routes::HttpRoute),
    GrpcRoute(routes::GrpcRoute),
    ReferenceGrant(routes::ReferenceGrant),
    AuthorizationPolicy(policy::AuthorizationPolicy),
    MeshTlsPolicy(policy::MeshTlsPolicy),
    BackendPolicy(policy::BackendPolicy),
}

impl Object {
    /// Its metadata.
    pub fn metadata(&self) -> &Metadata {
        match self {
            Self::Pod(o) => &o.metadata,
            Self::Service(o) => &o.metadata,
            Self::EndpointSlice(o) => &o.metadata,
            Self::HttpRoute(o) => &o.metadata,
            Self::GrpcRoute(o) => &o.metadata,
            Self::ReferenceGrant(o) => &o.metadata,
            Self::AuthorizationPolicy(o) => &o.metadata,
            Self::MeshTlsPolicy(o) => &o.metadata,
            Self::BackendPolicy(o) => &o.metadata,
        }
    }

    /// Its metadata, to be told where it comes from.
    pub fn metadata_mut(&mut self) -> &mut Metadata {
        match self {
            Self::Pod(o) => &mut o.metadata,
            Self::Service(o) => &mut o.metadata,
            Self::EndpointSlice(o) => &mut o.metadata,
            Self::HttpRoute(o) => &mut o.metadata,
            Self::GrpcRoute(o) => &mut o.metadata,
            Self::ReferenceGrant(o) => &mut o.metadata,
            Self::AuthorizationPolicy(o) => &mut o.metadata,
            Self::MeshTlsPolicy(o) => &mut o.metadata,
            Self::BackendPolicy(o) => &mut o.metadata,
        }
    }

    /// Whether it says who may come in: what must never be lost by a mistake elsewhere.
    pub fn restricts(&self) -> bool {
        matches!(self, Self::AuthorizationPolicy(_) | Self::MeshTlsPolicy(_))
    }

    /// Its kind, as manifests spell it.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Pod(_) => "Pod",
            Self::Service(_) => "Service",
            Self::EndpointSlice(_) => "EndpointSlice",
            Self::HttpRoute(_) => "HTTPRoute",
            Self::GrpcRoute(_) => "GRPCRoute",
            Self::ReferenceGrant(_) => "ReferenceGrant",
            Self::AuthorizationPolicy(_) => "AuthorizationPolicy",
            Self::MeshTlsPolicy(_) => "MeshTLSPolicy",
            Self::BackendPolicy(_) => "BackendPolicy",
        }
    }
}
