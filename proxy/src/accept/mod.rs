//! Stage 1 of 8: accept. In: a listening address. Out: connections, one at a time. Refuses: more than
//! [`limits::CONNECTIONS_MAX`] per worker.
//!
//! Each worker has a listener of its own on the same address (SO_REUSEPORT), so that the kernel spreads connections and
//! no connection ever crosses threads.

use crate::limits;
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use std::{io, net::SocketAddr};
use tokio::net::{TcpListener, TcpStream};

/// Opens a listener. Must be called inside a tokio runtime.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(limits::BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// The next connection. Errors of a single connection are passed over; for want of descriptors or memory it waits, logs
/// and goes on. Cancel safe.
pub async fn next(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                tune(&stream);
                return (stream, peer);
            }
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                metrics::counter!("remora_accept_errors_total").increment(1);
                tracing::warn!(%error, "cannot accept connections for now; raise the limit of open files or memory");
                tokio::time::sleep(limits::ACCEPT_BACKOFF).await;
            }
        }
    }
}

fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

/// Sets what every connection has: no delay, and keep-alive. A socket that takes none of it is already closed, which its
/// first use will tell.
///
/// TCP_USER_TIMEOUT is left alone: Linux counts it while the peer's window is closed too, so that it would cut off
/// whoever stops reading for a while (a paused download, a process under a debugger).
pub fn tune(stream: &TcpStream) {
    let socket = SockRef::from(stream);
    let keep_alive =
        TcpKeepalive::new().with_time(limits::TCP_KEEP_ALIVE).with_interval(limits::TCP_KEEP_ALIVE).with_retries(3);
    let tuned = socket.set_tcp_nodelay(true).and_then(|()| socket.set_tcp_keepalive(&keep_alive));
    if let Err(error) = tuned {
        tracing::debug!(%error, "connection closed before it was set up");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
