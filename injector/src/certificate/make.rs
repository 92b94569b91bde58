//! A certificate for the webhook's Service, and the authority that vouches for it.

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
};
use std::time::{Duration, SystemTime};

/// Clocks of API servers may be behind ours by this.
pub(super) const BACKDATE: Duration = Duration::from_secs(60);

/// A certificate with its key and its authority, all PEM.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Pair {
    pub(super) authority: String,
    pub(super) certificate: String,
    pub(super) key: String,
}

impl std::fmt::Debug for Pair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pair").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}

/// A new pair for `host`, valid from `now` for `lifetime`. The authority's key is forgotten at once.
pub(super) fn pair(host: &str, now: SystemTime, lifetime: Duration) -> Result<Pair, rcgen::Error> {
    let (from, until) = (now - BACKDATE, now + lifetime);
    let mut params = CertificateParams::default();
    // Each authority has its own name: they stand side by side in one bundle.
    let seconds = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis();
    params.distinguished_name = named(&format!("{host} CA {seconds}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.not_before = from.into();
    params.not_after = until.into();
    let authority_key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let authority = params.self_signed(&authority_key)?.pem();
    let issuer = Issuer::new(params, authority_key);

    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let mut params = CertificateParams::new(vec![host.to_owned()])?;
    params.distinguished_name = named(host);
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    params.not_before = from.into();
    params.not_after = until.into();
    let certificate = params.signed_by(&key, &issuer)?.pem();
    Ok(Pair { authority, certificate, key: key.serialize_pem() })
}

fn named(name: &str) -> DistinguishedName {
    let mut named = DistinguishedName::new();
    // A common name has 64 characters at most (RFC 5280, ub-common-name).
    named.push(DnType::CommonName, name.chars().take(64).collect::<String>());
    named
}
