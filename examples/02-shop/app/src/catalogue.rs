//! `catalogue`: what there is to buy, over HTTP/1.

use crate::stop::Stop;
use axum::{
    Json,
    extract::Path,
    http::StatusCode,
    routing::{Router, get},
};
use serde_json::{Value, json};
use tokio::net::TcpListener;

const ITEMS: [&str; 5] = ["tea", "coffee", "cocoa", "sugar", "milk"];

pub(crate) async fn run(listener: TcpListener, stop: Stop) -> anyhow::Result<()> {
    let routes = Router::new()
        .route("/healthz", get(|| async { "well\n" }))
        .route("/items", get(|| async { Json(ITEMS) }))
        .route("/items/{number}", get(item));
    stop.serve(listener, routes).await
}

async fn item(Path(number): Path<usize>) -> Result<Json<Value>, StatusCode> {
    let name = ITEMS.get(number % ITEMS.len()).ok_or(StatusCode::NOT_FOUND)?;
    Ok(Json(json!({ "number": number, "name": name, "pod": crate::pod() })))
}
