//! Bounds the time that the head of an HTTP/1 request may take. In: a connection, and when reviews begin and end on it. Out:
//! the same connection, whose reads fail once a head takes too long. Does not bound the idle time before a head: hyper
//! bounds that.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};

/// The reviews of one connection, counted by its service.
#[derive(Debug, Clone, Default)]
pub(super) struct Reviews(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    begun: AtomicUsize,
    ended: AtomicUsize,
}

/// A review whose head came, until it is dropped.
#[derive(Debug)]
pub(super) struct Review(Reviews);

impl Reviews {
    pub(super) fn begin(&self) -> Review {
        self.0.begun.fetch_add(1, Relaxed);
        Review(self.clone())
    }

    fn begun(&self) -> usize {
        self.0.begun.load(Relaxed)
    }

    /// Whether what comes is a body.
    fn under_way(&self) -> bool {
        self.begun() > self.0.ended.load(Relaxed)
    }
}

impl Drop for Review {
    fn drop(&mut self) {
        self.0.0.ended.fetch_add(1, Relaxed);
    }
}

/// A connection whose heads come within a time, each from its first byte on.
#[derive(Debug)]
pub(super) struct Timely<S> {
    stream: S,
    reviews: Reviews,
    within: Duration,
    head: Option<Head>,
}

/// A head that has begun.
#[derive(Debug)]
struct Head {
    /// How many reviews had begun before it: with the next one it is whole.
    before: usize,
    late: Pin<Box<Sleep>>,
}

impl<S> Timely<S> {
    pub(super) fn new(stream: S, reviews: Reviews, within: Duration) -> Self {
        Self { stream, reviews, within, head: None }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Timely<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let (filled, begun) = (buf.filled().len(), this.reviews.begun());
        if this.head.as_ref().is_some_and(|head| head.before != begun) {
            this.head = None;
        }
        let polled = Pin::new(&mut this.stream).poll_read(cx, buf);
        if buf.filled().len() > filled && this.head.is_none() && !this.reviews.under_way() {
            this.head = Some(Head { before: begun, late: Box::pin(sleep(this.within)) });
        }
        match &mut this.head {
            Some(head) if polled.is_pending() => {
                head.late.as_mut().poll(cx).map(|()| Err(io::Error::new(io::ErrorKind::TimedOut, "the head is late")))
            }
            Some(head) if head.late.is_elapsed() => {
                Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the head is late")))
            }
            _ => polled,
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Timely<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _, duplex},
        time::timeout,
    };

    const WITHIN: Duration = Duration::from_millis(40);
    const PATIENCE: Duration = Duration::from_secs(10);

    #[tokio::test]
    async fn a_head_that_does_not_end_ends_the_connection() {
        let (mut client, server) = duplex(64);
        let mut server = Timely::new(server, Reviews::default(), WITHIN);
        client.write_all(b"POST /").await.unwrap();
        let mut read = Vec::new();
        let error = timeout(PATIENCE, server.read_to_end(&mut read)).await.unwrap().unwrap_err();
        assert_eq!((error.kind(), &read[..]), (io::ErrorKind::TimedOut, &b"POST /"[..]));
    }

    #[tokio::test]
    async fn silence_and_a_body_may_take_longer() {
        let (mut client, server) = duplex(64);
        let reviews = Reviews::default();
        let mut server = Timely::new(server, reviews.clone(), WITHIN);
        let mut read = [0; 8];
        assert!(timeout(WITHIN * 3, server.read(&mut read)).await.is_err(), "before the first head");
        client.write_all(b"a head").await.unwrap();
        assert_eq!(server.read(&mut read).await.unwrap(), 6);
        let review = reviews.begin();
        assert!(timeout(WITHIN * 3, server.read(&mut read)).await.is_err(), "in a body");
        client.write_all(b"its body").await.unwrap();
        assert_eq!(server.read(&mut read).await.unwrap(), 8);
        drop(review);
        assert!(timeout(WITHIN * 3, server.read(&mut read)).await.is_err(), "between reviews");
        client.write_all(b"another").await.unwrap();
        assert_eq!(server.read(&mut read).await.unwrap(), 7);
        assert_eq!(server.read(&mut read).await.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }
}
