//! The rustls side of verification: thin shells around [`verify_parts`], and the way back to its reasons.

use std::error::Error as StdError;
use std::io;
use std::sync::Arc;

use remora_model::SpiffeId;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, CommonState, DigitallySignedStruct, DistinguishedName, Error, OtherError, SignatureScheme,
};

use super::config::signature_algorithms;
use super::verify::verify_parts;
use super::{TrustBundle, VerifyError, leaf_identity};

/// Accepts exactly one identity; the server's name or address plays no part.
#[derive(Debug)]
pub(super) struct ExpectServer {
    pub(super) expected: SpiffeId,
    pub(super) bundle: TrustBundle,
}

/// Demands a certificate and accepts every identity of the trust domain: policy judges it afterwards.
#[derive(Debug)]
pub(super) struct AnyMember {
    pub(super) bundle: TrustBundle,
}

impl ServerCertVerifier for ExpectServer {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let presented = verify_parts(end_entity, intermediates, &self.bundle, now).map_err(to_rustls)?;
        if presented != self.expected {
            return Err(to_rustls(VerifyError::IdentityMismatch { expected: self.expected.clone(), presented }));
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("tls 1.2 is never negotiated".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &signature_algorithms())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        signature_algorithms().supported_schemes()
    }
}

impl ClientCertVerifier for AnyMember {
    /// None: naming our anchors to a stranger helps nobody, every member has exactly one certificate.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        verify_parts(end_entity, intermediates, &self.bundle, now).map_err(to_rustls)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("tls 1.2 is never negotiated".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &signature_algorithms())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        signature_algorithms().supported_schemes()
    }
}

fn to_rustls(error: VerifyError) -> Error {
    Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(error))))
}

/// Who the peer of a finished handshake is. `None` if it presented no certificate.
///
/// The verifiers above have judged the certificate by then; this only reads the name.
#[must_use]
pub fn peer_id(connection: &CommonState) -> Option<SpiffeId> {
    leaf_identity(connection.peer_certificates()?.first()?).ok()
}

/// Why *we* refused the peer, if `error` (as a failed handshake returns it) is about that.
#[must_use]
pub fn refusal(error: &io::Error) -> Option<VerifyError> {
    let mut cause: Option<&(dyn StdError + 'static)> = error.get_ref().map(|inner| inner as _);
    while let Some(error) = cause {
        match error.downcast_ref::<Error>() {
            Some(Error::InvalidCertificate(CertificateError::Other(other))) => {
                return other.0.downcast_ref::<VerifyError>().cloned();
            }
            Some(Error::NoCertificatesPresented) => return Some(VerifyError::NoCertificate),
            _ => cause = error.source(),
        }
    }
    None
}
