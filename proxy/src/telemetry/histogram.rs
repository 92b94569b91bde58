//! Latencies in log-linear buckets: each power of two of nanoseconds is cut into 32 equal parts, so that the middle of a
//! bucket is at most 1/64 (1.6 %) away from anything counted in it.
//!
//! In: durations, from any thread, by one relaxed increment each. Out: [`Snapshot`]s, and from them quantiles and the few
//! cumulative buckets that Prometheus wants. What is shorter than 512 ns counts as 512 ns, what is longer than 18 minutes
//! as 18 minutes. Not a consistent cut: a snapshot taken while others record may miss what they are just adding.

use remora_runtime::admin::exposition::NATIVE_SCHEMA;
use std::{
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

/// The power of two of the lowest bucket: 512 ns, half of the microsecond from which on the error bound holds.
const OCTAVE_MIN: u32 = 9;
/// Up to 2^40 ns, which is 1100 s.
const OCTAVES: usize = 31;
const PARTS_LOG2: u32 = 5;
const PARTS: usize = 1 << PARTS_LOG2;

/// Buckets of a histogram.
pub(crate) const BUCKETS: usize = OCTAVES * PARTS;

/// The bounds of the buckets shown to Prometheus: the client libraries' classic ones, from 5 ms to 10 s, and five below them, since calls
/// between pods of a cluster often take less than a millisecond.
pub(crate) const BOUNDS: [Duration; 15] = [
    Duration::from_micros(250),
    Duration::from_micros(500),
    Duration::from_millis(1),
    Duration::from_micros(2500),
    Duration::from_millis(5),
    Duration::from_millis(10),
    Duration::from_millis(25),
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(250),
    Duration::from_millis(500),
    Duration::from_millis(1000),
    Duration::from_millis(2500),
    Duration::from_millis(5000),
    Duration::from_millis(10_000),
];

/// Counts of latencies. 0.5 KiB empty; each power of two that is met adds 256 B, so a route whose answers take between
/// 200 µs and 100 ms has 3 KiB.
#[derive(Debug, Default)]
pub(crate) struct Histogram {
    octaves: [OnceLock<Box<[AtomicU64; PARTS]>>; OCTAVES],
    sum_ns: AtomicU64,
}

impl Histogram {
    /// An empty one.
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Counts one latency.
    pub(crate) fn record(&self, latency: Duration) {
        let (ns, index) = place(latency);
        self.add(index, 1);
        self.sum_ns.fetch_add(ns, Relaxed);
    }

    /// All latencies added up, in nanoseconds: what tells cheaply whether anything was counted since.
    pub(crate) fn sum_ns(&self) -> u64 {
        self.sum_ns.load(Relaxed)
    }

    /// What is counted so far.
    pub(crate) fn snapshot(&self) -> Snapshot {
        let mut snapshot = Snapshot { sum_ns: self.sum_ns.load(Relaxed), ..Snapshot::default() };
        for (octave, parts) in self.octaves.iter().enumerate() {
            for (part, count) in parts.get().iter().flat_map(|parts| parts.iter()).enumerate() {
                let count = count.load(Relaxed);
                if count > 0 {
                    // 31 × 32 buckets fit u16.
                    snapshot.counts.push(((octave * PARTS + part) as u16, count));
                    snapshot.count += count;
                }
            }
        }
        snapshot
    }

    /// The latency that the share `q` (0..=1) of everything counted does not exceed; none if nothing is counted.
    #[cfg(test)]
    pub(crate) fn quantile(&self, q: f64) -> Option<Duration> {
        self.snapshot().quantile(q)
    }

    fn add(&self, index: usize, count: u64) {
        let parts = self.octaves[index / PARTS].get_or_init(Box::default);
        parts[index % PARTS].fetch_add(count, Relaxed);
    }
}

/// What a [`Histogram`] had counted at one moment: its non-empty buckets in ascending order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Snapshot {
    counts: Vec<(u16, u64)>,
    count: u64,
    sum_ns: u64,
}

impl Snapshot {
    /// How many latencies.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// Its buckets that are not empty, in ascending order: their places below [`BUCKETS`], and how many latencies each has.
    pub(crate) fn counts(&self) -> &[(u16, u64)] {
        &self.counts
    }

    /// All of them added up, in nanoseconds.
    pub(crate) fn sum_ns(&self) -> u64 {
        self.sum_ns
    }

    /// All of them added up.
    pub(crate) fn sum(&self) -> Duration {
        Duration::from_nanos(self.sum_ns)
    }

