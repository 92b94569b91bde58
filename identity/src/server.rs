//! Serving: the service's own certificate, its listener, and its end.

use crate::{
    authority::Authority,
    issuer::{IssuerError, serving_id},
    revoked::{self, Teller},
    service::{Service, Terms},
    source::Source,
    token::Proofs,
};
use arc_swap::ArcSwap;
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use remora_api::v1::identity_server::IdentityServer;
use remora_runtime::{
    admin::Readiness,
    certify::renew_after,
    drain,
    grpc::{KEEP_ALIVE_INTERVAL, KEEP_ALIVE_TIMEOUT, tls_incoming},
    tls::{Alpn, InvalidSvid, ServerConfig, Svid, TlsError, danger_open_server_config},
};
use std::{sync::Arc, time::SystemTime};
use tokio::net::TcpListener;

/// A token and a CSR, with room.
const MESSAGE_BYTES_MAX: usize = 128 * 1024;
/// A client has one call and one stream open; an unknown client may have as many.
const STREAMS_MAX: u32 = 4;

/// Why serving failed.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Our own certificate could not be signed.
    #[error("cannot certify ourselves: {0}")]
    Sign(#[source] IssuerError),
    /// No issuer can sign.
    #[error("cannot certify ourselves: {0}")]
    Unable(String),
    /// Our own certificate is unusable.
    #[error("own certificate: {0}")]
    Svid(#[source] InvalidSvid),
    /// TLS could not be set up.
    #[error("{0}")]
    Tls(#[source] TlsError),
    /// The server ended.
    #[error("grpc server failed: {0}")]
    Grpc(#[source] tonic::transport::Error),
}

/// Condition of `/ready`: the issuer signs.
pub(crate) const ISSUER: &str = "issuer";

/// What is served.
#[derive(Debug)]
pub struct Parts {
    /// Signs.
    pub authority: Arc<Authority>,
    /// Where its issuer comes from.
    pub source: Source,
    /// Proves who asks.
    pub proofs: Proofs,
    /// How leaves are made.
    pub terms: Terms,
    /// Where it is written who gets none.
    pub revoked: revoked::Source,
}

/// Serves until drained. Open streams are ended, open calls finished.
pub async fn serve(
    listener: TcpListener,
    parts: Parts,
    readiness: Readiness,
    drain: drain::Watch,
) -> Result<(), ServeError> {
    let Parts { authority, source, proofs, terms, revoked } = parts;
    let (teller, known) = Teller::new(readiness.clone());
    readiness.waiting(ISSUER, "it has not signed anything yet");
    let (config, svid) = own_config(&authority, &terms)?;
    readiness.ready(ISSUER);
    let config = Arc::new(ArcSwap::new(config));
    let current = Arc::clone(&config);
    let incoming = tls_incoming(listener, move || current.load_full());
    let proofs = Arc::new(proofs);
    let service = Service::new(Arc::clone(&authority), Arc::clone(&proofs), terms.clone(), known, drain.clone());
    let service = IdentityServer::new(service).max_decoding_message_size(MESSAGE_BYTES_MAX);
    let server = tonic::transport::Server::builder()
        .max_concurrent_streams(STREAMS_MAX)
        .http2_keepalive_interval(Some(KEEP_ALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEP_ALIVE_TIMEOUT))
        .serve_with_incoming_shutdown(service, incoming, drain.signaled());
    tokio::select! {
        done = server => done.map_err(ServeError::Grpc),
        () = source.follow(Arc::clone(&authority)) => Ok(()),
        () = proofs.follow(&readiness) => Ok(()),
        () = revoked.follow(teller) => Ok(()),
        () = keep_certified(&authority, &terms, &readiness, &config, svid) => Ok(()),
    }
}

/// Renews our own certificate in time, and at once when the issuer changes. It is signed by the issuer like any other,
/// so this is also where an issuer shows that can sign no longer.
async fn keep_certified(
    authority: &Authority,
    terms: &Terms,
    readiness: &Readiness,
    config: &ArcSwap<ServerConfig>,
    mut svid: Svid,
) {
    let mut state = authority.watch();
    state.mark_unchanged();
    loop {
        let life = svid.not_after().duration_since(SystemTime::now()).unwrap_or_default();
        let changed = tokio::time::timeout(renew_after(life, 0.5), state.changed()).await;
        if matches!(changed, Ok(Err(_))) {
            return;
        }
        match own_config(authority, terms) {
            Ok((new, renewed)) => {
                config.store(new);
                svid = renewed;
                readiness.ready(ISSUER);
            }
            Err(error) => {
                readiness.waiting(ISSUER, error.to_string());
                tracing::error!(%error, "cannot renew our own certificate, keeping the old");
                tokio::time::sleep(std::time::Duration::from_secs(1)).await;
            }
        }
    }
}

fn own_config(authority: &Authority, terms: &Terms) -> Result<(Arc<ServerConfig>, Svid), ServeError> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(|e| ServeError::Sign(IssuerError::Sign(e)))?;
    let id = serving_id(&terms.trust_domain, &terms.namespace).map_err(ServeError::Sign)?;
    let now = SystemTime::now();
    let issuer = authority.serving(now).map_err(ServeError::Unable)?;
    let leaf = issuer.sign(&id, &key, now, (terms.leaf_lifetime, terms.skew)).map_err(ServeError::Sign)?;
    let svid = Svid::new(leaf.chain, key.serialize_der()).map_err(ServeError::Svid)?;
    let config = danger_open_server_config(&svid, &[Alpn::Grpc]).map_err(ServeError::Tls)?;
    Ok((config, svid))
}
