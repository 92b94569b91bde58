//! What rules that decide nothing leave behind: a count for each request or connection that they match, and a line, as far as the
//! rule's [`Lines`] last. Never more, since a [`Verdict`] is recorded once, by taking it.

use super::{Act, Denial, Peer, Permit, Policy, Verdict};
use crate::{
    limits,
    telemetry::{self, OTHER},
};
use metrics::Counter;
use remora_policy::{Noted, Notes};
use std::{
    collections::HashSet,
    fmt,
    sync::{Arc, Mutex, PoisonError},
};
use tokio::time::Instant;

/// What a rule that decides nothing writes to, found when the policy is compiled.
pub(super) struct Noting {
    rule: Arc<str>,
    dry_run: bool,
    /// By the number of [`Noted`].
    counters: [Counter; 4],
    lines: Mutex<Lines>,
}

impl fmt::Debug for Noting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Noting").field("rule", &self.rule).finish_non_exhaustive()
    }
}

/// What a dry run would make of a request, as its metric and its lines have it.
fn would(noted: Noted) -> &'static str {
    match noted {
        Noted::Matched => "same",
        Noted::Ambiguous => "ambiguous",
        Noted::Denies => "denied",
        Noted::Allows => "allowed",
    }
}

impl Noting {
    /// Rules come and go, and the recorder forgets no name: after so many, further rules are counted as `other`.
    pub(super) fn new(notes: Notes<'_>) -> Self {
        static AUDITED: Mutex<Option<Names>> = Mutex::new(None);
        static DRY_RUNS: Mutex<Option<Names>> = Mutex::new(None);
        let (rule, dry_run, names) = match notes {
            Notes::Audit(rule) => (rule, false, &AUDITED),
            Notes::DryRun(rule) => (rule, true, &DRY_RUNS),
        };
        let mut names = names.lock().unwrap_or_else(PoisonError::into_inner);
        let label = names.get_or_insert_default().label(rule, limits::AUDIT_RULES_COUNTED);
        let of = |noted: Noted| match (dry_run, noted) {
            (true, noted) => {
                metrics::counter!("remora_policy_dry_run_total", "rule" => label.to_string(), "would" => would(noted))
            }
            (false, Noted::Matched | Noted::Ambiguous) => {
                let outcome = if noted == Noted::Matched { "matched" } else { "ambiguous" };
                metrics::counter!("remora_policy_audit_total", "rule" => label.to_string(), "outcome" => outcome)
            }
            (false, Noted::Denies | Noted::Allows) => Counter::noop(),
        };
        Self {
            rule: rule.clone(),
            dry_run,
            counters: [Noted::Matched, Noted::Ambiguous, Noted::Denies, Noted::Allows].map(of),
            lines: Mutex::new(Lines::new(Instant::now())),
        }
    }

    fn count(&self, noted: Noted) {
        if let Some(counter) = self.counters.get(noted as usize) {
            counter.increment(1);
        }
    }

    /// Whether there is to be a line, and how many were left out since the last one: of an audit rule for what it matches, of a dry run
    /// for what it would change.
    fn line(&self, noted: Noted) -> Option<u64> {
        let told = if self.dry_run { noted != Noted::Matched } else { noted == Noted::Matched };
        if !told {
            return None;
        }
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).admit(Instant::now())
    }
}

/// The rules that are counted by name.
#[derive(Debug, Default)]
struct Names(HashSet<Arc<str>>);

impl Names {
    fn label(&mut self, rule: &Arc<str>, most: usize) -> Arc<str> {
        if !self.0.contains(rule) && self.0.len() >= most {
            telemetry::series_full("rule");
            return OTHER.into();
        }
        self.0.insert(rule.clone());
        rule.clone()
    }
}

/// The lines that a rule may still write: the callers decide how often a rule matches. At the rate of people all lines are written;
/// of a flood a few each second, each with the number of those left out since the last.
#[derive(Debug)]
struct Lines {
    left: u32,
    /// As of when.
    at: Instant,
    left_out: u64,
}

impl Lines {
    fn new(now: Instant) -> Self {
        Self { left: limits::AUDIT_LINES_AT_ONCE, at: now, left_out: 0 }
    }

