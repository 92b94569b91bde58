//! Stage 1 of 8: accept. In: a listening address. Out: connections, one at a time. Refuses: those
//! beyond their peer's share of the [account](crate::account), and those for which the process has no descriptors to spare
//! ([`Room`]).
//!
//! Each worker has a listener of its own on the same address (SO_REUSEPORT), so that the kernel spreads connections and
//! no connection ever crosses threads.

use crate::limits;
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use std::{
    io,
    net::SocketAddr,
    os::fd::{AsFd, AsRawFd},
    time::Duration,
};
use tokio::net::{TcpListener, TcpStream};

/// Opens a listener. Must be called inside a tokio runtime.
pub(crate) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    set_options(&socket.as_fd())?; // Linux gives them to every connection accepted from it
    socket.bind(&address.into())?;
    socket.listen(limits::BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// The next connection. Skips errors of a single connection; without descriptors or memory it logs, waits
/// and goes on. Cancel safe.
pub(crate) async fn next(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                // Other socket options are inherited from the listener. If this one cannot be set, the peer has already closed.
                let _closed = SockRef::from(&stream).set_tcp_keepalive(&pauses()).is_err();
                return (stream, peer);
            }
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                metrics::counter!("remora_accept_errors_total").increment(1);
                remora_runtime::limited!(warn, %error, "cannot accept connections for now; raise the limit of open files or memory");
                tokio::time::sleep(limits::ACCEPT_BACKOFF).await;
            }
        }
    }
}

/// Whether there are descriptors to spare.
///
/// The kernel gives a socket the lowest number that is free: a number near the limit says that nearly all are taken,
/// by whomever, and costs nothing to know.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Room {
    below: u64,
}

impl Room {
    /// Of a process that may have `limit` descriptors open.
    pub(crate) fn new(limit: u64) -> Self {
        Self { below: limit - limits::DESCRIPTORS_RESERVED.min(limit / 2) }
    }

    /// Whether this connection leaves enough for others' needs.
    pub(crate) fn has(self, stream: &TcpStream) -> bool {
        u64::try_from(stream.as_raw_fd()).is_ok_and(|number| number < self.below)
    }
}

fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

/// Sets what every connection has. A socket that takes none of it is already closed, which its first use will tell.
pub(crate) fn tune(stream: &TcpStream) {
    if let Err(error) = set_options(stream) {
        tracing::debug!(%error, "connection closed before it was set up");
    }
}

/// No delay, and keep-alive.
///
/// TCP_USER_TIMEOUT is left alone: Linux counts it while the peer's window is closed too, so that it would cut off
/// peers that stop reading for a while (a paused download, a process under a debugger).
fn set_options(socket: &impl AsFd) -> io::Result<()> {
    let socket = SockRef::from(socket);
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(&pauses().with_time(limits::TCP_KEEP_ALIVE).with_retries(3))
}

/// See [`limits::TCP_KEEP_ALIVE_PAUSES`].
fn pauses() -> TcpKeepalive {
    TcpKeepalive::new().with_interval(Duration::from_secs(fastrand::u64(limits::TCP_KEEP_ALIVE_PAUSES)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn an_accepted_connection_has_the_options_of_its_listener() {
        let listener = listen(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let address = listener.local_addr().unwrap();
        let (client, (accepted, _)) = tokio::join!(TcpStream::connect(address), next(&listener));
        let (_client, socket) = (client.unwrap(), SockRef::from(&accepted));
        assert!(socket.tcp_nodelay().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), limits::TCP_KEEP_ALIVE);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn connections_are_probed_at_times_of_their_own() {
        let listener = listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let mut pauses = std::collections::BTreeSet::new();
        for _ in 0..100 {
            let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let (server, _) = next(&listener).await;
            tune(&client);
            pauses.extend([client, server].map(|it| SockRef::from(&it).tcp_keepalive_interval().unwrap().as_secs()));
        }
        assert!(pauses.iter().all(|pause| limits::TCP_KEEP_ALIVE_PAUSES.contains(pause)), "{pauses:?}");
        // 200 draws of 21: that fewer than 15 are met does not happen.
        assert!(pauses.len() >= 15, "{pauses:?}");
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_peer_that_stops_reading_may_do_so_for_as_long_as_it_likes() {
        let listener = listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (server, _) = next(&listener).await;
        tune(&client);
        for stream in [&client, &server] {
            assert_eq!(SockRef::from(stream).tcp_user_timeout().unwrap(), None);
            assert!(SockRef::from(stream).keepalive().unwrap(), "a peer that is gone must be noticed");
        }
    }

    #[tokio::test]
    async fn a_connection_that_would_take_the_last_descriptors_has_no_room() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let number = u64::try_from(stream.as_raw_fd()).unwrap();
        assert!(Room::new(2 * (number + 1)).has(&stream));
        assert!(!Room::new(2 * number).has(&stream), "half is kept where there are few");
        let many = 100_000 + limits::DESCRIPTORS_RESERVED;
        assert_eq!(Room::new(many).below, 100_000, "and no more than is needed where there are many");
    }
}
