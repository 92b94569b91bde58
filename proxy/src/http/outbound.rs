//! The life of a request on its way out: normalise, route, and try endpoints until one answers, the deadline passes or
//! the budget is spent.

use super::{
    Wire,
    body::{Replayable, RequestBody, ResponseBody},
    client::{Answer, Failed, Upstream},
    exchange::{self, Exchange},
    filter, headers, respond, upgrade,
};
use crate::{
    balance::{InFlight, Outcome},
    discover::{Plan, Pool, Route},
    limits,
    policy::{self, Permit},
    retry,
    telemetry::{Proto, Reason, Tls},
    worker::World,
};
use http::{Method, Request, Response, Version, request::Parts, uri::Authority};
use hyper::body::Incoming;
use remora_model::{Protocol, Rule, Target};
use std::{
    cell::RefCell,
    net::SocketAddr,
    rc::Rc,
    time::{Duration, Instant},
};

/// Where the requests of one client connection go.
#[derive(Debug)]
pub struct Destination {
    /// The original destination of a redirected connection; otherwise each request's authority decides.
    fixed: Option<Rc<Route>>,
    /// The last authority seen here and its route: clients rarely change it.
    last: RefCell<Option<(Authority, Rc<Route>)>>,
}

impl Destination {
    /// All requests of the connection go where it went.
    pub fn fixed(route: Rc<Route>) -> Self {
        Self { fixed: Some(route), last: RefCell::default() }
    }

    /// Each request says where it goes.
    pub fn by_authority() -> Self {
        Self { fixed: None, last: RefCell::default() }
    }

    async fn route(&self, world: &World, authority: Option<&Authority>) -> Result<Rc<Route>, Reason> {
        if let Some(route) = &self.fixed {
            return Ok(route.clone());
        }
        let authority = authority.ok_or(Reason::ProtocolError)?;
        if let Some((known, route)) = &*self.last.borrow()
            && known == authority
        {
            return Ok(route.clone());
        }
        let target = Target::parse(authority.as_str(), 80).map_err(|_| Reason::ProtocolError)?;
        if matches!(target, Target::Address(address) if world.config.is_own(address)) {
            return Err(Reason::Loop);
        }
        let route = world.directory.route(&target).await;
        if route.plan().parent.is_some() {
            *self.last.borrow_mut() = Some((authority.clone(), route.clone()));
        }
        Ok(route)
    }
}

/// Answers one request. Never fails: what goes wrong becomes an answer that says so.
pub async fn handle(
    world: Rc<World>,
    destination: Rc<Destination>,
    wire: Wire,
    mut request: Request<Incoming>,
) -> Response<ResponseBody> {
    let started = Instant::now();
    let grpc = headers::is_grpc(request.headers());
    if wire == Wire::Http2 && !headers::within_bounds(request.headers()) {
        return respond::failure(Reason::HeaderTooLarge, grpc, "");
    }
    let authority = match headers::authority(&request) {
        Ok(authority) => authority,
        Err(reason) => return respond::failure(reason, grpc, "the request names no single authority"),
    };
    let hops = headers::hops(request.headers());
    if hops > limits::HOPS_MAX {
        return respond::failure(Reason::Loop, grpc, "too many proxies on the way");
    }
    headers::strip_reserved(request.headers_mut());
    let route = match destination.route(&world, authority.as_ref()).await {
        Ok(route) => route,
        Err(reason) => {
            return respond::failure(
                reason,
                grpc,
                "the request must name a host and port that are not this proxy's own",
            );
        }
    };
    let plan = route.plan();
    if request.method() == Method::CONNECT && destination.fixed.is_none() {
        return upgrade::tunnel(world, plan, request).await;
    }
    let Some(parent) = plan.parent.clone() else {
        return respond::failure(Reason::NoRoute, grpc, "discovery knows no Service of this name and port");
    };
    let selected = crate::route::select(&plan.outbound, request.method(), request.uri(), request.headers());
    let (index, prefix) = match selected {
        Some(selected) => (Some(selected.index), selected.prefix),
        None if plan.outbound.matches.is_empty() => (None, ""),
        None => return respond::failure(Reason::NoRoute, grpc, "no route of this Service matches"),
    };
    let proto = if grpc { Proto::Grpc } else { proto_of(wire) };
    let pool = match index {
        None => Some(parent.clone()),
        Some(index) => plan.branch(index, &mut world.rng.borrow_mut()).and_then(|branch| branch.pool.clone()),
    };
    let peer = pool.as_ref().unwrap_or(&parent).identity();
    let tls = if peer.is_empty() { Tls::Plain } else { Tls::Mtls };
    let stats = plan.signals.request(index, &request, proto, &peer, tls);
    let mut exchange = Exchange::begin(stats, started, grpc);
    let rule = index.and_then(|index| plan.rule(index));
    if let Some(answer) = rule.and_then(|rule| filter::redirect(rule, prefix, &request)) {
        exchange.ended(None);
        return answer;
    }
    let Some(pool) = pool else {
        exchange.fail(Reason::InvalidBackend);
        return respond::failure(Reason::InvalidBackend, grpc, "the route names a backend that is not there");
    };
    if let Some(rule) = rule {
        filter::request(&rule.filters, prefix, &mut request);
    }
    if headers::wants_upgrade(&request) {
        return upgrade::forward(world, pool, request, exchange).await;
    }
    let call = Call { world, plan: plan.clone(), pool, rule: index, wire, hops, grpc, started };
    let mut response = call.run(request, authority.as_ref(), exchange).await;
    if let Some(rule) = rule {
        filter::response(&rule.filters, response.headers_mut());
    }
    response
}

