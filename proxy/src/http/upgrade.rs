//! Requests that may leave HTTP: upgrades (WebSocket) and CONNECT. Until one has, it is a request like any other, with its
//! route's deadline, tries and signals; but it has a connection of its own upstream, because what follows the answer's head
//! may be bytes.

use super::{
    answer::{self, Allowance, BadAnswer, Frugal},
    body::{request::RequestBody, response::ResponseBody},
    exchange::Exchange,
    extended::{self, Certain, Extended},
    form::Form,
    headers, respond,
};
use crate::{
    backend::{
        InFlight, Outcome, Pool,
        endpoint::{self, Answer, AnswerBody, ByteStream, Failed, Lease, Own, Upstream},
        outcome,
    },
    connect::ConnectError,
    discover::Plan,
    first::{FirstError, Wait},
    io::{Abort as _, Breakable, Breaker, Fuse, Handle, Prefixed},
    jwt::Checked,
    leads::{self, Lead},
    limits,
    policy::{self, Act, Permit, To},
    resources::Resources,
    revoke::{self, Revoked},
    tasks::Tasks,
    telemetry::{Reason, Tls},
};
use http::{
    HeaderMap, Method, Request, Response, StatusCode, Version,
    header::{CONTENT_LENGTH, TRANSFER_ENCODING},
    uri::Authority,
};
use hyper::{
    client::conn::{TrySendError, http1},
    upgrade::{OnUpgrade, Upgraded},
};
use hyper_util::rt::TokioIo;
use remora_model::Protocol;
use std::{fmt, future::pending, net::SocketAddr, pin::Pin, rc::Rc, sync::Arc};
use tokio::time::Instant;

/// What was asked of policy.
#[derive(Clone)]
pub(crate) struct Asked {
    method: Method,
    path: Box<str>,
    host: Option<Authority>,
    headers: HeaderMap,
    /// Of an issuer that decides.
    token: Option<Arc<Checked>>,
}

impl Asked {
    /// What is asked of policy for a request. Its headers are kept if policy has judged them, and may do so again.
    pub(crate) fn of<B>(request: &Request<B>, host: Option<&Authority>, judged: bool) -> Self {
        let headers = if judged { request.headers().clone() } else { HeaderMap::new() };
        let token = request.extensions().get::<Arc<Checked>>().cloned();
        let (method, path) = (request.method().clone(), request.uri().path().into());
        Self { method, path, host: host.cloned(), headers, token }
    }

    /// As it was asked.
    pub(crate) fn act(&self) -> Act<'_> {
        let host = self.host.as_ref().map(Authority::as_str);
        let tokens = [self.token.as_ref().map(|checked| &checked.token), None];
        Act::Request { method: &self.method, path: &self.path, host, headers: &self.headers, tokens }
    }
}

/// Without its headers, which may hold secrets.
impl fmt::Debug for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Asked").field("method", &self.method).field("path", &self.path).finish_non_exhaustive()
    }
}

/// What a request that asks to leave HTTP offers: shared by the code that sends it and the code that reads its answer.
#[derive(Debug)]
pub(crate) struct Offer {
    asked: Asked,
    /// The protocols that an upgrade offers; a CONNECT offers none.
    protocols: Vec<Box<[u8]>>,
    /// Whether its client wrote it as extended CONNECT.
    extended: Option<Extended>,
}

/// Marks an answer after which the client's connection is no longer HTTP. Made here only, when that is so.
#[derive(Debug, Clone, Copy)]
struct Left;

/// Whether the client's connection is bytes once this answer's head is sent.
pub(super) fn leaves<B>(answer: &Response<B>) -> bool {
    answer.extensions().get::<Left>().is_some()
}

/// One end of a connection that may leave HTTP.
#[derive(Debug)]
pub(crate) struct End {
    bytes: OnUpgrade,
    breaker: Breaker,
}

impl End {
    fn new(bytes: OnUpgrade, breaker: Option<Breaker>) -> Self {
        Self { bytes, breaker: breaker.unwrap_or_default() }
    }

    /// Of the client that asks.
    fn of_client<B>(request: &mut Request<B>) -> Self {
        let breaker = request.extensions_mut().remove();
        Self::new(hyper::upgrade::on(request), breaker)
    }

    /// Of the server that answered.
    fn of_server<B>(answer: &mut Response<B>) -> Self {
        let breaker = answer.extensions_mut().remove();
        Self::new(hyper::upgrade::on(answer), breaker)
    }

