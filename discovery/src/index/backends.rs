//! Backends: one per Service port, with endpoints from EndpointSlices, or from pods where no slice names the Service.
//!
//! Which endpoints take traffic is what kube-proxy does: those that are ready; if none is, those that are shutting down
//! and still serve.

use super::{Key, Snapshot, Versioned, backend_id, is_external, report, values};
use crate::objects::Object;
use crate::objects::core::{
    EndpointSlice, IntOrName, OPAQUE_PORTS, Pod, SERVICE_NAME, Service, ServicePort, SliceEndpoint,
};
use crate::objects::policy::{BackendPolicy, TargetKind};
use remora_model::{Backend, BackendSettings, Endpoint, Protocol};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

/// An address of a Service port, ready or not.
struct Candidate<'a> {
    address: SocketAddr,
    pod: Option<&'a Pod>,
    zone: Option<&'a str>,
    ready: bool,
    /// Not ready because it is shutting down, but still answering.
    lingering: bool,
}

impl Snapshot {
    pub(super) fn index_backends(&mut self, objects: &[Object]) {
        let mut slices: BTreeMap<Key, Vec<&EndpointSlice>> = BTreeMap::new();
        let mut policies = Vec::new();
        for object in objects {
            match object {
                Object::EndpointSlice(slice) => {
                    if let Some(service) = slice.metadata.labels.get(SERVICE_NAME) {
                        slices.entry((slice.metadata.namespace.clone(), service.clone())).or_default().push(slice);
                    }
                }
                Object::BackendPolicy(policy) => policies.push(policy),
                _ => {}
            }
        }
        let (mut backends, mut served, mut named, mut reports) = (BTreeMap::new(), Vec::new(), Vec::new(), Vec::new());
        for (key, service) in self.services.iter().filter(|(_, service)| !is_external(service)) {
            let settings = settings(key, &policies, &mut reports);
            let own = slices.get(key).map_or(&[][..], Vec::as_slice);
            let selected: Vec<&Pod> = self.selected(key, service).collect();
            named.extend(names(own, &selected).map(|(name, ip)| ((key.clone(), name), ip)));
            for port in service.spec.ports.iter().filter(|port| port.protocol.as_deref().unwrap_or("TCP") == "TCP") {
                let id = backend_id(key, port.port);
                let mut candidates: Vec<Candidate<'_>> =
                    selected.iter().flat_map(|pod| of_pod(pod, service, port)).collect();
                served.extend(candidates.iter().map(|candidate| (candidate.address, id.clone())));
                if !own.is_empty() {
                    candidates = own.iter().flat_map(|slice| self.of_slice(slice, port, &mut reports)).collect();
                    served.extend(candidates.iter().map(|candidate| (candidate.address, id.clone())));
                }
                let opaque = values::names_port(service.metadata.annotations.get(OPAQUE_PORTS), port.port);
                let said = values::protocol(port.app_protocol.as_deref());
                let protocol = if opaque { Protocol::Opaque } else { said };
                let endpoints = self.in_use(&candidates);
                let backend = Backend { id: id.clone(), protocol, settings: settings.clone(), endpoints };
                backends.insert(id, Versioned::new(backend));
            }
        }
        self.backends = backends;
        self.named = named.into_iter().collect();
        for (address, id) in served {
            let ids = self.served.entry(address).or_default();
            if !ids.contains(&id) {
                ids.push(id);
            }
        }
        self.reports.append(&mut reports);
    }

    fn selected<'a>(&'a self, key: &'a Key, service: &'a Service) -> impl Iterator<Item = &'a Pod> {
        let selector = &service.spec.selector;
        self.pods.values().filter(move |pod| {
            !selector.is_empty()
                && pod.metadata.namespace == key.0
                && selector.iter().all(|(k, v)| pod.metadata.labels.get(k) == Some(v))
        })
    }

    fn of_slice<'a>(
        &'a self,
        slice: &'a EndpointSlice,
        port: &ServicePort,
        reports: &mut Vec<String>,
    ) -> Vec<Candidate<'a>> {
        let same = |name: &Option<String>| name.as_deref().unwrap_or("") == port.name.as_deref().unwrap_or("");
        let Some(number) = slice.ports.iter().find(|p| same(&p.name)).and_then(|p| p.port) else { return Vec::new() };
        let candidate = |endpoint: &'a SliceEndpoint| {
            let ip = first_ip(endpoint)?;
            let named = endpoint.target_ref.as_ref().filter(|target| target.kind == "Pod").map(|target| {
                (target.namespace.clone().unwrap_or_else(|| slice.metadata.namespace.clone()), target.name.clone())
            });
            if let Some((namespace, name)) = named.as_ref().filter(|key| !self.pods.contains_key(key)) {
                // Nobody can say yet whether it is in the mesh: plaintext might be a downgrade.
                let problem = format!("names Pod {namespace}/{name}, which is not there; it is left out");
                reports.push(report(&slice.metadata, "EndpointSlice", problem));
                return None;
            }
            let key = named.or_else(|| self.pod_by_ip.get(&ip).cloned());
            let conditions = &endpoint.conditions;
            let ready = conditions.ready.unwrap_or(true);
            Some(Candidate {
                address: SocketAddr::new(ip, number),
                pod: key.and_then(|key| self.pods.get(&key)),
                zone: endpoint.zone.as_deref(),
                ready,
                lingering: conditions.serving.unwrap_or(ready) && conditions.terminating.unwrap_or(false),
            })
        };
        slice.endpoints.iter().filter_map(candidate).collect()
    }

    /// The endpoints that take traffic, in the order of addresses.
    fn in_use(&self, candidates: &[Candidate<'_>]) -> Vec<Endpoint> {
        let any_ready = candidates.iter().any(|candidate| candidate.ready);
        let used = candidates.iter().filter(|c| if any_ready { c.ready } else { c.lingering });
        let made = used.filter_map(|c| Some((c.address, self.endpoint(c.address, c.pod, c.zone)?)));
        made.collect::<BTreeMap<_, _>>().into_values().collect()
    }
}

