//! What a policy does not do, though its user may think so: ports that a Service target leaves open, callers whom a deny
//! rule by identity lets pass. Said in the policy's status.

use crate::{
    index::{Key, derived::Authorization, facts::Facts, pods, status::Findings},
    objects::policy::{PolicyTarget, TargetKind},
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
    pub(super) fn uncovered(&self, namespace: &str, targets: &[PolicyTarget], found: &mut Findings) {
        for target in targets.iter().filter(|target| target.kind == TargetKind::Service) {
            let ports = self.ports_of(&(namespace.to_owned(), target.name.clone()));
            let open: Vec<String> = ports.declared.difference(&ports.covered).map(ToString::to_string).collect();
            if !open.is_empty() {
                let covered: Vec<String> = ports.covered.iter().map(ToString::to_string).collect();
                let (name, covered, open) = (&target.name, covered.join(", "), open.join(", "));
                let said = format!("pod ports {covered}, not {open}, which its pods have too; a selector covers all");
                found.notes.push(format!("Service {name}: {said}"));
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

    /// Why a deny rule that ignores callers without identity does not hold: some workload that it selects takes plaintext.
    pub(super) fn permissive(
        &self,
        namespace: &str,
        targets: &[PolicyTarget],
        policy: &Authorization,
    ) -> Option<String> {
        self.pods_moved.get(namespace);
        for (key, _) in self.pods_in(namespace) {
            let Some(pod) = self.pods.get(key).filter(|pod| self.is_member(pod)) else { continue };
            for port in self.declared(key, pod).0.into_iter().chain([0]) {
                let ids = self.served_by(pod, port);
                let named = targets.is_empty() || names(targets, &key.1, &ids);
                if named && policy.selects(pod) && self.mtls(key, &ids) == MtlsMode::Permissive {
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

/// Whether targets name the pod, or a Service among `ids`.
fn names(targets: &[PolicyTarget], pod: &str, ids: &[&BackendId]) -> bool {
    targets.iter().any(|target| match target.kind {
        TargetKind::Pod => target.name == pod,
        TargetKind::Service => ids.iter().any(|id| *id.name == *target.name),
    })
}
