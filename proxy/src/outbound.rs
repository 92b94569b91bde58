//! A connection on its way out of the pod, from accept to its end.

use crate::{
    backend::{Pool, endpoint::ByteStream},
    config::Mode,
    connect,
    discover::{Plan, Refusal, Route, Way},
    first::{self, First, FirstError, Wait},
    forward,
    http::{Wire, destination::Destination, outbound::connection, server, share::Share, upgrade},
    io::{Abort, Prefixed, Tcp, TcpStream},
    leads::{self, Lead},
    limits,
    policy::{self, To},
    telemetry::{Blame, Direction, Reason, Tls},
    world::World,
};
use remora_model::{Protocol, Target};
use std::{cell::RefCell, future::pending, net::SocketAddr, rc::Rc};
use tokio::time::{Instant, timeout};
use tower::Service;

/// Serves one connection of the application.
///
/// The stages that last are boxed, so that a connection in one of them does not hold the room that the others need.
pub(crate) async fn serve(world: Rc<World>, client: Prefixed<TcpStream>, peer: SocketAddr) {
    if world.resources.config.mode == Mode::Explicit {
        return Box::pin(explicit(world, client)).await;
    }
    let target = match client.inner().original_destination(peer) {
        Ok(target) if !world.resources.config.is_own(target, peer.ip()) => target,
        Ok(target) => {
            return remora_runtime::limited!(warn, %peer, %target, reason = Reason::Loop.as_str(), "connection refused");
        }
        Err(error) => return tracing::debug!(%peer, %error, "connection was not redirected"),
    };
    let way = match world.directory.known(&Target::Address(target)) {
        Some(known) => Ok(known),
        None => Box::pin(world.directory.route(&Target::Address(target))).await,
    };
    match way {
        Ok((route, Way::Mesh(plan))) => redirected(world, client, route, plan).await,
        Ok((_, Way::Pass)) => Box::pin(pass(&world, client, target)).await,
        Err(refusal) => Box::pin(refused(world, client, target, refusal)).await,
    }
}

/// A connection that was going to a target of the mesh.
async fn redirected(world: Rc<World>, mut client: Prefixed<TcpStream>, route: Rc<Route>, plan: Rc<Plan>) {
    let said = if world.resources.config.opaque_ports.contains(&route.target.port()) {
        Protocol::Opaque
    } else {
        plan.outbound.protocol
    };
    let rng = &world.resources.rng;
    let lead = match leads::said(&plan, said, rng) {
        Some(lead) => Ok(lead),
        None => {
            let idle = world.resources.config.patience.idle;
            let wait = Wait { grace: route.habit.grace(), said, ..Wait::outbound(idle) };
            let open = async |pool: &Pool| open(&world, pool).await;
            let learn = |first: &First<_>| route.habit.learn(first);
            Box::pin(leads::find(&mut client, (&plan, rng), wait, open, learn)).await
        }
    };
    let wire = match lead {
        Ok(Lead::Http1) => Wire::Http1,
        Ok(Lead::Http2) => Wire::Http2,
        Ok(Lead::Bytes(pool, opened)) => return Box::pin(bytes(&world, client, (pool, opened), &plan)).await,
        Ok(Lead::Nowhere) => return,
        Err(FirstError::Client(error)) => return tracing::debug!(%error, "client closed before its first bytes"),
        Err(FirstError::Upstream(reason)) => return failed(&client, &plan, reason),
    };
    drop(plan);
    Box::pin(serve_http(world, client, wire, Destination::fixed(wire, route))).await;
}

/// A connection made to the listener itself: HTTP whose requests name where they go.
async fn explicit(world: Rc<World>, mut client: Prefixed<TcpStream>) {
    // There is nothing that bytes could go to.
    let undecided = first::Undecided::Closed(limits::DETECT_TIMEOUT);
    let wait = Wait { undecided, ..Wait::outbound(world.resources.config.patience.idle) };
    let never = async || pending::<Result<TcpStream, Reason>>().await;
    let first = first::protocol(&mut client, &wait, never);
    let wire = match timeout(world.resources.config.patience.idle, first).await {
        Ok(Ok(First::Http1)) => Wire::Http1,
        Ok(Ok(First::Http2)) => Wire::Http2,
        Ok(Ok(_)) => {
            return remora_runtime::limited!(
                info,
                reason = Reason::ProtocolError.as_str(),
                "this listener takes HTTP only; use CONNECT for bytes"
            );
        }
        // It left, or never said a word.
        Ok(Err(_)) | Err(_) => return,
    };
    Box::pin(serve_http(world, client, wire, Destination::by_authority(wire))).await;
}

