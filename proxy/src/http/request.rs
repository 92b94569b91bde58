//! What is known of a request on its way, as types: each stage of a stack takes one of them and gives the next, so that
//! layers in a wrong order do not compile.
//!
//! Out of the pod: [`Arrived`] → [`Planned`] → [`Routed`] → [`Outgoing`] → [`Attempt`] → `Permitted<Attempt>` → [`Answered`], or
//! [`Failed`].
//!
//! Into the pod: [`Restored`] → [`Judged`] → [`Ingoing`] → [`Answered`], or [`Failed`].

use super::{
    Wire,
    body::request::RequestBody,
    form::Form,
    share::Share,
    upgrade::{Offer, Tunnel},
};
use crate::{
    account::Charge,
    backend::{
        InFlight,
        endpoint::{AnswerBody, Callers, Lease},
    },
    limits,
    policy::{Permit, Permitted},
    telemetry::{Proto, Reason, Record},
};
use http::{Request, Response, uri::Authority};
use hyper::body::Incoming;
use std::{cell::Cell, net::SocketAddr, rc::Rc};
use tokio::time::Instant;

pub(crate) use crate::backend::endpoint::Failed;

/// A client's connection, as its requests know it.
#[derive(Debug)]
pub(crate) struct ClientConnection {
    pub wire: Wire,
    /// Whether the client is a proxy of the mesh, whose reserved fields are to be believed.
    pub mesh: bool,
    /// Whether the client does not know of the proxy: its connection was redirected here.
    pub transparent: bool,
    /// Bytes of one request that may be held while they are not read.
    pub window: usize,
    /// Who asks on it, with what each has for itself of connections to servers outside the mesh.
    pub callers: Callers,
    /// Set once the server that this connection stands for is gone: the next answer is the last (HTTP/1).
    pub last: Cell<bool>,
}

impl ClientConnection {
    /// A connection of this pod's application on which nothing was asked yet.
    pub(crate) fn of_application(wire: Wire, transparent: bool) -> Rc<Self> {
        let window = match wire {
            Wire::Http1 => limits::HTTP1_BUFFER_BYTES,
            Wire::Http2 => Share::client(true).window as usize,
        };
        Rc::new(Self { transparent, ..Self::of_peer(wire, false, window) })
    }

    /// The same of a peer: a proxy of the mesh, or a client outside of it, which takes this proxy for the application.
    pub(crate) fn of_peer(wire: Wire, mesh: bool, window: usize) -> Self {
        Self { wire, mesh, transparent: true, window, callers: Callers::default(), last: Cell::default() }
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

/// A request that came into the pod, with what its client's proxy says of how it came there.
#[derive(Debug)]
pub(crate) struct Restored<B = Incoming> {
    pub request: Request<B>,
    /// When its head was read.
    pub started: Instant,
    pub grpc: bool,
    pub client: Rc<ClientConnection>,
    pub way: Way,
}

impl<B> Restored<B> {
    /// What signals call the protocol that its client speaks.
    pub(crate) fn proto(&self) -> Proto {
        match (self.grpc, self.way, self.client.wire) {
            (true, ..) => Proto::Grpc,
            (_, Way::Same { .. }, Wire::Http2) => Proto::Http2,
            _ => Proto::Http1,
        }
    }
}

/// How a request came between two proxies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// In the HTTP that its client spoke; over HTTP/2 it is of this one of the peer's callers.
    Same { caller: u32 },
    /// Over HTTP/2, while its client wrote it over HTTP/1 in this form.
    Changed(Form),
}

impl Way {
    /// Which of the peer's callers it is of; all whose requests are sent over HTTP/1 are one.
    pub(crate) fn caller(self) -> u32 {
        match self {
            Self::Same { caller } => caller,
            Self::Changed(_) => 0,
        }
    }
}

/// What policy said of a request that came into the pod. One that is refused goes on, to be counted and answered.
pub(crate) type Judged<B = Incoming> = Result<Permitted<Entering<B>>, Refused<B>>;

/// A request that may come in, with the authority that it names.
#[derive(Debug)]
pub(crate) struct Entering<B = Incoming> {
    pub restored: Restored<B>,
    /// The one authority that it names.
    pub authority: Option<Authority>,
}

/// A request that may not, as the signals see it.
#[derive(Debug)]
pub(crate) struct Refused<B = Incoming> {
    /// Boxed: it is seldom, and would be as large as what goes on.
    pub restored: Box<Restored<B>>,
    pub why: Failed,
}

/// A request that its route's counters know.
#[derive(Debug)]
pub(crate) struct Counted<D, B = RequestBody> {
    pub request: Request<B>,
    pub authority: Option<Authority>,
    pub started: Instant,
    pub grpc: bool,
    pub client: Rc<ClientConnection>,
    /// What is noted of it on its way.
    pub record: Rc<Record>,
    /// What it offers to become, if it asks to leave HTTP.
    pub offer: Option<Rc<Offer>>,
    /// What only requests in its direction have.
    pub of: D,
}

/// Of a request on its way out of the pod.
#[derive(Debug)]
pub(crate) struct Outward {
    /// Bytes of its path that the rule's prefix match stands for; 0 for any other match.
    pub prefix: usize,
}

/// Of a request on its way into the pod.
#[derive(Debug)]
pub(crate) struct Inward {
    pub way: Way,
    pub permit: Permit,
}

/// A request on its way out of the pod, to a backend that was drawn for it.
pub(crate) type Outgoing<B = RequestBody> = Counted<Outward, B>;

/// A request on its way into the pod, which policy let in.
pub(crate) type Ingoing<B = RequestBody> = Counted<Inward, B>;

impl<D, B> Counted<D, B> {
    /// The same request with another body, if there is one.
    pub(crate) fn try_with_body<C, E>(
        self,
        change: impl FnOnce(B, &Rc<Record>) -> Result<C, E>,
    ) -> Result<Counted<D, C>, E> {
        let Self { request, authority, started, grpc, client, record, offer, of } = self;
        let (parts, body) = request.into_parts();
        let request = Request::from_parts(parts, change(body, &record)?);
        Ok(Counted { request, authority, started, grpc, client, record, offer, of })
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
    pub record: Rc<Record>,
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
    /// Counts at the endpoint as long as the answer goes on, if somebody balances by that.
    pub in_flight: Option<InFlight>,
    /// The HTTP/1 connection to give back.
    pub lease: Option<Lease>,
    pub permit: Permit,
}

impl Answered {
    /// An answer that this proxy made, because a route says so.
    pub(crate) fn own(response: Response<AnswerBody>) -> Box<Self> {
        Box::new(Self { response, origin: None, until: None, charge: None, tunnel: None })
    }

    /// What `origin` answered.
    pub(crate) fn of(response: Response<AnswerBody>, origin: Origin) -> Box<Self> {
        Box::new(Self { response, origin: Some(origin), until: None, charge: None, tunnel: None })
    }

    /// Its body must be complete at `at`, or before.
    pub(crate) fn bound(&mut self, at: Instant) {
        self.until = Some(self.until.map_or(at, |until| until.min(at)));
    }
}
