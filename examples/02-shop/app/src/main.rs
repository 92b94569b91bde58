//! A small shop: programs as anybody might write them, which know nothing of a mesh.
//!
//! ```text
//! visitor ─HTTP/1─► web ─HTTP/1─► catalogue
//!                       ─gRPC───► pricing
//!                       ─WebSocket► ticker
//!                       ─RESP───► cart (a stock Redis)
//! ```
//!
//! What they do well is to end: told to stop, a server goes on serving for a while, because others learn of its end only
//! a moment later, and then finishes what it has begun (`stop`).

mod catalogue;
mod pricing;
mod redis;
mod stop;
mod ticker;
mod visitor;
mod web;

use clap::{Parser, Subcommand};
use std::{net::SocketAddr, process::ExitCode, time::Duration};
use tokio::net::TcpListener;

#[derive(Parser)]
#[command(name = "shop", version, about = "The example shop's programs")]
struct Cli {
    /// Where to serve
    #[arg(long, default_value = "[::]:8080", global = true)]
    listen: SocketAddr,
    /// How long a server goes on serving once it was told to stop
    #[arg(long, default_value_t = 5, value_name = "SECONDS", global = true)]
    linger: u64,
    #[command(subcommand)]
    role: Role,
}

#[derive(Subcommand)]
enum Role {
    /// The shop's front: HTTP/1
    Web(web::Args),
    /// What there is to buy: HTTP/1
    Catalogue(catalogue::Args),
    /// What it costs: gRPC
    Pricing,
    /// Today's offers: WebSocket
    Ticker,
    /// Somebody who buys, steadily, and counts what goes wrong
    Visitor(visitor::Args),
    /// Asks the front for the day's report, and ends: what a CronJob runs
    Report {
        /// The front
        #[arg(long, default_value = "http://web:8080")]
        web: String,
    },
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime.map_err(anyhow::Error::from).and_then(|runtime| runtime.block_on(run(cli))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("shop: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(cli: Cli) -> anyhow::Result<()> {
    let stop = stop::Stop::new(Duration::from_secs(cli.linger))?;
    let listener = TcpListener::bind(cli.listen);
    match cli.role {
        Role::Web(args) => web::run(listener.await?, args, stop).await,
        Role::Catalogue(args) => catalogue::run(listener.await?, args, stop).await,
        Role::Pricing => pricing::run(listener.await?, stop).await,
        Role::Ticker => ticker::run(listener.await?, stop).await,
        Role::Visitor(args) => visitor::run(listener.await?, args, stop).await,
        Role::Report { web } => visitor::report(&web).await,
    }
}

/// Which replica this is.
fn pod() -> String {
    std::fs::read_to_string("/etc/hostname").map_or_else(|_| "here".to_owned(), |name| name.trim().to_owned())
}
