//! The three files as one state: read, made on first start, written.

use super::{IssuerError, random_serial};
use crate::trust::base64;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, SanType,
};
use remora_model::TrustDomain;
use serde::{Deserialize, Serialize};
use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    time::{Duration, SystemTime},
};

/// A root made on first start lives this long: it is meant to be replaced by rotation, not by surprise.
const ROOT_LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// Presence of this file allows anchors to go while leaves still chain to them.
pub const FORCE_REMOVE: &str = "force-remove";

/// The bytes of the three files, as one state.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Files {
    #[serde(rename = "tls.crt", with = "base64")]
    certificate: Vec<u8>,
    #[serde(rename = "tls.key", with = "base64")]
    key: Vec<u8>,
    #[serde(rename = "ca.crt", with = "base64")]
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

/// Replaces a file whole or not at all, with the mode `mode`.
pub(crate) fn write_atomically(dir: &Path, name: &str, bytes: &[u8], mode: u32) -> io::Result<()> {
    let temporary = dir.join(format!(".{name}.tmp"));
    // The file is made anew, with our mode: a file of an earlier process or of another user (a link, a file that all may read) is removed first.
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, dir.join(name))?;
    fs::File::open(dir)?.sync_all()
}
