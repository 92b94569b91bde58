//! A response's body as it is sent downstream: the upstream's, counted to its end, or an answer of the proxy's own.

use super::strip_trailers;
use crate::{
    backend::endpoint::{AnswerBody, AnswerError},
    http::{exchange::Exchange, grpc, stall::Overloaded},
    telemetry::Reason,
};
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use std::{
    pin::Pin,
    task::{Context, Poll},
};

/// What is sent back downstream.
#[derive(Debug)]
pub(crate) enum ResponseBody {
    Empty,
    /// An answer of the proxy's own.
    Text(Option<Bytes>),
    /// The upstream's, counted to its end.
    Upstream {
        body: AnswerBody,
        exchange: Exchange,
    },
}

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

    /// What an upstream sends, counted to its end, and charged to the client while it stands still.
    pub(crate) fn upstream(body: AnswerBody, mut exchange: Exchange) -> Result<Self, Overloaded> {
        exchange.stands_still(body.held_max())?;
        Ok(Self::Upstream { body, exchange })
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = ResponseError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, ResponseError>>> {
        match &mut *self {
            Self::Empty => Poll::Ready(None),
            Self::Text(text) => Poll::Ready(text.take().map(|text| Ok(Frame::data(text)))),
            Self::Upstream { body, exchange } => {
                let polled = Pin::new(&mut *body).poll_frame(cx);
                match &polled {
                    Poll::Pending => {
                        exchange.flows();
                        futures_util::ready!(exchange.poll_deadline(cx));
                        if !exchange.is_grpc() {
                            return Poll::Ready(Some(Err(ResponseError::Timeout)));
                        }
                        let trailers = grpc::trailers(Reason::Timeout);
                        *self = Self::Empty;
                        return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
                    }
                    Poll::Ready(None) => exchange.ended(None),
                    Poll::Ready(Some(Err(_))) => exchange.broken(),
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
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Text(text) => text.is_none(),
            Self::Upstream { body, .. } => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Text(text) => SizeHint::with_exact(text.as_ref().map_or(0, |text| text.len() as u64)),
            Self::Upstream { body, .. } => body.size_hint(),
        }
    }
}
