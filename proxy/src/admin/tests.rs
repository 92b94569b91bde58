//! The admin port over real sockets.

use super::*;
use crate::{
    inspect,
    telemetry::{Counters, Direction, Journal, Proto, Reason, Tls},
};
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
            inspect: inspect::channel(0).0,
            saturation: Saturation::of(1000, None),
            discovery: Arc::new(|| json!({"state": "open"})),
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
    let signals = body(&admin.get("/signals").await);
    assert_eq!((&signals["routes"][0]["route"], &signals["discovery"]["state"]), (&json!("GET /"), &json!("open")));
    assert_eq!((&signals["backends"], &signals["saturation"]["memory_limit_bytes"]), (&json!([]), &json!(1000)));
    let id = &signals["routes"][0]["id"];
    assert_eq!(body(&admin.get(&format!("/signals/heatmap?route={id}")).await)["step_s"], 10);
    check(&admin.get("/signals/heatmap?route=999").await, "404", "no route has the id 999");
    let metrics = admin.get("/metrics").await;
    check(&metrics, "200", "# HELP remora_requests_total ");
    check(&metrics, "200", "content-type: text/plain; version=0.0.4");
    check(&metrics, "200", "x-content-type-options: nosniff");
}

/// The names and words of a table of the page, in its order: `const NAME = { name: "words", … };`.
fn words_of(table: &str) -> Vec<(&'static str, &'static str)> {
    let (_, rest) = PAGE.split_once(&format!("const {table} = {{\n")).expect("the page has the table");
    let (lines, _) = rest.split_once("\n};").expect("the table ends");
    let pair = |line: &'static str| line.trim().strip_suffix("\",")?.split_once(": \"");
    lines.lines().map(|line| pair(line).unwrap_or_else(|| panic!("no name and words: {line}"))).collect()
}

#[test]
fn every_reason_and_fault_has_its_words_in_the_page() {
    let mut reasons: Vec<_> = Reason::ALL.iter().map(|reason| reason.as_str()).chain(["status_5xx"]).collect();
    let mut faults: Vec<_> = Reason::ALL.iter().map(|reason| reason.fault().as_str()).collect();
    for (table, named) in [("REASONS", &mut reasons), ("FAULTS", &mut faults)] {
        named.sort_unstable();
        named.dedup();
        let words = words_of(table);
        let mut told: Vec<_> = words.iter().map(|(name, _)| *name).collect();
        told.sort_unstable();
        assert_eq!(told, *named, "{table}");
        let empty: Vec<_> = words.iter().filter(|(_, words)| !words.contains(' ')).collect();
        assert!(empty.is_empty(), "{table}: not in words: {empty:?}");
    }
}

#[test]
fn the_page_is_small_asks_nobody_else_and_parses_no_text_as_html() {
    assert!(PAGE.len() < 80_000, "{} bytes", PAGE.len());
    let addresses: Vec<_> = PAGE.match_indices("://").map(|(at, _)| &PAGE[at.saturating_sub(6)..at + 12]).collect();
    // The name of SVG, and of identities: neither is asked.
    let asked = addresses.iter().filter(|text| !text.contains("http://www.w3.o") && !text.contains("spiffe"));
    assert_eq!(asked.collect::<Vec<_>>(), Vec::<&&str>::new());
    for danger in
        ["innerHTML", "outerHTML", "insertAdjacent", "document.write", "DOMParser", "setHTML", "srcdoc", "eval("]
    {
        assert!(!PAGE.contains(danger), "{danger}");
    }
}

#[tokio::test]
async fn tap_finds_what_a_filter_takes_and_says_what_is_wrong_with_one() {
    let admin = Admin::start().await;
    let found = body(&admin.get("/tap?filter=reason%3Dtimeout%20and%20ms%3E%3D1000").await);
    assert_eq!((found["records"].as_array().unwrap().len(), &found["seen"]), (1, &json!(1)));
    assert_eq!(body(&admin.get("/tap?filter=status%3D200").await)["records"], json!([]));
    assert_eq!(body(&admin.get("/tap?last=0").await)["records"], json!([]));
    for path in ["/tap?filter=stauts%3D1", "/tap/live?filter=stauts%3D1"] {
        check(&admin.get(path).await, "400", "filter, character 1: there is no field `stauts`");
    }
}

/// A reader of what happens, behind the head of the answer.
async fn follow(admin: &Admin, path: &str) -> TcpStream {
    let mut stream = TcpStream::connect(admin.at).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: {}\r\n\r\n", admin.at);
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}

/// Reads until `text` came.
async fn until(stream: &mut TcpStream, text: &str) -> String {
    let mut read = String::new();
    while !read.contains(text) {
        let mut some = [0; 4096];
        let n = stream.read(&mut some).await.unwrap();
        assert!(n > 0, "no {text:?} in {read}");
        read.push_str(&String::from_utf8_lossy(&some[..n]));
    }
    read
}

#[tokio::test]
async fn a_reader_hears_all_at_first_and_then_of_changes_every_second() {
    let admin = Admin::start().await;
    let mut reader = follow(&admin, "/signals/live").await;
    let first = until(&mut reader, "event: change").await;
    assert!(first.contains("content-type: text/event-stream") && first.contains("event: all\ndata: {"), "{first}");
    let change = until(&mut reader, "\n\n").await;
    assert!(change.contains(r#""gone":{"#), "{change}");
}

#[tokio::test]
async fn there_are_places_for_eight_readers_and_one_that_leaves_makes_room() {
    let admin = Admin::start().await;
    let mut readers = Vec::new();
    for _ in 0..limits::LIVE_READERS_MAX {
        let mut reader = follow(&admin, "/tap/live").await;
        until(&mut reader, "text/event-stream").await;
        readers.push(reader);
    }
    check(&admin.get("/signals/live").await, "503", "8 readers follow this proxy already");
    readers.pop();
    // The server hears of it with its next event.
    let mut again = follow(&admin, "/tap/live").await;
    let mut answer = until(&mut again, "\r\n\r\n").await;
    while answer.starts_with("HTTP/1.1 503") {
        again = follow(&admin, "/tap/live").await;
        answer = until(&mut again, "\r\n\r\n").await;
    }
    assert!(answer.contains("text/event-stream"), "{answer}");
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
    for path in [
        "/",
        "/signals",
        "/signals/live",
        "/tap",
        "/tap/live",
        "/routes",
        "/config",
        "/errors",
        "/certificate",
        "/log-level",
        "/nothing",
    ] {
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
    let mut reader = follow(&admin, "/signals/live").await;
    until(&mut reader, "event: all").await;
    check(&admin.get("/live").await, "200", "");
    admin.signal.drain().await;
    admin.served.await.unwrap();
    drop(idle);
}
