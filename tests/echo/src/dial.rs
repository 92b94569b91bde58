//! From a URL to an open connection.

use crate::body::Body;
use anyhow::{Context as _, bail};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::sync::Arc;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

/// Bytes in both directions, encrypted or not.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// What a URL says.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(crate) scheme: String,
    pub(crate) host: String,
    pub(crate) port: u16,
    /// As the Host header has it.
    pub(crate) authority: String,
    pub(crate) path: String,
}

impl Target {
    pub(crate) fn parse(url: &str) -> anyhow::Result<Self> {
        // A URL without a path is fine here, whatever follows its scheme.
        let (scheme, rest) = url.split_once("://").with_context(|| format!("{url} has no scheme"))?;
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let parsed: http::uri::Authority = authority.parse().with_context(|| format!("authority of {url}"))?;
        let port = match (parsed.port_u16(), scheme) {
            (Some(port), _) => port,
            (None, "http" | "h2c" | "ws") => 80,
            (None, "https") => 443,
            (None, "grpc") => 7070,
            (None, _) => bail!("{url} needs a port"),
        };
        let host = parsed.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let path = if path.is_empty() { "/" } else { path };
        Ok(Self { scheme: scheme.into(), host, port, authority: authority.into(), path: path.into() })
    }

    /// Whether requests go over HTTP/2 from the first byte.
    pub(crate) fn is_http2(&self) -> bool {
        self.scheme == "grpc" || self.scheme == "h2c"
    }
}

/// Opens a connection. Every address of the name is tried.
pub(crate) async fn connect(target: &Target) -> anyhow::Result<Box<dyn Stream>> {
    let tcp = TcpStream::connect((&*target.host, target.port)).await;
    let tcp = tcp.with_context(|| format!("connecting to {}:{}", target.host, target.port))?;
    tcp.set_nodelay(true)?;
    if target.scheme != "https" {
        return Ok(Box::new(tcp));
    }
    let name = rustls::pki_types::ServerName::try_from(target.host.clone())?;
    let connector = TlsConnector::from(Arc::clone(&crate::tls::danger_client()?));
    Ok(Box::new(connector.connect(name, tcp).await.context("TLS")?))
}

/// Something that takes requests.
#[derive(Debug)]
pub(crate) enum Sender {
    Http1(hyper::client::conn::http1::SendRequest<Body>),
    Http2(hyper::client::conn::http2::SendRequest<Body>),
}

impl Sender {
    /// Whether it is not known to be closed.
    pub(crate) fn is_open(&self) -> bool {
        match self {
            Self::Http1(sender) => !sender.is_closed(),
            Self::Http2(sender) => !sender.is_closed(),
        }
    }

    pub(crate) async fn send(
        &mut self,
        request: http::Request<Body>,
    ) -> hyper::Result<http::Response<hyper::body::Incoming>> {
        match self {
            Self::Http1(sender) => {
                sender.ready().await?;
                sender.send_request(request).await
            }
            Self::Http2(sender) => {
                sender.ready().await?;
                sender.send_request(request).await
            }
        }
    }
}

/// Opens a connection for requests. The task that drives it ends with the connection, which ends with the sender.
pub(crate) async fn http(target: &Target) -> anyhow::Result<Sender> {
    let io = TokioIo::new(connect(target).await?);
    if target.is_http2() {
        let (sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await?;
        drop(tokio::spawn(connection));
        Ok(Sender::Http2(sender))
    } else {
        let (sender, connection) = hyper::client::conn::http1::handshake(io).await?;
        drop(tokio::spawn(connection.with_upgrades()));
        Ok(Sender::Http1(sender))
    }
}

/// A request with the form that the protocol wants.
pub(crate) fn request(
    target: &Target,
    method: &str,
    headers: &[(String, String)],
    body: Body,
) -> anyhow::Result<http::Request<Body>> {
    let host = headers
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case("host"))
        .map_or(&target.authority, |(_, value)| value);
    let mut builder = http::Request::builder().method(method);
    if target.is_http2() {
        builder = builder.uri(format!("http://{host}{}", target.path));
    } else {
        builder = builder.uri(&target.path).header(http::header::HOST, host);
    }
    for (name, value) in headers.iter().filter(|(name, _)| !name.eq_ignore_ascii_case("host")) {
        builder = builder.header(name, value);
    }
    Ok(builder.body(body)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_gives_its_port_and_path_or_the_usual_ones() {
        let parse = |url| Target::parse(url).ok().map(|target| (target.host, target.port, target.path));
        assert_eq!(parse("http://echo"), Some(("echo".into(), 80, "/".into())));
        assert_eq!(parse("grpc://echo:7070"), Some(("echo".into(), 7070, "/".into())));
        assert_eq!(parse("http://[::1]:81/a?b=c"), Some(("::1".into(), 81, "/a?b=c".into())));
        assert_eq!(parse("tcp://echo"), None);
        assert_eq!(parse("echo"), None);
    }
}
