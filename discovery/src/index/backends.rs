//! Backends: one per Service port, with endpoints from EndpointSlices, or from pods where no slice names the Service.

use super::{Key, Snapshot, backend_id, values};
use crate::objects::Object;
use crate::objects::core::{
    EndpointSlice, INJECTED, IntOrName, OPAQUE_PORTS, PROXY_ADDRESS, Pod, SERVICE_NAME, Service, ServicePort, ZONE,
};
use crate::objects::policy::{BackendPolicy, TargetKind};
use remora_model::{Backend, BackendId, BackendSettings, Endpoint, Protocol, SpiffeId};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

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
        for (key, service) in &self.services {
            if service.spec.kind.as_deref() == Some("ExternalName") {
                continue;
            }
            let settings = settings(key, &policies, &mut self.reports);
            let own = slices.get(key).map_or(&[][..], Vec::as_slice);
            for slice in own {
                for endpoint in &slice.endpoints {
                    let name = endpoint.hostname.as_ref().or_else(|| endpoint.target_ref.as_ref().map(|t| &t.name));
                    let ip = endpoint.addresses.first().and_then(|ip| ip.parse().ok());
                    if let Some((name, ip)) = name.zip(ip) {
                        self.named.insert((key.clone(), name.clone()), ip);
                    }
                }
            }
            for port in service.spec.ports.iter().filter(|port| port.protocol.as_deref().unwrap_or("TCP") == "TCP") {
                let mut endpoints: BTreeMap<SocketAddr, Endpoint> = BTreeMap::new();
                if own.is_empty() {
                    self.add_pods(key, service, port, &mut endpoints);
                }
                for slice in own {
                    self.add_slice(slice, port, &mut endpoints);
                }
                let id = backend_id(key, port.port);
                for address in endpoints.keys() {
                    self.served.entry(*address).or_default().push(id.clone());
                }
                let opaque = values::names_port(service.metadata.annotations.get(OPAQUE_PORTS), port.port);
                let said = values::protocol(port.app_protocol.as_deref());
                let protocol = if opaque { Protocol::Opaque } else { said };
                let endpoints = endpoints.into_values().collect();
                let backend = Backend { id: id.clone(), protocol, settings: settings.clone(), endpoints };
                self.backends.insert(id, Arc::new(backend));
            }
        }
    }

    fn add_slice(&self, slice: &EndpointSlice, port: &ServicePort, into: &mut BTreeMap<SocketAddr, Endpoint>) {
        let same = |name: &Option<String>| name.as_deref().unwrap_or("") == port.name.as_deref().unwrap_or("");
        let Some(number) = slice.ports.iter().find(|p| same(&p.name)).and_then(|p| p.port) else { return };
        for endpoint in &slice.endpoints {
            let conditions = &endpoint.conditions;
            if !conditions.ready.unwrap_or(true) || conditions.terminating.unwrap_or(false) {
                continue;
            }
            for ip in endpoint.addresses.iter().filter_map(|ip| ip.parse::<IpAddr>().ok()) {
                let named = endpoint.target_ref.as_ref().filter(|target| target.kind == "Pod").map(|target| {
                    (target.namespace.clone().unwrap_or_else(|| slice.metadata.namespace.clone()), target.name.clone())
                });
                let key = named.or_else(|| self.pod_by_ip.get(&ip).cloned());
                let pod = key.as_ref().and_then(|key| self.pods.get(key));
                let address = SocketAddr::new(ip, number);
                into.insert(address, self.endpoint(address, pod, endpoint.zone.as_deref()));
            }
        }
    }

    fn add_pods(&self, key: &Key, service: &Service, port: &ServicePort, into: &mut BTreeMap<SocketAddr, Endpoint>) {
        if service.spec.selector.is_empty() {
            return;
        }
        let selected = |pod: &&Pod| {
            pod.metadata.namespace == key.0
                && service.spec.selector.iter().all(|(k, v)| pod.metadata.labels.get(k) == Some(v))
                && pod.status.conditions.iter().all(|c| c.kind != "Ready" || c.status == "True")
        };
        for pod in self.pods.values().filter(selected) {
            let Some(number) = target_port(pod, port) else { continue };
            for ip in values::pod_ips(pod) {
                let address = SocketAddr::new(ip, number);
                into.insert(address, self.endpoint(address, Some(pod), None));
            }
        }
    }

    fn endpoint(&self, address: SocketAddr, pod: Option<&Pod>, zone: Option<&str>) -> Endpoint {
        let label = pod.and_then(|pod| pod.metadata.labels.get(ZONE)).map(String::as_str);
        Endpoint {
            address,
            identity: pod.and_then(|pod| self.identity(pod)),
            proxy: pod.and_then(|pod| pod.metadata.annotations.get(PROXY_ADDRESS)).and_then(|a| a.parse().ok()),
            weight: 1,
            zone: zone.or(label).unwrap_or_default().into(),
            pod: pod.map(|pod| format!("{}/{}", pod.metadata.namespace, pod.metadata.name)).unwrap_or_default().into(),
        }
    }

    /// A pod is in the mesh if it says where its proxy is, or that it was injected.
    fn identity(&self, pod: &Pod) -> Option<SpiffeId> {
        let annotations = &pod.metadata.annotations;
        let injected = annotations.get(INJECTED).is_some_and(|value| value == "true");
        if !injected && !annotations.contains_key(PROXY_ADDRESS) {
            return None;
        }
        let account = pod.spec.service_account_name.as_deref().unwrap_or("default");
        SpiffeId::workload(self.trust_domain.as_ref()?, &pod.metadata.namespace, account).ok()
    }

    /// A pod reached by its own address.
    pub(super) fn pod_as_backend(&self, id: &BackendId, name: &str) -> Option<Backend> {
        let pod = self.pods.get(&(id.namespace.to_string(), name.to_owned()))?;
        let opaque = values::names_port(pod.metadata.annotations.get(OPAQUE_PORTS), id.port);
        let protocol = if opaque { Protocol::Opaque } else { Protocol::Detect };
        let addresses = values::pod_ips(pod).into_iter().map(|ip| SocketAddr::new(ip, id.port));
        let endpoints = addresses.map(|address| self.endpoint(address, Some(pod), None)).collect();
        Some(Backend { id: id.clone(), protocol, settings: BackendSettings::default(), endpoints })
    }
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
            Some(Err(e)) => reports.push(format!("BackendPolicy {}/{}: {field}: {e}", key.0, policy.metadata.name)),
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
