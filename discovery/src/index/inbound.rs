//! Inbound ports: who may come in, and how.

use super::{Key, Snapshot, report};
use crate::objects::core::Pod;
use crate::objects::policy::{
    AuthorizationPolicy, MeshTlsPolicy, Mode, PolicyAction, PolicyOperation, PolicyRule, PolicySource, PolicyTarget,
    Selector, TargetKind,
};
use http::Method;
use remora_model::{Action, AuthorizationRule, Inbound, MtlsMode, Operation, PathPattern, Source, SpiffeId};
use std::sync::Arc;

/// An AuthorizationPolicy, read.
#[derive(Debug)]
pub(super) struct Authorization {
    namespace: String,
    targets: Vec<PolicyTarget>,
    selector: Option<Selector>,
    allows: bool,
    rules: Vec<AuthorizationRule>,
}

impl Snapshot {
    pub(super) fn index_policies(&mut self, policies: &[Arc<AuthorizationPolicy>]) {
        let mut reports = Vec::new();
        for policy in policies {
            let (meta, spec) = (&policy.metadata, &policy.spec);
            let mut say = |problem| reports.push(report(meta, "AuthorizationPolicy", problem));
            self.missing_targets(&meta.namespace, &spec.target_refs, &mut say);
            let read = |(i, rule): (usize, &PolicyRule)| {
                authorization(policy, i, rule).unwrap_or_else(|(problem, instead)| {
                    say(format!("spec.rules[{i}].{problem}; it denies"));
                    instead
                })
            };
            self.authorization.push(Authorization {
                namespace: meta.namespace.clone(),
                targets: spec.target_refs.clone(),
                selector: spec.selector.clone(),
                allows: spec.action == PolicyAction::Allow,
                rules: spec.rules.iter().enumerate().filter_map(read).collect(),
            });
        }
        for policy in &self.mesh_tls {
            let meta = &policy.metadata;
            let mut say = |problem| reports.push(report(meta, "MeshTLSPolicy", problem));
            self.missing_targets(&meta.namespace, &policy.spec.target_refs, &mut say);
        }
        self.reports.append(&mut reports);
    }

    fn missing_targets(&self, namespace: &str, targets: &[PolicyTarget], say: &mut dyn FnMut(String)) {
        for (i, target) in targets.iter().enumerate() {
            let key = (namespace.to_owned(), target.name.clone());
            let there = match target.kind {
                TargetKind::Service => self.services.contains_key(&key),
                TargetKind::Pod => self.pods.contains_key(&key),
            };
            if !there {
                let (kind, name) = (target.kind, &target.name);
                say(format!("spec.targetRefs[{i}]: {kind:?} {namespace}/{name} is not there; it holds once it is"));
            }
        }
    }

    /// What a proxy must know of `port` of its pod. `None` while the pod is unknown.
    pub fn inbound(&self, namespace: &str, pod: &str, port: u16) -> Option<Inbound> {
        let key = (namespace.to_owned(), pod.to_owned());
        let pod = self.pods.get(&key)?;
        let ids = self.served_by(pod, port);
        let selected = |targets: &[PolicyTarget]| {
            targets.iter().any(|target| match target.kind {
                TargetKind::Pod => target.name == key.1,
                TargetKind::Service => ids.iter().any(|id| *id.name == *target.name),
            })
        };
        let (mut rules, mut default_deny) = (Vec::new(), false);
        for policy in self.authorization.iter().filter(|policy| policy.selects(&key, pod, &selected)) {
            default_deny |= policy.allows;
            rules.extend(policy.rules.iter().cloned());
        }
        let parent = ids.first().map_or_else(|| format!("{}/{}:{port}", key.0, key.1), ToString::to_string);
        let (protocol, mtls) = (self.protocol_at(pod, port), self.mtls(&key, &selected));
        let ending = pod.metadata.deletion_timestamp.is_some();
        Some(Inbound { port, parent: parent.into(), protocol, mtls, rules, default_deny, ending })
    }

