//! A client of the admin ports: one GET, bounded in time and size, and the shape of `/routes`.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;

/// An admin port answers from memory; who takes longer is not well.
const TIMEOUT: Duration = Duration::from_secs(2);
/// `/routes` holds a bounded set of routes; this is far above it.
const BODY_BYTES_MAX: usize = 8 << 20;

/// Why an admin port could not be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("cannot start an async runtime")]
    Runtime(#[source] io::Error),
    #[error("cannot connect to {address}: is a component's admin port there?")]
    Connect { address: SocketAddr, source: io::Error },
    #[error("{address} did not speak HTTP")]
    Http { address: SocketAddr, source: hyper::Error },
    #[error("reading the answer of {address}: {reason}")]
    Body { address: SocketAddr, reason: String },
    #[error("{address} did not answer within {} s", TIMEOUT.as_secs())]
    Timeout { address: SocketAddr },
    #[error("{address} answered {path} with {status}")]
    Status { address: SocketAddr, path: String, status: StatusCode },
    #[error("{address} sent JSON of another shape; is it of another version?")]
    Shape { address: SocketAddr, source: serde_json::Error },
}

impl Error {
    pub(crate) fn status(address: SocketAddr, path: &str, status: StatusCode) -> Self {
        Self::Status { address, path: path.to_owned(), status }
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

/// Sends one GET.
pub(crate) async fn get(address: SocketAddr, path: &str) -> Result<Answer, Error> {
    tokio::time::timeout(TIMEOUT, exchange(address, path)).await.map_err(|_| Error::Timeout { address })?
}

/// Reads JSON that `address` sent.
pub(crate) fn parse<T: for<'de> Deserialize<'de>>(address: SocketAddr, body: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(body).map_err(|source| Error::Shape { address, source })
}

/// Gets and reads `/routes`.
pub(crate) async fn routes(address: SocketAddr) -> Result<Routes, Error> {
    let answer = get(address, "/routes").await?;
    if !answer.status.is_success() {
        return Err(Error::status(address, "/routes", answer.status));
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

/// `part` of `whole` as people read it: 100 % only if nothing is missing.
pub(crate) fn percent(part: u64, whole: u64) -> String {
    match (part, whole) {
        (_, 0) => "-".to_owned(),
        (part, whole) if part >= whole => "100%".to_owned(),
        (part, whole) => {
            #[allow(clippy::cast_precision_loss, reason = "a percentage with two digits needs no 53 bits")]
            let share = part as f64 * 100.0 / whole as f64;
            format!("{:.2}%", share.min(99.99))
        }
    }
}

/// A latency as people read it: three digits.
pub(crate) fn millis(ms: f64) -> String {
    match ms {
        ms if ms >= 100.0 => format!("{ms:.0}ms"),
        ms if ms >= 10.0 => format!("{ms:.1}ms"),
        ms => format!("{ms:.2}ms"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_failure_in_a_million_is_not_a_hundred_percent() {
        assert_eq!(percent(999_999, 1_000_000), "99.99%");
        assert_eq!(percent(7, 7), "100%");
        assert_eq!(percent(1, 3), "33.33%");
        assert_eq!(percent(0, 0), "-");
    }

    #[test]
    fn latencies_have_three_digits() {
        assert_eq!([0.4567, 4.567, 45.67, 456.7].map(millis), ["0.46ms", "4.57ms", "45.7ms", "457ms"]);
    }
}
