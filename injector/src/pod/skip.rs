//! Why a pod that is wanted in the mesh does not get a sidecar: a closed set, the same in answer, event, log and metric.

use super::{Defaults, Meta, Namespace, json};
use serde_json::Value;

/// Pods of this namespace make the cluster work; nothing of ours may stand in their way.
const SYSTEM: &str = "kube-system";
/// The annotation of a pod that the kubelet made from a file.
const MIRROR: &str = "kubernetes.io/config.mirror";
/// Sidecars of others that take the pod's traffic.
const OTHERS: [&str; 2] = ["linkerd-proxy", "istio-proxy"];

/// Why a pod stays as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Skip {
    /// The pod says so.
    #[error("the pod says remora.dev/inject: disabled")]
    DisabledByPod,
    /// Its namespace says so.
    #[error("its namespace says remora.dev/inject: disabled")]
    DisabledByNamespace,
    /// Neither the pod nor its namespace is opted in.
    #[error("neither the pod nor its namespace says remora.dev/inject: enabled")]
    NotOptedIn,
    /// Redirecting would take the node's traffic.
    #[error("it uses its node's network (hostNetwork)")]
    HostNetwork,
    /// There is nftables on Linux only.
    #[error("it runs on Windows")]
    Windows,
    /// The API server only shows it; the kubelet runs it from a file.
    #[error("it is a static pod's mirror, which the API server cannot change")]
    MirrorPod,
    /// Certificates and configuration must not depend on themselves.
    #[error("it is in the control plane's namespace")]
    ControlPlane,
    /// The cluster depends on it.
    #[error("it is in kube-system")]
    SystemNamespace,
    /// The pod already has its sidecar.
    #[error("it has its sidecar already")]
    AlreadyInjected,
    /// Two meshes cannot share a pod.
    #[error("it has a sidecar of Linkerd")]
    Linkerd,
    /// Two meshes cannot share a pod.
    #[error("it has a sidecar of Istio")]
    Istio,
    /// The API server would give it no token, and it could never prove who it is.
    #[error("it has no service account, so it can have no identity")]
    NoServiceAccount,
}

impl Skip {
    /// All of them, in the order of the documentation.
    pub const ALL: [Self; 12] = [
        Self::DisabledByPod,
        Self::DisabledByNamespace,
        Self::NotOptedIn,
        Self::HostNetwork,
        Self::Windows,
        Self::MirrorPod,
        Self::ControlPlane,
        Self::SystemNamespace,
        Self::AlreadyInjected,
        Self::Linkerd,
        Self::Istio,
        Self::NoServiceAccount,
    ];

    /// A short stable word for metric labels and events.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::DisabledByPod => "disabled_by_pod",
            Self::DisabledByNamespace => "disabled_by_namespace",
            Self::NotOptedIn => "not_opted_in",
            Self::HostNetwork => "host_network",
            Self::Windows => "windows",
            Self::MirrorPod => "mirror_pod",
            Self::ControlPlane => "control_plane",
            Self::SystemNamespace => "system_namespace",
            Self::AlreadyInjected => "already_injected",
            Self::Linkerd => "linkerd",
            Self::Istio => "istio",
            Self::NoServiceAccount => "no_service_account",
        }
    }

    /// Whether the pod's creator should get a warning: it is opted in and gets no sidecar.
    #[must_use]
    pub const fn surprises(self) -> bool {
        !matches!(self, Self::DisabledByPod | Self::DisabledByNamespace | Self::NotOptedIn | Self::AlreadyInjected)
    }
}

/// Why `pod`, which is opted in, cannot be in the mesh.
pub(super) fn reason(pod: &Value, meta: &Meta, namespace: &Namespace, defaults: &Defaults) -> Option<Skip> {
    let spec = &pod["spec"];
    if namespace.name == defaults.control_namespace {
        return Some(Skip::ControlPlane);
    }
    if namespace.name == SYSTEM {
        return Some(Skip::SystemNamespace);
    }
    if meta.annotations.contains_key(MIRROR) {
        return Some(Skip::MirrorPod);
    }
    if spec["hostNetwork"] == true {
        return Some(Skip::HostNetwork);
    }
    if spec["os"]["name"] == "windows" || spec["nodeSelector"]["kubernetes.io/os"] == "windows" {
        return Some(Skip::Windows);
    }
    let names = || ["containers", "initContainers"].into_iter().flat_map(|field| json::elements(spec, field));
    let [linkerd, istio] = OTHERS.map(|other| names().any(|container| json::name(container) == other));
    if linkerd {
        return Some(Skip::Linkerd);
    }
    if istio {
        return Some(Skip::Istio);
    }
    let account = spec["serviceAccountName"].as_str().unwrap_or_default();
    (namespace.live && account.is_empty()).then_some(Skip::NoServiceAccount)
}