    /// Its bytes, once it has left.
    async fn left(self) -> hyper::Result<Handle<Certain<TokioIo<Upgraded>>>> {
        Ok(Handle::new(Certain::new(TokioIo::new(self.bytes.await?)), self.breaker))
    }
}

/// What a request that asks to leave HTTP offers, and its client's side of that; `None` for any other request, without `h2c`
/// from here on. `host` and `judged`: as of [`Asked::of`].
pub(crate) fn take<B>(request: &mut Request<B>, host: Option<&Authority>, judged: bool) -> Option<(Rc<Offer>, End)> {
    if !headers::asks_to_leave(request) {
        // The library offers the connection with any `connection: upgrade`; kept, it would hold it open.
        drop(request.extensions_mut().remove::<OnUpgrade>());
        return None;
    }
    let asked = Asked::of(request, host, judged);
    let connect = asked.method == Method::CONNECT;
    let protocols = headers::offers(request.headers()).filter(|_| !connect).map(Into::into).collect();
    let extended = request.extensions_mut().remove();
    Some((Rc::new(Offer { asked, protocols, extended }), End::of_client(request)))
}

impl Offer {
    /// What the request was judged by.
    pub(crate) fn asked(&self) -> &Asked {
        &self.asked
    }

    /// The request in the form in which it goes up: HTTP/1.1, its target as the client wrote it if the client does not know of the
    /// proxy.
    pub(crate) fn prepare(&self, request: &mut Request<RequestBody>, transparent: bool) {
        headers::strip_for_upgrade(request.headers_mut());
        *request.version_mut() = Version::HTTP_11;
        if self.asked.method != Method::CONNECT {
            // HTTP/2 has no form of its own: the authority of such a client is the `Host` of HTTP/1.
            let transparent = transparent && self.extended.is_none();
            Form::of(request, transparent).restore(request);
        }
    }

    /// Whether the upstream has left HTTP with this answer, which [`send`] has checked.
    pub(crate) fn is_taken<B>(&self, answer: &Response<B>) -> bool {
        match answer.status() {
            StatusCode::SWITCHING_PROTOCOLS => true,
            status => self.asked.method == Method::CONNECT && status.is_success(),
        }
    }

    /// An upgrade goes to what was offered (RFC 9110 §7.8); the answer to a CONNECT that went well has no content, whatever
    /// it says (§9.3.6).
    fn check<B>(&self, answer: &mut Response<B>) -> Result<(), BadAnswer> {
        if !self.is_taken(answer) {
            return answer::check(answer);
        }
        if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
            let mut chosen = headers::offers(answer.headers()).peekable();
            let offered = |one: &[u8]| self.protocols.iter().any(|offer| offer.eq_ignore_ascii_case(one));
            return if chosen.peek().is_some() && chosen.all(offered) { Ok(()) } else { Err(BadAnswer::Interim) };
        }
        answer.headers_mut().remove(CONTENT_LENGTH);
        answer.headers_mut().remove(TRANSFER_ENCODING);
        Ok(())
    }
}

/// Both ends of a connection that has left HTTP.
pub(crate) struct Tunnel {
    client: End,
    upstream: End,
    /// A tunnel that comes to nothing has no end in order: its server has agreed to it.
    fuse: Fuse,
    resources: Rc<Resources>,
    revoked: Pin<Box<dyn Future<Output = Revoked>>>,
}

impl fmt::Debug for Tunnel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tunnel").finish_non_exhaustive()
    }
}

impl Tunnel {
    /// Of the client whose request was answered so; it ends when `revoked` does.
    pub(crate) fn new(
        client: End,
        answer: &mut Response<AnswerBody>,
        resources: &Rc<Resources>,
        revoked: Pin<Box<dyn Future<Output = Revoked>>>,
    ) -> Self {
        let upstream = End::of_server(answer);
        let fuse = Fuse::on(&upstream.breaker);
        Self { client, upstream, fuse, resources: resources.clone(), revoked }
    }

