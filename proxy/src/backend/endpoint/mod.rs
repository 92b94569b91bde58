//! HTTP to one endpoint: streams of HTTP/2 connections that all callers share where the peer is in the mesh; where it is
//! not, HTTP/1 connections for one request at a time, or HTTP/2 connections that each [`Caller`] has for itself.

mod body;
mod bytes;
mod caller;
mod http1;
mod http2;
mod keep;
mod says;
mod table;

pub(crate) use body::{AnswerBody, AnswerError};
pub(crate) use bytes::ByteStream;
pub(crate) use caller::{Caller, Callers};
pub(crate) use says::Says;
pub(crate) use table::Table;

use super::{
    balance::{InFlight, Outcome},
    outcome,
};
use crate::{
    connect::{self, ConnectError},
    http::{
        answer::{self, Allowance, Frugal},
        body::{client::RequestError, request::RequestBody},
        headers::within_bounds,
    },
    io::{Breaker, Patient},
    limits,
    policy::Permit,
    resources::Resources,
    sys::Watched,
    tasks::Tasks,
    telemetry::{Blame, Reason},
    tls,
};
use bytes::Way;
use futures_util::{FutureExt, future::Either};
use http2::{Dial, Streams};
use hyper::client::conn::{TrySendError, http1 as hyper_http1};
use hyper_util::rt::TokioIo;
use keep::Place;
use remora_model::{BackendSettings, ConnectionSettings, Endpoint};
use std::{borrow::Cow, fmt, io, net::SocketAddr, rc::Rc, time::Duration};
use table::Connections;
use tokio::time::Instant;

type Request = http::Request<RequestBody>;

/// One endpoint of a backend, with the way to it. The connections are shared with other backends that have the same endpoint.
#[derive(Debug)]
pub(crate) struct Upstream {
    pub endpoint: Endpoint,
    dialing: Dialing,
    connections: Rc<Connections>,
    table: Rc<Table>,
    resources: Rc<Resources>,
}

/// How an endpoint is connected to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Dialing {
    connect_timeout: Duration,
    settings: ConnectionSettings,
}

impl Dialing {
    /// Within that time, and for the rest as nobody says.
    pub(crate) fn within(connect_timeout: Duration) -> Self {
        Self { connect_timeout, settings: ConnectionSettings::default() }
    }
}

impl From<&BackendSettings> for Dialing {
    fn from(settings: &BackendSettings) -> Self {
        Self { connect_timeout: settings.connect_timeout, settings: settings.connection }
    }
}

/// A request that failed before the head of an answer: one type from the connection to the client, for whom it becomes an
/// answer in one place.
#[derive(Debug)]
pub(crate) struct Failed {
    pub reason: Reason,
    /// More for the client beside the reason; may be empty.
    pub detail: Cow<'static, str>,
    /// The endpoint that another try should pass over.
    pub endpoint: Option<SocketAddr>,
    /// The request, if not a byte of it was sent.
    pub unsent: Option<Box<Request>>,
    /// The pooled connection was closed already. Not counted against the endpoint, nor as an attempt.
    pub stale: bool,
    /// The server says that it has not looked at the request: safe to send again whatever its method (RFC 9113 §8.7).
    pub unprocessed: bool,
    /// It failed between this proxy and a peer's, which has said nothing of it.
    pub at_peer: bool,
    /// What the answer says beside the reason. Boxed, as it is seldom there.
    pub says: Option<Box<Says>>,
}

impl Failed {
    /// Bytes of the request may have arrived, or there is no endpoint to send it to.
    pub(crate) fn new(reason: Reason) -> Self {
        Self::refused(reason, "")
    }

    /// The request is refused here, and the client gets the reason.
    pub(crate) fn refused(reason: Reason, detail: impl Into<Cow<'static, str>>) -> Self {
        Self {
            reason,
            detail: detail.into(),
            endpoint: None,
            unsent: None,
            stale: false,
            unprocessed: false,
            at_peer: false,
            says: None,
        }
    }

