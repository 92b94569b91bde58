//! What each algorithm promises, in given time.

use super::{
    tests::{MS, SECOND, Set, at, member},
    *,
};
use http::HeaderValue;
use remora_model::{HashHeader, HashKey, HashSource, RequestHash};
use std::collections::{BTreeMap, BTreeSet};

fn set(load_balancer: &LoadBalancer, members: impl IntoIterator<Item = Member<u16>>) -> Set {
    let mut set = Set::new(Accrual::default());
    set.set_load_balancer(load_balancer, Locality::Spill, Client::new("shop", "web-1", "web"));
    set.update(members.into_iter().collect());
    set
}

fn by_user(balance_factor: Option<u32>) -> LoadBalancer {
    LoadBalancer::RequestHash(RequestHash {
        key: HashKey::Header(HashHeader::parse("x-user").unwrap()),
        balance_factor,
    })
}

fn user(number: u32) -> HeaderMap {
    std::iter::once((http::HeaderName::from_static("x-user"), HeaderValue::from(number))).collect()
}

/// Whom a request of that user goes to.
fn pick(set: &Set, number: u32, now: Instant, exclude: &[SocketAddr]) -> (u16, InFlight) {
    set.pick(now, &mut fastrand::Rng::with_seed(7), exclude, Some(&user(number))).unwrap()
}

fn homes(set: &Set, users: u32, now: Instant) -> Vec<u16> {
    (0..users).map(|number| pick(set, number, now, &[]).0).collect()
}

/// Takes endpoint `key` out of rotation, as a request that goes to it does.
fn eject(set: &Set, key: u16, now: Instant) {
    let (slots, _) = set.slots.iter().partition::<Vec<_>, _>(|slot| slot.member.key == at(key));
    for slot in slots {
        for _ in 0..2 {
            set.picked(slot, now, false).1.record(now, MS, Outcome::Unreachable);
        }
    }
}

#[test]
fn an_endpoint_that_comes_or_goes_moves_its_own_keys_and_no_others() {
    let now = Instant::now();
    for (count, weight) in [(2_u16, 1), (5, 1), (20, 1), (5, 3), (100, 1)] {
        // One of another weight among them makes all ranks weighted.
        let members = |but: Option<u16>| {
            let all = (0..count).filter(move |key| Some(*key) != but);
            all.map(move |key| Member {
                weight: if key == 0 { weight } else { 1 },
                tier: u8::from(key % 2 > 0),
                ..member(key)
            })
        };
        let users = 200 * u32::from(count);
        let whole = set(&by_user(None), members(None));
        let before = homes(&whole, users, now);
        for gone in (0..count).step_by(1 + usize::from(count) / 5) {
            let after = homes(&set(&by_user(None), members(Some(gone))), users, now);
            let moved = before.iter().zip(&after).filter(|(before, after)| before != after);
            let its_own = before.iter().filter(|home| **home == gone).count();
            assert!(moved.clone().all(|(before, _)| *before == gone), "{count} endpoints without {gone}");
            assert_eq!(moved.count(), its_own, "all of them");
            let share = users * if gone == 0 { weight } else { 1 } / (u32::from(count) + weight - 1);
            assert!(its_own.abs_diff(share as usize) < 3 + share as usize / 3, "{its_own} of {share}");
        }
        // In whatever order they are told, and by what way the set came to be.
        let mut other = set(&LoadBalancer::RoundRobin, members(Some(1)));
        other.set_load_balancer(&by_user(None), Locality::Spill, Client::new("x", "y", "z"));
        let mut backwards: Vec<_> = members(None).collect();
        backwards.reverse();
        other.update(backwards);
        assert_eq!(homes(&other, users, now), before);
    }
}

#[test]
fn a_key_whose_endpoint_is_ejected_goes_to_its_next_in_rank_and_returns_by_a_probe_of_its_own() {
    let mut now = Instant::now();
    let [one, two] = [(); 2].map(|()| set(&by_user(None), (0..5).map(member)));
    let before = homes(&one, 500, now);
    for set in [&one, &two] {
        eject(set, 3, now);
    }
    let away = homes(&one, 500, now);
    assert_eq!(away, homes(&two, 500, now), "all proxies agree");
    let moved: BTreeSet<u16> = before.iter().zip(&away).filter(|(b, _)| **b == 3).map(|(_, a)| *a).collect();
    assert_eq!(moved, [0, 1, 2, 4].into(), "its keys are shared out among all others");
    assert!(before.iter().zip(&away).all(|(before, away)| *before == 3 || before == away));
    // Those are the places that they would have without it.
    assert_eq!(away, homes(&set(&by_user(None), [0, 1, 2, 4].map(member)), 500, now));

    now += 5 * SECOND;
    let of = |home: u16| before.iter().position(|key| *key == home).unwrap() as u32;
    assert!(!pick(&one, of(2), now, &[]).1.is_probe(), "no other key's request is risked");
    let (probed, probe) = pick(&one, of(3), now, &[]);
    assert!(probed == 3 && probe.is_probe());
    assert_ne!(pick(&one, of(3), now, &[]).0, 3, "one probe at a time");
    probe.record(now, MS, Outcome::Success);
    drop(probe);
    assert_eq!(homes(&one, 500, now), before);
}

