//! The signing certificate: read from cert-manager's three files (or keys of a Secret) or made on first start ([`files`]), proven usable
//! before it is used ([`judge`] says in words what is wrong), and signing leaves from scratch.

mod error;
mod files;
mod judge;
#[cfg(test)]
mod tests;

use rcgen::{
    CertificateParams, CustomExtension, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType, SerialNumber,
};
use remora_kube::names::{IDENTITY, NAMESPACE};
use remora_model::{PodName, SpiffeId, TrustDomain};
use remora_runtime::tls::{
    POD_EXTENSION, TrustBundle, VerifyError,
    pem::{self, PemCertificate},
    pod_extension, verify_svid,
};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use x509_parser::{certificate::X509Certificate, prelude::FromDer as _};

pub(crate) use self::files::write_atomically;
pub use self::{
    error::IssuerError,
    files::{FORCE_REMOVE, Files},
};

/// A usable issuer with the bundle that goes with it.
pub struct Issuer {
    signer: rcgen::Issuer<'static, KeyPair>,
    /// What follows the leaf in a chain: nothing if the issuer is itself an anchor.
    intermediates: Vec<Vec<u8>>,
    bundle: TrustBundle,
    anchors: Vec<Anchor>,
    anchor: Vec<u8>,
    not_after: SystemTime,
}

/// A trust anchor, as operators see it.
#[derive(Debug, Clone)]
pub struct Anchor {
    /// The certificate.
    pub der: Vec<u8>,
    /// The first eight bytes of its SHA-256, in hexadecimal: `openssl x509 -fingerprint -sha256` begins with them.
    pub fingerprint: String,
    /// When it ends.
    pub not_after: SystemTime,
}

impl Anchor {
    pub(crate) fn new(der: &[u8]) -> Result<Self, IssuerError> {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, der);
        let fingerprint = digest.as_ref().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        Ok(Self { der: der.to_vec(), fingerprint, not_after: end_of(der)? })
    }
}

impl std::fmt::Debug for Issuer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Issuer")
            .field("bundle", &self.bundle)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

/// A signed leaf.
#[derive(Debug, Clone)]
pub struct Leaf {
    /// DER, leaf first.
    pub chain: Vec<Vec<u8>>,
    /// Random, in hexadecimal.
    pub serial: String,
    /// Whole seconds.
    pub not_after: SystemTime,
}

impl Issuer {
    /// Parses `files` and proves them by signing a leaf and verifying it as a peer would. Of several anchors that its leaves chain
    /// to, the one that lives longest counts: a root may have been renewed with its key.
    pub fn load(files: &Files, trust_domain: &TrustDomain, now: SystemTime) -> Result<Self, IssuerError> {
        let chain = pem::certificates(files.certificate()).map_err(|error| IssuerError::Pem("tls.crt", error))?;
        let key = pem::private_key(files.key()).map_err(|error| IssuerError::Pem("tls.key", error))?;
        let bundle = TrustBundle::from_pem(trust_domain.clone(), files.anchors()).map_err(IssuerError::Anchors)?;
        let key = KeyPair::try_from(key.secret_der());
        judge::chain(&chain, key.as_ref().ok(), now)?;
        let (first, key) = match (chain.first(), key) {
            (Some(first), Ok(key)) => (first, key),
            // Which is said by the judge already, in more words.
            (_, Err(error)) => return Err(IssuerError::Sign(error)),
            (None, _) => return Err(IssuerError::Key("there is no certificate".to_owned())),
        };
        let mut anchors = bundle.anchors().iter().map(|anchor| Anchor::new(anchor)).collect::<Result<Vec<_>, _>>()?;
        anchors.sort_by_key(|anchor| std::cmp::Reverse(anchor.not_after));
        let signer = rcgen::Issuer::from_ca_cert_der(&first.der, key).map_err(IssuerError::Sign)?;
        let mut issuer =
            Self { signer, intermediates: Vec::new(), bundle, anchors, anchor: Vec::new(), not_after: now };
        issuer.not_after = end_of(&first.der)?;
        for PemCertificate { der, .. } in &chain {
            issuer.not_after = issuer.not_after.min(end_of(der)?);
            if !issuer.bundle.anchors().contains(der) {
                issuer.intermediates.push(der.to_vec());
            }
        }
        let anchor = issuer.prove(trust_domain, now).map_err(|error| judge::refused(error, &chain, &issuer.anchors))?;
        issuer.not_after = issuer.not_after.min(anchor.not_after);
        issuer.anchor = anchor.der;
        if issuer.not_after <= now {
            return Err(IssuerError::AnchorEnded(judge::date(issuer.not_after)));
        }
        Ok(issuer)
    }

    /// Signs a leaf for `id` over `key`, valid from `skew` before `now` for `lifetime`, never longer than the issuer.
    pub fn sign(
        &self,
        id: &SpiffeId,
        key: &impl PublicKeyData,
        now: SystemTime,
        lifetime: (Duration, Duration),
    ) -> Result<Leaf, IssuerError> {
        self.sign_for((id, None), key, now, lifetime)
    }

