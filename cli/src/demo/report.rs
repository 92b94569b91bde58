//! The demo's verdict and its two forms: text for people, JSON for scripts.

use super::{
    judge::Trial,
    watch::{Hop, Sight},
    web::{Tally, unix_ms},
};
use crate::{
    signals::percent,
    text::{Line, Style},
};
use serde::Serialize;
use std::{collections::BTreeMap, time::Duration};

/// Something that happened, and when.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Event {
    pub(super) at_s: f64,
    pub(super) text: String,
}

/// What is known at the end of a run.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) ran: Duration,
    pub(super) trials: Vec<Trial>,
    pub(super) load: Tally,
    /// Failures of `web` that a break explains.
    pub(super) excused: u64,
    pub(super) sight: Sight,
    pub(super) events: Vec<Event>,
    /// Who should have been up at the end and was not; empty if something was broken just then.
    pub(super) down: Vec<String>,
}

/// What came of a whole run.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// Whether all was as it should be; the exit code.
    pub(super) good: bool,
    /// Why not.
    pub(super) problems: Vec<String>,
    /// What each break did, in numbers.
    pub(super) findings: Vec<String>,
    pub(super) duration_s: f64,
    pub(super) broken: Vec<&'static str>,
    /// What `web`, the caller, saw itself.
    pub(super) load: Tally,
    pub(super) hops: Vec<Hop>,
    pub(super) events: Vec<Event>,
    /// Who answered where.
    pub(super) admin: BTreeMap<&'static str, String>,
}

impl Report {
    /// Judges a run.
    pub(super) fn new(seen: Seen) -> Self {
        let hops = seen.sight.hops();
        let problems = problems(&seen, &hops, unix_ms());
        Self {
            good: problems.is_empty(),
            problems,
            findings: seen.trials.iter().map(Trial::finding).collect(),
            duration_s: seen.ran.as_secs_f64(),
            broken: seen.trials.iter().map(|it| it.what.name()).collect(),
            load: seen.load,
            hops,
            events: seen.events,
            admin: seen.sight.admins().map(|(name, address)| (name, format!("http://{address}"))).collect(),
        }
    }

    /// The last lines that a person reads.
    pub(super) fn summary(&self) -> Vec<Line> {
        let ended = self.load.ok + self.load.failed();
        let share = percent(self.load.ok, ended);
        let text = format!("{:.0} s: web made {ended} requests, {share} succeeded", self.duration_s);
        let mut lines = vec![Line::of(Style::Strong, text)];
        lines.extend(self.load.failures.iter().map(|(why, count)| Line::from(format!("  {count} failed: {why}"))));
        lines.extend(self.findings.iter().map(|finding| Line::from(format!("  {finding}"))));
        if self.good {
            let broken = match &*self.broken {
                [] => String::new(),
                broken => format!(" through --break {}", broken.join(", ")),
            };
            let text =
                format!("GOOD: all {} routes were mTLS, and callers saw what they should{broken}", self.hops.len());
            lines.push(Line::of(Style::Good, text));
        }
        lines.extend(self.problems.iter().map(|problem| Line::of(Style::Bad, format!("NOT GOOD: {problem}"))));
        lines
    }
}

fn problems(seen: &Seen, hops: &[Hop], now_ms: u64) -> Vec<String> {
    let mut problems = Vec::new();
    if seen.load.ok == 0 {
        problems.push("no request of web succeeded".to_owned());
    }
    let unexcused = seen.load.failed().saturating_sub(seen.excused);
    if unexcused > 0 {
        let why = if seen.trials.is_empty() { "although nothing was broken" } else { "that no break explains" };
        problems.push(format!("{unexcused} of {} requests of web failed {why}", seen.load.ok + seen.load.failed()));
    }
    problems.extend(seen.trials.iter().flat_map(|trial| trial.problems(now_ms)));
    for (protocol, what) in [("http1", "HTTP/1"), ("grpc", "gRPC"), ("tcp", "raw TCP")] {
        if !hops.iter().any(|hop| hop.protocol == protocol && hop.success > 0) {
            problems.push(format!("no {what} call was seen"));
        }
    }
    // A row without success carried nothing: it may have ended before a peer was chosen.
    for hop in hops.iter().filter(|hop| hop.success > 0) {
        if hop.tls != "mtls" {
            problems.push(format!("{} called {} without mTLS ({})", hop.caller, hop.target, hop.tls));
        } else if !hop.caller.starts_with("spiffe://") || !hop.callee.starts_with("spiffe://") {
            problems.push(format!("a call to {} lacks an identity ({:?} to {:?})", hop.target, hop.caller, hop.callee));
        }
    }
    problems.extend(seen.down.iter().map(|name| format!("{name} was down at the end")));
    problems
}

#[cfg(test)]
mod tests {
    use super::{super::breaks::Break, *};

    fn hop(protocol: &str, tls: &str) -> Hop {
        Hop {
            caller: "spiffe://td/a".to_owned(),
            callee: "spiffe://td/b".to_owned(),
            protocol: protocol.to_owned(),
            tls: tls.to_owned(),
            success: 5,
            ..Hop::default()
        }
    }

    fn good_hops() -> Vec<Hop> {
        vec![hop("http1", "mtls"), hop("grpc", "mtls"), hop("tcp", "mtls")]
    }

    fn seen(failures: &[(&str, u64)], excused: u64) -> Seen {
        let failures = failures.iter().map(|&(reason, count)| (reason.to_owned(), count)).collect();
        Seen {
            ran: Duration::from_secs(1),
            trials: Vec::new(),
            load: Tally { sent: 100, ok: 90, failures, ..Tally::default() },
            excused,
            sight: Sight::default(),
            events: Vec::new(),
            down: Vec::new(),
        }
    }

    fn judged(seen: &Seen, hops: &[Hop]) -> Vec<String> {
        problems(seen, hops, 0)
    }

    #[test]
    fn a_run_without_failures_over_mtls_is_good() {
        assert_eq!(judged(&seen(&[], 0), &good_hops()), Vec::<String>::new());
    }

    #[test]
    fn one_failure_that_nothing_explains_is_a_problem() {
        assert_eq!(judged(&seen(&[("503 timeout", 1)], 0), &good_hops()).len(), 1);
        let mut broken = seen(&[("503 timeout", 2)], 1);
        broken.trials = vec![Trial::new(Break::Endpoint, 0, 0)];
        assert_eq!(judged(&broken, &good_hops()), ["1 of 92 requests of web failed that no break explains"]);
    }

    #[test]
    fn a_call_in_plain_text_or_without_an_identity_is_a_problem() {
        let mut hops = good_hops();
        hops.push(hop("tcp", "plain"));
        hops.push(Hop { callee: String::new(), ..hop("tcp", "mtls") });
        assert_eq!(judged(&seen(&[], 0), &hops).len(), 2);
    }

    #[test]
    fn a_protocol_that_was_never_seen_is_a_problem() {
        assert_eq!(judged(&seen(&[], 0), &good_hops()[..2]), ["no raw TCP call was seen"]);
    }

    #[test]
    fn what_is_down_at_the_end_is_a_problem() {
        let down = Seen { down: vec!["identity".to_owned()], ..seen(&[], 0) };
        assert_eq!(judged(&down, &good_hops()), ["identity was down at the end"]);
    }
}
