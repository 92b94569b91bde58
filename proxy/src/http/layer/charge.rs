//! Charges a request to its caller's share of the memory account, with what its body may hold.
//!
//! Stands, in both directions, outside of all that keeps the request or a copy of it, and inside [`Signals`](super::Signals): a request that there is no
//! memory for is counted and answered as `overloaded`.

use super::{After, Outcome, Within, always_ready};
use crate::{
    account::{self, Holder},
    http::{
        body::request::RequestBody,
        request::{Answered, Counted, Failed},
        visit::Visit,
    },
    limits,
    telemetry::Reason,
};
use hyper::body::Incoming;
use remora_model::BackendId;
use std::rc::Rc;
use tower::{Layer, Service};

const FULL: &str = "the application has as many requests under way as there is memory for";
const PEER_FULL: &str = "this caller has as many requests under way as fit into its share of memory";

/// Makes [`Charge`] of one caller.
#[derive(Debug, Clone)]
pub(crate) struct ChargeLayer {
    holder: Holder,
    /// What a request costs beside its body.
    bytes: usize,
    whose: Whose,
}

/// Whose requests they are, for the log.
#[derive(Debug, Clone)]
enum Whose {
    /// This pod's, for that Service.
    Pod(BackendId),
    Peer(Rc<Visit>),
}

impl ChargeLayer {
    /// Requests for `parent` are charged to `holder`.
    pub(crate) fn to(holder: &Holder, parent: &BackendId) -> Self {
        Self { holder: holder.clone(), bytes: limits::REQUEST_OUT_BYTES, whose: Whose::Pod(parent.clone()) }
    }

    /// Requests are charged to the peer of `visit`.
    pub(crate) fn to_peer(visit: &Rc<Visit>) -> Self {
        Self { holder: visit.holder.clone(), bytes: limits::REQUEST_BYTES, whose: Whose::Peer(visit.clone()) }
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

impl<D, S> Service<Counted<D, Incoming>> for Charge<S>
where
    S: Service<Counted<D>, Response = Box<Answered>, Error = Failed>,
{
    type Response = Box<Answered>;
    type Error = Failed;
    type Future = Within<S::Future, Charged, Outcome>;

    always_ready!();

    fn call(&mut self, counted: Counted<D, Incoming>) -> Self::Future {
        let ChargeLayer { holder, bytes, whose } = &self.layer;
        let window = counted.client.window;
        let counted = counted.try_with_body(|body, stats| RequestBody::new(body, (holder, window), stats));
        match (holder.charge(*bytes), counted) {
            (Some(charge), Ok(counted)) => Within::inner(self.inner.call(counted), Charged(charge)),
            _ => Within::early(Err(whose.refused())),
        }
    }
}

impl Whose {
    fn refused(&self) -> Failed {
        let reason = Reason::Overloaded.as_str();
        let text = match self {
            Self::Pod(parent) => {
                remora_runtime::limited!(warn, %parent, reason, text = FULL, "request refused");
                FULL
            }
            Self::Peer(visit) => {
                remora_runtime::limited!(info, peer = %visit.peer_name, address = %visit.peer.address, reason, text = PEER_FULL,
                    "request refused");
                PEER_FULL
            }
        };
        Failed::refused(Reason::Overloaded, text)
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
