//! `remora lint`: manifests in, what is wrong with them out; for pipelines, without a cluster.
//!
//! In: files and folders of YAML or JSON. Out: findings with file and line. What discovery would refuse it says itself: its own reader and its own
//! judgement run here ([`refused`]), over these files alone. What it would take and is odd all the same is found beside that ([`mod@odd`],
//! [`misspelt`]). Nothing is changed, and no cluster is asked.
//!
//! Files are seldom all that a cluster has. So what names something that is not in them is no error.

mod covers;
mod misspelt;
mod odd;
mod read;
mod refused;

use crate::{
    Look, finish_as,
    output::Output,
    text::{self, Line, Style},
};
pub(crate) use read::{Absent, Manifests, read as manifests};
use remora_discovery::{
    index::Mesh,
    objects::{Object, jwks::hosts_of},
};
use remora_kube::names;
use remora_model::TrustDomain;
use serde::Serialize;
use std::{path::PathBuf, process::ExitCode};

/// `remora lint`.
#[derive(Debug, clap::Args)]
#[command(after_help = "  remora lint k8s/\n  \
    helm template shop ./chart | remora lint -\n  \
    remora lint --strict -o json policies/*.yaml\n\n\
    The exit code is 1 if there is an error; with --strict if there is a warning, too. At most 16 MiB a file.")]
pub(crate) struct LintArgs {
    /// Manifests, and folders of them with all folders within; standard input for -
    #[arg(value_name = "PATH", required = true)]
    pub(crate) paths: Vec<PathBuf>,
    /// Warnings are errors
    #[arg(long)]
    pub(crate) strict: bool,
    /// The control plane's namespace: what is attached to it holds for the whole mesh
    #[arg(long, value_name = "NAME", default_value = names::NAMESPACE)]
    pub(crate) control_plane_namespace: String,
    /// The mesh's trust domain
    #[arg(long, value_name = "NAME", default_value = "cluster.local")]
    pub(crate) trust_domain: TrustDomain,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: Output,
}

/// How bad something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    /// Discovery refuses it, and says so in a status or in its log.
    Error,
    /// It is taken, and hardly meant so.
    Warning,
    /// It may be right, and only more than these files can tell.
    Note,
}

impl Level {
    const fn word(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Note => "note",
        }
    }
}

/// Something that was found.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
struct Finding {
    file: String,
    /// The first is 1; 0: of no line.
    line: usize,
    level: Level,
    /// `AuthorizationPolicy shop/web`; empty: of no object.
    object: String,
    /// One word, for scripts.
    code: String,
    message: String,
}

impl Finding {
    fn line(&self) -> Line {
        let style = match self.level {
            Level::Error => Style::Bad,
            Level::Warning => Style::Warn,
            Level::Note => Style::Faint,
        };
        let place = match (&*self.file, self.line) {
            ("", _) => String::new(),
            (file, 0) => format!("{file}: "),
            (file, line) => format!("{file}:{line}: "),
        };
        let object = if self.object.is_empty() { String::new() } else { format!("{}: ", self.object) };
        Line::of(Style::Strong, place)
            .and(style, self.level.word())
            .and(Style::Plain, format!(": {object}{} [{}]", self.message, self.code))
    }
}

/// All that was found, in the order of files and lines.
fn find(manifests: &Manifests, mesh: &Mesh) -> Vec<Finding> {
    let mut found = manifests.mistakes.clone();
    found.extend(refused::find(manifests, mesh));
    found.extend(odd::find(&manifests.objects, mesh));
    found.extend(misspelt::find(manifests));
    found.sort();
    found.dedup();
    found
}

/// What is odd about policies: of which object, and what.
pub(crate) fn odd(objects: &[Object], mesh: &Mesh) -> Vec<(String, String)> {
    odd::find(objects, mesh).into_iter().map(|one| (one.object, one.message)).collect()
}

/// Reads, judges, prints.
pub(crate) fn lint(args: &LintArgs, look: Look) -> ExitCode {
    let lint = || {
        let manifests = read::read(&args.paths)?;
        let (trust_domain, namespace) = (args.trust_domain.clone(), args.control_plane_namespace.clone());
        let jwks_hosts = hosts_of(&manifests.objects);
        let found = find(&manifests, &Mesh { trust_domain, namespace, jwks_hosts, ..Mesh::default() });
        let of = |level| found.iter().filter(|one| one.level == level).count();
        let [errors, warnings, notes] = [Level::Error, Level::Warning, Level::Note].map(of);
        let good = errors == 0 && (warnings == 0 || !args.strict);
        if args.output == Output::Json {
            let json = serde_json::json!({
                "ok": good, "files": manifests.files, "objects": manifests.objects.len(),
                "errors": errors, "warnings": warnings, "notes": notes, "findings": found,
            });
            return crate::inspect::pretty(&json, good);
        }
        let mut lines: Vec<Line> = found.iter().map(Finding::line).collect();
        let counted = |count: usize, word: &str| format!("{count} {word}{}", if count == 1 { "" } else { "s" });
        let sum = [(errors, "error"), (warnings, "warning"), (notes, "note")].map(|(count, word)| counted(count, word));
        let of = format!("; {} in {}", counted(manifests.objects.len(), "object"), counted(manifests.files, "file"));
        lines.push(Line::of(if good { Style::Good } else { Style::Bad }, sum.join(", ")).and(Style::Plain, of));
        Ok((text::render(&lines, look.coloured), good))
    };
    finish_as(args.output, lint())
}

#[cfg(test)]
mod tests;
