//! Simulations: time is a number, faults and choices are seeded.

use super::*;
use remora_model::HashSource;
use std::collections::BTreeMap;

pub(super) const MS: Duration = Duration::from_millis(1);
pub(super) const SECOND: Duration = Duration::from_secs(1);

pub(super) type Set = Balancer<u16>;

pub(super) fn at(key: u16) -> SocketAddr {
    ([10, 0, 0, 1], key).into()
}

pub(super) fn member(key: u16) -> Member<u16> {
    Member { key: at(key), weight: 1, tier: 0, payload: key }
}

fn entries(keys: impl IntoIterator<Item = u16>) -> Vec<Member<u16>> {
    keys.into_iter().map(member).collect()
}

/// One set under a steady load, event by event.
struct Sim {
    set: Set,
    rng: fastrand::Rng,
    start: Instant,
    now: Instant,
    /// By time of the answer, then a sequence number.
    pending: BTreeMap<(Instant, u64), (InFlight, Outcome)>,
    sequence: u64,
}

impl Sim {
    fn new(keys: impl IntoIterator<Item = u16>, seed: u64) -> Self {
        let start = Instant::now();
        let mut set = Set::new(Accrual::default());
        set.update(entries(keys));
        Self { set, rng: fastrand::Rng::with_seed(seed), start, now: start, pending: BTreeMap::new(), sequence: 0 }
    }

    /// Sends `rps` for `time`; `serve` says how endpoint `key` answers. Returns the requests each endpoint got.
    fn run(
        &mut self,
        rps: u32,
        time: Duration,
        serve: impl Fn(u16, &mut fastrand::Rng) -> (Duration, Outcome),
    ) -> BTreeMap<u16, u32> {
        let mut sent = BTreeMap::new();
        let end = self.now + time;
        while self.now < end {
            while let Some(first) = self.pending.first_entry()
                && first.key().0 <= self.now
            {
                let (answered, _) = *first.key();
                let (picked, outcome) = first.remove();
                picked.record(answered, answered - picked.started, outcome);
            }
            let (key, picked) = self.set.pick(self.now, &mut self.rng, &[], None).unwrap();
            *sent.entry(key).or_default() += 1;
            let (latency, outcome) = serve(key, &mut self.rng);
            self.sequence += 1;
            self.pending.insert((self.now + latency, self.sequence), (picked, outcome));
            self.now += SECOND / rps;
        }
        sent
    }
}

fn share(sent: &BTreeMap<u16, u32>, key: u16) -> f64 {
    f64::from(*sent.get(&key).unwrap_or(&0)) / f64::from(sent.values().sum::<u32>())
}

#[test]
fn a_slow_endpoint_of_five_gets_under_5_percent_within_5_seconds() {
    for seed in 0..10 {
        for rps in [50, 500, 5000] {
            let mut sim = Sim::new(0..5, seed);
            let serve = |key: u16, rng: &mut fastrand::Rng| {
                let usual = MS.mul_f64(0.5 + rng.f64());
                (if key == 3 { usual * 20 } else { usual }, Outcome::Success)
            };
            sim.run(rps, 5 * SECOND, serve);
            let sent = sim.run(rps, 20 * SECOND, serve);
            assert!(share(&sent, 3) < 0.05, "seed {seed}, {rps} rps: {sent:?}");
            for fast in [0, 1, 2, 4] {
                assert!(share(&sent, fast) > 0.1, "seed {seed}, {rps} rps: {sent:?}");
            }
        }
    }
}

