//! Where a redirected connection was going. In: an accepted TCP socket. Out: the address its client dialled.
//!
//! The `redirect` rule that `remora-proxy init` installs rewrites the destination of a connection to our listener;
//! the kernel's connection tracking remembers the first one and tells it by `SO_ORIGINAL_DST` (IPv4) and
//! `IP6T_SO_ORIGINAL_DST` (IPv6). Does not judge the answer: a connection made to the listener itself answers
//! with the listener's own address, which the caller must refuse to forward to (it would be a loop).

use socket2::{SockAddr, SockRef};
use std::{
    io,
    net::{IpAddr, SocketAddr},
    os::fd::AsFd,
};

/// The address that the client `peer` of this accepted TCP connection dialled before the kernel redirected it.
///
/// An IPv4 connection accepted by a dual-stack listener (`[::]:4143`) is asked for as IPv4 and answers with an
/// IPv4 address, never an IPv4-mapped one. Without redirection the answer is the socket's own local address.
///
/// # Errors
///
/// `NotFound` if the kernel tracks no such connection (no nat rules in this network namespace), and whatever else
/// `getsockopt` says, e.g. `ENOPROTOOPT` from a kernel without connection tracking.
pub fn original_destination(socket: &impl AsFd, peer: SocketAddr) -> io::Result<SocketAddr> {
    let socket = SockRef::from(socket);
    let original = match peer.ip().to_canonical() {
        IpAddr::V4(_) => socket.original_dst_v4()?,
        IpAddr::V6(_) => socket.original_dst_v6()?,
    };
    inet(&original)
}

/// As an IP address in its canonical form (IPv4-mapped becomes IPv4).
fn inet(address: &SockAddr) -> io::Result<SocketAddr> {
    let address = address
        .as_socket()
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "not a socket of an IP family"))?;
    Ok(SocketAddr::new(address.ip().to_canonical(), address.port()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_mapped_address_is_told_as_ipv4() {
        let mapped: SocketAddr = "[::ffff:10.1.2.3]:80".parse().unwrap();
        assert_eq!(inet(&mapped.into()).unwrap(), "10.1.2.3:80".parse().unwrap());
    }

    #[test]
    fn a_socket_that_is_no_tcp_connection_is_refused() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        for peer in ["127.0.0.1:1", "[::1]:1"] {
            assert!(original_destination(&ours, peer.parse().unwrap()).is_err());
        }
    }
}
