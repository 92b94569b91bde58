//! A peer at a port of this pod: what all requests, or the bytes, of one inbound connection share.

use crate::{
    account::Holder,
    backend::endpoint::Upstream,
    discover::Port,
    policy::{Act, Denial, Peer, Permit},
    revoke::{self, Revoked},
    telemetry::Tls,
    tls::Trust,
};
use http::HeaderValue;
use std::{rc::Rc, sync::Arc};

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
    pub goodbye: Option<tokio::time::Instant>,
    /// The application.
    pub app: Rc<Upstream>,
}

impl Visit {
    /// Judges what the peer wants, and leaves the one record of it.
    pub(crate) fn judge(&self, act: Act<'_>) -> Result<Permit, Denial> {
        let policy = self.port.policy();
        let at = (&self.peer, self.port.number);
        policy.judge(at, act).record(&policy, at, act)
    }

    /// Returns once the peer may no longer do what it was let in for. Cancel safe.
    pub(crate) fn revoked<'a>(&self, act: Act<'a>) -> impl Future<Output = Revoked> + use<'a> {
        revoke::revoked(self.port.clone(), self.peer.clone(), self.trust.clone(), act)
    }
}
