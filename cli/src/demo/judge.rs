//! What one break should do to callers, held against what `web` saw. Pure: it is given times and counts.
//!
//! A failure is excused only if the break explains it: its kind, its reason and its time must fit. And a break must have
//! had its effect: a policy that denies nobody and a slow replica that is still asked are problems, not successes.

use super::{
    app::SLOW_WORK,
    breaks::Break,
    layout::VICTIM,
    web::{Answers, Failure, Tally},
};
use crate::signals::{millis, percent};
use std::collections::BTreeMap;

/// How long policy may take to reach the proxies and to be seen there.
const POLICY_MS: u64 = 2_000;
/// Within this a slow replica must have lost its load.
const SLOW_MS: u64 = 5_000;
/// A slow replica may then still give one in so many answers.
const SLOW_ONE_IN: u64 = 20;
/// Fewer answers than this prove nothing about shares.
const ANSWERS_MIN: u64 = 100;
/// How much slower than the others the slow one must be, else this machine is too busy to tell them apart.
const SLOW_TIMES: f64 = 5.0;
/// Within this all must be as before once it was healed.
pub(super) const RETURN_MS: u64 = 10_000;

/// One break, from its beginning to what came of it.
#[derive(Debug)]
pub(super) struct Trial {
    pub(super) what: Break,
    /// Before it was broken, and when that was done; in milliseconds since 1970 as all times here.
    began_ms: u64,
    done_ms: u64,
    healed_ms: Option<u64>,
    /// The first count after it should have had its effect, and the last one before it was healed.
    settled: Option<Tally>,
    last: Option<Tally>,
    /// When the victim answered again.
    returned_ms: Option<u64>,
}

impl Trial {
    /// Something was broken between the two times.
    pub(super) const fn new(what: Break, began_ms: u64, done_ms: u64) -> Self {
        Self { what, began_ms, done_ms, healed_ms: None, settled: None, last: None, returned_ms: None }
    }

    /// It was healed.
    pub(super) const fn heal(&mut self, now_ms: u64) {
        self.healed_ms = Some(now_ms);
    }

    /// What `web` has counted by now. Whether the victim of a kill has just answered for the first time again.
    pub(super) fn hear(&mut self, tally: &Tally) -> bool {
        if self.healed_ms.is_none_or(|healed| tally.at_ms <= healed) {
            if self.settled.is_none() && tally.at_ms >= self.done_ms + self.settle_ms() {
                self.settled = Some(tally.clone());
            }
            self.last = Some(tally.clone());
            return false;
        }
        let answered = |tally: &Tally| tally.by_pod.get(VICTIM).map_or(0, |answers| answers.count);
        let before = self.last.as_ref().map_or(0, answered);
        if self.what == Break::Endpoint && self.returned_ms.is_none() && answered(tally) > before {
            self.returned_ms = Some(tally.at_ms);
            return true;
        }
        false
    }

    const fn settle_ms(&self) -> u64 {
        match self.what {
            Break::Slow => SLOW_MS,
            Break::Endpoint | Break::Identity | Break::Discovery | Break::Deny => POLICY_MS,
        }
    }

    /// Whether the break explains this failure.
    pub(super) fn excuses(&self, failure: &Failure) -> bool {
        match self.what {
            // Callers should not notice these.
            Break::Identity | Break::Discovery | Break::Slow => false,
            // A write that the victim was working on cannot be sent twice; a read is.
            Break::Endpoint => failure.write && failure.began_ms <= self.done_ms && failure.ended_ms >= self.began_ms,
            Break::Deny => {
                let undone_ms = self.healed_ms.map_or(u64::MAX, |healed| healed + POLICY_MS);
                failure.write
                    && failure.why == "403 denied"
                    && failure.ended_ms >= self.began_ms
                    && failure.began_ms <= undone_ms
            }
        }
    }

    /// What it did, in numbers.
    pub(super) fn finding(&self) -> String {
        let Some(Window { pods, failed, .. }) = self.window() else {
            return format!("{}: over too soon to see what it did", self.what.name());
        };
        let (victim, others) = parts(&pods);
        let answers = victim.count + others.count;
        match self.what {
            Break::Endpoint => {
                let by = pods.iter().map(|(pod, answers)| format!("{pod} {}", answers.count)).collect::<Vec<_>>();
                let back = self.healed_ms.zip(self.returned_ms).map_or_else(String::new, |(healed, back)| {
                    format!("; it answered again {} s after its return", back.saturating_sub(healed).div_ceil(1000))
                });
                format!("endpoint: while {VICTIM} was dead {answers} answers came from {}{back}", by.join(", "))
            }
            Break::Identity | Break::Discovery => {
                format!("{}: {answers} answers and {failed} failures while it was dead", self.what.name())
            }
            Break::Slow => {
                let busy = if told_apart(others) { "" } else { ": this machine is too busy to tell them apart" };
                format!(
                    "slow: {VICTIM} gave {} of {answers} answers, in {} each, the others in {}{busy}",
                    percent(victim.count, answers),
                    millis(victim.mean_ms()),
                    millis(others.mean_ms())
                )
            }
            Break::Deny => format!("deny: {failed} writes were refused, {answers} reads were answered"),
        }
    }

