//! `remora.dev/v1alpha1`: AuthorizationPolicy, MeshTLSPolicy, BackendPolicy.
//!
//! Unlike the rest, unknown fields are refused here: a misspelt condition must not widen what a policy allows.

use super::Resource;
use serde::Deserialize;
use std::collections::BTreeMap;

/// Who may do what with the workloads that it selects.
pub type AuthorizationPolicy = Resource<AuthorizationSpec>;
/// Whether plaintext is taken. Without targets it holds for its namespace; in the root namespace `remora`, for the mesh.
pub type MeshTlsPolicy = Resource<MeshTlsSpec>;
/// How Services are balanced and protected.
pub type BackendPolicy = Resource<BackendSpec>;

/// Neither targets nor selector: the whole namespace.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AuthorizationSpec {
    #[serde(default)]
    pub target_refs: Vec<PolicyTarget>,
    #[serde(default)]
    pub selector: Option<Selector>,
    #[serde(default)]
    pub action: PolicyAction,
    #[serde(default)]
    pub rules: Vec<PolicyRule>,
}

/// An object in the policy's own namespace.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyTarget {
    #[serde(default)]
    pub group: String,
    pub kind: TargetKind,
    pub name: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum TargetKind {
    Service,
    Pod,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Selector {
    #[serde(default)]
    pub match_labels: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub enum PolicyAction {
    #[default]
    Allow,
    Deny,
    Audit,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyRule {
    #[serde(default)]
    pub from: Vec<PolicySource>,
    #[serde(default)]
    pub to: Vec<PolicyOperation>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicySource {
    #[serde(default)]
    pub identities: Vec<String>,
    #[serde(default)]
    pub namespaces: Vec<String>,
    #[serde(default)]
    pub cidrs: Vec<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyOperation {
    #[serde(default)]
    pub methods: Vec<String>,
    #[serde(default)]
    pub paths: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MeshTlsSpec {
    #[serde(default)]
    pub target_refs: Vec<PolicyTarget>,
    pub mode: Mode,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum Mode {
    Permissive,
    Strict,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BackendSpec {
    #[serde(default)]
    pub target_refs: Vec<PolicyTarget>,
    #[serde(default)]
    pub accrual: AccrualSpec,
    #[serde(default)]
    pub retry_budget: RetryBudget,
    #[serde(default)]
    pub pending_max: Option<u32>,
    #[serde(default)]
    pub connect_timeout: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AccrualSpec {
    #[serde(default)]
    pub consecutive: Option<u32>,
    /// Percent.
    #[serde(default)]
    pub success_rate: Option<u8>,
    #[serde(default)]
    pub minimum_requests: Option<u32>,
    #[serde(default)]
    pub backoff_min: Option<String>,
    #[serde(default)]
    pub backoff_max: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RetryBudget {
    #[serde(default)]
    pub percent: Option<u8>,
    #[serde(default)]
    pub min_per_second: Option<u32>,
}
