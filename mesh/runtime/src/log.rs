//! Logs: one subscriber for the process, to stderr, whose filter can be changed while it runs.

use std::fmt;
use std::io::IsTerminal as _;
use std::str::FromStr;

use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _, Registry, fmt as format, reload};

/// How a log line looks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

impl FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            other => Err(format!("{other:?} is no log format; use text or json")),
        }
    }
}

/// Why logging could not be set up or changed.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The filter does not parse.
    #[error("log filter {filter:?} is invalid: {reason}")]
    Filter {
        /// As given.
        filter: String,
        /// What the parser says.
        reason: String,
    },
    /// There is a subscriber already, or none any more.
    #[error("cannot install the log subscriber: {0}")]
    Install(String),
}

/// Changes the filter of the running process.
#[derive(Clone)]
pub struct Handle(reload::Handle<EnvFilter, Registry>);

/// Whether `filter` would be taken, for a configuration to be checked before anything starts.
pub fn check(filter: &str) -> Result<(), LogError> {
    parse(filter).map(drop)
}

/// Installs the process's subscriber.
pub fn init(filter: &str, format: Format) -> Result<Handle, LogError> {
    let (filter, handle) = reload::Layer::new(parse(filter)?);
    let layer = format::layer().with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal());
    let layer = match format {
        Format::Text => layer.boxed(),
        Format::Json => layer.json().boxed(),
    };
    let subscriber = tracing_subscriber::registry().with(filter).with(layer);
    subscriber.try_init().map_err(|e| LogError::Install(e.to_string()))?;
    Ok(Handle(handle))
}

impl Handle {
    /// The filter in force.
    #[must_use]
    pub fn filter(&self) -> String {
        self.0.with_current(ToString::to_string).unwrap_or_default()
    }

    /// Replaces the filter.
    pub fn set(&self, filter: &str) -> Result<(), LogError> {
        self.0.reload(parse(filter)?).map_err(|e| LogError::Install(e.to_string()))
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Handle").field(&self.filter()).finish()
    }
}

/// h2 warns of every odd frame, so that a peer could fill a disk; who wants to see that says so: `info,h2=warn`.
const QUIET: &str = "h2=error";

fn parse(filter: &str) -> Result<EnvFilter, LogError> {
    EnvFilter::try_new(format!("{QUIET},{filter}"))
        .map_err(|e| LogError::Filter { filter: filter.to_owned(), reason: e.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_frames_fill_no_log_unless_asked_for() {
        assert_eq!(parse("info").unwrap().to_string(), "h2=error,info");
        assert_eq!(parse("info,h2=warn").unwrap().to_string(), "h2=warn,info");
        assert!(parse("=,=").is_err());
    }
}