/// Neither a slow answer in a hundred, nor one in a thousand that takes for ever, nor a difference that nobody notices makes
/// one of five equals the busiest.
#[test]
fn equal_endpoints_get_equal_shares_although_each_has_slow_answers() {
    for seed in 0..10 {
        for (rps, one_in, times, shares) in
            [(500, 100, 10, 0.16..0.24), (2000, 100, 10, 0.16..0.24), (500, 1000, 200, 0.14..0.25)]
        {
            let mut sim = Sim::new(0..5, seed);
            let serve = |key: u16, rng: &mut fastrand::Rng| {
                let usual = MS.mul_f64(0.5 + rng.f64() + f64::from(key) / 10.0);
                (if rng.u32(..one_in) == 0 { times * usual } else { usual }, Outcome::Success)
            };
            sim.run(rps, 20 * SECOND, serve);
            let sent = sim.run(rps, 10 * SECOND, serve);
            for key in 0..5 {
                let share = share(&sent, key);
                assert!(shares.contains(&share), "seed {seed}, {rps} rps, 1 in {one_in} × {times}: {sent:?}");
            }
        }
    }
}

/// A pause makes all answers slow that are owed when it begins, and nothing after it.
#[test]
fn an_endpoint_that_pauses_now_and_then_keeps_its_share() {
    for seed in 0..10 {
        for rps in [500, 2000] {
            let (mut sim, start) = (Sim::new(0..5, seed), Instant::now());
            let clock = Cell::new(start);
            // Endpoint 0 stands still for 30 ms every 4 s.
            let serve = |key: u16, rng: &mut fastrand::Rng| {
                let now = clock.get();
                clock.set(now + SECOND / rps);
                let into = Duration::from_nanos((now - start).as_nanos() as u64 % (4 * SECOND).as_nanos() as u64);
                let pause = if key == 0 { (30 * MS).saturating_sub(into) } else { Duration::ZERO };
                (pause + MS.mul_f64(0.5 + rng.f64()), Outcome::Success)
            };
            sim.run(rps, 20 * SECOND, serve);
            let sent = sim.run(rps, 20 * SECOND, serve);
            for key in 0..5 {
                assert!((0.17..0.24).contains(&share(&sent, key)), "seed {seed}, {rps} rps: {sent:?}");
            }
        }
    }
}

#[test]
fn an_endpoint_that_turns_slow_loses_its_traffic_and_regains_it() {
    let mut sim = Sim::new(0..5, 1);
    let fast = |_, _: &mut fastrand::Rng| (MS, Outcome::Success);
    let slow = |key, _: &mut fastrand::Rng| (if key == 0 { 20 * MS } else { MS }, Outcome::Success);
    sim.run(500, 10 * SECOND, fast);
    sim.run(500, SECOND, slow);
    assert!(share(&sim.run(500, 10 * SECOND, slow), 0) < 0.02);
    sim.run(500, 40 * SECOND, fast);
    assert!(share(&sim.run(500, 10 * SECOND, fast), 0) > 0.1);
}

#[test]
fn a_silent_endpoint_gets_almost_nothing_before_anything_times_out() {
    let mut sim = Sim::new(0..5, 2);
    sim.run(500, 5 * SECOND, |_, _| (MS, Outcome::Success));
    let hole = |key, _: &mut fastrand::Rng| (if key == 2 { 60 * SECOND } else { MS }, Outcome::Success);
    let sent = sim.run(500, 5 * SECOND, hole);
    assert!(sent.get(&2).copied().unwrap_or(0) < 15, "{sent:?}");
}

#[test]
fn a_dead_endpoint_leaves_after_two_connects_and_is_back_within_ten_seconds() {
    for seed in 0..20 {
        let mut sim = Sim::new(0..5, seed);
        sim.run(500, 2 * SECOND, |_, _| (MS, Outcome::Success));
        let dead = |key, _: &mut fastrand::Rng| {
            if key == 1 { (MS / 10, Outcome::Unreachable) } else { (MS, Outcome::Success) }
        };
        let sent = sim.run(500, 60 * SECOND, dead);
        assert!(sent[&1] < 25, "seed {seed}: {} requests in a minute", sent[&1]);
        for other in [0, 2, 3, 4] {
            assert!(share(&sent, other) < 0.3, "{sent:?}");
        }
        sim.run(500, 8 * SECOND, |_, _| (MS, Outcome::Success));
        let sent = sim.run(500, 2 * SECOND, |_, _| (MS, Outcome::Success));
        assert!(share(&sent, 1) > 0.1, "seed {seed}: {sent:?}");
    }
}