    /// What was counted after `earlier`, a snapshot of the same histogram.
    pub(crate) fn since(&self, earlier: &Self) -> Self {
        let mut before = earlier.counts.iter().peekable();
        let mut rest = Self { sum_ns: self.sum_ns.saturating_sub(earlier.sum_ns), ..Self::default() };
        for &(index, count) in &self.counts {
            while before.next_if(|(earlier, _)| *earlier < index).is_some() {}
            let known = before.next_if(|(earlier, _)| *earlier == index).map_or(0, |(_, count)| *count);
            let count = count.saturating_sub(known);
            if count > 0 {
                rest.counts.push((index, count));
                rest.count += count;
            }
        }
        rest
    }

    /// The latency that the share `q` (0..=1) does not exceed; none if nothing is counted.
    pub(crate) fn quantile(&self, q: f64) -> Option<Duration> {
        // A count beyond 2^53 loses its last bits here, which no quantile shows.
        let rank = ((q.clamp(0.0, 1.0) * self.count as f64).ceil() as u64).max(1);
        let mut seen = 0;
        self.counts.iter().find_map(|&(index, count)| {
            seen += count;
            (seen >= rank).then(|| Duration::from_nanos(middle(index)))
        })
    }

    /// The same in the buckets of a native histogram of Prometheus, in seconds: the number of each that is not empty, in ascending order, and
    /// how many latencies it has. A bucket of ours belongs to where its middle is, which is at most 1.6 % away from what it has.
    pub(crate) fn native(&self) -> Vec<(i32, u64)> {
        let per_octave = f64::from(1 << NATIVE_SCHEMA);
        let mut buckets: Vec<(i32, u64)> = Vec::new();
        for &(index, count) in &self.counts {
            // From 512 ns to 18 minutes that is within -168 and 81.
            let number = (Duration::from_nanos(middle(index)).as_secs_f64().log2() * per_octave).ceil() as i32;
            match buckets.last_mut() {
                Some((last, sum)) if *last == number => *sum += count,
                _ => buckets.push((number, count)),
            }
        }
        buckets
    }

    /// For each of [`BOUNDS`], how many were not longer. A bucket that straddles a bound belongs to where its middle is.
    pub(crate) fn cumulative(&self) -> [u64; BOUNDS.len()] {
        let mut below = [0; BOUNDS.len()];
        for &(index, count) in &self.counts {
            let middle = Duration::from_nanos(middle(index));
            for (bound, below) in BOUNDS.iter().zip(&mut below) {
                if middle <= *bound {
                    *below += count;
                }
            }
        }
        below
    }
}

/// The latency in nanoseconds, and the bucket it belongs to.
fn place(latency: Duration) -> (u64, usize) {
    let ns = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
    let ns = ns.clamp(1 << OCTAVE_MIN, (1 << (OCTAVE_MIN as usize + OCTAVES)) - 1);
    let octave = ns.ilog2();
    let part = (ns >> (octave - PARTS_LOG2)) as usize & (PARTS - 1);
    (ns, (octave - OCTAVE_MIN) as usize * PARTS + part)
}

/// The least latency of half a power of two, of which there are two in each octave of buckets: the rows of a heatmap.
pub(crate) fn row_starts(row: usize) -> Duration {
    let octave = 1 << (OCTAVE_MIN as usize + row / 2);
    Duration::from_nanos(octave + octave / 2 * (row as u64 % 2))
}

/// The row of a heatmap that a bucket belongs to.
pub(crate) fn row(index: u16) -> usize {
    usize::from(index) / (PARTS / 2)
}

