//! Annotations and labels of ours that nobody reads: on objects, and on the pods that workloads make.

use super::{Finding, Level, read::Manifests};
use remora_injector::pod::SETTINGS;
use remora_kube::{
    names,
    yaml::{Node, Value},
};

/// What the names of ours begin with.
const PREFIX: &str = "remora.dev/";

/// Those besides the injector's.
const OTHERS: [&str; 13] = [
    names::INJECTED,
    names::PART,
    names::MADE_BY,
    names::FORCE_REMOVE,
    names::PROBES,
    names::OPAQUE_PORTS,
    names::PROXY_ADDRESS,
    names::RETRY_ANY_METHOD,
    names::RETRY_CODES,
    names::RETRY_ATTEMPTS,
    names::RETRY_BACKOFF,
    names::TIMEOUTS_REQUEST,
    names::TIMEOUTS_BACKEND_REQUEST,
];

/// Where metadata stands in an object: its own, and that of pods to be made.
const PLACES: [&[&str]; 3] =
    [&["metadata"], &["spec", "template", "metadata"], &["spec", "jobTemplate", "spec", "template", "metadata"]];

pub(super) fn find(manifests: &Manifests) -> Vec<Finding> {
    let mut found = Vec::new();
    for (file, document) in &manifests.trees {
        let items = match at(document, &["items"]).map(|items| &items.value) {
            Some(Value::List(items)) if text(document, "kind") == Some("List") => items.as_slice(),
            _ => std::slice::from_ref(document),
        };
        items.iter().for_each(|object| of_object(file, object, &mut found));
    }
    found
}

fn of_object(file: &str, object: &Node, found: &mut Vec<Finding>) {
    let meta = |field| at(object, &["metadata"]).and_then(|meta| text(meta, field)).unwrap_or_default();
    let namespace = Some(meta("namespace")).filter(|it| !it.is_empty()).unwrap_or("default");
    let named = format!("{} {namespace}/{}", text(object, "kind").unwrap_or_default(), meta("name"));
    for place in PLACES {
        for field in ["annotations", "labels"] {
            let path: Vec<&str> = place.iter().copied().chain([field]).collect();
            let Some(Value::Map(entries)) = at(object, &path).map(|node| &node.value) else { continue };
            for (name, node) in entries {
                let Some(short) = name.strip_prefix(PREFIX) else { continue };
                if known(name) {
                    continue;
                }
                let meant = nearest(short);
                found.push(Finding {
                    file: file.to_owned(),
                    line: node.line,
                    level: Level::Warning,
                    object: named.clone(),
                    code: "Misspelt".to_owned(),
                    message: format!(
                        "{}: nothing reads {name}; the nearest that is read is {PREFIX}{meant}",
                        path.join(".")
                    ),
                });
            }
        }
    }
}

fn known(name: &str) -> bool {
    OTHERS.contains(&name) || SETTINGS.iter().any(|setting| name.strip_prefix(PREFIX) == Some(setting.name))
}

fn nearest(short: &str) -> &'static str {
    let others = OTHERS.iter().filter_map(|name| name.strip_prefix(PREFIX));
    let all = SETTINGS.iter().map(|setting| setting.name).chain(others);
    all.min_by_key(|name| distance(short, name)).unwrap_or_default()
}

/// Insertions, removals and replacements of bytes. What is longer than any name of ours is cut.
fn distance(left: &str, right: &str) -> usize {
    let left = &left.as_bytes()[..left.len().min(64)];
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, a) in left.iter().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, b) in right.bytes().enumerate() {
            let replaced = diagonal + usize::from(*a != b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[right.len()]
}

fn at<'a>(node: &'a Node, path: &[&str]) -> Option<&'a Node> {
    path.iter().try_fold(node, |node, field| match &node.value {
        Value::Map(entries) => entries.iter().find(|(name, _)| name == field).map(|(_, value)| value),
        _ => None,
    })
}

fn text<'a>(node: &'a Node, field: &str) -> Option<&'a str> {
    match &at(node, &[field])?.value {
        Value::Scalar(scalar) => scalar.as_str(),
        _ => None,
    }
}