/// The addresses of one endpoint are interchangeable; the first stands for all.
fn first_ip(endpoint: &SliceEndpoint) -> Option<IpAddr> {
    endpoint.addresses.iter().find_map(|ip| ip.parse().ok())
}

/// The names under which a headless Service's endpoints are known one by one.
fn names(slices: &[&EndpointSlice], pods: &[&Pod]) -> impl Iterator<Item = (String, IpAddr)> {
    let endpoints = slices.iter().flat_map(|slice| &slice.endpoints).filter_map(|endpoint| {
        let name = endpoint.hostname.as_ref().or_else(|| endpoint.target_ref.as_ref().map(|t| &t.name))?;
        Some((name.clone(), first_ip(endpoint)?))
    });
    let pods = pods.iter().filter_map(|pod| Some((pod.metadata.name.clone(), *values::pod_ips(pod).first()?)));
    pods.chain(endpoints).collect::<Vec<_>>().into_iter()
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
        ready,
        lingering: passes && terminating,
    };
    values::pod_ips(pod).into_iter().map(candidate).collect()
}

fn target_port(pod: &Pod, port: &ServicePort) -> Option<u16> {
    match &port.target_port {
        None => Some(port.port),
        Some(IntOrName::Number(number)) => Some(*number),
        Some(IntOrName::Name(name)) => {
            let mut ports = pod.spec.containers.iter().chain(&pod.spec.init_containers).flat_map(|c| &c.ports);
            ports.find(|p| p.name.as_ref() == Some(name)).map(|p| p.container_port)
        }
    }
}

fn settings(key: &Key, policies: &[&BackendPolicy], reports: &mut Vec<String>) -> BackendSettings {
    let mut settings = BackendSettings::default();
    for policy in policies.iter().filter(|policy| policy.metadata.namespace == key.0) {
        let spec = &policy.spec;
        if !spec.target_refs.iter().any(|target| target.kind == TargetKind::Service && target.name == key.1) {
            continue;
        }
        let mut time = |field: &str, text: &Option<String>, into: &mut std::time::Duration| match text
            .as_deref()
            .map(values::duration)
        {
            Some(Ok(time)) => *into = time,
            Some(Err(e)) => reports.push(report(&policy.metadata, "BackendPolicy", format!("{field}: {e}"))),
            None => {}
        };
        let accrual = &mut settings.accrual;
        time("spec.accrual.backoffMin", &spec.accrual.backoff_min, &mut accrual.backoff_min);
        time("spec.accrual.backoffMax", &spec.accrual.backoff_max, &mut accrual.backoff_max);
        time("spec.connectTimeout", &spec.connect_timeout, &mut settings.connect_timeout);
        accrual.backoff_max = accrual.backoff_max.max(accrual.backoff_min);
        accrual.consecutive = spec.accrual.consecutive.unwrap_or(accrual.consecutive);
        accrual.minimum_requests = spec.accrual.minimum_requests.unwrap_or(accrual.minimum_requests);
        let share = |percent: u8| f32::from(percent.min(100)) / 100.0;
        accrual.success_rate = spec.accrual.success_rate.map_or(accrual.success_rate, share);
        settings.retry_ratio = spec.retry_budget.percent.map_or(settings.retry_ratio, share);
        settings.retries_per_second = spec.retry_budget.min_per_second.unwrap_or(settings.retries_per_second);
        settings.pending_max = spec.pending_max.unwrap_or(settings.pending_max);
    }
    settings
}
