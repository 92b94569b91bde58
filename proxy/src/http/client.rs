//! HTTP to one endpoint: one HTTP/2 connection for everything where the peer is in the mesh, a pool of HTTP/1
//! connections where it is not.

use super::{
    LocalExec,
    answer::{self, Allowance, Allowed},
    body::RequestBody,
    timer::Timer,
    tries::outcome_of,
};
use crate::{
    balance::{InFlight, Outcome},
    connect::{self, ConnectError},
    io::Abort,
    limits,
    policy::Permit,
    telemetry::Reason,
    tls,
    worker::World,
};
use futures_util::{FutureExt, future::Either};
use hyper::{
    body::Incoming,
    client::conn::{TrySendError, http1, http2},
};
use hyper_util::rt::TokioIo;
use remora_model::Endpoint;
use remora_runtime::seldom::Seldom;
use std::{
    cell::RefCell,
    fmt,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
    time::{Duration, Instant},
};
use tokio::sync::watch;

type SendHttp1 = http1::SendRequest<RequestBody>;
type H2 = http2::SendRequest<RequestBody>;
type Request = http::Request<RequestBody>;
type Sent = Result<http::Response<Incoming>, TrySendError<Request>>;

/// Connections that were just given back are looked past, in search of a ready one.
const NOT_READY_MAX: usize = 8;

/// One endpoint with the connections that this worker has to it.
pub struct Upstream {
    pub endpoint: Endpoint,
    connect_timeout: Duration,
    h2: RefCell<Shared>,
    h1: RefCell<Vec<(Http1, Instant)>>,
}

/// An HTTP/1 connection, for one request at a time.
#[derive(Debug)]
pub struct Http1 {
    sender: SendHttp1,
    allowance: Allowance,
}

impl Http1 {
    fn send(&mut self, request: Request) -> impl Future<Output = Sent> + use<> {
        self.allowance.head();
        self.sender.try_send_request(request)
    }
}

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upstream").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

/// The HTTP/2 connection that all requests share.
enum Shared {
    Idle,
    Connecting(watch::Receiver<Option<Result<(), Reason>>>),
    /// With the credentials' generation it was made under: after a renewal, new requests get a new connection, so that
    /// none outlives its certificate by more than its own last request.
    Ready(H2, u64),
}

/// A try that failed before a response head.
#[derive(Debug)]
pub struct Failed {
    pub reason: Reason,
    /// The request, if not a byte of it was sent.
    pub unsent: Option<Box<Request>>,
    /// The connection had closed while it was kept: nobody's failure, and no try of the request.
    pub stale: bool,
}

/// A response, and the HTTP/1 connection to give back once its body ended.
pub struct Answer {
    pub response: http::Response<Incoming>,
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
pub struct Lease {
    upstream: Rc<Upstream>,
    connection: Http1,
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease").field("upstream", &self.upstream).finish_non_exhaustive()
    }
}

impl Lease {
    /// Gives the connection back, once its response was read to the end.
    pub fn give_back(self, now: Instant) {
        self.upstream.keep(self.connection, now);
    }
}

impl Upstream {
    /// An endpoint without connections.
    pub fn new(endpoint: Endpoint, connect_timeout: Duration) -> Rc<Self> {
        Rc::new(Self { endpoint, connect_timeout, h2: RefCell::new(Shared::Idle), h1: RefCell::default() })
    }

