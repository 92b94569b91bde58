//! A connection on its way into the pod, from accept to its end.

use crate::{
    config::Mode,
    connect::{self, proxy_header},
    detect::client_hello::{Peek, peek},
    first::{self, First, FirstError},
    forward,
    http::{
        Wire,
        client::Upstream,
        inbound::{Visit, handle},
        serve as serve_http,
    },
    io::{Abort, Prefixed},
    limits,
    policy::{self, Act, Peer},
    sys,
    telemetry::{Direction, Reason, Tls},
    tls::Alpn,
    worker::World,
};
use http::HeaderValue;
use remora_model::{Endpoint, Protocol, SpiffeId};
use std::{
    io,
    net::SocketAddr,
    rc::Rc,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::{Instant as Deadline, timeout_at},
};

/// Serves one connection to the pod.
pub async fn serve(world: Rc<World>, stream: TcpStream, from: SocketAddr) {
    let original = match world.config.mode {
        Mode::Redirect => sys::original_destination(&stream).ok().filter(|to| !world.config.is_own(*to)),
        Mode::Explicit => None,
    };
    let mut client = Prefixed::new(stream);
    let seen = match mesh_hello(&mut client, original.is_none()).await {
        Ok(seen) => seen,
        Err(error) => return tracing::debug!(%from, %error, "connection ended before its first bytes"),
    };
    match (seen, original) {
        (Seen::Mesh, _) => mesh(world, client, from, original).await,
        (_, Some(to)) => plain(world, client, from, to).await,
        (_, None) => {
            refuse(&from, Reason::ProtocolError, "this listener takes mesh TLS only, where nothing redirects to it")
        }
    }
}

/// What the first bytes of a connection are, as far as inbound must know before it knows the port's policy.
enum Seen {
    Mesh,
    /// Not mesh TLS; nothing came within the grace, or something else.
    Other,
}

/// Reads a ClientHello if one comes. Silence ends the wait after the detection grace, unless mesh TLS is all that may
/// come here (`patient`).
async fn mesh_hello(client: &mut Prefixed<TcpStream>, patient: bool) -> io::Result<Seen> {
    let whole = Deadline::now() + limits::HANDSHAKE_TIMEOUT;
    let silence = if patient { whole } else { Deadline::now() + limits::DETECT_GRACE };
    loop {
        match peek(client.prefix()) {
            Peek::Incomplete => {}
            Peek::Hello(hello) if [Alpn::MeshHttp, Alpn::MeshTcp].iter().any(|alpn| hello.offers(alpn.as_bytes())) => {
                return Ok(Seen::Mesh);
            }
            Peek::Hello(_) | Peek::NotTls => return Ok(Seen::Other),
        }
        let deadline = if client.prefix().is_empty() { silence } else { whole };
        match timeout_at(deadline, client.read_ahead(limits::DETECT_BYTES_MAX)).await {
            Err(_) | Ok(Ok(0)) => return Ok(Seen::Other),
            Ok(read) => drop(read?),
        }
    }
}

/// A connection from another proxy.
async fn mesh(world: Rc<World>, client: Prefixed<TcpStream>, from: SocketAddr, original: Option<SocketAddr>) {
    let terminated = match world.tls.terminate(client).await {
        Ok(terminated) => terminated,
        Err(error) => {
            return tracing::warn!(%from, %error, reason = error.reason(), "mesh TLS refused");
        }
    };
    let goodbye = terminated.stream.goodbye();
    let mut stream = Prefixed::new(terminated.stream);
    let to = match original {
        Some(to) => to,
        None => match named(&mut stream, &world).await {
            Some(to) => to,
            None => return refuse(&from, Reason::ProtocolError, "the peer names no destination of this pod"),
        },
    };
    let Some(mut caller) = caller(&world, from, to, Some(terminated.peer)).await else { return };
    caller.goodbye = goodbye;
    match terminated.alpn {
        Alpn::MeshHttp => http(&world, stream, Wire::Http2, limits::MESH_STREAMS_MAX, caller).await,
        _ => {
            let first = first(&world, &mut stream, &caller).await;
            decided(&world, stream, caller, first).await;
        }
    }
}

