//! Certificates that nobody should accept. In: the key of a mesh's CA, or of another. Out: a certificate with one flaw,
//! and the two ends of a handshake that show it to a proxy, which verify nothing themselves.

use crate::local::Mesh;
use anyhow::Context as _;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use remora_model::TrustDomain;
use remora_runtime::tls::{Credentials, Svid, TrustBundle};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, ServerConfig, ServerConnection, SignatureScheme,
    StreamOwned,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, IpAddr, Ipv4Addr, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime},
    version::TLS13,
};
use std::{
    fs,
    io::{ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    sync::{Arc, mpsc},
    thread,
    time::{Duration, SystemTime},
};

const MINUTE: Duration = Duration::from_secs(60);
/// How long a proxy may take to answer or to refuse.
const TIMEOUT: Duration = Duration::from_secs(10);

/// A CA key.
#[derive(Debug)]
pub struct Forge(Issuer<'static, KeyPair>);

/// A certificate with its key.
#[derive(Debug)]
pub struct Forged {
    certificate: CertificateDer<'static>,
    key: KeyPair,
}

impl Forge {
    /// The mesh's own CA: what it signs is refused for its flaw, not for its issuer.
    pub fn of(mesh: &Mesh) -> anyhow::Result<Self> {
        Self::at(&mesh.dir().join("issuer"))
    }

    /// The CA whose certificate and key are in this folder.
    pub fn at(issuer: &Path) -> anyhow::Result<Self> {
        let read = |name: &str| fs::read_to_string(issuer.join(name)).context("the mesh's CA");
        let key = KeyPair::from_pem(&read("tls.key")?)?;
        Ok(Self(Issuer::from_ca_cert_pem(&read("tls.crt")?, key)?))
    }

    /// Another CA, which calls itself as the mesh's does.
    pub fn stranger() -> anyhow::Result<Self> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "remora root cluster.local");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        Ok(Self(Issuer::new(params, KeyPair::generate()?)))
    }

    /// A certificate for `id`, after `change`.
    pub fn sign(&self, id: &str, change: impl FnOnce(&mut CertificateParams)) -> anyhow::Result<Forged> {
        let (mut params, key) = (proper(id)?, KeyPair::generate()?);
        change(&mut params);
        Ok(Forged { certificate: params.signed_by(&key, &self.0)?.der().clone(), key })
    }
}

impl Forged {
    /// As what a component of the mesh shows, where the anchors are this PEM file.
    pub fn credentials(self, anchors: &Path) -> anyhow::Result<Credentials> {
        let bundle = TrustBundle::from_pem(TrustDomain::new("cluster.local")?, &fs::read(anchors)?)?;
        let svid = Svid::new([self.certificate.to_vec()], self.key.serialize_der())?;
        Ok(Credentials { svid, bundle, generation: 1 })
    }
}

/// What an SVID for `id` has to be.
fn proper(id: &str) -> anyhow::Result<CertificateParams> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![SanType::URI(id.try_into()?)];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.not_before = (SystemTime::now() - MINUTE).into();
    params.not_after = (SystemTime::now() + 10 * MINUTE).into();
    Ok(params)
}

/// What can be wrong with a certificate.
#[derive(Debug, Clone, Copy)]
pub struct Flaw {
    /// In words.
    pub name: &'static str,
    /// The reason that a proxy must give.
    pub reason: &'static str,
    forge: fn(&Forge, &str) -> anyhow::Result<Forged>,
}

impl Flaw {
    /// One that is not among [`FLAWS`].
    pub const fn other(
        name: &'static str,
        reason: &'static str,
        forge: fn(&Forge, &str) -> anyhow::Result<Forged>,
    ) -> Self {
        Self { name, reason, forge }
    }

    /// A certificate that claims to be `id`, is signed by `ca` as far as the flaw leaves that open, and has the flaw.
    pub fn certificate(&self, ca: &Forge, id: &str) -> anyhow::Result<Forged> {
        (self.forge)(ca, id)
    }
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().expect("ASCII"))
}