fn proto_of(wire: Wire) -> Proto {
    match wire {
        Wire::Http1 => Proto::Http1,
        Wire::Http2 => Proto::Http2,
    }
}

/// A request with all that its tries need.
struct Call {
    world: Rc<World>,
    plan: Rc<Plan>,
    pool: Rc<Pool>,
    rule: Option<usize>,
    wire: Wire,
    hops: usize,
    grpc: bool,
    started: Instant,
}

/// What a try came to.
enum Tried {
    Answered(Answer, InFlight, Rc<Upstream>),
    /// An answer worth another try.
    Unwelcome(Answer, InFlight, Rc<Upstream>),
    Failed {
        reason: Reason,
        unsent: Option<Request<RequestBody>>,
    },
}

impl Call {
    async fn run(
        self,
        mut request: Request<Incoming>,
        authority: Option<&Authority>,
        exchange: Exchange,
    ) -> Response<ResponseBody> {
        let version = request.version();
        headers::strip_hop_by_hop(request.headers_mut());
        let timeout = self.timeout(&mut request);
        let (pool, grpc) = (self.pool.clone(), self.grpc);
        let Some(entered) = pool.enter() else {
            let mut exchange = exchange;
            exchange.fail(Reason::QueueFull);
            return respond::failure(Reason::QueueFull, grpc, "too many requests wait for this backend");
        };
        if let Err(reason) = self.prepare(&mut request, version, authority) {
            let mut exchange = exchange;
            exchange.fail(reason);
            return respond::failure(reason, grpc, "");
        }
        let stats = exchange.stats().clone();
        let tries = self.tries(request, exchange);
        let response = match timeout {
            None => tries.await,
            Some(within) => match tokio::time::timeout(within, tries).await {
                Ok(response) => response,
                Err(_) => {
                    stats.failure(Reason::Timeout, within);
                    respond::failure(Reason::Timeout, grpc, "the request's deadline passed")
                }
            },
        };
        drop(entered);
        response
    }

    /// The request's deadline: the route's, or the caller's `grpc-timeout` if that is shorter, which is passed on.
    fn timeout(&self, request: &mut Request<Incoming>) -> Option<Duration> {
        let route = self.rule().and_then(|rule| rule.timeouts.request);
        let caller = if self.grpc { filter::grpc_timeout(request.headers()) } else { None };
        let chosen = [route, caller].into_iter().flatten().min();
        if let (true, Some(chosen)) = (self.grpc, chosen) {
            filter::set_grpc_timeout(request.headers_mut(), chosen.saturating_sub(self.started.elapsed()));
        }
        chosen
    }

    fn rule(&self) -> Option<&Rule> {
        self.rule.and_then(|index| self.plan.rule(index))
    }

    /// Makes the head fit for the way that this backend's requests take.
    fn prepare(
        &self,
        request: &mut Request<Incoming>,
        version: Version,
        authority: Option<&Authority>,
    ) -> Result<(), Reason> {
        if self.wire == Wire::Http1 {
            // A mesh peer restores it; towards anybody else the request stays HTTP/1 and this is taken off again.
            request.headers_mut().insert(headers::RESTORE, headers::restore_value(version));
        }
        request.headers_mut().insert(headers::HOPS, headers::hops_value(self.hops + 1));
        headers::to_http2(request, authority)
    }

