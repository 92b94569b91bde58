//! Discovery's server over mutual TLS, and proxies that speak the protocol by hand.

use futures_util::stream::StreamExt as _;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType};
use remora_api::{
    sync::{Name, Resource, Update, request},
    v1::{Held, Hello, SyncRequest, SyncResponse, discovery_client::DiscoveryClient},
};
use remora_discovery::{
    index::{Change, Mesh},
    objects::Object,
    serve::{Hub, Service},
    source::parse::parse,
};
use remora_model::{Backend, SpiffeId, TrustDomain};
use remora_runtime::{
    drain, grpc,
    tls::{self, Alpn, Credentials, Svid, TrustBundle},
};
use std::{
    fmt::Write as _,
    net::SocketAddr,
    sync::Mutex,
    time::{Duration, SystemTime},
};
use tokio::{net::TcpListener, sync::mpsc, task::JoinHandle};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming, transport::Server};

/// Pods that call.
pub(crate) const WEB_PODS: usize = 100;

/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) fn target(text: &str) -> Name {
    Name::Outbound(text.parse().unwrap())
}

/// A port of the one Service.
pub(crate) fn api(port: u16) -> Name {
    target(&format!("api:{port}"))
}

struct Root {
    params: CertificateParams,
    key: KeyPair,
    bundle: TrustBundle,
}

impl Root {
    fn new(trust_domain: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let anchor = params.self_signed(&key).unwrap().der().to_vec();
        let bundle = TrustBundle::new(TrustDomain::new(trust_domain).unwrap(), [anchor]).unwrap();
        Self { params, key, bundle }
    }

    fn credentials(&self, path: &str) -> Credentials {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        let id = format!("spiffe://{}/{path}", self.bundle.trust_domain());
        params.subject_alt_names = vec![SanType::URI(id.as_str().try_into().unwrap())];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.not_before = (SystemTime::now() - Duration::from_secs(60)).into();
        params.not_after = (SystemTime::now() + Duration::from_secs(3600)).into();
        let leaf = params.signed_by(&key, &Issuer::from_params(&self.params, &self.key)).unwrap();
        let svid = Svid::new([leaf.der().to_vec()], key.serialize_der()).unwrap();
        Credentials { svid, bundle: self.bundle.clone(), generation: 1 }
    }
}

/// A Service with `ports`, and `pods` behind it; port `odd`, if it is one, says what it speaks.
fn world(pods: u8, ports: u16, odd: u16) -> Vec<Object> {
    let ports: Vec<String> = (1..=ports)
        .map(|port| {
            format!("{{ name: p{port}, port: {port}{} }}", if port == odd { ", appProtocol: http" } else { "" })
        })
        .collect();
    let mut text = format!(
        "apiVersion: v1
kind: Service
metadata: {{ name: api, namespace: shop }}
spec: {{ clusterIP: 10.0.0.1, selector: {{ app: api }}, ports: [{}] }}
",
        ports.join(", ")
    );
    for pod in 1..=pods {
        let _ = write!(
            text,
            "---
apiVersion: v1
kind: Pod
metadata: {{ name: api-{pod}, namespace: shop, labels: {{ app: api }} }}
status: {{ podIP: 10.1.0.{pod} }}
"
        );
    }
    for pod in 1..=WEB_PODS {
        let _ = write!(
            text,
            "---
apiVersion: v1
kind: Pod
metadata: {{ name: web-{pod}, namespace: shop }}
spec: {{ serviceAccountName: web }}
"
        );
    }
    parse(&text, "world").whole().unwrap()
}

/// A server and what it serves.
pub(crate) struct Discovery {
    root: Root,
    address: SocketAddr,
    hub: Hub,
    known: Mutex<Vec<Object>>,
    drain: drain::Signal,
    server: JoinHandle<Result<(), tonic::transport::Error>>,
}

impl Discovery {
    pub(crate) async fn start(pods: u8, ports: u16) -> Self {
        let discovery = Self::unread().await;
        discovery.publish(pods, ports);
        discovery
    }

    /// Without a snapshot.
    pub(crate) async fn unread() -> Self {
        let root = Root::new("cluster.local");
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let config = tls::server_config(&root.credentials("ns/remora/sa/remora-discovery"), &[Alpn::Grpc]).unwrap();
        let incoming = grpc::tls_incoming(listener, move || config.clone());
        let hub = Hub::new(Mesh::default());
        let (drain, draining) = drain::channel();
        let service = Service::new(hub.clone(), draining.clone()).into_server();
        let server = tokio::spawn(async move {
            let server = Server::builder().add_service(service);
            server.serve_with_incoming_shutdown(incoming, draining.signaled()).await
        });
        Self { root, address, hub, known: Mutex::default(), drain, server }
    }

