//! A connection on its way into the pod, from accept to its end.

use crate::{
    account,
    backend::endpoint::{Dialing, Upstream},
    config::Mode,
    connect::{self, ConnectError},
    discover::Port,
    first::{self, First, FirstError, Undecided, Wait},
    http::{
        Wire, inbound::connection, request::ClientConnection, server::serve as serve_http, share::Share, visit::Visit,
    },
    io::{Abort, Connection, Prefixed, Tcp, TcpStream},
    limits, named,
    policy::{self, Act, Peer},
    revoke,
    telemetry::{self, Direction, Proto, Reason, Tls},
    tls::Alpn,
    world::World,
};
use http::HeaderValue;
use remora_model::{Endpoint, Protocol, SpiffeId};
use remora_runtime::seldom::Seldom;
use std::{cell::RefCell, net::SocketAddr, rc::Rc, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::{Instant, sleep, sleep_until},
};
use tower::Service;

/// Serves one connection to the pod.
///
/// The stages that last are boxed, so that a connection in one of them does not hold the room that the others need.
pub(crate) async fn serve(world: Rc<World>, client: Prefixed<TcpStream>, from: SocketAddr) {
    let original = match world.resources.config.mode {
        Mode::Redirect => {
            client.inner().original_destination(from).ok().filter(|to| !world.resources.config.is_own(*to, to.ip()))
        }
        Mode::Explicit => None,
    };
    match original {
        Some(to) => redirected(world, client, from, to).await,
        None => Box::pin(direct(world, client, from)).await,
    }
}

/// A connection that was going to a port of this pod: mesh TLS, plaintext or the application's own TLS.
async fn redirected(world: Rc<World>, mut client: Prefixed<TcpStream>, from: SocketAddr, to: SocketAddr) {
    let port = match world.directory.known_port(to.port()) {
        Some(port) => Ok(port),
        None => Box::pin(world.directory.port(to.port())).await,
    };
    let port = match port {
        Ok(port) => port,
        Err(refusal) => return refuse(&from, refusal.reason, named::UNKNOWN_PORT),
    };
    // As if in plaintext: if mesh TLS comes, `mesh` makes another visit, with the peer's identity.
    let caller = visit(&world, port, from, to, None);
    let wait = Wait { mesh: true, ..wait(&world, &caller, caller.port.habit.grace(), limits::UNDECIDED_GRACE) };
    let first = Box::pin(first::protocol(&mut client, &wait, async || open(&caller).await)).await;
    if let Ok(first) = &first {
        caller.port.habit.learn(first);
        if matches!(first, First::Mesh) {
            return Box::pin(mesh(world, client, from, Some((to, caller.port)))).await;
        }
    }
    if let Err(denial) = caller.port.policy().admits(&caller.peer) {
        return denied(&client, &caller, &denial);
    }
    Box::pin(decided(world, client, first, caller)).await;
}

/// A connection made to the listener itself: mesh TLS that names its destination. Where connections are redirected, only
/// this pod itself has a reason to make one.
async fn direct(world: Rc<World>, mut client: Prefixed<TcpStream>, from: SocketAddr) {
    let redirects = world.resources.config.mode == Mode::Redirect;
    if redirects && !named::is_from_here(client.inner(), from) {
        return refuse(
            &from,
            Reason::Denied,
            "other hosts have no business with this port: they dial the port they mean",
        );
    }
    let wait = Wait {
        grace: limits::HANDSHAKE_TIMEOUT,
        mesh: true,
        by_name: false,
        said: Protocol::Detect,
        undecided: Undecided::Closed(limits::DETECT_TIMEOUT),
        idle: limits::HANDSHAKE_TIMEOUT,
    };
    let late = async || Err::<TcpStream, ()>(());
    match first::protocol(&mut client, &wait, late).await {
        Ok(First::Mesh) => Box::pin(mesh(world, client, from, None)).await,
        Ok(First::Closed) => {}
        _ => refuse(&from, Reason::ProtocolError, "this listener takes mesh TLS only, where nothing redirects to it"),
    }
}

/// A connection from another proxy, to where it was redirected from or to the port that it names.
async fn mesh(world: Rc<World>, client: Prefixed<TcpStream>, from: SocketAddr, to: Option<(SocketAddr, Rc<Port>)>) {
    let terminated = match world.resources.tls.terminate(client).await {
        Ok(terminated) => terminated,
        Err(error) => {
            return remora_runtime::limited!(warn by error.reason(), %from, %error, reason = error.reason(), "mesh TLS refused");
        }
    };
    let goodbye = terminated.stream.goodbye();
    let mut stream = Prefixed::new(terminated.stream);
    let (to, port) = match to {
        Some(to) => to,
        None => match Box::pin(named::destination(&mut stream, &world, &terminated.peer)).await {
            Ok(to) => to,
            Err((reason, detail)) => return refuse(&from, reason, detail),
        },
    };
    let trust = Some(Rc::new(terminated.trust));
    let caller = Visit { goodbye, trust, ..visit(&world, port, from, to, Some(terminated.peer)) };
    match terminated.alpn {
        Alpn::MeshHttp => return Box::pin(serve_requests(world, stream, Wire::Http2, true, caller)).await,
        Alpn::MeshHttp1 => return Box::pin(serve_requests(world, stream, Wire::Http1, false, caller)).await,
        Alpn::MeshTcp | Alpn::Grpc => {}
    }
    // The peer has waited for its client already.
    let wait = wait(&world, &caller, Duration::ZERO, Duration::ZERO);
    let first = first::protocol(&mut stream, &wait, async || open(&caller).await).await;
    decided(world, stream, first, caller).await;
}