    /// Relays bytes from now on, in a task of the worker, until both sides ended or it is revoked. `head` is the answer that says
    /// so to the client.
    pub(crate) fn relay(
        self,
        head: Response<()>,
        permit: Permit,
        mut exchange: Exchange,
        in_flight: Option<InFlight>,
    ) -> Response<ResponseBody> {
        let Self { client, upstream, fuse, resources, revoked } = self;
        let fuses = [fuse, Fuse::on(&client.breaker)];
        exchange.head(head.status(), in_flight, None);
        resources.clone().tasks.spawn(async move {
            let left = tokio::join!(client.left(), upstream.left());
            // Before whichever has left is dropped.
            let (Ok(down), Ok(mut up)) = left else { return drop(fuses) };
            fuses.into_iter().for_each(Fuse::off);
            let record = exchange.record().clone();
            let holder = exchange.holder().unwrap_or_else(|| resources.pod.clone());
            let mut down = Prefixed::charged(down, holder);
            let _open = record.open();
            match revoke::bytes(permit, &mut down, &mut up, (&record, None), revoked).await {
                Ok(()) => exchange.ended(None),
                Err(revoke::Ended::Broken(error)) => {
                    tracing::debug!(%error, "tunnel broke");
                    exchange.fail(error.reason());
                }
                Err(ended @ revoke::Ended::Revoked(_)) => exchange.fail(ended.reason()),
            }
        });
        let mut head = head.map(|()| ResponseBody::Empty);
        head.extensions_mut().insert(Left);
        head
    }
}

/// Sends a request that may leave HTTP over a connection of its own. Nothing of what the client sends after the head goes up
/// before the upstream has left. Dropping the future closes the connection.
pub(crate) async fn send(
    tasks: &Tasks,
    upstream: &Upstream,
    permit: &Permit,
    offer: &Offer,
    mut request: Request<RequestBody>,
) -> Result<Answer, Failed> {
    let stream = match upstream.upgradable(permit).await {
        Ok(stream) => stream,
        Err(error) => {
            log(upstream, &error);
            return Err(Failed::unsent(error.reason(), request));
        }
    };
    let sent = Some(Instant::now());
    let breaker = Breaker::default();
    // Until its answer is read and judged: a server that has agreed, and is not heard, must not see an end in order.
    let fuse = Fuse::on(&breaker);
    let (mut response, own) = match &offer.extended {
        Some(extended) if upstream.endpoint.identity.is_none() => {
            (extended::send(tasks, (stream, &breaker), extended, request).await?, None)
        }
        extended => {
            request.headers_mut().extend(extended.as_ref().map(|extended| (headers::EXTENDED, extended.value())));
            let (response, own) = over_http1(tasks, stream, &breaker, request).await?;
            (response, Some(own))
        }
    };
    if let Err(error) = offer.check(&mut response) {
        remora_runtime::limited!(info, address = %upstream.endpoint.address, %error, "answer refused");
        return Err(Failed::new(Reason::UpstreamReset));
    }
    if !headers::within_bounds(response.headers()) {
        return Err(Failed::new(Reason::ResponseHeaderTooLarge));
    }
    fuse.off();
    if !offer.is_taken(&response) {
        return Ok(Answer { response, lease: own.map(Lease::own), sent });
    }
    response.extensions_mut().insert(breaker);
    if let Some(own) = own {
        own.done(|_| ());
    }
    Ok(Answer { response, lease: None, sent })
}

/// The answer to `request`, which is the first and may be the last on `stream`, that `breaker` breaks off.
async fn over_http1(
    tasks: &Tasks,
    stream: ByteStream,
    breaker: &Breaker,
    request: Request<RequestBody>,
) -> Result<(Response<AnswerBody>, Own), Failed> {
    let allowance = Allowance::default();
    let own = Own::new(allowance.clone(), breaker.clone());
    allowance.head(request.body().holder());
    let stream = TokioIo::new(Frugal::new(Breakable::new(stream, breaker.clone()), allowance.clone()));
    let handshake = http1::Builder::new().handshake(stream).await;
    let Ok((mut sender, connection)) = handshake else { return Err(Failed::unsent(Reason::UpstreamReset, request)) };
    tasks.spawn(async move { drop(connection.with_upgrades().await) });
    let response = sender.try_send_request(request).await.map_err(|mut error: TrySendError<_>| {
        tracing::debug!(error = %error.error(), "a request that may leave HTTP failed");
        let unsent = error.take_message().map(Box::new);
        Failed { unsent, ..Failed::new(endpoint::reason(error.error())) }
    })?;
    allowance.body();
    Ok((response.map(AnswerBody::from), own))
}