/// The destination that a peer names inside TLS: a port of this pod, never one of the proxy's own.
async fn named<S: AsyncRead + Unpin>(stream: &mut Prefixed<S>, world: &World) -> Option<SocketAddr> {
    let deadline = Deadline::now() + limits::HANDSHAKE_TIMEOUT;
    loop {
        match proxy_header::parse(stream.prefix()) {
            proxy_header::Parsed::Destination { to, length } => {
                stream.consume(length);
                let to = SocketAddr::new(world.config.app_host, to.port());
                // Dialled from the pod itself, the admin port would take the peer for the pod.
                let own = world.config.is_own(to) || to.port() == world.config.admin_listen.port();
                return (!own).then_some(to);
            }
            proxy_header::Parsed::Incomplete => {}
            proxy_header::Parsed::Absent | proxy_header::Parsed::Malformed => return None,
        }
        match timeout_at(deadline, stream.read_ahead(limits::PROXY_HEADER_BYTES_MAX)).await {
            Ok(Ok(count)) if count > 0 => {}
            _ => return None,
        }
    }
}

/// A plaintext connection, the application's own TLS, or a peer's ClientHello that came after the grace: until the
/// client speaks, silence is none of them.
async fn plain(world: Rc<World>, mut client: Prefixed<TcpStream>, from: SocketAddr, to: SocketAddr) {
    let Some(caller) = caller(&world, from, to, None).await else { return };
    if let Err(denial) = policy::admit(&caller.port.inbound(), &caller.peer) {
        return match mesh_hello(&mut client, true).await {
            Ok(Seen::Mesh) => mesh(world, client, from, Some(to)).await,
            _ => denied(&caller, &denial),
        };
    }
    let first = first(&world, &mut client, &caller).await;
    if matches!(first, Ok(First::Tls | First::Opened(_)))
        && !client.prefix().is_empty()
        && let Ok(Seen::Mesh) = mesh_hello(&mut client, true).await
    {
        return mesh(world, client, from, Some(to)).await;
    }
    decided(&world, client, caller, first).await;
}

/// Who calls which port.
async fn caller(world: &Rc<World>, from: SocketAddr, to: SocketAddr, identity: Option<SpiffeId>) -> Option<Visit> {
    let Some(port) = world.directory.port(to.port()).await else {
        refuse(&from, Reason::Denied, "no policy is known for this port; is discovery reachable?");
        return None;
    };
    let endpoint = Endpoint { address: to, identity: None, proxy: None, weight: 1, zone: "".into(), pod: "".into() };
    let tls = if identity.is_some() { Tls::Mtls } else { Tls::Plain };
    let name = identity.as_ref().map(SpiffeId::as_str).unwrap_or_default();
    Some(Visit {
        goodbye: None,
        client_id: HeaderValue::from_str(name).ok().filter(|_| identity.is_some()),
        peer_name: name.into(),
        peer: Peer { identity, address: from.ip().to_canonical() },
        tls,
        app: world.directory.app(&port, to, || Upstream::new(endpoint, limits::APP_CONNECT_TIMEOUT)),
        port,
    })
}

/// Waits for the first bytes of a decrypted or plaintext stream, unless policy says what they are. The grace is over: a
/// peer proxy has waited for its client already, and so have we for a peer's ClientHello.
async fn first<S>(
    world: &World,
    stream: &mut Prefixed<S>,
    caller: &Visit,
) -> Result<First<TcpStream>, FirstError<connect::ConnectError>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let inbound = caller.port.inbound();
    let said = if world.config.opaque_ports.contains(&inbound.port) { Protocol::Opaque } else { inbound.protocol };
    match said {
        Protocol::Http1 => Ok(First::Http1),
        Protocol::Http2 => Ok(First::Http2),
        Protocol::Opaque => Ok(First::Opaque),
        Protocol::Detect => {
            // Before a byte of the application's is asked for, the caller must be let in as a sender of bytes.
            let open = async {
                match policy::authorize(&inbound, &caller.peer, Act::Bytes) {
                    Ok(permit) => connect::tcp(&permit, caller.app.endpoint.address, limits::APP_CONNECT_TIMEOUT).await,
                    Err(_) => std::future::pending().await,
                }
            };
            first::protocol(stream, Duration::ZERO, open).await
        }
    }
}

