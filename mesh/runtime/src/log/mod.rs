//! Logs: one subscriber for the process, to standard error, whose filter can be changed while it runs.
//!
//! Logging never blocks ([`lossy`]), and no client can fill the log ([`Limited`]).

mod limited;
mod lossy;

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    fmt,
    io::IsTerminal as _,
    str::FromStr,
    sync::OnceLock,
    time::Duration,
};

pub use limited::{Admitted, Limited};
use lossy::Lossy;
#[doc(hidden)]
pub use tracing;

use tracing_subscriber::{
    EnvFilter, Layer as _, Registry, fmt as format, layer::SubscriberExt as _, reload, util::SubscriberInitExt as _,
};

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
    /// No thread to write by.
    #[error("cannot start the thread that writes the log")]
    Thread(#[source] std::io::Error),
}

/// What this process's log has still to write.
static LOG: OnceLock<Lossy> = OnceLock::new();

/// How long a process that ends waits for its last lines to be taken.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// Changes the filter of the running process.
#[derive(Clone)]
pub struct Handle(reload::Handle<EnvFilter, Registry>);

/// Whether `filter` would be taken, for a configuration to be checked before anything starts.
pub fn check(filter: &str) -> Result<(), LogError> {
    parse(filter).map(drop)
}

/// Installs the process's subscriber, and has panics logged as well. Call [`flush`] before the process exits.
pub fn init(filter: &str, format: Format) -> Result<Handle, LogError> {
    let (filter, handle) = reload::Layer::new(parse(filter)?);
    let lossy = Lossy::default();
    let layer = format::layer().with_writer(lossy.clone()).with_ansi(std::io::stderr().is_terminal());
    let layer = match format {
        Format::Text => layer.boxed(),
        Format::Json => layer.json().boxed(),
    };
    let subscriber = tracing_subscriber::registry().with(filter).with(layer);
    subscriber.try_init().map_err(|e| LogError::Install(e.to_string()))?;
    lossy.start(std::io::stderr(), format).map_err(LogError::Thread)?;
    LOG.get_or_init(|| lossy);
    // The standard hook writes to standard error itself, which may take nothing: the thread would hang rather than end.
    std::panic::set_hook(Box::new(|panic| {
        let thread = std::thread::current();
        let backtrace = Backtrace::capture();
        let backtrace = (backtrace.status() == BacktraceStatus::Captured).then(|| tracing::field::display(backtrace));
        tracing::error!(thread = thread.name(), backtrace, "panicked: {panic}");
    }));
    Ok(Handle(handle))
}

/// Waits for what was logged to be written, a second at most: standard error may take nothing. For the end of a process.
pub fn flush() {
    if let Some(log) = LOG.get() {
        log.flush(FLUSH_TIMEOUT);
    }
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

/// Of these crates less is said than the filter asks for, unless it names them (`info,h2=warn`; a part of them counts as well):
/// - h2 warns of every odd frame, so that a peer could fill a disk.
/// - kube's client and watcher log each try that fails, several a second while the API server is away. All of these come back as
///   errors too, and parts tell of them in their own words (`remora_kube::outage`). That a bundle of CAs cannot be read is told there only.
const QUIET: [(&str, &str); 3] = [
    ("h2", "h2=error"),
    ("kube_client", "kube_client::client=off,kube_client::client::tls=warn"),
    ("kube_runtime", "kube_runtime::watcher=off"),
];

fn parse(filter: &str) -> Result<EnvFilter, LogError> {
    let named: Vec<&str> = filter.split(',').filter_map(|directive| directive.split([':', '=', '[']).next()).collect();
    let quiet = QUIET.iter().filter(|(name, _)| !named.iter().any(|named| named == name));
    let directives: Vec<&str> = quiet.map(|(_, directives)| *directives).chain([filter]).collect();
    EnvFilter::try_new(directives.join(","))
        .map_err(|e| LogError::Filter { filter: filter.to_owned(), reason: e.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{io, sync::Mutex};

    /// What is logged of some lines of ours and of libraries, first with the filter `at_first`, then with `live`.
    fn logged(at_first: &str, live: &str) -> [String; 2] {
        let (filter, handle) = reload::Layer::new(parse(at_first).unwrap());
        let handle = Handle(handle);
        let (said, pipe) = io::pipe().unwrap();
        let layer = format::layer().with_ansi(false).without_time().with_target(false).with_writer(Mutex::new(pipe));
        tracing::subscriber::with_default(tracing_subscriber::registry().with(filter).with(layer), || {
            say();
            handle.set(live).unwrap();
            tracing::error!(target: "remora_discovery", "--");
            say();
        });
        let said = io::read_to_string(said).unwrap().replace(" WARN ", "").replace("ERROR ", "");
        let (first, then) = said.split_once("--\n").unwrap();
        [first, then].map(|said| said.trim().replace('\n', " "))
    }

    fn say() {
        tracing::error!(target: "kube_client::client::builder", "attempt");
        tracing::warn!(target: "kube_client::client", "eof");
        tracing::warn!(target: "kube_client::client::tls", "stale");
        tracing::warn!(target: "kube_runtime::watcher", "watch");
        tracing::warn!(target: "h2::proto", "frame");
        tracing::warn!(target: "remora_discovery", "ours");
    }

    #[test]
    fn what_libraries_say_without_end_is_left_out_by_live_filters_as_well_unless_they_name_them() {
        let quiet = "stale ours";
        assert_eq!(logged("info", "debug"), [quiet, quiet]);
        assert_eq!(logged("info", "info,kube_client=info"), [quiet, "attempt eof stale ours"]);
        assert_eq!(
            logged("info,h2=warn", "info,kube_client::client::builder=error"),
            ["stale frame ours", "attempt eof stale ours"]
        );
        assert_eq!(logged("kube_runtime=warn,info", "remora_discovery=info"), ["stale watch ours", quiet]);
        assert!(parse("=,=").is_err());
    }
}
