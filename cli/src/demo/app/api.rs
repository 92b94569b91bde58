//! `api`: an HTTP/1.1 server. `GET /items/ID` asks `pricing`, `POST /cart` writes to `store`.

use super::{
    Pace,
    pricing::proto::{QuoteRequest, pricing_client::PricingClient},
};
use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};
use tonic::transport::{Channel, Endpoint, Uri};

/// A cart is a line.
const BODY_BYTES_MAX: usize = 512;
/// A tunnel's response head and the store's answer are short lines.
const LINE_BYTES_MAX: u64 = 4096;
/// Carts go round, so that the store stays small.
const CARTS: u64 = 1000;
/// How long `api` waits for the services it needs.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);

struct Api {
    pod: String,
    pace: Pace,
    proxy: SocketAddr,
    pricing: PricingClient<Channel>,
    carts: AtomicU64,
}

pub(super) async fn run(listener: TcpListener, proxy: SocketAddr, pod: String, pace: Pace) -> anyhow::Result<()> {
    // The connection goes to our own proxy; the authority says whom we mean.
    let channel = Endpoint::from_shared(format!("http://{proxy}"))?
        .origin(Uri::from_static("http://pricing.shop:9090"))
        .timeout(CALL_TIMEOUT)
        .connect_lazy();
    let api = Arc::new(Api { pod, pace, proxy, pricing: PricingClient::new(channel), carts: AtomicU64::new(0) });
    loop {
        let (stream, _) = listener.accept().await?;
        let api = api.clone();
        let service = service_fn(move |request| {
            let api = api.clone();
            async move { Ok::<_, Infallible>(api.answer(request).await) }
        });
        let connection = http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service);
        // A connection ends with its peer, or with the process; why is of no interest to a demo.
        tokio::spawn(async move { connection.await.ok() });
    }
}

impl Api {
    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let path = request.uri().path().to_owned();
        let outcome = match (request.method(), path.strip_prefix("/items/")) {
            (&Method::GET, Some(item)) => self.item(item).await.map(|body| (StatusCode::OK, body)),
            (&Method::POST, _) if path == "/cart" => {
                self.cart(request.into_body()).await.map(|body| (StatusCode::CREATED, body))
            }
            _ => Ok((StatusCode::NOT_FOUND, "GET /items/ID or POST /cart\n".to_owned())),
        };
        let (status, body) = outcome.unwrap_or_else(|error| (StatusCode::BAD_GATEWAY, format!("{error:#}\n")));
        let mut response = Response::new(Full::from(body));
        *response.status_mut() = status;
        if let Ok(pod) = self.pod.parse() {
            response.headers_mut().insert("x-pod", pod);
        }
        response
    }

    async fn item(&self, item: &str) -> anyhow::Result<String> {
        self.pace.work().await;
        let request = QuoteRequest { item: item.to_owned() };
        let quote = self.pricing.clone().quote(request).await.context("pricing")?.into_inner();
        Ok(serde_json::json!({ "item": quote.item, "cents": quote.cents, "api": self.pod, "pricing": quote.pod })
            .to_string())
    }

    async fn cart(&self, body: Incoming) -> anyhow::Result<String> {
        let body = Limited::new(body, BODY_BYTES_MAX).collect().await.map_err(|error| anyhow::anyhow!(error))?;
        let value = String::from_utf8(body.to_bytes().to_vec())?;
        ensure!(!value.contains('\n'), "a cart is one line");
        self.pace.work().await;
        let number = self.carts.fetch_add(1, Ordering::Relaxed) % CARTS;
        let key = format!("{}-{number}", self.pod);
        tokio::time::timeout(CALL_TIMEOUT, put(self.proxy, &key, &value)).await.context("store: timed out")??;
        Ok(format!("{key}\n"))
    }
}

/// Writes one value over a connection of its own.
async fn put(proxy: SocketAddr, key: &str, value: &str) -> anyhow::Result<()> {
    let mut stream = BufReader::new(TcpStream::connect(proxy).await.context("our proxy")?);
    stream.write_all(b"CONNECT store.shop:7000 HTTP/1.1\r\nhost: store.shop:7000\r\n\r\n").await?;
    let status = line(&mut stream).await.context("tunnel to store")?;
    if status.split(' ').nth(1) != Some("200") {
        bail!("tunnel to store: {status}");
    }
    while !line(&mut stream).await.context("tunnel to store")?.is_empty() {}
    stream.write_all(format!("PUT {key} {value}\n").as_bytes()).await?;
    let answer = line(&mut stream).await.context("store")?;
    ensure!(answer == "OK", "store: {answer}");
    Ok(())
}

async fn line(stream: &mut BufReader<TcpStream>) -> anyhow::Result<String> {
    let mut line = String::new();
    stream.take(LINE_BYTES_MAX).read_line(&mut line).await?;
    ensure!(line.ends_with('\n'), "the connection ended early");
    Ok(line.trim_end().to_owned())
}
