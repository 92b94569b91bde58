//! A helper process: holds streams of many proxies, on one thread.
//!
//! In, on standard input: a [`Plan`], then `streams`. Out, on standard output: an [`Event`] a line. It ends with its input.

use crate::{
    pki::Authority,
    proxy::{self, Asked as Subscribed},
    world::{ACCOUNT, Shape},
};
use anyhow::{Context as _, Result};
use remora_model::SpiffeId;
use remora_runtime::tls::{Alpn, ClientConfig, client_config};
use serde::{Deserialize, Serialize};
use std::{
    collections::HashMap,
    io::{BufRead as _, Write as _},
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::{
    sync::{Semaphore, mpsc},
    task::JoinSet,
};

/// Connections, and then streams, that are opened at the same time: this thread plays many machines, and has to keep up.
const AT_ONCE: usize = 32;

/// What a helper holds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Plan {
    pub(crate) shape: Shape,
    /// Its streams are `first`, `first + step` and so on.
    pub(crate) first: u32,
    pub(crate) step: u32,
    pub(crate) discovery: SocketAddr,
    pub(crate) issuer: PathBuf,
}

/// What a helper says.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Event {
    /// All connections are open; no stream is.
    Connected,
    /// All streams have everything that they asked for; said again when that is so once more after some were lost.
    Settled,
    /// All streams that asked for the Service have the change; when each got it, in microseconds since 1970.
    Arrived { service: String, mark: u32, at: Vec<u64> },
    /// A stream ended.
    Lost { why: String },
}

/// Plays the helper until its standard input ends.
pub(crate) fn run() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(hold())
}

async fn hold() -> Result<()> {
    let mut input = input();
    let plan: Plan = serde_json::from_str(&line(&mut input).await?)?;
    let streams = (plan.first..plan.shape.streams).step_by(plan.step as usize);
    let configs = configs(&plan)?;
    let (mut connecting, mut channels) = (JoinSet::new(), Vec::new());
    for stream in streams {
        let (namespace, _) = plan.shape.pod(stream);
        let config = configs.get(&namespace).context("a namespace without a certificate")?;
        let (discovery, config) = (plan.discovery, Arc::clone(config));
        if connecting.len() == AT_ONCE {
            channels.push(joined(&mut connecting).await?);
        }
        connecting
            .spawn(async move { Ok::<_, anyhow::Error>((stream, proxy::connect(discovery, stream, config).await?)) });
    }
    while !connecting.is_empty() {
        channels.push(joined(&mut connecting).await?);
    }
    say(&Event::Connected)?;
    line(&mut input).await?;
    let (tell, mut told) = mpsc::unbounded_channel();
    let mut tally = Tally::default();
    let turns = Arc::new(Semaphore::new(AT_ONCE));
    for (stream, channel) in channels {
        let asked = Subscribed::of(plan.shape, stream);
        tally.expect(&asked);
        tokio::spawn(proxy::run(channel, asked, tell.clone(), Arc::clone(&turns)));
    }
    loop {
        tokio::select! {
            news = told.recv() => {
                let Some(news) = news else { return Ok(()) };
                tally.take(news)?.iter().try_for_each(say)?;
            }
            next = input.recv() => if next.is_none() { return Ok(()) },
        }
    }
}

type Connected = (u32, tonic::transport::Channel);

async fn joined(connecting: &mut JoinSet<Result<Connected>>) -> Result<Connected> {
    connecting.join_next().await.context("nothing connects")??
}

/// The lines of the standard input, until it ends.
fn input() -> mpsc::UnboundedReceiver<String> {
    let (tell, lines) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if tell.send(line).is_err() {
                return;
            }
        }
    });
    lines
}

async fn line(input: &mut mpsc::UnboundedReceiver<String>) -> Result<String> {
    input.recv().await.context("the standard input has ended")
}

fn say(event: &Event) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", serde_json::to_string(event)?)?;
    Ok(out.flush()?)
}

/// A TLS configuration for each namespace.
fn configs(plan: &Plan) -> Result<HashMap<String, Arc<ClientConfig>>> {
    let authority = Authority::read(&plan.issuer)?;
    let expected = SpiffeId::parse("spiffe://cluster.local/ns/remora/sa/remora-discovery")?;
    let of = |at: u32| {
        let namespace = format!("ns-{at}");
        let credentials = authority.credentials(&namespace, ACCOUNT)?;
        Ok((namespace, client_config(&credentials, &expected, &[Alpn::Grpc])?))
    };
    (0..plan.shape.namespaces()).map(of).collect()
}

/// How many streams have what.
#[derive(Debug, Default)]
struct Tally {
    streams: usize,
    /// Of them, how many have everything.
    settled: usize,
    /// How many asked for a Service.
    asked: HashMap<String, usize>,
    arrived: HashMap<(String, u32), Vec<u64>>,
}

impl Tally {
    fn expect(&mut self, asked: &Subscribed) {
        self.streams += 1;
        for service in &asked.watched {
            *self.asked.entry(service.clone()).or_default() += 1;
        }
    }

    fn take(&mut self, news: proxy::News) -> Result<Option<Event>> {
        Ok(match news {
            proxy::News::Settled => {
                self.settled += 1;
                (self.settled == self.streams).then_some(Event::Settled)
            }
            proxy::News::Mark { service, mark } => {
                let now = u64::try_from(since_1970()?.as_micros())?;
                let key = (service, mark);
                let at = self.arrived.entry(key.clone()).or_default();
                at.push(now);
                let all = self.asked.get(&key.0) == Some(&at.len());
                all.then(|| Event::Arrived { at: self.arrived.remove(&key).unwrap_or_default(), service: key.0, mark })
            }
            proxy::News::Lost { settled, why } => {
                self.settled -= usize::from(settled);
                Some(Event::Lost { why })
            }
        })
    }
}

/// The clock that all processes share.
pub(crate) fn since_1970() -> Result<Duration> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?)
}
