//! What a failure to send says of an endpoint's health.

use super::balance::Outcome;
use crate::telemetry::Reason;

/// What a failure to send says of the endpoint: nothing, where it was this proxy or its client that could not, where the endpoint is
/// merely busy, or where its answer is larger than this proxy takes.
pub(crate) fn of(reason: Reason) -> Option<Outcome> {
    match reason {
        Reason::Overloaded
        | Reason::BodyAborted
        | Reason::DownstreamReset
        | Reason::PolicyChanged
        | Reason::QueueFull
        | Reason::RefusedStream
        | Reason::ResponseHeaderTooLarge => None,
        Reason::IdentityMismatch => Some(Outcome::WrongIdentity),
        Reason::ConnectRefused
        | Reason::ConnectTimeout
        | Reason::ConnectFailed
        | Reason::TlsRefused
        | Reason::Revoked => Some(Outcome::Unreachable),
        _ => Some(Outcome::Failure),
    }
}
