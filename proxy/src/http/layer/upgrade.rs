//! Lets a request leave HTTP: an upgrade, or a CONNECT that its connection's target answers.
//!
//! Stands outside of [`Hop`](super::Hop), which writes such a request in the form that it keeps, and of everything that copies
//! requests. Until its server has agreed the request is like any other, with its route's deadline, tries and signals; then both
//! ends are handed to whoever answers the client.

use super::{After, Outcome, Within, always_ready};
use crate::{
    http::{
        request::{Answered, Failed, Outgoing},
        upgrade::{self, Offer, Tunnel},
    },
    resources::Resources,
};
use hyper::upgrade::OnUpgrade;
use std::rc::Rc;
use tower::{Layer, Service};

/// Makes [`Upgrade`].
#[derive(Debug, Clone)]
pub(crate) struct UpgradeLayer {
    resources: Rc<Resources>,
}

impl UpgradeLayer {
    /// Tunnels run in the tasks of `resources`.
    pub(crate) fn on(resources: &Rc<Resources>) -> Self {
        Self { resources: resources.clone() }
    }
}

impl<S> Layer<S> for UpgradeLayer {
    type Service = Upgrade<S>;

    fn layer(&self, inner: S) -> Upgrade<S> {
        Upgrade { inner, resources: self.resources.clone() }
    }
}

/// See the module.
#[derive(Debug, Clone)]
pub(crate) struct Upgrade<S> {
    inner: S,
    resources: Rc<Resources>,
}

impl<B, S> Service<Outgoing<B>> for Upgrade<S>
where
    S: Service<Outgoing<B>, Response = Answered, Error = Failed>,
{
    type Response = Answered;
    type Error = Failed;
    type Future = Within<S::Future, Leaving, Outcome>;

    always_ready!();

    fn call(&mut self, mut outgoing: Outgoing<B>) -> Self::Future {
        let asks = upgrade::take(&mut outgoing.request).map(|(offer, client)| {
            outgoing.offer = Some(offer.clone());
            Box::new((offer, client, self.resources.clone()))
        });
        Within::inner(self.inner.call(outgoing), Leaving(asks))
    }
}

/// The client's side of a request that asks to leave HTTP; nothing for any other.
#[derive(Debug)]
pub(crate) struct Leaving(Option<Box<(Rc<Offer>, OnUpgrade, Rc<Resources>)>>);

impl After for Leaving {
    type Output = Outcome;

    fn after(self, outcome: Outcome) -> Outcome {
        let mut answered = outcome?;
        if let Some(asks) = self.0.filter(|asks| asks.0.is_taken(&answered.response)) {
            let (_, client, resources) = *asks;
            answered.tunnel = Some(Box::new(Tunnel::new(client, &mut answered.response, &resources)));
        }
        Ok(answered)
    }
}
