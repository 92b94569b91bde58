//! The tries of one request: pick an endpoint, send, judge the answer, and again while the route, the budget and the
//! deadline allow it.

use super::{
    Wire,
    body::{replay::Replayable, request::RequestBody, response::ResponseBody},
    destination::Destination,
    exchange::Exchange,
    filter,
    governed::Governed,
    grpc, headers, mirror, respond,
    stall::Overloaded,
    upgrade::{self, Leaving},
};
use crate::{
    backend::{
        self, Entered, InFlight, Outcome, Pool,
        endpoint::{Answer, Callers, Failed, Upstream},
        outcome,
    },
    limits,
    policy::{self, Permit, To},
    telemetry::Reason,
    world::World,
};
use futures_util::future::Either;
use http::{Request, Response, Version, request::Parts, uri::Authority};
use std::{
    future::pending,
    net::SocketAddr,
    rc::Rc,
    time::{Duration, Instant},
};
use tokio::time::timeout_at;

/// A request with all that its tries need.
pub(super) struct Call {
    world: Rc<World>,
    /// Whose request it is.
    client: Rc<Destination>,
    wire: Wire,
    governed: Governed,
    pool: Rc<Pool>,
    mirrors: Vec<Rc<Pool>>,
    /// What it takes to leave HTTP, if the request asks for that.
    leaving: Option<Box<Leaving>>,
    /// Taken by whatever ends the call.
    exchange: Option<Exchange>,
    /// The next try.
    next: Option<Request<RequestBody>>,
    /// Tries beyond the first.
    attempts: u32,
    /// Whether a request that may have been delivered may be sent again.
    repeatable: bool,
    /// What another one, or a mirror, is made of.
    again: Option<Again>,
    /// Its place in the backend's bound on requests, given up with the call.
    _entered: Option<Entered>,
    /// When the whole exchange must be over.
    deadline: Option<Instant>,
    failed: Vec<SocketAddr>,
}

/// What it takes to send a request another time.
struct Again {
    head: Parts,
    /// `None`: the request has no body.
    body: Option<Replayable>,
}

impl Again {
    fn possible(&self) -> bool {
        self.body.as_ref().is_none_or(Replayable::is_whole)
    }

    fn request(&self) -> Request<RequestBody> {
        let body = self.body.as_ref().map_or(RequestBody::Empty, |body| RequestBody::Replay(body.body()));
        Request::from_parts(self.head.clone(), body)
    }
}

/// An answer, with what it leaves behind when it is passed on.
struct Answered {
    answer: Answer,
    in_flight: InFlight,
    /// Whether it came from a proxy of the mesh, whose reserved headers are to be believed.
    mesh: bool,
    /// When the try must be over, its body included.
    until: Option<Instant>,
    permit: Permit,
}

/// What a try came to.
enum Tried {
    Answered(Answered),
    /// An answer worth another try: of any request, if the peer says that it was not delivered.
    Unwelcome(Answered, Option<Fate>),
    Failed {
        reason: Reason,
        unsent: Option<Box<Request<RequestBody>>>,
        /// The server says that it has not looked at the request.
        unprocessed: bool,
    },
}

impl Tried {
    /// With nothing to be sent again but what is kept.
    fn failed(reason: Reason) -> Self {
        Self::Failed { reason, unsent: None, unprocessed: false }
    }
}

impl Call {
    pub(super) fn new(
        world: Rc<World>,
        (client, wire): (Rc<Destination>, Wire),
        governed: Governed,
        pool: Rc<Pool>,
        mirrors: Vec<Rc<Pool>>,
        leaving: Option<Box<Leaving>>,
        exchange: Exchange,
    ) -> Self {
        Self {
            world,
            client,
            wire,
            governed,
            pool,
            mirrors,
            leaving,
            exchange: Some(exchange),
            next: None,
            attempts: 0,
            repeatable: false,
            again: None,
            _entered: None,
            deadline: None,
            failed: Vec::new(),
        }
    }

