//! The layers of the stack out of the pod together, as [`super::super::outbound`] has them, over an endpoint that does what a seed says: retry ×
//! deadline × budget × replay × mirror × upgrade. Whatever they come to together, what holds of each holds; and a client that goes away may go
//! at every point at which the request waits.
//!
//! The signals, the account and the pool are the real ones; time passes when nothing else can happen.

use super::{
    AdmitLayer, ChargeLayer, DeadlineLayer, MirrorLayer, MirrorTarget, Outcome, RetryLayer, SignalsLayer, UpgradeLayer,
    always_ready,
    test::{World, address, failed, generous, id, incoming, paused},
};
use crate::{
    http::{
        Wire,
        body::response::ResponseBody,
        request::{Answered, Arrived, Attempt, ClientConnection, Failed, Fate, Routed},
    },
    telemetry::Reason,
};
use http::{Method, Response, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use remora_model::{BackendSettings, Filter, GrpcCodes, Retry as Rule};
use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    convert::Infallible,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};
use tokio::{io::DuplexStream, time::Instant};
use tower::{Service, ServiceBuilder};

const SEEDS: u64 = 1500;
/// Each of these seeds is given up at every point at which it waits.
const CANCELLED: u64 = 700;
const ENDPOINTS: u16 = 3;

/// What one try comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Answer(u16),
    Told(Fate),
    Sent(Reason),
    Unsent(Reason),
    Unprocessed(Reason),
}

/// One try: how much of the request's body it takes before, and how long it thinks.
#[derive(Debug, Clone, Copy)]
struct Try {
    takes: usize,
    thinks: Duration,
    end: End,
}

/// All that a seed decides.
#[derive(Debug, Clone)]
struct Case {
    method: Method,
    upgrade: bool,
    /// Bytes of body, and how many of them come.
    body: usize,
    comes: usize,
    rule: Rule,
    timeout: Option<Duration>,
    settings: BackendSettings,
    mirrored: bool,
    tries: Vec<Try>,
}

impl Case {
    fn of(seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let method = [Method::GET, Method::PUT, Method::POST, Method::PATCH][rng.usize(..4)].clone();
        let upgrade = rng.u8(..8) == 0;
        let body = if upgrade || method == Method::GET { 0 } else { [0, 10, 30_000, 70_000, 200_000][rng.usize(..5)] };
        let codes = if rng.bool() { vec![StatusCode::SERVICE_UNAVAILABLE] } else { Vec::new() };
        let backoff = Duration::from_millis([0, 0, 300][rng.usize(..3)]);
        let grpc_codes = GrpcCodes::default();
        let rule = Rule { attempts: rng.u32(..4), codes, grpc_codes, backoff, any_method: rng.bool() };
        let min_retries = [0, 1, 1000][rng.usize(..3)];
        let pending_max = if rng.u8(..10) == 0 { 0 } else { generous().pending_max };
        Self {
            method,
            upgrade,
            body,
            comes: if rng.u8(..5) == 0 { body / 2 } else { body },
            rule,
            timeout: [None, Some(Duration::from_millis(150)), Some(Duration::from_secs(3))][rng.usize(..3)],
            settings: BackendSettings { min_retries, retry_ratio: 0.0, pending_max, ..generous() },
            mirrored: rng.bool(),
            tries: (0..6).map(|_| Try::of(&mut rng, body)).collect(),
        }
    }
}

impl Try {
    fn of(rng: &mut fastrand::Rng, body: usize) -> Self {
        let end = match rng.u8(..10) {
            0..3 => End::Answer([200, 404, 500, 503][rng.usize(..4)]),
            3 => End::Told(Fate::BrokenOff),
            4 => End::Told(Fate::Undelivered(
                [Reason::ConnectRefused, Reason::Draining, Reason::QueueFull][rng.usize(..3)],
            )),
            5 => End::Unsent([Reason::ConnectRefused, Reason::TlsRefused][rng.usize(..2)]),
            6 => End::Unprocessed([Reason::Draining, Reason::RefusedStream][rng.usize(..2)]),
            7 => End::Sent([Reason::UpstreamReset, Reason::Timeout][rng.usize(..2)]),
            8 => End::Sent([Reason::NoEndpoints, Reason::ResponseHeaderTooLarge][rng.usize(..2)]),
            _ => End::Answer(503),
        };
        let takes = if matches!(end, End::Unsent(_)) { 0 } else { [0, body / 3, body][rng.usize(..3)] };
        Self { takes, thinks: Duration::from_millis([0, 20, 100, 900][rng.usize(..4)]), end }
    }

    /// Whether the server may have acted on it.
    fn may_be_processed(self) -> bool {
        matches!(self.end, End::Answer(_) | End::Told(Fate::BrokenOff) | End::Sent(_))
    }
}

