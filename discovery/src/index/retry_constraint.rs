//! How much load retries may add: `retryConstraint` of a BackendPolicy, which has the names and bounds of the Gateway API's
//! XBackendTrafficPolicy (GEP-3388). Pure.

use super::values;
use crate::objects::policy::{MinRetryRate, RetryBudget, RetryConstraint};
use remora_model::{BackendSettings, RetryIntervals};
use std::time::Duration;

/// The bounds of an interval.
const INTERVAL: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(3600);
/// The most retries that a rate may name.
const COUNT_MAX: u32 = 1_000_000;

fn interval(text: &str) -> Result<Duration, String> {
    let time = values::duration(text)?;
    if INTERVAL.contains(&time) { Ok(time) } else { Err(format!("{text:?} is not from 1s to 1h")) }
}

fn percent(budget: &RetryBudget) -> Option<f32> {
    budget.percent.filter(|percent| *percent <= 100).map(|percent| f32::from(percent) / 100.0)
}

/// The rate, if all of it can be read: a count makes no sense without its interval.
fn rate(rate: &MinRetryRate) -> Result<(u32, Duration), String> {
    let RetryIntervals { rate: default, .. } = RetryIntervals::default();
    let count = rate.count.unwrap_or_else(|| BackendSettings::default().min_retries);
    if !(1..=COUNT_MAX).contains(&count) {
        return Err(format!(".count: {count} is not from 1 to {COUNT_MAX}"));
    }
    let interval = rate.interval.as_deref().map_or(Ok(default), interval);
    Ok((count, interval.map_err(|wrong| format!(".interval: {wrong}"))?))
}

/// Puts what can be read of it into the settings.
pub(super) fn apply(said: &RetryConstraint, settings: &mut BackendSettings) {
    if let Some(budget) = &said.budget {
        settings.retry_ratio = percent(budget).unwrap_or(settings.retry_ratio);
        let budget = budget.interval.as_deref().and_then(|text| interval(text).ok());
        settings.retry_intervals.budget = budget.unwrap_or(settings.retry_intervals.budget);
    }
    if let Some(Ok((count, interval))) = said.min_retry_rate.as_ref().map(rate) {
        (settings.min_retries, settings.retry_intervals.rate) = (count, interval);
    }
}

/// Which settings it says, of those that can be read.
pub(super) fn said(said: &RetryConstraint) -> impl Iterator<Item = &'static str> {
    let budget = said.budget.as_ref();
    let interval = budget.and_then(|budget| budget.interval.as_deref()).is_some_and(|text| interval(text).is_ok());
    let fields = [
        ("retryConstraint.budget.percent", budget.and_then(percent).is_some()),
        ("retryConstraint.budget.interval", interval),
        ("retryConstraint.minRetryRate", said.min_retry_rate.as_ref().is_some_and(|said| rate(said).is_ok())),
    ];
    fields.into_iter().filter_map(|(field, is_said)| is_said.then_some(field))
}

/// What is wrong with it, and what holds instead.
pub(super) fn problems(said: &RetryConstraint) -> Vec<String> {
    let stays = |problem: String| format!("spec.retryConstraint{problem}; the default stays");
    let mut problems: Vec<String> = said.unknown.none().err().map(|e| stays(format!(".{e}"))).into_iter().collect();
    if let Some(budget) = &said.budget {
        let above = budget.percent.filter(|percent| *percent > 100);
        let wrong = budget.interval.as_deref().and_then(|text| interval(text).err());
        problems.extend(budget.unknown.none().err().map(|e| stays(format!(".budget.{e}"))));
        problems.extend(above.map(|above| stays(format!(".budget.percent: {above} is more than 100 percent"))));
        problems.extend(wrong.map(|wrong| stays(format!(".budget.interval: {wrong}"))));
        if *budget == RetryBudget::default() {
            problems.push("spec.retryConstraint.budget: is empty".to_owned());
        }
    }
    if let Some(said) = &said.min_retry_rate {
        problems.extend(said.unknown.none().err().map(|e| stays(format!(".minRetryRate.{e}"))));
        problems.extend(rate(said).err().map(|wrong| stays(format!(".minRetryRate{wrong}"))));
        if *said == MinRetryRate::default() {
            problems.push("spec.retryConstraint.minRetryRate: is empty".to_owned());
        }
    }
    if *said == RetryConstraint::default() {
        problems.push("spec.retryConstraint: is empty".to_owned());
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn read(text: Value) -> RetryConstraint {
        serde_json::from_value(text).expect("a retryConstraint")
    }

    fn applied(text: Value) -> (f32, u32, RetryIntervals) {
        let mut settings = BackendSettings::default();
        apply(&read(text), &mut settings);
        (settings.retry_ratio, settings.min_retries, settings.retry_intervals)
    }

    #[test]
    fn each_part_has_the_default_of_the_gateway_api() {
        let (ten, one) = (Duration::from_secs(10), Duration::from_secs(1));
        assert_eq!(applied(json!({})), (0.2, 10, RetryIntervals { budget: ten, rate: one }));
        let budget = json!({ "budget": { "percent": 50 } });
        assert_eq!(applied(budget), (0.5, 10, RetryIntervals { budget: ten, rate: one }));
        let all =
            json!({ "budget": { "percent": 0, "interval": "1h" }, "minRetryRate": { "count": 1, "interval": "1m" } });
        let intervals = RetryIntervals { budget: 360 * ten, rate: 60 * one };
        assert_eq!(applied(all.clone()), (0.0, 1, intervals));
        let fields: Vec<_> = said(&read(all)).collect();
        let all = ["retryConstraint.budget.percent", "retryConstraint.budget.interval", "retryConstraint.minRetryRate"];
        assert_eq!(fields, all);
    }

    #[test]
    fn what_cannot_be_read_is_told_by_field_and_leaves_the_rest() {
        for (text, field) in [
            (json!({}), ": is empty"),
            (json!({ "budget": {} }), ".budget: is empty"),
            (json!({ "minRetryRate": {} }), ".minRetryRate: is empty"),
            (json!({ "budget": { "percent": 101 } }), ".budget.percent: 101 is more"),
            (json!({ "budget": { "interval": "500ms" } }), ".budget.interval: \"500ms\" is not from 1s to 1h"),
            (json!({ "minRetryRate": { "count": 0 } }), ".minRetryRate.count: 0 is not"),
            (json!({ "minRetryRate": { "count": 1, "interval": "2h" } }), ".minRetryRate.interval: \"2h\""),
            (json!({ "budget": { "percent": 1, "period": "1s" } }), ".budget.period: there is no such field"),
            (json!({ "percent": 20 }), ".percent: there is no such field"),
        ] {
            let problems = problems(&read(text.clone()));
            let at = format!("spec.retryConstraint{field}");
            assert!(problems.iter().any(|problem| problem.starts_with(&at)), "{text}: {problems:?}");
        }
        let both = json!({ "budget": { "percent": 50 }, "minRetryRate": { "count": 5, "interval": "never" } });
        assert_eq!(applied(both), (0.5, 10, RetryIntervals::default()));
    }
}
