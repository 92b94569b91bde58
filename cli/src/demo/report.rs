//! The demo's verdict and its two forms: text for people, JSON for scripts.

use std::time::Duration;

use serde::Serialize;

use super::breaks::Break;
use super::watch::Hop;
use super::web::Tally;

/// Something that happened, and when.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Event {
    pub(super) at_s: f64,
    pub(super) text: String,
}

/// What came of a whole run.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// Whether all was as it should be; the exit code.
    pub(super) good: bool,
    /// Why not.
    pub(super) problems: Vec<String>,
    pub(super) duration_s: f64,
    pub(super) broken: Vec<&'static str>,
    /// What `web`, the caller, saw itself.
    pub(super) load: Tally,
    pub(super) hops: Vec<Hop>,
    pub(super) events: Vec<Event>,
}

impl Report {
    /// Judges a run.
    pub(super) fn new(ran: Duration, broken: &[Break], load: Tally, hops: Vec<Hop>, events: Vec<Event>) -> Self {
        let problems = problems(broken, &load, &hops);
        Self {
            good: problems.is_empty(),
            problems,
            duration_s: ran.as_secs_f64(),
            broken: broken.iter().map(|it| it.name()).collect(),
            load,
            hops,
            events,
        }
    }

    /// The last lines that a person reads.
    pub(super) fn summary(&self) -> String {
        let sent: u64 = self.load.ok + self.load.failures.values().sum::<u64>();
        let share = crate::admin::percent(self.load.ok, sent);
        let mut text = format!("{:.0} s: web made {sent} requests, {share} succeeded", self.duration_s);
        for (reason, count) in &self.load.failures {
            text.push_str(&format!("\n  {count} failed: {reason}"));
        }
        if self.good {
            let broken = if self.broken.is_empty() {
                String::new()
            } else {
                format!(" through --break {}", self.broken.join(", "))
            };
            text.push_str(&format!(
                "\nall {} hops were mTLS, and callers saw what they should{broken}",
                self.hops.len()
            ));
        }
        for problem in &self.problems {
            text.push_str(&format!("\nNOT GOOD: {problem}"));
        }
        text
    }
}

fn problems(broken: &[Break], load: &Tally, hops: &[Hop]) -> Vec<String> {
    let mut problems = Vec::new();
    if load.ok == 0 {
        problems.push("no request of web succeeded".to_owned());
    }
    let failed: u64 = load.failures.values().sum();
    if failed > 0 && !broken.iter().any(|it| it.excuses(load)) {
        problems.push(format!("{failed} of {} requests of web failed", load.ok + failed));
    }
    if broken.contains(&Break::Deny) && failed == 0 {
        problems.push("the denied requests of web were let through".to_owned());
    }
    for (protocol, what) in [("http1", "HTTP/1"), ("grpc", "gRPC"), ("tcp", "raw TCP")] {
        if !hops.iter().any(|hop| hop.protocol == protocol && hop.success > 0) {
            problems.push(format!("no {what} hop was seen"));
        }
    }
    // A row without success carried nothing: it may have ended before a peer was chosen.
    for hop in hops.iter().filter(|hop| hop.tls != "mtls" && hop.success > 0) {
        problems.push(format!("{} called {} without mTLS ({})", hop.caller, hop.target, hop.tls));
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hop(protocol: &str, tls: &str) -> Hop {
        Hop { protocol: protocol.to_owned(), tls: tls.to_owned(), requests: 5, success: 5, ..Hop::default() }
    }

    fn good_hops() -> Vec<Hop> {
        vec![hop("http1", "mtls"), hop("grpc", "mtls"), hop("tcp", "mtls")]
    }

    fn load(failures: &[(&str, u64)]) -> Tally {
        let failures = failures.iter().map(|&(reason, count)| (reason.to_owned(), count)).collect();
        Tally { sent: 100, ok: 90, failures, ..Tally::default() }
    }

    #[test]
    fn a_run_without_failures_over_mtls_is_good() {
        assert_eq!(problems(&[], &load(&[]), &good_hops()), Vec::<String>::new());
    }

    #[test]
    fn one_failure_without_a_break_is_a_problem() {
        assert_eq!(problems(&[], &load(&[("503 timeout", 1)]), &good_hops()).len(), 1);
        assert_eq!(problems(&[Break::Identity], &load(&[("503 timeout", 1)]), &good_hops()).len(), 1);
    }

    #[test]
    fn a_hop_in_plain_text_is_a_problem() {
        let mut hops = good_hops();
        hops.push(hop("tcp", "plain"));
        assert_eq!(problems(&[], &load(&[]), &hops).len(), 1);
    }

    #[test]
    fn a_hop_that_was_never_seen_is_a_problem() {
        assert_eq!(problems(&[], &load(&[]), &good_hops()[..2]), ["no raw TCP hop was seen"]);
    }

    #[test]
    fn a_policy_that_denies_nobody_is_a_problem() {
        assert_eq!(problems(&[Break::Deny], &load(&[]), &good_hops()).len(), 1);
        assert!(problems(&[Break::Deny], &load(&[("403 denied", 9)]), &good_hops()).is_empty());
    }
}
