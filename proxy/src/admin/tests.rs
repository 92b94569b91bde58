//! The admin port over real sockets.

use super::*;
use crate::telemetry::{Counters, Direction, Journal, Proto, Reason, Tls};
use remora_runtime::admin::Readiness;
use std::{
    net::SocketAddr,
    sync::atomic::{AtomicBool, Ordering::SeqCst},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// An admin port, and what was done to it.
struct Admin {
    at: SocketAddr,
    ready: Readiness,
    drained: Arc<AtomicBool>,
    signal: drain::Signal,
    served: tokio::task::JoinHandle<()>,
}

/// A request that timed out after a second.
fn fail_once(routes: &Arc<Routes>) {
    let counters = Counters::new(Journal::new(routes), Direction::Outbound, "shop/api:8080".into(), Vec::new());
    let request = http::Request::get("/").body(()).unwrap();
    let started = Instant::now();
    let mut begun = counters.request(None, &request, Proto::Http1, (&"".into(), Tls::Mtls), started);
    begun.failure(Reason::Timeout, started + Duration::from_secs(1));
}

impl Admin {
    async fn start() -> Self {
        let routes = Routes::new("shop/web-1".into());
        fail_once(&routes);
        let drained = Arc::new(AtomicBool::new(false));
        let is_drained = drained.clone();
        let ready = Readiness::new();
        ready.waiting("identity", "no certificate yet");
        let state = AdminState {
            common: admin::Admin::new(ready.clone()),
            routes,
            config: Arc::new(|| json!({"mode": "explicit"})),
            certificate: Arc::new(|| json!({"serial": "0a"})),
            probes: probe::Asked::default(),
            hosts: Vec::new(),
            drain: Arc::new(move || is_drained.store(true, SeqCst)),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let (signal, stop) = drain::channel();
        let served = tokio::spawn(serve(listener, state, stop));
        Self { at, ready, drained, signal, served }
    }

    /// Sends bytes and reads until the end.
    async fn raw(&self, bytes: &[u8]) -> String {
        let mut stream = TcpStream::connect(self.at).await.unwrap();
        // The server may refuse before it has read everything.
        let _ = stream.write_all(bytes).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8(answer).unwrap()
    }

    async fn ask(&self, method: &str, path: &str, headers: &str, body: &str) -> String {
        let length = body.len();
        let request =
            format!("{method} {path} HTTP/1.1\r\nconnection: close\r\ncontent-length: {length}\r\n{headers}\r\n{body}");
        self.raw(request.as_bytes()).await
    }

    async fn get(&self, path: &str) -> String {
        self.ask("GET", path, &format!("host: {}\r\n", self.at), "").await
    }
}

#[track_caller]
fn check(answer: &str, status: &str, contains: &str) {
    assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
    assert!(answer.contains(contains), "no {contains:?} in {answer}");
}

fn body(answer: &str) -> Value {
    serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap()
}

#[tokio::test]
async fn every_path_answers() {
    let admin = Admin::start().await;
    check(&admin.get("/").await, "200", "<!doctype html>");
    check(&admin.get("/live").await, "200", "live");
    check(&admin.get("/nothing").await, "404", "/log-level");
    assert_eq!(body(&admin.get("/routes").await)["routes"][0]["requests"], 1);
    assert_eq!(body(&admin.get("/errors").await)["errors"][0]["reason"], "timeout");
    assert_eq!(body(&admin.get("/config").await)["mode"], "explicit");
    assert_eq!(body(&admin.get("/certificate").await)["serial"], "0a");
    let metrics = admin.get("/metrics").await;
    check(&metrics, "200", "# HELP remora_requests_total ");
    check(&metrics, "200", "content-type: text/plain; version=0.0.4");
    check(&metrics, "200", "x-content-type-options: nosniff");
}

#[tokio::test]
async fn readiness_tells_what_is_missing() {
    let admin = Admin::start().await;
    check(&admin.get("/ready").await, "503", "identity: no certificate yet");
    admin.ready.ready("identity");
    check(&admin.get("/ready").await, "200", "ready");
}

#[tokio::test]
async fn drain_needs_a_post_and_no_foreign_page_can_send_it() {
    let admin = Admin::start().await;
    check(&admin.get("/drain").await, "405", "");
    let foreign = format!("host: {}\r\norigin: http://evil.example\r\n", admin.at);
    check(&admin.ask("POST", "/drain", &foreign, "").await, "403", "another origin");
    assert!(!admin.drained.load(SeqCst));
    check(&admin.ask("POST", "/drain", "host: localhost\r\n", "").await, "202", "draining");
    assert!(admin.drained.load(SeqCst));
}

#[tokio::test]
async fn a_rebound_name_sees_only_what_is_open_to_all() {
    let admin = Admin::start().await;
    let host = "host: evil.example\r\n";
    for path in ["/", "/routes", "/config", "/errors", "/certificate", "/log-level", "/nothing"] {
        check(&admin.ask("GET", path, host, "").await, "403", "IP address or localhost");
    }
    for path in ["/live", "/metrics"] {
        check(&admin.ask("GET", path, host, "").await, "200", "");
    }
}

#[tokio::test]
async fn it_stops_although_a_client_holds_a_connection() {
    let admin = Admin::start().await;
    let idle = TcpStream::connect(admin.at).await.unwrap();
    check(&admin.get("/live").await, "200", "");
    admin.signal.drain().await;
    admin.served.await.unwrap();
    drop(idle);
}
