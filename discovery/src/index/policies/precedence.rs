//! What other policies of its kind take from a policy at one of its targets, in words for its status. What holds is decided where
//! it is needed (`inbound`, `settings`), by the same levels and the same seniority.
//!
//! | kind | several policies over one port | GEP-713 |
//! |--|--|--|
//! | AuthorizationPolicy | all of them hold: what any denies is denied, and of the rest what none allows | Custom |
//! | MeshTLSPolicy | the most specific; of equals the strict one, for a conflict opens nothing | Atomic Defaults |
//! | BackendPolicy | each setting as the most specific says it that says it; of equals the oldest | Patch Defaults |

use super::attach::Target;
use crate::{
    index::{
        Key, ObjectId, backend_id,
        derived::{Level, Place, ReadPolicy, Says, TlsMode},
        facts::Facts,
        settings,
    },
    objects::Object,
};
use remora_model::{BackendId, MtlsMode};
use std::{collections::BTreeSet, sync::Arc};

/// So many other policies are named.
const NAMES_MAX: usize = 4;
/// So many pods of a Service are looked at.
const PODS_MAX: usize = 64;

/// What other policies take from one, at a target.
#[derive(Debug, Default)]
pub(super) struct Beaten {
    /// Why nothing is left of it: another says something else of the very same, and both cannot be.
    pub(super) conflict: Option<String>,
    /// Which parts count no more, and by whom.
    pub(super) by: Vec<String>,
    /// Whether all of its parts do.
    pub(super) wholly: bool,
}

impl Facts {
    pub(super) fn beaten(&self, id: &ObjectId, object: &Object, target: &Target) -> Beaten {
        let Some(read) = self.read_policies.get(id) else { return Beaten::default() };
        match (&read.says, object) {
            (Says::MeshTls(TlsMode::DryRun), _) => Beaten::default(),
            (Says::MeshTls(mode), _) => self.other_mode(id, *mode == TlsMode::Strict, read, target),
            (Says::Backend(policy), _) => self.other_settings(id, &settings::said(&policy.spec), read, target),
            _ => Beaten::default(),
        }
    }

    fn other_mode(&self, id: &ObjectId, strict: bool, read: &ReadPolicy, target: &Target) -> Beaten {
        let differs = |other: &ReadPolicy| match other.says {
            Says::MeshTls(TlsMode::Strict) => !strict,
            Says::MeshTls(TlsMode::Permissive) => strict,
            _ => false,
        };
        let name = |other: &ObjectId| format!("{} {}/{}", other.kind, other.key.0, other.key.1);
        let conflict = self.equals(id, read, target).into_iter().find(|(_, other)| !strict && differs(other));
        let conflict = conflict
            .map(|(other, _)| format!("{} is Strict for the same, and of two the strict one counts", name(&other)));
        let more = self.more_specific(id, target).into_iter().filter(|(_, other)| differs(other));
        let mode = if strict { "Permissive" } else { "Strict" };
        let by = more.map(|(other, _)| format!("{} is more specific, and {mode}", name(&other)));
        let mut by = few(by);
        if !strict && conflict.is_none() && by.is_empty() {
            by.extend(self.stricter(target));
        }
        Beaten { conflict, by, wholly: false }
    }

    /// A pod of the target that takes no plaintext all the same: another policy is as specific, by another way to the pod. Of many
    /// pods some are looked at.
    fn stricter(&self, target: &Target) -> Option<String> {
        let service = |id: &BackendId| (id.namespace.to_string(), id.name.to_string());
        let pods: Vec<Key> = match &target.place {
            Place::Pod(pod) => vec![pod.clone()],
            Place::Service(key) => self.selected.get(key).take(PODS_MAX).cloned().collect(),
            Place::Port(id) => self.selected.get(&service(id)).take(PODS_MAX).cloned().collect(),
            Place::Namespace(_) | Place::Mesh => return None,
        };
        pods.iter().find_map(|key| {
            let pod = self.pods.get(key)?;
            let is_strict = |port: &&u16| {
                let ids = self.served_by(pod, **port);
                let concerned = self.places_over(Some(key), &ids).contains(&target.place);
                concerned && self.mtls(key, pod, &ids).0 == MtlsMode::Strict
            };
            let said = |port: &u16| {
                format!("port {port} of Pod {}/{} is Strict by another policy that is as specific", key.0, key.1)
            };
            self.declared(key, pod).0.iter().find(is_strict).map(said)
        })
    }

