//! What a route or a peer did lately: steps of a second, of ten seconds and of a minute, from which the windows that people look at are
//! added up.
//!
//! In: a [`Histogram`] of everything and one of what failed, looked at once a second ([`History::tick`]). Out: [`Window`]s, and the columns of
//! a heatmap. A step holds what its time added to each bucket, packed into two or three bytes a bucket: so quantiles of any window are as
//! exact as the histogram's, and are never an average of quantiles.

use super::histogram::{BUCKETS, Histogram, Snapshot, middle};
use std::{collections::VecDeque, time::Duration};
use tokio::time::Instant;

/// Steps of a second that are kept, …
const SECONDS: usize = 10;
/// … of ten seconds, …
const TENS: usize = 60;
/// … and of a minute.
const MINUTES: usize = 16;
/// The minute that is compared with now: this many whole ones ended after it.
pub(super) const BEFORE: usize = 10;

/// Which time a window is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Span {
    /// The last ten seconds.
    Seconds10,
    /// The last minute, and up to nine seconds more.
    Minute,
    /// The last five minutes, and up to nine seconds more.
    Minutes5,
    /// The last fifteen minutes, and up to one more.
    Minutes15,
    /// The minute that ended ten to eleven minutes ago.
    Before,
}

impl Span {
    /// All of them.
    pub(crate) const ALL: [Self; 5] = [Self::Seconds10, Self::Minute, Self::Minutes5, Self::Minutes15, Self::Before];

    /// Its name in JSON.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Seconds10 => "s10",
            Self::Minute => "m1",
            Self::Minutes5 => "m5",
            Self::Minutes15 => "m15",
            Self::Before => "before",
        }
    }
}

/// When the steps of all histories ended: they are made together, whatever the sampler was late by.
#[derive(Debug)]
pub(crate) struct Clock {
    ticks: u64,
    started: Instant,
    seconds: VecDeque<Instant>,
    tens: VecDeque<Instant>,
    minutes: VecDeque<Instant>,
}

/// Which steps a window is made of: so many of the latest ones of each kind, `skip` of the latest minutes left out.
#[derive(Debug, Default, Clone, Copy)]
struct Steps {
    seconds: usize,
    tens: usize,
    minutes: usize,
    skip: usize,
}

impl Clock {
    /// No step yet.
    pub(crate) fn new(now: Instant) -> Self {
        let (seconds, tens, minutes) = Default::default();
        Self { ticks: 0, started: now, seconds, tens, minutes }
    }

    /// A step of a second ended. To be called before the histories' [`History::tick`].
    pub(crate) fn tick(&mut self, now: Instant) {
        self.ticks += 1;
        // One more than there are steps: where the first of them began.
        push(&mut self.seconds, SECONDS + 1, now);
        if self.ends_ten() {
            push(&mut self.tens, TENS + 1, now);
        }
        if self.ends_minute() {
            push(&mut self.minutes, MINUTES + 1, now);
        }
    }

    /// Whether the last tick ended a step of ten seconds.
    pub(super) fn ends_ten(&self) -> bool {
        self.ticks.is_multiple_of(10)
    }

    pub(super) fn ends_minute(&self) -> bool {
        self.ticks.is_multiple_of(60)
    }

    /// The steps that a window is made of; none if it ended before there was a clock.
    fn steps(&self, span: Span) -> Option<Steps> {
        let (second, ten) = ((self.ticks % 10) as usize, (self.ticks / 10 % 6) as usize);
        Some(match span {
            Span::Seconds10 => Steps { seconds: SECONDS, ..Steps::default() },
            Span::Minute => Steps { seconds: second, tens: 6, ..Steps::default() },
            Span::Minutes5 => Steps { seconds: second, tens: 30, ..Steps::default() },
            Span::Minutes15 => Steps { seconds: second, tens: ten, minutes: 15, skip: 0 },
            Span::Before => {
                let steps = Steps { minutes: 1, skip: BEFORE, ..Steps::default() };
                return (self.minutes.len() > BEFORE).then_some(steps);
            }
        })
    }

    /// When the window made of these steps began and ended.
    fn bounds(&self, steps: Steps) -> (Instant, Instant) {
        let back = |ends: &VecDeque<Instant>, steps: usize| match ends.len().checked_sub(steps + 1) {
            Some(at) => ends[at],
            None => self.started,
        };
        let begins = if steps.minutes > 0 {
            back(&self.minutes, steps.minutes + steps.skip)
        } else if steps.tens > 0 {
            back(&self.tens, steps.tens)
        } else {
            back(&self.seconds, steps.seconds)
        };
        let ends = if steps.skip > 0 { back(&self.minutes, steps.skip) } else { back(&self.seconds, 0) };
        (begins, ends)
    }

