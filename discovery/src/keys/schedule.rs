//! When to fetch again: pure.

use std::time::Duration;

/// Between two fetches of an issuer that says nothing of it. Issuers publish a key well before they sign with it.
const USUAL: Duration = Duration::from_secs(5 * 60);
/// Whatever an issuer says.
const SOONEST: Duration = Duration::from_secs(60);
const LATEST: Duration = Duration::from_secs(60 * 60);
/// After a failure; twice as long after each further one.
const RETRY: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(60);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    failed: u32,
}

impl Schedule {
    /// After an answer that is good for so long, as its server says.
    pub(super) fn good(&mut self, fresh: Option<Duration>) -> Duration {
        self.failed = 0;
        fresh.unwrap_or(USUAL).clamp(SOONEST, LATEST)
    }

    /// After none.
    pub(super) fn bad(&mut self) -> Duration {
        let wait = RETRY.saturating_mul(1 << self.failed.min(16)).min(RETRY_MAX);
        self.failed = self.failed.saturating_add(1);
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_issuer_is_asked_again_as_it_says_within_bounds_and_soon_after_a_failure() {
        let mut schedule = Schedule::default();
        assert_eq!(schedule.good(None), USUAL);
        assert_eq!(schedule.good(Some(Duration::ZERO)), SOONEST);
        assert_eq!(schedule.good(Some(Duration::from_secs(1 << 40))), LATEST);
        let waits: Vec<_> = (0..9).map(|_| schedule.bad().as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        (0..1_000).for_each(|_| assert!(schedule.bad() <= RETRY_MAX));
        schedule.good(None);
        assert_eq!(schedule.bad(), RETRY);
    }
}