async fn serve_http(world: Rc<World>, client: Prefixed<TcpStream>, wire: Wire, destination: Destination) {
    let destination = Rc::new(destination);
    let stack = RefCell::new(connection(&world, &destination));
    let goodbye = async move { destination.ended().await };
    let answer = move |request| stack.borrow_mut().call(request);
    if let Err(error) =
        server::serve(&world, client, (Direction::Outbound, wire), Share::client(true), goodbye, answer).await
    {
        tracing::debug!(%error, "HTTP connection of the application ended");
    }
}

/// Opens a byte connection to a backend.
async fn open(world: &World, pool: &Pool) -> Result<ByteStream, Reason> {
    let (stream, _, _) = upgrade::connect(&world.resources, pool).await?;
    Ok(stream)
}

/// Where bytes go, or why nowhere; and the connection that detection opened to there.
type Found = (Result<Rc<Pool>, Reason>, Option<Prefixed<ByteStream>>);

/// Bytes both ways, over the connection that detection opened or a new one.
async fn bytes(world: &Rc<World>, mut client: Prefixed<TcpStream>, (pool, opened): Found, plan: &Plan) {
    let started = Instant::now();
    let opened = async {
        let pool = pool?;
        let upstream = match opened {
            Some(upstream) => upstream,
            None => Prefixed::new(open(world, &pool).await?),
        };
        Ok((pool, upstream))
    };
    let (pool, mut upstream) = match opened.await {
        Ok(opened) => opened,
        Err(reason) => return failed(&client, plan, reason),
    };
    let (peer, tls) = pool.peers();
    let mut begun = plan.counters.bytes(&peer, tls, started);
    let record = begun.record().clone();
    record.connected(started, Instant::now());
    let _open = record.open();
    match forward::bytes(policy::outbound(To::Target(&plan.outbound.target)), &mut client, &mut upstream, &record).await
    {
        Ok(()) => begun.success(Instant::now()),
        Err(error) => {
            tracing::debug!(%error, "byte connection broke");
            begun.failure(error.reason(), Instant::now());
        }
    }
}

/// A destination that is outside the mesh: untouched, to where it was going.
async fn pass(world: &Rc<World>, mut client: Prefixed<TcpStream>, target: SocketAddr) {
    let permit = policy::outbound(To::Target(&Target::Address(target)));
    let mut begun = world.directory.passed().bytes(&"".into(), Tls::Passthrough, Instant::now());
    let record = begun.record().clone();
    let _open = record.open();
    record.tries(target, Instant::now());
    match connect::tcp(&permit, target, world.resources.config.connect_timeout).await {
        Ok(mut upstream) => {
            record.sent(Instant::now());
            match forward::bytes(permit, &mut client, &mut upstream, &record).await {
                Ok(()) => begun.success(Instant::now()),
                Err(error) => begun.failure(error.reason(), Instant::now()),
            }
        }
        Err(error) => {
            remora_runtime::limited!(info, %error, cause = error.cause(), "cannot pass a connection through");
            begun.failure(error.reason(), Instant::now());
            client.abort();
        }
    }
}

/// A connection that may go nowhere for now. HTTP is answered with the reason, anything else is reset.
async fn refused(world: Rc<World>, mut client: Prefixed<TcpStream>, target: SocketAddr, refusal: Refusal) {
    let wait = Wait {
        undecided: first::Undecided::Closed(limits::UNDECIDED_GRACE),
        ..Wait::outbound(world.resources.config.patience.idle)
    };
    let silent = async || Err::<TcpStream, ()>(());
    let first = match world.resources.config.opaque_ports.contains(&target.port()) {
        true => Ok(First::Opaque),
        false => first::protocol(&mut client, &wait, silent).await,
    };
    let wire = match first {
        Ok(First::Http1) => Wire::Http1,
        Ok(First::Http2) => Wire::Http2,
        _ => {
            let Refusal { reason, detail } = refusal;
            metrics::counter!("remora_connections_refused_total", "reason" => reason.as_str()).increment(1);
            remora_runtime::limited!(warn by reason.as_str(), %target, reason = reason.as_str(), %detail, "connection refused");
            return client.abort();
        }
    };
    serve_http(world, client, wire, Destination::refused(wire, refusal)).await;
}

/// The client is told by a reset, as where nobody listens: an orderly end would pass for an answer without a byte.
fn failed(client: &impl Abort, plan: &Plan, reason: Reason) {
    client.abort();
    let (peer, tls) = plan.parent.peers();
    let now = Instant::now();
    let mut begun = plan.counters.bytes(&peer, tls, now);
    let why = Blame::from(reason);
    begun.failure(if tls == Tls::Mtls { why.at_peer() } else { why }, now);
    remora_runtime::limited!(info by reason.as_str(), target = %plan.outbound.target, reason = reason.as_str(), "connection failed");
}
