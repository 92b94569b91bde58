//! Where policies are attached, which of them is more specific, and which is older: the same for policies of every kind
//! (GEP-713).
//!
//! ```text
//!  mesh  >  namespace  >  Service, Pod, selector  >  port of a Service
//! ```
//!
//! The further to the right, the more specific. Of two at the same place the older comes first, then the one whose name does.

use crate::{
    index::{
        Key, ObjectId, backend_id,
        derived::{Hold, Level, Place},
        facts::Facts,
    },
    objects::{
        Metadata,
        core::ServicePort,
        names::is_subdomain,
        policy::{AnyPolicy, PolicyTarget, Selector, TargetKind, Targets},
    },
};
use remora_model::BackendId;
use serde_json::{Value, json};
use std::{cmp::Reverse, collections::BTreeMap};

/// Targets of one policy, and labels of a selector, as in the CRD.
const TARGETS_MAX: usize = 32;

/// A target of a policy, looked up.
#[derive(Debug)]
pub(super) struct Target {
    /// As the field of the policy: `spec.targetRefs[0]`. `None`: the policy names none.
    field: Option<String>,
    kind: TargetKind,
    pub(super) key: Key,
    pub(super) section: Option<String>,
    pub(super) place: Place,
    /// What of it is not there.
    pub(super) missing: Option<String>,
    /// Whether that is the port, not the Service.
    pub(super) lacks_port: bool,
}

impl Facts {
    /// Where a policy is attached, and what holds there of it.
    pub(super) fn places(&self, meta: &Metadata, policy: &dyn AnyPolicy) -> BTreeMap<Place, Hold> {
        let mut places = BTreeMap::new();
        for target in self.targets_of(meta, policy.targets()) {
            let is_wide = meta.namespace == self.mesh.namespace && policy.targets().selector.is_none();
            if target.kind == TargetKind::Namespace && is_wide {
                places.insert(Place::Mesh, Hold::Said);
            }
            // A port that its Service does not have: until it has, nothing of that Service is left open.
            let hold = if target.lacks_port { Hold::Closed } else { Hold::Said };
            places.entry(target.place).and_modify(|before| *before = hold.min(*before)).or_insert(hold);
        }
        places
    }

    /// The targets of a policy: as it names them, or its namespace. A pod is not looked for, for pods come and go.
    pub(super) fn targets_of(&self, meta: &Metadata, targets: Targets<'_>) -> Vec<Target> {
        let namespace = &meta.namespace;
        let own = || Target {
            field: None,
            kind: TargetKind::Namespace,
            key: (namespace.clone(), namespace.clone()),
            section: None,
            place: Place::Namespace(namespace.clone()),
            missing: None,
            lacks_port: false,
        };
        if targets.refs.is_empty() {
            return if targets.required { Vec::new() } else { vec![own()] };
        }
        let named = targets.refs.iter().enumerate().map(|(at, target)| {
            let field = Some(format!("spec.targetRefs[{at}]"));
            let key = (namespace.clone(), target.name.clone());
            let (place, missing) = match target.kind {
                // By whatever name: no other can be meant.
                TargetKind::Namespace => (Place::Namespace(namespace.clone()), None),
                TargetKind::Pod => (Place::Pod(key.clone()), None),
                TargetKind::Service => self.service_place(&key, target),
            };
            let section = target.section_name.clone();
            let lacks_port = section.is_some() && missing.is_some() && self.services.contains_key(&key);
            Target { field, kind: target.kind, key, section, place, missing, lacks_port }
        });
        named.collect()
    }

    fn service_place(&self, key: &Key, target: &PolicyTarget) -> (Place, Option<String>) {
        let name = || format!("Service {}/{}", key.0, key.1);
        let Some(service) = self.services.get(key) else {
            return (Place::Service(key.clone()), Some(format!("{} is not there; it holds once it is", name())));
        };
        let Some(section) = &target.section_name else { return (Place::Service(key.clone()), None) };
        let is_tcp = |port: &&ServicePort| port.protocol.as_deref().unwrap_or("TCP") == "TCP" && port.port != 0;
        let ports = || service.spec.ports.iter().filter(is_tcp);
        match ports().find(|port| port.name.as_ref() == Some(section)) {
            Some(port) => (Place::Port(backend_id(key, port.port)), None),
            None => {
                let names = ports().map(|port| port.name.as_deref().unwrap_or("(without a name)"));
                let names = names.collect::<Vec<_>>().join(", ");
                let problem = format!("{} has no TCP port of the name {section:?}, only {names}", name());
                (Place::Service(key.clone()), Some(problem))
            }
        }
    }

    /// Whether the pod of a target is there.
    pub(super) fn find_pod(&self, target: &mut Target) {
        if target.kind == TargetKind::Pod && !self.pods.contains_key(&target.key) {
            let (namespace, name) = &target.key;
            target.missing = Some(format!("Pod {namespace}/{name} is not there; it holds once it is"));
        }
    }

