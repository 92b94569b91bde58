//! What a policy of any kind is attached to (GEP-713), and what is said of it.

use super::Unknown;
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;

/// What a policy is attached to, as it was written.
#[derive(Debug, Clone, Copy)]
pub struct Targets<'a> {
    pub refs: &'a [PolicyTarget],
    /// With references, both must select.
    pub selector: Option<&'a Selector>,
    /// Fields of the policy that do not exist: one of them may be meant for targets.
    pub unknown: &'a Unknown,
    /// What may be named.
    pub kinds: &'static [TargetKind],
    /// Whether something must be named.
    pub required: bool,
}

/// A policy, whatever it says.
pub trait AnyPolicy {
    /// What it is attached to.
    fn targets(&self) -> Targets<'_>;

    /// What is the matter with its newest version, if that cannot be read.
    fn unreadable(&self) -> Option<&str>;
}

/// An object in the policy's own namespace.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyTarget {
    /// Must be empty: the core group.
    #[serde(default)]
    pub group: String,
    pub kind: TargetKind,
    pub name: String,
    /// Of a Service: one of its ports, by name.
    #[serde(default)]
    pub section_name: Option<String>,
    #[serde(flatten)]
    pub unknown: Unknown,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum TargetKind {
    Service,
    Pod,
    /// The policy's own.
    Namespace,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Selector {
    /// Must not be empty.
    #[serde(default)]
    pub match_labels: BTreeMap<String, String>,
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// What is said of a policy, as it was read.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct PolicyStatus {
    /// Of all targets together.
    #[serde(default)]
    pub conditions: Vec<Value>,
    /// Of each target.
    #[serde(default)]
    pub ancestors: Vec<Value>,
    /// The targets in few words, for `kubectl get`.
    #[serde(default)]
    pub target: Value,
}

impl PolicyStatus {
    /// As it stands in the API.
    pub fn of(status: &Value) -> Self {
        let list = |field: &str| status[field].as_array().cloned().unwrap_or_default();
        Self { conditions: list("conditions"), ancestors: list("ancestors"), target: status["target"].clone() }
    }
}
