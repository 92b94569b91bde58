//! Stage 3 of 8: the wait for the first bytes. In: a connection, and how to open the one upstream. Out: the protocol,
//! or the upstream connection that was opened meanwhile. Never stalls a connection whose server speaks first.

use crate::{
    detect::{
        self, Detection,
        client_hello::{Peek, peek},
    },
    io::Prefixed,
    limits,
    tls::Alpn,
};
use futures_util::FutureExt;
use std::{cell::Cell, io, pin::pin, time::Duration};
use tokio::{
    io::AsyncRead,
    time::{Instant, timeout, timeout_at},
};

/// What the wait found out.
#[derive(Debug)]
pub enum First<U> {
    Http1,
    Http2,
    /// The whole ClientHello of another proxy; only where [`Wait::mesh`] asks for it.
    Mesh,
    /// A ClientHello of the application's own.
    Tls,
    /// The client spoke, and it is none of these.
    Opaque,
    /// The upstream was opened because the client was silent, and either the server spoke or the client turned out to
    /// be opaque.
    Opened(Prefixed<U>),
    /// The client closed without a word.
    Closed,
}

/// Why there is no answer.
#[derive(Debug)]
pub enum FirstError<E> {
    Client(io::Error),
    Upstream(E),
}

/// What other proxies offer in their ClientHello.
const MESH: [Alpn; 2] = [Alpn::MeshHttp, Alpn::MeshTcp];

/// How to wait.
#[derive(Debug, Clone, Copy)]
pub struct Wait {
    /// How long the client may be silent before the upstream is opened beside the wait.
    pub grace: Duration,
    /// Whether another proxy may begin mesh TLS here, which must be told from the application's own TLS.
    pub mesh: bool,
}

/// What the last connection to a destination taught. Where the client spoke first, one that is slow to begin (its host
/// is busy, it keeps connections in reserve) is waited for much longer before the upstream is opened for nothing; where
/// the server did, the upstream is opened at once. A mistake costs one connection, and is unlearned by it.
#[derive(Debug, Default)]
pub struct Habit {
    client_first: Cell<Option<bool>>,
}

impl Habit {
    /// The silence to allow.
    pub fn grace(&self) -> Duration {
        match self.client_first.get() {
            None => limits::DETECT_GRACE,
            Some(true) => limits::DETECT_GRACE_CLIENT_FIRST,
            Some(false) => Duration::ZERO,
        }
    }

    /// Learns from what a wait found out.
    pub fn learn<U>(&self, first: &First<U>) {
        match first {
            First::Http1 | First::Http2 | First::Mesh | First::Tls | First::Opaque => self.client_first.set(Some(true)),
            First::Opened(_) => self.client_first.set(Some(false)),
            First::Closed => {}
        }
    }
}

/// Reads until the protocol is certain. A client that is silent for the grace has its upstream opened beside the wait.
/// Not cancel safe: what `open` made is lost.
pub async fn protocol<S, U, E>(
    client: &mut Prefixed<S>,
    wait: Wait,
    open: impl AsyncFnOnce() -> Result<U, E>,
) -> Result<First<U>, FirstError<E>>
where
    S: AsyncRead + Unpin,
    U: AsyncRead + Unpin,
{
    if client.prefix().is_empty() {
        if wait.grace.is_zero() {
            // A timer of nothing still waits for the runtime's next millisecond.
            return Box::pin(race(client, wait.mesh, open)).await;
        }
        match timeout(wait.grace, client.read_ahead(limits::DETECT_BYTES_MAX)).await {
            Ok(read) => {
                if read.map_err(FirstError::Client)? == 0 {
                    return Ok(First::Closed);
                }
            }
            // Boxed: few clients are silent, and the others need not carry the room for it.
            Err(_) => return Box::pin(race(client, wait.mesh, open)).await,
        }
    }
    decide(client, wait.mesh).await.map_err(FirstError::Client)
}

/// Goes on reading while a prefix is undecided. At the client's end or the bound it is opaque, since no request can come
/// of it any more; at the deadline the connection is closed.
async fn decide<S: AsyncRead + Unpin, U>(client: &mut Prefixed<S>, mesh: bool) -> io::Result<First<U>> {
    let deadline = Instant::now() + limits::DETECT_TIMEOUT;
    loop {
        match detect::detect(client.prefix()) {
            Detection::Http1 => return Ok(First::Http1),
            Detection::Http2 => return Ok(First::Http2),
            Detection::Opaque => return Ok(First::Opaque),
            Detection::Tls if !mesh => return Ok(First::Tls),
            Detection::Tls => match peek(client.prefix()) {
                Peek::Hello(hello) if MESH.iter().any(|alpn| hello.offers(alpn.as_bytes())) => {
                    return Ok(First::Mesh);
                }
                Peek::Hello(_) | Peek::NotTls => return Ok(First::Tls),
                Peek::Incomplete => {}
            },
            Detection::Undecided => {}
        }
        match timeout_at(deadline, client.read_ahead(limits::DETECT_BYTES_MAX)).await {
            // `GE` and a long pause may yet be a request: as bytes it would meet a policy for bytes.
            Err(_) => return Ok(First::Closed),
            Ok(Ok(0)) => return Ok(First::Opaque),
            Ok(read) => drop(read?),
        }
    }
}

