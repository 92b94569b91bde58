//! `remora check`: whether the mesh can be installed, whether it works, and what to do where it does not.
//!
//! In: what a person asks about. Out: a line per check, each failure with its reason and remedy; exit code 1 if any
//! failed. It changes nothing: the one pod that it creates is a dry run. Checks run side by side, each bounded by the
//! client's timeouts, so that a green check takes as long as the slowest answer.
//!
//! | module | asks |
//! |--|--|
//! | [`pre`] | can it be installed here |
//! | [`control`] | does the control plane work |
//! | [`networks`] | are the cluster's networks known |
//! | [`policies`] | does every policy hold as it was meant |
//! | [`namespace`] | is a namespace meshed, and if not, why |
//! | [`proxies`] | sidecars one by one: readiness, version, certificate |

mod control;
mod namespace;
mod networks;
mod policies;
mod pre;
mod proxies;
mod report;

use crate::{
    Look, admin,
    cluster::{self, Cluster, ControlPlane, target},
    exit::Exit,
    inspect,
    output::Output,
    text,
};
use remora_kube::client::CallError;
use remora_runtime::settings::duration_within;
use report::{Check, Report, Status};
use std::{
    net::SocketAddr,
    process::ExitCode,
    time::{Duration, Instant},
};
use tokio::join;

/// Between two tries of `--wait`.
const PAUSE: Duration = Duration::from_millis(250);
/// The longest `--wait`.
const WAIT_MAX: Duration = Duration::from_secs(3600);

/// What to check.
#[derive(Debug, clap::Args)]
#[command(after_help = "  remora check --pre                        before installing\n  \
    remora check                              the control plane\n  \
    remora check --namespace shop --proxies   a namespace, and each of its sidecars\n  \
    remora check -A                           every namespace that is opted in\n  \
    remora check 127.0.0.1:4191               one admin port, without Kubernetes")]
pub(crate) struct Args {
    /// Admin ports to ask instead of a cluster, for example 127.0.0.1:4191 127.0.0.1:4192
    #[arg(value_name = "ADDRESS", value_parser = admin::address, conflicts_with_all = ["pre", "namespace", "proxies"])]
    addresses: Vec<SocketAddr>,
    /// Before installing: versions, permissions, nodes
    #[arg(long, conflicts_with_all = ["namespace", "proxies"])]
    pre: bool,
    /// A namespace too: is it opted in, has every pod its sidecar, and if not, why
    #[arg(short, long, value_name = "NAME", value_parser = target::name)]
    namespace: Option<String>,
    /// Every namespace that is opted in
    #[arg(short = 'A', long, conflicts_with_all = ["namespace", "pre", "addresses"])]
    all_namespaces: bool,
    /// Each sidecar too, of that namespace or of all: readiness, version, certificate
    #[arg(long)]
    proxies: bool,
    /// With --proxies: only those of pods with these labels, for example app=web,tier!=cache
    #[arg(short = 'l', long, value_name = "SELECTOR", requires = "proxies")]
    selector: Option<String>,
    #[command(flatten)]
    control_plane: ControlPlane,
    /// Try again until nothing fails, for so long: 60s
    #[arg(long, value_name = "DURATION", value_parser = wait)]
    wait: Option<Duration>,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
    #[command(flatten)]
    cluster: cluster::Args,
}

/// `remora check`.
pub(crate) fn main(args: &Args, look: Look) -> ExitCode {
    if !args.addresses.is_empty() {
        return inspect::check(&args.addresses, args.output, look);
    }
    match crate::block_on(run(args, look)) {
        // What was found is printed, and that it is not for want of a cluster is for scripts to see.
        Ok((text, Found::NoCluster)) => match text::print(&text) {
            Ok(()) => Exit::Unreachable.into(),
            Err(error) => crate::finish_as(args.output, Err(error.into())),
        },
        Ok((text, found)) => crate::finish_as(args.output, Ok((text, found == Found::Good))),
        Err(error) => crate::finish_as(args.output, Err(error)),
    }
}

