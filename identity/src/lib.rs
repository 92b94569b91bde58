//! The cluster's certificate authority: proves a workload by its service-account token, signs its short-lived
//! X.509-SVID, and streams the trust bundle.
//!
//! In: `Certify` calls, the issuer's files, a JWKS. Out: certificates, an audit line each, the bundle as it changes.
//! The identity comes from the token alone. What it does not do: keep any record of what it signed (leaves are
//! short-lived and not revoked), or speak to Kubernetes (tokens are checked offline).

mod config;
pub mod authority;
pub mod csr;
pub mod issuer;
pub mod rate;
pub mod server;
pub mod service;
pub mod token;
mod run;

pub use run::main;

#[cfg(test)]
mod tests;
