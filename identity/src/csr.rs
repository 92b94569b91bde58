//! Reading a certificate request: a key that its sender holds, and nothing else.
//!
//! Names and extensions in it are ignored by design: identity comes from the token alone.

use rcgen::SubjectPublicKeyInfo;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::oid_registry::{OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_SIG_ED25519};
use x509_parser::prelude::FromDer as _;
use x509_parser::x509::SubjectPublicKeyInfo as Spki;

/// A request with one key and a name is a few hundred bytes.
pub const CSR_BYTES_MAX: usize = 8 * 1024;

/// Which rule a certificate request breaks.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum CsrError {
    /// Longer than [`CSR_BYTES_MAX`].
    #[error("certificate request is {0} bytes long; at most {CSR_BYTES_MAX} are read")]
    TooLong(usize),
    /// No PKCS#10.
    #[error("certificate request is not valid DER")]
    Malformed,
    /// The sender does not hold the key, or the request was altered.
    #[error("certificate request's signature is invalid")]
    Signature,
    /// A key type that is not on the list.
    #[error("certificate request's key type is not allowed; use ECDSA P-256 or Ed25519")]
    KeyType,
}

impl CsrError {
    /// A short stable name for the metric label.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::TooLong(_) => "csr_too_long",
            Self::Malformed => "csr_malformed",
            Self::Signature => "csr_signature",
            Self::KeyType => "csr_key_type",
        }
    }
}

/// The key of a valid request.
pub fn public_key(der: &[u8]) -> Result<SubjectPublicKeyInfo, CsrError> {
    if der.len() > CSR_BYTES_MAX {
        return Err(CsrError::TooLong(der.len()));
    }
    let (rest, request) = X509CertificationRequest::from_der(der).map_err(|_| CsrError::Malformed)?;
    if !rest.is_empty() {
        return Err(CsrError::Malformed);
    }
    let key = &request.certification_request_info.subject_pki;
    if !allowed(key) {
        return Err(CsrError::KeyType);
    }
    request.verify_signature().map_err(|_| CsrError::Signature)?;
    SubjectPublicKeyInfo::from_der(key.raw).map_err(|_| CsrError::KeyType)
}

fn allowed(key: &Spki<'_>) -> bool {
    let curve = key.algorithm.parameters.as_ref().and_then(|parameters| parameters.as_oid().ok());
    (key.algorithm.algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY && curve == Some(OID_EC_P256))
        || key.algorithm.algorithm == OID_SIG_ED25519
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519};

    use super::*;

    fn request(alg: &'static rcgen::SignatureAlgorithm) -> Vec<u8> {
        let key = KeyPair::generate_for(alg).unwrap();
        CertificateParams::default().serialize_request(&key).unwrap().der().to_vec()
    }

    #[test]
    fn only_listed_key_types_are_certified() {
        assert!(public_key(&request(&PKCS_ECDSA_P256_SHA256)).is_ok());
        assert!(public_key(&request(&PKCS_ED25519)).is_ok());
        assert_eq!(public_key(&request(&PKCS_ECDSA_P384_SHA384)).err(), Some(CsrError::KeyType));
    }

    #[test]
    fn a_request_that_its_key_did_not_sign_is_refused() {
        let mut der = request(&PKCS_ED25519);
        if let Some(byte) = der.last_mut() {
            *byte ^= 1;
        }
        assert_eq!(public_key(&der).err(), Some(CsrError::Signature));
        assert_eq!(public_key(b"junk").err(), Some(CsrError::Malformed));
        assert_eq!(public_key(&vec![0; CSR_BYTES_MAX + 1]).err(), Some(CsrError::TooLong(CSR_BYTES_MAX + 1)));
        der.push(0);
        assert_eq!(public_key(&der).err(), Some(CsrError::Malformed));
    }
}
