//! The `remora` command.
//!
//! In: what a person typed. Out: one of the subcommands, or, when the file is called by a component's name
//! (`remora-proxy`, …), that component: one binary is the whole mesh, which is what the image and the demo run.
//! It holds no logic of the mesh itself.

mod admin;
mod authz;
mod bug_report;
mod check;
mod cluster;
mod components;
mod dashboard;
mod demo;
mod exit;
mod inject;
mod inspect;
mod lint;
mod look;
mod install;
mod output;
mod revoke;
mod signals;
mod sys;
mod table;
mod text;
mod version;

use clap::{CommandFactory as _, Parser, Subcommand};
use exit::{Outcome, chain, finish, finish_as};
use std::{ffi::OsString, io::IsTerminal, process::ExitCode};

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
    /// Print the manifests of the control plane, for `kubectl apply`
    Install(install::InstallArgs),
    /// Print the manifests of this version for the control plane that runs, for `kubectl apply`
    Upgrade(install::UpgradeArgs),
    /// Print everything of Remora that is in the cluster, for `kubectl delete`
    Uninstall(install::UninstallArgs),
    /// Check a cluster before installing, the control plane, a namespace, its sidecars: what fails, why, and what to do
    Check(check::Args),
    /// Opt manifests in, or put the sidecar into them, without a cluster
    Inject(inject::Args),
    /// Say what policy makes of a call, and by which rule
    #[command(subcommand)]
    Authz(authz::Command),
    /// Say what discovery would refuse in manifests, and what is odd in them, without a cluster
    Lint(lint::LintArgs),
    /// Show who pods are: their certificates' identity, lifetime and trust anchors
    Identity(IdentityArgs),
    /// Show what pods carry: one row per route with success, latency and retries
    Routes(inspect::Admin),
    /// Show what pods do now, added up by route or workload: what got worse first
    Stat(look::StatArgs),
    /// Show what pods do now, anew every two seconds: `stat --watch`
    Top(look::StatArgs),
    /// Show the endpoints that pods send to: load, latency, which are out of rotation and why
    Endpoints(look::EndpointsArgs),
    /// Show who calls whom, and how that is protected
    Edges(look::EdgesArgs),
    /// Show requests that ended, by a filter, whether anybody was looking or not
    Tap(look::TapArgs),
    /// Open the page of the mesh, or of one pod: what got worse, who calls whom
    Dashboard(dashboard::Args),
    /// Say what is odd in pods' proxies, in words
    Diagnose(look::DiagnoseArgs),
    /// Write one file for who is to help: versions, checks, objects, logs, and what proxies say; without Secrets
    BugReport(bug_report::BugReportArgs),
    /// Show the versions of this command, of the control plane and of the proxies: how many of each
    Version(version::VersionArgs),
    /// Print a completion script: `remora completions bash > /etc/bash_completion.d/remora`
    Completions {
        /// For which shell
        shell: clap_complete::Shell,
    },
    /// Run a component: what images and the demo start
    #[command(subcommand, hide = true)]
    Run(components::Run),
    /// One process of the demo's application
    #[command(hide = true)]
    DemoApp(demo::app::Args),
}

/// `remora identity`: of pods, unless a subcommand follows.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
struct IdentityArgs {
    #[command(subcommand)]
    command: Option<revoke::Command>,
    #[command(flatten)]
    pods: inspect::Admin,
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
        Command::Install(args) => install::install(args),
        Command::Upgrade(args) => install::upgrade(&args),
        Command::Uninstall(args) => install::uninstall(&args),
        Command::Inject(args) => inject::main(&args),
        Command::Completions { shell } => completions(shell),
        Command::Identity(IdentityArgs { command: Some(command), .. }) => revoke::main(&command, look),
        Command::Identity(args) => inspect::identity(&args.pods, look),
        Command::Authz(command) => authz::main(&command, look),
        Command::Lint(args) => lint::lint(&args, look),
        Command::Routes(args) => inspect::routes(&args, look),
        Command::Stat(args) => look::stat(&args, look),
        Command::Top(args) => look::stat(&args.watching(), look),
        Command::Endpoints(args) => look::endpoints(&args, look),
        Command::Edges(args) => look::edges(&args, look),
        Command::Tap(args) => look::tap(&args, look),
        Command::Dashboard(args) => dashboard::main(&args, look),
        Command::Diagnose(args) => look::diagnose(&args, look),
        Command::BugReport(args) => bug_report::bug_report(&args),
        Command::Version(args) => version::version(&args, look),
        Command::Check(args) => check::main(&args, look),
        Command::Run(run) => components::become_component(run),
        Command::DemoApp(args) => demo::app::main(args),
    }
}

fn completions(shell: clap_complete::Shell) -> ExitCode {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "remora", &mut script);
    finish(Ok((String::from_utf8_lossy(&script).into_owned(), true)))
}

fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}

#[cfg(test)]
mod page;
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_can_be_typed() {
        Cli::command().debug_assert();
        for line in [
            "remora check --namespace shop --proxies --wait 60s -o json",
            "remora check 127.0.0.1:4191",
            "remora routes -n shop deploy/web",
            "remora identity pod/web-1 --context prod",
            "remora identity revoke spiffe://cluster.local/ns/shop/sa/web --for 24h --dry-run",
            "remora identity unrevoke pod/web-1 -n shop",
            "remora identity list -o json",
            "remora install --ha --namespace mesh --trust-domain td.example --image a/b --image-tag c --create-namespace",
            "remora install --cluster-domain k8s.example --cluster-networks 10.0.0.0/8,fd00::/8 --context prod",
            "remora inject --manual --cluster-domain k8s.example --cluster-networks 10.0.0.0/8",
            "remora uninstall --keep-crds --force",
            "remora inject --manual --image a:b -",
            "remora completions fish",
            "remora stat -A -l app=web --by pod --window 15m -o wide",
            "remora top ns/shop deployment.apps/web svc/front",
            "remora endpoints pods/web-1 -w --interval 5s -o json",
            "remora edges -A --as jane --as-group ops --kubeconfig f",
            "remora diagnose pod/web-1 --full -o json",
            "remora bug-report deploy/web -n shop --file r.tar.gz --within 1m",
            "remora version --client -o json",
            "remora check -A --proxies -l app=web",
            "remora lint --strict -o json k8s a.yaml -",
            "remora authz explain -f k8s --from shop/web --to shop/api:80 GET /x",
            "remora authz explain --from none --to shop/db:5432 --bytes",
            "remora authz list shop/api -o json",
            "remora authz suggest -n shop --enforce",
            "remora run identity --help",
            "remora dashboard",
            "remora dashboard --port 8080 --no-browser --context prod",
            "remora dashboard pod/web-1 -n shop",
        ] {
            assert!(Cli::try_parse_from(line.split(' ')).is_ok(), "{line}");
        }
        for line in [
            "remora check --pre -n shop",
            "remora lint",
            "remora identity revoke web",
            "remora authz explain --from web --to shop/api GET /x",
            "remora authz explain --from shop/web --to shop/api GET",
            "remora check -l app=web",
            "remora stat -A deploy/web",
            "remora stat web",
            "remora edges --interval 1ms",
            "remora check --pre 127.0.0.1:4191",
            "remora inject --image a:b",
            "remora install --namespace kube-system",
            "remora install --namespace default",
            "remora install --image-tag sha256:0a",
            "remora install --cluster-networks 10.0.0.0",
            "remora install --cluster-domain cluster.local.",
        ] {
            assert!(Cli::try_parse_from(line.split(' ')).is_err(), "{line}");
        }
    }
}
