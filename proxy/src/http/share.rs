//! What one HTTP/2 client may have at once: streams, and unread bytes of them.

use crate::limits;

/// What an HTTP/2 client may have on its connection. An HTTP/1 client has one request at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Share {
    /// Streams at once.
    pub streams: u32,
    /// Bytes of each that may be unread.
    pub window: u32,
    /// The window of the connection: never less than what the streams can leave unread.
    pub connection_window: u32,
    /// Streams that it may have reset before they were looked at.
    pub pending_resets: usize,
    /// Whether it is a proxy, which reads the reason of a failure from an answer. Others have requests to repeat refused, as a server
    /// refuses them (RFC 9113 §8.7).
    pub mesh: bool,
}

impl Share {
    /// Of an application, or of a client outside the mesh; less for each where it has a connection already.
    pub(crate) const fn client(first: bool) -> Self {
        let (streams, (_, window)) = (limits::STREAMS_MAX, limits::stream_share(first));
        let connection_window = limits::connection_window(streams, window);
        Self { streams, window, connection_window, pending_resets: limits::PENDING_RESETS_MAX, mesh: false }
    }

    /// Of a proxy.
    pub(crate) const fn mesh(first: bool) -> Self {
        let (streams, window) = limits::stream_share(first);
        // Many clients share it. h2 ends a connection whose unread frames take more than half of its window beyond their
        // bytes, and hyper has no setting for that.
        let connection_window = 2 * limits::DATA_FRAME_BUDGET_BYTES as u32;
        Self { streams, window, connection_window, pending_resets: limits::MESH_PENDING_RESETS_MAX, mesh: true }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Otherwise streams that are not read could fill it and stop all others.
    #[test]
    fn a_connections_window_holds_all_that_its_streams_can_leave_unread() {
        for share in [true, false].into_iter().flat_map(|first| [Share::client(first), Share::mesh(first)]) {
            assert!(
                u64::from(share.streams) * u64::from(share.window) <= u64::from(share.connection_window),
                "{share:?}"
            );
        }
        for first in [true, false] {
            let (streams, window) = limits::stream_share(first);
            assert_eq!(limits::connection_window(streams, window), streams * window);
            assert!(window >= 16 * 1024, "one frame");
        }
    }
}
