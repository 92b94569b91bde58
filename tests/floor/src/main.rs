//! `remora-floor client|server DIR`: a bare pair of sidecars, to know what this stack costs with no features.
//!
//! In: connections redirected by netfilter. Across: HTTP/1 requests share one HTTP/2 connection over mutual TLS 1.3;
//! connections to [`BYTES_PORT`] are relayed as they are, each over its own TLS connection. Out: HTTP/1 over pooled
//! connections, or bytes. `DIR` holds `ca.crt`, `client.crt`, `client.key`, `server.crt` and `server.key`.
//!
//! It deliberately has no detection, policy, balancing, retries, timeouts, limits, metrics or drain: each of these is
//! what Remora is then seen to pay for. It is for benchmarks only and trusts everything it reads.

mod client;
mod server;
mod tls;

use anyhow::{Context, Result, bail};
use std::{net::SocketAddr, path::PathBuf};
use tokio::{
    net::TcpStream,
    task::{LocalSet, spawn_local},
};

/// Connections to this port are bytes, connections to any other are HTTP/1.
const BYTES_PORT: u16 = 5201;
/// The relay's buffer, in each direction.
const RELAY_BUFFER: usize = 64 * 1024;
/// The HTTP/2 connection carries every request of the pod, so its window is larger than one stream's.
const CONNECTION_WINDOW: u32 = 1 << 20;
const STREAM_WINDOW: u32 = 65_535;
/// Enough for any number of connections that the benchmark opens.
const STREAMS_MAX: u32 = 10_000;

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let (Some(side), Some(dir), None) = (args.next(), args.next(), args.next()) else {
        bail!("usage: remora-floor client|server DIR");
    };
    let files = tls::Files { side: side.clone(), dir: PathBuf::from(dir) };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("start tokio")?;
    LocalSet::new().block_on(&runtime, async move {
        match side.as_str() {
            "client" => client::run(tls::connector(&files)?).await,
            "server" => server::run(tls::acceptor(&files)?).await,
            other => bail!("the side is `client` or `server`, not `{other}`"),
        }
    })
}

/// Runs a connection on this thread; its failure ends only itself.
fn spawn(connection: impl Future<Output = Result<()>> + 'static) {
    spawn_local(async move {
        if let Err(error) = connection.await {
            eprintln!("remora-floor: {error:#}");
        }
    });
}

/// Where the application meant to connect before netfilter redirected it here.
fn original_destination(stream: &TcpStream) -> Result<SocketAddr> {
    let address = socket2::SockRef::from(stream).original_dst_v4().context("read the original destination")?;
    address.as_socket().context("the original destination is not an IP address")
}

async fn dial(address: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect(address).await.with_context(|| format!("connect to {address}"))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Lets hyper's HTTP/2 run its tasks on this thread.
#[derive(Clone, Copy, Debug)]
struct LocalExecutor;

impl<F: Future + 'static> hyper::rt::Executor<F> for LocalExecutor {
    fn execute(&self, future: F) {
        spawn_local(async move {
            future.await;
        });
    }
}
