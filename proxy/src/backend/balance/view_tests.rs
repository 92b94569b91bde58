//! What is shown of endpoints: why one is not in rotation, until when, and what is remembered of it.

use super::{
    tests::{MS, SECOND, Set, at, member},
    *,
};
use remora_model::{HashHeader, HashKey, HashSource, RequestHash};
use std::collections::BTreeMap;

fn set(keys: impl IntoIterator<Item = u16>) -> Set {
    let mut set = Set::new(Accrual::default());
    set.update(keys.into_iter().map(member).collect());
    set
}

fn seen(set: &Set, now: Instant) -> BTreeMap<u16, EndpointSeen> {
    set.views(now).map(|(key, seen)| (*key, seen)).collect()
}

/// A request that goes to endpoint `key`.
fn ask(set: &Set, key: u16, now: Instant) -> InFlight {
    let slot = set.slots.iter().find(|slot| slot.member.key == at(key)).unwrap();
    set.picked(slot, now, false).1
}

/// The same, answered at once.
fn answer(set: &Set, key: u16, now: Instant, outcomes: impl IntoIterator<Item = Outcome>) {
    outcomes.into_iter().for_each(|outcome| ask(set, key, now).record(now, MS, outcome));
}

/// The probe that is due, which is of endpoint `key`.
fn probe(set: &Set, key: u16, now: Instant) -> InFlight {
    let (picked, in_flight) = set.pick(now, &mut fastrand::Rng::with_seed(1), &[], None).unwrap();
    assert!(in_flight.is_probe() && picked == key, "{picked} is asked, and {key} was to be probed");
    in_flight
}

/// Its state in words, and for how long.
fn told(set: &Set, key: u16, now: Instant) -> (EndpointState, Option<&'static str>, Option<u64>) {
    let seen = seen(set, now).remove(&key).unwrap();
    (seen.state, seen.why, seen.for_ms)
}

const READY: (EndpointState, Option<&str>, Option<u64>) = (EndpointState::Ready, None, None);

#[test]
fn each_algorithm_has_its_word_and_nearness_goes_before_how_one_is_chosen() {
    let key = HashKey::Header(HashHeader::parse("x-user").unwrap());
    let by_user = LoadBalancer::RequestHash(RequestHash { key, balance_factor: None });
    for (load_balancer, spilling, strict) in [
        (LoadBalancer::PeakEwma, "peak_ewma", "nearest"),
        (LoadBalancer::LeastRequest, "least_request", "nearest"),
        (LoadBalancer::RoundRobin, "round_robin", "nearest"),
        (LoadBalancer::SourceHash(HashSource::Ip), "hash_source", "hash_source"),
        (LoadBalancer::SourceHash(HashSource::Identity), "hash_source", "hash_source"),
        (by_user, "hash_request", "hash_request"),
    ] {
        let mut set = set(0..3);
        assert_eq!(set.algorithm(), "peak_ewma", "nobody said otherwise");
        for (locality, expected) in [
            (Locality::Spill, spilling),
            (Locality::Zone, strict),
            (Locality::Node, strict),
            (Locality::NodeOnly, strict),
        ] {
            set.set_load_balancer(&load_balancer, locality, Client::new("shop", "web-1", "web"));
            set.update((0..3).map(member).collect());
            assert_eq!(set.algorithm(), expected, "{load_balancer:?}, {locality:?}");
            // In whichever order the choice has put them, all of them are shown.
            assert_eq!(seen(&set, Instant::now()).into_keys().collect::<Vec<_>>(), [0, 1, 2]);
        }
    }
}

#[test]
fn an_endpoint_that_left_says_why_and_until_when() {
    use Outcome::{Failure, Success, Unreachable, WrongIdentity};
    for (outcomes, why) in [
        (vec![Failure; 7], "consecutive_failures"),
        ([Success, Failure].repeat(5), "failure_rate"),
        (vec![Unreachable; 2], "unreachable"),
        (vec![WrongIdentity], "wrong_identity"),
    ] {
        let (set, now) = (set(0..4), Instant::now());
        let (last, before) = outcomes.split_last().unwrap();
        answer(&set, 2, now, before.iter().copied());
        assert_eq!(told(&set, 2, now), READY, "{why}: it needs all of them");
        answer(&set, 2, now, [*last]);
        let (state, told_why, for_ms) = told(&set, 2, now);
        assert_eq!((state, told_why), (EndpointState::Ejected, Some(why)));
        let for_ms = for_ms.unwrap();
        assert!((500..=1000).contains(&for_ms), "{why}: the first absence is a second, less a jitter: {for_ms}");
        assert_eq!(told(&set, 2, now + 200 * MS).2, Some(for_ms - 200), "it passes as time does");
        assert_eq!(told(&set, 2, now + 9 * SECOND).2, Some(0), "nobody came to probe it");
        for other in [0, 1, 3] {
            assert_eq!(told(&set, other, now), READY);
        }
    }
}

