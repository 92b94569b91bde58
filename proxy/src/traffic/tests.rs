//! Who may go when, by the limits of a port; in time that passes when the test says so.

use super::*;
use crate::policy::Peer;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use remora_model::{By, Fault, PathPattern, Rate, RateLimit, RateOverride, RequestMatch, SpiffeId};

const WEB: &str = "spiffe://cluster.local/ns/shop/sa/web";
const BATCH: &str = "spiffe://cluster.local/ns/shop/sa/batch";

fn peer(id: &str) -> Peer {
    let identity = (!id.is_empty()).then(|| SpiffeId::parse(id).unwrap());
    Peer { identity, address: [10, 0, 0, 9].into() }
}

/// `burst` at once, and then as many each second.
fn limit(name: &str, by: By, burst: u64) -> RateLimit {
    RateLimit {
        name: name.into(),
        only: RequestMatch::default(),
        by,
        of: Amount::Requests,
        rate: rate(burst),
        overrides: Vec::new(),
        dry_run: false,
    }
}

fn rate(burst: u64) -> Rate {
    Rate { count: burst, interval: Duration::from_secs(1), burst }
}

/// A port with these limits, and its callers.
struct Port {
    traffic: Option<Arc<PortTraffic>>,
    now: Instant,
}

impl Port {
    fn new(shared: &Shared, limits: Vec<RateLimit>) -> Self {
        let traffic = shared.compile(80, &Traffic { limits, faults: Vec::new() });
        Self { traffic, now: Instant::now() }
    }

    /// How many of ten requests go, all at this moment.
    fn ten(&self, id: &str, path: &str, user: Option<&str>) -> usize {
        (0..10).filter(|_| self.one(id, path, user).is_ok()).count()
    }

    fn one(&self, id: &str, path: &str, user: Option<&str>) -> Result<(), Limited> {
        let mut headers = HeaderMap::new();
        headers.extend(user.map(|user| (HeaderName::from_static("x-user"), HeaderValue::from_str(user).unwrap())));
        let peer = peer(id);
        let asked = Asked::new(&Method::GET, path, &headers, peer.identity.as_ref());
        self.traffic.as_ref().unwrap().request(&mut Known::default(), &peer, &asked, self.now)
    }
}

#[tokio::test(start_paused = true)]
async fn a_caller_beyond_its_own_limit_takes_nothing_of_what_all_have() {
    let limits = vec![limit("total", By::Target, 8), limit("each", By::Identity, 3)];
    let mut port = Port::new(&Shared::default(), limits);
    assert_eq!([port.ten(WEB, "/", None), port.ten(BATCH, "/", None), port.ten("", "/", None)], [3, 3, 2]);
    let refused = port.one(BATCH, "/", None).unwrap_err();
    assert_eq!((&*refused.rule, refused.of_all, refused.wait.as_millis()), ("total", true, 125));
    // What is rounded is never let through: a moment more than a second.
    port.now += Duration::from_millis(1001);
    assert_eq!([port.ten(BATCH, "/", None), port.ten(WEB, "/", None)], [3, 3], "a flood leaves others their share");
}

#[tokio::test(start_paused = true)]
async fn some_callers_have_a_rate_of_their_own_each() {
    let identities = [WEB, BATCH].map(|id| SpiffeId::parse(id).unwrap()).to_vec();
    let overrides = vec![RateOverride { identities, rate: rate(7) }];
    let port = Port::new(&Shared::default(), vec![RateLimit { overrides, ..limit("each", By::Identity, 2) }]);
    let other = "spiffe://cluster.local/ns/shop/sa/other";
    assert_eq!([WEB, BATCH, other, ""].map(|id| port.ten(id, "/", None)), [7, 7, 2, 2]);
}

#[tokio::test(start_paused = true)]
async fn each_value_of_a_field_counts_by_itself_and_none_long_or_absent_evades_it() {
    let by = By::Header(HeaderName::from_static("x-user"));
    let port = Port::new(&Shared::default(), vec![limit("user", by, 3)]);
    let (long, longer) = ("x".repeat(300), "y".repeat(400));
    let users = [Some("eve"), Some("bob"), Some(&*long), Some(&*longer), None];
    assert_eq!(users.map(|user| port.ten(WEB, "/", user)), [3, 3, 3, 0, 3]);
    assert!(!port.one(WEB, "/", Some("eve")).unwrap_err().of_all, "others of the same caller may go");
}

#[tokio::test(start_paused = true)]
async fn a_limit_counts_what_it_is_for_and_a_path_of_no_clear_form_is_for_all() {
    let paths = vec![PathPattern::parse("/search/*").unwrap()];
    let only = RequestMatch { paths, ..RequestMatch::default() };
    let port = Port::new(&Shared::default(), vec![RateLimit { only, ..limit("search", By::Target, 4) }]);
    assert_eq!([port.ten(WEB, "/items", None), port.ten(WEB, "/search/a", None)], [10, 4]);
    assert_eq!((port.ten(WEB, "/a/..%2fsearch", None), port.one(WEB, "/search", None).unwrap_err().of_all), (0, false));
}

#[tokio::test(start_paused = true)]
async fn a_limit_that_is_tried_out_refuses_nothing_and_takes_nothing() {
    let tried = RateLimit { dry_run: true, ..limit("tried", By::Target, 1) };
    let port = Port::new(&Shared::default(), vec![tried, limit("held", By::Identity, 4)]);
    assert_eq!([port.ten(WEB, "/", None), port.ten(BATCH, "/", None)], [4, 4]);
}

#[tokio::test(start_paused = true)]
async fn workers_count_together_and_what_stays_of_a_policy_goes_on_counting() {
    let shared = Shared::default();
    let one = Port::new(&shared, vec![limit("a", By::Target, 6)]);
    assert_eq!(one.ten(WEB, "/", None), 6);
    // Another worker, and the same one after a change of something else.
    let other = Port::new(&shared, vec![limit("a", By::Target, 6), limit("b", By::Identity, 9)]);
    assert_eq!(other.ten(WEB, "/", None), 0);
    let changed = Port::new(&shared, vec![limit("a", By::Target, 7)]);
    assert_eq!(changed.ten(WEB, "/", None), 7, "another rate is another limit");
    let traffic = Traffic { limits: vec![limit("a", By::Target, 6)], faults: Vec::new() };
    let another_port = Port { traffic: shared.compile(81, &traffic), now: one.now };
    assert_eq!(another_port.ten(WEB, "/", None), 6);
}

#[tokio::test(start_paused = true)]
async fn connections_are_counted_apart_from_requests() {
    let of = Amount::Connections;
    let limits = vec![RateLimit { of, ..limit("new", By::ClientAddress, 2) }, limit("requests", By::Target, 5)];
    let port = Port::new(&Shared::default(), limits);
    let traffic = port.traffic.as_ref().unwrap();
    let connections = (0..10).filter(|_| traffic.connection(&peer(WEB), port.now).is_ok()).count();
    assert_eq!((connections, port.ten(WEB, "/", None)), (2, 5));
}

#[test]
fn a_port_without_limits_and_faults_has_nothing_to_ask() {
    let shared = Shared::default();
    assert!(shared.compile(80, &Traffic::default()).is_none());
    let delay = Some((1, Duration::from_secs(1)));
    let fault = Fault { name: "f".into(), only: RequestMatch::default(), delay, abort: None };
    assert!(shared.compile(80, &Traffic { limits: Vec::new(), faults: vec![fault] }).is_some());
}
