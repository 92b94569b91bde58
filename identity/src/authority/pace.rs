//! How soon the state is looked at again after it was written: pure, the time is given.
//!
//! Replicas that agree write what all of them want. Those that do not (another trust domain during a rollout, clocks further apart
//! than `--skew`, two processes with different issuers over one folder) undo each other's writes, and each write wakes the other. So who finds
//! his undone waits: not at first, as a rollout ends by itself, then twice as long each time, and at last as long as between two looks that nothing
//! calls for, which is often enough for everything that the state promises. And says why.

use crate::limits::{CALM, CONTESTED_TOLD, REPAIR_WAIT, REPAIRS_AT_ONCE, WRITE_PAUSE};
use std::time::{Duration, Instant};

/// Why what was stored had to be made as this replica has it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Undone {
    /// It is another trust domain's.
    #[error(
        "another process keeps the state of trust domain {0:?} in the same place; give all one --trust-domain, or another place"
    )]
    TrustDomain(String),
    /// It holds times that cannot be believed.
    #[error("it holds times that are ahead of this clock by more than --skew; compare the clocks of the replicas")]
    Clock,
    /// It has another issuer in force, or its anchors.
    #[error(
        "another process puts another issuer in force, or other anchors; do two share the state, and not the issuer?"
    )]
    Issuer,
    /// It is gone, or an earlier one.
    #[error("it was removed, or replaced by an earlier one")]
    Lost,
}

/// When this replica may look again.
#[derive(Debug, Default)]
pub(super) struct Pace {
    not_before: Option<Instant>,
    /// Writes in a row that undid another's, and the last.
    undone: Option<(u32, Instant)>,
    told: Option<Instant>,
}

impl Pace {
    /// The state was written at `now`, as it was found `undone`, or because it was to change. `longest` is between two looks.
    pub(super) fn wrote(&mut self, undone: Option<&Undone>, now: Instant, longest: Duration) {
        let mut pause = WRITE_PAUSE;
        if let Some(why) = undone {
            let in_a_row =
                self.undone.filter(|(_, last)| now < *last + CALM).map_or(1, |(count, _)| count.saturating_add(1));
            self.undone = Some((in_a_row, now));
            if let Some(doublings) = in_a_row.checked_sub(REPAIRS_AT_ONCE + 1) {
                pause = REPAIR_WAIT * 2_u32.saturating_pow(doublings.min(16));
            }
            if self.told.is_none_or(|told| now >= told + CONTESTED_TOLD) {
                self.told = Some(now);
                tracing::warn!(%why, in_a_row, "the issuer's state differs from this replica's, and is written again");
            }
        }
        self.not_before = Some(now + pause.min(longest));
    }

    /// How long to wait at `now` before the next look.
    pub(super) fn pause(&self, now: Instant) -> Duration {
        self.not_before.map_or(Duration::ZERO, |at| at.saturating_duration_since(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONGEST: Duration = Duration::from_secs(15);

    /// The pauses of a replica that writes as soon as it may, `times` in a row.
    fn pauses(undone: Option<&Undone>, times: usize, longest: Duration) -> Vec<Duration> {
        let (mut pace, mut now) = (Pace::default(), Instant::now());
        let write = |_| {
            pace.wrote(undone, now, longest);
            let pause = pace.pause(now);
            now += pause;
            pause
        };
        (0..times).map(write).collect()
    }

    #[test]
    fn who_finds_writes_undone_again_and_again_waits_longer_each_time_and_at_last_as_long_as_between_looks() {
        let pauses = pauses(Some(&Undone::Clock), 20, LONGEST);
        assert_eq!(pauses[..3], [WRITE_PAUSE; 3], "somebody's slip is put right at once");
        assert_eq!(pauses[3..6], [REPAIR_WAIT, 2 * REPAIR_WAIT, 4 * REPAIR_WAIT]);
        assert_eq!(pauses[10..], [LONGEST; 10]);
    }

    #[test]
    fn writes_that_undo_nothing_have_a_pause_that_stays() {
        assert_eq!(pauses(None, 20, LONGEST), [WRITE_PAUSE; 20]);
        assert_eq!(pauses(None, 2, WRITE_PAUSE / 2), [WRITE_PAUSE / 2; 2], "never longer than between looks");
    }

    #[test]
    fn after_a_calm_time_a_repair_is_made_at_once() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        for _ in 0..20 {
            pace.wrote(Some(&Undone::Lost), now, LONGEST);
        }
        assert_eq!(pace.pause(now), LONGEST);
        pace.wrote(Some(&Undone::Lost), now + CALM, LONGEST);
        assert_eq!(pace.pause(now + CALM), WRITE_PAUSE);
    }
}
