//! The map over sockets: proxies that speak the protocol by hand, and a reader of the admin port; and maps of many answers, without any.

use super::{build::Builder, router, told};
use crate::{
    index::{Change, Member, Mesh, Workload},
    serve::{Hub, Proxy, Service},
    source::parse::parse,
};
use futures_util::StreamExt as _;
use remora_api::{
    convert,
    sync::request,
    v1::{Ask, Hello, SyncRequest, SyncResponse, discovery_client::DiscoveryClient, sync_response::Kind},
};
use remora_model::{Features, asks::ANSWER_PART_BYTES_MAX};
use remora_runtime::{admin, drain};
use serde_json::{Value, json};
use std::{net::SocketAddr, time::Duration};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Code, Streaming, transport::Server};

/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// A discovery, and its admin port.
struct Discovery {
    sync: SocketAddr,
    admin: SocketAddr,
    _drain: drain::Signal,
}

impl Discovery {
    async fn start() -> Self {
        let (hub, (drain, draining)) = (Hub::new(Mesh::default()), drain::channel());
        let text = "apiVersion: v1
kind: Pod
metadata: { name: web-6c5d-x2x7q, namespace: shop, labels: { pod-template-hash: 6c5d }, annotations: { remora.dev/injected: 'true' } }
spec: { serviceAccountName: web }
---
apiVersion: v1
kind: Pod
metadata: { name: api-0, namespace: shop, annotations: { remora.dev/injected: 'true' } }
spec: { serviceAccountName: api }
";
        hub.apply(parse(text, "world").whole().unwrap().into_iter().map(Change::Put));
        let service = Service::new(hub, draining.clone()).danger_any_peer();
        let (router, tidy) = router(service.asking());
        let (syncs, admins) = (listener().await, listener().await);
        let (sync, admin) = (syncs.local_addr().unwrap(), admins.local_addr().unwrap());
        let server = Server::builder().add_service(service.into_server());
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(syncs)));
        tokio::spawn(async move {
            tokio::select! {
                () = admin::serve(admins, router, draining) => {}
                never = tidy => match never {},
            }
        });
        Self { sync, admin, _drain: drain }
    }

    async fn proxy(&self, pod: &str, account: &str) -> Fake {
        self.proxy_with(pod, account, Features::all()).await
    }

    async fn proxy_with(&self, pod: &str, account: &str, features: Features) -> Fake {
        let (send, receive) = mpsc::channel(64);
        let hello = Hello {
            namespace: "shop".into(),
            pod: pod.into(),
            service_account: account.into(),
            features: convert::to_features(features),
            ..Hello::default()
        };
        send.send(request::hello(hello)).await.unwrap();
        let mut client = DiscoveryClient::connect(format!("http://{}", self.sync)).await.unwrap();
        let mut updates = client.sync(ReceiverStream::new(receive)).await.unwrap().into_inner();
        // The ranges are the first word: from then on it has its stream.
        updates.next().await.unwrap().unwrap();
        Fake { send, updates }
    }

    async fn get(&self, path: &str) -> Reader {
        let mut tcp = TcpStream::connect(self.admin).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n", self.admin);
        tcp.write_all(request.as_bytes()).await.unwrap();
        Reader(BufReader::new(tcp))
    }
}

async fn listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").await.unwrap()
}

/// A proxy that speaks the protocol by hand.
struct Fake {
    send: mpsc::Sender<SyncRequest>,
    updates: Streaming<SyncResponse>,
}

impl Fake {
    async fn asked(&mut self) -> Ask {
        loop {
            let next = tokio::time::timeout(PATIENCE, self.updates.next()).await.expect("an ask");
            if let Some(Kind::Ask(ask)) = next.unwrap().unwrap().kind {
                return ask;
            }
        }
    }

    async fn answer(&self, id: u32, body: &str, status: u16) {
        let parts: Vec<&[u8]> = body.as_bytes().chunks(ANSWER_PART_BYTES_MAX).collect();
        let last = parts.len().saturating_sub(1);
        for (at, part) in parts.iter().enumerate() {
            let status = (at == last).then_some(status);
            self.send.send(request::answer(id, part.to_vec(), status)).await.unwrap();
        }
        if parts.is_empty() {
            self.send.send(request::answer(id, Vec::new(), Some(status))).await.unwrap();
        }
    }

