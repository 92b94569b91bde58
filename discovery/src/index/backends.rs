//! Backends: one per Service port, with endpoints from EndpointSlices, or from pods where no slice names the Service.
//!
//! Which endpoints take traffic is what kube-proxy does: those that are ready; if none is, those that are shutting down
//! and still serve.

use super::{
    Key, backend_id,
    derived::Served,
    facts::Facts,
    is_external,
    pods::{is_tcp, serving},
    report, settings, values,
};
use crate::objects::core::{EndpointSlice, IntOrName, Pod, Service, ServicePort, SliceEndpoint};
use remora_api::convert::{ENDPOINTS_MAX, check};
use remora_model::{Backend, BackendId, Endpoint, Locality, Protocol};
use std::{
    collections::{BTreeMap, HashSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

/// An address of a Service port, ready or not.
struct Candidate<'a> {
    address: SocketAddr,
    pod: Option<&'a Pod>,
    zone: Option<&'a str>,
    node: Option<&'a str>,
    ready: bool,
    /// Not ready because it is shutting down, but still answering.
    lingering: bool,
}

impl Facts {
    /// Of the Service `key`, if there is one.
    pub(super) fn serve(&self, key: &Key) -> Served {
        let mut found = Served::default();
        let Some(service) = self.services.get(key).filter(|service| !is_external(service)) else { return found };
        let unknown = settings::locality(service)
            .err()
            .map(|e| report(&service.metadata, "Service", format!("{e}; clients prefer their zone")));
        found.reports.extend(unknown);
        let slices: Vec<&EndpointSlice> =
            self.slices_of.get(key).filter_map(|slice| self.slices.get(slice)).map(|slice| &**slice).collect();
        let selected: Vec<&Pod> =
            self.selected.get(key).filter_map(|pod| self.pods.get(pod)).map(|pod| &**pod).collect();
        found.named = names(&slices, &selected).collect();
        for port in service.spec.ports.iter().filter(|port| port.protocol.as_deref().unwrap_or("TCP") == "TCP") {
            let id = backend_id(key, port.port);
            let endpoints = self.endpoints(service, port, (&slices, &selected), &id, &mut found);
            let opaque = self.opaque(&service.metadata, port.port);
            let said = values::protocol(port.app_protocol.as_deref());
            let protocol = if opaque { Protocol::Opaque } else { said };
            let settings = self.settings(&id, service);
            let backend = Backend { id: id.clone(), protocol, settings, endpoints };
            if let Err(error) = check::backend(&backend) {
                let problem = format!("port {}: {error}; it is left out", port.port);
                found.reports.push(report(&service.metadata, "Service", problem));
                continue;
            }
            found.backends.insert(id, Arc::new(backend));
        }
        found.unseen.dedup();
        found
    }

    /// Makes what a Service leads to known, in place of what it led to before. Which endpoints are newly left out.
    pub(super) fn take_served(&mut self, key: &Key, mut now: Served) -> Vec<String> {
        let before = self.led.remove(key).unwrap_or_default();
        for id in before.backends.keys().filter(|id| !now.backends.contains_key(*id)) {
            self.backends.put(id.clone(), None);
            self.ports.put(id.clone(), None);
        }
        for (id, backend) in &now.backends {
            self.ports.put(id.clone(), Some(backend.protocol));
            self.backends.put(id.clone(), Some(Arc::clone(backend)));
        }
        self.served.replace(&before.served, &now.served);
        self.selecting.replace(&before.selecting, &now.selecting);
        let named = |name: &String| (key.clone(), name.clone());
        for name in before.named.keys().filter(|name| !now.named.contains_key(*name)) {
            self.named.put(named(name), None);
        }
        for (name, ip) in now.named.iter().filter(|(name, ip)| before.named.get(*name) != Some(*ip)) {
            self.named.put(named(name), Some(*ip));
        }
        let unseen = now.unseen.iter().filter(|line| !before.unseen.contains(line)).cloned().collect();
        now.reports = Vec::new();
        if now != Served::default() {
            self.led.insert(key.clone(), now);
        }
        unseen
    }

    /// Endpoints that are left out until their pod is known. In a cluster that passes by itself.
    pub(super) fn unseen(&self) -> Vec<String> {
        let mut all: Vec<String> = self.led.values().flat_map(|led| &led.unseen).cloned().collect();
        all.dedup();
        all
    }

    /// The endpoints of a Service's port that take traffic, from its slices, else from the pods that it selects.
    fn endpoints(
        &self,
        service: &Service,
        port: &ServicePort,
        (slices, selected): (&[&EndpointSlice], &[&Pod]),
        id: &BackendId,
        found: &mut Served,
    ) -> Vec<Endpoint> {
        let mut named = false;
        for pod in selected {
            let Some(number) = target_port(pod, port) else { continue };
            named = true;
            let pod = (pod.metadata.namespace.clone(), pod.metadata.name.clone());
            found.selecting.insert((pod, (number, id.clone())));
        }
        if !named && !selected.is_empty() && slices.is_empty() {
            let problem = format!("port {}: no pod has a port named {:?}", port.port, port.target_port);
            found.reports.push(report(&service.metadata, "Service", problem));
        }
        let mut candidates: Vec<Candidate<'_>> = if slices.is_empty() {
            selected.iter().flat_map(|pod| of_pod(pod, service, port)).collect()
        } else {
            slices.iter().flat_map(|slice| self.of_slice(slice, port, &mut found.unseen)).collect()
        };
        let served = |candidate: &Candidate<'_>| (candidate.address.ip(), (candidate.address.port(), id.clone()));
        found.served.extend(candidates.iter().map(served));
        one_address_each(&mut candidates, service);
        let mut endpoints = self.in_use(&candidates, settings::locality(service).unwrap_or_default());
        if endpoints.len() > ENDPOINTS_MAX {
            let count = endpoints.len();
            let problem = format!("port {}: of {count} endpoints only {ENDPOINTS_MAX} are sent", port.port);
            found.reports.push(report(&service.metadata, "Service", problem));
            endpoints.truncate(ENDPOINTS_MAX);
        }
        endpoints
    }

    fn of_slice<'a>(
        &'a self,
        slice: &'a EndpointSlice,
        port: &ServicePort,
        unseen: &mut Vec<String>,
    ) -> Vec<Candidate<'a>> {
        let same = |name: &Option<String>| name.as_deref().unwrap_or("") == port.name.as_deref().unwrap_or("");
        let Some(number) = slice.ports.iter().find(|p| same(&p.name)).and_then(|p| p.port).filter(|p| *p != 0) else {
            return Vec::new();
        };
        let candidate = |endpoint: &'a SliceEndpoint| {
            let ip = first_ip(endpoint)?;
            let target = endpoint.target_ref.as_ref().filter(|target| target.kind == "Pod");
            let named = target.map(|target| {
                (target.namespace.clone().unwrap_or_else(|| slice.metadata.namespace.clone()), target.name.clone())
            });
            if let (Some(target), Some(key)) = (target, &named)
                && !self.pods.get(key).is_some_and(|pod| same_object(&target.uid, &pod.metadata.uid))
            {
                // Whether it is meshed is unknown yet: plaintext might be a downgrade.
                let problem = format!("names Pod {}/{}, which is not there; it is left out", key.0, key.1);
                unseen.push(report(&slice.metadata, "EndpointSlice", problem));
                return None;
            }
            let key = named.or_else(|| self.pod_by_ip.get(&ip).cloned());
            let conditions = &endpoint.conditions;
            let ready = conditions.ready.unwrap_or(true);
            let pod = key.and_then(|key| self.pods.get(&key)).map(|pod| &**pod);
            let said = endpoint.node_name.as_deref();
            let of_node = || self.zones.get(said.filter(|_| pod.is_none())?).map(String::as_str);
            Some(Candidate {
                address: SocketAddr::new(ip, number),
                pod,
                zone: zone(endpoint).or_else(of_node),
                node: said.or_else(|| pod.and_then(node)),
                ready,
                lingering: conditions.serving.unwrap_or(ready) && conditions.terminating.unwrap_or(false),
            })
        };
        slice.endpoints.iter().filter_map(candidate).collect()
    }

    /// The endpoints that take traffic, in the order of addresses.
    fn in_use(&self, candidates: &[Candidate<'_>], locality: Locality) -> Vec<Endpoint> {
        let any_ready = candidates.iter().any(|candidate| candidate.ready);
        let used = candidates.iter().filter(|c| if any_ready { c.ready } else { c.lingering });
        let made = used.filter_map(|c| {
            // Names of nodes that nobody needs would only make messages longer.
            let node = if locality.needs_nodes() { c.node.map(Arc::from) } else { None };
            Some(Endpoint { node, ..self.endpoint(c.address, c.pod, c.zone)? })
        });
        let sent =
            made.filter(|endpoint| check::endpoint(endpoint).is_ok()).map(|endpoint| (endpoint.address, endpoint));
        sent.collect::<BTreeMap<_, _>>().into_values().collect()
    }
}

