//! Connections made to the inbound listener itself, which name their destination inside mesh TLS (PROXY protocol v2). In: such a
//! connection and who its peer is. Out: a port of this pod. Refuses: ports of the proxy's own, ports that the pod does not
//! declare, and, with redirection, all peers but this pod: others dial the port itself.

use crate::{
    config::Mode,
    connect::proxy_header,
    discover::Port,
    io::{Prefixed, TcpStream},
    limits,
    telemetry::Reason,
    world::World,
};
use remora_model::SpiffeId;
use std::{
    net::{IpAddr, SocketAddr},
    rc::Rc,
};
use tokio::{
    io::AsyncRead,
    time::{Instant as Deadline, timeout_at},
};

/// What the log says of a port of which nothing is known, beside the reason.
pub(crate) const UNKNOWN_PORT: &str = "no policy is known for this port";

/// Whether a connection comes from this very pod.
pub(crate) fn is_from_here(stream: &TcpStream, from: SocketAddr) -> bool {
    let from = from.ip().to_canonical();
    from.is_loopback() || stream.local_addr().is_ok_and(|here| here.ip().to_canonical() == from)
}

/// The destination that a peer names inside TLS: a port of this pod that it declares, never one of the proxy's own.
pub(crate) async fn destination<S: AsyncRead + Unpin>(
    stream: &mut Prefixed<S>,
    world: &World,
    peer: &SpiffeId,
) -> Result<(SocketAddr, Rc<Port>), (Reason, &'static str)> {
    const NOTHING: (Reason, &str) = (Reason::ProtocolError, "the peer names no destination of this pod");
    let deadline = Deadline::now() + limits::HANDSHAKE_TIMEOUT;
    let to = loop {
        match proxy_header::parse(stream.prefix()) {
            proxy_header::Parsed::Destination { to, length } => {
                stream.consume(length);
                break to;
            }
            proxy_header::Parsed::Incomplete => {}
            proxy_header::Parsed::Absent | proxy_header::Parsed::Malformed => return Err(NOTHING),
        }
        match timeout_at(deadline, stream.read_ahead(limits::PROXY_HEADER_BYTES_MAX)).await {
            Ok(Ok(count)) if count > 0 => {}
            _ => return Err(NOTHING),
        }
    };
    let to = match world.resources.config.mode {
        Mode::Explicit => SocketAddr::new(world.resources.config.app_host, to.port()),
        // As without the mesh: an application that does not listen on the pod's address cannot be reached.
        Mode::Redirect if world.resources.config.id().as_ref() == Some(peer) && is_of_this_pod(to.ip()) => to,
        Mode::Redirect => return Err(NOTHING),
    };
    // Dialled from the pod itself, the admin port would take the peer for the pod.
    if world.resources.config.is_own(to, to.ip()) || to.port() == world.resources.config.admin_listen.port() {
        return Err(NOTHING);
    }
    let port = world.directory.port(to.port()).await.map_err(|refusal| (refusal.reason, UNKNOWN_PORT))?;
    if port.inbound().port == 0 {
        return Err((Reason::Denied, "the peer names a port that this pod does not declare"));
    }
    Ok((to, port))
}

/// Whether other hosts reach this pod, and no other, by this address: a process cannot listen on an address of another host.
fn is_of_this_pod(ip: IpAddr) -> bool {
    let reachable = !ip.is_loopback() && !ip.is_unspecified() && !ip.is_multicast();
    reachable && std::net::TcpListener::bind((ip, 0)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_of_this_pod_is_one_that_others_reach_it_by() {
        let elsewhere =
            ["127.0.0.1", "127.3.2.1", "::1", "0.0.0.0", "::", "224.0.0.1", "ff02::1", "192.0.2.1", "2001:db8::1"];
        for ip in elsewhere {
            assert!(!is_of_this_pod(ip.parse().expect(ip)), "{ip}");
        }
    }

    #[tokio::test]
    async fn a_connection_is_from_here_if_its_client_has_an_address_of_the_server() {
        let listener = tokio::net::TcpListener::bind("127.5.0.1:0").await.expect("a listener");
        let to = listener.local_addr().expect("an address");
        let (_client, accepted) = tokio::join!(tokio::net::TcpStream::connect(to), listener.accept());
        let stream = crate::io::accepted(accepted.expect("a connection").0);
        let from = |ip: &str| is_from_here(&stream, SocketAddr::new(ip.parse().expect(ip), 1));
        assert!(from("127.0.0.1") && from("127.5.0.1") && from("::ffff:127.5.0.1") && from("::1"));
        assert!(!from("10.0.0.1") && !from("fd00::1") && !from("::ffff:10.0.0.1"));
    }
}
