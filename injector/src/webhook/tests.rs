//! The webhook over real sockets.

use super::{room::Room, serve::serve_in, *};
use crate::{
    certificate::{Serving, serving_for_tests},
    pod::Defaults,
    registration::{BY_NAMESPACE, BY_POD, Namespaces},
};
use remora_kube::events::Events;
use remora_runtime::{drain, tls::web};
use serde_json::{Value, json};
use std::{net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::watch,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

const HOST: &str = "remora-injector.remora.svc";

struct Webhook {
    port: u16,
    certificate: watch::Sender<Option<Serving>>,
    stats: Arc<Stats>,
    signal: drain::Signal,
    served: tokio::task::JoinHandle<()>,
}

impl Webhook {
    async fn start() -> Self {
        Self::start_in(Room::default(), PATIENCE * 2).await
    }

    async fn start_in(room: Room, first_review: Duration) -> Self {
        // Nobody listens there: an Event is a courtesy.
        let nowhere = kube::Config::new("http://127.0.0.1:9".parse().unwrap());
        let client = kube::Client::try_from(nowhere).unwrap();
        let (signal, stop) = drain::channel();
        let (events, _) = Events::new(client, "remora-injector", "injector-1", stop.clone());
        let stats = Arc::new(Stats::default());
        let decider = Decider {
            defaults: Defaults::default(),
            namespaces: Namespaces::default(),
            events,
            stats: Arc::clone(&stats),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (certificate, serving) = watch::channel(Some(serving_for_tests(HOST)));
        let served = tokio::spawn(serve_in(room, first_review, listener, serving, Arc::new(decider), stop));
        Self { port, certificate, stats, signal, served }
    }

    fn bundle(&self) -> Arc<str> {
        self.certificate.borrow().as_ref().unwrap().bundle.clone()
    }

    async fn connect(&self, bundle: &str) -> std::io::Result<TlsStream<TcpStream>> {
        let connector = TlsConnector::from(web::client_config(bundle.as_bytes()).unwrap());
        let tcp = TcpStream::connect(("127.0.0.1", self.port)).await?;
        connector.connect(web::name(HOST).unwrap(), tcp).await
    }

    /// TCP from one of loopback's addresses.
    async fn tcp(&self, last: u8) -> TcpStream {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::from(([127, 0, 0, last], 0))).unwrap();
        socket.connect(SocketAddr::from(([127, 0, 0, 1], self.port))).await.unwrap()
    }

    /// TLS from there.
    async fn tls(&self, last: u8) -> TlsStream<TcpStream> {
        let connector = TlsConnector::from(web::client_config(self.bundle().as_bytes()).unwrap());
        connector.connect(web::name(HOST).unwrap(), self.tcp(last).await).await.unwrap()
    }

    /// A metric's value.
    fn metric(&self, name: &str) -> u64 {
        let text = self.stats.prometheus();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {name} in {text}")).parse().unwrap()
    }

    async fn ask(&self, path: &str, body: &[u8]) -> (u16, String) {
        let mut tls = self.connect(&self.bundle()).await.unwrap();
        send(&mut tls, path, body).await;
        answer(&mut tls).await
    }
}

async fn send(tls: &mut TlsStream<TcpStream>, path: &str, body: &[u8]) {
    let head = format!("POST {path} HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: {}\r\n\r\n", body.len());
    tls.write_all(head.as_bytes()).await.unwrap();
    // The server may refuse before it has read everything.
    let _ = tls.write_all(body).await;
}

/// Status and body.
async fn answer(tls: &mut TlsStream<TcpStream>) -> (u16, String) {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length =
                head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
            if body.len() >= length.unwrap_or(0) {
                return (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned());
            }
        }
        assert!(tls.read_buf(&mut bytes).await.unwrap() > 0, "closed after {text:?}");
    }
}

fn review(pod: &Value) -> Vec<u8> {
    let request = json!({
        "uid": "u-1", "namespace": "shop", "operation": "CREATE", "resource": {"version": "v1", "resource": "pods"}, "object": pod,
    });
    let review = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request});
    review.to_string().into_bytes()
}

fn pod() -> Value {
    json!({"metadata": {"name": "web"}, "spec": {"serviceAccountName": "web", "containers": [{"name": "app"}]}})
}