    /// Sends over HTTP/2. Dropping the future resets the stream.
    ///
    /// On a connection that is ready, which is nearly always, the request is handed over at once and the future is
    /// small; only the way to a new connection is boxed.
    pub fn send_http2<'a>(
        self: &'a Rc<Self>,
        world: &'a Rc<World>,
        permit: &'a Permit,
        request: Request,
    ) -> impl Future<Output = Result<Answer, Failed>> + use<'a> {
        match self.ready_http2(world) {
            Some(mut connection) => {
                Either::Left(connection.try_send_request(request).map(|sent| answered2(sent, true)))
            }
            None => Either::Right(Box::pin(async move {
                match self.http2(world, permit).await {
                    Ok(mut connection) => {
                        let sent = Some(Instant::now());
                        let answered = answered2(connection.try_send_request(request).await, false);
                        answered.map(|answer| Answer { sent, ..answer })
                    }
                    Err(reason) => Err(Failed { reason, unsent: Some(Box::new(request)), stale: false }),
                }
            })),
        }
    }

    /// Sends, `now` or a moment ago, over an idle HTTP/1 connection or a new one. Dropping the future closes the
    /// connection.
    pub fn send_http1<'a>(
        self: &'a Rc<Self>,
        world: &'a Rc<World>,
        permit: &'a Permit,
        now: Instant,
        request: Request,
    ) -> impl Future<Output = Result<Answer, Failed>> + use<'a> {
        match self.idle_http1(now) {
            Some(mut connection) => {
                let sent = connection.send(request);
                Either::Left(sent.map(move |sent| self.answered1(sent, connection, true)))
            }
            None => Either::Right(Box::pin(async move {
                match self.open_http1(world, permit).await {
                    Ok(mut connection) => {
                        let began = Some(Instant::now());
                        let sent = connection.send(request).await;
                        self.answered1(sent, connection, false).map(|answer| Answer { sent: began, ..answer })
                    }
                    Err(error) => Err(Failed { reason: error.reason(), unsent: Some(Box::new(request)), stale: false }),
                }
            })),
        }
    }

    fn answered1(self: &Rc<Self>, sent: Sent, connection: Http1, reused: bool) -> Result<Answer, Failed> {
        let mut response = sent.map_err(|error| failed(error, reused))?;
        connection.allowance.body();
        if let Err(error) = answer::check(&mut response) {
            tracing::info!(address = %self.endpoint.address, %error, "answer refused");
            return Err(Failed { reason: Reason::UpstreamReset, unsent: None, stale: false });
        }
        Ok(Answer { response, lease: Some(Lease { upstream: self.clone(), connection }), sent: None })
    }

    fn keep(&self, connection: Http1, now: Instant) {
        let mut idle = self.h1.borrow_mut();
        if idle.len() < limits::IDLE_CONNECTIONS_MAX && !connection.sender.is_closed() {
            idle.push((connection, now));
        }
    }

    /// The connection that was used last, among those that can take a request.
    fn idle_http1(&self, now: Instant) -> Option<Http1> {
        let mut idle = self.h1.borrow_mut();
        // The youngest is last; behind the first one that is too old, all are.
        if now.saturating_duration_since(idle.last()?.1) > limits::IDLE_TIMEOUT {
            idle.clear();
            return None;
        }
        // One given back a moment ago may not be ready before its task has run; a few of those at most are passed over.
        let mut at = idle.len();
        let mut passed_over = 0;
        while at > 0 && passed_over < NOT_READY_MAX {
            at -= 1;
            let connection = &idle[at].0;
            if connection.sender.is_ready() {
                return Some(idle.remove(at).0);
            }
            if connection.sender.is_closed() {
                idle.remove(at);
            } else {
                passed_over += 1;
            }
        }
        None
    }

    /// Drops connections that were idle for too long.
    pub fn sweep(&self) {
        self.h1
            .borrow_mut()
            .retain(|(connection, since)| !connection.sender.is_closed() && since.elapsed() < limits::IDLE_TIMEOUT);
    }

    async fn open_http1(&self, world: &Rc<World>, permit: &Permit) -> Result<Http1, ConnectError> {
        let address = self.endpoint.address;
        let stream = connect::tcp(permit, address, self.connect_timeout).await?;
        let allowance = Allowance::default();
        let (sender, connection) = http1::Builder::new()
            .max_buf_size(limits::HEADER_BYTES_MAX + 8192)
            .max_headers(limits::HEADER_COUNT_MAX)
            .handshake(TokioIo::new(Allowed::new(stream, allowance.clone())))
            .await
            .map_err(|source| ConnectError::Io { address, source: std::io::Error::other(source) })?;
        world.background.spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%address, %error, "HTTP/1 connection upstream ended");
            }
        });
        Ok(Http1 { sender, allowance })
    }

    fn ready_http2(&self, world: &World) -> Option<H2> {
        match &*self.h2.borrow() {
            Shared::Ready(h2, generation) if !h2.is_closed() && *generation == self.generation(world) => {
                Some(h2.clone())
            }
            _ => None,
        }
    }

    /// Whether a request would have to wait until the peer is connected to.
    pub fn is_away(&self, world: &World) -> bool {
        self.endpoint.identity.is_some() && self.ready_http2(world).is_none()
    }

    /// Finds out beside the requests whether the peer can be connected to again, so that none of them waits for one that
    /// may still be a black hole.
    pub fn probe(self: &Rc<Self>, world: &Rc<World>, in_flight: InFlight) {
        let (this, world) = (self.clone(), world.clone());
        world.clone().background.spawn(async move {
            let began = Instant::now();
            let outcome = match this.http2(&world, &crate::policy::outbound()).await {
                Ok(_) => Some(Outcome::Success),
                Err(reason) => outcome_of(reason),
            };
            let now = Instant::now();
            if let Some(outcome) = outcome {
                in_flight.record(now, now - began, outcome);
            }
        });
    }

    async fn http2(self: &Rc<Self>, world: &Rc<World>, permit: &Permit) -> Result<H2, Reason> {
        loop {
            if let Some(h2) = self.ready_http2(world) {
                return Ok(h2);
            }
            let mut waiting = match &*self.h2.borrow() {
                Shared::Connecting(result) => Some(result.clone()),
                _ => None,
            };
            let result = match &mut waiting {
                Some(result) => result,
                None => waiting.insert(self.connect_http2(world, permit)),
            };
            match result.wait_for(Option::is_some).await.map(|result| *result) {
                Ok(Some(Err(reason))) => return Err(reason),
                Ok(_) => {}
                Err(_) => return Err(Reason::Internal),
            }
        }
    }

    fn generation(&self, world: &World) -> u64 {
        if self.endpoint.identity.is_some() { world.tls.generation() } else { 0 }
    }

    /// Connects in a task of its own, so that a caller who gives up takes nothing from the others who wait.
    fn connect_http2(
        self: &Rc<Self>,
        world: &Rc<World>,
        _permit: &Permit,
    ) -> watch::Receiver<Option<Result<(), Reason>>> {
        let (tell, told) = watch::channel(None);
        *self.h2.borrow_mut() = Shared::Connecting(told.clone());
        let (this, world) = (self.clone(), world.clone());
        let permit = crate::policy::outbound();
        world.clone().background.spawn(async move {
            let generation = this.generation(&world);
            let result = match this.open_http2(&world, &permit, generation).await {
                Ok(h2) => {
                    *this.h2.borrow_mut() = Shared::Ready(h2, generation);
                    Ok(())
                }
                Err(error) => {
                    tracing::info!(endpoint = %this.endpoint.address, pod = %this.endpoint.pod, %error,
                        cause = error.cause(), "cannot connect");
                    *this.h2.borrow_mut() = Shared::Idle;
                    Err(error.reason())
                }
            };
            tell.send_replace(Some(result));
        });
        told
    }

    async fn open_http2(
        self: &Rc<Self>,
        world: &Rc<World>,
        permit: &Permit,
        generation: u64,
    ) -> Result<H2, ConnectError> {
        let address = self.endpoint.address;
        let handshake_failed =
            |source: hyper::Error| ConnectError::Io { address, source: std::io::Error::other(source) };
        let mut builder = http2::Builder::new(LocalExec(world.background.clone()));
        builder
            .timer(Timer)
            .initial_stream_window_size(limits::STREAM_WINDOW_BYTES)
            .initial_connection_window_size(limits::CONNECTION_WINDOW_BYTES)
            .max_header_list_size(limits::HEADER_BYTES_MAX as u32)
            .max_send_buf_size(limits::SEND_BUFFER_BYTES);
        match self.mesh(world, permit, tls::Alpn::MeshHttp).await? {
            Some(stream) => {
                // Proxies only: gRPC servers take PING this often for abuse and close the connection (ENHANCE_YOUR_CALM).
                builder.keep_alive_interval(limits::KEEP_ALIVE_INTERVAL).keep_alive_timeout(limits::KEEP_ALIVE_TIMEOUT);
                let retire = self.retire(generation, stream.retire());
                let (sender, connection) = builder.handshake(TokioIo::new(stream)).await.map_err(handshake_failed)?;
                world.background.spawn(run(address, connection, retire));
                Ok(sender)
            }
            None => {
                let stream = connect::tcp(permit, address, self.connect_timeout).await?;
                let (sender, connection) = builder.handshake(TokioIo::new(stream)).await.map_err(handshake_failed)?;
                world.background.spawn(run(address, connection, std::future::pending()));
                Ok(sender)
            }
        }
    }

    /// Takes the connection of this generation out of use before its certificates end; what is under way on it finishes.
    fn retire(
        self: &Rc<Self>,
        generation: u64,
        at: Option<tokio::time::Instant>,
    ) -> impl Future<Output = ()> + 'static {
        let this = Rc::downgrade(self);
        async move {
            match at {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
            let Some(this) = this.upgrade() else { return };
            let mut shared = this.h2.borrow_mut();
            if matches!(&*shared, Shared::Ready(_, of) if *of == generation) {
                *shared = Shared::Idle;
            }
        }
    }

    /// Mesh TLS to the endpoint's proxy, with the wanted destination named where nothing redirects. `None`: the
    /// endpoint is not in the mesh. It never falls back from one to the other.
    pub async fn mesh(
        &self,
        world: &Rc<World>,
        permit: &Permit,
        alpn: tls::Alpn,
    ) -> Result<Option<tls::ClientStream>, ConnectError> {
        let Some(expected) = &self.endpoint.identity else { return Ok(None) };
        let proxy = self.endpoint.proxy.or_else(|| world.config.own_proxy(&self.endpoint.pod));
        let address = proxy.unwrap_or(self.endpoint.address);
        let stream = connect::tcp(permit, address, self.connect_timeout).await?;
        let mut stream = world.tls.originate(stream, address, expected, alpn).await?;
        if proxy.is_some() {
            connect::name_destination(&mut stream, &self.endpoint)
                .await
                .map_err(|source| ConnectError::Io { address, source })?;
        }
        Ok(Some(stream))
    }

    /// Bytes to the endpoint, through its proxy if it has one.
    pub async fn bytes(&self, world: &Rc<World>, permit: &Permit) -> Result<ByteStream, ConnectError> {
        match self.mesh(world, permit, tls::Alpn::MeshTcp).await? {
            Some(stream) => Ok(ByteStream::Mesh(Box::new(stream))),
            None => Ok(ByteStream::Plain(connect::tcp(permit, self.endpoint.address, self.connect_timeout).await?)),
        }
    }
}