fn node(pod: &Pod) -> Option<&str> {
    pod.spec.node_name.as_deref()
}

/// Whether two names are of one object, as far as their owners say whom they mean.
fn same_object(wanted: &Option<String>, found: &Option<String>) -> bool {
    wanted.is_none() || found.is_none() || wanted == found
}

/// Whose endpoint it is among zones: where Kubernetes gave it to one, that one's; else its own.
fn zone(endpoint: &SliceEndpoint) -> Option<&str> {
    let hinted = endpoint.hints.as_ref().and_then(|hints| hints.for_zones.first()).map(|zone| &zone.name);
    hinted.or(endpoint.zone.as_ref()).map(String::as_str)
}

/// Of a pod with addresses of both families only the one of the Service's own family, or it would count twice.
fn one_address_each(candidates: &mut Vec<Candidate<'_>>, service: &Service) {
    let spec = &service.spec;
    let ip = spec.cluster_ips.iter().chain(&spec.cluster_ip).find_map(|ip| ip.parse::<IpAddr>().ok());
    let first = ip.is_none_or(|ip| ip.is_ipv4());
    let name = |candidate: &Candidate<'_>| candidate.pod.map(std::ptr::from_ref);
    let preferred = candidates.iter().filter(|candidate| candidate.address.is_ipv4() == first);
    let pods: HashSet<_> = preferred.filter_map(name).collect();
    candidates.retain(|candidate| {
        candidate.address.is_ipv4() == first || name(candidate).is_none_or(|pod| !pods.contains(&pod))
    });
}