    /// The reason, and whose fault it is.
    pub(crate) fn blame(&self) -> Blame {
        let blame = Blame::from(self.reason);
        if self.at_peer { blame.at_peer() } else { blame }
    }

    pub(crate) fn unsent(reason: Reason, request: Request) -> Self {
        Self { unsent: Some(Box::new(request)), ..Self::new(reason) }
    }

    /// The server has not processed the request, although its bytes arrived.
    pub(crate) fn unprocessed(reason: Reason) -> Self {
        Self { unprocessed: true, ..Self::new(reason) }
    }
}

/// A response, and the HTTP/1 connection to give back once its body ended.
pub(crate) struct Answer {
    pub response: http::Response<AnswerBody>,
    pub lease: Option<Lease>,
    /// When the request was sent, if a connection had to be made for it first: what that took is no answer's latency.
    pub sent: Option<Instant>,
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answer").field("response", &self.response.status()).finish_non_exhaustive()
    }
}

/// An HTTP/1 connection in use. Dropped, it closes.
#[derive(Debug)]
pub(crate) struct Lease(Leased);

#[derive(Debug)]
enum Leased {
    Kept(Rc<Connections>, http1::Http1),
    Own(Own),
}

impl Lease {
    /// Of a connection for one request.
    pub(crate) fn own(own: Own) -> Self {
        Self(Leased::Own(own))
    }

    /// Gives the connection back, once its response was read to the end.
    pub(crate) fn give_back(self, now: Instant) {
        match self.0 {
            Leased::Kept(connections, connection) => connections.http1.keep(connection, now),
            Leased::Own(own) => own.done(Allowance::answered),
        }
    }
}

/// A connection for one request, which the library owns. Dropped before the request is done, it is cut: an end behind what the server does not read
/// would not be seen.
#[derive(Debug)]
pub(crate) struct Own(Option<(Allowance, Breaker)>);

impl Own {
    /// The connection that keeps to `allowance`, and that `breaker` breaks off.
    pub(crate) fn new(allowance: Allowance, breaker: Breaker) -> Self {
        Self(Some((allowance, breaker)))
    }

    /// The request is done, or its connection is no longer HTTP, which `tell` says.
    pub(crate) fn done(mut self, tell: impl FnOnce(&Allowance)) {
        if let Some((allowance, _)) = self.0.take() {
            tell(&allowance);
        }
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        if let Some((allowance, breaker)) = &self.0 {
            breaker.cut();
            allowance.give_up();
        }
    }
}

impl Upstream {
    /// An endpoint whose connections are not shared.
    pub(crate) fn new(resources: &Rc<Resources>, table: &Rc<Table>, endpoint: Endpoint, dialing: Dialing) -> Rc<Self> {
        let connections = Connections::new(&endpoint, &dialing.settings, resources.config.workers);
        Rc::new(Self { endpoint, dialing, connections, table: table.clone(), resources: resources.clone() })
    }

    /// An endpoint, with the connections that this worker has to it already.
    pub(crate) fn shared(
        resources: &Rc<Resources>,
        table: &Rc<Table>,
        endpoint: Endpoint,
        dialing: Dialing,
    ) -> Rc<Self> {
        let connections = table.find(&endpoint, &dialing.settings, resources.config.workers);
        Rc::new(Self { endpoint, dialing, connections, table: table.clone(), resources: resources.clone() })
    }

    /// Whether it is this endpoint, connected to like this.
    pub(crate) fn is(&self, endpoint: &Endpoint, dialing: Dialing) -> bool {
        self.endpoint == *endpoint && self.dialing == dialing
    }

