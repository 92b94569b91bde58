//! The signing certificate: read from cert-manager's three files (or keys of a Secret) or made on first start, proven usable before it
//! is used, and signing leaves from scratch.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType, SerialNumber,
};
use remora_kube::names::{IDENTITY, NAMESPACE};
use remora_model::{SpiffeId, TrustDomain};
use remora_runtime::tls::{InvalidBundle, TrustBundle, VerifyError, pem_certificates, verify_svid};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;

/// A root made on first start lives this long: it is meant to be replaced by rotation, not by surprise.
const ROOT_LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// Presence of this file allows anchors to go while leaves still chain to them.
pub const FORCE_REMOVE: &str = "force-remove";

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
    /// A file does not hold what it should.
    #[error("{file} is unusable: {reason}")]
    Content {
        /// Which file.
        file: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The anchors are unusable.
    #[error("ca.crt is unusable: {0}")]
    Anchors(#[source] InvalidBundle),
    /// Making or signing failed.
    #[error("cannot sign: {0}")]
    Sign(#[source] rcgen::Error),
    /// What it signs would be refused by every peer.
    #[error("certificates signed by tls.crt would be refused: {0}; does it chain to ca.crt, and is tls.key its key?")]
    SelfCheck(#[source] VerifyError),
    /// An anchor would go while leaves may chain to it.
    #[error("ca.crt drops an anchor that certificates may chain to for another {} s; wait, or add a file `force-remove` or the annotation {}=true", .0.as_secs(), remora_kube::names::FORCE_REMOVE)]
    AnchorInUse(Duration),
}

/// The bytes of the three files, as one state.
#[derive(Clone, PartialEq, Eq)]
pub struct Files {
    certificate: Vec<u8>,
    key: Vec<u8>,
    anchors: Vec<u8>,
}

impl std::fmt::Debug for Files {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Files").finish_non_exhaustive()
    }
}

impl Files {
    /// From the contents of `tls.crt`, `tls.key`, `ca.crt`.
    #[must_use]
    pub fn new(certificate: Vec<u8>, key: Vec<u8>, anchors: Vec<u8>) -> Self {
        Self { certificate, key, anchors }
    }

    pub(crate) fn certificate(&self) -> &[u8] {
        &self.certificate
    }

    pub(crate) fn key(&self) -> &[u8] {
        &self.key
    }

    pub(crate) fn anchors(&self) -> &[u8] {
        &self.anchors
    }

    /// Reads the folder. `None` if it holds none of the files.
    pub fn read(dir: &Path) -> Result<Option<Self>, IssuerError> {
        let read = |name: &str| match fs::read(dir.join(name)) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(IssuerError::File { operation: "read", path: dir.join(name), source }),
        };
        match (read("tls.crt")?, read("tls.key")?, read("ca.crt")?) {
            (Some(certificate), Some(key), Some(anchors)) => Ok(Some(Self { certificate, key, anchors })),
            (None, None, None) => Ok(None),
            _ => Err(IssuerError::Incomplete(dir.display().to_string())),
        }
    }

    /// Makes a self-signed root for `trust_domain` (X.509-SVID §4: CA, keyCertSign, an identity without path).
    pub fn make(trust_domain: &TrustDomain, now: SystemTime) -> Result<Self, IssuerError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(IssuerError::Sign)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, format!("remora root {trust_domain}"));
        let uri = trust_domain.id().as_str().try_into().map_err(IssuerError::Sign)?;
        params.subject_alt_names = vec![SanType::URI(uri)];
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.not_before = (now - Duration::from_secs(60)).into();
        params.not_after = (now + ROOT_LIFETIME).into();
        params.serial_number = Some(random_serial()?);
        let certificate = params.self_signed(&key).map_err(IssuerError::Sign)?.pem().into_bytes();
        Ok(Self { anchors: certificate.clone(), certificate, key: key.serialize_pem().into_bytes() })
    }

    /// Writes the three files, each whole or not at all, the key readable by us alone; `ca.crt`, which others wait
    /// for, comes last.
    pub fn write(&self, dir: &Path) -> Result<(), IssuerError> {
        let all =
            [("tls.key", &self.key, 0o600), ("tls.crt", &self.certificate, 0o644), ("ca.crt", &self.anchors, 0o644)];
        fs::create_dir_all(dir).map_err(|source| IssuerError::File {
            operation: "create",
            path: dir.to_owned(),
            source,
        })?;
        for (name, bytes, mode) in all {
            write_atomically(dir, name, bytes, mode).map_err(|source| IssuerError::File {
                operation: "write",
                path: dir.join(name),
                source,
            })?;
        }
        Ok(())
    }
}

