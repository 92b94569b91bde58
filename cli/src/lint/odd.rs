//! What discovery takes, and is hardly meant: rules that never decide anything, policies without rules, and what holds for the whole mesh.

use super::{Finding, Level, covers::covers};
use remora_discovery::{
    index::Mesh,
    objects::{
        Object,
        policy::{AuthorizationPolicy, PolicyAction, PolicyRule, TargetKind},
    },
};
use std::sync::Arc;

/// Rules that are held against each other, of one set of targets. Of more, only so many are.
const COMPARED_MAX: usize = 512;

pub(super) fn find(objects: &[Object], mesh: &Mesh) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut policies: Vec<&Arc<AuthorizationPolicy>> = Vec::new();
    for object in objects {
        found.extend(whole_mesh(object, mesh));
        if let Object::AuthorizationPolicy(policy) = object {
            found.extend(without_rules(object, policy));
            policies.push(policy);
        }
    }
    for (at, policy) in policies.iter().enumerate() {
        // Each set of targets once, where it comes first.
        if policies[..at].iter().all(|before| !same_targets(before, policy)) {
            found.extend(never_decide(policies[at..].iter().filter(|other| same_targets(other, policy)).copied()));
        }
    }
    found
}

fn finding(object: &Object, level: Level, code: &str, message: String) -> Finding {
    let meta = object.metadata();
    Finding {
        file: meta.origin.file.to_string(),
        line: meta.origin.line,
        level,
        object: format!("{} {}/{}", object.kind(), meta.namespace, meta.name),
        code: code.to_owned(),
        message,
    }
}

/// What is attached to the control plane's namespace is attached to the mesh.
fn whole_mesh(object: &Object, mesh: &Mesh) -> Option<Finding> {
    let targets = object.as_policy()?.targets();
    let names_namespace = targets.refs.iter().any(|target| target.kind == TargetKind::Namespace);
    let is_wide = targets.selector.is_none() && (targets.refs.is_empty() || names_namespace);
    let here = object.metadata().namespace == mesh.namespace;
    let message = || "is attached to the control plane's namespace, and so holds for the whole mesh".to_owned();
    (here && is_wide).then(|| finding(object, Level::Note, "WholeMesh", message()))
}

fn without_rules(object: &Object, policy: &AuthorizationPolicy) -> Option<Finding> {
    if !policy.spec.rules.is_empty() {
        return None;
    }
    let message = match policy.spec.action {
        PolicyAction::Allow => {
            "has no rules: it allows nothing, so that its targets refuse every caller whom no other Allow policy names"
        }
        PolicyAction::Deny => "has no rules: it denies nothing",
        PolicyAction::Audit => "has no rules: it audits nothing",
    };
    Some(finding(object, Level::Warning, "NoRules", message.to_owned()))
}

fn same_targets(one: &AuthorizationPolicy, other: &AuthorizationPolicy) -> bool {
    one.metadata.namespace == other.metadata.namespace
        && one.spec.target_refs == other.spec.target_refs
        && one.spec.selector == other.spec.selector
}

/// A rule with its policy, and its number there.
type Placed<'a> = (&'a Arc<AuthorizationPolicy>, usize, &'a PolicyRule);

/// Rules, all of the same targets, that another one makes superfluous, or that never get to say anything.
fn never_decide<'a>(policies: impl Iterator<Item = &'a Arc<AuthorizationPolicy>>) -> Vec<Finding> {
    let rules =
        policies.flat_map(|policy| policy.spec.rules.iter().enumerate().map(move |(i, rule)| (policy, i, rule)));
    let rules: Vec<Placed<'_>> = rules.take(COMPARED_MAX).collect();
    let mut found = Vec::new();
    for (at, rule) in rules.iter().enumerate() {
        let action = rule.0.spec.action;
        let denied = |(_, other): &(usize, &Placed<'_>)| {
            action == PolicyAction::Allow && other.0.spec.action == PolicyAction::Deny && covers(other.2, rule.2)
        };
        let repeats = |(index, other): &(usize, &Placed<'_>)| {
            // Of two that are the same the later one is superfluous.
            let earlier = *index < at || !covers(rule.2, other.2);
            *index != at && other.0.spec.action == action && earlier && covers(other.2, rule.2)
        };
        let others = || rules.iter().enumerate();
        let told = others()
            .find(denied)
            .map(|(_, by)| ("Shadowed", format!("never allows anything: {} denies all that it takes", named(by))));
        let told = told.or_else(|| {
            others()
                .find(repeats)
                .map(|(_, by)| ("Unused", format!("decides nothing by itself: {} takes all that it takes", named(by))))
        });
        if let Some((code, message)) = told {
            let object = Object::from(Arc::clone(rule.0));
            found.push(finding(&object, Level::Warning, code, format!("spec.rules[{}]: {message}", rule.1)));
        }
    }
    found
}

fn named(rule: &Placed<'_>) -> String {
    let meta = &rule.0.metadata;
    format!("rule {} of {}/{} ({}:{})", rule.1, meta.namespace, meta.name, meta.origin.file, meta.origin.line)
}
