//! Judging a certificate chain: pure, from bytes and a time to an identity or the rule that was broken.

use super::{CHAIN_CERTIFICATES_MAX, TrustBundle};
use remora_model::{Revocations, SpiffeId, identity::InvalidSpiffeId};
use rustls::pki_types::{CertificateDer, UnixTime};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use webpki::{EndEntityCert, KeyUsage};
use x509_parser::{certificate::X509Certificate, extensions::GeneralName, prelude::FromDer as _};

/// Why a peer's certificate chain is refused: a closed set, used in logs and as a metric label.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// The peer presented no certificate.
    #[error("peer presented no certificate")]
    NoCertificate,
    /// More certificates than [`CHAIN_CERTIFICATES_MAX`].
    #[error("peer presented {0} certificates; at most {CHAIN_CERTIFICATES_MAX} are read")]
    ChainTooLong(usize),
    /// Not a certificate at all.
    #[error("peer certificate is not valid DER: {0}")]
    Malformed(String),
    /// X.509-SVID §4.1: a signing certificate must not be used for authentication.
    #[error("peer presented a CA certificate as its leaf")]
    CaAsLeaf,
    /// X.509-SVID §4.3.
    #[error("peer certificate's key usage is wrong: {0}")]
    KeyUsage(&'static str),
    /// X.509-SVID §2: exactly one URI SAN.
    #[error("peer certificate has no URI name")]
    NoUriSan,
    /// X.509-SVID §2: exactly one URI SAN; validators MUST reject more.
    #[error("peer certificate has {0} URI names; a SPIFFE certificate has exactly one")]
    MultipleUriSans(usize),
    /// The URI SAN is no SPIFFE ID.
    #[error("peer certificate's URI name is not a SPIFFE id: {0}")]
    InvalidId(#[source] InvalidSpiffeId),
    /// X.509-SVID §5.2: a leaf's SPIFFE ID has a path.
    #[error("peer certificate names a trust domain, not a workload: {0}")]
    NoPath(SpiffeId),
    /// The identity belongs to a trust domain that our bundle does not speak for.
    #[error("peer identity {0} is of another trust domain")]
    TrustDomain(SpiffeId),
    /// A certificate of the chain is past its `notAfter`.
    #[error("peer certificate chain has expired")]
    Expired,
    /// A certificate of the chain is before its `notBefore`; compare the clocks.
    #[error("peer certificate chain is not yet valid")]
    NotYetValid,
    /// No path from the leaf to an anchor of the bundle.
    #[error("peer certificate does not chain to a trust anchor")]
    UnknownIssuer,
    /// It vouches for itself.
    #[error("peer certificate is self-signed")]
    SelfSigned,
    /// A chain was found, but breaks RFC 5280: signature, path length, name constraint, ….
    #[error("peer certificate chain is invalid: {0}")]
    Chain(String),
    /// The chain is fine, but it is not who we called.
    #[error("peer is {presented}, expected {expected}")]
    IdentityMismatch {
        /// Who we wanted to talk to.
        expected: SpiffeId,
        /// Who answered.
        presented: SpiffeId,
    },
    /// The chain is fine, and operators trust it no more.
    #[error("peer is revoked by {0}")]
    Revoked(String),
}

impl VerifyError {
    /// Every reason there is, and what it says of the peer.
    pub const REASONS: [(&'static str, &'static str); 17] = [
        ("no_certificate", "presented no certificate"),
        ("chain_too_long", "presented more certificates than are read"),
        ("malformed", "presented something that is no certificate"),
        ("ca_as_leaf", "presented a CA certificate as its own"),
        ("key_usage", "has a certificate for other uses (key usage, extended key usage)"),
        ("no_uri_san", "has a certificate without a URI name, such as one with DNS names only"),
        ("multiple_uri_sans", "has a certificate with several URI names"),
        ("invalid_id", "has a URI name that is no SPIFFE ID"),
        ("no_path", "has the SPIFFE ID of a trust domain, not of a workload"),
        ("trust_domain", "is of another trust domain"),
        ("expired", "has a certificate that has expired"),
        ("not_yet_valid", "has a certificate that is not valid yet; compare the clocks"),
        ("unknown_issuer", "has a certificate that chains to none of our trust anchors"),
        ("self_signed", "has a certificate that is signed by itself"),
        ("chain", "has a certificate chain that breaks RFC 5280, such as its path length or a name constraint"),
        ("identity_mismatch", "is not the workload that discovery named for its address"),
        ("revoked", "is named by a RevokedIdentity: its identity, its certificate or its pod"),
    ];

    /// A short stable name for metric labels and log fields, of [`VerifyError::REASONS`].
    #[must_use]
    pub fn reason(&self) -> &'static str {
        let index = match self {
            Self::NoCertificate => 0,
            Self::ChainTooLong(_) => 1,
            Self::Malformed(_) => 2,
            Self::CaAsLeaf => 3,
            Self::KeyUsage(_) => 4,
            Self::NoUriSan => 5,
            Self::MultipleUriSans(_) => 6,
            Self::InvalidId(_) => 7,
            Self::NoPath(_) => 8,
            Self::TrustDomain(_) => 9,
            Self::Expired => 10,
            Self::NotYetValid => 11,
            Self::UnknownIssuer => 12,
            Self::SelfSigned => 13,
            Self::Chain(_) => 14,
            Self::IdentityMismatch { .. } => 15,
            Self::Revoked(_) => 16,
        };
        Self::REASONS[index].0
    }
}