    /// The most specific policy wins: workload, namespace, mesh; of equals, the strict one.
    fn mtls(&self, key: &Key, selected: &dyn Fn(&[PolicyTarget]) -> bool) -> MtlsMode {
        let level = |policy: &MeshTlsPolicy| {
            let (own, targets) = (policy.metadata.namespace == key.0, &policy.spec.target_refs);
            match (own, targets.is_empty()) {
                (true, false) if selected(targets) => Some(3),
                (true, true) => Some(2),
                (false, true) if policy.metadata.namespace == self.mesh.namespace => Some(1),
                _ => None,
            }
        };
        let ranked = self.mesh_tls.iter().filter_map(|policy| Some((level(policy)?, policy.spec.mode == Mode::Strict)));
        match ranked.max() {
            Some((_, true)) => MtlsMode::Strict,
            _ => MtlsMode::Permissive,
        }
    }
}

impl Authorization {
    fn selects(&self, key: &Key, pod: &Pod, selected: &dyn Fn(&[PolicyTarget]) -> bool) -> bool {
        let labels =
            |selector: &Selector| selector.match_labels.iter().all(|(k, v)| pod.metadata.labels.get(k) == Some(v));
        let targets = self.targets.is_empty() || selected(&self.targets);
        self.namespace == key.0 && targets && self.selector.as_ref().is_none_or(labels)
    }
}

/// A rule, or what is wrong with it and what stands in for it: an unreadable deny rule matches everything, an unreadable
/// allow rule nothing.
fn authorization(
    policy: &AuthorizationPolicy,
    index: usize,
    rule: &PolicyRule,
) -> Result<Option<AuthorizationRule>, (String, Option<AuthorizationRule>)> {
    let name = format!("{}/{} rule {index}", policy.metadata.namespace, policy.metadata.name);
    let action = match policy.spec.action {
        PolicyAction::Allow => Action::Allow,
        PolicyAction::Deny => Action::Deny,
        PolicyAction::Audit => Action::Audit,
    };
    let read = || -> Result<_, String> {
        let from = rule.from.iter().map(source).collect::<Result<Vec<_>, _>>()?;
        Ok((from, rule.to.iter().map(operation).collect::<Result<Vec<_>, _>>()?))
    };
    match read() {
        Ok((from, to)) => Ok(Some(AuthorizationRule { name: name.into(), action, from, to })),
        Err(problem) => {
            let everything = AuthorizationRule { name: name.into(), action, from: Vec::new(), to: Vec::new() };
            Err((problem, (action == Action::Deny).then_some(everything)))
        }
    }
}

fn source(source: &PolicySource) -> Result<Source, String> {
    let id = |id: &String| SpiffeId::parse(id).map_err(|e| format!("from.identities: {id:?}: {e}"));
    let cidr = |cidr: &String| cidr.parse().map_err(|_| format!("from.cidrs: {cidr:?} is no CIDR"));
    Ok(Source {
        identities: source.identities.iter().map(id).collect::<Result<_, _>>()?,
        namespaces: source.namespaces.iter().map(|n| n.as_str().into()).collect(),
        cidrs: source.cidrs.iter().map(cidr).collect::<Result<_, _>>()?,
    })
}

fn operation(operation: &PolicyOperation) -> Result<Operation, String> {
    let method = |m: &String| Method::from_bytes(m.as_bytes()).map_err(|_| format!("to.methods: {m:?} is no method"));
    let path = |path: &String| match path.strip_suffix("/*") {
        _ if !path.starts_with('/') => Err(format!("to.paths: {path:?} does not start with a slash")),
        Some(prefix) => Ok(PathPattern::Prefix(prefix.into())),
        None if path.contains('*') => Err(format!("to.paths: {path:?} has a star that is not its last segment")),
        None => Ok(PathPattern::Exact(path.as_str().into())),
    };
    Ok(Operation {
        methods: operation.methods.iter().map(method).collect::<Result<_, _>>()?,
        paths: operation.paths.iter().map(path).collect::<Result<_, _>>()?,
    })
}
