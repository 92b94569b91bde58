//! `web`: the load. It counts what it sees itself, so that the demo's verdict does not rest on the mesh's own numbers.
//!
//! Out: one JSON line of [`Tally`] per second on standard output.

use anyhow::Context;
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use std::{
    cell::RefCell,
    collections::BTreeMap,
    net::SocketAddr,
    rc::Rc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::{
    net::TcpStream,
    task::LocalSet,
    time::{Instant, MissedTickBehavior, interval_at, timeout},
};

/// How many requests can be under way at once.
const CONNECTIONS: u32 = 16;
/// One request in this many writes; the others read.
const WRITE_EVERY: u64 = 5;
/// How long a person would wait.
const PATIENCE: Duration = Duration::from_secs(10);
/// Latencies kept for the quantiles of one report; a second at the usual rate has far fewer.
const LATENCIES_MAX: usize = 10_000;
/// Kinds of failures that are counted separately; more are counted under `other`.
const FAILURES_MAX: usize = 32;
const AUTHORITY: &str = "api.shop:8080";

/// Failures listed one by one in a report; a second at the usual rate has far fewer requests.
const RECENT_MAX: usize = 1000;

/// What the caller saw since it started.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Tally {
    /// When this was written, in milliseconds since 1970.
    pub(crate) at_ms: u64,
    pub(crate) sent: u64,
    pub(crate) ok: u64,
    /// Of those, writes.
    pub(crate) writes_ok: u64,
    /// What went wrong, how often.
    pub(crate) failures: BTreeMap<String, u64>,
    /// The good answers of each pod of `api`.
    pub(crate) by_pod: BTreeMap<String, Answers>,
    /// Of the last second, in milliseconds.
    pub(crate) p50_ms: f64,
    pub(crate) p95_ms: f64,
    pub(crate) p99_ms: f64,
    /// The failures since the last report, so that the demo can judge which were to be expected.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) recent: Vec<Failure>,
}

/// Good answers of one pod, or of several together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Answers {
    pub(crate) count: u64,
    /// How long they took all together.
    pub(crate) total_ms: f64,
}

impl Answers {
    /// How long one took.
    pub(crate) fn mean_ms(self) -> f64 {
        #[allow(clippy::cast_precision_loss, reason = "a mean needs no 53 bits")]
        let count = self.count.max(1) as f64;
        self.total_ms / count
    }
}

/// One request that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Failure {
    pub(crate) write: bool,
    /// A status and the mesh's reason, or what broke.
    pub(crate) why: String,
    /// In milliseconds since 1970, as is `ended_ms`.
    pub(crate) began_ms: u64,
    pub(crate) ended_ms: u64,
}

impl Tally {
    /// How many failed.
    pub(crate) fn failed(&self) -> u64 {
        self.failures.values().sum()
    }
}

/// The milliseconds since 1970: the clock that two processes share.
pub(crate) fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// The counting, and what a report's quantiles are made of.
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
            counts.tally.at_ms = unix_ms();
            let line = serde_json::to_string(&counts.tally)?;
            counts.tally.recent.clear();
            line
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
        let (began, began_ms) = (Instant::now(), unix_ms());
        counts.borrow_mut().tally.sent += 1;
        let outcome = timeout(PATIENCE, exchange(proxy, &mut connection, number)).await;
        let outcome = match outcome {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => Err(format!("{error:#}")),
            Err(_) => Err(format!("no answer within {} s", PATIENCE.as_secs())),
        };
        if outcome.is_err() {
            connection = None;
        }
        let mut counts = counts.borrow_mut();
        let took_ms = began.elapsed().as_secs_f64() * 1000.0;
        counts.took(took_ms);
        match outcome {
            Ok(pod) => counts.good(pod, is_write(number), took_ms),
            Err(why) => counts.bad(Failure { write: is_write(number), why, began_ms, ended_ms: unix_ms() }),
        }
    }
}

impl Counts {
    fn took(&mut self, ms: f64) {
        if self.latencies.len() < LATENCIES_MAX {
            self.latencies.push(ms);
        }
    }

    fn good(&mut self, pod: String, write: bool, took_ms: f64) {
        self.tally.ok += 1;
        self.tally.writes_ok += u64::from(write);
        let answers = self.tally.by_pod.entry(pod).or_default();
        answers.count += 1;
        answers.total_ms += took_ms;
    }

    fn bad(&mut self, failure: Failure) {
        let failures = &mut self.tally.failures;
        let what = format!("{}: {}", if failure.write { "POST /cart" } else { "GET /items" }, failure.why);
        let known = failures.len() < FAILURES_MAX || failures.contains_key(&what);
        *failures.entry(if known { what } else { "other".to_owned() }).or_default() += 1;
        if self.tally.recent.len() < RECENT_MAX {
            self.tally.recent.push(failure);
        }
    }
}

type Connection = Option<SendRequest<Full<Bytes>>>;

/// One request: the pod that answered. The inner error is an answer that says no: its status and the mesh's reason.
async fn exchange(
    proxy: SocketAddr,
    connection: &mut Connection,
    number: u64,
) -> anyhow::Result<Result<String, String>> {
    let sender = match connection.take().filter(|sender| !sender.is_closed()) {
        Some(sender) => connection.insert(sender),
        None => connection.insert(connect(proxy).await.context("own proxy")?),
    };
    sender.ready().await.context("own proxy closed the connection")?;
    let response = sender.send_request(request(number)?).await.context("request")?;
    let status = response.status();
    let header = |name| response.headers().get(name).and_then(|it| it.to_str().ok()).map(str::to_owned);
    let (reason, pod) = (header("x-remora-error"), header("x-pod").unwrap_or_default());
    response.into_body().collect().await.context("response body")?;
    if status.is_success() {
        return Ok(Ok(pod));
    }
    Ok(Err(reason.map_or_else(|| status.as_str().to_owned(), |reason| format!("{} {reason}", status.as_str()))))
}

async fn connect(proxy: SocketAddr) -> anyhow::Result<SendRequest<Full<Bytes>>> {
    let (sender, connection) = http1::handshake(TokioIo::new(TcpStream::connect(proxy).await?)).await?;
    // Ends when the sender is dropped or the proxy closes.
    tokio::task::spawn_local(async move { connection.await.ok() });
    Ok(sender)
}

fn is_write(number: u64) -> bool {
    number.is_multiple_of(WRITE_EVERY)
}

fn request(number: u64) -> anyhow::Result<Request<Full<Bytes>>> {
    let request = if is_write(number) {
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
            counts.bad(Failure { write: true, why: format!("failure {number}"), began_ms: 0, ended_ms: 0 });
        }
        assert_eq!(counts.tally.failures.get("other"), Some(&5));
    }
}
