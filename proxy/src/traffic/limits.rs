//! The bounds of rate limits, with their reasons.

use std::time::Duration;

/// Callers that one limit tells apart in a process: a busy workload has some hundred identities, and some thousand users. When there
/// are more, the one that was seen least recently leaves, of those that no connection uses.
pub(crate) const KEYS_MAX: usize = 2048;

/// Parts of a limit's table, each with a lock of its own: workers seldom meet at one.
pub(crate) const KEY_SHARDS: usize = 16;

/// The same of all limits of the process together: 200 bytes each are 6.5 MB, 400 bytes at the worst 13 MB. Beyond it a limit that tells
/// others apart gives up one of them, and one that does not counts new callers together.
pub(crate) const ALL_KEYS_MAX: usize = 32_768;

/// Bytes of a header field's value by which requests are told apart. Longer values count together: a limit may not be walked around
/// by their length, nor memory be filled.
pub(crate) const HEADER_KEY_BYTES: usize = 256;

/// Rules that are counted by name in the life of a process; further ones are `other`.
pub(crate) const RULES_COUNTED_MAX: usize = 256;

/// The longest that a client is told to wait, in seconds: a limit of one an hour need not be waited for by a connection.
pub(crate) const RETRY_AFTER_SECONDS_MAX: u64 = 3600;

/// A relay whose reading pauses goes on when it may read so much, or the burst where that is less: few wake-ups, and short pauses.
pub(crate) const PAUSE_BYTES: u64 = 8 * 1024;

/// The longest pause before it looks again: the limit may be another one by then.
pub(crate) const PAUSE_MAX: Duration = Duration::from_secs(1);

/// The longest that an endpoint is passed over because it says that this proxy is over a limit there: by then the limit may be another one.
pub(crate) const BUSY_MAX: Duration = Duration::from_secs(10);
