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
        let (wire, window) = (counted.client.wire, counted.client.window);
        let counted = counted.try_with_body(|body, record| RequestBody::new(body, wire, (holder, window), record));
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

#[cfg(test)]
mod tests {
    use super::{
        super::test::{Inner, World, address, id, incoming, paused, told},
        *,
    };
    use crate::{
        account::{Account, Peer},
        http::{Wire, request::Outgoing},
    };
    use http::Request;
    use tokio::io::DuplexStream;

    const UPLOAD: &[u8] = b"POST / HTTP/1.1\r\nhost: api\r\ncontent-length: 5000\r\n\r\nhalf";

    /// A request that came this far, and its client.
    async fn asked(world: &World, sent: &[u8]) -> (Outgoing<Incoming>, DuplexStream) {
        let (request, client) = incoming(sent).await;
        let (parts, body) = request.into_parts();
        let asked = world.outgoing(Wire::Http1, Request::get("/"));
        let mut asked = asked.try_with_body(|_, _| Ok::<_, ()>(body)).unwrap();
        asked.request = Request::from_parts(parts, asked.request.into_body());
        (asked, client)
    }

    #[test]
    fn a_request_is_charged_from_its_head_to_the_end_of_its_answer() {
        paused(async {
            let (world, account) = (Rc::new(World::new(&[address(1)])), Account::new(1 << 20));
            let answers = world.clone();
            let inner = Inner::<Outgoing>::ready(move |_| answers.answer(200, None));
            let mut charge = ChargeLayer::to(&account.holder(Peer::Pod), &id()).layer(inner.clone());
            let (request, _client) = asked(&world, UPLOAD).await;
            let answered = charge.call(request).await.unwrap();
            let upload = 5000;
            assert_eq!(account.used(), limits::REQUEST_OUT_BYTES + upload, "with what its body may hold");
            inner.seen.borrow_mut().clear();
            assert_eq!(account.used(), limits::REQUEST_OUT_BYTES);
            drop(answered);
            assert_eq!(account.used(), 0);
        });
    }

    #[test]
    fn a_request_that_there_is_no_memory_for_goes_nowhere_and_leaves_nothing() {
        // Not for the request, and not for its body.
        for (bytes, sent) in [(limits::REQUEST_OUT_BYTES, &b"GET / HTTP/1.1\r\nhost: api\r\n\r\n"[..]), (6000, UPLOAD)]
        {
            paused(async {
                let (world, account) = (World::new(&[]), Account::new(bytes));
                let inner = Inner::<Outgoing>::silent();
                let mut charge = ChargeLayer::to(&account.holder(Peer::Pod), &id()).layer(inner.clone());
                let (request, _client) = asked(&world, sent).await;
                assert_eq!(told(&charge.call(request).await), "overloaded");
                assert_eq!((inner.asked(), account.used()), (0, 0));
            });
        }
    }

    #[test]
    fn a_client_that_gives_up_gives_its_share_back() {
        paused(async {
            let (world, account) = (World::new(&[]), Account::new(1 << 20));
            let inner = Inner::<Outgoing>::silent();
            let mut charge = ChargeLayer::to(&account.holder(Peer::Pod), &id()).layer(inner.clone());
            let (request, _client) = asked(&world, UPLOAD).await;
            let asked = charge.call(request);
            assert!(account.used() > limits::REQUEST_OUT_BYTES);
            drop(asked);
            inner.seen.borrow_mut().clear();
            assert_eq!(account.used(), 0);
        });
    }
}
