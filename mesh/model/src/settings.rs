//! The settings of a proxy that change while it runs.

use crate::{Closed, Feature, Features, Tracing};
use std::{fmt, str::FromStr, sync::Arc, time::Duration};

/// The longest log filter, in bytes.
pub const LOG_FILTER_BYTES_MAX: usize = 1024;
/// The longest grace of a drain. Kubernetes kills what takes much longer.
pub const DRAIN_GRACE_MAX: Duration = Duration::from_secs(3600);

/// What the mesh says of one setting.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Setting<T> {
    /// Nothing: it is as the proxy was started.
    #[default]
    AsStarted,
    /// It has this value.
    Said(T),
    /// What was written cannot be read: the value in force stays.
    Unreadable,
}

impl<T> Setting<T> {
    /// The value from now on, of a proxy that was started with `started` and has `before` in force.
    pub fn or(self, started: T, before: T) -> T {
        match self {
            Self::AsStarted => started,
            Self::Said(value) => value,
            Self::Unreadable => before,
        }
    }
}

/// What becomes of connections to destinations that the mesh does not know, outside the cluster's ranges.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum UnknownTargets {
    /// They are passed through untouched.
    #[default]
    Pass,
    /// They are refused.
    Deny,
}

impl UnknownTargets {
    /// All that there are.
    pub const ALL: [Self; 2] = [Self::Pass, Self::Deny];

    /// Its name in annotations and settings.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Deny => "deny",
        }
    }
}

impl fmt::Display for UnknownTargets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A word that names no [`UnknownTargets`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("is pass or deny")]
pub struct InvalidUnknownTargets;

impl FromStr for UnknownTargets {
    type Err = InvalidUnknownTargets;

    fn from_str(text: &str) -> Result<Self, InvalidUnknownTargets> {
        Self::ALL.into_iter().find(|word| word.name() == text).ok_or(InvalidUnknownTargets)
    }
}

/// Which requests and byte connections a proxy writes to its access log, and how.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum AccessLog {
    /// None.
    #[default]
    Off,
    /// Those that the filter takes; an empty filter takes all.
    On {
        /// How a line is written.
        format: AccessLogFormat,
        /// In the language of `/tap`, which only the proxy reads; at most [`ACCESS_LOG_FILTER_BYTES_MAX`] bytes.
        filter: Arc<str>,
    },
}

/// Bytes of an access log's filter.
pub const ACCESS_LOG_FILTER_BYTES_MAX: usize = 1024;

/// How a line of the access log is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AccessLogFormat {
    /// One JSON object a line.
    Json,
    /// `name=value` pairs.
    Logfmt,
    /// The combined log format of Apache.
    Apache,
}

impl AccessLogFormat {
    /// Every one of them.
    pub const ALL: [Self; 3] = [Self::Json, Self::Logfmt, Self::Apache];

    /// The word for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Logfmt => "logfmt",
            Self::Apache => "apache",
        }
    }
}

impl fmt::Display for AccessLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::On { format, filter } if filter.is_empty() => f.write_str(format.name()),
            Self::On { format, filter } => write!(f, "{} {filter}", format.name()),
        }
    }
}

/// A text that names no [`AccessLog`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("is off, json, logfmt or apache, and behind the format a filter if there is one, such as: json status>=500")]
pub struct InvalidAccessLog;

impl FromStr for AccessLog {
    type Err = InvalidAccessLog;

    fn from_str(text: &str) -> Result<Self, InvalidAccessLog> {
        let (word, filter) = text.trim().split_once(char::is_whitespace).unwrap_or((text.trim(), ""));
        if word == "off" && filter.is_empty() {
            return Ok(Self::Off);
        }
        let format = AccessLogFormat::ALL.into_iter().find(|format| format.name() == word).ok_or(InvalidAccessLog)?;
        let filter = filter.trim();
        if filter.len() > ACCESS_LOG_FILTER_BYTES_MAX {
            return Err(InvalidAccessLog);
        }
        Ok(Self::On { format, filter: filter.into() })
    }
}

