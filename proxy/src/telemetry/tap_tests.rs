//! Tap and its followers over the rings of several workers, next to a model of what these keep.

use super::{Begun, Counters, Direction, Filter, Journal, Proto, Reason, Routes, Tls, record::Which};
use crate::limits;
use http::Request;
use serde_json::Value;
use std::{
    collections::{BTreeSet, HashSet},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};
use tokio::time::Instant;

/// Records that the ring of the last has room for, …
const RECENT: usize = limits::RECORD_CHUNKS_RECENT * 32;
/// … and that of failures.
const KEPT: usize = limits::RECORD_CHUNKS_KEPT * 32;

/// How a request ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Fine,
    Failed,
    Refused,
}

/// One that was asked: its path is its time.
#[derive(Debug, Clone, Copy)]
struct Asked {
    worker: usize,
    at_ms: u64,
    end: End,
}

struct World {
    routes: Arc<Routes>,
    workers: Vec<Counters>,
}

fn worker(routes: &Arc<Routes>) -> Counters {
    Counters::new(Journal::new(routes), Direction::Outbound, "shop/api:80".into(), Vec::new())
}

fn ended(mut begun: Begun, end: End, at: Instant) {
    match end {
        End::Fine => begun.success(at),
        End::Failed => begun.failure(Reason::Timeout, at),
        End::Refused => begun.failure(Reason::Denied, at),
    }
}

impl World {
    fn new(workers: usize) -> Self {
        let routes = Routes::new("shop/web-1".into());
        let workers = (0..workers).map(|_| worker(&routes)).collect();
        Self { routes, workers }
    }

    fn at(&self, ms: u64) -> Instant {
        self.routes.started() + Duration::from_millis(ms)
    }

    fn ask(&self, Asked { worker, at_ms, end }: Asked) {
        let (counters, at) = (&self.workers[worker], self.at(at_ms));
        let request = Request::get(format!("/{at_ms}")).body(()).unwrap();
        let begun = match end {
            End::Refused => counters.denied(Some(&request), Proto::Http1, ("", Tls::Mtls), at),
            End::Fine | End::Failed => counters.request(None, &request, Proto::Http1, (&"".into(), Tls::Mtls), at),
        };
        ended(begun, end, at);
    }

    /// The same by `peer`.
    fn ask_by(&self, peer: &str, at_ms: u64) {
        let request = Request::get("/by").body(()).unwrap();
        let at = self.at(at_ms);
        self.workers[0].request(None, &request, Proto::Http1, (&peer.into(), Tls::Mtls), at).success(at);
    }

    fn tap(&self, filter: &str) -> Vec<Value> {
        self.routes.tap(&Filter::parse(filter).unwrap(), usize::MAX).records
    }
}

/// The time that a record's path tells.
fn number(record: &Value) -> u64 {
    record["path"].as_str().unwrap()[1..].parse().unwrap()
}

fn numbers(records: &[Value]) -> Vec<u64> {
    records.iter().map(number).collect()
}

/// The next request, some time after `now`: requests come slowly, then in storms.
fn next(rng: &mut fastrand::Rng, now: &mut u64, workers: usize) -> Asked {
    let storm = *now / 4000 % 3 == 2;
    *now += 1 + rng.u64(..if storm { 2 } else { 60 });
    let end = match rng.u32(..10) {
        0..6 => End::Fine,
        6..9 => End::Failed,
        _ => End::Refused,
    };
    Asked { worker: rng.usize(..workers), at_ms: *now, end }
}

/// What a worker's rings keep of `asked`: the last but for what was refused, and the failures.
fn kept(asked: &[Asked], worker: usize) -> (Vec<u64>, Vec<u64>) {
    let own = || asked.iter().filter(|asked| asked.worker == worker);
    let mut recent: Vec<u64> = own().filter(|asked| asked.end != End::Refused).map(|asked| asked.at_ms).collect();
    let (mut failed, mut second, mut of_second) = (Vec::new(), 0, 0);
    for asked in own().filter(|asked| asked.end != End::Fine) {
        if asked.at_ms / 1000 != second {
            (second, of_second) = (asked.at_ms / 1000, 0);
        }
        of_second += 1;
        if of_second <= limits::FAILURES_KEPT_A_SECOND {
            failed.push(asked.at_ms);
        }
    }
    recent.drain(..recent.len().saturating_sub(RECENT));
    failed.drain(..failed.len().saturating_sub(KEPT));
    (recent, failed)
}

