//! The Kubernetes objects that discovery reads, cut down to the fields that it uses.
//!
//! In: YAML or JSON by serde. Out: [`Object`]. The same structs serve whatever source they come from. They hold what was
//! written, unjudged: what it means, and whether it makes sense, is `index`'s business. Where a field that is left out would
//! change what a route or policy does, unknown fields are kept by name ([`Unknown`]), so that `index` can refuse them.

pub mod core;
pub mod names;
pub mod policy;
pub mod routes;

use remora_kube::names::{INIT_CONTAINER, PROXY_CONTAINER};
use serde::{Deserialize, Deserializer, de::IgnoredAny};
use std::{collections::BTreeMap, fmt, sync::Arc};

/// Where an object was read, for error messages.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
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
    /// Only routes and policies keep it, to change their status; it is no part of what they mean.
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

impl Metadata {
    /// Whether all but the version is the same.
    fn means_the_same(&self, other: &Self) -> bool {
        let bare = |metadata: &Self| Self { resource_version: None, ..metadata.clone() };
        bare(self) == bare(other)
    }

    /// Whether it stands in a file, not in the Kubernetes API.
    pub fn by_hand(&self) -> bool {
        !self.origin.file.is_empty()
    }
}

fn default_namespace() -> String {
    "default".to_owned()
}

/// What the name of a field of our own kinds ends with while it is read, if the field is null. There null is an error: a list
/// that a template left empty would mean every caller. So it is read as an unknown field, which closes its rule.
pub(crate) const IS_NULL: &str = " is null";

/// The names of unknown fields: misspelt, or of a newer version; of our own kinds those
/// that are null as well, of others null ones do not count.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(transparent)]
pub struct Unknown(BTreeMap<String, IgnoredAny>);

impl Unknown {
    /// In the order of the alphabet.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// An error for the first that is not `tolerated`.
    pub fn none_but(&self, tolerated: &[&str]) -> Result<(), String> {
        let first = self.names().find(|name| !tolerated.contains(name));
        first.map_or(Ok(()), |name| match name.strip_suffix(IS_NULL) {
            Some(field) => Err(format!("{field}: is null; leave it out, or say what is meant")),
            None => Err(format!("{name}: there is no such field")),
        })
    }

    /// An error for the first.
    pub fn none(&self) -> Result<(), String> {
        self.none_but(&[])
    }
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

    /// Whether the kind is ours.
    fn is_ours() -> bool {
        Self::GROUP == "remora.dev"
    }

    /// Its metadata, to set its origin.
    fn metadata_mut(&mut self) -> &mut Metadata;

    /// Drops the parts that the API server adds to a manifest and that discovery does not read.
    fn trim(&mut self) {}

    /// Whether it means the same as `other`, of which something is different: only what is said of it, not what it says.
    fn means_the_same(&self, _other: &Self) -> bool {
        false
    }
}

impl<S> policy::Policy<S> {
    fn same_but_status(&self, other: &Self) -> bool {
        self.unreadable == other.unreadable && self.metadata.means_the_same(&other.metadata)
    }
}

impl<R> routes::Route<R> {
    fn same_but_status(&self, other: &Self) -> bool {
        self.unreadable == other.unreadable && self.metadata.means_the_same(&other.metadata)
    }
}

/// What of an object [`Kind::trim`] keeps, where that is less than its struct holds; and whether it has a status of its own.
macro_rules! trim {
    () => {};
    ($of:ident) => {
        fn trim(&mut self) {
            $of(self);
        }
    };
    ($of:ident with_status) => {
        trim!($of);

        fn means_the_same(&self, other: &Self) -> bool {
            self.spec == other.spec && self.same_but_status(other)
        }
    };
}

