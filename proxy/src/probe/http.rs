//! A GET with the kubelet's manners: its own agent, a connection of its own, redirects followed on the same host.

use super::{Failed, beside, config::HttpGet, connect};
use axum::http::{
    HeaderMap, HeaderValue, Request, Response, StatusCode, Uri, header,
    uri::{PathAndQuery, Scheme},
};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::TokioIo;
use remora_runtime::tls;
use std::net::{IpAddr, SocketAddr};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;

/// As many as Go's HTTP client follows.
pub(super) const REDIRECTS_MAX: usize = 10;
/// How much of a body the kubelet reads: one that breaks off within that fails the probe.
const BODY_BYTES_MAX: usize = 10 * 1024;
/// Go's client bounds neither count nor name, and the bytes at 10 MiB; this is more than an application sends to a probe.
const FIELDS_MAX: usize = 1000;
const HEAD_BYTES_MAX: usize = 1024 * 1024;

/// One request of a probe, which redirects may change.
struct Asked {
    to: SocketAddr,
    path: PathAndQuery,
    https: bool,
    /// The Host that the probe gave; a redirect to a whole address has its own.
    host: Option<HeaderValue>,
    /// A probe's answer must be whole, as far as it is read; a hook's need not.
    whole: bool,
}

/// The status of the last answer.
pub(super) async fn get(
    get: &HttpGet,
    to: SocketAddr,
    agent: Option<&HeaderValue>,
    whole: bool,
) -> Result<StatusCode, Failed> {
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
    let mut asked = Asked { to, path: get.path.clone(), https: get.https, host, whole };
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
            } else if location.starts_with('?') {
                format!("{}{location}", self.path.path())
            } else {
                let folder = self.path.path().rsplit_once('/').map_or("", |(folder, _)| folder);
                format!("{folder}/{location}")
            };
            let path = PathAndQuery::try_from(path.replace(' ', "%20")).map_err(|_| wrong())?;
            return Ok(Some(Self { to: self.to, path, host: self.host.clone(), ..*self }));
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
        Ok(Some(Self { to: SocketAddr::new(self.to.ip(), port), path, https, host: None, whole: self.whole }))
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
        return send(asked, tcp, request).await;
    }
    let failed = |source| Failed::Tls { to, source };
    let config = tls::danger_unverified_client_config().map_err(|error| failed(std::io::Error::other(error)))?;
    let io = TlsConnector::from(config).connect(tls::server_name(), tcp).await.map_err(failed)?;
    send(asked, io, request).await
}

/// The head of the response, once its body is read as far as the kubelet reads it.
async fn send<S>(asked: &Asked, io: S, request: Request<Empty<Bytes>>) -> Result<Response<()>, Failed>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let failed = |source| Failed::Http { to: asked.to, source };
    let mut client = hyper::client::conn::http1::Builder::new();
    client.max_headers(FIELDS_MAX).max_buf_size(HEAD_BYTES_MAX).allow_spaces_after_header_name_in_responses(true);
    let (mut sender, connection) = client.handshake(TokioIo::new(io)).await.map_err(failed)?;
    let answer = async {
        let (head, mut body) = sender.send_request(request).await?.into_parts();
        let head = Response::from_parts(head, ());
        let mut read = if asked.whole && redirect(&head).is_none() { 0 } else { BODY_BYTES_MAX };
        while read < BODY_BYTES_MAX
            && let Some(frame) = body.frame().await
        {
            read += frame?.data_ref().map_or(0, Bytes::len);
        }
        Ok(head)
    };
    beside(connection, answer).await.map_err(failed)
}
