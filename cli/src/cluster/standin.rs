//! A stand-in for an API server, over a real socket: objects that are read and listed, and ports of pods that are forwarded as a kubelet does it.
//! For tests alone.

use super::{Args, Cluster, scope::Scope};
use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use http::{Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use remora_kube::names;
use serde_json::{Value, json};
use std::{
    convert::Infallible,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};
use tokio::net::TcpListener;
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Message, handshake::derive_accept_key, protocol::Role},
};

/// What a port of a pod answers to a path: its status and its body. `None`: nothing listens there.
type Port = dyn Fn(&str, u16, &str) -> Option<(u16, String)> + Send + Sync;

/// What there is.
pub(crate) struct World {
    /// Whole objects, of any kind.
    pub(crate) objects: Vec<Value>,
    /// Paths that are forbidden begin so.
    pub(crate) forbidden: Vec<String>,
    /// Of `namespace/pod`, a port and a path.
    pub(crate) port: Box<Port>,
}

impl Default for World {
    fn default() -> Self {
        Self { objects: Vec::new(), forbidden: Vec::new(), port: Box::new(|_, _, _| None) }
    }
}

/// The server; it runs as long as its test.
pub(crate) struct Standin {
    dir: tempfile::TempDir,
    /// Every path that was asked for.
    asked: Arc<Mutex<Vec<String>>>,
    forwards: Arc<Forwards>,
}

/// How many ports are forwarded now, and were at most.
#[derive(Debug, Default)]
struct Forwards {
    now: AtomicUsize,
    most: AtomicUsize,
}

/// A pod with a sidecar, of a Deployment.
pub(crate) fn pod(namespace: &str, name: &str, deployment: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "namespace": namespace, "name": name,
            "labels": { names::INJECTED: "true", "app": deployment, "pod-template-hash": "5d" },
            "ownerReferences": [{ "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": format!("{deployment}-5d"), "uid": "u", "controller": true }],
        },
        "spec": { "containers": [{ "name": "app", "image": "app:1" }, { "name": names::PROXY_CONTAINER, "image": "remora:1" }] },
        "status": { "phase": "Running" },
    })
}

/// A replica of a part of the control plane.
pub(crate) fn replica(part: &str, name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "namespace": names::NAMESPACE, "name": name, "labels": { names::PART: part } },
        "spec": { "containers": [{ "name": part, "image": "remora:1" }] }, "status": { "phase": "Running" },
    })
}

impl Standin {
    pub(crate) async fn start(world: World) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, world, asked) =
            (listener.local_addr().unwrap(), Arc::new(world), Arc::new(Mutex::new(Vec::new())));
        let (log, forwards) = (asked.clone(), Arc::new(Forwards::default()));
        let counted = forwards.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (world, log, forwards) = (world.clone(), log.clone(), counted.clone());
                let service = service_fn(move |request| {
                    log.lock().unwrap().push(request_path(&request));
                    let answer = answer(&world, &forwards, request);
                    async { Ok::<_, Infallible>(answer) }
                });
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service).with_upgrades());
            }
        });
        let dir = tempfile::tempdir().unwrap();
        let config = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: c\ncontexts: [{{ name: c, context: {{ cluster: c, user: u, namespace: shop }} }}]\n\
             clusters: [{{ name: c, cluster: {{ server: 'http://{address}' }} }}]\nusers: [{{ name: u, user: {{}} }}]\n"
        );
        std::fs::write(dir.path().join("config"), config).unwrap();
        Self { dir, asked, forwards }
    }

    /// The flags that mean this server.
    pub(crate) fn args(&self) -> Args {
        Args { kubeconfig: Some(self.dir.path().join("config")), ..Args::default() }
    }

    pub(crate) async fn cluster(&self) -> Cluster {
        Cluster::connect(&self.args()).await.unwrap()
    }

    /// All pods of it.
    pub(crate) fn everywhere(&self) -> Scope {
        Scope { all_namespaces: true, cluster: self.args(), ..Scope::default() }
    }

    /// How many ports were forwarded at the same time, at most.
    pub(crate) fn forwards_most(&self) -> usize {
        self.forwards.most.load(SeqCst)
    }

    /// How often a path was asked for that contains `part`.
    pub(crate) fn asked(&self, part: &str) -> usize {
        self.asked.lock().unwrap().iter().filter(|path| path.contains(part)).count()
    }
}

fn request_path(request: &Request<Incoming>) -> String {
    request.uri().path_and_query().map_or_else(String::new, ToString::to_string)
}

fn answer(world: &Arc<World>, forwards: &Arc<Forwards>, mut request: Request<Incoming>) -> Response<Full<Bytes>> {
    let path = request.uri().path().to_owned();
    let query = request.uri().query().unwrap_or_default().to_owned();
    if world.forbidden.iter().any(|prefix| path.starts_with(prefix.as_str())) {
        return refuse(403, "Forbidden", &format!("{path} is forbidden: User \"u\" cannot do that"));
    }
    if let Some(pod) = path.strip_suffix("/portforward") {
        let mut parts = pod.rsplit('/');
        let (name, _, namespace) = (parts.next().unwrap(), parts.next(), parts.next().unwrap());
        let port = query.split('&').find_map(|part| part.strip_prefix("ports=")).unwrap().parse().unwrap();
        let accept = derive_accept_key(request.headers()[header::SEC_WEBSOCKET_KEY].as_bytes());
        let upgrade = hyper::upgrade::on(&mut request);
        tokio::spawn(forward(world.clone(), forwards.clone(), format!("{namespace}/{name}"), port, upgrade));
        return Response::builder()
            .status(StatusCode::SWITCHING_PROTOCOLS)
            .header(header::CONNECTION, "Upgrade")
            .header(header::UPGRADE, "websocket")
            .header(header::SEC_WEBSOCKET_ACCEPT, accept)
            .header(header::SEC_WEBSOCKET_PROTOCOL, "v4.channel.k8s.io")
            .body(Full::default())
            .unwrap();
    }
    read(world, &path, &query)
}

