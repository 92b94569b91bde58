//! The result: a table of medians for people, and a JSON file with every raw figure.

use crate::{
    build::Plan,
    case::{Case, ERRORS, Outcome, Sample},
    contender::Contender,
    tools::{self, output},
};
use anyhow::{Context, Result};
use serde::Serialize;
use std::{
    fmt::{self, Write as _},
    fs,
    path::Path,
    process::Command,
};

/// A line of the table: one figure of one case.
struct Row {
    case: Case,
    figure: &'static str,
    title: &'static str,
    decimals: usize,
}

const fn row(case: Case, figure: &'static str, title: &'static str, decimals: usize) -> Row {
    Row { case, figure, title, decimals }
}

const ROWS: [Row; 20] = [
    row(Case::Http1One, "requests_per_s", "HTTP/1, 1 connection, requests/s", 0),
    row(Case::Http1One, "p99_ms", "  p99 ms", 2),
    row(Case::Http1One, "cpu_us_per_request", "  CPU µs/request, pair", 1),
    row(Case::Http1Many, "requests_per_s", "HTTP/1, 64 connections, requests/s", 0),
    row(Case::Http1Many, "p99_ms", "  p99 ms", 2),
    row(Case::Http1Many, "cpu_us_per_request", "  CPU µs/request, pair", 1),
    row(Case::Http1Crowd, "requests_per_s", "HTTP/1, 512 connections, requests/s", 0),
    row(Case::Http1Crowd, "p99_ms", "  p99 ms", 2),
    row(Case::Http1Crowd, "cpu_us_per_request", "  CPU µs/request, pair", 1),
    row(Case::NewConnections, "requests_per_s", "HTTP/1, new connections, requests/s", 0),
    row(Case::NewConnections, "p99_ms", "  p99 ms", 2),
    row(Case::NewConnections, "cpu_us_per_request", "  CPU µs/request, pair", 1),
    row(Case::Bulk, "gbit_per_s", "bulk TCP, one stream, Gbit/s", 2),
    row(Case::Bulk, "cpu_s_per_gib", "  CPU s/GiB, pair", 2),
    row(Case::Memory, "client_resident_mb", "memory idle, RSS MB, client side", 1),
    row(Case::Memory, "client_anonymous_mb", "  anonymous MB, client side", 1),
    row(Case::Memory, "server_resident_mb", "  RSS MB, server side", 1),
    row(Case::Memory, "server_anonymous_mb", "  anonymous MB, server side", 1),
    row(Case::Memory, "client_per_idle_connection_kb", "1000 idle connections, kB each, client", 1),
    row(Case::Memory, "server_per_idle_connection_kb", "  kB each, server side", 1),
];

/// What a figure of Remora is held against.
#[derive(Clone, Copy)]
enum Bound {
    /// At least so many times the other's.
    AtLeast(f64, Contender),
    /// At most so many times the other's.
    AtMost(f64, Contender),
    /// Less than this.
    Below(f64),
}

/// What a row may be worse than before.
const WORSE: f64 = 1.03;

/// What Remora must reach.
const THRESHOLDS: [(Case, &str, Bound); 8] = [
    (Case::Http1One, "requests_per_s", Bound::AtLeast(0.9, Contender::Floor)),
    (Case::Http1One, "requests_per_s", Bound::AtLeast(2.0, Contender::Envoy)),
    (Case::Http1Many, "requests_per_s", Bound::AtLeast(0.8, Contender::Floor)),
    (Case::Http1Many, "requests_per_s", Bound::AtLeast(1.8, Contender::Envoy)),
    (Case::NewConnections, "requests_per_s", Bound::AtLeast(0.8, Contender::Floor)),
    (Case::NewConnections, "requests_per_s", Bound::AtLeast(1.3, Contender::Envoy)),
    (Case::Bulk, "cpu_s_per_gib", Bound::AtMost(1.0, Contender::Envoy)),
    (Case::Memory, "client_resident_mb", Bound::Below(8.0)),
];

/// Everything that a later reader needs to judge the figures.
#[derive(Serialize)]
pub(crate) struct Report<'a> {
    plan: &'a Plan,
    machine: Machine,
    versions: Vec<String>,
    samples: Vec<Sample>,
    failed: Vec<(Contender, String)>,
}

#[derive(Serialize)]
struct Machine {
    cpu: String,
    cores: usize,
    kernel: String,
}

