//! gRPC of the control plane over mesh TLS: channels to call with, incoming connections to serve.
//!
//! Both sides take their TLS configuration per connection from a closure, so that new certificates and anchors hold
//! from the next connection on, with no restart. Each side ends a connection when the certificate that it was shown ends:
//! streams reconnect by themselves.

use crate::{
    dated::{Dated, Span},
    slots::{Slot, Slots},
    tls::{self, ClientConfig, Failure, ServerConfig, server_name},
};
use futures_util::stream::{FuturesUnordered, Stream, StreamExt as _, unfold};
use hyper_util::rt::TokioIo;
use remora_model::SpiffeId;
use std::{
    fmt,
    future::Future,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, SystemTime},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    time::{sleep, timeout},
};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tonic::transport::{Channel, Endpoint, Uri, server::Connected};

/// TCP connect and TLS handshake together. A control plane in the same cluster answers in milliseconds.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How often an open connection is probed: a peer that vanished without a word is noticed within the sum of these two.
pub const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// How long a probe may stay unanswered.
pub const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// What may be on its way to a client that reads nothing. The library's own 2 MB would be old news by the time it reads.
pub const WINDOW_BYTES: u32 = 64 * 1024;
/// A client that connects and says nothing is dropped after this.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Handshakes going on at once per listener; further connections wait in the kernel's backlog. One address can have half
/// of them ([`PER_ADDRESS_MAX`]).
pub const HANDSHAKES_MAX: usize = 512;
/// Connections open at once per listener: a large cluster's proxies have one or two each.
pub const CONNECTIONS_MAX: usize = 16_384;
/// Of these from one address, which is one pod, or one machine's proxies where there are no pods.
pub const PER_ADDRESS_MAX: usize = 256;
/// Pause after a failed `accept`, which usually means that we are out of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How an open channel is probed: a peer that vanished without a word is noticed within the sum of the two.
#[derive(Debug, Clone, Copy)]
pub struct KeepAlive {
    /// How long nothing may come before the peer is probed.
    pub interval: Duration,
    /// How long the probe may stay unanswered.
    pub timeout: Duration,
}

impl KeepAlive {
    /// For channels whose responses no caller waits for.
    pub const SELDOM: Self = Self { interval: KEEP_ALIVE_INTERVAL, timeout: KEEP_ALIVE_TIMEOUT };
}

/// Why a connection could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// There is nothing to connect with yet.
    #[error("cannot connect to {addr}: {reason}")]
    Unready {
        /// Where to.
        addr: String,
        /// What is missing.
        reason: String,
    },
    /// TCP connect failed.
    #[error("cannot connect to {addr}")]
    Connect {
        /// Where to.
        addr: String,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The TLS handshake failed.
    #[error("tls handshake with {addr} failed")]
    Handshake {
        /// Where to.
        addr: String,
        /// What rustls says; [`Failure`] says whether and why this side refused the peer.
        #[source]
        source: io::Error,
    },
    /// Neither was done within [`CONNECT_TIMEOUT`].
    #[error("connecting to {addr} took longer than {CONNECT_TIMEOUT:?}")]
    Timeout {
        /// Where to.
        addr: String,
    },
}

/// A channel to `addr` (`host:port`) that connects lazily, and reconnects by itself with whatever `config` then gives.
pub fn mtls_channel<F, E>(addr: &str, config: F) -> Result<Channel, tonic::transport::Error>
where
    F: Fn() -> Result<Arc<ClientConfig>, E> + Clone + Send + Sync + 'static,
    E: fmt::Display,
{
    Ok(mtls_channel_over(&endpoint(addr, KeepAlive::SELDOM)?, config))
}

/// The same to an [`endpoint`], which can have several: each channel has a connection of its own.
pub fn mtls_channel_over<F, E>(endpoint: &Endpoint, config: F) -> Channel
where
    F: Fn() -> Result<Arc<ClientConfig>, E> + Clone + Send + Sync + 'static,
    E: fmt::Display,
{
    let addr: Arc<str> = endpoint.uri().authority().map_or("", |authority| authority.as_str()).into();
    endpoint.connect_with_connector_lazy(tower::service_fn(move |_: Uri| {
        let addr = Arc::clone(&addr);
        let config = config().map_err(|e| DialError::Unready { addr: addr.to_string(), reason: e.to_string() });
        async move { dial(&addr, config?).await.map(TokioIo::new) }
    }))
}

