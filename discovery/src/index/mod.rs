//! Objects to resources: what a proxy is told of a target, a backend, an inbound port.
//!
//! In: all objects. Out: a [`Snapshot`] that answers by name. Pure: no IO, no clock. An object that makes no sense is
//! reported and does the least harm: a broken rule answers 500, a broken policy denies, a pod whose identity cannot be
//! told is no endpoint.

mod backends;
mod inbound;
mod matches;
mod pods;
mod routes;
mod rules;
mod sort;
pub mod status;
mod values;

#[cfg(test)]
mod tests;

use crate::objects::core::{IntOrName, OPAQUE_PORTS, Pod, Service, ZONE};
use crate::objects::policy::MeshTlsPolicy;
use crate::objects::{Metadata, Object};
use inbound::Authorization;
use pods::Membership;
use remora_model::{
    Backend, BackendId, BackendRef, BackendRefState, Outbound, RouteMatch, Rule, Target, Timeouts, TrustDomain,
};
use routes::Attached;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};

/// Namespace and name.
pub type Key = (String, String);

/// What the objects do not say of the mesh.
#[derive(Debug, Clone, PartialEq)]
pub struct Mesh {
    pub trust_domain: TrustDomain,
    /// The control plane's namespace: MeshTLSPolicies there that name nobody hold for the whole mesh.
    pub namespace: String,
}

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

    /// The version, by `digest` if nobody has asked before.
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
    backends: BTreeMap<BackendId, Versioned>,
    /// Which backends an address serves, or will once it is ready: policies hold for a pod that is not, too.
    served: HashMap<SocketAddr, Vec<BackendId>>,
    routes: HashMap<BackendId, Vec<Attached>>,
    authorization: Vec<Authorization>,
    mesh_tls: Vec<Arc<MeshTlsPolicy>>,
    /// What made no sense, for the log.
    pub reports: Vec<String>,
    /// Endpoints that are left out until their pod is known. In a cluster that passes by itself.
    pub unseen: Vec<String>,
    /// What the statuses of routes should say.
    pub statuses: Vec<status::RouteStatus>,
}

impl Snapshot {
    /// Builds the answers to everything. What is as it was in `before` is not made anew but shared with it, so that it
    /// costs nothing to see that a proxy has it.
    pub fn build(objects: Vec<Object>, mesh: &Mesh, before: Option<&Self>) -> Self {
        let mut snapshot = Self::empty(mesh.clone());
        let (mut rest, mut authorization) = (Vec::new(), Vec::new());
        for object in snapshot.once_each(objects) {
            let key = || (object.metadata().namespace.clone(), object.metadata().name.clone());
            match &object {
                Object::Namespace(namespace) => {
                    let ports = namespace.metadata.annotations.get(OPAQUE_PORTS).cloned();
                    snapshot.opaque.extend(ports.map(|ports| (namespace.metadata.name.clone(), ports)));
                }
                Object::Node(node) => {
                    let zone = node.metadata.labels.get(ZONE).cloned();
                    snapshot.zones.extend(zone.map(|zone| (node.metadata.name.clone(), zone)));
                }
                Object::Pod(pod) => drop(snapshot.pods.insert(key(), Arc::clone(pod))),
                Object::Service(service) => drop(snapshot.services.insert(key(), Arc::clone(service))),
                Object::AuthorizationPolicy(policy) => authorization.push(Arc::clone(policy)),
                Object::MeshTlsPolicy(policy) => snapshot.mesh_tls.push(Arc::clone(policy)),
                _ => rest.push(object),
            }
        }
        snapshot.index_pods();
        snapshot.index_services();
        snapshot.index_backends(&rest, before);
        snapshot.index_routes(&rest);
        snapshot.index_policies(&authorization);
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
            backends: BTreeMap::new(),
            served: HashMap::new(),
            routes: HashMap::new(),
            authorization: Vec::new(),
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

    /// What `target` is to a client in `namespace`.
    pub fn outbound(&self, namespace: &str, target: &Target) -> Outbound {
        let parent = self.parent(namespace, target);
        let Some(parent) = parent else {
            let (matches, rules) = (Vec::new(), Vec::new());
            return Outbound { target: target.clone(), parent: None, protocol: Default::default(), matches, rules };
        };
        let protocol = self.backend(&parent).map(|known| known.backend.protocol).unwrap_or_default();
        let attached: &[Attached] = self.routes.get(&parent).map_or(&[], Vec::as_slice);
        let (matches, rules) = sort::select(attached, namespace).unwrap_or_else(|| default_rule(&parent));
        Outbound { target: target.clone(), parent: Some(parent), protocol, matches, rules }
    }

    fn parent(&self, namespace: &str, target: &Target) -> Option<BackendId> {
        match target {
            Target::Address(address) => {
                if let Some(key) = self.service_by_ip.get(&address.ip()) {
                    return self.port_of(key, address.port());
                }
                let key = self.pod_by_ip.get(&address.ip())?;
                Some(pod_backend(key, address.port()))
            }
            Target::Authority(host, port) => {
                let host =
                    host.strip_suffix(".svc.cluster.local").or_else(|| host.strip_suffix(".svc")).unwrap_or(host);
                match host.split('.').collect::<Vec<_>>().as_slice() {
                    [name] => self.port_of(&(namespace.to_owned(), (*name).to_owned()), *port),
                    [name, ns] => self.port_of(&((*ns).to_owned(), (*name).to_owned()), *port),
                    [pod, name, ns] => {
                        let service = ((*ns).to_owned(), (*name).to_owned());
                        let ip = self.named.get(&(service, (*pod).to_owned()))?;
                        Some(pod_backend(self.pod_by_ip.get(ip)?, *port))
                    }
                    _ => None,
                }
            }
        }
    }

    /// The port of a Service that `port` means. The name of a headless one leads to its pods, so that clients may ask for
    /// the pods' own port.
    fn port_of(&self, key: &Key, port: u16) -> Option<BackendId> {
        let id = backend_id(key, port);
        if self.backends.contains_key(&id) {
            return Some(id);
        }
        let service = self.services.get(key).filter(|service| is_headless(service))?;
        let target = |p: &&crate::objects::core::ServicePort| p.target_port == Some(IntOrName::Number(port));
        let id = backend_id(key, service.spec.ports.iter().find(target)?.port);
        self.backends.contains_key(&id).then_some(id)
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

/// A Service without routes: everything goes to itself, counted by learned path.
fn default_rule(parent: &BackendId) -> (Vec<RouteMatch>, Vec<Rule>) {
    let state = BackendRefState::Valid;
    let backend = BackendRef { backend: parent.clone(), weight: 1, state, filters: Vec::new() };
    let rule = Rule {
        label: "".into(),
        filters: Vec::new(),
        backends: vec![backend],
        timeouts: Timeouts::default(),
        retry: None,
    };
    (vec![RouteMatch { path: None, method: None, headers: Vec::new(), query: Vec::new(), rule: 0 }], vec![rule])
}