/// The endpoints, and what they saw.
#[derive(Clone)]
struct Endpoints {
    world: Rc<World>,
    tries: Rc<Vec<Try>>,
    asked: Rc<Cell<usize>>,
    /// What each try got of the body.
    took: Rc<RefCell<Vec<Vec<u8>>>>,
}

impl Service<Attempt> for Endpoints {
    type Response = Box<Answered>;
    type Error = Failed;
    type Future = Pin<Box<dyn Future<Output = Outcome>>>;

    always_ready!();

    fn call(&mut self, attempt: Attempt) -> Self::Future {
        let number = self.asked.get();
        self.asked.set(number + 1);
        let (this, Try { takes, thinks, end }) = (self.clone(), self.tries[number.min(self.tries.len() - 1)]);
        Box::pin(async move {
            let (parts, mut body) = attempt.request.into_parts();
            let mut taken = Vec::new();
            while taken.len() < takes {
                match body.frame().await {
                    Some(Ok(frame)) => taken.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data)),
                    Some(Err(error)) => return failed(error.reason()),
                    None => break,
                }
            }
            this.took.borrow_mut().push(taken);
            tokio::time::sleep(thinks).await;
            let endpoint = Some(address(number as u16 % ENDPOINTS + 1));
            match end {
                End::Answer(status) => this.world.answer(status, None),
                End::Told(fate) => this.world.answer(503, Some(fate)),
                End::Sent(reason) => Err(Failed { endpoint, ..Failed::new(reason) }),
                End::Unprocessed(reason) => Err(Failed { endpoint, ..Failed::unprocessed(reason) }),
                End::Unsent(reason) => {
                    let request = http::Request::from_parts(parts, body);
                    Err(Failed { endpoint, ..Failed::unsent(reason, request) })
                }
            }
        })
    }
}

/// One play of a case.
struct Play {
    case: Case,
    world: Rc<World>,
    endpoints: Endpoints,
    asked: Pin<Box<dyn Future<Output = Result<Response<ResponseBody>, Infallible>>>>,
    began: Instant,
    _client: DuplexStream,
}

impl Play {
    async fn begin(case: Case) -> Self {
        let addresses: Vec<_> = (1..=ENDPOINTS).map(address).collect();
        let world = Rc::new(World::new(&addresses));
        world.settings(case.settings.clone(), &addresses);
        let endpoints = Endpoints {
            world: world.clone(),
            tries: Rc::new(case.tries.clone()),
            asked: Rc::default(),
            took: Rc::default(),
        };
        let filter = Filter::Mirror { backend: id(), numerator: 1, denominator: 1 };
        // A backend without endpoints: its copies are kept, and sent to nobody.
        let shadow = Rc::new(World::new(&[]));
        let pools = HashMap::from([(id(), shadow.pool.clone())]);
        let mirrors = MirrorTarget::of(&filter, &pools).into_iter().filter(|_| case.mirrored).collect();
        let resources = &world.resources;
        let mut stack = ServiceBuilder::new()
            .layer(SignalsLayer::of(&world.counters, Some(0), &world.pool))
            .layer(ChargeLayer::to(&resources.pod, &id()))
            .layer(UpgradeLayer::on(resources))
            .layer(AdmitLayer::of(Some(&world.pool), None))
            .layer(MirrorLayer::to(mirrors, resources))
            .layer(DeadlineLayer::of(case.timeout))
            .layer(RetryLayer::of(Some(&case.rule), &world.pool, resources))
            .service(endpoints.clone());
        let (request, client) = incoming(&case.head()).await;
        let began = Instant::now();
        let arrived = Arrived {
            request,
            started: began,
            grpc: false,
            authority: "api".parse().ok(),
            client: ClientConnection::of_application(Wire::Http1, true),
        };
        let asked = Service::<Routed<Incoming>>::call(&mut stack, Routed { arrived, prefix: 0 });
        Self { case, world, endpoints, asked: Box::pin(asked), began, _client: client }
    }

    /// What holds however it ended, once it has.
    async fn settled(self, seed: u64) {
        let Self { case, world, endpoints, asked, .. } = self;
        drop(asked);
        let (tries, took) = (endpoints.asked.get(), endpoints.took.borrow().clone());
        tokio::time::sleep(Duration::from_secs(30)).await;
        let say = format!("seed {seed}: {case:?}, {tries} tries");
        assert_eq!(endpoints.asked.get(), tries, "{say}: nothing is sent for nobody");
        let routes = world.routes.json();
        let route = &routes["routes"][0];
        let sum = |name: &str| route[name].as_object().map_or(0, |it| it.values().filter_map(|it| it.as_u64()).sum());
        let (success, cancelled, failures) = (world.counted("success"), world.counted("cancelled"), sum("failures"));
        assert_eq!(world.counted("requests"), 1, "{say}");
        assert_eq!(success + cancelled + failures, 1, "{say}: one record, {route}");
        assert_eq!(sum("faults"), failures, "{say}: each failure is somebody's fault");
        assert_eq!(world.counted("retries") as usize, tries.saturating_sub(1), "{say}");
        drop(endpoints);
        assert_eq!(world.resources.account.used(), 0, "{say}: memory is given back");
        assert_eq!(world.pool.under_way(), 0, "{say}: so is its place");
        case.check_tries(tries, &took, &say);
    }
}