/// How channels to `addr` (`host:port`) are kept.
pub fn endpoint(addr: &str, keep_alive: KeepAlive) -> Result<Endpoint, tonic::transport::Error> {
    let endpoint = Endpoint::from_shared(format!("http://{addr}"))?;
    Ok(endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .initial_stream_window_size(WINDOW_BYTES)
        .http2_keep_alive_interval(keep_alive.interval)
        .keep_alive_timeout(keep_alive.timeout)
        .keep_alive_while_idle(true))
}

/// A connection to the control plane.
pub type ClientIo = Dated<tokio_rustls::client::TlsStream<TcpStream>>;

/// Opens one TLS connection.
///
/// Cancel-safe: dropping the future closes what was opened.
pub async fn dial(addr: &str, config: Arc<ClientConfig>) -> Result<ClientIo, DialError> {
    let named = || addr.to_owned();
    let connect = async {
        let tcp = TcpStream::connect(addr).await.map_err(|source| DialError::Connect { addr: named(), source })?;
        tcp.set_nodelay(true).map_err(|source| DialError::Connect { addr: named(), source })?;
        let io = TlsConnector::from(config).connect(server_name(), tcp).await;
        let io = io.map_err(|source| DialError::Handshake { addr: named(), source })?;
        let span = span(tls::peer(io.get_ref().1).as_ref());
        Ok(Dated::new(io, span, told))
    };
    timeout(CONNECT_TIMEOUT, connect).await.map_err(|_| DialError::Timeout { addr: named() })?
}

/// Who is at the other end of a served connection; tonic puts it into each request's extensions.
#[derive(Debug, Clone)]
pub struct Peer {
    /// Its address.
    pub addr: SocketAddr,
    /// Its identity, if the configuration asked for one.
    pub id: Option<SpiffeId>,
}

/// An accepted TLS connection that knows its [`Peer`].
#[derive(Debug)]
pub struct TlsIo {
    io: Dated<tokio_rustls::server::TlsStream<TcpStream>>,
    peer: Peer,
    _slot: Slot,
}

fn told() {
    tracing::debug!("a connection of the control plane ends with its certificate");
}

fn span(peer: Option<&tls::Peer>) -> Option<Span> {
    let span = Span::new(SystemTime::now(), peer.map(|peer| peer.not_after), fastrand::f64());
    // Its streams are as long as the connection.
    span.map(|span| span.ending_early(fastrand::f64()))
}

/// Accepts connections and shakes hands, up to [`HANDSHAKES_MAX`] at once; yields the finished ones. Turns away what is
/// beyond [`CONNECTIONS_MAX`] or [`PER_ADDRESS_MAX`].
///
/// A failed handshake is logged and counted with its reason, and never ends the stream.
pub fn tls_incoming<F>(listener: TcpListener, config: F) -> impl Stream<Item = Result<TlsIo, io::Error>> + Send
where
    F: Fn() -> Arc<ServerConfig> + Send + Sync + 'static,
{
    let slots = Slots::new(CONNECTIONS_MAX, PER_ADDRESS_MAX);
    let accepting = Accepting { listener, config, slots, handshakes: FuturesUnordered::new() };
    unfold(accepting, |mut accepting| async move {
        let io = accepting.next().await;
        Some((Ok(io), accepting))
    })
}

type Handshake = Pin<Box<dyn Future<Output = Option<TlsIo>> + Send>>;

struct Accepting<F> {
    listener: TcpListener,
    config: F,
    slots: Slots,
    handshakes: FuturesUnordered<Handshake>,
}

