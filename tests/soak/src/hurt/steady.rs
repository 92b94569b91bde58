//! A steady load: GETs at a fixed rate, whatever becomes of the earlier ones. In: where, how often. Out: what became of
//! each request. Connections are kept and reused; when all are busy, another is opened.

use super::backend::SERVED_BY;
use crate::report::Report;
use anyhow::Context as _;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};
use tokio::{net::TcpStream, time::MissedTickBehavior};

/// A load that is later than this was not the one that was asked for.
const LATE: Duration = Duration::from_millis(500);
/// A request without an answer after this has failed.
const PATIENCE: Duration = Duration::from_secs(10);

/// What became of a request.
#[derive(Debug, Clone)]
pub(crate) struct Sample {
    /// When it was sent.
    pub(crate) at: Instant,
    /// When its answer had come to its end.
    pub(crate) done: Instant,
    /// 0 if there was no answer.
    pub(crate) status: u16,
    /// The backend that answered.
    pub(crate) by: String,
    /// What went wrong: the proxy's reason, or the client's.
    pub(crate) error: String,
}

impl Sample {
    pub(crate) fn failed(&self) -> bool {
        self.status != 200
    }
}

type Samples = Arc<Mutex<Vec<Sample>>>;
type Pool = Arc<Mutex<Vec<SendRequest<Empty<Bytes>>>>>;

/// A load that goes on until it is stopped.
#[derive(Debug)]
pub(crate) struct Load {
    samples: Samples,
    stop: Arc<AtomicBool>,
    /// Ends with how late a request was sent at most.
    thread: JoinHandle<anyhow::Result<Duration>>,
}

impl Load {
    /// So many GETs a second of `authority`, through the proxy at `to`.
    pub(crate) fn start(to: SocketAddr, authority: &'static str, per_second: u32) -> Self {
        let (samples, stop) = (Samples::default(), Arc::new(AtomicBool::new(false)));
        let parts = (samples.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            anyhow::Ok(runtime.block_on(drive(to, authority, per_second, parts)))
        });
        Self { samples, stop, thread }
    }

    /// Sends no more, and waits for what is under way. Tells how steady it was: a busy machine says little of the mesh.
    pub(crate) fn stop(self, report: &mut Report) -> anyhow::Result<Vec<Sample>> {
        self.stop.store(true, Ordering::Relaxed);
        let late = self.thread.join().map_err(|_| anyhow::anyhow!("the load panicked"))??;
        let busy = if late > LATE { ", the machine is too busy to judge by" } else { "" };
        report.note("requests were sent late by at most", format!("{:.3} s{busy}", late.as_secs_f64()));
        let samples = Arc::try_unwrap(self.samples).ok().context("the load still runs")?;
        Ok(samples.into_inner().unwrap_or_else(PoisonError::into_inner))
    }
}

async fn drive(
    to: SocketAddr,
    authority: &'static str,
    per_second: u32,
    (samples, stop): (Samples, Arc<AtomicBool>),
) -> Duration {
    let pool = Pool::default();
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / per_second);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let (mut under_way, mut late) = (tokio::task::JoinSet::new(), Duration::ZERO);
    while !stop.load(Ordering::Relaxed) {
        let due = ticks.tick().await;
        late = late.max(due.elapsed());
        while under_way.try_join_next().is_some() {}
        let (pool, samples) = (pool.clone(), samples.clone());
        under_way.spawn(async move {
            let sample = one(to, authority, &pool).await;
            samples.lock().unwrap_or_else(PoisonError::into_inner).push(sample);
        });
    }
    while under_way.join_next().await.is_some() {}
    late
}

async fn one(to: SocketAddr, authority: &str, pool: &Pool) -> Sample {
    let at = Instant::now();
    let answered = tokio::time::timeout(PATIENCE, ask(to, authority, pool)).await;
    let answered = answered.unwrap_or_else(|_| Err(anyhow::anyhow!("no answer in {PATIENCE:?}")));
    let done = Instant::now();
    match answered {
        Ok((status, by, error)) => Sample { at, done, status, by, error },
        Err(error) => Sample { at, done, status: 0, by: String::new(), error: format!("{error:#}") },
    }
}

async fn ask(to: SocketAddr, authority: &str, pool: &Pool) -> anyhow::Result<(u16, String, String)> {
    let kept = pool.lock().unwrap_or_else(PoisonError::into_inner).pop().filter(SendRequest::is_ready);
    let mut connection = match kept {
        Some(kept) => kept,
        None => connect(to).await?,
    };
    let request = http::Request::get("/items").header("host", authority).body(Empty::new())?;
    let response = connection.send_request(request).await?;
    let header =
        |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    let (status, by, error) = (response.status().as_u16(), header(SERVED_BY), header("x-remora-error"));
    response.into_body().collect().await?;
    connection.ready().await?;
    pool.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
    Ok((status, by, error))
}

/// A connection of HTTP/1, driven beside.
pub(crate) async fn connect(to: SocketAddr) -> anyhow::Result<SendRequest<Empty<Bytes>>> {
    let stream = TcpStream::connect(to).await.with_context(|| format!("connecting to {to}"))?;
    stream.set_nodelay(true)?;
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // How it ends, its requests tell.
    tokio::spawn(async move { drop(connection.await) });
    Ok(sender)
}
