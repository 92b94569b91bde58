//! What is open is judged again: byte connections and tunnels when policy or trust changes, HTTP connections when trust does
//! (their requests meet policy one by one). In: who was let in to do what. Out: why it may not go on. Ends: both sides, as
//! broken.

use crate::{
    discover::Port,
    forward,
    io::Abort,
    policy::{Act, Denial, Peer, Permit},
    telemetry::{Reason, Record},
    tls::{Trust, UNTRUSTED},
};
use remora_runtime::{seldom::Seldom, tls::VerifyError};
use std::{pin::pin, rc::Rc};
use tokio::io::{AsyncRead, AsyncWrite};

/// Why something that was let in must end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Revoked {
    #[error("policy has changed: {0}")]
    Denied(#[from] Denial),
    #[error("trust anchors have changed: {0}")]
    Untrusted(VerifyError),
}

impl Revoked {
    /// The values of the metric label, and what they say.
    pub(crate) const CAUSES: [&'static str; 3] = ["denied", "plaintext", UNTRUSTED];

    const fn cause(&self) -> &'static str {
        match self {
            Self::Denied(Denial::Plaintext { .. }) => Self::CAUSES[1],
            Self::Denied(Denial::Denied { .. } | Denial::NotAllowed { .. } | Denial::Ambiguous(_)) => Self::CAUSES[0],
            Self::Untrusted(_) => Self::CAUSES[2],
        }
    }

    /// Counts and logs that what `peer` had open at `port` was ended.
    pub(crate) fn note(&self, peer: &Peer, port: &Port) {
        metrics::counter!("remora_connections_revoked_total", "cause" => self.cause()).increment(1);
        let identity = peer.identity.as_ref().map(|id| id.as_str());
        remora_runtime::limited!(info by self.cause(), peer = identity, address = %peer.address, parent = %port.inbound().parent,
            reason = Reason::PolicyChanged.as_str(), cause = self.cause(), why = %self, "connection ended");
    }
}

/// Returns once `peer` may do `act` at `port` no longer. Cancel safe.
pub(crate) async fn revoked(port: Rc<Port>, peer: Peer, trust: Option<Rc<Trust>>, act: Act<'_>) -> Revoked {
    let denied = async {
        let mut changes = port.changes();
        loop {
            // Before the first wait too: policy may have changed since the connection was let in.
            if let Err(denial) = port.policy().allows((&peer, port.number), act) {
                return denial;
            }
            changes.next().await;
        }
    };
    tokio::select! {
        denial = denied => Revoked::Denied(denial),
        error = untrusted(trust.as_deref()) => Revoked::Untrusted(error),
    }
}

/// Returns once no trust anchor vouches for the peer any more; never if the peer has no certificate. Cancel safe.
pub(crate) async fn untrusted(trust: Option<&Trust>) -> VerifyError {
    match trust {
        Some(trust) => trust.lost().await,
        None => std::future::pending().await,
    }
}

/// Why a relay ended before its time.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Ended {
    #[error(transparent)]
    Broken(#[from] forward::Broken),
    #[error(transparent)]
    Revoked(#[from] Revoked),
}

impl Ended {
    /// The metric label.
    pub(crate) fn reason(&self) -> Reason {
        match self {
            Self::Broken(broken) => broken.reason(),
            Self::Revoked(_) => Reason::PolicyChanged,
        }
    }
}

/// [`forward::bytes`], until `revoked`: then both sides end as broken.
pub(crate) async fn bytes<A, B>(
    permit: Permit,
    down: &mut A,
    up: &mut B,
    record: &Record,
    revoked: impl Future<Output = Revoked>,
) -> Result<(), Ended>
where
    A: AsyncRead + AsyncWrite + Abort + Unpin,
    B: AsyncRead + AsyncWrite + Abort + Unpin,
{
    let why = {
        let mut relayed = pin!(forward::bytes(permit, down, up, record));
        // Asked with every byte, and answers once if ever.
        let revoked = Seldom::new(revoked);
        tokio::select! {
            biased;
            why = revoked => why,
            done = relayed.as_mut() => return Ok(done?),
        }
    };
    down.abort();
    up.abort();
    Err(Ended::Revoked(why))
}
