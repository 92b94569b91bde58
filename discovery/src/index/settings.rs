//! BackendPolicies: how Services are balanced and protected. What cannot be read is reported and left at its default; of two
//! policies that say the same of one Service port, the more specific one counts, and of equals the older one (GEP-713).

use super::{
    connection,
    derived::Says,
    facts::Facts,
    load_balancer,
    policies::attach::{check, order},
    retry_constraint,
    status::Findings,
    values,
};
use crate::objects::{
    Kind as _,
    core::Service,
    policy::{AccrualSpec, BackendPolicy, BackendSpec, PolicySpec as _, Targets},
};
use remora_model::{BackendId, BackendSettings, Features, HashSource, LoadBalancer, Locality};
use std::{collections::BTreeSet, time::Duration};

impl Facts {
    /// What BackendPolicies say of a Service port, and where they do not, what the Service does.
    pub(super) fn settings(&self, port: &BackendId, service: &Service) -> BackendSettings {
        let mut all = Vec::new();
        for place in self.places_over(None, &[port]) {
            for id in self.policies_on.get(&(BackendPolicy::KIND, place.clone())) {
                if let Some(read) = self.read_policies.get(id)
                    && let Says::Backend(policy) = &read.says
                {
                    all.push((place.level(None), self.seniority(id), policy));
                }
            }
        }
        let mut settings = of_service(service);
        order(all).for_each(|policy| apply(&policy.spec, &mut settings));
        settings
    }
}

/// What a Service says by itself.
fn of_service(service: &Service) -> BackendSettings {
    let sticky = service.spec.session_affinity.as_deref() == Some("ClientIP");
    let load_balancer = if sticky { LoadBalancer::SourceHash(HashSource::Ip) } else { LoadBalancer::default() };
    let locality = locality(service).unwrap_or_default();
    BackendSettings { load_balancer, locality, ..BackendSettings::default() }
}

/// Which endpoints clients prefer by where they are, as Kubernetes' own words say it. Others than the API server takes are for a later version of it.
///
/// # Errors
/// What is said is not known, beginning with the field.
pub(super) fn locality(service: &Service) -> Result<Locality, String> {
    match service.spec.internal_traffic_policy.as_deref() {
        Some("Local") => return Ok(Locality::NodeOnly),
        None | Some("Cluster") => {}
        Some(other) => return Err(format!("spec.internalTrafficPolicy: {other:?} is neither Cluster nor Local")),
    }
    match service.spec.traffic_distribution.as_deref() {
        None => Ok(Locality::Spill),
        Some("PreferSameZone" | "PreferClose") => Ok(Locality::Zone),
        Some("PreferSameNode") => Ok(Locality::Node),
        Some(other) => Err(format!(
            "spec.trafficDistribution: {other:?} is none of PreferSameZone, PreferClose and PreferSameNode"
        )),
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
    if let Some(said) = &spec.retry_constraint {
        retry_constraint::apply(said, settings);
    }
    settings.connect_timeout = time(spec.connect_timeout.as_ref()).unwrap_or(settings.connect_timeout);
    settings.pending_max = spec.pending_max.unwrap_or(settings.pending_max);
    if let Some(Ok(said)) = spec.load_balancer.as_ref().map(load_balancer::read) {
        settings.load_balancer = said;
    }
    if let Some(said) = &spec.connection {
        connection::apply(said, &mut settings.connection);
    }
}

/// Which settings a policy says, of those that can be read.
pub(super) fn said(spec: &BackendSpec) -> BTreeSet<&'static str> {
    let times = |text: &Option<String>| time(text.as_ref()).is_some();
    let accrual = spec.accrual.as_ref();
    let pauses = accrual.is_some_and(|accrual| pauses(accrual, &BackendSettings::default()).is_ok());
    [
        ("accrual.consecutive", accrual.is_some_and(|accrual| accrual.consecutive.is_some())),
        ("accrual.successRate", accrual.is_some_and(|accrual| percent(accrual.success_rate).is_some())),
        ("accrual.minimumRequests", accrual.is_some_and(|accrual| accrual.minimum_requests.is_some())),
        ("accrual.backoffMin", pauses && accrual.is_some_and(|accrual| times(&accrual.backoff_min))),
        ("accrual.backoffMax", pauses && accrual.is_some_and(|accrual| times(&accrual.backoff_max))),
        ("pendingMax", spec.pending_max.is_some()),
        ("connectTimeout", times(&spec.connect_timeout)),
        ("loadBalancer", spec.load_balancer.as_ref().is_some_and(|said| load_balancer::read(said).is_ok())),
    ]
    .into_iter()
    .filter_map(|(field, is_said)| is_said.then_some(field))
    .chain(spec.connection.iter().flat_map(connection::said))
    .chain(spec.retry_constraint.iter().flat_map(retry_constraint::said))
    .collect()
}

/// What a proxy needs to carry out what a policy says.
pub(super) fn needs(spec: &BackendSpec) -> Features {
    let mut settings = BackendSettings::default();
    apply(spec, &mut settings);
    settings.needs()
}

/// Everything that is wrong with a policy.
pub(super) fn judge(namespace: &str, spec: &BackendSpec, found: &mut Findings) {
    let said_of = |e: String| format!("{e}; the default stays");
    let mut problems: Vec<String> =
        spec.unknown.none().err().map(|e| said_of(format!("spec.{e}"))).into_iter().collect();
    let targets = spec.targets();
    // A field that does not exist is another matter than the targets, which are named all the same.
    found.invalid.extend(check(namespace, Targets { unknown: &Default::default(), ..targets }).err());
    let mut judge_time = |field: &str, text: Option<&String>| {
        let wrong = text.and_then(|text| duration(text).err());
        problems.extend(wrong.map(|e| said_of(format!("{field}: {e}"))));
    };
    let accrual = spec.accrual.as_ref();
    judge_time("spec.accrual.backoffMin", accrual.and_then(|accrual| accrual.backoff_min.as_ref()));
    judge_time("spec.accrual.backoffMax", accrual.and_then(|accrual| accrual.backoff_max.as_ref()));
    judge_time("spec.connectTimeout", spec.connect_timeout.as_ref());
    let above = |field: &str, percent: Option<u8>| {
        let above = percent.filter(|percent| *percent > 100);
        above.map(|percent| said_of(format!("{field}: {percent} is more than 100 percent")))
    };
    if let Some(accrual) = accrual {
        problems.extend(accrual.unknown.none().err().map(|e| said_of(format!("spec.accrual.{e}"))));
        problems.extend(above("spec.accrual.successRate", accrual.success_rate));
        problems.extend(pauses(accrual, &BackendSettings::default()).err().map(said_of));
        if *accrual == AccrualSpec::default() {
            problems.push("spec.accrual: is empty".to_owned());
        }
    }
    problems.extend(spec.retry_constraint.iter().flat_map(retry_constraint::problems));
    let balancer = spec.load_balancer.as_ref().and_then(|said| load_balancer::read(said).err());
    problems.extend(balancer.map(|e| said_of(format!("spec.loadBalancer{e}"))));
    problems.extend(spec.connection.iter().flat_map(connection::problems));
    if said(spec).is_empty() { found.invalid.extend(problems) } else { found.partly.extend(problems) }
}