impl Case {
    /// What its client sends.
    fn head(&self) -> Vec<u8> {
        let mut head = format!("{} /a HTTP/1.1\r\nhost: api\r\n", self.method);
        if self.upgrade {
            head.push_str("connection: upgrade\r\nupgrade: websocket\r\n");
        }
        if self.method != Method::GET {
            head.push_str(&format!("content-length: {}\r\n", self.body));
        }
        head.push_str("\r\n");
        // What does not fit into the pipe is not sent: a client that stopped in the middle.
        let comes = self.comes.min((1 << 16) - head.len());
        [head.into_bytes(), (0..comes).map(|at| at as u8).collect()].concat()
    }

    fn check_tries(&self, tries: usize, took: &[Vec<u8>], say: &str) {
        let most = 1 + self.rule.attempts as usize + usize::from(ENDPOINTS);
        assert!(tries <= if self.rule.attempts == 0 { 1 } else { most }, "{say}");
        for (number, one) in self.tries.iter().enumerate().take(tries.saturating_sub(1)) {
            let repeats = self.rule.any_method || self.method.is_idempotent();
            assert!(repeats || !one.may_be_processed(), "{say}: after {one:?}, try {number}");
            let welcome = matches!(one.end, End::Answer(status) if status != 503 || self.rule.codes.is_empty());
            assert!(!welcome, "{say}: an answer is an answer, try {number}");
        }
        for taken in took {
            let right = taken.iter().enumerate().all(|(at, byte)| *byte == at as u8);
            assert!(right, "{say}: each try gets the body from its beginning");
        }
    }
}

#[test]
fn whatever_the_layers_come_to_together_each_keeps_its_word() {
    for seed in 0..SEEDS {
        paused(async {
            let mut play = Play::begin(Case::of(seed)).await;
            let (timeout, began) = (play.case.timeout, play.began);
            let asked = tokio::time::timeout(Duration::from_secs(60), &mut play.asked);
            // A client whose body never comes whole may wait as long as it likes, if its route sets no bound.
            if let Ok(Ok(answer)) = asked.await {
                let status = answer.status();
                if let Some(timeout) = timeout {
                    let late = began.elapsed().saturating_sub(timeout);
                    assert!(late <= Duration::from_millis(2), "seed {seed}: {late:?} late, {:?}", play.case);
                }
                let last = play.case.tries.get(play.endpoints.asked.get().wrapping_sub(1));
                if let (Some(Try { end: End::Answer(expected), .. }), false) =
                    (last, status == StatusCode::GATEWAY_TIMEOUT)
                {
                    assert_eq!(status, *expected, "seed {seed}: the last answer is passed on, {:?}", play.case);
                }
                drop(answer.into_body().collect().await);
            } else {
                assert!(timeout.is_none(), "seed {seed}: {:?}", play.case);
            }
            play.settled(seed).await;
        });
    }
}

#[test]
fn a_client_may_go_away_wherever_its_request_waits() {
    let (mut points, mut most) = (0, 0);
    for seed in 0..CANCELLED {
        // Each poll is a point; it is given up after so many.
        for polls in 1.. {
            let mut over = false;
            paused(async {
                let mut play = Play::begin(Case::of(seed)).await;
                let mut made = 0;
                let gone = std::future::poll_fn(|cx: &mut Context<'_>| {
                    made += 1;
                    match play.asked.as_mut().poll(cx) {
                        Poll::Ready(answer) => Poll::Ready(Some(answer)),
                        Poll::Pending if made == polls => Poll::Ready(None),
                        Poll::Pending => Poll::Pending,
                    }
                });
                match tokio::time::timeout(Duration::from_secs(60), gone).await {
                    // An answer whose head nobody takes.
                    Ok(Some(Ok(answer))) => {
                        drop(answer);
                        over = true;
                    }
                    Ok(None) => points += 1,
                    Err(_) => over = true,
                }
                play.settled(seed).await;
            });
            most = most.max(polls);
            if over {
                break;
            }
        }
    }
    assert!(points > 1000 && most > 5, "{points} points, {most} in one request");
}

#[test]
fn a_seed_is_played_the_same_way_each_time() {
    for seed in [3, 14, 159] {
        let play = || {
            let mut heard = None;
            paused(async {
                let mut play = Play::begin(Case::of(seed)).await;
                let answer = tokio::time::timeout(Duration::from_secs(60), &mut play.asked).await;
                let status = answer.map(|Ok(answer)| answer.status()).ok();
                heard = Some((status, play.endpoints.asked.get(), play.began.elapsed()));
            });
            heard
        };
        assert_eq!(play(), play(), "seed {seed}");
    }
}