    fn other_settings(
        &self,
        id: &ObjectId,
        said: &BTreeSet<&'static str>,
        read: &ReadPolicy,
        target: &Target,
    ) -> Beaten {
        let shared = |other: &ReadPolicy| -> BTreeSet<&'static str> {
            let Says::Backend(policy) = &other.says else { return BTreeSet::new() };
            settings::said(&policy.spec).intersection(said).copied().collect()
        };
        let mine = self.seniority(id);
        let mut lost = BTreeSet::new();
        let mut by = Vec::new();
        for (other, read) in self.equals(id, read, target) {
            let fields = shared(&read);
            if fields.is_empty() || self.seniority(&other) > mine {
                continue;
            }
            let first =
                if self.seniority(&other).1 == mine.1 { "is as old and comes first by name" } else { "is older" };
            by.push(format!("BackendPolicy {}/{} {first}, and says {}", other.key.0, other.key.1, words(&fields)));
            lost.extend(fields);
        }
        for (other, read) in self.more_specific(id, target) {
            let fields = shared(&read);
            if !fields.is_empty() {
                let (namespace, name) = &other.key;
                by.push(format!("BackendPolicy {namespace}/{name} is more specific, and says {}", words(&fields)));
            }
        }
        let wholly = !said.is_empty() && lost == *said;
        Beaten { conflict: None, by: few(by.into_iter()), wholly }
    }

    /// The others at the same place, for the same pods.
    fn equals(&self, id: &ObjectId, read: &ReadPolicy, target: &Target) -> Vec<(ObjectId, Arc<ReadPolicy>)> {
        let all = self.policies_on.get(&(id.kind, target.place.clone())).filter(|other| *other != id);
        let read_of = |other: &ObjectId| Some((other.clone(), Arc::clone(self.read_policies.get(other)?)));
        all.filter_map(read_of).filter(|(_, other)| other.selector == read.selector).collect()
    }

    /// Those that are attached to a part of the target. To which pods a Service leads is not looked at, for pods come and go.
    fn more_specific(&self, id: &ObjectId, target: &Target) -> Vec<(ObjectId, Arc<ReadPolicy>)> {
        let read_of = |other: &ObjectId| Some((other.clone(), Arc::clone(self.read_policies.get(other)?)));
        let Some(own) = self.read_policies.get(id) else { return Vec::new() };
        let level = target.place.level(own.selector.as_ref());
        let is_more =
            |other: &ReadPolicy| other.places.keys().any(|place| place.level(other.selector.as_ref()) > level);
        match &target.place {
            Place::Service(key) => {
                let service = self.services.get(key);
                let ports = service.iter().flat_map(|service| &service.spec.ports).map(|port| port.port);
                let at = |port| (id.kind, Place::Port(backend_id(key, port)));
                ports.flat_map(|port| self.policies_on.get(&at(port)).filter_map(read_of).collect::<Vec<_>>()).collect()
            }
            Place::Namespace(_) if level == Level::Namespace && own.places.contains_key(&Place::Mesh) => {
                let other = |other: &&ObjectId| *other != id && other.key.0 != self.mesh.namespace;
                let elsewhere = self.policies_of.get(&id.kind).filter(other).filter_map(read_of);
                let here = self.policies_in.get(&(id.kind, id.key.0.clone())).filter_map(read_of);
                elsewhere.chain(here.filter(|(_, other)| is_more(other))).collect()
            }
            Place::Namespace(namespace) if level == Level::Namespace => {
                let all = self.policies_in.get(&(id.kind, namespace.clone())).filter_map(read_of);
                all.filter(|(_, other)| is_more(other)).collect()
            }
            _ => Vec::new(),
        }
    }
}

fn words(fields: &BTreeSet<&'static str>) -> String {
    fields.iter().copied().collect::<Vec<_>>().join(", ")
}

/// The first of many, each once, and how many there are beside.
fn few(all: impl Iterator<Item = String>) -> Vec<String> {
    let mut all: Vec<String> = all.collect::<BTreeSet<_>>().into_iter().collect();
    let more = all.len().saturating_sub(NAMES_MAX);
    if more > 0 {
        all.truncate(NAMES_MAX);
        all.push(format!("and {more} more"));
    }
    all
}