    pub(crate) fn publish(&self, pods: u8, ports: u16) {
        self.turn_into(world(pods, ports, 0));
    }

    /// Of three ports with five pods, one changes.
    pub(crate) fn change_one_port(&self, port: u16) {
        self.turn_into(world(5, 3, port));
    }

    fn turn_into(&self, objects: Vec<Object>) {
        let before = std::mem::replace(&mut *self.known.lock().unwrap(), objects.clone());
        let gone = before.iter().filter(|object| !objects.contains(object)).cloned().map(Change::Gone);
        let put = objects.iter().filter(|object| !before.contains(object)).cloned().map(Change::Put);
        self.hub.apply(gone.chain(put).collect::<Vec<_>>());
    }

    /// Begins the drain and waits until the server has ended by itself.
    pub(crate) async fn drain(self) {
        self.drain.start();
        tokio::time::timeout(PATIENCE, self.server).await.expect("the server ends").unwrap().unwrap();
    }

    async fn client(&self, credentials: &Credentials) -> DiscoveryClient<tonic::transport::Channel> {
        let expected = SpiffeId::parse("spiffe://cluster.local/ns/remora/sa/remora-discovery").unwrap();
        let config = tls::client_config(credentials, &expected, &[Alpn::Grpc]).unwrap();
        let config = move || Ok::<_, std::convert::Infallible>(config.clone());
        DiscoveryClient::new(grpc::mtls_channel(&self.address.to_string(), config).unwrap())
    }

    /// Whether a workload of another root of the same name is turned away in the handshake.
    pub(crate) async fn refuses_strangers(&self) -> bool {
        let mut stranger = Root::new("cluster.local").credentials("ns/shop/sa/web");
        stranger.bundle = self.root.bundle.clone();
        let (_send, receive) = mpsc::channel(1);
        self.client(&stranger).await.sync(ReceiverStream::new(receive)).await.is_err()
    }
}

/// A proxy of a pod `shop/web-N`.
pub(crate) struct Proxy {
    send: mpsc::Sender<SyncRequest>,
    updates: Streaming<SyncResponse>,
}

impl Proxy {
    /// One with the certificate of this account, that says it is `web`.
    pub(crate) async fn connect(discovery: &Discovery, account: &str, held: Vec<Held>) -> Self {
        Self::of_pod(discovery, account, "web-1", held).await
    }

    /// The same for a pod of this name.
    pub(crate) async fn of_pod(discovery: &Discovery, account: &str, pod: &str, held: Vec<Held>) -> Self {
        let proxy = Self::open(discovery, account).await;
        let (namespace, pod, service_account) = ("shop".into(), pod.into(), "web".into());
        proxy.say(request::hello(Hello { namespace, pod, service_account, held, ..Hello::default() })).await;
        proxy
    }

    /// One that never says who it is.
    pub(crate) async fn silent(discovery: &Discovery) -> Self {
        Self::open(discovery, "web").await
    }

    async fn open(discovery: &Discovery, account: &str) -> Self {
        let (send, receive) = mpsc::channel(20_000);
        let credentials = discovery.root.credentials(&format!("ns/shop/sa/{account}"));
        let mut client = discovery.client(&credentials).await;
        let answered = tokio::time::timeout(PATIENCE, client.sync(ReceiverStream::new(receive))).await;
        Self { send, updates: answered.expect("an answer").unwrap().into_inner() }
    }

    pub(crate) async fn say(&self, message: SyncRequest) {
        self.send.send(message).await.unwrap();
    }

    pub(crate) async fn subscribe(&self, name: &Name) {
        self.say(request::subscribe(name)).await;
    }

    async fn message(&mut self) -> Result<SyncResponse, Status> {
        let message = tokio::time::timeout(PATIENCE, self.updates.next()).await.expect("a message");
        message.expect("not the end of the stream")
    }

    /// The next message, but for the cluster's ranges.
    pub(crate) async fn next(&mut self) -> Update {
        loop {
            match self.message().await.unwrap().try_into().unwrap() {
                Update::Networks(_) | Update::Settings { .. } | Update::Revocations { .. } => {}
                update => return update,
            }
        }
    }

    /// The next message, which must be a whole backend.
    pub(crate) async fn backend(&mut self) -> (Backend, u64) {
        match self.next().await {
            Update::Whole { resource: Resource::Backend(backend), version, .. } => (backend, version),
            other => panic!("no backend: {other:?}"),
        }
    }

    /// Why the stream ends.
    pub(crate) async fn refusal(&mut self) -> Code {
        loop {
            if let Err(status) = self.message().await {
                return status.code();
            }
        }
    }
}
