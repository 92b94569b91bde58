//! Discovery as a process, and proxies that ask it.

use super::PATIENCE;
use remora_api::{
    sync::{Name, Resource, Update, request},
    v1::{Hello, SyncRequest, SyncResponse, discovery_client::DiscoveryClient},
};
use std::{
    collections::BTreeMap,
    net::{SocketAddr, TcpListener},
    path::Path,
    process::{Child, Command},
    time::Instant,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    sync::mpsc,
    time::timeout,
};
use tokio_stream::{StreamExt as _, wrappers::ReceiverStream};
use tonic::Streaming;

/// A discovery of our own. Dropped, it is killed.
pub(crate) struct Process {
    child: Child,
    listen: SocketAddr,
    admin: SocketAddr,
}

impl Process {
    /// One that reads the API of `KUBECONFIG`.
    pub(crate) fn on_api() -> Self {
        Self::start(&["--kubernetes".as_ref()])
    }

    /// One that reads manifests.
    pub(crate) fn on_directory(directory: &Path) -> Self {
        Self::start(&["--manifests".as_ref(), directory.as_os_str()])
    }

    fn start(source: &[&std::ffi::OsStr]) -> Self {
        let (listen, admin) = (free(), free());
        let child = Command::new(env!("CARGO_BIN_EXE_remora-discovery"))
            .args(source)
            .args(["--insecure-listen", &listen.to_string(), "--admin", &admin.to_string(), "--log", "warn"])
            .spawn()
            .unwrap();
        Self { child, listen, admin }
    }

    /// Resident memory now, and the most there was.
    pub(crate) fn memory_mb(&self) -> (f64, f64) {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let of = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name)).unwrap();
            line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1024.0
        };
        (of("VmRSS:"), of("VmHWM:"))
    }

    /// Asks `/live`, which must answer.
    pub(crate) async fn live(&self) {
        let answer = self.get("/live").await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }

    async fn get(&self, path: &str) -> String {
        let mut stream = tokio::net::TcpStream::connect(self.admin).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        text
    }

    /// The line of a metric.
    pub(crate) async fn metric(&self, name: &str) -> String {
        let text = self.get("/metrics").await;
        text.lines().find(|line| line.starts_with(name)).unwrap_or_default().to_owned()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// A proxy that holds what it is told.
pub(crate) struct Proxy {
    send: mpsc::Sender<SyncRequest>,
    updates: Streaming<SyncResponse>,
    held: BTreeMap<Name, Resource>,
}

impl Proxy {
    pub(crate) async fn connect(process: &Process, namespace: &str, pod: &str) -> Self {
        let began = Instant::now();
        let (send, receive) = mpsc::channel(20_000);
        let hello = Hello { namespace: namespace.to_owned(), pod: pod.to_owned(), ..Hello::default() };
        send.send(request::hello(hello)).await.unwrap();
        let mut client = loop {
            match DiscoveryClient::connect(format!("http://{}", process.listen)).await {
                Ok(client) => break client,
                Err(error) => assert!(began.elapsed() < PATIENCE, "{error}"),
            }
            tokio::task::yield_now().await;
        };
        let answered = timeout(PATIENCE, client.sync(ReceiverStream::new(receive))).await;
        let updates = answered.expect("an answer").unwrap().into_inner();
        Self { send, updates, held: BTreeMap::new() }
    }

    pub(crate) async fn subscribe(&self, name: &Name) {
        self.send.send(request::subscribe(name)).await.unwrap();
    }

    /// Everything that is held, once `names` are.
    pub(crate) async fn answers(&mut self, names: &[Name]) -> BTreeMap<Name, Resource> {
        while !names.iter().all(|name| self.held.contains_key(name)) {
            self.changed().await;
        }
        self.held.clone()
    }

    /// Reads one message and forgets it. Whether the stream goes on.
    pub(crate) async fn read(&mut self) -> bool {
        self.updates.next().await.is_some_and(|message| message.is_ok())
    }

    /// Takes the next update.
    pub(crate) async fn changed(&mut self) {
        let message = timeout(PATIENCE, self.updates.next()).await;
        let message = message.unwrap_or_else(|_| panic!("nothing new; held: {:?}", self.held.keys()));
        match Update::try_from(message.unwrap().unwrap()).unwrap() {
            Update::Whole { resource, .. } => drop(self.held.insert(resource.name(), resource)),
            Update::Delta(delta) => {
                let name = Name::Backend(delta.id.clone());
                let Some(Resource::Backend(backend)) = self.held.get(&name) else { panic!("{name} is not held") };
                let next = delta.apply(backend, delta.from_version).unwrap();
                self.held.insert(name, Resource::Backend(next));
            }
            Update::Current { .. }
            | Update::Refused { .. }
            | Update::Zone(_)
            | Update::Networks(_)
            | Update::Ask { .. }
            | Update::Settings { .. }
            | Update::Revocations { .. } => {}
        }
    }
}
