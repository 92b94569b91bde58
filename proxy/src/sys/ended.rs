//! Whether the other side of a kept connection has ended it, and what it took before. In: a connection, which a library owns and hides
//! from then on. Out: yes or no, asked of the kernel. Does not: take bytes from the connection, or close it.

#![allow(unsafe_code, reason = "the connection's owner hides its socket")]

use socket2::SockRef;
use std::{
    cell::Cell,
    io,
    mem::MaybeUninit,
    os::fd::{AsRawFd, BorrowedFd, RawFd},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Who knows of a connection what its owner hides.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Asked {
    Kernel(RawFd),
    #[cfg(test)]
    Pipe(crate::sim::PipeId),
}

/// A connection of which somebody else can be asked whether it has ended.
pub(crate) trait Watch {
    /// Who; it is asked as long as the connection is not dropped.
    fn asked(&self) -> Asked;
}

impl<S: AsRawFd> Watch for S {
    fn asked(&self) -> Asked {
        Asked::Kernel(self.as_raw_fd())
    }
}

/// `tcpi_state` of `struct tcp_info`, and its value for a connection that both sides have ended (`TCP_CLOSE`, net/tcp_states.h).
const STATE: usize = 0;
const CLOSED: u8 = 7;
/// `tcpi_bytes_acked` of `struct tcp_info` (linux/tcp.h): 8 octets and 24 words of 32 bits, then two words of 64 before it.
const BYTES_ACKED: std::ops::Range<usize> = 120..128;

impl Asked {
    fn descriptor(self) -> Option<RawFd> {
        match self {
            Self::Kernel(number) => Some(number),
            #[cfg(test)]
            Self::Pipe(_) => None,
        }
    }

    /// The bytes that the peer's kernel has acknowledged, if this kernel knows.
    fn taken(self) -> Option<u64> {
        self.info()?[BYTES_ACKED].try_into().ok().map(u64::from_ne_bytes)
    }

    /// Whether the other side has reset the connection, also while what came before waits to be read. One system call.
    ///
    /// The state of the connection would not tell: it is closed as well when both sides have ended it in order.
    pub(crate) fn was_reset(self) -> bool {
        #[cfg(test)]
        if let Self::Pipe(id) = self {
            return crate::sim::was_reset(id);
        }
        let Some(fd) = self.descriptor() else { return false };
        let mut asked = libc::pollfd { fd, events: 0, revents: 0 };
        // SAFETY: the kernel writes to `asked` alone, and does not wait; a descriptor that is not open is no error of a connection.
        let told = unsafe { libc::poll(&raw mut asked, 1, 0) };
        told == 1 && asked.revents & libc::POLLERR != 0
    }

    /// Whether both sides have ended the connection: what it still has to be read is all there will be. One system call.
    pub(crate) fn is_over(self) -> bool {
        #[cfg(test)]
        if let Self::Pipe(id) = self {
            return crate::sim::is_over(id);
        }
        self.info().is_some_and(|info| info[STATE] == CLOSED)
    }

    /// What this kernel knows of it.
    fn info(self) -> Option<[u8; BYTES_ACKED.end]> {
        let number = self.descriptor()?;
        let mut info = [0_u8; BYTES_ACKED.end];
        let mut length = info.len() as libc::socklen_t;
        // SAFETY: the kernel writes at most `length` bytes into `info`, which is as long; a descriptor that is not open, or no TCP
        // connection, is an error.
        let asked = unsafe {
            libc::getsockopt(number, libc::IPPROTO_TCP, libc::TCP_INFO, info.as_mut_ptr().cast(), &raw mut length)
        };
        let known = asked == 0 && length as usize == info.len();
        known.then_some(info)
    }
}

/// The socket of a [`Watched`] connection.
#[derive(Debug, Clone)]
pub(crate) struct Socket(Rc<State>);

/// What is known of how a peer ended its side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Open,
    InOrder,
    /// By a reset, or for another reason that says nothing of what was taken.
    Broken,
}

#[derive(Debug)]
struct State {
    /// Nothing once the connection was dropped.
    asked: Cell<Option<Asked>>,
    /// Whether the peer has ended its side, and how.
    end: Cell<End>,
    /// What it had acknowledged when the connection was dropped.
    taken: Cell<Option<u64>>,
}

impl Socket {
    /// The bytes that the peer's kernel has acknowledged, while the connection is there. One system call.
    pub(crate) fn taken(&self) -> Option<u64> {
        self.0.asked.get()?.taken()
    }

    /// Whether the connection is gone, its peer ended it in order, and took nothing since it had taken `before`: then it has not seen what
    /// was sent since, and never will (RFC 9112 §9.6: a server that closes processes no further request).
    ///
    /// Of a peer that resets, the kernel does not say so: a reset may overtake the acknowledgement of what was read.
    pub(crate) fn took_nothing_since(&self, before: Option<u64>) -> bool {
        self.0.end.get() == End::InOrder && before.is_some() && self.0.taken.get() == before
    }

    /// Whether nothing can be asked on this connection any more: it was dropped, its peer closed or reset it, or its
    /// peer sent an answer without a request. One system call.
    pub(crate) fn has_ended(&self) -> bool {
        let Some(asked) = self.0.asked.get() else { return true };
        #[cfg(test)]
        if let Asked::Pipe(id) = asked {
            return crate::sim::has_ended(id);
        }
        let Some(number) = asked.descriptor() else { return true };
        // SAFETY: the descriptor is open: `Watched` owns the stream that it belongs to and takes the number away before that is
        // dropped, and `Rc` keeps both on this thread, on which nothing closes it during this call.
        let fd = unsafe { BorrowedFd::borrow_raw(number) };
        match SockRef::from(&fd).peek(&mut [MaybeUninit::uninit()]) {
            Err(error) => error.kind() != io::ErrorKind::WouldBlock,
            Ok(_) => true,
        }
    }
}

