//! The command line.

use crate::world::{Asked, Shape};
use clap::{Parser, Subcommand};
use std::path::PathBuf;

/// Holds Sync streams with mesh TLS against a real remora-discovery, changes its world, and measures how long that takes
/// and what it costs. Small: `--streams 200 --pods 2000 --quick`.
#[derive(Parser, Debug, Clone)]
#[command(name = "tests/scale/run")]
pub(crate) struct Args {
    /// Pods of the world; a tenth as many Services, a hundredth as many routes, a fiftieth as many policies
    #[arg(long, default_value_t = 5_000, value_parser = clap::value_parser!(u32).range(100..=60_000))]
    pub(crate) pods: u32,
    /// Streams, each of a pod of its own
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    pub(crate) streams: u32,
    /// Of them, how many ask for the Service `few`
    #[arg(long, default_value_t = 100)]
    pub(crate) few: u32,
    /// Targets that each stream asks for, beside four inbound resources
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(2..=1000))]
    pub(crate) targets: u32,
    /// Processes that hold the streams
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(crate) helpers: u32,
    /// Whose pods are replaced at the end, 20 a second
    #[arg(long, value_enum, default_value_t = Asked::Few)]
    pub(crate) rollout_of: Asked,
    /// A quarter of the changes, and 100 replaced pods instead of all
    #[arg(long)]
    pub(crate) quick: bool,
    /// A word for the table's head: `before`
    #[arg(long, default_value = "")]
    pub(crate) label: String,
    /// Take remora-discovery from here instead of from beside this program
    #[arg(long, value_name = "PATH")]
    pub(crate) discovery: Option<PathBuf>,
    /// Where the JSON goes; the picture goes beside it [default: tests/scale/runs/PODS-pods-STREAMS-streams.json]
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

/// Roles in which the program starts itself.
#[derive(Subcommand, Debug, Clone)]
pub(crate) enum Command {
    /// Holds streams as its standard input says.
    #[command(hide = true)]
    Hold,
}

impl Args {
    pub(crate) fn shape(&self) -> Shape {
        let few = self.few.min(self.streams);
        Shape { pods: self.pods, streams: self.streams, few, targets: self.targets }
    }

    pub(crate) fn out(&self) -> PathBuf {
        let name = format!("tests/scale/runs/{}-pods-{}-streams.json", self.pods, self.streams);
        self.out.clone().unwrap_or_else(|| name.into())
    }
}