impl<'a> Report<'a> {
    pub(crate) fn new(plan: &'a Plan, outcome: Outcome) -> Result<Self> {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").context("read /proc/cpuinfo")?;
        let cpu = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        let machine = Machine {
            cpu: cpu.map_or("unknown", |(_, name)| name).to_owned(),
            cores: cpuinfo.lines().filter(|line| line.starts_with("processor")).count(),
            kernel: output(Command::new("uname").arg("-r"))?.trim().to_owned(),
        };
        let Outcome { samples, failed } = outcome;
        Ok(Self { plan, machine, versions: versions(plan), samples, failed })
    }

    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
        }
        let json = serde_json::to_string_pretty(self)? + "\n";
        fs::write(path, json).with_context(|| format!("write {}", path.display()))
    }

    fn columns(&self) -> impl Iterator<Item = Contender> {
        self.plan.contenders.iter().copied()
    }

    /// What Remora is compared with.
    fn others(&self) -> impl Iterator<Item = Contender> {
        [Contender::Floor, Contender::Envoy, Contender::Before]
            .into_iter()
            .filter(|other| self.plan.contenders.contains(other))
    }

    fn median(&self, case: Case, figure: &str, contender: Contender) -> Option<f64> {
        let of_case = self.samples.iter().filter(|sample| sample.case == case && sample.contender == contender);
        median(of_case.filter_map(|sample| sample.figures.get(figure).copied()).collect())
    }

    fn ratio(&self, case: Case, figure: &str, other: Contender) -> Option<f64> {
        ratio(&self.samples, case, figure, other)
    }

    fn line(&self, row: &Row) -> String {
        let cell = |value: Option<f64>, decimals| value.map_or("–".to_owned(), |value| format!("{value:.decimals$}"));
        let mut line = format!("| {:<39} |", row.title);
        for contender in self.columns() {
            let _ = write!(line, " {:>8} |", cell(self.median(row.case, row.figure, contender), row.decimals));
        }
        for other in self.others() {
            let _ = write!(line, " {:>8} |", cell(self.ratio(row.case, row.figure, other), 2));
        }
        line
    }

    /// The threshold in words and whether it is met, if both sides were measured.
    fn verdict(&self, case: Case, figure: &'static str, bound: Bound) -> Option<String> {
        let (met, wanted, found) = match bound {
            Bound::AtLeast(factor, other) => {
                let ratio = self.ratio(case, figure, other)?;
                (
                    ratio >= factor,
                    format!("at least {factor} × {}", other.title()),
                    self.found(ratio, case, figure, other),
                )
            }
            Bound::AtMost(factor, other) => {
                let ratio = self.ratio(case, figure, other)?;
                (
                    ratio <= factor,
                    format!("at most {factor} × {}", other.title()),
                    self.found(ratio, case, figure, other),
                )
            }
            Bound::Below(limit) => {
                let remora = self.median(case, figure, Contender::Remora)?;
                (remora < limit, format!("below {limit}"), format!("{remora:.1}"))
            }
        };
        let title = ROWS.iter().find(|row| (row.case, row.figure) == (case, figure))?.title.trim();
        Some(format!("- {} {title}: {wanted}; is {found}", if met { "met:    " } else { "NOT met:" }))
    }

    /// A ratio, and what the medians of the table say beside it, which are of different rounds.
    fn found(&self, ratio: f64, case: Case, figure: &str, other: Contender) -> String {
        let medians = self.median(case, figure, Contender::Remora).zip(self.median(case, figure, other));
        medians
            .map_or_else(String::new, |(ours, theirs)| format!("{ratio:.2} × (of the medians: {:.2})", ours / theirs))
    }

    /// Which rows are worse than before by more than [`WORSE`], if that was measured.
    fn worse(&self) -> impl Iterator<Item = String> {
        ROWS.iter().filter_map(|row| {
            let ratio = self.ratio(row.case, row.figure, Contender::Before)?;
            let worse = if row.figure.ends_with("_per_s") { 1.0 / ratio } else { ratio };
            let title = ROWS.iter().find(|first| first.case == row.case).map_or(row.title, |first| first.title);
            let what = if row.title == title { title.to_owned() } else { format!("{title}:{}", row.title) };
            (worse > WORSE).then(|| format!("- worse than before: {what}: {ratio:.2} ×"))
        })
    }

    fn errors(&self) -> impl Iterator<Item = String> {
        self.samples.iter().filter_map(|sample| {
            let errors = *sample.figures.get(ERRORS)?;
            let sample = || format!("{:?}, {}, round {}", sample.case, sample.contender.title(), sample.round);
            (errors > 0.0).then(|| format!("- failed: {errors} requests or connections in {}", sample()))
        })
    }
}

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Machine { cpu, cores, kernel, .. } = &self.machine;
        let Plan { rounds, seconds, command, commit, date, host, .. } = self.plan;
        writeln!(f, "\n`{command}`, {date}, {host}: {cores} cores, {cpu}, Linux {kernel}, commit {commit};")?;
        writeln!(
            f,
            "medians of {rounds} rounds of {seconds} turns of 1 s; a ratio is the median of the rounds' ratios.\n"
        )?;
        write!(f, "| {:<39} |", "case")?;
        for contender in self.columns() {
            write!(f, " {:>8} |", contender.title())?;
        }
        for other in self.others() {
            write!(f, " {:>8} |", format!("/ {}", other.title()))?;
        }
        let columns = self.columns().count() + self.others().count();
        writeln!(f, "\n|:{}|{}", "-".repeat(40), "---------:|".repeat(columns))?;
        for row in ROWS.iter().filter(|row| self.samples.iter().any(|sample| sample.case == row.case)) {
            writeln!(f, "{}", self.line(row))?;
        }
        writeln!(f)?;
        for verdict in THRESHOLDS.iter().filter_map(|&(case, figure, bound)| self.verdict(case, figure, bound)) {
            writeln!(f, "{verdict}")?;
        }
        self.worse().try_for_each(|line| writeln!(f, "{line}"))?;
        self.failed
            .iter()
            .try_for_each(|(contender, error)| writeln!(f, "- {} left out: {error}", contender.title()))?;
        self.errors().try_for_each(|line| writeln!(f, "{line}"))
    }
}

