//! Picks an endpoint for one try, sends it, and tells the endpoint's statistics how it went.
//!
//! The innermost service of a branch: it takes what policy permitted, and gives the answer with where it came from, or why there
//! is none. Within the rule's bound on each try. Its future is the one that is boxed: it holds the request while it is sent.

use super::{Outcome, always_ready};
use crate::{
    backend::{
        self, InFlight, Pool,
        endpoint::{Answer, Upstream},
        outcome,
    },
    http::{
        body::request::RequestBody,
        form, grpc, headers,
        request::{Answered, Attempt, ClientConnection, Failed, Fate, Origin},
        upgrade::{self, Offer},
    },
    limits,
    policy::{Permit, Permitted},
    resources::Resources,
    telemetry::{self, Reason, Record},
    traffic,
};
use futures_util::future::Either;
use http::{HeaderMap, Request, Response};
use pin_project_lite::pin_project;
use std::{
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};
use tokio::time::{Instant, Timeout, timeout_at};
use tower::Service;

/// See the module.
#[derive(Debug, Clone)]
pub(crate) struct Balance {
    pool: Rc<Pool>,
    /// The bound on each try, to the head of its answer.
    within: Option<Duration>,
    resources: Rc<Resources>,
}

impl Balance {
    /// Tries go to endpoints of `pool`, each within that time.
    pub(crate) fn over(pool: &Rc<Pool>, within: Option<Duration>, resources: &Rc<Resources>) -> Self {
        Self { pool: pool.clone(), within, resources: resources.clone() }
    }
}

impl Service<Permitted<Attempt>> for Balance {
    type Response = Box<Answered>;
    type Error = Failed;
    type Future = Pin<Box<dyn Future<Output = Outcome>>>;

    always_ready!();

    fn call(&mut self, attempt: Permitted<Attempt>) -> Self::Future {
        let (permit, attempt) = attempt.open();
        match self.pick(&permit, &attempt) {
            Ok((upstream, in_flight)) => {
                let Attempt { mut request, began, grpc, client, record, offer, .. } = attempt;
                record.tries(upstream.endpoint.address, Instant::now());
                // An upgrade keeps its form; everything else has the one of between proxies, which others do not take.
                let (unfit, http1) = match (&offer, &upstream.endpoint.identity) {
                    (None, None) => {
                        let (unfit, http1) = form::fit(&mut request, self.pool.protocol());
                        (Some(Box::new(unfit)), http1)
                    }
                    _ => (None, false),
                };
                let until = self.within.map(|within| began + within);
                let balance = self.clone();
                let trying = Try {
                    balance,
                    permit,
                    upstream,
                    in_flight,
                    began,
                    grpc,
                    until,
                    client,
                    record,
                    offer,
                    unfit,
                    http1,
                };
                Box::pin(trying.send(request))
            }
            Err(reason) => Box::pin(std::future::ready(Err(Failed::new(reason)))),
        }
    }
}

impl Balance {
    /// An endpoint that did not fail yet; where all did, any of them may try again.
    fn pick(&self, permit: &Permit, attempt: &Attempt) -> Result<(Rc<Upstream>, InFlight), Reason> {
        let (now, tried, fields) = (attempt.began, &attempt.tried[..], Some(attempt.request.headers()));
        let mut rng = self.resources.rng.borrow_mut();
        match self.pool.pick(now, &mut rng, tried, fields) {
            Err(_) if !tried.is_empty() => self.pool.pick(now, &mut rng, &[], fields),
            Ok((upstream, in_flight)) if in_flight.is_probe() && upstream.is_away() => {
                upstream.probe(permit, in_flight);
                self.pool.pick(now, &mut rng, tried, fields)
            }
            picked => picked,
        }
    }
}

