use super::*;
use crate::{
    limits,
    telemetry::{Counters, Direction, Fault, Proto, Reason, Routes, Tls},
};
use http::Request;

const MS: Duration = Duration::from_millis(1);

struct World {
    routes: Arc<Routes>,
    counters: Counters,
}

impl World {
    fn new() -> Self {
        let routes = Routes::new("shop/web-1".into());
        let counters = Counters::new(Journal::new(&routes), Direction::Outbound, "shop/api:80".into(), Vec::new());
        Self { routes, counters }
    }

    fn begin(&self, path: &str, started: Instant) -> Begun {
        let request = Request::get(path).body(()).unwrap();
        self.counters.request(None, &request, Proto::Http1, (&"".into(), Tls::Mtls), started)
    }

    fn kept(&self, which: Which) -> Vec<Entry> {
        self.routes.kept(which)
    }
}

impl Routes {
    /// The records that ended and are kept, the latest first.
    pub(crate) fn kept(&self, which: Which) -> Vec<Entry> {
        self.rings().iter().flat_map(|rings| rings.since(which, 0)).collect()
    }
}

#[test]
fn where_the_time_of_a_request_went_adds_up_to_its_latency() {
    let (world, start) = (World::new(), Instant::now());
    let endpoint = "10.1.2.3:8080".parse().unwrap();
    let mut begun = world.begin("/orders/7?secret=1", start);
    let record = begun.record().clone();
    record.tries("10.1.2.9:8080".parse().unwrap(), start + MS);
    record.tries(endpoint, start + 5 * MS);
    record.sent(start + 8 * MS);
    record.answered(StatusCode::OK);
    record.bytes_in(3);
    record.bytes_out(4);
    record.waits(start + 90 * MS);
    begun.success(start + 100 * MS);
    let [entry] = &world.kept(Which::Recent)[..] else { panic!("one request has one record") };
    let times = Times { before: 5 * MS, connect: 3 * MS, server: 82 * MS, after: 10 * MS };
    assert_eq!((entry.times, entry.latency), (times, 100 * MS));
    assert_eq!(times.before + times.connect + times.server + times.after, entry.latency);
    assert_eq!((entry.tries, entry.endpoint, entry.status), (2, Some(endpoint), Some(200)));
    assert_eq!((entry.bytes_in, entry.bytes_out, entry.outcome), (3, 4, Outcome::Success));
    assert_eq!(entry.head.path, "/orders/7");
    assert_eq!(&*world.routes.names()[&entry.series].route, "GET /orders/:id");
}

#[test]
fn a_request_has_one_record_whatever_becomes_of_it_and_however_often_it_ends() {
    let (world, start) = (World::new(), Instant::now());
    let mut failed = world.begin("/a", start);
    failed.failure(Reason::Timeout, start + MS);
    failed.success(start + 2 * MS);
    drop(failed);
    drop(world.begin("/b", start));
    world.begin("/c", start).server_error(start);
    let outcomes: Vec<_> =
        world.kept(Which::Recent).iter().map(|entry| (entry.outcome, entry.reason, entry.fault)).collect();
    let expected = [
        (Outcome::ServerError, None, None),
        (Outcome::Cancelled, None, None),
        (Outcome::Failure, Some(Reason::Timeout), Some(Fault::Application)),
    ];
    assert_eq!(outcomes, expected);
    assert_eq!(world.kept(Which::Failed).len(), 2);
    let counted = world.routes.json();
    let rows = counted["routes"].as_array().unwrap();
    let sum = |name: &str| rows.iter().map(|row| row[name].as_u64().unwrap()).sum::<u64>();
    assert_eq!([sum("requests"), sum("success"), sum("cancelled")], [3, 0, 1]);
}

#[test]
fn a_request_that_never_had_an_endpoint_spent_its_time_here() {
    let (world, start) = (World::new(), Instant::now());
    world.begin("/a", start).failure(Reason::NoEndpoints, start + 7 * MS);
    assert_eq!(world.kept(Which::Recent)[0].times, Times { before: 7 * MS, ..Times::default() });
}

#[test]
fn a_byte_connection_tells_how_long_it_took_to_be_connected() {
    let (world, start) = (World::new(), Instant::now());
    let mut begun = world.counters.bytes(&"".into(), Tls::Mtls, start);
    begun.record().connected(start, start + 3 * MS);
    begun.success(start + 10 * MS);
    let entry = &world.kept(Which::Recent)[0];
    assert_eq!(entry.times, Times { connect: 3 * MS, server: 7 * MS, ..Times::default() });
    assert_eq!((entry.head.method.as_str(), entry.status), ("", None));
}

#[test]
fn a_record_is_used_again_unless_somebody_still_holds_it() {
    let (world, start) = (World::new(), Instant::now());
    let first = world.begin("/a", start);
    let address = Rc::as_ptr(first.record());
    drop(first);
    let second = world.begin("/b", start);
    assert_eq!(Rc::as_ptr(second.record()), address);
    // A client that goes on sending its body.
    let held = second.record().clone();
    drop(second);
    let third = world.begin("/c", start);
    assert_ne!(Rc::as_ptr(third.record()), address);
    held.bytes_in(5);
    drop(third);
    let paths: Vec<_> = world.kept(Which::Recent).into_iter().map(|entry| entry.head.path).collect();
    assert_eq!(paths, ["/c", "/b", "/a"]);
}

#[test]
fn what_is_refused_takes_no_room_among_the_last_requests_and_a_storm_of_failures_little_among_failures() {
    let (world, start) = (World::new(), Instant::now());
    world.begin("/honest", start).success(start);
    world.begin("/failed", start).failure(Reason::Timeout, start);
    for _ in 0..100_000 {
        let request = Request::get("/storm").body(()).unwrap();
        world.counters.denied(Some(&request), Proto::Http1, ("", Tls::Plain), start).failure(Reason::Denied, start);
    }
    let paths = |which| world.kept(which).into_iter().map(|entry| entry.head.path).collect::<Vec<_>>();
    assert_eq!(paths(Which::Recent), ["/failed", "/honest"]);
    let failed = paths(Which::Failed);
    assert_eq!(failed.len(), limits::FAILURES_KEPT_A_SECOND as usize);
    assert!(failed.contains(&"/failed".to_owned()) && failed.contains(&"/storm".to_owned()));
    let again = start + Duration::from_secs(1);
    world.begin("/later", again).failure(Reason::Timeout, again);
    assert_eq!(paths(Which::Failed)[0], "/later");
}

#[test]
fn the_slowest_of_a_route_are_kept_longer() {
    let (world, start) = (World::new(), Instant::now());
    let mut now = start;
    for _ in 0..10 {
        for _ in 0..100 {
            world.begin("/a", now).success(now + MS);
        }
        now += Duration::from_secs(1);
        world.routes.tick(now);
    }
    world.begin("/a/slow", now).success(now + Duration::from_secs(2));
    assert_eq!(world.kept(Which::Slow).len(), 0, "its route is another, of which nothing is known");
    world.begin("/a", now).success(now + Duration::from_secs(2));
    for _ in 0..5000 {
        world.begin("/a", now).success(now + MS / 2);
    }
    let slow = world.kept(Which::Slow);
    assert_eq!((slow.len(), slow[0].latency), (1, Duration::from_secs(2)));
    assert!(world.kept(Which::Recent).iter().all(|entry| entry.latency < MS));
}

#[test]
fn a_record_is_no_larger_than_what_the_allocator_keeps_at_hand() {
    println!("a record: {} bytes", size_of::<Record>());
    assert!(size_of::<Record>() <= 1000);
}
