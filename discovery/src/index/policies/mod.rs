//! AuthorizationPolicies and MeshTLSPolicies, read: what of them holds for whom, and what is to be said of them.
//!
//! **An error never widens.** The unit of refusal is the rule: a deny rule that cannot be read denies everything, an allow
//! rule allows nothing. An error outside of the rules (a misspelt `targetRefs`) makes every rule unreadable, for whatever
//! the policy still names; a MeshTLSPolicy is strict then.

mod cover;
mod rule;

use super::{Snapshot, report, status::Findings};
use crate::objects::{
    Kind, Metadata,
    names::is_subdomain,
    policy::{AuthorizationPolicy, MeshTlsPolicy, Mode, Policy, PolicyAction, PolicyTarget, Selector, TargetKind},
};
use remora_api::convert::LIST_MAX as RULES_MAX;
use remora_model::{AuthorizationRule, Unidentified};
use std::{collections::HashMap, sync::Arc};

/// Targets of one policy, as in the CRD.
pub(super) const TARGETS_MAX: usize = 32;

/// An AuthorizationPolicy, read.
#[derive(Debug)]
pub(super) struct Authorization {
    pub(super) targets: Vec<PolicyTarget>,
    pub(super) selector: Option<Selector>,
    pub(super) allows: bool,
    pub(super) rules: Vec<AuthorizationRule>,
}

/// A MeshTLSPolicy, read.
#[derive(Debug)]
pub(super) struct MeshTls {
    pub(super) namespace: String,
    pub(super) targets: Vec<PolicyTarget>,
    pub(super) strict: bool,
}

impl Snapshot {
    pub(super) fn index_policies(
        &mut self,
        authorization: &[Arc<AuthorizationPolicy>],
        mesh_tls: &[Arc<MeshTlsPolicy>],
    ) {
        let mut findings: Vec<Findings> = Vec::new();
        let mut by_namespace: HashMap<String, Vec<Authorization>> = HashMap::new();
        for policy in authorization {
            let (read, found) = self.read_authorization(policy);
            by_namespace.entry(policy.metadata.namespace.clone()).or_default().push(read);
            findings.push(found);
        }
        for policy in mesh_tls {
            let (read, found) = self.read_mesh_tls(policy);
            self.mesh_tls.push(read);
            findings.push(found);
        }
        for (namespace, policies) in &by_namespace {
            let rules: usize = policies.iter().map(|policy| policy.rules.len()).sum();
            if rules > RULES_MAX {
                let problem = "that select one pod: of those beyond, allow rules allow nothing, a deny rule denies all";
                self.reports
                    .push(format!("namespace {namespace}: has {rules} rules, and {RULES_MAX} may be {problem}"));
            }
        }
        self.authorization = by_namespace;
        self.look_at_effects(authorization, mesh_tls, &mut findings);
        self.statuses.extend(findings.into_iter().map(Findings::finish));
    }

    fn read_authorization(&mut self, policy: &AuthorizationPolicy) -> (Authorization, Findings) {
        let (meta, spec) = (&policy.metadata, &policy.spec);
        let mut found = Findings::of(policy);
        let outside = spec.unknown.none().map_err(|e| format!("spec.{e}"));
        let outside = outside.and_then(|()| targets(&spec.target_refs, &[TargetKind::Service, TargetKind::Pod]));
        let outside = outside.and_then(|()| spec.selector.as_ref().map_or(Ok(()), selector));
        let mut rules = Vec::new();
        for (i, rule) in spec.rules.iter().enumerate() {
            let name: Arc<str> = format!("{}/{} rule {i}", meta.namespace, meta.name).into();
            let read = match &outside {
                Err(_) => Err(None),
                Ok(()) if i >= rule::LIST_MAX => Err(Some(": is one of more than 64".to_owned())),
                Ok(()) => rule::read(Arc::clone(&name), spec.action, rule).map_err(Some),
            };
            match read {
                Ok(rule) => rules.push(rule),
                Err(problem) => {
                    found.invalid.extend(problem.map(|e| format!("spec.rules[{i}]{e}; {}", effect(spec.action))));
                    rules.extend((spec.action == PolicyAction::Deny).then(|| AuthorizationRule::deny_everything(name)));
                }
            }
        }
        if let Err(problem) = outside {
            found.invalid.push(format!("{problem}; {}", effect(spec.action).replace("it ", "every rule ")));
            // A deny policy without rules denies nothing; with an error, what it would deny is unknown.
            if spec.action == PolicyAction::Deny && rules.is_empty() {
                let name = format!("{}/{}", meta.namespace, meta.name);
                rules.push(AuthorizationRule::deny_everything(name.into()));
            }
        }
        self.missing_targets(meta, &spec.target_refs, &mut found);
        self.tell(AuthorizationPolicy::KIND, meta, &found);
        let (targets, selector) = (spec.target_refs.clone(), spec.selector.clone());
        (Authorization { targets, selector, allows: spec.action == PolicyAction::Allow, rules }, found)
    }

