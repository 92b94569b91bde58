//! Hands a request over to the application: over HTTP/2 on a connection of its caller's, over HTTP/1 on one that is idle or new,
//! or, where it asks to leave HTTP, on a connection of its own.
//!
//! The innermost service of the stack into the pod. There is one endpoint and no second try, but for kept connections that the
//! application had closed already. Its future is the one that is boxed: it holds the request while it is sent.

use super::{Outcome, always_ready};
use crate::{
    backend::endpoint::{Answer, Upstream},
    http::{
        headers,
        request::{Answered, Failed, Ingoing, Origin},
        upgrade,
    },
    limits,
    resources::Resources,
};
use futures_util::future::Either;
use http::Version;
use std::{pin::Pin, rc::Rc};
use tower::Service;

/// See the module.
#[derive(Debug, Clone)]
pub(crate) struct App {
    upstream: Rc<Upstream>,
    resources: Rc<Resources>,
}

impl App {
    /// The application is at `upstream`.
    pub(crate) fn of(upstream: &Rc<Upstream>, resources: &Rc<Resources>) -> Self {
        Self { upstream: upstream.clone(), resources: resources.clone() }
    }
}

impl Service<Ingoing> for App {
    type Response = Box<Answered>;
    type Error = Failed;
    type Future = Pin<Box<dyn Future<Output = Outcome>>>;

    always_ready!();

    fn call(&mut self, ingoing: Ingoing) -> Self::Future {
        Box::pin(self.clone().send(ingoing))
    }
}

impl App {
    async fn send(self, ingoing: Ingoing) -> Outcome {
        let Self { upstream, resources } = self;
        let Ingoing { mut request, started, client, offer, of, .. } = ingoing;
        let (permit, http2, mut stale) = (of.permit, request.version() == Version::HTTP_2, 0);
        let sent = loop {
            let sending = match &offer {
                None if http2 => {
                    let caller = Some((&client.callers, of.way.caller()));
                    Either::Left(Either::Right(upstream.send_http2(&permit, caller, request)))
                }
                None => Either::Left(Either::Left(upstream.send_http1(&permit, started, request))),
                Some(offer) => {
                    Either::Right(Box::pin(upgrade::send(&resources.tasks, &upstream, &permit, offer, request)))
                }
            };
            match sending.await {
                // The application closed connections that were kept; each of them is used up by this.
                Err(Failed { stale: true, unsent: Some(unsent), .. }) if stale < limits::IDLE_CONNECTIONS_MAX => {
                    stale += 1;
                    request = *unsent;
                }
                sent => break sent,
            }
        };
        match sent {
            Ok(Answer { response, lease, .. }) => {
                client.last.set(headers::says_close(response.headers()));
                let endpoint = upstream.endpoint.address;
                let origin = Origin { endpoint, mesh: false, fate: None, told: None, in_flight: None, lease, permit };
                Ok(Answered::of(response, origin))
            }
            Err(failed) => {
                client.last.set(true);
                Err(failed)
            }
        }
    }
}
