//! Namespace, Node, Pod, Service, EndpointSlice.

use super::{
    Metadata, Resource,
    kind::{Defined, Kind, its_metadata},
    nullable,
};
use remora_kube::names::{INIT_CONTAINER, PROXY_CONTAINER};
use serde::{
    Deserialize, Deserializer,
    de::{Error, Unexpected, Visitor},
};
use std::{collections::BTreeMap, fmt};

/// Set on a pod that is in the mesh: where its proxy takes connections, `IP:PORT`, as nothing redirects them. Of manifests by
/// hand only.
pub const PROXY_ADDRESS: &str = "remora.dev/proxy-address";
/// Ports without protocol detection (opaque bytes), on a Service, a Pod or their Namespace: `3306,5000-5010`. The most specific counts.
pub const OPAQUE_PORTS: &str = "remora.dev/opaque-ports";
/// The label that names the zone of a node; of a pod, where no node is known.
pub const ZONE: &str = "topology.kubernetes.io/zone";
/// The label that names an EndpointSlice's Service.
pub const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// The setting of the init container that names the ports which bypass the proxy.
pub const SKIP_INBOUND: &str = "--skip-inbound-ports=";

/// What the names of the proxy's environment variables begin with, of which the injector always sets some.
pub const PROXY_ENV: &str = "REMORA_PROXY_";

/// A namespace, for its annotations.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Namespace {
    pub metadata: Metadata,
}

impl Kind for Namespace {
    const KIND: &'static str = "Namespace";
    const GROUP: &'static str = "";
    const VERSION: &'static str = "v1";
    const PLURAL: &'static str = "namespaces";
    const METADATA_ALONE: bool = true;

    its_metadata!();
}

/// A node, for its zone and the addresses of its pods.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Node {
    pub metadata: Metadata,
    #[serde(default)]
    pub spec: NodeSpec,
}

impl Kind for Node {
    const KIND: &'static str = "Node";
    const GROUP: &'static str = "";
    const VERSION: &'static str = "v1";
    const PLURAL: &'static str = "nodes";

    its_metadata!();

    fn trim(&mut self) {
        self.metadata.labels.retain(|name, _| name == ZONE);
        self.metadata.annotations = BTreeMap::new();
    }
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct NodeSpec {
    /// If no other component allots the addresses of pods.
    #[serde(default, rename = "podCIDRs", deserialize_with = "nullable")]
    pub pod_cidrs: Vec<String>,
    #[serde(default, rename = "podCIDR")]
    pub pod_cidr: Option<String>,
}

/// A range of Services' addresses.
pub type ServiceCidr = Resource<ServiceCidrSpec>;

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct ServiceCidrSpec {
    #[serde(default, deserialize_with = "nullable")]
    pub cidrs: Vec<String>,
}

impl Kind for ServiceCidr {
    const KIND: &'static str = "ServiceCIDR";
    const GROUP: &'static str = "networking.k8s.io";
    const VERSION: &'static str = "v1";
    const PLURAL: &'static str = "servicecidrs";
    const DEFINED: Defined = Defined::Later;

    its_metadata!();
}

/// A pod.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Pod {
    pub metadata: Metadata,
    #[serde(default)]
    pub spec: PodSpec,
    #[serde(default)]
    pub status: PodStatus,
}

impl Kind for Pod {
    const KIND: &'static str = "Pod";
    const GROUP: &'static str = "";
    const VERSION: &'static str = "v1";
    const PLURAL: &'static str = "pods";

    its_metadata!();