macro_rules! kinds {
    ($($name:ident($of:ty) = $kind:literal, $plural:literal, $group:literal, $version:literal $(, $($trim:ident)+)?;)*) => {
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

                trim!($($($trim)+)?);
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

            /// Whether only what is said of it differs: its version and status.
            pub fn means_the_same(&self, other: &Self) -> bool {
                match (self, other) {
                    $((Self::$name(one), Self::$name(other)) => one.means_the_same(other),)*
                    _ => false,
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
    ServiceCidr(core::ServiceCidr) = "ServiceCIDR", "servicecidrs", "networking.k8s.io", "v1", trim_labels;
    EndpointSlice(core::EndpointSlice) = "EndpointSlice", "endpointslices", "discovery.k8s.io", "v1", trim_slice;
    HttpRoute(routes::HttpRoute) = "HTTPRoute", "httproutes", "gateway.networking.k8s.io", "v1", trim_labels with_status;
    GrpcRoute(routes::GrpcRoute) = "GRPCRoute", "grpcroutes", "gateway.networking.k8s.io", "v1", trim_labels with_status;
    ReferenceGrant(routes::ReferenceGrant) =
        "ReferenceGrant", "referencegrants", "gateway.networking.k8s.io", "v1beta1", trim_labels;
    AuthorizationPolicy(policy::AuthorizationPolicy) =
        "AuthorizationPolicy", "authorizationpolicies", "remora.dev", "v1alpha1", trim_labels with_status;
    MeshTlsPolicy(policy::MeshTlsPolicy) = "MeshTLSPolicy", "meshtlspolicies", "remora.dev", "v1alpha1", trim_labels with_status;
    BackendPolicy(policy::BackendPolicy) = "BackendPolicy", "backendpolicies", "remora.dev", "v1alpha1", trim_labels with_status;
}

/// Metadata and status of a version that cannot be read, and why not.
type Newer<'a> = (&'a Metadata, &'a serde_json::Value, &'a str);

impl Object {
    /// The same policy or route, of which the newest version, with this metadata and status, cannot be read, and why. `None`:
    /// it is neither.
    pub fn unreadable(&self, metadata: &Metadata, status: &serde_json::Value, why: &str) -> Option<Self> {
        fn policy<S: Clone>(kept: &policy::Policy<S>, (metadata, status, why): Newer<'_>) -> policy::Policy<S> {
            let unreadable = Some(format!("{why}; its last valid content stays in force"));
            policy::Policy {
                metadata: metadata.clone(),
                status: policy::PolicyStatus::of(status),
                unreadable,
                ..kept.clone()
            }
        }
        fn route<R: Clone>(kept: &routes::Route<R>, (metadata, status, why): Newer<'_>) -> routes::Route<R> {
            let unreadable = Some(routes::Unreadable::Before(why.to_owned()));
            routes::Route {
                metadata: metadata.clone(),
                status: routes::RouteStatus::of(status),
                unreadable,
                ..kept.clone()
            }
        }
        let newer = (metadata, status, why);
        match self {
            Self::AuthorizationPolicy(kept) => Some(policy(kept, newer).into()),
            Self::MeshTlsPolicy(kept) => Some(policy(kept, newer).into()),
            Self::BackendPolicy(kept) => Some(policy(kept, newer).into()),
            Self::HttpRoute(kept) => Some(route(kept, newer).into()),
            Self::GrpcRoute(kept) => Some(route(kept, newer).into()),
            _ => None,
        }
    }

    /// What its status is a list of: the conditions of a policy, the parents of a route. `None`: we say nothing of its kind.
    pub fn said(&self) -> Option<&[serde_json::Value]> {
        match self {
            Self::AuthorizationPolicy(policy) => Some(&policy.status.conditions),
            Self::MeshTlsPolicy(policy) => Some(&policy.status.conditions),
            Self::BackendPolicy(policy) => Some(&policy.status.conditions),
            Self::HttpRoute(route) => Some(&route.status.parents),
            Self::GrpcRoute(route) => Some(&route.status.parents),
            _ => None,
        }
    }

    /// Whether it is an access policy, which an error elsewhere must never remove.
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
            let (init, proxy) = (container.name == INIT_CONTAINER, container.name == PROXY_CONTAINER);
            container.ports.retain(|port| port.protocol.as_deref().unwrap_or("TCP") == "TCP");
            container.args.retain(|arg| init && arg.starts_with(core::SKIP_INBOUND));
            container.env.retain(|env| proxy && env.is_ours());
            container.env.truncate(1);
            container.env.shrink_to_fit();
            if !init && !proxy {
                container.name = String::new();
            }
        }
        containers.retain(|container| !container.ports.is_empty() || !container.name.is_empty());
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
