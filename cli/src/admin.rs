//! A client of the admin ports: one GET, bounded in time and size, and the shape of `/routes`.
//!
//! In: a [`Place`], which is an address, or a pod's port that the API server forwards to. Out: what it answered.

use crate::{
    cluster::forward::{self, PodPort},
    signals::Signals,
};
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fmt, io,
    net::{SocketAddr, ToSocketAddrs},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};

/// An admin port answers from memory; who takes longer is not well.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Through the API server, the kubelet and the container runtime.
const FORWARDED_TIMEOUT: Duration = Duration::from_secs(8);
/// `/routes` holds a bounded set of routes; this is far above it.
const BODY_BYTES_MAX: usize = 8 << 20;
/// Between two pieces of an answer that comes line by line: discovery waits 5 s for each proxy.
const LINES_PAUSE_MAX: Duration = Duration::from_secs(15);
/// All of it: discovery asks 32 proxies at a time, so this is enough for some thousand of them of which many are silent.
const LINES_TIMEOUT: Duration = Duration::from_secs(180);
/// One line of such an answer: discovery takes at most 1 MiB of each proxy, and this is far above it.
const LINE_BYTES_MAX: usize = 4 << 20;

/// Where an admin port is.
#[derive(Debug, Clone)]
pub(crate) enum Place {
    /// Reached from here.
    Address(SocketAddr),
    /// Reached through the API server.
    Pod(PodPort),
}

impl From<SocketAddr> for Place {
    fn from(address: SocketAddr) -> Self {
        Self::Address(address)
    }
}

impl From<PodPort> for Place {
    fn from(port: PodPort) -> Self {
        Self::Pod(port)
    }
}

impl Place {
    /// How long an answer may take.
    fn limit(&self) -> Duration {
        match self {
            Self::Address(_) => TIMEOUT,
            Self::Pod(_) => FORWARDED_TIMEOUT,
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Pod(port) => port.fmt(f),
        }
    }
}

/// Why an admin port could not be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("cannot connect to {place}: does the component run, and is that its admin port?")]
    Connect { place: Place, source: io::Error },
    #[error("cannot forward to {place}")]
    Forward { place: Place, source: forward::Error },
    #[error(
        "{place} does not speak HTTP: is it an admin port (4191 proxy, 4192 identity, 4193 discovery, 4194 injector)?"
    )]
    Http { place: Place, source: hyper::Error },
    #[error("reading the answer of {place}: {reason}")]
    Body { place: Place, reason: String },
    #[error("{place} did not answer within {} s", limit.as_secs())]
    Timeout { place: Place, limit: Duration },
    #[error("{place} has no {path}: only a proxy's admin port (4191) does; `remora check` asks all kinds")]
    NotAProxy { place: Place, path: String },
    #[error("{place}: {reason}")]
    Refused { place: Place, reason: String },
    #[error(
        "{place} answered {path} with {status}: is it an admin port (4191 proxy, 4192 identity, 4193 discovery, \
         4194 injector)?"
    )]
    Status { place: Place, path: String, status: StatusCode },
    #[error("{place} sent JSON of another shape; is it of another version?")]
    Shape { place: Place, source: serde_json::Error },
}

