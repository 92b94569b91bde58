//! What checks found: a line each, with the reason and the remedy below those that failed.

use crate::text::{Line, Style};
use serde::Serialize;

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Status {
    Ok,
    /// It works, but an operator should know.
    Warning,
    Failed,
}

/// One check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Check {
    /// What it is about: `kubernetes`, `control plane`, `namespace shop`, …
    pub(crate) group: String,
    /// What must hold.
    pub(crate) name: String,
    pub(crate) status: Status,
    /// What was found.
    pub(crate) detail: String,
    /// What to do; empty if it holds.
    pub(crate) remedy: String,
}

impl Check {
    /// It holds.
    pub(crate) fn ok(group: &str, name: &str, detail: impl Into<String>) -> Self {
        Self::new(group, name, Status::Ok, detail.into(), String::new())
    }

    /// It holds, but.
    pub(crate) fn warning(group: &str, name: &str, detail: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(group, name, Status::Warning, detail.into(), remedy.into())
    }

    /// It does not hold.
    pub(crate) fn failed(group: &str, name: &str, detail: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(group, name, Status::Failed, detail.into(), remedy.into())
    }

    fn new(group: &str, name: &str, status: Status, detail: String, remedy: String) -> Self {
        Self { group: group.to_owned(), name: name.to_owned(), status, detail, remedy }
    }
}

/// All checks of a run.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// Nothing failed.
    pub(crate) ok: bool,
    pub(crate) checks: Vec<Check>,
    /// How long it took.
    pub(crate) seconds: f64,
}

impl Report {
    pub(crate) fn new(checks: Vec<Check>, seconds: f64) -> Self {
        Self { ok: checks.iter().all(|it| it.status != Status::Failed), checks, seconds }
    }

    /// For people: grouped in the order in which groups appear.
    pub(crate) fn lines(&self) -> Vec<Line> {
        let mut lines = Vec::new();
        let mut last = None;
        let wide = self.checks.iter().map(|it| it.name.chars().count()).max().unwrap_or(0);
        for check in &self.checks {
            if last != Some(&check.group) {
                if last.is_some() {
                    lines.push(Line::default());
                }
                lines.push(Line::of(Style::Strong, &check.group));
                last = Some(&check.group);
            }
            let (word, style) = match check.status {
                Status::Ok => ("ok  ", Style::Good),
                Status::Warning => ("warn", Style::Warn),
                Status::Failed => ("FAIL", Style::Bad),
            };
            let faint = if check.status == Status::Ok { Style::Faint } else { Style::Plain };
            let line = Line::of(Style::Plain, "  ").and(style, word);
            let line = line.and(Style::Plain, format!("  {:wide$}  ", check.name)).and(faint, &check.detail);
            lines.push(line.cut(usize::MAX));
            if !check.remedy.is_empty() {
                lines.push(Line::of(Style::Plain, format!("        → {}", check.remedy)));
            }
        }
        lines.push(Line::default());
        lines.push(self.verdict());
        lines
    }

    fn verdict(&self) -> Line {
        let count = |status| self.checks.iter().filter(|it| it.status == status).count();
        let (failed, warnings) = (count(Status::Failed), count(Status::Warning));
        let all = self.checks.len();
        let text = format!("{all} {} in {:.1} s", if all == 1 { "check" } else { "checks" }, self.seconds);
        let line = match failed {
            0 => Line::of(Style::Good, format!("{text}: all hold")),
            1 => Line::of(Style::Bad, format!("{text}: 1 failed")),
            _ => Line::of(Style::Bad, format!("{text}: {failed} failed")),
        };
        match warnings {
            0 => line,
            1 => line.and(Style::Warn, ", 1 warning"),
            _ => line.and(Style::Warn, format!(", {warnings} warnings")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text;

    #[test]
    fn a_failure_is_followed_by_its_remedy_and_decides_the_verdict() {
        let checks = vec![
            Check::ok("kubernetes", "API server", "v1.35.0"),
            Check::warning("kubernetes", "Gateway API", "no CRDs", "install them"),
            Check::failed("control plane", "identity", "0 of 1 ready", "look at its log"),
        ];
        let report = Report::new(checks, 0.44);
        assert!(!report.ok);
        assert_eq!(
            text::render(&report.lines(), false),
            "kubernetes\n\
             \x20 ok    API server   v1.35.0\n\
             \x20 warn  Gateway API  no CRDs\n\
             \x20       → install them\n\
             \n\
             control plane\n\
             \x20 FAIL  identity     0 of 1 ready\n\
             \x20       → look at its log\n\
             \n\
             3 checks in 0.4 s: 1 failed, 1 warning\n"
        );
    }

    #[test]
    fn a_warning_fails_nothing() {
        assert!(Report::new(vec![Check::warning("a", "b", "c", "d")], 0.1).ok);
    }
}
