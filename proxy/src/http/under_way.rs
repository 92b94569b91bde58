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

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use std::{
        io,
        task::{Wake, Waker},
    };

    #[derive(Default)]
    struct Woken(AtomicU32);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Relaxed);
        }
    }

    #[test]
    fn a_request_is_under_way_until_its_answer_is_gone() {
        let under_way = UnderWay::default();
        let (first, second) = (under_way.begin(), under_way.begin());
        drop(first);
        assert!(under_way.any() && under_way.answered() == 1 && !under_way.has_left_http());
        second.leave_http();
        drop(second);
        assert!(!under_way.any() && under_way.answered() == 2 && under_way.has_left_http());
    }

    #[test]
    fn who_waits_for_a_request_or_for_the_last_answer_is_woken_by_it_and_by_no_other() {
        let (under_way, woken) = (UnderWay::default(), Arc::<Woken>::default());
        let waker = Waker::from(woken.clone());
        let cx = &mut Context::from_waker(&waker);
        let mut begun = Box::pin(under_way.begun());
        assert!(begun.as_mut().poll(cx).is_pending());
        let first = under_way.begin();
        assert_eq!(woken.0.load(Relaxed), 1);
        assert!(begun.as_mut().poll(cx).is_ready());
        under_way.wake(cx);
        drop(under_way.begin());
        assert_eq!(woken.0.load(Relaxed), 1, "one answer is owed still");
        drop(first);
        assert_eq!(woken.0.load(Relaxed), 2);
    }

    /// A body that breaks off, although it says that it has ended.
    struct Breaks;

    impl Body for Breaks {
        type Data = Bytes;
        type Error = io::Error;

        fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
            Poll::Ready(Some(Err(io::ErrorKind::ConnectionReset.into())))
        }

        fn is_end_stream(&self) -> bool {
            true
        }
    }

    #[test]
    fn an_answer_that_breaks_off_trips_the_breaker_of_its_connection() {
        let (under_way, breaker) = (UnderWay::default(), Breaker::default());
        let mut body = Tracked::new(Breaks, under_way.begin(), Some(breaker.clone()));
        assert!(!breaker.is_tripped() && under_way.any());
        let polled = Pin::new(&mut body).poll_frame(&mut Context::from_waker(Waker::noop()));
        assert!(matches!(polled, Poll::Ready(Some(Err(_)))) && breaker.is_tripped());
        assert!(body.is_end_stream() && !body.described().is_end_stream());
        assert!(!under_way.any());
    }
}