/// All of a proxy's settings that change while it runs.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ProxySettings {
    /// The filter of its log, as `tracing-subscriber` writes it; from 1 to [`LOG_FILTER_BYTES_MAX`] bytes.
    pub log_filter: Setting<Arc<str>>,
    pub unknown_targets: Setting<UnknownTargets>,
    /// How long open requests may take when the pod shuts down; at most [`DRAIN_GRACE_MAX`].
    pub drain_grace: Setting<Duration>,
    /// What is written to its access log.
    pub access_log: Setting<AccessLog>,
    /// Whether it makes spans.
    pub tracing: Setting<Tracing>,
}

impl ProxySettings {
    /// What of them holds for a proxy that can carry out `known`: what it lacks is as it was started, for none of them forbids anything.
    pub fn within(mut self, known: Features) -> (Self, Vec<Closed>) {
        let mut closed = Vec::new();
        leave_out(&mut self.access_log, (Feature::AccessLog, "access-log"), known, &mut closed);
        leave_out(&mut self.tracing, (Feature::Tracing, "tracing"), known, &mut closed);
        (self, closed)
    }
}

fn leave_out<T>(setting: &mut Setting<T>, (feature, name): (Feature, &str), known: Features, closed: &mut Vec<Closed>) {
    if !matches!(setting, Setting::AsStarted) && !known.contain(feature) {
        *setting = Setting::AsStarted;
        closed.push(Closed { rule: name.into(), lacks: [feature].into_iter().collect() });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_holds_and_what_cannot_be_read_changes_nothing() {
        assert_eq!(Setting::Said(3).or(1, 2), 3);
        assert_eq!(Setting::AsStarted.or(1, 2), 1);
        assert_eq!(Setting::Unreadable.or(1, 2), 2);
    }

    #[test]
    fn an_access_log_is_read_as_it_is_written() {
        for text in ["off", "json", "logfmt status>=500", "apache not failed"] {
            assert_eq!(text.parse::<AccessLog>().map(|read| read.to_string()).as_deref(), Ok(text));
        }
        let long = format!("json {}", "a".repeat(ACCESS_LOG_FILTER_BYTES_MAX + 1));
        for wrong in ["", "on", "off failed", "JSON", &long] {
            assert_eq!(wrong.parse::<AccessLog>(), Err(InvalidAccessLog), "{wrong}");
        }
    }

    #[test]
    fn a_setting_that_a_proxy_lacks_is_as_it_was_started_and_the_others_hold() {
        let all = ProxySettings {
            drain_grace: Setting::Said(Duration::ZERO),
            access_log: Setting::Said(AccessLog::Off),
            tracing: Setting::Unreadable,
            ..ProxySettings::default()
        };
        assert_eq!(all.clone().within(Features::all()), (all.clone(), Vec::new()));
        let lacked: Features = [Feature::AccessLog, Feature::Tracing].into_iter().collect();
        let (less, closed) = all.within(Features::all().beyond(lacked));
        let grace = ProxySettings { drain_grace: Setting::Said(Duration::ZERO), ..ProxySettings::default() };
        assert_eq!(less, grace);
        let names: Vec<_> = closed.iter().map(|closed| (&*closed.rule, closed.lacks.to_string())).collect();
        assert_eq!(names, [("access-log", "access-log".to_owned()), ("tracing", "tracing".to_owned())]);
        assert_eq!(grace.clone().within(Features::unnamed()), (grace, Vec::new()), "what is not said needs nothing");
    }

    #[test]
    fn a_word_is_read_as_it_is_written() {
        for word in UnknownTargets::ALL {
            assert_eq!(word.to_string().parse(), Ok(word));
        }
        for wrong in ["", "Deny", "deny "] {
            assert_eq!(wrong.parse::<UnknownTargets>(), Err(InvalidUnknownTargets), "{wrong:?}");
        }
    }
}
