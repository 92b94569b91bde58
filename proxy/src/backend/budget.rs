//! The retry budget: over any interval (ten seconds by default), retries are at most a share of the requests plus a fixed rate.
//!
//! Without it retries multiply an outage (three tiers with two retries each send 27 times the load); with it, a backend
//! that fails everything sees 1.2 times its traffic and ten requests a second.

use remora_model::RetryIntervals;
use std::{cell::Cell, time::Duration};
use tokio::time::Instant;

/// Parts of the interval: what is older than it by one of them pays for nothing.
const BUCKETS: usize = 10;
/// The longest window, far beyond any use and far from overflow.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// Counts requests and the retries they pay for. One per backend and worker: divide the rate by the workers.
#[derive(Debug)]
pub(crate) struct Budget {
    ratio: f64,
    /// Per second.
    rate: f64,
    /// The time that the rate is said of.
    rate_interval: Duration,
    /// How long a request keeps paying for retries: as long as the rate's interval, too, or a rate of one in a minute would be of one in ten
    /// seconds.
    window: Duration,
    /// The first time that was passed in.
    epoch: Cell<Option<Instant>>,
    /// By tenths of the window since the epoch: requests and retries.
    buckets: [Cell<(u64, u32, u32)>; BUCKETS],
}

impl Budget {
    /// `ratio` retries per request, and `min_retries` in each interval of the rate whatever the traffic.
    #[must_use]
    pub(crate) fn new(ratio: f32, min_retries: f64, intervals: RetryIntervals) -> Self {
        let RetryIntervals { budget, rate: rate_interval } = intervals;
        let (ratio, rate) = (f64::from(ratio.max(0.0)), min_retries.max(0.0) / rate_interval.as_secs_f64());
        // A part of a worker may be less than one retry in its interval: it is one in a longer time.
        let one =
            if rate > 0.0 { Duration::from_secs_f64((1.0 / rate).min(LONGEST.as_secs_f64())) } else { Duration::ZERO };
        let window = budget.max(rate_interval).max(one);
        Self { ratio, rate, rate_interval, window, epoch: Cell::new(None), buckets: Default::default() }
    }

    /// Counts one request, not its retries.
    pub(crate) fn deposit(&self, now: Instant) {
        let bucket = self.bucket(now);
        let (number, requests, retries) = bucket.get();
        bucket.set((number, requests.saturating_add(1), retries));
    }

    /// Takes one retry out, or says that the budget is spent.
    #[must_use]
    pub(crate) fn withdraw(&self, now: Instant) -> bool {
        if self.left(now) < 1.0 {
            return false;
        }
        let bucket = self.bucket(now);
        let (number, requests, retries) = bucket.get();
        bucket.set((number, requests, retries.saturating_add(1)));
        true
    }

    /// Retries that it has at `now`.
    pub(crate) fn left(&self, now: Instant) -> f64 {
        let current = self.bucket(now).get().0;
        let (mut requests, mut retries) = (0.0, 0.0);
        for bucket in &self.buckets {
            let (number, more_requests, more_retries) = bucket.get();
            if current.saturating_sub(number) < BUCKETS as u64 {
                requests += f64::from(more_requests);
                retries += f64::from(more_retries);
            }
        }
        // The fixed part is a rate, not a lump: its interval's worth at the start, the window's worth once that is over.
        let age = (self.age(now) + self.rate_interval).min(self.window);
        self.ratio * requests + self.rate * age.as_secs_f64() - retries
    }

    fn age(&self, now: Instant) -> Duration {
        let epoch = self.epoch.get().unwrap_or(now);
        self.epoch.set(Some(epoch));
        now.saturating_duration_since(epoch)
    }

    fn bucket(&self, now: Instant) -> &Cell<(u64, u32, u32)> {
        let part = (self.window / BUCKETS as u32).as_millis().max(1);
        let number = u64::try_from(self.age(now).as_millis() / part).unwrap_or(u64::MAX);
        let bucket = &self.buckets[(number % BUCKETS as u64) as usize];
        if bucket.get().0 != number {
            bucket.set((number, 0, 0));
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
        let budget = Budget::new(0.2, 10.0, RetryIntervals::default());
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
        let budget = Budget::new(0.2, 0.0, RetryIntervals::default());
        assert!(!budget.withdraw(start));
        (0..10).for_each(|_| budget.deposit(start));
        assert_eq!((0..5).filter(|_| budget.withdraw(start)).count(), 2);
        (0..10).for_each(|_| budget.deposit(start));
        assert!(!budget.withdraw(start + RetryIntervals::default().budget + Duration::from_secs(1)));
    }

    #[test]
    fn a_quiet_client_may_still_retry() {
        let start = Instant::now();
        let budget = Budget::new(0.2, 10.0, RetryIntervals::default());
        budget.deposit(start);
        assert_eq!((0..100).filter(|_| budget.withdraw(start)).count(), 10);
    }

    #[test]
    fn intervals_say_for_how_long_requests_pay_and_how_often_a_quiet_client_may_retry() {
        let start = Instant::now();
        let seconds = Duration::from_secs;
        let short = Budget::new(1.0, 0.0, RetryIntervals { budget: seconds(1), rate: seconds(1) });
        short.deposit(start);
        assert!(!short.withdraw(start + seconds(2)), "it is older than the interval");
        let long = Budget::new(1.0, 0.0, RetryIntervals { budget: seconds(60), rate: seconds(1) });
        long.deposit(start);
        assert!(long.withdraw(start + seconds(50)));
        let seldom = Budget::new(0.0, 1.0, seldom_intervals());
        let retried = (0..600).filter(|second| seldom.withdraw(start + seconds(*second))).count();
        assert!((9..=11).contains(&retried), "{retried} in ten minutes, at one a minute");
        let half = Budget::new(0.0, 0.5, seldom_intervals());
        let retried = (0..1200).filter(|second| half.withdraw(start + seconds(*second))).count();
        assert!((8..=11).contains(&retried), "{retried} in twenty minutes, of a worker that has half of one a minute");
        assert!(Budget::new(0.0, 1.0, seldom_intervals()).withdraw(start), "the first need not wait for its minute");
    }

    fn seldom_intervals() -> RetryIntervals {
        RetryIntervals { budget: Duration::from_secs(10), rate: Duration::from_secs(60) }
    }
}
