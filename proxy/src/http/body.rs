//! Bodies on their way through: counted, kept for a retry, never collected.

use crate::{
    account::{Charge, Holder},
    http::{
        client::{AnswerBody, AnswerError},
        exchange::Exchange,
        stall::{Overloaded, Stall},
    },
    limits,
    telemetry::Reason,
};
use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use std::{
    cell::RefCell,
    collections::VecDeque,
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
}

/// Why a request's body ends before its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RequestError {
    #[error("the client broke off")]
    Client(#[from] hyper::Error),
    #[error(transparent)]
    Overloaded(#[from] Overloaded),
}

impl RequestError {
    /// The reason that signals are told.
    pub(crate) fn reason(&self) -> Reason {
        match self {
            Self::Client(_) => Reason::BodyAborted,
            Self::Overloaded(_) => Reason::Overloaded,
        }
    }
}

impl RequestBody {
    /// What a client sends, of which at most `window` bytes are held while nobody takes them. A body that ended with the head
    /// costs nothing.
    pub(crate) fn new(incoming: Incoming, holder: &Holder, window: usize) -> Result<Self, Overloaded> {
        if incoming.is_end_stream() {
            Ok(Self::Empty)
        } else {
            ClientBody::new(incoming, holder, window).map(Self::Stream)
        }
    }

    /// Whose share of memory it is charged to, if there is anything to charge.
    pub(crate) fn holder(&self) -> Option<Holder> {
        match self {
            Self::Empty => None,
            Self::Stream(body) => Some(body.stall.holder().clone()),
            Self::Replay(body) => Some(body.shared.borrow().source.stall.holder().clone()),
        }
    }

    /// Whoever reads it has no use for more of it now, and will not ask for some time.
    pub(crate) fn stands_still(&mut self) -> Result<(), Overloaded> {
        match self {
            Self::Empty => Ok(()),
            Self::Stream(body) => body.stands_still(),
            Self::Replay(body) => body.shared.borrow_mut().source.stands_still(),
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
}

impl ClientBody {
    fn new(body: Incoming, holder: &Holder, window: usize) -> Result<Self, Overloaded> {
        let whole = body.size_hint().upper().and_then(|bytes| usize::try_from(bytes).ok());
        let mut stall = Stall::new(holder.clone(), whole.map_or(window, |bytes| bytes.min(window)));
        stall.begin()?;
        Ok(Self { body, stall })
    }

    fn stands_still(&mut self) -> Result<(), Overloaded> {
        if self.body.is_end_stream() { Ok(()) } else { self.stall.begin() }
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, RequestError>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        match &polled {
            Poll::Ready(Some(Ok(_))) if !self.body.is_end_stream() => self.stall.begin()?,
            _ => self.stall.end(),
        }
        polled.map_err(RequestError::Client)
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = RequestError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, RequestError>>> {
        let frame = match &mut *self {
            Self::Empty => return Poll::Ready(None),
            Self::Stream(body) => body.poll_frame(cx),
            Self::Replay(body) => body.poll_frame(cx),
        };
        frame.map_ok(strip_trailers)
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Stream(body) => body.body.is_end_stream(),
            Self::Replay(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Stream(body) => body.body.size_hint(),
            Self::Replay(body) => body.size_hint(),
        }
    }
}

/// Trailers carry neither reserved names nor framing.
fn strip_trailers(frame: Frame<Bytes>) -> Frame<Bytes> {
    match frame.into_trailers() {
        Ok(mut trailers) => {
            super::headers::strip_trailers(&mut trailers);
            Frame::trailers(trailers)
        }
        Err(frame) => frame,
    }
}

/// A request body that can be sent again as long as it is small: [`limits::REPLAY_BYTES_MAX`].
#[derive(Debug)]
pub(crate) struct Replay {
    shared: Rc<RefCell<Kept>>,
    /// Which try this is.
    turn: u32,
    /// How many kept chunks this try has sent.
    sent: usize,
    ended: bool,
}

#[derive(Debug)]
struct Kept {
    source: ClientBody,
    chunks: VecDeque<Bytes>,
    /// For the chunks: what may yet be kept.
    charge: Option<Charge>,
    trailers: Option<HeaderMap>,
    bytes: usize,
    /// More came than is kept, or than there is memory for: this try is the last.
    overflow: bool,
    ended: bool,
    /// The latest try.
    turn: u32,
}

/// Makes tries of one body.
#[derive(Debug, Clone)]
pub(crate) struct Replayable(Rc<RefCell<Kept>>);

impl Replayable {
    /// Keeps what `source` sends, within bounds.
    pub(crate) fn new(source: ClientBody) -> Self {
        let kept = Kept {
            source,
            chunks: VecDeque::new(),
            charge: None,
            trailers: None,
            bytes: 0,
            overflow: false,
            ended: false,
            turn: 0,
        };
        Self(Rc::new(RefCell::new(kept)))
    }

    /// Whether all of it came, and is kept.
    pub(crate) fn is_complete(&self) -> bool {
        let kept = self.0.borrow();
        !kept.overflow && (kept.ended || kept.source.body.is_end_stream())
    }

    /// Whether another try would send the whole body.
    pub(crate) fn is_whole(&self) -> bool {
        !self.0.borrow().overflow
    }

    /// The body of one try.
    pub(crate) fn body(&self) -> RequestBody {
        let mut kept = self.0.borrow_mut();
        kept.turn += 1;
        RequestBody::Replay(Replay { shared: self.0.clone(), turn: kept.turn, sent: 0, ended: false })
    }
}

impl Replay {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, RequestError>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let mut kept = self.shared.borrow_mut();
        if let Some(chunk) = kept.chunks.get(self.sent) {
            self.sent += 1;
            return Poll::Ready(Some(Ok(Frame::data(chunk.clone()))));
        }
        if kept.ended {
            self.ended = true;
            return Poll::Ready(kept.trailers.clone().map(|trailers| Ok(Frame::trailers(trailers))));
        }
        if self.turn != kept.turn && !kept.source.body.is_end_stream() {
            // A later try reads the source now, and would not be woken up if this one took its place. This one's peer has
            // answered already; to end the body here would make half a body look whole.
            return Poll::Pending;
        }
        match futures_util::ready!(kept.source.poll_frame(cx)) {
            None => {
                kept.ended = true;
                self.ended = true;
                Poll::Ready(None)
            }
            Some(Err(error)) => {
                kept.overflow = true; // what is lost cannot be sent again
                Poll::Ready(Some(Err(error)))
            }
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    kept.keep(data);
                    self.sent = kept.chunks.len();
                } else if let Some(trailers) = frame.trailers_ref() {
                    kept.trailers = Some(trailers.clone());
                    kept.ended = true;
                    self.ended = true;
                }
                Poll::Ready(Some(Ok(frame)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        let kept = self.shared.borrow();
        self.ended
            || (self.sent >= kept.chunks.len()
                && kept.trailers.is_none()
                && (kept.ended || kept.source.body.is_end_stream()))
    }

    fn size_hint(&self) -> SizeHint {
        let kept = self.shared.borrow();
        let rest: usize = kept.chunks.iter().skip(self.sent).map(Bytes::len).sum();
        let source = kept.source.body.size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(source.lower() + rest as u64);
        if let Some(upper) = source.upper() {
            hint.set_upper(upper + rest as u64);
        }
        hint
    }
}

impl Kept {
    fn keep(&mut self, data: &Bytes) {
        self.bytes += data.len();
        self.overflow |= self.bytes > limits::REPLAY_BYTES_MAX;
        if !self.overflow && self.charge.is_none() {
            let rest = self.source.body.size_hint().upper().and_then(|rest| usize::try_from(rest).ok());
            let most = rest.map_or(limits::REPLAY_BYTES_MAX, |rest| data.len().saturating_add(rest));
            self.charge = self.source.stall.holder().charge(most.min(limits::REPLAY_BYTES_MAX));
            // Without memory for it the request goes on, and is not tried again.
            self.overflow = self.charge.is_none();
        }
        if self.overflow {
            self.chunks.clear();
            self.charge = None;
        } else {
            self.chunks.push_back(data.clone());
        }
    }
}

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
    /// What an upstream sends, counted to its end, and charged to whoever asked for it while it stands still.
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
                        let trailers = super::respond::grpc_trailers(Reason::Timeout);
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