    /// All places at which a policy may be attached that concerns a pod, the Services' ports that lead to it, or both.
    pub(in crate::index) fn places_over(&self, pod: Option<&Key>, ids: &[&BackendId]) -> Vec<Place> {
        let service = |id: &&BackendId| (id.namespace.to_string(), id.name.to_string());
        let mut places: Vec<Place> = ids.iter().map(|id| Place::Port((*id).clone())).collect();
        places.extend(ids.iter().map(|id| Place::Service(service(id))));
        places.extend(pod.cloned().map(Place::Pod));
        let namespace = pod.map(|pod| pod.0.clone()).or_else(|| Some(ids.first()?.namespace.to_string()));
        places.extend(namespace.map(Place::Namespace));
        places.push(Place::Mesh);
        places
    }

    /// The rank among policies at the same place: whose is the least counts.
    pub(in crate::index) fn seniority(&self, id: &ObjectId) -> (bool, String, Key) {
        let created = self.policies.get(id).and_then(|policy| policy.metadata().creation_timestamp.clone());
        (created.is_none(), created.unwrap_or_default(), id.key.clone())
    }
}

impl Target {
    /// It in few words: `Service/api:http`.
    pub(super) fn short(&self) -> String {
        let section = self.section.iter().map(|section| format!(":{section}")).collect::<String>();
        format!("{:?}/{}{section}", self.kind, self.key.1)
    }

    /// As the `ancestorRef` of a status.
    pub(super) fn reference(&self) -> Value {
        let namespace = (self.kind != TargetKind::Namespace).then_some(&self.key.0);
        json!({
            "group": "",
            "kind": format!("{:?}", self.kind),
            "namespace": namespace,
            "name": self.key.1,
            "sectionName": self.section,
        })
    }

    /// The field of the policy that is to blame for what is missing.
    pub(super) fn field(&self) -> String {
        let field = self.field.as_deref().unwrap_or("spec");
        if self.lacks_port { format!("{field}.sectionName") } else { field.to_owned() }
    }
}

impl Place {
    /// How specific a policy at it is.
    pub(in crate::index) fn level(&self, selector: Option<&Selector>) -> Level {
        match self {
            Self::Mesh => Level::Mesh,
            Self::Namespace(_) if selector.is_none() => Level::Namespace,
            Self::Namespace(_) | Self::Service(_) | Self::Pod(_) => Level::Workload,
            Self::Port(_) => Level::Port,
        }
    }
}

/// The order in which the settings of policies are applied, the last of which counts: from the least specific, and of equals from the
/// youngest.
pub(in crate::index) fn order<A: Ord, T>(mut all: Vec<(Level, A, T)>) -> impl Iterator<Item = T> {
    all.sort_by(|one, other| (one.0, Reverse(&one.1)).cmp(&(other.0, Reverse(&other.1))));
    all.into_iter().map(|(_, _, settings)| settings)
}

/// What the CRD asks of targets and selectors, and what it cannot.
pub(in crate::index) fn check(namespace: &str, targets: Targets<'_>) -> Result<(), String> {
    targets.unknown.none().map_err(|e| format!("spec.{e}"))?;
    if targets.required && targets.refs.is_empty() {
        return Err("spec.targetRefs: is empty; it holds for nothing".to_owned());
    }
    if targets.refs.len() > TARGETS_MAX {
        return Err(format!(
            "spec.targetRefs: has {} entries, more than the {TARGETS_MAX} allowed",
            targets.refs.len()
        ));
    }
    for (i, target) in targets.refs.iter().enumerate() {
        one(namespace, target, targets.kinds).map_err(|e| format!("spec.targetRefs[{i}].{e}"))?;
    }
    targets.selector.map_or(Ok(()), selector)
}

fn one(namespace: &str, target: &PolicyTarget, kinds: &[TargetKind]) -> Result<(), String> {
    target.unknown.none()?;
    if !target.group.is_empty() {
        return Err(format!("group: {:?} is not the core group, which is empty", target.group));
    }
    if !kinds.contains(&target.kind) {
        return Err(format!("kind: {:?} cannot be meant here", target.kind));
    }
    if !is_subdomain(&target.name) {
        return Err(format!("name: {:?} is no name", target.name));
    }
    if target.kind == TargetKind::Namespace && target.name != namespace {
        return Err(format!("name: {:?} is not the policy's own namespace, {namespace:?}", target.name));
    }
    match &target.section_name {
        Some(_) if target.kind != TargetKind::Service => {
            Err("sectionName: only a Service has one: its ports".to_owned())
        }
        Some(section) if section.is_empty() => Err("sectionName: is empty; leave it out to mean all ports".to_owned()),
        _ => Ok(()),
    }
}

fn selector(selector: &Selector) -> Result<(), String> {
    selector.unknown.none().map_err(|e| format!("spec.selector.{e}"))?;
    match selector.match_labels.len() {
        0 => Err("spec.selector.matchLabels: is empty, which would select every pod".to_owned()),
        1..=TARGETS_MAX => Ok(()),
        more => Err(format!("spec.selector.matchLabels: has {more} entries, more than the {TARGETS_MAX} allowed")),
    }
}