    /// When the steps of ten seconds began, the oldest first.
    pub(crate) fn columns(&self) -> impl Iterator<Item = Instant> {
        let first = (self.tens.len() <= TENS).then_some(self.started);
        first.into_iter().chain(self.tens.iter().copied()).take(self.tens.len().min(TENS))
    }
}

fn push<T>(ring: &mut VecDeque<T>, most: usize, step: T) {
    if ring.len() == most {
        ring.pop_front();
    }
    ring.push_back(step);
}

/// What was counted in a window.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Window {
    /// How long it is: the time that its steps really took, or the age of what it is of.
    pub seconds: f64,
    /// What ended in it.
    pub ended: u64,
    /// What failed, of these, by anybody's fault but the client's.
    pub failed: u64,
    /// The median, the 95th and the 99th percentile; none if nothing ended.
    pub quantiles: Option<[Duration; 3]>,
    /// Its latencies: the middle of each bucket that is not empty, in nanoseconds, and how many it has.
    pub latencies: Vec<(u64, u64)>,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct History {
    all: Snapshot,
    failed: Snapshot,
    seconds: VecDeque<Step>,
    tens: VecDeque<Step>,
    minutes: VecDeque<Step>,
}

impl History {
    /// A step of a second ended, which `clock` knows already.
    pub(crate) fn tick(&mut self, clock: &Clock, all: &Histogram, failed: &Histogram) {
        let step = if all.sum_ns() == self.all.sum_ns() {
            Step::default()
        } else {
            // What failed is read first: it is counted last.
            let (failed_now, all_now) = (failed.snapshot(), all.snapshot());
            let step = Step::pack(&all_now.since(&self.all), &failed_now.since(&self.failed));
            (self.all, self.failed) = (all_now, failed_now);
            step
        };
        push(&mut self.seconds, SECONDS, step);
        if clock.ends_ten() {
            let ten = Step::merge(self.seconds.iter().rev().take(10));
            push(&mut self.tens, TENS, ten);
        }
        if clock.ends_minute() {
            let minute = Step::merge(self.tens.iter().rev().take(6));
            push(&mut self.minutes, MINUTES, minute);
        }
    }

    /// A window, if its time has been. `born` is since when there is anything to count.
    pub(crate) fn window(&self, clock: &Clock, span: Span, born: Instant) -> Option<Window> {
        let steps = clock.steps(span)?;
        let (begins, ends) = clock.bounds(steps);
        if born >= ends && span == Span::Before {
            return None;
        }
        let mut tally = Tally::default();
        latest(&self.seconds, steps.seconds, 0).for_each(|step| step.add_to(&mut tally));
        latest(&self.tens, steps.tens, 0).for_each(|step| step.add_to(&mut tally));
        latest(&self.minutes, steps.minutes, steps.skip).for_each(|step| step.add_to(&mut tally));
        // What is younger than the window is shown over its own age, and over a second at least.
        let seconds = ends.saturating_duration_since(begins.max(born)).as_secs_f64().max(1.0);
        Some(Window {
            seconds,
            ended: tally.ended(),
            failed: tally.failed,
            quantiles: tally.quantiles([0.5, 0.95, 0.99]),
            latencies: tally.latencies(),
        })
    }

    /// What each step of ten seconds added, the oldest first: all and what failed, by bucket. As many as [`Clock::columns`], the oldest of
    /// them empty where this is younger than the clock.
    pub(crate) fn columns(&self, clock: &Clock) -> Vec<Vec<(u16, u64, u64)>> {
        let missing = clock.tens.len().min(TENS).saturating_sub(self.tens.len());
        let empty = std::iter::repeat_n(Vec::new(), missing);
        empty.chain(self.tens.iter().map(|step| step.unpack().collect())).collect()
    }
}

/// So many of the latest steps, without the latest `skip` of them.
fn latest(steps: &VecDeque<Step>, many: usize, skip: usize) -> impl Iterator<Item = &Step> {
    steps.iter().rev().skip(skip).take(many)
}

/// What a step added to each bucket: triples of a distance to the bucket before, a count of all and one of what failed, each as a
/// variable-length integer. Nothing is allocated for a step in which nothing happened.
#[derive(Debug, Default)]
struct Step(Option<Box<[u8]>>);