#[test]
fn an_endpoint_that_left_slowly_gets_its_share_as_soon_as_it_answers_again() {
    let mut sim = Sim::new(0..5, 4);
    let fast = |_, _: &mut fastrand::Rng| (MS, Outcome::Success);
    sim.run(500, 5 * SECOND, fast);
    for _ in 0..7 {
        let (_, picked) = sim.set.pick(sim.now, &mut sim.rng, &[0, 1, 3, 4].map(at), None).unwrap();
        sim.now += 3 * SECOND;
        picked.record(sim.now, 3 * SECOND, Outcome::Failure);
    }
    assert_eq!(sim.set.counts(), (5, 4), "it has left");
    sim.run(500, 5 * SECOND, fast);
    let sent = sim.run(500, 2 * SECOND, fast);
    assert!(share(&sent, 2) > 0.1, "{sent:?}");
}

#[test]
fn failures_in_a_row_and_a_bad_share_both_eject() {
    let mut sim = Sim::new(0..4, 3);
    let failing = |key, _: &mut fastrand::Rng| (MS, if key == 0 { Outcome::Failure } else { Outcome::Success });
    sim.run(100, SECOND, |_, _| (MS, Outcome::Success));
    sim.run(100, 5 * SECOND, failing);
    assert_eq!(sim.set.counts(), (4, 3));
    let mut sim = Sim::new(0..4, 4);
    let flaky = |key, rng: &mut fastrand::Rng| {
        (MS, if key == 0 && rng.f64() < 0.4 { Outcome::Failure } else { Outcome::Success })
    };
    let sent = sim.run(200, 60 * SECOND, flaky);
    assert!(share(&sent, 0) < 0.15, "{sent:?}");
}

#[test]
fn failed_answers_eject_at_most_half_and_failed_connects_all_but_one() {
    let mut sim = Sim::new(0..5, 5);
    sim.run(500, 3 * SECOND, |_, _| (MS, Outcome::Failure));
    assert_eq!(sim.set.counts(), (5, 3));
    let mut sim = Sim::new(0..5, 6);
    sim.run(500, 3 * SECOND, |_, _| (MS, Outcome::Unreachable));
    assert_eq!(sim.set.counts(), (5, 1));
}

#[test]
fn an_impostor_leaves_at_once_even_as_the_last_and_returns_by_probe() {
    let mut sim = Sim::new([7], 7);
    sim.set.pick(sim.now, &mut sim.rng, &[], None).unwrap().1.record(sim.now, MS, Outcome::WrongIdentity);
    assert_eq!(sim.set.pick(sim.now + MS, &mut sim.rng, &[], None).unwrap_err(), NoEndpoint::AllEjected);
    let (_, probe) = sim.set.pick(sim.now + 2 * SECOND, &mut sim.rng, &[], None).unwrap();
    assert!(probe.is_probe());
    assert!(sim.set.pick(sim.now + 2 * SECOND, &mut sim.rng, &[], None).is_err(), "one probe at a time");
    probe.record(sim.now + 2 * SECOND, MS, Outcome::Success);
    assert_eq!(sim.set.counts(), (1, 1));
}

#[test]
fn an_abandoned_probe_is_tried_again() {
    let mut sim = Sim::new([1, 2], 8);
    for _ in 0..2 {
        loop {
            let (key, picked) = sim.set.pick(sim.now, &mut sim.rng, &[], None).unwrap();
            if key == 1 {
                picked.record(sim.now, MS, Outcome::Unreachable);
                break;
            }
        }
    }
    assert_eq!(sim.set.counts(), (2, 1));
    let later = sim.now + 2 * SECOND;
    for _ in 0..3 {
        let (key, probe) = sim.set.pick(later, &mut sim.rng, &[], None).unwrap();
        assert!(probe.is_probe() && key == 1);
        assert!(
            !sim.set.pick(later, &mut sim.rng, &[at(2)], None).is_ok_and(|retry| retry.1.is_probe()),
            "retries do not probe"
        );
    }
}

