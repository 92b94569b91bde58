//! Stage 3 of 8: the wait for the first bytes. In: a connection, and how to open the one upstream. Out: the protocol,
//! or the upstream connection that was opened meanwhile. Never stalls a connection whose server speaks first.

use crate::{
    detect::{self, Detection},
    io::Prefixed,
    limits,
};
use std::{io, pin::pin, time::Duration};
use tokio::{
    io::AsyncRead,
    time::{Instant, timeout, timeout_at},
};

/// What the wait found out.
#[derive(Debug)]
pub enum First<U> {
    Http1,
    Http2,
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

/// Reads until the protocol is certain. A client that is silent for `grace` has its upstream opened
/// beside the wait. Not cancel safe: what `open` made is lost.
pub async fn protocol<S, U, E>(
    client: &mut Prefixed<S>,
    grace: Duration,
    open: impl Future<Output = Result<U, E>>,
) -> Result<First<U>, FirstError<E>>
where
    S: AsyncRead + Unpin,
    U: AsyncRead + Unpin,
{
    if client.prefix().is_empty() {
        match timeout(grace, client.read_ahead(limits::DETECT_BYTES_MAX)).await {
            Ok(read) => {
                if read.map_err(FirstError::Client)? == 0 {
                    return Ok(First::Closed);
                }
            }
            Err(_) => return race(client, open).await,
        }
    }
    decide(client).await.map_err(FirstError::Client)
}

/// Goes on reading while a prefix is undecided. At the client's end or the bound it is opaque, since no request can come
/// of it any more; at the deadline the connection is closed.
async fn decide<S: AsyncRead + Unpin, U>(client: &mut Prefixed<S>) -> io::Result<First<U>> {
    let deadline = Instant::now() + limits::DETECT_TIMEOUT;
    loop {
        match detect::detect(client.prefix()) {
            Detection::Http1 => return Ok(First::Http1),
            Detection::Http2 => return Ok(First::Http2),
            Detection::Tls => return Ok(First::Tls),
            Detection::Opaque => return Ok(First::Opaque),
            Detection::Undecided => match timeout_at(deadline, client.read_ahead(limits::DETECT_BYTES_MAX)).await {
                // `GE` and a long pause may yet be a request: as bytes it would meet a policy for bytes.
                Err(_) => return Ok(First::Closed),
                Ok(Ok(0)) => return Ok(First::Opaque),
                Ok(read) => drop(read?),
            },
        }
    }
}

async fn race<S, U, E>(
    client: &mut Prefixed<S>,
    open: impl Future<Output = Result<U, E>>,
) -> Result<First<U>, FirstError<E>>
where
    S: AsyncRead + Unpin,
    U: AsyncRead + Unpin,
{
    let mut open = pin!(open);
    let mut upstream = tokio::select! {
        opened = open.as_mut() => Prefixed::new(opened.map_err(FirstError::Upstream)?),
        read = client.read_ahead(limits::DETECT_BYTES_MAX) => {
            return match read.map_err(FirstError::Client)? {
                0 => Ok(First::Closed),
                _ => decide(client).await.map_err(FirstError::Client),
            };
        }
    };
    tokio::select! {
        // The server spoke (or closed): no client protocol that we know waits for that.
        _ = upstream.read_ahead(limits::DETECT_BYTES_MAX) => Ok(First::Opened(upstream)),
        read = client.read_ahead(limits::DETECT_BYTES_MAX) => {
            if read.map_err(FirstError::Client)? == 0 {
                return Ok(First::Opened(upstream)); // half-closed: the server may still speak
            }
            Ok(match decide(client).await.map_err(FirstError::Client)? {
                First::Opaque | First::Tls => First::Opened(upstream),
                decided => decided,
            })
        }
    }
}