/// Who calls which port.
fn visit(world: &World, port: Rc<Port>, from: SocketAddr, to: SocketAddr, identity: Option<SpiffeId>) -> Visit {
    let endpoint = || Endpoint {
        address: to,
        identity: None,
        proxy: None,
        weight: 1,
        zone: "".into(),
        pod: "".into(),
        node: None,
    };
    let tls = if identity.is_some() { Tls::Mtls } else { Tls::Plain };
    let name = identity.as_ref().map(SpiffeId::as_str).unwrap_or_default();
    Visit {
        client_id: HeaderValue::from_str(name).ok().filter(|_| identity.is_some()),
        peer_name: name.into(),
        holder: world.resources.account.holder(match &identity {
            Some(id) => account::Peer::certified(from.ip(), id),
            None => account::Peer::at(from.ip()),
        }),
        peer: Peer { identity, address: from.ip().to_canonical() },
        trust: None,
        tls,
        goodbye: None,
        app: world.directory.app(&port, to, || {
            Upstream::new(
                &world.resources,
                world.directory.connections(),
                endpoint(),
                Dialing::within(limits::APP_CONNECT_TIMEOUT),
            )
        }),
        port,
    }
}

/// Why the application was not called while the peer was silent.
enum OpenError {
    Denied(policy::Denial),
    Connect(ConnectError),
}

/// How long a peer may be silent, or undecided, before the application is called: one that is not let in as a sender of bytes
/// may yet turn out to speak something else, within the time of detection.
fn wait(world: &World, caller: &Visit, grace: Duration, undecided: Duration) -> Wait {
    let policy = caller.port.policy();
    let said = said(world, &caller.port);
    let idle = world.resources.config.patience.idle;
    match policy.allows((&caller.peer, caller.port.number), Act::Bytes) {
        Ok(()) => Wait { grace, mesh: false, by_name: false, said, undecided: Undecided::Bytes(undecided), idle },
        Err(_) => Wait {
            grace: limits::DETECT_TIMEOUT,
            mesh: false,
            by_name: false,
            said,
            undecided: Undecided::Closed(limits::DETECT_TIMEOUT),
            idle,
        },
    }
}

/// The declared protocol of the port, if there is one.
fn said(world: &World, port: &Port) -> Protocol {
    if world.resources.config.opaque_ports.contains(&port.number) { Protocol::Opaque } else { port.inbound().protocol }
}

/// Opens the application's connection beside the wait for the peer's first bytes. Before a byte of the application's is
/// asked for, the peer must be let in as a sender of bytes.
async fn open(caller: &Visit) -> Result<TcpStream, OpenError> {
    // Recorded when it is known what the peer speaks.
    let at = (&caller.peer, caller.port.number);
    let permit = caller.port.policy().judge(at, Act::Bytes).decision.map_err(OpenError::Denied)?;
    connect::tcp(&permit, caller.app.endpoint.address, limits::APP_CONNECT_TIMEOUT).await.map_err(OpenError::Connect)
}

/// Serves a decrypted or plaintext stream by what it turned out to be.
async fn decided<S>(
    world: Rc<World>,
    stream: Prefixed<S>,
    first: Result<First<TcpStream>, FirstError<OpenError>>,
    caller: Visit,
) where
    S: Connection,
{
    let wire = match first {
        Ok(First::Closed) => return,
        Ok(First::Undecided) => return undecided(&stream, &caller),
        Ok(First::Opened(upstream)) => return Box::pin(bytes(stream, Some(upstream), caller)).await,
        Ok(First::Http1) => Wire::Http1,
        Ok(First::Http2) => Wire::Http2,
        Ok(First::Opaque | First::Tls | First::Mesh) => return Box::pin(bytes(stream, None, caller)).await,
        Err(FirstError::Client(error)) => return tracing::debug!(%error, "peer closed before its first bytes"),
        Err(FirstError::Upstream(OpenError::Denied(denial))) => {
            drop(caller.judge(Act::Bytes));
            return denied(&stream, &caller, &denial);
        }
        Err(FirstError::Upstream(OpenError::Connect(error))) => {
            drop(caller.judge(Act::Bytes));
            let now = Instant::now();
            caller.port.signals.bytes(&caller.peer_name, caller.tls, now).failure(error.reason(), now);
            stream.abort();
            return remora_runtime::limited!(info, %error, cause = error.cause(), "cannot reach the application");
        }
    };
    Box::pin(serve_requests(world, stream, wire, false, caller)).await;
}

