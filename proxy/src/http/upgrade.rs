//! Requests that leave HTTP: upgrades (WebSocket) and CONNECT. Each has a connection of its own, because what follows
//! the head is bytes.

use super::{
    answer::{self, Allowance, Allowed},
    body::{RequestBody, ResponseBody},
    client::{ByteStream, Upstream},
    exchange::Exchange,
    headers, respond,
};
use crate::{
    balance::{InFlight, Outcome},
    connect::ConnectError,
    discover::{Plan, Pool},
    forward,
    io::Abort,
    limits,
    policy::{self, Permit},
    telemetry::{Reason, RouteStats, Tls},
    worker::World,
};
use http::{Method, Request, Response, StatusCode, Version};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use std::{net::SocketAddr, rc::Rc, sync::Arc, time::Instant};

/// A byte connection to an endpoint of `pool`; those that cannot be reached are passed over, within the retry bound.
pub async fn connect(
    world: &Rc<World>,
    pool: &Pool,
    permit: &Permit,
) -> Result<(ByteStream, InFlight, Rc<Upstream>), Reason> {
    let mut tried: Vec<SocketAddr> = Vec::new();
    let mut retries = 0;
    loop {
        let (upstream, in_flight) = pool.pick(Instant::now(), &mut world.rng.borrow_mut(), &tried)?;
        let started = Instant::now();
        match upstream.bytes(world, permit).await {
            Ok(stream) => {
                in_flight.record(Instant::now(), started.elapsed(), Outcome::Success);
                return Ok((stream, in_flight, upstream));
            }
            Err(error) => {
                log(&upstream, &error);
                if error.reason() == Reason::Overloaded {
                    return Err(Reason::Overloaded); // this proxy is: others cannot be connected to either
                }
                let wrong = matches!(error, ConnectError::Identity { .. });
                let outcome = if wrong { Outcome::WrongIdentity } else { Outcome::Unreachable };
                in_flight.record(Instant::now(), started.elapsed(), outcome);
                world.directory.doubt(&pool.id);
                tried.push(upstream.endpoint.address);
                if pool.passes_over(&tried, error.reason()) {
                    continue;
                }
                if retries == limits::DEFAULT_RETRIES {
                    return Err(error.reason());
                }
                retries += 1;
                if let Err(reason) = pool.pick(Instant::now(), &mut world.rng.borrow_mut(), &tried) {
                    tracing::debug!(reason = reason.as_str(), "no endpoint left to try");
                    return Err(error.reason());
                }
            }
        }
    }
}

fn log(upstream: &Upstream, error: &ConnectError) {
    tracing::info!(endpoint = %upstream.endpoint.address, pod = %upstream.endpoint.pod, %error, cause = error.cause(),
        "cannot connect");
}

/// CONNECT to a Service through the outbound listener: bytes to one of its endpoints.
pub async fn tunnel(world: Rc<World>, plan: Rc<Plan>, request: Request<Incoming>) -> Response<ResponseBody> {
    let Some(pool) = plan.parent.clone() else {
        return respond::failure(Reason::NoRoute, false, "discovery knows no Service of this name and port");
    };
    let permit = policy::outbound();
    let peer = pool.identity();
    let stats = plan.signals.bytes(&peer, if peer.is_empty() { Tls::Plain } else { Tls::Mtls });
    let started = Instant::now();
    stats.request();
    let (upstream, in_flight, _) = match connect(&world, &pool, &permit).await {
        Ok(connected) => connected,
        Err(reason) => {
            stats.failure(reason, started.elapsed());
            return respond::failure(reason, false, "");
        }
    };
    stats.success(started.elapsed());
    let tasks = world.tasks.clone();
    tasks.spawn(async move {
        if let Ok(upgraded) = hyper::upgrade::on(request).await {
            relay(permit, TokioIo::new(upgraded), upstream, &stats).await;
        }
        drop(in_flight);
    });
    respond::empty(StatusCode::OK)
}

