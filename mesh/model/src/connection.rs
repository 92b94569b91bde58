//! How a client keeps its connections to the endpoints of a backend.

use std::{num::NonZeroU32, ops::RangeInclusive, time::Duration};

/// How the connections to each endpoint are kept. What is not said is as the proxy has it for each protocol.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct ConnectionSettings {
    /// How long a connection for requests is kept without any. Within [`IDLE_TIMEOUTS`].
    pub idle_timeout: Option<Duration>,
    /// After so long a silence while requests wait, an HTTP/2 server is asked whether it is there (PING, RFC 9113 §6.7). Within
    /// [`KEEP_ALIVE_INTERVALS`].
    pub keep_alive_interval: Option<Duration>,
    /// How long its answer may take. Within [`KEEP_ALIVE_TIMEOUTS`].
    pub keep_alive_timeout: Option<Duration>,
    /// The most connections of one proxy to each endpoint.
    pub max_connections: Option<NonZeroU32>,
}

/// Of [`ConnectionSettings::idle_timeout`].
pub const IDLE_TIMEOUTS: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(3600);
/// Of [`ConnectionSettings::keep_alive_interval`].
pub const KEEP_ALIVE_INTERVALS: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(3600);
/// Of [`ConnectionSettings::keep_alive_timeout`].
pub const KEEP_ALIVE_TIMEOUTS: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(60);
