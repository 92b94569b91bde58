//! What is to be said of routes and policies on their statuses: of a route for each Service that it names, whether it was
//! taken, and why not; of a policy whether it holds as it was meant.
//!
//! In: what reading the object found. Out: [`ObjectStatus`], and from it the `status` to write, if it is another than the one
//! that stands there. Words of other controllers stay as they are, and where they are. Pure: who writes, and when, is the
//! source's affair.

use super::report;
use crate::objects::{
    Metadata, Object,
    kind::{Registered, StatusList},
    policy::PolicyStatus,
    routes::{ParentRef, RouteStatus as Current},
};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Our name as a controller.
pub const CONTROLLER: &str = "remora.dev/discovery";
/// The longest message that the API takes is 32 768 bytes; people read less.
const MESSAGE_BYTES_MAX: usize = 1024;

/// A reference that leads nowhere: the Gateway API's reason, and what is the matter.
pub(super) type Unresolved = (&'static str, String);

/// What reading a route for one side (producer's or consumer's) found.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Judgement {
    /// How many rules it has.
    pub(super) rules: usize,
    /// Rules that cannot be carried out, by number.
    pub(super) invalid: BTreeMap<usize, String>,
    /// Its newest version cannot be read, so that the one before it was.
    pub(super) fall_back: Option<String>,
    pub(super) unresolved: Vec<Unresolved>,
}

/// An object and what is to be said of it.
#[derive(Debug, Clone, PartialEq)]
pub struct ObjectStatus {
    pub kind: Registered,
    pub namespace: String,
    pub name: String,
    /// The version that was read; a write must be based on the latest.
    pub resource_version: Option<String>,
    current: Vec<Value>,
    ours: Vec<Value>,
}

/// What reading a policy found.
#[derive(Debug)]
pub(super) struct Findings {
    status: ObjectStatus,
    generation: i64,
    /// What cannot be read, and what holds instead.
    pub(super) invalid: Vec<String>,
    /// Targets that are not there.
    pub(super) missing: Vec<String>,
    /// Older policies that say the same.
    pub(super) conflicts: Vec<String>,
    /// What else its user should know.
    pub(super) notes: Vec<String>,
    /// Why it does not do what it says.
    pub(super) ineffective: Option<String>,
}

impl Findings {
    /// Nothing is found yet.
    pub(super) fn new(kind: Registered, meta: &Metadata, current: &PolicyStatus) -> Self {
        let status = ObjectStatus {
            kind,
            namespace: meta.namespace.clone(),
            name: meta.name.clone(),
            resource_version: meta.resource_version.clone(),
            current: current.conditions.clone(),
            ours: Vec::new(),
        };
        let none = Vec::new;
        let generation = meta.generation.unwrap_or_default();
        Self {
            status,
            generation,
            invalid: none(),
            missing: none(),
            conflicts: none(),
            notes: none(),
            ineffective: None,
        }
    }

    /// The status of the policy, and what makes no sense in it.
    pub(super) fn judged(self, policy: Option<&Object>) -> Judged {
        let problems = self.invalid.iter().chain(&self.missing);
        let line = |problem: &String| Some(report(policy?.metadata(), self.status.kind.kind, problem.clone()));
        let told = problems.filter_map(line).collect();
        (Some(self.finish()), told)
    }

    /// The conditions of GEP-713.
    fn finish(mut self) -> ObjectStatus {
        let refused = [("Invalid", &self.invalid), ("TargetNotFound", &self.missing), ("Conflicted", &self.conflicts)];
        let first = refused.iter().find(|(_, problems)| !problems.is_empty());
        let accepted = match first {
            Some((reason, problems)) => ("Accepted", false, *reason, problems.join("; ")),
            None => ("Accepted", true, "Accepted", self.notes.join("; ")),
        };
        let ineffective = self.ineffective.take().map(|why| ("Ineffective", true, "PlaintextCallers", why));
        let all = std::iter::once(accepted).chain(ineffective);
        let made = all.map(|(kind, holds, reason, message)| condition(kind, holds, reason, &message, self.generation));
        self.status.ours = made.collect();
        self.status
    }
}

fn condition(kind: &str, holds: bool, reason: &str, message: &str, generation: i64) -> Value {
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
}

/// The status that an object should have, and what makes no sense in it.
pub(super) type Judged = (Option<ObjectStatus>, Vec<String>);

/// Gathers what is to be said of one route.
#[derive(Debug)]
pub(super) struct Teller<'a> {
    meta: &'a Metadata,
    current: &'a Current,
    kind: Registered,
    ours: Vec<Value>,
}