/// One try at the endpoint that was picked for it. Its future is made for each request and is to stay below a kibibyte, which is what the
/// allocator keeps at hand.
struct Try {
    balance: Balance,
    permit: Permit,
    upstream: Rc<Upstream>,
    in_flight: InFlight,
    began: Instant,
    grpc: bool,
    until: Option<Instant>,
    client: Rc<ClientConnection>,
    record: Rc<Record>,
    offer: Option<Rc<Offer>>,
    /// What is different from the form of between proxies. Boxed, as between proxies nothing is.
    unfit: Option<Box<form::Unfit>>,
    /// Whether it goes as HTTP/1.
    http1: bool,
}

impl Try {
    #[expect(clippy::manual_async_fn, reason = "an `async fn` has room for `self` twice")]
    fn send(self, request: Request<RequestBody>) -> impl Future<Output = Outcome> {
        async move {
            let mut unsent = match Within::time(self.until, self.sending(request)).await {
                Err(Failed { stale: true, unsent: Some(unsent), .. }) => unsent,
                sent => return self.came_to(sent),
            };
            // Connections that closed while they were kept; each of them is used up by this.
            for _ in 1..limits::IDLE_CONNECTIONS_MAX {
                unsent = match Within::time(self.until, self.sending(*unsent)).await {
                    Err(Failed { stale: true, unsent: Some(unsent), .. }) => unsent,
                    sent => return self.came_to(sent),
                };
            }
            let sent = Within::time(self.until, self.sending(*unsent)).await;
            self.came_to(sent)
        }
    }

    fn came_to(self, sent: Result<Answer, Failed>) -> Outcome {
        match sent {
            Ok(answer) => Ok(self.answered(answer)),
            Err(failed) => Err(self.blame(failed)),
        }
    }

    /// The request on its way: over what its endpoint speaks, or on a connection of its own where it may leave HTTP.
    fn sending(&self, request: Request<RequestBody>) -> impl Future<Output = Result<Answer, Failed>> {
        let Self { balance, permit, upstream, began, client, offer, http1, .. } = self;
        match offer {
            None if *http1 => Either::Left(Either::Left(upstream.send_http1(permit, *began, request))),
            None => Either::Left(Either::Right(upstream.send_http2(permit, Some((&client.callers, 0)), request))),
            Some(offer) => {
                let tasks = &balance.resources.tasks;
                Either::Right(Box::pin(upgrade::send(tasks, upstream, permit, offer, request)))
            }
        }
    }

    /// Tells the endpoint's statistics of a try that has no answer, and the next try to pass it over.
    fn blame(self, mut failed: Failed) -> Failed {
        let Self { balance, upstream, in_flight, began, unfit, record, .. } = self;
        if failed.reason.is_of_connecting() {
            record.sent(Instant::now());
        }
        if let (Some(unfit), Some(unsent)) = (unfit, &mut failed.unsent) {
            unfit.undo(unsent);
        }
        let endpoint = Some(upstream.endpoint.address);
        let failed = Failed { at_peer: upstream.endpoint.identity.is_some(), ..failed };
        if failed.unprocessed {
            // No word about the endpoint's health: it is busy, or goes in order.
            return Failed { endpoint, ..failed };
        }
        let Some(outcome) = outcome::of(failed.reason) else {
            let full = failed.reason == Reason::QueueFull;
            return Failed { endpoint: endpoint.filter(|_| full), ..failed };
        };
        let now = Instant::now();
        in_flight.failed_for(now, failed.reason.as_str());
        in_flight.record(now, now.saturating_duration_since(began), outcome);
        if outcome != backend::Outcome::Failure {
            balance.pool.doubt();
        }
        Failed { endpoint, ..failed }
    }

