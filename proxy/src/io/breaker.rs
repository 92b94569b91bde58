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
        Arc, OnceLock,
        atomic::{AtomicU8, Ordering::Relaxed},
    },
    task::{Context, Poll},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Says to a connection that it has to end as broken, and whom to ask about it. Both live on one thread.
#[derive(Debug, Clone, Default)]
pub(crate) struct Breaker(Arc<State>);

#[derive(Debug, Default)]
struct State {
    tripped: AtomicU8,
    asked: OnceLock<Asked>,
}

/// The values of [`State::tripped`] beside 0: see [`Abort::abort`] and [`Abort::cut`].
const ABORTED: u8 = 1;
const CUT: u8 = 2;

impl Breaker {
    /// The connection is reset when it is dropped.
    pub(crate) fn trip(&self) {
        self.0.tripped.fetch_max(ABORTED, Relaxed);
    }

    /// The same, and what is on its way is lost with it.
    pub(crate) fn cut(&self) {
        self.0.tripped.fetch_max(CUT, Relaxed);
    }

    pub(crate) fn is_tripped(&self) -> bool {
        self.0.tripped.load(Relaxed) > 0
    }
}

/// Trips a breaker when it is dropped, unless it was taken off before.
#[derive(Debug)]
pub(crate) struct Fuse(Option<Breaker>);

impl Fuse {
    /// Of the connection of `breaker`.
    pub(crate) fn on(breaker: &Breaker) -> Self {
        Self(Some(breaker.clone()))
    }

    /// The connection may end in order again.
    pub(crate) fn off(mut self) {
        self.0 = None;
    }
}

impl Drop for Fuse {
    fn drop(&mut self) {
        if let Some(breaker) = &self.0 {
            breaker.trip();
        }
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
        if let Some(asked) = inner.asked() {
            breaker.0.asked.get_or_init(|| asked);
        }
        Self { inner, breaker }
    }

    /// The library ends a connection, or a stream of it, in order whose request nobody waits for any more. A tripped one ends as broken, when it is
    /// dropped.
    fn is_broken(&self) -> bool {
        self.breaker.is_tripped()
    }
}

impl<S: Abort> Abort for Breakable<S> {
    fn abort(&self) {
        self.inner.abort();
    }

    fn cut(&self) {
        self.inner.cut();
    }

    fn asked(&self) -> Option<Asked> {
        self.inner.asked()
    }
}

impl<S: Abort> Drop for Breakable<S> {
    fn drop(&mut self) {
        match self.breaker.0.tripped.load(Relaxed) {
            0 => {}
            CUT => self.inner.cut(),
            _ => self.inner.abort(),
        }
    }
}

impl<S: Abort + AsyncRead + Unpin> AsyncRead for Breakable<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

write_through!(Breakable: Abort, unless is_broken);

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

    fn cut(&self) {
        self.breaker.cut();
    }

    /// The connection that it is the handle of is not dropped before.
    fn asked(&self) -> Option<Asked> {
        self.breaker.0.asked.get().copied()
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
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpStream},
    };

    #[test]
    fn a_fuse_trips_its_breaker_unless_it_is_taken_off() {
        let breaker = Breaker::default();
        Fuse::on(&breaker).off();
        assert!(!breaker.is_tripped());
        drop(Fuse::on(&breaker));
        assert!(breaker.is_tripped());
    }

    #[tokio::test]
    async fn a_connection_is_reset_if_its_breaker_was_tripped_and_closed_otherwise() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        for (tripped, cut) in [(true, false), (true, true), (false, false)] {
            let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let (mut far, _) = listener.accept().await.unwrap();
            let breaker = Breaker::default();
            let mut near = Handle::new(Breakable::new(near, breaker.clone()), breaker);
            assert!(
                near.asked().is_some_and(|asked| !asked.was_reset()),
                "who hides the connection can be asked about it"
            );
            if cut {
                near.cut();
            }
            if tripped {
                near.abort();
                near.shutdown().await.unwrap();
            }
            drop(near);
            let end = far.read(&mut [0; 8]).await.map_err(|error| error.kind());
            assert_eq!(end, if tripped { Err(io::ErrorKind::ConnectionReset) } else { Ok(0) });
        }
    }
}
