//! What a client's target is: a Service port, a pod, outside of the mesh, or unknown.

use super::{
    Key,
    attached::Kind,
    backend_id,
    facts::Facts,
    is_external, is_headless, pod_backend,
    sort::{self, Selected},
};
use crate::objects::core::IntOrName;
use ipnet::IpNet;
use remora_model::{
    Backend, BackendId, BackendKind, BackendRef, BackendRefState, HostPattern, Outbound, Parent, Protocol, RouteMatch,
    Rule, Target, TcpRule, Timeouts, TlsRule,
};
use std::{net::IpAddr, sync::Arc};

impl Facts {
    /// What `target` is to a client in `namespace`.
    pub(crate) fn outbound(&self, namespace: &str, target: &Target) -> Outbound {
        let id = match self.parent(namespace, target) {
            Parent::Backend(id) => id,
            parent => {
                return Outbound::bare(target.clone(), parent);
            }
        };
        let protocol = self.protocol_of(&id);
        let attached = self.ruled.get(&id).map_or(&[][..], |ruled| &ruled.attached);
        let bare = Outbound { protocol, ..Outbound::bare(target.clone(), Parent::Backend(id.clone())) };
        let Some(Selected { kind, matches, rules, hostnames }) = sort::select(attached, namespace) else {
            let (matches, rules) = default_rule(&id);
            return Outbound { matches, rules, ..bare };
        };
        match kind {
            Kind::Grpc | Kind::Http => Outbound { matches, rules, ..bare },
            Kind::Tls => {
                let rule = |(rule, names): (Rule, Arc<[HostPattern]>)| TlsRule {
                    label: rule.label,
                    hostnames: names.to_vec(),
                    backends: rule.backends,
                };
                let tls = rules.into_iter().zip(hostnames).map(rule).collect();
                // What is no TLS is not the route's.
                let (matches, rules) = default_rule(&id);
                Outbound { matches, rules, tls, ..bare }
            }
            // The first has all connections. Of those that are HTTP each request is shared out by itself.
            Kind::Tcp => {
                let first = |rule: &Rule| TcpRule { label: rule.label.clone(), backends: rule.backends.clone() };
                let tcp = rules.first().map(first);
                Outbound { matches, rules, tcp, ..bare }
            }
        }
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
            None if self.is_ranged(ip) && self.node_ips.get(&ip).next().is_none() => Parent::Unknown,
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
        self.peopled.contains_key(namespace)
    }

    /// What is said that a backend speaks.
    fn protocol_of(&self, id: &BackendId) -> Protocol {
        match id.kind {
            BackendKind::Pod => {
                let pod = self.pods.get(&(id.namespace.to_string(), id.name.to_string()));
                pod.map(|pod| self.protocol_at(pod, id.port)).unwrap_or_default()
            }
            BackendKind::Service | BackendKind::External => self.ports.get(id).copied().unwrap_or_default(),
        }
    }

    /// A backend by name; a pod's is made when it is asked for.
    pub(super) fn backend(&self, id: &BackendId) -> Option<Arc<Backend>> {
        match id.kind {
            BackendKind::Pod => self.pod_as_backend(id).map(Arc::new),
            BackendKind::Service | BackendKind::External => self.backends.get(id).cloned(),
        }
    }

    /// The ranges of the cluster's addresses, for proxies. Empty: not known.
    pub(super) fn networks(&self) -> Arc<[IpNet]> {
        self.told_networks.get(&()).cloned().unwrap_or_default()
    }

    /// The port of a Service that `port` means. The name of a headless one leads to its pods, so that clients may ask for
    /// the pods' own port.
    fn port_of(&self, key: &Key, port: u16) -> Option<BackendId> {
        let id = backend_id(key, port);
        if self.ports.contains_key(&id) {
            return Some(id);
        }
        let service = self.services.get(key).filter(|service| is_headless(service))?;
        let target = |p: &&crate::objects::core::ServicePort| p.target_port == Some(IntOrName::Number(port));
        let id = backend_id(key, service.spec.ports.iter().find(target)?.port);
        self.ports.contains_key(&id).then_some(id)
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
