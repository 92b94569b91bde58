//! Objects to resources: the configuration of a target, a backend, an inbound port.
//!
//! In: all objects. Out: a [`Snapshot`] that answers by name. Pure: no IO, no clock. An object that makes no sense is
//! reported and does the least harm: a broken rule answers 500, a broken policy denies, a pod whose identity cannot be
//! told is no endpoint.

mod attached;
mod backends;
mod fields;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod inbound;
mod matches;
mod networks;
mod pods;
mod policies;
mod routes;
mod rules;
mod schema;
mod settings;
mod sort;
pub mod status;
mod targets;
mod values;

#[cfg(test)]
mod tests;

use crate::objects::{
    Metadata, Object,
    core::{OPAQUE_PORTS, Pod, Service, ZONE},
};
use attached::Attached;
use ipnet::IpNet;
use networks::Networks;
use pods::Membership;
pub use pods::Proof;
use policies::{Authorization, MeshTls};
use remora_model::{Backend, BackendId, TrustDomain};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    net::IpAddr,
    sync::{Arc, OnceLock},
};

/// Namespace and name.
pub type Key = (String, String);

/// What the objects do not say of the mesh.
#[derive(Debug, Clone, PartialEq)]
pub struct Mesh {
    pub trust_domain: TrustDomain,
    /// The control plane's namespace: MeshTLSPolicies there without a target hold for the whole mesh.
    pub namespace: String,
    /// The cluster's DNS domain.
    pub cluster_domain: String,
    /// Ranges of the cluster's addresses, beside those that its objects name.
    pub networks: Vec<IpNet>,
}

impl Default for Mesh {
    /// An unchanged installation's.
    fn default() -> Self {
        Self {
            trust_domain: TrustDomain::new(CLUSTER_DOMAIN).expect("a trust domain"),
            namespace: remora_kube::names::NAMESPACE.to_owned(),
            cluster_domain: CLUSTER_DOMAIN.to_owned(),
            networks: Vec::new(),
        }
    }
}

/// The domain of a cluster that says nothing else, and the trust domain after it.
pub const CLUSTER_DOMAIN: &str = "cluster.local";

/// A backend with its version, which is computed once for all proxies that are sent it.
#[derive(Debug, Clone)]
pub struct Versioned {
    pub backend: Arc<Backend>,
    version: Arc<OnceLock<u64>>,
}

impl Versioned {
    fn new(backend: Backend) -> Self {
        Self { backend: Arc::new(backend), version: Arc::default() }
    }

    /// The version; computed by `digest` at the first call.
    pub fn version(&self, digest: impl FnOnce(&Backend) -> u64) -> u64 {
        *self.version.get_or_init(|| digest(&self.backend))
    }
}

/// Everything that was read, ready to answer.
#[derive(Debug)]
pub struct Snapshot {
    mesh: Mesh,
    /// The opaque ports of a namespace's pods and Services that name none themselves.
    opaque: BTreeMap<String, String>,
    /// The zones of nodes.
    zones: BTreeMap<String, String>,
    services: BTreeMap<Key, Arc<Service>>,
    pods: BTreeMap<Key, Arc<Pod>>,
    membership: BTreeMap<Key, Membership>,
    service_by_ip: HashMap<IpAddr, Key>,
    /// Pods with an address of their own.
    pod_by_ip: HashMap<IpAddr, Key>,
    /// Endpoints of headless Services by their own name: (service, pod or host name).
    named: HashMap<(Key, String), IpAddr>,
    /// Addresses of nodes, by the pods in their networks.
    node_ips: HashSet<IpAddr>,
    networks: Networks,
    backends: BTreeMap<BackendId, Versioned>,
    /// Which backends a port of an address serves, or will once it is ready: policies hold for a pod that is not, too.
    served: HashMap<IpAddr, BTreeMap<u16, Vec<BackendId>>>,
    /// Which Services' ports select which port of a pod, whether it has an address or not.
    selecting: HashMap<Key, Vec<(u16, BackendId)>>,
    routes: HashMap<BackendId, Vec<Attached>>,
    /// By namespace.
    authorization: HashMap<String, Vec<Authorization>>,
    mesh_tls: Vec<MeshTls>,
    /// What made no sense, for the log.
    pub reports: Vec<String>,
    /// Endpoints that are left out until their pod is known. In a cluster that passes by itself.
    pub unseen: Vec<String>,
    /// What the statuses of routes and policies should say.
    pub statuses: Vec<status::ObjectStatus>,
}

