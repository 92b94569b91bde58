//! A pool as it is shown to people.

use super::{
    Pool, Zone,
    endpoint::Table,
    view::{BackendView, EndpointState},
};
use crate::{
    config::{self, Config},
    limits,
    resources::Resources,
    telemetry::Reason,
};
use remora_model::{Backend, BackendId, BackendSettings, Endpoint, LoadBalancer, Locality, Protocol};
use std::{rc::Rc, time::Duration};
use tokio::{sync::oneshot, time::Instant};

/// The pool of a backend on one worker of so many.
fn pool(workers: usize) -> (Rc<Resources>, Pool) {
    let resources = Resources::of_tests(Config { workers, ..config::tests::least() });
    let (kept, _) = oneshot::channel();
    let way = (Box::new(|| ()) as super::pool::Doubt, Zone::default());
    let pool = Pool::new(BackendId::service("shop", "api", 80), way, (&resources, &Rc::<Table>::default()), kept);
    (resources, pool)
}

fn endpoint(last: u8, account: &str) -> Endpoint {
    Endpoint {
        address: ([10, 0, 0, last], 80).into(),
        identity: (!account.is_empty())
            .then(|| format!("spiffe://cluster.local/ns/shop/sa/{account}").parse().unwrap()),
        proxy: None,
        weight: 1,
        zone: format!("zone-{last}").into(),
        pod: format!("shop/api-{last}").into(),
        node: None,
    }
}

fn update(pool: &Pool, settings: BackendSettings, endpoints: Vec<Endpoint>) {
    pool.update(&Backend { id: pool.id.clone(), protocol: Protocol::Detect, settings, endpoints });
}

fn names(view: &BackendView) -> Vec<(&str, &str, &str)> {
    let mut names: Vec<_> =
        view.endpoints.iter().map(|it| (it.pod.as_str(), it.identity.as_str(), it.zone.as_str())).collect();
    names.sort_unstable();
    names
}

#[test]
fn a_backend_of_which_nothing_is_known_yet_is_shown_without_endpoints() {
    let (_resources, pool) = pool(1);
    let view = pool.view(Instant::now());
    assert_eq!((view.name.as_str(), view.balancer), ("shop/api:80", "peak_ewma"));
    assert_eq!((view.in_flight, view.in_flight_max), (0, limits::REQUESTS_PER_BACKEND_MAX));
    assert!(view.endpoints.is_empty());
    pool.blocked(Reason::UnusableConfig);
    assert!(pool.view(Instant::now()).endpoints.is_empty());
}

#[test]
fn endpoints_are_shown_with_what_discovery_said_last_of_each() {
    let (_resources, pool) = pool(1);
    let settings = BackendSettings::default();
    update(&pool, settings.clone(), vec![endpoint(1, "api"), endpoint(2, "")]);
    let now = Instant::now();
    let first = ("shop/api-1", "spiffe://cluster.local/ns/shop/sa/api", "zone-1");
    assert_eq!(names(&pool.view(now)), [first, ("shop/api-2", "", "zone-2")]);
    let moved = Endpoint { zone: "zone-9".into(), ..endpoint(2, "") };
    update(&pool, settings.clone(), vec![moved.clone(), endpoint(3, "canary")]);
    let third = ("shop/api-3", "spiffe://cluster.local/ns/shop/sa/canary", "zone-3");
    assert_eq!(names(&pool.view(now)), [("shop/api-2", "", "zone-9"), third]);
    // Of another account now, at the same address.
    update(&pool, settings.clone(), vec![moved, endpoint(3, "api")]);
    assert_eq!(names(&pool.view(now))[1].1, "spiffe://cluster.local/ns/shop/sa/api");
    update(&pool, settings, Vec::new());
    assert!(pool.view(now).endpoints.is_empty());
}

