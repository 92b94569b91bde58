//! Charges a request to its caller's share of the memory account, with what its body may hold.
//!
//! Stands outside of all that keeps the request or a copy of it, and inside [`Signals`](super::Signals): a request that there is no
//! memory for is counted and answered as `overloaded`.

use super::{After, Outcome, Within, always_ready};
use crate::{
    account::{self, Holder},
    http::{
        Wire,
        body::request::RequestBody,
        request::{Answered, Failed, Outgoing},
        share::Share,
    },
    limits,
    telemetry::Reason,
};
use hyper::body::Incoming;
use remora_model::BackendId;
use tower::{Layer, Service};

const FULL: &str = "the application has as many requests under way as there is memory for";

/// Makes [`Charge`] of one caller.
#[derive(Debug, Clone)]
pub(crate) struct ChargeLayer {
    holder: Holder,
    /// Whose requests they are, for the log.
    parent: BackendId,
}

impl ChargeLayer {
    /// Requests for `parent` are charged to `holder`.
    pub(crate) fn to(holder: &Holder, parent: &BackendId) -> Self {
        Self { holder: holder.clone(), parent: parent.clone() }
    }
}

impl<S> Layer<S> for ChargeLayer {
    type Service = Charge<S>;

    fn layer(&self, inner: S) -> Charge<S> {
        Charge { inner, layer: self.clone() }
    }
}

/// See the module.
#[derive(Debug, Clone)]
pub(crate) struct Charge<S> {
    inner: S,
    layer: ChargeLayer,
}

impl<S> Service<Outgoing<Incoming>> for Charge<S>
where
    S: Service<Outgoing, Response = Box<Answered>, Error = Failed>,
{
    type Response = Box<Answered>;
    type Error = Failed;
    type Future = Within<S::Future, Charged, Outcome>;

    always_ready!();

    fn call(&mut self, outgoing: Outgoing<Incoming>) -> Self::Future {
        let wire = outgoing.client.wire;
        let window = match wire {
            Wire::Http1 => limits::HTTP1_BUFFER_BYTES,
            Wire::Http2 => Share::client(true).window as usize,
        };
        let ChargeLayer { holder, parent } = &self.layer;
        let outgoing = outgoing.try_with_body(|body| RequestBody::new(body, wire, holder, window));
        match (holder.charge(limits::REQUEST_OUT_BYTES), outgoing) {
            (Some(charge), Ok(outgoing)) => Within::inner(self.inner.call(outgoing), Charged(charge)),
            _ => {
                remora_runtime::limited!(warn, %parent, reason = Reason::Overloaded.as_str(), text = FULL, "request refused");
                Within::early(Err(Failed::refused(Reason::Overloaded, FULL)))
            }
        }
    }
}

/// What the request holds, to its end.
#[derive(Debug)]
pub(crate) struct Charged(account::Charge);

impl After for Charged {
    type Output = Outcome;

    fn after(self, outcome: Outcome) -> Outcome {
        outcome.map(|mut answered| {
            answered.charge = Some(self.0);
            answered
        })
    }
}