    /// What is wrong with it by now.
    pub(super) fn problems(&self, now_ms: u64) -> Vec<String> {
        let mut problems = Vec::new();
        if let Some(Window { pods, failed, writes_ok }) = self.window() {
            let (victim, others) = parts(&pods);
            let answers = victim.count + others.count;
            match self.what {
                Break::Deny if writes_ok > 0 => problems.push(format!("{writes_ok} denied writes were let through")),
                Break::Deny if failed == 0 => problems.push("no write was tried while writes were denied".to_owned()),
                Break::Slow if answers >= ANSWERS_MIN && told_apart(others) && victim.count * SLOW_ONE_IN > answers => {
                    let share = percent(victim.count, answers);
                    problems.push(format!("the slow {VICTIM} still gave {share} of the answers (at most 5 %)"));
                }
                Break::Endpoint if victim.count > 0 => problems.push(format!("{VICTIM} answered although it was dead")),
                _ if answers == 0 => problems.push(format!("nothing was answered during {}", self.what.name())),
                _ => {}
            }
        }
        let healed_long_ago = self.healed_ms.is_some_and(|healed| now_ms >= healed + RETURN_MS);
        if self.what == Break::Endpoint && healed_long_ago && self.returned_ms.is_none() {
            problems.push(format!("{VICTIM} was not asked again within {} s of its return", RETURN_MS / 1000));
        }
        problems
    }

    /// What was counted between the effect and the healing.
    fn window(&self) -> Option<Window> {
        let (from, to) = (self.settled.as_ref()?, self.last.as_ref()?);
        let pods = to.by_pod.iter().map(|(pod, answers)| {
            let before = from.by_pod.get(pod).copied().unwrap_or_default();
            let count = answers.count.saturating_sub(before.count);
            (pod.clone(), Answers { count, total_ms: answers.total_ms - before.total_ms })
        });
        (to.at_ms > from.at_ms).then(|| Window {
            pods: pods.filter(|(_, answers)| answers.count > 0).collect(),
            failed: to.failed().saturating_sub(from.failed()),
            writes_ok: to.writes_ok.saturating_sub(from.writes_ok),
        })
    }
}

struct Window {
    /// The good answers of each pod that gave some.
    pods: BTreeMap<String, Answers>,
    failed: u64,
    writes_ok: u64,
}

/// The victim's answers, and those of all others.
fn parts(pods: &BTreeMap<String, Answers>) -> (Answers, Answers) {
    pods.iter().fold(Default::default(), |(mut victim, mut others): (Answers, Answers), (pod, answers)| {
        let side = if pod == VICTIM { &mut victim } else { &mut others };
        side.count += answers.count;
        side.total_ms += answers.total_ms;
        (victim, others)
    })
}