    fn read_mesh_tls(&mut self, policy: &MeshTlsPolicy) -> (MeshTls, Findings) {
        let (meta, spec) = (&policy.metadata, &policy.spec);
        let mut found = Findings::of(policy);
        let outside = spec.unknown.none().map_err(|e| format!("spec.{e}"));
        let outside = outside.and_then(|()| targets(&spec.target_refs, &[TargetKind::Service, TargetKind::Pod]));
        let strict = outside.is_err() || spec.mode == Mode::Strict;
        found.invalid.extend(outside.err().map(|problem| format!("{problem}; it is Strict for what it names")));
        self.missing_targets(meta, &spec.target_refs, &mut found);
        self.tell(MeshTlsPolicy::KIND, meta, &found);
        (MeshTls { namespace: meta.namespace.clone(), targets: spec.target_refs.clone(), strict }, found)
    }

    pub(super) fn missing_targets(&self, meta: &Metadata, targets: &[PolicyTarget], found: &mut Findings) {
        for (i, target) in targets.iter().enumerate() {
            let key = (meta.namespace.clone(), target.name.clone());
            let there = match target.kind {
                TargetKind::Service => self.services.contains_key(&key),
                TargetKind::Pod => self.pods.contains_key(&key),
            };
            if !there {
                let (kind, name, namespace) = (target.kind, &target.name, &meta.namespace);
                let problem = format!("{kind:?} {namespace}/{name} is not there; it holds once it is");
                found.missing.push(format!("spec.targetRefs[{i}]: {problem}"));
            }
        }
    }

    pub(super) fn tell(&mut self, kind: &str, meta: &Metadata, found: &Findings) {
        let problems = found.invalid.iter().chain(&found.missing);
        self.reports.extend(problems.map(|problem| report(meta, kind, problem.clone())));
    }
}

impl Findings {
    /// Nothing is found yet, but that it could not be read.
    fn of<S>(policy: &Policy<S>) -> Self
    where
        Policy<S>: Kind,
    {
        let mut found = Self::new(<Policy<S>>::KIND, &policy.metadata, &policy.status);
        found.invalid.extend(policy.unreadable.clone());
        found
    }
}

fn effect(action: PolicyAction) -> &'static str {
    match action {
        PolicyAction::Allow => "it allows nothing",
        PolicyAction::Deny => "it denies everything",
        PolicyAction::Audit => "it audits nothing",
    }
}

/// What the CRD asks of targets.
pub(super) fn targets(targets: &[PolicyTarget], kinds: &[TargetKind]) -> Result<(), String> {
    if targets.len() > TARGETS_MAX {
        return Err(format!("spec.targetRefs: has {} entries, more than the {TARGETS_MAX} allowed", targets.len()));
    }
    for (i, target) in targets.iter().enumerate() {
        let at = |e: String| format!("spec.targetRefs[{i}].{e}");
        target.unknown.none().map_err(at)?;
        if !target.group.is_empty() {
            return Err(at(format!("group: {:?} is not the core group, which is empty", target.group)));
        }
        if !kinds.contains(&target.kind) {
            return Err(at(format!("kind: {:?} cannot be meant here", target.kind)));
        }
        if !is_subdomain(&target.name) {
            return Err(at(format!("name: {:?} is no name", target.name)));
        }
    }
    Ok(())
}

fn selector(selector: &Selector) -> Result<(), String> {
    selector.unknown.none().map_err(|e| format!("spec.selector.{e}"))?;
    match selector.match_labels.len() {
        0 => Err("spec.selector.matchLabels: is empty, which would select every pod".to_owned()),
        1..=TARGETS_MAX => Ok(()),
        more => Err(format!("spec.selector.matchLabels: has {more} entries, more than the {TARGETS_MAX} allowed")),
    }
}

/// Whether the rule denies by identity and lets callers without one pass.
fn passes_the_unidentified(rule: &AuthorizationRule) -> bool {
    let names = |source: &remora_model::Source| !source.identities.is_empty() || !source.namespaces.is_empty();
    rule.unidentified == Unidentified::Ignore && rule.from.iter().any(names)
}
