//! Backends: one per Service port, with endpoints from EndpointSlices, or from pods where no slice names the Service.
//!
//! Which endpoints take traffic is what kube-proxy does: those that are ready; if none is, those that are shutting down
//! and still serve.

use super::{Key, Snapshot, Versioned, backend_id, is_external, report, values};
use crate::objects::Object;
use crate::objects::core::{
    ContainerPort, EndpointSlice, IntOrName, Pod, SERVICE_NAME, Service, ServicePort, SliceEndpoint,
};
use crate::objects::policy::{BackendPolicy, TargetKind};
use remora_model::{Backend, BackendSettings, Endpoint, Protocol};
use std::collections::{BTreeMap, HashMap, HashSet};
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
    pub(super) fn index_backends(&mut self, objects: &[Object], before: Option<&Self>) {
        let mut slices: BTreeMap<Key, Vec<&EndpointSlice>> = BTreeMap::new();
        let mut policies: Vec<&BackendPolicy> = Vec::new();
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
        let selected = self.selected();
        let (mut backends, mut served, mut named) = (BTreeMap::new(), Vec::new(), Vec::new());
        let (mut reports, mut unseen) = (Vec::new(), Vec::new());
        for (key, service) in self.services.iter().filter(|(_, service)| !is_external(service)) {
            let mut settings = settings(key, &policies, &mut reports);
            settings.session_affinity = service.spec.session_affinity.as_deref() == Some("ClientIP");
            let own = slices.get(key).map_or(&[][..], Vec::as_slice);
            let selected = selected.get(key).map_or(&[][..], Vec::as_slice);
            named.extend(names(own, selected).map(|(name, ip)| ((key.clone(), name), ip)));
            for port in service.spec.ports.iter().filter(|port| port.protocol.as_deref().unwrap_or("TCP") == "TCP") {
                let id = backend_id(key, port.port);
                let mut candidates: Vec<Candidate<'_>> =
                    selected.iter().flat_map(|pod| of_pod(pod, service, port)).collect();
                served.extend(candidates.iter().map(|candidate| (candidate.address, id.clone())));
                if !own.is_empty() {
                    candidates = own.iter().flat_map(|slice| self.of_slice(slice, port, &mut unseen)).collect();
                    served.extend(candidates.iter().map(|candidate| (candidate.address, id.clone())));
                }
                one_address_each(&mut candidates, service);
                let opaque = self.opaque(&service.metadata, port.port);
                let said = values::protocol(port.app_protocol.as_deref());
                let protocol = if opaque { Protocol::Opaque } else { said };
                let endpoints = self.in_use(&candidates);
                let backend = Backend { id: id.clone(), protocol, settings: settings.clone(), endpoints };
                let known = before.and_then(|before| before.backends.get(&id));
                let known = known.filter(|known| *known.backend == backend).cloned();
                backends.insert(id, known.unwrap_or_else(|| Versioned::new(backend)));
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
        unseen.dedup();
        self.unseen = unseen;
    }

    /// The pods that each Service selects. Services are found by the first label that they select by, so that a pod is
    /// held against few of them.
    fn selected(&self) -> HashMap<&Key, Vec<&Pod>> {
        /// Namespace, name of the label, its value.
        type Label<'a> = (&'a str, &'a str, &'a str);
        let mut by_label: HashMap<Label<'_>, Vec<(&Key, &Service)>> = HashMap::new();
        for (key, service) in &self.services {
            if let Some((label, value)) = service.spec.selector.first_key_value() {
                by_label.entry((&key.0, label, value)).or_default().push((key, service));
            }
        }
        let mut selected: HashMap<&Key, Vec<&Pod>> = HashMap::new();
        for ((namespace, _), pod) in &self.pods {
            let labels = &pod.metadata.labels;
            let services = labels.iter().filter_map(|(label, value)| by_label.get(&(&**namespace, &**label, &**value)));
            for (key, service) in services.flatten() {
                if service.spec.selector.iter().all(|(k, v)| labels.get(k) == Some(v)) {
                    selected.entry(key).or_default().push(pod);
                }
            }
        }
        selected
    }

    fn of_slice<'a>(
        &'a self,
        slice: &'a EndpointSlice,
        port: &ServicePort,
        unseen: &mut Vec<String>,
    ) -> Vec<Candidate<'a>> {
        let same = |name: &Option<String>| name.as_deref().unwrap_or("") == port.name.as_deref().unwrap_or("");
        let Some(number) = slice.ports.iter().find(|p| same(&p.name)).and_then(|p| p.port) else { return Vec::new() };
        let candidate = |endpoint: &'a SliceEndpoint| {
            let ip = first_ip(endpoint)?;
            let target = endpoint.target_ref.as_ref().filter(|target| target.kind == "Pod");
            let named = target.map(|target| {
                (target.namespace.clone().unwrap_or_else(|| slice.metadata.namespace.clone()), target.name.clone())
            });
            if let (Some(target), Some(key)) = (target, &named)
                && !self.pods.get(key).is_some_and(|pod| same_object(&target.uid, &pod.metadata.uid))
            {
                // Nobody can say yet whether it is in the mesh: plaintext might be a downgrade.
                let problem = format!("names Pod {}/{}, which is not there; it is left out", key.0, key.1);
                unseen.push(report(&slice.metadata, "EndpointSlice", problem));
                return None;
            }
            let key = named.or_else(|| self.pod_by_ip.get(&ip).cloned());
            let conditions = &endpoint.conditions;
            let ready = conditions.ready.unwrap_or(true);
            Some(Candidate {
                address: SocketAddr::new(ip, number),
                pod: key.and_then(|key| self.pods.get(&key)).map(|pod| &**pod),
                zone: zone(endpoint),
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
            let sidecars = pod.spec.init_containers.iter().filter(|c| c.restart_policy.as_deref() == Some("Always"));
            let mut ports = pod.spec.containers.iter().chain(sidecars).flat_map(|c| &c.ports);
            let tcp = |p: &ContainerPort| p.protocol.as_deref().unwrap_or("TCP") == "TCP";
            ports.find(|p| p.name.as_ref() == Some(name) && tcp(p)).map(|p| p.container_port)
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
