//! `tests/soak/run NAME`: a mesh on loopback under load for minutes, while parts of it are renewed, swapped, killed or
//! stalled.
//!
//! In: what to do, and for how long. Out: a table (or JSON) of what was seen beside what was wanted, and an exit code: 0
//! all of it met, 1 not, 2 it could not be tried. Everything is real but the machines: identity, discovery and the
//! proxies are processes of their own, copies of this program ([`remora_tests::local`]).
//!
//! One module per subcommand. Those about certificates share the application ([`app`]), the load ([`load`], [`tunnels`]), the eye on
//! connections ([`ages`]); those about what callers notice are in [`hurt`]. All share the [`report`].

mod ages;
mod app;
mod load;
mod pki;
mod report;
mod scene;
mod tunnels;
// the subcommands
mod ca_outage;
mod fleet;
mod hurt;
mod renewal;
mod swap;

use clap::{Parser, Subcommand};
use hurt::Hurt;
use remora_runtime::settings;
use report::Format;
use std::{process::ExitCode, time::Duration};

/// Minutes of load while something is done to the mesh.
#[derive(Debug, Parser)]
#[command(name = "tests/soak/run", version)]
struct Args {
    /// How to print what was seen
    #[arg(short, long, value_enum, default_value_t, global = true)]
    output: Format,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Certificates are renewed all the time; no connection outlives its own
    Renewal(renewal::Args),
    /// The CA is killed for half of a certificate's life, again and again
    CaOutage(ca_outage::Args),
    /// The CA's signing certificate is replaced by another of the same trust anchor
    IssuerSwap,
    /// The trust anchor is replaced: old, both, new
    AnchorSwap,
    /// The root is replaced in one write, again and again, while replicas of the CA are killed by chance, and 200 pods meet
    Fleet(fleet::Args),
    /// Discovery is killed and stalled while endpoints come and go
    Discovery(hurt::Args),
    /// One of five endpoints is killed, and another stalled, under 500 requests a second
    EndpointKill(hurt::Args),
    /// One of five endpoints turns twenty times slower
    SlowEndpoint(hurt::Args),
    /// Everything fails: retries are counted where they arrive
    RetryBudget(hurt::Args),
    /// Ten thousand idle connections are held by one proxy
    Idle(hurt::Args),
    /// A proxy that may have 256 descriptors open meets 400 connections
    Fds(hurt::Args),
    /// Four streams carry what they can through the proxies of one caller
    Bulk(hurt::Args),
    /// Two hostile hosts do all they can to one pod, which an honest peer calls
    Hostile(hurt::Args),
    /// A million distinct paths and hosts, a hundred routes of twenty peers, and readers of signals that take nothing
    Cardinality(hurt::Args),
}

/// `90s`, `10m`.
fn duration(text: &str) -> Result<Duration, String> {
    settings::duration(text)
}

fn main() -> ExitCode {
    if let Some(code) = remora_tests::components::play() {
        return code;
    }
    if std::env::args_os().next().is_some_and(|name| name == hurt::backend::NAME) {
        return hurt::backend::main();
    }
    let Args { output, command } = Args::parse();
    let outcome = match command {
        Command::Renewal(args) => renewal::run(&args),
        Command::CaOutage(args) => ca_outage::run(&args),
        Command::IssuerSwap => swap::issuer(),
        Command::AnchorSwap => swap::anchor(),
        Command::Fleet(args) => fleet::run(&args),
        Command::Discovery(args) => hurt::run(Hurt::Discovery, &args),
        Command::EndpointKill(args) => hurt::run(Hurt::EndpointKill, &args),
        Command::SlowEndpoint(args) => hurt::run(Hurt::SlowEndpoint, &args),
        Command::RetryBudget(args) => hurt::run(Hurt::RetryBudget, &args),
        Command::Idle(args) => hurt::run(Hurt::Idle, &args),
        Command::Fds(args) => hurt::run(Hurt::Fds, &args),
        Command::Bulk(args) => hurt::run(Hurt::Bulk, &args),
        Command::Hostile(args) => hurt::run(Hurt::Hostile, &args),
        Command::Cardinality(args) => hurt::run(Hurt::Cardinality, &args),
    };
    match outcome.and_then(|report| report.print(output)) {
        Ok(met) => ExitCode::from(u8::from(!met)),
        Err(error) => {
            eprintln!("remora-soak: {error:#}");
            ExitCode::from(2)
        }
    }
}
