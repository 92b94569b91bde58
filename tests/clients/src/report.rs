//! What was seen, for people and for scripts.

use crate::{
    scene::Seen,
    tools::{self, Client, Server},
};
use anyhow::Context as _;
use serde::Serialize;
use std::{collections::BTreeMap, io::Write as _, path::Path};

/// Of each kind of failure or difference, so many are told.
const EXAMPLES: usize = 3;

/// How a report is printed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    #[default]
    Table,
    Json,
}

/// One client and one server.
#[derive(Debug, Serialize)]
pub(crate) struct Cell {
    client: String,
    server: &'static str,
    requests: usize,
    direct_failed: usize,
    mesh_failed: usize,
    /// Requests that met the end of a connection through the mesh, and that nobody could send again: told apart, and not met.
    lost: usize,
    differ: usize,
    retries_by_proxies: f64,
    seconds: f64,
    /// How many of each kind, and examples.
    direct_failures: BTreeMap<String, Kind>,
    mesh_failures: BTreeMap<String, Kind>,
    differences: BTreeMap<String, Kind>,
}

#[derive(Debug, Default, Serialize)]
struct Kind {
    count: usize,
    examples: Vec<String>,
}

fn note(kinds: &mut BTreeMap<String, Kind>, kind: &str, example: impl FnOnce() -> String) {
    // Ports and numbers do not make another kind.
    let kind = kind.chars().filter(|c| !c.is_ascii_digit()).take(120).collect();
    let kind: &mut Kind = kinds.entry(kind).or_default();
    kind.count += 1;
    if kind.examples.len() < EXAMPLES {
        kind.examples.push(example());
    }
}

impl Cell {
    pub(crate) fn of(client: Client, server: Server, seen: Seen) -> Self {
        let Seen { plan, direct, again, mesh, took, retries } = seen;
        let mut cell = Self {
            client: client.title(),
            server: server.title(),
            requests: plan.lines().count(),
            direct_failed: 0,
            mesh_failed: 0,
            lost: 0,
            differ: 0,
            retries_by_proxies: retries,
            seconds: took.as_secs_f64(),
            direct_failures: BTreeMap::new(),
            mesh_failures: BTreeMap::new(),
            differences: BTreeMap::new(),
        };
        let none = "no answer".to_owned();
        for line in plan.lines() {
            let shown = || line.shown();
            let first = direct.get(&line.number);
            if let Some(failure) = first.map_or(Some(none.clone()), |answer| answer.failure()) {
                cell.direct_failed += 1;
                note(&mut cell.direct_failures, &failure, shown);
            }
            let through = mesh.get(&line.number);
            if let Some(failure) = through.map_or(Some(none.clone()), |answer| answer.failure()) {
                if line.was_lost(&failure) {
                    cell.lost += 1;
                } else {
                    cell.mesh_failed += 1;
                    note(&mut cell.mesh_failures, &failure, shown);
                }
                continue;
            }
            let compared = again.get(&line.number).or(first).filter(|answer| answer.failure().is_none());
            let differences = match (compared, through) {
                (Some(direct), Some(through)) => through.differences(direct),
                _ => vec!["no answer directly, to compare with".to_owned()],
            };
            cell.differ += usize::from(!differences.is_empty());
            for difference in differences {
                let kind = difference.split(':').next().unwrap_or_default().to_owned();
                note(&mut cell.differences, &kind, || format!("{}: {difference}", line.shown()));
            }
        }
        cell
    }

    fn met(&self) -> bool {
        self.mesh_failed == 0 && self.differ == 0 && self.lost == 0
    }

    /// In a few words, as the run goes on.
    pub(crate) fn summary(&self) -> String {
        let Self { requests, direct_failed, mesh_failed, differ, seconds, lost, .. } = self;
        format!(
            "{requests} requests in {seconds:.0} s; {direct_failed} failed directly, {mesh_failed} through the mesh, \
             {lost} lost to a close; {differ} differ"
        )
    }
}

/// All of a run.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    requests: u32,
    seed: u64,
    /// What each client and server is.
    versions: BTreeMap<&'static str, String>,
    /// What could not be had, and why.
    not_run: BTreeMap<String, String>,
    pub(crate) cells: Vec<Cell>,
}

impl Report {
    pub(crate) fn new(requests: u32, seed: u64) -> Self {
        Self { requests, seed, versions: BTreeMap::new(), not_run: BTreeMap::new(), cells: Vec::new() }
    }

    /// The client or server, if it can be had; notes which it is, or why not.
    pub(crate) fn had<T>(&mut self, name: &'static str, it: T) -> Option<T> {
        if self.versions.contains_key(name) {
            return Some(it);
        }
        if self.not_run.contains_key(name) {
            return None;
        }
        match tools::install(name) {
            Ok(version) => {
                self.versions.insert(name, version);
                Some(it)
            }
            Err(why) => {
                self.miss(name.to_owned(), &why);
                None
            }
        }
    }

    /// Notes a client that could not ask this server to the end.
    pub(crate) fn broken(&mut self, client: Client, server: Server, why: &anyhow::Error) {
        self.miss(format!("{} → {}", client.title(), server.title()), why);
    }

    fn miss(&mut self, what: String, why: &anyhow::Error) {
        eprintln!("NOT RUN: {what}: {why:#}");
        self.not_run.insert(what, format!("{why:#}"));
    }

    fn met(&self) -> bool {
        self.not_run.is_empty() && !self.cells.is_empty() && self.cells.iter().all(Cell::met)
    }

    fn json(&self) -> anyhow::Result<String> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }

    pub(crate) fn save(&self, file: &Path) -> anyhow::Result<()> {
        std::fs::write(file, self.json()?).with_context(|| format!("writing {}", file.display()))
    }

    /// Prints it: whether all was met.
    pub(crate) fn print(&self, format: Format) -> anyhow::Result<bool> {
        let mut out = std::io::stdout().lock();
        match format {
            Format::Json => out.write_all(self.json()?.as_bytes())?,
            Format::Table => self.table(&mut out)?,
        }
        Ok(self.met())
    }

    fn table(&self, out: &mut impl std::io::Write) -> anyhow::Result<()> {
        writeln!(out, "| client | server | requests | failed directly | failed | differ | lost to a close |")?;
        writeln!(out, "|--|--|--:|--:|--:|--:|--:|")?;
        for cell in &self.cells {
            let Cell { client, server, requests, direct_failed, mesh_failed, differ, lost, .. } = cell;
            writeln!(
                out,
                "| {client} | {server} | {requests} | {direct_failed} | {mesh_failed} | {differ} | {lost} |"
            )?;
        }
        writeln!(out)?;
        for (name, version) in &self.versions {
            writeln!(out, "{name}: {version}")?;
        }
        for cell in &self.cells {
            let Cell { client, server, .. } = cell;
            for (what, kinds) in [
                ("failed directly", &cell.direct_failures),
                ("FAILED", &cell.mesh_failures),
                ("DIFFER", &cell.differences),
            ] {
                for (kind, Kind { count, examples }) in kinds {
                    writeln!(out, "{client}, {server}: {count} {what}: {kind}")?;
                    for example in examples {
                        writeln!(out, "    {example}")?;
                    }
                }
            }
        }
        for (name, why) in &self.not_run {
            writeln!(out, "NOT RUN: {name}: {why}")?;
        }
        writeln!(out, "{}", if self.met() { "0 failed, 0 differ" } else { "not met" })?;
        Ok(())
    }
}
