//! How often one may ask and how often all may: token buckets. Pure: the clock is given.

use std::{collections::HashMap, hash::Hash, time::Duration};

/// Of one workload: a pod renews a few times a day; this leaves room for crash loops and for leaves of a few seconds in tests.
const WORKLOAD: Rate = Rate { burst: 10.0, per_second: 1.0 };
/// Of all workloads: signing costs about 0.1 ms; this keeps a thundering herd from starving the rest of the process.
const WORKLOADS: Rate = Rate { burst: 1000.0, per_second: 500.0 };
/// Of one address, and only what is refused is charged in the end: behind one address may be a whole machine's pods (110, and
/// twice that where somebody asks for it), which all start at once and all try again while something is wrong.
const ADDRESS: Rate = Rate { burst: 256.0, per_second: 10.0 };
/// Of all addresses: checking a token costs up to 0.1 ms or a call of the API server.
const ADDRESSES: Rate = Rate { burst: 4096.0, per_second: 2000.0 };
/// Buckets kept; a full bucket says nothing and is dropped first.
const BUCKETS_MAX: usize = 65_536;
/// Between two searches for full buckets, each of which looks at all.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Copy)]
struct Rate {
    burst: f64,
    per_second: f64,
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    tokens: f64,
    at: Duration,
}

impl Rate {
    fn refilled(&self, bucket: Bucket, now: Duration) -> f64 {
        let elapsed = now.saturating_sub(bucket.at).as_secs_f64();
        (bucket.tokens + elapsed * self.per_second).min(self.burst)
    }

    fn take(&self, bucket: &mut Bucket, now: Duration) -> bool {
        let tokens = self.refilled(*bucket, now);
        let taken = tokens >= 1.0;
        *bucket = Bucket { tokens: if taken { tokens - 1.0 } else { tokens }, at: now };
        taken
    }
}

/// Whose limit was hit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limited {
    /// This one asks too often.
    One,
    /// Everybody together asks too often.
    Everybody,
}

/// The buckets.
#[derive(Debug)]
pub struct Limiter<K> {
    one: Rate,
    all: Rate,
    everybody: Bucket,
    buckets: HashMap<K, Bucket>,
    swept: Option<Duration>,
}

impl<K: Eq + Hash> Limiter<K> {
    /// For certificates, by workload.
    #[must_use]
    pub fn workloads() -> Self {
        Self::new(WORKLOAD, WORKLOADS)
    }

    /// For whatever is asked, by address.
    #[must_use]
    pub fn addresses() -> Self {
        Self::new(ADDRESS, ADDRESSES)
    }

    fn new(one: Rate, all: Rate) -> Self {
        let everybody = Bucket { tokens: all.burst, at: Duration::ZERO };
        Self { one, all, everybody, buckets: HashMap::new(), swept: None }
    }

    /// Takes one for `key`, `now` counted from any fixed point.
    pub fn take(&mut self, key: K, now: Duration) -> Result<(), Limited> {
        if self.buckets.len() >= BUCKETS_MAX && !self.buckets.contains_key(&key) {
            self.sweep(now);
            if self.buckets.len() >= BUCKETS_MAX {
                return Err(Limited::Everybody);
            }
        }
        let Self { one, all, everybody, buckets, .. } = self;
        let bucket = buckets.entry(key).or_insert(Bucket { tokens: one.burst, at: now });
        if !one.take(bucket, now) {
            return Err(Limited::One);
        }
        if !all.take(everybody, now) {
            // Nothing was had for it.
            bucket.tokens += 1.0;
            return Err(Limited::Everybody);
        }
        Ok(())
    }

    /// Gives back what was taken for `key`, which was well used.
    pub fn give_back(&mut self, key: &K) {
        if let Some(bucket) = self.buckets.get_mut(key) {
            bucket.tokens = (bucket.tokens + 1.0).min(self.one.burst);
        }
    }

    fn sweep(&mut self, now: Duration) {
        if self.swept.is_some_and(|at| now < at + SWEEP_EVERY) {
            return;
        }
        self.swept = Some(now);
        let one = self.one;
        self.buckets.retain(|_, bucket| one.refilled(*bucket, now) < one.burst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workload_that_asks_too_often_waits_and_others_do_not() {
        let mut limiter = Limiter::workloads();
        for _ in 0..10 {
            assert_eq!(limiter.take("a", Duration::ZERO), Ok(()));
        }
        assert_eq!(limiter.take("a", Duration::ZERO), Err(Limited::One));
        assert_eq!(limiter.take("b", Duration::ZERO), Ok(()));
        assert_eq!(limiter.take("a", Duration::from_secs(1)), Ok(()));
        assert_eq!(limiter.take("a", Duration::from_secs(1)), Err(Limited::One));
    }

    #[test]
    fn all_together_are_limited_too() {
        let mut limiter = Limiter::workloads();
        let refused = (0..1001).filter(|n| limiter.take(*n, Duration::ZERO).is_err()).count();
        assert_eq!(refused, 1);
    }

    #[test]
    fn who_is_refused_for_everybodys_sake_pays_nothing() {
        let mut limiter = Limiter::new(WORKLOAD, Rate { burst: 1.0, per_second: 1.0 });
        limiter.take("other", Duration::ZERO).unwrap();
        for _ in 0..100 {
            assert_eq!(limiter.take("a", Duration::ZERO), Err(Limited::Everybody));
        }
    }

    #[test]
    fn a_machines_pods_behind_one_address_start_at_once_and_what_is_refused_is_charged() {
        let mut limiter = Limiter::addresses();
        for _ in 0..3 {
            // All are certified.
            for _ in 0..220 {
                assert_eq!(limiter.take("node", Duration::ZERO), Ok(()));
                limiter.give_back(&"node");
            }
        }
        let junk = (0..1000).filter(|_| limiter.take("node", Duration::ZERO).is_ok()).count();
        assert_eq!(junk, 256);
        assert_eq!(limiter.take("other", Duration::ZERO), Ok(()));
    }

    #[test]
    fn buckets_are_bounded_and_looked_through_seldom() {
        let mut limiter = Limiter::new(ADDRESS, Rate { burst: 1e9, per_second: 1e9 });
        for n in 0..BUCKETS_MAX {
            limiter.take(n, Duration::ZERO).unwrap();
        }
        let at = Duration::from_millis(1);
        assert_eq!(limiter.take(BUCKETS_MAX, at), Err(Limited::Everybody));
        let swept = limiter.swept;
        assert_eq!(limiter.take(BUCKETS_MAX, at + SWEEP_EVERY / 2), Err(Limited::Everybody));
        assert_eq!(limiter.swept, swept);
        assert_eq!(limiter.take(BUCKETS_MAX, at + SWEEP_EVERY), Ok(()));
        assert_eq!(limiter.buckets.len(), 1);
    }
}
