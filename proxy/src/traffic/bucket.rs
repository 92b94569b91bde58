//! Counts against a rate, in one number that workers share: the time until which what was let through takes, at the rate (GCRA). In: a
//! time. Out: whether so many more may go, or how long that takes.
//!
//! **Never more than rate × time + burst** of requests, in any stretch of time, however many threads ask, and whatever order their clocks
//! are read in. One compare-and-swap for what is let through, one load for what is refused. A worker whose time is older than another's is told to
//! wait longer, never shorter.

use remora_model::Rate;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Nanoseconds. A century: nothing adds up beyond 64 bits.
const FOREVER: u64 = u64::MAX / 8;

/// A rate, as it is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pace {
    rate: Rate,
    /// What one takes, in nanoseconds.
    one: u64,
    /// What the burst takes.
    burst: u64,
}

impl Pace {
    pub(crate) fn new(rate: Rate) -> Self {
        let pace = Self { rate, one: 0, burst: 0 };
        let one = pace.takes(1);
        // As many single ones as the burst has, each rounded up, or one of its size.
        let burst = one.saturating_mul(rate.burst).max(pace.takes(rate.burst)).min(FOREVER);
        Self { one, burst, ..pace }
    }

    /// The nanoseconds that `count` take, rounded up: what is rounded is never let through.
    fn takes(&self, count: u64) -> u64 {
        let interval = self.rate.interval.as_nanos();
        let all = (u128::from(count) * interval).div_ceil(u128::from(self.rate.count.max(1)));
        u64::try_from(all).unwrap_or(FOREVER).min(FOREVER)
    }
}

/// The time until which it is filled, in nanoseconds since the beginning of its limit.
#[derive(Debug, Default)]
pub(crate) struct Bucket(AtomicU64);

impl Bucket {
    /// Lets one more through at `now`, or says in how many nanoseconds one may go.
    pub(crate) fn take(&self, now: u64, pace: &Pace) -> Result<(), u64> {
        let mut until = self.0.load(Relaxed);
        loop {
            let filled = until.max(now) + pace.one;
            if let Some(wait) = beyond(filled, now, pace) {
                return Err(wait);
            }
            match self.0.compare_exchange_weak(until, filled, Relaxed, Relaxed) {
                Ok(_) => return Ok(()),
                Err(other) => until = other,
            }
        }
    }

    /// Whether one more would be let through, or in how many nanoseconds.
    pub(crate) fn look(&self, now: u64, pace: &Pace) -> Result<(), u64> {
        beyond(self.0.load(Relaxed).max(now) + pace.one, now, pace).map_or(Ok(()), Err)
    }

    /// How many may go now.
    pub(crate) fn room(&self, now: u64, pace: &Pace) -> u64 {
        let until = self.0.load(Relaxed).max(now);
        let left = pace.burst.saturating_sub(until - now);
        let count = u128::from(left) * u128::from(pace.rate.count) / pace.rate.interval.as_nanos().max(1);
        u64::try_from(count).unwrap_or(u64::MAX).min(pace.rate.burst)
    }

    /// So many went: they were read before they could be counted.
    pub(crate) fn spend(&self, now: u64, pace: &Pace, count: u64) {
        let takes = pace.takes(count);
        let spent = |until: u64| Some((until.max(now) + takes).min(now + FOREVER));
        // It always gives a value, so that it always succeeds.
        let _before = self.0.fetch_update(Relaxed, Relaxed, spent);
    }

    /// In how many nanoseconds `count` may go, of at most the burst.
    pub(crate) fn wait(&self, now: u64, pace: &Pace, count: u64) -> u64 {
        let filled = self.0.load(Relaxed).max(now) + pace.takes(count.min(pace.rate.burst));
        beyond(filled, now, pace).unwrap_or(0)
    }
}

