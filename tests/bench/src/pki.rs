//! A certificate authority for Envoy and the floor: P-256 leaves with a SPIFFE ID each. Remora has its own.

use crate::{pod::Side, process::PROXY_UID, tools::DIR};
use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use std::{fs, os::unix::fs::chown};

/// Where the PEM files lie: `ca.crt`, and per side `SIDE.crt` and `SIDE.key`.
pub(crate) const PKI_DIR: &str = "/run/remora-bench/pki";

pub(crate) fn spiffe_id(side: Side) -> String {
    format!("spiffe://cluster.local/ns/bench/sa/{}", side.name())
}

pub(crate) fn create() -> Result<()> {
    fs::create_dir_all(PKI_DIR).with_context(|| format!("create {PKI_DIR} in {DIR}"))?;
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let key = KeyPair::generate()?;
    write("ca.crt", &authority.self_signed(&key)?.pem())?;
    let issuer = Issuer::new(authority, key);
    for side in [Side::Client, Side::Server] {
        let mut leaf = CertificateParams::default();
        leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        // The floor checks the DNS name (stock webpki), Envoy the SPIFFE ID.
        let name = format!("{}.bench", side.name());
        leaf.subject_alt_names = vec![SanType::URI(spiffe_id(side).try_into()?), SanType::DnsName(name.try_into()?)];
        let key = KeyPair::generate()?;
        write(&format!("{}.crt", side.name()), &leaf.signed_by(&key, &issuer)?.pem())?;
        write(&format!("{}.key", side.name()), &key.serialize_pem())?;
    }
    Ok(())
}

fn write(name: &str, pem: &str) -> Result<()> {
    let path = format!("{PKI_DIR}/{name}");
    fs::write(&path, pem).with_context(|| format!("write {path}"))?;
    let uid: u32 = PROXY_UID.parse()?;
    chown(&path, Some(uid), Some(uid)).with_context(|| format!("give {path} to the proxies"))
}
