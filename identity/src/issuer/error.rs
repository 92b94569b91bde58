//! Why an issuer cannot be used: one message for each cause, with the file and what to do.

use remora_model::identity::InvalidSpiffeId;
use remora_runtime::tls::{InvalidBundle, VerifyError, pem::PemError};
use std::{io, path::PathBuf};

/// Why an issuer cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IssuerError {
    /// A file cannot be read or written.
    #[error("cannot {operation} {path}: {source}")]
    File {
        /// What was tried.
        operation: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Some files are there and some are not; guessing could replace a key.
    #[error("{0} has some of tls.crt, tls.key, ca.crt but not all; add the missing, or remove the rest")]
    Incomplete(String),
    /// A file is not the PEM that it should be.
    #[error("{0}: {1}")]
    Pem(&'static str, #[source] PemError),
    /// The anchors are unusable.
    #[error("ca.crt: {0}")]
    Anchors(#[source] InvalidBundle),
    /// A certificate of `tls.crt` cannot be used; the text says which and why.
    #[error("tls.crt: {0}")]
    Certificate(String),
    /// The key cannot be used, or is another's.
    #[error("tls.key: {0}")]
    Key(String),
    /// It chains to no anchor.
    #[error("tls.crt chains to no anchor of ca.crt: {0}")]
    Unchained(String),
    /// Its leaves would live no moment.
    #[error("the anchor in ca.crt that tls.crt chains to expired at {0}; renew it")]
    AnchorEnded(String),
    /// It was usable and has ended since.
    #[error("the issuer expired at {0}; renew it")]
    Ended(String),
    /// Making or signing failed.
    #[error("cannot sign: {0}")]
    Sign(#[source] rcgen::Error),
    /// The names make no identity.
    #[error("our own identity: {0}")]
    Identity(#[source] InvalidSpiffeId),
    /// What it signs would be refused by every peer.
    #[error("certificates signed by tls.crt would be refused: {0}")]
    SelfCheck(#[source] VerifyError),
}
