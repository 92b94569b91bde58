//! Mutual TLS 1.3 from PEM files, made by the benchmark for both sides.

use anyhow::{Context, Result};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
    version::TLS13,
};
use std::{path::PathBuf, sync::Arc};
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// A DNS name that the benchmark puts into the server's certificate beside its SPIFFE ID.
pub(crate) const SERVER_NAME: &str = "server.bench";

/// Where one side's certificate, key and trust anchor lie.
#[derive(Debug)]
pub(crate) struct Files {
    pub(crate) side: String,
    pub(crate) dir: PathBuf,
}

impl Files {
    fn path(&self, extension: &str) -> PathBuf {
        self.dir.join(format!("{}.{extension}", self.side))
    }

    fn roots(&self) -> Result<Arc<RootCertStore>> {
        let mut roots = RootCertStore::empty();
        for anchor in certificates(self.dir.join("ca.crt"))? {
            roots.add(anchor).context("add the trust anchor")?;
        }
        Ok(Arc::new(roots))
    }

    fn chain(&self) -> Result<Vec<CertificateDer<'static>>> {
        certificates(self.path("crt"))
    }

    fn key(&self) -> Result<PrivateKeyDer<'static>> {
        let path = self.path("key");
        PrivateKeyDer::from_pem_file(&path).with_context(|| format!("read {}", path.display()))
    }
}

pub(crate) fn connector(files: &Files) -> Result<TlsConnector> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .with_root_certificates(files.roots()?)
        .with_client_auth_cert(files.chain()?, files.key()?)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
}

pub(crate) fn acceptor(files: &Files) -> Result<TlsAcceptor> {
    let verifier = WebPkiClientVerifier::builder_with_provider(files.roots()?, provider()).build()?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(files.chain()?, files.key()?)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

fn certificates(path: PathBuf) -> Result<Vec<CertificateDer<'static>>> {
    let read = || CertificateDer::pem_file_iter(&path)?.collect::<Result<Vec<_>, _>>();
    read().with_context(|| format!("read {}", path.display()))
}
