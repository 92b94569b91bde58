//! `tests/bench/run`: what Remora costs beside no proxy, Envoy and the floor, on this machine, in one run.
//!
//! In: the workspace (or finished binaries). Out: a table for people and a JSON file with every raw figure.
//! Two network namespaces stand for two pods. The load generator and the backend share core 0, both proxies share
//! core 1 with one worker each, so that a closed loop measures the CPU cost of the pair. In every round each contender
//! starts a fresh pair in pods of its own; then they take turns of a second, so that a noisy minute harms all alike.
//!
//! It does not tune the kernel, and no packet leaves the namespaces that it makes (see [`sandbox`]).

mod args;
mod build;
mod case;
mod contender;
mod envoy;
mod held;
mod load;
mod measure;
mod pair;
mod pki;
mod pod;
mod pods;
mod process;
mod remora;
mod report;
mod sandbox;
mod tools;

use anyhow::Result;
use args::{Args, Command};
use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    let outcome = match Args::parse().command {
        Some(Command::Inside { plan }) => sandbox::inside(&plan).map(|()| ExitCode::SUCCESS),
        Some(Command::Hold { address, count }) => held::hold(address, count).map(|()| ExitCode::SUCCESS),
        None => outside(Args::parse()),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("remora-bench: {error:#}");
        ExitCode::FAILURE
    })
}

/// Checks and prepares everything, then measures in the sandbox.
fn outside(args: Args) -> Result<ExitCode> {
    tools::check()?;
    let plan = build::prepare(args)?;
    sandbox::enter(&plan)
}
