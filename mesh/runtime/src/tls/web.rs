//! TLS by host name: what the API server speaks to a webhook, which has a certificate authority of its own. No mesh
//! identity plays a part in it.

use super::{
    config::TlsError,
    pem::{self, PemError},
    provider::provider,
};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    client::WebPkiServerVerifier,
    pki_types::{CertificateDer, ServerName},
    server::NoServerSessionStorage,
    version::TLS13,
};
use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use x509_parser::{certificate::X509Certificate, prelude::FromDer as _};

/// HTTP/2, on which the API server has one connection for all its calls, then HTTP/1.1.
const ALPN: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// Why certificate, key or anchors are of no use.
#[derive(Debug, thiserror::Error)]
pub enum WebError {
    /// The text is no PEM, or there is nothing in it.
    #[error("{what}: {mistake}")]
    Pem {
        /// Certificate, key or anchors.
        what: &'static str,
        /// Where and what.
        #[source]
        mistake: PemError,
    },
    /// rustls does not take it: key and certificate belong to two pairs, for example.
    #[error("{0}")]
    Tls(#[source] TlsError),
    /// It cannot be read.
    #[error("certificate: {0}")]
    Certificate(String),
    /// The anchors make no verifier.
    #[error("anchors: {0}")]
    Anchors(String),
}

/// For dialling servers of the web by their names: vouched for by the web's authorities, or by those of `more`, PEM, which may be empty. HTTP/1.1 is
/// what is spoken. TLS 1.2 as well: identity providers are older than the mesh.
pub fn public_client_config(more: &[u8]) -> Result<Arc<ClientConfig>, WebError> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(webpki_root_certs::TLS_SERVER_ROOT_CERTS.iter().cloned());
    if !more.is_empty() {
        for certificate in certificates("authorities", more)? {
            roots.add(certificate).map_err(|error| WebError::Anchors(error.to_string()))?;
        }
    }
    let config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| WebError::Tls(TlsError(error)))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// For serving HTTPS with a chain and its key, both PEM.
pub fn server_config(chain: &[u8], key: &[u8]) -> Result<Arc<ServerConfig>, WebError> {
    let chain = certificates("certificate", chain)?;
    let key = pem::private_key(key).map_err(|mistake| WebError::Pem { what: "key", mistake })?;
    let failed = |error| WebError::Tls(TlsError(error));
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(failed)?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(failed)?;
    config.alpn_protocols = ALPN.map(<[u8]>::to_vec).to_vec();
    // A resumed session would not show the new certificate after a rotation.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// For calling a server whose certificate chains to one of `anchors` (PEM) and is for the name that is dialled.
pub fn client_config(anchors: &[u8]) -> Result<Arc<ClientConfig>, WebError> {
    let anchors = certificates("anchors", anchors)?;
    let mut roots = RootCertStore::empty();
    let (_, unusable) = roots.add_parsable_certificates(anchors);
    if unusable > 0 {
        return Err(WebError::Anchors(format!("{unusable} of them are no certificates")));
    }
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider())
        .build()
        .map_err(|error| WebError::Anchors(error.to_string()))?;
    let config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(|error| WebError::Tls(TlsError(error)))?
        .with_webpki_verifier(verifier)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

fn certificates(what: &'static str, text: &[u8]) -> Result<Vec<CertificateDer<'static>>, WebError> {
    let found = pem::certificates(text).map_err(|mistake| WebError::Pem { what, mistake })?;
    Ok(found.into_iter().map(|certificate| certificate.der).collect())
}

/// The name to dial.
pub fn name(host: &str) -> Result<ServerName<'static>, String> {
    ServerName::try_from(host.to_owned()).map_err(|error| error.to_string())
}

/// From when until when the first certificate of `chain` (PEM) is valid.
pub fn validity(chain: &[u8]) -> Result<(SystemTime, SystemTime), WebError> {
    let chain = certificates("certificate", chain)?;
    let unusable = |error: String| WebError::Certificate(error);
    let first = chain.first().ok_or_else(|| unusable("there is none".to_owned()))?;
    let (_, certificate) = X509Certificate::from_der(first).map_err(|error| unusable(error.to_string()))?;
    let time = |seconds: i64| UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
    let validity = certificate.validity();
    Ok((time(validity.not_before.timestamp()), time(validity.not_after.timestamp())))
}
