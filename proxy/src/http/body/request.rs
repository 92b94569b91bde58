//! A request's body as it is sent upstream: the client's own, or a try of one that is kept.

use super::{
    client::{ClientBody, RequestError},
    replay::Replay,
    strip_trailers,
};
use crate::{
    account::Holder,
    http::{Wire, stall::Overloaded},
    telemetry::Record,
};
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use std::{
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

/// What is sent upstream.
#[derive(Debug)]
pub(crate) enum RequestBody {
    Empty,
    Stream(ClientBody),
    Replay(Replay),
    /// What this proxy itself asks, until it is sent.
    Own(Option<Bytes>),
}

impl RequestBody {
    /// What a client sends, counted in `record`, of which at most `window` bytes are held while nobody takes them. A body that ended with the head
    /// costs nothing.
    pub(crate) fn new(
        incoming: Incoming,
        wire: Wire,
        (holder, window): (&Holder, usize),
        record: &Rc<Record>,
    ) -> Result<Self, Overloaded> {
        if incoming.is_end_stream() {
            Ok(Self::Empty)
        } else {
            ClientBody::new(incoming, wire, (holder, window), record.clone()).map(Self::Stream)
        }
    }

    /// Whose share of memory it is charged to, if there is anything to charge.
    pub(crate) fn holder(&self) -> Option<Holder> {
        match self {
            Self::Empty | Self::Own(_) => None,
            Self::Stream(body) => Some(body.holder().clone()),
            Self::Replay(body) => Some(body.holder()),
        }
    }

    /// The reader needs no more of it now, and will not poll for some time.
    pub(crate) fn stands_still(&mut self) -> Result<(), Overloaded> {
        match self {
            Self::Empty | Self::Own(_) => Ok(()),
            Self::Stream(body) => body.stands_still(),
            Self::Replay(body) => body.stands_still(),
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = RequestError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, RequestError>>> {
        let frame = match &mut *self {
            Self::Empty => return Poll::Ready(None),
            Self::Own(bytes) => return Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Stream(body) => body.poll_frame(cx),
            Self::Replay(body) => body.poll_frame(cx),
        };
        frame.map_ok(strip_trailers)
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Own(bytes) => bytes.is_none(),
            Self::Stream(body) => body.is_end_stream(),
            Self::Replay(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Own(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Self::Stream(body) => body.size_hint(),
            Self::Replay(body) => body.size_hint(),
        }
    }
}