#[tokio::test]
async fn the_path_says_whether_the_namespace_is_opted_in() {
    let webhook = Webhook::start().await;
    let (status, body) = webhook.ask(BY_NAMESPACE, &review(&pod())).await;
    let body: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(
        (status, &body["response"]["uid"], &body["response"]["patchType"]),
        (200, &json!("u-1"), &json!("JSONPatch"))
    );
    let (_, body) = webhook.ask(BY_POD, &review(&pod())).await;
    assert!(body.contains(r#""allowed":true"#) && !body.contains("patch"), "{body}");
    let text = webhook.stats.prometheus();
    assert!(text.contains(r#"{outcome="injected",reason=""} 1"#), "{text}");
    assert!(text.contains(r#"{outcome="skipped",reason="not_opted_in"} 1"#), "{text}");
}

#[tokio::test]
async fn what_is_no_review_is_answered_and_counted_and_what_is_too_large_is_not_read() {
    let webhook = Webhook::start().await;
    for body in [&b""[..], b"{", b"{\"kind\": 1}", &[0xff; 100], "[".repeat(100_000).as_bytes()] {
        assert_eq!(webhook.ask(BY_NAMESPACE, body).await.0, 400);
    }
    assert!(webhook.stats.prometheus().contains(r#"{outcome="unreadable",reason=""} 5"#));
    assert_eq!(webhook.ask(BY_NAMESPACE, &vec![b' '; 3 << 20]).await.0, 413);
    assert_eq!(webhook.ask("/", b"").await.0, 404);
}

#[tokio::test]
async fn a_new_certificate_is_served_at_once_and_open_connections_go_on() {
    let webhook = Webhook::start().await;
    let before = webhook.bundle();
    let mut open = webhook.connect(&before).await.unwrap();
    webhook.certificate.send_replace(Some(serving_for_tests(HOST)));
    assert!(webhook.connect(&before).await.is_err(), "the old authority does not vouch for the new certificate");
    assert_eq!(webhook.ask(BY_NAMESPACE, &review(&pod())).await.0, 200);
    send(&mut open, BY_NAMESPACE, &review(&pod())).await;
    assert_eq!(answer(&mut open).await.0, 200);
}

#[tokio::test]
async fn a_review_under_way_is_answered_although_the_drain_has_begun() {
    let webhook = Webhook::start().await;
    let mut tls = webhook.connect(&webhook.bundle()).await.unwrap();
    let body = review(&pod());
    let head = format!("POST {BY_NAMESPACE} HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: {}\r\n\r\n", body.len());
    tls.write_all(head.as_bytes()).await.unwrap();
    tls.write_all(&body[..10]).await.unwrap();
    // Answered on the same runtime: by then the server has the head.
    assert_eq!(webhook.ask(BY_POD, &review(&pod())).await.0, 200);
    webhook.signal.start();
    tls.write_all(&body[10..]).await.unwrap();
    assert_eq!(answer(&mut tls).await.0, 200);
    webhook.served.await.unwrap();
    assert!(TcpStream::connect(("127.0.0.1", webhook.port)).await.is_err());
}

/// As long as an API server waits.
const PATIENCE: Duration = Duration::from_secs(5);

/// A review over a connection of its own is answered while an API server waits.
async fn reviewed(webhook: &Webhook, last: u8) {
    let body = review(&pod());
    let asked = async {
        let mut tls = webhook.tls(last).await;
        send(&mut tls, BY_NAMESPACE, &body).await;
        answer(&mut tls).await.0
    };
    assert_eq!(tokio::time::timeout(PATIENCE, asked).await.expect("the API server would have given up"), 200);
}

#[tokio::test]
async fn a_review_is_answered_at_once_beside_four_addresses_of_silent_connections() {
    let webhook = Webhook::start().await;
    let mut silent = Vec::new();
    for last in 11..15 {
        for _ in 0..64 {
            silent.push(webhook.tls(last).await);
        }
    }
    for _ in 0..3 {
        reviewed(&webhook, 1).await;
    }
    let ended = ["room", "no_review"]
        .map(|reason| webhook.metric(&format!("remora_injector_connections_ended_total{{reason=\"{reason}\"}}")));
    assert!(ended.iter().sum::<u64>() > 0, "somebody made room: {ended:?}");
    assert!(webhook.metric("remora_injector_connections") <= 256);
}

#[tokio::test]
async fn a_connection_without_a_review_is_closed_and_one_with_a_review_stays() {
    let webhook = Webhook::start_in(Room::default(), Duration::from_secs(1)).await;
    let mut server = webhook.tls(1).await;
    let body = review(&pod());
    send(&mut server, BY_NAMESPACE, &body).await;
    assert_eq!(answer(&mut server).await.0, 200);
    let (mut silent, mut slow) = (webhook.tls(2).await, webhook.tls(3).await);
    let head = format!("POST {BY_NAMESPACE} HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: {}\r\n\r\n", body.len());
    slow.write_all(head.as_bytes()).await.unwrap();
    slow.write_all(&body[..10]).await.unwrap();
    // Closed, however that looks from here.
    let _ = silent.read(&mut [0]).await;
    slow.write_all(&body[10..]).await.unwrap();
    assert_eq!(answer(&mut slow).await.0, 200, "a review under way is not cut off");
    send(&mut server, BY_NAMESPACE, &body).await;
    assert_eq!(answer(&mut server).await.0, 200);
    assert_eq!(webhook.metric("remora_injector_connections_ended_total{reason=\"no_review\"}"), 1);
}

/// What strangers may hold connections with, beside silence.
#[derive(Debug, Clone, Copy)]
enum Slow {
    Handshake,
    ClientHello,
    Head,
    Body,
    HalfBody,
    AfterNonsense,
    AfterAReview,
}

async fn hold(webhook: &Webhook, how: Slow, last: u8) -> Box<dyn Send> {
    if matches!(how, Slow::Handshake | Slow::ClientHello) {
        let mut tcp = webhook.tcp(last).await;
        if matches!(how, Slow::ClientHello) {
            tcp.write_all(&[0x16, 3, 1, 2, 0, 1, 0]).await.unwrap();
        }
        return Box::new(tcp);
    }
    let mut tls = webhook.tls(last).await;
    let head = |bytes: usize| format!("POST {BY_POD} HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: {bytes}\r\n\r\n");
    match how {
        Slow::Head => tls.write_all(b"POST /inject").await.unwrap(),
        Slow::Body => tls.write_all(head(2 << 20).as_bytes()).await.unwrap(),
        Slow::HalfBody => {
            tls.write_all(head(2 << 20).as_bytes()).await.unwrap();
            // It may be sent away under way.
            let _ = tls.write_all(&vec![b' '; 1 << 20]).await;
        }
        Slow::AfterNonsense => {
            send(&mut tls, BY_POD, b"{}").await;
            assert_eq!(answer(&mut tls).await.0, 400);
        }
        _ => {
            send(&mut tls, BY_POD, &review(&pod())).await;
            assert_eq!(answer(&mut tls).await.0, 200);
        }
    }
    let _ = tls.flush().await;
    Box::new(tls)
}

#[tokio::test]
async fn nothing_that_is_slow_keeps_a_review_out_not_even_behind_the_same_address() {
    use Slow::{AfterAReview, AfterNonsense, Body, ClientHello, HalfBody, Handshake, Head};
    for how in [Handshake, ClientHello, Head, Body, HalfBody, AfterNonsense, AfterAReview] {
        for strangers in [[2, 3, 4, 5], [1, 1, 1, 1]] {
            let webhook = Webhook::start_in(Room::new(16, 4 << 20), PATIENCE * 2).await;
            let mut server = webhook.tls(1).await;
            send(&mut server, BY_NAMESPACE, &review(&pod())).await;
            assert_eq!(answer(&mut server).await.0, 200);
            let mut held = Vec::new();
            for last in strangers.into_iter().cycle().take(24) {
                held.push(hold(&webhook, how, last).await);
            }
            reviewed(&webhook, 1).await;
            // What carried a review before is still there, unless the strangers carried theirs from its own address.
            if !(matches!(how, AfterAReview) && strangers[0] == 1) {
                send(&mut server, BY_NAMESPACE, &review(&pod())).await;
                assert_eq!(answer(&mut server).await.0, 200, "{how:?} {strangers:?}");
            }
        }
    }
}

#[tokio::test]
async fn an_address_with_many_reviewed_connections_does_not_close_those_that_have_no_review_yet() {
    let webhook = Webhook::start_in(Room::new(16, 4 << 20), PATIENCE * 2).await;
    let mut held = Vec::new();
    for _ in 0..16 {
        held.push(hold(&webhook, Slow::AfterAReview, 2).await);
    }
    // An API server's, between its handshake and its first review.
    let mut server = webhook.tls(1).await;
    for _ in 0..6 {
        held.push(Box::new(webhook.tls(2).await));
    }
    send(&mut server, BY_NAMESPACE, &review(&pod())).await;
    assert_eq!(answer(&mut server).await.0, 200);
}
