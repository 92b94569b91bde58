//! Pods: where they are, and whether and as whom they are in the mesh.

use super::{Snapshot, report, values};
use crate::objects::core::{INJECTED, OPAQUE_PORTS, PROXY_ADDRESS, Pod, ZONE};
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
    pub(super) fn index_pods(&mut self, trust_domain: &TrustDomain) {
        for (key, pod) in &self.pods {
            for ip in values::pod_ips(pod) {
                self.pod_by_ip.insert(ip, key.clone());
            }
            let membership = membership(pod, trust_domain).unwrap_or_else(|problem| {
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
            Some(Membership::Inside { identity, proxy }) => (Some(identity.clone()), *proxy),
            Some(Membership::Unclear) => return None,
        };
        let label = pod.and_then(|pod| pod.metadata.labels.get(ZONE)).map(String::as_str);
        Some(Endpoint {
            address,
            identity,
            proxy,
            weight: 1,
            zone: zone.or(label).unwrap_or_default().into(),
            pod: key.map(|(namespace, name)| format!("{namespace}/{name}")).unwrap_or_default().into(),
        })
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
        if values::names_port(pod.metadata.annotations.get(OPAQUE_PORTS), port) {
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

/// A pod is in the mesh if it says where its proxy is, or that it was injected.
fn membership(pod: &Pod, trust_domain: &TrustDomain) -> Result<Membership, String> {
    let annotations = &pod.metadata.annotations;
    let injected = annotations.get(INJECTED).is_some_and(|value| value == "true");
    let proxy = annotations.get(PROXY_ADDRESS);
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
