//! What an object that came, changed or went makes of the facts that need no cell. Pure.
//!
//! Everything here costs what the object touches: its own addresses, labels, names. Two things look further, and happen
//! seldom: a Service with another selector is held against the pods of its namespace, and other ranges of the cluster's
//! addresses against all addresses.

use super::{
    Cell, Key, ObjectId,
    facts::{Facts, Label},
    graph::Graph,
    pods, values,
};
use crate::objects::{
    Object,
    core::{EndpointSlice, Pod, SERVICE_NAME, Service},
    routes::ReferenceGrant,
};
use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

/// What a change is made of.
pub(super) struct Taking<'a> {
    pub(super) facts: &'a mut Facts,
    pub(super) graph: &'a mut Graph<Cell>,
}

impl Taking<'_> {
    pub(super) fn pod(&mut self, key: Key, pod: Option<Arc<Pod>>) {
        let before = self.facts.pods.unnoted().get(&key).cloned();
        self.people(&key.0, before.is_some(), pod.is_some());
        if before.is_some() != pod.is_some() {
            let moved = self.facts.pods_moved.unnoted().get(&key.0).copied().unwrap_or_default();
            self.facts.pods_moved.put(key.0.clone(), Some(moved + 1));
        }
        let [were, are] = [&before, &pod].map(|pod| addresses(&key, pod.as_deref()));
        self.facts.node_ips.replace(&were.1, &are.1);
        self.facts.pods_at.replace(&were.0, &are.0);
        let [were_in, are_in] =
            [&before, &pod].map(|pod| pod.as_deref().map_or_else(BTreeSet::new, |pod| self.selectors_of(pod)));
        self.facts.selected.replace(&were_in, &are_in);
        self.facts.pods.put(key, pod);
        for ip in were.0.union(&are.0).map(|(ip, _)| *ip).collect::<BTreeSet<_>>() {
            let holder = self.facts.holder(ip);
            self.facts.pod_by_ip.put(ip, holder);
            self.stray(ip);
        }
    }

    /// The Services that select a pod, each with it.
    fn selectors_of(&self, pod: &Pod) -> BTreeSet<(Key, Key)> {
        let (namespace, labels) = (&pod.metadata.namespace, &pod.metadata.labels);
        let key = (namespace.clone(), pod.metadata.name.clone());
        let label = |(label, value): (&String, &String)| (namespace.clone(), label.clone(), value.clone());
        let services = labels.iter().filter_map(|entry| self.facts.by_label.get(&label(entry))).flatten();
        let services = services
            .filter(|service| self.facts.services.unnoted().get(*service).is_some_and(|service| selects(service, pod)));
        services.map(|service| (service.clone(), key.clone())).collect()
    }

    pub(super) fn service(&mut self, key: Key, service: Option<Arc<Service>>) {
        let before = self.facts.services.unnoted().get(&key).cloned();
        self.people(&key.0, before.is_some(), service.is_some());
        let selector = |service: &Option<Arc<Service>>| service.as_ref().map(|service| service.spec.selector.clone());
        if selector(&before) != selector(&service) {
            self.select(&key, before.as_deref(), service.as_deref());
        }
        let ips = |service: &Option<Arc<Service>>| -> BTreeSet<(IpAddr, Key)> {
            let ips = service.iter().flat_map(|service| cluster_ips(service).filter_map(|(_, ip)| ip));
            ips.map(|ip| (ip, key.clone())).collect()
        };
        let (were, are) = (ips(&before), ips(&service));
        self.facts.services_at.replace(&were, &are);
        self.facts.services.put(key.clone(), service);
        self.graph.wake(Cell::Service(key));
        for (ip, _) in were.union(&are) {
            let holder = self.facts.services_at.get(ip).next_back().cloned();
            self.facts.service_by_ip.put(*ip, holder);
            self.stray(*ip);
        }
    }

    fn select(&mut self, key: &Key, before: Option<&Service>, service: Option<&Service>) {
        let label = |service: Option<&Service>| -> Option<Label> {
            let (label, value) = service?.spec.selector.first_key_value()?;
            Some((key.0.clone(), label.clone(), value.clone()))
        };
        if let Some(label) = label(before)
            && let Some(services) = self.facts.by_label.get_mut(&label)
        {
            services.remove(key);
            if services.is_empty() {
                self.facts.by_label.remove(&label);
            }
        }
        if let Some(label) = label(service) {
            self.facts.by_label.entry(label).or_default().insert(key.clone());
        }
        let were: BTreeSet<(Key, Key)> = self.facts.selected.get(key).map(|pod| (key.clone(), pod.clone())).collect();
        let are = service.filter(|service| !service.spec.selector.is_empty()).map(|service| {
            let pods = self.facts.pods_in(&key.0).filter(|(_, pod)| selects(service, pod));
            pods.map(|(pod, _)| (key.clone(), pod.clone())).collect()
        });
        self.facts.selected.replace(&were, &are.unwrap_or_default());
    }

    pub(super) fn slice(&mut self, key: Key, slice: Option<Arc<EndpointSlice>>) {
        let of = |slice: Option<&Arc<EndpointSlice>>| -> BTreeSet<(Key, Key)> {
            let service = slice.and_then(|slice| slice.metadata.labels.get(SERVICE_NAME));
            service.map(|service| ((key.0.clone(), service.clone()), key.clone())).into_iter().collect()
        };
        let (were, are) = (of(self.facts.slices.unnoted().get(&key)), of(slice.as_ref()));
        self.facts.slices_of.replace(&were, &are);
        self.facts.slices.put(key, slice);
    }

    pub(super) fn grant(&mut self, key: Key, grant: Option<Arc<ReferenceGrant>>) {
        match grant.is_some() {
            true => self.facts.grants_in.add(&key.0, &key),
            false => self.facts.grants_in.remove(&key.0, &key),
        }
        self.facts.grants.put(key, grant);
    }

    /// Of any kind.
    pub(super) fn policy(&mut self, id: ObjectId, policy: Option<Object>) {
        let namespace = (id.kind, id.key.0.clone());
        if policy.is_some() {
            self.facts.policies_in.add(&namespace, &id);
            self.facts.policies_of.add(&id.kind, &id);
        } else {
            self.facts.policies_in.remove(&namespace, &id);
            self.facts.policies_of.remove(&id.kind, &id);
        }
        self.facts.policies.put(id.clone(), policy);
        self.graph.wake(Cell::PoliciesOf(id.key.0.clone()));
        self.graph.wake(Cell::Policy(id));
    }

    /// A pod or Service was, and is, in a namespace.
    fn people(&mut self, namespace: &str, was: bool, is: bool) {
        if was == is {
            return;
        }
        let there = self.facts.population.entry(namespace.to_owned()).or_default();
        *there = if is { *there + 1 } else { there.saturating_sub(1) };
        let there = *there > 0;
        if !there {
            self.facts.population.remove(namespace);
        }
        self.facts.peopled.put(namespace.to_owned(), there.then_some(()));
    }

    pub(super) fn ranged(&mut self, id: ObjectId, object: Option<Object>) {
        match object {
            Some(object) => drop(self.facts.ranged.insert(id, object)),
            None => drop(self.facts.ranged.remove(&id)),
        }
        self.graph.wake(Cell::Networks);
    }

    /// An address may have begun or ceased to be outside of the ranges.
    fn stray(&mut self, ip: IpAddr) {
        let stray = self.facts.is_known(ip) && !self.facts.is_ranged(ip);
        let changed = if stray { self.facts.strays.insert(ip) } else { self.facts.strays.remove(&ip) };
        if changed {
            self.graph.wake(Cell::Networks);
        }
    }
}

