//! Stage 4 of 8: policy. In: who calls, and what. Out: a [`Permit`]. Refuses: plaintext in strict mode, whatever the
//! authorisation rules deny, whatever no allow rule allows. The rules are judged by `remora_policy`, which is pure; here are
//! what is [recorded](Verdict::record) and the wake-ups of [`Current`].
//!
//! Only this module makes a [`Permit`], from what was asked, and nothing dials or forwards without one.

mod current;
mod port;
mod record;

pub(crate) use current::{Changes, Current};
pub(crate) use port::{Policy, Verdict};
pub(crate) use record::logged;
/// A peer is the caller whom policy judges.
pub(crate) use remora_policy::{Act, Caller as Peer, Denial};

use remora_model::{BackendId, Endpoint, Target};

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
mod tests {
    use super::*;

    #[test]
    fn what_was_permitted_is_what_goes_on_with_its_permit() {
        let target = Target::parse("api", 80).unwrap();
        let (permit, asked) = Permitted::outbound(To::Target(&target), "asked").open();
        assert_eq!(asked, "asked");
        let (_permit, same) = Permitted::of(permit.of_shared_connection(), asked).open();
        assert_eq!(same, asked);
    }
}
