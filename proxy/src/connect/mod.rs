//! Stage 7 of 8: connect. In: a [`Permit`] and an address. Out: a connection. Refuses: addresses that do not answer in
//! time, and peers that are not who discovery said they are.

use crate::{
    io::{Tcp, TcpStream},
    limits,
    policy::Permit,
    telemetry::Reason,
};
use remora_model::Endpoint;
use std::{io, net::SocketAddr, time::Duration};
use tokio::{io::AsyncWriteExt, time::timeout};

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    #[error("{address} refused the connection; is anything listening there?")]
    Refused { address: SocketAddr },
    #[error("{address} did not answer in {after:?}; maybe a NetworkPolicy drops packets to it")]
    Timeout { address: SocketAddr, after: Duration },
    #[error("cannot connect to {address}")]
    Io { address: SocketAddr, source: io::Error },
    #[error("this proxy has no descriptors or memory left to connect to {address} with; raise their limits")]
    Exhausted { address: SocketAddr, source: io::Error },
    #[error(
        "{address} is one more than the {} peers that may be connected to, all of them in use",
        limits::MESH_CONNECTIONS_MAX
    )]
    Busy { address: SocketAddr },
    #[error(
        "{address} has {most} connections of this worker, the most that maxConnections of its BackendPolicy leaves it"
    )]
    Full { address: SocketAddr, most: u32 },
    #[error("{address} did not finish a TLS handshake in {:?}", limits::HANDSHAKE_TIMEOUT)]
    HandshakeTimeout { address: SocketAddr },
    #[error("{address} refused mesh TLS")]
    Tls { address: SocketAddr, source: io::Error },
    #[error("{address} is not {expected}")]
    Identity { address: SocketAddr, expected: remora_model::SpiffeId, source: io::Error },
    #[error("{address} is trusted no more as {expected}")]
    Revoked { address: SocketAddr, expected: remora_model::SpiffeId, source: io::Error },
    #[error("this proxy has no certificate that is valid now; see /ready")]
    NoCertificate,
}

impl ConnectError {
    /// The reason for the metrics and the client.
    pub(crate) fn reason(&self) -> Reason {
        match self {
            Self::Refused { .. } => Reason::ConnectRefused,
            Self::Timeout { .. } | Self::HandshakeTimeout { .. } => Reason::ConnectTimeout,
            Self::Io { .. } => Reason::ConnectFailed,
            Self::Exhausted { .. } | Self::Busy { .. } => Reason::Overloaded,
            Self::Full { .. } => Reason::QueueFull,
            Self::Tls { .. } | Self::NoCertificate => Reason::TlsRefused,
            Self::Identity { .. } => Reason::IdentityMismatch,
            Self::Revoked { .. } => Reason::Revoked,
        }
    }

    /// What lies beneath, as text for a log field; empty if nothing does.
    pub(crate) fn cause(&self) -> String {
        std::error::Error::source(self).map(ToString::to_string).unwrap_or_default()
    }
}

/// A TCP connection to `address`. Cancel safe: the attempt is dropped.
pub(crate) async fn tcp(_permit: &Permit, address: SocketAddr, within: Duration) -> Result<TcpStream, ConnectError> {
    match timeout(within, TcpStream::connect(address)).await {
        Ok(Ok(stream)) => {
            stream.tune();
            Ok(stream)
        }
        Ok(Err(source)) => Err(failed(address, source)),
        Err(_) => Err(ConnectError::Timeout { address, after: within }),
    }
}

fn failed(address: SocketAddr, source: io::Error) -> ConnectError {
    match source.raw_os_error() {
        Some(libc::ECONNREFUSED) => ConnectError::Refused { address },
        Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::ENOBUFS) => ConnectError::Exhausted { address, source },
        _ => ConnectError::Io { address, source },
    }
}

/// Tells the far proxy which address of its pod is meant, where nothing redirects the connection (PROXY protocol v2,
/// as the first bytes inside TLS).
pub(crate) async fn name_destination<S: tokio::io::AsyncWrite + Unpin>(
    stream: &mut S,
    endpoint: &Endpoint,
) -> io::Result<()> {
    let mut header = Vec::with_capacity(64);
    header.extend_from_slice(proxy_header::SIGNATURE);
    header.push(0x21); // version 2, PROXY
    match endpoint.address {
        SocketAddr::V4(to) => {
            header.extend_from_slice(&[0x11, 0, 12, 0, 0, 0, 0]);
            header.extend_from_slice(&to.ip().octets());
            header.extend_from_slice(&[0, 0]);
        }
        SocketAddr::V6(to) => {
            header.extend_from_slice(&[0x21, 0, 36]);
            header.extend_from_slice(&[0; 16]);
            header.extend_from_slice(&to.ip().octets());
            header.extend_from_slice(&[0, 0]);
        }
    }
    header.extend_from_slice(&endpoint.address.port().to_be_bytes());
    stream.write_all(&header).await
}

