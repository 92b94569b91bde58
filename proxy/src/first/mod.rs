//! Stage 3 of 8: the wait for the first bytes. In: a connection, and how to open the one upstream. Out: the protocol,
//! or the upstream connection that was opened meanwhile. Never stalls a connection whose server speaks first.

mod decision;
mod habit;

pub(crate) use habit::Habit;

use crate::{detect, io::Prefixed, limits};
use decision::Decision;
use futures_util::FutureExt;
use remora_model::Protocol;
use std::{io, pin::pin, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    time::{Instant, timeout, timeout_at},
};

/// What the wait found out.
#[derive(Debug)]
pub(crate) enum First<U> {
    Http1,
    Http2,
    /// The whole ClientHello of another proxy; only where [`Wait::mesh`] asks for it.
    Mesh,
    /// A ClientHello of the application's own.
    Tls,
    /// The client spoke, and it is none of these.
    Opaque,
    /// The upstream was opened because the client was silent or undecided, and either the server spoke or the client turned
    /// out to be opaque. What the upstream has already is no longer in the client's prefix.
    Opened(Prefixed<U>),
    /// The client closed without a word.
    Closed,
    /// The client's words fit a protocol still and may not pass as bytes, and no more came.
    Undecided,
}

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum FirstError<E> {
    Client(io::Error),
    Upstream(E),
}

/// How to wait.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wait {
    /// How long the client may be silent before the upstream is opened beside the wait.
    pub grace: Duration,
    /// Whether another proxy may begin mesh TLS here, which must be distinguished from the application's own TLS.
    pub mesh: bool,
    /// Whether the application's own TLS goes by the name that it asks for: then its ClientHello is waited for, and no upstream
    /// that was opened before is its.
    pub by_name: bool,
    /// The declared protocol of the port. Opaque: only mesh TLS is detected. HTTP: its clients speak first, and the declaration
    /// decides whatever the bytes leave open; bytes that are certainly another HTTP version, or TLS, beat it.
    pub said: Protocol,
    pub undecided: Undecided,
    /// How long a client may be silent where HTTP is declared.
    pub idle: Duration,
}

impl Wait {
    /// Whether a ClientHello is read to its end.
    fn reads_hello(&self) -> bool {
        self.mesh || self.by_name
    }

    /// For a client of this pod: what comes of its bytes is judged where they arrive.
    pub(crate) fn outbound(idle: Duration) -> Self {
        let undecided = Undecided::Bytes(limits::UNDECIDED_GRACE);
        Self { grace: limits::DETECT_GRACE, mesh: false, by_name: false, said: Protocol::Detect, undecided, idle }
    }
}

/// What becomes of a client whose words are no protocol yet and which waits for an answer: `ruok`, `JDWP-Handshake`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Undecided {
    /// After this long the upstream gets what there is. If it turns out to begin a request after all, before the server has
    /// said a word, that connection is dropped and the client is served as what it is.
    Bytes(Duration),
    /// As bytes it would not be let in, as a request it may be: it has this long.
    Closed(Duration),
}

/// Reads until the protocol is certain. A client that is silent for the grace has its upstream opened beside the wait, and
/// so has one whose first words leave it open what they are, if they may pass as bytes.
/// Not cancel safe: what `open` made is lost.
pub(crate) async fn protocol<S, U, E>(
    client: &mut Prefixed<S>,
    wait: &Wait,
    open: impl AsyncFnOnce() -> Result<U, E>,
) -> Result<First<U>, FirstError<E>>
where
    S: AsyncRead + Unpin,
    U: AsyncRead + AsyncWrite + Unpin,
{
    if client.prefix().is_empty() && wait.is_http_declared() {
        let read = timeout(wait.idle, client.read_ahead(limits::DETECT_BYTES_MAX)).await;
        if !matches!(read, Ok(Ok(1..))) {
            return read.map_or(Ok(First::Closed), |read| read.map(|_| First::Closed).map_err(FirstError::Client));
        }
    } else if client.prefix().is_empty() {
        if wait.grace.is_zero() {
            // A timer of nothing still waits for the runtime's next millisecond.
            return Box::pin(race(client, wait, open)).await;
        }
        match timeout(wait.grace, client.read_ahead(limits::DETECT_BYTES_MAX)).await {
            Ok(read) => {
                if read.map_err(FirstError::Client)? == 0 {
                    return Ok(First::Closed);
                }
            }
            // Boxed: few clients are silent, and the others need not carry the room for it.
            Err(_) => return Box::pin(race(client, wait, open)).await,
        }
    }
    spoken(client, wait, open).await
}

