//! What we hold: our certificate and key, and the anchors by which we judge others.

use super::{
    ANCHORS_MAX, CHAIN_CERTIFICATES_MAX, VerifyError, leaf_identity,
    pem::{self, PemError},
    verify::words,
    verify_svid,
};
use aws_lc_rs::digest;
use remora_model::{SpiffeId, TrustDomain};
use rustls::{
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, TrustAnchor},
    sign::CertifiedKey,
};
use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use x509_parser::{certificate::X509Certificate, prelude::FromDer as _};

/// Why a set of anchors is unusable.
#[derive(Debug, thiserror::Error)]
pub enum InvalidBundle {
    /// An empty set would cut off every peer; so an empty set must not be the way to say that.
    #[error("trust bundle holds no anchor")]
    Empty,
    /// More than [`ANCHORS_MAX`].
    #[error("trust bundle holds {0} anchors; at most {ANCHORS_MAX} are read")]
    TooMany(usize),
    /// One of the anchors is no certificate.
    #[error("certificate {number}{} is unusable: {reason}", line.map(|line| format!(", at line {line},")).unwrap_or_default())]
    Anchor {
        /// Which one, from 1, in the order given.
        number: usize,
        /// The line that it begins in, where it comes from a text.
        line: Option<usize>,
        /// What is wrong with it.
        reason: String,
    },
    /// The text is no PEM.
    #[error("{0}")]
    Pem(#[source] PemError),
}

/// The anchors of one trust domain. Cheap to clone.
#[derive(Clone)]
pub struct TrustBundle(Arc<Bundle>);

struct Bundle {
    trust_domain: TrustDomain,
    version: u64,
    anchors: Vec<CertificateDer<'static>>,
    parsed: Vec<TrustAnchor<'static>>,
}

impl TrustBundle {
    /// A bundle of DER anchors; duplicates are dropped, order does not matter.
    pub fn new<A: Into<Vec<u8>>>(
        trust_domain: TrustDomain,
        anchors: impl IntoIterator<Item = A>,
    ) -> Result<Self, InvalidBundle> {
        Self::read(
            trust_domain,
            anchors.into_iter().map(|anchor| (None, CertificateDer::from(anchor.into()))).collect(),
        )
    }

    /// A bundle from PEM text, as in `ca.crt`, by the rules of [`pem`].
    pub fn from_pem(trust_domain: TrustDomain, text: &[u8]) -> Result<Self, InvalidBundle> {
        let anchors = pem::certificates(text).map_err(InvalidBundle::Pem)?;
        Self::read(trust_domain, anchors.into_iter().map(|anchor| (Some(anchor.line), anchor.der)).collect())
    }

    fn read(
        trust_domain: TrustDomain,
        given: Vec<(Option<usize>, CertificateDer<'static>)>,
    ) -> Result<Self, InvalidBundle> {
        // Each is judged where it stands, so that the message names its place; the set has no order.
        for (index, (line, anchor)) in given.iter().enumerate() {
            if let Err(error) = webpki::anchor_from_trusted_cert(anchor) {
                let (number, reason) = (index + 1, words(&error));
                return Err(InvalidBundle::Anchor { number, line: *line, reason });
            }
        }
        let mut anchors: Vec<_> = given.into_iter().map(|(_, anchor)| anchor).collect();
        anchors.sort_unstable_by(|a, b| a.as_ref().cmp(b.as_ref()));
        anchors.dedup();
        match anchors.len() {
            0 => return Err(InvalidBundle::Empty),
            count if count > ANCHORS_MAX => return Err(InvalidBundle::TooMany(count)),
            _ => {}
        }
        let parsed =
            anchors.iter().filter_map(|anchor| Some(webpki::anchor_from_trusted_cert(anchor).ok()?.to_owned()));
        let parsed = parsed.collect();
        let version = version_of(&anchors);
        Ok(Self(Arc::new(Bundle { trust_domain, version, anchors, parsed })))
    }

    /// This bundle and the anchors of `other` besides.
    pub fn union(&self, other: &Self) -> Result<Self, InvalidBundle> {
        let both = self.0.anchors.iter().chain(&other.0.anchors);
        Self::new(self.0.trust_domain.clone(), both.map(|anchor| anchor.to_vec()))
    }

    /// The trust domain that the anchors vouch for.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.0.trust_domain
    }

    /// A digest of the set: equal versions mean equal anchors. It carries no order.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.0.version
    }

    /// The anchors as DER certificates, sorted.
    #[must_use]
    pub fn anchors(&self) -> &[CertificateDer<'static>] {
        &self.0.anchors
    }

    pub(super) fn webpki_anchors(&self) -> &[TrustAnchor<'static>] {
        &self.0.parsed
    }
}

