//! Steady load from a pod, and what became of each request.

use super::{POD_PATIENCE, Scope};
use anyhow::{Context as _, ensure};
use serde::Deserialize;
use std::{collections::BTreeMap, time::Duration};

/// Longer than any test.
const FOR: &str = "30m";

/// A load at work in a pod of its own. Ends with its namespace, or by [`Load::stop`].
#[derive(Debug)]
pub struct Load<'a> {
    scope: &'a Scope<'a>,
    pub pod: String,
}

/// The figures of a load (`tests/echo`, `load/report.rs`).
#[derive(Debug, Clone, Deserialize)]
pub struct Report {
    pub done: bool,
    pub seconds: f64,
    pub asked: u64,
    pub answered: u64,
    pub failed: u64,
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub max_ms: f64,
    /// How late the generator itself was at worst.
    pub late_ms: f64,
    pub connections: u64,
    pub reasons: BTreeMap<String, u64>,
    pub servers: BTreeMap<String, u64>,
    pub failures: Vec<Failure>,
}

/// One failed request.
#[derive(Debug, Clone, Deserialize)]
pub struct Failure {
    pub unix_ms: u64,
    pub after_ms: f64,
    pub reason: String,
}

impl Report {
    /// Fails if any request did.
    pub fn none_failed(&self) -> anyhow::Result<()> {
        ensure!(self.failed == 0, "{self}");
        ensure!(self.answered > 0, "nothing was asked");
        Ok(())
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} of {} failed {:?} in {:.0} s, ", self.failed, self.asked, self.reasons, self.seconds)?;
        write!(
            f,
            "p50 {:.1} p99 {:.1} max {:.0} ms, {} connections",
            self.p50_ms, self.p99_ms, self.max_ms, self.connections
        )
    }
}

impl Scope<'_> {
    /// Starts a load with the flags of `echo load` (by spaces), and waits for its first answers.
    pub fn load(&self, name: &str, url: &str, flags: &str) -> anyhow::Result<Load<'_>> {
        let args: Vec<String> =
            ["load", url, "--for", FOR].into_iter().chain(flags.split_whitespace()).map(String::from).collect();
        let yaml = "
apiVersion: v1
kind: Pod
metadata: {name: $NAME, labels: {app: $NAME}}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 1
  containers: [{name: echo, image: $IMAGE, args: $ARGS}]";
        self.apply(yaml, &[("NAME", name), ("ARGS", &serde_json::to_string(&args)?)])?;
        let load = Load { scope: self, pod: self.pod(&format!("app={name}"))? };
        load.after(20)?;
        Ok(load)
    }
}

impl Load<'_> {
    /// The figures so far.
    pub fn report(&self) -> anyhow::Result<Report> {
        self.control("report")
    }

    /// Ends the load; the final figures.
    pub fn stop(self) -> anyhow::Result<Report> {
        let report = self.control("stop")?;
        println!("    {}: {report}", self.pod);
        Ok(report)
    }

    /// Waits until so many more requests were asked.
    pub fn after(&self, more: u64) -> anyhow::Result<Report> {
        let wanted = self.report().map_or(0, |report| report.asked) + more;
        self.scope.cluster.until(POD_PATIENCE, &format!("{wanted} requests of {}", self.pod), || {
            Ok(Some(self.report()?).filter(|report| report.asked >= wanted))
        })
    }

    /// Lets the load run for a while.
    pub fn go_on(&self, length: Duration) -> anyhow::Result<Report> {
        let until = self.report()?.seconds + length.as_secs_f64();
        self.scope.cluster.until(length + POD_PATIENCE, &format!("{} goes on for {length:?}", self.pod), || {
            Ok(Some(self.report()?).filter(|report| report.seconds >= until))
        })
    }

    fn control(&self, word: &str) -> anyhow::Result<Report> {
        let url = format!("http://127.0.0.1:9999/{word}");
        let said = self.scope.exec(&self.pod, "echo", &["client", "--timeout", "40s", &url])?.well()?;
        serde_json::from_str(&said.body()).with_context(|| format!("report of {}: {}", self.pod, said.out))
    }
}
