//! Four byte streams carry what they can between two pods, and a hundred GETs a second go beside them, through the same two
//! proxies with a worker each: bytes must yield. The streams keep every core busy, so that each step of a request waits for
//! one: how long, requests of a second pair of proxies tell at the same time, which carries no stream.

use super::{
    at_least, at_most, failures, pause, percentile_ms, sent,
    steady::{Load, Sample},
    tell, victim,
};
use crate::report::Report;
use remora_tests::{
    local::{Mesh, Proxy, thread_elsewhere},
    patience::until,
};
use std::{
    net::SocketAddr,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::sleep,
};

const PER_SECOND: u32 = 100;
const STREAMS: usize = 4;
/// How long the requests have the proxies to themselves, to know how long they take then.
const ALONE: Duration = Duration::from_secs(15);
/// Not counted: connections are opened, and what is measured of answers becomes known.
const SETTLING: Duration = Duration::from_secs(3);
/// Fewer would be no burden.
const LEAST_MEGABYTES_A_SECOND: f64 = 50.0;
/// What asks a proxy in explicit mode for a byte connection to the Service `raw`.
pub(super) const TUNNEL: &str = "CONNECT raw:9000 HTTP/1.1\r\nhost: raw:9000\r\n\r\n";

pub(super) fn run(time: Duration, logs: Option<&Path>, report: &mut Report) -> anyhow::Result<()> {
    let mesh = Mesh::start(std::env::current_exe()?)?;
    let (pair, ports) = Pair::open(&mesh, "web", "api")?;
    let (control_pair, _) = Pair::open(&mesh, "calm-web", "calm")?;
    mesh.service("raw", 9000, None, &[ports.bytes])?;
    let load = Load::start(pair.client.outbound, "api:80", PER_SECOND);
    let control = Load::start(control_pair.client.outbound, "calm:80", PER_SECOND);
    let alone = Instant::now();
    pause(SETTLING + ALONE);
    let (megabytes, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let began = Instant::now();
    let (to, counted, ended) = (pair.client.outbound, megabytes.clone(), stop.clone());
    let streams = thread_elsewhere(move || {
        tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
            let mut all = tokio::task::JoinSet::new();
            for _ in 0..STREAMS {
                all.spawn(read_bulk(to, counted.clone()));
            }
            while !ended.load(Relaxed) {
                sleep(Duration::from_millis(100)).await;
            }
        });
        Ok(())
    })?;
    pause(SETTLING + time);
    let carried = megabytes.load(Relaxed) as f64 / began.elapsed().as_secs_f64();
    let (samples, control) = (load.stop(report)?, control.stop(report)?);
    stop.store(true, Relaxed);
    streams.join().map_err(|_| anyhow::anyhow!("the streams panicked"))??;
    let percentile = |samples: &[Sample], from, time, percent| {
        percentile_ms(sent(samples, from, SETTLING..SETTLING + time), percent)
    };
    at_least(report, "bytes carried beside", carried, LEAST_MEGABYTES_A_SECOND, "MB/s");
    let failed = failures(report, samples.iter());
    at_most(report, format!("requests failed, of {}", samples.len()), failed, 0.0, "");
    for percent in [50, 99] {
        let before = percentile(&samples, alone, ALONE, percent);
        let beside = percentile(&control, began, time, percent);
        let burdened = percentile(&samples, began, time, percent);
        tell(report, format!("p{percent} alone"), before, "ms");
        at_most(report, format!("p{percent}, by alone"), burdened, 2.0 * before + 1.0, "ms");
        tell(report, format!("p{percent} of proxies without streams, beside"), beside, "ms");
        at_most(report, format!("p{percent}, by that"), burdened, 2.0 * beside + 1.0, "ms");
    }
    if let Some(logs) = logs {
        std::fs::create_dir_all(logs)?;
        for proxy in [&pair.client, &pair.server] {
            std::fs::write(logs.join(format!("{}.log", proxy.program.name())), proxy.log())?;
        }
    }
    Ok(())
}

/// A caller and a server with the Service `server`, a proxy each.
pub(super) struct Pair {
    pub(super) client: Proxy,
    pub(super) server: Proxy,
}

impl Pair {
    pub(super) fn open(mesh: &Mesh, client: &str, server: &'static str) -> anyhow::Result<(Self, victim::Ports)> {
        let spec = mesh.proxy(server);
        let ports = victim::start(spec.ip())?;
        let pair = Self {
            client: mesh.proxy(client).env("LOG", "info").spawn()?.ready()?,
            server: spec.env("LOG", "info").spawn()?.ready()?,
        };
        mesh.service(server, 80, Some("http"), &[ports.http])?;
        let authority = format!("{server}:80");
        until(&format!("{server} answers"), || Ok((pair.client.get(&authority, "/")?.status == 200).then_some(())))?;
        Ok((pair, ports))
    }
}

/// Reads bytes without end from the Service `raw` through a proxy, over and over, and counts megabytes.
pub(super) async fn read_bulk(to: SocketAddr, megabytes: Arc<AtomicU64>) {
    let mut buffer = vec![0; 1 << 20];
    loop {
        let read = async {
            let mut stream = TcpStream::connect(to).await?;
            stream.write_all(TUNNEL.as_bytes()).await?;
            loop {
                stream.read_exact(&mut buffer).await?;
                megabytes.fetch_add(1, Relaxed);
            }
        };
        let _: std::io::Result<()> = read.await;
        sleep(Duration::from_millis(5)).await;
    }
}
