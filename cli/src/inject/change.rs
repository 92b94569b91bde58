//! What becomes of each object: its pod template is given to the injector's function, whatever that says is done. Pure, but
//! for the tokens that `--manual` makes.

use super::Document;
use remora_injector::pod::{self, Defaults, Outcome, ProbeToken};
use remora_kube::{names, yaml};
use serde_json::{Value, json};
use std::collections::HashMap;

/// The API groups of the kinds that are known: another group's Job need not have its template there.
const GROUPS: [&str; 3] = ["", "apps", "batch"];
/// How deep a pod template is looked for in what is not known.
const LOOK_DEPTH_MAX: usize = 16;

/// What was done, for people.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Told {
    /// About objects that are printed.
    pub(super) lines: Vec<String>,
    /// Why nothing is printed.
    pub(super) mistakes: Vec<String>,
}

impl Told {
    pub(super) fn refuse(&mut self, file: &str, line: usize, problem: &str) {
        self.mistakes.push(format!("{file}, line {line}: {problem}"));
    }

    /// The errors, if there are any; else what was done.
    pub(super) fn to_tell(&self) -> Vec<String> {
        match self.mistakes.len() {
            0 => self.lines.clone(),
            count => {
                let last = format!("nothing is printed, because of {count} {}", plural(count, "error"));
                self.mistakes.iter().cloned().chain([last]).collect()
            }
        }
    }
}

fn plural(count: usize, word: &str) -> String {
    if count == 1 { word.to_owned() } else { format!("{word}s") }
}

/// Changes objects.
pub(super) struct Changer {
    defaults: Defaults,
    manual: bool,
    /// What Namespaces among the manifests say.
    namespaces: HashMap<String, pod::Namespace>,
}

impl Changer {
    pub(super) fn new(defaults: Defaults, manual: bool) -> Self {
        Self { defaults, manual, namespaces: HashMap::new() }
    }

    /// Heeds the Namespaces in `document`, as the cluster will, wherever they stand.
    pub(super) fn note_namespaces(&mut self, document: &Document, told: &mut Told) {
        let mut waiting = vec![&document.node];
        while let Some(node) = waiting.pop() {
            if let Some(yaml::Value::List(items)) = node.get("items").map(|items| &items.value) {
                waiting.extend(items);
            }
            if text_at(node, "kind") != Some("Namespace") {
                continue;
            }
            match pod::Namespace::of(&node.clone().into_json(), true) {
                Ok(namespace) => drop(self.namespaces.insert(namespace.name.clone(), namespace)),
                Err(mistakes) => told.refuse(&document.file, node.line, &format!("Namespace: {mistakes}")),
            }
        }
    }

    /// Changes an object, or each of a List. `lines` is the same with its lines, in `file`.
    pub(super) fn change(&self, object: &mut Value, lines: &yaml::Node, file: &str, told: &mut Told) {
        self.object(object, lines, (file, None), told);
    }

    fn object(&self, object: &mut Value, lines: &yaml::Node, (file, of_list): (&str, Option<&str>), told: &mut Told) {
        if !object.is_object() {
            return told.refuse(file, lines.line, &format!("this is no Kubernetes object: {}", what(object)));
        }
        let Some(kind) = object["kind"].as_str().or(of_list).map(str::to_owned) else {
            return told.lines.push(format!("{file}, line {}: left alone, it has no kind", lines.line));
        };
        if let Some(of) = kind.strip_suffix("List")
            && let Some(items) = object.get_mut("items").and_then(Value::as_array_mut)
            && let Some(yaml::Value::List(lines)) = lines.get("items").map(|items| &items.value)
        {
            let of = Some(of).filter(|of| !of.is_empty());
            items.iter_mut().zip(lines).for_each(|(item, lines)| self.object(item, lines, (file, of), told));
            return;
        }
        let title = title(&kind, object);
        match self.template(object, &kind) {
            Ok(None) => {}
            Ok(Some(line)) => told.lines.push(format!("{title}: {line}")),
            Err(mistake) => told.refuse(file, lines.line, &format!("{title}: {mistake}")),
        }
    }