/// An upgrade request on its way out: HTTP/1 bytes on a connection of its own, which the far proxy reads as HTTP/1.
pub async fn forward(
    world: Rc<World>,
    pool: Rc<Pool>,
    request: Request<Incoming>,
    mut exchange: Exchange,
) -> Response<ResponseBody> {
    let permit = policy::outbound();
    match connect(&world, &pool, &permit).await {
        Ok((stream, in_flight, _)) => switch(&world, permit, stream, request, exchange, Some(in_flight)).await,
        Err(reason) => {
            exchange.fail(reason);
            respond::failure(reason, false, "")
        }
    }
}

/// Sends an upgrade request over `stream`; where the upstream switches protocols, relays bytes from then on. Nothing of
/// what the client sends after the head goes up before that.
pub async fn switch(
    world: &Rc<World>,
    permit: Permit,
    stream: ByteStream,
    mut request: Request<Incoming>,
    mut exchange: Exchange,
    in_flight: Option<InFlight>,
) -> Response<ResponseBody> {
    let down = hyper::upgrade::on(&mut request);
    let (mut parts, body) = request.into_parts();
    headers::strip_for_upgrade(&mut parts.headers);
    parts.version = Version::HTTP_11;
    let mut request = Request::from_parts(parts, RequestBody::new(body));
    if request.method() != Method::CONNECT {
        headers::to_http1(&mut request, Version::HTTP_11);
    }
    let allowance = Allowance::default();
    allowance.head();
    let stream = TokioIo::new(Allowed::new(stream, allowance.clone()));
    let sent = match http1::Builder::new().max_headers(limits::HEADER_COUNT_MAX).handshake(stream).await {
        Ok((mut sender, connection)) => {
            world.tasks.spawn(async move { drop(connection.with_upgrades().await) });
            sender.send_request(request).await
        }
        Err(error) => Err(error),
    };
    allowance.body();
    let mut response = match sent {
        Ok(response) => response,
        Err(error) => {
            tracing::debug!(%error, "upgrade failed upstream");
            exchange.fail(Reason::UpstreamReset);
            return respond::failure(Reason::UpstreamReset, false, "");
        }
    };
    headers::strip_reserved(response.headers_mut());
    let switched = response.status() == StatusCode::SWITCHING_PROTOCOLS
        || (response.status().is_success() && response.extensions().get::<hyper::upgrade::OnUpgrade>().is_some());
    if !switched {
        if let Err(error) = answer::check(&mut response) {
            tracing::info!(%error, "answer refused");
            exchange.fail(Reason::UpstreamReset);
            return respond::failure(Reason::UpstreamReset, false, "");
        }
        return finish(response, exchange, in_flight);
    }
    let up = hyper::upgrade::on(&mut response);
    let stats: Arc<RouteStats> = exchange.stats().clone();
    exchange.head(StatusCode::OK, in_flight, None);
    world.tasks.spawn(async move {
        if let (Ok(down), Ok(up)) = tokio::join!(down, up) {
            relay(permit, TokioIo::new(down), TokioIo::new(up), &stats).await;
        }
        exchange.ended(None);
    });
    let (parts, _) = response.into_parts();
    let mut answer = Response::from_parts(parts, ResponseBody::Empty);
    headers::strip_for_upgrade(answer.headers_mut());
    answer
}

/// The upstream did not switch: an ordinary answer.
fn finish(response: Response<Incoming>, mut exchange: Exchange, in_flight: Option<InFlight>) -> Response<ResponseBody> {
    let (mut parts, body) = response.into_parts();
    headers::strip_hop_by_hop(&mut parts.headers);
    exchange.head(parts.status, in_flight, None);
    Response::from_parts(parts, ResponseBody::Upstream { body, exchange })
}

async fn relay<D, U>(permit: Permit, mut down: D, mut up: U, stats: &RouteStats)
where
    D: tokio::io::AsyncRead + tokio::io::AsyncWrite + Abort + Unpin,
    U: tokio::io::AsyncRead + tokio::io::AsyncWrite + Abort + Unpin,
{
    stats.connection_opened();
    if let Err(error) = forward::bytes(permit, &mut down, &mut up, stats).await {
        tracing::debug!(%error, "tunnel ended");
    }
    stats.connection_closed();
}