/// The peer's first words may yet become a request that it may send, and never did; as bytes they are not let in.
fn undecided(client: &impl Abort, caller: &Visit) {
    if let Err(denial) = caller.judge(Act::Bytes) {
        telemetry::refused(Direction::Inbound, Reason::Denied, "undecided");
        denied(client, caller, &denial);
    }
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

async fn serve_requests<S>(world: Rc<World>, stream: S, wire: Wire, mesh: bool, caller: Visit)
where
    S: Connection,
{
    let (share, window, _counted) = match wire {
        Wire::Http1 => (Share::client(true), limits::HTTP1_BUFFER_BYTES, None),
        Wire::Http2 => {
            let Some(counted) = world.peers.enter(&caller.peer) else {
                let from = SocketAddr::new(caller.peer.address, 0);
                return refuse(&from, Reason::Overloaded, "this peer has too many HTTP/2 connections to this worker");
            };
            let share = counted.share(mesh);
            (share, share.window as usize, Some(counted))
        }
    };
    let caller = Rc::new(caller);
    let client = ClientConnection::of_peer(wire, caller.peer.identity.is_some(), window);
    let stack = RefCell::new(connection(&world.resources, &caller, &Rc::new(client)));
    let goodbye = goodbye(caller.clone(), wire);
    let answer = move |request| stack.borrow_mut().call(request);
    let serving = serve_http(&world, stream, (Direction::Inbound, wire), share, goodbye, answer);
    let Some(trust) = &caller.trust else { return ended(serving.await) };
    // Policy judges each request; who it is from is judged once.
    let untrusted = Seldom::new(trust.lost());
    tokio::select! {
        biased;
        error = untrusted => revoke::Revoked::Untrusted(error).note(&caller.peer, &caller.port),
        done = serving => ended(done),
    }
}

fn ended(done: hyper::Result<()>) {
    if let Err(error) = done {
        tracing::debug!(%error, "HTTP connection of a peer ended");
    }
}

/// Bytes to the application, once policy lets them.
async fn bytes<S>(mut client: Prefixed<S>, opened: Option<Prefixed<TcpStream>>, caller: Visit)
where
    S: AsyncRead + AsyncWrite + Abort + Unpin,
{
    let permit = match caller.judge(Act::Bytes) {
        Ok(permit) => permit,
        Err(denial) => return denied(&client, &caller, &denial),
    };
    let started = Instant::now();
    let mut begun = caller.port.signals.bytes(&caller.peer_name, caller.tls, started);
    let record = begun.record().clone();
    record.tries(caller.app.endpoint.address, started);
    let mut upstream = match opened {
        Some(upstream) => upstream,
        None => match connect::tcp(&permit, caller.app.endpoint.address, limits::APP_CONNECT_TIMEOUT).await {
            Ok(stream) => Prefixed::new(stream),
            Err(error) => {
                begun.failure(error.reason(), Instant::now());
                client.abort();
                return remora_runtime::limited!(info, %error, cause = error.cause(), "cannot reach the application");
            }
        },
    };
    record.sent(Instant::now());
    let _open = record.open();
    match revoke::bytes(permit, &mut client, &mut upstream, &record, caller.revoked(Act::Bytes)).await {
        Ok(()) => begun.success(Instant::now()),
        Err(ended) => {
            match &ended {
                revoke::Ended::Broken(error) => tracing::debug!(%error, "byte connection broke"),
                revoke::Ended::Revoked(why) => why.note(&caller.peer, &caller.port),
            }
            begun.failure(ended.reason(), Instant::now());
        }
    }
}

/// Refused callers share one series: what they send must not use up the room for those that are let in. They are told by a
/// reset, since an orderly end would pass for an answer without a byte.
fn denied(client: &impl Abort, caller: &Visit, denial: &policy::Denial) {
    client.abort();
    let now = Instant::now();
    caller
        .port
        .signals
        .denied::<()>(None, Proto::Tcp, (&caller.peer_name, caller.tls), now)
        .failure(Reason::Denied, now);
    remora_runtime::limited!(info, peer = %caller.peer_name, address = %caller.peer.address, port = caller.port.number,
        reason = Reason::Denied.as_str(), %denial, "connection denied");
}

fn refuse(from: &SocketAddr, reason: Reason, detail: &'static str) {
    metrics::counter!("remora_connections_refused_total", "reason" => reason.as_str()).increment(1);
    remora_runtime::limited!(info by reason.as_str(), %from, reason = reason.as_str(), detail, "connection refused");
}