fn dns(text: &str) -> SanType {
    SanType::DnsName(text.try_into().expect("ASCII"))
}

/// Every flaw.
pub const FLAWS: [Flaw; 11] = [
    Flaw {
        name: "another trust domain",
        reason: "trust_domain",
        forge: |ca, id| ca.sign(&id.replace("cluster.local", "other.example"), |_| ()),
    },
    Flaw {
        name: "expired",
        reason: "expired",
        forge: |ca, id| ca.sign(id, |leaf| leaf.not_after = (SystemTime::now() - MINUTE / 2).into()),
    },
    Flaw {
        name: "not valid yet",
        reason: "not_yet_valid",
        forge: |ca, id| ca.sign(id, |leaf| leaf.not_before = (SystemTime::now() + 5 * MINUTE).into()),
    },
    Flaw {
        name: "two URI names",
        reason: "multiple_uri_sans",
        forge: |ca, id| ca.sign(id, |leaf| leaf.subject_alt_names.push(uri("spiffe://cluster.local/ns/test/sa/b"))),
    },
    Flaw {
        name: "no name at all",
        reason: "no_uri_san",
        forge: |ca, id| ca.sign(id, |leaf| leaf.subject_alt_names.clear()),
    },
    Flaw {
        name: "a DNS name only",
        reason: "no_uri_san",
        forge: |ca, id| ca.sign(id, |leaf| leaf.subject_alt_names = vec![dns("api.test.svc.cluster.local")]),
    },
    Flaw {
        name: "a CA certificate as leaf",
        reason: "ca_as_leaf",
        forge: |ca, id| ca.sign(id, |leaf| leaf.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)),
    },
    Flaw {
        name: "wrong extended key usage",
        reason: "key_usage",
        forge: |ca, id| ca.sign(id, |leaf| leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning]),
    },
    Flaw {
        name: "an https name",
        reason: "invalid_id",
        forge: |ca, id| ca.sign(id, |leaf| leaf.subject_alt_names = vec![uri("https://cluster.local/ns/test/sa/a")]),
    },
    Flaw {
        name: "self-signed",
        reason: "self_signed",
        forge: |_, id| {
            let key = KeyPair::generate()?;
            Ok(Forged { certificate: proper(id)?.self_signed(&key)?.der().clone(), key })
        },
    },
    Flaw {
        name: "another anchor of the same name",
        reason: "unknown_issuer",
        forge: |_, id| Forge::stranger()?.sign(id, |_| ()),
    },
];

/// A connection to a proxy's inbound listener.
pub type Connection = StreamOwned<ClientConnection, TcpStream>;

/// Dials a proxy's inbound listener and shows it `certificate`, or none. Our side of a TLS 1.3 handshake is done before
/// the other has judged us: its verdict comes with the first read.
pub fn dial(to: SocketAddr, certificate: Option<Forged>, alpn: &[&str]) -> anyhow::Result<Connection> {
    let config = ClientConfig::builder_with_provider(provider()).with_protocol_versions(&[&TLS13])?;
    let config = config.dangerous().with_custom_certificate_verifier(Arc::new(Gullible));
    let mut config = match certificate {
        Some(Forged { certificate, key }) => config.with_client_auth_cert(vec![certificate], pkcs8(&key))?,
        None => config.with_no_client_auth(),
    };
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    let (session, tcp) = (ClientConnection::new(Arc::new(config), nobody())?, TcpStream::connect(to)?);
    tcp.set_nodelay(true)?;
    tcp.set_read_timeout(Some(TIMEOUT))?;
    let mut connection = StreamOwned::new(session, tcp);
    connection.conn.complete_io(&mut connection.sock)?;
    Ok(connection)
}

/// What somebody says first who offers these protocols: a whole ClientHello.
pub fn hello(alpn: &[&str]) -> anyhow::Result<Vec<u8>> {
    first_words(nobody(), alpn)
}

