//! Mesh TLS: TLS 1.3 only, both sides known by SPIFFE identity.
//!
//! In: certificates as DER or PEM, the trust bundle, an expected identity. Out: rustls configurations, a peer's
//! [`SpiffeId`](remora_model::SpiffeId), and when a peer is refused a [`VerifyError`] from a closed set of reasons.
//!
//! [`web`] is TLS by host name, for the API server's calls to a webhook.
//!
//! This is the only module that names rustls and webpki (ARCHITECTURE.md, invariant 3). What it deliberately does
//! not do: no session resumption (a resumed session would outlive its certificate and skip verification), no
//! name-based verification (an address proves nothing in a cluster), no revocation lists of X.509: who is revoked says the control plane
//! ([`Revocations`](remora_model::Revocations)), and the configurations that are made `_refusing` them ask.

mod config;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
pub mod pem;
mod pod;
mod provider;
mod svid;
mod verifier;
pub mod web;
mod verify;

pub use config::{
    Alpn, TlsError, anonymous_client_config, client_config, client_config_refusing, danger_open_server_config,
    danger_unverified_client_config, server_config, server_config_refusing, server_name,
};
pub use pod::{POD_EXTENSION, pod_extension, shown};
pub use rustls::{ClientConfig, ServerConfig};
pub use svid::{Credentials, InvalidBundle, InvalidSvid, Svid, TrustBundle};
pub use verifier::{Failure, Peer, peer};
pub use verify::{VerifyError, leaf_identity, refuse_revoked, verify_svid};

/// Certificates a peer may present: leaf, a few intermediates. Deeper chains are an error or an attack.
pub const CHAIN_CERTIFICATES_MAX: usize = 8;
/// Anchors in one bundle. Rotation needs two; federation of a few clusters some more.
pub const ANCHORS_MAX: usize = 64;

#[cfg(test)]
mod tests;
