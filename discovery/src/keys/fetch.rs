//! One fetch: HTTPS, by a name that the web's authorities vouch for, or the operator's. Bounded in time and size. No redirect is followed: it would
//! lead to a host that nobody allowed.

use crate::objects::jwks::{self, JwksUrl};
use anyhow::{Context as _, anyhow, bail, ensure};
use http::{HeaderMap, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::{body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use remora_runtime::tls::{ClientConfig, web};
use std::{sync::Arc, time::Duration};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::TlsConnector;

/// For all of it, from the name's address to the last byte.
const FETCH_TIMEOUT: Duration = Duration::from_secs(10);
/// The largest public sets have 30 KB.
const JWKS_BYTES_MAX: usize = 256 * 1024;

/// What an issuer has now.
#[derive(Debug)]
pub(super) struct Fetched {
    pub keys: Arc<str>,
    /// For how long its server says that this is good.
    pub fresh: Option<Duration>,
}

/// Fetches.
#[derive(Debug)]
pub(super) struct Fetcher(Arc<ClientConfig>);

impl Fetcher {
    /// `authorities`: PEM, whom to believe beside the web's.
    pub(super) fn new(authorities: &[u8]) -> anyhow::Result<Self> {
        Ok(Self(web::public_client_config(authorities)?))
    }

    /// What is there now. Cancel-safe.
    pub(super) async fn fetch(&self, url: &JwksUrl) -> anyhow::Result<Fetched> {
        let within = timeout(FETCH_TIMEOUT, self.ask(url)).await;
        within.map_err(|_| anyhow!("no whole answer came within {} s", FETCH_TIMEOUT.as_secs()))?
    }

    async fn ask(&self, url: &JwksUrl) -> anyhow::Result<Fetched> {
        let tcp = TcpStream::connect((&*url.host, url.port)).await.context("cannot connect")?;
        let name = web::name(&url.host).map_err(|error| anyhow!("{:?} is no host name: {error}", url.host))?;
        let tls = TlsConnector::from(self.0.clone()).connect(name, tcp).await.context("TLS")?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(tls)).await?;
        let asked = Request::get(&url.target)
            .header(header::HOST, url.authority())
            .header(header::ACCEPT, "application/jwk-set+json, application/json")
            .header(header::USER_AGENT, "remora-discovery")
            .body(Empty::<Bytes>::new())?;
        let answer = async {
            let answer = sender.send_request(asked).await.context("no answer")?;
            let (head, body) = answer.into_parts();
            if head.status.is_redirection() {
                let to = head.headers.get(header::LOCATION).and_then(|to| to.to_str().ok()).unwrap_or_default();
                bail!(
                    "answers {} to {to:?}; redirects are not followed: name that URL, if it is the issuer's",
                    head.status
                );
            }
            ensure!(head.status == StatusCode::OK, "answers {}", head.status);
            let body = Limited::new(body, JWKS_BYTES_MAX).collect().await;
            let body =
                body.map_err(|error| anyhow!("the answer is cut, or longer than {JWKS_BYTES_MAX} bytes: {error}"))?;
            anyhow::Ok((head.headers, body.to_bytes()))
        };
        let mut connection = std::pin::pin!(connection);
        let mut answer = std::pin::pin!(answer);
        let (headers, body) = tokio::select! {
            answer = &mut answer => answer?,
            // It may have ended with the answer's last byte.
            _ = &mut connection => answer.await?,
        };
        let text = std::str::from_utf8(&body).context("the answer is no text")?;
        Ok(Fetched { keys: jwks::useful(text).map_err(|why| anyhow!("the answer {why}"))?, fresh: fresh(&headers) })
    }
}

/// RFC 9111 §5.2.2.1.
fn fresh(headers: &HeaderMap) -> Option<Duration> {
    let fields = headers.get_all(header::CACHE_CONTROL).iter().filter_map(|value| value.to_str().ok());
    let mut directives = fields.flat_map(|field| field.split(',')).map(str::trim);
    let seconds = directives.find_map(|one| one.strip_prefix("max-age="))?;
    seconds.trim_matches('"').parse().ok().map(Duration::from_secs)
}
