//! Objects to resources: what a proxy is told of a target, a backend, an inbound port.
//!
//! In: all objects. Out: a [`Snapshot`] that answers by name. Pure: no IO, no clock. An object that makes no sense is
//! reported and does the least harm: a broken rule answers 500, a broken policy denies.

mod backends;
mod inbound;
mod routes;
mod sort;
mod values;

#[cfg(test)]
mod tests;

use crate::objects::Object;
use crate::objects::core::{Pod, Service};
use crate::objects::policy::{AuthorizationPolicy, MeshTlsPolicy};
use remora_model::{Backend, BackendId, BackendRef, BackendRefState, Outbound, RouteMatch, Rule, Target, Timeouts};
use routes::Attached;
use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// Namespace and name.
pub type Key = (String, String);

/// Everything that was read, ready to answer.
#[derive(Debug, Default)]
pub struct Snapshot {
    services: BTreeMap<Key, Service>,
    pods: BTreeMap<Key, Pod>,
    service_by_ip: HashMap<IpAddr, Key>,
    pod_by_ip: HashMap<IpAddr, Key>,
    /// Endpoints of headless Services by their own name: (service, pod or host name).
    named: HashMap<(Key, String), IpAddr>,
    backends: BTreeMap<BackendId, Arc<Backend>>,
    /// Which backends an address serves.
    served: HashMap<SocketAddr, Vec<BackendId>>,
    routes: HashMap<BackendId, Vec<Attached>>,
    authorization: Vec<AuthorizationPolicy>,
    mesh_tls: Vec<MeshTlsPolicy>,
    trust_domain: Option<remora_model::TrustDomain>,
    /// What made no sense, for the log.
    pub reports: Vec<String>,
}

impl Snapshot {
    /// Builds the answers to everything.
    pub fn build(objects: Vec<Object>, trust_domain: &remora_model::TrustDomain) -> Self {
        let mut snapshot = Self { trust_domain: Some(trust_domain.clone()), ..Self::default() };
        let mut rest = Vec::new();
        for object in objects {
            let key = (object.metadata().namespace.clone(), object.metadata().name.clone());
            match object {
                Object::Pod(pod) => drop(snapshot.pods.insert(key, pod)),
                Object::Service(service) => drop(snapshot.services.insert(key, service)),
                Object::AuthorizationPolicy(policy) => snapshot.authorization.push(policy),
                Object::MeshTlsPolicy(policy) => snapshot.mesh_tls.push(policy),
                other => rest.push(other),
            }
        }
        snapshot.index_addresses();
        snapshot.index_backends(&rest);
        snapshot.index_routes(&rest);
        snapshot
    }

    fn index_addresses(&mut self) {
        for (key, pod) in &self.pods {
            for ip in values::pod_ips(pod) {
                self.pod_by_ip.insert(ip, key.clone());
            }
        }
        for (key, service) in &self.services {
            let spec = &service.spec;
            if spec.kind.as_deref() == Some("ExternalName") {
                self.reports.push(format!("Service {}/{}: ExternalName is not supported, ignored", key.0, key.1));
            }
            for ip in spec.cluster_ips.iter().chain(&spec.cluster_ip).filter_map(|ip| ip.parse().ok()) {
                self.service_by_ip.insert(ip, key.clone());
            }
        }
    }

    /// What `target` is to a client in `namespace`.
    pub fn outbound(&self, namespace: &str, target: &Target) -> Outbound {
        let parent = self.parent(namespace, target);
        let Some(parent) = parent else {
            let (matches, rules) = (Vec::new(), Vec::new());
            return Outbound { target: target.clone(), parent: None, protocol: Default::default(), matches, rules };
        };
        let protocol = self.backend(&parent).map(|backend| backend.protocol).unwrap_or_default();
        let attached: &[Attached] = self.routes.get(&parent).map_or(&[], Vec::as_slice);
        let (matches, rules) = sort::select(attached, namespace).unwrap_or_else(|| default_rule(&parent));
        Outbound { target: target.clone(), parent: Some(parent), protocol, matches, rules }
    }

    fn parent(&self, namespace: &str, target: &Target) -> Option<BackendId> {
        match target {
            Target::Address(address) => {
                if let Some(key) = self.service_by_ip.get(&address.ip()) {
                    return self.known(key, address.port());
                }
                let key = self.pod_by_ip.get(&address.ip())?;
                Some(pod_backend(key, address.port()))
            }
            Target::Authority(host, port) => {
                let host =
                    host.strip_suffix(".svc.cluster.local").or_else(|| host.strip_suffix(".svc")).unwrap_or(host);
                match host.split('.').collect::<Vec<_>>().as_slice() {
                    [name] => self.known(&(namespace.to_owned(), (*name).to_owned()), *port),
                    [name, ns] => self.known(&((*ns).to_owned(), (*name).to_owned()), *port),
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

    fn known(&self, key: &Key, port: u16) -> Option<BackendId> {
        let id = backend_id(key, port);
        self.backends.contains_key(&id).then_some(id)
    }

    /// A backend by name; a pod's is made when it is asked for.
    pub fn backend(&self, id: &BackendId) -> Option<Arc<Backend>> {
        match id.name.strip_prefix("pod/") {
            Some(pod) => self.pod_as_backend(id, pod).map(Arc::new),
            None => self.backends.get(id).cloned(),
        }
    }

    /// How many Services, pods and backends there are.
    pub fn counts(&self) -> (usize, usize, usize) {
        (self.services.len(), self.pods.len(), self.backends.len())
    }
}

pub(crate) fn backend_id(key: &Key, port: u16) -> BackendId {
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
