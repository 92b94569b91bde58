//! AuthorizationPolicies and MeshTLSPolicies, read: what of them holds for whom, and what is to be said of them.
//!
//! **An error never widens.** The unit of refusal is the rule: a deny rule that cannot be read denies everything, an allow
//! rule allows nothing. An error outside of the rules (a misspelt `targetRefs`) makes every rule unreadable, for whatever
//! the policy still names; a MeshTLSPolicy is strict then.

mod cover;
mod rule;

use super::{
    ObjectId,
    derived::{Authorization, Place, Read},
    facts::Facts,
    status::Findings,
};
use crate::objects::{
    Kind, Metadata, Object,
    names::is_subdomain,
    policy::{AuthorizationPolicy, MeshTlsPolicy, Mode, Policy, PolicyAction, PolicyTarget, Selector, TargetKind},
};
use remora_api::convert::LIST_MAX as RULES_MAX;
use remora_model::{AuthorizationRule, Unidentified};
use std::{collections::BTreeSet, sync::Arc};

/// Targets of one policy, as in the CRD.
pub(super) const TARGETS_MAX: usize = 32;

impl Facts {
    /// Reads a policy.
    pub(super) fn read_policy(&self, id: &ObjectId) -> Option<Read> {
        match self.policies.get(id)? {
            Object::AuthorizationPolicy(policy) => Some(Read::Authorization(read_authorization(policy).0)),
            Object::MeshTlsPolicy(policy) => Some(Read::MeshTls { strict: read_mesh_tls(policy).0 }),
            _ => None,
        }
    }

    /// Makes known what a policy says and where it is attached.
    pub(super) fn take_policy(&mut self, id: &ObjectId, now: Option<Read>) {
        let policy = self.policies.get(id).filter(|_| now.is_some());
        let are: BTreeSet<Place> = policy.map(|policy| self.places(policy)).unwrap_or_default();
        let were = self.places_of.remove(id).unwrap_or_default();
        let at = |places: &BTreeSet<Place>| places.iter().map(|place| (place.clone(), id.clone())).collect();
        self.policies_on.replace(&at(&were), &at(&are));
        if !are.is_empty() {
            self.places_of.insert(id.clone(), are);
        }
        self.read_policies.put(id.clone(), now.map(Arc::new));
    }

    /// What a policy is attached to: its targets, or without any its namespace, which of a MeshTLSPolicy of the control plane
    /// is the mesh.
    fn places(&self, policy: &Object) -> BTreeSet<Place> {
        let namespace = &policy.metadata().namespace;
        let (targets, wide): (&[PolicyTarget], _) = match policy {
            Object::AuthorizationPolicy(policy) => (&policy.spec.target_refs, false),
            Object::MeshTlsPolicy(policy) => (&policy.spec.target_refs, *namespace == self.mesh.namespace),
            _ => return BTreeSet::new(),
        };
        if targets.is_empty() {
            let own = Place::Namespace(namespace.clone());
            return [own].into_iter().chain(wide.then_some(Place::Mesh)).collect();
        }
        let place = |target: &PolicyTarget| {
            let key = (namespace.clone(), target.name.clone());
            match target.kind {
                TargetKind::Service => Place::Service(key),
                TargetKind::Pod => Place::Pod(key),
            }
        };
        targets.iter().map(place).collect()
    }

    /// What is to be said of a policy.
    pub(super) fn judge_policy(&self, id: &ObjectId) -> Option<Findings> {
        let (mut found, targets, passes) = match self.policies.get(id)? {
            Object::AuthorizationPolicy(policy) => {
                let (read, found) = read_authorization(policy);
                let passes = read.rules.iter().any(passes_the_unidentified);
                (found, &policy.spec.target_refs, passes.then_some(read))
            }
            Object::MeshTlsPolicy(policy) => (read_mesh_tls(policy).1, &policy.spec.target_refs, None),
            _ => return None,
        };
        let meta = self.policies.get(id)?.metadata();
        self.missing_targets(meta, targets, &mut found);
        self.uncovered(&meta.namespace, targets, &mut found);
        found.ineffective = passes.and_then(|read| self.permissive(&meta.namespace, targets, &read));
        Some(found)
    }

    /// What is to be said of the policies of a namespace together.
    pub(super) fn judge_namespace(&self, namespace: &str) -> Vec<String> {
        let all = self.policies_in.get(namespace).filter_map(|id| self.read_policies.get(id));
        let rules: usize =
            all.map(|read| if let Read::Authorization(one) = &**read { one.rules.len() } else { 0 }).sum();
        let problem = "that select one pod: of those beyond, allow rules allow nothing, a deny rule denies all";
        let too_many = rules > RULES_MAX;
        let told = || format!("namespace {namespace}: has {rules} rules, and {RULES_MAX} may be {problem}");
        too_many.then(told).into_iter().collect()
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
}

fn read_authorization(policy: &AuthorizationPolicy) -> (Authorization, Findings) {
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
    let (selector, allows) = (spec.selector.clone(), spec.action == PolicyAction::Allow);
    (Authorization { selector, allows, rules }, found)
}

fn read_mesh_tls(policy: &MeshTlsPolicy) -> (bool, Findings) {
    let spec = &policy.spec;
    let mut found = Findings::of(policy);
    let outside = spec.unknown.none().map_err(|e| format!("spec.{e}"));
    let outside = outside.and_then(|()| targets(&spec.target_refs, &[TargetKind::Service, TargetKind::Pod]));
    let strict = outside.is_err() || spec.mode == Mode::Strict;
    found.invalid.extend(outside.err().map(|problem| format!("{problem}; it is Strict for what it names")));
    (strict, found)
}

impl Findings {
    /// Nothing is found yet, but that it could not be read.
    fn of<S>(policy: &Policy<S>) -> Self
    where
        Policy<S>: Kind,
    {
        let mut found = Self::new(<Policy<S>>::registered(), &policy.metadata, &policy.status);
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
