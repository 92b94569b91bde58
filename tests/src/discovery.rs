//! A discovery of the test's own. In: what it knows, and how it behaves. Out: a real server of `Discovery.Sync` over mesh TLS,
//! for real proxies. It sends what no discovery of this build would: nothing, late, or what its readers refuse.

use crate::forge::Forge;
use anyhow::Context as _;
use futures_util::{Stream, stream};
use remora_api::{
    sync::{Name, Resource},
    v1::{
        self, SyncRequest, SyncResponse,
        discovery_server::{Discovery as Service, DiscoveryServer},
        sync_request,
        sync_response::Kind,
    },
};
use remora_model::{
    Backend, BackendId, BackendRef, BackendRefState, BackendSettings, Endpoint, Inbound, InboundDefault, MtlsMode,
    Outbound, Parent, Protocol, Rule, Target, Timeouts, TrustDomain,
};
use remora_runtime::{
    grpc,
    tls::{Alpn, server_config},
};
use std::{
    collections::HashMap,
    net::{SocketAddr, TcpListener},
    path::Path,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};
use tokio::sync::{mpsc, watch};
use tonic::{Request, Response, Status, Streaming};

/// How it behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mood {
    /// It answers so long after it was asked.
    Answers(Duration),
    /// It takes what it is told and says nothing.
    Silent,
    /// It ends every stream, and takes none.
    Away,
    /// The same, as one who finds that too much is asked for.
    Exhausted,
    /// It is gone as after `kill -9`: its connections break, and nobody listens until it has another mood.
    Killed,
}

/// What it says of a name: several messages where backends come first, none where it has no answer.
type Says = Arc<dyn Fn(&Name) -> Vec<Kind> + Send + Sync>;

/// A running discovery; it lives as long as the test program.
#[derive(Clone)]
pub struct Discovery {
    /// Where it listens.
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    /// Counts what was changed.
    changes: watch::Sender<u64>,
}

struct State {
    mood: Mood,
    says: Says,
    networks: Option<Vec<String>>,
    seen: Seen,
}

/// What proxies told it.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// How many resources each Hello offered.
    pub offered: Vec<usize>,
    /// How often each name was asked for.
    pub asked: HashMap<Name, usize>,
}

impl std::fmt::Debug for Discovery {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Discovery").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Discovery {
    /// Serves on `listener` with a certificate of the CA in the folder `issuer`. Knows nothing yet, and answers at once. After
    /// [`Mood::Killed`] it listens again in the network namespace of the thread that calls this.
    pub fn start(listener: TcpListener, issuer: &Path) -> anyhow::Result<Self> {
        let forged = Forge::at(issuer)?.sign("spiffe://cluster.local/ns/remora/sa/remora-discovery", |_| ())?;
        let tls = server_config(&forged.credentials(&issuer.join("ca.crt"))?, &[Alpn::Grpc])?;
        let address = listener.local_addr()?;
        let state = State {
            mood: Mood::Answers(Duration::ZERO),
            says: Arc::new(|_| Vec::new()),
            networks: None,
            seen: Seen::default(),
        };
        let shared = Arc::new(Shared { state: Mutex::new(state), changes: watch::Sender::new(0) });
        let lives = shared.clone();
        thread::spawn(move || -> anyhow::Result<()> {
            let mut listener = listener;
            loop {
                let runtime =
                    tokio::runtime::Builder::new_current_thread().enable_all().build().context("a runtime")?;
                runtime.block_on(live(&lives, listener, tls.clone()))?;
                // With the runtime its connections are gone.
                drop(runtime);
                let runtime =
                    tokio::runtime::Builder::new_current_thread().enable_all().build().context("a runtime")?;
                runtime.block_on(lives.mood_is(|mood| mood != Mood::Killed));
                listener = TcpListener::bind(address).context("listening again")?;
            }
        });
        Ok(Self { address, shared })
    }

    /// Changes its mood, for what is asked already too.
    pub fn mood(&self, mood: Mood) {
        self.shared.lock().mood = mood;
        self.shared.changes.send_modify(|count| *count += 1);
    }

    /// Changes what it knows.
    pub fn says(&self, says: impl Fn(&Name) -> Vec<Kind> + Send + Sync + 'static) {
        self.shared.lock().says = Arc::new(says);
        self.shared.changes.send_modify(|count| *count += 1);
    }

    /// Tells all proxies the cluster's ranges.
    pub fn networks(&self, ranges: &[&str]) {
        self.shared.lock().networks = Some(ranges.iter().map(|range| (*range).to_owned()).collect());
        self.shared.changes.send_modify(|count| *count += 1);
    }

