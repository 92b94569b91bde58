//! What is to be said of a route on its status: for each Service that it names, whether it was taken, and why not.
//!
//! In: what reading the route found. Out: [`RouteStatus`], and from it the `status.parents` to write, if they are others
//! than those that stand there. Words of other controllers stay as they are, and where they are. Pure: who writes, and
//! when, is the source's affair.

use super::routes::Kind;
use crate::objects::routes::ParentRef;
use crate::objects::{Metadata, routes::RouteStatus as Current};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Our name as a controller.
pub const CONTROLLER: &str = "remora.dev/discovery";
/// The longest message that the API takes is 32 768 bytes; people read less.
const MESSAGE_BYTES_MAX: usize = 1024;

/// A reference that leads nowhere: the Gateway API's reason, and what is the matter.
pub(super) type Unresolved = (&'static str, String);

/// What reading a route for one side (producer's or consumer's) found.
#[derive(Debug, Default)]
pub(super) struct Judgement {
    /// How many rules it has.
    pub(super) rules: usize,
    /// Rules that cannot be carried out, by number.
    pub(super) invalid: BTreeMap<usize, String>,
    pub(super) unresolved: Vec<Unresolved>,
}

/// A route and what is to be said of it.
#[derive(Debug, Clone, PartialEq)]
pub struct RouteStatus {
    /// As manifests spell it.
    pub kind: &'static str,
    pub namespace: String,
    pub name: String,
    /// The version that was read; whoever writes must have read the last one.
    pub resource_version: Option<String>,
    current: Vec<Value>,
    ours: Vec<Value>,
}

/// Gathers what is to be said of one route.
#[derive(Debug)]
pub(super) struct Teller<'a> {
    meta: &'a Metadata,
    current: &'a Current,
    kind: Kind,
    ours: Vec<Value>,
}

impl<'a> Teller<'a> {
    pub(super) fn new(meta: &'a Metadata, current: &'a Current, kind: Kind) -> Self {
        Self { meta, current, kind, ours: Vec::new() }
    }

    /// A parent was taken, or why not.
    pub(super) fn parent(&mut self, parent: &ParentRef, taken: &Result<(), String>, judgement: &Judgement) {
        let generation = self.meta.generation.unwrap_or_default();
        let condition = |kind: &str, holds: bool, reason: &str, message: &str| {
            let mut end = message.len().min(MESSAGE_BYTES_MAX);
            while !message.is_char_boundary(end) {
                end -= 1;
            }
            json!({
                "type": kind,
                "status": if holds { "True" } else { "False" },
                "reason": reason,
                "message": &message[..end],
                "observedGeneration": generation,
            })
        };
        let invalid = judgement.invalid.values().map(|problem| format!("Dropped Rule: {problem}"));
        let invalid = invalid.collect::<Vec<_>>().join("; ");
        let all = judgement.rules > 0 && judgement.invalid.len() == judgement.rules;
        let mut conditions = vec![match taken {
            Err(problem) => condition("Accepted", false, "NoMatchingParent", problem),
            Ok(()) if all => condition("Accepted", false, "UnsupportedValue", &invalid),
            Ok(()) => condition("Accepted", true, "Accepted", ""),
        }];
        let problems = judgement.unresolved.iter().map(|(_, problem)| problem.as_str()).collect::<Vec<_>>().join("; ");
        conditions.push(match judgement.unresolved.first() {
            Some((reason, _)) => condition("ResolvedRefs", false, reason, &problems),
            None => condition("ResolvedRefs", true, "ResolvedRefs", ""),
        });
        if !invalid.is_empty() && !all {
            conditions.push(condition("PartiallyInvalid", true, "UnsupportedValue", &invalid));
        }
        let reference = json!({
            "group": parent.group.as_deref().unwrap_or(""),
            "kind": "Service",
            "namespace": parent.namespace.as_ref().unwrap_or(&self.meta.namespace),
            "name": parent.name,
            "sectionName": parent.section_name,
            "port": parent.port,
        });
        let reference = without_nulls(reference);
        self.ours.push(json!({"parentRef": reference, "controllerName": CONTROLLER, "conditions": conditions}));
    }

    /// All that is to be said. `None` if the route is none of our business, and never was.
    pub(super) fn finish(self) -> Option<RouteStatus> {
        let current = self.current.parents.clone();
        if self.ours.is_empty() && !current.iter().any(is_ours) {
            return None;
        }
        Some(RouteStatus {
            kind: self.kind.name(),
            namespace: self.meta.namespace.clone(),
            name: self.meta.name.clone(),
            resource_version: self.meta.resource_version.clone(),
            current,
            ours: self.ours,
        })
    }
}

impl RouteStatus {
    /// The `status.parents` to write at `now` (RFC 3339). `None` if what stands there says the same.
    pub fn to_write(&self, now: &str) -> Option<Vec<Value>> {
        let before: Vec<&Value> = self.current.iter().filter(|parent| is_ours(parent)).collect();
        let wanted = self.ours.iter().map(|parent| {
            let known = before.iter().find(|before| before["parentRef"] == parent["parentRef"]);
            dated(parent.clone(), known.map(|known| &known["conditions"]), now)
        });
        let wanted: Vec<Value> = wanted.collect();
        if wanted.iter().eq(before.iter().copied()) {
            return None;
        }
        let others = self.current.iter().filter(|parent| !is_ours(parent)).cloned();
        Some(others.chain(wanted).collect())
    }
}

fn is_ours(parent: &Value) -> bool {
    parent["controllerName"] == CONTROLLER
}

/// With the time of each condition's last change of its `status`: what stood there, if it is the same, else now.
fn dated(mut parent: Value, known: Option<&Value>, now: &str) -> Value {
    let conditions = parent["conditions"].as_array_mut().into_iter().flatten();
    for condition in conditions {
        let same = |before: &&Value| before["type"] == condition["type"] && before["status"] == condition["status"];
        let before = known.and_then(Value::as_array).and_then(|known| known.iter().find(same));
        let since = before.and_then(|before| before["lastTransitionTime"].as_str()).unwrap_or(now);
        condition["lastTransitionTime"] = since.into();
    }
    parent
}

fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(fields) => fields.into_iter().filter(|(_, value)| !value.is_null()).collect(),
        other => other,
    }
}
