//! The application of the cluster tests, in three roles: it serves (and says what it received), it asks (`client`), and
//! it loads (`load`). It speaks for nobody: whatever it prints has happened.
//!
//! Its flags and its output are those that the Gateway API's conformance suite expects of its "echo-advanced" image, so
//! that it can stand in for it: without a subcommand it serves, and called by the name `client` it is the client.

mod body;
mod client;
mod dial;
mod drain;
mod grpc;
mod load;
mod serve;
mod text;
mod tls;
mod websocket;

use clap::Parser;
use std::{ffi::OsString, path::Path, process::ExitCode};

#[derive(Debug, Parser)]
#[command(name = "echo", about = "Serves what it is asked, asks, or loads", args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(flatten)]
    serve: serve::Args,
    #[command(subcommand)]
    role: Option<Role>,
}

#[derive(Debug, clap::Subcommand)]
enum Role {
    /// Ask a URL (http, https, grpc, tcp, ws) and print what came back, one fact a line
    Client(client::Args),
    /// Ask a URL at a steady rate and say what became of each request, as JSON
    Load(load::Args),
}

fn main() -> ExitCode {
    let cli = Cli::parse_from(arguments(std::env::args_os().collect()));
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: no runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    let done = match cli.role {
        None => runtime.block_on(serve::run(cli.serve)),
        Some(Role::Client(args)) => runtime.block_on(client::run(&args)),
        Some(Role::Load(args)) => runtime.block_on(load::run(args)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// A program called `client` or `load` is that subcommand.
fn arguments(mut given: Vec<OsString>) -> Vec<OsString> {
    let name = given.first().and_then(|path| Path::new(path).file_name()).unwrap_or_default().to_owned();
    if name == "client" || name == "load" {
        given.insert(1, name);
    }
    given
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_of_the_conformance_suite_are_understood() {
        let parse = |line: &str| {
            Cli::try_parse_from(arguments(line.split(' ').map(OsString::from).collect()))
                .map_err(|error| error.to_string())
        };
        let server =
            parse("echo --tcp=9090 --port=8080 --grpc=7070 --port=8443 --tls=8443 --crt=/cert.crt --key=/cert.key");
        assert!(server.is_ok_and(|cli| cli.role.is_none()));
        let client = parse("/usr/local/bin/client http://echo/path --method=GET -H X-A:b -H x-c:-d --count=3");
        assert!(matches!(client, Ok(Cli { role: Some(Role::Client(_)), .. })), "{client:?}");
    }
}
