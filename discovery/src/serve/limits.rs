//! What one proxy may ask of discovery. Whatever has no bound, a compromised pod will find.

use std::time::Duration;

/// Resources that one proxy may subscribe to. Of a sidecar's memory limit this is what its own side of them may cost.
pub const SUBSCRIPTIONS_MAX: usize = 4096;
/// The same, as long as the pod that it names is unknown: enough for a start, some megabytes for all of an identity.
pub const UNPROVEN_SUBSCRIPTIONS_MAX: usize = 1024;
/// Resources that it may offer to hold: its subscriptions, and as many backends again.
pub const HELD_MAX: usize = 2 * SUBSCRIPTIONS_MAX;
/// Streams of one identity whose pods are not known, or that have not said yet who they are. New pods are known before their
/// proxies start, so these are few; those beyond are refused and come again.
pub const UNPROVEN_MAX: usize = 16;
/// How long a proxy may take to say who it is.
pub const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
/// The largest message taken: a Hello that offers [`HELD_MAX`] and [`SUBSCRIPTIONS_MAX`] resources of the longest names.
pub const REQUEST_BYTES_MAX: usize = 4 * 1024 * 1024;
/// The largest message sent. Proxies take 16 MB.
pub const RESPONSE_BYTES_MAX: usize = 15 * 1024 * 1024;
/// Requests read, and resources looked at, before another stream has a turn.
pub const TURN: usize = 256;
/// Messages that may be made and not taken yet, but for those of one target. With more, nothing is heard.
pub const MADE_MAX: usize = 256;
/// Work per second for one stream. A unit is a look at one resource, a request, or [`UNIT_BYTES`] sent: some microseconds,
/// so that one stream has no more than some percent of a core for long.
pub const WORK_PER_SECOND: u32 = 8_192;
/// Work that may be saved up: a proxy with all its subscriptions and some 20 MB of endpoints gets all at once.
pub const WORK_MAX: u32 = 65_536;
/// Bytes that count as one unit of work.
pub const UNIT_BYTES: usize = 512;
/// Log lines about what proxies could not take, in [`LINES_PERIOD`]; the rest is counted in the next line.
pub const LINES_MAX: u32 = 10;
/// See [`LINES_MAX`].
pub const LINES_PERIOD: Duration = Duration::from_secs(10);
/// Messages from earlier versions that a resource remembers: proxies are at most a few versions behind, or far behind.
pub const DELTAS_MAX: usize = 8;
/// Streams that are being opened at the same time: from their Hello until they were told all that they asked for at first.
pub const OPENING_MAX: usize = 512;
/// How long a stream counts among these.
pub const OPENING_PATIENCE: Duration = Duration::from_secs(10);
/// How many of those for whom there is no room may come again in a second: what a core opens in that time, handshakes included.
pub const RETURNS_PER_SECOND: u32 = 1000;
/// The longest that any of them is sent away for.
pub const RETURN_MAX: Duration = Duration::from_secs(10);
/// Bytes of answers of proxies that are there at the same time, of all streams: what is beyond is not kept.
pub const ANSWERS_BYTES_MAX: usize = 64 * 1024 * 1024;
/// How long a proxy may take to answer a person.
pub const ASK_PATIENCE: Duration = Duration::from_secs(5);
/// For so long one answer serves all who ask the same, …
pub const ANSWER_SHARED: Duration = Duration::from_secs(2);
/// … unless there are answers of so many bytes already: what is kept for others must not push out what is under way.
pub const ANSWERS_KEPT_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Proxies that are asked at the same time for one reader, where answers are large: at most half of [`ANSWERS_BYTES_MAX`].
pub const ASKED_AT_ONCE_MAX: usize = 32;
/// The same for the map, whose answers are small: of so many proxies that are gone none delays the others.
pub const ASKED_FOR_MAP_AT_ONCE_MAX: usize = 1024;
/// Readers of `/mesh/signals` at a time.
pub const SIGNALS_READERS_MAX: usize = 8;
/// Pods that one reader may name.
pub const PODS_NAMED_MAX: usize = 4096;
/// How long the map waits for a proxy.
pub const MAP_PATIENCE: Duration = Duration::from_millis(1500);
/// How long a map is current: it is made anew only when somebody reads it after that.
pub const MAP_FRESH: Duration = Duration::from_secs(2);
/// After so long without a reader a map is forgotten.
pub const MAP_KEPT: Duration = Duration::from_secs(10);
/// Rows of one proxy's answer that the map takes: it has so many routes and peers at most.
pub const MAP_ROWS_MAX: usize = 512;
/// Buckets of one histogram: all that there are have fewer.
pub const MAP_BUCKETS_MAX: usize = 4096;
/// Edges of the whole map. With more, those that have least traffic are left out.
pub const MAP_EDGES_MAX: usize = 20_000;
/// Proxies that did not answer which the map names.
pub const MAP_SILENT_MAX: usize = 100;
/// Pods that the map names of one workload.
pub const MAP_PODS_NAMED_MAX: usize = 10;