/// Remora's figure over the other's: the median of the rounds' ratios. What a round compares was measured in turns of a
/// second, so a machine that is faster in one round than in the next does not show, as it would in a ratio of medians.
fn ratio(samples: &[Sample], case: Case, figure: &str, other: Contender) -> Option<f64> {
    let of = |contender| samples.iter().filter(move |sample| sample.case == case && sample.contender == contender);
    let ratios = of(Contender::Remora).filter_map(|remora| {
        let other = of(other).find(|sample| sample.round == remora.round)?;
        Some(remora.figures.get(figure)? / other.figures.get(figure)?)
    });
    median(ratios.collect())
}

/// Of nothing: none.
pub(crate) fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let upper = *values.get(values.len() / 2)?;
    let lower = *values.get((values.len() - 1) / 2)?;
    Some(f64::midpoint(lower, upper))
}

/// The first line in which each program names its version; some do so on stderr or with a failure.
fn versions(plan: &Plan) -> Vec<String> {
    let ask = |program: &Path, argument: &str| {
        let said = Command::new(program).arg(argument).env("PATH", tools::path()).output().ok()?;
        let said = [said.stdout, said.stderr].concat();
        String::from_utf8_lossy(&said).lines().map(str::trim).find(|line| !line.is_empty()).map(str::to_owned)
    };
    let programs = [("wrk", "-v"), ("nginx", "-v"), ("iperf3", "--version")];
    let mut asked: Vec<_> = programs.map(|(program, argument)| ask(Path::new(program), argument)).into();
    if plan.contenders.contains(&Contender::Envoy) {
        asked.push(ask(&plan.envoy, "--version"));
    }
    asked.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn a_median_is_the_middle_or_between_the_two_middle_values() {
        assert_eq!(median(vec![]), None);
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0, 3.0, 2.0]), Some(2.5));
    }

    /// The machine is twice as fast in the second round; one round of the other was lost.
    #[test]
    fn a_ratio_compares_what_was_measured_in_the_same_round() {
        let sample = |contender, round, figure| Sample {
            case: Case::Bulk,
            contender,
            round,
            figures: BTreeMap::from([("gbit_per_s", figure)]),
        };
        let (floor, remora) = (Contender::Floor, Contender::Remora);
        let measured = [(remora, 1, 3.0), (remora, 2, 6.0), (remora, 3, 9.0), (floor, 1, 2.0), (floor, 2, 4.0)];
        let samples: Vec<_> = measured.map(|(who, round, figure)| sample(who, round, figure)).into();
        assert_eq!(ratio(&samples, Case::Bulk, "gbit_per_s", floor), Some(1.5));
        assert_eq!(ratio(&samples, Case::Bulk, "gbit_per_s", Contender::Envoy), None);
    }

    #[test]
    fn every_threshold_has_its_row() {
        for (case, figure, _) in THRESHOLDS {
            assert!(ROWS.iter().any(|row| (row.case, row.figure) == (case, figure)), "{case:?} {figure}");
        }
    }
}