/// The addresses of one endpoint are interchangeable; the first stands for all.
fn first_ip(endpoint: &SliceEndpoint) -> Option<IpAddr> {
    endpoint.addresses.iter().find_map(|ip| ip.parse().ok())
}

/// The names under which a headless Service's endpoints are known one by one.
fn names<'a>(slices: &'a [&EndpointSlice], pods: &'a [&Pod]) -> impl Iterator<Item = (String, IpAddr)> + 'a {
    let endpoints = slices.iter().flat_map(|slice| &slice.endpoints).filter_map(|endpoint| {
        let name = endpoint.hostname.as_ref().or_else(|| endpoint.target_ref.as_ref().map(|t| &t.name))?;
        Some((name.clone(), first_ip(endpoint)?))
    });
    let pods = pods.iter().filter_map(|pod| Some((pod.metadata.name.clone(), *values::pod_ips(pod).first()?)));
    pods.chain(endpoints)
}

/// A pod as the endpoint controller would see it. Manifests by hand need not say that a pod is ready.
fn of_pod<'a>(pod: &'a Pod, service: &Service, port: &ServicePort) -> Vec<Candidate<'a>> {
    let Some(number) = target_port(pod, port) else { return Vec::new() };
    let passes = pod.status.conditions.iter().all(|c| c.kind != "Ready" || c.status == "True");
    let terminating = pod.metadata.deletion_timestamp.is_some();
    let ready = service.spec.publish_not_ready_addresses || (passes && !terminating);
    let candidate = |ip| Candidate {
        address: SocketAddr::new(ip, number),
        pod: Some(pod),
        zone: None,
        node: node(pod),
        ready,
        lingering: passes && terminating,
    };
    values::pod_ips(pod).into_iter().map(candidate).collect()
}

fn target_port(pod: &Pod, port: &ServicePort) -> Option<u16> {
    match &port.target_port {
        // The API server makes 0 the Service's own.
        None | Some(IntOrName::Number(0)) => Some(port.port).filter(|p| *p != 0),
        Some(IntOrName::Number(number)) => Some(*number),
        Some(IntOrName::Name(name)) => {
            let mut ports = serving(pod).flat_map(|container| &container.ports);
            ports.find(|p| p.name.as_ref() == Some(name) && is_tcp(p)).map(|p| p.container_port).filter(|p| *p != 0)
        }
    }
}
