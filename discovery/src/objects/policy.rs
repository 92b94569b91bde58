//! `remora.dev/v1alpha1`: AuthorizationPolicy, MeshTLSPolicy, BackendPolicy. Those of [`traffic`](super::traffic) are kept apart.
//!
//! Unknown fields are kept by name at every level: a misspelt condition must not widen what a policy allows, so whoever
//! reads them closes what they stand in. Lists that may not be empty are kept apart from lists that are not there.

pub use super::{
    attachment::{AnyPolicy, PolicyStatus, PolicyTarget, Selector, TargetKind, Targets},
    conditions::{
        ExceptOperation, ExceptSource, PolicyField, PolicyFieldMatch, PolicyGrpc, PolicyOperation, PolicySource,
    },
};

use super::{
    Metadata, Unknown,
    jwt::PolicyJwtIssuer,
    kind::{Defined, Kind, OUR_GROUP, StatusList, Unreadable, its_metadata},
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};
use std::fmt::Debug;

/// Who may do what with the workloads that it selects.
pub type AuthorizationPolicy = Policy<AuthorizationSpec>;
/// Whether plaintext is taken.
pub type MeshTlsPolicy = Policy<MeshTlsSpec>;
/// How Services are balanced and protected.
pub type BackendPolicy = Policy<BackendSpec>;

/// A policy of any kind (GEP-713). Without targets it is attached to its namespace; and what is attached to the namespace of the
/// control plane, to the mesh.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Policy<S> {
    pub metadata: Metadata,
    pub spec: S,
    #[serde(default)]
    pub status: PolicyStatus,
    /// What is the matter with its newest version, which cannot be read at all; this is what holds instead.
    #[serde(skip)]
    pub unreadable: Option<String>,
}

/// The targets of a policy about what comes into pods.
pub(super) const WORKLOADS: &[TargetKind] = &[TargetKind::Service, TargetKind::Pod, TargetKind::Namespace];

/// What a kind of policies says.
pub trait PolicySpec: Clone + Debug + PartialEq + DeserializeOwned + Send + Sync + 'static {
    /// The kind of the policies that say it, and how the API is asked for it.
    const KIND: &'static str;
    const PLURAL: &'static str;
    /// Whether it forbids something.
    const RESTRICTS: bool;
    /// What it may name as a target.
    const TARGETS: &'static [TargetKind];
    /// Whether it must name one.
    const NAMES_TARGETS: bool = false;

    /// What it names: its targets, its selector, and fields that nobody knows.
    fn named(&self) -> (&[PolicyTarget], Option<&Selector>, &Unknown);

    /// The same, with what it may name.
    fn targets(&self) -> Targets<'_> {
        let (refs, selector, unknown) = self.named();
        Targets { refs, selector, unknown, kinds: Self::TARGETS, required: Self::NAMES_TARGETS }
    }

    /// What holds in place of one that never could be read but for these targets, and in words.
    fn closed(target_refs: Vec<PolicyTarget>, selector: Option<Selector>) -> (Self, &'static str);
}

impl<S: PolicySpec> AnyPolicy for Policy<S> {
    fn targets(&self) -> Targets<'_> {
        self.spec.targets()
    }

    fn unreadable(&self) -> Option<&str> {
        self.unreadable.as_deref()
    }
}

impl<S: PolicySpec> Kind for Policy<S> {
    const KIND: &'static str = S::KIND;
    const GROUP: &'static str = OUR_GROUP;
    const VERSION: &'static str = "v1alpha1";
    const PLURAL: &'static str = S::PLURAL;
    const DEFINED: Defined = Defined::Custom;
    const STATUS: Option<StatusList> = Some(StatusList::Ancestors);
    const RESTRICTS: bool = S::RESTRICTS;

    its_metadata!();

    fn means_the_same(&self, other: &Self) -> bool {
        self.spec == other.spec && self.unreadable == other.unreadable && self.metadata.means_the_same(&other.metadata)
    }

    fn said(&self) -> Value {
        let PolicyStatus { conditions, ancestors, target } = &self.status;
        json!({ "conditions": conditions, "ancestors": ancestors, "target": target })
    }

    fn as_policy(&self) -> Option<&dyn AnyPolicy> {
        Some(self)
    }