#[test]
fn a_retry_goes_to_an_endpoint_not_yet_tried() {
    let mut sim = Sim::new(0..3, 9);
    for _ in 0..200 {
        let first = sim.set.pick(sim.now, &mut sim.rng, &[], None).unwrap().0;
        let second = sim.set.pick(sim.now, &mut sim.rng, &[at(first)], None).unwrap().0;
        let third = sim.set.pick(sim.now, &mut sim.rng, &[at(first), at(second)], None).unwrap().0;
        assert!(first != second && second != third && first != third);
        let spent = sim.set.pick(sim.now, &mut sim.rng, &[at(first), at(second), at(third)], None);
        assert_eq!(spent.unwrap_err(), NoEndpoint::AllEjected);
    }
}

#[test]
fn an_empty_set_says_so() {
    let sim = &mut Sim::new([], 10);
    assert_eq!(sim.set.pick(sim.start, &mut sim.rng, &[], None).unwrap_err(), NoEndpoint::Empty);
}

#[test]
fn an_update_keeps_what_is_known_of_those_who_stay() {
    let mut sim = Sim::new(0..3, 11);
    for _ in 0..2 {
        sim.set.pick(sim.now, &mut sim.rng, &[at(1), at(2)], None).unwrap().1.record(sim.now, MS, Outcome::Unreachable);
    }
    assert_eq!(sim.set.counts(), (3, 2));
    sim.set.update(entries([0, 1, 9]));
    assert_eq!(sim.set.counts(), (3, 2));
    let (_, late) = sim.set.pick(sim.now, &mut sim.rng, &[at(0), at(9)], None).unwrap();
    sim.set.update(entries([0, 9]));
    late.record(sim.now, MS, Outcome::WrongIdentity);
    assert_eq!(sim.set.counts(), (2, 1), "an endpoint that is gone is not counted out again");
    sim.set.update(entries([0]));
    assert!(sim.set.pick(sim.now, &mut sim.rng, &[], None).is_ok(), "the last one serves although it is ejected");
}

#[test]
fn traffic_stays_in_the_zone_until_it_is_overloaded() {
    let mut sim = Sim::new([], 12);
    let zoned = (0..4).map(|key| Member { tier: u8::from(key >= 2), ..member(key) });
    sim.set.update(zoned.collect());
    let sent = sim.run(500, 30 * SECOND, |key, _| (if key < 2 { 2 * MS } else { 3 * MS }, Outcome::Success));
    assert!(share(&sent, 2) + share(&sent, 3) < 0.01, "{sent:?}");
    let busy = |key, _: &mut fastrand::Rng| (if key < 2 { 400 * MS } else { 3 * MS }, Outcome::Success);
    sim.run(500, SECOND, busy);
    let sent = sim.run(500, 10 * SECOND, busy);
    assert!(share(&sent, 2) + share(&sent, 3) > 0.8, "{sent:?}");
}

