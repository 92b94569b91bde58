//! A connection that a library owns and hides can still end as broken.
//!
//! In: a connection, before the library gets it, and a [`Breaker`], which the relay over the library's handle keeps. Out: the
//! connection is reset when the library drops it, if the breaker was tripped.

use super::Abort;
use crate::sys::Asked;
use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Says to a connection that it has to end as broken. Both live on one thread.
#[derive(Debug, Clone, Default)]
pub(crate) struct Breaker(Arc<AtomicBool>);

impl Breaker {
    /// The connection is reset when it is dropped.
    pub(crate) fn trip(&self) {
        self.0.store(true, Relaxed);
    }

    pub(crate) fn is_tripped(&self) -> bool {
        self.0.load(Relaxed)
    }
}

/// `S`, which is reset when it is dropped after its breaker was tripped.
#[derive(Debug)]
pub(crate) struct Breakable<S: Abort> {
    inner: S,
    breaker: Breaker,
}

impl<S: Abort> Breakable<S> {
    pub(crate) fn new(inner: S, breaker: Breaker) -> Self {
        Self { inner, breaker }
    }
}

impl<S: Abort> Abort for Breakable<S> {
    fn abort(&self) {
        self.inner.abort();
    }

    fn asked(&self) -> Option<Asked> {
        self.inner.asked()
    }
}

impl<S: Abort> Drop for Breakable<S> {
    fn drop(&mut self) {
        if self.breaker.is_tripped() {
            self.inner.abort();
        }
    }
}

impl<S: Abort + AsyncRead + Unpin> AsyncRead for Breakable<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

write_through!(Breakable, Abort);

/// The library's handle on a [`Breakable`] connection.
#[derive(Debug)]
pub(crate) struct Handle<S> {
    inner: S,
    breaker: Breaker,
}

impl<S> Handle<S> {
    pub(crate) fn new(inner: S, breaker: Breaker) -> Self {
        Self { inner, breaker }
    }
}

impl<S> Abort for Handle<S> {
    fn abort(&self) {
        self.breaker.trip();
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Handle<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

write_through!(Handle);

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::{
        io::AsyncReadExt,
        net::{TcpListener, TcpStream},
    };

    #[tokio::test]
    async fn a_connection_is_reset_if_its_breaker_was_tripped_and_closed_otherwise() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        for tripped in [true, false] {
            let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let (mut far, _) = listener.accept().await.unwrap();
            let breaker = Breaker::default();
            let near = Handle::new(Breakable::new(near, breaker.clone()), breaker);
            if tripped {
                near.abort();
            }
            drop(near);
            let end = far.read(&mut [0; 8]).await.map_err(|error| error.kind());
            assert_eq!(end, if tripped { Err(io::ErrorKind::ConnectionReset) } else { Ok(0) });
        }
    }
}
