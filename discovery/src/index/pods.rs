//! Pods: where they are, and whether and as whom they are in the mesh.

use super::{facts::Facts, values};
use crate::objects::{
    Metadata,
    core::{Container, ContainerPort, OPAQUE_PORTS, PROXY_ADDRESS, Pod, SKIP_INBOUND, ZONE},
};
use remora_kube::names::{INIT_CONTAINER, INJECTED, PROXY_ADMIN_PORT, PROXY_CONTAINER};
use remora_model::{Backend, BackendId, BackendSettings, Endpoint, Protocol, SpiffeId, TrustDomain, ports};
use std::net::{IpAddr, SocketAddr};

/// Whether a caller is the pod that it says it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proof {
    /// The pod is not known (yet).
    Unknown,
    /// Its account is the caller's, and nothing says otherwise.
    Proven,
    /// It is not, and why.
    Refuted(&'static str),
}

/// Whether a pod is in the mesh.
#[derive(Debug)]
pub(super) enum Membership {
    /// Without a proxy: reached in plaintext.
    Outside,
    Inside {
        identity: SpiffeId,
        proxy: Option<SocketAddr>,
    },
}

impl Facts {
    /// The endpoint at `address`, which `pod` has. `None`: the identity that must answer there is unknown.
    pub(super) fn endpoint(&self, address: SocketAddr, pod: Option<&Pod>, zone: Option<&str>) -> Option<Endpoint> {
        let key = pod.map(|pod| (pod.metadata.namespace.clone(), pod.metadata.name.clone()));
        // As long as a pod's identity or proxy is unclear, it is no endpoint: plaintext would be a downgrade.
        let membership = pod.map(|pod| membership(pod, &self.mesh.trust_domain)).transpose().ok()?;
        let (identity, proxy) = match membership {
            None | Some(Membership::Outside) => (None, None),
            Some(Membership::Inside { proxy: None, .. }) if pod.is_some_and(|pod| bypasses(pod, address.port())) => {
                (None, None)
            }
            Some(Membership::Inside { identity, proxy }) => (Some(identity), proxy),
        };
        let own = pod.and_then(|pod| self.zone_of(pod));
        Some(Endpoint {
            address,
            identity,
            proxy,
            weight: 1,
            zone: zone.or(own).unwrap_or_default().into(),
            pod: key.map(|(namespace, name)| format!("{namespace}/{name}")).unwrap_or_default().into(),
            node: None,
        })
    }

    /// Whether a caller of the service account `account` at `address` can be the pod. An address that is no pod's proves
    /// nothing (it may be translated on the way), nor do those of manifests by hand.
    pub(super) fn prove(&self, namespace: &str, pod: &str, account: &str, address: Option<IpAddr>) -> Proof {
        let key = (namespace.to_owned(), pod.to_owned());
        let Some(pod) = self.pods.get(&key) else { return Proof::Unknown };
        let said = pod.spec.service_account_name.as_deref();
        if said.unwrap_or(if pod.metadata.by_hand() { account } else { "default" }) != account {
            return Proof::Refuted("has another service account");
        }
        let own = |address: &IpAddr| values::pod_ips(pod).contains(address);
        let other = |address: &IpAddr| self.pod_by_ip.get(address).is_some_and(|holder| *holder != key);
        match address.filter(|_| !pod.metadata.by_hand()) {
            Some(address) if !own(&address) && other(&address) => Proof::Refuted("has another address"),
            _ => Proof::Proven,
        }
    }

    /// Whether a pod is in the mesh, as whomever.
    pub(super) fn is_member(&self, pod: &Pod) -> bool {
        matches!(membership(pod, &self.mesh.trust_domain), Ok(Membership::Inside { .. }))
    }

    /// The zone of a proxy's own pod.
    pub(super) fn zone(&self, namespace: &str, pod: &str) -> Option<&str> {
        self.zone_of(self.pods.get(&(namespace.to_owned(), pod.to_owned()))?)
    }

    fn zone_of<'a>(&'a self, pod: &'a Pod) -> Option<&'a str> {
        let node = pod.spec.node_name.as_ref().and_then(|node| self.zones.get(node));
        node.or_else(|| pod.metadata.labels.get(ZONE)).map(String::as_str)
    }

    /// Whether an object's own word, or without one its namespace's, makes a port opaque.
    pub(super) fn opaque(&self, meta: &Metadata, port: u16) -> bool {
        self.opaque_list(meta).is_some_and(|list| ports::name(list, port))
    }

