//! Who may do what at one inbound port. In: what discovery says of the port ([`Inbound`](remora_model::Inbound)), who calls and what
//! it wants to do. Out: a [`Decision`], with the rule that made it. Pure: no IO, no async, no clock, no counters; so that the proxy,
//! `remora authz explain` and the fuzz targets run the very same function.
//!
//! A decision permits nothing by itself: what lets a request through is the proxy's own `Permit`.

mod compiled;

pub use compiled::{Compiled, Decision, Noted};

use http::Method;
use remora_model::{SpiffeId, path};
use std::{net::IpAddr, sync::Arc};

/// Who is at the other end.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Caller {
    /// From its certificate; `None` is plaintext.
    pub identity: Option<SpiffeId>,
    pub address: IpAddr,
}

/// What a caller wants to do.
#[derive(Debug, Clone, Copy)]
pub enum Act<'a> {
    /// Bytes of no protocol that policy could read.
    Bytes,
    /// An HTTP request; the path as it came, query excluded.
    Request { method: &'a Method, path: &'a str },
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

fn words_of(port: u16) -> String {
    match port {
        0 => "a port that the pod does not declare".to_owned(),
        port => format!("port {port}"),
    }
}

#[cfg(test)]
mod tests;
