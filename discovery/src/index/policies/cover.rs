//! What a policy does not do, though its user may think so: ports that a Service target leaves open, callers whom a deny
//! rule by identity lets pass. Said in the policy's status.

use super::attach::Target;
use crate::{
    index::{Key, derived::Place, facts::Facts, pods},
    objects::{Metadata, policy::Selector},
};
use remora_model::{BackendId, MtlsMode};
use std::collections::BTreeSet;

/// The ports of a Service's pods.
#[derive(Default)]
struct Ports {
    /// That the Service leads to.
    covered: BTreeSet<u16>,
    /// That the pods declare.
    declared: BTreeSet<u16>,
}

impl Facts {
    /// Notes which declared ports of a target Service's pods a policy leaves out.
    pub(super) fn uncovered(&self, targets: &[Target], notes: &mut Vec<String>) {
        for target in targets {
            let Place::Service(service) = &target.place else { continue };
            let ports = self.ports_of(service);
            let open: Vec<String> = ports.declared.difference(&ports.covered).map(ToString::to_string).collect();
            if !open.is_empty() {
                let covered: Vec<String> = ports.covered.iter().map(ToString::to_string).collect();
                let (name, covered, open) = (&service.1, covered.join(", "), open.join(", "));
                let said = format!("pod ports {covered}, not {open}, which its pods have too; a selector covers all");
                notes.push(format!("Service {name}: {said}"));
            }
        }
    }

    fn ports_of(&self, service: &Key) -> Ports {
        let mut ports = Ports::default();
        for pod in self.selected.get(service) {
            let own = |(_, id): &&(u16, BackendId)| *id.name == *service.1 && *id.namespace == *service.0;
            let covered: Vec<u16> = self.selecting.get(pod).filter(own).map(|(port, _)| *port).collect();
            if !covered.is_empty() {
                ports.covered.extend(covered);
                ports.declared.extend(self.pods.get(pod).into_iter().flat_map(|pod| pods::container_ports(pod)));
            }
        }
        ports
    }

    /// Why a deny rule that ignores callers without identity does not hold: some workload that it selects takes plaintext. Of
    /// a policy of the whole mesh only the pods of its own namespace are looked at.
    pub(super) fn permissive(
        &self,
        meta: &Metadata,
        targets: &[Target],
        selector: Option<&Selector>,
    ) -> Option<String> {
        self.pods_moved.get(&meta.namespace);
        for (key, _) in self.pods_in(&meta.namespace) {
            let Some(pod) = self.pods.get(key).filter(|pod| self.is_member(pod)) else { continue };
            if !selector.is_none_or(|selector| selector.selects(pod)) {
                continue;
            }
            for port in self.declared(key, pod).0.into_iter().chain([0]) {
                let ids = self.served_by(pod, port);
                let over = self.places_over(Some(key), &ids);
                let named = targets.iter().any(|target| over.contains(&target.place));
                if named && self.mtls(key, pod, &ids).0 == MtlsMode::Permissive {
                    let takes = "takes plaintext, whose callers have no identity and so pass rules that ignore them";
                    return Some(format!(
                        "Pod {}/{} {takes}: make it Strict, or leave `unidentified` out",
                        key.0, key.1
                    ));
                }
            }
        }
        None
    }
}
