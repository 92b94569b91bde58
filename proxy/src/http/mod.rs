//! HTTP through the proxy: serving a connection ([`server`]), the life of a request in each direction ([`outbound`],
//! [`inbound`]), and what both share.

pub(crate) mod answer;
pub(crate) mod body;
pub(crate) mod exchange;
pub(crate) mod extended;
pub(crate) mod context;
mod cors;
pub(crate) mod destination;
mod filter;
pub(crate) mod form;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
pub(crate) mod grpc;
pub(crate) mod guard;
pub(crate) mod headers;
pub(crate) mod inbound;
pub(crate) mod layer;
pub(crate) mod outbound;
pub(crate) mod peers;
pub(crate) mod request;
pub(crate) mod respond;
pub(crate) mod server;
pub(crate) mod share;
pub(crate) mod stall;
mod timer;
mod under_way;
pub(crate) mod upgrade;
pub(crate) mod visit;

/// Which HTTP is on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Wire {
    Http1,
    Http2,
}
