//! RateLimitPolicies and FaultPolicies, read: what of them holds for a port, and what is to be said of them.
//!
//! **What cannot be read does not hold.** A limit keeps a workload up; one that held for more than was meant, or refused everything, would be the
//! outage that it is there to prevent, and who may call is not its affair. A fault breaks something on purpose, so that one which cannot be read
//! breaks nothing. Status, log and Event name the field; the limits and faults beside it hold, and so does the last valid content of
//! an object that cannot be read at all.

mod fault;
mod limit;
mod only;

use super::{
    Key, ObjectId,
    derived::{ReadPolicy, Says},
    facts::Facts,
    policies::attach::check,
    status::Findings,
};
use crate::objects::{
    Kind as _, Metadata,
    core::Pod,
    policy::{PolicySpec as _, Targets},
    traffic::{FaultPolicy, RateLimitPolicy},
};
use remora_kube::names::FAULT_INJECTION;
use remora_model::{
    BackendId, Fault, Feature, RateLimit, Traffic,
    traffic::{FAULTS_MAX, LIMITS_MAX},
};
use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// Limits or faults of one policy, as in the CRD.
const RULES_MAX: usize = 16;
/// Entries of any list in one, as in the CRD.
const LIST_MAX: usize = 64;

/// What an annotation or a label of a namespace says, so that faults may happen there.
const ALLOWED: &str = "allowed";

impl Facts {
    /// The limits and faults of a port of a pod.
    pub(super) fn traffic(&self, key: &Key, pod: &Pod, ids: &[&BackendId]) -> Traffic {
        let mut traffic = Traffic::default();
        for policy in self.holding(RateLimitPolicy::KIND, key, pod, ids) {
            if let Says::RateLimits(limits) = &policy.says {
                traffic.limits.extend(limits.iter().cloned());
            }
        }
        traffic.limits.truncate(LIMITS_MAX);
        let faults = self.holding(FaultPolicy::KIND, key, pod, ids);
        // Asked only where it matters.
        if !faults.is_empty() && self.faults_allowed.contains_key(&key.0) {
            for policy in faults {
                if let Says::Faults(faults) = &policy.says {
                    traffic.faults.extend(faults.iter().cloned());
                }
            }
            traffic.faults.truncate(FAULTS_MAX);
        }
        traffic
    }

    /// The policies of a kind that hold for a port of a pod: the most specific first, then in the order of their names.
    fn holding(&self, kind: &'static str, key: &Key, pod: &Pod, ids: &[&BackendId]) -> Vec<Arc<ReadPolicy>> {
        let mut all = BTreeMap::new();
        for place in self.places_over(Some(key), ids) {
            for id in self.policies_on.get(&(kind, place.clone())) {
                let Some(read) = self.read_policies.get(id).filter(|read| read.selects(pod)) else { continue };
                let level = Reverse(place.level(read.selector.as_ref()));
                let least: &mut (Reverse<_>, Arc<ReadPolicy>) =
                    all.entry(id.clone()).or_insert_with(|| (level, Arc::clone(read)));
                least.0 = least.0.min(level);
            }
        }
        let mut all: Vec<(ObjectId, _)> = all.into_iter().collect();
        all.sort_by_key(|(_, (level, _))| *level);
        all.into_iter().map(|(_, (_, read))| read).collect()
    }

    /// What a policy of these kinds says.
    pub(super) fn read_limits(&self, policy: &RateLimitPolicy) -> Says {
        Says::RateLimits(self.limits_of(policy, &mut Findings::default()))
    }

    /// See [`Self::read_limits`].
    pub(super) fn read_faults(&self, policy: &FaultPolicy) -> Says {
        Says::Faults(self.faults_of(policy, &mut Findings::default()))
    }

    /// Everything that is wrong with a RateLimitPolicy.
    pub(super) fn judge_limits(&self, policy: &RateLimitPolicy, found: &mut Findings) {
        let limits = self.limits_of(policy, found);
        if !limits.is_empty() {
            let needed = [Feature::RateLimits].into_iter().collect();
            found.partly.extend(self.lacked(needed, "nothing is limited"));
        }
    }

