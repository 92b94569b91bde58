//! Bounds the time from a request's arrival to the last byte of its answer: the route's timeout, or the caller's `grpc-timeout`
//! if that is shorter, which is passed on without what has passed of it.
//!
//! Stands outside of [`Retry`](super::Retry): the bound is one for all tries and the waits between them. After the head of an answer
//! it goes on with the body ([`Answered::until`]).

use super::{Outcome, always_ready};
use crate::{
    http::{
        grpc,
        request::{Answered, Failed, Outgoing},
    },
    telemetry::Reason,
};
use pin_project_lite::pin_project;
use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};
use tokio::time::{Sleep, sleep_until};
use tower::{Layer, Service};

/// Makes [`Deadline`] of one rule.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DeadlineLayer {
    within: Option<Duration>,
}

impl DeadlineLayer {
    /// `within`: the rule's own bound, if it has one.
    pub(crate) fn of(within: Option<Duration>) -> Self {
        Self { within }
    }
}

impl<S> Layer<S> for DeadlineLayer {
    type Service = Deadline<S>;

    fn layer(&self, inner: S) -> Deadline<S> {
        Deadline { inner, within: self.within }
    }
}

/// See the module.
#[derive(Debug, Clone)]
pub(crate) struct Deadline<S> {
    inner: S,
    within: Option<Duration>,
}

impl<S> Service<Outgoing> for Deadline<S>
where
    S: Service<Outgoing, Response = Answered, Error = Failed>,
{
    type Response = Answered;
    type Error = Failed;
    type Future = Bounded<S::Future>;

    always_ready!();

    fn call(&mut self, mut outgoing: Outgoing) -> Self::Future {
        let headers = outgoing.request.headers_mut();
        let caller = if outgoing.grpc { grpc::timeout(headers) } else { None };
        let at = [self.within, caller].into_iter().flatten().min().map(|within| {
            if outgoing.grpc {
                grpc::set_timeout(headers, within.saturating_sub(outgoing.started.elapsed()));
            }
            outgoing.started + within
        });
        let timer = at.map(|at| (at, Box::pin(sleep_until(at.into()))));
        Bounded { inner: self.inner.call(outgoing), timer }
    }
}

pin_project! {
    /// A request with a deadline, or without one.
    #[derive(Debug)]
    pub(crate) struct Bounded<F> {
        #[pin]
        inner: F,
        timer: Option<(Instant, Pin<Box<Sleep>>)>,
    }
}

impl<F: Future<Output = Outcome>> Future for Bounded<F> {
    type Output = Outcome;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome> {
        let this = self.project();
        if let Poll::Ready(outcome) = this.inner.poll(cx) {
            return Poll::Ready(outcome.map(|mut answered| {
                if let Some((at, _)) = this.timer {
                    answered.bound(*at);
                }
                answered
            }));
        }
        let Some((_, timer)) = this.timer else { return Poll::Pending };
        ready!(timer.as_mut().poll(cx));
        Poll::Ready(Err(Failed::refused(Reason::Timeout, "the request's deadline passed")))
    }
}
