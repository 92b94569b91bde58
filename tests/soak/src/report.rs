//! What was seen beside what was wanted, for people and for scripts.

use serde::Serialize;
use std::{fmt::Display, io::Write as _, time::Duration};

/// How a report is printed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    #[default]
    Table,
    Json,
}

/// One run.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    name: &'static str,
    seconds: f64,
    met: bool,
    rows: Vec<Row>,
    /// The first failures, in words.
    failures: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Row {
    what: String,
    seen: String,
    /// Empty where nothing is wanted: it is told for the reader.
    wanted: String,
    met: bool,
}

impl Report {
    /// Of the subcommand `name`, nothing seen yet.
    pub(crate) fn new(name: &'static str) -> Self {
        Self { name, seconds: 0.0, met: true, rows: Vec::new(), failures: Vec::new() }
    }

    /// How long there was load.
    pub(crate) fn took(&mut self, took: Duration) {
        self.seconds = took.as_secs_f64();
    }

    /// Something that must hold.
    pub(crate) fn check(&mut self, what: impl Into<String>, seen: impl Display, wanted: impl Into<String>, met: bool) {
        self.met &= met;
        self.rows.push(Row { what: what.into(), seen: seen.to_string(), wanted: wanted.into(), met });
    }

    /// Something worth knowing.
    pub(crate) fn note(&mut self, what: impl Into<String>, seen: impl Display) {
        self.check(what, seen, "", true);
    }

    /// Why something failed.
    pub(crate) fn failures(&mut self, failures: impl IntoIterator<Item = String>) {
        self.failures.extend(failures);
    }

    /// Prints it: whether everything was met.
    pub(crate) fn print(&self, format: Format) -> anyhow::Result<bool> {
        let mut out = std::io::stdout().lock();
        if format == Format::Json {
            serde_json::to_writer_pretty(&mut out, self)?;
            writeln!(out)?;
            return Ok(self.met);
        }
        let width =
            |column: fn(&Row) -> &str| self.rows.iter().map(|row| column(row).chars().count()).max().unwrap_or(0);
        let (what, seen) = (width(|row| &row.what), width(|row| &row.seen));
        writeln!(out, "{}: {:.0} s of load", self.name, self.seconds)?;
        for row in &self.rows {
            let verdict = match (row.wanted.is_empty(), row.met) {
                (true, _) => String::new(),
                (false, true) => format!("  met: {}", row.wanted),
                (false, false) => format!("  NOT MET: {}", row.wanted),
            };
            writeln!(out, "  {:<what$}  {:>seen$}{verdict}", row.what, row.seen)?;
        }
        for failure in &self.failures {
            writeln!(out, "  failed: {failure}")?;
        }
        writeln!(out, "{}", if self.met { "met" } else { "not met" })?;
        Ok(self.met)
    }
}
