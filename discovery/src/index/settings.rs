//! BackendPolicies: how Services are balanced and protected. What cannot be read is reported and left at its default; of two
//! policies that say the same of one Service, the older one counts (GEP-713).

use super::{Key, facts::Facts, policies::targets, status::Findings, values};
use crate::objects::{
    Kind,
    policy::{AccrualSpec, BackendPolicy, BackendSpec, TargetKind},
};
use remora_model::BackendSettings;
use std::time::Duration;

impl Facts {
    /// What BackendPolicies say of a Service.
    pub(super) fn settings(&self, service: &Key) -> BackendSettings {
        let mut settings = BackendSettings::default();
        for policy in self.oldest_first(service).iter().rev() {
            apply(&policy.spec, &mut settings);
        }
        settings
    }

    fn oldest_first(&self, service: &Key) -> Vec<&BackendPolicy> {
        let all = self.settings_of.get(service).filter_map(|key| self.backend_policies.get(key));
        let mut all: Vec<&BackendPolicy> = all.map(|policy| &**policy).collect();
        all.sort_by_key(|policy| {
            let meta = &policy.metadata;
            (meta.creation_timestamp.is_none(), meta.creation_timestamp.clone(), meta.name.clone())
        });
        all
    }

    /// What is to be said of a BackendPolicy.
    pub(super) fn judge_backend_policy(&self, key: &Key) -> Option<Findings> {
        let policy = self.backend_policies.get(key)?;
        let mut found = Findings::new(BackendPolicy::registered(), &policy.metadata, &policy.status);
        found.invalid.extend(policy.unreadable.clone());
        judge(&policy.spec, &mut found.invalid);
        self.missing_targets(&policy.metadata, &policy.spec.target_refs, &mut found);
        // The older policy that it yields to, and for which Service.
        let older = policy.spec.target_refs.iter().find_map(|target| {
            let oldest = *self.oldest_first(&(key.0.clone(), target.name.clone())).first()?;
            (oldest.metadata.name != key.1).then_some((&oldest.metadata.name, &target.name))
        });
        if let Some((older, service)) = older {
            let problem = format!("BackendPolicy {older} is older, and counts where both say something");
            found.conflicts.push(format!("Service {service}: {problem}"));
        }
        Some(found)
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
