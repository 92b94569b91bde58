//! Mesh TLS on the data path: originate towards a peer, terminate from one. What a certificate must be to count is
//! decided in `remora_runtime::tls`; this keeps the configurations made from it, one per generation of credentials.
//!
//! No connection outlives the certificates that it was made with, ours and the peer's: [`Dated`] ends it, whichever part uses it
//! by then. It ends those that this proxy made, too, once no trust anchor vouches for the peer or the peer is revoked; of those that it accepted `revoke` does, which knows
//! whom they were let in as. HTTP is not cut off by a certificate's end: it moves to a new connection at each renewal and before the end (GOAWAY), and
//! what is under way has the last quarter to finish. Byte connections, which cannot be moved, are closed then, and counted.

mod trust;
pub(crate) mod turns;

use crate::{
    account::{self, Account, Holder},
    connect::ConnectError,
    io::{Abort, Ahead, Prefixed, TcpStream},
    limits,
    sys::Asked,
};
use remora_model::{Revocations, SpiffeId};
pub(crate) use remora_runtime::{dated::is_over, tls::Alpn};
use remora_runtime::{
    dated::{Dated, Span},
    tls::{
        ClientConfig, Credentials, Failure, Peer, ServerConfig, VerifyError, client_config_refusing, peer,
        server_config_refusing, server_name,
    },
};
use rustls::pki_types::CertificateDer;
use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    fmt, io,
    net::SocketAddr,
    sync::Arc,
    time::SystemTime,
};
use tokio::{
    sync::watch,
    time::{timeout, timeout_at},
};
use tokio_rustls::{TlsAcceptor, TlsConnector};
pub(crate) use trust::{REVOKED, Trust, UNTRUSTED, cause as trust_cause, is_untrusted};
use turns::Gate;

/// The workload's certificate and bundle as they change.
pub(crate) type Source = watch::Receiver<Option<Arc<Credentials>>>;
/// Who is trusted no more, as that changes.
pub(crate) type Revoked = watch::Receiver<Arc<Revocations>>;
/// A connection to a peer.
pub(crate) type ClientStream = Dated<tokio_rustls::client::TlsStream<Ahead<TcpStream>>>;
/// A connection from a peer.
pub(crate) type ServerStream = Dated<tokio_rustls::server::TlsStream<Ahead<Prefixed<TcpStream>>>>;

/// The values of the label `reason` of `remora_tls_refused_total` besides [`VerifyError::REASONS`] and
/// [`Failure::REASONS`], and what they say.
pub(crate) const REASONS: [(&str, &str); 3] = [
    ("no_certificate_of_ours", "came while this proxy had no certificate, or one that had ended"),
    ("timeout", "did not finish its handshake in time"),
    ("overloaded", "holds its share of this proxy's memory already, or of the handshakes under way"),
];

/// TLS says when it ends; what ends without a word is broken to its peer.
impl Abort for ClientStream {
    fn abort(&self) {}

    fn cut(&self) {
        self.get_ref().get_ref().0.abort();
    }

    fn holder(&self) -> Option<&Holder> {
        self.get_ref().get_ref().0.holder()
    }

    fn asked(&self) -> Option<Asked> {
        self.get_ref().get_ref().0.asked()
    }

    fn queue_at_most(&mut self, bytes: usize) {
        self.get_mut().get_mut().1.set_buffer_limit(Some(bytes + limits::TLS_OVERHEAD_BYTES));
    }
}

impl Abort for ServerStream {
    fn abort(&self) {}

    fn cut(&self) {
        self.get_ref().get_ref().0.abort();
    }

    fn holder(&self) -> Option<&Holder> {
        self.get_ref().get_ref().0.holder()
    }

    fn asked(&self) -> Option<Asked> {
        self.get_ref().get_ref().0.asked()
    }

    fn queue_at_most(&mut self, bytes: usize) {
        self.get_mut().get_mut().1.set_buffer_limit(Some(bytes + limits::TLS_OVERHEAD_BYTES));
    }
}

/// Peers whose configuration a worker keeps.
const CONFIGS_MAX: usize = 1024;

/// A peer that came in.
#[derive(Debug)]
pub(crate) struct Terminated {
    pub stream: ServerStream,
    pub peer: SpiffeId,
    /// Whom its certificate was judged by.
    pub trust: Trust,
    pub alpn: Alpn,
}