    /// Everything that is wrong with a FaultPolicy.
    pub(super) fn judge_faults(&self, policy: &FaultPolicy, found: &mut Findings) {
        let faults = self.faults_of(policy, found);
        let namespace = &policy.metadata.namespace;
        let allow = || format!("annotate it with {FAULT_INJECTION}: {ALLOWED}");
        if *namespace == self.mesh.namespace && policy.spec.selector.is_none() {
            found.notes.push(format!("holds in namespaces that allow faults; to allow them in one, {}", allow()));
        } else if !self.faults_allowed.contains_key(namespace) {
            let problem = format!("namespace {namespace} does not allow faults, and none happens; {}", allow());
            found.invalid.push(problem);
        }
        if !faults.is_empty() {
            let needed = [Feature::Faults].into_iter().collect();
            found.partly.extend(self.lacked(needed, "no fault happens"));
        }
    }

    fn limits_of(&self, policy: &RateLimitPolicy, found: &mut Findings) -> Vec<RateLimit> {
        if policy.unreadable.is_some() && policy.spec.limits.is_empty() {
            return Vec::new();
        }
        let trust_domain = &self.mesh.trust_domain;
        let read = |name, index: usize| limit::read(name, &policy.spec.limits[index], policy.spec.mode, trust_domain);
        let spec = (policy.spec.targets(), policy.spec.limits.len(), "limits");
        rules(&policy.metadata, spec, "limit", "it limits nothing", read, found)
    }

    fn faults_of(&self, policy: &FaultPolicy, found: &mut Findings) -> Vec<Fault> {
        if policy.unreadable.is_some() && policy.spec.faults.is_empty() {
            return Vec::new();
        }
        let trust_domain = &self.mesh.trust_domain;
        let read = |name, index: usize| fault::read(name, &policy.spec.faults[index], trust_domain);
        let spec = (policy.spec.targets(), policy.spec.faults.len(), "faults");
        rules(&policy.metadata, spec, "fault", "it does not happen", read, found)
    }

    /// What is to be said of all RateLimitPolicies of a namespace.
    pub(super) fn too_many_limits(&self, namespace: &str) -> Option<String> {
        let all = self.policies_in.get(&(RateLimitPolicy::KIND, namespace.to_owned()));
        let limits = all.filter_map(|id| self.read_policies.get(id)).map(|read| match &read.says {
            Says::RateLimits(limits) => limits.len(),
            _ => 0,
        });
        let limits: usize = limits.sum();
        let told = || {
            format!(
                "namespace {namespace}: has {limits} rate limits, and {LIMITS_MAX} may be of one port: those beyond do not hold"
            )
        };
        (limits > LIMITS_MAX).then(told)
    }
}

/// Reads the rules of a policy, each by itself. What is wrong outside of them takes all of them.
fn rules<T>(
    meta: &Metadata,
    (targets, count, field): (Targets<'_>, usize, &str),
    word: &str,
    effect: &str,
    read: impl Fn(Arc<str>, usize) -> Result<T, String>,
    found: &mut Findings,
) -> Vec<T> {
    if let Err(problem) = check(&meta.namespace, targets) {
        found.invalid.push(format!("{problem}; nothing of it holds"));
        return Vec::new();
    }
    if count == 0 {
        found.invalid.push(format!("spec.{field}: is empty; {effect}"));
    }
    let (mut rules, mut problems) = (Vec::new(), Vec::new());
    for index in 0..count {
        let name: Arc<str> = format!("{}/{} {word} {index}", meta.namespace, meta.name).into();
        let one = if index < RULES_MAX { read(name, index) } else { Err(format!(": is one of more than {RULES_MAX}")) };
        match one {
            Ok(rule) => rules.push(rule),
            Err(problem) => problems.push(format!("spec.{field}[{index}]{problem}; {effect}")),
        }
    }
    if rules.is_empty() {
        found.invalid.extend(problems)
    } else {
        found.partly.extend(problems)
    }
    rules
}

/// Whether faults may happen in a namespace.
pub(super) fn allows_faults(meta: &Metadata) -> bool {
    let is = |value: Option<&String>| value.is_some_and(|value| value.trim() == ALLOWED);
    is(meta.annotations.get(FAULT_INJECTION)) || is(meta.labels.get(FAULT_INJECTION))
}

/// What is wrong with what a namespace says of that.
pub(super) fn allowance_problem(meta: &Metadata) -> Option<String> {
    let said: BTreeSet<&String> =
        [&meta.annotations, &meta.labels].into_iter().filter_map(|all| all.get(FAULT_INJECTION)).collect();
    let wrong = said.into_iter().find(|value| value.trim() != ALLOWED)?;
    Some(format!("metadata.annotations: {FAULT_INJECTION}: {wrong:?} is not {ALLOWED:?}, which alone allows faults"))
}