    /// Why the stream ends.
    async fn ends(&mut self) -> Code {
        loop {
            match tokio::time::timeout(PATIENCE, self.updates.next()).await.expect("an end").expect("a status") {
                Ok(_) => {}
                Err(status) => return status.code(),
            }
        }
    }
}

/// Reads an answer of the admin port.
struct Reader(BufReader<TcpStream>);

impl Reader {
    async fn line(&mut self) -> String {
        let mut line = String::new();
        tokio::time::timeout(PATIENCE, self.0.read_line(&mut line)).await.expect("a line").unwrap();
        line
    }

    /// The next line that is JSON, whatever HTTP has around it.
    async fn json(&mut self) -> Value {
        loop {
            let line = self.line().await;
            assert!(!line.is_empty(), "the answer ended");
            if line.starts_with('{') {
                return serde_json::from_str(&line).unwrap();
            }
        }
    }

    async fn all(mut self) -> String {
        let mut text = String::new();
        loop {
            let line = self.line().await;
            if line.is_empty() {
                return text;
            }
            text += &line;
        }
    }
}

#[tokio::test]
async fn signals_come_as_they_arrive_and_a_slow_proxy_delays_nobody() {
    let discovery = Discovery::start().await;
    let mut slow = discovery.proxy("web-6c5d-x2x7q", "web").await;
    let mut fast = discovery.proxy("api-0", "api").await;
    let mut reader = discovery.get("/mesh/signals?namespace=shop").await;
    slow.asked().await;
    let ask = fast.asked().await;
    assert_eq!(ask.path, "/signals?histograms=true");
    let large = "x".repeat(3 * ANSWER_PART_BYTES_MAX);
    fast.answer(ask.id, &json!({"version": "0.3.0", "pod": "shop/another", "large": large}).to_string(), 200).await;
    let line = reader.json().await;
    assert_eq!((&line["pod"], &line["identity"], &line["version"]), (&json!("api-0"), &json!("api"), &json!("0.3.0")));
    assert_eq!(line["signals"]["large"], large);
    drop(slow);
    let line = reader.json().await;
    assert_eq!((&line["pod"], &line["error"]), (&json!("web-6c5d-x2x7q"), &json!("its stream ended")));
    assert_eq!(reader.json().await, json!({"asked": 2, "answered": 1}));
}