/// Objects of the kind that a path names, by name or by labels.
fn read(world: &World, path: &str, query: &str) -> Response<Full<Bytes>> {
    if path == "/version" {
        let version = json!({ "major": "1", "minor": "33", "gitVersion": "v1.33.0", "gitCommit": "", "gitTreeState": "", "buildDate": "", "goVersion": "", "compiler": "", "platform": "" });
        return json_answer(200, &version);
    }
    let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    let (version, rest) = match parts.as_slice() {
        ["api", version, rest @ ..] => ((*version).to_owned(), rest),
        ["apis", group, version, rest @ ..] => (format!("{group}/{version}"), rest),
        _ => return refuse(404, "NotFound", path),
    };
    let (namespace, plural, name) = match rest {
        ["namespaces", namespace, plural, rest @ ..] => (Some(*namespace), *plural, rest.first()),
        [plural, rest @ ..] => (None, *plural, rest.first()),
        [] => return refuse(404, "NotFound", path),
    };
    if rest.last() == Some(&"log") {
        return Response::new(Full::from(Bytes::from_static(b"a line\n{\"authorization\":\"Bearer abc.def.ghi\"}\n")));
    }
    let selector = query.split('&').find_map(|part| part.strip_prefix("labelSelector="));
    let selector = selector.map(|text| text.replace("%3D", "=").replace("%2C", ",").replace("%2F", "/"));
    let chosen = world.objects.iter().filter(|it| {
        it["apiVersion"] == version.as_str()
            && plural_of(it["kind"].as_str().unwrap()) == plural
            && namespace.is_none_or(|namespace| it["metadata"]["namespace"] == namespace)
            && selector.as_deref().is_none_or(|selector| selects(selector, &it["metadata"]["labels"]))
    });
    match name {
        None => json_answer(
            200,
            &json!({ "apiVersion": version, "kind": "List", "metadata": {}, "items": chosen.collect::<Vec<_>>() }),
        ),
        Some(name) => match chosen.into_iter().find(|it| it["metadata"]["name"] == **name) {
            Some(object) => json_answer(200, object),
            None => refuse(404, "NotFound", &format!("{plural} {name:?} not found")),
        },
    }
}

fn plural_of(kind: &str) -> String {
    let kind = kind.to_ascii_lowercase();
    match kind.strip_suffix('y').filter(|rest| !rest.ends_with('a')) {
        Some(rest) => format!("{rest}ies"),
        None if kind.ends_with('s') => format!("{kind}es"),
        None => format!("{kind}s"),
    }
}

fn selects(selector: &str, labels: &Value) -> bool {
    selector.split(',').all(|one| match one.split_once('=') {
        Some((name, value)) => labels[name] == value,
        None => labels.get(one).is_some(),
    })
}

fn json_answer(status: u16, value: &Value) -> Response<Full<Bytes>> {
    let answer = Response::builder().status(status).header(header::CONTENT_TYPE, "application/json");
    answer.body(Full::from(value.to_string())).unwrap()
}

fn refuse(code: u16, reason: &str, message: &str) -> Response<Full<Bytes>> {
    let status = json!({ "apiVersion": "v1", "kind": "Status", "status": "Failure", "reason": reason, "message": message, "code": code });
    json_answer(code, &status)
}

/// Two channels for the port, data and errors, each of which begins with the port's number; then one request and its answer.
async fn forward(
    world: Arc<World>,
    forwards: Arc<Forwards>,
    pod: String,
    port: u16,
    upgrade: hyper::upgrade::OnUpgrade,
) {
    let Ok(upgraded) = upgrade.await else { return };
    forwards.most.fetch_max(forwards.now.fetch_add(1, SeqCst) + 1, SeqCst);
    let mut socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, None).await;
    for channel in [0, 1] {
        let [low, high] = port.to_le_bytes();
        socket.send(Message::binary(vec![channel, low, high])).await.unwrap();
    }
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        match socket.next().await {
            Some(Ok(Message::Binary(bytes))) if bytes.first() == Some(&0) => request.extend_from_slice(&bytes[1..]),
            Some(Ok(_)) => {}
            _ => return,
        }
    }
    let request = String::from_utf8(request).unwrap();
    let path = request.split(' ').nth(1).unwrap();
    // Who has its answer asks the next at once.
    tokio::task::yield_now().await;
    forwards.now.fetch_sub(1, SeqCst);
    let Some((status, body)) = (world.port)(&pod, port, path) else {
        socket.send(Message::binary([&[1], &b"connection refused"[..]].concat())).await.ok();
        socket.close(None).await.ok();
        return;
    };
    let length = body.len();
    let answer = format!("HTTP/1.1 {status} X\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}");
    // Pieces that end anywhere.
    for piece in answer.as_bytes().chunks(1000) {
        if socket.send(Message::binary([&[0], piece].concat())).await.is_err() {
            return;
        }
    }
    while let Some(Ok(_)) = socket.next().await {}
}