    /// The answer with where it came from, whose statistics are told.
    fn answered(self, answer: Answer) -> Box<Answered> {
        let Self { permit, upstream, in_flight, began, grpc, until, record, .. } = self;
        let Answer { mut response, lease, sent } = answer;
        if let Some(at) = sent {
            record.sent(at);
        }
        let now = Instant::now();
        let mesh = upstream.endpoint.identity.is_some();
        // Only a peer that proved who it is may say what became of the request.
        let told = if mesh { told(&response) } else { None };
        let fate = told.and_then(fate);
        let failed = response.status().is_server_error() || (grpc && grpc::failed(response.headers()));
        let outcome = match (fate, failed) {
            (Some(Fate::Undelivered(_)), _) => backend::Outcome::Unreachable,
            _ if told == Some(Reason::ResponseHeaderTooLarge) => backend::Outcome::Success,
            (_, true) => backend::Outcome::Failure,
            _ => backend::Outcome::Success,
        };
        if outcome != backend::Outcome::Success {
            in_flight.failed_for(now, told.map_or(telemetry::STATUS_5XX, Reason::as_str));
        }
        if told == Some(Reason::RateLimited)
            && let Some(busy) = busy(response.headers_mut())
        {
            in_flight.busy_until(now + busy);
        }
        in_flight.record(now, now.saturating_duration_since(sent.unwrap_or(began)), outcome);
        let endpoint = upstream.endpoint.address;
        let origin = Some(Origin { endpoint, mesh, fate, told, in_flight: Some(in_flight), lease, permit });
        Box::new(Answered { response, origin, until, charge: None, tunnel: None })
    }
}

pin_project! {
    /// The time of a try, where it has one. In one place, or the future would have room for both.
    #[project = WithinProjection]
    enum Within<F> {
        Ever { #[pin] sending: F },
        Until { #[pin] sending: Timeout<F> },
    }
}

impl<F: Future<Output = Result<Answer, Failed>>> Within<F> {
    fn time(until: Option<Instant>, sending: F) -> Self {
        match until {
            None => Self::Ever { sending },
            Some(until) => Self::Until { sending: timeout_at(until, sending) },
        }
    }
}

impl<F: Future<Output = Result<Answer, Failed>>> Future for Within<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        match self.project() {
            WithinProjection::Ever { sending } => sending.poll(cx),
            WithinProjection::Until { sending } => sending.poll(cx).map(|sent| match sent {
                Ok(sent) => sent,
                Err(_) => Err(Failed::refused(Reason::Timeout, "no endpoint answered within the time of one try")),
            }),
        }
    }
}

/// The reason that the peer gives.
fn told<B>(response: &Response<B>) -> Option<Reason> {
    let reason = response.headers().iter().find(|(name, _)| **name == headers::ERROR)?.1;
    Reason::from_bytes(reason.as_bytes())
}

/// How long the peer refuses all that this proxy may ask for, as that is over a rate limit.
fn busy(fields: &mut HeaderMap) -> Option<Duration> {
    let millis = fields.remove(headers::BUSY)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_millis(millis).min(traffic::BUSY_MAX))
}

