//! Pods: where they are, and whether and as whom they are in the mesh.

use super::{Snapshot, report, values};
use crate::objects::Metadata;
use crate::objects::core::{OPAQUE_PORTS, PROXY_ADDRESS, Pod, SKIP_INBOUND, ZONE};
use remora_kube::names::{INIT_CONTAINER, INJECTED, PROXY_ADMIN_PORT};
use remora_model::{Backend, BackendId, BackendSettings, Endpoint, Protocol, SpiffeId, TrustDomain};
use std::net::SocketAddr;

/// Whether a pod is in the mesh.
#[derive(Debug)]
pub(super) enum Membership {
    /// Without a proxy: reached in plaintext.
    Outside,
    Inside {
        identity: SpiffeId,
        proxy: Option<SocketAddr>,
    },
    /// In the mesh, but nobody can say as whom or where: not reached at all, for plaintext would be a downgrade.
    Unclear,
}

impl Snapshot {
    pub(super) fn index_pods(&mut self) {
        for (key, pod) in &self.pods {
            // A node's address is not the pod's alone.
            let ips = if pod.spec.host_network { Vec::new() } else { values::pod_ips(pod) };
            for ip in ips {
                let holder = self.pod_by_ip.entry(ip).or_insert_with(|| key.clone());
                if self.pods.get(holder).is_none_or(|before| takes_over(pod, before)) {
                    holder.clone_from(key);
                }
            }
            let membership = membership(pod, &self.mesh.trust_domain).unwrap_or_else(|problem| {
                self.reports.push(report(&pod.metadata, "Pod", format!("{problem}; it is left out")));
                Membership::Unclear
            });
            self.membership.insert(key.clone(), membership);
        }
    }

    /// The endpoint at `address`, which `pod` has. `None`: it cannot be told who must answer there.
    pub(super) fn endpoint(&self, address: SocketAddr, pod: Option<&Pod>, zone: Option<&str>) -> Option<Endpoint> {
        let key = pod.map(|pod| (pod.metadata.namespace.clone(), pod.metadata.name.clone()));
        let (identity, proxy) = match key.as_ref().and_then(|key| self.membership.get(key)) {
            None | Some(Membership::Outside) => (None, None),
            Some(Membership::Inside { proxy: None, .. }) if pod.is_some_and(|pod| bypasses(pod, address.port())) => {
                (None, None)
            }
            Some(Membership::Inside { identity, proxy }) => (Some(identity.clone()), *proxy),
            Some(Membership::Unclear) => return None,
        };
        let own = pod.and_then(|pod| self.zone_of(pod));
        Some(Endpoint {
            address,
            identity,
            proxy,
            weight: 1,
            zone: zone.or(own).unwrap_or_default().into(),
            pod: key.map(|(namespace, name)| format!("{namespace}/{name}")).unwrap_or_default().into(),
        })
    }

    /// The zone of a proxy's own pod.
    pub fn zone(&self, namespace: &str, pod: &str) -> Option<&str> {
        self.zone_of(self.pods.get(&(namespace.to_owned(), pod.to_owned()))?)
    }

    fn zone_of<'a>(&'a self, pod: &'a Pod) -> Option<&'a str> {
        let node = pod.spec.node_name.as_ref().and_then(|node| self.zones.get(node));
        node.or_else(|| pod.metadata.labels.get(ZONE)).map(String::as_str)
    }

    /// Whether an object's own word, or without one its namespace's, makes a port opaque.
    pub(super) fn opaque(&self, meta: &Metadata, port: u16) -> bool {
        let list = meta.annotations.get(OPAQUE_PORTS).or_else(|| self.opaque.get(&meta.namespace));
        values::names_port(list, port)
    }

    /// A pod reached by its own address. What it speaks is what the Services say that it serves.
    pub(super) fn pod_as_backend(&self, id: &BackendId, name: &str) -> Option<Backend> {
        let pod = self.pods.get(&(id.namespace.to_string(), name.to_owned()))?;
        let addresses = values::pod_ips(pod).into_iter().map(|ip| SocketAddr::new(ip, id.port));
        let endpoints = addresses.filter_map(|address| self.endpoint(address, Some(pod), None)).collect();
        let protocol = self.protocol_at(pod, id.port);
        Some(Backend { id: id.clone(), protocol, settings: BackendSettings::default(), endpoints })
    }

    /// The Services' ports that a pod's port serves; one with an address before one without: that is how clients call it.
    pub(super) fn served_by(&self, pod: &Pod, port: u16) -> Vec<&BackendId> {
        let addresses = values::pod_ips(pod).into_iter().map(|ip| SocketAddr::new(ip, port));
        let ids = addresses.filter_map(|address| self.served.get(&address)).flatten();
        let mut ids: Vec<&BackendId> = ids.filter(|id| *id.namespace == *pod.metadata.namespace).collect();
        ids.sort_by_key(|id| (!self.has_address(id), *id));
        ids.dedup();
        ids
    }

    /// What a pod's port speaks, where anybody says so.
    pub(super) fn protocol_at(&self, pod: &Pod, port: u16) -> Protocol {
        if self.opaque(&pod.metadata, port) {
            return Protocol::Opaque;
        }
        let said = self.served_by(pod, port).into_iter().filter_map(|id| self.backends.get(id));
        said.map(|known| known.backend.protocol).find(|said| *said != Protocol::Detect).unwrap_or_default()
    }

    fn has_address(&self, id: &BackendId) -> bool {
        let service = self.services.get(&(id.namespace.to_string(), id.name.to_string()));
        service.and_then(|s| s.spec.cluster_ip.as_deref()).is_some_and(|ip| ip != "None")
    }
}

/// Whether what comes for a port of an injected pod does not pass its proxy: its redirect rules say so. The proxy's own
/// admin port is always of these; without it no scraper in the mesh could read the sidecars' metrics.
fn bypasses(pod: &Pod, port: u16) -> bool {
    let init = pod.spec.init_containers.iter().filter(|container| container.name == INIT_CONTAINER);
    let mut lists = init.flat_map(|init| &init.args).filter_map(|arg| arg.strip_prefix(SKIP_INBOUND));
    port == PROXY_ADMIN_PORT || lists.any(|list| values::names_port(Some(&list.to_owned()), port))
}

/// Whether of two pods that say they have an address it is `new`'s: one that stays before one that goes, then the later.
fn takes_over(new: &Pod, before: &Pod) -> bool {
    let rank = |pod: &Pod| (pod.metadata.deletion_timestamp.is_none(), pod.metadata.creation_timestamp.clone());
    rank(new) >= rank(before)
}

/// A pod is in the mesh if it says where its proxy is, or that it was injected.
fn membership(pod: &Pod, trust_domain: &TrustDomain) -> Result<Membership, String> {
    let (annotations, labels) = (&pod.metadata.annotations, &pod.metadata.labels);
    let injected = annotations.get(INJECTED).or_else(|| labels.get(INJECTED)).is_some_and(|value| value == "true");
    let proxy = annotations.get(PROXY_ADDRESS);
    // The redirect rules would be the node's, so no pod in its network is ever injected, whatever it says of itself.
    let injected = injected && !pod.spec.host_network;
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
