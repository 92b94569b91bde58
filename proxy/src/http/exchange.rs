//! One request and its response, from arrival to the last byte, as the signals see it.

use crate::{
    balance::InFlight,
    telemetry::{Reason, RouteStats},
};
use http::HeaderMap;
use std::{cell::Cell, fmt, sync::Arc, time::Instant};

/// Counts a request once, whatever becomes of it. Dropped before its end, it counts as cancelled by the client.
pub struct Exchange {
    stats: Arc<RouteStats>,
    started: Instant,
    grpc: bool,
    server_error: bool,
    /// The endpoint's part, whose latency ends with the response head.
    in_flight: Option<InFlight>,
    /// Gives the HTTP/1 connection back to its pool.
    on_end: Option<Box<dyn FnOnce()>>,
    done: Cell<bool>,
}

impl fmt::Debug for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exchange").field("done", &self.done).finish_non_exhaustive()
    }
}

impl Exchange {
    /// Begins to count a request.
    pub fn begin(stats: Arc<RouteStats>, started: Instant, grpc: bool) -> Self {
        stats.request();
        Self { stats, started, grpc, server_error: false, in_flight: None, on_end: None, done: Cell::new(false) }
    }

    /// The route's counters.
    pub fn stats(&self) -> &Arc<RouteStats> {
        &self.stats
    }

    /// The head of a response came.
    pub fn head(&mut self, status: http::StatusCode, in_flight: Option<InFlight>, on_end: Option<Box<dyn FnOnce()>>) {
        self.server_error = status.is_server_error();
        self.in_flight = in_flight;
        self.on_end = on_end;
    }

    /// Bytes of the response's body went by.
    pub fn received(&self, bytes: usize) {
        self.stats.bytes_out(bytes as u64);
    }

    /// The response is complete.
    pub fn ended(&mut self, trailers: Option<&HeaderMap>) {
        if self.done.replace(true) {
            return;
        }
        let failed = self.server_error || (self.grpc && trailers.is_some_and(grpc_failed));
        let latency = self.started.elapsed();
        if failed {
            self.stats.server_error(latency);
        } else {
            self.stats.success(latency);
        }
        self.in_flight = None;
        if let Some(give_back) = self.on_end.take() {
            give_back();
        }
    }

    /// The upstream broke off in the middle.
    pub fn broken(&mut self) {
        self.fail(Reason::UpstreamReset);
    }

    /// The request failed for `reason`.
    pub fn fail(&mut self, reason: Reason) {
        if !self.done.replace(true) {
            self.stats.failure(reason, self.started.elapsed());
        }
        self.in_flight = None;
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if !self.done.get() {
            self.stats.cancelled(self.started.elapsed());
        }
    }
}

/// Whether a gRPC status says that the server, not the caller, failed.
pub fn grpc_failed(headers: &HeaderMap) -> bool {
    headers
        .get("grpc-status")
        .is_some_and(|status| matches!(status.as_bytes(), b"2" | b"4" | b"12" | b"13" | b"14" | b"15"))
}