/// Why a handshake from a peer failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TerminateError {
    #[error("this proxy has no certificate that is valid now; see /ready")]
    NoCertificate,
    #[error("the peer did not finish its handshake in {:?}", limits::HANDSHAKE_TIMEOUT)]
    Timeout,
    #[error("the peer's certificate was refused: {0}")]
    Refused(VerifyError),
    #[error("handshake failed: {0}")]
    Failed(#[source] io::Error),
    #[error("the peer agreed on no mesh protocol")]
    NoProtocol,
    #[error("the peer's connections hold as much of this proxy's memory as they may")]
    Overloaded,
}

impl TerminateError {
    /// A short stable word for the metric label and log.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::NoCertificate => REASONS[0].0,
            Self::Timeout => REASONS[1].0,
            Self::Refused(error) => error.reason(),
            Self::Failed(error) => Failure::of(error).reason(),
            Self::NoProtocol => Failure::NoProtocol.reason(),
            Self::Overloaded => REASONS[2].0,
        }
    }

    fn of(error: io::Error) -> Self {
        match Failure::of(&error) {
            Failure::Refused(refusal) => Self::Refused(refusal),
            Failure::NoProtocol => Self::NoProtocol,
            Failure::ByPeer | Failure::Other => Self::Failed(error),
        }
    }
}

/// One worker's view of the certificate, with the configurations made from it.
pub(crate) struct Store {
    seen: RefCell<Seen>,
    generation: Cell<u64>,
    revoked: RefCell<Revoked>,
    account: Account,
    /// To which what this proxy opens is charged.
    pod: Holder,
    gate: Gate,
}

/// The latest certificate that this worker has looked at.
struct Seen {
    source: Source,
    credentials: Option<Arc<Credentials>>,
    server: Option<Arc<ServerConfig>>,
    clients: HashMap<(SpiffeId, Alpn), Arc<ClientConfig>>,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("generation", &self.generation).finish_non_exhaustive()
    }
}

impl Store {
    /// Follows `source`. What is dialled is charged to the pod's share of `account`.
    pub(crate) fn new(source: Source, account: &Account) -> Self {
        let seen = Seen { source, credentials: None, server: None, clients: HashMap::new() };
        let store = Self {
            seen: RefCell::new(seen),
            generation: Cell::new(0),
            revoked: RefCell::new(watch::channel(Arc::default()).1),
            account: account.clone(),
            pod: account.holder(account::Peer::Pod),
            gate: Gate::default(),
        };
        store.take();
        store
    }

    /// Refuses whom `revoked` names, and ends what they have open.
    pub(crate) fn refusing(self, revoked: Revoked) -> Self {
        Self { revoked: RefCell::new(revoked), ..self }
    }

    /// Who is trusted no more, for a handshake. What was made for others than those of now is dropped.
    fn revoked(&self) -> Arc<Revocations> {
        let mut revoked = self.revoked.borrow_mut();
        if revoked.has_changed().unwrap_or(false) {
            let mut seen = self.seen.borrow_mut();
            seen.server = None;
            seen.clients.clear();
        }
        revoked.borrow_and_update().clone()
    }

    /// Counts the certificates and bundles that there were; 0 before the first. Asked for each request: where nothing
    /// changed it is one atomic load.
    pub(crate) fn generation(&self) -> u64 {
        // A source that is closed, because the process ends, changes no more.
        if self.seen.borrow().source.has_changed().unwrap_or(false) {
            self.take();
        }
        self.generation.get()
    }

    /// Looks at the source, and drops what was made from the certificate before.
    fn take(&self) {
        let mut seen = self.seen.borrow_mut();
        let credentials = seen.source.borrow_and_update().clone();
        self.generation.set(credentials.as_ref().map_or(0, |credentials| credentials.generation));
        seen.credentials = credentials;
        seen.server = None;
        seen.clients.clear();
    }

    /// What to show to peers, unless it has ended: then they would all refuse it.
    fn credentials(&self) -> Option<Arc<Credentials>> {
        self.generation();
        let credentials = self.seen.borrow().credentials.clone();
        credentials.filter(|credentials| !credentials.svid.has_ended(SystemTime::now()))
    }