    fn kept(&self, newest: &Unreadable) -> Option<Self> {
        Some(Self {
            metadata: newest.metadata.clone(),
            status: PolicyStatus::of(&newest.status),
            unreadable: Some(format!("{}; its last valid content stays in force", newest.problem)),
            ..self.clone()
        })
    }

    fn stand_in(newest: &Unreadable) -> Option<Self> {
        let (targets, selector) = readable_targets(&newest.spec);
        let wide = S::RESTRICTS && targets.is_empty() && selector.is_none();
        let (spec, holds) = S::closed(targets, selector);
        let holds = format!("{holds}{}", if wide { " in its namespace" } else { "" });
        Some(Self {
            metadata: newest.metadata.clone(),
            spec,
            status: PolicyStatus::of(&newest.status),
            unreadable: Some(format!("{}; {holds}", newest.problem)),
        })
    }
}

/// The targets of a policy that cannot be read, if all of these can be: what it means for others is then not theirs. Otherwise none,
/// which is the whole namespace.
fn readable_targets(spec: &Value) -> (Vec<PolicyTarget>, Option<Selector>) {
    let refs = Option::<Vec<PolicyTarget>>::deserialize(&spec["targetRefs"]);
    let selector = Option::<Selector>::deserialize(&spec["selector"]);
    match (refs, selector) {
        (Ok(refs), Ok(selector)) => (refs.unwrap_or_default(), selector),
        _ => (Vec::new(), None),
    }
}

/// Neither targets nor selector: the whole namespace.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AuthorizationSpec {
    #[serde(default)]
    pub target_refs: Vec<PolicyTarget>,
    #[serde(default)]
    pub selector: Option<Selector>,
    #[serde(default)]
    pub action: PolicyAction,
    #[serde(default)]
    pub mode: PolicyMode,
    /// Whose tokens requests may carry.
    #[serde(default)]
    pub jwt: Vec<PolicyJwtIssuer>,
    #[serde(default)]
    pub rules: Vec<PolicyRule>,
    #[serde(flatten)]
    pub unknown: Unknown,
}

impl PolicySpec for AuthorizationSpec {
    const KIND: &'static str = "AuthorizationPolicy";
    const PLURAL: &'static str = "authorizationpolicies";
    const RESTRICTS: bool = true;
    const TARGETS: &'static [TargetKind] = WORKLOADS;

    fn named(&self) -> (&[PolicyTarget], Option<&Selector>, &Unknown) {
        (&self.target_refs, self.selector.as_ref(), &self.unknown)
    }

