//! A TCP connection as the data path has it: tokio's, in everything that ships. The tests of this crate may put a pipe in memory in
//! its place (`sim/`), under the same name. So nothing of the data path has a branch, a box or a type parameter for them.

use super::Abort;
use crate::{
    accept,
    sys::{self, Asked, Watch},
};
use socket2::SockRef;
use std::{io, net::SocketAddr, time::Duration};
use tokio::net::TcpStream as Kernel;

#[cfg(test)]
pub(crate) use crate::sim::TcpStream;
#[cfg(not(test))]
pub(crate) use tokio::net::TcpStream;

/// What the data path asks of a TCP connection beside its bytes.
pub(crate) trait Tcp: Abort {
    /// See [`sys::original_destination`].
    fn original_destination(&self, peer: SocketAddr) -> io::Result<SocketAddr>;

    /// See [`accept::tune`].
    fn tune(&self);
}

impl Abort for Kernel {
    fn abort(&self) {
        // A reset instead of an end. One that cannot be set is on a socket that is closed already.
        let _closed = SockRef::from(self).set_linger(Some(Duration::ZERO)).is_err();
    }

    fn asked(&self) -> Option<Asked> {
        Some(Watch::asked(self))
    }
}

impl Tcp for Kernel {
    fn original_destination(&self, peer: SocketAddr) -> io::Result<SocketAddr> {
        sys::original_destination(self, peer)
    }

    fn tune(&self) {
        accept::tune(self);
    }
}

/// A connection that a listener gave.
#[allow(clippy::useless_conversion, reason = "in tests it is of another type")]
pub(crate) fn accepted(stream: Kernel) -> TcpStream {
    stream.into()
}
