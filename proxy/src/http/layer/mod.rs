//! The layers of the two stacks, one in a file. [`super::outbound`] and [`super::inbound`] put them in order.
//!
//! A layer is a [`tower::Layer`] with what does not change (made with a plan or a connection) and a [`tower::Service`] that takes
//! one type of request and gives the next ([`super::request`]). All services are always ready: what is bounded refuses, it never waits.
//! Futures are concrete, and small, because hyper moves them; only [`Balance`] boxes its own, once per try.

mod admit;
mod app;
mod authorize;
mod balance;
mod charge;
mod client_id;
mod deadline;
mod discover;
#[cfg(test)]
mod example;
mod fault;
mod filters;
mod hop;
mod judge;
mod leave;
mod limit;
mod mirror;
#[cfg(test)]
mod noted;
mod retry;
mod restore;
mod route;
mod sanitize;
mod signals;
#[cfg(test)]
mod test;
#[cfg(test)]
mod together;
mod trace;
mod tunnel;
mod upgrade;

pub(crate) use admit::{Admit, AdmitLayer};
pub(crate) use app::App;
pub(crate) use authorize::{Authorize, AuthorizeLayer};
pub(crate) use balance::Balance;
pub(crate) use charge::{Charge, ChargeLayer};
pub(crate) use client_id::{ClientId, ClientIdLayer};
pub(crate) use deadline::{Deadline, DeadlineLayer};
pub(crate) use discover::{Discover, DiscoverLayer};
pub(crate) use fault::{Fault, FaultLayer};
pub(crate) use filters::{Filters, FiltersLayer};
pub(crate) use hop::{Hop, HopLayer};
pub(crate) use judge::{Judge, JudgeLayer};
pub(crate) use leave::{Leave, LeaveLayer};
pub(crate) use limit::{Limit, LimitLayer};
pub(crate) use mirror::{Mirror, MirrorLayer, MirrorTarget};
pub(crate) use restore::{Restore, RestoreLayer};
pub(crate) use retry::{Retry, RetryLayer};
pub(crate) use route::Route;
pub(crate) use sanitize::{Sanitize, SanitizeLayer};
pub(crate) use signals::{OfPort, OfRule, Signals, SignalsLayer};
pub(crate) use trace::{Trace, TraceLayer};
pub(crate) use tunnel::{Tunnel, TunnelLayer};
pub(crate) use upgrade::{Upgrade, UpgradeLayer};

use super::request::{Answered, Failed};
use pin_project_lite::pin_project;
use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

/// The stack of one backend of one rule, as a type: its listing is [`super::outbound::branch`].
pub(crate) type Branch =
    Signals<OfRule, Trace<Filters<Charge<Upgrade<Hop<Admit<Mirror<Deadline<Retry<Authorize<Balance>>>>>>>>>>>;

/// What comes of a request inside the stack. Boxed once, where it is made: it is handed up through every layer.
pub(crate) type Outcome = Result<Box<Answered>, Failed>;

/// What a layer keeps while its request is inside, and does with what comes of it.
pub(crate) trait After {
    /// What the layer gives back.
    type Output;

    /// Called once, when the inner service is done; not at all where the request is given up before.
    fn after(self, outcome: Outcome) -> Self::Output;
}

pin_project! {
    /// A request inside a stack: what comes of it is given to what its layer kept, or the layer has answered itself.
    #[project = WithinProjection]
    #[derive(Debug)]
    pub(crate) enum Within<F, A, O> {
        /// Without a question to the inner service.
        Early { output: Option<O> },
        Inner { #[pin] inner: F, after: Option<A> },
    }
}

impl<F, A: After> Within<F, A, A::Output> {
    fn inner(inner: F, after: A) -> Self {
        Self::Inner { inner, after: Some(after) }
    }

    fn early(output: A::Output) -> Self {
        Self::Early { output: Some(output) }
    }
}

impl<F: Future<Output = Outcome>, A: After> Future for Within<F, A, A::Output> {
    type Output = A::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<A::Output> {
        match self.project() {
            WithinProjection::Early { output } => output.take().map_or(Poll::Pending, Poll::Ready),
            WithinProjection::Inner { inner, after } => {
                let outcome = ready!(inner.poll(cx));
                after.take().map_or(Poll::Pending, |after| Poll::Ready(after.after(outcome)))
            }
        }
    }
}

/// The body of `Service::poll_ready` in every layer here.
macro_rules! always_ready {
    () => {
        fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Self::Error>> {
            std::task::Poll::Ready(Ok(()))
        }
    };
}
use always_ready;