async fn race<S, U, E>(
    client: &mut Prefixed<S>,
    mesh: bool,
    open: impl AsyncFnOnce() -> Result<U, E>,
) -> Result<First<U>, FirstError<E>>
where
    S: AsyncRead + Unpin,
    U: AsyncRead + Unpin,
{
    // Nothing is opened for a client that has spoken already.
    if let Some(read) = client.read_ahead(limits::DETECT_BYTES_MAX).now_or_never() {
        return match read.map_err(FirstError::Client)? {
            0 => Ok(First::Closed),
            _ => decide(client, mesh).await.map_err(FirstError::Client),
        };
    }
    let mut open = pin!(open());
    let mut upstream = tokio::select! {
        biased;
        read = client.read_ahead(limits::DETECT_BYTES_MAX) => {
            if read.map_err(FirstError::Client)? == 0 {
                return Ok(First::Closed);
            }
            return match decide(client, mesh).await.map_err(FirstError::Client)? {
                // The server may have seen this connection already: a second one in its place would be one that somebody
                // opened and gave up, which servers count, and some serve one client at a time.
                First::Opaque | First::Tls => {
                    Ok(First::Opened(Prefixed::new(open.await.map_err(FirstError::Upstream)?)))
                }
                decided => Ok(decided),
            };
        }
        opened = open.as_mut() => Prefixed::new(opened.map_err(FirstError::Upstream)?),
    };
    tokio::select! {
        // The server spoke (or closed): no client protocol that we know waits for that.
        _ = upstream.read_ahead(limits::DETECT_BYTES_MAX) => Ok(First::Opened(upstream)),
        read = client.read_ahead(limits::DETECT_BYTES_MAX) => {
            if read.map_err(FirstError::Client)? == 0 {
                return Ok(First::Opened(upstream)); // half-closed: the server may still speak
            }
            Ok(match decide(client, mesh).await.map_err(FirstError::Client)? {
                First::Opaque | First::Tls => First::Opened(upstream),
                decided => decided,
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;
    use tokio::io::{AsyncWriteExt, DuplexStream, duplex};

    const SILENT: Wait = Wait { grace: Duration::ZERO, mesh: false };

    /// What comes of a client that says `said` while the upstream is being opened.
    async fn while_opening(said: &[u8]) -> First<DuplexStream> {
        let (client, mut says) = duplex(1024);
        let (upstream, _server) = duplex(1024);
        let (spoke, speaks) = tokio::sync::oneshot::channel();
        let mut client = Prefixed::new(client);
        let open = async || {
            says.write_all(said).await.unwrap();
            spoke.send(()).unwrap();
            // The client's bytes are seen before this is asked again.
            tokio::task::yield_now().await;
            Ok::<_, Infallible>(upstream)
        };
        let first = protocol(&mut client, SILENT, open).await.unwrap();
        speaks.await.unwrap();
        assert_eq!(client.prefix(), said);
        first
    }

    #[tokio::test]
    async fn a_connection_that_is_being_opened_is_used_by_a_client_that_speaks_meanwhile() {
        assert!(matches!(while_opening(b"\x01\x02 cookie of iperf3").await, First::Opened(_)));
        assert!(matches!(while_opening(b"GET / HTTP/1.1\r\n").await, First::Http1));
    }

    #[tokio::test]
    async fn nothing_is_opened_for_a_client_that_has_spoken_or_gone() {
        let never = async || -> Result<DuplexStream, Infallible> { panic!("opened") };
        let (client, mut says) = duplex(1024);
        says.write_all(b"\x01\x02 cookie").await.unwrap();
        let first = protocol(&mut Prefixed::new(client), SILENT, never).await.unwrap();
        assert!(matches!(first, First::Opaque));
        let (client, gone) = duplex(1024);
        drop(gone);
        assert!(matches!(protocol(&mut Prefixed::new(client), SILENT, never).await.unwrap(), First::Closed));
    }
}
