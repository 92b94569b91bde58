//! HTTP/2 towards one address. In: requests. Out: streams, on as many connections as the peer's stream limit and our
//! windows need; none that is not used.
//!
//! What one stream does must not be felt by another. So a connection's window is never smaller than what its streams may
//! pin ([`limits::stream_share`]), a request is given a connection only where the peer's limit leaves a stream, and what a
//! stalled reader leaves unread is held compactly ([`Received`]), since HTTP/2 libraries end connections that buffer many
//! small frames. What finds no stream waits, bounded in number and time, and then fails with [`Reason::QueueFull`].
//!
//! It does not: choose endpoints, or know whom a request is for. Towards peers of the mesh all callers of the pod share
//! one [`Streams`]; towards applications each caller has its own ([`super::Caller`]).
//!
//! [`Reason::QueueFull`]: crate::telemetry::Reason::QueueFull
//! [`limits::stream_share`]: crate::limits::stream_share

mod connection;
mod driver;
mod queue;
mod received;
mod send;
mod streams;

pub(in crate::backend) use received::Received;
pub(super) use send::send;
pub(super) use streams::{Dial, Kind, Streams};

#[cfg(test)]
mod tests;