#[test]
fn tap_is_what_all_workers_rings_have_each_record_once_and_the_latest_first() {
    for seed in 0..3 {
        let (world, mut rng, mut now) = (World::new(3), fastrand::Rng::with_seed(seed), 0);
        let mut asked: Vec<Asked> = Vec::new();
        for many in [40, 1500, 4500] {
            for _ in 0..many {
                asked.push(next(&mut rng, &mut now, 3));
                world.ask(asked[asked.len() - 1]);
            }
            let rings: Vec<_> = (0..3).map(|worker| kept(&asked, worker)).collect();
            let expected: BTreeSet<u64> =
                rings.iter().flat_map(|(recent, failed)| recent.iter().chain(failed)).copied().collect();
            let tapped = world.routes.tap(&Filter::parse("").unwrap(), usize::MAX);
            let expected: Vec<u64> = expected.into_iter().rev().collect();
            assert_eq!(numbers(&tapped.records), expected, "seed {seed}, {many}");
            assert_eq!(tapped.kept, expected.len() as u64);
            let seen = asked.iter().filter(|asked| asked.end != End::Refused).count();
            assert_eq!(tapped.seen, seen as u64, "what is refused is told and not counted among these");
            // A ring that is just full has lost nothing yet.
            let lost = rings.iter().filter(|(recent, _)| recent.len() == RECENT).map(|(recent, _)| recent[0]).max();
            let since_ms = world.routes.wall_ms(Duration::from_millis(lost.unwrap_or(0)));
            assert_eq!(tapped.since_ms, since_ms, "seed {seed}, {many}");
            let failed: Vec<u64> = expected
                .iter()
                .copied()
                .filter(|at| asked.iter().any(|it| it.at_ms == *at && it.end != End::Fine))
                .collect();
            assert_eq!(numbers(&world.tap("failed")), failed, "seed {seed}, {many}");
        }
    }
}

#[test]
fn requests_that_ended_at_one_moment_are_told_once_each() {
    let world = World::new(2);
    let all = [(0, End::Fine), (0, End::Failed), (0, End::Fine), (1, End::Failed), (1, End::Fine), (1, End::Refused)];
    for (worker, end) in all {
        world.ask(Asked { worker, at_ms: 7, end });
    }
    let tapped = world.routes.tap(&Filter::parse("").unwrap(), usize::MAX);
    assert_eq!((tapped.records.len(), tapped.kept, tapped.seen), (6, 6, 5), "{:#?}", tapped.records);
    let failed = tapped.records.iter().filter(|record| record["outcome"] == "failure");
    let mut reasons: Vec<_> = failed.map(|record| record["reason"].as_str().unwrap().to_owned()).collect();
    reasons.sort_unstable();
    let [denied, timeout] = [Reason::Denied, Reason::Timeout].map(Reason::as_str);
    let mut expected = vec![denied, timeout, timeout];
    expected.sort_unstable();
    assert_eq!(reasons, expected);
}

#[test]
fn every_worker_keeps_so_many_failures_of_each_second_and_no_more() {
    let world = World::new(2);
    for second in 0..5 {
        for number in 0..20 {
            // One fails all the time, and the other now and then.
            world.ask(Asked { worker: 0, at_ms: second * 1000 + number * 2, end: End::Failed });
            let end = if number < 3 { End::Refused } else { End::Fine };
            world.ask(Asked { worker: 1, at_ms: second * 1000 + number * 2 + 1, end });
        }
    }
    let rings = world.routes.rings();
    let times = |worker: usize| rings[worker].since(Which::Failed, 0).map(|entry| entry.ended).collect::<Vec<_>>();
    for (worker, many) in [(0, limits::FAILURES_KEPT_A_SECOND as usize), (1, 3)] {
        let times = times(worker);
        assert!(times.is_sorted_by(|later, earlier| later > earlier), "{times:?}");
        for second in 0..5 {
            assert_eq!(times.iter().filter(|time| time.as_secs() == second).count(), many, "{worker}: {times:?}");
        }
    }
    assert!(rings.iter().all(|rings| rings.written(Which::Slow) == 0), "nothing is known of the route yet");
}

