//! Stage 4 of 8: policy. In: who calls, and what. Out: a [`Permit`]. Refuses: plaintext in strict mode, whatever the
//! authorisation rules deny, whatever no allow rule allows. Pure, but for [`record`](Verdict::record) and the wake-ups of
//! [`Current`].
//!
//! Only this module makes a [`Permit`], from what was asked, and nothing dials or forwards without one.

mod compiled;
mod current;
mod record;

pub(crate) use compiled::{Policy, Verdict};
pub(crate) use current::{Changes, Current};
pub(crate) use record::logged;

use http::Method;
use remora_model::{BackendId, Endpoint, SpiffeId, Target, path};
use std::{net::IpAddr, sync::Arc};

/// Proof that policy let this through. Not `Clone`: one permit, one forward.
#[derive(Debug)]
pub(crate) struct Permit(());

impl Permit {
    /// The permit of a connection to the same endpoint that several requests share, made for the one that has to wait for it.
    pub(crate) fn of_shared_connection(&self) -> Self {
        Self(())
    }
}

/// Something that policy let through, with the proof of it: what was judged is what goes on.
#[derive(Debug)]
pub(crate) struct Permitted<T> {
    permit: Permit,
    inner: T,
}

impl<T> Permitted<T> {
    /// Lets something that leaves the pod go. Every destination is open today; egress policy belongs into [`outbound`].
    pub(crate) fn outbound(to: To<'_>, inner: T) -> Self {
        Self { permit: outbound(to), inner }
    }

    /// What the permit was given for.
    pub(crate) fn of(permit: Permit, inner: T) -> Self {
        Self { permit, inner }
    }

    /// The proof that dialling and forwarding require, and what it permits.
    pub(crate) fn open(self) -> (Permit, T) {
        (self.permit, self.inner)
    }
}

/// Who is at the other end.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Peer {
    /// From its certificate; `None` is plaintext.
    pub identity: Option<SpiffeId>,
    pub address: IpAddr,
}

/// What a peer wants to do.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Act<'a> {
    /// Bytes of no protocol that policy could read.
    Bytes,
    /// An HTTP request; the path as it came, query excluded.
    Request { method: &'a Method, path: &'a str },
}

/// Why something was refused, in words for an operator.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Denial {
    #[error("{} takes mesh TLS only and this connection is plaintext", words_of(*.port))]
    Plaintext {
        /// 0 of a port that the pod does not declare: these share a policy.
        port: u16,
    },
    #[error("denied by {rule}")]
    Denied { rule: Arc<str> },
    #[error("no allow rule of {parent} matches")]
    NotAllowed { parent: Arc<str> },
    #[error("policy judges paths here, and {0}")]
    Ambiguous(#[from] path::Ambiguous),
}

fn words_of(port: u16) -> String {
    match port {
        0 => "a port that the pod does not declare".to_owned(),
        port => format!("port {port}"),
    }
}

/// Where something that leaves the pod goes.
#[derive(Debug, Clone, Copy)]
#[expect(dead_code, reason = "every destination is open: egress policy is what will look at it")]
pub(crate) enum To<'a> {
    /// A backend, for one try of one request.
    Backend(&'a BackendId),
    /// An endpoint of a backend, for one connection.
    Endpoint(&'a Endpoint),
    /// What the application dialled, where the mesh adds nothing.
    Target(&'a Target),
}

/// Lets an outbound connection or try go. Every destination is open today; egress policy belongs here.
pub(crate) fn outbound(_to: To<'_>) -> Permit {
    Permit(())
}

#[cfg(test)]
mod tests;
