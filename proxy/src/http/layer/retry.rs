//! Sends a request again if that is safe and useful: to another endpoint at once if the first was unreachable, else after
//! a pause (backoff), within the rule's attempts and the backend's retry budget.
//!
//! Stands inside [`Deadline`](super::Deadline), which bounds all tries together, and outside of
//! [`Authorize`](super::Authorize), so that each try is judged. The first try is one call of the inner service; only what comes after
//! a try that failed is boxed, and reads as the loop that it is.
//!
//! Not `tower::retry`: its policy can neither carry the endpoints that failed, nor walk past endpoints that are not there
//! without paying from the budget.

use super::{Outcome, always_ready};
use crate::{
    backend::{self, Pool},
    http::{
        body::{kept::Kept, request::RequestBody},
        grpc,
        request::{Answered, Attempt, ClientConnection, Failed, Fate, Outgoing},
        upgrade::Offer,
    },
    limits,
    resources::Resources,
    telemetry::{Reason, Record},
};
use http::{Request, StatusCode};
use pin_project_lite::pin_project;
use remora_model::{GrpcCodes, Retry as Rule};
use std::{
    net::SocketAddr,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::time::Instant;
use tower::{Layer, Service};

/// Makes [`Retry`] of one backend of one rule.
#[derive(Debug, Clone)]
pub(crate) struct RetryLayer {
    rule: Rc<Rule>,
    pool: Rc<Pool>,
    resources: Rc<Resources>,
}

impl RetryLayer {
    /// As the rule says; without a word of it, [`limits::DEFAULT_RETRIES`] of what is safe.
    pub(crate) fn of(rule: Option<&Rule>, pool: &Rc<Pool>, resources: &Rc<Resources>) -> Self {
        let default = || Rule {
            attempts: limits::DEFAULT_RETRIES,
            codes: Vec::new(),
            grpc_codes: GrpcCodes::default(),
            backoff: Duration::ZERO,
            any_method: false,
        };
        Self { rule: Rc::new(rule.cloned().unwrap_or_else(default)), pool: pool.clone(), resources: resources.clone() }
    }
}

impl<S> Layer<S> for RetryLayer {
    type Service = Retry<S>;

    fn layer(&self, inner: S) -> Retry<S> {
        Retry { inner, layer: self.clone() }
    }
}

/// See the module.
#[derive(Debug, Clone)]
pub(crate) struct Retry<S> {
    inner: S,
    layer: RetryLayer,
}

impl<S> Service<Outgoing> for Retry<S>
where
    S: Service<Attempt, Response = Box<Answered>, Error = Failed> + Clone + 'static,
{
    type Response = Box<Answered>;
    type Error = Failed;
    type Future = Tries<S, S::Future>;

    always_ready!();

    fn call(&mut self, outgoing: Outgoing) -> Self::Future {
        let RetryLayer { rule, pool, .. } = &self.layer;
        let Outgoing { request, started, grpc, client, record, offer, .. } = outgoing;
        pool.deposit(started);
        let repeatable = rule.attempts > 0 && (rule.any_method || request.method().is_idempotent());
        let (kept, request) = match rule.attempts {
            0 => (None, request),
            _ => {
                let (kept, request) = Kept::of(request);
                (Some(kept), request)
            }
        };
        let first = Attempt {
            request,
            began: started,
            grpc,
            client: client.clone(),
            record: record.clone(),
            offer: offer.clone(),
            tried: Vec::new(),
        };
        let first = self.inner.call(first);
        let again = Again { service: self.clone(), kept, repeatable, grpc, client, offer, record };
        Tries { state: State::First { first }, again: Some(Box::new(again)) }
    }
}

pin_project! {
    /// A request that is tried until it has an answer, or no further try is worth it.
    pub(crate) struct Tries<S, F> {
        #[pin]
        state: State<F>,
        // Boxed: it is the larger part, and rests until the answer has come, while the future is moved.
        again: Option<Box<Again<S>>>,
    }
}

pin_project! {
    #[project = StateProjection]
    enum State<F> {
        First { #[pin] first: F },
        Rest { rest: Pin<Box<dyn Future<Output = Outcome>>> },
    }
}

impl<S> Future for Tries<S, S::Future>
where
    S: Service<Attempt, Response = Box<Answered>, Error = Failed> + Clone + 'static,
{
    type Output = Outcome;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome> {
        let mut this = self.project();
        if let StateProjection::First { first } = this.state.as_mut().project() {
            let outcome = ready!(first.poll(cx));
            // Nearly every request ends here; only the others pay for a box.
            let Some(again) = this.again.take().filter(|again| again.is_wanted(&outcome)) else {
                return Poll::Ready(outcome);
            };
            this.state.set(State::Rest { rest: Box::pin(again.after(outcome)) });
        }
        match this.state.project() {
            StateProjection::Rest { rest } => rest.as_mut().poll(cx),
            StateProjection::First { .. } => Poll::Pending,
        }
    }
}

/// What it takes to send a request another time.
struct Again<S> {
    service: Retry<S>,
    kept: Option<Kept>,
    /// Whether a request that may have been delivered may be sent again.
    repeatable: bool,
    grpc: bool,
    client: Rc<ClientConnection>,
    offer: Option<Rc<Offer>>,
    record: Rc<Record>,
}

impl<S> Again<S> {
    fn rule(&self) -> &Rule {
        &self.service.layer.rule
    }

    fn pool(&self) -> &Pool {
        &self.service.layer.pool
    }

    /// Whether anything but this answer may come of the request.
    fn is_wanted(&self, outcome: &Outcome) -> bool {
        match outcome {
            Err(_) => true,
            Ok(answered) => self.is_unwelcome(answered),
        }
    }

    /// An answer worth another try: the peer says that it is not its application's, or the rule lists its status.
    fn is_unwelcome(&self, answered: &Answered) -> bool {
        let listed = |status: StatusCode| self.rule().codes.contains(&status);
        fate(answered).is_some() || listed(answered.response.status()) || self.lists_grpc(answered)
    }

    /// Whether the application answers a gRPC call by a status that the rule lists. Only one in the head counts (Trailers-Only,
    /// gRPC over HTTP/2): behind messages that were passed on nothing can be sent again.
    fn lists_grpc(&self, answered: &Answered) -> bool {
        let codes = self.rule().grpc_codes;
        let status = (self.grpc && !codes.is_empty()).then(|| grpc::status(answered.response.headers())).flatten();
        status.is_some_and(|status| codes.contain(status)) && fate(answered).is_none()
    }

    /// Whether the whole request can be sent another time.
    fn is_kept(&self) -> bool {
        self.kept.as_ref().is_some_and(Kept::is_whole)
    }

    /// Whether the request goes to another endpoint at once, because this one did not accept it. A rule that allows no
    /// second try forbids that too.
    fn passes_over(&self, outcome: &Outcome, tried: &[SocketAddr]) -> bool {
        let reason = match outcome {
            Err(Failed { reason, unsent: Some(_), .. }) => *reason,
            Err(Failed { reason, unprocessed: true, .. }) if self.is_kept() => *reason,
            Ok(answered) if self.is_kept() => match fate(answered) {
                Some(Fate::Undelivered(reason)) => reason,
                _ => return false,
            },
            _ => return false,
        };
        self.rule().attempts > 0 && self.pool().passes_over(tried, reason)
    }

    /// Whether there is another try after `made` of them, which is paid for then.
    fn retries(&self, outcome: &Outcome, made: u32) -> bool {
        let possible = self.is_kept();
        let repeats = self.repeatable && possible;
        let worth = match outcome {
            Ok(answered) => match fate(answered) {
                Some(Fate::Undelivered(_)) => possible,
                // Whoever lists it says that such a call may be sent twice; every call is a POST.
                None if self.lists_grpc(answered) => possible,
                _ => repeats && self.is_unwelcome(answered),
            },
            Err(Failed {
                reason: Reason::NoEndpoints | Reason::AllEjected | Reason::Internal | Reason::ResponseHeaderTooLarge,
                ..
            }) => false,
            Err(Failed { unprocessed: true, .. }) => possible,
            Err(Failed { unsent, .. }) => unsent.is_some() || repeats,
        };
        if !worth || made > self.rule().attempts {
            return false;
        }
        let paid = self.pool().withdraw(Instant::now());
        if !paid {
            self.record.retry_overflow();
        }
        paid
    }

    async fn pause(&self, made: u32) {
        let resources = &self.service.layer.resources;
        let wait = backend::backoff(self.rule().backoff, made, &mut resources.rng.borrow_mut());
        tokio::time::sleep(wait).await;
    }
}

impl<S> Again<S>
where
    S: Service<Attempt, Response = Box<Answered>, Error = Failed>,
{
    /// All that follows after a first try that came to this.
    async fn after(mut self: Box<Self>, mut outcome: Outcome) -> Outcome {
        let (mut tried, mut made, mut before) = (Vec::new(), 0, None);
        loop {
            match &outcome {
                Ok(answered) if self.is_unwelcome(answered) => tried.extend(endpoint(answered)),
                Ok(_) => {}
                Err(failed) => tried.extend(failed.endpoint),
            }
            let passes_over = self.passes_over(&outcome, &tried);
            if !passes_over {
                made += 1;
                if !self.retries(&outcome, made) {
                    return last(outcome, before);
                }
            }
            let unsent = match outcome {
                // Let go before the next try: it counts at its endpoint, and holds a connection.
                Ok(answered) => {
                    drop(answered);
                    None
                }
                Err(Failed { reason, unsent, .. }) => {
                    before = Some(reason);
                    unsent
                }
            };
            let Some(request) = unsent.map(|unsent| *unsent).or_else(|| self.kept.as_ref().map(Kept::request)) else {
                return Err(Failed::new(Reason::Internal));
            };
            if !passes_over {
                self.pause(made).await;
            }
            // Counted now: the client may have left, or the deadline passed, while this waited.
            self.record.retry();
            outcome = self.attempt(request, tried.clone()).await;
        }
    }

    fn attempt(&mut self, request: Request<RequestBody>, tried: Vec<SocketAddr>) -> S::Future {
        let (client, record, offer) = (self.client.clone(), self.record.clone(), self.offer.clone());
        let attempt = Attempt { request, began: Instant::now(), grpc: self.grpc, client, record, offer, tried };
        self.service.inner.call(attempt)
    }
}

/// The last try's outcome; but what put the last endpoint out of use says more than that there is none.
fn last(outcome: Outcome, before: Option<Reason>) -> Outcome {
    outcome.map_err(|failed| match (failed.reason, before) {
        (Reason::NoEndpoints | Reason::AllEjected, Some(reason)) => Failed { reason, ..failed },
        _ => failed,
    })
}

fn fate(answered: &Answered) -> Option<Fate> {
    answered.origin.as_ref().and_then(|origin| origin.fate)
}

fn endpoint(answered: &Answered) -> Option<SocketAddr> {
    answered.origin.as_ref().map(|origin| origin.endpoint)
}

#[cfg(test)]
mod tests {
    use super::{
        super::test::{Inner, World, address, failed, generous, paused, told},
        *,
    };
    use crate::http::Wire;
    use remora_model::BackendSettings;
    use std::cell::RefCell;

    /// What a try comes to.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    enum Try {
        Answer(u16),
        Fate(Fate),
        /// Bytes of the request may have arrived.
        Sent(Reason),
        /// None of its bytes left.
        Unsent(Reason),
        /// The server says that it has not looked at it.
        Unprocessed(Reason),
    }
    use Try::{Answer, Sent, Unprocessed, Unsent};

    const UNDELIVERED: Try = Try::Fate(Fate::Undelivered(Reason::ConnectRefused));
    const BROKEN_OFF: Try = Try::Fate(Fate::BrokenOff);

    fn outcome(world: &World, tried: Try, number: usize) -> Outcome {
        let endpoint = Some(address(number as u16 + 1));
        match tried {
            Answer(status) => world.answer(status, None),
            Try::Fate(fate) => world.answer(503, Some(fate)),
            Sent(reason) => Err(Failed { endpoint, ..Failed::new(reason) }),
            Unprocessed(reason) => Err(Failed { endpoint, ..Failed::unprocessed(reason) }),
            Unsent(reason) => {
                let request = Request::get("http://api/unsent").body(RequestBody::Empty).unwrap();
                Err(Failed { endpoint, ..Failed::unsent(reason, request) })
            }
        }
    }

    /// How often a request is sent that comes to this each time, and what is told in the end.
    fn sent(method: &str, rule: Option<&Rule>, tries: &'static [Try]) -> (usize, String) {
        let mut result = None;
        paused(async {
            let world = Rc::new(World::new(&[address(1), address(2), address(3)]));
            let answers = world.clone();
            let inner =
                Inner::<Attempt>::ready(move |number| outcome(&answers, tries[number.min(tries.len() - 1)], number));
            let mut service = RetryLayer::of(rule, &world.pool, &world.resources).layer(inner.clone());
            let asked = world.outgoing(Wire::Http1, Request::builder().method(method).uri("http://api/"));
            let told = told(&service.call(asked).await);
            let retries = world.counted("retries") as usize;
            assert_eq!(inner.asked(), 1 + retries, "each try beyond the first is counted");
            result = Some((inner.asked(), told));
        });
        result.unwrap()
    }

    fn rule(attempts: u32, codes: &[u16], any_method: bool) -> Rule {
        let codes = codes.iter().map(|code| StatusCode::from_u16(*code).unwrap()).collect();
        Rule { attempts, codes, grpc_codes: GrpcCodes::default(), backoff: Duration::ZERO, any_method }
    }

    #[test]
    fn what_is_sent_again_and_how_often() {
        let some = rule(2, &[503], false);
        let any = rule(2, &[503], true);
        let none = rule(0, &[503], true);
        // Method, rule, what each try comes to (the last for all that follow), how often it is sent, what is told.
        type Row<'a> = (&'a str, Option<&'a Rule>, &'static [Try], usize, &'a str);
        let rows: &[Row<'_>] = &[
            ("GET", None, &[Answer(200)], 1, "200"),
            ("GET", None, &[Answer(503)], 1, "503"),
            ("GET", Some(&some), &[Answer(503), Answer(200)], 2, "200"),
            ("GET", Some(&some), &[Answer(503)], 3, "503"),
            ("GET", Some(&some), &[Answer(502)], 1, "502"),
            // Not idempotent: only if the rule says so.
            ("POST", Some(&some), &[Answer(503)], 1, "503"),
            ("POST", Some(&any), &[Answer(503), Answer(200)], 2, "200"),
            // It may have been delivered.
            ("GET", None, &[Sent(Reason::UpstreamReset), Answer(200)], 2, "200"),
            ("POST", None, &[Sent(Reason::UpstreamReset)], 1, "upstream_reset"),
            ("POST", Some(&any), &[Sent(Reason::UpstreamReset), Answer(200)], 2, "200"),
            ("PATCH", None, &[BROKEN_OFF], 1, "503"),
            ("PUT", None, &[BROKEN_OFF, Answer(200)], 2, "200"),
            // It was not.
            ("POST", None, &[Unsent(Reason::TlsRefused), Answer(200)], 2, "200"),
            ("POST", None, &[Unprocessed(Reason::RefusedStream), Answer(200)], 2, "200"),
            ("POST", None, &[Unprocessed(Reason::Draining), Answer(200)], 2, "200"),
            ("POST", None, &[UNDELIVERED, Answer(200)], 2, "200"),
            // Endpoints that are not there are passed over, once each, then tried within the attempts.
            ("POST", None, &[Unsent(Reason::ConnectRefused), Unsent(Reason::ConnectRefused), Answer(200)], 3, "200"),
            // A rule without a second try means every kind of second try.
            ("GET", Some(&none), &[Unsent(Reason::ConnectRefused)], 1, "connect_refused"),
            ("GET", Some(&none), &[Unprocessed(Reason::RefusedStream)], 1, "refused_stream"),
            ("GET", Some(&none), &[Answer(503)], 1, "503"),
            // That there is nobody is no news after the first word of it; what put them away says more.
            ("GET", None, &[Sent(Reason::NoEndpoints)], 1, "no_endpoints"),
            // The next endpoint's would be as large.
            ("GET", Some(&any), &[Sent(Reason::ResponseHeaderTooLarge)], 1, "response_header_too_large"),
            ("GET", None, &[Sent(Reason::UpstreamReset), Sent(Reason::AllEjected)], 2, "upstream_reset"),
        ];
        for (method, rule, tries, times, told) in rows {
            assert_eq!(sent(method, *rule, tries), (*times, (*told).to_owned()), "{method} {rule:?} {tries:?}");
        }
    }

    #[test]
    fn a_grpc_call_is_sent_again_by_the_status_in_the_head_of_its_answer() {
        let listed = Rule { grpc_codes: GrpcCodes::parse("unavailable").unwrap(), ..rule(2, &[], false) };
        let none = Rule { attempts: 0, ..listed.clone() };
        let (call, other) = ("application/grpc", "application/json");
        // Rule, content type, status of the first answer, what a proxy says of it, how often it is sent.
        let rows: [(&Rule, &str, &str, Option<Fate>, usize); 8] = [
            (&listed, call, "14", None, 2),
            (&listed, call, "8", None, 1),
            (&listed, call, "0", None, 1),
            (&listed, call, "014", None, 1),
            (&listed, other, "14", None, 1),
            (&rule(2, &[], true), call, "14", None, 1),
            (&none, call, "14", None, 1),
            // A proxy's word for a call that broke off: it may have been carried out.
            (&listed, call, "14", Some(Fate::BrokenOff), 1),
        ];
        for (rule, kind, status, fate, times) in rows {
            paused(async {
                let world = Rc::new(World::new(&[address(1), address(2)]));
                let (answers, status) = (world.clone(), status.to_owned());
                let inner = Inner::<Attempt>::ready(move |number| {
                    let mut answered = *answers.answer(200, if number == 0 { fate } else { None })?;
                    let status = if number == 0 { &*status } else { "0" };
                    answered.response.headers_mut().insert("grpc-status", status.parse().unwrap());
                    Ok(Box::new(answered))
                });
                let mut service = RetryLayer::of(Some(rule), &world.pool, &world.resources).layer(inner.clone());
                let asked = Request::post("http://api/shop.Api/Get").header("content-type", kind);
                assert_eq!(told(&service.call(world.outgoing(Wire::Http2, asked)).await), "200");
                assert_eq!(inner.asked(), times, "{rule:?} {kind} {fate:?}");
            });
        }
    }

    #[test]
    fn an_endpoint_that_is_not_there_is_passed_over_at_once_and_any_other_try_waits() {
        for (first, waits) in [(Unsent(Reason::ConnectRefused), false), (Sent(Reason::UpstreamReset), true)] {
            paused(async {
                let world = Rc::new(World::new(&[address(1), address(2)]));
                let (answers, began) = (world.clone(), Instant::now());
                let tries = [first, Answer(200)];
                let inner = Inner::<Attempt>::ready(move |number| outcome(&answers, tries[number], number));
                let mut service = RetryLayer::of(None, &world.pool, &world.resources).layer(inner.clone());
                let asked = world.outgoing(Wire::Http1, Request::get("http://api/"));
                assert_eq!(told(&service.call(asked).await), "200");
                assert_eq!(began.elapsed() >= limits::BACKOFF_MIN, waits, "{first:?}");
                let seen = inner.seen.borrow();
                assert_eq!(seen[1].tried, [address(1)], "the next try knows where the one before failed");
                let path = if waits { "/" } else { "/unsent" };
                assert_eq!(seen[1].request.uri().path(), path, "what was not sent is what is sent");
            });
        }
    }

    /// It counts at its endpoint, holds a connection, and memory.
    #[test]
    fn an_answer_that_is_not_passed_on_is_let_go_before_the_next_try() {
        paused(async {
            let world = Rc::new(World::new(&[address(1)]));
            let (answers, held) = (world.clone(), Rc::new(RefCell::new(Vec::new())));
            let seen = held.clone();
            let inner = Inner::<Attempt>::ready(move |number| {
                seen.borrow_mut().push(answers.resources.account.used());
                let charge = answers.resources.pod.charge(1000);
                let answered = *answers.answer(if number == 0 { 503 } else { 200 }, None)?;
                Ok(Box::new(Answered { charge, ..answered }))
            });
            let mut service = RetryLayer::of(Some(&rule(2, &[503], false)), &world.pool, &world.resources).layer(inner);
            assert_eq!(told(&service.call(world.outgoing(Wire::Http1, Request::get("http://api/"))).await), "200");
            assert_eq!(*held.borrow(), [0, 0]);
        });
    }

    #[test]
    fn a_rules_backoff_is_the_least_wait() {
        paused(async {
            let world = Rc::new(World::new(&[address(1)]));
            let (answers, began) = (world.clone(), Instant::now());
            let rule = Rule { backoff: Duration::from_secs(3), ..rule(2, &[503], false) };
            let inner = Inner::<Attempt>::ready(move |_| answers.answer(503, None));
            let mut service = RetryLayer::of(Some(&rule), &world.pool, &world.resources).layer(inner);
            drop(service.call(world.outgoing(Wire::Http1, Request::get("http://api/"))).await);
            assert_eq!(began.elapsed().as_secs(), 6);
        });
    }

    #[test]
    fn retries_end_with_the_budget_and_that_is_counted() {
        paused(async {
            let world = Rc::new(World::new(&[address(1)]));
            let settings = BackendSettings { min_retries: 1, retry_ratio: 0.0, ..generous() };
            world.settings(settings, &[address(1)]);
            let answers = world.clone();
            let inner = Inner::<Attempt>::ready(move |_| answers.answer(503, None));
            let rule = rule(2, &[503], false);
            let mut service = RetryLayer::of(Some(&rule), &world.pool, &world.resources).layer(inner.clone());
            for _ in 0..50 {
                let asked = world.outgoing(Wire::Http1, Request::get("http://api/"));
                assert_eq!(told(&service.call(asked).await), "503", "the answer that is there is passed on");
            }
            let (retries, overflow) = (world.counted("retries"), world.counted("retry_overflow"));
            assert!(retries < 20 && overflow > 30, "{retries} retries, {overflow} refused");
            assert_eq!(inner.asked() as u64, 50 + retries);
        });
    }

    #[test]
    fn a_client_that_goes_away_ends_its_tries_in_the_middle_of_a_wait() {
        paused(async {
            let world = Rc::new(World::new(&[address(1)]));
            let inner = Inner::<Attempt>::ready(|_| failed(Reason::UpstreamReset));
            let mut service = RetryLayer::of(None, &world.pool, &world.resources).layer(inner.clone());
            let asked = service.call(world.outgoing(Wire::Http1, Request::get("http://api/")));
            assert!(tokio::time::timeout(limits::BACKOFF_MIN / 2, asked).await.is_err());
            tokio::time::sleep(limits::BACKOFF_MAX * 2).await;
            assert_eq!(inner.asked(), 1);
        });
    }
}