#[test]
fn a_view_has_each_workers_part_of_the_places_and_counts_those_that_are_taken() {
    let (_resources, pool) = pool(4);
    for (pending_max, expected) in [(1, 1), (4, 1), (5, 2), (40, 10), (u32::MAX, limits::REQUESTS_PER_BACKEND_MAX)] {
        update(&pool, BackendSettings { pending_max, ..BackendSettings::default() }, Vec::new());
        assert_eq!(pool.view(Instant::now()).in_flight_max, expected, "{pending_max}");
    }
    update(&pool, BackendSettings { pending_max: 12, ..BackendSettings::default() }, Vec::new());
    let mut entered: Vec<_> = (0..5).filter_map(|_| pool.enter()).collect();
    let places = |view: BackendView| (view.in_flight, view.in_flight_max);
    assert_eq!(places(pool.view(Instant::now())), (3, 3), "who found no place is not counted");
    entered.pop();
    assert_eq!(places(pool.view(Instant::now())), (2, 3));
    // Those that are there already stay, whatever the settings.
    update(&pool, BackendSettings { pending_max: 4, ..BackendSettings::default() }, Vec::new());
    assert_eq!(places(pool.view(Instant::now())), (2, 1));
    assert!(pool.enter().is_none());
}

#[test]
fn the_budget_that_is_shown_is_what_retries_can_be_had_of() {
    let (_resources, pool) = pool(4);
    let start = Instant::now();
    update(&pool, BackendSettings { min_retries: 11, ..BackendSettings::default() }, Vec::new());
    assert_eq!(pool.view(start).budget, 2.8, "a quarter of eleven, in tenths");
    (0..10).for_each(|_| pool.deposit(start));
    assert_eq!(pool.view(start).budget, 4.8);
    let mut had = 0;
    while pool.withdraw(start) {
        had += 1;
        assert!((pool.view(start).budget - (4.75 - f64::from(had))).abs() < 0.06, "{had}");
    }
    assert_eq!(had, 4);
    // Settings that are the same give nothing back, and others do.
    update(&pool, BackendSettings { min_retries: 11, ..BackendSettings::default() }, Vec::new());
    assert_eq!(pool.view(start).budget, 0.8);
    update(&pool, BackendSettings { min_retries: 8, ..BackendSettings::default() }, Vec::new());
    assert_eq!(pool.view(start).budget, 2.0);
}

#[test]
fn nothing_is_shown_as_less_than_nothing_when_requests_are_forgotten_before_their_retries() {
    let (_resources, pool) = pool(1);
    let start = Instant::now();
    update(&pool, BackendSettings { min_retries: 0, retry_ratio: 1.0, ..BackendSettings::default() }, Vec::new());
    (0..5).for_each(|_| pool.deposit(start));
    let later = start + Duration::from_secs(9);
    assert!((0..5).all(|_| pool.withdraw(later)));
    let forgotten = start + Duration::from_secs(12);
    assert_eq!(pool.view(forgotten).budget, 0.0);
    assert!(!pool.withdraw(forgotten));
}

#[test]
fn a_view_follows_the_settings_and_keeps_what_is_known_of_endpoints() {
    let (resources, pool) = pool(1);
    let now = Instant::now();
    let endpoints = || vec![endpoint(1, "api"), endpoint(2, "api")];
    update(&pool, BackendSettings::default(), endpoints());
    let picked: Vec<_> =
        (0..6).map(|_| pool.pick(now, &mut resources.rng.borrow_mut(), &[], None).unwrap().1).collect();
    picked[0].failed_for(now, "timeout");
    for (load_balancer, locality, expected) in [
        (LoadBalancer::LeastRequest, Locality::Spill, "least_request"),
        (LoadBalancer::RoundRobin, Locality::Spill, "round_robin"),
        (LoadBalancer::RoundRobin, Locality::Zone, "nearest"),
        (LoadBalancer::PeakEwma, Locality::Spill, "peak_ewma"),
    ] {
        update(&pool, BackendSettings { load_balancer, locality, ..BackendSettings::default() }, endpoints());
        let view = pool.view(now);
        assert_eq!(view.balancer, expected);
        assert_eq!(view.endpoints.iter().map(|it| it.seen.requests).sum::<u64>(), 6);
        assert_eq!(view.endpoints.iter().map(|it| it.seen.in_flight).sum::<u32>(), 6);
        let failures: Vec<_> = view.endpoints.iter().filter_map(|it| it.seen.last_failure).collect();
        assert_eq!(failures.iter().map(|it| (it.reason, it.ago_ms)).collect::<Vec<_>>(), [("timeout", 0)]);
        assert!(view.endpoints.iter().all(|it| it.seen.state == EndpointState::Ready));
    }
    // On no node that is ours: none may be asked, and none is shown.
    update(&pool, BackendSettings { locality: Locality::NodeOnly, ..BackendSettings::default() }, endpoints());
    assert!(pool.view(now).endpoints.is_empty());
}
