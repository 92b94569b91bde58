//! The cluster's certificate authority: proves a workload by its service-account token, signs its short-lived
//! X.509-SVID, and streams the trust bundle.
//!
//! In: `Certify` calls, the issuer, and what proves a token. Out: certificates, an audit line each, the bundle as it
//! changes. The identity comes from the token alone. Where the rest comes from is one of two worlds: files (a folder with
//! the issuer, a JWKS), or Kubernetes (a Secret, TokenReview), where the leader also keeps the trust anchors in
//! every meshed namespace. What it does not do: keep any record of
//! each certificate that it signed (leaves are short-lived); it keeps until when there may be some ([`trust`]). Who is [`revoked`] gets none.

mod config;
pub mod held;
mod limits;
mod lock;
pub mod source;
pub mod store;
mod trust;
pub mod authority;
pub mod csr;
pub mod issuer;
pub mod rate;
pub mod server;
pub mod service;
pub mod token;
pub mod revoked;
mod anchors;
mod run;
// for tests and cargo-fuzz alone
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;

pub use run::main;

#[cfg(test)]
mod tests;
