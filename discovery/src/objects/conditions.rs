//! What a rule of an AuthorizationPolicy asks for: who calls, and what for.
//!
//! Lists that may not be empty are kept apart from lists that are not there, and unknown fields by name.

use super::Unknown;
use serde::Deserialize;

/// One field must be there; no list may be empty.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicySource {
    #[serde(default)]
    pub identities: Option<Vec<String>>,
    #[serde(default)]
    pub namespaces: Option<Vec<String>>,
    /// `namespace/name`.
    #[serde(default)]
    pub service_accounts: Option<Vec<String>>,
    #[serde(default)]
    pub trust_domains: Option<Vec<String>>,
    /// Whether the caller has an identity.
    #[serde(default)]
    pub authenticated: Option<bool>,
    #[serde(default)]
    pub cidrs: Option<Vec<String>>,
    /// Beside another field only.
    #[serde(default)]
    pub except: Option<ExceptSource>,
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// Whom a source does not mean. One list must be there; none may be empty.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct ExceptSource {
    #[serde(default)]
    pub identities: Option<Vec<String>>,
    #[serde(default)]
    pub namespaces: Option<Vec<String>>,
    #[serde(default)]
    pub cidrs: Option<Vec<String>>,
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// One field must be there; no list may be empty.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct PolicyOperation {
    #[serde(default)]
    pub methods: Option<Vec<String>>,
    #[serde(default)]
    pub paths: Option<Vec<String>>,
    #[serde(default)]
    pub hosts: Option<Vec<String>>,
    #[serde(default)]
    pub headers: Option<Vec<PolicyField>>,
    #[serde(default)]
    pub grpc: Option<Vec<PolicyGrpc>>,
    /// Of the pod.
    #[serde(default)]
    pub ports: Option<Vec<u32>>,
    /// Beside another field only.
    #[serde(default)]
    pub except: Option<ExceptOperation>,
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// What an operation does not mean. One list must be there; none may be empty.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct ExceptOperation {
    #[serde(default)]
    pub methods: Option<Vec<String>>,
    #[serde(default)]
    pub paths: Option<Vec<String>>,
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// A header field, of which each value is one of these.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct PolicyField {
    #[serde(default)]
    pub name: String,
    #[serde(default, rename = "type")]
    pub by: PolicyFieldMatch,
    #[serde(default)]
    pub values: Vec<String>,
    #[serde(flatten)]
    pub unknown: Unknown,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub enum PolicyFieldMatch {
    #[default]
    Exact,
    Prefix,
}

/// A gRPC service, or one method of it.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct PolicyGrpc {
    #[serde(default)]
    pub service: String,
    #[serde(default)]
    pub method: Option<String>,
    #[serde(flatten)]
    pub unknown: Unknown,
}