    /// Sends over HTTP/2, for `caller` where that matters. Dropping the future resets the stream.
    ///
    /// On a connection that is ready, which is nearly always, the request is handed over at once and the future is
    /// small; only the way to a new connection is boxed.
    pub(crate) fn send_http2<'a>(
        self: &'a Rc<Self>,
        permit: &'a Permit,
        caller: Caller<'_>,
        request: Request,
    ) -> impl Future<Output = Result<Answer, Failed>> + use<'a> {
        let own = match (caller, &self.endpoint.identity) {
            (Some((callers, number)), None) => Some(callers.streams(number, &self.connections, &self.table)),
            _ => None,
        };
        let streams = own.as_ref().unwrap_or(&self.connections.http2);
        match streams.ready(self.generation(), || self.dialer(permit)) {
            Some((half, sender)) => Either::Left(http2::send(half, sender, request, &self.resources.background)),
            None => Either::Right(Box::pin(self.send_when_connected(permit, streams.clone(), request))),
        }
    }

    async fn send_when_connected(
        self: &Rc<Self>,
        permit: &Permit,
        streams: Rc<Streams>,
        request: Request,
    ) -> Result<Answer, Failed> {
        match streams.enter(&self.dialer(permit)).await {
            Ok((half, sender)) => {
                let sent = Some(Instant::now());
                let answered = http2::send(half, sender, request, &self.resources.background).await;
                answered.map(|answer| Answer { sent, ..answer })
            }
            Err(reason) => Err(Failed::unsent(reason, request)),
        }
    }

    /// Sends, `now` or a moment ago, over an idle HTTP/1 connection or a new one. Dropping the future closes the
    /// connection.
    pub(crate) fn send_http1<'a>(
        self: &'a Rc<Self>,
        permit: &'a Permit,
        now: Instant,
        request: Request,
    ) -> impl Future<Output = Result<Answer, Failed>> + use<'a> {
        match self.connections.http1.take(now, request.method()) {
            Some(mut connection) => {
                let sent = connection.send(request);
                Either::Left(sent.map(move |sent| self.answered1(sent, connection, true)))
            }
            None => Either::Right(Box::pin(async move {
                match self.open_http1(permit).await {
                    Ok(mut connection) => {
                        let began = Some(Instant::now());
                        let sent = connection.send(request).await;
                        self.answered1(sent, connection, false).map(|answer| Answer { sent: began, ..answer })
                    }
                    Err(error) => Err(Failed::unsent(error.reason(), request)),
                }
            })),
        }
    }

    fn answered1(&self, sent: http1::Sent, connection: http1::Http1, reused: bool) -> Result<Answer, Failed> {
        let mut response = sent.map_err(|error| failed(error, reused, &connection))?;
        connection.answered(response.version());
        if let Err(error) = answer::check(&mut response) {
            remora_runtime::limited!(info, address = %self.endpoint.address, %error, "answer refused");
            return Err(Failed::new(Reason::UpstreamReset));
        }
        if !within_bounds(response.headers()) {
            return Err(Failed::new(Reason::ResponseHeaderTooLarge));
        }
        let lease = Lease(Leased::Kept(self.connections.clone(), connection));
        Ok(Answer { response: response.map(AnswerBody::from), lease: Some(lease), sent: None })
    }

    /// A place for one more connection.
    fn place(&self) -> Result<Place, ConnectError> {
        let places = &self.connections.places;
        // One that is kept for a next request makes room.
        let place = places.take().or_else(|| self.connections.http1.drop_one().then(|| places.take())?);
        place.ok_or(ConnectError::Full { address: self.endpoint.address, most: places.most() })
    }

    async fn open_http1(&self, permit: &Permit) -> Result<http1::Http1, ConnectError> {
        let (address, place) = (self.endpoint.address, self.place()?);
        let stream = connect::tcp(permit, address, self.dialing.connect_timeout).await?;
        let ((stream, socket), allowance) = (Watched::new(stream), Allowance::default());
        let (sender, connection) = hyper_http1::Builder::new()
            .max_buf_size(limits::HTTP1_BUFFER_BYTES)
            .handshake(TokioIo::new(Frugal::new(stream, allowance.clone()).sparing(self.resources.account.clone())))
            .await
            .map_err(|source| ConnectError::Io { address, source: io::Error::other(source) })?;
        self.resources.background.spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%address, %error, "HTTP/1 connection upstream ended");
            }
        });
        Ok(http1::Http1::new(sender, allowance, socket, place))
    }

    /// Drops connections that were idle for too long, unless they are shared.
    pub(crate) fn sweep(&self) {
        self.connections.http1.sweep();
    }

    /// Whether a request would have to wait until the peer is connected to.
    pub(crate) fn is_away(&self) -> bool {
        self.endpoint.identity.is_some() && self.connections.http2.is_away()
    }

    /// Finds out beside the requests whether the peer can be connected to again, so that none of them waits for one that
    /// may still be a black hole.
    pub(crate) fn probe(self: &Rc<Self>, permit: &Permit, in_flight: InFlight) {
        let (this, dialer) = (self.clone(), self.dialer(permit));
        self.resources.background.spawn(async move {
            let began = Instant::now();
            let outcome = match this.connections.http2.enter(&dialer).await {
                Ok(_) => Some(Outcome::Success),
                Err(reason) => outcome::of(reason),
            };
            let now = Instant::now();
            if let Some(outcome) = outcome {
                in_flight.record(now, now - began, outcome);
            }
        });
    }

    fn generation(&self) -> u64 {
        if self.endpoint.identity.is_some() { self.resources.tls.generation() } else { 0 }
    }

    fn dialer(self: &Rc<Self>, permit: &Permit) -> Dialer {
        Dialer { upstream: self.clone(), permit: Rc::new(permit.of_shared_connection()) }
    }

    async fn open_http2(&self, permit: &Permit, streams: &Rc<Streams>, generation: u64) -> Result<(), ConnectError> {
        let address = self.endpoint.address;
        if self.endpoint.identity.is_some() && !self.table.make_room() {
            return Err(ConnectError::Busy { address });
        }
        let place = self.place()?;
        let added = match self.mesh(permit, tls::Alpn::MeshHttp).await? {
            Some(stream) => {
                let retire = stream.retire();
                streams.add((stream, address, place), generation, retire, &self.resources.background).await
            }
            None => {
                let stream = connect::tcp(permit, address, self.dialing.connect_timeout).await?;
                let stream = Patient::new(stream, self.resources.config.patience.body);
                streams.add((stream, address, place), generation, None, &self.resources.background).await
            }
        };
        added.map_err(|source| ConnectError::Io { address, source: io::Error::other(source) })
    }

    /// Mesh TLS to the endpoint's proxy, with the wanted destination named where nothing redirects. `None`: the
    /// endpoint is not in the mesh. It never falls back from one to the other.
    pub(crate) async fn mesh(
        &self,
        permit: &Permit,
        alpn: tls::Alpn,
    ) -> Result<Option<tls::ClientStream>, ConnectError> {
        let Some(expected) = &self.endpoint.identity else { return Ok(None) };
        let proxy = self.endpoint.proxy.or_else(|| self.resources.config.own_proxy(&self.endpoint.pod));
        let address = proxy.unwrap_or(self.endpoint.address);
        let stream = connect::tcp(permit, address, self.dialing.connect_timeout).await?;
        let mut stream = self.resources.tls.originate(stream, address, expected, alpn).await?;
        if proxy.is_some() {
            connect::name_destination(&mut stream, &self.endpoint)
                .await
                .map_err(|source| ConnectError::Io { address, source })?;
        }
        Ok(Some(stream))
    }

    /// Bytes to the endpoint, through its proxy if it has one.
    pub(crate) async fn bytes(&self, permit: &Permit) -> Result<ByteStream, ConnectError> {
        self.stream(permit, tls::Alpn::MeshTcp).await
    }

    /// A connection for one request that may leave HTTP, through its proxy if it has one: which need not wait to see what it is, nor ask
    /// the server whether it speaks first.
    pub(crate) async fn upgradable(&self, permit: &Permit) -> Result<ByteStream, ConnectError> {
        self.stream(permit, tls::Alpn::MeshHttp1).await
    }

    async fn stream(&self, permit: &Permit, alpn: tls::Alpn) -> Result<ByteStream, ConnectError> {
        let place = self.place()?;
        let way = match self.mesh(permit, alpn).await? {
            Some(stream) => Way::Mesh(Box::new(stream)),
            None => Way::Plain(connect::tcp(permit, self.endpoint.address, self.dialing.connect_timeout).await?),
        };
        Ok(ByteStream::new(way, place))
    }
}

