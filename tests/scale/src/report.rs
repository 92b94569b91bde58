//! The result: a table for people, a JSON file with every raw figure, a picture.

use crate::{
    args::Args,
    picture::{self, quantile},
};
use anyhow::{Context as _, Result};
use serde::Serialize;
use std::{fmt, fs, path::Path, process::Command};

/// What was measured once.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Figures {
    pub(crate) start_s: f64,
    pub(crate) start_cpu_s: f64,
    pub(crate) rss_bare_kb: f64,
    pub(crate) rss_connected_kb: f64,
    pub(crate) rss_settled_kb: f64,
    pub(crate) rss_end_kb: f64,
    /// Milliseconds from the write of a manifest to a stream, for each change.
    pub(crate) delays_few: Vec<Vec<f64>>,
    pub(crate) delays_all: Vec<Vec<f64>>,
    /// Snapshots while nobody's changes were made; fewer than changes if some were read together.
    pub(crate) unasked_indexed: f64,
    pub(crate) rollout_settled_ms: f64,
    /// From the end of discovery until the next one was ready, and until every stream had everything again.
    pub(crate) restart_ready_s: f64,
    pub(crate) restart_settled_s: f64,
    /// Streams that ended for it; those count more than once that had to come again.
    pub(crate) restart_lost: u32,
    /// Streams that were lost and came back, but for that.
    pub(crate) lost: u32,
}

/// What discovery used during a phase.
#[derive(Debug, Serialize)]
pub(crate) struct Phase {
    pub(crate) name: &'static str,
    pub(crate) done: u32,
    pub(crate) seconds: f64,
    pub(crate) cpu_s: f64,
    pub(crate) sent: f64,
    pub(crate) live_ms: Vec<f64>,
}

/// Everything that a later reader needs to judge the figures.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    label: String,
    command: String,
    commit: String,
    cpu: String,
    cores: usize,
    pods: u32,
    streams: u32,
    few: u32,
    targets: u32,
    rollout_of: crate::world::Asked,
    endpoints: u32,
    figures: Figures,
    phases: Vec<Phase>,
}

impl Report {
    pub(crate) fn new(args: &Args, figures: Figures, phases: Vec<Phase>) -> Result<Self> {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").context("read /proc/cpuinfo")?;
        let cpu = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        let commit = Command::new("git").args(["describe", "--always", "--dirty"]).output().ok();
        let commit = commit.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
        let shape = args.shape();
        Ok(Self {
            label: args.label.clone(),
            command: std::env::args().collect::<Vec<_>>().join(" "),
            commit: commit.unwrap_or_default(),
            cpu: cpu.map_or("unknown", |(_, name)| name).to_owned(),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            pods: shape.all_pods(),
            streams: shape.streams,
            few: shape.few,
            targets: shape.targets,
            rollout_of: args.rollout_of,
            endpoints: shape.endpoints(crate::world::Asked::All),
            figures,
            phases,
        })
    }

    /// Writes the JSON, and the picture beside it.
    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
        }
        let write =
            |path: &Path, text: String| fs::write(path, text).with_context(|| format!("write {}", path.display()));
        write(path, serde_json::to_string(self)? + "\n")?;
        let curves = [
            (format!("{} streams", self.few), self.figures.delays_few.concat()),
            (format!("{} streams", self.streams), self.figures.delays_all.concat()),
        ];
        write(&path.with_extension("svg"), picture::draw(&format!("{} pods", self.pods), &curves))
    }

    /// CPU per thing done, without what an idle discovery uses.
    fn cpu_ms(&self, phase: &Phase) -> f64 {
        let idle = self.phases.iter().find(|phase| phase.name == "idle").map_or(0.0, |idle| idle.cpu_s / idle.seconds);
        1000.0 * (phase.cpu_s - idle * phase.seconds).max(0.0) / f64::from(phase.done.max(1))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { label, commit, cores, cpu, pods, streams, few, targets, endpoints, figures, .. } = self;
        writeln!(f, "\n{label} {commit}: {pods} pods, {streams} streams of {targets} targets, {cores} cores, {cpu}\n")?;
        writeln!(f, "| figure | |\n|:--|--:|")?;
        let mut row = |name: &str, value: String| writeln!(f, "| {name} | {value} |");
        row("start: time, CPU, s", format!("{:.2}, {:.2}", figures.start_s, figures.start_cpu_s))?;
        row("RSS without streams, MB", format!("{:.0}", figures.rss_bare_kb / 1024.0))?;
        let each = |kb: f64| format!("{:.1}", kb / f64::from(*streams));
        row("RSS of a connection with TLS, KB", each(figures.rss_connected_kb - figures.rss_bare_kb))?;
        row("RSS of a stream beside it, KB", each(figures.rss_settled_kb - figures.rss_connected_kb))?;
        row("RSS at the end, MB", format!("{:.0}", figures.rss_end_kb / 1024.0))?;
        for (asked, delays) in [(few, &figures.delays_few), (streams, &figures.delays_all)] {
            let name = format!("one of {endpoints} endpoints changes, {asked} streams: p50, p99, max ms");
            row(&name, spread(delays.concat()))?;
        }
        for phase in &self.phases {
            let Phase { name, done, seconds, cpu_s, sent, live_ms } = phase;
            let core = 100.0 * cpu_s / seconds;
            let ms = self.cpu_ms(phase);
            let value = format!("{done} in {seconds:.1} s; {core:.1} % of a core, {ms:.2} ms each; {sent:.0} messages");
            row(&format!("{name}: CPU"), value)?;
            row(&format!("{name}: /live p50, p99, max ms"), spread(live_ms.clone()))?;
        }
        row("changes for nobody: snapshots", format!("{:.0}", figures.unasked_indexed))?;
        row("rollout: the last change arrived, ms", format!("{:.0}", figures.rollout_settled_ms))?;
        let restart = [figures.restart_ready_s, figures.restart_settled_s].map(|s| format!("{s:.1}")).join(", ");
        row("restart: discovery is ready, all streams have everything, s", restart)?;
        row("restart: streams lost", figures.restart_lost.to_string())?;
        row("streams lost on the way, which came back", figures.lost.to_string())
    }
}

fn spread(mut values: Vec<f64>) -> String {
    values.sort_by(f64::total_cmp);
    let at = |share| quantile(&values, share).map_or("–".to_owned(), |value| format!("{value:.1}"));
    format!("{}, {}, {}", at(0.5), at(0.99), at(1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_a_value_that_was_measured() {
        let values: Vec<f64> = (1..=200).map(f64::from).collect();
        assert_eq!([0.5, 0.99, 1.0].map(|share| quantile(&values, share)), [Some(100.0), Some(198.0), Some(200.0)]);
        assert_eq!(quantile(&[], 0.5), None);
    }
}
