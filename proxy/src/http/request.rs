//! What is known of a request on its way, as types: each stage of a stack takes one of them and gives the next, so that
//! layers in a wrong order do not compile.
//!
//! Out of the pod: [`Arrived`] → [`Planned`] → [`Routed`] → [`Outgoing`] → [`Attempt`] → `Permitted<Attempt>` → [`Answered`], or
//! [`Failed`].

use super::{
    Wire,
    body::request::RequestBody,
    upgrade::{Offer, Tunnel},
};
use crate::{
    account::Charge,
    backend::{
        InFlight,
        endpoint::{AnswerBody, Callers, Lease},
    },
    policy::Permit,
    telemetry::{Proto, Reason, RouteStats},
};
use http::{Request, Response, uri::Authority};
use hyper::body::Incoming;
use std::{net::SocketAddr, rc::Rc, sync::Arc};
use tokio::time::Instant;

pub(crate) use crate::backend::endpoint::Failed;

/// A client's connection, as its requests know it.
#[derive(Debug)]
pub(crate) struct ClientConnection {
    pub wire: Wire,
    /// Whether the client does not know of the proxy: its connection was redirected here.
    pub transparent: bool,
    /// Who asks on it, with what each has for itself of connections to servers outside the mesh.
    pub callers: Callers,
}

impl ClientConnection {
    /// A connection on which nothing was asked yet.
    pub(crate) fn new(wire: Wire, transparent: bool) -> Rc<Self> {
        Rc::new(Self { wire, transparent, callers: Callers::default() })
    }
}

/// A request that passed the checks which need no route.
#[derive(Debug)]
pub(crate) struct Arrived<B = Incoming> {
    pub request: Request<B>,
    /// When its head was read.
    pub started: Instant,
    pub grpc: bool,
    /// The one authority that it names.
    pub authority: Option<Authority>,
    pub client: Rc<ClientConnection>,
}

impl<B> Arrived<B> {
    /// What signals call the protocol that its client speaks.
    pub(crate) fn proto(&self) -> Proto {
        match (self.grpc, self.client.wire) {
            (true, _) => Proto::Grpc,
            (false, Wire::Http1) => Proto::Http1,
            (false, Wire::Http2) => Proto::Http2,
        }
    }
}

/// A request whose target's plan is known.
#[derive(Debug)]
pub(crate) struct Planned<P, B = Incoming> {
    pub arrived: Arrived<B>,
    pub plan: Rc<P>,
}

/// A request for a backend that was drawn for it.
#[derive(Debug)]
pub(crate) struct Routed<B = Incoming> {
    pub arrived: Arrived<B>,
    /// Bytes of its path that the rule's prefix match stands for; 0 for any other match.
    pub prefix: usize,
}

/// A request that its route's counters know.
#[derive(Debug)]
pub(crate) struct Outgoing<B = RequestBody> {
    pub request: Request<B>,
    pub prefix: usize,
    pub authority: Option<Authority>,
    pub started: Instant,
    pub grpc: bool,
    pub client: Rc<ClientConnection>,
    pub stats: Arc<RouteStats>,
    /// What it offers to become, if it asks to leave HTTP.
    pub offer: Option<Rc<Offer>>,
}

impl<B> Outgoing<B> {
    /// The same request with another body, if there is one.
    pub(crate) fn try_with_body<C, E>(self, change: impl FnOnce(B) -> Result<C, E>) -> Result<Outgoing<C>, E> {
        let Self { request, prefix, authority, started, grpc, client, stats, offer } = self;
        let (parts, body) = request.into_parts();
        let request = Request::from_parts(parts, change(body)?);
        Ok(Outgoing { request, prefix, authority, started, grpc, client, stats, offer })
    }
}

/// One try of a request.
#[derive(Debug)]
pub(crate) struct Attempt {
    pub request: Request<RequestBody>,
    /// When it began.
    pub began: Instant,
    pub grpc: bool,
    pub client: Rc<ClientConnection>,
    pub offer: Option<Rc<Offer>>,
    /// The endpoints that the tries before it failed at.
    pub tried: Vec<SocketAddr>,
}

/// What a peer says that became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Its application was not reached, or it took nothing new, for this reason.
    Undelivered(Reason),
    /// Its application broke off: as if the connection to the peer had broken, but that the peer itself is well.
    BrokenOff,
}

/// An answer on its way back through the stack, with what it leaves behind when it is passed on.
#[derive(Debug)]
pub(crate) struct Answered {
    pub response: Response<AnswerBody>,
    /// The endpoint that it came from; `None`: this proxy made it.
    pub origin: Option<Origin>,
    /// When its body must be complete.
    pub until: Option<Instant>,
    /// What the request holds of its caller's share of the account.
    pub charge: Option<Charge>,
    /// Both ends, if it is bytes from here on.
    pub tunnel: Option<Box<Tunnel>>,
}

/// Where an answer came from.
#[derive(Debug)]
pub(crate) struct Origin {
    pub endpoint: SocketAddr,
    /// Whether that is a proxy of the mesh, whose reserved fields are to be believed.
    pub mesh: bool,
    pub fate: Option<Fate>,
    /// Why the peer made this answer itself, if it did.
    pub told: Option<Reason>,
    /// Counts at the endpoint as long as the answer goes on.
    pub in_flight: InFlight,
    /// The HTTP/1 connection to give back.
    pub lease: Option<Lease>,
    pub permit: Permit,
}

impl Answered {
    /// An answer that this proxy made, because a route says so.
    pub(crate) fn own(response: Response<AnswerBody>) -> Box<Self> {
        Box::new(Self { response, origin: None, until: None, charge: None, tunnel: None })
    }

    /// Its body must be complete at `at`, or before.
    pub(crate) fn bound(&mut self, at: Instant) {
        self.until = Some(self.until.map_or(at, |until| until.min(at)));
    }
}