/// The middle of a bucket, in nanoseconds.
pub(crate) fn middle(index: u16) -> u64 {
    let octave = OCTAVE_MIN + u32::from(index) / PARTS as u32;
    let part = u64::from(index) % PARTS as u64;
    let width = 1 << (octave - PARTS_LOG2);
    (1 << octave) + part * width + width / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_native_bucket_has_what_is_between_its_bounds_and_no_more_than_a_64th_beyond() {
        let histogram = Histogram::new();
        let mut random = fastrand::Rng::with_seed(11);
        for _ in 0..1000 {
            let latency = Duration::from_nanos(1 << random.u32(9..40)).mul_f64(1.0 + random.f64());
            let alone = Histogram::new();
            alone.record(latency);
            histogram.record(latency);
            let [(number, 1)] = alone.snapshot().native()[..] else { panic!("one latency has one bucket") };
            let (above, most) = (f64::from(number - 1) / 8.0, f64::from(number) / 8.0);
            let seconds = latency.as_secs_f64().min(1100.0);
            assert!(
                seconds > above.exp2() * (63.0 / 64.0) && seconds <= most.exp2() * (65.0 / 64.0),
                "{latency:?} {number}"
            );
        }
        let all = histogram.snapshot().native();
        assert!(all.is_sorted_by(|(a, _), (b, _)| a < b), "{all:?}");
        assert_eq!(all.iter().map(|(_, count)| count).sum::<u64>(), 1000);
    }

    #[test]
    fn every_value_between_1_us_and_1000_s_comes_back_within_2_percent() {
        let mut ns = 1_000_u64;
        while ns <= 1_000_000_000_000 {
            let histogram = Histogram::new();
            histogram.record(Duration::from_nanos(ns));
            let shown = histogram.quantile(0.5).unwrap().as_nanos() as f64;
            let error = (shown - ns as f64).abs() / ns as f64;
            assert!(error <= 0.02, "{ns} ns is shown as {shown} ns: {:.2} %", error * 100.0);
            ns = ns + ns / 97 + 1;
        }
    }

    #[test]
    fn quantiles_of_many_values_are_within_2_percent_of_the_exact_ones() {
        let mut random = fastrand::Rng::with_seed(7);
        let histogram = Histogram::new();
        let mut exact: Vec<u64> = (0..50_000)
            .map(|_| (10_f64.powf(3.0 + random.f64() * 7.0)) as u64)
            .inspect(|&ns| {
                histogram.record(Duration::from_nanos(ns));
            })
            .collect();
        exact.sort_unstable();
        for q in [0.01, 0.5, 0.9, 0.95, 0.99, 0.999, 1.0] {
            let rank = ((q * exact.len() as f64).ceil() as usize).max(1);
            let wanted = exact[rank - 1] as f64;
            let shown = histogram.quantile(q).unwrap().as_nanos() as f64;
            assert!((shown - wanted).abs() / wanted <= 0.02, "q {q}: {shown} for {wanted}");
        }
    }

    #[test]
    fn values_out_of_range_are_counted_at_the_ends() {
        let histogram = Histogram::new();
        histogram.record(Duration::ZERO);
        histogram.record(Duration::MAX);
        assert_eq!(histogram.snapshot().count(), 2);
        assert!(histogram.quantile(0.0).unwrap() < Duration::from_micros(1));
        assert!(histogram.quantile(1.0).unwrap() > Duration::from_secs(1_000));
    }

    #[test]
    fn what_threads_record_at_once_is_all_counted() {
        let (threads, each, histogram) = (4_u64, 40_u64, Histogram::new());
        std::thread::scope(|scope| {
            let record = |from: u64| {
                (0..each).for_each(|at| histogram.record(Duration::from_micros(1 << ((from + at) % 20))));
            };
            (0..threads).for_each(|from| drop(scope.spawn(move || record(from))));
        });
        assert_eq!(histogram.snapshot().count(), threads * each);
        let sum: u64 = (0..threads).flat_map(|from| (0..each).map(move |at| 1 << ((from + at) % 20))).sum();
        assert_eq!(histogram.snapshot().sum(), Duration::from_micros(sum));
    }

    #[test]
    fn an_empty_histogram_has_no_quantile() {
        assert_eq!(Histogram::new().quantile(0.5), None);
    }

    #[test]
    fn a_difference_holds_only_what_came_later() {
        let histogram = Histogram::new();
        histogram.record(Duration::from_millis(1));
        histogram.record(Duration::from_millis(50));
        let earlier = histogram.snapshot();
        histogram.record(Duration::from_millis(50));
        histogram.record(Duration::from_millis(7));
        let later = histogram.snapshot().since(&earlier);
        assert_eq!(later.count(), 2);
        assert_eq!(later.sum(), Duration::from_millis(57));
        assert!(later.quantile(0.5).unwrap() > Duration::from_millis(6));
        assert_eq!(earlier.since(&earlier), Snapshot::default());
    }

    #[test]
    fn prometheus_buckets_are_cumulative() {
        let histogram = Histogram::new();
        for ms in [1, 6, 6, 90, 20_000] {
            histogram.record(Duration::from_millis(ms));
        }
        assert_eq!(histogram.snapshot().cumulative(), [0, 0, 0, 1, 1, 3, 3, 3, 4, 4, 4, 4, 4, 4, 4]);
    }

    #[test]
    fn rows_of_a_heatmap_are_two_for_each_doubling() {
        for ns in [512_u64, 767, 768, 1024, 1500, 1_000_000, 123_456_789] {
            let row = row(place(Duration::from_nanos(ns)).1 as u16);
            let (starts, ends) = (row_starts(row), row_starts(row + 1));
            assert!((starts..ends).contains(&Duration::from_nanos(ns)), "{ns}: {starts:?} to {ends:?}");
        }
    }

    #[test]
    fn a_route_between_200_us_and_100_ms_costs_less_than_6_kib() {
        let histogram = Histogram::new();
        for us in 200..100_000 {
            histogram.record(Duration::from_micros(us));
        }
        let chunks = histogram.octaves.iter().filter(|octave| octave.get().is_some()).count();
        assert!(size_of::<Histogram>() + chunks * PARTS * size_of::<AtomicU64>() < 6 * 1024);
    }
}
