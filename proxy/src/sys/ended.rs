//! Whether the other side of a kept connection has ended it. In: a connection, which a library owns and hides from then on. Out: yes
//! or no, asked of the kernel. Does not: take bytes from the connection, or close it.

#![allow(unsafe_code, reason = "the connection's owner hides its socket")]

use crate::io::write_through;
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

/// The socket of a [`Watched`] connection; nothing once that is dropped.
#[derive(Debug, Clone)]
pub(crate) struct Socket(Rc<Cell<Option<Asked>>>);

impl Socket {
    /// Whether nothing can be asked on this connection any more: it was dropped, its peer closed or reset it, or its
    /// peer sent an answer without a request. One system call.
    pub(crate) fn has_ended(&self) -> bool {
        let Some(asked) = self.0.get() else { return true };
        let number = match asked {
            Asked::Kernel(number) => number,
            #[cfg(test)]
            Asked::Pipe(id) => return crate::sim::has_ended(id),
        };
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
        let socket = Socket(Rc::new(Cell::new(Some(inner.asked()))));
        (Self { inner, socket: socket.clone() }, socket)
    }
}

impl<S> Drop for Watched<S> {
    fn drop(&mut self) {
        self.socket.0.set(None);
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

write_through!(Watched);

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
}
