//! Who may do what at one inbound port. In: what discovery says of the port ([`Inbound`](remora_model::Inbound)), who calls and what
//! it wants to do. Out: a [`Decision`], with the rule that made it. Pure: no IO, no async, no clock, no counters; so that the proxy,
//! `remora authz explain` and the fuzz targets run the very same function.
//!
//! A decision permits nothing by itself: what lets a request through is the proxy's own `Permit`.
//!
//! **In doubt a deny rule matches, and any other rule does not.** Who shows no identity, bytes that no one has read, a host or header
//! that servers read in different ways: [`rule`] says what is in doubt. `docs/authorization.md` says the same for users, and `naive`, of
//! the fuzz target, is an interpreter written from it.

mod compiled;
mod dry_run;
mod index;
mod rule;
mod tree;

pub use compiled::{Compiled, Decision, Notes};

use http::{HeaderMap, Method};
use remora_jose::claims::Verified;
use remora_model::{SpiffeId, path};
use std::{net::IpAddr, sync::Arc};

/// Who is at the other end.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Caller {
    /// From its certificate; `None` is plaintext.
    pub identity: Option<SpiffeId>,
    pub address: IpAddr,
}

/// What the tokens of a request say, of those that were checked: of an issuer that decides, and of one in dry run. They have no issuer in common, and a
/// condition names issuers: so none is taken for the other.
pub type Tokens<'a> = [Option<&'a Verified>; 2];

/// What a caller wants to do.
#[derive(Debug, Clone, Copy)]
pub enum Act<'a> {
    /// Bytes of no protocol that policy could read.
    Bytes,
    /// An HTTP request.
    Request {
        method: &'a Method,
        /// As it came, query excluded.
        path: &'a str,
        /// Its one authority, if it says any.
        host: Option<&'a str>,
        headers: &'a HeaderMap,
        tokens: Tokens<'a>,
    },
}

/// Why something was refused, in words for an operator.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denial {
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

/// What a rule, or a policy in dry run, that decides nothing says of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Noted {
    /// It matches. Of a dry run: and would make no difference.
    Matched,
    /// It names paths, and this one has no canonical form. Of a dry run: the request would be refused for that.
    Ambiguous,
    /// It would refuse the request, which is let in.
    Denies,
    /// It would let the request in, which is refused.
    Allows,
}

fn words_of(port: u16) -> String {
    match port {
        0 => "a port that the pod does not declare".to_owned(),
        port => format!("port {port}"),
    }
}

// for tests and cargo-fuzz alone
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
#[cfg(test)]
mod tests;