impl Step {
    fn pack(all: &Snapshot, failed: &Snapshot) -> Self {
        let mut failures = failed.counts().iter().copied().peekable();
        let triples = all.counts().iter().map(|&(index, count)| {
            while failures.next_if(|(earlier, _)| *earlier < index).is_some() {}
            (index, count, failures.next_if(|(same, _)| *same == index).map_or(0, |(_, failed)| failed))
        });
        Self::of(triples)
    }

    fn merge<'a>(steps: impl Iterator<Item = &'a Self>) -> Self {
        let mut buckets: Vec<(u64, u64)> = Vec::new();
        for (index, count, failed) in steps.flat_map(Self::unpack) {
            if buckets.is_empty() {
                buckets.resize(BUCKETS, (0, 0));
            }
            let bucket = &mut buckets[usize::from(index)];
            *bucket = (bucket.0 + count, bucket.1 + failed);
        }
        let filled = buckets.iter().enumerate().filter(|(_, (count, _))| *count > 0);
        // There are fewer than 2^16 buckets.
        Self::of(filled.map(|(index, (count, failed))| (index as u16, *count, *failed)))
    }

    fn of(triples: impl Iterator<Item = (u16, u64, u64)>) -> Self {
        let (mut bytes, mut before) = (Vec::new(), 0);
        for (index, count, failed) in triples {
            for value in [u64::from(index - before), count, failed] {
                write(value, &mut bytes);
            }
            before = index;
        }
        Self((!bytes.is_empty()).then(|| bytes.into()))
    }

    fn unpack(&self) -> impl Iterator<Item = (u16, u64, u64)> {
        let (mut bytes, mut index) = (self.0.as_deref().unwrap_or_default(), 0);
        std::iter::from_fn(move || {
            let (distance, count, failed) = (read(&mut bytes)?, read(&mut bytes)?, read(&mut bytes)?);
            index += distance as u16;
            Some((index, count, failed))
        })
    }

    fn add_to(&self, tally: &mut Tally) {
        for (index, count, failed) in self.unpack() {
            tally.add(index, count, failed);
        }
    }
}

