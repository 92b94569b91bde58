//! The life of a request on its way in: authorise, tell the application who calls, restore the HTTP that the caller
//! spoke, and hand it over.

use super::{
    Wire,
    body::{RequestBody, ResponseBody},
    client::{Answer, ByteStream, Failed, Upstream},
    exchange::Exchange,
    headers, respond, upgrade,
};
use crate::{
    connect,
    discover::Port,
    limits,
    policy::{self, Act, Peer},
    telemetry::{Proto, Reason, Tls},
    worker::World,
};
use http::{HeaderValue, Request, Response, Version};
use hyper::body::Incoming;
use std::{rc::Rc, sync::Arc, time::Instant};

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
    /// The application.
    pub app: Rc<Upstream>,
}

/// Answers one request. Never fails: what goes wrong becomes an answer that says so.
pub async fn handle(
    world: Rc<World>,
    visit: Rc<Visit>,
    wire: Wire,
    mut request: Request<Incoming>,
) -> Response<ResponseBody> {
    let started = Instant::now();
    let grpc = headers::is_grpc(request.headers());
    let from_mesh = visit.peer.identity.is_some();
    let restore = if from_mesh { request.headers_mut().remove(headers::RESTORE) } else { None };
    let proto = match (grpc, &restore, wire) {
        (true, ..) => Proto::Grpc,
        (_, None, Wire::Http2) => Proto::Http2,
        _ => Proto::Http1,
    };
    let stats = visit.port.signals.request(None, &request, proto, &visit.peer_name, visit.tls);
    let mut exchange = Exchange::begin(stats, started, grpc);
    let mut refuse = |reason: Reason, detail: &str| {
        exchange.fail(reason);
        respond::failure(reason, grpc, detail)
    };
    if wire == Wire::Http2 && !headers::within_bounds(request.headers()) {
        return refuse(Reason::HeaderTooLarge, "");
    }
    let Ok(authority) = headers::authority(&request) else {
        return refuse(Reason::ProtocolError, "the request names no single authority");
    };
    if headers::hops(request.headers()) > limits::HOPS_MAX {
        return refuse(Reason::Loop, "too many proxies on the way");
    }
    let act = Act::Request { method: request.method(), path: request.uri().path() };
    let permit = match policy::authorize(&visit.port.inbound(), &visit.peer, act) {
        Ok(permit) => permit,
        Err(denial @ policy::Denial::Ambiguous(_)) => return refuse(Reason::ProtocolError, &denial.to_string()),
        Err(denial) => {
            tracing::info!(peer = %visit.peer_name, address = %visit.peer.address, parent = %visit.port.inbound().parent,
                method = %request.method(), %denial, "request denied");
            return refuse(Reason::Denied, "");
        }
    };
    headers::strip_reserved(request.headers_mut());
    if let Some(id) = &visit.client_id {
        request.headers_mut().insert(headers::CLIENT_ID, id.clone());
    }
    if headers::wants_upgrade(&request) {
        return match connect::tcp(&permit, visit.app.endpoint.address, limits::APP_CONNECT_TIMEOUT).await {
            Ok(stream) => upgrade::switch(&world, permit, ByteStream::Plain(stream), request, exchange, None).await,
            Err(error) => refuse(error.reason(), ""),
        };
    }
    let as_http1 = match (&restore, wire) {
        (Some(version), _) => Some(if version == "1.0" { Version::HTTP_10 } else { Version::HTTP_11 }),
        (None, Wire::Http1) => Some(request.version()),
        (None, Wire::Http2) => None,
    };
    headers::strip_hop_by_hop(request.headers_mut());
    let mut request = request.map(RequestBody::new);
    let sent = match as_http1 {
        Some(version) => {
            headers::to_http1(&mut request, version);
            visit.app.send_http1(&world, &permit, request).await
        }
        None => match headers::to_http2(&mut request, authority.as_ref()) {
            Ok(()) => visit.app.send_http2(&world, &permit, request).await,
            Err(reason) => Err(Failed { reason, unsent: None }),
        },
    };
    match sent {
        Ok(answer) => finish(answer, &visit, exchange),
        Err(Failed { reason, .. }) => refuse(reason, ""),
    }
}

fn finish(answer: Answer, visit: &Visit, mut exchange: Exchange) -> Response<ResponseBody> {
    let Answer { response, connection } = answer;
    let (mut parts, body) = response.into_parts();
    headers::strip_hop_by_hop(&mut parts.headers);
    headers::strip_reserved(&mut parts.headers);
    let app = visit.app.clone();
    let give_back = connection.map(|connection| -> Box<dyn FnOnce()> { Box::new(move || app.give_back(connection)) });
    exchange.head(parts.status, None, give_back);
    parts.version = Version::HTTP_11;
    if http_body::Body::is_end_stream(&body) {
        exchange.ended(Some(&parts.headers));
        return Response::from_parts(parts, ResponseBody::Empty);
    }
    Response::from_parts(parts, ResponseBody::Upstream { body, exchange })
}