    /// Makes the request ready for its first try, or says why it has none.
    pub(super) fn prepare(
        &mut self,
        mut request: Request<RequestBody>,
        authority: Option<&Authority>,
    ) -> Result<(), Box<Response<ResponseBody>>> {
        let Some(entered) = self.pool.enter() else {
            return Err(Box::new(self.give_up(Reason::QueueFull, "too many requests wait for this backend")));
        };
        self._entered = Some(entered);
        self.set_deadline(&mut request);
        if let Some(leaving) = &self.leaving {
            request = leaving.prepare(request);
        } else {
            let version = request.version();
            headers::strip_hop_by_hop(request.headers_mut());
            if self.wire == Wire::Http1 {
                // A mesh peer restores it; towards anybody else the request stays HTTP/1 and this is taken off again.
                request.headers_mut().insert(headers::RESTORE, headers::restore_value(version));
            } else {
                request.headers_mut().insert(headers::CALLER, self.client.callers.name());
            }
            if let Err(reason) = headers::to_http2(&mut request, authority) {
                return Err(Box::new(self.give_up(reason, "the request's target is malformed")));
            }
        }
        self.pool.deposit(self.started());
        let (any_method, attempts) =
            self.governed.retry().map_or((false, limits::DEFAULT_RETRIES), |retry| (retry.any_method, retry.attempts));
        self.attempts = attempts;
        self.repeatable = attempts > 0 && (any_method || request.method().is_idempotent());
        self.next = Some(if attempts > 0 || !self.mirrors.is_empty() { self.keep(request) } else { request });
        Ok(())
    }

    /// Keeps what a further try, or a mirror, is made of.
    fn keep(&mut self, request: Request<RequestBody>) -> Request<RequestBody> {
        let (parts, body) = request.into_parts();
        let (kept, body) = match body {
            RequestBody::Stream(source) => {
                let kept = Replayable::new(source);
                let body = RequestBody::Replay(kept.body());
                (Some(kept), body)
            }
            body => (None, body),
        };
        self.again = Some(Again { head: parts.clone(), body: kept });
        Request::from_parts(parts, body)
    }

    /// The request's deadline: the route's, or the caller's `grpc-timeout` if that is shorter, which is passed on.
    fn set_deadline(&mut self, request: &mut Request<RequestBody>) {
        let grpc = self.is_grpc();
        let route = self.governed.rule().and_then(|rule| rule.timeouts.request);
        let caller = if grpc { grpc::timeout(request.headers()) } else { None };
        let Some(within) = [route, caller].into_iter().flatten().min() else { return };
        let started = self.started();
        if grpc {
            grpc::set_timeout(request.headers_mut(), within.saturating_sub(started.elapsed()));
        }
        self.deadline = Some(started + within);
    }

    fn is_grpc(&self) -> bool {
        self.exchange.as_ref().is_some_and(Exchange::is_grpc)
    }

    fn started(&self) -> Instant {
        self.exchange.as_ref().map_or_else(Instant::now, Exchange::started)
    }

    /// Answers the request.
    pub(super) async fn run(&mut self) -> Response<ResponseBody> {
        let tried = match self.deadline {
            None => self.tries().await,
            Some(deadline) => match timeout_at(deadline.into(), self.tries()).await {
                Ok(tried) => tried,
                Err(_) => Err(Reason::Timeout),
            },
        };
        if !self.mirrors.is_empty()
            && let Some(again) = &self.again
        {
            mirror::send(&self.world, std::mem::take(&mut self.mirrors), &again.head, again.body.as_ref());
        }
        match tried {
            Ok(answered) => self.pass_on(answered),
            Err(Reason::Timeout) => self.give_up(Reason::Timeout, "the request's deadline passed"),
            Err(reason) => self.give_up(reason, ""),
        }
    }

    async fn tries(&mut self) -> Result<Answered, Reason> {
        let mut made: u32 = 0;
        let mut before = None;
        loop {
            let tried = self.attempt().await;
            let reason = if let Tried::Failed { reason, .. } = &tried { Some(*reason) } else { None };
            let passed_over = self.passes_over(&tried);
            let again = passed_over || {
                made += 1;
                self.retry(&tried, made)
            };
            match (tried, again) {
                (Tried::Answered(answered) | Tried::Unwelcome(answered, _), false) => return Ok(answered),
                // What put the last endpoint out of use says more than that there is none.
                (Tried::Failed { reason: reason @ (Reason::NoEndpoints | Reason::AllEjected), .. }, false) => {
                    return Err(before.unwrap_or(reason));
                }
                (Tried::Failed { reason, .. }, false) => return Err(reason),
                (Tried::Failed { unsent: Some(request), .. }, true) => self.next = Some(*request),
                (_, true) => self.next = self.again.as_ref().map(Again::request),
            }
            before = reason.or(before);
            if !passed_over {
                self.pause(made).await;
            }
        }
    }

    /// Whether the request goes on to another endpoint at once, because nobody took it at this one. A route that allows no
    /// second try means that too.
    fn passes_over(&self, tried: &Tried) -> bool {
        let reason = match tried {
            Tried::Failed { reason, unsent: Some(_), .. } => *reason,
            Tried::Failed { reason, unprocessed: true, .. } if self.is_kept() => *reason,
            Tried::Unwelcome(_, Some(Fate::Undelivered(reason))) if self.is_kept() => *reason,
            _ => return false,
        };
        let passes = self.attempts > 0 && self.pool.passes_over(&self.failed, reason);
        if passes && let Some(exchange) = &self.exchange {
            exchange.stats().retry();
        }
        passes
    }

