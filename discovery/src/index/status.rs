//! What is to be said of routes and policies on their statuses: of a route for each Service that it names, whether it was
//! taken, and why not; of a policy for each of its targets whether it holds there as it was meant, and for all of them together.
//!
//! In: what reading the object found. Out: [`ObjectStatus`], and from it the `status` to write, if it is another than the one
//! that stands there. Words of other controllers stay as they are, and where they are. Pure: who writes, and when, is the
//! source's affair.

use crate::objects::{Metadata, Object, kind::Registered, routes::ParentRef};
use serde_json::{Map, Value, json};
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

/// Rules that some proxy is too old for, and what holds there.
pub(super) type Lacked = Vec<String>;

/// What reading a policy found, whatever its targets.
#[derive(Debug, Default)]
pub(super) struct Findings {
    /// Why nothing of it holds as it was meant, and what holds instead.
    pub(super) invalid: Vec<String>,
    /// The same of parts, beside which others hold.
    pub(super) partly: Vec<String>,
    /// What else its user should know.
    pub(super) notes: Vec<String>,
    /// Whether it decides nothing, as it says.
    pub(super) dry_run: bool,
    /// Why it does not do what it says.
    pub(super) ineffective: Option<String>,
}

/// An object and what is to be said of it.
#[derive(Debug, Clone, PartialEq)]
pub struct ObjectStatus {
    pub kind: Registered,
    pub namespace: String,
    pub name: String,
    pub uid: Option<String>,
    /// The version that was read; a write must be based on the latest.
    pub resource_version: Option<String>,
    generation: i64,
    current: Current,
    /// Fields of the status: lists of conditions, of entries with a controller and conditions, and texts.
    ours: Value,
    /// What a person should hear of when it changes.
    verdict: Vec<Condition>,
}

/// The status that stands there.
#[derive(Debug, Clone, PartialEq)]
enum Current {
    /// As it was read with the object, which holds it.
    Of(Object),
    Read(Value),
}

/// One of the conditions of a status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    pub kind: &'static str,
    pub holds: bool,
    /// In PascalCase.
    pub reason: &'static str,
    pub message: String,
}

impl Condition {
    /// Of which the message is cut to what people read.
    pub(super) fn new(kind: &'static str, holds: bool, reason: &'static str, mut message: String) -> Self {
        let mut end = message.len().min(MESSAGE_BYTES_MAX);
        while !message.is_char_boundary(end) {
            end -= 1;
        }
        message.truncate(end);
        Self { kind, holds, reason, message }
    }

    /// Whether somebody should do something about it.
    pub fn is_a_problem(&self) -> bool {
        // The others say what is wrong.
        self.holds != matches!(self.kind, "Accepted" | "Programmed" | "ResolvedRefs")
    }

    fn status(&self) -> &'static str {
        if self.holds { "True" } else { "False" }
    }

    fn json(&self, generation: i64) -> Value {
        json!({
            "type": self.kind,
            "status": self.status(),
            "reason": self.reason,
            "message": self.message,
            "observedGeneration": generation,
        })
    }
}

fn json(conditions: &[Condition], generation: i64) -> Value {
    conditions.iter().map(|condition| condition.json(generation)).collect()
}

/// The status that an object should have, and what makes no sense in it.
pub(super) type Judged = (Option<ObjectStatus>, Vec<String>);

/// Gathers what is to be said of one route.
#[derive(Debug)]
pub(super) struct Teller<'a> {
    route: &'a Object,
    ours: Vec<Value>,
    verdict: Vec<Condition>,
}

impl<'a> Teller<'a> {
    pub(super) fn new(route: &'a Object) -> Self {
        Self { route, ours: Vec::new(), verdict: Vec::new() }
    }

