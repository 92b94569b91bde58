//! The life of a request on its way in: authorise, tell the application who calls, restore the HTTP that the caller
//! spoke, and hand it over.

use super::{
    Wire,
    body::{RequestBody, ResponseBody},
    client::{Answer, ByteStream, Failed, Upstream},
    exchange::Exchange,
    headers::{self, LastHost},
    respond, upgrade,
};
use crate::{
    connect,
    discover::Port,
    limits,
    policy::{self, Act, Peer, Permit},
    telemetry::{Proto, Reason, Tls},
    worker::World,
};
use futures_util::future::Either;
use http::{HeaderValue, Request, Response, Version, header::CONNECTION, uri::Authority};
use hyper::body::Incoming;
use std::{future::ready, pin::Pin, rc::Rc, sync::Arc, time::Instant};

/// What all requests of one inbound connection share.
#[derive(Debug)]
pub struct Visit {
    pub port: Rc<Port>,
    pub peer: Peer,
    /// The peer's name in signals: its SPIFFE ID, or nothing.
    pub peer_name: Arc<str>,
    /// The header that tells the application; made once.
    pub client_id: Option<HeaderValue>,
    pub tls: Tls,
    /// When the peer is told to put no new requests on this connection.
    pub goodbye: Option<tokio::time::Instant>,
    pub host: LastHost,
    /// The application.
    pub app: Rc<Upstream>,
}

/// What becomes of a request once it was looked at.
enum Step {
    /// It goes to the application.
    Send(Box<Call>),
    /// Anything rarer: an answer of our own, an upgrade.
    Other(Pin<Box<dyn Future<Output = Response<ResponseBody>>>>),
}

/// A request with what it takes to send and count it. Boxed, so that the future that is spawned for it stays small.
struct Call {
    request: Request<RequestBody>,
    http1: bool,
    permit: Permit,
    exchange: Exchange,
}

/// Answers one request. Never fails: what goes wrong becomes an answer that says so.
///
/// All but the exchange with the application is plain code without a wait, in front of a future that is as small as can
/// be: it is copied with every request.
pub fn handle(
    world: Rc<World>,
    visit: Rc<Visit>,
    wire: Wire,
    request: Request<Incoming>,
) -> impl Future<Output = Response<ResponseBody>> + 'static {
    let step = arrive(&world, &visit, wire, request);
    async move {
        match step {
            Step::Other(other) => other.await,
            Step::Send(call) => {
                let Call { mut request, http1, permit, mut exchange } = *call;
                // A peer of ours has all requests on one connection, and learns of an end by discovery.
                let direct = wire == Wire::Http1;
                let mut stale = 0;
                let sent = loop {
                    let sending = match http1 {
                        true => Either::Left(visit.app.send_http1(&world, &permit, exchange.started(), request)),
                        false => Either::Right(visit.app.send_http2(&world, &permit, request)),
                    };
                    match sending.await {
                        // The application closed connections that were kept; each of them is used up by this.
                        Err(Failed { stale: true, unsent: Some(unsent), .. })
                            if stale < limits::IDLE_CONNECTIONS_MAX =>
                        {
                            stale += 1;
                            request = *unsent;
                        }
                        sent => break sent,
                    }
                };
                match sent {
                    Ok(answer) => {
                        let last = direct && (visit.port.is_ending() || headers::says_close(answer.response.headers()));
                        leave(pass_on(answer, exchange), last)
                    }
                    Err(failed) => {
                        exchange.fail(failed.reason);
                        leave(respond::failure(failed.reason, exchange.is_grpc(), ""), direct)
                    }
                }
            }
        }
    }
}

