//! The Kubernetes objects that discovery reads, cut down to the fields that it uses.
//!
//! In: YAML or JSON by serde. Out: [`Object`]. The same structs serve whatever source they come from. They hold what was
//! written, unjudged: what it means, and whether it makes sense, is `index`'s business. Unknown fields are ignored, as
//! the API server would have refused wrong ones.

pub mod core;
pub mod policy;
pub mod routes;

use remora_kube::names::INIT_CONTAINER;
use serde::{Deserialize, Deserializer};
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

/// What the names of our annotations begin with.
const OURS: &str = "remora.dev/";

/// `metadata`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Metadata {
    pub name: String,
    #[serde(default = "default_namespace")]
    pub namespace: String,
    /// Tells an object from one that had its name before.
    #[serde(default)]
    pub uid: Option<String>,
    /// Counts the changes of its `spec`.
    #[serde(default)]
    pub generation: Option<i64>,
    /// Only routes keep it, to change their status; it is no part of what they mean.
    #[serde(default)]
    pub resource_version: Option<String>,
    #[serde(default, deserialize_with = "nullable")]
    pub labels: BTreeMap<String, String>,
    /// Of ours only.
    #[serde(default, deserialize_with = "ours")]
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

/// A kind of objects: its name, and how the Kubernetes API is asked for it.
pub trait Kind: Sized {
    /// As manifests spell it.
    const KIND: &'static str;
    const GROUP: &'static str;
    const VERSION: &'static str;
    const PLURAL: &'static str;

    /// Its metadata, to be told where it comes from.
    fn metadata_mut(&mut self) -> &mut Metadata;

    /// Lets go of what the API tells beyond a manifest and nobody reads.
    fn trim(&mut self) {}
}

/// What of an object [`Kind::trim`] keeps, where that is less than its struct holds.
macro_rules! trim {
    () => {};
    ($of:ident) => {
        fn trim(&mut self) {
            $of(self);
        }
    };
}

macro_rules! kinds {
    ($($name:ident($of:ty) = $kind:literal, $plural:literal, $group:literal, $version:literal $(, $trim:ident)?;)*) => {
        /// One object of a kind that matters. Shared, never changed: every snapshot holds the same.
        #[derive(Debug, Clone, PartialEq)]
        pub enum Object {
            $($name(Arc<$of>),)*
        }

        $(
            impl Kind for $of {
                const KIND: &'static str = $kind;
                const GROUP: &'static str = $group;
                const VERSION: &'static str = $version;
                const PLURAL: &'static str = $plural;

                fn metadata_mut(&mut self) -> &mut Metadata {
                    &mut self.metadata
                }

                trim!($($trim)?);
            }

            impl From<$of> for Object {
                fn from(object: $of) -> Self {
                    Self::$name(Arc::new(object))
                }
            }
        )*

        impl Object {
            /// Its metadata.
            pub fn metadata(&self) -> &Metadata {
                match self {
                    $(Self::$name(object) => &object.metadata,)*
                }
            }

            /// Its kind, as manifests spell it.
            pub fn kind(&self) -> &'static str {
                match self {
                    $(Self::$name(_) => <$of>::KIND,)*
                }
            }
        }
    };
}

kinds! {
    Namespace(core::Namespace) = "Namespace", "namespaces", "", "v1", trim_namespace;
    Node(core::Node) = "Node", "nodes", "", "v1", trim_node;
    Pod(core::Pod) = "Pod", "pods", "", "v1", trim_pod;
    Service(core::Service) = "Service", "services", "", "v1", trim_labels;
    EndpointSlice(core::EndpointSlice) = "EndpointSlice", "endpointslices", "discovery.k8s.io", "v1", trim_slice;
    HttpRoute(routes::HttpRoute) = "HTTPRoute", "httproutes", "gateway.networking.k8s.io", "v1", trim_labels;
    GrpcRoute(routes::GrpcRoute) = "GRPCRoute", "grpcroutes", "gateway.networking.k8s.io", "v1", trim_labels;
    ReferenceGrant(routes::ReferenceGrant) =
        "ReferenceGrant", "referencegrants", "gateway.networking.k8s.io", "v1beta1", trim_labels;
    AuthorizationPolicy(policy::AuthorizationPolicy) =
        "AuthorizationPolicy", "authorizationpolicies", "remora.dev", "v1alpha1", trim_labels;
    MeshTlsPolicy(policy::MeshTlsPolicy) = "MeshTLSPolicy", "meshtlspolicies", "remora.dev", "v1alpha1", trim_labels;
    BackendPolicy(policy::BackendPolicy) = "BackendPolicy", "backendpolicies", "remora.dev", "v1alpha1", trim_labels;
}

impl Object {
    /// Whether it says who may come in: what must never be lost by a mistake elsewhere.
    pub fn restricts(&self) -> bool {
        matches!(self, Self::AuthorizationPolicy(_) | Self::MeshTlsPolicy(_))
    }
}

fn trim_labels(object: &mut impl Kind) {
    object.metadata_mut().labels = BTreeMap::new();
}

fn trim_namespace(namespace: &mut core::Namespace) {
    trim_labels(namespace);
}

fn trim_node(node: &mut core::Node) {
    node.metadata.labels.retain(|name, _| name == core::ZONE);
    node.metadata.annotations = BTreeMap::new();
}

fn trim_slice(slice: &mut core::EndpointSlice) {
    slice.metadata.labels.retain(|name, _| name == core::SERVICE_NAME);
    slice.metadata.annotations = BTreeMap::new();
}

fn trim_pod(pod: &mut core::Pod) {
    for containers in [&mut pod.spec.containers, &mut pod.spec.init_containers] {
        for container in containers.iter_mut() {
            container.ports.retain(|port| port.name.is_some());
            let init = container.name == INIT_CONTAINER;
            container.args.retain(|arg| init && arg.starts_with(core::SKIP_INBOUND));
            if container.args.is_empty() {
                container.args = Vec::new();
                container.name = String::new();
            }
        }
        containers.retain(|container| !container.ports.is_empty() || !container.args.is_empty());
        containers.shrink_to_fit();
    }
    pod.status.conditions.retain(|condition| condition.kind == "Ready");
    pod.status.conditions.shrink_to_fit();
}

/// A list or map that Kubernetes writes as `null` when it is empty.
fn nullable<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// Annotations of ours: the others are many, and of no concern here.
fn ours<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, String>, D::Error> {
    let mut all: BTreeMap<String, String> = nullable(deserializer)?;
    all.retain(|name, _| name.starts_with(OURS));
    Ok(all)
}
