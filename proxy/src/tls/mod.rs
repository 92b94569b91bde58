//! Mesh TLS on the data path: originate towards a peer, terminate from one. What a certificate must be to count is
//! decided in `remora_runtime::tls`; this keeps the configurations made from it, one per generation of credentials.

use crate::{connect::ConnectError, io::Prefixed, limits};
use remora_model::SpiffeId;
pub use remora_runtime::tls::Alpn;
use remora_runtime::tls::{
    ClientConfig, Credentials, ServerConfig, VerifyError, client_config, peer_id, refusal, server_config, server_name,
};
use std::{cell::RefCell, collections::HashMap, fmt, io, net::SocketAddr, sync::Arc};
use tokio::{net::TcpStream, sync::watch, time::timeout};
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// The workload's certificate and bundle as they change.
pub type Source = watch::Receiver<Option<Arc<Credentials>>>;
/// A connection to a peer.
pub type ClientStream = tokio_rustls::client::TlsStream<TcpStream>;
/// A connection from a peer.
pub type ServerStream = tokio_rustls::server::TlsStream<Prefixed<TcpStream>>;

/// Peers whose configuration a worker keeps.
const CONFIGS_MAX: usize = 1024;

/// A peer that came in.
#[derive(Debug)]
pub struct Terminated {
    pub stream: ServerStream,
    pub peer: SpiffeId,
    pub alpn: Alpn,
}

/// Why a handshake from a peer failed.
#[derive(Debug, thiserror::Error)]
pub enum TerminateError {
    #[error("this proxy has no certificate yet; see /ready")]
    NoCertificate,
    #[error("the peer did not finish its handshake in {:?}", limits::HANDSHAKE_TIMEOUT)]
    Timeout,
    #[error("the peer's certificate was refused: {0}")]
    Refused(VerifyError),
    #[error("handshake failed")]
    Io(#[source] io::Error),
    #[error("the peer agreed on no mesh protocol")]
    NoProtocol,
}

impl TerminateError {
    /// A short stable word for the metric label and log.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NoCertificate => "no_certificate_of_ours",
            Self::Timeout => "timeout",
            Self::Refused(error) => error.reason(),
            Self::Io(_) => "handshake_failed",
            Self::NoProtocol => "no_protocol",
        }
    }
}

/// One worker's view of the certificate, with the configurations made from it.
pub struct Store {
    source: Source,
    made: RefCell<Made>,
}

#[derive(Default)]
struct Made {
    generation: u64,
    server: Option<Arc<ServerConfig>>,
    clients: HashMap<(SpiffeId, Alpn), Arc<ClientConfig>>,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("generation", &self.made.borrow().generation).finish_non_exhaustive()
    }
}

impl Store {
    /// Follows `source`.
    pub fn new(source: Source) -> Self {
        Self { source, made: RefCell::default() }
    }

    /// Counts the certificates and bundles that there were; 0 before the first.
    pub fn generation(&self) -> u64 {
        self.source.borrow().as_ref().map_or(0, |credentials| credentials.generation)
    }

    fn credentials(&self) -> Option<Arc<Credentials>> {
        let credentials = self.source.borrow().clone()?;
        let mut made = self.made.borrow_mut();
        if made.generation != credentials.generation || made.clients.len() > CONFIGS_MAX {
            *made = Made { generation: credentials.generation, ..Made::default() };
        }
        drop(made);
        Some(credentials)
    }

    /// A handshake with the peer that must be `expected`. Cancel safe: the connection is dropped.
    pub async fn originate(
        &self,
        stream: TcpStream,
        address: SocketAddr,
        expected: &SpiffeId,
        alpn: Alpn,
    ) -> Result<ClientStream, ConnectError> {
        let config = self.client(expected, alpn)?;
        let handshake = TlsConnector::from(config).connect(server_name(), stream);
        match timeout(limits::HANDSHAKE_TIMEOUT, handshake).await {
            Err(_) => Err(ConnectError::HandshakeTimeout { address }),
            Ok(Err(source)) => {
                count("outbound", refusal(&source).map_or("handshake_failed", |refused| refused.reason()));
                let stranger = matches!(refusal(&source), Some(VerifyError::IdentityMismatch { .. }));
                Err(if stranger {
                    ConnectError::Identity { address, expected: expected.clone(), source }
                } else {
                    ConnectError::Tls { address, source }
                })
            }
            Ok(Ok(stream)) => match stream.get_ref().1.alpn_protocol().and_then(Alpn::from_bytes) {
                Some(agreed) if agreed == alpn => Ok(stream),
                _ => Err(ConnectError::Tls { address, source: io::Error::other("the peer speaks no mesh protocol") }),
            },
        }
    }

    fn client(&self, expected: &SpiffeId, alpn: Alpn) -> Result<Arc<ClientConfig>, ConnectError> {
        let credentials = self.credentials().ok_or(ConnectError::NoCertificate)?;
        let key = (expected.clone(), alpn);
        if let Some(config) = self.made.borrow().clients.get(&key) {
            return Ok(config.clone());
        }
        let config = client_config(&credentials, expected, &[alpn]).map_err(|_| ConnectError::NoCertificate)?;
        self.made.borrow_mut().clients.insert(key, config.clone());
        Ok(config)
    }

    /// A handshake from a peer, whose ClientHello is in the stream's prefix. Cancel safe: the connection is dropped.
    pub async fn terminate(&self, stream: Prefixed<TcpStream>) -> Result<Terminated, TerminateError> {
        let result = self.accept(stream).await;
        if let Err(error) = &result {
            count("inbound", error.reason());
        }
        result
    }

    async fn accept(&self, stream: Prefixed<TcpStream>) -> Result<Terminated, TerminateError> {
        let config = self.server().ok_or(TerminateError::NoCertificate)?;
        let stream = match timeout(limits::HANDSHAKE_TIMEOUT, TlsAcceptor::from(config).accept(stream)).await {
            Err(_) => return Err(TerminateError::Timeout),
            Ok(Err(error)) => return Err(refusal(&error).map_or(TerminateError::Io(error), TerminateError::Refused)),
            Ok(Ok(stream)) => stream,
        };
        let session = stream.get_ref().1;
        let peer = peer_id(session).ok_or(TerminateError::Refused(VerifyError::NoCertificate))?;
        let alpn = session.alpn_protocol().and_then(Alpn::from_bytes).ok_or(TerminateError::NoProtocol)?;
        Ok(Terminated { stream, peer, alpn })
    }

    fn server(&self) -> Option<Arc<ServerConfig>> {
        let credentials = self.credentials()?;
        if let Some(config) = &self.made.borrow().server {
            return Some(config.clone());
        }
        let config = server_config(&credentials, &[Alpn::MeshHttp, Alpn::MeshTcp]).ok()?;
        self.made.borrow_mut().server = Some(config.clone());
        Some(config)
    }
}

fn count(direction: &'static str, reason: &'static str) {
    metrics::counter!("remora_tls_refused_total", "direction" => direction, "reason" => reason).increment(1);
}