#[tokio::test]
async fn many_readers_cost_one_ask_and_only_those_are_asked_who_are_named() {
    let discovery = Discovery::start().await;
    let mut api = discovery.proxy("api-0", "api").await;
    let mut web = discovery.proxy("web-6c5d-x2x7q", "web").await;
    let mut readers = Vec::new();
    for _ in 0..3 {
        readers.push(discovery.get("/mesh/signals?namespace=shop&pod=api-0&pod=api-9").await);
    }
    let ask = api.asked().await;
    api.answer(ask.id, r#"{"version":"1"}"#, 200).await;
    for reader in &mut readers {
        assert_eq!(reader.json().await["signals"], json!({"version": "1"}));
        assert_eq!(reader.json().await, json!({"asked": 1, "answered": 1}), "who has no stream here is not asked");
    }
    let mut reader = discovery.get("/mesh/signals?pod=web-6c5d-x2x7q").await;
    assert_eq!(web.asked().await.id, 1, "it was not asked before");
    drop(web);
    reader.json().await;
}

#[tokio::test]
async fn what_a_proxy_cannot_tell_is_an_error_in_its_line() {
    let discovery = Discovery::start().await;
    let _old = discovery.proxy_with("web-6c5d-x2x7q", "web", Features::unnamed()).await;
    let mut api = discovery.proxy("api-0", "api").await;
    for (body, status, why) in [("", 413, "larger than"), ("", 404, "status 404"), ("{}{}", 200, "cannot be read")] {
        let mut reader = discovery.get("/mesh/signals").await;
        let ask = api.asked().await;
        api.answer(ask.id, body, status).await;
        let mut lines = [reader.json().await, reader.json().await];
        lines.sort_by_key(|line| line["pod"].to_string());
        for (line, why) in lines.iter().zip([why, "too old"]) {
            assert!(line["error"].as_str().unwrap().contains(why), "{line}");
        }
        assert_eq!(reader.json().await, json!({"asked": 2, "answered": 0}));
    }
}

#[tokio::test]
async fn who_answers_what_was_not_asked_loses_the_stream_and_nobody_else_does() {
    let discovery = Discovery::start().await;
    let (mut bad, mut good) = (discovery.proxy("api-0", "api").await, discovery.proxy("web-6c5d-x2x7q", "web").await);
    bad.answer(1, "{}", 200).await;
    assert_eq!(bad.ends().await, Code::InvalidArgument);
    let mut reader = discovery.get("/mesh/signals").await;
    let ask = good.asked().await;
    good.answer(ask.id, "{}", 200).await;
    assert_eq!(reader.json().await["pod"], "web-6c5d-x2x7q");
    assert_eq!(reader.json().await, json!({"asked": 1, "answered": 1}));
}

#[tokio::test]
async fn the_map_is_made_of_what_proxies_answer_and_serves_all_who_read_it_meanwhile() {
    let discovery = Discovery::start().await;
    let mut web = discovery.proxy("web-6c5d-x2x7q", "web").await;
    let mut readers = Vec::new();
    for path in ["/mesh/map", "/mesh/map?namespace=shop", "/mesh/map?namespace=else"] {
        readers.push(discovery.get(path).await);
    }
    let ask = web.asked().await;
    assert_eq!(ask.path, "/map");
    web.answer(ask.id, &calls("shop/api:80", &[("spiffe://cluster.local/ns/shop/sa/api", "mtls")], 4), 200).await;
    for (reader, edges) in readers.iter_mut().zip([1, 1, 0]) {
        let map = reader.json().await;
        assert_eq!((&map["asked"], &map["answered"], &map["meshed"]), (&json!(1), &json!(1), &json!(2)));
        assert_eq!(map["edges"].as_array().unwrap().len(), edges, "{map:#}");
        if edges == 1 {
            let edge = &map["edges"][0];
            assert_eq!((&edge["from"], &edge["to"]), (&json!("shop/deploy/web"), &json!(["shop/sa/api"])));
            assert_eq!((&edge["mtls"], &edge["windows"]["m1"]["requests"]), (&json!(1.0), &json!(4)));
        }
    }
    let wrong = discovery.get("/mesh/map?pod=a").await.all().await;
    assert!(wrong.starts_with("HTTP/1.1 400 ") && wrong.contains("namespace=NAME"), "{wrong}");
}

#[tokio::test]
async fn the_page_is_self_contained_and_small() {
    let discovery = Discovery::start().await;
    let page = discovery.get("/mesh").await.all().await;
    assert!(page.starts_with("HTTP/1.1 200 ") && page.contains("default-src 'none'"), "{}", &page[..400]);
    let elsewhere = super::PAGE.replace("http://www.w3.org/2000/svg", "");
    for outside in ["http:", "https:", "//cdn", "@import", "url(http", "src="] {
        assert!(!elsewhere.contains(outside), "{outside}");
    }
    assert!(!super::PAGE.contains("innerHTML") && !super::PAGE.contains("insertAdjacent"));
    assert!(super::PAGE.len() < 80_000, "{} bytes", super::PAGE.len());
}

/// What a proxy tells that calls one Service, as often as this.
fn calls(service: &str, to: &[(&str, &str)], requests: u64) -> String {
    let window = json!({"requests": requests, "failed": 1, "rps": 0.5, "latencies_ns": [[1_007_616, requests]]});
    let windows = json!({"s10": window, "m1": window, "m5": window, "m15": window, "before": null});
    let to: Vec<Value> =
        to.iter().map(|(peer, tls)| json!({"peer": peer, "tls": tls, "requests": requests, "rps": 1.0})).collect();
    let failures = json!([{"reason": "timeout", "fault": "application", "count": 1}]);
    json!({"version": "0.3.0", "calls": [{"parent": service, "windows": windows, "to": to, "failures": failures}]})
        .to_string()
}

/// What a proxy tells that is called by one peer.
fn called(service: &str, peer: &str, tls: &str) -> String {
    let window = json!({"requests": 3, "failed": 0, "rps": 0.1, "latencies_ns": [[2_007_616, 3]]});
    let windows = json!({"s10": window, "m1": window, "m5": null, "m15": window, "before": null});
    let callers = json!([{"peer": peer, "tls": tls, "parents": [service], "windows": windows, "failures": []}]);
    json!({"version": "0.3.0", "serves": [service], "callers": callers}).to_string()
}

fn member(name: &str, pod: usize) -> (Member, Proxy) {
    let workload = Workload { kind: "deploy", name: name.to_owned() };
    let (namespace, pod) = ("shop".to_owned(), format!("{name}-{pod}"));
    let identity = format!("spiffe://cluster.local/ns/shop/sa/{name}");
    let proxy = Proxy::unasked(&identity, &namespace, &pod);
    (Member { namespace, pod, account: name.to_owned(), workload, meshed: true }, proxy)
}

/// A proxy with its pod, and what it told, or why not.
type Told = ((Member, Proxy), Result<String, String>);

/// The map of what these proxies told.
fn map(told: &[Told]) -> Value {
    // Both are known in the order of their names.
    let mut members: Vec<Member> = told.iter().map(|((member, _), _)| member.clone()).collect();
    members.sort_by(|a, b| a.pod.cmp(&b.pod));
    let mut proxies: Vec<Proxy> = told.iter().map(|((_, proxy), _)| proxy.clone()).collect();
    proxies.sort_by(|a, b| a.pod.cmp(&b.pod));
    let mut builder = Builder::new(&members, &proxies);
    for ((_, proxy), answer) in told {
        builder.take(proxy, answer.clone().and_then(|body| told::read(body.as_bytes())));
    }
    serde_json::from_str(&builder.build().json(None, 0, 0)).unwrap()
}

const API: &str = "spiffe://cluster.local/ns/shop/sa/api";
const WEB: &str = "spiffe://cluster.local/ns/shop/sa/web";

#[test]
fn pods_of_a_workload_are_added_up_and_a_service_lands_on_what_serves_it() {
    let map = map(&[
        (member("web", 1), Ok(calls("shop/api:80", &[(API, "mtls")], 4))),
        (member("web", 2), Ok(calls("shop/api:80", &[(API, "mtls"), ("", "plain")], 6))),
        (member("api", 1), Ok(called("shop/api:80", WEB, "mtls"))),
        (member("api", 2), Err("it did not answer in time".to_owned())),
    ]);
    let [edge] = map["edges"].as_array().unwrap().as_slice() else { panic!("{map:#}") };
    assert_eq!((&edge["from"], &edge["to"]), (&json!("shop/deploy/web"), &json!(["shop/deploy/api"])));
    assert_eq!(edge["windows"]["m1"]["requests"], 10);
    assert_eq!((&edge["mtls"], &edge["tls"]["plain"]), (&json!(0.6667), &json!(6)));
    assert_eq!(edge["failures"], json!([{"reason": "timeout", "fault": "application", "count": 2}]));
    assert_eq!((&map["asked"], &map["answered"]), (&json!(4), &json!(3)));
    assert_eq!(map["silent"], json!([{"namespace": "shop", "pod": "api-2", "why": "it did not answer in time"}]));
}

#[test]
fn what_a_workload_served_is_its_own_and_not_its_services() {
    let map = map(&[
        (member("web", 1), Ok(calls("shop/api:80", &[(API, "mtls")], 40))),
        (member("api", 1), Ok(called("shop/api:80", WEB, "mtls"))),
        (member("api", 2), Ok(called("shop/api:80", "", "mtls"))),
    ]);
    let of = |id: &str| map["nodes"].as_array().unwrap().iter().find(|node| node["id"] == id).unwrap();
    let (api, web) = (of("shop/deploy/api"), of("shop/deploy/web"));
    assert_eq!((&api["served"]["m1"]["requests"], &web["served"]["m1"]), (&json!(3), &Value::Null));
    assert_eq!(api["denied"], 3, "what policy refused is told apart");
    assert_eq!(map["edges"][0]["windows"]["m1"]["requests"], 40);
}

#[test]
fn who_does_not_tell_is_known_by_whom_it_calls() {
    let called = |peer: &str, tls: &str| map(&[(member("api", 1), Ok(called("shop/api:80", peer, tls)))]);
    let outside = called("", "plain");
    let edge = &outside["edges"][0];
    assert_eq!(
        (&edge["from"], &edge["to"], &edge["mtls"]),
        (&json!("outside"), &json!(["shop/deploy/api"]), &json!(0.0))
    );
    assert_eq!(edge["windows"]["m1"]["p50_ms"], 2.008);
    let unseen = called(WEB, "mtls");
    assert_eq!(unseen["edges"][0]["from"], format!("identity:{WEB}"));
    let denied = called("", "mtls");
    assert_eq!((&denied["edges"], &denied["nodes"][0]["denied"]), (&json!([]), &json!(3)), "refused, whoever it was");
}

#[test]
fn a_service_that_no_proxy_serves_is_a_node_of_its_own() {
    let map = map(&[(member("web", 1), Ok(calls("shop/db:5432", &[("", "plain")], 4)))]);
    assert_eq!(map["edges"][0]["to"], json!(["service:shop/db:5432"]));
    let kinds: Vec<&Value> = map["nodes"].as_array().unwrap().iter().map(|node| &node["kind"]).collect();
    assert_eq!(kinds, ["service", "deploy"]);
}

/// Workloads in a row, of which each calls six others.
fn many(workloads: usize, pods: usize, buckets: u64) -> Vec<Told> {
    let latencies: Vec<(u64, u64)> = (1..=buckets).map(|bucket| (bucket * 1_007_616, bucket)).collect();
    let window = json!({"requests": 900, "failed": 3, "rps": 3.25, "latencies_ns": latencies});
    let bare = json!({"requests": 900, "failed": 3, "rps": 3.25});
    let all = |window: &Value| json!({"s10": window, "m1": window, "m5": window, "m15": window, "before": window});
    let of = |at: usize| format!("spiffe://cluster.local/ns/shop/sa/w{}", at % workloads);
    let service = |at: usize| format!("shop/w{}:80", at % workloads);
    let one = |at: usize| {
        let call = |to: usize| {
            let end = json!({"peer": of(to), "tls": "mtls", "requests": 90_000, "rps": 3.25});
            json!({"parent": service(to), "windows": all(&window), "to": [end], "failures": []})
        };
        let caller = |from: usize| json!({"peer": of(from), "tls": "mtls", "parents": [service(at)], "windows": all(&bare), "failures": []});
        let calls: Vec<Value> = (1..=6).map(|step| call(at + step * step)).collect();
        let callers: Vec<Value> = (1..=6).map(|step| caller(at + workloads - step)).collect();
        json!({"version": "0.3.0", "calls": calls, "callers": callers, "serves": [service(at)]}).to_string()
    };
    (0..workloads)
        .flat_map(|at| (0..pods).map(move |pod| (at, pod)))
        .map(|(at, pod)| (member(&format!("w{at}"), pod), Ok(one(at))))
        .collect()
}

#[test]
fn a_map_is_the_same_in_whatever_order_the_answers_came() {
    let mut rng = fastrand::Rng::with_seed(11);
    let mut told = many(8, 2, 5);
    told.push((member("w3", 9), Err("it did not answer in time".to_owned())));
    told.push((member("x", 1), Ok(called("shop/x:80", "", "plain"))));
    told.push((member("y", 1), Ok(calls("shop/x:80", &[("", "plain"), (API, "mtls")], 3))));
    told.push((member("z", 1), Ok(called("shop/z:80", WEB, "mtls"))));
    let first = map(&told);
    for _ in 0..10 {
        rng.shuffle(&mut told);
        assert!(map(&told) == first, "seed 11");
    }
}

/// Of 500 workloads of three pods, with 40 buckets in each of five windows. A build without optimisation has no bound to keep.
#[test]
fn a_large_mesh_is_added_up_and_written_well_within_two_seconds() {
    let workloads = if cfg!(debug_assertions) { 50 } else { 500 };
    let told = many(workloads, 3, 40);
    let bytes: usize = told.iter().map(|(_, answer)| answer.as_ref().unwrap().len()).sum();
    let (members, proxies): (Vec<Member>, Vec<Proxy>) = told.iter().map(|(both, _)| both.clone()).unzip();
    let began = std::time::Instant::now();
    let mut builder = Builder::new(&members, &proxies);
    for ((_, proxy), answer) in &told {
        builder.take(proxy, answer.clone().and_then(|body| told::read(body.as_bytes())));
    }
    let merged = began.elapsed();
    let written = builder.build().json(None, 0, 0);
    let took = began.elapsed();
    println!("{} answers of {bytes} bytes: {merged:?}; written, {} bytes: {took:?}", told.len(), written.len());
    let map: Value = serde_json::from_str(&written).unwrap();
    assert_eq!(map["edges"].as_array().unwrap().len(), 6 * workloads);
    assert!(cfg!(debug_assertions) || took < Duration::from_secs(1), "{took:?}");
}