/// By how much what would be filled is more than the burst.
fn beyond(filled: u64, now: u64, pace: &Pace) -> Option<u64> {
    (filled - now).checked_sub(pace.burst).filter(|wait| *wait > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        sync::{Arc, Barrier, atomic::AtomicU64 as Clock},
        thread,
        time::Duration,
    };

    const SECOND: u64 = 1_000_000_000;

    fn pace(count: u64, seconds: u64, burst: u64) -> Pace {
        Pace::new(Rate { count, interval: Duration::from_secs(seconds), burst })
    }

    #[test]
    fn a_burst_goes_at_once_then_one_for_each_part_of_the_interval() {
        let (bucket, pace) = (Bucket::default(), pace(10, 1, 3));
        let at = |millis: u64| bucket.take(millis * SECOND / 1000, &pace);
        assert_eq!([at(0), at(0), at(0)], [Ok(()); 3]);
        assert_eq!((at(0), at(40)), (Err(100 * SECOND / 1000), Err(60 * SECOND / 1000)));
        assert_eq!((at(100), at(100).is_err(), at(199).is_err(), at(200)), (Ok(()), true, true, Ok(())));
        // What was not used is there again, and no more than the burst.
        assert_eq!([at(9000), at(9000), at(9000)], [Ok(()); 3]);
        assert!(at(9000).is_err());
    }

    #[test]
    fn a_rate_for_a_minute_is_that_and_a_look_changes_nothing() {
        let (bucket, pace) = (Bucket::default(), pace(6, 60, 1));
        assert_eq!((bucket.look(0, &pace), bucket.look(0, &pace), bucket.take(0, &pace)), (Ok(()), Ok(()), Ok(())));
        assert_eq!((bucket.look(0, &pace), bucket.take(SECOND, &pace)), (Err(10 * SECOND), Err(9 * SECOND)));
        assert_eq!(bucket.take(10 * SECOND, &pace), Ok(()));
    }

    #[test]
    fn bytes_are_counted_after_they_went_and_waited_for() {
        let (bucket, pace) = (Bucket::default(), pace(1000, 1, 500));
        assert_eq!(bucket.room(0, &pace), 500);
        bucket.spend(0, &pace, 500);
        assert_eq!((bucket.room(0, &pace), bucket.room(SECOND / 10, &pace)), (0, 100));
        bucket.spend(0, &pace, 300);
        assert_eq!(bucket.wait(0, &pace, 1), 301 * SECOND / 1000);
        assert_eq!((bucket.room(SECOND, &pace), bucket.wait(SECOND, &pace, 1)), (500, 0));
        assert_eq!(bucket.room(100 * SECOND, &pace), 500, "never more than the burst");
    }

    #[test]
    fn the_largest_and_smallest_rates_overflow_nothing() {
        for (count, seconds, burst) in [
            (1, 3600, remora_model::traffic::RATE_MAX),
            (remora_model::traffic::RATE_MAX, 1, 1),
            (remora_model::traffic::RATE_MAX, 1, remora_model::traffic::RATE_MAX),
        ] {
            let (bucket, pace) = (Bucket::default(), pace(count, seconds, burst));
            for now in [0, SECOND, FOREVER] {
                bucket.spend(now, &pace, u64::MAX);
                assert!(
                    bucket.take(now, &pace).is_err() && bucket.room(now, &pace) == 0 && bucket.wait(now, &pace, 1) > 0
                );
            }
        }
    }

    /// In any stretch of time, of what four threads were let through at times that they read in any order.
    #[test]
    fn four_threads_are_never_let_through_more_than_rate_and_burst_allow() {
        for (count, burst) in [(1000, 1), (10_000, 50), (333, 7)] {
            let (bucket, pace) = (Arc::new(Bucket::default()), pace(count, 1, burst));
            let (clock, start) = (Arc::new(Clock::new(0)), Arc::new(Barrier::new(4)));
            let threads: Vec<_> = (0..4)
                .map(|_| {
                    let (bucket, clock, start) = (bucket.clone(), clock.clone(), start.clone());
                    thread::spawn(move || {
                        start.wait();
                        let mut let_through = Vec::new();
                        for _ in 0..20_000 {
                            // Time passes by 10 µs for each try of any thread.
                            let now = clock.fetch_add(10_000, Relaxed);
                            if bucket.take(now, &pace).is_ok() {
                                let_through.push(now);
                            }
                        }
                        let_through
                    })
                })
                .collect();
            let mut times: Vec<u64> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
            times.sort_unstable();
            assert!(times.len() as u64 >= count * 8 / 10 / 2, "{count}: {} were let through in 0.8 s", times.len());
            for (first, from) in times.iter().enumerate() {
                for (last, to) in times.iter().enumerate().skip(first).step_by(97) {
                    let most = (to - from) as f64 * count as f64 / 1e9 + burst as f64;
                    assert!(
                        (last - first + 1) as f64 <= most + 1e-6,
                        "{count}: {} in {} ns",
                        last - first + 1,
                        to - from
                    );
                }
            }
        }
    }
}