    async fn tries(self, request: Request<Incoming>, mut exchange: Exchange) -> Response<ResponseBody> {
        let now = Instant::now();
        self.pool.deposit(now);
        let retry = self.rule().and_then(|rule| rule.retry.clone());
        let repeatable = request.method().is_idempotent() || retry.as_ref().is_some_and(|retry| retry.any_method);
        let attempts = retry.as_ref().map_or(limits::DEFAULT_RETRIES, |retry| retry.attempts);
        let (parts, body) = request.into_parts();
        let body = RequestBody::new(body);
        let mut again = Again::new(parts, body, repeatable && attempts > 0);
        let mut tried: Vec<SocketAddr> = Vec::new();
        let mut next = again.first();
        let mut failed = None;
        loop {
            let Some(attempt) = next.take() else {
                exchange.fail(Reason::Internal);
                return respond::failure(Reason::Internal, self.grpc, "");
            };
            let last = tried.len() as u32 >= attempts;
            let (reason, unsent) = match self.attempt(attempt, &mut tried).await {
                Tried::Answered(answer, in_flight, upstream) => return finish(answer, in_flight, upstream, exchange),
                Tried::Unwelcome(answer, in_flight, upstream) if last || !again.possible() => {
                    return finish(answer, in_flight, upstream, exchange);
                }
                Tried::Unwelcome(answer, in_flight, upstream) => {
                    if !self.pool.withdraw(Instant::now()) {
                        exchange.stats().retry_overflow();
                        return finish(answer, in_flight, upstream, exchange);
                    }
                    exchange.stats().retry();
                    self.pause(&retry, tried.len()).await;
                    next = again.next();
                    continue;
                }
                Tried::Failed { reason, unsent } => (reason, unsent),
            };
            let can = unsent.is_some() || again.possible();
            if matches!(reason, Reason::NoEndpoints | Reason::AllEjected) {
                // What put the last endpoint out of use says more than that there is none.
                return self.give_up(failed.unwrap_or(reason), exchange);
            }
            if last || !can || reason == Reason::QueueFull {
                return self.give_up(reason, exchange);
            }
            failed = Some(reason);
            if !self.pool.withdraw(Instant::now()) {
                exchange.stats().retry_overflow();
                return self.give_up(reason, exchange);
            }
            exchange.stats().retry();
            self.pause(&retry, tried.len()).await;
            next = unsent.or_else(|| again.next());
        }
    }

    fn give_up(&self, reason: Reason, mut exchange: Exchange) -> Response<ResponseBody> {
        exchange.fail(reason);
        self.world.directory.doubt(&self.pool.id);
        respond::failure(reason, self.grpc, "")
    }

    async fn pause(&self, retry: &Option<remora_model::Retry>, tries: usize) {
        let least = retry.as_ref().map_or(Duration::ZERO, |retry| retry.backoff);
        let wait = retry::backoff(least, tries as u32, &mut self.world.rng.borrow_mut());
        tokio::time::sleep(wait).await;
    }

    async fn attempt(&self, request: Request<RequestBody>, tried: &mut Vec<SocketAddr>) -> Tried {
        let picked = self.pool.pick(&mut self.world.rng.borrow_mut(), tried);
        let (upstream, in_flight) = match picked {
            Ok(picked) => picked,
            // Every endpoint was tried: one of them may try again.
            Err(_) if !tried.is_empty() => match self.pool.pick(&mut self.world.rng.borrow_mut(), &[]) {
                Ok(picked) => picked,
                Err(reason) => return Tried::Failed { reason, unsent: None },
            },
            Err(reason) => return Tried::Failed { reason, unsent: None },
        };
        tried.push(upstream.endpoint.address);
        let permit = policy::outbound();
        let sent = Instant::now();
        let sending = self.send(&upstream, &permit, request);
        let result = match self.rule().and_then(|rule| rule.timeouts.backend_request) {
            None => sending.await,
            Some(within) => match tokio::time::timeout(within, sending).await {
                Ok(result) => result,
                Err(_) => Err(Failed { reason: Reason::Timeout, unsent: None }),
            },
        };
        self.judge(result, in_flight, upstream, sent.elapsed())
    }

    async fn send(
        &self,
        upstream: &Rc<Upstream>,
        permit: &Permit,
        mut request: Request<RequestBody>,
    ) -> Result<Answer, Failed> {
        if upstream.endpoint.identity.is_some() {
            return upstream.send_http2(&self.world, permit, request).await;
        }
        let restore = request.headers_mut().remove(headers::RESTORE);
        request.headers_mut().remove(headers::HOPS);
        match restore {
            Some(version) if self.pool.protocol() != Protocol::Http2 => {
                let version = if version == "1.0" { Version::HTTP_10 } else { Version::HTTP_11 };
                headers::to_http1(&mut request, version);
                upstream.send_http1(&self.world, permit, request).await
            }
            _ => upstream.send_http2(&self.world, permit, request).await,
        }
    }

