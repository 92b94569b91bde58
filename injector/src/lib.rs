//! `remora-injector`: the mutating admission webhook that puts the sidecar into pods.
//!
//! | module | what it does |
//! |--|--|
//! | [`pod`] | what becomes of a pod: a pure function, which `remora inject` calls too |
//! | [`webhook`] | answers the API server |
//! | [`certificate`] | the webhook's own authority and certificate, rotated without a gap |
//! | [`registration`] | which pods the API server asks about |
//! | [`check`] | whether it would reach us |
//!
//! Losing it costs nobody a pod that did not ask for a sidecar: the webhook fails open, and an admission policy in the API
//! server keeps out those that did ask and have none.

pub mod pod;
mod certificate;
mod check;
mod config;
mod registration;
mod run;
mod webhook;
// for tests and cargo-fuzz alone
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;

pub use run::main;