    /// A parent was taken, or why not.
    pub(super) fn parent(
        &mut self,
        parent: &ParentRef,
        taken: &Result<(), Unresolved>,
        (judgement, lacked): (&Judgement, &Lacked),
    ) {
        let invalid = judgement.invalid.values().map(|problem| format!("Dropped Rule: {problem}"));
        let invalid = invalid.collect::<Vec<_>>().join("; ");
        let all = judgement.rules > 0 && judgement.invalid.len() == judgement.rules;
        let mut conditions = vec![match taken {
            Err((reason, problem)) => Condition::new("Accepted", false, reason, problem.clone()),
            Ok(()) if all => Condition::new("Accepted", false, "UnsupportedValue", invalid.clone()),
            Ok(()) => Condition::new("Accepted", true, "Accepted", String::new()),
        }];
        let problems = judgement.unresolved.iter().map(|(_, problem)| problem.as_str()).collect::<Vec<_>>().join("; ");
        conditions.push(match judgement.unresolved.first() {
            Some((reason, _)) => Condition::new("ResolvedRefs", false, reason, problems),
            None => Condition::new("ResolvedRefs", true, "ResolvedRefs", String::new()),
        });
        let fall_back = judgement.fall_back.iter().map(|problem| format!("Fall Back: {problem}"));
        let partly = fall_back.chain((!invalid.is_empty() && !all).then_some(invalid));
        let partly: Vec<String> = partly.chain(lacked.iter().cloned()).collect();
        if !partly.is_empty() {
            conditions.push(Condition::new("PartiallyInvalid", true, "UnsupportedValue", partly.join("; ")));
        }
        let meta = self.route.metadata();
        let reference = json!({
            "group": parent.group.as_deref().unwrap_or(""),
            "kind": "Service",
            "namespace": parent.namespace.as_ref().unwrap_or(&meta.namespace),
            "name": parent.name,
            "sectionName": parent.section_name,
            "port": parent.port,
        });
        let (reference, listed) = (without_nulls(reference), json(&conditions, generation(meta)));
        self.ours.push(json!({"parentRef": reference, "controllerName": CONTROLLER, "conditions": listed}));
        self.verdict.extend(conditions);
    }

    /// All that is to be said. `None` if the route is none of our business, and never was.
    pub(super) fn finish(self) -> Option<ObjectStatus> {
        let said = self.route.said();
        let before = said["parents"].as_array().is_some_and(|parents| parents.iter().any(is_ours));
        let ours = || json!({ "parents": self.ours });
        (before || !self.ours.is_empty()).then(|| ObjectStatus::new(self.route, ours(), self.verdict.clone()))
    }
}

fn generation(meta: &Metadata) -> i64 {
    meta.generation.unwrap_or_default()
}

/// What is to be said of a policy for one of its targets.
#[derive(Debug)]
pub(super) struct Ancestor {
    /// The target, as a reference.
    pub(super) reference: Value,
    pub(super) conditions: Vec<Condition>,
}

impl ObjectStatus {
    fn new(object: &Object, ours: Value, verdict: Vec<Condition>) -> Self {
        let meta = object.metadata();
        Self {
            kind: object.registered(),
            namespace: meta.namespace.clone(),
            name: meta.name.clone(),
            uid: meta.uid.clone(),
            resource_version: meta.resource_version.clone(),
            generation: generation(meta),
            current: Current::Of(object.clone()),
            ours,
            verdict,
        }
    }

    /// Of a policy: for all targets together, for each, and the targets in few words.
    pub(super) fn of_policy(policy: &Object, all: Vec<Condition>, ancestors: Vec<Ancestor>, target: &str) -> Self {
        let generation = generation(policy.metadata());
        let entry = |Ancestor { reference, conditions }: Ancestor| {
            let conditions = json(&conditions, generation);
            json!({ "ancestorRef": without_nulls(reference), "controllerName": CONTROLLER, "conditions": conditions })
        };
        let ancestors: Vec<Value> = ancestors.into_iter().map(entry).collect();
        let ours = json!({ "conditions": json(&all, generation), "ancestors": ancestors, "target": target });
        Self::new(policy, ours, all)
    }

    /// Of a mesh: its conditions, and what it can do.
    pub(super) fn of_mesh(mesh: &Object, all: Vec<Condition>, features: &[&str]) -> Self {
        let features: Vec<Value> = features.iter().map(|name| json!({ "name": name })).collect();
        let ours = json!({ "conditions": json(&all, generation(mesh.metadata())), "supportedFeatures": features });
        Self::new(mesh, ours, all)
    }

    fn current(&self) -> Value {
        match &self.current {
            Current::Of(object) => object.said(),
            Current::Read(status) => status.clone(),
        }
    }

