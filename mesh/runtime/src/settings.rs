//! Settings as text, read so that all errors are reported at once. Pure: who reads the environment or arguments is
//! the component's `config`.

use crate::log;
use remora_model::{
    DefaultInbound, Tracing, UnknownTargets,
    settings::{AccessLog, DRAIN_GRACE_MAX, LOG_FILTER_BYTES_MAX},
};
use std::{fmt, sync::Arc, time::Duration};

/// Everything that is wrong with the settings.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub struct Mistakes(pub Vec<String>);

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} in the configuration:", if self.0.len() == 1 { "an error" } else { "errors" })?;
        self.0.iter().try_for_each(|mistake| writeln!(f, "  {mistake}"))
    }
}

/// Reads one setting after the other and remembers what was wrong.
#[derive(Debug, Default)]
pub struct Reader {
    mistakes: Vec<String>,
}

impl Reader {
    /// The value of `name`; an error that names it if `parse` refuses `text`.
    pub fn value<T>(&mut self, name: &str, text: &str, parse: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        parse(text).map_err(|problem| self.mistake(format!("{name}={text:?}: {problem}"))).ok()
    }

    /// As [`Reader::value`], for a setting without default.
    pub fn required<T>(
        &mut self,
        name: &str,
        given: Option<&str>,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        match given {
            Some(text) if !text.is_empty() => self.value(name, text, parse),
            _ => {
                self.mistake(format!("{name}: must be set"));
                None
            }
        }
    }

    /// Notes what is wrong with several settings together.
    pub fn mistake(&mut self, mistake: String) {
        self.mistakes.push(mistake);
    }

    /// What was read, unless anything was wrong.
    pub fn finish<T>(self, settings: Option<T>) -> Result<T, Mistakes> {
        match settings {
            Some(settings) if self.mistakes.is_empty() => Ok(settings),
            _ => Err(Mistakes(self.mistakes)),
        }
    }
}

/// Whatever has a text form of its own.
pub fn parsed<T: std::str::FromStr<Err: fmt::Display>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|error: T::Err| error.to_string())
}

/// `500ms`, `30s`, `5m`, `24h`.
pub fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || "is a number with a unit: 500ms, 30s, 5m, 24h".to_owned();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (value, unit) = text.split_at(digits);
    let value: u64 = value.parse().map_err(|_| wrong())?;
    let factor = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(wrong()),
    };
    value.checked_mul(factor).map(Duration::from_millis).ok_or_else(wrong)
}

/// As [`duration`], within bounds.
pub fn duration_within(least: Duration, most: Duration) -> impl FnOnce(&str) -> Result<Duration, String> {
    move |text| match duration(text)? {
        duration if (least..=most).contains(&duration) => Ok(duration),
        _ => Err(format!("is from {least:?} to {most:?}")),
    }
}

/// The filter of a proxy's log, as annotations, the chart and flags say it. An empty one is refused: it logs nothing at all, which is
/// never intended.
///
/// # Errors
/// What is wrong with it.
pub fn log_filter(text: &str) -> Result<Arc<str>, String> {
    match log::check(text) {
        Ok(()) if (1..=LOG_FILTER_BYTES_MAX).contains(&text.len()) => Ok(text.into()),
        Ok(()) => Err("is a filter such as info or info,remora_proxy=debug".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// What a proxy does with unknown destinations: `pass` or `deny`.
///
/// # Errors
/// It is another word.
pub fn unknown_targets(text: &str) -> Result<UnknownTargets, String> {
    parsed(text)
}

/// Who may call a port that no Allow policy selects: `allow`, `authenticated`, `same-namespace` or `deny`.
///
/// # Errors
/// It is another word.
pub fn default_inbound(text: &str) -> Result<DefaultInbound, String> {
    parsed(text)
}

/// What a proxy writes to its access log: `off`, or `json`, `logfmt` or `apache`, and a filter behind it.
///
/// # Errors
/// It is none of these. The filter is read by the proxy alone.
pub fn access_log(text: &str) -> Result<AccessLog, String> {
    parsed(text)
}

/// Whether a proxy makes spans: `off`, or `host:port` of a collector, and a share of requests behind it.
///
/// # Errors
/// It is neither.
pub fn tracing(text: &str) -> Result<Tracing, String> {
    parsed(text)
}

/// How long open requests may take when a pod shuts down.
///
/// # Errors
/// It is no duration, or longer than [`DRAIN_GRACE_MAX`].
pub fn drain_grace(text: &str) -> Result<Duration, String> {
    duration_within(Duration::ZERO, DRAIN_GRACE_MAX)(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units_and_bounds() {
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("24h"), Ok(Duration::from_secs(86_400)));
        for wrong in ["", "s", "10", "10 s", "-1s", "1d", "99999999999999999999s", "18446744073709551615h"] {
            assert!(duration(wrong).is_err(), "{wrong:?}");
        }
        let within = || duration_within(Duration::from_secs(5), Duration::from_secs(60));
        assert_eq!(within()("5s"), Ok(Duration::from_secs(5)));
        assert_eq!(within()("61s"), Err("is from 5s to 60s".to_owned()));
    }

    #[test]
    fn what_a_running_proxy_is_told_is_read_within_its_bounds() {
        assert_eq!(log_filter("info,remora_proxy=debug").as_deref(), Ok("info,remora_proxy=debug"));
        for wrong in ["", "=,=", &"x,".repeat(600)] {
            assert!(log_filter(wrong).is_err(), "{wrong:?}");
        }
        assert_eq!(unknown_targets("deny"), Ok(UnknownTargets::Deny));
        assert_eq!(unknown_targets("Deny"), Err("is pass or deny".to_owned()));
        assert_eq!(drain_grace("0s"), Ok(Duration::ZERO));
        assert!(drain_grace("61m").is_err());
    }

    #[test]
    fn every_mistake_is_remembered_and_nothing_is_read_with_one() {
        let mut reader = Reader::default();
        let good = reader.value("--a", "1s", duration);
        reader.value("--b", "1", duration);
        reader.required("--c", None, duration);
        let Mistakes(mistakes) = reader.finish(good).unwrap_err();
        assert_eq!(mistakes.len(), 2, "{mistakes:?}");
        assert!(mistakes[0].starts_with("--b=\"1\": ") && mistakes[1] == "--c: must be set", "{mistakes:?}");
    }
}
