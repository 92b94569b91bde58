//! The body of an answer over HTTP/2.

use super::connection::{Half, Unread};
use crate::http::headers::within_bounds;
use bytes::{Bytes, BytesMut};
use h2::RecvStream;
use http::HeaderMap;
use http_body::{Frame, SizeHint};
use std::{
    cell::{Cell, RefCell},
    fmt,
    task::{Context, Poll, Waker, ready},
};
use tokio::sync::oneshot;

/// The rest of an answer's body, and the part of it that came and is not read yet.
///
/// The library holds each DATA frame by itself, at some 256 bytes a frame whatever is in it, and ends the connection when
/// these come to too much: one stalled reader of small messages would break the streams of all others. So the frames of
/// a stream that was not read for a while are merged ([`Unread::compact`]): what is unread of a stream then takes
/// no more than its window.
pub(in crate::backend) struct Received {
    stream: RefCell<RecvStream>,
    /// Came before what the library holds. None of it was released to the peer's window.
    kept: RefCell<BytesMut>,
    /// Whether the reader came since the last look.
    read: Cell<bool>,
    data_done: Cell<bool>,
    /// Bytes yet to come, where the head says it.
    left: Cell<Option<u64>>,
    /// Tells the upload of this stream that its answer is no longer wanted. Told nothing, it goes on.
    upload: Cell<Option<oneshot::Sender<()>>>,
    half: Half,
}

impl fmt::Debug for Received {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Received").field("left", &self.left.get()).finish_non_exhaustive()
    }
}

impl Drop for Received {
    fn drop(&mut self) {
        if let Some(upload) = self.upload.take()
            && !self.is_end_stream()
        {
            // An upload that has ended needs no word.
            let _ended = upload.send(()).is_err();
        }
    }
}

impl Received {
    pub(super) fn new(
        stream: RecvStream,
        headers: &HeaderMap,
        upload: Option<oneshot::Sender<()>>,
        half: Half,
    ) -> std::rc::Rc<Self> {
        let left = headers.iter().find(|(name, _)| **name == http::header::CONTENT_LENGTH);
        let left = left.and_then(|(_, value)| value.to_str().ok()?.parse().ok());
        let received = std::rc::Rc::new(Self {
            stream: RefCell::new(stream),
            kept: RefCell::default(),
            read: Cell::new(true),
            data_done: Cell::new(false),
            left: Cell::new(left),
            upload: Cell::new(upload),
            half,
        });
        let unread: std::rc::Weak<dyn Unread> = std::rc::Rc::<Self>::downgrade(&received);
        received.half.watch(unread);
        received
    }

    /// The next piece. Cancel safe: what was not returned stays.
    pub(in crate::backend) fn poll_frame(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        self.read.set(true);
        let mut stream = self.stream.borrow_mut();
        if !self.data_done.get() {
            let kept = self.kept.take();
            let data = match kept.is_empty() {
                true => ready!(stream.poll_data(cx)),
                false => Some(Ok(kept.freeze())),
            };
            match data {
                Some(Ok(data)) => {
                    // It fails for a stream that has ended, whose window is not needed.
                    let _ended = stream.flow_control().release_capacity(data.len()).is_err();
                    self.left.set(self.left.get().map(|left| left.saturating_sub(data.len() as u64)));
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Some(Err(error)) => return Poll::Ready(self.ended(&stream, error)),
                None => self.data_done.set(true),
            }
        }
        Poll::Ready(match ready!(stream.poll_trailers(cx)) {
            // Cut by the library or not: they are more than is passed on.
            Ok(Some(trailers)) if !within_bounds(&trailers) => Some(Err(h2::Reason::ENHANCE_YOUR_CALM.into())),
            Ok(trailers) => trailers.map(Frame::trailers).map(Ok),
            Err(error) => self.ended(&stream, error),
        })
    }

    /// What an error at the end means: a server that has answered in full may reset what it did not read of the request with
    /// NO_ERROR (RFC 9113 §8.1); one that has not has broken off, whatever code it gives. A peer's proxy gives the code of trailers that are more
    /// than is passed on as this one does, and both count the same.
    fn ended(&self, stream: &RecvStream, error: h2::Error) -> Option<Result<Frame<Bytes>, h2::Error>> {
        match error.reason() {
            Some(h2::Reason::NO_ERROR) if stream.is_end_stream() => None,
            Some(too_many @ h2::Reason::ENHANCE_YOUR_CALM) if error.is_reset() && self.half.connection().is_peers() => {
                Some(Err(too_many.into()))
            }
            _ => Some(Err(error)),
        }
    }

    /// The bytes that the server may send ahead of its reader.
    pub(in crate::backend) fn window(&self) -> usize {
        crate::limits::stream_share(self.half.connection().wide).1 as usize
    }

    pub(in crate::backend) fn is_end_stream(&self) -> bool {
        self.kept.borrow().is_empty() && self.stream.borrow().is_end_stream()
    }

    pub(in crate::backend) fn size_hint(&self) -> SizeHint {
        self.left.get().map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

impl Unread for Received {
    /// Puts together what a reader who was not there since the last look has not read.
    fn compact(&self) {
        if self.read.replace(false) || self.data_done.get() {
            return;
        }
        let (mut stream, mut kept) = (self.stream.borrow_mut(), self.kept.borrow_mut());
        // No further than what is there: a wait would replace the reader's waker.
        while stream.flow_control().used_capacity() > kept.len() {
            match stream.poll_data(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(Some(Ok(data))) => kept.extend_from_slice(&data),
                _ => return,
            }
        }
    }
}