/// For a client that has spoken, and whose upstream is not open.
async fn spoken<S, U, E>(
    client: &mut Prefixed<S>,
    wait: &Wait,
    open: impl AsyncFnOnce() -> Result<U, E>,
) -> Result<First<U>, FirstError<E>>
where
    S: AsyncRead + Unpin,
    U: AsyncRead + AsyncWrite + Unpin,
{
    match decide(client, wait).await.map_err(FirstError::Client)? {
        Some(decision) => Ok(decision.first()),
        None if matches!(wait.undecided, Undecided::Closed(_)) => Ok(First::Undecided),
        None => {
            Box::pin(async {
                let upstream = Prefixed::new(open().await.map_err(FirstError::Upstream)?);
                early(client, wait, upstream).await
            })
            .await
        }
    }
}

/// Goes on reading while a prefix is undecided. At the client's end or the bound it is opaque, since no request can come
/// of it any more. `None`: it is undecided still, and has had its time.
///
/// # Errors
/// The connection's; and `TimedOut` for what began as a ClientHello and is none in the time of a handshake. A peer's may come
/// in two packets, of which the second was lost: none of it is for the application, however long that takes.
async fn decide<S: AsyncRead + Unpin>(client: &mut Prefixed<S>, wait: &Wait) -> io::Result<Option<Decision>> {
    let (Undecided::Bytes(within) | Undecided::Closed(within)) = wait.undecided;
    let began = Instant::now();
    loop {
        if let Some(decision) = Decision::of(client.prefix(), wait) {
            return Ok(Some(decision));
        }
        let hello = wait.reads_hello() && client.prefix().starts_with(&detect::TLS_RECORD);
        let within = if hello { limits::HANDSHAKE_TIMEOUT } else { within };
        match timeout_at(began + within, client.read_ahead(limits::DETECT_BYTES_MAX)).await {
            Err(_) if hello => return Err(io::Error::new(io::ErrorKind::TimedOut, "a ClientHello without its end")),
            Err(_) => return Ok(wait.declared()),
            Ok(Ok(0)) => return Ok(wait.declared().or(Some(Decision::Opaque))),
            Ok(read) => drop(read?),
        }
    }
}

/// Gives the server what the client has said so far, while it stays open what that is: until the server answers, or the
/// client goes on. No bound in time: it is a connection of bytes that both ends leave open.
async fn early<S, U, E>(
    client: &mut Prefixed<S>,
    wait: &Wait,
    mut upstream: Prefixed<U>,
) -> Result<First<U>, FirstError<E>>
where
    S: AsyncRead + Unpin,
    U: AsyncRead + AsyncWrite + Unpin,
{
    let mut sent = 0;
    loop {
        let more = client.prefix().get(sent..).unwrap_or_default();
        let written = async {
            upstream.write_all(more).await?;
            upstream.flush().await
        };
        // If the server has closed already, the relay notices.
        let gone = written.await.is_err();
        sent = client.prefix().len();
        if !gone {
            tokio::select! {
                biased;
                read = client.read_ahead(limits::DETECT_BYTES_MAX) => {
                    let ended = read.map_err(FirstError::Client)? == 0;
                    match Decision::of(client.prefix(), wait) {
                        Some(decision) if !decision.is_bytes(wait) => return Ok(decision.first()),
                        None if !ended => continue,
                        _ => {}
                    }
                }
                _ = upstream.read_ahead(limits::DETECT_BYTES_MAX) => {}
            }
        }
        client.consume(sent);
        return Ok(First::Opened(upstream));
    }
}