/// A byte connection to an endpoint of `pool`, with the permit to use it; endpoints that cannot be reached are passed over,
/// within the retry bound.
pub(crate) async fn connect(resources: &Resources, pool: &Pool) -> Result<(ByteStream, InFlight, Permit), Reason> {
    let mut tried: Vec<SocketAddr> = Vec::new();
    let mut retries = 0;
    loop {
        let (upstream, in_flight) = pool.pick(Instant::now(), &mut resources.rng.borrow_mut(), &tried, None)?;
        let started = Instant::now();
        let permit = policy::outbound(To::Endpoint(&upstream.endpoint));
        match upstream.bytes(&permit).await {
            Ok(stream) => {
                in_flight.record(Instant::now(), started.elapsed(), Outcome::Success);
                return Ok((stream, in_flight, permit));
            }
            Err(error) => {
                log(&upstream, &error);
                if error.reason() == Reason::Overloaded {
                    return Err(Reason::Overloaded); // this proxy is: others cannot be connected to either
                }
                // One that has as many connections as it may is well.
                if let Some(outcome) = outcome::of(error.reason()) {
                    in_flight.failed_for(Instant::now(), error.reason().as_str());
                    in_flight.record(Instant::now(), started.elapsed(), outcome);
                    pool.doubt();
                }
                tried.push(upstream.endpoint.address);
                if pool.passes_over(&tried, error.reason()) {
                    continue;
                }
                if retries == limits::DEFAULT_RETRIES {
                    return Err(error.reason());
                }
                retries += 1;
                if let Err(reason) = pool.pick(Instant::now(), &mut resources.rng.borrow_mut(), &tried, None) {
                    tracing::debug!(reason = reason.as_str(), "no endpoint left to try");
                    return Err(error.reason());
                }
            }
        }
    }
}

fn log(upstream: &Upstream, error: &ConnectError) {
    remora_runtime::limited!(info, endpoint = %upstream.endpoint.address, pod = %upstream.endpoint.pod, %error,
        cause = error.cause(), "cannot connect");
}

/// CONNECT to a Service through the outbound listener: bytes to one of its endpoints.
pub(crate) async fn tunnel<B: 'static>(
    resources: Rc<Resources>,
    plan: Rc<Plan>,
    mut request: Request<B>,
) -> Response<ResponseBody> {
    if plan.routes_tls() {
        return by_name(resources, plan, End::of_client(&mut request));
    }
    let pool = plan.bytes(&mut resources.rng.borrow_mut());
    let (peer, tls) = pool.as_ref().map_or_else(|_| ("".into(), Tls::Plain), |pool| pool.peers());
    // It is recorded also if its client does not wait until its end is in sight.
    let started = Instant::now();
    let mut begun = Exchange::of(plan.counters.bytes(&peer, tls, started), false);
    let record = begun.record().clone();
    let connected = async { connect(&resources, &*pool?).await };
    let (mut upstream, in_flight, permit) = match connected.await {
        Ok(connected) => connected,
        Err(reason) => {
            begun.fail(reason);
            return respond::failure(reason, false, "");
        }
    };
    let (pod, client) = (resources.pod.clone(), End::of_client(&mut request));
    resources.tasks.spawn(async move {
        let Ok(client) = client.left().await else { return upstream.abort() };
        record.connected(started, Instant::now());
        let _open = record.open();
        let mut client = Prefixed::charged(client, pod);
        match revoke::bytes(permit, &mut client, &mut upstream, (&record, None), pending()).await {
            Ok(()) => begun.ended(None),
            Err(ended) => begun.fail(ended.reason()),
        }
        drop(in_flight);
    });
    let mut answer = respond::empty(StatusCode::OK);
    answer.extensions_mut().insert(Left);
    answer
}