#[test]
fn a_full_endpoint_keeps_its_share_and_the_rest_spills_to_the_next_in_rank() {
    let now = Instant::now();
    let bounded = set(&by_user(Some(150)), (0..4).map(member));
    // One user asks for nearly everything.
    let home = pick(&bounded, 1, now, &[]).0;
    let mut load: BTreeMap<u16, u32> = BTreeMap::new();
    let mut held = Vec::new();
    for number in 0..400 {
        let (key, picked) = pick(&bounded, 1, now, &[]);
        *load.entry(key).or_default() += 1;
        held.push(picked);
        let most = (1.5 * f64::from(number + 1) / 4.0).ceil() as u32;
        assert!(load[&key] <= most.max(SPILL_FREE), "{load:?}");
        assert!(load[&home] >= load[&key], "its own comes first: {load:?}");
    }
    assert_eq!(load[&home], 150);
    // Who has nothing in flight gets what leads to it, and the same state leads to the same endpoint.
    let again: BTreeSet<u16> = (0..10).map(|_| pick(&bounded, 1, now, &[]).0).collect();
    assert_eq!(again.len(), 1);
    drop(held);
    assert_eq!(pick(&bounded, 1, now, &[]).0, home);

    let unbounded = set(&by_user(None), (0..4).map(member));
    let held: Vec<_> = (0..400).map(|_| pick(&unbounded, 1, now, &[])).collect();
    assert!(held.iter().all(|(key, _)| *key == home), "without a bound a key never spills");
}

#[test]
fn a_hashed_request_is_retried_at_the_next_in_rank_and_one_without_a_key_is_balanced() {
    let now = Instant::now();
    let set = set(&by_user(Some(125)), (0..3).map(member));
    let first = pick(&set, 1, now, &[]).0;
    let second = pick(&set, 1, now, &[at(first)]).0;
    let third = pick(&set, 1, now, &[at(first), at(second)]).0;
    assert_eq!(BTreeSet::from([first, second, third]).len(), 3);
    let none = set.pick(now, &mut fastrand::Rng::with_seed(1), &[0, 1, 2].map(at), Some(&user(1)));
    assert_eq!(none.unwrap_err(), NoEndpoint::AllEjected);
    for fields in [None, Some(&HeaderMap::new())] {
        let mut rng = fastrand::Rng::with_seed(1);
        let held: Vec<_> = (0..30).map(|_| set.pick(now, &mut rng, &[], fields).unwrap()).collect();
        let loads: BTreeSet<u32> = set.slots.iter().map(|slot| slot.stats.load.in_flight()).collect();
        assert!(loads.iter().all(|load| (8..=12).contains(load)), "{loads:?}");
        drop(held);
    }
    // The last one that is there serves although it is ejected.
    for key in 0..3 {
        eject(&set, key, now);
    }
    assert!(set.pick(now, &mut fastrand::Rng::with_seed(1), &[], Some(&user(1))).is_ok());
}

#[test]
fn a_hash_by_identity_is_the_same_for_all_pods_of_an_account_and_in_all_zones() {
    let now = Instant::now();
    let of = |pod: &str, account: &str, local: fn(u16) -> bool| {
        let mut set = Set::new(Accrual::default());
        let identity = LoadBalancer::SourceHash(HashSource::Identity);
        set.set_load_balancer(&identity, Locality::Spill, Client::new("shop", pod, account));
        set.update((0..9).map(|key| Member { tier: u8::from(!local(key)), ..member(key) }).collect());
        pick(&set, 1, now, &[]).0
    };
    let home = of("web-1", "web", |_| true);
    assert_eq!(home, of("web-2", "web", |_| true));
    assert_eq!(home, of("web-2", "web", |key| key < 4));
    assert_eq!(home, of("web-2", "web", |key| key >= 4));
    let homes: BTreeSet<u16> = (0..50).map(|number| of("web-1", &format!("sa-{number}"), |_| true)).collect();
    assert!(homes.len() > 6, "{homes:?}");
}

