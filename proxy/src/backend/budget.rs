//! The retry budget: over any ten seconds, retries are at most a share of the requests plus a fixed rate.
//!
//! Without it retries multiply an outage (three tiers with two retries each send 27 times the load); with it, a backend
//! that fails everything sees 1.2 times its traffic and ten requests a second.

use std::{cell::Cell, time::Duration};
use tokio::time::Instant;

/// How long a request keeps paying for retries.
const WINDOW: Duration = Duration::from_secs(10);
const BUCKETS: usize = 10;

/// Counts requests and the retries they pay for. One per backend and worker: divide `per_second` by the workers.
#[derive(Debug)]
pub(crate) struct Budget {
    ratio: f64,
    per_second: f64,
    /// The first time that was passed in.
    epoch: Cell<Option<Instant>>,
    /// By second since the epoch: requests and retries.
    buckets: [Cell<(u64, u32, u32)>; BUCKETS],
}

impl Budget {
    /// `ratio` retries per request, and `per_second` whatever the traffic.
    #[must_use]
    pub(crate) fn new(ratio: f32, per_second: f64) -> Self {
        let (ratio, per_second) = (f64::from(ratio.max(0.0)), per_second.max(0.0));
        Self { ratio, per_second, epoch: Cell::new(None), buckets: Default::default() }
    }

    /// Counts one request, not its retries.
    pub(crate) fn deposit(&self, now: Instant) {
        let bucket = self.bucket(now);
        let (second, requests, retries) = bucket.get();
        bucket.set((second, requests.saturating_add(1), retries));
    }

    /// Takes one retry out, or says that the budget is spent.
    #[must_use]
    pub(crate) fn withdraw(&self, now: Instant) -> bool {
        let bucket = self.bucket(now);
        let current = bucket.get().0;
        let (mut requests, mut retries) = (0.0, 0.0);
        for bucket in &self.buckets {
            let (second, more_requests, more_retries) = bucket.get();
            if current.saturating_sub(second) < BUCKETS as u64 {
                requests += f64::from(more_requests);
                retries += f64::from(more_retries);
            }
        }
        // The fixed part is a rate, not a lump: a second's worth at the start, the window's worth once it is over.
        let age = self.age(now).as_secs_f64() + 1.0;
        let allowed = self.ratio * requests + self.per_second * age.min(WINDOW.as_secs_f64());
        if retries + 1.0 > allowed {
            return false;
        }
        let (second, requests, retries) = bucket.get();
        bucket.set((second, requests, retries.saturating_add(1)));
        true
    }

    fn age(&self, now: Instant) -> Duration {
        let epoch = self.epoch.get().unwrap_or(now);
        self.epoch.set(Some(epoch));
        now.saturating_duration_since(epoch)
    }

    fn bucket(&self, now: Instant) -> &Cell<(u64, u32, u32)> {
        let second = self.age(now).as_secs();
        let bucket = &self.buckets[(second % BUCKETS as u64) as usize];
        if bucket.get().0 != second {
            bucket.set((second, 0, 0));
        }
        bucket
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn when_everything_fails_retries_are_a_fifth_and_ten_a_second() {
        let start = Instant::now();
        let budget = Budget::new(0.2, 10.0);
        let (mut sent, mut retried) = (0u32, 0u32);
        for millisecond in 0..60_000 {
            let now = start + Duration::from_millis(millisecond);
            sent += 1;
            budget.deposit(now);
            for _ in 0..2 {
                retried += u32::from(budget.withdraw(now));
            }
        }
        let allowed = 0.2 * f64::from(sent) + 10.0 * 60.0;
        let used = f64::from(retried) / allowed;
        assert!((0.9..=1.001).contains(&used), "{retried} of {allowed}");
    }

    #[test]
    fn the_share_is_earned_before_it_is_spent_and_old_requests_pay_nothing() {
        let start = Instant::now();
        let budget = Budget::new(0.2, 0.0);
        assert!(!budget.withdraw(start));
        (0..10).for_each(|_| budget.deposit(start));
        assert_eq!((0..5).filter(|_| budget.withdraw(start)).count(), 2);
        (0..10).for_each(|_| budget.deposit(start));
        assert!(!budget.withdraw(start + WINDOW + Duration::from_secs(1)));
    }

    #[test]
    fn a_quiet_client_may_still_retry() {
        let start = Instant::now();
        let budget = Budget::new(0.2, 10.0);
        budget.deposit(start);
        assert_eq!((0..100).filter(|_| budget.withdraw(start)).count(), 10);
    }
}