    /// The `status` to write at `now` (RFC 3339), as a merge patch. `None` if what stands there says the same, or is of a
    /// generation that we have not read yet.
    pub fn to_write(&self, now: &str) -> Option<Value> {
        let (mut patch, said) = (Map::new(), self.current());
        for (field, ours) in self.ours.as_object()? {
            let none = Vec::new();
            let current = said[field].as_array().unwrap_or(&none);
            let wanted = match (field.as_str(), ours.as_array()) {
                ("conditions", Some(ours)) => dated(ours.clone(), current, now).into(),
                ("supportedFeatures", Some(_)) => ours.clone(),
                (_, Some(ours)) => entries(ours, current, now).into(),
                (_, None) => ours.clone(),
            };
            let is_said = if ours.is_array() { wanted.as_array() == Some(current) } else { wanted == said[field] };
            if !is_said {
                patch.insert(field.clone(), wanted);
            }
        }
        (!patch.is_empty() && !self.is_behind(&said)).then_some(Value::Object(patch))
    }

    /// Whether what stands there was made of a generation after ours.
    fn is_behind(&self, current: &Value) -> bool {
        let seen = said_by_us(current).filter_map(|condition| condition["observedGeneration"].as_i64());
        seen.max().is_some_and(|seen| seen > self.generation)
    }

    /// The same for an object whose status is now `current`, and its version `resource_version`.
    #[must_use]
    pub fn over(&self, current: &Value, resource_version: Option<String>) -> Self {
        Self { current: Current::Read(current.clone()), resource_version, ..self.clone() }
    }

    /// What we say, without times.
    pub fn ours(&self) -> &Value {
        &self.ours
    }

    /// Whether `current`, a status, says what it should.
    pub fn is_said(&self, current: &Value) -> bool {
        self.over(current, None).to_write("").is_none()
    }

    /// Conditions that became others than what stands there, so far as a person should hear of it: problems, and those that ended.
    pub fn news(&self) -> Vec<Condition> {
        let said = self.current();
        let known: Vec<&Value> = said_by_us(&said).collect();
        let stands = |one: &Condition| {
            let same = |known: &&&Value| known["type"] == one.kind;
            known
                .iter()
                .filter(same)
                .map(|known| (known["status"] == one.status(), known["reason"] == one.reason))
                .max()
        };
        let mut news: Vec<Condition> = Vec::new();
        for one in &self.verdict {
            let fresh = match stands(one) {
                Some((true, true)) => false,
                Some(_) => true,
                None => one.is_a_problem(),
            };
            if fresh && !news.contains(one) {
                news.push(one.clone());
            }
        }
        news
    }
}

/// A list of entries with a controller: ours as they should be, behind those of others.
fn entries(ours: &[Value], current: &[Value], now: &str) -> Vec<Value> {
    let before: Vec<&Value> = current.iter().filter(|entry| is_ours(entry)).collect();
    let wanted = ours.iter().map(|entry| {
        let same = |before: &&&Value| {
            ["parentRef", "ancestorRef"].iter().all(|reference| before[*reference] == entry[*reference])
        };
        let known = before.iter().find(same).and_then(|known| known["conditions"].as_array());
        let mut entry = entry.clone();
        let conditions = entry["conditions"].as_array().cloned().unwrap_or_default();
        entry["conditions"] = dated(conditions, known.map_or(&[], Vec::as_slice), now).into();
        entry
    });
    let wanted: Vec<Value> = wanted.collect();
    if wanted.iter().eq(before.iter().copied()) {
        return current.to_vec();
    }
    let others = current.iter().filter(|entry| !is_ours(entry)).cloned();
    others.chain(wanted).collect()
}

/// Our conditions of a status, of whatever list.
fn said_by_us(status: &Value) -> impl Iterator<Item = &Value> {
    let lists = status.as_object().into_iter().flatten().filter_map(|(_, list)| list.as_array());
    lists.flatten().flat_map(|one| match one["conditions"].as_array() {
        Some(conditions) if is_ours(one) => conditions.iter().collect::<Vec<_>>(),
        Some(_) => Vec::new(),
        None => vec![one],
    })
}

fn is_ours(entry: &Value) -> bool {
    entry["controllerName"] == CONTROLLER
}

/// With the time of each condition's last change of its `status`: what stood there, if it is the same, else now.
fn dated(mut conditions: Vec<Value>, known: &[Value], now: &str) -> Vec<Value> {
    for condition in &mut conditions {
        let same = |before: &&Value| before["type"] == condition["type"] && before["status"] == condition["status"];
        let before = known.iter().find(same);
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