/// Checks `chain` (leaf first) against `bundle` at `now` by X.509-SVID §5 and RFC 5280, and says who it is.
///
/// The leaf's own shape is judged first, because its reasons tell the operator more than "does not chain".
pub fn verify_svid(
    chain: &[CertificateDer<'_>],
    bundle: &TrustBundle,
    now: SystemTime,
) -> Result<SpiffeId, VerifyError> {
    let since_epoch = now.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let (leaf, intermediates) = chain.split_first().ok_or(VerifyError::NoCertificate)?;
    verify_parts(leaf, intermediates, bundle, UnixTime::since_unix_epoch(since_epoch))
}

pub(super) fn verify_parts(
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    bundle: &TrustBundle,
    now: UnixTime,
) -> Result<SpiffeId, VerifyError> {
    if intermediates.len() >= CHAIN_CERTIFICATES_MAX {
        return Err(VerifyError::ChainTooLong(intermediates.len() + 1));
    }
    let id = leaf_identity(leaf)?;
    if !id.member_of(bundle.trust_domain()) {
        return Err(VerifyError::TrustDomain(id));
    }
    EndEntityCert::try_from(leaf)
        .map_err(chain_error)?
        .verify_for_usage(
            super::provider::signature_algorithms().all,
            bundle.webpki_anchors(),
            intermediates,
            now,
            // The leaf's own usages were checked above to be both or none; this bounds the intermediates.
            KeyUsage::client_auth(),
            None,
            None,
        )
        .map_err(|error| match chain_error(error) {
            VerifyError::UnknownIssuer if is_self_issued(leaf) => VerifyError::SelfSigned,
            other => other,
        })?;
    Ok(id)
}

/// Refuses a leaf, which is trusted otherwise, if `revoked` names its owner at `now`, in seconds since 1970. Where nothing is revoked it is
/// not looked at.
pub fn refuse_revoked(leaf: &CertificateDer<'_>, revoked: &Revocations, now: u64) -> Result<(), VerifyError> {
    if revoked.is_empty() {
        return Ok(());
    }
    let shown = super::shown(leaf)?;
    revoked.judge(&shown, now).map_or(Ok(()), |by| Err(VerifyError::Revoked(by.to_string())))
}

fn is_self_issued(leaf: &CertificateDer<'_>) -> bool {
    X509Certificate::from_der(leaf).is_ok_and(|(_, cert)| cert.issuer() == cert.subject())
}

/// The identity that a leaf certificate claims, if its shape is an SVID's. Says nothing about who signed it.
pub fn leaf_identity(leaf: &CertificateDer<'_>) -> Result<SpiffeId, VerifyError> {
    read_leaf(leaf).map(|(id, _)| id)
}

/// [`leaf_identity`], and until when the leaf is valid.
pub(super) fn read_leaf(leaf: &CertificateDer<'_>) -> Result<(SpiffeId, SystemTime), VerifyError> {
    let (rest, cert) = X509Certificate::from_der(leaf).map_err(|e| VerifyError::Malformed(e.to_string()))?;
    if !rest.is_empty() {
        return Err(VerifyError::Malformed("trailing bytes after the certificate".into()));
    }
    check_usage(&cert)?;
    let id = uri_identity(&cert)?;
    if id.path().is_empty() {
        return Err(VerifyError::NoPath(id));
    }
    let not_after = u64::try_from(cert.validity().not_after.timestamp()).unwrap_or(0);
    Ok((id, UNIX_EPOCH + Duration::from_secs(not_after)))
}

fn check_usage(cert: &X509Certificate<'_>) -> Result<(), VerifyError> {
    let malformed = |e: x509_parser::error::X509Error| VerifyError::Malformed(e.to_string());
    if cert.basic_constraints().map_err(malformed)?.is_some_and(|constraints| constraints.value.ca) {
        return Err(VerifyError::CaAsLeaf);
    }
    // X.509-SVID §4.3: present, critical, digitalSignature, neither keyCertSign nor cRLSign.
    let usage = cert.key_usage().map_err(malformed)?.ok_or(VerifyError::KeyUsage("keyUsage is missing"))?;
    if usage.value.key_cert_sign() || usage.value.crl_sign() {
        return Err(VerifyError::KeyUsage("keyCertSign or cRLSign is set"));
    }
    if !usage.value.digital_signature() {
        return Err(VerifyError::KeyUsage("digitalSignature is not set"));
    }
    if !usage.critical {
        return Err(VerifyError::KeyUsage("keyUsage is not critical"));
    }
    // X.509-SVID §4.4: optional, but then both.
    match cert.extended_key_usage().map_err(malformed)? {
        Some(extended) if !(extended.value.server_auth && extended.value.client_auth) => {
            Err(VerifyError::KeyUsage("extendedKeyUsage lacks serverAuth or clientAuth"))
        }
        _ => Ok(()),
    }
}

fn uri_identity(cert: &X509Certificate<'_>) -> Result<SpiffeId, VerifyError> {
    let names = cert
        .subject_alternative_name()
        .map_err(|e| VerifyError::Malformed(e.to_string()))?
        .map(|extension| extension.value.general_names.as_slice())
        .unwrap_or_default();
    let uris: Vec<&str> = names
        .iter()
        .filter_map(|name| match name {
            GeneralName::URI(uri) => Some(*uri),
            _ => None,
        })
        .collect();
    match uris.as_slice() {
        [] => Err(VerifyError::NoUriSan),
        [uri] => SpiffeId::parse(uri).map_err(VerifyError::InvalidId),
        many => Err(VerifyError::MultipleUriSans(many.len())),
    }
}

fn chain_error(error: webpki::Error) -> VerifyError {
    match error {
        webpki::Error::CertExpired { .. } => VerifyError::Expired,
        webpki::Error::CertNotValidYet { .. } => VerifyError::NotYetValid,
        // An anchor of the same name with another key shows as a bad signature.
        webpki::Error::UnknownIssuer | webpki::Error::InvalidSignatureForPublicKey => VerifyError::UnknownIssuer,
        webpki::Error::CaUsedAsEndEntity => VerifyError::CaAsLeaf,
        other => VerifyError::Chain(words(&other)),
    }
}

/// What is wrong with a certificate or a chain, in words; the library's own text is the name of its variant.
pub(super) fn words(error: &webpki::Error) -> String {
    let text = match error {
        webpki::Error::BadDer | webpki::Error::BadDerTime => "it is not a certificate (DER)",
        webpki::Error::TrailingData(_) => "bytes follow the certificate",
        webpki::Error::EndEntityUsedAsCa => "a certificate in it signs and is not a CA (basicConstraints)",
        webpki::Error::InvalidCertValidity => "a certificate in it begins after it ends",
        webpki::Error::PathLenConstraintViolated => "it is longer than the pathLen of a CA in it allows",
        webpki::Error::NameConstraintViolation => "the name constraints of a CA in it forbid this identity",
        webpki::Error::RequiredEkuNotFoundContext(_) => "a CA in it is not for TLS clients (extendedKeyUsage)",
        webpki::Error::UnsupportedCertVersion => "a certificate in it is not X.509 version 3",
        webpki::Error::UnsupportedCriticalExtension => "a certificate in it has a critical extension that is not known",
        webpki::Error::MalformedExtensions | webpki::Error::ExtensionValueInvalid => {
            "a certificate in it has a malformed extension"
        }
        webpki::Error::UnsupportedSignatureAlgorithmContext(_)
        | webpki::Error::UnsupportedSignatureAlgorithmForPublicKeyContext(_) => {
            "a certificate in it is signed by an algorithm that is not supported"
        }
        webpki::Error::SignatureAlgorithmMismatch => "a certificate in it names two signature algorithms",
        webpki::Error::MaximumPathDepthExceeded
        | webpki::Error::MaximumPathBuildCallsExceeded
        | webpki::Error::MaximumSignatureChecksExceeded
        | webpki::Error::MaximumNameConstraintComparisonsExceeded => "it takes too much work to judge",
        // Others, and those of versions of the library to come.
        other => return other.to_string(),
    };
    text.to_owned()
}