#[test]
fn slow_requests_outlast_the_others_two_of_a_second_in_each_worker() {
    let (world, ms) = (World::new(2), Duration::from_millis(1));
    let ask = |worker: usize, start: Instant, took: Duration| {
        let request = Request::get("/a").body(()).unwrap();
        let counters = &world.workers[worker];
        counters.request(None, &request, Proto::Http1, (&"".into(), Tls::Mtls), start).success(start + took);
    };
    for second in 0..10 {
        (0..100).for_each(|number| ask(number % 2, world.at(second * 1000), ms));
        world.routes.tick(world.at((second + 1) * 1000));
    }
    for second in 10..14 {
        for took in [300, 301, 302, 303] {
            ask(0, world.at(second * 1000), took * ms);
        }
        ask(1, world.at(second * 1000), 400 * ms);
    }
    (0..2 * RECENT).for_each(|number| ask(number % 2, world.at(15_000), ms));
    let told: Vec<f64> =
        world.tap("").iter().map(|record| record["ms"].as_f64().unwrap()).filter(|ms| *ms > 2.0).collect();
    assert_eq!(told, [400.0, 301.0, 300.0].repeat(4));
    assert_eq!(world.tap("failed").len(), 0, "slow is not failed");
}

#[test]
fn a_record_has_its_name_although_its_series_was_given_up() {
    let world = World::new(1);
    let peers: Vec<String> = (0..limits::TRACKS_MAX).map(|number| format!("spiffe://a/ns/shop/sa/p{number}")).collect();
    peers.iter().zip(1..).for_each(|(peer, at_ms)| world.ask_by(peer, at_ms));
    let before: HashSet<u32> = world.routes.names().into_keys().collect();
    world.ask_by("spiffe://a/ns/shop/sa/late", 1000);
    world.routes.tick(world.at(2000));
    // They are idle, and somebody had no room: they go.
    world.routes.tick(world.at(2000) + limits::SIGNALS_IDLE + limits::SIGNALS_SWEEP);
    assert!(world.routes.series().is_empty(), "{} are left", world.routes.series().len());
    let records = world.tap("");
    let told: Vec<_> = records.iter().map(|record| record["peer"].as_str().unwrap()).collect();
    let expected: Vec<&str> = std::iter::once("").chain(peers.iter().rev().map(String::as_str)).collect();
    assert_eq!(told, expected, "the late one found no room for a name of its own");
    world.ask_by(&peers[3], 900_000);
    let names = world.routes.names();
    let new: Vec<_> = names.iter().filter(|(_, key)| *key.peer == *peers[3]).map(|(id, _)| *id).collect();
    assert_eq!(new.len(), 2, "its new series is another");
    assert_eq!(new.iter().filter(|id| before.contains(id)).count(), 1);
    assert_eq!(world.tap("peer=shop/p3").len(), 2, "and both are found by its name");
}

