//! Why a workload has no certificate: a closed set, with the metric's words.

use super::{CERTIFY_TIMEOUT, TOKEN_BYTES_MAX};
use crate::tls::{InvalidBundle, InvalidSvid, VerifyError};
use remora_model::SpiffeId;
use std::path::PathBuf;

/// Why a certificate could not be had. All are retried; all but the last few are the operator's to mend.
#[derive(Debug, thiserror::Error)]
pub enum CertifyError {
    /// The anchors file cannot be read.
    #[error("cannot read trust anchors {path}: {source}")]
    ReadAnchors {
        /// Which file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The anchors are unusable.
    #[error("trust anchors {path} are unusable: {source}")]
    Anchors {
        /// Which file.
        path: PathBuf,
        /// What is wrong with them.
        source: InvalidBundle,
    },
    /// The token file cannot be read.
    #[error("cannot read token {path}: {source}")]
    ReadToken {
        /// Which file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The token file is empty or far too large.
    #[error("token {path} is {bytes} bytes long; expected 1 to {TOKEN_BYTES_MAX}")]
    TokenSize {
        /// Which file.
        path: PathBuf,
        /// How long it is.
        bytes: usize,
    },
    /// Key or CSR could not be made.
    #[error("cannot make a certificate request: {0}")]
    Request(#[source] rcgen::Error),
    /// The address is no address.
    #[error("identity address {addr} is unusable: {source}")]
    Address {
        /// As configured.
        addr: String,
        /// What is wrong.
        source: tonic::transport::Error,
    },
    /// The identity service did not answer, or refused.
    #[error("identity service refused or failed: {code:?}: {message}")]
    Call {
        /// gRPC code.
        code: tonic::Code,
        /// What it said, with the transport's causes.
        message: String,
    },
    /// No answer within the time allowed.
    #[error("identity service did not answer within {CERTIFY_TIMEOUT:?}")]
    Timeout,
    /// The answer lacks its bundle or holds an unusable one.
    #[error("identity service sent an unusable bundle: {0}")]
    Bundle(#[source] InvalidBundle),
    /// The bundle is for another trust domain.
    #[error("identity service speaks for trust domain {0}, not ours")]
    TrustDomain(String),
    /// The certificate is unusable.
    #[error("identity service sent an unusable certificate: {0}")]
    Svid(#[source] InvalidSvid),
    /// The certificate does not verify against the bundle that came with it.
    #[error("identity service sent a certificate that peers would refuse: {0}")]
    Verify(#[source] VerifyError),
    /// The certificate has another workload's identity.
    #[error("identity service certified us as {0}; check namespace and service account")]
    WrongIdentity(SpiffeId),
}

impl CertifyError {
    /// A short stable name for metric labels and log fields.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::ReadAnchors { .. } | Self::Anchors { .. } => "anchors",
            Self::ReadToken { .. } | Self::TokenSize { .. } => "token",
            Self::Request(_) => "request",
            Self::Address { .. } => "address",
            Self::Call { code: tonic::Code::Unavailable, .. } => "unavailable",
            Self::Call { .. } => "refused",
            Self::Timeout => "timeout",
            Self::Bundle(_) | Self::TrustDomain(_) => "bundle",
            Self::Svid(_) | Self::Verify(_) | Self::WrongIdentity(_) => "certificate",
        }
    }
}
