//! How a test program gets its cluster. In: the program's tests. Out: its exit code.
//!
//! Without `REMORA_CLUSTER=1` it prints one line and tests nothing. With it, a cluster or a mesh that is not there is a
//! failure that says how to get it: unavailable is not passed.

use super::Cluster;
use anyhow::Context as _;
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    process::ExitCode,
    time::Instant,
};

/// A test: its name, which is its claim, and what it does.
pub type Test = (&'static str, fn(&Cluster) -> anyhow::Result<()>);

/// What a test returns that cannot run in this cluster, and why: it counts as neither passed nor failed.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct NotTried(pub &'static str);

/// The `main` of a test program of cluster tests. Words as arguments choose the tests whose names contain one.
pub fn run(tests: &[Test]) -> ExitCode {
    if !is("REMORA_CLUSTER", "1") {
        println!("cluster tests not run: tests/cluster/run up, install the mesh, then");
        println!("    REMORA_CLUSTER=1 tests/cluster/run enter cargo test … (or with a KUBECONFIG of your own)");
        return ExitCode::SUCCESS;
    }
    let cluster = match connect() {
        Ok(cluster) => cluster,
        Err(error) => {
            eprintln!("error: {error:#}");
            return ExitCode::FAILURE;
        }
    };
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let chosen = tests.iter().filter(|(name, _)| args.is_empty() || args.iter().any(|word| name.contains(word)));
    let (mut passed, mut not_tried, mut failed) = (0, 0, Vec::new());
    for (name, test) in chosen {
        let start = Instant::now();
        let outcome =
            catch_unwind(AssertUnwindSafe(|| test(&cluster))).unwrap_or_else(|_| Err(anyhow::anyhow!("panicked")));
        let took = start.elapsed().as_secs_f32();
        match outcome {
            Ok(()) => {
                passed += 1;
                println!("test {name} ... ok ({took:.1} s)");
            }
            Err(error) if error.is::<NotTried>() => {
                not_tried += 1;
                println!("test {name} ... NOT TRIED: {error}");
            }
            Err(error) => {
                println!("test {name} ... FAILED ({took:.1} s)\n    {error:#}");
                failed.push(name);
            }
        }
    }
    println!("\ntest result: {passed} passed; {not_tried} not tried; {} failed {failed:?}", failed.len());
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn connect() -> anyhow::Result<Cluster> {
    let cluster = Cluster::connect()?;
    let version = cluster.ask(cluster.client().apiserver_version());
    let version = version
        .context("the cluster does not answer; tests/cluster/run up, and tests/cluster/run enter cargo test …")?;
    println!(
        "cluster: Kubernetes {}, pods {}",
        version.git_version,
        if cluster.is_meshed() { "meshed" } else { "bare" }
    );
    if cluster.is_meshed() {
        cluster.require_mesh()?;
    }
    Ok(cluster)
}

/// Whether an environment variable has this value.
pub(super) fn is(name: &str, value: &str) -> bool {
    std::env::var_os(name).is_some_and(|set| set == value)
}
