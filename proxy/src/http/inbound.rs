//! The life of a request on its way in: authorise, tell the application who calls, restore the HTTP that the caller
//! spoke, and hand it over.

use super::{
    Wire,
    body::{request::RequestBody, response::ResponseBody},
    exchange::Exchange,
    form::{self, Form},
    grpc,
    headers::{self, LastHost},
    respond,
    stall::Overloaded,
    upgrade::{self, Asked, End, Offer, Tunnel},
};
use crate::{
    account::Holder,
    backend::endpoint::{Answer, Callers, Failed, Upstream},
    discover::Port,
    limits,
    policy::{Act, Denial, Peer, Permit},
    revoke::{self, Revoked},
    telemetry::{Proto, Reason, Tls},
    tls::Trust,
    world::World,
};
use futures_util::future::Either;
use http::{HeaderValue, Request, Response, Version, header::CONNECTION, uri::Authority};
use hyper::body::Incoming;
use std::{rc::Rc, sync::Arc};
use tokio::time::Instant;

/// What all requests of one inbound connection share.
#[derive(Debug)]
pub(crate) struct Visit {
    /// The share of the account that its requests are charged to.
    pub holder: Holder,
    /// Bytes of one request that may be held while they are not read.
    pub window: usize,
    pub port: Rc<Port>,
    pub peer: Peer,
    /// By whom it was vouched for.
    pub trust: Option<Rc<Trust>>,
    /// The peer's name in signals: its SPIFFE ID, or nothing.
    pub peer_name: Arc<str>,
    /// The header that tells the application; made once.
    pub client_id: Option<HeaderValue>,
    pub tls: Tls,
    /// When the peer is told to put no new requests on this connection.
    pub goodbye: Option<Instant>,
    pub host: LastHost,
    /// Who calls on this connection, with what each has for itself of connections to the application.
    pub callers: Callers,
    /// The application.
    pub app: Rc<Upstream>,
}

impl Visit {
    /// Judges what the peer wants, and leaves the one record of it.
    pub(crate) fn judge(&self, act: Act<'_>) -> Result<Permit, Denial> {
        let policy = self.port.policy();
        policy.judge(&self.peer, act).record(&policy, &self.peer, act)
    }

    /// Returns once the peer may no longer do what it was let in for. Cancel safe.
    pub(crate) fn revoked<'a>(&self, act: Act<'a>) -> impl Future<Output = Revoked> + use<'a> {
        revoke::revoked(self.port.clone(), self.peer.clone(), self.trust.clone(), act)
    }
}

/// What becomes of a request once it was looked at.
enum Step {
    /// It goes to the application.
    Send(Box<Call>),
    /// An answer of our own. Boxed, since it is rare.
    Refuse(Box<Response<ResponseBody>>),
}

/// A request with what it takes to send and count it. Boxed, so that the future that is spawned for it stays small.
struct Call {
    request: Request<RequestBody>,
    form: Hop,
    permit: Permit,
    exchange: Exchange,
}

/// How a request is handed over.
enum Hop {
    Http1,
    /// Over HTTP/2, for this one of the connection's callers.
    Http2(u32),
    /// On a connection of its own, which may become one of bytes.
    Leaving(Rc<Offer>, End),
}

/// Answers one request. Never fails: what goes wrong becomes an answer that says so.
///
/// All but the exchange with the application is plain code without a wait, in front of a future that is as small as can
/// be: it is copied with every request.
pub(crate) fn handle(
    world: Rc<World>,
    visit: Rc<Visit>,
    wire: Wire,
    request: Request<Incoming>,
) -> impl Future<Output = Response<ResponseBody>> + 'static {
    let step = arrive(&visit, wire, request);
    async move {
        match step {
            Step::Refuse(response) => *response,
            Step::Send(call) => send(&world, &visit, wire, call).await,
        }
    }
}