#[test]
fn a_probe_is_seen_while_it_is_under_way_and_decides_what_is_seen_then() {
    let (set, mut now) = (set(0..4), Instant::now());
    answer(&set, 1, now, [Outcome::Failure; 7]);
    let mut longest = 1000;
    // Whatever it came to, the longer the more often it comes to nothing.
    for (outcome, why) in [
        (Outcome::Failure, "consecutive_failures"),
        (Outcome::Unreachable, "unreachable"),
        (Outcome::WrongIdentity, "wrong_identity"),
    ] {
        now += longest * MS;
        let before = told(&set, 1, now).1;
        let probing = probe(&set, 1, now);
        assert_eq!(told(&set, 1, now), (EndpointState::Probing, before, Some(0)));
        probing.record(now, MS, outcome);
        drop(probing);
        longest *= 2;
        let (state, told_why, for_ms) = told(&set, 1, now);
        assert_eq!((state, told_why), (EndpointState::Ejected, Some(why)));
        assert!((u64::from(longest) / 2..=u64::from(longest)).contains(&for_ms.unwrap()), "{for_ms:?}");
    }
    now += longest * MS;
    drop(probe(&set, 1, now));
    let abandoned = (EndpointState::Ejected, Some("wrong_identity"), Some(0));
    assert_eq!(told(&set, 1, now), abandoned, "a client that went away says nothing of it");
    let probing = probe(&set, 1, now);
    probing.record(now, MS, Outcome::Success);
    assert_eq!(told(&set, 1, now), READY, "as soon as it has answered");
    assert_eq!(seen(&set, now)[&1].latency_ms, None, "what was known of its latency was of what failed");
    assert_eq!(seen(&set, now)[&1].in_flight, 1, "its body is still to come");
    drop(probing);
    assert_eq!(seen(&set, now)[&1].in_flight, 0);
}

#[test]
fn the_last_failure_is_remembered_with_its_reason_after_the_endpoint_has_come_back() {
    let (set, start) = (set(0..4), Instant::now());
    assert_eq!(seen(&set, start)[&0].last_failure, None);
    for (at_ms, reason) in [(0, "timeout"), (40, "connect_refused")] {
        let (asked, now) = (ask(&set, 0, start), start + at_ms * MS);
        asked.failed_for(now, reason);
        asked.record(now, MS, Outcome::Unreachable);
    }
    assert_eq!(told(&set, 0, start + 40 * MS).1, Some("unreachable"));
    let later = start + 40 * MS + SECOND;
    probe(&set, 0, later).record(later, MS, Outcome::Success);
    let shown = &seen(&set, later + SECOND)[&0];
    assert_eq!(shown.last_failure, Some(LastFailure { reason: "connect_refused", ago_ms: 2000 }));
    assert_eq!((shown.state, shown.requests, shown.failures), (EndpointState::Ready, 3, 2));
}

#[test]
fn tries_are_counted_where_they_went_and_a_client_that_left_is_no_failure() {
    let (set, start) = (set(0..5), Instant::now());
    let (mut rng, mut now) = (fastrand::Rng::with_seed(3), start);
    let mut expected: BTreeMap<u16, (u64, u64, u32)> = (0..5).map(|key| (key, (0, 0, 0))).collect();
    let mut open: Vec<(u16, InFlight)> = Vec::new();
    for _ in 0..2000 {
        now += MS;
        let (key, picked) = set.pick(now, &mut rng, &[], None).unwrap();
        let counts = expected.get_mut(&key).unwrap();
        counts.0 += 1;
        counts.2 += 1;
        match rng.u32(..10) {
            0 => {
                picked.record(now, MS, Outcome::Failure);
                // Only the first word counts.
                picked.record(now, MS, Outcome::Unreachable);
                counts.1 += 1;
            }
            1 => {}
            _ => picked.record(now, MS, Outcome::Success),
        }
        open.push((key, picked));
        while open.len() > rng.usize(..40) {
            let (key, _) = open.swap_remove(rng.usize(..open.len()));
            expected.get_mut(&key).unwrap().2 -= 1;
        }
    }
    let told = seen(&set, now).into_iter();
    let told: BTreeMap<_, _> = told.map(|(key, seen)| (key, (seen.requests, seen.failures, seen.in_flight))).collect();
    assert_eq!(told, expected);
}

#[test]
fn an_endpoint_that_may_not_leave_is_ready_whatever_its_failures() {
    let (set, now) = (set(0..4), Instant::now());
    (0..4).for_each(|key| answer(&set, key, now, [Outcome::Failure; 9]));
    let shown = seen(&set, now);
    assert!(shown.values().all(|seen| seen.failures == 9));
    let states = shown.values().map(|seen| seen.state).collect::<Vec<_>>();
    assert_eq!(states.iter().filter(|state| **state == EndpointState::Ejected).count(), 2, "half of them stay");
    assert_eq!(states.iter().filter(|state| **state == EndpointState::Ready).count(), 2);
    assert_eq!(set.counts(), (4, 2));
}

#[test]
fn an_update_keeps_what_is_known_of_those_who_stay_and_forgets_those_who_left() {
    let (mut set, now) = (set(0..4), Instant::now());
    answer(&set, 0, now, [Outcome::Success; 3]);
    answer(&set, 1, now, [Outcome::Unreachable; 2]);
    answer(&set, 2, now, [Outcome::WrongIdentity]);
    let (before, impostor) = (seen(&set, now), told(&set, 2, now));
    assert!(before[&0].latency_ms.is_some() && impostor.2 > Some(0));
    set.update([0, 1, 2].map(member).into());
    let after = seen(&set, now);
    assert_eq!((&after[&0], &after[&1]), (&before[&0], &before[&1]));
    assert_eq!(after.len(), 3);
    assert_eq!(told(&set, 2, now), (impostor.0, impostor.1, Some(0)), "its identity may be what is new of it");
    set.update([2, 3].map(member).into());
    set.update([0, 1, 2, 3].map(member).into());
    for key in [0, 1] {
        let back = &seen(&set, now)[&key];
        assert_eq!((back.requests, back.failures, back.latency_ms), (0, 0, None), "{key} is a new one");
        assert_eq!(told(&set, key, now), READY);
    }
}

#[test]
fn a_slow_endpoint_is_shown_as_slow_however_long_nobody_asks_it() {
    let (set, now) = (set(0..2), Instant::now());
    ask(&set, 0, now).record(now, 300 * MS, Outcome::Success);
    assert_eq!(seen(&set, now + 60_000 * MS)[&0].latency_ms, Some(300.0));
}
