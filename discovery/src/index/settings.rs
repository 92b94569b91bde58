//! BackendPolicies: how Services are balanced and protected. What cannot be read is reported and left at its default; of two
//! policies that say the same of one Service, the older one counts (GEP-713).

use super::{Key, Snapshot, policies::targets, status::Findings, values};
use crate::objects::{
    Kind,
    policy::{AccrualSpec, BackendPolicy, BackendSpec, TargetKind},
};
use remora_model::BackendSettings;
use std::{collections::HashMap, time::Duration};

/// BackendPolicies by the Service that they name, the oldest last.
pub(super) struct Settings<'a>(HashMap<(&'a str, &'a str), Vec<&'a BackendPolicy>>);

impl<'a> Settings<'a> {
    /// Of all policies.
    pub(super) fn new(policies: &[&'a BackendPolicy]) -> Self {
        let mut by_service: HashMap<_, Vec<&BackendPolicy>> = HashMap::new();
        for policy in policies {
            for target in policy.spec.target_refs.iter().filter(|target| target.kind == TargetKind::Service) {
                let key = (policy.metadata.namespace.as_str(), target.name.as_str());
                by_service.entry(key).or_default().push(policy);
            }
        }
        let age = |policy: &&BackendPolicy| {
            let meta = &policy.metadata;
            (meta.creation_timestamp.is_none(), meta.creation_timestamp.clone(), meta.name.clone())
        };
        for policies in by_service.values_mut() {
            policies.sort_by_key(age);
            policies.dedup_by_key(|policy| std::ptr::from_ref(*policy));
            policies.reverse();
        }
        Self(by_service)
    }

    /// What holds for a Service.
    pub(super) fn of(&self, key: &Key) -> BackendSettings {
        let mut settings = BackendSettings::default();
        for policy in self.0.get(&(key.0.as_str(), key.1.as_str())).into_iter().flatten() {
            apply(&policy.spec, &mut settings);
        }
        settings
    }

    /// The older policy that a policy yields to, and for which Service.
    fn older(&self, policy: &'a BackendPolicy) -> Option<(&'a str, &'a str)> {
        policy.spec.target_refs.iter().find_map(|target| {
            let all = self.0.get(&(policy.metadata.namespace.as_str(), target.name.as_str()))?;
            let oldest = all.last().filter(|oldest| !std::ptr::eq(**oldest, policy))?;
            Some((oldest.metadata.name.as_str(), target.name.as_str()))
        })
    }
}

impl Snapshot {
    pub(super) fn judge_backend_policies<'a>(&mut self, policies: &[&'a BackendPolicy], settings: &Settings<'a>) {
        for policy in policies {
            let mut found = Findings::new(BackendPolicy::KIND, &policy.metadata, &policy.status);
            found.invalid.extend(policy.unreadable.clone());
            judge(&policy.spec, &mut found.invalid);
            self.missing_targets(&policy.metadata, &policy.spec.target_refs, &mut found);
            if let Some((older, service)) = settings.older(policy) {
                let problem = format!("BackendPolicy {older} is older, and counts where both say something");
                found.conflicts.push(format!("Service {service}: {problem}"));
            }
            self.tell(BackendPolicy::KIND, &policy.metadata, &found);
            self.statuses.push(found.finish());
        }
    }
}

fn percent(percent: Option<u8>) -> Option<f32> {
    percent.filter(|percent| *percent <= 100).map(|percent| f32::from(percent) / 100.0)
}

fn time(text: Option<&String>) -> Option<Duration> {
    duration(text?).ok()
}

/// A duration of a BackendPolicy. None can be meant to be zero: no connection is made in no time, and a pause of none is no
/// pause.
fn duration(text: &str) -> Result<Duration, String> {
    let time = values::duration(text)?;
    if time.is_zero() { Err(format!("{text:?} is zero, which cannot be meant")) } else { Ok(time) }
}

/// The pauses, if they make sense together.
fn pauses(accrual: &AccrualSpec, settings: &BackendSettings) -> Result<(Duration, Duration), String> {
    let min = time(accrual.backoff_min.as_ref());
    let max = time(accrual.backoff_max.as_ref());
    if let (Some(min), Some(max)) = (min, max)
        && min > max
    {
        return Err("spec.accrual: backoffMin must not be longer than backoffMax".to_owned());
    }
    let min = min.unwrap_or(settings.accrual.backoff_min);
    Ok((min, max.unwrap_or(settings.accrual.backoff_max).max(min)))
}

fn apply(spec: &BackendSpec, settings: &mut BackendSettings) {
    if let Some(said) = &spec.accrual {
        if let Ok(both) = pauses(said, settings) {
            (settings.accrual.backoff_min, settings.accrual.backoff_max) = both;
        }
        let accrual = &mut settings.accrual;
        accrual.consecutive = said.consecutive.unwrap_or(accrual.consecutive);
        accrual.minimum_requests = said.minimum_requests.unwrap_or(accrual.minimum_requests);
        accrual.success_rate = percent(said.success_rate).unwrap_or(accrual.success_rate);
    }
    if let Some(budget) = &spec.retry_budget {
        settings.retry_ratio = percent(budget.percent).unwrap_or(settings.retry_ratio);
        settings.retries_per_second = budget.min_per_second.unwrap_or(settings.retries_per_second);
    }
    settings.connect_timeout = time(spec.connect_timeout.as_ref()).unwrap_or(settings.connect_timeout);
    settings.pending_max = spec.pending_max.unwrap_or(settings.pending_max);
}

/// Everything that is wrong with a policy.
fn judge(spec: &BackendSpec, problems: &mut Vec<String>) {
    let said = |e: String| format!("{e}; the default stays");
    problems.extend(spec.unknown.none().err().map(|e| said(format!("spec.{e}"))));
    problems.extend(targets(&spec.target_refs, &[TargetKind::Service]).err());
    if spec.target_refs.is_empty() {
        problems.push("spec.targetRefs: is empty; it holds for nothing".to_owned());
    }
    let mut judge_time = |field: &str, text: Option<&String>| {
        let wrong = text.and_then(|text| duration(text).err());
        problems.extend(wrong.map(|e| said(format!("{field}: {e}"))));
    };
    let accrual = spec.accrual.as_ref();
    judge_time("spec.accrual.backoffMin", accrual.and_then(|accrual| accrual.backoff_min.as_ref()));
    judge_time("spec.accrual.backoffMax", accrual.and_then(|accrual| accrual.backoff_max.as_ref()));
    judge_time("spec.connectTimeout", spec.connect_timeout.as_ref());
    let above = |field: &str, percent: Option<u8>| {
        let above = percent.filter(|percent| *percent > 100);
        above.map(|percent| said(format!("{field}: {percent} is more than 100 percent")))
    };
    if let Some(accrual) = accrual {
        problems.extend(accrual.unknown.none().err().map(|e| said(format!("spec.accrual.{e}"))));
        problems.extend(above("spec.accrual.successRate", accrual.success_rate));
        problems.extend(pauses(accrual, &BackendSettings::default()).err().map(said));
        if *accrual == AccrualSpec::default() {
            problems.push("spec.accrual: is empty".to_owned());
        }
    }
    if let Some(budget) = &spec.retry_budget {
        problems.extend(budget.unknown.none().err().map(|e| said(format!("spec.retryBudget.{e}"))));
        problems.extend(above("spec.retryBudget.percent", budget.percent));
        if *budget == Default::default() {
            problems.push("spec.retryBudget: is empty".to_owned());
        }
    }
}
