//! A client's body, charged while it stands still.

use crate::{
    account::Holder,
    http::{
        Wire,
        stall::{Overloaded, Stall},
    },
    telemetry::{Reason, Record},
};
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use std::{
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

/// Why a request's body ends before its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RequestError {
    #[error("the client broke off")]
    Client(#[from] hyper::Error),
    #[error("the client reset its request in the middle")]
    Reset,
    #[error("another try of the request has its body")]
    Superseded,
    #[error(transparent)]
    Overloaded(#[from] Overloaded),
}

impl RequestError {
    /// The reason for the metrics.
    pub(crate) fn reason(&self) -> Reason {
        match self {
            Self::Client(_) | Self::Reset | Self::Superseded => Reason::BodyAborted,
            Self::Overloaded(_) => Reason::Overloaded,
        }
    }
}

/// A client's body, charged to its share of memory while some of it may be unread.
///
/// That is so until it was asked and had nothing, and again from the moment that it has given something. An upload that flows,
/// or a stream that waits for its client, is charged for nothing.
#[derive(Debug)]
pub(crate) struct ClientBody {
    body: Incoming,
    stall: Stall,
    wire: Wire,
    record: Rc<Record>,
}

impl ClientBody {
    pub(super) fn new(
        body: Incoming,
        wire: Wire,
        (holder, window): (&Holder, usize),
        record: Rc<Record>,
    ) -> Result<Self, Overloaded> {
        let whole = body.size_hint().upper().and_then(|bytes| usize::try_from(bytes).ok());
        let mut stall = Stall::new(holder.clone(), whole.map_or(window, |bytes| bytes.min(window)));
        stall.begin()?;
        Ok(Self { body, stall, wire, record })
    }

    pub(super) fn stands_still(&mut self) -> Result<(), Overloaded> {
        if self.body.is_end_stream() { Ok(()) } else { self.stall.begin() }
    }

    pub(super) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, RequestError>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && let Some(data) = frame.data_ref()
        {
            self.record.bytes_in(data.len() as u64);
        }
        match &polled {
            Poll::Ready(Some(Ok(_))) if !self.body.is_end_stream() => self.stall.begin()?,
            // The library takes a reset with CANCEL or NO_ERROR for an end. Whether the end came, the stream knows; over HTTP/1 it does
            // not, but there nothing else ends a body.
            Poll::Ready(None) if self.wire == Wire::Http2 && !self.body.is_end_stream() => {
                self.stall.end();
                return Poll::Ready(Some(Err(RequestError::Reset)));
            }
            _ => self.stall.end(),
        }
        polled.map_err(RequestError::Client)
    }

    /// Whose share of memory it is charged to.
    pub(super) fn holder(&self) -> &Holder {
        self.stall.holder()
    }

    /// Whether all of it was given.
    pub(super) fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    /// What is still to come, as far as the client said.
    pub(super) fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