/// For a client that has said nothing yet and whose upstream cannot be had. It may be slow to begin a request, which is
/// answered with the reason; not so where the server is known to speak first.
async fn unopened<S, U, E>(client: &mut Prefixed<S>, wait: &Wait, error: E) -> Result<First<U>, FirstError<E>>
where
    S: AsyncRead + Unpin,
{
    if !wait.grace.is_zero()
        && let Ok(read) = timeout(limits::UNOPENED_GRACE, client.read_ahead(limits::DETECT_BYTES_MAX)).await
    {
        if read.map_err(FirstError::Client)? == 0 {
            return Ok(First::Closed);
        }
        if let Some(decision) = decide(client, wait).await.map_err(FirstError::Client)?
            && !decision.is_bytes(wait)
        {
            return Ok(decision.first());
        }
    }
    Err(FirstError::Upstream(error))
}

async fn race<S, U, E>(
    client: &mut Prefixed<S>,
    wait: &Wait,
    open: impl AsyncFnOnce() -> Result<U, E>,
) -> Result<First<U>, FirstError<E>>
where
    S: AsyncRead + Unpin,
    U: AsyncRead + AsyncWrite + Unpin,
{
    // Nothing is opened for a client that has spoken already.
    if let Some(read) = client.read_ahead(limits::DETECT_BYTES_MAX).now_or_never() {
        return match read.map_err(FirstError::Client)? {
            0 => Ok(First::Closed),
            _ => spoken(client, wait, open).await,
        };
    }
    let mut open = pin!(open());
    let mut upstream = tokio::select! {
        biased;
        read = client.read_ahead(limits::DETECT_BYTES_MAX) => {
            if read.map_err(FirstError::Client)? == 0 {
                return Ok(First::Closed);
            }
            let decision = decide(client, wait).await.map_err(FirstError::Client)?;
            return match decision {
                Some(decision) if !decision.is_bytes(wait) => Ok(decision.first()),
                None if matches!(wait.undecided, Undecided::Closed(_)) => Ok(First::Undecided),
                // The server may have seen this connection already: if a second one replaced it, the first would look
                // abandoned, which servers count, and some serve one client at a time.
                _ => {
                    let upstream = Prefixed::new(open.await.map_err(FirstError::Upstream)?);
                    if decision.is_some() { Ok(First::Opened(upstream)) } else { early(client, wait, upstream).await }
                }
            };
        }
        opened = open.as_mut() => match opened {
            Ok(upstream) => Prefixed::new(upstream),
            Err(error) => return unopened(client, wait, error).await,
        },
    };
    tokio::select! {
        // No client protocol that we know waits for the server's word.
        _ = upstream.read_ahead(limits::DETECT_BYTES_MAX) => server_first(client, wait, upstream).await,
        read = client.read_ahead(limits::DETECT_BYTES_MAX) => {
            if read.map_err(FirstError::Client)? == 0 {
                return Ok(First::Opened(upstream)); // half-closed: the server may still speak
            }
            match decide(client, wait).await.map_err(FirstError::Client)? {
                Some(decision) if !decision.is_bytes(wait) => Ok(decision.first()),
                Some(_) => Ok(First::Opened(upstream)),
                None if matches!(wait.undecided, Undecided::Closed(_)) => Ok(First::Undecided),
                None => early(client, wait, upstream).await,
            }
        }
    }
}

/// The server spoke (or closed) and its client has not. Where the client may be a peer, its ClientHello may be on its way, and must not be
/// answered by the application.
async fn server_first<S, U, E>(
    client: &mut Prefixed<S>,
    wait: &Wait,
    upstream: Prefixed<U>,
) -> Result<First<U>, FirstError<E>>
where
    S: AsyncRead + Unpin,
{
    if wait.mesh
        && let Ok(Ok(1..)) = timeout(limits::HELLO_GRACE, client.read_ahead(limits::DETECT_BYTES_MAX)).await
        && client.prefix().starts_with(&[detect::TLS_HANDSHAKE])
        && decide(client, wait).await.map_err(FirstError::Client)? == Some(Decision::Mesh)
    {
        return Ok(First::Mesh);
    }
    Ok(First::Opened(upstream))
}

#[cfg(test)]
mod tests;
