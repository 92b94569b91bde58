//! `remora.dev/v1alpha1`: RateLimitPolicy, FaultPolicy. Unknown fields are kept by name at every level, as of the other policies
//! ([`policy`](super::policy)).

use super::{
    Unknown,
    attachment::{PolicyTarget, Selector, TargetKind},
    policy::{Named, Policy, PolicySpec, WORKLOADS},
};
use serde::Deserialize;

/// How much of what may come in.
pub type RateLimitPolicy = Policy<RateLimitSpec>;
/// What is delayed and aborted on purpose.
pub type FaultPolicy = Policy<FaultSpec>;

/// Neither targets nor selector: the whole namespace.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RateLimitSpec {
    #[serde(default)]
    pub target_refs: Vec<PolicyTarget>,
    #[serde(default)]
    pub selector: Option<Selector>,
    #[serde(default)]
    pub mode: LimitMode,
    /// Must not be empty.
    #[serde(default)]
    pub limits: Vec<LimitSpec>,
    #[serde(flatten)]
    pub unknown: Unknown,
}

impl PolicySpec for RateLimitSpec {
    const KIND: &'static str = "RateLimitPolicy";
    const PLURAL: &'static str = "ratelimitpolicies";
    const RESTRICTS: bool = true;
    const TARGETS: &'static [TargetKind] = WORKLOADS;

    fn named(&self) -> (&[PolicyTarget], Option<&Selector>, &Unknown) {
        (&self.target_refs, self.selector.as_ref(), &self.unknown)
    }

    fn closed(target_refs: Vec<PolicyTarget>, selector: Option<Selector>) -> (Self, &'static str) {
        (Self { target_refs, selector, ..Self::default() }, "it limits nothing")
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub enum LimitMode {
    #[default]
    Enforce,
    /// Counts what it would refuse.
    DryRun,
}

/// One of `requests`, `connections` and `bytes` must be there.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LimitSpec {
    #[serde(default, rename = "match")]
    pub only: Option<MatchSpec>,
    #[serde(default)]
    pub by: Option<BySpec>,
    #[serde(default)]
    pub requests: Option<RateSpec>,
    #[serde(default)]
    pub connections: Option<RateSpec>,
    #[serde(default)]
    pub bytes: Option<RateSpec>,
    /// Of a limit by identity.
    #[serde(default)]
    pub overrides: Option<Vec<OverrideSpec>>,
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// All lists that are there must hold; none may be empty.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MatchSpec {
    #[serde(default)]
    pub methods: Option<Vec<String>>,
    #[serde(default)]
    pub paths: Option<Vec<String>>,
    #[serde(default)]
    pub headers: Option<Vec<HeaderSpec>>,
    #[serde(default)]
    pub identities: Option<Vec<String>>,
    #[serde(default)]
    pub service_accounts: Option<Vec<String>>,
    #[serde(flatten)]
    pub unknown: Unknown,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct HeaderSpec {
    #[serde(default)]
    pub name: String,
    #[serde(default)]
    pub value: String,
    #[serde(flatten)]
    pub unknown: Unknown,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct BySpec {
    /// `Target`, `Identity`, `Header` or `ClientAddress`.
    #[serde(default, rename = "type")]
    pub kind: Option<String>,
    /// Of type `Header`.
    #[serde(default)]
    pub header: Option<Named>,
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// One of the two rates must be there.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RateSpec {
    #[serde(default)]
    pub per_second: Option<u64>,
    #[serde(default)]
    pub per_minute: Option<u64>,
    /// As much as the rate says, if it is left out.
    #[serde(default)]
    pub burst: Option<u64>,
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// The rate of some callers; of the same kind as the limit's.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OverrideSpec {
    #[serde(default)]
    pub identities: Option<Vec<String>>,
    /// `namespace/name`.
    #[serde(default)]
    pub service_accounts: Option<Vec<String>>,
    #[serde(default)]
    pub requests: Option<RateSpec>,
    #[serde(default)]
    pub connections: Option<RateSpec>,
    #[serde(default)]
    pub bytes: Option<RateSpec>,
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// Neither targets nor selector: the whole namespace.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FaultSpec {
    #[serde(default)]
    pub target_refs: Vec<PolicyTarget>,
    #[serde(default)]
    pub selector: Option<Selector>,
    /// Must not be empty.
    #[serde(default)]
    pub faults: Vec<FaultRule>,
    #[serde(flatten)]
    pub unknown: Unknown,
}

impl PolicySpec for FaultSpec {
    const KIND: &'static str = "FaultPolicy";
    const PLURAL: &'static str = "faultpolicies";
    const RESTRICTS: bool = false;
    const TARGETS: &'static [TargetKind] = WORKLOADS;

    fn named(&self) -> (&[PolicyTarget], Option<&Selector>, &Unknown) {
        (&self.target_refs, self.selector.as_ref(), &self.unknown)
    }

    fn closed(target_refs: Vec<PolicyTarget>, selector: Option<Selector>) -> (Self, &'static str) {
        (Self { target_refs, selector, ..Self::default() }, "no fault happens")
    }
}

/// One of `delay` and `abort` must be there.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FaultRule {
    #[serde(default, rename = "match")]
    pub only: Option<MatchSpec>,
    #[serde(default)]
    pub delay: Option<DelaySpec>,
    #[serde(default)]
    pub abort: Option<AbortSpec>,
    #[serde(flatten)]
    pub unknown: Unknown,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DelaySpec {
    #[serde(default)]
    pub duration: Option<String>,
    /// Of the requests; 100 if it is left out.
    #[serde(default)]
    pub percent: Option<f64>,
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// One of `httpStatus`, `grpcStatus` and `reset` must be there.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AbortSpec {
    #[serde(default)]
    pub http_status: Option<u16>,
    /// By name: `UNAVAILABLE`.
    #[serde(default)]
    pub grpc_status: Option<String>,
    #[serde(default)]
    pub reset: Option<bool>,
    /// Of the requests; 100 if it is left out.
    #[serde(default)]
    pub percent: Option<f64>,
    #[serde(flatten)]
    pub unknown: Unknown,
}
