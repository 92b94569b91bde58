//! What discovery would say: the statuses that it would write and the lines of its log, over these objects alone.

use super::{Finding, Level, read::Manifests};
use remora_discovery::{
    index::{Change, Mesh, World, status::ObjectStatus},
    objects::{Object, Origin, registry::kinds},
};
use serde_json::Value;
use std::collections::HashMap;

/// Kind, namespace, name.
type Name = (String, String, String);

pub(super) fn find(manifests: &Manifests, mesh: &Mesh) -> Vec<Finding> {
    let mut world = World::new(mesh.clone());
    world.apply(manifests.objects.iter().cloned().map(Change::Put), &mut |_, _| {});
    world.assume_keys();
    world.settle();
    let places = places(&manifests.objects);
    let mut found = Vec::new();
    for status in world.statuses() {
        let name = (status.kind.kind.to_owned(), status.namespace.clone(), status.name.clone());
        let origin = places.get(&name).cloned().unwrap_or_default();
        found.extend(of_status(status, &places).into_iter().map(|(level, code, message)| Finding {
            file: origin.file.to_string(),
            line: origin.line,
            level,
            object: format!("{} {}/{}", name.0, name.1, name.2),
            code,
            message,
        }));
    }
    let told: Vec<Finding> = world.reports().filter_map(|line| of_report(line, &found)).collect();
    found.extend(told);
    found
}

fn places(objects: &[Object]) -> HashMap<Name, Origin> {
    let place = |object: &Object| {
        let meta = object.metadata();
        ((object.kind().to_owned(), meta.namespace.clone(), meta.name.clone()), meta.origin.clone())
    };
    objects.iter().map(place).collect()
}

/// What a status says that somebody should do something about.
fn of_status(status: &ObjectStatus, places: &HashMap<Name, Origin>) -> Vec<(Level, String, String)> {
    let ours = status.ours();
    let list = |field: &str| ours[field].as_array().cloned().unwrap_or_default();
    // Of a policy the words about all targets are those about each of them.
    let mut all: Vec<(bool, Value)> = list("conditions").into_iter().map(|one| (true, one)).collect();
    for parent in list("parents") {
        let reference = &parent["parentRef"];
        let text = |field: &str| reference[field].as_str().unwrap_or_default().to_owned();
        let is_here = places.contains_key(&("Service".to_owned(), text("namespace"), text("name")));
        all.extend(parent["conditions"].as_array().into_iter().flatten().map(|one| (is_here, one.clone())));
    }
    let mut found = Vec::new();
    for (is_here, one) in all {
        let text = |field: &str| one[field].as_str().unwrap_or_default();
        if let Some(level) = level(text("type"), text("status"), text("reason"), is_here) {
            let told = (level, text("reason").to_owned(), text("message").to_owned());
            if !found.contains(&told) {
                found.push(told);
            }
        }
    }
    found
}

/// `None`: all is well. `is_here`: whether what the object hangs on is in the files.
fn level(kind: &str, status: &str, reason: &str, is_here: bool) -> Option<Level> {
    match (kind, status) {
        ("Overridden" | "Ineffective", "True") => Some(Level::Warning),
        ("PartiallyInvalid", "True") => Some(Level::Error),
        ("Accepted" | "ResolvedRefs", "False") => Some(match reason {
            "TargetNotFound" | "RefNotPermitted" => Level::Warning,
            "BackendNotFound" => Level::Note,
            "NoMatchingParent" if !is_here => Level::Note,
            _ => Level::Error,
        }),
        _ => None,
    }
}

/// A line of discovery's log: `FILE: line N: KIND NAMESPACE/NAME: PROBLEM`. What a status says is not said again.
fn of_report(line: &str, known: &[Finding]) -> Option<Finding> {
    let placed = line.split_once(": line ").and_then(|(file, rest)| {
        let (number, rest) = rest.split_once(": ")?;
        Some((file.to_owned(), number.parse().ok()?, rest))
    });
    let (file, line, rest) = placed.unwrap_or_else(|| (String::new(), 0, line));
    let (object, message) = rest.split_once(": ").unwrap_or(("", rest));
    let is_object = kinds().any(|kind| object.starts_with(kind.kind) && object.contains('/'));
    let (object, message) = if is_object { (object, message) } else { ("", rest) };
    let is_known =
        |one: &&Finding| one.object == object && (one.message.contains(message) || message.contains(&one.message));
    (!known.iter().any(|one| is_known(&one))).then(|| Finding {
        file,
        line,
        level: Level::Error,
        object: object.to_owned(),
        code: "Invalid".to_owned(),
        message: message.to_owned(),
    })
}
