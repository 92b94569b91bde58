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

#[cfg(test)]
mod tests {
    use super::{
        super::test::{Inner, World, address, id, incoming, paused, told},
        *,
    };
    use crate::account::{Account, Peer};
    use http::Request;
    use std::rc::Rc;
    use tokio::io::DuplexStream;

    const UPLOAD: &[u8] = b"POST / HTTP/1.1\r\nhost: api\r\ncontent-length: 5000\r\n\r\nhalf";

    /// A request that came this far, and its client.
    async fn asked(world: &World, sent: &[u8]) -> (Outgoing<Incoming>, DuplexStream) {
        let (request, client) = incoming(sent).await;
        let (parts, body) = request.into_parts();
        let asked = world.outgoing(Wire::Http1, Request::get("/"));
        let mut asked = asked.try_with_body(|_| Ok::<_, ()>(body)).unwrap();
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
