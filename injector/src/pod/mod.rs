//! What becomes of a pod. Pure: in, a pod (or a pod template) as JSON, what its namespace says, and the chart's
//! defaults; out, an [`Outcome`].
//!
//! [`optin`] says whether a pod is opted in, [`skip`] why a pod cannot have a sidecar. [`settings`] reads the
//! annotations, [`probes`] rewrites the kubelet's probes, [`token`] makes the secret part of their paths, [`sidecar`] makes our
//! containers, and [`wanted`] puts all together. The patch is the difference between the pod as it is and as it is wanted. An
//! injected pod gets an empty patch, also after other injectors changed it: the sidecar is removed first and added again.
//!
//! It works on JSON rather than on typed objects, so that fields which it does not know pass untouched.

mod check;
mod defaults;
mod json;
mod nearest;
pub mod optin;
mod probes;
mod quantity;
mod settings;
mod sidecar;
mod skip;
mod token;
mod wanted;

pub use defaults::{Defaults, ProxyDefaults};
pub(crate) use json::covers;
pub use probes::{Handler, Kind, Probe};
pub use settings::{SETTINGS, Setting, cluster_networks};
pub use skip::Skip;
pub use token::{NoRandomness, ProbeToken};

use serde_json::Value;
use std::{collections::BTreeMap, fmt};

/// What the pod's namespace says, and how the question came.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Namespace {
    /// Its name.
    pub name: String,
    /// Its annotations; those that are not ours may be left out.
    pub annotations: BTreeMap<String, String>,
    /// Its labels; likewise.
    pub labels: BTreeMap<String, String>,
    /// Whether its pods are wanted in the mesh where it says nothing itself: because the API server, which knew it to be
    /// opted in, called, or because a person typed `remora inject`.
    pub opted_in: bool,
    /// Whether the pod comes from the API server, which fills in what templates leave out.
    pub live: bool,
}

/// What is to be done with a pod.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// It gets its sidecar.
    Inject(Box<Injection>),
    /// It stays as it is.
    Skip(Skip),
    /// It asks for what cannot be.
    Refuse(Mistakes),
}

/// The change of a pod.
#[derive(Debug, Clone, PartialEq)]
pub struct Injection {
    /// The pod with its sidecar.
    pub pod: Value,
    /// What leads there from the pod that was given; never empty.
    pub patch: json_patch::Patch,
}

/// Everything that is wrong with what a pod or its namespace asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq, thiserror::Error)]
pub struct Mistakes(pub Vec<String>);

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("; "))
    }
}

/// Decides about `pod`: an object with `metadata` and `spec`, whatever else it has. `fresh` is for a pod that has no token.
#[must_use]
pub fn inject(pod: &Value, namespace: &Namespace, defaults: &Defaults, fresh: &ProbeToken) -> Outcome {
    for field in ["metadata", "spec"] {
        if !pod[field].is_object() {
            return Outcome::Refuse(Mistakes(vec![format!("this is no pod: it has no {field}")]));
        }
    }
    let meta = match Meta::of(pod) {
        Ok(meta) => meta,
        Err(mistakes) => return Outcome::Refuse(mistakes),
    };
    match optin::decide(&meta, namespace) {
        Ok(None) => {}
        Ok(Some(skip)) => return Outcome::Skip(skip),
        Err(mistake) => return Outcome::Refuse(Mistakes(vec![mistake])),
    }
    if let Some(skip) = skip::reason(pod, &meta, namespace, defaults) {
        return Outcome::Skip(skip);
    }
    let mut mistakes = Vec::new();
    let settings = settings::read(&meta, namespace, defaults, &mut mistakes);
    let bare = wanted::bare(pod);
    wanted::conflicts(&bare, &mut mistakes);
    let (Some(settings), []) = (settings, &*mistakes) else { return Outcome::Refuse(Mistakes(mistakes)) };
    let token = ProbeToken::of(pod).unwrap_or_else(|| fresh.clone());
    let wanted = wanted::wanted(pod, bare, &sidecar::Ours { settings: &settings, defaults, token: &token });
    let patch = json_patch::diff(pod, &wanted);
    if patch.0.is_empty() {
        return Outcome::Skip(Skip::AlreadyInjected);
    }
    Outcome::Inject(Box::new(Injection { pod: wanted, patch }))
}

/// Where an object of this kind has its pod template, as a JSON pointer; `None` where it has none.
#[must_use]
pub fn template_pointer(kind: &str) -> Option<&'static str> {
    match kind {
        "Pod" => Some(""),
        "Deployment" | "ReplicaSet" | "StatefulSet" | "DaemonSet" | "Job" | "ReplicationController" => {
            Some("/spec/template")
        }
        "CronJob" => Some("/spec/jobTemplate/spec/template"),
        _ => None,
    }
}

/// The annotations and labels of an object.
#[derive(Debug, Clone, Default)]
pub(crate) struct Meta {
    pub(crate) annotations: BTreeMap<String, String>,
    pub(crate) labels: BTreeMap<String, String>,
}

impl Meta {
    /// Of an object as JSON. Only what was never with an API server can have other values than text: none of it is
    /// dropped, for it may be what the pod is asking for.
    ///
    /// # Errors
    /// Every value that is no text.
    pub(crate) fn of(object: &Value) -> Result<Self, Mistakes> {
        let mut mistakes = Vec::new();
        let mut map = |field: &str, what: &str| {
            let entries = match &object["metadata"][field] {
                Value::Null => return BTreeMap::new(),
                Value::Object(entries) => entries,
                other => {
                    mistakes.push(format!("metadata.{field} is {other}, and should be a mapping of names to texts"));
                    return BTreeMap::new();
                }
            };
            let text = |(key, value): (&String, &Value)| match value {
                Value::String(text) => Some((key.clone(), text.clone())),
                // As the API server reads it.
                Value::Null => Some((key.clone(), String::new())),
                other => {
                    mistakes.push(format!("{what} {key} is {other}, which is no text: quote it"));
                    None
                }
            };
            entries.iter().filter_map(text).collect()
        };
        let meta = Self { annotations: map("annotations", "annotation"), labels: map("labels", "label") };
        if mistakes.is_empty() { Ok(meta) } else { Err(Mistakes(mistakes)) }
    }
}

impl Namespace {
    /// What a Namespace object says, wanted in the mesh or not as the caller knows.
    ///
    /// # Errors
    /// Annotations or labels that are no texts.
    pub fn of(object: &Value, opted_in: bool) -> Result<Self, Mistakes> {
        let Meta { annotations, labels } = Meta::of(object)?;
        let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        Ok(Self { name, annotations, labels, opted_in, live: false })
    }
}

#[cfg(test)]
mod tests;