    /// What proxies told it so far.
    pub fn seen(&self) -> Seen {
        self.shared.lock().seen.clone()
    }
}

/// Serves until it is killed.
async fn live(shared: &Arc<Shared>, listener: TcpListener, tls: Arc<rustls::ServerConfig>) -> anyhow::Result<()> {
    listener.set_nonblocking(true)?;
    let incoming = grpc::tls_incoming(tokio::net::TcpListener::from_std(listener)?, move || tls.clone());
    let service = DiscoveryServer::new(Server(shared.clone()));
    let served = tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming);
    tokio::select! {
        served = served => served.context("serving"),
        () = shared.mood_is(|mood| mood == Mood::Killed) => Ok(()),
    }
}

impl Shared {
    /// Waits until its mood is such.
    async fn mood_is(&self, such: impl Fn(Mood) -> bool) {
        let mut changes = self.changes.subscribe();
        while !such(self.lock().mood) {
            // The sender is ours.
            let _ = changes.changed().await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn refusal(&self) -> Option<Status> {
        match self.lock().mood {
            Mood::Away => Some(Status::unavailable("away")),
            Mood::Exhausted => Some(Status::resource_exhausted("too much is asked for")),
            Mood::Answers(_) | Mood::Silent | Mood::Killed => None,
        }
    }
}

struct Server(Arc<Shared>);

type Outgoing = mpsc::UnboundedSender<Result<SyncResponse, Status>>;

#[tonic::async_trait]
impl Service for Server {
    type SyncStream = Pin<Box<dyn Stream<Item = Result<SyncResponse, Status>> + Send>>;

    async fn sync(&self, request: Request<Streaming<SyncRequest>>) -> Result<Response<Self::SyncStream>, Status> {
        if let Some(refusal) = self.0.refusal() {
            return Err(refusal);
        }
        let (outgoing, incoming) = mpsc::unbounded_channel();
        tokio::spawn(converse(self.0.clone(), request.into_inner(), outgoing));
        let responses =
            stream::unfold(incoming, |mut incoming| async move { Some((incoming.recv().await?, incoming)) });
        Ok(Response::new(Box::pin(responses)))
    }
}

async fn converse(shared: Arc<Shared>, mut requests: Streaming<SyncRequest>, outgoing: Outgoing) {
    let mut changes = shared.changes.subscribe();
    let mut answering: HashMap<Name, tokio::task::JoinHandle<()>> = HashMap::new();
    let mut ranges = None;
    loop {
        let networks = shared.lock().networks.clone();
        if networks != ranges {
            ranges.clone_from(&networks);
            let cidrs = networks.unwrap_or_default();
            let _ = outgoing.send(Ok(SyncResponse { kind: Some(Kind::Networks(v1::Networks { cidrs })) }));
        }
        let request = tokio::select! {
            request = requests.message() => request,
            _ = changes.changed() => match shared.refusal() {
                Some(refusal) => {
                    let _ = outgoing.send(Err(refusal));
                    break;
                }
                None => continue,
            },
        };
        let Ok(Some(SyncRequest { kind: Some(kind) })) = request else { break };
        let mut ask = |name: Option<v1::ResourceName>| {
            let Some(name) = name.and_then(|name| Name::try_from(name).ok()) else { return };
            if matches!(name, Name::Backend(_)) {
                return;
            }
            *shared.lock().seen.asked.entry(name.clone()).or_default() += 1;
            let task = tokio::spawn(answer(shared.clone(), name.clone(), outgoing.clone()));
            if let Some(before) = answering.insert(name, task) {
                before.abort();
            }
        };
        match kind {
            sync_request::Kind::Hello(hello) => {
                shared.lock().seen.offered.push(hello.held.len());
                hello.held.into_iter().for_each(|held| ask(held.name));
            }
            sync_request::Kind::Subscribe(name) => ask(Some(name)),
            sync_request::Kind::Unsubscribe(name) => {
                let task = Name::try_from(name).ok().and_then(|name| answering.remove(&name));
                task.inspect(|task| task.abort());
            }
            sync_request::Kind::Ack(_) | sync_request::Kind::Nack(_) | sync_request::Kind::Answer(_) => {}
        }
    }
    answering.into_values().for_each(|task| task.abort());
}

/// Answers one subscription, now and whenever what is to be said of it changes.
async fn answer(shared: Arc<Shared>, name: Name, outgoing: Outgoing) {
    let mut changes = shared.changes.subscribe();
    let mut said = Vec::new();
    loop {
        changes.borrow_and_update();
        let (mood, says) = {
            let state = shared.lock();
            (state.mood, state.says.clone())
        };
        if let Mood::Answers(after) = mood {
            tokio::time::sleep(after).await;
            let says = says(&name);
            if says != said && !changes.has_changed().unwrap_or(true) {
                said.clone_from(&says);
                for kind in says {
                    let _ = outgoing.send(Ok(SyncResponse { kind: Some(kind) }));
                }
            }
        }
        if changes.changed().await.is_err() {
            return;
        }
    }
}

/// A version that tells contents apart.
fn version(resource: &Resource) -> u64 {
    use std::hash::{DefaultHasher, Hash as _, Hasher as _};
    let mut hasher = DefaultHasher::new();
    format!("{resource:?}").hash(&mut hasher);
    hasher.finish().max(1)
}

fn whole(resource: Resource) -> Kind {
    let version = version(&resource);
    match &resource {
        Resource::Outbound(it) => Kind::Outbound(v1::OutboundResource { version, outbound: Some(it.into()) }),
        Resource::Backend(it) => Kind::Backend(v1::BackendResource { version, backend: Some(it.into()) }),
        Resource::Inbound(it) => Kind::Inbound(v1::InboundResource { version, inbound: Some(it.into()) }),
        Resource::InboundDefault(it) => {
            Kind::InboundDefault(v1::InboundDefaultResource { version, inbound_default: Some(it.into()) })
        }
    }
}

/// Of a Service of this name: one endpoint, which must be who `identity` says; and in `proxy`, if nothing redirects to it.
pub fn service(target: &Target, name: &str, to: SocketAddr, identity: &str, proxy: Option<SocketAddr>) -> Vec<Kind> {
    let id = BackendId::service("test", name, 80);
    let identity = remora_model::SpiffeId::parse(identity).ok();
    let pod = "test/server".into();
    let endpoints = vec![Endpoint { address: to, identity, proxy, weight: 1, zone: "".into(), pod, node: None }];
    let settings = BackendSettings::default();
    let backend = Backend { id: id.clone(), protocol: Protocol::Detect, settings, endpoints };
    let reference = BackendRef { backend: id.clone(), weight: 1, state: BackendRefState::Valid, filters: Vec::new() };
    let rule = Rule {
        label: "".into(),
        filters: Vec::new(),
        backends: vec![reference],
        timeouts: Timeouts::default(),
        retry: None,
    };
    let any = remora_model::RouteMatch { path: None, method: None, headers: Vec::new(), query: Vec::new(), rule: 0 };
    let bare = Outbound::bare(target.clone(), Parent::Backend(id));
    let outbound = Outbound { matches: vec![any], rules: vec![rule], ..bare };
    vec![whole(Resource::Backend(backend)), whole(Resource::Outbound(outbound))]
}

/// Of a target that is in no Service.
pub fn nothing(target: &Target, parent: Parent) -> Vec<Kind> {
    vec![whole(Resource::Outbound(Outbound::bare(target.clone(), parent)))]
}

/// The same answer with a mistake, which no proxy can read: its Service has no port.
pub fn unreadable(answer: Vec<Kind>) -> Vec<Kind> {
    with(answer, |outbound| outbound.parent.iter_mut().for_each(|parent| parent.port = 0))
}

/// The same answer as a later version might give it: its protocol is one that no proxy of this version knows.
pub fn newer(answer: Vec<Kind>) -> Vec<Kind> {
    with(answer, |outbound| outbound.protocol = 99)
}

fn with(mut answer: Vec<Kind>, change: fn(&mut v1::Outbound)) -> Vec<Kind> {
    for kind in &mut answer {
        if let Kind::Outbound(v1::OutboundResource { outbound: Some(outbound), .. }) = kind {
            change(outbound);
        }
    }
    answer
}

fn inbound(port: u16) -> Inbound {
    Inbound {
        port,
        parent: format!("test/server:{port}").into(),
        protocol: Protocol::Detect,
        mtls: MtlsMode::Permissive,
        rules: Vec::new(),
        default_deny: false,
        dry_run: Default::default(),
        ending: false,
        trust_domain: TrustDomain::new("cluster.local").expect("a trust domain"),
    }
}

/// Of a port: anybody may come in, over mesh TLS or in plaintext.
pub fn port(number: u16) -> Vec<Kind> {
    vec![whole(Resource::Inbound(inbound(number)))]
}

/// Of all ports that are not among `declared`: the same.
pub fn ports(declared: &[u16]) -> Vec<Kind> {
    let default = InboundDefault { inbound: inbound(0), declared: declared.to_vec() };
    vec![whole(Resource::InboundDefault(default))]
}
