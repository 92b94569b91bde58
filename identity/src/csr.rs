//! Reading a certificate request: a key that its sender holds, and nothing else.
//!
//! Names and extensions in it are ignored by design: identity comes from the token alone. But a request for a SPIFFE identity
//! that the token does not prove is refused: it is an error that must be reported, or an attack.

use crate::token::cut;
use rcgen::SubjectPublicKeyInfo;
use remora_model::SpiffeId;
use x509_parser::{
    certification_request::X509CertificationRequest,
    extensions::{GeneralName, ParsedExtension},
    oid_registry::{OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_SIG_ED25519},
    prelude::FromDer as _,
    x509::SubjectPublicKeyInfo as Spki,
};

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
    /// A SPIFFE identity is asked for that is not the token's.
    #[error("certificate request asks for {0:?}, which the token does not prove")]
    Identity(String),
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
            Self::Identity(_) => "csr_identity",
        }
    }
}

/// A valid request.
#[derive(Debug)]
pub struct Asked {
    key: SubjectPublicKeyInfo,
    /// The SPIFFE identities that it names.
    identities: Vec<String>,
}

impl Asked {
    /// The key to certify for `id`, unless another identity was asked for.
    pub fn key_for(self, id: &SpiffeId) -> Result<SubjectPublicKeyInfo, CsrError> {
        match self.identities.into_iter().find(|asked| asked != id.as_str()) {
            Some(other) => Err(CsrError::Identity(cut(&other))),
            None => Ok(self.key),
        }
    }
}

/// Reads a request and checks its signature and the type of its key.
pub fn read(der: &[u8]) -> Result<Asked, CsrError> {
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
    let key = SubjectPublicKeyInfo::from_der(key.raw).map_err(|_| CsrError::KeyType)?;
    Ok(Asked { key, identities: identities(&request) })
}

fn identities(request: &X509CertificationRequest<'_>) -> Vec<String> {
    let extensions = request.requested_extensions().into_iter().flatten();
    let names = extensions.filter_map(|extension| match extension {
        ParsedExtension::SubjectAlternativeName(names) => Some(&names.general_names),
        _ => None,
    });
    let uris = names.flatten().filter_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    });
    let spiffe = |uri: &&str| uri.get(..7).is_some_and(|scheme| scheme.eq_ignore_ascii_case("spiffe:"));
    uris.filter(spiffe).map(str::to_owned).collect()
}

fn allowed(key: &Spki<'_>) -> bool {
    let curve = key.algorithm.parameters.as_ref().and_then(|parameters| parameters.as_oid().ok());
    (key.algorithm.algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY && curve == Some(OID_EC_P256))
        || key.algorithm.algorithm == OID_SIG_ED25519
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, SanType};

    use super::*;

    fn request(alg: &'static rcgen::SignatureAlgorithm) -> Vec<u8> {
        let key = KeyPair::generate_for(alg).unwrap();
        CertificateParams::default().serialize_request(&key).unwrap().der().to_vec()
    }

    #[test]
    fn only_listed_key_types_are_certified() {
        assert!(read(&request(&PKCS_ECDSA_P256_SHA256)).is_ok());
        assert!(read(&request(&PKCS_ED25519)).is_ok());
        assert_eq!(read(&request(&PKCS_ECDSA_P384_SHA384)).err(), Some(CsrError::KeyType));
    }

    #[test]
    fn another_identity_than_the_tokens_is_not_certified() {
        let key_for_web = |uris: &[&str]| {
            let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
            let mut params = CertificateParams::new(["evil.example".to_owned()]).unwrap();
            params.subject_alt_names.extend(uris.iter().map(|&uri| SanType::URI(uri.try_into().unwrap())));
            let der = params.serialize_request(&key).unwrap().der().to_vec();
            let id = SpiffeId::parse("spiffe://cluster.local/ns/shop/sa/web").unwrap();
            read(&der).unwrap().key_for(&id).err().map(|error| error.reason())
        };
        assert_eq!(key_for_web(&[]), None);
        assert_eq!(key_for_web(&["https://example.com", "spiffe://cluster.local/ns/shop/sa/web"]), None);
        assert_eq!(key_for_web(&["spiffe://cluster.local/ns/shop/sa/admin"]), Some("csr_identity"));
        assert_eq!(key_for_web(&["SPIFFE://cluster.local/ns/shop/sa/admin"]), Some("csr_identity"));
        let both = ["spiffe://cluster.local/ns/shop/sa/web", "spiffe://cluster.local/ns/shop/sa/admin"];
        assert_eq!(key_for_web(&both), Some("csr_identity"));
    }

    #[test]
    fn a_request_that_its_key_did_not_sign_is_refused() {
        let mut der = request(&PKCS_ED25519);
        if let Some(byte) = der.last_mut() {
            *byte ^= 1;
        }
        assert_eq!(read(&der).err(), Some(CsrError::Signature));
        assert_eq!(read(b"junk").err(), Some(CsrError::Malformed));
        assert_eq!(read(&vec![0; CSR_BYTES_MAX + 1]).err(), Some(CsrError::TooLong(CSR_BYTES_MAX + 1)));
        der.push(0);
        assert_eq!(read(&der).err(), Some(CsrError::Malformed));
    }
}
