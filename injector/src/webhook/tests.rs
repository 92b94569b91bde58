//! The webhook over real sockets.

use super::*;
use crate::certificate::{Serving, serving_for_tests};
use crate::pod::Defaults;
use crate::registration::{BY_NAMESPACE, BY_POD, Namespaces};
use remora_kube::events::Events;
use remora_runtime::drain;
use remora_runtime::tls::web;
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

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
        let served = tokio::spawn(serve(listener, serving, Arc::new(decider), stop));
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