#[test]
fn a_follower_of_several_workers_gets_every_record_once_in_order_and_those_before_it_never() {
    for seed in 0..4 {
        let (world, mut rng, mut now) = (World::new(3), fastrand::Rng::with_seed(seed), 0);
        (0..50).for_each(|_| world.ask(next(&mut rng, &mut now, 3)));
        let begins = now;
        let mut all = world.routes.follow(Filter::parse("").unwrap());
        let mut failed = world.routes.follow(Filter::parse("failed").unwrap());
        let (mut told, mut told_failed, mut asked) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..40 {
            for _ in 0..rng.usize(..60) {
                asked.push(next(&mut rng, &mut now, 3));
                world.ask(asked[asked.len() - 1]);
            }
            for (follow, told) in [(&mut all, &mut told), (&mut failed, &mut told_failed)] {
                let (records, missed) = follow.next(usize::MAX);
                assert_eq!(missed, 0, "no ring went round in between");
                told.extend(numbers(&records));
            }
        }
        let refused_kept: BTreeSet<u64> = (0..3).flat_map(|worker| kept(&asked, worker).1).collect();
        let expected = |of: fn(End) -> bool| {
            let told = |it: &&Asked| of(it.end) && (it.end != End::Refused || refused_kept.contains(&it.at_ms));
            asked.iter().filter(told).map(|it| it.at_ms).collect::<Vec<_>>()
        };
        assert!(told.iter().all(|at_ms| *at_ms > begins));
        // Failures of the second before it began count against those that are kept: some that were refused may be missing.
        let sure = |at_ms: &u64| *at_ms / 1000 > begins / 1000 || !refused_kept.contains(at_ms);
        let sure = |told: &[u64]| told.iter().copied().filter(sure).collect::<Vec<_>>();
        assert_eq!(sure(&told), sure(&expected(|_| true)), "seed {seed}");
        assert_eq!(sure(&told_failed), sure(&expected(|end| end != End::Fine)), "seed {seed}");
    }
}

#[test]
fn what_a_late_follower_did_not_get_it_is_told_the_number_of() {
    let (world, mut rng, mut now) = (World::new(2), fastrand::Rng::with_seed(5), 0);
    let mut follow = world.routes.follow(Filter::parse("").unwrap());
    for most in [usize::MAX, 100, 1, 0, usize::MAX, 2000] {
        let many = rng.usize(1500..3000);
        let mut own = [0; 2];
        for _ in 0..many {
            now += 1;
            // The first worker has most to do.
            let worker = usize::from(rng.u32(..10) == 0);
            own[worker] += 1;
            world.ask(Asked { worker, at_ms: now, end: End::Fine });
        }
        let there: usize = own.map(|many| many.min(RECENT)).iter().sum();
        let (records, missed) = follow.next(most);
        assert_eq!((records.len(), missed as usize), (there.min(most), many - there.min(most)));
        if let Some(last) = records.last() {
            assert_eq!(number(last), now, "the latest are those that it gets");
        }
        assert_eq!(follow.next(most), (Vec::new(), 0));
    }
}

#[test]
fn a_follower_beside_workers_that_go_on_gets_nothing_twice_and_knows_what_it_missed() {
    const EACH: usize = 4000;
    let routes = Routes::new("shop/web-1".into());
    let (here, over) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let begin = Arc::new(std::sync::Barrier::new(3));
    let writers = [0, 1].map(|writer| {
        let (routes, here, over, begin) = (routes.clone(), here.clone(), over.clone(), begin.clone());
        std::thread::spawn(move || {
            let counters = worker(&routes);
            here.fetch_add(1, SeqCst);
            begin.wait();
            for number in 0..EACH {
                let at = routes.started() + Duration::from_micros(number as u64);
                let request = Request::get(format!("/{}", 2 * number + writer)).body(()).unwrap();
                let begun = counters.request(None, &request, Proto::Http1, (&"".into(), Tls::Mtls), at);
                ended(begun, End::Fine, at);
            }
            over.fetch_add(1, SeqCst);
        })
    });
    while here.load(SeqCst) < writers.len() {
        std::thread::yield_now();
    }
    let mut follow = routes.follow(Filter::parse("").unwrap());
    begin.wait();
    let (mut told, mut missed) = (Vec::new(), 0);
    loop {
        let last = over.load(SeqCst) == writers.len();
        let (records, more) = follow.next(usize::MAX);
        told.extend(numbers(&records));
        missed += more as usize;
        if last {
            break;
        }
    }
    for writer in writers {
        writer.join().unwrap();
    }
    let different: HashSet<u64> = told.iter().copied().collect();
    assert_eq!(different.len(), told.len(), "some were told twice");
    assert_eq!(told.len() + missed, 2 * EACH);
}
