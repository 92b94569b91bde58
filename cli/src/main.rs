//! The `remora` command.
//!
//! In: what a person typed. Out: one of the subcommands, or, when the file is called by a component's name
//! (`remora-proxy`, …), that component: one binary is the whole mesh, which is what the image and the demo run.
//! It holds no logic of the mesh itself.

mod admin;
mod components;
mod demo;
mod inspect;
mod signals;
mod sys;
mod table;
mod text;

use std::ffi::OsString;
use std::io::IsTerminal;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "remora", version, about = "A service mesh whose data plane is a micro-proxy in every pod")]
struct Cli {
    /// Colours are for terminals, and not for people who set this (no-color.org)
    #[arg(long, global = true, env = "NO_COLOR", hide_env = true)]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "1", value_name = "ANYTHING", hide = true)]
    no_color: Option<OsString>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a small shop through the mesh on this machine: no root, no configuration, no Kubernetes
    Demo(demo::Args),
    /// Show who a proxy is: its certificate's identity, lifetime and trust anchors
    Identity(inspect::Admin),
    /// Show what a proxy carries: one row per route with success, latency and retries
    Routes(inspect::Admin),
    /// Ask proxies and control plane whether they are ready, and why not
    Check(inspect::CheckArgs),
    /// Run a component: what images and the demo start
    #[command(subcommand, hide = true)]
    Run(components::Run),
    /// One process of the demo's application
    #[command(hide = true)]
    DemoApp(demo::app::Args),
}

/// How output looks.
#[derive(Debug, Clone, Copy)]
struct Look {
    /// Whether words are coloured.
    coloured: bool,
}

fn main() -> ExitCode {
    if let Some(component) = components::by_program_name() {
        return component.main();
    }
    let cli = Cli::parse();
    let plain = cli.no_color.is_some_and(|it| !it.is_empty());
    let look = Look { coloured: !plain && std::io::stdout().is_terminal() };
    match cli.command {
        Command::Demo(args) => demo::main(args, look),
        Command::Identity(args) => inspect::identity(&args, look),
        Command::Routes(args) => inspect::routes(&args, look),
        Command::Check(args) => inspect::check(&args, look),
        Command::Run(run) => components::become_component(run),
        Command::DemoApp(args) => demo::app::main(args),
    }
}

/// An error and what caused it, on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.ends_with(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}