    /// All ports that are opaque by the same words, in the order that they are named.
    pub(super) fn opaque_ports<'a>(&'a self, meta: &'a Metadata) -> impl Iterator<Item = u16> {
        self.opaque_list(meta).into_iter().flat_map(|list| ports::read(list).unwrap_or_default()).flatten()
    }

    fn opaque_list<'a>(&'a self, meta: &'a Metadata) -> Option<&'a str> {
        meta.annotations.get(OPAQUE_PORTS).or_else(|| self.opaque.get(&meta.namespace)).map(String::as_str)
    }

    /// A pod reached by its own address. What it speaks is what the Services say that it serves.
    pub(super) fn pod_as_backend(&self, id: &BackendId) -> Option<Backend> {
        let pod = self.pods.get(&(id.namespace.to_string(), id.name.to_string()))?;
        let addresses = values::pod_ips(pod).into_iter().map(|ip| SocketAddr::new(ip, id.port));
        let endpoints = addresses.filter_map(|address| self.endpoint(address, Some(pod), None)).collect();
        let protocol = self.protocol_at(pod, id.port);
        Some(Backend { id: id.clone(), protocol, settings: BackendSettings::default(), endpoints })
    }

    /// The Services' ports that a pod's port serves; one with an address before one without: that is how clients call it.
    pub(super) fn served_by(&self, pod: &Pod, port: u16) -> Vec<&BackendId> {
        let (ips, key) = (values::pod_ips(pod), (pod.metadata.namespace.clone(), pod.metadata.name.clone()));
        let all = ips.iter().flat_map(|ip| self.served.get(ip)).chain(self.selecting.get(&key));
        let ids = all.filter(|(at, _)| *at == port).map(|(_, id)| id);
        let mut ids: Vec<&BackendId> = ids.filter(|id| *id.namespace == *pod.metadata.namespace).collect();
        ids.sort_by_key(|id| (!self.has_address(id), *id));
        ids.dedup();
        ids
    }

    /// The protocol of a pod's port, if it is declared.
    pub(super) fn protocol_at(&self, pod: &Pod, port: u16) -> Protocol {
        if self.opaque(&pod.metadata, port) {
            return Protocol::Opaque;
        }
        let mut said = self.served_by(pod, port).into_iter().filter_map(|id| self.ports.get(id).copied());
        said.find(|said| *said != Protocol::Detect).unwrap_or_default()
    }

    fn has_address(&self, id: &BackendId) -> bool {
        let service = self.services.get(&(id.namespace.to_string(), id.name.to_string()));
        service.and_then(|s| s.spec.cluster_ip.as_deref()).is_some_and(|ip| ip != "None")
    }
}

/// What is wrong with an annotation of opaque ports, which then makes none opaque.
pub(super) fn opaque_problem(meta: &Metadata) -> Option<String> {
    let error = ports::read(meta.annotations.get(OPAQUE_PORTS)?).err()?;
    Some(format!("metadata.annotations: {OPAQUE_PORTS}: {error}; no port is opaque by it"))
}

/// The TCP ports that a pod's containers declare, those of sidecars included.
pub(super) fn container_ports(pod: &Pod) -> impl Iterator<Item = u16> {
    let ports = serving(pod).flat_map(|container| &container.ports).filter(|port| is_tcp(port));
    ports.map(|port| port.container_port).filter(|port| *port != 0)
}

/// The containers that go on serving: those of the application, and native sidecars.
pub(super) fn serving(pod: &Pod) -> impl Iterator<Item = &Container> {
    let sidecars = pod.spec.init_containers.iter().filter(|container| is_sidecar(container));
    pod.spec.containers.iter().chain(sidecars)
}

pub(super) fn is_tcp(port: &ContainerPort) -> bool {
    port.protocol.as_deref().unwrap_or("TCP") == "TCP"
}

fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// Whether what comes for a port of an injected pod does not pass its proxy: its redirect rules say so. The proxy's own
/// admin port is always of these; without it no scraper in the mesh could read the sidecars' metrics.
fn bypasses(pod: &Pod, port: u16) -> bool {
    let init = pod.spec.init_containers.iter().filter(|container| container.name == INIT_CONTAINER);
    let mut lists = init.flat_map(|init| &init.args).filter_map(|arg| arg.strip_prefix(SKIP_INBOUND));
    port == PROXY_ADMIN_PORT || lists.any(|list| ports::name(list, port))
}

/// Whether of two pods that say they have an address it is `new`'s: one that stays before one that goes, then the later.
pub(super) fn takes_over(new: &Pod, before: &Pod) -> bool {
    let rank = |pod: &Pod| (pod.metadata.deletion_timestamp.is_none(), pod.metadata.creation_timestamp.clone());
    rank(new) >= rank(before)
}

/// Whether the pod has our sidecar. That cannot be changed on an existing pod.
fn has_sidecar(pod: &Pod) -> bool {
    let ours = |container: &&Container| container.name == PROXY_CONTAINER && is_sidecar(container);
    pod.spec.init_containers.iter().find(ours).is_some_and(|proxy| proxy.env.iter().any(|env| env.is_ours()))
}

/// Whether a pod whose manifest was written by hand says that it is in the mesh: `remora.dev/injected: "true"`.
fn says_injected(pod: &Pod) -> bool {
    let (annotations, labels) = (&pod.metadata.annotations, &pod.metadata.labels);
    annotations.get(INJECTED).or_else(|| labels.get(INJECTED)).is_some_and(|value| value == "true")
}

/// A pod is in the mesh if it has our sidecar; in a manifest by hand it may also say where its proxy is, or that it was
/// injected. Of a pod of the Kubernetes API neither is believed: a user who may change its labels could make its peers speak
/// plaintext to it, or stop speaking to it.
pub(super) fn membership(pod: &Pod, trust_domain: &TrustDomain) -> Result<Membership, String> {
    let by_hand = pod.metadata.by_hand();
    // The redirect rules would be the node's, so no pod in its network is ever injected, whatever it says of itself.
    let injected = (has_sidecar(pod) || by_hand && says_injected(pod)) && !pod.spec.host_network;
    let proxy = pod.metadata.annotations.get(PROXY_ADDRESS).filter(|_| by_hand);
    if !injected && proxy.is_none() {
        return Ok(Membership::Outside);
    }
    let account = pod.spec.service_account_name.as_deref().unwrap_or("default");
    let identity = SpiffeId::workload(trust_domain, &pod.metadata.namespace, account)
        .map_err(|error| format!("spec.serviceAccountName: {account:?} makes no identity: {error}"))?;
    let proxy = proxy.map(|text| {
        text.parse().map_err(|_| format!("metadata.annotations: {PROXY_ADDRESS}: {text:?} is not of the form ip:port"))
    });
    Ok(Membership::Inside { identity, proxy: proxy.transpose()? })
}
