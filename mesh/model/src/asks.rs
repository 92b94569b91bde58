//! What discovery may ask proxies, and how much they tell: the bounds of `Ask` and `Answer`, which both ends keep.

/// What may be asked for, as paths of the proxy's admin port: what concerns the mesh. What requests say is not among them.
pub const ASKABLE: [&str; 4] = ["/signals?histograms=true", "/map", "/certificate", "/config"];
/// The bytes of an answer: the signals of all routes that a proxy may have, with their latencies, fit unless each of them has traffic
/// of every latency.
pub const ANSWER_BYTES_MAX: usize = 1024 * 1024;
/// The bytes of one part of it: no other message waits for more.
pub const ANSWER_PART_BYTES_MAX: usize = 64 * 1024;
/// Asks on one stream that have no whole answer: one that is answered, and the next.
pub const ASKS_UNDER_WAY_MAX: usize = 2;