/// The answers of the others here are those of a busy machine: one in ten takes eight times as long.
#[test]
fn the_zones_own_endpoint_that_turns_slow_gives_under_5_percent_after_5_seconds() {
    for seed in 0..50 {
        for (rps, usual) in [(30, 10 * MS), (70, 3 * MS), (70, 8 * MS), (500, 8 * MS)] {
            let mut sim = Sim::new([], seed);
            sim.set.update((0..3).map(|key| Member { tier: u8::from(key > 0), ..member(key) }).collect());
            let busy = |rng: &mut fastrand::Rng| {
                let times = if rng.u32(..10) == 0 { 8.0 } else { 0.5 + rng.f64() };
                usual.mul_f64(times)
            };
            sim.run(rps, 8 * SECOND, |_, rng| (busy(rng), Outcome::Success));
            let slow = |key, rng: &mut fastrand::Rng| (if key == 0 { 200 * MS } else { busy(rng) }, Outcome::Success);
            sim.run(rps, 5 * SECOND, slow);
            let sent = sim.run(rps, 3 * SECOND, slow);
            assert!(share(&sent, 0) < 0.05, "seed {seed}, {rps} rps, {usual:?}: {sent:?}");
        }
    }
}

#[test]
fn weights_are_shares_under_load() {
    let mut sim = Sim::new([], 13);
    let weighted = [(0, 1), (1, 3)].map(|(key, weight)| Member { weight, ..member(key) });
    sim.set.update(weighted.into());
    let sent = sim.run(2000, 10 * SECOND, |_, _| (50 * MS, Outcome::Success));
    assert!((0.65..0.85).contains(&share(&sent, 1)), "{sent:?}");
}

/// A set with session affinity, and who it picks for client `name`.
fn keeping(name: &str, keys: impl IntoIterator<Item = u16>) -> Set {
    let mut set = Set::new(Accrual::default());
    set.set_load_balancer(&LoadBalancer::SourceHash(HashSource::Ip), Locality::Spill, Client::new("shop", name, "web"));
    set.update(entries(keys));
    set
}

fn pick(set: &Set, now: Instant) -> (u16, InFlight) {
    set.pick(now, &mut fastrand::Rng::with_seed(1), &[], None).unwrap()
}

#[test]
fn with_affinity_a_client_keeps_its_endpoint_and_clients_are_spread() {
    let now = Instant::now();
    let mut clients: BTreeMap<u16, u32> = BTreeMap::new();
    for number in 0..1000 {
        let name = format!("web-{number}");
        let set = keeping(&name, 0..4);
        let own = pick(&set, now).0;
        // However loaded it is, and in every other worker.
        let held: Vec<_> = (0..50).map(|_| pick(&set, now)).collect();
        assert!(held.iter().all(|(key, _)| *key == own));
        assert_eq!(pick(&keeping(&name, (0..4).rev()), now).0, own);
        *clients.entry(own).or_default() += 1;
    }
    assert!(clients.len() == 4 && clients.values().all(|&count| (200..300).contains(&count)), "{clients:?}");
}

#[test]
fn with_affinity_only_the_clients_of_an_endpoint_that_comes_or_goes_move() {
    let now = Instant::now();
    let mut moved = 0;
    for number in 0..1000 {
        let name = format!("web-{number}");
        let (four, five) = (pick(&keeping(&name, 0..4), now).0, pick(&keeping(&name, 0..5), now).0);
        assert!(five == four || five == 4);
        moved += u32::from(five == 4);
    }
    assert!((150..250).contains(&moved), "{moved}");
}

#[test]
fn with_affinity_a_failed_endpoints_client_goes_to_the_next_and_returns_by_a_probe() {
    let mut now = Instant::now();
    let set = keeping("web-1", 0..3);
    let own = pick(&set, now).0;
    for _ in 0..100 {
        let (key, picked) = pick(&set, now);
        now += MS;
        picked.record(now, MS, if key == own { Outcome::Unreachable } else { Outcome::Success });
    }
    let (next, picked) = pick(&set, now);
    assert!(next != own && !picked.is_probe());
    picked.record(now, MS, Outcome::Success);
    now += 5 * SECOND;
    let (probed, probe) = pick(&set, now);
    assert!(probed == own && probe.is_probe());
    assert_eq!(pick(&set, now).0, next, "one probe at a time");
    probe.record(now, MS, Outcome::Success);
    drop(probe);
    assert_eq!(pick(&set, now).0, own);
}
