//! How many requests of an HTTP/1 connection are under way: this distinguishes a client that half-closed and waits for its
//! response from one that closed and waits for nothing. And whether the connection has left HTTP, which only the server
//! that responds knows.

use crate::io::Breaker;
use futures_util::task::AtomicWaker;
use http_body::{Body, Frame, SizeHint};
use std::{
    future::poll_fn,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
};

/// The count of one connection, shared by its stream and its service. Both live on one thread.
#[derive(Debug, Clone, Default)]
pub(crate) struct UnderWay(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    count: AtomicU32,
    answered: AtomicU64,
    left_http: AtomicBool,
    /// Set only while a half-closed client is waited for; lets all other requests skip the waker.
    waits: AtomicBool,
    waker: AtomicWaker,
    /// Set only while the beginning of a request is waited for.
    rests: AtomicBool,
    begun: AtomicWaker,
}

impl UnderWay {
    /// A request begins.
    pub(crate) fn begin(&self) -> Token {
        self.0.count.fetch_add(1, Relaxed);
        if self.0.rests.load(Relaxed) {
            self.0.rests.store(false, Relaxed);
            self.0.begun.wake();
        }
        Token(self.clone())
    }

    /// Returns once a request is under way. Cancel safe; for one task.
    pub(crate) async fn begun(&self) {
        poll_fn(|cx| {
            if self.any() {
                return Poll::Ready(());
            }
            self.0.begun.register(cx.waker());
            self.0.rests.store(true, Relaxed);
            Poll::Pending
        })
        .await;
    }

    /// Whether an answer is owed.
    pub(crate) fn any(&self) -> bool {
        self.0.count.load(Relaxed) > 0
    }

    /// How many requests have their whole answer.
    pub(crate) fn answered(&self) -> u64 {
        self.0.answered.load(Relaxed)
    }

    /// Whether what comes next is no HTTP.
    pub(crate) fn has_left_http(&self) -> bool {
        self.0.left_http.load(Relaxed)
    }

    /// Has the task of `cx` woken when no answer is owed any more.
    pub(crate) fn wake(&self, cx: &Context<'_>) {
        self.0.waker.register(cx.waker());
        self.0.waits.store(true, Relaxed);
    }
}

/// A request under way, until it is dropped.
#[derive(Debug)]
pub(crate) struct Token(UnderWay);

impl Token {
    /// The answer is one after which the connection is no longer HTTP.
    pub(crate) fn leave_http(&self) {
        let UnderWay(shared) = &self.0;
        shared.left_http.store(true, Relaxed);
    }
}

impl Drop for Token {
    fn drop(&mut self) {
        let UnderWay(shared) = &self.0;
        shared.answered.fetch_add(1, Relaxed);
        if shared.count.fetch_sub(1, Relaxed) == 1 && shared.waits.load(Relaxed) {
            shared.waker.wake();
        }
    }
}

pin_project_lite::pin_project! {
    /// The body of an answer; with it, its request ends.
    #[derive(Debug)]
    pub struct Tracked<B> {
        #[pin]
        body: B,
        token: Token,
        breaker: Option<Breaker>,
        described: bool,
    }
}

impl<B> Tracked<B> {
    /// `body`, which answers the request of `token`. Where the end of its connection may be all that tells that it is whole
    /// (RFC 9112 §6.3), there is a `breaker`: it is tripped if the body breaks off.
    pub(super) fn new(body: B, token: Token, breaker: Option<Breaker>) -> Self {
        Self { body, token, breaker, described: false }
    }

    /// The body of a 304, whose fields describe one that is not sent (RFC 9110 §15.4.5): hyper takes the `Content-Length` off an answer
    /// whose body is known to be empty.
    pub(super) fn described(mut self) -> Self {
        self.described = true;
        self
    }
}

impl<B: Body> Body for Tracked<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let this = self.project();
        let polled = this.body.poll_frame(cx);
        if let (Some(breaker), Poll::Ready(Some(Err(_)))) = (this.breaker, &polled) {
            breaker.trip();
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        !self.described && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        if self.described { SizeHint::default() } else { self.body.size_hint() }
    }
}
