//! One request and its response, from arrival to the last byte, as the signals see it.

use super::{
    grpc,
    stall::{self, Overloaded},
};
use crate::{
    account::{Charge, Holder},
    backend::{InFlight, endpoint::Lease},
    telemetry::{Begun, Blame, Reason, Record},
};
use http::HeaderMap;
use std::{fmt, rc::Rc};
use tokio::time::Instant;

/// Ends a request's record once, whatever becomes of it. Dropped before its end, it counts as cancelled by the client.
pub(crate) struct Exchange {
    begun: Begun,
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
}

impl fmt::Debug for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exchange").field("begun", &self.begun).finish_non_exhaustive()
    }
}

impl Exchange {
    /// What was begun is an exchange.
    pub(crate) fn of(begun: Begun, grpc: bool) -> Self {
        Self { begun, grpc, server_error: false, told: None, in_flight: None, lease: None, charge: None, stalled: None }
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
                Ok(stalled) => {
                    self.stalled = Some(stalled);
                    self.begun.record().waits(Instant::now());
                }
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
        if self.stalled.take().is_some() {
            self.begun.record().taken();
        }
    }

    /// What is noted of it meanwhile.
    pub(crate) fn record(&self) -> &Rc<Record> {
        self.begun.record()
    }

    /// The response is one that the peer's proxy made, for this reason.
    pub(crate) fn told(&mut self, reason: Option<Reason>) {
        self.told = reason;
    }

    /// The head of a response came.
    pub(crate) fn head(&mut self, status: http::StatusCode, in_flight: Option<InFlight>, lease: Option<Lease>) {
        self.server_error = status.is_server_error();
        self.record().answered(status);
        self.in_flight = in_flight;
        self.lease = lease;
    }

    /// Whether the caller speaks gRPC.
    pub(crate) fn is_grpc(&self) -> bool {
        self.grpc
    }

    /// Bytes of the response's body went by.
    pub(crate) fn received(&self, bytes: usize) {
        self.record().bytes_out(bytes as u64);
    }

    /// The response is complete.
    pub(crate) fn ended(&mut self, trailers: Option<&HeaderMap>) {
        if self.begun.is_done() {
            return;
        }
        if self.grpc {
            self.record().answered_grpc(trailers.and_then(grpc::status));
        }
        let failed = self.server_error || (self.grpc && trailers.is_some_and(grpc::failed));
        let now = Instant::now();
        match self.told {
            Some(reason) => self.begun.failure(reason, now),
            None if failed => self.begun.server_error(now),
            None => self.begun.success(now),
        }
        self.in_flight = None;
        if let Some(lease) = self.lease.take() {
            lease.give_back(now);
        }
    }

    /// The request failed.
    pub(crate) fn fail(&mut self, why: impl Into<Blame>) {
        self.begun.failure(why, Instant::now());
        self.in_flight = None;
    }
}

#[cfg(test)]
mod tests;