/// What came of all checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    Good,
    Wrong,
    /// The API server does not answer: nothing was checked.
    NoCluster,
}

async fn run(args: &Args, look: Look) -> anyhow::Result<(String, Found)> {
    let cluster = Cluster::connect(&args.cluster).await?;
    let began = Instant::now();
    let question = args.question();
    let (report, answered) = loop {
        let asked = Instant::now();
        let (checks, answered) = Box::pin(checks(&question, &cluster)).await;
        let report = Report::new(checks, asked.elapsed().as_secs_f64());
        if report.ok || args.wait.is_none_or(|limit| began.elapsed() + PAUSE > limit) {
            break (report, answered);
        }
        tokio::time::sleep(PAUSE).await;
    };
    let text = match args.output {
        Output::Json => serde_json::to_string_pretty(&report)? + "\n",
        Output::Text => text::render(&report.lines(), look.coloured),
    };
    let found = match (report.ok, answered) {
        (true, _) => Found::Good,
        (false, true) => Found::Wrong,
        (false, false) => Found::NoCluster,
    };
    Ok((text, found))
}

/// What is asked of a cluster.
#[derive(Debug)]
struct Question<'a> {
    /// The control plane's namespace.
    own: &'a str,
    pre: bool,
    namespace: Option<&'a str>,
    all_namespaces: bool,
    proxies: bool,
    selector: Option<&'a str>,
}

impl Args {
    fn question(&self) -> Question<'_> {
        Question {
            own: &self.control_plane.namespace,
            pre: self.pre,
            namespace: self.namespace.as_deref(),
            all_namespaces: self.all_namespaces,
            proxies: self.proxies,
            selector: self.selector.as_deref(),
        }
    }
}

/// The checks, and whether the API server answered.
async fn checks(question: &Question<'_>, cluster: &Cluster) -> (Vec<Check>, bool) {
    let own = question.own;
    // Without an answer here, all others would say the same.
    let server = match control::server(cluster).await {
        Ok(server) if server.status == Status::Failed => return (vec![server], true),
        Ok(server) => server,
        Err(silent) => return (vec![silent], false),
    };
    if question.pre {
        return ([vec![server], pre::checks(cluster, own).await].concat(), true);
    }
    let namespace = async {
        match question.namespace {
            Some(name) => namespace::checks(cluster, own, name).await,
            None if question.all_namespaces => namespace::everywhere(cluster, own).await,
            None => Vec::new(),
        }
    };
    let proxies = async {
        match question.proxies {
            true => proxies::checks(cluster, own, question.namespace, question.selector).await,
            false => Vec::new(),
        }
    };
    // Each on the heap: together they are more than a thread's stack wants to hold.
    let (control, namespace, proxies) =
        join!(Box::pin(control::checks(cluster, own)), Box::pin(namespace), Box::pin(proxies));
    ([vec![server], control, namespace, proxies].concat(), true)
}

/// The checks of the control plane, and of a namespace if there is one, once.
pub(crate) async fn report(cluster: &Cluster, own: &str, namespace: Option<&str>) -> Report {
    let asked = Instant::now();
    let question = Question { own, pre: false, namespace, all_namespaces: false, proxies: false, selector: None };
    let (checks, _) = Box::pin(checks(&question, cluster)).await;
    Report::new(checks, asked.elapsed().as_secs_f64())
}

fn wait(text: &str) -> Result<Duration, String> {
    duration_within(Duration::ZERO, WAIT_MAX)(text)
}

/// The API server did not answer as it should.
fn unanswered(group: &str, name: &str, error: &CallError) -> Check {
    let remedy = if error.is_forbidden() {
        "ask for the permission named there, or somebody who has it to run this"
    } else {
        "does `kubectl get --raw /readyz` work with this kubeconfig?"
    };
    Check::failed(group, name, error.to_string(), remedy)
}