    /// The same for a pod, which the leaf names.
    pub fn sign_for(
        &self,
        whom: (&SpiffeId, Option<&PodName>),
        key: &impl PublicKeyData,
        now: SystemTime,
        (lifetime, skew): (Duration, Duration),
    ) -> Result<Leaf, IssuerError> {
        if self.not_after <= now {
            return Err(IssuerError::Ended(judge::date(self.not_after)));
        }
        let not_after = whole_seconds((now + lifetime).min(self.not_after));
        let (chain, serial) = self.leaf(whom, key, (now - skew, not_after))?;
        self.check(&chain, now)?;
        Ok(Leaf { chain, serial: serial.to_string(), not_after })
    }

    fn leaf(
        &self,
        (id, pod): (&SpiffeId, Option<&PodName>),
        key: &impl PublicKeyData,
        (not_before, not_after): (SystemTime, SystemTime),
    ) -> Result<(Vec<Vec<u8>>, SerialNumber), IssuerError> {
        let serial = random_serial()?;
        let mut params = CertificateParams::default();
        // RFC 5280 §4.1.2.6: the subject is empty, so rcgen marks the SAN critical.
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![SanType::URI(id.as_str().try_into().map_err(IssuerError::Sign)?)];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        params.not_before = not_before.into();
        params.not_after = not_after.into();
        params.serial_number = Some(serial.clone());
        let named = pod.map(|pod| CustomExtension::from_oid_content(&POD_EXTENSION, pod_extension(pod)));
        params.custom_extensions = named.into_iter().collect();
        let leaf = params.signed_by(key, &self.signer).map_err(IssuerError::Sign)?;
        let chain = std::iter::once(leaf.der().to_vec()).chain(self.intermediates.iter().cloned()).collect();
        Ok((chain, serial))
    }

    /// The anchors to trust.
    #[must_use]
    pub fn bundle(&self) -> &TrustBundle {
        &self.bundle
    }

    /// The anchors to trust, one by one.
    #[must_use]
    pub fn anchors(&self) -> &[Anchor] {
        &self.anchors
    }

    /// The anchor that this issuer's leaves chain to.
    #[must_use]
    pub fn anchor(&self) -> &[u8] {
        &self.anchor
    }

    /// When the first certificate of the issuer's chain ends.
    #[must_use]
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    fn check(&self, chain: &[Vec<u8>], now: SystemTime) -> Result<(), IssuerError> {
        let chain: Vec<_> = chain.iter().map(|der| der.as_slice().into()).collect();
        verify_svid(&chain, &self.bundle, now).map_err(IssuerError::SelfCheck)?;
        Ok(())
    }

    /// Signs a leaf that is not given out, and returns the anchor that it chains to and that expires last.
    fn prove(&self, trust_domain: &TrustDomain, now: SystemTime) -> Result<Anchor, VerifyError> {
        let (key, id) = (KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256), serving_id(trust_domain, NAMESPACE));
        let malformed = |error: IssuerError| VerifyError::Malformed(error.to_string());
        let (key, id) = (key.map_err(|error| malformed(IssuerError::Sign(error)))?, id.map_err(malformed)?);
        let minute = Duration::from_secs(60);
        let (chain, ..) = self.leaf((&id, None), &key, (now - minute, now + minute)).map_err(malformed)?;
        let chain: Vec<_> = chain.iter().map(|der| der.as_slice().into()).collect();
        let mut last = VerifyError::UnknownIssuer;
        // The one that lives longest is first.
        for anchor in &self.anchors {
            let alone = TrustBundle::new(trust_domain.clone(), [anchor.der.clone()]);
            match alone.map(|alone| verify_svid(&chain, &alone, now)) {
                Ok(Ok(_)) => return Ok(anchor.clone()),
                // That others have signed something else says less than why this one is refused.
                Ok(Err(VerifyError::UnknownIssuer)) | Err(_) => {}
                Ok(Err(error)) => last = error,
            }
        }
        Err(last)
    }
}

/// The identity service's own identity, where it runs in `namespace`.
pub fn serving_id(trust_domain: &TrustDomain, namespace: &str) -> Result<SpiffeId, IssuerError> {
    SpiffeId::workload(trust_domain, namespace, IDENTITY).map_err(IssuerError::Identity)
}

fn random_serial() -> Result<SerialNumber, IssuerError> {
    let mut bytes = [0_u8; 16];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| IssuerError::Sign(rcgen::Error::RingUnspecified))?;
    // RFC 5280 §4.1.2.2: positive, and without a leading zero that DER would drop.
    let [first, ..] = &mut bytes;
    *first = (*first & 0x7f) | 0x40;
    Ok(SerialNumber::from_slice(&bytes))
}

fn whole_seconds(time: SystemTime) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs())
}

fn end_of(der: &[u8]) -> Result<SystemTime, IssuerError> {
    let (_, certificate) =
        X509Certificate::from_der(der).map_err(|error| IssuerError::Certificate(error.to_string()))?;
    Ok(judge::time(certificate.validity().not_after))
}
