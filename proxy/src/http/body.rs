//! Bodies on their way through: counted, kept for a retry, never collected.

use crate::{http::exchange::Exchange, limits, telemetry::Reason};
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
pub enum RequestBody {
    Empty,
    Stream(Incoming),
    Replay(Replay),
}

impl RequestBody {
    /// A body that ended with the head costs nothing.
    pub fn new(incoming: Incoming) -> Self {
        if incoming.is_end_stream() { Self::Empty } else { Self::Stream(incoming) }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = match &mut *self {
            Self::Empty => return Poll::Ready(None),
            Self::Stream(body) => Pin::new(body).poll_frame(cx),
            Self::Replay(body) => body.poll_frame(cx),
        };
        frame.map_ok(strip_trailers)
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Stream(body) => body.is_end_stream(),
            Self::Replay(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Stream(body) => body.size_hint(),
            Self::Replay(body) => body.size_hint(),
        }
    }
}

/// Trailers carry neither reserved names nor framing.
fn strip_trailers(frame: Frame<Bytes>) -> Frame<Bytes> {
    match frame.into_trailers() {
        Ok(mut trailers) => {
            super::headers::strip_reserved(&mut trailers);
            for name in FORBIDDEN_TRAILERS {
                trailers.remove(name);
            }
            Frame::trailers(trailers)
        }
        Err(frame) => frame,
    }
}

/// RFC 9110 §6.5.1: fields that frame, route or authenticate a message.
const FORBIDDEN_TRAILERS: [http::HeaderName; 6] = [
    http::header::CONTENT_LENGTH,
    http::header::TRANSFER_ENCODING,
    http::header::HOST,
    http::header::AUTHORIZATION,
    http::header::CONNECTION,
    http::header::TE,
];

/// A request body that can be sent again as long as it is small: [`limits::REPLAY_BYTES_MAX`].
#[derive(Debug)]
pub struct Replay {
    shared: Rc<RefCell<Kept>>,
    /// Which try this is.
    turn: u32,
    /// How many kept chunks this try has sent.
    sent: usize,
    ended: bool,
}

#[derive(Debug)]
struct Kept {
    source: Incoming,
    chunks: VecDeque<Bytes>,
    trailers: Option<HeaderMap>,
    bytes: usize,
    /// More came than is kept: this try is the last.
    overflow: bool,
    ended: bool,
    /// The latest try.
    turn: u32,
}

/// Makes tries of one body.
#[derive(Debug, Clone)]
pub struct Replayable(Rc<RefCell<Kept>>);

impl Replayable {
    /// Keeps what `source` sends, within bounds.
    pub fn new(source: Incoming) -> Self {
        let kept =
            Kept { source, chunks: VecDeque::new(), trailers: None, bytes: 0, overflow: false, ended: false, turn: 0 };
        Self(Rc::new(RefCell::new(kept)))
    }

    /// Whether all of it came, and is kept.
    pub fn is_complete(&self) -> bool {
        let kept = self.0.borrow();
        !kept.overflow && (kept.ended || kept.source.is_end_stream())
    }

    /// Whether another try would send the whole body.
    pub fn is_whole(&self) -> bool {
        !self.0.borrow().overflow
    }

    /// The body of one try.
    pub fn body(&self) -> RequestBody {
        let mut kept = self.0.borrow_mut();
        kept.turn += 1;
        RequestBody::Replay(Replay { shared: self.0.clone(), turn: kept.turn, sent: 0, ended: false })
    }
}

impl Replay {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
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
        if self.turn != kept.turn && !kept.source.is_end_stream() {
            // A later try reads the source now, and would not be woken up if this one took its place. This one's peer has
            // answered already; to end the body here would make half a body look whole.
            return Poll::Pending;
        }
        match futures_util::ready!(Pin::new(&mut kept.source).poll_frame(cx)) {
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
                && (kept.ended || kept.source.is_end_stream()))
    }

    fn size_hint(&self) -> SizeHint {
        let kept = self.shared.borrow();
        let rest: usize = kept.chunks.iter().skip(self.sent).map(Bytes::len).sum();
        let source = kept.source.size_hint();
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
        if self.overflow {
            self.chunks.clear();
        } else {
            self.chunks.push_back(data.clone());
        }
    }
}

/// What is sent back downstream.
#[derive(Debug)]
pub enum ResponseBody {
    Empty,
    /// An answer of the proxy's own.
    Text(Option<Bytes>),
    /// The upstream's, counted to its end.
    Upstream {
        body: Incoming,
        exchange: Exchange,
    },
}

/// Why a response ends in the middle.
#[derive(Debug, thiserror::Error)]
pub enum ResponseError {
    #[error("the upstream broke off")]
    Upstream(#[from] hyper::Error),
    #[error("the request's deadline passed in the middle of the response")]
    Timeout,
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
