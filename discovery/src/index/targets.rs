//! What a client's target is: a Service port, a pod, outside of the mesh, or unknown.

use super::{Key, Snapshot, attached::Attached, backend_id, is_external, is_headless, pod_backend, sort};
use crate::objects::core::IntOrName;
use ipnet::IpNet;
use remora_model::{BackendId, BackendRef, BackendRefState, Outbound, Parent, RouteMatch, Rule, Target, Timeouts};
use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

impl Snapshot {
    /// What `target` is to a client in `namespace`.
    pub fn outbound(&self, namespace: &str, target: &Target) -> Outbound {
        let id = match self.parent(namespace, target) {
            Parent::Backend(id) => id,
            parent => {
                let (matches, rules) = (Vec::new(), Vec::new());
                return Outbound { target: target.clone(), parent, protocol: Default::default(), matches, rules };
            }
        };
        let protocol = self.backend(&id).map(|known| known.backend.protocol).unwrap_or_default();
        let attached: &[Attached] = self.routes.get(&id).map_or(&[], Vec::as_slice);
        let (matches, rules) = sort::select(attached, namespace).unwrap_or_else(|| default_rule(&id));
        Outbound { target: target.clone(), parent: Parent::Backend(id), protocol, matches, rules }
    }

    fn parent(&self, namespace: &str, target: &Target) -> Parent {
        match target {
            Target::Address(address) => self.parent_at(address.ip(), address.port()),
            Target::Authority(host, port) => self.parent_named(namespace, host, *port),
        }
    }

    /// Vouches for an address that it is outside only if it is in none of the cluster's ranges, or a node's. An IPv4 address
    /// written in IPv6 leads where the IPv4 address does.
    fn parent_at(&self, ip: IpAddr, port: u16) -> Parent {
        let ip = ip.to_canonical();
        if let Some(key) = self.service_by_ip.get(&ip) {
            return self.port_of(key, port).map_or(Parent::Unknown, Parent::Backend);
        }
        match self.pod_by_ip.get(&ip) {
            Some(key) => Parent::Backend(pod_backend(key, port)),
            None if self.networks.contain(ip) && !self.node_ips.contains(&ip) => Parent::Unknown,
            None => Parent::Outside,
        }
    }

    /// Names in the cluster's domain, or that look like its own, are unknown where nothing has them: DNS may lead them to pods
    /// (`10-1-0-7.shop.pod.cluster.local`), which must not be called in plaintext. Others are outside.
    fn parent_named(&self, namespace: &str, host: &str, port: u16) -> Parent {
        let domain = host.strip_suffix(self.mesh.cluster_domain.as_str()).and_then(|host| host.strip_suffix('.'));
        let short = domain.unwrap_or(host).strip_suffix(".svc");
        let key = |name: &str, namespace: &str| (namespace.to_owned(), name.to_owned());
        let (found, ours) = match short.unwrap_or(host).split('.').collect::<Vec<_>>().as_slice() {
            ["localhost"] => (None, false),
            [name] => (Some(key(name, namespace)), true),
            [name, ns] => (Some(key(name, ns)), self.has_namespace(ns)),
            [pod, name, ns] => {
                let service = key(name, ns);
                let ours = self.services.contains_key(&service) || (*ns == "pod" && self.has_namespace(name));
                let ip = self.named.get(&(service, (*pod).to_owned()));
                if let Some(pod) = ip.and_then(|ip| self.pod_by_ip.get(ip)) {
                    return Parent::Backend(pod_backend(pod, port));
                }
                (None, ours)
            }
            _ => (None, false),
        };
        let external =
            found.as_ref().and_then(|key| self.services.get(key)).is_some_and(|service| is_external(service));
        match found.and_then(|key| self.port_of(&key, port)) {
            Some(id) => Parent::Backend(id),
            None if !external && (ours || short.is_some() || domain.is_some()) => Parent::Unknown,
            None => Parent::Outside,
        }
    }

    fn has_namespace(&self, namespace: &str) -> bool {
        fn first<'a, V>(all: &'a BTreeMap<Key, V>, namespace: &str) -> Option<&'a Key> {
            all.range((namespace.to_owned(), String::new())..).next().map(|(key, _)| key)
        }
        let has = |key: Option<&Key>| key.is_some_and(|key| key.0 == namespace);
        has(first(&self.services, namespace)) || has(first(&self.pods, namespace))
    }

    /// The ranges of the cluster's addresses, for proxies. Empty: not known.
    pub fn networks(&self) -> &Arc<[IpNet]> {
        self.networks.told()
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