    /// A handshake with the peer that must be `expected`. Cancel safe: the connection is dropped.
    pub(crate) async fn originate(
        &self,
        stream: TcpStream,
        address: SocketAddr,
        expected: &SpiffeId,
        alpn: Alpn,
    ) -> Result<ClientStream, ConnectError> {
        let credentials = self.credentials().ok_or(ConnectError::NoCertificate)?;
        let config = self.client(&credentials, expected, alpn)?;
        let Some(charge) = self.pod.charge(limits::MESH_CONNECTION_BYTES) else {
            let source = io::Error::new(io::ErrorKind::OutOfMemory, "the account of this proxy's memory is full");
            return Err(ConnectError::Exhausted { address, source });
        };
        let stream = Ahead::new(stream, Some(self.pod.clone()), Some(charge));
        let handshake = self.gate.outbound(TlsConnector::from(config).connect(server_name(), stream));
        let (reason, error) = match timeout(limits::HANDSHAKE_TIMEOUT, handshake).await {
            Ok(Ok(mut stream)) => match stream.get_ref().1.alpn_protocol().and_then(Alpn::from_bytes) {
                Some(agreed) if offered(alpn).contains(&agreed) => {
                    stream.get_mut().1.set_buffer_limit(Some(buffer_limit(alpn)));
                    let session = stream.get_ref().1;
                    let (peer, trust) = (peer(session), self.trust(session.peer_certificates(), &credentials));
                    let dated = Dated::new(stream, span(&credentials, peer.as_ref(), alpn), outlived);
                    return Ok(dated.until(trust.revoked(address, expected.clone())));
                }
                _ => {
                    let source = io::Error::other("the peer speaks no mesh protocol");
                    (Failure::NoProtocol.reason(), ConnectError::Tls { address, source })
                }
            },
            Ok(Err(source)) => match Failure::of(&source) {
                Failure::Refused(refusal @ VerifyError::IdentityMismatch { .. }) => {
                    (refusal.reason(), ConnectError::Identity { address, expected: expected.clone(), source })
                }
                Failure::Refused(refusal @ VerifyError::Revoked(_)) => {
                    (refusal.reason(), ConnectError::Revoked { address, expected: expected.clone(), source })
                }
                failure => (failure.reason(), ConnectError::Tls { address, source }),
            },
            Err(_) => (REASONS[1].0, ConnectError::HandshakeTimeout { address }),
        };
        count("outbound", reason);
        remora_runtime::limited!(warn by reason, peer = %address, %expected, reason, %error, cause = error.cause(), "mesh TLS to a peer failed");
        Err(error)
    }

    fn client(
        &self,
        credentials: &Credentials,
        expected: &SpiffeId,
        alpn: Alpn,
    ) -> Result<Arc<ClientConfig>, ConnectError> {
        let revoked = self.revoked();
        let key = (expected.clone(), alpn);
        if let Some(config) = self.seen.borrow().clients.get(&key) {
            return Ok(config.clone());
        }
        let config = client_config_refusing(credentials, expected, offered(alpn), &revoked);
        let config = config.map_err(|_| ConnectError::NoCertificate)?;
        let clients = &mut self.seen.borrow_mut().clients;
        if clients.len() >= CONFIGS_MAX {
            clients.clear();
        }
        clients.insert(key, config.clone());
        Ok(config)
    }

    /// A handshake from a peer, whose ClientHello is in the stream's prefix. Cancel safe: the connection is dropped.
    pub(crate) async fn terminate(&self, stream: Prefixed<TcpStream>) -> Result<Terminated, TerminateError> {
        let result = self.accept(stream).await;
        if let Err(error) = &result {
            count("inbound", error.reason());
        }
        result
    }