    fn closed(target_refs: Vec<PolicyTarget>, selector: Option<Selector>) -> (Self, &'static str) {
        // Another policy may allow what this one meant to deny, so that to allow nothing is not enough.
        let everything = PolicyRule { from: Some(Vec::new()), to: Some(Vec::new()), ..PolicyRule::default() };
        let (action, mode, rules) = (PolicyAction::Deny, PolicyMode::Enforce, vec![everything]);
        let (jwt, unknown) = (Vec::new(), Unknown::default());
        (Self { target_refs, selector, action, mode, jwt, rules, unknown }, "it denies everything")
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub enum PolicyAction {
    #[default]
    Allow,
    Deny,
    Audit,
}

/// Whether it decides anything.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub enum PolicyMode {
    #[default]
    Enforce,
    /// What it would do is counted.
    DryRun,
}

/// One of `from` and `to` must be there, empty or not: what matches everything says so.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct PolicyRule {
    #[serde(default)]
    pub from: Option<Vec<PolicySource>>,
    #[serde(default)]
    pub to: Option<Vec<PolicyOperation>>,
    /// Of a deny rule: what a caller without an identity counts as.
    #[serde(default)]
    pub unidentified: Option<UnidentifiedCallers>,
    #[serde(flatten)]
    pub unknown: Unknown,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum UnidentifiedCallers {
    Match,
    Ignore,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MeshTlsSpec {
    #[serde(default)]
    pub target_refs: Vec<PolicyTarget>,
    #[serde(default)]
    pub selector: Option<Selector>,
    pub mode: Mode,
    #[serde(flatten)]
    pub unknown: Unknown,
}

impl PolicySpec for MeshTlsSpec {
    const KIND: &'static str = "MeshTLSPolicy";
    const PLURAL: &'static str = "meshtlspolicies";
    const RESTRICTS: bool = true;
    const TARGETS: &'static [TargetKind] = WORKLOADS;

    fn named(&self) -> (&[PolicyTarget], Option<&Selector>, &Unknown) {
        (&self.target_refs, self.selector.as_ref(), &self.unknown)
    }

    fn closed(target_refs: Vec<PolicyTarget>, selector: Option<Selector>) -> (Self, &'static str) {
        (Self { target_refs, selector, mode: Mode::Strict, unknown: Unknown::default() }, "it is Strict")
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum Mode {
    Permissive,
    Strict,
    /// Decides nothing: what Strict would refuse is counted.
    DryRun,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackendSpec {
    /// Must not be empty.
    #[serde(default)]
    pub target_refs: Vec<PolicyTarget>,
    #[serde(default)]
    pub accrual: Option<AccrualSpec>,
    #[serde(default)]
    pub retry_constraint: Option<RetryConstraint>,
    #[serde(default)]
    pub pending_max: Option<u32>,
    #[serde(default)]
    pub connect_timeout: Option<String>,
    #[serde(default)]
    pub load_balancer: Option<LoadBalancerSpec>,
    #[serde(default)]
    pub connection: Option<ConnectionSpec>,
    #[serde(flatten)]
    pub unknown: Unknown,
}

impl PolicySpec for BackendSpec {
    const KIND: &'static str = "BackendPolicy";
    const PLURAL: &'static str = "backendpolicies";
    const RESTRICTS: bool = false;
    const TARGETS: &'static [TargetKind] = &[TargetKind::Service, TargetKind::Namespace];
    const NAMES_TARGETS: bool = true;

    fn named(&self) -> (&[PolicyTarget], Option<&Selector>, &Unknown) {
        (&self.target_refs, None, &self.unknown)
    }

    fn closed(target_refs: Vec<PolicyTarget>, _selector: Option<Selector>) -> (Self, &'static str) {
        (Self { target_refs, ..Self::default() }, "the defaults hold")
    }
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
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
    #[serde(flatten)]
    pub unknown: Unknown,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ConnectionSpec {
    #[serde(default)]
    pub idle_timeout: Option<String>,
    #[serde(default)]
    pub keep_alive: Option<KeepAliveSpec>,
    /// To each endpoint.
    #[serde(default)]
    pub max_connections: Option<u32>,
    #[serde(flatten)]
    pub unknown: Unknown,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KeepAliveSpec {
    #[serde(default)]
    pub interval: Option<String>,
    #[serde(default)]
    pub timeout: Option<String>,
    #[serde(flatten)]
    pub unknown: Unknown,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LoadBalancerSpec {
    /// `PeakEWMA`, `LeastRequest`, `RoundRobin` or `ConsistentHash`.
    #[serde(default, rename = "type")]
    pub kind: Option<String>,
    /// Of type `ConsistentHash`.
    #[serde(default)]
    pub consistent_hash: Option<ConsistentHash>,
    #[serde(flatten)]
    pub unknown: Unknown,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ConsistentHash {
    /// `Header`, `Cookie`, `SourceIP` or `SourceIdentity`.
    #[serde(default, rename = "type")]
    pub kind: Option<String>,
    #[serde(default)]
    pub header: Option<Named>,
    #[serde(default)]
    pub cookie: Option<Named>,
    /// Percent of an endpoint's share.
    #[serde(default)]
    pub balance_factor: Option<u32>,
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// What has a name and nothing else.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct Named {
    #[serde(default)]
    pub name: String,
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// As of an XBackendTrafficPolicy.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RetryConstraint {
    #[serde(default)]
    pub budget: Option<RetryBudget>,
    #[serde(default)]
    pub min_retry_rate: Option<MinRetryRate>,
    #[serde(flatten)]
    pub unknown: Unknown,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct RetryBudget {
    /// Of the requests within the interval.
    #[serde(default)]
    pub percent: Option<u8>,
    #[serde(default)]
    pub interval: Option<String>,
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// Retries that are allowed whatever the budget says.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct MinRetryRate {
    #[serde(default)]
    pub count: Option<u32>,
    #[serde(default)]
    pub interval: Option<String>,
    #[serde(flatten)]
    pub unknown: Unknown,
}