impl Facts {
    /// The pods of a namespace. Who depends on which there are reads `pods_moved` as well.
    pub(super) fn pods_in(&self, namespace: &str) -> impl Iterator<Item = (&Key, &Arc<Pod>)> {
        let all = self.pods.unnoted().range((namespace.to_owned(), String::new())..);
        all.take_while(move |(key, _)| key.0 == *namespace)
    }

    /// Whose address it is, of the pods that say they have it.
    fn holder(&self, ip: IpAddr) -> Option<Key> {
        let mut holder: Option<(&Key, &Pod)> = None;
        for key in self.pods_at.get(&ip) {
            let Some(pod) = self.pods.unnoted().get(key) else { continue };
            if holder.is_none_or(|(_, before)| pods::takes_over(pod, before)) {
                holder = Some((key, pod));
            }
        }
        holder.map(|(key, _)| key.clone())
    }
}

fn selects(service: &Service, pod: &Pod) -> bool {
    service.spec.selector.iter().all(|(label, value)| pod.metadata.labels.get(label) == Some(value))
}

/// Addresses and who has them.
type Held = BTreeSet<(IpAddr, Key)>;

/// The addresses of a pod: its own, or its node's.
fn addresses(key: &Key, pod: Option<&Pod>) -> (Held, Held) {
    let Some(pod) = pod else { return Default::default() };
    let ips = values::pod_ips(pod).into_iter().map(|ip| (ip, key.clone())).collect();
    // A node's address is not the pod's alone.
    if pod.spec.host_network { (BTreeSet::new(), ips) } else { (ips, BTreeSet::new()) }
}

/// The addresses of a Service as they are written, and as they are read.
pub(super) fn cluster_ips(service: &Service) -> impl Iterator<Item = (&str, Option<IpAddr>)> {
    let all = service.spec.cluster_ips.iter().chain(&service.spec.cluster_ip).map(String::as_str);
    all.filter(|ip| !matches!(*ip, "None" | "")).map(|ip| (ip, ip.parse().ok()))
}
