//! `visitor`: somebody who buys, steadily, and counts what goes wrong, so that "nothing failed" rests on what a client saw.
//!
//! Out: the [`Tally`] as a JSON line on standard output, every second and at the end, and at `GET /`.

use crate::stop::Stop;
use anyhow::{Context as _, ensure};
use axum::{
    Json,
    routing::{Router, get},
};
use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt as _, Full};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde::Serialize;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{
    net::TcpListener,
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, timeout},
};

/// How long a person would wait.
const PATIENCE: Duration = Duration::from_secs(10);
/// Different failures told apart; more are counted under `other`.
const FAILURES_MAX: usize = 32;
/// One request in this many writes, …
const WRITE_EVERY: u64 = 5;
/// … and one in this many comes on a connection of its own.
const NEW_CONNECTION_EVERY: u64 = 3;
/// Latencies kept for the quantiles, a ring.
const LATENCIES_MAX: usize = 10_000;

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// The front
    #[arg(long, default_value = "http://web:8080")]
    web: String,
    /// Requests per second
    #[arg(long, default_value_t = 50)]
    rate: u32,
    /// What to buy: one word, to be looked for in a capture
    #[arg(long, default_value = "tea")]
    buy: String,
}

/// What was seen since the start.
#[derive(Debug, Clone, Default, Serialize)]
struct Tally {
    pod: String,
    sent: u64,
    ok: u64,
    failed: u64,
    /// What went wrong, how often.
    failures: BTreeMap<String, u64>,
    p50_ms: f64,
    p99_ms: f64,
    #[serde(skip)]
    latencies: Vec<f64>,
}

type Shared = Arc<Mutex<Tally>>;
type Http = Client<HttpConnector, Full<Bytes>>;

fn client(idle: usize) -> Http {
    Client::builder(TokioExecutor::new()).pool_max_idle_per_host(idle).build(HttpConnector::new())
}

/// Sends requests until SIGTERM, and waits for the last answers.
pub(crate) async fn run(listener: TcpListener, args: Args, stop: Stop) -> anyhow::Result<()> {
    let tally = Shared::new(Mutex::new(Tally { pod: crate::pod(), ..Tally::default() }));
    let seen = tally.clone();
    let routes = Router::new().route("/", get(move || async move { Json(look(&seen)) }));
    let server = tokio::spawn(async move { axum::serve(listener, routes).await });
    let (kept, fresh) = (client(usize::MAX), client(0));
    let mut every = interval(Duration::from_secs(1) / args.rate.max(1));
    // A pause is not made up for by a burst.
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut report = interval(Duration::from_secs(1));
    let mut told = std::pin::pin!(stop.told());
    let mut open = JoinSet::new();
    let mut number = 0;
    loop {
        tokio::select! {
            () = &mut told => break,
            _ = report.tick() => println!("{}", serde_json::to_string(&look(&tally))?),
            Some(_) = open.join_next() => {}
            _ = every.tick() => {
                number += 1;
                let client = if number % NEW_CONNECTION_EVERY == 0 { &fresh } else { &kept };
                open.spawn(visit(client.clone(), request(&args, number)?, tally.clone()));
            }
        }
    }
    while open.join_next().await.is_some() {}
    println!("{}", serde_json::to_string(&look(&tally))?);
    server.abort();
    Ok(())
}

fn request(args: &Args, number: u64) -> anyhow::Result<Request<Full<Bytes>>> {
    let (method, path, body) = match number {
        _ if number.is_multiple_of(WRITE_EVERY) => (Method::POST, "/cart".to_owned(), args.buy.clone()),
        _ if number % WRITE_EVERY == 1 => (Method::GET, "/offers".to_owned(), String::new()),
        _ => (Method::GET, format!("/items/{}", number % 100), String::new()),
    };
    let uri = format!("{}{path}", args.web.trim_end_matches('/'));
    Request::builder().method(method).uri(uri).body(Full::from(body)).context("--web is no URL")
}

async fn visit(client: Http, request: Request<Full<Bytes>>, tally: Shared) {
    let began = Instant::now();
    let what = format!("{} {}", request.method(), request.uri().path().split('/').nth(1).unwrap_or_default());
    let outcome = timeout(PATIENCE, exchange(client, request)).await;
    let outcome = outcome.unwrap_or_else(|_| Err(anyhow::anyhow!("no answer within {} s", PATIENCE.as_secs())));
    let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
    tally.count(&what, outcome, began.elapsed());
}

async fn exchange(client: Http, request: Request<Full<Bytes>>) -> anyhow::Result<()> {
    let response = client.request(request).await?;
    let (status, reason) = (response.status(), response.headers().get("x-remora-error").cloned());
    let body = response.into_body().collect().await.context("the answer's body")?.to_bytes();
    let text = || String::from_utf8_lossy(&body[..body.len().min(200)]).trim().to_owned();
    ensure!(status.is_success(), "{status} {reason:?}: {}", text());
    Ok(())
}

impl Tally {
    fn count(&mut self, what: &str, outcome: anyhow::Result<()>, took: Duration) {
        let number = self.sent;
        self.sent += 1;
        let ms = took.as_secs_f64() * 1000.0;
        if self.latencies.len() < LATENCIES_MAX {
            self.latencies.push(ms);
        } else if let Some(oldest) = self.latencies.get_mut(usize::try_from(number).unwrap_or_default() % LATENCIES_MAX)
        {
            *oldest = ms;
        }
        let Err(error) = outcome else {
            self.ok += 1;
            return;
        };
        self.failed += 1;
        let why = format!("{what}: {error:#}");
        let known = self.failures.len() < FAILURES_MAX || self.failures.contains_key(&why);
        *self.failures.entry(if known { why } else { "other".to_owned() }).or_default() += 1;
    }
}

/// A copy with its quantiles.
fn look(tally: &Shared) -> Tally {
    let mut copy = tally.lock().unwrap_or_else(PoisonError::into_inner).clone();
    copy.latencies.sort_by(f64::total_cmp);
    let quantile = |percent: usize| {
        let at = (copy.latencies.len() * percent).div_ceil(100).saturating_sub(1);
        copy.latencies.get(at).copied().unwrap_or_default()
    };
    (copy.p50_ms, copy.p99_ms) = (quantile(50), quantile(99));
    copy
}

/// One visit that ends: the CronJob's.
pub(crate) async fn report(web: &str) -> anyhow::Result<()> {
    for path in ["/items/1", "/cart", "/offers"] {
        let uri = format!("{}{path}", web.trim_end_matches('/'));
        let request = Request::get(&uri).body(Full::default()).context("--web is no URL")?;
        timeout(PATIENCE, exchange(client(1), request)).await.context("no answer")?.context(uri)?;
    }
    println!("all is well");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_told_apart_up_to_a_bound() {
        let mut tally = Tally::default();
        tally.count("GET items", Ok(()), Duration::from_millis(1));
        for number in 0..FAILURES_MAX + 2 {
            tally.count("GET items", Err(anyhow::anyhow!("failure {number}")), Duration::from_millis(2));
        }
        assert_eq!((tally.sent, tally.ok, tally.failed), (FAILURES_MAX as u64 + 3, 1, FAILURES_MAX as u64 + 2));
        assert_eq!(tally.failures.get("other"), Some(&2));
    }
}