/// The PROXY protocol v2 header, as far as one proxy sends it to another.
pub(crate) mod proxy_header {
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

    /// The twelve bytes that it begins with.
    pub(crate) const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

    /// What the bytes so far are.
    #[derive(Debug, PartialEq, Eq)]
    pub(crate) enum Parsed {
        /// More bytes decide.
        Incomplete,
        /// Something else.
        Absent,
        /// A header of `length` bytes that names this destination.
        Destination { to: SocketAddr, length: usize },
        /// The signature and then nonsense.
        Malformed,
    }

    /// Reads a header at the start of `bytes`. Pure.
    pub(crate) fn parse(bytes: &[u8]) -> Parsed {
        let seen = bytes.len().min(SIGNATURE.len());
        if bytes[..seen] != SIGNATURE[..seen] {
            return Parsed::Absent;
        }
        let Some(&[command, family, high, low]) = bytes.get(12..16) else { return Parsed::Incomplete };
        let length = usize::from(u16::from_be_bytes([high, low]));
        if command != 0x21 || 16 + length > crate::limits::PROXY_HEADER_BYTES_MAX {
            return Parsed::Malformed;
        }
        let Some(body) = bytes.get(16..16 + length) else { return Parsed::Incomplete };
        let destination = match family {
            0x11 => address::<4>(body).map(|(ip, port)| (IpAddr::from(Ipv4Addr::from(ip)), port)),
            0x21 => address::<16>(body).map(|(ip, port)| (IpAddr::from(Ipv6Addr::from(ip)), port)),
            _ => None,
        };
        match destination {
            Some((ip, port)) => Parsed::Destination { to: SocketAddr::new(ip, port), length: 16 + length },
            None => Parsed::Malformed,
        }
    }

    /// Source address, destination address, source port, destination port.
    fn address<const N: usize>(body: &[u8]) -> Option<([u8; N], u16)> {
        let ip = body.get(N..2 * N)?.try_into().ok()?;
        let port = body.get(2 * N + 2..2 * N + 4)?.try_into().ok()?;
        Some((ip, u16::from_be_bytes(port)))
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[tokio::test]
        async fn what_one_proxy_writes_the_other_reads_at_every_split() {
            for to in ["10.0.0.7:8080", "[fd00::7]:8080"] {
                let endpoint = remora_model::Endpoint {
                    address: to.parse().expect("an address"),
                    identity: None,
                    proxy: None,
                    weight: 1,
                    zone: "".into(),
                    pod: "".into(),
                    node: None,
                };
                let mut header = Vec::new();
                super::super::name_destination(&mut header, &endpoint).await.expect("a Vec takes all");
                for split in 0..header.len() {
                    assert_eq!(parse(&header[..split]), Parsed::Incomplete);
                }
                assert_eq!(parse(&header), Parsed::Destination { to: endpoint.address, length: header.len() });
            }
            assert_eq!(parse(b"GET / HTTP/1.1"), Parsed::Absent);
            assert_eq!(parse(b"\r\n\r\n\0\r\nQUIT\n\x20\x11\x00\x0c"), Parsed::Malformed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{limits, policy};

    #[tokio::test]
    async fn an_application_that_accepts_late_is_connected_to_by_the_packet_that_the_kernel_repeats() {
        let listener = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        listener.listen(0).unwrap();
        let address = listener.local_addr().unwrap().as_socket().unwrap();
        // The queue has a place or two.
        let mut queued = Vec::new();
        while let Ok(Ok(stream)) = timeout(Duration::from_millis(100), TcpStream::connect(address)).await {
            queued.push(stream);
        }
        let permit = policy::outbound(policy::To::Target(&remora_model::Target::Address(address)));
        let accepts = async {
            for _ in &queued {
                listener.accept().unwrap();
            }
        };
        // The first packet is dropped by then.
        let connecting = tcp(&permit, address, limits::APP_CONNECT_TIMEOUT);
        let (connected, ()) = tokio::join!(biased; connecting, accepts);
        assert!(connected.is_ok(), "{connected:?}");
    }

    /// What becomes of an endpoint's statistics is decided by the reason.
    #[test]
    fn what_this_proxy_lacks_is_not_the_endpoints_failure() {
        let address = SocketAddr::from(([10, 0, 0, 1], 80));
        let reason = |number| failed(address, io::Error::from_raw_os_error(number)).reason();
        assert_eq!(reason(libc::ECONNREFUSED), Reason::ConnectRefused);
        assert_eq!(reason(libc::EHOSTUNREACH), Reason::ConnectFailed);
        for number in [libc::EMFILE, libc::ENFILE, libc::ENOMEM, libc::ENOBUFS] {
            assert_eq!(reason(number), Reason::Overloaded);
        }
    }
}