    async fn accept(&self, stream: Prefixed<TcpStream>) -> Result<Terminated, TerminateError> {
        let holder = stream.holder().cloned();
        let caller = holder.as_ref().map_or(account::Peer::Pod, Holder::peer);
        // Behind others of its own, which hold no more than their share of the worker.
        let deadline = tokio::time::Instant::now() + limits::HANDSHAKE_TIMEOUT;
        let place = timeout_at(deadline, self.gate.enter(caller)).await;
        let _place = place.ok().flatten().ok_or(TerminateError::Overloaded)?;
        let credentials = self.credentials().ok_or(TerminateError::NoCertificate)?;
        let config = self.server(&credentials).ok_or(TerminateError::NoCertificate)?;
        let charge = match &holder {
            Some(holder) => Some(holder.charge(limits::MESH_CONNECTION_BYTES).ok_or(TerminateError::Overloaded)?),
            None => None,
        };
        let stream = Ahead::new(stream.unpaced(), holder, charge);
        let handshake = self.gate.inbound(TlsAcceptor::from(config).accept(stream));
        let mut stream = match timeout_at(deadline, handshake).await {
            Err(_) => return Err(TerminateError::Timeout),
            Ok(Err(error)) => return Err(TerminateError::of(error)),
            Ok(Ok(stream)) => stream,
        };
        let session = stream.get_mut().1;
        let peer = peer(session).ok_or(TerminateError::Refused(VerifyError::NoCertificate))?;
        let alpn = session.alpn_protocol().and_then(Alpn::from_bytes).ok_or(TerminateError::NoProtocol)?;
        session.set_buffer_limit(Some(buffer_limit(alpn)));
        let trust = self.trust(session.peer_certificates(), &credentials);
        stream.get_mut().0.charge_to(self.account.holder(caller.known_as(&peer.id)));
        let stream = Dated::new(stream, span(&credentials, Some(&peer), alpn), outlived);
        Ok(Terminated { stream, peer: peer.id, trust, alpn })
    }

    /// Of a peer that was judged by `credentials`.
    fn trust(&self, chain: Option<&[CertificateDer<'static>]>, credentials: &Credentials) -> Trust {
        let chain = chain.unwrap_or_default().iter().map(|one| one.clone().into_owned()).collect();
        let revoked = self.revoked.borrow().clone();
        Trust::new(chain, credentials.bundle.clone(), self.seen.borrow().source.clone()).unless(revoked)
    }

    fn server(&self, credentials: &Credentials) -> Option<Arc<ServerConfig>> {
        let revoked = self.revoked();
        if let Some(config) = &self.seen.borrow().server {
            return Some(config.clone());
        }
        let alpn = [Alpn::MeshHttp, Alpn::MeshHttp1, Alpn::MeshTcp];
        let config = server_config_refusing(credentials, &alpn, &revoked).ok()?;
        self.seen.borrow_mut().server = Some(config.clone());
        Some(config)
    }
}

/// What a peer is offered for `alpn`. Of one that does not know HTTP/1 by name the first bytes tell.
const fn offered(alpn: Alpn) -> &'static [Alpn] {
    match alpn {
        Alpn::MeshHttp => &[Alpn::MeshHttp],
        Alpn::MeshHttp1 => &[Alpn::MeshHttp1, Alpn::MeshTcp],
        Alpn::MeshTcp => &[Alpn::MeshTcp],
        Alpn::Grpc => &[Alpn::Grpc],
    }
}

/// What may wait for the socket in the form of ciphertext: the library's own bound; or the least, where a relay asks for more
/// as its share allows ([`Abort::queue_at_most`]).
fn buffer_limit(alpn: Alpn) -> usize {
    if matches!(alpn, Alpn::MeshTcp | Alpn::MeshHttp1) {
        limits::RELAY_BYTES_MIN + limits::TLS_OVERHEAD_BYTES
    } else {
        64 * 1024
    }
}

/// How long a connection made now may be used.
fn span(credentials: &Credentials, peer: Option<&Peer>, alpn: Alpn) -> Option<Span> {
    let ends = peer.map(|peer| peer.not_after).into_iter().chain([credentials.svid.not_after()]);
    let span = Span::new(SystemTime::now(), ends, fastrand::f64())?;
    Some(if alpn == Alpn::MeshHttp { span } else { span.ending_early(fastrand::f64()) })
}

/// A connection was still in use when its certificates expired.
fn outlived() {
    metrics::counter!("remora_connections_outlived_total").increment(1);
    remora_runtime::limited!(info, "a connection ended with the certificates that it was made with");
}

fn count(direction: &'static str, reason: &'static str) {
    metrics::counter!("remora_tls_refused_total", "direction" => direction, "reason" => reason).increment(1);
}

#[cfg(test)]
mod tests;