impl Error {
    fn status(place: Place, path: &str, status: StatusCode) -> Self {
        let path = path.to_owned();
        match status {
            StatusCode::NOT_FOUND => Self::NotAProxy { place, path },
            status => Self::Status { place, path, status },
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

impl Certificate {
    /// Whether it is valid at `now`, in seconds since 1970.
    pub(crate) fn holds(&self, now: u64) -> bool {
        (self.not_before..self.not_after).contains(&now)
    }
}

/// Sends one GET.
pub(crate) async fn get(place: impl Into<Place>, path: &str) -> Result<Answer, Error> {
    let place = place.into();
    let limit = place.limit();
    let mut body = Vec::new();
    let mut keep = |piece: &[u8]| match body.len() + piece.len() > BODY_BYTES_MAX {
        true => Err(format!("it has more than {} MiB", BODY_BYTES_MAX >> 20)),
        false => {
            body.extend_from_slice(piece);
            Ok(())
        }
    };
    let asked = tokio::time::timeout(limit, ask(&place, path, &mut keep)).await;
    let status = asked.map_err(|_| Error::Timeout { place: place.clone(), limit })??;
    Ok(Answer { status, body })
}

/// Sends one GET whose answer is lines (NDJSON), each of which `each` gets as it arrives.
pub(crate) async fn lines(place: Place, path: &str, mut each: impl FnMut(&[u8])) -> Result<(), Error> {
    let mut line = Vec::new();
    let mut take = |piece: &[u8]| {
        let mut parts = piece.split(|byte| *byte == b'\n');
        line.extend_from_slice(parts.next().unwrap_or_default());
        for next in parts {
            each(&line);
            line.clear();
            line.extend_from_slice(next);
        }
        match line.len() > LINE_BYTES_MAX {
            true => Err(format!("a line has more than {} MiB", LINE_BYTES_MAX >> 20)),
            false => Ok(()),
        }
    };
    let asked = tokio::time::timeout(LINES_TIMEOUT, ask(&place, path, &mut take)).await;
    let status = asked.map_err(|_| Error::Timeout { place: place.clone(), limit: LINES_TIMEOUT })??;
    if !line.is_empty() {
        each(&line);
    }
    match status {
        status if status.is_success() => Ok(()),
        status => Err(Error::status(place, path, status)),
    }
}

/// Connects and asks; an answer's pieces go to `take`, which may refuse them.
async fn ask(
    place: &Place,
    path: &str,
    take: &mut impl FnMut(&[u8]) -> Result<(), String>,
) -> Result<StatusCode, Error> {
    match place {
        Place::Address(address) => {
            let stream = TcpStream::connect(address).await;
            let stream = stream.map_err(|source| Error::Connect { place: place.clone(), source })?;
            exchange(place, stream, path, take).await
        }
        Place::Pod(port) => {
            let lost = |source| Error::Forward { place: place.clone(), source };
            let silent = |_| Error::Timeout { place: place.clone(), limit: FORWARDED_TIMEOUT };
            let opened = tokio::time::timeout(FORWARDED_TIMEOUT, port.open()).await;
            let mut forwarded = opened.map_err(silent)?.map_err(lost)?;
            match exchange(place, forwarded.stream().map_err(lost)?, path, take).await {
                Ok(status) => Ok(status),
                // Why the far end took nothing is said beside the stream.
                Err(error) => match forwarded.close().await {
                    Some(reason) => Err(lost(forward::Error::Refused(reason))),
                    None => Err(error),
                },
            }
        }
    }
}

/// Gets a JSON page and reads it.
pub(crate) async fn page<T: for<'de> Deserialize<'de>>(place: impl Into<Place>, path: &str) -> Result<T, Error> {
    let place = place.into();
    let answer = get(place.clone(), path).await?;
    if answer.status == StatusCode::BAD_REQUEST {
        // What is wrong with what was asked, which the port says best.
        return Err(Error::Refused { place, reason: String::from_utf8_lossy(&answer.body).trim().to_owned() });
    }
    if !answer.status.is_success() {
        return Err(Error::status(place, path, answer.status));
    }
    serde_json::from_slice(&answer.body).map_err(|source| Error::Shape { place, source })
}

async fn exchange(
    place: &Place,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    path: &str,
    take: &mut impl FnMut(&[u8]) -> Result<(), String>,
) -> Result<StatusCode, Error> {
    let http = |source| Error::Http { place: place.clone(), source };
    let body = |reason: String| Error::Body { place: place.clone(), reason };
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(http)?;
    // A pod's admin server tells who asks by the connection; the name is for HTTP/1.1's sake.
    let host = match place {
        Place::Address(address) => address.to_string(),
        Place::Pod(port) => format!("localhost:{}", port.port),
    };
    let request = Request::get(path)
        .header(http::header::HOST, host)
        .body(Empty::<Bytes>::new())
        .map_err(|error| body(error.to_string()))?;
    let exchange = async {
        let silent = |_| Error::Timeout { place: place.clone(), limit: LINES_PAUSE_MAX };
        let answer = tokio::time::timeout(LINES_PAUSE_MAX, sender.send_request(request)).await;
        let (head, mut rest) = answer.map_err(silent)?.map_err(http)?.into_parts();
        while let Some(frame) = tokio::time::timeout(LINES_PAUSE_MAX, rest.frame()).await.map_err(silent)? {
            if let Ok(piece) = frame.map_err(|error| body(error.to_string()))?.into_data() {
                take(&piece).map_err(body)?;
            }
        }
        Ok(head.status)
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

    #[tokio::test]
    async fn what_is_wrong_with_a_question_is_told_as_the_port_says_it() {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (asked, ()) = tokio::join!(page::<serde_json::Value>(address, "/tap?filter=x"), async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut [0; 1024]).await.unwrap();
            let answer = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 23\r\n\r\nfilter, character 1: x\n";
            stream.write_all(answer).await.unwrap();
        });
        assert_eq!(asked.unwrap_err().to_string(), format!("{address}: filter, character 1: x"));
    }

    #[tokio::test]
    async fn an_answer_of_lines_is_taken_line_by_line_however_it_is_cut() {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut taken = Vec::new();
        let each = |line: &[u8]| taken.push(String::from_utf8_lossy(line).into_owned());
        let (asked, ()) = tokio::join!(lines(address.into(), "/mesh/signals", each), async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut [0; 1024]).await.unwrap();
            let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
            for piece in [head, "3\r\n1\n2\r\n", "3\r\n2\n3\r\n", "1\r\n\n\r\n0\r\n\r\n"] {
                stream.write_all(piece.as_bytes()).await.unwrap();
            }
        });
        asked.unwrap();
        assert_eq!(taken, ["1", "22", "3"]);
    }

    #[test]
    fn an_address_without_a_port_is_told_how_to_be_one() {
        for text in ["127.0.0.1", "4191", "", "http://", "localhost:port"] {
            assert!(address(text).unwrap_err().contains("HOST:PORT"), "{text}");
        }
    }
}