/// Serves a stream by what it turned out to be.
async fn decided<S>(
    world: &Rc<World>,
    stream: Prefixed<S>,
    caller: Visit,
    first: Result<First<TcpStream>, FirstError<connect::ConnectError>>,
) where
    S: AsyncRead + AsyncWrite + Abort + Unpin + Send + 'static,
{
    let wire = match first {
        Ok(First::Http1) => Wire::Http1,
        Ok(First::Http2) => Wire::Http2,
        Ok(First::Opaque | First::Tls) => return bytes(stream, None, caller).await,
        Ok(First::Opened(upstream)) => return bytes(stream, Some(upstream), caller).await,
        Ok(First::Closed) => return,
        Err(FirstError::Client(error)) => return tracing::debug!(%error, "peer left before its first bytes"),
        Err(FirstError::Upstream(error)) => {
            let stats = caller.port.signals.bytes(&caller.peer_name, caller.tls);
            stats.request();
            stats.failure(error.reason(), Duration::ZERO);
            return tracing::info!(%error, cause = error.cause(), "cannot reach the application");
        }
    };
    http(world, stream, wire, limits::STREAMS_MAX, caller).await;
}

async fn http<S>(world: &Rc<World>, stream: S, wire: Wire, streams_max: u32, caller: Visit)
where
    S: AsyncRead + AsyncWrite + Abort + Unpin + Send + 'static,
{
    let (goodbye, shared, caller) = (caller.goodbye, world.clone(), Rc::new(caller));
    let answer = move |request| handle(shared.clone(), caller.clone(), wire, request);
    if let Err(error) = serve_http(world, stream, (Direction::Inbound, wire), streams_max, goodbye, answer).await {
        tracing::debug!(%error, "HTTP connection of a peer ended");
    }
}

/// Bytes to the application, once policy lets them.
async fn bytes<S>(mut client: Prefixed<S>, opened: Option<Prefixed<TcpStream>>, caller: Visit)
where
    S: AsyncRead + AsyncWrite + Abort + Unpin,
{
    let permit = match policy::authorize(&caller.port.inbound(), &caller.peer, Act::Bytes) {
        Ok(permit) => permit,
        Err(denial) => return denied(&caller, &denial),
    };
    let stats = caller.port.signals.bytes(&caller.peer_name, caller.tls);
    let started = Instant::now();
    stats.request();
    let mut upstream = match opened {
        Some(upstream) => upstream,
        None => match connect::tcp(&permit, caller.app.endpoint.address, limits::APP_CONNECT_TIMEOUT).await {
            Ok(stream) => Prefixed::new(stream),
            Err(error) => {
                stats.failure(error.reason(), started.elapsed());
                return tracing::info!(%error, cause = error.cause(), "cannot reach the application");
            }
        },
    };
    stats.connection_opened();
    match forward::bytes(permit, &mut client, &mut upstream, &stats).await {
        Ok(()) => stats.success(started.elapsed()),
        Err(error) => {
            tracing::debug!(%error, "byte connection broke");
            stats.failure(Reason::UpstreamReset, started.elapsed());
        }
    }
    stats.connection_closed();
}

fn denied(caller: &Visit, denial: &policy::Denial) {
    let stats = caller.port.signals.bytes(&caller.peer_name, caller.tls);
    stats.request();
    stats.failure(Reason::Denied, Duration::ZERO);
    tracing::info!(peer = %caller.peer_name, address = %caller.peer.address, %denial, "connection denied");
}

fn refuse(from: &SocketAddr, reason: Reason, detail: &'static str) {
    metrics::counter!("remora_connections_refused_total", "reason" => reason.as_str()).increment(1);
    tracing::info!(%from, reason = reason.as_str(), detail, "connection refused");
}
