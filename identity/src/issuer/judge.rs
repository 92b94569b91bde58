//! What is wrong with an issuer, in words: pure. Each cause has one message, which names the certificate by its number and line.

use super::{Anchor, IssuerError};
use k8s_openapi::jiff::Timestamp;
use rcgen::KeyPair;
use remora_runtime::tls::{VerifyError, pem::PemCertificate};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use x509_parser::{
    certificate::X509Certificate,
    oid_registry::{
        OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_NIST_EC_P384, OID_NIST_EC_P521, OID_PKCS1_RSAENCRYPTION,
        OID_SIG_ED25519,
    },
    prelude::FromDer as _,
    public_key::PublicKey,
    time::ASN1Time,
    x509::SubjectPublicKeyInfo,
};

/// The shortest RSA key that peers accept.
const RSA_BITS_MIN: usize = 2048;

/// Judges `tls.crt` and its key by themselves; `key` is `None` if it cannot be used.
pub(super) fn chain(chain: &[PemCertificate], key: Option<&KeyPair>, now: SystemTime) -> Result<(), IssuerError> {
    for (index, certificate) in chain.iter().enumerate() {
        let place = place(index, certificate);
        let say = |what: String| IssuerError::Certificate(format!("{place} {what}"));
        let (rest, read) =
            X509Certificate::from_der(&certificate.der).map_err(|_| say("is not a certificate".into()))?;
        if !rest.is_empty() {
            return Err(say("is followed by bytes that belong to nothing".into()));
        }
        ca(&read).map_err(say)?;
        validity(&read, now).map_err(say)?;
        if index == 0 {
            is_key_of(&read, &place, key)?;
        }
    }
    Ok(())
}

/// RFC 5280 §6.1.4 (k) and (n), X.509-SVID §4.1 and §4.3: what signs is a CA, and may sign certificates.
fn ca(certificate: &X509Certificate<'_>) -> Result<(), String> {
    let malformed = |error: x509_parser::error::X509Error| format!("has a malformed extension: {error}");
    if !certificate.basic_constraints().map_err(malformed)?.is_some_and(|constraints| constraints.value.ca) {
        return Err("is no CA, so it cannot sign (basicConstraints; in cert-manager: isCA: true)".into());
    }
    match certificate.key_usage().map_err(malformed)? {
        Some(usage) if !usage.value.key_cert_sign() => {
            Err("may not sign certificates: its keyUsage lacks keyCertSign (in cert-manager: usages: [cert sign])"
                .into())
        }
        _ => Ok(()),
    }
}

fn validity(certificate: &X509Certificate<'_>, now: SystemTime) -> Result<(), String> {
    let validity = certificate.validity();
    let (begins, ends) = (time(validity.not_before), time(validity.not_after));
    if ends <= now {
        Err(format!("expired at {}; renew it", date(ends)))
    } else if now < begins {
        Err(format!("is not valid before {}; compare the clocks", date(begins)))
    } else {
        Ok(())
    }
}

fn is_key_of(certificate: &X509Certificate<'_>, place: &str, key: Option<&KeyPair>) -> Result<(), IssuerError> {
    let spki = certificate.public_key();
    let its = kind(spki);
    match key {
        // Most likely the certificate's own key: which kind that is, it says.
        None => Err(IssuerError::Key(match unsupported(spki) {
            Some(why) => format!("the key is not supported: {place} of tls.crt has {its}, and {why}"),
            None => format!("it holds no key that can be read; {place} of tls.crt has {its}"),
        })),
        Some(key) if key.public_key_raw() != spki.subject_public_key.data.as_ref() => Err(IssuerError::Key(format!(
            "it is not the key of {place} of tls.crt, which has {its}; is tls.key its key?"
        ))),
        Some(_) => Ok(()),
    }
}

