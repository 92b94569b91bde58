//! Whether spans are made, and of how many requests that come without a decision. In: the setting, from the control thread. Out: one load per
//! request, without a lock.

use remora_model::{Sample, Tracing};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// Off, or a share in millionths and one.
#[derive(Debug, Default)]
pub(crate) struct Sampling(AtomicU32);

impl Sampling {
    /// From now on it is as the setting says.
    pub(crate) fn set(&self, tracing: &Tracing) {
        let share = match tracing {
            Tracing::Off => 0,
            Tracing::On { sample, .. } => 1 + sample.millionths(),
        };
        self.0.store(share, Relaxed);
    }

    /// Whether spans are made at all.
    pub(crate) fn is_on(&self) -> bool {
        self.0.load(Relaxed) != 0
    }

    /// Whether a request begins a trace.
    pub(crate) fn draws(&self, rng: &mut fastrand::Rng) -> bool {
        rng.u32(..Sample::ALL.millionths()) < self.0.load(Relaxed).saturating_sub(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_are_drawn_as_the_setting_says() {
        let (sampling, mut rng) = (Sampling::default(), fastrand::Rng::with_seed(7));
        for (setting, on, least, most) in [
            ("off", false, 0, 0),
            ("otel:4317 sample=0%", true, 0, 0),
            ("otel:4317 sample=1%", true, 800, 1200),
            ("otel:4317 sample=50%", true, 49_000, 51_000),
            ("otel:4317 sample=100%", true, 100_000, 100_000),
        ] {
            sampling.set(&setting.parse().unwrap());
            let drawn = (0..100_000).filter(|_| sampling.draws(&mut rng)).count();
            assert_eq!(sampling.is_on(), on);
            assert!((least..=most).contains(&drawn), "{setting}: {drawn}");
        }
    }
}