impl fmt::Debug for TrustBundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TrustBundle")
            .field("trust_domain", &self.0.trust_domain)
            .field("version", &format_args!("{:016x}", self.0.version))
            .field("anchors", &self.0.anchors.len())
            .finish()
    }
}

/// The first eight bytes of a SHA-256 over all anchors, each preceded by its length.
fn version_of(anchors: &[CertificateDer<'_>]) -> u64 {
    let mut context = digest::Context::new(&digest::SHA256);
    for anchor in anchors {
        context.update(&(anchor.len() as u64).to_be_bytes());
        context.update(anchor);
    }
    let digest = context.finish();
    digest.as_ref().iter().take(8).fold(0, |version, byte| (version << 8) | u64::from(*byte))
}

/// Why a certificate and key cannot be our SVID.
#[derive(Debug, thiserror::Error)]
pub enum InvalidSvid {
    /// The chain has the wrong number of certificates.
    #[error("certificate chain has {0} certificates; 1 to {CHAIN_CERTIFICATES_MAX} are usable")]
    ChainLength(usize),
    /// The leaf is not an SVID.
    #[error("own certificate is unusable: {0}")]
    Leaf(#[source] VerifyError),
    /// The key cannot be read.
    #[error("private key is unusable: {0}")]
    Key(#[source] rustls::Error),
    /// The key belongs to another certificate.
    #[error("private key does not match the certificate: {0}")]
    Mismatch(#[source] rustls::Error),
}

/// A certificate chain with its private key. Cheap to clone; the key never leaves it, not even by `Debug`.
#[derive(Clone)]
pub struct Svid {
    id: SpiffeId,
    not_before: SystemTime,
    not_after: SystemTime,
    certified: Arc<CertifiedKey>,
}

impl Svid {
    /// Joins `chain_der` (leaf first) with its PKCS#8 key. Checks the leaf's shape and that the key is its own,
    /// not who signed it: for that there is [`Svid::verify`].
    pub fn new<C: Into<Vec<u8>>>(
        chain_der: impl IntoIterator<Item = C>,
        pkcs8_der: Vec<u8>,
    ) -> Result<Self, InvalidSvid> {
        let chain: Vec<_> = chain_der.into_iter().map(|cert| CertificateDer::from(cert.into())).collect();
        let leaf = chain.first().ok_or(InvalidSvid::ChainLength(0))?;
        if chain.len() > CHAIN_CERTIFICATES_MAX {
            return Err(InvalidSvid::ChainLength(chain.len()));
        }
        let id = leaf_identity(leaf).map_err(InvalidSvid::Leaf)?;
        let (not_before, not_after) = validity(leaf).map_err(InvalidSvid::Leaf)?;
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(pkcs8_der));
        let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&key).map_err(InvalidSvid::Key)?;
        let certified = CertifiedKey::new(chain, key);
        certified.keys_match().map_err(InvalidSvid::Mismatch)?;
        Ok(Self { id, not_before, not_after, certified: Arc::new(certified) })
    }

    /// Who this certificate says we are.
    #[must_use]
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// The chain, leaf first.
    #[must_use]
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.certified.cert
    }

    /// From when the leaf is valid.
    #[must_use]
    pub fn not_before(&self) -> SystemTime {
        self.not_before
    }

    /// Until when the leaf is valid.
    #[must_use]
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// Whether it has expired: no peer accepts it any more.
    #[must_use]
    pub fn has_ended(&self, now: SystemTime) -> bool {
        self.not_after <= now
    }

    /// Whether peers who trust `bundle` will accept us.
    pub fn verify(&self, bundle: &TrustBundle, now: SystemTime) -> Result<SpiffeId, VerifyError> {
        verify_svid(self.chain(), bundle, now)
    }

    pub(super) fn certified_key(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.certified)
    }
}

impl fmt::Debug for Svid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Svid")
            .field("id", &self.id)
            .field("not_after", &self.not_after)
            .field("certificates", &self.chain().len())
            .finish_non_exhaustive()
    }
}

/// Everything needed to talk and to judge: one consistent snapshot, replaced as a whole.
#[derive(Debug, Clone)]
pub struct Credentials {
    /// Our certificate and key.
    pub svid: Svid,
    /// By whom we judge peers.
    pub bundle: TrustBundle,
    /// Counts snapshots, so that caches know when they are out of date.
    pub generation: u64,
}

fn validity(leaf: &CertificateDer<'_>) -> Result<(SystemTime, SystemTime), VerifyError> {
    let (_, cert) = X509Certificate::from_der(leaf).map_err(|e| VerifyError::Malformed(e.to_string()))?;
    let time = |seconds: i64| UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
    Ok((time(cert.validity().not_before.timestamp()), time(cert.validity().not_after.timestamp())))
}
