//! The control protocol (`docs/decisions/09-own-control-protocol.md`): generated messages, clients and servers of `remora.v1`.
//!
//! The `.proto` files beside this crate are the reference; their comments become these docs. Conversions to and
//! from the model's values live in this crate too, so that no other crate needs to know the wire shapes twice.

/// Generated from `proto/remora/v1`.
#[allow(
    clippy::all,
    clippy::too_many_lines,
    clippy::use_self,
    clippy::allow_attributes_without_reason,
    missing_debug_implementations,
    unused_qualifications,
    unreachable_pub,
    elided_lifetimes_in_paths,
    rustdoc::all,
    reason = "generated code answers to its generator, not to our house style"
)]
pub mod v1 {
    tonic::include_proto!("remora.v1");
}

pub mod convert;
#[cfg(test)]
mod corpus;
mod name;
pub mod otlp;
pub mod receive;
pub mod sync;
// for tests and cargo-fuzz alone
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;

pub use convert::InvalidMessage;
pub use receive::Received;