/// CONNECT to a Service whose TLS goes by the name that it asks for: the client hears that it has its tunnel, and what it says
/// then decides where that leads. A tunnel that leads nowhere is reset.
fn by_name(resources: Rc<Resources>, plan: Rc<Plan>, client: End) -> Response<ResponseBody> {
    let tasks = resources.clone();
    tasks.tasks.spawn(async move {
        let Ok(client) = client.left().await else { return };
        let mut client = Prefixed::charged(client, resources.pod.clone());
        // Whatever it is, it is the tunnel's bytes.
        let wait = Wait { said: Protocol::Opaque, ..Wait::outbound(resources.config.patience.idle) };
        let open = async |pool: &Pool| connect(&resources, pool).await.map(|(stream, _, _)| stream);
        let (pool, opened) = match leads::find(&mut client, (&plan, &resources.rng), wait, open, |_| {}).await {
            Ok(Lead::Bytes(pool, opened)) => (pool, opened),
            Ok(Lead::Http1 | Lead::Http2 | Lead::Nowhere) | Err(FirstError::Client(_)) => return,
            Err(FirstError::Upstream(reason)) => (Err(reason), None),
        };
        let (peer, tls) = pool.as_ref().map_or_else(|_| ("".into(), Tls::Plain), |pool| pool.peers());
        let started = Instant::now();
        let mut begun = Exchange::of(plan.counters.bytes(&peer, tls, started), false);
        let record = begun.record().clone();
        let connected = async {
            let pool = pool?;
            match opened {
                Some(upstream) => Ok((upstream, policy::outbound(To::Target(&plan.outbound.target)))),
                None => connect(&resources, &pool).await.map(|(stream, _, permit)| (Prefixed::new(stream), permit)),
            }
        };
        let (mut upstream, permit) = match connected.await {
            Ok(connected) => connected,
            Err(reason) => {
                remora_runtime::limited!(info by reason.as_str(), target = %plan.outbound.target, reason = reason.as_str(), "a tunnel leads nowhere");
                // An end in order would pass for an answer without a byte.
                client.abort();
                return begun.fail(reason);
            }
        };
        record.connected(started, Instant::now());
        let _open = record.open();
        match revoke::bytes(permit, &mut client, &mut upstream, (&record, None), pending()).await {
            Ok(()) => begun.ended(None),
            Err(ended) => begun.fail(ended.reason()),
        }
    });
    let mut answer = respond::empty(StatusCode::OK);
    answer.extensions_mut().insert(Left);
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(method: Method, offers: &[&'static str]) -> Rc<Offer> {
        let mut request = Request::builder().method(method).uri("/chat").header("connection", "upgrade");
        for offer in offers {
            request = request.header("upgrade", *offer);
        }
        take(&mut request.body(()).unwrap(), None, false).unwrap().0
    }

    /// Whether an answer is taken, and whether it ends HTTP.
    fn answer(leaving: &Offer, status: u16, fields: &[(&'static str, &'static str)]) -> Option<bool> {
        let mut answer = Response::builder().status(status);
        for (name, value) in fields {
            answer = answer.header(*name, *value);
        }
        let mut answer = answer.body(()).unwrap();
        leaving.check(&mut answer).ok()?;
        assert!(!(leaving.is_taken(&answer) && answer.headers().contains_key(CONTENT_LENGTH)), "{fields:?}");
        Some(leaving.is_taken(&answer))
    }

    #[test]
    fn an_upgrade_goes_to_what_was_offered_or_nowhere() {
        let leaving = request(Method::GET, &["h2c, WebSocket", "foo/1"]);
        for chosen in ["websocket", "WEBSOCKET", "foo/1", "foo/1, websocket"] {
            assert_eq!(answer(&leaving, 101, &[("upgrade", chosen)]), Some(true), "{chosen}");
        }
        for chosen in ["h2c", "", "bar", "foo", "websocket, h2c"] {
            assert_eq!(answer(&leaving, 101, &[("upgrade", chosen)]), None, "{chosen}");
        }
        assert_eq!(answer(&leaving, 101, &[]), None);
        assert_eq!(answer(&leaving, 200, &[("content-length", "5")]), Some(false));
        assert_eq!(answer(&leaving, 426, &[("upgrade", "foo")]), Some(false));
        assert_eq!(answer(&leaving, 200, &[("content-length", "5"), ("content-length", "6")]), None);
    }

    #[test]
    fn an_upgrade_of_an_http2_client_names_its_host_whether_the_client_knows_of_the_proxy_or_not() {
        for transparent in [true, false] {
            let request = Request::connect("http://api.shop/chat?room=1").version(Version::HTTP_2);
            let mut request = request.body(RequestBody::Empty).unwrap();
            request.extensions_mut().insert(hyper::ext::Protocol::from_static("websocket"));
            assert!(extended::arrive(&mut request));
            let (offer, _) = take(&mut request, None, false).unwrap();
            offer.prepare(&mut request, transparent);
            assert_eq!(request.uri(), "/chat?room=1");
            assert_eq!(request.headers()["host"], "api.shop");
        }
    }

    #[test]
    fn a_tunnels_answer_has_no_content_whatever_it_says() {
        let leaving = request(Method::CONNECT, &["websocket"]);
        for fields in
            [&[][..], &[("content-length", "5")], &[("transfer-encoding", "chunked")], &[("content-length", "x")]]
        {
            assert_eq!(answer(&leaving, 200, fields), Some(true));
            assert_eq!(answer(&leaving, 204, fields), Some(true));
        }
        assert_eq!(answer(&leaving, 405, &[("content-length", "0")]), Some(false));
        assert_eq!(answer(&leaving, 101, &[("upgrade", "websocket")]), None, "it offered nothing");
    }
}
