//! A peer at a port of this pod: what all requests, or the bytes, of one inbound connection share.

use crate::{
    account::Holder,
    backend::endpoint::Upstream,
    discover::Port,
    policy::{Act, Denial, Peer, Permit, Policy},
    revoke::{self, Revoked},
    telemetry::Tls,
    tls::Trust,
    traffic::{Limited, PortTraffic},
};
use http::HeaderValue;
use std::{cell::OnceCell, rc::Rc, sync::Arc};
use tokio::time::Instant;

/// See the module.
#[derive(Debug)]
pub(crate) struct Visit {
    /// The share of the account that it is charged to.
    pub holder: Holder,
    pub port: Rc<Port>,
    pub peer: Peer,
    /// By whom it was vouched for.
    pub trust: Option<Rc<Trust>>,
    /// The peer's name in signals: its SPIFFE ID, or nothing.
    pub peer_name: Arc<str>,
    /// The header that tells the application; made once.
    pub client_id: Option<HeaderValue>,
    pub tls: Tls,
    /// When the peer is told to put no new requests on this connection.
    pub goodbye: Option<Instant>,
    /// The application.
    pub app: Rc<Upstream>,
    /// Whether the connection is within the limits of its port, once that was asked.
    pub entered: OnceCell<Result<(), Limited>>,
}

impl Visit {
    /// Judges what the peer wants, and leaves the one record of it.
    pub(crate) fn judge(&self, act: Act<'_>) -> Result<Permit, Denial> {
        self.judge_by(&self.port.policy(), act)
    }

    /// The same by a policy of the port that was asked for already.
    pub(crate) fn judge_by(&self, policy: &Policy, act: Act<'_>) -> Result<Permit, Denial> {
        let at = (&self.peer, self.port.number);
        policy.judge(at, act).record(policy, at, act)
    }

    /// Whether the connection is within the limits of its port. It is counted once, however often this is asked.
    pub(crate) fn enter(&self) -> Result<(), Limited> {
        let count = |traffic: Arc<PortTraffic>| traffic.connection(&self.peer, Instant::now());
        self.entered.get_or_init(|| self.port.traffic.get().map_or(Ok(()), count)).clone()
    }

    /// Returns once the peer may no longer do what it was let in for. Cancel safe.
    pub(crate) fn revoked<'a>(&self, act: Act<'a>) -> impl Future<Output = Revoked> + use<'a> {
        revoke::revoked(self.port.clone(), self.peer.clone(), self.trust.clone(), act)
    }
}
