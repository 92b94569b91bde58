//! The rustls side of verification: thin shells around [`verify_parts`], and the way back to its reasons.

use super::{
    TrustBundle, VerifyError,
    provider::signature_algorithms,
    verify::{read_leaf, refuse_revoked, verify_parts},
};
use remora_model::{Revocations, SpiffeId};
use rustls::{
    AlertDescription, CertificateError, CommonState, DigitallySignedStruct, DistinguishedName, Error, OtherError,
    SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};
use std::{error::Error as StdError, io, sync::Arc, time::SystemTime};

/// Accepts exactly one identity; the server's name or address plays no part.
#[derive(Debug)]
pub(super) struct ExpectServer {
    pub(super) expected: SpiffeId,
    pub(super) bundle: TrustBundle,
    pub(super) revoked: Arc<Revocations>,
}

/// Demands a certificate and accepts every identity of the trust domain: policy judges it afterwards.
#[derive(Debug)]
pub(super) struct AnyMember {
    pub(super) bundle: TrustBundle,
    pub(super) revoked: Arc<Revocations>,
}

/// What is the same for every verifier of the mesh: that the peer has the key of the certificate that it shows.
macro_rules! tls13_signatures {
    () => {
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
    };
}

/// A connection of the mesh is TLS 1.3.
fn no_tls12() -> Result<HandshakeSignatureValid, Error> {
    Err(Error::General("tls 1.2 is never negotiated".into()))
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
        refuse_revoked(end_entity, &self.revoked, now.as_secs()).map_err(to_rustls)?;
        Ok(ServerCertVerified::assertion())
    }

    tls13_signatures!();

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        no_tls12()
    }
}

impl ClientCertVerifier for AnyMember {
    /// None: a client needs no hint which certificate to present, because every workload has exactly one; and strangers need not learn our anchors.
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
        refuse_revoked(end_entity, &self.revoked, now.as_secs()).map_err(to_rustls)?;
        Ok(ClientCertVerified::assertion())
    }

    tls13_signatures!();

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        no_tls12()
    }
}

/// Accepts every certificate, as the kubelet's probes do, and so does not read it: of some that applications have (version 1, RSA of
/// 1024 bits, unknown critical extensions) no key could be read. That a server has the key of a certificate that anybody can make
/// would prove nothing.
#[derive(Debug)]
pub(super) struct Unverified;

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        signature_algorithms().supported_schemes()
    }
}

fn to_rustls(error: VerifyError) -> Error {
    Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(error))))
}

/// Who is at the other end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// By its certificate.
    pub id: SpiffeId,
    /// Until when the certificate is valid.
    pub not_after: SystemTime,
}

/// Who the peer of a finished handshake is. `None` if it presented no certificate.
///
/// The verifiers above have judged the certificate by then; this only reads it.
#[must_use]
pub fn peer(connection: &CommonState) -> Option<Peer> {
    let (id, not_after) = read_leaf(connection.peer_certificates()?.first()?).ok()?;
    Some(Peer { id, not_after })
}

/// Why a handshake failed, as far as it is about certificates and protocols.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// We refused the peer.
    Refused(VerifyError),
    /// The peer refused us, or gave up; it alone knows why.
    ByPeer,
    /// There is no protocol that both speak.
    NoProtocol,
    /// The connection broke, or what came was no TLS.
    Other,
}

impl Failure {
    /// The reasons besides those of [`VerifyError::REASONS`], and what they say.
    pub const REASONS: [(&'static str, &'static str); 3] = [
        ("refused_by_peer", "refused us: its own log and metrics say why"),
        ("no_protocol", "agreed on no protocol of the mesh"),
        ("handshake_failed", "broke the connection, or speaks no TLS 1.3"),
    ];

    /// What is behind the error that a handshake returned.
    #[must_use]
    pub fn of(error: &io::Error) -> Self {
        let mut cause: Option<&(dyn StdError + 'static)> = error.get_ref().map(|inner| inner as _);
        while let Some(error) = cause {
            match error.downcast_ref::<Error>() {
                Some(Error::InvalidCertificate(CertificateError::Other(other))) => {
                    return other.0.downcast_ref::<VerifyError>().cloned().map_or(Self::Other, Self::Refused);
                }
                Some(Error::NoCertificatesPresented) => return Self::Refused(VerifyError::NoCertificate),
                Some(Error::AlertReceived(AlertDescription::NoApplicationProtocol))
                | Some(Error::NoApplicationProtocol) => return Self::NoProtocol,
                Some(Error::AlertReceived(_)) => return Self::ByPeer,
                _ => cause = error.source(),
            }
        }
        Self::Other
    }

    /// A short stable name for metric labels and log fields.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Refused(error) => error.reason(),
            Self::ByPeer => Self::REASONS[0].0,
            Self::NoProtocol => Self::REASONS[1].0,
            Self::Other => Self::REASONS[2].0,
        }
    }
}
