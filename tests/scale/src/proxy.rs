//! One proxy's side of `Sync`, as bare as it can be: it asks, acks, and sees marks.

use crate::world::{ACCOUNT, Asked as Who, PORT, Shape};
use anyhow::{Context as _, Result};
use hyper_util::rt::TokioIo;
use remora_api::{
    sync::{Name, RETURN_AFTER_MS, envelope, request},
    v1::{self, Hello, SyncResponse, discovery_client::DiscoveryClient, resource_name, sync_response::Kind},
};
use remora_runtime::{
    grpc::{self, KeepAlive},
    tls::{ClientConfig, server_name},
};
use std::{
    collections::{BTreeMap, HashMap},
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};
use tokio::{
    net::TcpSocket,
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
};
use tokio_rustls::TlsConnector;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{
    Status,
    transport::{Channel, Uri},
};

/// What a proxy waits before it comes again, if discovery does not say when: at least, and at most with each failure twice as long.
const BACKOFF: [Duration; 2] = [Duration::from_millis(50), Duration::from_secs(10)];
/// Streams of one source address: discovery takes 256 connections from each.
const OF_ADDRESS: u32 = 200;

/// What a stream asks for.
#[derive(Debug)]
pub(crate) struct Asked {
    number: u32,
    namespace: String,
    pod: String,
    names: Vec<Name>,
    /// Services among them whose marks are told.
    pub(crate) watched: Vec<String>,
}

impl Asked {
    pub(crate) fn of(shape: Shape, stream: u32) -> Self {
        let (namespace, pod) = shape.pod(stream);
        let targets = shape.targets(stream);
        let watched = [Who::All, Who::Few].into_iter().filter(|who| {
            let name = format!("{}.{}:{PORT}", who.service(), who.namespace());
            targets.contains(&name)
        });
        let watched = watched.map(|who| who.service().to_owned()).collect();
        let mut names: Vec<Name> = targets.iter().filter_map(|t| t.parse().ok()).map(Name::Outbound).collect();
        names.extend([8080, 9090, 9091].map(Name::Inbound));
        names.push(Name::InboundDefault);
        Self { number: stream, namespace, pod, names, watched }
    }
}

/// What happened on a stream.
#[derive(Debug)]
pub(crate) enum News {
    /// It has everything that it asked for, on this connection.
    Settled,
    /// The endpoint's change has come.
    Mark { service: String, mark: u32 },
    /// It ended.
    Lost { settled: bool, why: String },
}

/// Opens the connection of a stream, from an address that it shares with few others.
pub(crate) async fn connect(discovery: SocketAddr, stream: u32, config: Arc<ClientConfig>) -> Result<Channel> {
    let at = stream / OF_ADDRESS;
    let source = Ipv4Addr::new(127, 1, u8::try_from(at / 250)?, u8::try_from(1 + at % 250)?);
    let endpoint = grpc::endpoint(&discovery.to_string(), KeepAlive::SELDOM)?;
    let connector = tower::service_fn(move |_: Uri| {
        let config = Arc::clone(&config);
        async move {
            let socket = TcpSocket::new_v4()?;
            socket.bind((source, 0).into())?;
            let tcp = socket.connect(discovery).await?;
            tcp.set_nodelay(true)?;
            Ok::<_, std::io::Error>(TokioIo::new(TlsConnector::from(config).connect(server_name(), tcp).await?))
        }
    });
    endpoint.connect_with_connector(connector).await.with_context(|| format!("connect stream {stream}"))
}

