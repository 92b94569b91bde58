//! The cryptography of all our TLS.

use rustls::{
    CipherSuite,
    crypto::{CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs},
};
use std::sync::{Arc, OnceLock};

/// aws-lc-rs with the key exchanges in our order: post-quantum hybrid first, whoever the peer is. AES-128 goes first as in
/// Envoy and Linkerd: less work per byte than AES-256.
/// Made once: it is asked for in every handshake.
pub(super) fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    PROVIDER.get_or_init(|| Arc::new(preferred())).clone()
}

fn preferred() -> CryptoProvider {
    let mut provider = aws_lc_rs::default_provider();
    provider.kx_groups =
        vec![aws_lc_rs::kx_group::X25519MLKEM768, aws_lc_rs::kx_group::X25519, aws_lc_rs::kx_group::SECP256R1];
    provider.cipher_suites.sort_by_key(|suite| suite.suite() != CipherSuite::TLS13_AES_128_GCM_SHA256);
    provider
}

/// Which signatures count, in certificates and in handshakes.
pub(super) fn signature_algorithms() -> WebPkiSupportedAlgorithms {
    provider().signature_verification_algorithms
}