impl<'a> Teller<'a> {
    pub(super) fn new(meta: &'a Metadata, current: &'a Current, kind: Registered) -> Self {
        Self { meta, current, kind, ours: Vec::new() }
    }

    /// A parent was taken, or why not.
    pub(super) fn parent(&mut self, parent: &ParentRef, taken: &Result<(), Unresolved>, judgement: &Judgement) {
        let generation = self.meta.generation.unwrap_or_default();
        let condition =
            |kind: &str, holds: bool, reason: &str, message: &str| condition(kind, holds, reason, message, generation);
        let invalid = judgement.invalid.values().map(|problem| format!("Dropped Rule: {problem}"));
        let invalid = invalid.collect::<Vec<_>>().join("; ");
        let all = judgement.rules > 0 && judgement.invalid.len() == judgement.rules;
        let mut conditions = vec![match taken {
            Err((reason, problem)) => condition("Accepted", false, reason, problem),
            Ok(()) if all => condition("Accepted", false, "UnsupportedValue", &invalid),
            Ok(()) => condition("Accepted", true, "Accepted", ""),
        }];
        let problems = judgement.unresolved.iter().map(|(_, problem)| problem.as_str()).collect::<Vec<_>>().join("; ");
        conditions.push(match judgement.unresolved.first() {
            Some((reason, _)) => condition("ResolvedRefs", false, reason, &problems),
            None => condition("ResolvedRefs", true, "ResolvedRefs", ""),
        });
        let fall_back = judgement.fall_back.iter().map(|problem| format!("Fall Back: {problem}"));
        let partly: Vec<String> = fall_back.chain((!invalid.is_empty() && !all).then_some(invalid)).collect();
        if !partly.is_empty() {
            conditions.push(condition("PartiallyInvalid", true, "UnsupportedValue", &partly.join("; ")));
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
    pub(super) fn finish(self) -> Option<ObjectStatus> {
        let current = self.current.parents.clone();
        if self.ours.is_empty() && !current.iter().any(is_ours) {
            return None;
        }
        Some(ObjectStatus {
            kind: self.kind,
            namespace: self.meta.namespace.clone(),
            name: self.meta.name.clone(),
            resource_version: self.meta.resource_version.clone(),
            current,
            ours: self.ours,
        })
    }
}

impl ObjectStatus {
    /// The `status` to write at `now` (RFC 3339), as a merge patch. `None` if what stands there says the same.
    pub fn to_write(&self, now: &str) -> Option<Value> {
        let list = match self.kind.status? {
            list @ StatusList::Parents => (list, self.parents(now)?),
            list @ StatusList::Conditions => (list, self.conditions(now)?),
        };
        Some(json!({ list.0.field(): list.1 }))
    }

    /// The same for an object whose status is now `current`, and its version `resource_version`.
    #[must_use]
    pub fn over(&self, current: &Value, resource_version: Option<String>) -> Self {
        let field = self.kind.status.map(StatusList::field).unwrap_or_default();
        let current = current[field].as_array().cloned().unwrap_or_default();
        Self { current, resource_version, ..self.clone() }
    }

    /// What we say, without times.
    pub fn ours(&self) -> &[Value] {
        &self.ours
    }

    /// Whether `current` says what it should.
    pub fn is_said(&self, current: &[Value]) -> bool {
        Self { current: current.to_vec(), ..self.clone() }.to_write("").is_none()
    }

    fn conditions(&self, now: &str) -> Option<Vec<Value>> {
        let wanted = dated(self.ours.clone(), Some(&self.current), now);
        (wanted != self.current).then_some(wanted)
    }

    fn parents(&self, now: &str) -> Option<Vec<Value>> {
        let before: Vec<&Value> = self.current.iter().filter(|parent| is_ours(parent)).collect();
        let wanted = self.ours.iter().map(|parent| {
            let known = before.iter().find(|before| before["parentRef"] == parent["parentRef"]);
            let known = known.and_then(|known| known["conditions"].as_array());
            let mut parent = parent.clone();
            let conditions = parent["conditions"].as_array().cloned().unwrap_or_default();
            parent["conditions"] = dated(conditions, known, now).into();
            parent
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
fn dated(mut conditions: Vec<Value>, known: Option<&Vec<Value>>, now: &str) -> Vec<Value> {
    for condition in &mut conditions {
        let same = |before: &&Value| before["type"] == condition["type"] && before["status"] == condition["status"];
        let before = known.and_then(|known| known.iter().find(same));
        let since = before.and_then(|before| before["lastTransitionTime"].as_str()).unwrap_or(now);
        condition["lastTransitionTime"] = since.into();
    }
    conditions
}

fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(fields) => fields.into_iter().filter(|(_, value)| !value.is_null()).collect(),
        other => other,
    }
}