/// How HTTP/2 connections to an upstream are made.
#[derive(Clone)]
struct Dialer {
    upstream: Rc<Upstream>,
    permit: Rc<Permit>,
}

impl Dial for Dialer {
    fn generation(&self) -> u64 {
        self.upstream.generation()
    }

    async fn dial(&self, streams: &Rc<Streams>, generation: u64) -> Result<(), Reason> {
        let opened = self.upstream.open_http2(&self.permit, streams, generation).await;
        opened.map_err(|error| {
            let endpoint = &self.upstream.endpoint;
            remora_runtime::limited!(info, endpoint = %endpoint.address, pod = %endpoint.pod, %error, cause = error.cause(),
                "cannot connect");
            error.reason()
        })
    }

    fn runs_on(&self) -> &Tasks {
        &self.upstream.resources.background
    }
}

/// Whose fault it is that an HTTP/1 request has no answer: the server's, its client's, or that of the memory there is.
pub(crate) fn reason(error: &hyper::Error) -> Reason {
    if error.is_timeout() {
        return Reason::ConnectTimeout;
    }
    let source = std::error::Error::source(error);
    let body = source.and_then(|source| source.downcast_ref::<RequestError>());
    let io = source.and_then(|source| source.downcast_ref::<io::Error>());
    match (body, io) {
        (Some(error), _) => error.reason(),
        _ if error.is_parse_too_large() => Reason::ResponseHeaderTooLarge,
        (_, Some(io)) => of_io(io),
        _ => Reason::UpstreamReset,
    }
}

