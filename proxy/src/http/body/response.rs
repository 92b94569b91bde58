//! A response's body as it is sent downstream: the upstream's, counted to its end, or an answer of the proxy's own.

use super::strip_trailers;
use crate::{
    backend::endpoint::{AnswerBody, AnswerError},
    http::{exchange::Exchange, grpc, stall::Overloaded},
    tasks::Attached,
    telemetry::Reason,
};
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use std::{
    cell::RefCell,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
};
use tokio::time::{Instant, sleep_until};

/// What is sent back downstream.
#[derive(Debug)]
pub(crate) enum ResponseBody {
    Empty,
    /// An answer of the proxy's own.
    Text(Option<Bytes>),
    Upstream(Relayed),
    Bounded(Bounded),
}

/// An upstream's body, counted to its end.
#[derive(Debug)]
pub(crate) struct Relayed {
    body: AnswerBody,
    exchange: Exchange,
}

/// An upstream's body that must be complete in time, whether its client reads it or not.
#[derive(Debug)]
pub(crate) struct Bounded {
    shared: Rc<RefCell<Timed>>,
    grpc: bool,
    _deadline: Attached,
}

/// What a body and its deadline share.
#[derive(Debug)]
struct Timed {
    /// `None` once the time is over.
    relayed: Option<Relayed>,
    reader: Option<Waker>,
}

/// A frame, the end, or why there is none.
type Polled = Poll<Option<Result<Frame<Bytes>, ResponseError>>>;

/// Why a response ends in the middle.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ResponseError {
    #[error("the upstream broke off")]
    Upstream(#[from] AnswerError),
    #[error("the request's deadline passed in the middle of the response")]
    Timeout,
    #[error(transparent)]
    Overloaded(#[from] Overloaded),
}

impl ResponseBody {
    /// What answers HEAD: nothing, where the proxy would say something (RFC 9110 §9.3.2).
    pub(crate) fn of_head(self) -> Self {
        match self {
            Self::Text(_) => Self::Empty,
            other => other,
        }
    }

    /// What an upstream sends, counted to its end, complete by `until`, and charged to the client while it stands still.
    pub(crate) fn upstream(
        body: AnswerBody,
        mut exchange: Exchange,
        until: Option<Instant>,
    ) -> Result<Self, Overloaded> {
        exchange.stands_still(body.held_max())?;
        let relayed = Relayed { body, exchange };
        Ok(match until {
            None => Self::Upstream(relayed),
            Some(until) => Self::Bounded(Bounded::new(relayed, until)),
        })
    }
}

impl Relayed {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Polled {
        let Self { body, exchange } = self;
        let polled = Pin::new(&mut *body).poll_frame(cx);
        match &polled {
            Poll::Pending => exchange.flows(),
            Poll::Ready(None) => exchange.ended(None),
            Poll::Ready(Some(Err(error))) => exchange.fail(error.reason()),
            Poll::Ready(Some(Ok(frame))) => match (frame.data_ref(), frame.trailers_ref()) {
                (Some(data), _) => {
                    exchange.received(data.len());
                    if body.is_end_stream() {
                        exchange.ended(None);
                    } else {
                        exchange.stands_still(body.held_max())?;
                    }
                }
                (_, trailers) => exchange.ended(trailers),
            },
        }
        polled.map_ok(strip_trailers).map_err(ResponseError::Upstream)
    }
}

impl Bounded {
    fn new(relayed: Relayed, until: Instant) -> Self {
        let grpc = relayed.exchange.is_grpc();
        let shared = Rc::new(RefCell::new(Timed { relayed: Some(relayed), reader: None }));
        let late = Rc::downgrade(&shared);
        let deadline = Attached::spawn(async move {
            sleep_until(until).await;
            let Some(shared) = late.upgrade() else { return };
            let Timed { relayed, reader } = &mut *shared.borrow_mut();
            // The upstream is let go, and the endpoint with it.
            if let Some(mut relayed) = relayed.take() {
                relayed.exchange.fail(Reason::Timeout);
            }
            if let Some(reader) = reader.take() {
                reader.wake();
            }
        });
        Self { shared, grpc, _deadline: deadline }
    }

    /// `None` once the time is over.
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Option<Polled> {
        let Timed { relayed, reader } = &mut *self.shared.borrow_mut();
        let polled = relayed.as_mut()?.poll_frame(cx);
        if polled.is_pending() && !reader.as_ref().is_some_and(|reader| reader.will_wake(cx.waker())) {
            *reader = Some(cx.waker().clone());
        }
        Some(polled)
    }

    fn ask<T>(&self, of: impl FnOnce(&AnswerBody) -> T) -> Option<T> {
        self.shared.borrow().relayed.as_ref().map(|relayed| of(&relayed.body))
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = ResponseError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, ResponseError>>> {
        match &mut *self {
            Self::Empty => Poll::Ready(None),
            Self::Text(text) => Poll::Ready(text.take().map(|text| Ok(Frame::data(text)))),
            Self::Upstream(relayed) => relayed.poll_frame(cx),
            Self::Bounded(bounded) => match bounded.poll_frame(cx) {
                Some(polled) => polled,
                None if !bounded.grpc => Poll::Ready(Some(Err(ResponseError::Timeout))),
                None => {
                    let trailers = grpc::trailers(Reason::Timeout);
                    *self = Self::Empty;
                    Poll::Ready(Some(Ok(Frame::trailers(trailers))))
                }
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Text(text) => text.is_none(),
            Self::Upstream(relayed) => relayed.body.is_end_stream(),
            Self::Bounded(bounded) => bounded.ask(AnswerBody::is_end_stream).unwrap_or_default(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Text(text) => SizeHint::with_exact(text.as_ref().map_or(0, |text| text.len() as u64)),
            Self::Upstream(relayed) => relayed.body.size_hint(),
            Self::Bounded(bounded) => bounded.ask(AnswerBody::size_hint).unwrap_or_default(),
        }
    }
}