fn write_atomically(dir: &Path, name: &str, bytes: &[u8], mode: u32) -> io::Result<()> {
    let temporary = dir.join(format!(".{name}.tmp"));
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, dir.join(name))?;
    fs::File::open(dir)?.sync_all()
}

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
    fn new(der: &[u8]) -> Result<Self, IssuerError> {
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
    /// Parses `files` and proves them by signing a leaf and verifying it as a peer would.
    pub fn load(files: &Files, trust_domain: &TrustDomain, now: SystemTime) -> Result<Self, IssuerError> {
        let content = |file, reason: String| IssuerError::Content { file, reason };
        let chain = pem_certificates(&files.certificate).map_err(|e| content("tls.crt", e))?;
        let first = chain.first().ok_or_else(|| content("tls.crt", "it holds no certificate".into()))?;
        let key = std::str::from_utf8(&files.key).map_err(|e| content("tls.key", e.to_string()))?;
        let key = KeyPair::from_pem(key).map_err(|e| content("tls.key", e.to_string()))?;
        let bundle = TrustBundle::from_pem(trust_domain.clone(), &files.anchors).map_err(IssuerError::Anchors)?;
        let mut not_after = end_of(first)?;
        let mut intermediates = Vec::new();
        for certificate in &chain {
            not_after = not_after.min(end_of(certificate)?);
            if !bundle.anchors().contains(certificate) {
                intermediates.push(certificate.to_vec());
            }
        }
        let signer = rcgen::Issuer::from_ca_cert_der(first, key).map_err(|e| content("tls.crt", e.to_string()))?;
        let anchors = bundle.anchors().iter().map(|anchor| Anchor::new(anchor)).collect::<Result<_, _>>()?;
        let mut issuer = Self { signer, intermediates, bundle, anchors, anchor: Vec::new(), not_after };
        issuer.anchor = issuer.prove(trust_domain, now)?;
        if let Some(anchor) = issuer.anchors.iter().find(|anchor| anchor.der == issuer.anchor) {
            issuer.not_after = issuer.not_after.min(anchor.not_after);
        }
        Ok(issuer)
    }

    /// Signs a leaf for `id` over `key`, valid from `skew` before `now` for `lifetime`, never longer than the issuer.
    pub fn sign(
        &self,
        id: &SpiffeId,
        key: &impl PublicKeyData,
        now: SystemTime,
        (lifetime, skew): (Duration, Duration),
    ) -> Result<Leaf, IssuerError> {
        let serial = random_serial()?;
        let not_after = whole_seconds((now + lifetime).min(self.not_after));
        let mut params = CertificateParams::default();
        // RFC 5280 §4.1.2.6: the subject is empty, so rcgen marks the SAN critical.
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![SanType::URI(id.as_str().try_into().map_err(IssuerError::Sign)?)];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        params.not_before = (now - skew).into();
        params.not_after = not_after.into();
        params.serial_number = Some(serial.clone());
        let leaf = params.signed_by(key, &self.signer).map_err(IssuerError::Sign)?;
        let chain: Vec<Vec<u8>> =
            std::iter::once(leaf.der().to_vec()).chain(self.intermediates.iter().cloned()).collect();
        self.check(&chain, now)?;
        Ok(Leaf { chain, serial: serial.to_string(), not_after })
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

    /// Signs a leaf that nobody gets, and returns the anchor it chains to.
    fn prove(&self, trust_domain: &TrustDomain, now: SystemTime) -> Result<Vec<u8>, IssuerError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(IssuerError::Sign)?;
        let id = serving_id(trust_domain, NAMESPACE)?;
        let leaf = self.sign(&id, &key, now, (Duration::from_secs(60), Duration::from_secs(60)))?;
        let chain: Vec<_> = leaf.chain.iter().map(|der| der.as_slice().into()).collect();
        let mut last = Err(IssuerError::SelfCheck(VerifyError::UnknownIssuer));
        for anchor in self.bundle.anchors() {
            let alone = TrustBundle::new(trust_domain.clone(), [anchor.to_vec()]).map_err(IssuerError::Anchors)?;
            match verify_svid(&chain, &alone, now) {
                Ok(_) => return Ok(anchor.to_vec()),
                Err(error) => last = Err(IssuerError::SelfCheck(error)),
            }
        }
        last
    }
}

/// The identity service's own identity, where it runs in `namespace`.
pub fn serving_id(trust_domain: &TrustDomain, namespace: &str) -> Result<SpiffeId, IssuerError> {
    SpiffeId::workload(trust_domain, namespace, IDENTITY)
        .map_err(|e| IssuerError::Content { file: "trust domain", reason: e.to_string() })
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
    let (_, certificate) = X509Certificate::from_der(der)
        .map_err(|e| IssuerError::Content { file: "tls.crt or ca.crt", reason: e.to_string() })?;
    let seconds = u64::try_from(certificate.validity().not_after.timestamp()).unwrap_or(0);
    Ok(UNIX_EPOCH + Duration::from_secs(seconds))
}
