//! What becomes of a pod. Pure: in, a pod (or a pod template) as JSON, what its namespace says, and the chart's
//! defaults; out, an [`Outcome`].
//!
//! [`optin`] says whether anybody wants a sidecar, [`skip`] why a pod cannot have one, [`settings`] what annotations ask
//! for, [`probes`] what becomes of the kubelet's probes, [`sidecar`] what our containers look like, and [`wanted`] puts
//! it together. The patch is the difference between the pod as it is and the pod as it is wanted. Injecting what is
//! injected gives an empty patch, also after other injectors changed the pod: ours is taken out first and put in again.
//!
//! It works on JSON rather than on typed objects, so that fields which it does not know pass untouched.

mod defaults;
mod json;
mod nearest;
pub mod optin;
mod probes;
mod quantity;
mod settings;
mod sidecar;
mod skip;
mod wanted;

pub use defaults::{Defaults, ProxyDefaults};
pub(crate) use json::covers;
pub use probes::{Handler, Kind, Probe};
pub use settings::{SETTINGS, Setting};
pub use skip::Skip;

use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt;

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

/// Decides about `pod`: an object with `metadata` and `spec`, whatever else it has.
#[must_use]
pub fn inject(pod: &Value, namespace: &Namespace, defaults: &Defaults) -> Outcome {
    for field in ["metadata", "spec"] {
        if !pod[field].is_object() {
            return Outcome::Refuse(Mistakes(vec![format!("this is no pod: it has no {field}")]));
        }
    }
    let meta = Meta::of(pod);
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
    let wanted = wanted::wanted(pod, bare, &settings, defaults);
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
    fn of(pod: &Value) -> Self {
        let map = |field: &str| {
            let entries = pod["metadata"][field].as_object().into_iter().flatten();
            entries.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect()
        };
        Self { annotations: map("annotations"), labels: map("labels") }
    }
}

#[cfg(test)]
mod tests;
