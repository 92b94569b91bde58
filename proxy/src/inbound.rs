//! A connection on its way into the pod, from accept to its end.

use crate::{
    config::Mode,
    connect::{self, ConnectError, proxy_header},
    discover::Port,
    first::{self, First, FirstError, Wait},
    forward,
    http::{
        Wire,
        client::Upstream,
        headers::LastHost,
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
    net::SocketAddr,
    rc::Rc,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::{Instant as Deadline, sleep, sleep_until, timeout_at},
};

/// Serves one connection to the pod.
///
/// The stages that last are boxed, so that a connection in one of them does not hold the room that the others need.
pub async fn serve(world: Rc<World>, stream: TcpStream, from: SocketAddr) {
    let client = Prefixed::new(stream);
    let original = match world.config.mode {
        Mode::Redirect => sys::original_destination(client.inner(), from).ok().filter(|to| !world.config.is_own(*to)),
        Mode::Explicit => None,
    };
    match original {
        Some(to) => redirected(world, client, from, to).await,
        None => direct(world, client, from).await,
    }
}

/// A connection that was going to a port of this pod: mesh TLS, plaintext or the application's own TLS.
async fn redirected(world: Rc<World>, mut client: Prefixed<TcpStream>, from: SocketAddr, to: SocketAddr) {
    let port = match world.directory.known_port(to.port()) {
        Some(port) => Some(port),
        None => Box::pin(world.directory.port(to.port())).await,
    };
    let Some(port) = port else { return refuse(&from, Reason::Denied, UNKNOWN_PORT) };
    let caller = visit(&world, port, from, to, None);
    let wait = Wait { grace: grace(&caller, caller.port.habit.grace()), mesh: true };
    let first = first::protocol(&mut client, wait, async || open(&caller).await).await;
    if let Ok(first) = &first {
        caller.port.habit.learn(first);
        if matches!(first, First::Mesh) {
            return Box::pin(mesh(world, client, from, Some((to, caller.port)))).await;
        }
    }
    if let Err(denial) = policy::admit(&caller.port.inbound(), &caller.peer) {
        return denied(&caller, &denial);
    }
    decided(world, client, first, caller).await;
}

const UNKNOWN_PORT: &str = "no policy is known for this port; is discovery reachable?";

/// A connection made to the listener itself: mesh TLS that names its destination.
async fn direct(world: Rc<World>, mut client: Prefixed<TcpStream>, from: SocketAddr) {
    let wait = Wait { grace: limits::HANDSHAKE_TIMEOUT, mesh: true };
    let late = async || Err::<TcpStream, ()>(());
    match first::protocol(&mut client, wait, late).await {
        Ok(First::Mesh) => Box::pin(mesh(world, client, from, None)).await,
        Ok(First::Closed) => {}
        _ => refuse(&from, Reason::ProtocolError, "this listener takes mesh TLS only, where nothing redirects to it"),
    }
}

/// A connection from another proxy, to where it was redirected from or to the port that it names.
async fn mesh(world: Rc<World>, client: Prefixed<TcpStream>, from: SocketAddr, to: Option<(SocketAddr, Rc<Port>)>) {
    let terminated = match world.tls.terminate(client).await {
        Ok(terminated) => terminated,
        Err(error) => {
            return tracing::warn!(%from, %error, reason = error.reason(), "mesh TLS refused");
        }
    };
    let goodbye = terminated.stream.goodbye();
    let mut stream = Prefixed::new(terminated.stream);
    let (to, port) = match to {
        Some(to) => to,
        None => {
            let Some(to) = named(&mut stream, &world).await else {
                return refuse(&from, Reason::ProtocolError, "the peer names no destination of this pod");
            };
            let Some(port) = world.directory.port(to.port()).await else {
                return refuse(&from, Reason::Denied, UNKNOWN_PORT);
            };
            (to, port)
        }
    };
    let caller = Visit { goodbye, ..visit(&world, port, from, to, Some(terminated.peer)) };
    if terminated.alpn == Alpn::MeshHttp {
        return Box::pin(http(world, stream, Wire::Http2, limits::MESH_STREAMS_MAX, caller)).await;
    }
    // The peer has waited for its client already.
    let wait = Wait { grace: grace(&caller, Duration::ZERO), mesh: false };
    let first = first::protocol(&mut stream, wait, async || open(&caller).await).await;
    decided(world, stream, first, caller).await;
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

/// Who calls which port.
fn visit(world: &World, port: Rc<Port>, from: SocketAddr, to: SocketAddr, identity: Option<SpiffeId>) -> Visit {
    let endpoint = || Endpoint { address: to, identity: None, proxy: None, weight: 1, zone: "".into(), pod: "".into() };
    let tls = if identity.is_some() { Tls::Mtls } else { Tls::Plain };
    let name = identity.as_ref().map(SpiffeId::as_str).unwrap_or_default();
    Visit {
        client_id: HeaderValue::from_str(name).ok().filter(|_| identity.is_some()),
        peer_name: name.into(),
        peer: Peer { identity, address: from.ip().to_canonical() },
        tls,
        goodbye: None,
        host: LastHost::default(),
        app: world.directory.app(&port, to, || Upstream::new(endpoint(), limits::APP_CONNECT_TIMEOUT)),
        port,
    }
}

/// Why the application was not called while the peer was silent.
enum OpenError {
    Denied(policy::Denial),
    Connect(ConnectError),
}

/// How long a peer may be silent before the application is called: one that is not let in as a sender of bytes may yet
/// turn out to speak something else, within the time of detection.
fn grace(caller: &Visit, grace: Duration) -> Duration {
    match policy::authorize(&caller.port.inbound(), &caller.peer, Act::Bytes) {
        Ok(_) => grace,
        Err(_) => limits::DETECT_TIMEOUT,
    }
}

/// Opens the application's connection beside the wait for the peer's first bytes. Before a byte of the application's is
/// asked for, the peer must be let in as a sender of bytes.
async fn open(caller: &Visit) -> Result<TcpStream, OpenError> {
    let permit = policy::authorize(&caller.port.inbound(), &caller.peer, Act::Bytes).map_err(OpenError::Denied)?;
    connect::tcp(&permit, caller.app.endpoint.address, limits::APP_CONNECT_TIMEOUT).await.map_err(OpenError::Connect)
}

/// Serves a decrypted or plaintext stream by what it turned out to be, or by what discovery says it is.
async fn decided<S>(
    world: Rc<World>,
    stream: Prefixed<S>,
    first: Result<First<TcpStream>, FirstError<OpenError>>,
    caller: Visit,
) where
    S: AsyncRead + AsyncWrite + Abort + Unpin + Send + 'static,
{
    let inbound = caller.port.inbound();
    let opaque = inbound.protocol == Protocol::Opaque || world.config.opaque_ports.contains(&inbound.port);
    let wire = match first {
        Ok(First::Http1 | First::Http2 | First::Opaque | First::Tls | First::Mesh) if opaque => {
            return Box::pin(bytes(stream, None, caller)).await;
        }
        Ok(First::Closed) => return,
        Ok(First::Opened(upstream)) => return Box::pin(bytes(stream, Some(upstream), caller)).await,
        Ok(_) if inbound.protocol == Protocol::Http1 => Wire::Http1,
        Ok(_) if inbound.protocol == Protocol::Http2 => Wire::Http2,
        Ok(First::Http1) => Wire::Http1,
        Ok(First::Http2) => Wire::Http2,
        Ok(First::Opaque | First::Tls | First::Mesh) => return Box::pin(bytes(stream, None, caller)).await,
        Err(FirstError::Client(error)) => return tracing::debug!(%error, "peer left before its first bytes"),
        Err(FirstError::Upstream(OpenError::Denied(denial))) => return denied(&caller, &denial),
        Err(FirstError::Upstream(OpenError::Connect(error))) => {
            let stats = caller.port.signals.bytes(&caller.peer_name, caller.tls);
            stats.request();
            stats.failure(error.reason(), Duration::ZERO);
            return tracing::info!(%error, cause = error.cause(), "cannot reach the application");
        }
    };
    drop(inbound);
    Box::pin(http(world, stream, wire, limits::STREAMS_MAX, caller)).await;
}

/// Returns when a connection should take no new requests.
async fn goodbye(caller: Rc<Visit>, wire: Wire) {
    match (caller.goodbye, &caller.peer.identity) {
        (Some(at), _) => sleep_until(at).await,
        (None, Some(_)) => std::future::pending().await,
        // Outside the mesh, a connection is as good as the pod behind it. Over HTTP/1 the next answer says that it was
        // the last; who has asked for nothing for a while is not about to.
        (None, None) => {
            caller.port.ending().await;
            if wire == Wire::Http1 {
                sleep(limits::ENDING_IDLE).await;
            }
        }
    }
}

async fn http<S>(world: Rc<World>, stream: S, wire: Wire, streams_max: u32, caller: Visit)
where
    S: AsyncRead + AsyncWrite + Abort + Unpin + Send + 'static,
{
    let (shared, caller) = (world.clone(), Rc::new(caller));
    let goodbye = goodbye(caller.clone(), wire);
    let answer = move |request| handle(shared.clone(), caller.clone(), wire, request);
    if let Err(error) = serve_http(&world, stream, (Direction::Inbound, wire), streams_max, goodbye, answer).await {
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
