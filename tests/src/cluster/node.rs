//! The processes under the project's own cluster: pausing the API server, killing a container. In: `tests/cluster/run`.
//! Does not: work on a cluster that somebody else started.

use super::{Cluster, NotTried, Scope, tool};
use anyhow::{Context as _, ensure};
use serde_json::Value;
use std::process::Command;

/// A process of the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    ApiServer,
    Controllers,
    Dns,
}

impl Part {
    fn name(self) -> &'static str {
        match self {
            Self::ApiServer => "apiserver",
            Self::Controllers => "controllers",
            Self::Dns => "dns",
        }
    }
}

/// A process that stands still, or is gone, until this is dropped.
#[derive(Debug)]
pub struct Paused {
    part: Part,
    undo: &'static str,
}

impl Cluster {
    /// Whether this is the project's own cluster, whose processes the tests may stop.
    pub fn is_own(&self) -> bool {
        let path = Command::new(tool()).arg("kubeconfig").output();
        let own = path.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default();
        std::env::var_os("KUBECONFIG").is_some_and(|set| set.to_string_lossy() == own)
    }

    /// For tests that stop parts of the cluster itself.
    ///
    /// # Errors
    ///
    /// [`NotTried`] where the cluster is somebody else's.
    pub fn needs_own(&self) -> Result<(), NotTried> {
        if self.is_own() { Ok(()) } else { Err(NotTried("needs the project's own cluster, whose processes it stops")) }
    }

    /// Freezes a process: connections stay open and nobody answers.
    pub fn pause(&self, part: Part) -> anyhow::Result<Paused> {
        run(&["pause", part.name()])?;
        Ok(Paused { part, undo: "resume" })
    }

    /// Ends a process: connections break and are refused.
    pub fn stop(&self, part: Part) -> anyhow::Result<Paused> {
        run(&["stop", part.name()])?;
        Ok(Paused { part, undo: "start" })
    }
}

impl Scope<'_> {
    /// Kills a container's processes, as the kernel does when memory runs out.
    pub fn kill(&self, pod: &str, container: &str) -> anyhow::Result<()> {
        let pod = self.object("v1/pods", pod)?;
        run(&["kill", &container_id(&pod, container)?]).map(drop)
    }
}

impl Cluster {
    /// The same in any namespace.
    pub fn kill(&self, namespace: &str, pod: &str, container: &str) -> anyhow::Result<()> {
        let pod = self.object(namespace, "v1/pods", pod)?;
        run(&["kill", &container_id(&pod, container)?]).map(drop)
    }

    /// Keeps a copy of all that etcd holds, as of now.
    pub fn save(&self) -> anyhow::Result<()> {
        run(&["snapshot", "save"]).map(drop)
    }

    /// Puts that copy back: what was done since is undone, and versions are as low again as they were.
    pub fn restore(&self) -> anyhow::Result<()> {
        run(&["snapshot", "restore"]).map(drop)
    }

    /// Kills every container of the first node at once, as a power cut would.
    pub fn crash(&self) -> anyhow::Result<()> {
        run(&["crash"]).map(drop)
    }

    /// The memory of a container's first process as the kernel counts it (resident, all of it).
    pub fn rss_bytes(&self, namespace: &str, pod: &str, container: &str) -> anyhow::Result<u64> {
        let pod = self.object(namespace, "v1/pods", pod)?;
        let pid = run(&["pid", &container_id(&pod, container)?])?;
        let status = std::fs::read_to_string(format!("/proc/{}/status", pid.trim()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
    }
}

impl Paused {
    /// Lets it go on.
    pub fn resume(mut self) -> anyhow::Result<()> {
        self.end()
    }

    fn end(&mut self) -> anyhow::Result<()> {
        match std::mem::take(&mut self.undo) {
            "" => Ok(()),
            undo => run(&[undo, self.part.name()]).map(drop),
        }
    }
}

impl Drop for Paused {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            eprintln!("{:?} does not go on: {error:#}", self.part);
        }
    }
}

fn container_id(pod: &Value, container: &str) -> anyhow::Result<String> {
    let statuses =
        ["containerStatuses", "initContainerStatuses"].iter().filter_map(|kind| pod["status"][*kind].as_array());
    let found = statuses.flatten().find(|status| status["name"] == container);
    let id =
        found.and_then(|status| status["containerID"].as_str()).with_context(|| format!("no container {container}"))?;
    Ok(id.rsplit('/').next().unwrap_or_default().to_owned())
}

fn run(args: &[&str]) -> anyhow::Result<String> {
    let output = Command::new(tool()).args(args).output().context("tests/cluster/run")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "tests/cluster/run {args:?}: {}", said.trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
