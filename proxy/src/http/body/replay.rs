//! A request's body that can be sent more than once.

use super::client::{ClientBody, RequestError};
use crate::{
    account::{Charge, Holder},
    http::stall::Overloaded,
    limits,
};
use bytes::Bytes;
use http::HeaderMap;
use http_body::{Frame, SizeHint};
use std::{
    cell::RefCell,
    collections::VecDeque,
    rc::Rc,
    task::{Context, Poll, Waker},
};

/// A request body that can be sent again as long as it is small: [`limits::REPLAY_BYTES_MAX`].
#[derive(Debug)]
pub(crate) struct Replay {
    shared: Rc<RefCell<Source>>,
    /// Which try this is.
    turn: u32,
    /// How many kept chunks this try has sent.
    sent: usize,
    ended: bool,
}

#[derive(Debug)]
struct Source {
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
    /// Who waits in it for more to come.
    reader: Option<Waker>,
}

/// Makes tries of one body.
#[derive(Debug, Clone)]
pub(super) struct Replayable(Rc<RefCell<Source>>);

impl Replayable {
    /// Keeps what `source` sends, within bounds.
    pub(super) fn new(source: ClientBody) -> Self {
        let kept = Source {
            source,
            chunks: VecDeque::new(),
            charge: None,
            trailers: None,
            bytes: 0,
            overflow: false,
            ended: false,
            turn: 0,
            reader: None,
        };
        Self(Rc::new(RefCell::new(kept)))
    }

    /// Whether all of it came, and is kept.
    pub(super) fn is_complete(&self) -> bool {
        let kept = self.0.borrow();
        !kept.overflow && (kept.ended || kept.source.is_end_stream())
    }

    /// Whether another try would send the whole body.
    pub(super) fn is_whole(&self) -> bool {
        !self.0.borrow().overflow
    }

    /// The body of one try.
    pub(super) fn body(&self) -> Replay {
        let mut kept = self.0.borrow_mut();
        kept.turn += 1;
        // It has nothing to wait for any more.
        kept.reader.take().into_iter().for_each(Waker::wake);
        Replay { shared: self.0.clone(), turn: kept.turn, sent: 0, ended: false }
    }
}

impl Replay {
    /// What makes further tries of the same body.
    pub(super) fn again(&self) -> Replayable {
        Replayable(self.shared.clone())
    }

    /// Whose share of memory it is charged to.
    pub(super) fn holder(&self) -> Holder {
        self.shared.borrow().source.holder().clone()
    }

    /// The reader needs no more of it now.
    pub(super) fn stands_still(&self) -> Result<(), Overloaded> {
        self.shared.borrow_mut().source.stands_still()
    }

    pub(super) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, RequestError>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let mut kept = self.shared.borrow_mut();
        // First what earlier tries have read, then the source.
        if let Some(chunk) = kept.chunks.get(self.sent) {
            self.sent += 1;
            return Poll::Ready(Some(Ok(Frame::data(chunk.clone()))));
        }
        if kept.ended {
            self.ended = true;
            return Poll::Ready(kept.trailers.clone().map(|trailers| Ok(Frame::trailers(trailers))));
        }
        if self.turn != kept.turn && !kept.source.is_end_stream() {
            // A later try reads the source now: nobody wants this one's answer, and half a body must not look whole.
            return Poll::Ready(Some(Err(RequestError::Superseded)));
        }
        let Poll::Ready(frame) = kept.source.poll_frame(cx) else {
            if kept.reader.as_ref().is_none_or(|reader| !reader.will_wake(cx.waker())) {
                kept.reader = Some(cx.waker().clone());
            }
            return Poll::Pending;
        };
        match frame {
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

    pub(super) fn is_end_stream(&self) -> bool {
        let kept = self.shared.borrow();
        self.ended
            || (self.sent >= kept.chunks.len()
                && kept.trailers.is_none()
                && (kept.ended || kept.source.is_end_stream()))
    }

    pub(super) fn size_hint(&self) -> SizeHint {
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

impl Source {
    fn keep(&mut self, data: &Bytes) {
        self.bytes += data.len();
        self.overflow |= self.bytes > limits::REPLAY_BYTES_MAX;
        if !self.overflow && self.charge.is_none() {
            let rest = self.source.size_hint().upper().and_then(|rest| usize::try_from(rest).ok());
            let most = rest.map_or(limits::REPLAY_BYTES_MAX, |rest| data.len().saturating_add(rest));
            self.charge = self.source.holder().charge(most.min(limits::REPLAY_BYTES_MAX));
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
