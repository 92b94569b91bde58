//! rustls configurations for each kind of connection the mesh makes.

use super::{
    Credentials, Svid, TrustBundle,
    provider::provider,
    verifier::{AnyMember, ExpectServer, Unverified},
};
use remora_model::{Revocations, SpiffeId};
use rustls::{
    ClientConfig, ServerConfig,
    client::Resumption,
    pki_types::{IpAddr, Ipv4Addr, ServerName},
    server::NoServerSessionStorage,
    sign::SingleCertAndKey,
    version::TLS13,
};
use std::sync::Arc;

/// A TLS configuration could not be built: the crypto library lacks something it should have.
#[derive(Debug, thiserror::Error)]
#[error("cannot set up tls: {0}")]
pub struct TlsError(#[source] pub(super) rustls::Error);

/// What is spoken inside the TLS connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Alpn {
    /// HTTP between proxies, as HTTP/2: `remora/h2`.
    MeshHttp,
    /// One request between proxies that may leave HTTP, as HTTP/1.1: `remora/http1`.
    MeshHttp1,
    /// Bytes between proxies: `remora/tcp`.
    MeshTcp,
    /// gRPC to the control plane: `h2`.
    Grpc,
}

impl Alpn {
    /// The protocol name on the wire.
    #[must_use]
    pub fn as_bytes(self) -> &'static [u8] {
        match self {
            Self::MeshHttp => b"remora/h2",
            Self::MeshHttp1 => b"remora/http1",
            Self::MeshTcp => b"remora/tcp",
            Self::Grpc => b"h2",
        }
    }

    /// The protocol with this name, if it is one of ours.
    #[must_use]
    pub fn from_bytes(name: &[u8]) -> Option<Self> {
        [Self::MeshHttp, Self::MeshHttp1, Self::MeshTcp, Self::Grpc].into_iter().find(|alpn| alpn.as_bytes() == name)
    }
}

/// For accepting: presents our SVID, and demands one of the same trust domain. Read the peer's name from the
/// finished connection with [`peer`](super::peer).
pub fn server_config(credentials: &Credentials, alpn: &[Alpn]) -> Result<Arc<ServerConfig>, TlsError> {
    server_config_refusing(credentials, alpn, &Arc::default())
}

/// The same, and refuses whom `revoked` names.
pub fn server_config_refusing(
    credentials: &Credentials,
    alpn: &[Alpn],
    revoked: &Arc<Revocations>,
) -> Result<Arc<ServerConfig>, TlsError> {
    let verifier = Arc::new(AnyMember { bundle: credentials.bundle.clone(), revoked: Arc::clone(revoked) });
    let config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(TlsError)?
        .with_client_cert_verifier(verifier);
    Ok(finish_server(config, &credentials.svid, alpn))
}

/// For the identity service, the only one whose clients need no certificate: presents our SVID and asks for none.
pub fn danger_open_server_config(svid: &Svid, alpn: &[Alpn]) -> Result<Arc<ServerConfig>, TlsError> {
    let config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(TlsError)?
        .with_no_client_auth();
    Ok(finish_server(config, svid, alpn))
}

/// For dialling: presents our SVID, and accepts `expected` only.
pub fn client_config(
    credentials: &Credentials,
    expected: &SpiffeId,
    alpn: &[Alpn],
) -> Result<Arc<ClientConfig>, TlsError> {
    client_config_refusing(credentials, expected, alpn, &Arc::default())
}

/// The same, and refuses `expected` where `revoked` names it, or the certificate or the pod that answers.
pub fn client_config_refusing(
    credentials: &Credentials,
    expected: &SpiffeId,
    alpn: &[Alpn],
    revoked: &Arc<Revocations>,
) -> Result<Arc<ClientConfig>, TlsError> {
    let (bundle, revoked) = (credentials.bundle.clone(), Arc::clone(revoked));
    let verifier = ExpectServer { expected: expected.clone(), bundle, revoked };
    let config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(TlsError)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(credentials.svid.certified_key())));
    Ok(finish_client(config, alpn))
}

/// For dialling the identity service, before there is an SVID to present; it too must be exactly `expected`.
pub fn anonymous_client_config(
    bundle: &TrustBundle,
    expected: &SpiffeId,
    alpn: &[Alpn],
) -> Result<Arc<ClientConfig>, TlsError> {
    let verifier = ExpectServer { expected: expected.clone(), bundle: bundle.clone(), revoked: Arc::default() };
    let config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(TlsError)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    Ok(finish_client(config, alpn))
}

/// For the kubelet's HTTPS probes alone, which verify no certificate: every server counts as the application.
pub fn danger_unverified_client_config() -> Result<Arc<ClientConfig>, TlsError> {
    // Applications may be older than TLS 1.3.
    let config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(TlsError)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Unverified))
        .with_no_client_auth();
    Ok(finish_client(config, &[]))
}

/// The name to give rustls when dialling: it wants one, our verifiers ignore it, and it is never sent.
#[must_use]
pub fn server_name() -> ServerName<'static> {
    ServerName::IpAddress(IpAddr::V4(Ipv4Addr::from([0, 0, 0, 0])))
}

fn finish_server(
    builder: rustls::ConfigBuilder<ServerConfig, rustls::server::WantsServerCert>,
    svid: &Svid,
    alpn: &[Alpn],
) -> Arc<ServerConfig> {
    let mut config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(svid.certified_key())));
    config.alpn_protocols = names(alpn);
    // No resumption: see the module head.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    Arc::new(config)
}

fn finish_client(mut config: ClientConfig, alpn: &[Alpn]) -> Arc<ClientConfig> {
    config.alpn_protocols = names(alpn);
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    config.enable_sni = false;
    Arc::new(config)
}

fn names(alpn: &[Alpn]) -> Vec<Vec<u8>> {
    alpn.iter().map(|alpn| alpn.as_bytes().to_vec()).collect()
}
