//! `web`: the load. It counts what it sees itself, so that the demo's verdict does not rest on the mesh's own numbers.
//!
//! Out: one JSON line of [`Tally`] per second on standard output.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;
use tokio::task::LocalSet;
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};

/// How many requests can be under way at once.
const CONNECTIONS: u32 = 16;
/// One request in this many writes; the others read.
const WRITE_EVERY: u64 = 5;
/// How long a person would wait.
const PATIENCE: Duration = Duration::from_secs(10);
/// Latencies kept for the quantiles of one report; a second at the usual rate has far fewer.
const LATENCIES_MAX: usize = 10_000;
/// Different failures told apart; more are counted under `other`.
const FAILURES_MAX: usize = 32;
const AUTHORITY: &str = "api.shop:8080";

/// What the caller saw since it started.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Tally {
    pub(crate) sent: u64,
    pub(crate) ok: u64,
    /// What went wrong, how often.
    pub(crate) failures: BTreeMap<String, u64>,
    /// Of the last second, in milliseconds.
    pub(crate) p50_ms: f64,
    pub(crate) p95_ms: f64,
    pub(crate) p99_ms: f64,
}

/// How many answers came from each pod, and the rest of the counting.
#[derive(Default)]
struct Counts {
    tally: Tally,
    latencies: Vec<f64>,
}

type Shared = Rc<RefCell<Counts>>;

/// Sends `rate` requests per second until the process is killed.
pub(crate) async fn run(proxy: SocketAddr, rate: u32) -> anyhow::Result<()> {
    let counts = Shared::default();
    let workers = LocalSet::new();
    let period = Duration::from_secs(1) * CONNECTIONS / rate.max(1);
    let start = Instant::now();
    for worker in 0..CONNECTIONS {
        let first = start + period * worker / CONNECTIONS;
        workers.spawn_local(work(proxy, counts.clone(), first, period, u64::from(worker)));
    }
    workers.run_until(report(counts)).await
}

async fn report(counts: Shared) -> anyhow::Result<()> {
    let mut every = interval_at(Instant::now() + Duration::from_secs(1), Duration::from_secs(1));
    loop {
        every.tick().await;
        let line = {
            let mut counts = counts.borrow_mut();
            let mut latencies = std::mem::take(&mut counts.latencies);
            latencies.sort_by(f64::total_cmp);
            counts.tally.p50_ms = quantile(&latencies, 50);
            counts.tally.p95_ms = quantile(&latencies, 95);
            counts.tally.p99_ms = quantile(&latencies, 99);
            serde_json::to_string(&counts.tally)?
        };
        println!("{line}");
    }
}

async fn work(proxy: SocketAddr, counts: Shared, first: Instant, period: Duration, mut number: u64) {
    let mut every = interval_at(first, period);
    // A pause (the machine slept) is not made up for by a burst.
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut connection = None;
    loop {
        every.tick().await;
        number += 1;
        let began = Instant::now();
        counts.borrow_mut().tally.sent += 1;
        let outcome = timeout(PATIENCE, exchange(proxy, &mut connection, number)).await;
        if !matches!(&outcome, Ok(Ok(Ok(())))) {
            connection = None;
        }
        let failure = match outcome {
            Ok(Ok(Ok(()))) => None,
            Ok(Ok(Err(refusal))) => Some(refusal),
            Ok(Err(error)) => Some(format!("{error:#}")),
            Err(_) => Some(format!("no answer within {} s", PATIENCE.as_secs())),
        };
        counts.borrow_mut().count(failure, began.elapsed());
    }
}

impl Counts {
    fn count(&mut self, failure: Option<String>, took: Duration) {
        if self.latencies.len() < LATENCIES_MAX {
            self.latencies.push(took.as_secs_f64() * 1000.0);
        }
        let Some(failure) = failure else {
            self.tally.ok += 1;
            return;
        };
        let failures = &mut self.tally.failures;
        let known = failures.len() < FAILURES_MAX || failures.contains_key(&failure);
        *failures.entry(if known { failure } else { "other".to_owned() }).or_default() += 1;
    }
}

type Connection = Option<SendRequest<Full<Bytes>>>;

/// One request. The inner error is an answer that says no: its status and the mesh's reason.
async fn exchange(proxy: SocketAddr, connection: &mut Connection, number: u64) -> anyhow::Result<Result<(), String>> {
    let sender = match connection.take().filter(|sender| !sender.is_closed()) {
        Some(sender) => connection.insert(sender),
        None => connection.insert(connect(proxy).await.context("own proxy")?),
    };
    sender.ready().await.context("own proxy closed the connection")?;
    let response = sender.send_request(request(number)?).await.context("request")?;
    let status = response.status();
    let reason = response.headers().get("x-remora-error").and_then(|it| it.to_str().ok()).map(str::to_owned);
    response.into_body().collect().await.context("response body")?;
    if status.is_success() {
        return Ok(Ok(()));
    }
    Ok(Err(reason.map_or_else(|| status.as_str().to_owned(), |reason| format!("{} {reason}", status.as_str()))))
}

async fn connect(proxy: SocketAddr) -> anyhow::Result<SendRequest<Full<Bytes>>> {
    let (sender, connection) = http1::handshake(TokioIo::new(TcpStream::connect(proxy).await?)).await?;
    // Ends when the sender is dropped or the proxy closes.
    tokio::task::spawn_local(async move { connection.await.ok() });
    Ok(sender)
}

fn request(number: u64) -> anyhow::Result<Request<Full<Bytes>>> {
    let request = if number.is_multiple_of(WRITE_EVERY) {
        Request::post("/cart").body(Full::from(format!("tea x{}", number % 7)))
    } else {
        Request::get(format!("/items/{}", number % 100)).body(Full::default())
    };
    let mut request = request?;
    request.headers_mut().insert(http::header::HOST, AUTHORITY.parse()?);
    Ok(request)
}

/// The smallest value that `percent` of all are not above.
fn quantile(sorted: &[f64], percent: usize) -> f64 {
    let at = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
    sorted.get(at).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_a_value_that_was_seen() {
        let sorted: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!([50, 95, 99].map(|percent| quantile(&sorted, percent)), [50.0, 95.0, 99.0]);
        assert_eq!(quantile(&[], 99).to_bits(), 0.0_f64.to_bits());
        assert_eq!(quantile(&[7.0], 50).to_bits(), 7.0_f64.to_bits());
    }

    #[test]
    fn failures_beyond_the_bound_are_counted_together() {
        let mut counts = Counts::default();
        for number in 0..FAILURES_MAX + 5 {
            counts.count(Some(format!("failure {number}")), Duration::ZERO);
        }
        assert_eq!(counts.tally.failures.get("other"), Some(&5));
    }
}