#[test]
fn least_request_counts_requests_and_nothing_else() {
    let now = Instant::now();
    let set = set(&LoadBalancer::LeastRequest, [Member { weight: 2, ..member(0) }, member(1)]);
    let mut rng = fastrand::Rng::with_seed(3);
    // The first is ten thousand times as slow.
    for key in [0, 1] {
        let (_, picked) = set.pick(now, &mut rng, &[at(1 - key)], None).unwrap();
        picked.record(now, if key == 0 { 10 * SECOND } else { MS }, Outcome::Success);
    }
    let held: Vec<_> = (0..300).map(|_| set.pick(now, &mut rng, &[], None).unwrap()).collect();
    let of = |key: u16| held.iter().filter(|(picked, _)| *picked == key).count();
    assert_eq!((of(0), of(1)), (200, 100));
}

#[test]
fn round_robin_goes_from_one_to_the_next_past_those_that_are_out() {
    let mut now = Instant::now();
    let mut set = set(&LoadBalancer::RoundRobin, (0..4).map(member));
    let mut rng = fastrand::Rng::with_seed(3);
    let mut next = |set: &Set, now, exclude: &[SocketAddr]| set.pick(now, &mut rng, exclude, None).unwrap();
    let round: Vec<u16> = (0..4).map(|_| next(&set, now, &[]).0).collect();
    assert_eq!(round.iter().copied().collect::<BTreeSet<_>>().len(), 4);
    for key in round.repeat(3) {
        assert_eq!(next(&set, now, &[]).0, key);
    }
    assert_eq!(next(&set, now, &[at(round[0])]).0, round[1], "a retry goes elsewhere");
    eject(&set, round[2], now);
    let rest: Vec<u16> = (0..6).map(|_| next(&set, now, &[]).0).collect();
    assert_eq!(rest, [round[3], round[0], round[1]].repeat(2));
    now += 5 * SECOND;
    let (probed, probe) = next(&set, now, &[]);
    assert!(probed == round[2] && probe.is_probe());
    probe.record(now, MS, Outcome::Success);
    drop(probe);
    // An update of the endpoints does not begin anew.
    let before = next(&set, now, &[]).0;
    set.update((0..4).map(member).collect());
    assert_ne!(next(&set, now, &[]).0, before);
}

#[test]
fn by_count_traffic_stays_in_the_zone_until_it_is_overloaded() {
    let now = Instant::now();
    for algorithm in [LoadBalancer::LeastRequest, LoadBalancer::RoundRobin] {
        let zoned = |key| Member { tier: u8::from(key >= 2), ..member(key) };
        let set = set(&algorithm, (0..4).map(zoned));
        let mut rng = fastrand::Rng::with_seed(5);
        let mut held = Vec::new();
        for number in 0..200 {
            let (key, picked) = set.pick(now, &mut rng, &[], None).unwrap();
            assert!(key < 2 || number >= 2 * SPILL_FREE, "{algorithm:?}: {number} requests are no load");
            held.push((key, picked));
        }
        let others = held.iter().filter(|(key, _)| *key >= 2).count();
        assert!((60..100).contains(&others), "{algorithm:?}: {others}");
    }
}

#[test]
fn where_a_service_says_how_near_the_nearest_in_rotation_serve_whatever_their_load() {
    let now = Instant::now();
    for algorithm in [LoadBalancer::PeakEwma, LoadBalancer::LeastRequest, LoadBalancer::RoundRobin] {
        // One on our node, two in our zone, two elsewhere.
        let tiered = |key: u16| Member { tier: [0, 1, 1, 2, 2][usize::from(key)], ..member(key) };
        let mut set = Set::new(Accrual::default());
        set.set_load_balancer(&algorithm, Locality::Node, Client::new("shop", "web-1", "web"));
        set.update((0..5).rev().map(tiered).collect());
        let mut rng = fastrand::Rng::with_seed(3);
        let mut who = |set: &Set, exclude: &[SocketAddr]| {
            let held: Vec<_> = (0..200).map(|_| set.pick(now, &mut rng, exclude, None).unwrap()).collect();
            held.iter().map(|(key, _)| *key).collect::<BTreeSet<_>>()
        };
        assert_eq!(who(&set, &[]), [0].into(), "{algorithm:?}");
        assert_eq!(who(&set, &[at(0)]), [1, 2].into(), "{algorithm:?}: a retry goes to the next tier");
        eject(&set, 0, now);
        assert_eq!(who(&set, &[]), [1, 2].into(), "{algorithm:?}");
        set.update([1, 3, 4].map(tiered).into());
        assert_eq!(who(&set, &[]), [1].into(), "{algorithm:?}");
        eject(&set, 1, now);
        assert_eq!(who(&set, &[]), [3, 4].into(), "{algorithm:?}");
        set.update([3, 4].map(tiered).into());
        assert_eq!(who(&set, &[]), [3, 4].into(), "{algorithm:?}");
    }
}