impl<F: Fn() -> Arc<ServerConfig>> Accepting<F> {
    async fn next(&mut self) -> TlsIo {
        loop {
            tokio::select! {
                Some(done) = self.handshakes.next() => {
                    if let Some(io) = done {
                        return io;
                    }
                }
                accepted = self.listener.accept(), if self.handshakes.len() < HANDSHAKES_MAX => match accepted {
                    Ok((tcp, addr)) => match self.slots.take(addr.ip()) {
                        Ok(slot) => self.handshakes.push(Box::pin(shake(tcp, addr, slot, (self.config)()))),
                        Err(full) => {
                            tracing::debug!(%addr, reason = "overloaded", %full, "connection refused");
                            count("overloaded");
                        }
                    },
                    Err(error) => {
                        crate::limited!(warn, %error, "cannot accept a connection; pausing");
                        sleep(ACCEPT_PAUSE).await;
                    }
                },
            }
        }
    }
}

async fn shake(tcp: TcpStream, addr: SocketAddr, slot: Slot, config: Arc<ServerConfig>) -> Option<TlsIo> {
    if let Err(error) = tcp.set_nodelay(true) {
        tracing::debug!(%addr, %error, "peer closed before the handshake");
        return None;
    }
    let reason = match timeout(HANDSHAKE_TIMEOUT, TlsAcceptor::from(config).accept(tcp)).await {
        Ok(Ok(io)) => {
            let peer = tls::peer(io.get_ref().1);
            let io = Dated::new(io, span(peer.as_ref()), told);
            return Some(TlsIo { io, peer: Peer { addr, id: peer.map(|peer| peer.id) }, _slot: slot });
        }
        Ok(Err(error)) => {
            let reason = Failure::of(&error).reason();
            crate::limited!(info by reason, %addr, reason, %error, "tls handshake failed");
            reason
        }
        Err(_) => {
            crate::limited!(info, %addr, reason = "timeout", "tls handshake timed out");
            "timeout"
        }
    };
    count(reason);
    None
}

fn count(reason: &'static str) {
    metrics::counter!("remora_control_handshake_failures_total", "reason" => reason).increment(1);
}

impl Connected for TlsIo {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for TlsIo {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for TlsIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use hyper_util::rt::{TokioExecutor, TokioTimer};
    use remora_api::v1::{WatchBundleRequest, identity_client::IdentityClient};
    use tokio::{
        io::{DuplexStream, copy_bidirectional, duplex},
        sync::Notify,
        time::Instant,
    };

    use super::*;

    /// Opens any stream, and never says a word on it.
    async fn say_nothing(io: DuplexStream) {
        let answer = |_| async {
            let body = axum::body::Body::from_stream(futures_util::stream::pending::<Result<Vec<u8>, io::Error>>());
            let response = http::Response::builder().header("content-type", "application/grpc").body(body);
            Ok::<_, std::convert::Infallible>(response.unwrap())
        };
        let service = hyper::service::service_fn(answer);
        let mut http = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        http.timer(TokioTimer::new());
        drop(http.serve_connection(TokioIo::new(io), service).await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_vanishes_without_a_word_is_noticed_and_one_that_is_silent_is_not_taken_for_it() {
        let keep_alive = KeepAlive { interval: Duration::from_secs(2), timeout: Duration::from_millis(1500) };
        let vanishes = Arc::new(Notify::new());
        let wire = Arc::clone(&vanishes);
        let connector = tower::service_fn(move |_: Uri| {
            let ((ours, mut near), (mut far, theirs), cut) = (duplex(65_536), duplex(65_536), Arc::clone(&wire));
            tokio::spawn(say_nothing(theirs));
            tokio::spawn(async move {
                tokio::select! {
                    _ = copy_bidirectional(&mut near, &mut far) => {}
                    () = cut.notified() => std::future::pending().await,
                }
            });
            async { Ok::<_, io::Error>(TokioIo::new(ours)) }
        });
        let channel = endpoint("peer:1", keep_alive).unwrap().connect_with_connector_lazy(connector);
        let mut stream =
            IdentityClient::new(channel).watch_bundle(WatchBundleRequest::default()).await.unwrap().into_inner();
        assert!(timeout(Duration::from_secs(3600), stream.message()).await.is_err(), "silent for an hour, and there");
        vanishes.notify_one();
        let vanished = Instant::now();
        assert!(stream.message().await.is_err());
        let noticed = vanished.elapsed();
        assert!(noticed <= keep_alive.interval + keep_alive.timeout + Duration::from_millis(100), "{noticed:?}");
    }
}