/// Asks, and tells what comes; again after the stream was lost, when proxies do, and with what it holds as they offer it. Until it had all
/// that it asked for once it is one of few.
pub(crate) async fn run(channel: Channel, asked: Asked, tell: mpsc::UnboundedSender<News>, turns: Arc<Semaphore>) {
    let mut told = Told { turn: turns.acquire_owned().await.ok(), ..Told::default() };
    let mut wait = BACKOFF[0];
    loop {
        let ended = converse(&channel, &asked, &mut told, &tell).await.err();
        let settled = std::mem::take(&mut told.settled);
        let again = ended.as_ref().and_then(|error| error.downcast_ref::<Status>()).and_then(again);
        let why = ended.map_or("it ended".to_owned(), |error| format!("{error:#}"));
        if tell.send(News::Lost { settled, why }).is_err() {
            return;
        }
        wait = if settled { BACKOFF[0] } else { (2 * wait).min(BACKOFF[1]) };
        let by_chance = wait.mul_f64(0.5 + f64::from(asked.number % 100) / 200.0);
        tokio::time::sleep(again.map_or(by_chance, |again| again.min(BACKOFF[1]))).await;
    }
}

/// When discovery wants it back.
fn again(status: &Status) -> Option<Duration> {
    status.metadata().get(RETURN_AFTER_MS)?.to_str().ok()?.parse().ok().map(Duration::from_millis)
}

/// What was told of a stream, so that it is told once; and what it holds.
#[derive(Debug, Default)]
struct Told {
    turn: Option<OwnedSemaphorePermit>,
    settled: bool,
    marks: HashMap<String, u32>,
    held: BTreeMap<Name, u64>,
}

async fn converse(channel: &Channel, asked: &Asked, told: &mut Told, tell: &mpsc::UnboundedSender<News>) -> Result<()> {
    let Asked { namespace, pod, names, watched, .. } = asked;
    let (say, said) = mpsc::unbounded_channel();
    let service_account = ACCOUNT.to_owned();
    let (namespace, pod) = (namespace.clone(), pod.clone());
    let held =
        told.held.iter().map(|(name, version)| v1::Held { name: Some(name.into()), version: *version }).collect();
    say.send(request::hello(Hello { namespace, pod, service_account, held, ..Hello::default() }))?;
    for name in names.iter().filter(|name| !told.held.contains_key(name)) {
        say.send(request::subscribe(name))?;
    }
    let mut client = DiscoveryClient::new(channel.clone()).max_decoding_message_size(16 * 1024 * 1024);
    let mut stream = client.sync(UnboundedReceiverStream::new(said)).await?.into_inner();
    let mut left: Vec<v1::ResourceName> = names.iter().map(Into::into).collect();
    while let Some(message) = stream.message().await? {
        if let Some((name, version)) = envelope(&message) {
            if let Ok(name) = Name::try_from(name.clone()) {
                told.held.insert(name, version);
            }
            if !matches!(message.kind, Some(Kind::Current(_))) {
                let ack = v1::Ack { name: Some(name.clone()), version, closed: Vec::new() };
                say.send(v1::SyncRequest { kind: Some(v1::sync_request::Kind::Ack(ack)) })?;
            }
            if !left.is_empty() && !matches!(name.kind, Some(resource_name::Kind::Backend(_))) {
                left.retain(|wanted| *wanted != name);
                if left.is_empty() && !std::mem::replace(&mut told.settled, true) {
                    tell.send(News::Settled)?;
                    told.turn = None;
                }
            }
        }
        if let Some((service, mark)) = mark(&message)
            && watched.contains(&service)
            && told.marks.insert(service.clone(), mark) != Some(mark)
        {
            tell.send(News::Mark { service, mark })?;
        }
    }
    Ok(())
}

/// The Service and the mark in a message about its backend, if there is one.
fn mark(message: &SyncResponse) -> Option<(String, u32)> {
    let (id, endpoints) = match message.kind.as_ref()? {
        Kind::BackendDelta(delta) => (delta.id.as_ref()?, &delta.upserted),
        Kind::Backend(resource) => {
            let backend = resource.backend.as_ref()?;
            (backend.id.as_ref()?, &backend.endpoints)
        }
        _ => return None,
    };
    let mark = endpoints.iter().find_map(|endpoint| endpoint.zone.strip_prefix('m')?.parse().ok())?;
    Some((id.name.clone(), mark))
}