    /// What was done with the object's pod template; nothing to say of what has none.
    fn template(&self, object: &mut Value, kind: &str) -> Result<Option<String>, String> {
        let namespace = object["metadata"]["namespace"].as_str().unwrap_or_default().to_owned();
        let version = object["apiVersion"].as_str().unwrap_or_default();
        let group = version.split_once('/').map_or("", |(group, _)| group);
        let known = pod::template_pointer(kind);
        let stranger = known.is_none_or(|_| !GROUPS.contains(&group));
        let Some(template) = known.and_then(|pointer| object.pointer_mut(pointer)).filter(|it| !it.is_null()) else {
            return match path_of_pods(object, LOOK_DEPTH_MAX) {
                Some(path) if stranger => Ok(Some(format!(
                    "left alone, this kind is not known here; annotate {path}metadata with {}: {} by hand",
                    names::INJECT,
                    names::ENABLED
                ))),
                None if stranger => Ok(None),
                _ => Err("it has no pod template".to_owned()),
            };
        };
        // A template needs no metadata of its own.
        let mut asked = template.clone();
        if let Some(metadata) = asked.as_object_mut().map(|it| it.entry("metadata").or_insert(Value::Null))
            && metadata.is_null()
        {
            *metadata = json!({});
        }
        let wanted = pod::Namespace { name: namespace.clone(), opted_in: true, ..pod::Namespace::default() };
        let namespace = self.namespaces.get(&namespace).cloned().unwrap_or(wanted);
        let token = ProbeToken::random().map_err(|error| error.to_string())?;
        match pod::inject(&asked, &namespace, &self.defaults, &token) {
            Outcome::Inject(injection) if self.manual => {
                *template = injection.pod;
                Ok(Some("injected".to_owned()))
            }
            Outcome::Inject(_) => {
                *template = opted_in(asked);
                Ok(Some("opted in".to_owned()))
            }
            Outcome::Skip(skip) => Ok(Some(format!("left alone, {skip}"))),
            Outcome::Refuse(mistakes) => Err(mistakes.to_string()),
        }
    }
}

/// Says on a pod template that it wants a sidecar.
fn opted_in(mut template: Value) -> Value {
    let annotations = &mut template["metadata"]["annotations"];
    if annotations.is_null() {
        *annotations = json!({});
    }
    annotations[names::INJECT] = names::ENABLED.into();
    template
}

/// The first place, in what is not known, where pods are described: `spec.template.`, or nothing for the object itself.
fn path_of_pods(value: &Value, depth: usize) -> Option<String> {
    let depth = depth.checked_sub(1)?;
    match value {
        Value::Object(fields) => {
            let containers = value["spec"]["containers"].as_array();
            if containers.is_some_and(|all| all.iter().any(|container| container["image"].is_string())) {
                return Some(String::new());
            }
            fields.iter().find_map(|(name, field)| Some(format!("{name}.{}", path_of_pods(field, depth)?)))
        }
        Value::Array(items) => {
            let found = |(index, item)| Some(format!("{index}.{}", path_of_pods(item, depth)?));
            items.iter().enumerate().find_map(found)
        }
        _ => None,
    }
}

fn text_at<'a>(node: &'a yaml::Node, key: &str) -> Option<&'a str> {
    match &node.get(key)?.value {
        yaml::Value::Scalar(Value::String(text)) => Some(text),
        _ => None,
    }
}

fn what(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "a mapping",
    }
}

fn title(kind: &str, object: &Value) -> String {
    let meta = &object["metadata"];
    let name = meta["name"].as_str().or(meta["generateName"].as_str()).unwrap_or("without a name");
    match meta["namespace"].as_str() {
        Some(namespace) => format!("{kind} {namespace}/{name}"),
        None => format!("{kind} {name}"),
    }
}