fn write(mut value: u64, bytes: &mut Vec<u8>) {
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

fn read(bytes: &mut &[u8]) -> Option<u64> {
    let (mut value, mut shift) = (0, 0);
    loop {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
        shift += 7;
    }
}

/// Steps that are added up. Takes no memory before the first of them that is not empty.
#[derive(Debug, Default)]
struct Tally {
    buckets: Vec<u64>,
    ended: u64,
    failed: u64,
}

impl Tally {
    fn add(&mut self, index: u16, count: u64, failed: u64) {
        if self.buckets.is_empty() {
            self.buckets.resize(BUCKETS, 0);
        }
        self.buckets[usize::from(index)] += count;
        self.ended += count;
        self.failed += failed;
    }

    fn ended(&self) -> u64 {
        self.ended
    }

    fn latencies(&self) -> Vec<(u64, u64)> {
        let filled = self.buckets.iter().enumerate().filter(|(_, count)| **count > 0);
        // There are fewer than 2^16 buckets.
        filled.map(|(index, count)| (middle(index as u16), *count)).collect()
    }

    /// The latencies that these shares, in ascending order, do not exceed.
    fn quantiles(&self, shares: [f64; 3]) -> Option<[Duration; 3]> {
        if self.ended == 0 {
            return None;
        }
        // A count beyond 2^53 loses its last bits here, which no quantile shows.
        let ranks = shares.map(|share| ((share * self.ended as f64).ceil() as u64).max(1));
        let (mut quantiles, mut seen, mut at) = ([Duration::ZERO; 3], 0, 0);
        for (index, count) in self.buckets.iter().enumerate() {
            seen += count;
            while at < ranks.len() && seen >= ranks[at] {
                quantiles[at] = Duration::from_nanos(middle(index as u16));
                at += 1;
            }
        }
        Some(quantiles)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const SECOND: Duration = Duration::from_secs(1);

    struct World {
        clock: Clock,
        history: History,
        all: Histogram,
        failed: Histogram,
        born: Instant,
        now: Instant,
    }

    impl World {
        fn new() -> Self {
            let born = Instant::now();
            let (all, failed) = (Histogram::new(), Histogram::new());
            Self { clock: Clock::new(born), history: History::default(), all, failed, born, now: born }
        }

        /// So many seconds, in each of which `each` says what happens.
        fn pass(&mut self, seconds: u32, each: impl Fn(&Self)) {
            for _ in 0..seconds {
                each(self);
                self.now += SECOND;
                self.clock.tick(self.now);
                self.history.tick(&self.clock, &self.all, &self.failed);
            }
        }

        fn answer(&self, times: u32, latency: Duration) {
            (0..times).for_each(|_| self.all.record(latency));
        }

        fn fail(&self, latency: Duration) {
            self.all.record(latency);
            self.failed.record(latency);
        }

        fn window(&self, span: Span) -> Window {
            self.history.window(&self.clock, span, self.born).unwrap()
        }
    }

    #[test]
    fn each_window_counts_its_own_time() {
        let mut world = World::new();
        world.pass(1200, |world| world.answer(10, MS));
        world.pass(10, |world| world.answer(50, 20 * MS));
        for (span, ended, seconds) in [
            (Span::Seconds10, 500, 10.0),
            (Span::Minute, 500 + 50 * 10, 60.0),
            (Span::Minutes5, 500 + 290 * 10, 300.0),
            (Span::Minutes15, 500 + 900 * 10, 910.0),
            (Span::Before, 600, 60.0),
        ] {
            let window = world.window(span);
            assert_eq!((window.ended, window.seconds), (ended, seconds), "{span:?}");
        }
        let ([now, ..], [then, _, p99]) =
            (world.window(Span::Seconds10).quantiles.unwrap(), world.window(Span::Minute).quantiles.unwrap());
        assert!(now > 19 * MS && then < 2 * MS && p99 > 19 * MS, "{now:?} {then:?} {p99:?}");
    }

    #[test]
    fn windows_are_exact_at_every_second() {
        let mut world = World::new();
        for second in 1..=1000_u32 {
            world.pass(1, |world| world.answer(7, MS));
            for span in [Span::Seconds10, Span::Minute, Span::Minutes5, Span::Minutes15] {
                let window = world.window(span);
                assert!((window.ended as f64 - 7.0 * window.seconds).abs() < 1e-6, "{second} {span:?} {window:?}");
                let most = match span {
                    Span::Seconds10 => 10,
                    Span::Minute => 69,
                    Span::Minutes5 => 309,
                    _ => 960,
                };
                assert!(window.seconds <= f64::from(most.min(second)), "{second} {span:?} {window:?}");
            }
        }
    }

    #[test]
    fn what_failed_is_told_apart() {
        let mut world = World::new();
        world.pass(30, |world| {
            world.answer(3, MS);
            world.fail(5 * MS);
        });
        let window = world.window(Span::Minute);
        assert_eq!((window.ended, window.failed), (120, 30));
        let columns = world.history.columns(&world.clock);
        assert_eq!((columns.len(), world.clock.columns().count()), (3, 3));
        for column in columns {
            let sum = column.iter().fold((0, 0), |sum, (_, all, failed)| (sum.0 + all, sum.1 + failed));
            assert_eq!(sum, (40, 10));
        }
    }

    #[test]
    fn there_is_no_before_until_ten_minutes_have_gone_by_and_none_of_what_is_younger() {
        let mut world = World::new();
        world.pass(659, |world| world.answer(1, MS));
        assert_eq!(world.history.window(&world.clock, Span::Before, world.born), None);
        world.pass(1, |world| world.answer(1, MS));
        assert_eq!(world.window(Span::Before).ended, 60);
        assert_eq!(world.history.window(&world.clock, Span::Before, world.now - 300 * SECOND), None);
    }

    #[test]
    fn a_late_sampler_changes_the_length_of_a_window_and_not_its_rate() {
        let mut world = World::new();
        world.pass(20, |_| {});
        for _ in 0..10 {
            world.answer(40, MS);
            world.now += 3 * SECOND;
            world.pass(1, |_| {});
        }
        let window = world.window(Span::Seconds10);
        assert_eq!((window.ended, window.seconds), (400, 40.0));
    }

    #[test]
    fn the_history_of_a_busy_route_takes_less_than_16_kib() {
        let mut world = World::new();
        let mut random = fastrand::Rng::with_seed(3);
        for _ in 0..1200 {
            let slow = random.u32(1..40);
            world.pass(1, |world| (0..50).for_each(|number| world.answer(1, MS * (number * slow / 40 + 1))));
        }
        let History { all, failed, seconds, tens, minutes } = &world.history;
        let steps = [seconds, tens, minutes];
        let packed: usize = steps
            .iter()
            .flat_map(|steps| steps.iter())
            .filter_map(|step| step.0.as_ref())
            .map(|bytes| bytes.len())
            .sum();
        let rings: usize = steps.iter().map(|steps| steps.capacity() * size_of::<Step>()).sum();
        let snapshots = (all.counts().len() + failed.counts().len()) * 16;
        let bytes = size_of::<History>() + packed + rings + snapshots;
        println!("a route's history: {bytes} bytes, {packed} of them packed");
        assert!(bytes < 16 * 1024, "{bytes}");
    }
}
