//! One request and its response, from arrival to the last byte, as the signals see it.

use super::{
    grpc,
    stall::{self, Overloaded},
};
use crate::{
    account::{Charge, Holder},
    backend::{InFlight, endpoint::Lease},
    telemetry::{Blame, Reason, RouteStats},
};
use http::HeaderMap;
use std::{fmt, sync::Arc};
use tokio::time::Instant;

/// Counts a request once, whatever becomes of it. Dropped before its end, it counts as cancelled by the client.
pub(crate) struct Exchange {
    stats: Arc<RouteStats>,
    started: Instant,
    grpc: bool,
    server_error: bool,
    /// Why the peer's proxy answered in place of its application, if it did: both ends count the same reason.
    told: Option<Reason>,
    /// The endpoint's part, whose latency ends with the response head.
    in_flight: Option<InFlight>,
    /// The HTTP/1 connection to give back to its pool.
    lease: Option<Lease>,
    /// What the request holds of its caller's share of the account.
    charge: Option<Charge>,
    /// The same for its answer, while that stands still.
    stalled: Option<Charge>,
    done: bool,
}

impl fmt::Debug for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exchange").field("done", &self.done).finish_non_exhaustive()
    }
}

impl Exchange {
    /// Begins to count a request.
    pub(crate) fn begin(stats: Arc<RouteStats>, started: Instant, grpc: bool) -> Self {
        stats.request();
        Self {
            stats,
            started,
            grpc,
            server_error: false,
            told: None,
            in_flight: None,
            lease: None,
            charge: None,
            stalled: None,
            done: false,
        }
    }

    /// Keeps `charge` for as long as the request is under way.
    pub(crate) fn hold(&mut self, charge: Charge) {
        self.charge = Some(charge);
    }

    /// Whose share of the account it is charged to.
    pub(crate) fn holder(&self) -> Option<Holder> {
        self.charge.as_ref().map(Charge::holder)
    }

    /// The answer has, or may have, up to `bytes` that its caller does not take. Too many for the caller's share of memory, and the
    /// exchange has failed.
    pub(crate) fn stands_still(&mut self, bytes: usize) -> Result<(), Overloaded> {
        if self.stalled.is_none()
            && bytes > 0
            && let Some(charge) = &self.charge
        {
            match stall::hold(&charge.holder(), bytes) {
                Ok(stalled) => self.stalled = Some(stalled),
                Err(overloaded) => {
                    self.fail(Reason::Overloaded);
                    return Err(overloaded);
                }
            }
        }
        Ok(())
    }

    /// All that came of the answer was taken.
    pub(crate) fn flows(&mut self) {
        self.stalled = None;
    }

    /// The route's counters.
    pub(crate) fn stats(&self) -> &Arc<RouteStats> {
        &self.stats
    }

    /// The response is one that the peer's proxy made, for this reason.
    pub(crate) fn told(&mut self, reason: Option<Reason>) {
        self.told = reason;
    }

    /// The head of a response came.
    pub(crate) fn head(&mut self, status: http::StatusCode, in_flight: Option<InFlight>, lease: Option<Lease>) {
        self.server_error = status.is_server_error();
        self.in_flight = in_flight;
        self.lease = lease;
    }

    /// Whether the caller speaks gRPC.
    pub(crate) fn is_grpc(&self) -> bool {
        self.grpc
    }

    /// Bytes of the response's body went by.
    pub(crate) fn received(&self, bytes: usize) {
        self.stats.bytes_out(bytes as u64);
    }

    /// The response is complete.
    pub(crate) fn ended(&mut self, trailers: Option<&HeaderMap>) {
        if std::mem::replace(&mut self.done, true) {
            return;
        }
        let failed = self.server_error || (self.grpc && trailers.is_some_and(grpc::failed));
        let now = Instant::now();
        let latency = now.saturating_duration_since(self.started);
        match self.told {
            Some(reason) => self.stats.failure(reason, latency),
            None if failed => self.stats.server_error(latency),
            None => self.stats.success(latency),
        }
        self.in_flight = None;
        if let Some(lease) = self.lease.take() {
            lease.give_back(now);
        }
    }

    /// The request failed.
    pub(crate) fn fail(&mut self, why: impl Into<Blame>) {
        if !std::mem::replace(&mut self.done, true) {
            self.stats.failure(why, self.started.elapsed());
        }
        self.in_flight = None;
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if !self.done {
            self.stats.cancelled(self.started.elapsed());
        }
    }
}
