//! What limits and faults leave behind: a count for each request or connection that they are for, by rule and outcome.

use super::limits::RULES_COUNTED_MAX;
use crate::telemetry::{self, OTHER};
use metrics::Counter;
use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
};

/// The rules that are counted by name. Rules come and go, and the recorder forgets no name: after so many, further ones are counted as
/// `other`.
fn label(rule: &Arc<str>) -> String {
    static NAMES: Mutex<Option<HashSet<Arc<str>>>> = Mutex::new(None);
    let mut names = NAMES.lock().unwrap_or_else(PoisonError::into_inner);
    let names = names.get_or_insert_default();
    if !names.contains(rule) && names.len() >= RULES_COUNTED_MAX {
        telemetry::series_full("rule");
        return OTHER.to_owned();
    }
    names.insert(rule.clone());
    rule.to_string()
}

/// What a limit counts.
pub(crate) struct LimitCounters {
    pub(crate) admitted: Counter,
    pub(crate) limited: Counter,
    /// Of a limit that is tried out.
    pub(crate) would_limit: Counter,
}

impl LimitCounters {
    pub(crate) fn new(rule: &Arc<str>) -> Self {
        let label = label(rule);
        let of = |outcome| metrics::counter!("remora_rate_limit_total", "rule" => label.clone(), "outcome" => outcome);
        Self { admitted: of("admitted"), limited: of("limited"), would_limit: of("would_limit") }
    }
}

/// What a fault counts.
pub(crate) struct FaultCounters {
    pub(crate) delayed: Counter,
    pub(crate) aborted: Counter,
}

impl FaultCounters {
    pub(crate) fn new(rule: &Arc<str>) -> Self {
        let label = label(rule);
        let of = |fault| metrics::counter!("remora_faults_injected_total", "rule" => label.clone(), "fault" => fault);
        Self { delayed: of("delay"), aborted: of("abort") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_beyond_those_that_are_counted_by_name_are_other() {
        let rule = |number: usize| Arc::<str>::from(format!("shop/p limit {number}"));
        let labels: HashSet<String> = (0..2 * RULES_COUNTED_MAX).map(|number| label(&rule(number))).collect();
        assert!(labels.len() <= RULES_COUNTED_MAX + 1 && labels.contains(OTHER), "{}", labels.len());
        assert_eq!(label(&rule(0)), rule(0).to_string(), "once counted by name, always so");
    }
}