    fn trim(&mut self) {
        for containers in [&mut self.spec.containers, &mut self.spec.init_containers] {
            containers.iter_mut().for_each(Container::trim);
            containers.retain(|container| !container.ports.is_empty() || !container.name.is_empty());
            containers.shrink_to_fit();
        }
        self.status.conditions.retain(|condition| condition.kind == "Ready");
        self.status.conditions.shrink_to_fit();
    }
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodSpec {
    #[serde(default)]
    pub service_account_name: Option<String>,
    #[serde(default)]
    pub node_name: Option<String>,
    /// Its addresses are its node's, and no proxy stands before them.
    #[serde(default)]
    pub host_network: bool,
    #[serde(default, deserialize_with = "nullable")]
    pub containers: Vec<Container>,
    #[serde(default, deserialize_with = "nullable")]
    pub init_containers: Vec<Container>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Container {
    #[serde(default)]
    pub name: String,
    #[serde(default, deserialize_with = "nullable")]
    pub args: Vec<String>,
    #[serde(default, deserialize_with = "nullable")]
    pub env: Vec<EnvVar>,
    /// `Always` on an init container makes it a sidecar, which serves like others.
    #[serde(default)]
    pub restart_policy: Option<String>,
    #[serde(default, deserialize_with = "nullable")]
    pub ports: Vec<ContainerPort>,
}

impl Container {
    fn trim(&mut self) {
        let (init, proxy) = (self.name == INIT_CONTAINER, self.name == PROXY_CONTAINER);
        self.ports.retain(|port| port.protocol.as_deref().unwrap_or("TCP") == "TCP");
        self.args.retain(|arg| init && arg.starts_with(SKIP_INBOUND));
        self.env.retain(|env| proxy && env.is_ours());
        self.env.truncate(1);
        self.env.shrink_to_fit();
        if !init && !proxy {
            self.name = String::new();
        }
    }
}

/// An environment variable, by name.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct EnvVar {
    pub name: String,
}

impl EnvVar {
    /// Whether it is a setting of our proxy.
    pub fn is_ours(&self) -> bool {
        self.name.starts_with(PROXY_ENV)
    }
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerPort {
    #[serde(default)]
    pub name: Option<String>,
    pub container_port: u16,
    #[serde(default)]
    pub protocol: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodStatus {
    #[serde(default)]
    pub phase: Option<String>,
    #[serde(default, rename = "podIP")]
    pub pod_ip: Option<String>,
    #[serde(default, rename = "podIPs", deserialize_with = "nullable")]
    pub pod_ips: Vec<PodIp>,
    #[serde(default, deserialize_with = "nullable")]
    pub conditions: Vec<PodCondition>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct PodIp {
    pub ip: String,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct PodCondition {
    #[serde(rename = "type")]
    pub kind: String,
    pub status: String,
}

/// A Service.
pub type Service = Resource<ServiceSpec>;

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceSpec {
    #[serde(default, rename = "clusterIP")]
    pub cluster_ip: Option<String>,
    #[serde(default, rename = "clusterIPs", deserialize_with = "nullable")]
    pub cluster_ips: Vec<String>,
    #[serde(default, rename = "type")]
    pub kind: Option<String>,
    #[serde(default, deserialize_with = "nullable")]
    pub selector: BTreeMap<String, String>,
    #[serde(default)]
    pub publish_not_ready_addresses: bool,
    #[serde(default)]
    pub session_affinity: Option<String>,
    #[serde(default)]
    pub traffic_distribution: Option<String>,
    #[serde(default)]
    pub internal_traffic_policy: Option<String>,
    #[serde(default, deserialize_with = "nullable")]
    pub ports: Vec<ServicePort>,
}

impl Kind for Service {
    const KIND: &'static str = "Service";
    const GROUP: &'static str = "";
    const VERSION: &'static str = "v1";
    const PLURAL: &'static str = "services";

    its_metadata!();
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServicePort {
    #[serde(default)]
    pub name: Option<String>,
    pub port: u16,
    #[serde(default)]
    pub protocol: Option<String>,
    #[serde(default)]
    pub target_port: Option<IntOrName>,
    #[serde(default)]
    pub app_protocol: Option<String>,
}

/// A port number, or the name of a container port.
#[derive(Debug, Clone, PartialEq)]
pub enum IntOrName {
    Number(u16),
    Name(String),
}

impl<'de> Deserialize<'de> for IntOrName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NumberOrName)
    }
}

struct NumberOrName;

impl Visitor<'_> for NumberOrName {
    type Value = IntOrName;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a port from 0 to 65535, or the name of a container port")
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<IntOrName, E> {
        let port = u16::try_from(number).map_err(|_| E::invalid_value(Unexpected::Unsigned(number), &self))?;
        Ok(IntOrName::Number(port))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<IntOrName, E> {
        let port = u16::try_from(number).map_err(|_| E::invalid_value(Unexpected::Signed(number), &self))?;
        Ok(IntOrName::Number(port))
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<IntOrName, E> {
        Ok(IntOrName::Name(name.to_owned()))
    }
}

/// An EndpointSlice.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct EndpointSlice {
    pub metadata: Metadata,
    #[serde(default, deserialize_with = "nullable")]
    pub ports: Vec<SlicePort>,
    #[serde(default, deserialize_with = "nullable")]
    pub endpoints: Vec<SliceEndpoint>,
}

impl Kind for EndpointSlice {
    const KIND: &'static str = "EndpointSlice";
    const GROUP: &'static str = "discovery.k8s.io";
    const VERSION: &'static str = "v1";
    const PLURAL: &'static str = "endpointslices";

    its_metadata!();

    fn trim(&mut self) {
        self.metadata.labels.retain(|name, _| name == SERVICE_NAME);
        self.metadata.annotations = BTreeMap::new();
    }
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct SlicePort {
    #[serde(default)]
    pub name: Option<String>,
    #[serde(default)]
    pub port: Option<u16>,
    #[serde(default)]
    pub protocol: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SliceEndpoint {
    pub addresses: Vec<String>,
    #[serde(default)]
    pub conditions: Conditions,
    #[serde(default)]
    pub zone: Option<String>,
    #[serde(default)]
    pub node_name: Option<String>,
    #[serde(default)]
    pub hints: Option<Hints>,
    #[serde(default)]
    pub hostname: Option<String>,
    #[serde(default)]
    pub target_ref: Option<TargetRef>,
}

/// Whom the endpoint is meant for, where Kubernetes divides them among zones.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Hints {
    #[serde(default, deserialize_with = "nullable")]
    pub for_zones: Vec<ForZone>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct ForZone {
    pub name: String,
}

/// Absent means: ready as `true`, serving as ready, terminating as `false`. A terminating endpoint is not ready, unless
/// its Service publishes addresses that are not; while its pod still passes its readiness probe, it is serving.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct Conditions {
    #[serde(default)]
    pub ready: Option<bool>,
    #[serde(default)]
    pub serving: Option<bool>,
    #[serde(default)]
    pub terminating: Option<bool>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct TargetRef {
    pub kind: String,
    pub name: String,
    #[serde(default)]
    pub namespace: Option<String>,
    #[serde(default)]
    pub uid: Option<String>,
}
