//! Lets a request leave HTTP: an upgrade, or a CONNECT that its connection's target answers.
//!
//! Stands outside of [`Hop`](super::Hop), which writes such a request in the form that it keeps, and of everything that copies
//! requests. Until its server has agreed the request is like any other, with its route's deadline, tries and signals; then both
//! ends are handed to whoever answers the client.

use super::{After, Outcome, Within, always_ready};
use crate::{
    http::{
        request::{Answered, Counted, Failed},
        upgrade::{self, Asked, End, Offer, Tunnel},
        visit::Visit,
    },
    resources::Resources,
    revoke::Revoked,
};
use std::{future::pending, pin::Pin, rc::Rc};
use tower::{Layer, Service};

/// Makes [`Upgrade`].
#[derive(Debug, Clone)]
pub(crate) struct UpgradeLayer {
    resources: Rc<Resources>,
    /// As whom its client was let in, if policy may say otherwise later.
    visit: Option<Rc<Visit>>,
}

impl UpgradeLayer {
    /// Tunnels run in the tasks of `resources`, until both sides ended.
    pub(crate) fn on(resources: &Rc<Resources>) -> Self {
        Self { resources: resources.clone(), visit: None }
    }

    /// The same, until the peer of `visit` may no longer do what it was let in for.
    pub(crate) fn revocable(resources: &Rc<Resources>, visit: &Rc<Visit>) -> Self {
        Self { visit: Some(visit.clone()), ..Self::on(resources) }
    }

    fn revoked(&self, asked: Asked) -> Pin<Box<dyn Future<Output = Revoked>>> {
        match self.visit.clone() {
            None => Box::pin(pending()),
            Some(visit) => Box::pin(async move {
                let why = visit.revoked(asked.act()).await;
                why.note(&visit.peer, &visit.port);
                why
            }),
        }
    }
}

impl<S> Layer<S> for UpgradeLayer {
    type Service = Upgrade<S>;

    fn layer(&self, inner: S) -> Upgrade<S> {
        Upgrade { inner, layer: self.clone() }
    }
}

/// See the module.
#[derive(Debug, Clone)]
pub(crate) struct Upgrade<S> {
    inner: S,
    layer: UpgradeLayer,
}

impl<D, B, S> Service<Counted<D, B>> for Upgrade<S>
where
    S: Service<Counted<D, B>, Response = Box<Answered>, Error = Failed>,
{
    type Response = Box<Answered>;
    type Error = Failed;
    type Future = Within<S::Future, Leaving, Outcome>;

    always_ready!();

    fn call(&mut self, mut counted: Counted<D, B>) -> Self::Future {
        let Counted { request, authority, .. } = &mut counted;
        let asks = upgrade::take(request, authority.as_ref(), self.layer.visit.is_some()).map(|(offer, client)| {
            counted.offer = Some(offer.clone());
            Box::new(Asks { offer, client, layer: self.layer.clone() })
        });
        Within::inner(self.inner.call(counted), Leaving(asks))
    }
}

/// The client's side of a request that asks to leave HTTP; nothing for any other.
#[derive(Debug)]
pub(crate) struct Leaving(Option<Box<Asks>>);

#[derive(Debug)]
struct Asks {
    offer: Rc<Offer>,
    client: End,
    layer: UpgradeLayer,
}

impl After for Leaving {
    type Output = Outcome;

    fn after(self, outcome: Outcome) -> Outcome {
        let mut answered = outcome?;
        if let Some(asks) = self.0.filter(|asks| asks.offer.is_taken(&answered.response)) {
            let Asks { offer, client, layer } = *asks;
            let revoked = layer.revoked(offer.asked().clone());
            answered.tunnel = Some(Box::new(Tunnel::new(client, &mut answered.response, &layer.resources, revoked)));
        }
        Ok(answered)
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::test::{Inner, Visited, World, address, open_port, paused, real},
        *,
    };
    use crate::http::{Wire, request::Outgoing};
    use futures_util::FutureExt;
    use http::Request;
    use remora_model::Inbound;

    #[test]
    fn only_what_its_server_agreed_to_leaves_http() {
        // What is asked, what is answered, whether it is bytes from there on.
        for (fields, status, leaves) in [
            (&[("connection", "upgrade"), ("upgrade", "websocket")][..], 101, true),
            (&[("connection", "upgrade"), ("upgrade", "websocket")], 200, false),
            (&[("connection", "upgrade"), ("upgrade", "websocket")], 426, false),
            (&[("connection", "upgrade"), ("upgrade", "h2c")], 200, false),
            (&[], 200, false),
        ] {
            real(async {
                let world = Rc::new(World::new(&[address(1)]));
                let answers = world.clone();
                let inner = Inner::<Outgoing>::ready(move |_| answers.answer(status, None));
                let request =
                    fields.iter().fold(Request::get("http://api/"), |it, (name, value)| it.header(*name, *value));
                let mut service = UpgradeLayer::on(&world.resources).layer(inner.clone());
                let answered = service.call(world.outgoing(Wire::Http1, request)).await.unwrap();
                assert_eq!(answered.tunnel.is_some(), leaves, "{fields:?} {status}");
                let offers = fields.iter().any(|(_, value)| *value == "websocket");
                let seen = inner.seen.borrow();
                assert_eq!(seen[0].offer.is_some(), offers, "{fields:?}");
                assert_eq!(seen[0].request.headers().contains_key("upgrade"), offers, "h2c is taken off");
            });
        }
    }

    #[test]
    fn a_tunnel_lasts_as_long_as_what_let_its_client_in() {
        paused(async {
            let visited = Visited::new(open_port(), false, address(1));
            let asked = || Asked::of(&Request::get("http://api/chat").body(()).unwrap(), None, true);
            let layer = UpgradeLayer::revocable(&visited.resources, &visited.visit);
            let mut revoked = layer.revoked(asked());
            assert!((&mut revoked).now_or_never().is_none());
            visited.visit.port.says(Inbound { default_deny: true, ..open_port() });
            assert!(matches!(revoked.await, Revoked::Denied(_)));
            let out = UpgradeLayer::on(&visited.resources);
            assert!(out.revoked(asked()).now_or_never().is_none(), "nothing judges what leaves the pod");
        });
    }
}