    /// Whether it can be sent another time.
    fn is_kept(&self) -> bool {
        self.again.as_ref().is_some_and(Again::possible)
    }

    /// Whether there is another try, which is paid for then.
    fn retry(&self, tried: &Tried, made: u32) -> bool {
        let possible = self.is_kept();
        let again = self.repeatable && possible;
        let worth = match tried {
            Tried::Answered(_) => false,
            Tried::Unwelcome(_, Some(Fate::Undelivered(_))) => possible,
            Tried::Unwelcome(..) => again,
            Tried::Failed { reason: Reason::NoEndpoints | Reason::AllEjected | Reason::Internal, .. } => false,
            Tried::Failed { unprocessed: true, .. } => possible,
            Tried::Failed { unsent, .. } => unsent.is_some() || again,
        };
        if !worth || made > self.attempts {
            return false;
        }
        let paid = self.pool.withdraw(Instant::now());
        if let Some(exchange) = &self.exchange {
            if paid { exchange.stats().retry() } else { exchange.stats().retry_overflow() }
        }
        paid
    }

    async fn pause(&self, made: u32) {
        let least = self.governed.retry().map_or(Duration::ZERO, |retry| retry.backoff);
        let wait = backend::backoff(least, made, &mut self.world.resources.rng.borrow_mut());
        tokio::time::sleep(wait).await;
    }

    async fn attempt(&mut self) -> Tried {
        let sent = if self.failed.is_empty() { self.started() } else { Instant::now() };
        let (upstream, in_flight) = match self.pick(sent) {
            Ok(picked) => picked,
            Err(reason) => return Tried::failed(reason),
        };
        let within = self.governed.rule().and_then(|rule| rule.timeouts.backend_request);
        let until = within.map(|within| sent + within);
        let mut stale = 0;
        let permit = policy::outbound(To::Endpoint(&upstream.endpoint));
        let result = loop {
            let Some(request) = self.next.take() else {
                return Tried::failed(Reason::Internal);
            };
            let sending = match &self.leaving {
                None => {
                    Either::Left(send(&self.client.callers, &upstream, &permit, sent, request, self.pool.protocol()))
                }
                Some(leaving) => {
                    Either::Right(Box::pin(upgrade::send(&self.world, &upstream, &permit, leaving, request)))
                }
            };
            let result = match until {
                None => sending.await,
                Some(until) => match timeout_at(until.into(), sending).await {
                    Ok(result) => result,
                    Err(_) => Err(Failed::sent(Reason::Timeout)),
                },
            };
            match result {
                // Connections that closed while they were kept; each of them is used up by this.
                Err(Failed { stale: true, unsent: Some(request), .. }) if stale < limits::IDLE_CONNECTIONS_MAX => {
                    stale += 1;
                    self.next = Some(*request);
                }
                result => break result,
            }
        };
        self.judge(result.map(|answer| (answer, permit)), in_flight, &upstream, sent, until)
    }

    /// An endpoint that did not fail yet; where all did, any of them may try again.
    fn pick(&self, now: Instant) -> Result<(Rc<Upstream>, InFlight), Reason> {
        let mut rng = self.world.resources.rng.borrow_mut();
        match self.pool.pick(now, &mut rng, &self.failed) {
            Err(_) if !self.failed.is_empty() => self.pool.pick(now, &mut rng, &[]),
            Ok((upstream, in_flight)) if in_flight.is_probe() && upstream.is_away() => {
                upstream.probe(&policy::outbound(To::Endpoint(&upstream.endpoint)), in_flight);
                self.pool.pick(now, &mut rng, &self.failed)
            }
            picked => picked,
        }
    }

