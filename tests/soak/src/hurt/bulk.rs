//! Four byte streams carry what they can between two pods, and a hundred GETs a second go beside them, through the same two
//! proxies with a worker each: bytes must yield. The ends of the streams run on what the proxies leave of the cores, so that
//! it is the proxies that are judged and not how the kernel shares a core.

use super::steady::Load;
use super::{at_least, at_most, failures, pause, percentile_ms, sent, tell, victim};
use crate::report::Report;
use remora_tests::local::{Mesh, thread_elsewhere};
use remora_tests::patience::until;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::sleep;

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
    let spec = mesh.proxy("api");
    let ports = victim::start(spec.ip())?;
    let (web, api) = (mesh.proxy("web").env("LOG", "info").spawn()?, spec.env("LOG", "info").spawn()?);
    mesh.service("api", 80, Some("http"), &[ports.http])?;
    mesh.service("raw", 9000, None, &[ports.bytes])?;
    let (web, api) = (web.ready()?, api.ready()?);
    until("api answers", || Ok((web.get("api:80", "/")?.status == 200).then_some(())))?;
    let load = Load::start(web.outbound, "api:80", PER_SECOND);
    let alone = Instant::now();
    pause(SETTLING + ALONE);
    let (megabytes, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let began = Instant::now();
    let (to, counted, ended) = (web.outbound, megabytes.clone(), stop.clone());
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
    let samples = load.stop(report)?;
    stop.store(true, Relaxed);
    streams.join().map_err(|_| anyhow::anyhow!("the streams panicked"))??;
    let percentile = |from, time, percent| percentile_ms(sent(&samples, from, SETTLING..SETTLING + time), percent);
    at_least(report, "bytes carried beside", carried, LEAST_MEGABYTES_A_SECOND, "MB/s");
    let failed = failures(report, samples.iter());
    at_most(report, format!("requests failed, of {}", samples.len()), failed, 0.0, "");
    tell(report, "p50 alone", percentile(alone, ALONE, 50), "ms");
    tell(report, "p50", percentile(began, time, 50), "ms");
    let before = percentile(alone, ALONE, 99);
    tell(report, "p99 alone", before, "ms");
    at_most(report, "p99", percentile(began, time, 99), 2.0 * before + 1.0, "ms");
    if let Some(logs) = logs {
        std::fs::create_dir_all(logs)?;
        for proxy in [&web, &api] {
            std::fs::write(logs.join(format!("{}.log", proxy.program.name())), proxy.log())?;
        }
    }
    Ok(())
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