/// The same of what the connection says.
fn of_io(error: &io::Error) -> Reason {
    match error.kind() {
        _ if answer::is_endless(error) => Reason::ResponseHeaderTooLarge,
        // Said by TLS. With TLS 1.3 a client is done with the handshake before its peer has judged its certificate: the alert comes in place of an answer.
        io::ErrorKind::InvalidData => Reason::TlsRefused,
        io::ErrorKind::OutOfMemory => Reason::Overloaded,
        _ if tls::is_untrusted(error) => Reason::PolicyChanged,
        _ => Reason::UpstreamReset,
    }
}

/// What became of an HTTP/1 request that has no answer.
fn failed(mut error: TrySendError<Request>, reused: bool, connection: &http1::Http1) -> Failed {
    let unsent = error.take_message().map(Box::new);
    if unsent.is_none() && connection.missed() {
        return Failed::unprocessed(Reason::Draining);
    }
    let reason = reason(error.error());
    Failed { stale: reused && unsent.is_some(), unsent, ..Failed::new(reason) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_that_fails_says_whose_fault_it_is() {
        // As rustls passes on what the peer says of a certificate that it does not take.
        let alert = io::Error::new(io::ErrorKind::InvalidData, "received fatal alert: CertificateUnknown");
        for (error, reason) in [
            (alert, Reason::TlsRefused),
            (answer::endless(), Reason::ResponseHeaderTooLarge),
            (io::ErrorKind::OutOfMemory.into(), Reason::Overloaded),
            (io::ErrorKind::PermissionDenied.into(), Reason::PolicyChanged),
            (io::ErrorKind::ConnectionReset.into(), Reason::UpstreamReset),
        ] {
            assert_eq!(of_io(&error), reason, "{error}");
        }
    }
}