    fn judge(
        &self,
        result: Result<Answer, Failed>,
        in_flight: InFlight,
        upstream: Rc<Upstream>,
        latency: Duration,
    ) -> Tried {
        let answer = match result {
            Ok(answer) => answer,
            Err(Failed { reason, unsent }) => {
                let outcome = match reason {
                    Reason::IdentityMismatch => Outcome::WrongIdentity,
                    Reason::ConnectRefused | Reason::ConnectTimeout | Reason::ConnectFailed | Reason::TlsRefused => {
                        Outcome::Unreachable
                    }
                    _ => Outcome::Failure,
                };
                in_flight.record(Instant::now(), latency, outcome);
                if outcome != Outcome::Failure {
                    self.world.directory.doubt(&self.pool.id);
                }
                return Tried::Failed { reason, unsent };
            }
        };
        let response = &answer.response;
        // Only a peer that proved who it is may say that it did not deliver the request.
        let undelivered = upstream.endpoint.identity.is_some() && undelivered(response);
        let failed = response.status().is_server_error() || (self.grpc && exchange::grpc_failed(response.headers()));
        let outcome = match (undelivered, failed) {
            (true, _) => Outcome::Unreachable,
            (_, true) => Outcome::Failure,
            _ => Outcome::Success,
        };
        in_flight.record(Instant::now(), latency, outcome);
        let listed = self
            .rule()
            .and_then(|rule| rule.retry.as_ref())
            .is_some_and(|retry| retry.codes.contains(&response.status()));
        if undelivered || listed {
            Tried::Unwelcome(answer, in_flight, upstream)
        } else {
            Tried::Answered(answer, in_flight, upstream)
        }
    }
}

fn undelivered(response: &Response<Incoming>) -> bool {
    response.headers().get(headers::ERROR).and_then(|word| Reason::from_bytes(word.as_bytes())).is_some_and(|reason| {
        matches!(
            reason,
            Reason::ConnectRefused
                | Reason::ConnectTimeout
                | Reason::ConnectFailed
                | Reason::Draining
                | Reason::Overloaded
                | Reason::QueueFull
        )
    })
}

fn finish(
    answer: Answer,
    in_flight: InFlight,
    upstream: Rc<Upstream>,
    mut exchange: Exchange,
) -> Response<ResponseBody> {
    let Answer { response, connection } = answer;
    let (mut parts, body) = response.into_parts();
    headers::strip_hop_by_hop(&mut parts.headers);
    if upstream.endpoint.identity.is_none() {
        headers::strip_reserved(&mut parts.headers);
    }
    let give_back =
        connection.map(|connection| -> Box<dyn FnOnce()> { Box::new(move || upstream.give_back(connection)) });
    exchange.head(parts.status, Some(in_flight), give_back);
    parts.version = Version::HTTP_11;
    if http_body::Body::is_end_stream(&body) {
        exchange.ended(Some(&parts.headers));
        return Response::from_parts(parts, ResponseBody::Empty);
    }
    Response::from_parts(parts, ResponseBody::Upstream { body, exchange })
}

/// What it takes to send a request another time.
struct Again {
    head: Option<Parts>,
    body: Option<Replayable>,
    first: Option<Request<RequestBody>>,
}

impl Again {
    fn new(parts: Parts, body: RequestBody, repeatable: bool) -> Self {
        if !repeatable {
            return Self { head: None, body: None, first: Some(Request::from_parts(parts, body)) };
        }
        let (replay, body) = match body {
            RequestBody::Stream(source) => {
                let replay = Replayable::new(source);
                let body = replay.body();
                (Some(replay), body)
            }
            body => (None, body),
        };
        Self { head: Some(parts.clone()), body: replay, first: Some(Request::from_parts(parts, body)) }
    }

    fn first(&mut self) -> Option<Request<RequestBody>> {
        self.first.take()
    }

    fn possible(&self) -> bool {
        self.head.is_some() && self.body.as_ref().is_none_or(Replayable::is_whole)
    }

    fn next(&self) -> Option<Request<RequestBody>> {
        let body = self.body.as_ref().map_or(RequestBody::Empty, Replayable::body);
        self.head.clone().map(|head| Request::from_parts(head, body))
    }
}