/// Whether the others were so much faster than the slow one that a balancer could see it. None at all is no excuse.
fn told_apart(others: Answers) -> bool {
    others.mean_ms() * SLOW_TIMES <= SLOW_WORK.as_secs_f64() * 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counts at a time: answers of the victim and of another pod, good writes, denied writes.
    fn tally(at_ms: u64, victim: u64, other: u64, writes_ok: u64, denied: u64) -> Tally {
        Tally {
            at_ms,
            ok: victim + other,
            writes_ok,
            by_pod: [(VICTIM.to_owned(), answers(victim, 200)), ("api-3".to_owned(), answers(other, 10))].into(),
            failures: [("POST /cart: 403 denied".to_owned(), denied)].into(),
            ..Tally::default()
        }
    }

    fn answers(count: u64, each_ms: u32) -> Answers {
        Answers { count, total_ms: (0..count).map(|_| f64::from(each_ms)).sum() }
    }

    fn failure(write: bool, why: &str, began_ms: u64) -> Failure {
        Failure { write, why: why.to_owned(), began_ms, ended_ms: began_ms + 10 }
    }

    /// Broken from 10.0 s to 30 s.
    fn trial(what: Break, tallies: &[Tally]) -> Trial {
        let mut trial = Trial::new(what, 10_000, 10_005);
        for tally in tallies {
            trial.hear(tally);
        }
        trial.heal(30_000);
        trial
    }

    #[test]
    fn a_killed_replica_excuses_the_writes_it_was_working_on_and_nothing_else() {
        let trial = trial(Break::Endpoint, &[]);
        assert!(trial.excuses(&failure(true, "502 upstream_reset", 9_998)));
        assert!(!trial.excuses(&failure(false, "502 upstream_reset", 9_998)), "a read can be sent again");
        assert!(!trial.excuses(&failure(true, "502 upstream_reset", 10_006)), "nobody was there to send it to");
        assert!(!trial.excuses(&failure(true, "502 upstream_reset", 9_000)), "it was over before");
    }

    #[test]
    fn a_killed_replica_must_be_asked_again_in_time() {
        let mut trial = trial(Break::Endpoint, &[tally(12_500, 50, 50, 0, 0), tally(29_500, 50, 900, 0, 0)]);
        assert_eq!(trial.problems(35_000), Vec::<String>::new(), "there is time left");
        assert_eq!(trial.problems(40_000).len(), 1);
        assert!(!trial.hear(&tally(31_000, 50, 990, 0, 0)));
        assert!(trial.hear(&tally(33_000, 51, 1000, 0, 0)));
        assert!(!trial.hear(&tally(34_000, 52, 1000, 0, 0)), "it returns once");
        assert_eq!(trial.problems(40_000), Vec::<String>::new());
        assert!(trial.finding().contains("3 s after its return"));
    }

    #[test]
    fn the_control_plane_excuses_nothing() {
        for what in [Break::Identity, Break::Discovery, Break::Slow] {
            assert!(!trial(what, &[]).excuses(&failure(true, "503 no_endpoints", 10_001)), "{}", what.name());
        }
    }

    #[test]
    fn a_denial_excuses_denied_writes_while_it_lasts() {
        let trial = trial(Break::Deny, &[]);
        assert!(trial.excuses(&failure(true, "403 denied", 20_000)));
        assert!(!trial.excuses(&failure(false, "403 denied", 20_000)), "reads are not denied");
        assert!(!trial.excuses(&failure(true, "503 no_endpoints", 20_000)));
        assert!(
            !trial.excuses(&failure(true, "403 denied", 5_000)) && !trial.excuses(&failure(true, "403 denied", 33_000))
        );
    }

    #[test]
    fn a_denial_that_lets_one_write_through_is_a_problem() {
        let start = tally(12_500, 50, 50, 20, 30);
        assert_eq!(
            trial(Break::Deny, &[start.clone(), tally(29_500, 90, 90, 20, 300)]).problems(0),
            Vec::<String>::new()
        );
        assert_eq!(trial(Break::Deny, &[start.clone(), tally(29_500, 90, 90, 21, 300)]).problems(0).len(), 1);
        assert_eq!(trial(Break::Deny, &[start, tally(29_500, 90, 90, 20, 30)]).problems(0).len(), 1);
    }

    #[test]
    fn a_slow_replica_that_is_still_asked_is_a_problem() {
        let start = tally(15_500, 50, 50, 0, 0);
        assert_eq!(
            trial(Break::Slow, &[start.clone(), tally(29_500, 54, 150, 0, 0)]).problems(0),
            Vec::<String>::new()
        );
        let problems = trial(Break::Slow, &[start.clone(), tally(29_500, 70, 150, 0, 0)]).problems(0);
        assert!(problems[0].contains("still gave 16.67%"), "{problems:?}");
        let mut busy = tally(29_500, 70, 150, 0, 0);
        busy.by_pod.insert("api-3".to_owned(), answers(150, 100));
        let busy = trial(Break::Slow, &[start.clone(), busy]);
        assert_eq!(busy.problems(0), Vec::<String>::new(), "the others are nearly as slow");
        assert!(busy.finding().contains("too busy"));
        let short = trial(Break::Slow, &[start, tally(16_500, 60, 60, 0, 0)]);
        assert_eq!(short.problems(0), Vec::<String>::new(), "too few to tell");
    }

    #[test]
    fn a_break_that_was_over_too_soon_is_not_said_to_be_judged() {
        assert!(trial(Break::Slow, &[tally(12_000, 5, 5, 0, 0)]).finding().contains("over too soon"));
    }

    #[test]
    fn what_was_counted_after_the_healing_says_nothing_about_the_break() {
        let mut trial = trial(Break::Deny, &[tally(12_500, 0, 9, 5, 3), tally(29_500, 0, 99, 5, 90)]);
        trial.hear(&tally(31_000, 0, 120, 25, 91));
        assert_eq!(trial.problems(31_000), Vec::<String>::new());
    }
}
