//! `catalogue`: what there is to buy, over HTTP/1. Told so, it is slow, or fails now and then.

use crate::stop::Stop;
use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
    routing::{Router, get},
};
use serde_json::{Value, json};
use std::{sync::Arc, time::Duration};
use tokio::net::TcpListener;

const ITEMS: [&str; 5] = ["tea", "coffee", "cocoa", "sugar", "milk"];

/// What is wrong with this replica: nothing, if not told.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct Args {
    /// How long an item takes
    #[arg(long, default_value_t = 0, value_name = "MILLISECONDS")]
    delay: u64,
    /// How many of a hundred items fail
    #[arg(long, default_value_t = 0, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(..=100))]
    fail: u8,
}

pub(crate) async fn run(listener: TcpListener, args: Args, stop: Stop) -> anyhow::Result<()> {
    let items = Router::new().route("/items/{number}", get(item)).with_state(Arc::new(args));
    let routes = Router::new()
        .route("/healthz", get(|| async { "well\n" }))
        .route("/items", get(|| async { Json(ITEMS) }))
        .merge(items);
    stop.serve(listener, routes).await
}

async fn item(State(args): State<Arc<Args>>, Path(number): Path<usize>) -> Result<Json<Value>, StatusCode> {
    if args.delay > 0 {
        tokio::time::sleep(Duration::from_millis(args.delay)).await;
    }
    if number * 37 % 100 < usize::from(args.fail) {
        return Err(StatusCode::INTERNAL_SERVER_ERROR);
    }
    let name = ITEMS.get(number % ITEMS.len()).ok_or(StatusCode::NOT_FOUND)?;
    Ok(Json(json!({ "number": number, "name": name, "pod": crate::pod() })))
}