async fn send(world: &Rc<World>, visit: &Rc<Visit>, wire: Wire, call: Box<Call>) -> Response<ResponseBody> {
    let Call { mut request, form, permit, mut exchange } = *call;
    // A peer of ours has all requests on one connection, and learns of an end by discovery.
    let direct = wire == Wire::Http1;
    let mut stale = 0;
    let sent = loop {
        let sending = match &form {
            Hop::Http1 => Either::Left(Either::Left(visit.app.send_http1(&permit, exchange.started(), request))),
            Hop::Http2(caller) => {
                let caller = Some((&visit.callers, *caller));
                Either::Left(Either::Right(visit.app.send_http2(&permit, caller, request)))
            }
            Hop::Leaving(offer, _) => {
                let tasks = &world.resources.tasks;
                Either::Right(Box::pin(upgrade::send(tasks, &visit.app, &permit, offer, request)))
            }
        };
        match sending.await {
            // The application closed connections that were kept; each of them is used up by this.
            Err(Failed { stale: true, unsent: Some(unsent), .. }) if stale < limits::IDLE_CONNECTIONS_MAX => {
                stale += 1;
                request = *unsent;
            }
            sent => break sent,
        }
    };
    let mut answer = match sent {
        Ok(answer) => answer,
        Err(failed) => {
            exchange.fail(failed.reason);
            return leave(respond::failure(failed.reason, exchange.is_grpc(), ""), direct);
        }
    };
    if let Hop::Leaving(offer, client) = form
        && offer.is_taken(&answer.response)
    {
        let revoked = tunnel_revoked(visit.clone(), offer.asked().clone());
        let tunnel = Tunnel::new(client, &mut answer.response, &world.resources);
        let mut head = answer.response.map(drop);
        headers::strip_reserved(head.headers_mut());
        headers::strip_for_upgrade(head.headers_mut());
        return tunnel.relay(head, permit, exchange, None, revoked);
    }
    let last = direct && (visit.port.is_ending() || headers::says_close(answer.response.headers()));
    leave(pass_on(answer, exchange, wire, visit.peer.identity.is_some()), last)
}

/// Returns once the request that became a tunnel would not be let in any more.
async fn tunnel_revoked(visit: Rc<Visit>, asked: Asked) -> Revoked {
    let why = visit.revoked(Act::Request { method: &asked.method, path: &asked.path }).await;
    why.note(&visit.peer, &visit.port);
    why
}

