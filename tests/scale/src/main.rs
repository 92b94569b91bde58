//! `tests/scale/run`: what discovery costs, and how long a change takes, with thousands of streams.
//!
//! In: finished programs. Out: a table for people, a JSON file with every raw figure, and a picture of the delays. A real
//! `remora-identity` and `remora-discovery` run on loopback; helper processes (this program again) hold one connection of
//! mesh TLS with one `Sync` stream for each proxy. The Kubernetes is a directory of manifests, of which files are replaced.
//!
//! It needs no root. Everything shares the machine's cores, so delays include the work of the subscribers themselves.

mod args;
mod control;
mod hold;
mod holders;
mod live;
mod measure;
mod picture;
mod pki;
mod process;
mod proxy;
mod report;
mod world;

use anyhow::Result;
use args::{Args, Command};
use clap::Parser as _;
use std::process::ExitCode;

fn main() -> ExitCode {
    let args = Args::parse();
    let outcome = match &args.command {
        Some(Command::Hold) => hold::run(),
        None => outside(&args),
    };
    outcome.map_or_else(
        |error| {
            eprintln!("remora-scale: {error:#}");
            ExitCode::FAILURE
        },
        |()| ExitCode::SUCCESS,
    )
}

fn outside(args: &Args) -> Result<()> {
    let report = measure::run(args)?;
    print!("{report}");
    report.write(&args.out())
}
