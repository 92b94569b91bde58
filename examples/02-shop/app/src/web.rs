//! `web`: the front, over HTTP/1. What a visitor asks for, it asks the others for.

use crate::{
    pricing::proto::{QuoteRequest, pricing_client::PricingClient},
    redis::Redis,
    stop::Stop,
};
use anyhow::Context as _;
use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
    routing::{Router, get, post},
};
use bytes::Bytes;
use futures_util::StreamExt as _;
use http_body_util::{BodyExt as _, Empty};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::{Value, json};
use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::net::{TcpListener, TcpStream};
use tonic::{
    Code,
    transport::{Channel, Endpoint},
};

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// HTTP/1
    #[arg(long, default_value = "catalogue:8080")]
    catalogue: String,
    /// gRPC
    #[arg(long, default_value = "pricing:9090")]
    pricing: String,
    /// WebSocket
    #[arg(long, default_value = "ticker:8080")]
    ticker: String,
    /// Redis
    #[arg(long, default_value = "cart:6379")]
    cart: String,
}

struct Shop {
    args: Args,
    http: Client<HttpConnector, Empty<Bytes>>,
    pricing: PricingClient<Channel>,
    cart: Redis,
    offer: Mutex<String>,
}

/// What went wrong behind the front, for the visitor to see: this is an example.
type Failure = (StatusCode, String);

fn bad_gateway(error: impl Into<anyhow::Error>) -> Failure {
    (StatusCode::BAD_GATEWAY, format!("{:#}\n", error.into()))
}

pub(crate) async fn run(listener: TcpListener, args: Args, stop: Stop) -> anyhow::Result<()> {
    let pricing = Endpoint::from_shared(format!("http://{}", args.pricing))?.connect_lazy();
    let shop = Arc::new(Shop {
        http: Client::builder(TokioExecutor::new()).build(HttpConnector::new()),
        pricing: PricingClient::new(pricing),
        cart: Redis::new(args.cart.clone()),
        offer: Mutex::default(),
        args,
    });
    let offers = tokio::spawn(follow_offers(shop.clone()));
    let routes = Router::new()
        .route("/healthz", get(|| async { "well\n" }))
        .route("/items/{number}", get(item))
        .route("/cart", post(put).get(look))
        .route("/offers", get(offer))
        .with_state(shop);
    let served = stop.serve(listener, routes).await;
    offers.abort();
    served
}

async fn item(State(shop): State<Arc<Shop>>, Path(number): Path<usize>) -> Result<Json<Value>, Failure> {
    let item = shop.item(number).await.map_err(bad_gateway)?;
    let name = item["name"].as_str().unwrap_or_default().to_owned();
    let quote = shop.quote(name).await.map_err(bad_gateway)?;
    Ok(Json(json!({ "item": item, "cents": quote.0, "priced by": quote.1, "pod": crate::pod() })))
}

async fn put(State(shop): State<Arc<Shop>>, body: Bytes) -> Result<String, Failure> {
    let word = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'-';
    if body.is_empty() || body.len() > 1024 || !body.iter().all(word) {
        return Err((StatusCode::BAD_REQUEST, "a cart takes one word\n".to_owned()));
    }
    let item = String::from_utf8_lossy(&body);
    shop.cart.command(&format!("SET cart {item}")).await.map_err(bad_gateway)
}

async fn look(State(shop): State<Arc<Shop>>) -> Result<String, Failure> {
    shop.cart.command("EXISTS cart").await.map_err(bad_gateway)
}

async fn offer(State(shop): State<Arc<Shop>>) -> String {
    shop.offer.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

impl Shop {
    /// A read may be asked for again, once: a connection that was kept may end just then.
    async fn item(&self, number: usize) -> anyhow::Result<Value> {
        let uri: http::Uri = format!("http://{}/items/{number}", self.args.catalogue).parse()?;
        let response = match self.http.get(uri.clone()).await {
            Ok(response) => response,
            Err(_) => self.http.get(uri).await.context("catalogue")?,
        };
        anyhow::ensure!(response.status().is_success(), "catalogue: {}", response.status());
        let body = response.into_body().collect().await.context("catalogue's answer")?;
        Ok(serde_json::from_slice(&body.to_bytes())?)
    }

    /// As [`Self::item`].
    async fn quote(&self, item: String) -> anyhow::Result<(u64, String)> {
        let ask = || self.pricing.clone();
        let reply = match ask().quote(QuoteRequest { item: item.clone() }).await {
            Err(status) if matches!(status.code(), Code::Unavailable | Code::Unknown | Code::Cancelled) => {
                ask().quote(QuoteRequest { item }).await
            }
            reply => reply,
        };
        let reply = reply.context("pricing")?.into_inner();
        Ok((reply.cents, reply.pod))
    }
}

/// Keeps a WebSocket to the ticker.
async fn follow_offers(shop: Arc<Shop>) {
    loop {
        let ended = follow(&shop).await;
        if let Err(error) = ended {
            eprintln!("ticker: {error:#}");
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

async fn follow(shop: &Shop) -> anyhow::Result<()> {
    let stream = TcpStream::connect(&shop.args.ticker).await?;
    let url = format!("ws://{}/offers", shop.args.ticker);
    let (mut socket, _) = tokio_tungstenite::client_async(url, stream).await?;
    while let Some(message) = socket.next().await {
        if let Ok(text) = message?.into_text() {
            *shop.offer.lock().unwrap_or_else(PoisonError::into_inner) = text.to_string();
        }
    }
    Ok(())
}
