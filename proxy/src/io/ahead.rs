//! Reading more at once than the reader asks for.
//!
//! rustls reads 4 KiB at a time at first, and never more than one record of 16 KiB. In: a connection. Out: the same bytes, read in
//! large pieces into a buffer that is lent for as long as it holds something.

use super::{Abort, Appetite, Lent, pace};
use crate::{
    account::{Charge, Holder},
    sys::Asked,
};
use std::{
    fmt, io,
    pin::Pin,
    task::{Context, Poll, ready},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// `S`, read in pieces as large as its [`Appetite`].
pub(crate) struct Ahead<S> {
    inner: S,
    held: Option<Held>,
    appetite: Appetite,
    /// Bytes since it rested last.
    read: usize,
    holder: Option<Holder>,
    _charge: Option<Charge>,
}

/// Bytes that were read ahead and are not taken yet: never empty.
struct Held {
    buffer: Lent,
    from: usize,
    to: usize,
}

impl<S> Ahead<S> {
    /// `inner` with nothing read ahead, which is charged with `charge` for as long as it lives, and otherwise to `holder`.
    pub(crate) fn new(inner: S, holder: Option<Holder>, charge: Option<Charge>) -> Self {
        Self { inner, held: None, appetite: Appetite::new(1), read: 0, holder, _charge: charge }
    }
}

impl<S> Ahead<S> {
    /// Charges what is read from now on to `holder`.
    pub(crate) fn charge_to(&mut self, holder: Holder) {
        self.holder = Some(holder);
    }
}

impl<S: fmt::Debug> fmt::Debug for Ahead<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ahead = self.held.as_ref().map_or(0, |held| held.to - held.from);
        f.debug_struct("Ahead").field("inner", &self.inner).field("ahead", &ahead).finish()
    }
}

impl<S: Abort> Abort for Ahead<S> {
    fn abort(&self) {
        self.inner.abort();
    }

    fn holder(&self) -> Option<&Holder> {
        self.holder.as_ref()
    }

    fn asked(&self) -> Option<Asked> {
        self.inner.asked()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Ahead<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let mut held = match this.held.take() {
            Some(held) => held,
            None => {
                let mut buffer = Lent::take(this.appetite.size(this.holder.as_ref()));
                let mut piece = ReadBuf::new(&mut buffer);
                let polled = Pin::new(&mut this.inner).poll_read(cx, &mut piece);
                let to = piece.filled().len();
                pace::spend(cx, to);
                if to == buffer.len() {
                    this.appetite.grow();
                } else if to == 0 {
                    this.appetite.rest(std::mem::take(&mut this.read));
                }
                this.read += to;
                ready!(polled)?;
                Held { buffer, from: 0, to }
            }
        };
        let count = buf.remaining().min(held.to - held.from);
        buf.put_slice(&held.buffer[held.from..held.from + count]);
        held.from += count;
        if held.from < held.to {
            this.held = Some(held);
        }
        Poll::Ready(Ok(()))
    }
}

write_through!(Ahead);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        account::{Account, Peer},
        limits,
    };
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    const BYTES: usize = limits::RELAY_BYTES_MAX;

    fn ahead<S>(inner: S) -> Ahead<S> {
        let holder = Account::new(1 << 30).holder(Peer::Pod);
        Ahead::new(inner, Some(holder), None)
    }

    #[tokio::test]
    async fn a_reader_gets_the_same_bytes_however_little_it_asks_for() {
        let bytes: Vec<u8> = (0..3 * BYTES + 7).map(|at| (at * 31 % 251) as u8).collect();
        let (mut far, near) = duplex(BYTES * 2);
        let send = async {
            far.write_all(&bytes).await.unwrap();
            drop(far);
        };
        let receive = async {
            let (mut near, mut got, mut size) = (ahead(near), Vec::new(), 1);
            loop {
                let mut piece = vec![0; size];
                match near.read(&mut piece).await.unwrap() {
                    0 => break got,
                    count => got.extend_from_slice(&piece[..count]),
                }
                size = size * 7 % 9973;
            }
        };
        let ((), got) = tokio::join!(send, receive);
        assert!(got == bytes, "{} of {} bytes", got.len(), bytes.len());
    }

    #[tokio::test]
    async fn a_connection_that_waits_holds_no_buffer() {
        let (mut far, near) = duplex(64);
        let mut near = ahead(near);
        far.write_all(b"hello").await.unwrap();
        let mut piece = [0; 4];
        near.read_exact(&mut piece).await.unwrap();
        assert!(near.held.is_some(), "one byte is left");
        near.read_exact(&mut piece[..1]).await.unwrap();
        assert!(near.held.is_none());
        let waiting = std::future::poll_fn(|cx| {
            Poll::Ready(Pin::new(&mut near).poll_read(cx, &mut ReadBuf::new(&mut piece)).is_pending())
        });
        assert!(waiting.await);
        assert!(near.held.is_none());
    }
}
