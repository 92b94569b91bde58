//! Sends a request another time where that is safe and worth it: on another endpoint at once where nobody was there, else after
//! a pause, within the rule's attempts and the backend's retry budget.
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
        request::{Answered, Attempt, ClientConnection, Failed, Fate, Outgoing},
        upgrade::Offer,
    },
    limits,
    resources::Resources,
    telemetry::{Reason, RouteStats},
};
use http::{Request, StatusCode};
use pin_project_lite::pin_project;
use remora_model::Retry as Rule;
use std::{
    net::SocketAddr,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};
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
    S: Service<Attempt, Response = Answered, Error = Failed> + Clone + 'static,
{
    type Response = Answered;
    type Error = Failed;
    type Future = Tries<S, S::Future>;

    always_ready!();

    fn call(&mut self, outgoing: Outgoing) -> Self::Future {
        let RetryLayer { rule, pool, .. } = &self.layer;
        let Outgoing { mut request, started, grpc, client, stats, offer, .. } = outgoing;
        pool.deposit(started);
        let repeatable = rule.attempts > 0 && (rule.any_method || request.method().is_idempotent());
        let kept = (rule.attempts > 0).then(|| Kept::of(&mut request));
        let first =
            Attempt { request, began: started, grpc, client: client.clone(), offer: offer.clone(), tried: Vec::new() };
        let first = self.inner.call(first);
        let again = Again { service: self.clone(), kept, repeatable, grpc, client, offer, stats };
        Tries { state: State::First { first }, again: Some(again) }
    }
}

pin_project! {
    /// A request that is tried until it has an answer, or no further try is worth it.
    pub(crate) struct Tries<S, F> {
        #[pin]
        state: State<F>,
        again: Option<Again<S>>,
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
    S: Service<Attempt, Response = Answered, Error = Failed> + Clone + 'static,
{
    type Output = Outcome;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome> {
        let mut this = self.project();
        if let StateProjection::First { first } = this.state.as_mut().project() {
            let outcome = ready!(first.poll(cx));
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
    stats: Arc<RouteStats>,
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
        fate(answered).is_some() || listed(answered.response.status())
    }

    /// Whether the whole request can be sent another time.
    fn is_kept(&self) -> bool {
        self.kept.as_ref().is_some_and(Kept::is_whole)
    }

    /// Whether the request goes on to another endpoint at once, because nobody took it at this one. A rule that allows no
    /// second try means that too.
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
        let passes = self.rule().attempts > 0 && self.pool().passes_over(tried, reason);
        if passes {
            self.stats.retry();
        }
        passes
    }

    /// Whether there is another try after `made` of them, which is paid for then.
    fn retries(&self, outcome: &Outcome, made: u32) -> bool {
        let possible = self.is_kept();
        let repeats = self.repeatable && possible;
        let worth = match outcome {
            Ok(answered) => match fate(answered) {
                Some(Fate::Undelivered(_)) => possible,
                _ => repeats && self.is_unwelcome(answered),
            },
            Err(Failed { reason: Reason::NoEndpoints | Reason::AllEjected | Reason::Internal, .. }) => false,
            Err(Failed { unprocessed: true, .. }) => possible,
            Err(Failed { unsent, .. }) => unsent.is_some() || repeats,
        };
        if !worth || made > self.rule().attempts {
            return false;
        }
        let paid = self.pool().withdraw(Instant::now());
        if paid {
            self.stats.retry()
        } else {
            self.stats.retry_overflow()
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
    S: Service<Attempt, Response = Answered, Error = Failed>,
{
    /// All that follows after a first try that came to this.
    async fn after(mut self, mut outcome: Outcome) -> Outcome {
        let (mut tried, mut made, mut before) = (Vec::new(), 0, None);
        loop {
            let unwelcome = |answered: &&Answered| self.is_unwelcome(answered);
            match &outcome {
                Ok(answered) => tried.extend(Some(answered).filter(unwelcome).and_then(endpoint)),
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
                Ok(_) => None,
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
            outcome = self.attempt(request, tried.clone()).await;
        }
    }

    fn attempt(&mut self, request: Request<RequestBody>, tried: Vec<SocketAddr>) -> S::Future {
        let (client, offer) = (self.client.clone(), self.offer.clone());
        let attempt = Attempt { request, began: Instant::now(), grpc: self.grpc, client, offer, tried };
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
