//! How often workloads may be certified: one token bucket each, one for all. Pure: the clock is given.

use std::collections::HashMap;
use std::time::Duration;

/// A pod renews a few times a day; this leaves room for crash loops and for leaves of a few seconds in tests.
const WORKLOAD: Rate = Rate { burst: 10.0, per_second: 1.0 };
/// Signing costs about 0.1 ms; this keeps a thundering herd from starving the rest of the process.
const EVERYBODY: Rate = Rate { burst: 1000.0, per_second: 500.0 };
/// Buckets kept; a full bucket says nothing and is dropped first.
const BUCKETS_MAX: usize = 65_536;

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
    /// This workload asks too often.
    Workload,
    /// Everybody together asks too often.
    Everybody,
}

/// The buckets.
#[derive(Debug)]
pub struct Limiter {
    everybody: Bucket,
    workloads: HashMap<String, Bucket>,
}

impl Default for Limiter {
    fn default() -> Self {
        Self { everybody: Bucket { tokens: EVERYBODY.burst, at: Duration::ZERO }, workloads: HashMap::new() }
    }
}

impl Limiter {
    /// Takes one issuance for `workload`, `now` counted from any fixed point.
    pub fn take(&mut self, workload: &str, now: Duration) -> Result<(), Limited> {
        if self.workloads.len() >= BUCKETS_MAX && !self.workloads.contains_key(workload) {
            self.workloads.retain(|_, bucket| WORKLOAD.refilled(*bucket, now) < WORKLOAD.burst);
            if self.workloads.len() >= BUCKETS_MAX {
                return Err(Limited::Everybody);
            }
        }
        let bucket = self.workloads.entry(workload.to_owned()).or_insert(Bucket { tokens: WORKLOAD.burst, at: now });
        if !WORKLOAD.take(bucket, now) {
            return Err(Limited::Workload);
        }
        if !EVERYBODY.take(&mut self.everybody, now) {
            return Err(Limited::Everybody);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workload_that_asks_too_often_waits_and_others_do_not() {
        let mut limiter = Limiter::default();
        for _ in 0..10 {
            assert_eq!(limiter.take("a", Duration::ZERO), Ok(()));
        }
        assert_eq!(limiter.take("a", Duration::ZERO), Err(Limited::Workload));
        assert_eq!(limiter.take("b", Duration::ZERO), Ok(()));
        assert_eq!(limiter.take("a", Duration::from_secs(1)), Ok(()));
        assert_eq!(limiter.take("a", Duration::from_secs(1)), Err(Limited::Workload));
    }

    #[test]
    fn all_together_are_limited_too() {
        let mut limiter = Limiter::default();
        let refused = (0..1001).filter(|n| limiter.take(&n.to_string(), Duration::ZERO).is_err()).count();
        assert_eq!(refused, 1);
    }
}