/// The kind of a public key, as people call it.
fn kind(key: &SubjectPublicKeyInfo<'_>) -> String {
    let curve = key.algorithm.parameters.as_ref().and_then(|parameters| parameters.as_oid().ok());
    if key.algorithm.algorithm == OID_PKCS1_RSAENCRYPTION {
        return rsa_bits(key).map_or("an RSA key".into(), |bits| format!("an RSA key of {bits} bits"));
    }
    match curve {
        Some(curve) if key.algorithm.algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY => match curve {
            curve if curve == OID_EC_P256 => "an ECDSA P-256 key".into(),
            curve if curve == OID_NIST_EC_P384 => "an ECDSA P-384 key".into(),
            curve if curve == OID_NIST_EC_P521 => "an ECDSA P-521 key".into(),
            curve => format!("an ECDSA key of the curve {}", curve_name(&curve.to_id_string())),
        },
        _ if key.algorithm.algorithm == OID_SIG_ED25519 => "an Ed25519 key".into(),
        _ => format!("a key of the type {}", key.algorithm.algorithm),
    }
}

fn curve_name(oid: &str) -> &str {
    match oid {
        "1.3.132.0.10" => "secp256k1",
        "1.3.36.3.3.2.8.1.1.7" => "brainpoolP256r1",
        other => other,
    }
}

/// Why a key of this kind is of no use, if it is not.
fn unsupported(key: &SubjectPublicKeyInfo<'_>) -> Option<String> {
    let algorithm = &key.algorithm.algorithm;
    let curve = key.algorithm.parameters.as_ref().and_then(|parameters| parameters.as_oid().ok());
    if *algorithm == OID_PKCS1_RSAENCRYPTION {
        return rsa_bits(key)
            .filter(|bits| *bits < RSA_BITS_MIN)
            .map(|_| format!("{RSA_BITS_MIN} bits are the least; ECDSA P-256 is recommended"));
    }
    let known = match curve {
        Some(curve) => [OID_EC_P256, OID_NIST_EC_P384, OID_NIST_EC_P521].contains(&curve),
        None => *algorithm == OID_SIG_ED25519,
    };
    (!known).then(|| "ECDSA P-256, P-384 and P-521, Ed25519 and RSA are".to_owned())
}

fn rsa_bits(key: &SubjectPublicKeyInfo<'_>) -> Option<usize> {
    match key.parsed().ok()? {
        PublicKey::RSA(rsa) => Some(rsa.key_size()),
        _ => None,
    }
}

/// Why no leaf of an issuer is accepted that is good by itself.
pub(super) fn refused(error: VerifyError, chain: &[PemCertificate], anchors: &[Anchor]) -> IssuerError {
    match error {
        VerifyError::UnknownIssuer | VerifyError::SelfSigned => {
            let last = chain.last().map(|certificate| name(&certificate.der, Name::Issuer)).unwrap_or_default();
            let have: Vec<_> = anchors.iter().take(4).map(|anchor| name(&anchor.der, Name::Subject)).collect();
            IssuerError::Unchained(format!(
                "it was issued by {last:?}, and ca.crt has {}; add that one, or the intermediates to tls.crt",
                have.iter().map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", ")
            ))
        }
        other => IssuerError::SelfCheck(other),
    }
}

enum Name {
    Subject,
    Issuer,
}

/// A name for people to read, shortened: its author is unknown.
fn name(der: &[u8], which: Name) -> String {
    let Ok((_, certificate)) = X509Certificate::from_der(der) else { return String::new() };
    let name = match which {
        Name::Subject => certificate.subject(),
        Name::Issuer => certificate.issuer(),
    };
    name.to_string().chars().take(100).collect()
}

fn place(index: usize, certificate: &PemCertificate) -> String {
    format!("certificate {} (line {})", index + 1, certificate.line)
}

pub(super) fn time(time: ASN1Time) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(u64::try_from(time.timestamp()).unwrap_or(0))
}

/// A time as people read it, in UTC.
pub(super) fn date(time: SystemTime) -> String {
    let seconds = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let stamp = i64::try_from(seconds).ok().and_then(|seconds| Timestamp::from_second(seconds).ok());
    stamp.map_or_else(|| "a time that is too late".to_owned(), |stamp| stamp.to_string())
}