    /// Tells the endpoint's statistics how it went, and says what follows.
    fn judge(
        &mut self,
        result: Result<(Answer, Permit), Failed>,
        in_flight: InFlight,
        upstream: &Upstream,
        sent: Instant,
        until: Option<Instant>,
    ) -> Tried {
        let now = Instant::now();
        let (answer, permit) = match result {
            Ok(answered) => answered,
            Err(Failed { reason, unprocessed: true, .. }) => {
                // No word about the endpoint's health: it is busy, or goes in order.
                self.failed.push(upstream.endpoint.address);
                return Tried::Failed { reason, unsent: None, unprocessed: true };
            }
            Err(Failed { reason, unsent, .. }) => {
                let failed = |unsent| Tried::Failed { reason, unsent, unprocessed: false };
                let Some(outcome) = outcome::of(reason) else { return failed(unsent) };
                in_flight.record(now, now.saturating_duration_since(sent), outcome);
                if outcome != Outcome::Failure {
                    self.pool.doubt();
                }
                self.failed.push(upstream.endpoint.address);
                return failed(unsent);
            }
        };
        let response = &answer.response;
        // Only a peer that proved who it is may say what became of the request.
        let fate = upstream.endpoint.identity.as_ref().and_then(|_| fate(response));
        let failed = response.status().is_server_error() || (self.is_grpc() && grpc::failed(response.headers()));
        let outcome = match (fate, failed) {
            (Some(Fate::Undelivered(_)), _) => Outcome::Unreachable,
            (_, true) => Outcome::Failure,
            _ => Outcome::Success,
        };
        in_flight.record(now, now.saturating_duration_since(answer.sent.unwrap_or(sent)), outcome);
        let listed = self.governed.retry().is_some_and(|retry| retry.codes.contains(&response.status()));
        let answered = Answered { answer, in_flight, mesh: upstream.endpoint.identity.is_some(), until, permit };
        if fate.is_some() || listed {
            self.failed.push(upstream.endpoint.address);
            Tried::Unwelcome(answered, fate)
        } else {
            Tried::Answered(answered)
        }
    }

    fn give_up(&mut self, reason: Reason, detail: &str) -> Response<ResponseBody> {
        let grpc = self.is_grpc();
        if let Some(mut exchange) = self.exchange.take() {
            exchange.fail(reason);
        }
        respond::failure(reason, grpc, detail)
    }

    /// The upstream's answer, counted to its end.
    fn pass_on(&mut self, answered: Answered) -> Response<ResponseBody> {
        let Answered { answer: Answer { response, lease, .. }, in_flight, mesh, until, permit } = answered;
        if let Some(leaving) = self.leaving.take_if(|leaving| leaving.has_left(&response)) {
            let Some(exchange) = self.exchange.take() else { return respond::failure(Reason::Internal, false, "") };
            return leaving.switch(&self.world, response, permit, exchange, Some(in_flight), pending());
        }
        let (mut parts, body) = response.into_parts();
        headers::strip_hop_by_hop(&mut parts.headers);
        if !mesh {
            headers::strip_reserved(&mut parts.headers);
        }
        parts.version = Version::HTTP_11;
        let Some(mut exchange) = self.exchange.take() else {
            return respond::failure(Reason::Internal, false, "");
        };
        exchange.head(parts.status, Some(in_flight), lease);
        exchange.bound([self.deadline, until].into_iter().flatten().min());
        let empty = http_body::Body::is_end_stream(&body);
        if empty {
            exchange.ended(Some(&parts.headers));
        }
        for filter in self.governed.filters() {
            filter::response(filter, &mut parts.headers);
        }
        let grpc = exchange.is_grpc();
        let body = if empty { Ok(ResponseBody::Empty) } else { ResponseBody::upstream(body, exchange) };
        match body {
            Ok(body) => Response::from_parts(parts, body),
            Err(Overloaded) => respond::failure(Reason::Overloaded, grpc, ""),
        }
    }
}

/// Hands the request to the endpoint, in the form that it takes.
fn send<'a>(
    callers: &'a Callers,
    upstream: &'a Rc<Upstream>,
    permit: &'a Permit,
    now: Instant,
    mut request: Request<RequestBody>,
    protocol: remora_model::Protocol,
) -> impl Future<Output = Result<Answer, Failed>> + use<'a> {
    if headers::fit(&mut request, upstream.endpoint.identity.is_some(), protocol) {
        Either::Left(upstream.send_http1(permit, now, request))
    } else {
        Either::Right(upstream.send_http2(permit, Some((callers, 0)), request))
    }
}

/// What a peer says that became of the request.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// Its application was not reached, or it took nothing new, for this reason.
    Undelivered(Reason),
    /// Its application broke off: as if the connection to the peer had broken, but that the peer itself is well.
    BrokenOff,
}

fn fate<B>(response: &Response<B>) -> Option<Fate> {
    let reason = response.headers().iter().find(|(name, _)| **name == headers::ERROR)?.1;
    let reason = Reason::from_bytes(reason.as_bytes())?;
    match reason {
        Reason::ConnectRefused
        | Reason::ConnectTimeout
        | Reason::ConnectFailed
        | Reason::Draining
        | Reason::Overloaded
        | Reason::QueueFull => Some(Fate::Undelivered(reason)),
        Reason::UpstreamReset => Some(Fate::BrokenOff),
        _ => None,
    }
}