impl Snapshot {
    /// Builds all resources. Unchanged resources are shared with `before` (the same `Arc`), so that a pointer
    /// comparison shows that a proxy is up to date.
    pub fn build(objects: Vec<Object>, mesh: &Mesh, before: Option<&Self>) -> Self {
        let mut snapshot = Self::empty(mesh.clone());
        let (mut rest, mut authorization, mut mesh_tls) = (Vec::new(), Vec::new(), Vec::new());
        for object in snapshot.once_each(objects) {
            let key = || (object.metadata().namespace.clone(), object.metadata().name.clone());
            match &object {
                Object::Namespace(namespace) => {
                    snapshot.judge_opaque_ports(object.kind(), &namespace.metadata);
                    let ports = namespace.metadata.annotations.get(OPAQUE_PORTS).cloned();
                    snapshot.opaque.extend(ports.map(|ports| (namespace.metadata.name.clone(), ports)));
                }
                Object::Node(node) => {
                    let zone = node.metadata.labels.get(ZONE).cloned();
                    snapshot.zones.extend(zone.map(|zone| (node.metadata.name.clone(), zone)));
                    rest.push(object);
                }
                Object::Pod(pod) => {
                    snapshot.judge_opaque_ports(object.kind(), &pod.metadata);
                    snapshot.pods.insert(key(), Arc::clone(pod));
                }
                Object::Service(service) => {
                    snapshot.judge_opaque_ports(object.kind(), &service.metadata);
                    snapshot.services.insert(key(), Arc::clone(service));
                }
                Object::AuthorizationPolicy(policy) => authorization.push(Arc::clone(policy)),
                Object::MeshTlsPolicy(policy) => mesh_tls.push(Arc::clone(policy)),
                _ => rest.push(object),
            }
        }
        snapshot.index_pods();
        snapshot.index_services();
        let known = snapshot.service_by_ip.keys().chain(snapshot.pod_by_ip.keys());
        snapshot.networks = Networks::of(&rest, mesh, known, &mut snapshot.reports);
        snapshot.index_backends(&rest, before);
        snapshot.index_routes(&rest);
        snapshot.index_policies(&authorization, &mesh_tls);
        snapshot
    }

    fn empty(mesh: Mesh) -> Self {
        Self {
            mesh,
            opaque: BTreeMap::new(),
            zones: BTreeMap::new(),
            services: BTreeMap::new(),
            pods: BTreeMap::new(),
            membership: BTreeMap::new(),
            service_by_ip: HashMap::new(),
            pod_by_ip: HashMap::new(),
            named: HashMap::new(),
            node_ips: HashSet::new(),
            networks: Networks::default(),
            backends: BTreeMap::new(),
            served: HashMap::new(),
            selecting: HashMap::new(),
            routes: HashMap::new(),
            authorization: HashMap::new(),
            mesh_tls: Vec::new(),
            reports: Vec::new(),
            unseen: Vec::new(),
            statuses: Vec::new(),
        }
    }

    /// Of objects that are given twice, the last. A policy is kept each time: what any of them forbids is forbidden.
    fn once_each(&mut self, objects: Vec<Object>) -> Vec<Object> {
        let mut last: BTreeMap<(&'static str, String, String), usize> = BTreeMap::new();
        let mut again = BTreeSet::new();
        for (at, object) in objects.iter().enumerate() {
            let meta = object.metadata();
            let name = (object.kind(), meta.namespace.clone(), meta.name.clone());
            if let Some(before) = last.insert(name, at)
                && !object.restricts()
            {
                again.insert(before);
                let origin = &objects[before].metadata().origin;
                self.reports.push(report(
                    meta,
                    object.kind(),
                    format!("is given twice; the one at {origin} is ignored"),
                ));
            }
        }
        let kept = objects.into_iter().enumerate().filter(|(at, _)| !again.contains(at));
        kept.map(|(_, object)| object).collect()
    }

    fn index_services(&mut self) {
        for (key, service) in &self.services {
            let spec = &service.spec;
            if is_external(service) {
                let problem = "ExternalName is not supported, ignored".to_owned();
                self.reports.push(report(&service.metadata, "Service", problem));
            }
            for ip in spec.cluster_ips.iter().chain(&spec.cluster_ip).filter(|ip| !matches!(ip.as_str(), "None" | "")) {
                match ip.parse() {
                    Ok(ip) => drop(self.service_by_ip.insert(ip, key.clone())),
                    Err(_) => {
                        let problem = format!("spec.clusterIPs: {ip:?} is no address");
                        self.reports.push(report(&service.metadata, "Service", problem));
                    }
                }
            }
        }
        self.reports.dedup();
    }

    /// A backend by name; a pod's is made when it is asked for.
    pub fn backend(&self, id: &BackendId) -> Option<Versioned> {
        match id.name.strip_prefix("pod/") {
            Some(pod) => self.pod_as_backend(id, pod).map(Versioned::new),
            None => self.backends.get(id).cloned(),
        }
    }

    /// How many Services, pods and backends there are.
    pub fn counts(&self) -> (usize, usize, usize) {
        (self.services.len(), self.pods.len(), self.backends.len())
    }
}

/// A line for the log: where, what, and what is the matter with it.
fn report(meta: &Metadata, kind: &str, problem: String) -> String {
    // The API's objects have no line.
    let origin = if meta.origin.file.is_empty() { String::new() } else { format!("{}: ", meta.origin) };
    format!("{origin}{kind} {}/{}: {problem}", meta.namespace, meta.name)
}

fn is_headless(service: &Service) -> bool {
    service.spec.cluster_ip.as_deref() == Some("None")
}

fn is_external(service: &Service) -> bool {
    service.spec.kind.as_deref() == Some("ExternalName")
}

fn backend_id(key: &Key, port: u16) -> BackendId {
    BackendId { namespace: key.0.as_str().into(), name: key.1.as_str().into(), port }
}

fn pod_backend(key: &Key, port: u16) -> BackendId {
    BackendId { namespace: key.0.as_str().into(), name: format!("pod/{}", key.1).into(), port }
}