    /// Whether one may be written `now`: how many were not, since the last one.
    fn admit(&mut self, now: Instant) -> Option<u64> {
        let more = now.saturating_duration_since(self.at).as_nanos() / limits::AUDIT_LINE_EVERY.as_nanos();
        let more = u32::try_from(more).unwrap_or(u32::MAX);
        if more > 0 {
            self.at = now;
            self.left = self.left.saturating_add(more).min(limits::AUDIT_LINES_AT_ONCE);
        }
        match self.left.checked_sub(1) {
            Some(left) => {
                self.left = left;
                Some(std::mem::take(&mut self.left_out))
            }
            None => {
                self.left_out += 1;
                None
            }
        }
    }
}

/// A path or method for the log, shortened: the caller decides how long it is.
pub(crate) fn logged(path: &str) -> &str {
    &path[..path.floor_char_boundary(limits::PATH_BYTES_LOGGED)]
}

impl Verdict {
    /// Logs and counts what rules that decide nothing say of `peer` at `port`, and gives the decision.
    pub(crate) fn record(self, policy: &Policy, (peer, port): (&Peer, u16), act: Act<'_>) -> Result<Permit, Denial> {
        for (index, noted) in &self.noted {
            let Some(noting) = policy.noting.get(*index) else { continue };
            noting.count(*noted);
            let Some(left_out) = noting.line(*noted) else { continue };
            let left_out = (left_out > 0).then_some(left_out);
            let (method, path) = match act {
                Act::Bytes => (None, None),
                Act::Request { method, path, .. } => (Some(logged(method.as_str())), Some(logged(path))),
            };
            let (rule, identity) = (&noting.rule, peer.identity.as_ref().map(|id| id.as_str()));
            let parent = &policy.inbound().parent;
            if noting.dry_run {
                tracing::info!(left_out, %rule, peer = identity, address = %peer.address, %parent,
                    port, method, path, would = would(*noted), "dry run");
            } else {
                tracing::info!(left_out, %rule, peer = identity, address = %peer.address,
                    port, method, path, would = self.would(), "audit");
            }
        }
        self.decision
    }

    fn would(&self) -> &'static str {
        if self.decision.is_ok() { "permitted" } else { "denied" }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn an_audit_rule_writes_a_line_for_each_at_the_rate_of_people_and_few_of_a_flood() {
        let start = Instant::now();
        let mut people = Lines::new(start);
        assert!((0..1000).all(|second| people.admit(start + Duration::from_secs(second)) == Some(0)));
        let mut flood = Lines::new(start);
        let (mut written, mut told) = (0_u64, 0);
        for at in 0..100_000 {
            if let Some(left_out) = flood.admit(start + Duration::from_millis(at) / 10) {
                written += 1;
                told += 1 + left_out;
            }
        }
        assert!((100..=150).contains(&written), "{written} lines in ten seconds of 10000 a second");
        assert!(told > 98_000, "each is told of: {told}");
    }

    #[test]
    fn an_audit_rule_writes_of_what_it_matches_and_a_dry_run_of_what_it_would_change() {
        let rule = Arc::from("shop/p rule 0");
        let (audit, dry_run) = (Noting::new(Notes::Audit(&rule)), Noting::new(Notes::DryRun(&rule)));
        for (noted, of_audit, of_dry_run) in [
            (Noted::Matched, true, false),
            (Noted::Ambiguous, false, true),
            (Noted::Denies, false, true),
            (Noted::Allows, false, true),
        ] {
            assert_eq!(
                (audit.line(noted).is_some(), dry_run.line(noted).is_some()),
                (of_audit, of_dry_run),
                "{noted:?}"
            );
        }
    }

    #[test]
    fn rules_that_come_and_go_are_other_after_so_many() {
        let mut names = Names::default();
        let mut label = |rule: usize| names.label(&rule.to_string().into(), 3);
        assert_eq!(
            [label(0), label(1), label(2), label(3), label(1)].map(|name| name.to_string()),
            ["0", "1", "2", OTHER, "1"]
        );
    }

    #[test]
    fn a_path_in_the_log_is_cut_between_characters() {
        let long = "/".to_owned() + &"ü".repeat(40_000);
        assert!((limits::PATH_BYTES_LOGGED - 1..=limits::PATH_BYTES_LOGGED).contains(&logged(&long).len()));
        assert_eq!(logged("/a"), "/a");
    }
}