/// A pod that ends, or an application, its clients to go elsewhere (`Connection: close`). A client outside the mesh is connected
/// to us instead of to it, and would stay when the application is gone.
fn leave(mut response: Response<ResponseBody>, last: bool) -> Response<ResponseBody> {
    if last {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

fn arrive(world: &Rc<World>, visit: &Rc<Visit>, wire: Wire, mut request: Request<Incoming>) -> Step {
    let grpc = headers::is_grpc(request.headers());
    let from_mesh = visit.peer.identity.is_some();
    let restore = if from_mesh { request.headers_mut().remove(headers::RESTORE) } else { None };
    let proto = match (grpc, &restore, wire) {
        (true, ..) => Proto::Grpc,
        (_, None, Wire::Http2) => Proto::Http2,
        _ => Proto::Http1,
    };
    let stats = visit.port.signals.request(None, &request, proto, &visit.peer_name, visit.tls);
    let mut exchange = Exchange::begin(stats, Instant::now(), grpc);
    let (permit, authority) = match admit(visit, wire, &request) {
        Ok(admitted) => admitted,
        Err((reason, detail)) => {
            exchange.fail(reason);
            return Step::Other(Box::pin(ready(respond::failure(reason, grpc, &detail))));
        }
    };
    headers::strip_reserved(request.headers_mut());
    if let Some(id) = &visit.client_id {
        request.headers_mut().insert(headers::CLIENT_ID, id.clone());
    }
    if headers::wants_upgrade(&request) {
        return Step::Other(Box::pin(switch(world.clone(), visit.clone(), permit, request, exchange)));
    }
    let as_http1 = match (&restore, wire) {
        (Some(version), _) => Some(if version == "1.0" { Version::HTTP_10 } else { Version::HTTP_11 }),
        (None, Wire::Http1) => Some(request.version()),
        (None, Wire::Http2) => None,
    };
    headers::strip_hop_by_hop(request.headers_mut());
    let mut request = request.map(RequestBody::new);
    match as_http1 {
        Some(version) => headers::to_http1(&mut request, version),
        None => {
            if let Err(reason) = headers::to_http2(&mut request, authority.as_ref()) {
                exchange.fail(reason);
                return Step::Other(Box::pin(ready(respond::failure(reason, grpc, ""))));
            }
        }
    }
    Step::Send(Box::new(Call { request, http1: as_http1.is_some(), permit, exchange }))
}

/// Whether the request may come in, and the authority that it names. An error says why not, with what the caller may
/// know of it.
fn admit(
    visit: &Visit,
    wire: Wire,
    request: &Request<Incoming>,
) -> Result<(Permit, Option<Authority>), (Reason, String)> {
    if wire == Wire::Http2 && !headers::within_bounds(request.headers()) {
        return Err((Reason::HeaderTooLarge, String::new()));
    }
    let authority = headers::authority(request, &visit.host)
        .map_err(|reason| (reason, "the request names no single authority".to_owned()))?;
    let inbound = visit.port.inbound();
    let act = Act::Request { method: request.method(), path: request.uri().path() };
    match policy::authorize(&inbound, &visit.peer, act) {
        Ok(permit) => Ok((permit, authority)),
        Err(denial @ policy::Denial::Ambiguous(_)) => Err((Reason::ProtocolError, denial.to_string())),
        Err(denial) => {
            tracing::info!(peer = %visit.peer_name, address = %visit.peer.address, parent = %inbound.parent,
                method = %request.method(), %denial, "request denied");
            Err((Reason::Denied, String::new()))
        }
    }
}

/// An upgrade: a connection to the application of its own.
async fn switch(
    world: Rc<World>,
    visit: Rc<Visit>,
    permit: Permit,
    request: Request<Incoming>,
    mut exchange: Exchange,
) -> Response<ResponseBody> {
    match connect::tcp(&permit, visit.app.endpoint.address, limits::APP_CONNECT_TIMEOUT).await {
        Ok(stream) => upgrade::switch(&world, permit, ByteStream::Plain(stream), request, exchange, None).await,
        Err(error) => {
            exchange.fail(error.reason());
            respond::failure(error.reason(), exchange.is_grpc(), "")
        }
    }
}

/// The application's answer, counted to its end.
fn pass_on(answer: Answer, mut exchange: Exchange) -> Response<ResponseBody> {
    let Answer { response, lease, .. } = answer;
    let (mut parts, body) = response.into_parts();
    headers::strip_hop_by_hop(&mut parts.headers);
    headers::strip_reserved(&mut parts.headers);
    exchange.head(parts.status, None, lease);
    parts.version = Version::HTTP_11;
    if http_body::Body::is_end_stream(&body) {
        exchange.ended(Some(&parts.headers));
        return Response::from_parts(parts, ResponseBody::Empty);
    }
    Response::from_parts(parts, ResponseBody::Upstream { body, exchange })
}
