//! Idle HTTP/1 connections to one address. Each carries one request at a time, so no caller waits for another's answer.

use super::Request;
use crate::{http::answer::Allowance, limits};
use http::Response;
use hyper::{
    body::Incoming,
    client::conn::{TrySendError, http1},
};
use std::{cell::RefCell, fmt, time::Instant};

type Sender = http1::SendRequest<crate::http::body::request::RequestBody>;
pub(super) type Sent = Result<Response<Incoming>, TrySendError<Request>>;

/// Connections that were just given back are looked past, in search of a ready one.
const NOT_READY_MAX: usize = 8;

/// An HTTP/1 connection, for one request at a time.
#[derive(Debug)]
pub(super) struct Http1 {
    sender: Sender,
    pub(super) allowance: Allowance,
}

impl Http1 {
    pub(super) fn new(sender: Sender, allowance: Allowance) -> Self {
        Self { sender, allowance }
    }

    pub(super) fn send(&mut self, request: Request) -> impl Future<Output = Sent> + use<> {
        self.allowance.head(request.body().holder());
        self.sender.try_send_request(request)
    }
}

/// The idle ones, the youngest last. At most [`limits::IDLE_CONNECTIONS_MAX`].
#[derive(Default)]
pub(super) struct Idle(RefCell<Vec<(Http1, Instant)>>);

impl fmt::Debug for Idle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Idle").field(&self.0.borrow().len()).finish()
    }
}

impl Idle {
    /// Keeps a connection whose last answer was read to its end.
    pub(super) fn keep(&self, connection: Http1, now: Instant) {
        let mut idle = self.0.borrow_mut();
        if idle.len() < limits::IDLE_CONNECTIONS_MAX && !connection.sender.is_closed() {
            idle.push((connection, now));
        }
    }

    /// The connection that was used last, among those that can take a request.
    pub(super) fn take(&self, now: Instant) -> Option<Http1> {
        let mut idle = self.0.borrow_mut();
        // The youngest is last; behind the first one that is too old, all are.
        if now.saturating_duration_since(idle.last()?.1) > limits::IDLE_TIMEOUT {
            idle.clear();
            return None;
        }
        // One given back a moment ago may not be ready before its task has run; a few of those at most are passed over.
        let mut at = idle.len();
        let mut passed_over = 0;
        while at > 0 && passed_over < NOT_READY_MAX {
            at -= 1;
            let connection = &idle[at].0;
            if connection.sender.is_ready() {
                return Some(idle.remove(at).0);
            }
            if connection.sender.is_closed() {
                idle.remove(at);
            } else {
                passed_over += 1;
            }
        }
        None
    }

    /// Drops connections that were idle for too long.
    pub(super) fn sweep(&self) {
        self.0
            .borrow_mut()
            .retain(|(connection, since)| !connection.sender.is_closed() && since.elapsed() < limits::IDLE_TIMEOUT);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.borrow().is_empty()
    }
}
