//! What a policy does not do, though its user may think so: ports that a Service target leaves open, callers whom a deny
//! rule by identity lets pass. Said in the policy's status.

use super::{
    super::{Key, Snapshot, pods},
    Authorization, passes_the_unidentified,
};
use crate::{
    index::status::Findings,
    objects::policy::{AuthorizationPolicy, MeshTlsPolicy, PolicyTarget, TargetKind},
};
use remora_model::MtlsMode;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// The ports of a Service's pods.
#[derive(Default)]
struct Ports {
    /// That the Service leads to.
    covered: BTreeSet<u16>,
    /// That the pods declare.
    declared: BTreeSet<u16>,
}

impl Snapshot {
    /// Adds to `findings`, which are of `authorization` and then of `mesh_tls`, in their order.
    pub(super) fn look_at_effects(
        &self,
        authorization: &[Arc<AuthorizationPolicy>],
        mesh_tls: &[Arc<MeshTlsPolicy>],
        findings: &mut [Findings],
    ) {
        let of_authorization = authorization.iter().map(|p| (p.metadata.namespace.as_str(), &p.spec.target_refs[..]));
        let of_tls = mesh_tls.iter().map(|p| (p.metadata.namespace.as_str(), &p.spec.target_refs[..]));
        let all: Vec<(&str, &[PolicyTarget])> = of_authorization.chain(of_tls).collect();
        let ports = self.ports_of_targets(&all);
        for ((namespace, targets), found) in all.iter().zip(findings.iter_mut()) {
            for target in targets.iter().filter(|target| target.kind == TargetKind::Service) {
                let Some(ports) = ports.get(&((*namespace).to_owned(), target.name.clone())) else { continue };
                let open: Vec<String> = ports.declared.difference(&ports.covered).map(ToString::to_string).collect();
                if !open.is_empty() {
                    let covered: Vec<String> = ports.covered.iter().map(ToString::to_string).collect();
                    let (name, covered, open) = (&target.name, covered.join(", "), open.join(", "));
                    let said =
                        format!("pod ports {covered}, not {open}, which its pods have too; a selector covers all");
                    found.notes.push(format!("Service {name}: {said}"));
                }
            }
        }
        let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
        for (policy, found) in authorization.iter().zip(findings.iter_mut()) {
            let namespace = policy.metadata.namespace.as_str();
            let at = seen.entry(namespace).or_default();
            let read = self.authorization.get(namespace).and_then(|all| all.get(*at));
            *at += 1;
            let passes = read.filter(|read| read.rules.iter().any(passes_the_unidentified));
            found.ineffective = passes.and_then(|read| self.permissive(namespace, read));
        }
    }

    fn ports_of_targets(&self, all: &[(&str, &[PolicyTarget])]) -> BTreeMap<Key, Ports> {
        let mut ports: BTreeMap<Key, Ports> = BTreeMap::new();
        for (namespace, targets) in all {
            for target in targets.iter().filter(|target| target.kind == TargetKind::Service) {
                ports.entry(((*namespace).to_owned(), target.name.clone())).or_default();
            }
        }
        if ports.is_empty() {
            return ports;
        }
        for (key, selecting) in &self.selecting {
            for (port, id) in selecting {
                let Some(known) = ports.get_mut(&(key.0.clone(), id.name.to_string())) else { continue };
                known.covered.insert(*port);
                known.declared.extend(self.pods.get(key).into_iter().flat_map(|pod| pods::container_ports(pod)));
            }
        }
        ports
    }

    /// Why a deny rule that ignores callers without identity does not hold: some workload that it selects takes plaintext.
    fn permissive(&self, namespace: &str, policy: &Authorization) -> Option<String> {
        let of_namespace = self.pods.range((namespace.to_owned(), String::new())..);
        for (key, pod) in of_namespace.take_while(|(key, _)| key.0 == namespace) {
            if !self.is_member(key) {
                continue;
            }
            for port in self.declared(key, pod).0.into_iter().chain([0]) {
                let ids = self.served_by(pod, port);
                let selected = |targets: &[PolicyTarget]| super::super::inbound::names(targets, &key.1, &ids);
                if policy.selects(pod, &selected) && self.mtls(key, &selected) == MtlsMode::Permissive {
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
