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
    time::Duration,
};
use tokio::time::{Instant, Sleep, sleep_until};
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
    S: Service<Outgoing, Response = Box<Answered>, Error = Failed>,
{
    type Response = Box<Answered>;
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
        let timer = at.map(|at| (at, Box::pin(sleep_until(at))));
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

#[cfg(test)]
mod tests {
    use super::{
        super::test::{Inner, World, address, paused, told},
        *,
    };
    use crate::http::Wire;
    use http::Request;
    use std::rc::Rc;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_shorter_of_the_routes_and_the_callers_bound_holds() {
        // The rule's, the caller's, what holds in seconds.
        for (rule, caller, expected) in
            [(Some(3), None, 3), (None, Some("2S"), 2), (Some(3), Some("2S"), 2), (Some(1), Some("2S"), 1)]
        {
            paused(async {
                let (world, began) = (World::new(&[]), Instant::now());
                let mut request = Request::post("http://api/p.S/M").header("content-type", "application/grpc");
                if let Some(timeout) = caller {
                    request = request.header("grpc-timeout", timeout);
                }
                let inner = Inner::<Outgoing>::silent();
                let layer = DeadlineLayer::of(rule.map(|seconds| SECOND * seconds));
                let outcome = layer.layer(inner.clone()).call(world.outgoing(Wire::Http2, request)).await;
                assert_eq!(
                    (told(&outcome), began.elapsed().as_secs_f64().round() as u64),
                    ("timeout".into(), expected)
                );
                let passed_on = grpc::timeout(inner.seen.borrow()[0].request.headers()).unwrap();
                assert!(passed_on <= SECOND * expected as u32 && passed_on > SECOND * expected as u32 - SECOND / 10);
            });
        }
    }

    #[test]
    fn it_goes_on_with_the_body_of_an_answer_and_never_lengthens_a_trys_own() {
        paused(async {
            let world = Rc::new(World::new(&[address(1)]));
            let start = Instant::now();
            for (until, expected) in [(None, 5), (Some(start + SECOND), 1), (Some(start + 9 * SECOND), 5)] {
                let answers = world.clone();
                let inner = Inner::ready(move |_| Ok(Box::new(Answered { until, ..*answers.answer(200, None)? })));
                let asked = Outgoing { started: start, ..world.outgoing(Wire::Http1, Request::get("/")) };
                let answered = DeadlineLayer::of(Some(5 * SECOND)).layer(inner).call(asked).await.unwrap();
                assert_eq!(answered.until, Some(start + expected * SECOND));
            }
            let answers = world.clone();
            let inner = Inner::ready(move |_| answers.answer(200, None));
            let asked = world.outgoing(Wire::Http1, Request::get("/").header("grpc-timeout", "1S"));
            let unbounded = DeadlineLayer::of(None).layer(inner).call(asked).await.unwrap();
            assert_eq!(unbounded.until, None, "only gRPC has grpc-timeout");
        });
    }
}