/// What somebody says first who asks for a server of this name.
pub fn asking_for(name: &str) -> anyhow::Result<Vec<u8>> {
    first_words(ServerName::try_from(name.to_owned())?, &[])
}

fn first_words(name: ServerName<'static>, alpn: &[&str]) -> anyhow::Result<Vec<u8>> {
    let config = ClientConfig::builder_with_provider(provider()).with_protocol_versions(&[&TLS13])?;
    let mut config = config.dangerous().with_custom_certificate_verifier(Arc::new(Gullible)).with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    let (mut session, mut hello) = (ClientConnection::new(Arc::new(config), name)?, Vec::new());
    session.write_tls(&mut hello)?;
    Ok(hello)
}

/// Dials a proxy, and says something. Fails as the proxy refuses.
pub fn knock(to: SocketAddr, certificate: Option<Forged>, say: &[u8]) -> anyhow::Result<()> {
    let mut connection = dial(to, certificate, &["remora/h2"])?;
    connection.write_all(say)?;
    match connection.read(&mut [0]) {
        Ok(_) => Ok(()),
        // Who is let in and then talks nonsense is closed without a word.
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(()),
        Err(error) => Err(error).context("after the handshake"),
    }
}

/// What a peer says first where nothing redirects it: which port of the pod it wants (PROXY protocol v2).
pub fn wanting(port: u16) -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\0\0\0\0\x7f\0\0\x01\0\0".to_vec();
    header.extend_from_slice(&port.to_be_bytes());
    header
}

/// The certificates that whoever listens there shows, leaf first. Nothing is shown to it, which a proxy refuses.
pub fn presented(by: SocketAddr) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let connection = dial(by, None, &["remora/h2", "h2"])?;
    let chain = connection.conn.peer_certificates().context("it showed no certificate")?;
    Ok(chain.iter().map(|certificate| certificate.clone().into_owned()).collect())
}

/// A name that is never sent.
fn nobody() -> ServerName<'static> {
    ServerName::IpAddress(IpAddr::V4(Ipv4Addr::from([0, 0, 0, 0])))
}

/// Plays a peer's proxy on `at`: shows `certificate` to everybody. Tells of each connection whether bytes came over it,
/// or why its handshake failed.
pub fn pose(
    at: impl Into<std::net::IpAddr>,
    certificate: Forged,
) -> anyhow::Result<(SocketAddr, mpsc::Receiver<Result<usize, String>>)> {
    let Forged { certificate, key } = certificate;
    let config = ServerConfig::builder_with_provider(provider()).with_protocol_versions(&[&TLS13])?;
    let mut config = config.with_no_client_auth().with_single_cert(vec![certificate], pkcs8(&key))?;
    config.alpn_protocols = vec![b"remora/h2".to_vec(), b"remora/tcp".to_vec()];
    let (config, listener) = (Arc::new(config), TcpListener::bind((at.into(), 0))?);
    let (address, (tell, told)) = (listener.local_addr()?, mpsc::channel());
    thread::spawn(move || {
        while let Ok((tcp, _)) = listener.accept() {
            let came = serve(tcp, config.clone());
            if tell.send(came.map_err(|error| format!("{error:#}"))).is_err() {
                return;
            }
        }
    });
    Ok((address, told))
}

fn serve(mut tcp: TcpStream, config: Arc<ServerConfig>) -> anyhow::Result<usize> {
    tcp.set_read_timeout(Some(TIMEOUT))?;
    let mut session = ServerConnection::new(config)?;
    session.complete_io(&mut tcp)?;
    Ok(rustls::Stream::new(&mut session, &mut tcp).read(&mut [0; 1024])?)
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

fn pkcs8(key: &KeyPair) -> PrivateKeyDer<'static> {
    PrivatePkcs8KeyDer::from(key.serialize_der()).into()
}

/// Believes everything.
#[derive(Debug)]
struct Gullible;

impl ServerCertVerifier for Gullible {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}
