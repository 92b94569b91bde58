//! A GET with the kubelet's manners: its own agent, a connection of its own, redirects followed on the same host.

use super::{Failed, beside, config::HttpGet, connect};
use axum::http::{
    HeaderMap, HeaderValue, Request, Response, StatusCode, Uri, header,
    uri::{PathAndQuery, Scheme},
};
use bytes::Bytes;
use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use remora_runtime::tls;
use std::net::{IpAddr, SocketAddr};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;

/// As many as Go's HTTP client follows.
pub(super) const REDIRECTS_MAX: usize = 10;

/// One request of a probe, which redirects may change.
struct Asked {
    to: SocketAddr,
    path: PathAndQuery,
    https: bool,
    /// The Host that the probe gave; a redirect to a whole address has its own.
    host: Option<HeaderValue>,
}

/// The status of the last answer.
pub(super) async fn get(get: &HttpGet, to: SocketAddr, agent: Option<&HeaderValue>) -> Result<StatusCode, Failed> {
    let mut headers = HeaderMap::new();
    headers.insert(header::USER_AGENT, agent.cloned().unwrap_or(HeaderValue::from_static("kube-probe/remora")));
    headers.insert(header::ACCEPT, HeaderValue::from_static("*/*"));
    let mut given = HeaderMap::new();
    given.extend(get.headers.iter().map(|(name, value)| (name.clone(), value.clone())));
    let host = given.remove(header::HOST);
    // As the kubelet: a given field replaces its default, and an empty agent is none.
    for name in [header::USER_AGENT, header::ACCEPT].into_iter().filter(|name| given.contains_key(name)) {
        headers.remove(name);
    }
    headers.extend(given);
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    let mut asked = Asked { to, path: get.path.clone(), https: get.https, host };
    for _ in 0..=REDIRECTS_MAX {
        let answer = ask(&asked, headers.clone()).await?;
        let Some(location) = redirect(&answer) else { return Ok(answer.status()) };
        let location = location.to_owned();
        match asked.followed(&location)? {
            Some(next) => asked = next,
            // Another host's affair; the kubelet takes it for good.
            None => return Ok(answer.status()),
        }
    }
    Err(Failed::Redirects { to })
}

fn redirect<B>(answer: &Response<B>) -> Option<&str> {
    let follows = matches!(answer.status().as_u16(), 301 | 302 | 303 | 307 | 308);
    answer.headers().get(header::LOCATION).filter(|_| follows)?.to_str().ok()
}

impl Asked {
    /// Where `location` leads; `None` if to another host.
    fn followed(&self, location: &str) -> Result<Option<Self>, Failed> {
        let wrong = || Failed::Redirect { to: self.to, location: location.to_owned() };
        let location = location.split('#').next().unwrap_or_default();
        if !location.contains("://") && !location.starts_with("//") {
            let path = if location.starts_with('/') {
                location.to_owned()
            } else {
                let folder = self.path.path().rsplit_once('/').map_or("", |(folder, _)| folder);
                format!("{folder}/{location}")
            };
            let path = PathAndQuery::try_from(path.as_str()).map_err(|_| wrong())?;
            return Ok(Some(Self { to: self.to, path, https: self.https, host: self.host.clone() }));
        }
        let whole = match location.strip_prefix("//") {
            Some(rest) => format!("{}://{rest}", if self.https { "https" } else { "http" }),
            None => location.to_owned(),
        };
        let uri: Uri = whole.parse().map_err(|_| wrong())?;
        let https = uri.scheme() == Some(&Scheme::HTTPS);
        let same = uri.host().map(|host| host.trim_matches(['[', ']'])).and_then(|host| host.parse::<IpAddr>().ok());
        if same != Some(self.to.ip()) {
            return Ok(None);
        }
        let port = uri.port_u16().unwrap_or(if https { 443 } else { 80 });
        let path = uri.path_and_query().cloned().unwrap_or(PathAndQuery::from_static("/"));
        Ok(Some(Self { to: SocketAddr::new(self.to.ip(), port), path, https, host: None }))
    }
}

async fn ask(asked: &Asked, mut headers: HeaderMap) -> Result<Response<()>, Failed> {
    let to = asked.to;
    let own = || HeaderValue::from_str(&to.to_string()).ok();
    if let Some(host) = asked.host.clone().or_else(own) {
        headers.insert(header::HOST, host);
    }
    let mut request = Request::new(Empty::<Bytes>::new());
    *request.uri_mut() = Uri::from(asked.path.clone());
    *request.headers_mut() = headers;
    let tcp = connect(to).await?;
    if !asked.https {
        return send(to, tcp, request).await;
    }
    let failed = |source| Failed::Tls { to, source };
    let config = tls::danger_unverified_client_config().map_err(|error| failed(std::io::Error::other(error)))?;
    let io = TlsConnector::from(config).connect(tls::server_name(), tcp).await.map_err(failed)?;
    send(to, io, request).await
}

/// The head of the response; its body is not read.
async fn send<S>(to: SocketAddr, io: S, request: Request<Empty<Bytes>>) -> Result<Response<()>, Failed>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let failed = |source| Failed::Http { to, source };
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(io)).await.map_err(failed)?;
    let (head, _) = beside(connection, sender.send_request(request)).await.map_err(failed)?.into_parts();
    Ok(Response::from_parts(head, ()))
}
