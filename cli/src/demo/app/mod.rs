//! The demo's application: four small programs that know nothing of the mesh but their proxy's address.
//!
//! `web` calls `api` over HTTP/1.1; `api` calls `pricing` over gRPC and `store` over lines of TCP. Without redirection
//! an application names its target itself: an HTTP request by its authority, a TCP connection by CONNECT.

mod api;
mod pricing;
mod store;
pub(crate) mod web;

use super::layout::Role;
use std::{
    net::SocketAddr,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};

/// What a request costs its server.
const WORK: Duration = Duration::from_millis(2);
/// What it costs after `--break slow`: about twenty times what a whole answer of `api` takes otherwise.
pub(super) const SLOW_WORK: Duration = Duration::from_millis(200);

/// `remora demo-app`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Which of the programs
    #[arg(value_enum)]
    role: Role,
    /// The pod's name, which answers carry
    #[arg(long)]
    pod: String,
    /// Where to serve
    #[arg(long)]
    listen: Option<SocketAddr>,
    /// The pod's own proxy
    #[arg(long)]
    proxy: SocketAddr,
    /// Requests per second that `web` sends
    #[arg(long, default_value_t = 100)]
    rate: u32,
}

/// Runs one program until it is killed.
pub(crate) fn main(args: Args) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime.map_err(anyhow::Error::from).and_then(|runtime| runtime.block_on(run(args))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: Args) -> anyhow::Result<()> {
    let pace = Pace::follow_signals()?;
    let Some(listen) = args.listen else {
        return web::run(args.proxy, args.rate).await;
    };
    let listener = TcpListener::bind(listen).await?;
    match args.role {
        Role::Web => web::run(args.proxy, args.rate).await,
        Role::Api => api::run(listener, args.proxy, args.pod, pace).await,
        Role::Pricing => pricing::run(listener, args.pod, pace).await,
        Role::Store => store::run(listener, pace).await,
    }
}

/// How fast this process works.
#[derive(Debug, Clone)]
struct Pace {
    slow: Arc<AtomicBool>,
}

impl Pace {
    /// SIGUSR1 makes it slow, SIGUSR2 usual again.
    fn follow_signals() -> anyhow::Result<Self> {
        let slow = Arc::new(AtomicBool::new(false));
        for (kind, value) in [(SignalKind::user_defined1(), true), (SignalKind::user_defined2(), false)] {
            let (mut signals, slow) = (signal(kind)?, slow.clone());
            // Lives as long as the process, which has no other end than being killed.
            tokio::spawn(async move {
                while signals.recv().await.is_some() {
                    slow.store(value, Ordering::Relaxed);
                }
            });
        }
        Ok(Self { slow })
    }

    /// Does a request's work.
    async fn work(&self) {
        tokio::time::sleep(if self.slow.load(Ordering::Relaxed) { SLOW_WORK } else { WORK }).await;
    }
}