/// A byte connection upstream.
#[derive(Debug)]
pub enum ByteStream {
    Plain(tokio::net::TcpStream),
    Mesh(Box<tls::ClientStream>),
}

/// Drives a connection to its end, past the moment when it was retired.
async fn run<C: Future<Output = hyper::Result<()>>>(
    address: std::net::SocketAddr,
    connection: C,
    retire: impl Future<Output = ()>,
) {
    let mut connection = std::pin::pin!(connection);
    let retire = Seldom::new(retire);
    let done = tokio::select! {
        biased;
        done = connection.as_mut() => done,
        () = retire => connection.await,
    };
    if let Err(error) = done {
        tracing::debug!(%address, %error, "HTTP/2 connection upstream ended");
    }
}

fn answered2(sent: Sent, reused: bool) -> Result<Answer, Failed> {
    sent.map(|response| Answer { response, lease: None, sent: None }).map_err(|error| failed(error, reused))
}

fn failed(mut error: TrySendError<Request>, reused: bool) -> Failed {
    let unsent = error.take_message().map(Box::new);
    let reason = if error.error().is_timeout() { Reason::ConnectTimeout } else { Reason::UpstreamReset };
    Failed { reason, stale: reused && unsent.is_some(), unsent }
}

impl Abort for ByteStream {
    fn abort(&self) {
        match self {
            Self::Plain(stream) => stream.abort(),
            Self::Mesh(stream) => stream.abort(),
        }
    }
}

impl tokio::io::AsyncRead for ByteStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut tokio::io::ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Mesh(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl tokio::io::AsyncWrite for ByteStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Mesh(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Mesh(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Mesh(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
