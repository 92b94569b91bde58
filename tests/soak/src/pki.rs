//! Certificate authorities as an operator would make them: roots, and signing certificates of theirs.

use anyhow::Context as _;
use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use remora_model::TrustDomain;
use remora_runtime::tls::TrustBundle;
use std::{fs, path::Path};

/// A trust anchor with its key.
#[derive(Debug)]
pub(crate) struct Root {
    issuer: Issuer<'static, KeyPair>,
    pub(crate) pem: String,
}

/// A signing certificate with its key, both as PEM.
#[derive(Debug)]
pub(crate) struct Signer {
    pub(crate) certificate: String,
    pub(crate) der: Vec<u8>,
    pub(crate) key: String,
}

fn ca(name: &str, path_length: u8) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(path_length));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params
}

impl Root {
    pub(crate) fn new(name: &str) -> anyhow::Result<Self> {
        let (params, key) = (ca(name, 1), KeyPair::generate()?);
        let pem = params.self_signed(&key)?.pem();
        Ok(Self { issuer: Issuer::new(params, key), pem })
    }

    /// Signs a certificate that signs certificates.
    pub(crate) fn signer(&self, name: &str) -> anyhow::Result<Signer> {
        let key = KeyPair::generate()?;
        let certificate = ca(name, 0).signed_by(&key, &self.issuer)?;
        Ok(Signer { certificate: certificate.pem(), der: certificate.der().to_vec(), key: key.serialize_pem() })
    }

    /// This root alone, to judge by.
    pub(crate) fn bundle(&self) -> anyhow::Result<TrustBundle> {
        Ok(TrustBundle::from_pem(TrustDomain::new("cluster.local")?, self.pem.as_bytes())?)
    }
}

impl Signer {
    /// The issuer's folder, with these anchors.
    pub(crate) fn files(&self, anchors: &str) -> [(&'static str, String); 3] {
        [("tls.crt", self.certificate.clone()), ("tls.key", self.key.clone()), ("ca.crt", anchors.to_owned())]
    }

    /// Replaces the folder's signing certificate.
    pub(crate) fn install(&self, issuer: &Path) -> anyhow::Result<()> {
        place(issuer, "tls.key", &self.key)?;
        place(issuer, "tls.crt", &self.certificate)
    }
}

/// Replaces a file whole at once.
pub(crate) fn place(issuer: &Path, name: &str, pem: &str) -> anyhow::Result<()> {
    let new = issuer.join(format!("{name}.new"));
    fs::write(&new, pem)?;
    fs::rename(new, issuer.join(name)).with_context(|| format!("placing {name}"))
}