fn fate(reason: Reason) -> Option<Fate> {
    match reason {
        Reason::ConnectRefused
        | Reason::ConnectTimeout
        | Reason::ConnectFailed
        | Reason::Draining
        | Reason::Overloaded
        | Reason::QueueFull
        | Reason::RefusedStream => Some(Fate::Undelivered(reason)),
        Reason::UpstreamReset => Some(Fate::BrokenOff),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::test::{World, address, id, real, told},
        *,
    };
    use crate::{http::Wire, policy::To};
    use http::Version;
    use std::net::SocketAddr;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    #[test]
    fn a_try_is_no_larger_than_what_the_allocator_keeps_at_hand() {
        fn of<S, R, F: Future>(_: impl FnOnce(S, R) -> F) -> usize {
            size_of::<F>()
        }
        let bytes = of(Try::send);
        println!("a try: {bytes} bytes");
        assert!(bytes <= 1032, "{bytes}");
    }

    fn attempt(tried: Vec<SocketAddr>) -> Permitted<Attempt> {
        let request = Request::get("http://api.shop/a").version(Version::HTTP_2).header(headers::RESTORE, "1.1");
        let request = request.body(RequestBody::Empty).unwrap();
        let client = ClientConnection::of_application(Wire::Http1, true);
        let (record, began) = (Record::of_tests(), Instant::now());
        let attempt = Attempt { request, began, grpc: false, client, record, offer: None, tried };
        Permitted::outbound(To::Backend(&id()), attempt)
    }

    /// A server for one request: what it was asked, as it was on the wire.
    async fn server(answer: &'static [u8]) -> (SocketAddr, tokio::task::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let served = tokio::task::spawn_local(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                assert!(stream.read_buf(&mut head).await.unwrap() > 0, "{}", String::from_utf8_lossy(&head));
            }
            stream.write_all(answer).await.unwrap();
            String::from_utf8(head).unwrap()
        });
        (address, served)
    }

    fn over(world: &World) -> Balance {
        Balance::over(&world.pool, None, &world.resources)
    }

    #[test]
    fn an_answer_says_where_it_came_from_and_its_endpoint_may_not_say_what_only_the_mesh_may() {
        real(async {
            let answer = b"HTTP/1.1 503 Later\r\nx-remora-error: draining\r\ncontent-length: 0\r\n\r\n";
            let (address, served) = server(answer).await;
            let world = World::new(&[address]);
            let answered = over(&world).call(attempt(Vec::new())).await.unwrap();
            let origin = answered.origin.unwrap();
            assert_eq!((origin.endpoint, origin.mesh, origin.fate), (address, false, None));
            assert_eq!(served.await.unwrap(), "GET /a HTTP/1.1\r\nhost: api.shop\r\n\r\n");
        });
    }

    /// Found with this: the next endpoint was sent HTTP/2, because the request had been made HTTP/1 for the first.
    #[test]
    fn a_request_that_one_endpoint_did_not_get_is_fit_for_any_other() {
        real(async {
            let world = World::new(&[address(1)]);
            let failed = over(&world).call(attempt(Vec::new())).await.unwrap_err();
            assert_eq!(
                (failed.reason, failed.endpoint, world.doubts.get()),
                (Reason::ConnectRefused, Some(address(1)), 1)
            );
            let unsent = *failed.unsent.unwrap();
            assert_eq!((unsent.version(), unsent.uri().to_string().as_str()), (Version::HTTP_2, "http://api.shop/a"));
            assert_eq!(unsent.headers()[headers::RESTORE], "1.1");
            let (address, served) = server(b"HTTP/1.1 204 Empty\r\n\r\n").await;
            world.settings(super::super::test::generous(), &[address]);
            let (_permit, again) = attempt(Vec::new()).open();
            let again = Attempt { request: unsent, ..again };
            assert_eq!(told(&over(&world).call(Permitted::outbound(To::Backend(&id()), again)).await), "204");
            assert_eq!(served.await.unwrap(), "GET /a HTTP/1.1\r\nhost: api.shop\r\n\r\n");
        });
    }

    #[test]
    fn a_try_goes_past_the_endpoints_that_failed_and_back_to_them_where_all_did() {
        real(async {
            let world = World::new(&[address(1), address(2)]);
            for _ in 0..8 {
                let failed = over(&world).call(attempt(vec![address(1)])).await.unwrap_err();
                assert_eq!(failed.endpoint, Some(address(2)));
                // Out of rotation it would be passed over anyway.
                world.settings(super::super::test::generous(), &[address(1)]);
                world.settings(super::super::test::generous(), &[address(1), address(2)]);
            }
            let failed = over(&world).call(attempt(vec![address(1), address(2)])).await.unwrap_err();
            assert!(failed.endpoint.is_some());
            assert_eq!(told(&over(&World::new(&[])).call(attempt(Vec::new())).await), "no_endpoints");
        });
    }

    #[test]
    fn a_try_takes_no_longer_than_its_rule_allows() {
        real(async {
            // A server that takes the connection and says nothing.
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let world = World::new(&[listener.local_addr().unwrap()]);
            let within = Some(Duration::from_millis(30));
            let mut balance = Balance::over(&world.pool, within, &world.resources);
            let failed = balance.call(attempt(Vec::new())).await.unwrap_err();
            assert_eq!((failed.reason, failed.unsent.is_none()), (Reason::Timeout, true));
        });
    }
}
