//! Connections with something of their own: whose first bytes were read already, that are read in large pieces, that can
//! end as broken.

/// What wraps a connection for its reads alone writes as the connection does. With `unless`, one that says so of itself takes nothing more
/// and is not shut down.
macro_rules! write_through {
    ($wrapper:ident $(: $bound:ident)? $(, unless $ended:ident)?) => {
        impl<S: AsyncWrite + Unpin $(+ $bound)?> AsyncWrite for $wrapper<S> {
            fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
                $(if self.$ended() {
                    return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
                })?
                Pin::new(&mut self.inner).poll_write(cx, buf)
            }

            fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                Pin::new(&mut self.inner).poll_flush(cx)
            }

            fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                $(if self.$ended() {
                    return Poll::Ready(Ok(()));
                })?
                Pin::new(&mut self.inner).poll_shutdown(cx)
            }

            fn poll_write_vectored(
                mut self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                bufs: &[io::IoSlice<'_>],
            ) -> Poll<io::Result<usize>> {
                $(if self.$ended() {
                    return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
                })?
                Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
            }

            fn is_write_vectored(&self) -> bool {
                self.inner.is_write_vectored()
            }
        }
    };
}

pub(crate) use write_through;

mod ahead;
mod breaker;
mod lent;
pub(crate) mod pace;
mod patient;
mod tcp;

pub(crate) use ahead::Ahead;
pub(crate) use breaker::{Breakable, Breaker, Fuse, Handle};
pub(crate) use lent::{Appetite, Lent, Size};
pub(crate) use patient::Patient;
pub(crate) use tcp::{Tcp, TcpStream, accepted};

use crate::{
    account::Holder,
    sys::{Asked, Watched},
};
use bytes::{Buf, BytesMut};
use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

/// A connection that can end so that the other side knows that it broke.
pub(crate) trait Abort {
    /// Has the connection, once dropped, end as broken. Call nothing else on it then but [`cut`](Self::cut).
    fn abort(&self);

    /// The same, at once: what is on its way to the other side is lost with it. For where nobody takes that.
    fn cut(&self) {
        self.abort();
    }

    /// Whose share of the account its buffers are charged to; `None` gives it the least of them.
    fn holder(&self) -> Option<&Holder> {
        None
    }

    /// Whom to ask whether its other side has reset it, while nothing is read from it.
    fn asked(&self) -> Option<Asked> {
        None
    }

    /// Has it keep about so many written bytes to itself, at most, while its socket takes none.
    fn queue_at_most(&mut self, _bytes: usize) {}
}

/// A client's connection, as the protocols above see it.
pub(crate) trait Connection: AsyncRead + AsyncWrite + Abort + Unpin + Send + 'static {}

impl<S: AsyncRead + AsyncWrite + Abort + Unpin + Send + 'static> Connection for S {}

impl<S: Abort> Abort for Watched<S> {
    fn abort(&self) {
        self.inner().abort();
    }
}

impl<S: Abort> Abort for Prefixed<S> {
    fn abort(&self) {
        self.inner.abort();
    }

    fn cut(&self) {
        self.inner.cut();
    }

    fn holder(&self) -> Option<&Holder> {
        self.holder.as_ref().or_else(|| self.inner.holder())
    }

    fn asked(&self) -> Option<Asked> {
        self.inner.asked()
    }

    fn queue_at_most(&mut self, bytes: usize) {
        self.inner.queue_at_most(bytes);
    }
}

/// `S`, giving the bytes read ahead before its own.
#[derive(Debug)]
pub(crate) struct Prefixed<S> {
    prefix: BytesMut,
    inner: S,
    holder: Option<Holder>,
    /// Whether its bytes are taken from the task's turn here, and not above or below.
    paces: bool,
}

impl<S> Prefixed<S> {
    /// `inner` with nothing read ahead.
    pub(crate) fn new(inner: S) -> Self {
        Self { prefix: BytesMut::new(), inner, holder: None, paces: false }
    }

    /// `inner` with nothing read ahead, whose memory is charged to `holder`, and its bytes to the turn of the task that reads.
    pub(crate) fn charged(inner: S, holder: Holder) -> Self {
        Self { holder: Some(holder), paces: true, ..Self::new(inner) }
    }

    /// The same, for callers that count its bytes themselves.
    pub(crate) fn unpaced(self) -> Self {
        Self { paces: false, ..self }
    }

    /// Bytes that were read ahead and are not taken yet.
    pub(crate) fn prefix(&self) -> &[u8] {
        &self.prefix
    }

    /// Drops the first `count` bytes of the prefix, which the caller has parsed.
    pub(crate) fn consume(&mut self, count: usize) {
        self.prefix.advance(count.min(self.prefix.len()));
    }

    /// The connection beneath.
    pub(crate) fn inner(&self) -> &S {
        &self.inner
    }
}

impl<S: AsyncRead + Unpin> Prefixed<S> {
    /// Reads more into the prefix, which holds at most `max` bytes: the count read, 0 at the end or when it is full.
    /// Cancel safe.
    pub(crate) async fn read_ahead(&mut self, max: usize) -> io::Result<usize> {
        let room = max.saturating_sub(self.prefix.len()).min(4096);
        if room == 0 {
            return Ok(0);
        }
        self.prefix.reserve(room);
        (&mut self.inner).take(room as u64).read_buf(&mut self.prefix).await
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Prefixed<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.prefix.is_empty() {
            let count = self.prefix.len().min(buf.remaining());
            buf.put_slice(&self.prefix[..count]);
            self.prefix.advance(count);
            if self.prefix.is_empty() {
                self.prefix = BytesMut::new(); // an idle connection holds no buffer
            }
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.inner).poll_read(cx, buf);
        if self.paces {
            pace::spend(cx, buf.filled().len() - before);
        }
        polled
    }
}

write_through!(Prefixed);
