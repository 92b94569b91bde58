//! Ten thousand connections, each after one request, idle at one proxy; and after a while they all still work.

use super::{
    at_least,
    shop::{AUTHORITY, Shop},
    steady, tell,
};
use crate::report::Report;
use anyhow::{Context as _, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http1::SendRequest;
use remora_tests::local::Program;
use std::{net::SocketAddr, path::Path, time::Duration};

const CONNECTIONS: usize = 10_000;
/// Opened at once.
const BATCH: usize = 100;

/// Between two looks at the memory.
const LOOK: Duration = Duration::from_millis(100);
/// It has settled after so many looks alike, …
const LOOKS_SAME: u32 = 10;
/// … and never will after so many.
const LOOKS_MAX: u32 = 300;

type Connection = SendRequest<Empty<Bytes>>;

pub(super) fn run(time: Duration, logs: Option<&Path>, report: &mut Report) -> anyhow::Result<()> {
    let shop = Shop::open(1, logs)?;
    // Connections are driven while this waits, so that one that is closed is known to be.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(hold(&shop, time, report))
}

async fn hold(shop: &Shop, time: Duration, report: &mut Report) -> anyhow::Result<()> {
    let proxy = &shop.web.program;
    let before = proxy.resident_bytes()?;
    let mut held = open(shop.web.outbound).await?;
    let after = settled(&shop.web.program).await?;
    tell(report, "resident memory before", before as f64 / 1e6, "MB");
    tell(report, "resident memory with them", after as f64 / 1e6, "MB");
    let each = (after.saturating_sub(before)) as f64 / CONNECTIONS as f64 / 1024.0;
    tell(report, "memory per idle connection", each, "KiB");
    tokio::time::sleep(time).await;
    let open = held.iter().filter(|connection| !connection.is_closed()).count();
    at_least(report, format!("connections open after {} s idle", time.as_secs()), open as f64, CONNECTIONS as f64, "");
    let mut answered = 0;
    for connection in held.iter_mut().filter(|connection| connection.is_ready()) {
        answered += usize::from(ask(connection).await.is_ok());
    }
    at_least(report, "of them answered once more", f64::from(u32::try_from(answered)?), CONNECTIONS as f64, "");
    shop.web.admin("/live").context("the admin port")?;
    Ok(())
}

/// The resident memory once it no longer changes: the last answers are written, what they took is given back.
pub(super) async fn settled(proxy: &Program) -> anyhow::Result<u64> {
    let (mut looks, mut last, mut same) = (tokio::time::interval(LOOK), proxy.resident_bytes()?, 0);
    for _ in 0..LOOKS_MAX {
        looks.tick().await;
        let now = proxy.resident_bytes()?;
        same = if now == last { same + 1 } else { 0 };
        last = now;
        if same == LOOKS_SAME {
            return Ok(now);
        }
    }
    anyhow::bail!("the proxy's memory does not settle; it is at {last} bytes")
}

async fn open(to: SocketAddr) -> anyhow::Result<Vec<Connection>> {
    let mut held = Vec::with_capacity(CONNECTIONS);
    while held.len() < CONNECTIONS {
        let mut batch = tokio::task::JoinSet::new();
        for _ in 0..BATCH.min(CONNECTIONS - held.len()) {
            batch.spawn(async move {
                let mut connection = steady::connect(to).await?;
                ask(&mut connection).await?;
                anyhow::Ok(connection)
            });
        }
        while let Some(opened) = batch.join_next().await {
            held.push(opened?.with_context(|| format!("after {} connections", held.len()))?);
        }
    }
    Ok(held)
}

async fn ask(connection: &mut Connection) -> anyhow::Result<()> {
    let request = http::Request::get("/idle").header("host", AUTHORITY).body(Empty::new())?;
    let response = connection.send_request(request).await?;
    ensure!(response.status() == 200, "{}", response.status());
    response.into_body().collect().await?;
    connection.ready().await?;
    Ok(())
}
