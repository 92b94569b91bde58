//! How clients keep their connections.

use super::{At as _, InvalidMessage, Problem, millis, to_millis};
use crate::v1;
use remora_model::{
    ConnectionSettings,
    connection::{IDLE_TIMEOUTS, KEEP_ALIVE_INTERVALS, KEEP_ALIVE_TIMEOUTS},
};
use std::{num::NonZeroU32, ops::RangeInclusive, time::Duration};

/// As [`v1::BackendSettings`] says it.
pub(super) fn said(settings: &ConnectionSettings) -> Option<v1::ConnectionSettings> {
    (*settings != ConnectionSettings::default()).then(|| v1::ConnectionSettings {
        idle_timeout_ms: settings.idle_timeout.map_or(0, to_millis),
        keep_alive_interval_ms: settings.keep_alive_interval.map_or(0, to_millis),
        keep_alive_timeout_ms: settings.keep_alive_timeout.map_or(0, to_millis),
        max_connections: settings.max_connections.map_or(0, NonZeroU32::get),
    })
}

/// Reads what [`v1::BackendSettings`] says.
pub(super) fn read(message: v1::ConnectionSettings) -> Result<ConnectionSettings, InvalidMessage> {
    Ok(ConnectionSettings {
        idle_timeout: time(message.idle_timeout_ms, IDLE_TIMEOUTS).at("idle_timeout_ms")?,
        keep_alive_interval: time(message.keep_alive_interval_ms, KEEP_ALIVE_INTERVALS).at("keep_alive_interval_ms")?,
        keep_alive_timeout: time(message.keep_alive_timeout_ms, KEEP_ALIVE_TIMEOUTS).at("keep_alive_timeout_ms")?,
        max_connections: NonZeroU32::new(message.max_connections),
    })
}

/// A time that may be unsaid.
fn time(value: u64, within: RangeInclusive<Duration>) -> Result<Option<Duration>, Problem> {
    match millis(value)? {
        Duration::ZERO => Ok(None),
        time if within.contains(&time) => Ok(Some(time)),
        _ => Err(Problem::OutOfRange),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_of_connections_survives_the_wire_within_its_bounds() {
        assert_eq!(said(&ConnectionSettings::default()), None);
        let all = ConnectionSettings {
            idle_timeout: Some(Duration::from_secs(30)),
            keep_alive_interval: Some(Duration::from_secs(5)),
            keep_alive_timeout: Some(Duration::from_millis(100)),
            max_connections: NonZeroU32::new(7),
        };
        let one = ConnectionSettings { max_connections: NonZeroU32::new(u32::MAX), ..ConnectionSettings::default() };
        for settings in [all, one] {
            assert_eq!(said(&settings).map(read), Some(Ok(settings)));
        }
        let message = v1::ConnectionSettings::default();
        for (message, error) in [
            (v1::ConnectionSettings { idle_timeout_ms: 999, ..message }, "idle_timeout_ms: is out of range"),
            (v1::ConnectionSettings { idle_timeout_ms: 3_600_001, ..message }, "idle_timeout_ms: is out of range"),
            (
                v1::ConnectionSettings { keep_alive_interval_ms: u64::MAX, ..message },
                "keep_alive_interval_ms: is out of range",
            ),
            (v1::ConnectionSettings { keep_alive_timeout_ms: 99, ..message }, "keep_alive_timeout_ms: is out of range"),
        ] {
            assert_eq!(read(message).map_err(|error| error.to_string()), Err(error.to_owned()));
        }
    }
}