/// A connection whose [`Socket`] outlives its move into a library.
#[derive(Debug)]
pub(crate) struct Watched<S> {
    inner: S,
    socket: Socket,
}

impl<S: Watch> Watched<S> {
    /// `inner`, which must be non-blocking, and its socket. The descriptor of `inner` never changes: only this module could.
    pub(crate) fn new(inner: S) -> (Self, Socket) {
        let asked = Cell::new(Some(inner.asked()));
        let socket = Socket(Rc::new(State { asked, end: Cell::new(End::Open), taken: Cell::default() }));
        (Self { inner, socket: socket.clone() }, socket)
    }
}

impl<S> Watched<S> {
    /// The connection itself.
    pub(crate) fn inner(&self) -> &S {
        &self.inner
    }
}

impl<S> Drop for Watched<S> {
    fn drop(&mut self) {
        let State { asked, end, taken } = &*self.socket.0;
        let asked = asked.take();
        if end.get() == End::InOrder {
            taken.set(asked.and_then(Asked::taken));
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.inner).poll_read(cx, buf);
        match &read {
            Poll::Ready(Ok(())) if buf.filled().len() == before && buf.remaining() > 0 => self.ended(End::InOrder),
            Poll::Ready(Err(error)) => self.failed(error),
            _ => {}
        }
        read
    }
}

impl<S> Watched<S> {
    /// The first word counts: the kernel tells a reset once, and of a connection that was reset it says that it has ended.
    fn ended(&self, how: End) {
        let end = &self.socket.0.end;
        if end.get() == End::Open {
            end.set(how);
        }
    }

    fn failed(&self, error: &io::Error) {
        // What a reset says that comes behind an end in order (Linux: `tcp_reset` in CLOSE_WAIT).
        self.ended(if error.kind() == io::ErrorKind::BrokenPipe { End::InOrder } else { End::Broken });
    }

    fn wrote(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Err(error)) = &written {
            self.failed(error);
        }
        written
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(cx, buf);
        self.wrote(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write_vectored(cx, bufs);
        self.wrote(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        io::Write as _,
        net::{TcpListener, TcpStream},
    };

    #[test]
    fn a_connection_has_ended_when_it_is_dropped_or_its_peer_closed_it_or_speaks_out_of_turn() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let connect = || {
            let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            near.set_nonblocking(true).unwrap();
            (Watched::new(near), listener.accept().unwrap().0)
        };
        for says in [&b""[..], b"HTTP/1.1 408 \r\n\r\n"] {
            let ((_near, socket), mut far) = connect();
            assert!(!socket.has_ended());
            far.write_all(says).unwrap();
            drop(far);
            // Loopback delivers before the call that sends returns.
            assert!(socket.has_ended(), "{says:?}");
        }
        let ((near, socket), _far) = connect();
        drop(near);
        assert!(socket.has_ended());
    }

    #[test]
    fn what_both_sides_have_ended_in_order_was_not_reset() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        for near_first in [true, false] {
            let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (mut far, _) = listener.accept().unwrap();
            far.write_all(b"unread").unwrap();
            for ends in if near_first { [&near, &far] } else { [&far, &near] } {
                ends.shutdown(std::net::Shutdown::Write).unwrap();
            }
            drop(far);
            assert!(!near.asked().was_reset() && near.asked().is_over(), "near_first={near_first}");
        }
    }

    #[test]
    fn a_reset_is_known_although_what_came_before_it_was_not_read() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        for resets in [false, true] {
            let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (mut far, _) = listener.accept().unwrap();
            far.write_all(b"unread").unwrap();
            if resets {
                SockRef::from(&far).set_linger(Some(std::time::Duration::ZERO)).unwrap();
            }
            assert!(!near.asked().was_reset());
            drop(far);
            assert_eq!(near.asked().was_reset(), resets, "an end in order leaves the other way open");
        }
    }

    /// What is sent on a connection that its server has closed already arrives at nobody; what a server read before it closed did.
    #[tokio::test(flavor = "current_thread")]
    async fn what_a_server_took_before_it_ended_the_connection_is_known() {
        use tokio::{
            io::{AsyncReadExt as _, AsyncWriteExt as _},
            net::{TcpListener, TcpStream},
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        for (reads, resets) in [(false, false), (true, false), (true, true), (false, true)] {
            let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let ((mut near, socket), (mut far, _)) = (Watched::new(near), listener.accept().await.unwrap());
            near.write_all(b"first").await.unwrap();
            far.read_exact(&mut [0; 5]).await.unwrap();
            far.write_all(b"answer").await.unwrap();
            near.read_exact(&mut [0; 6]).await.unwrap();
            let before = socket.taken();
            if resets {
                SockRef::from(&far).set_linger(Some(std::time::Duration::ZERO)).unwrap();
            }
            if reads {
                near.write_all(b"second").await.unwrap();
                far.read_exact(&mut [0; 6]).await.unwrap();
                drop(far);
            } else {
                drop(far);
                // May fail: the reset may be here.
                let _ = near.write_all(b"second").await;
            }
            while near.read(&mut [0; 8]).await.is_ok_and(|count| count > 0) {}
            assert!(!socket.took_nothing_since(before), "it is still there");
            drop(near);
            assert_eq!(socket.took_nothing_since(before), !reads && !resets, "{reads} {resets}");
        }
    }
}