/// Asks the client to close the connection (`Connection: close`) when the pod is shutting down or the application has closed: a client
/// outside the mesh is connected to this proxy instead of to the application, and would not notice that the application is gone.
fn leave(mut response: Response<ResponseBody>, last: bool) -> Response<ResponseBody> {
    if last {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

fn arrive(visit: &Visit, wire: Wire, mut request: Request<Incoming>) -> Step {
    let grpc = grpc::is_grpc(request.headers());
    // Proxies add fields to requests over HTTP/2 only. A request over HTTP/1 came through a tunnel, as its client wrote it.
    let from_mesh = visit.peer.identity.is_some() && wire == Wire::Http2;
    let restore = if from_mesh { request.headers_mut().remove(headers::RESTORE) } else { None };
    let caller = match &restore {
        None if from_mesh => Callers::number(request.headers().get(headers::CALLER)),
        _ => 0,
    };
    let proto = match (grpc, &restore, wire) {
        (true, ..) => Proto::Grpc,
        (_, None, Wire::Http2) => Proto::Http2,
        _ => Proto::Http1,
    };
    let started = Instant::now();
    // Judged first: what is refused must not use up the room for the signals of what is let in.
    let (permit, authority) = match admit(visit, wire, &request) {
        Ok(admitted) => admitted,
        Err((reason, detail)) => {
            Exchange::begin(visit.port.signals.denied(proto, visit.tls), started, grpc).fail(reason);
            return Step::Refuse(Box::new(respond::failure(reason, grpc, &detail)));
        }
    };
    let stats = visit.port.signals.request(None, &request, proto, &visit.peer_name, visit.tls, started);
    let mut exchange = Exchange::begin(stats, started, grpc);
    let (parts, body) = request.into_parts();
    let body = RequestBody::new(body, wire, &visit.holder, visit.window);
    let (Some(charge), Ok(body)) = (visit.holder.charge(limits::REQUEST_BYTES), body) else {
        remora_runtime::limited!(info, peer = %visit.peer_name, address = %visit.peer.address,
            reason = Reason::Overloaded.as_str(), "this caller has as many requests under way as fit into its share of memory");
        exchange.fail(Reason::Overloaded);
        return Step::Refuse(Box::new(respond::failure(Reason::Overloaded, grpc, "")));
    };
    exchange.hold(charge);
    let mut request = Request::from_parts(parts, body);
    headers::strip_reserved(request.headers_mut());
    if let Some(id) = &visit.client_id {
        request.headers_mut().insert(headers::CLIENT_ID, id.clone());
    }
    if let Some((offer, client)) = upgrade::take(&mut request) {
        offer.prepare(&mut request, true);
        return Step::Send(Box::new(Call { request, form: Hop::Leaving(offer, client), permit, exchange }));
    }
    headers::strip_hop_by_hop(request.headers_mut());
    let form = match (restore, wire) {
        (Some(form), _) => {
            Form::read(&form).restore(&mut request);
            Hop::Http1
        }
        (None, Wire::Http1) => {
            let version = request.version();
            form::frame(&mut request, version);
            Hop::Http1
        }
        (None, Wire::Http2) => {
            if let Err(reason) = form::to_http2(&mut request, authority.as_ref(), None) {
                exchange.fail(reason);
                return Step::Refuse(Box::new(respond::failure(reason, grpc, "")));
            }
            Hop::Http2(caller)
        }
    };
    Step::Send(Box::new(Call { request, form, permit, exchange }))
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
    let (method, path) = (request.method(), request.uri().path());
    match visit.judge(Act::Request { method, path }) {
        Ok(permit) => Ok((permit, authority)),
        Err(denial) => {
            let (reason, told) = match denial {
                Denial::Ambiguous(_) => (Reason::ProtocolError, denial.to_string()),
                _ => (Reason::Denied, String::new()),
            };
            remora_runtime::limited!(info by reason.as_str(), peer = %visit.peer_name, address = %visit.peer.address,
                parent = %visit.port.inbound().parent, method = crate::policy::logged(method.as_str()), path = crate::policy::logged(path), reason = reason.as_str(), %denial, "request denied");
            Err((reason, told))
        }
    }
}

/// The application's answer, counted to its end.
fn pass_on(answer: Answer, mut exchange: Exchange, wire: Wire, mesh: bool) -> Response<ResponseBody> {
    let Answer { response, lease, .. } = answer;
    let demanded = headers::demanded_upgrade(&response);
    let (mut parts, body) = response.into_parts();
    headers::strip_hop_by_hop(&mut parts.headers);
    headers::strip_reserved(&mut parts.headers);
    if let Some(demanded) = demanded {
        match wire {
            Wire::Http1 => headers::demand_upgrade(&mut parts.headers, demanded),
            Wire::Http2 if mesh => drop(parts.headers.insert(headers::OFFERS, demanded)),
            Wire::Http2 => {}
        }
    }
    exchange.head(parts.status, None, lease);
    parts.version = Version::HTTP_11;
    if http_body::Body::is_end_stream(&body) {
        exchange.ended(Some(&parts.headers));
        return Response::from_parts(parts, ResponseBody::Empty);
    }
    let grpc = exchange.is_grpc();
    match ResponseBody::upstream(body, exchange) {
        Ok(body) => Response::from_parts(parts, body),
        Err(Overloaded) => respond::failure(Reason::Overloaded, grpc, ""),
    }
}
