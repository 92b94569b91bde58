//! A client of the admin ports: one GET, bounded in time and size, and the shape of `/routes`.

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;

use crate::signals::Signals;

/// An admin port answers from memory; who takes longer is not well.
const TIMEOUT: Duration = Duration::from_secs(2);
/// `/routes` holds a bounded set of routes; this is far above it.
const BODY_BYTES_MAX: usize = 8 << 20;

/// Why an admin port could not be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("cannot connect to {address}: does the component run, and is that its admin port?")]
    Connect { address: SocketAddr, source: io::Error },
    #[error("{address} does not speak HTTP: is it an admin port (4191 proxy, 4192 identity, 4193 discovery)?")]
    Http { address: SocketAddr, source: hyper::Error },
    #[error("reading the answer of {address}: {reason}")]
    Body { address: SocketAddr, reason: String },
    #[error("{address} did not answer within {} s", TIMEOUT.as_secs())]
    Timeout { address: SocketAddr },
    #[error("{address} has no {path}: only a proxy's admin port (4191) does; `remora check` asks all kinds")]
    NotAProxy { address: SocketAddr, path: String },
    #[error(
        "{address} answered {path} with {status}: is it an admin port (4191 proxy, 4192 identity, 4193 discovery)?"
    )]
    Status { address: SocketAddr, path: String, status: StatusCode },
    #[error("{address} sent JSON of another shape; is it of another version?")]
    Shape { address: SocketAddr, source: serde_json::Error },
}

impl Error {
    pub(crate) fn status(address: SocketAddr, path: &str, status: StatusCode) -> Self {
        let path = path.to_owned();
        match status {
            StatusCode::NOT_FOUND => Self::NotAProxy { address, path },
            status => Self::Status { address, path, status },
        }
    }
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) body: Vec<u8>,
}

/// A proxy's `/routes`.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
pub(crate) struct Routes {
    /// `namespace/name`.
    pub(crate) pod: String,
    /// The proxy's own SPIFFE id.
    pub(crate) identity: String,
    #[serde(default)]
    pub(crate) uptime_s: f64,
    pub(crate) routes: Vec<Route>,
}

/// One row of it.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
pub(crate) struct Route {
    pub(crate) direction: String,
    /// The target: `namespace/service:port`.
    pub(crate) parent: String,
    /// The rule, gRPC method or path template that requests are counted under.
    pub(crate) route: String,
    /// The other side's SPIFFE id, or empty.
    pub(crate) peer: String,
    pub(crate) tls: String,
    pub(crate) protocol: String,
    pub(crate) requests: u64,
    pub(crate) success: u64,
    #[serde(default)]
    pub(crate) failures: BTreeMap<String, u64>,
    pub(crate) rps: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p95_ms: f64,
    pub(crate) p99_ms: f64,
    #[serde(default)]
    pub(crate) retries: u64,
}

impl Route {
    /// Its golden signals.
    pub(crate) fn signals(&self) -> Signals {
        Signals {
            rps: self.rps,
            success: self.success,
            failures: self.failures.clone(),
            p50_ms: self.p50_ms,
            p95_ms: self.p95_ms,
            p99_ms: self.p99_ms,
            retries: self.retries,
        }
    }
}

/// A proxy's `/certificate`.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub(crate) struct Certificate {
    /// The SPIFFE id in it.
    pub(crate) identity: String,
    /// In seconds since 1970, as is `not_after`.
    pub(crate) not_before: u64,
    pub(crate) not_after: u64,
    /// Which one this is since the proxy started, trust bundles counted too.
    pub(crate) generation: u64,
    /// How many trust anchors the proxy holds.
    pub(crate) anchors: u64,
}

/// Sends one GET.
pub(crate) async fn get(address: SocketAddr, path: &str) -> Result<Answer, Error> {
    tokio::time::timeout(TIMEOUT, exchange(address, path)).await.map_err(|_| Error::Timeout { address })?
}

/// Reads JSON that `address` sent.
fn parse<T: for<'de> Deserialize<'de>>(address: SocketAddr, body: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(body).map_err(|source| Error::Shape { address, source })
}

/// Gets a JSON page and reads it.
pub(crate) async fn page<T: for<'de> Deserialize<'de>>(address: SocketAddr, path: &str) -> Result<T, Error> {
    let answer = get(address, path).await?;
    if !answer.status.is_success() {
        return Err(Error::status(address, path, answer.status));
    }
    parse(address, &answer.body)
}

async fn exchange(address: SocketAddr, path: &str) -> Result<Answer, Error> {
    let http = |source| Error::Http { address, source };
    let stream = TcpStream::connect(address).await.map_err(|source| Error::Connect { address, source })?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(http)?;
    let request = Request::get(path)
        .header(http::header::HOST, address.to_string())
        .body(Empty::<Bytes>::new())
        .map_err(|error| Error::Body { address, reason: error.to_string() })?;
    let exchange = async {
        let (head, body) = sender.send_request(request).await.map_err(http)?.into_parts();
        let body = Limited::new(body, BODY_BYTES_MAX).collect().await;
        let body = body.map_err(|error| Error::Body { address, reason: error.to_string() })?;
        Ok(Answer { status: head.status, body: body.to_bytes().to_vec() })
    };
    // The connection is driven beside the exchange and dropped with it: no task is left behind.
    tokio::pin!(exchange, connection);
    tokio::select! {
        answer = &mut exchange => answer,
        ended = &mut connection => match ended {
            Ok(()) => exchange.await,
            Err(source) => Err(http(source)),
        },
    }
}

/// Reads an address as people have it at hand: what the demo prints (`http://127.0.0.1:4191`), or a name with a port.
pub(crate) fn address(text: &str) -> Result<SocketAddr, String> {
    let bare = text.strip_prefix("http://").unwrap_or(text);
    let bare = bare.split('/').next().unwrap_or(bare);
    let mut found = bare.to_socket_addrs().map_err(|error| match error.kind() {
        io::ErrorKind::InvalidInput => {
            "say HOST:PORT, for example 127.0.0.1:4191 for a proxy on this machine".to_owned()
        }
        _ => format!("cannot find {bare}: {error}"),
    })?;
    found.next().ok_or_else(|| format!("{bare} has no address"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_can_be_pasted_from_the_demo() {
        let wanted = Ok(SocketAddr::from(([127, 77, 0, 11], 4191)));
        for text in ["127.77.0.11:4191", "http://127.77.0.11:4191", "http://127.77.0.11:4191/routes"] {
            assert_eq!(address(text), wanted, "{text}");
        }
    }

    #[test]
    fn an_address_without_a_port_is_told_how_to_be_one() {
        for text in ["127.0.0.1", "4191", "", "http://", "localhost:port"] {
            assert!(address(text).unwrap_err().contains("HOST:PORT"), "{text}");
        }
    }
}
