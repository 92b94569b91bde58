//! `connection` of a BackendPolicy: how clients keep their connections to a Service's endpoints. Each of its settings counts by itself.

use super::values;
use crate::objects::policy::{ConnectionSpec, KeepAliveSpec};
use remora_model::{
    ConnectionSettings,
    connection::{IDLE_TIMEOUTS, KEEP_ALIVE_INTERVALS, KEEP_ALIVE_TIMEOUTS},
};
use std::{num::NonZeroU32, ops::RangeInclusive, time::Duration};

/// One setting: its field, and what is said there. `None`: nothing.
type Said<T> = (&'static str, Option<Result<T, String>>);

/// What is said of each time.
fn times(spec: &ConnectionSpec) -> [Said<Duration>; 3] {
    let keep_alive = spec.keep_alive.as_ref();
    [
        ("connection.idleTimeout", spec.idle_timeout.as_ref(), IDLE_TIMEOUTS),
        ("connection.keepAlive.interval", keep_alive.and_then(|it| it.interval.as_ref()), KEEP_ALIVE_INTERVALS),
        ("connection.keepAlive.timeout", keep_alive.and_then(|it| it.timeout.as_ref()), KEEP_ALIVE_TIMEOUTS),
    ]
    .map(|(field, text, within)| (field, text.map(|text| time(text, within))))
}

fn max_connections(spec: &ConnectionSpec) -> Said<NonZeroU32> {
    let zero = || "is zero, with which the Service could not be called".to_owned();
    ("connection.maxConnections", spec.max_connections.map(|most| NonZeroU32::new(most).ok_or_else(zero)))
}

fn time(text: &str, within: RangeInclusive<Duration>) -> Result<Duration, String> {
    let time = values::duration(text)?;
    let (least, most) = (within.start(), within.end());
    if within.contains(&time) { Ok(time) } else { Err(format!("{text:?} is not from {least:?} to {most:?}")) }
}

/// Applies what can be read.
pub(super) fn apply(spec: &ConnectionSpec, settings: &mut ConnectionSettings) {
    let [idle_timeout, interval, timeout] = times(spec).map(|(_, said)| said.and_then(Result::ok));
    settings.idle_timeout = idle_timeout.or(settings.idle_timeout);
    settings.keep_alive_interval = interval.or(settings.keep_alive_interval);
    settings.keep_alive_timeout = timeout.or(settings.keep_alive_timeout);
    settings.max_connections = max_connections(spec).1.and_then(Result::ok).or(settings.max_connections);
}

/// The fields of what is said and can be read.
pub(super) fn said(spec: &ConnectionSpec) -> Vec<&'static str> {
    let is_said = |(field, said): Said<Duration>| matches!(said, Some(Ok(_))).then_some(field);
    let (field, most) = max_connections(spec);
    times(spec).into_iter().filter_map(is_said).chain(matches!(most, Some(Ok(_))).then_some(field)).collect()
}

/// All that is wrong, each beginning with its field.
pub(super) fn problems(spec: &ConnectionSpec) -> Vec<String> {
    let told = |field: &str, error: String| format!("spec.{field}: {error}; the default stays");
    let unknown = |at: &str, error: String| format!("spec.{at}.{error}; the default stays");
    let empty = |field: &str, is: bool| is.then(|| format!("spec.{field}: is empty"));
    let wrong = |(field, said): Said<Duration>| Some(told(field, said?.err()?));
    let (field, most) = max_connections(spec);
    let mut problems: Vec<String> = times(spec).into_iter().filter_map(wrong).collect();
    problems.extend(most.and_then(Result::err).map(|error| told(field, error)));
    problems.extend(spec.unknown.none().err().map(|error| unknown("connection", error)));
    problems.extend(empty("connection", *spec == ConnectionSpec::default()));
    if let Some(keep_alive) = &spec.keep_alive {
        problems.extend(keep_alive.unknown.none().err().map(|error| unknown("connection.keepAlive", error)));
        problems.extend(empty("connection.keepAlive", *keep_alive == KeepAliveSpec::default()));
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(json: &str) -> ConnectionSpec {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn each_setting_counts_by_itself() {
        let all = r#"{"idleTimeout": "30s", "keepAlive": {"interval": "5s", "timeout": "500ms"}, "maxConnections": 4}"#;
        let (all, mut settings) = (spec(all), ConnectionSettings::default());
        apply(&all, &mut settings);
        let whole = ConnectionSettings {
            idle_timeout: Some(Duration::from_secs(30)),
            keep_alive_interval: Some(Duration::from_secs(5)),
            keep_alive_timeout: Some(Duration::from_millis(500)),
            max_connections: NonZeroU32::new(4),
        };
        assert_eq!((settings, problems(&all)), (whole, Vec::new()));
        assert_eq!(said(&all).len(), 4);
        let one = spec(r#"{"idleTimeout": "1m", "keepAlive": {"interval": "1ms"}}"#);
        apply(&one, &mut settings);
        assert_eq!(settings, ConnectionSettings { idle_timeout: Some(Duration::from_secs(60)), ..whole });
        assert_eq!(said(&one), ["connection.idleTimeout"]);
    }

    #[test]
    fn every_mistake_is_told_by_its_field() {
        for (json, error) in [
            ("{}", "spec.connection: is empty"),
            (r#"{"keepAlive": {}}"#, "spec.connection.keepAlive: is empty"),
            (r#"{"idleTimeout": "500ms"}"#, r#"spec.connection.idleTimeout: "500ms" is not from 1s to 3600s; the"#),
            (r#"{"idleTimeout": "1 s"}"#, r#"spec.connection.idleTimeout: "1 s" is no duration"#),
            (r#"{"keepAlive": {"interval": "2h"}}"#, r#"spec.connection.keepAlive.interval: "2h" is not from 1s"#),
            (r#"{"keepAlive": {"timeout": "50ms"}}"#, r#"spec.connection.keepAlive.timeout: "50ms" is not from 100ms"#),
            (r#"{"keepAlive": {"timout": "1s"}}"#, "spec.connection.keepAlive.timout"),
            (r#"{"maxConnections": 0}"#, "spec.connection.maxConnections: is zero"),
            (r#"{"maxConections": 1}"#, "spec.connection.maxConections"),
        ] {
            let problems = problems(&spec(json));
            assert!(problems.len() == 1 && problems[0].starts_with(error), "{json}: {problems:?}");
        }
    }
}
