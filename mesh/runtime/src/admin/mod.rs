//! The admin port: `/live`, `/ready` with reasons, `/metrics`, `/log-level`, and whatever a component adds.
//!
//! Bounded: so many connections at once, header and idle times, body size. What would change the process answers only
//! to the pod itself ([`local_only`]), and never to a foreign web page in a browser on this machine ([`origin`]); probes
//! and scrapers may come from anywhere.

mod origin;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{Next, from_fn, map_response};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tokio::net::{TcpListener, TcpStream};
use tower::ServiceExt as _;

use crate::slots::Slots;
use crate::{accept, drain, log};

/// Probes of a pod's containers, a scraper or two, and a person.
const CONNECTIONS_MAX: usize = 256;
/// Of these from one address: whoever opens more shall not keep the kubelet's probes out, on which the pod's life depends.
const PER_ADDRESS_MAX: usize = 32;
/// A client that does not finish its request head within this is dropped.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// The longest body anybody sends here is a log filter.
const BODY_BYTES_MAX: usize = 8 * 1024;

/// Named conditions that must all hold before the process is ready.
#[derive(Debug, Clone, Default)]
pub struct Readiness(Arc<Mutex<BTreeMap<&'static str, Result<(), String>>>>);

impl Readiness {
    /// Nothing to wait for yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// `condition` holds.
    pub fn ready(&self, condition: &'static str) {
        self.set(condition, Ok(()));
    }

    /// `condition` does not hold, because of `why`.
    pub fn waiting(&self, condition: &'static str, why: impl Into<String>) {
        self.set(condition, Err(why.into()));
    }

    /// Every condition that does not hold, as `name: why`.
    #[must_use]
    pub fn reasons(&self) -> Vec<String> {
        let conditions = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let unmet = conditions.iter().filter_map(|(name, state)| Some((name, state.as_ref().err()?)));
        unmet.map(|(name, why)| format!("{name}: {why}")).collect()
    }

    fn set(&self, condition: &'static str, state: Result<(), String>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(condition, state);
    }
}

type Extra = Arc<dyn Fn() -> String + Send + Sync>;

/// What the common endpoints show.
#[derive(Clone)]
pub struct Admin {
    readiness: Readiness,
    log: Option<log::Handle>,
    metrics: Option<PrometheusHandle>,
    extra: Option<Extra>,
}

impl Admin {
    /// Endpoints over `readiness`; `/log-level` and `/metrics` stay empty until given something.
    #[must_use]
    pub fn new(readiness: Readiness) -> Self {
        Self { readiness, log: None, metrics: None, extra: None }
    }

    /// Makes `/log-level` read and write this filter.
    #[must_use]
    pub fn with_log(mut self, log: log::Handle) -> Self {
        self.log = Some(log);
        self
    }

    /// Makes `/metrics` show what the recorder has.
    #[must_use]
    pub fn with_metrics(mut self, metrics: PrometheusHandle) -> Self {
        self.metrics = Some(metrics);
        self
    }

    /// Appends text (in the Prometheus format) to `/metrics`: counters that are kept elsewhere for speed.
    #[must_use]
    pub fn with_extra_metrics(mut self, extra: impl Fn() -> String + Send + Sync + 'static) -> Self {
        self.extra = Some(Arc::new(extra));
        self
    }

    /// The common endpoints; merge your own into it.
    pub fn router(self) -> Router {
        let changing = local_only(Router::new().route("/log-level", get(read_level).put(write_level)));
        Router::new()
            .route("/live", get(|| async { "live\n" }))
            .route("/ready", get(ready))
            .route("/metrics", get(metrics))
            .merge(changing)
            .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
            .with_state(self)
    }
}

impl std::fmt::Debug for Admin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Admin").field("readiness", &self.readiness).finish_non_exhaustive()
    }
}

/// Installs the process's metrics recorder. Fails if there is one already.
pub fn install_metrics() -> Result<PrometheusHandle, String> {
    PrometheusBuilder::new().install_recorder().map_err(|e| e.to_string())
}

/// Both ends of the connection that a request came over; every request has it as an extension.
#[derive(Debug, Clone, Copy)]
pub struct Ends {
    /// Whoever asks.
    pub peer: SocketAddr,
    /// The address that was asked.
    pub local: SocketAddr,
}

/// Closes `router`'s routes to everybody but the pod itself.
pub fn local_only<S: Clone + Send + Sync + 'static>(router: Router<S>) -> Router<S> {
    router.route_layer(from_fn(async |request: Request, next: Next| {
        let local = request.extensions().get::<Ends>().is_some_and(|ends| {
            let peer = ends.peer.ip().to_canonical();
            peer.is_loopback() || peer == ends.local.ip().to_canonical()
        });
        if local {
            next.run(request).await
        } else {
            refused("not_local", &request);
            (StatusCode::FORBIDDEN, "only from inside the pod\n").into_response()
        }
    }))
}

/// Who asks for what he may not is to be found in the log and the metrics.
fn refused(reason: &'static str, request: &Request) {
    metrics::counter!("remora_admin_refused_total", "reason" => reason).increment(1);
    let peer = request.extensions().get::<Ends>().map(|ends| ends.peer.ip().to_canonical().to_string());
    tracing::warn!(reason, peer, path = ?request.uri().path(), "admin request refused");
}

/// Serves `router` until drained; then waits for open requests. Whatever the router holds is kept from foreign pages
/// and from caches.
pub async fn serve(listener: TcpListener, router: Router, drain: drain::Watch) {
    let router = router.layer(from_fn(origin::no_foreign_pages)).layer(map_response(common_headers));
    let slots = Slots::new(CONNECTIONS_MAX, PER_ADDRESS_MAX);
    accept::each(listener, "admin", slots, drain.clone(), |tcp, peer| {
        Some(connection(tcp, peer, router.clone(), drain.clone()))
    })
    .await;
}

async fn common_headers(response: Response) -> impl IntoResponse {
    ([(header::CACHE_CONTROL, "no-store"), (header::X_CONTENT_TYPE_OPTIONS, "nosniff")], response)
}

async fn connection(tcp: TcpStream, peer: SocketAddr, router: Router, drain: drain::Watch) -> Result<(), String> {
    let ends = Ends { peer, local: tcp.local_addr().map_err(|e| e.to_string())? };
    let service = router.map_request(move |mut request: hyper::Request<hyper::body::Incoming>| {
        request.extensions_mut().insert(ends);
        request.map(axum::body::Body::new)
    });
    let http = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .serve_connection(TokioIo::new(tcp), TowerToHyperService::new(service));
    let mut http = std::pin::pin!(http);
    let done = tokio::select! {
        done = http.as_mut() => done,
        () = drain.signaled() => {
            http.as_mut().graceful_shutdown();
            http.await
        }
    };
    done.map_err(|e| e.to_string())
}

async fn ready(State(admin): State<Admin>) -> Response {
    let reasons = admin.readiness.reasons();
    if reasons.is_empty() {
        return "ready\n".into_response();
    }
    (StatusCode::SERVICE_UNAVAILABLE, reasons.join("\n") + "\n").into_response()
}

async fn metrics(State(admin): State<Admin>) -> Response {
    let mut text = admin.metrics.as_ref().map(PrometheusHandle::render).unwrap_or_default();
    if let Some(extra) = &admin.extra {
        text.push_str(&extra());
    }
    ([("content-type", "text/plain; version=0.0.4")], text).into_response()
}

async fn read_level(State(admin): State<Admin>) -> String {
    admin.log.as_ref().map(log::Handle::filter).unwrap_or_default() + "\n"
}

async fn write_level(State(admin): State<Admin>, filter: String) -> Response {
    let Some(log) = &admin.log else {
        return (StatusCode::NOT_FOUND, "this process has no log filter\n").into_response();
    };
    match log.set(filter.trim()) {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(error) => (StatusCode::BAD_REQUEST, format!("{error}\n")).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    async fn ask(addr: SocketAddr, path: &str) -> String {
        ask_as(addr, "GET", path, &format!("host: {addr}")).await
    }

    async fn ask_as(addr: SocketAddr, method: &str, path: &str, headers: &str) -> String {
        let mut tcp = TcpStream::connect(addr).await.unwrap();
        let request = format!("{method} {path} HTTP/1.1\r\n{headers}\r\nconnection: close\r\n\r\n");
        tcp.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        tcp.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn readiness_names_what_is_missing_until_it_is_there() {
        let (signal, watch) = drain::channel();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let readiness = Readiness::new();
        readiness.waiting("certificate", "not issued yet");
        let admin = Admin::new(readiness.clone()).with_extra_metrics(|| "extra 1\n".into());
        let server = tokio::spawn(serve(listener, admin.router(), watch));
        assert!(ask(addr, "/live").await.starts_with("HTTP/1.1 200"));
        let answer = ask(addr, "/ready").await;
        assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("certificate: not issued yet"), "{answer}");
        readiness.ready("certificate");
        assert!(ask(addr, "/ready").await.starts_with("HTTP/1.1 200"));
        assert!(ask(addr, "/metrics").await.ends_with("extra 1\n"));
        assert!(ask(addr, "/log-level").await.starts_with("HTTP/1.1 200"));
        signal.drain().await;
        server.await.unwrap();
    }

    #[tokio::test]
    async fn one_address_cannot_keep_others_out() {
        let (signal, watch) = drain::channel();
        let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = tokio::spawn(serve(listener, Admin::new(Readiness::new()).router(), watch));
        let mut greedy = Vec::new();
        for _ in 0..CONNECTIONS_MAX {
            greedy.push(TcpStream::connect(("127.0.0.1", port)).await.unwrap());
        }
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind(([127, 0, 0, 2], 0).into()).unwrap();
        let mut other = socket.connect(([127, 0, 0, 1], port).into()).await.unwrap();
        other.write_all(b"GET /live HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        other.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        drop(greedy);
        signal.drain().await;
        server.await.unwrap();
    }

    #[tokio::test]
    async fn a_rebound_name_sees_only_what_is_open_to_all_and_a_foreign_page_changes_nothing() {
        let (signal, watch) = drain::channel();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let server = tokio::spawn(serve(listener, Admin::new(Readiness::new()).router(), watch));
        for (path, status) in [("/live", "200"), ("/ready", "200"), ("/metrics", "200"), ("/log-level", "403")] {
            let answer = ask_as(addr, "GET", path, "host: evil.example").await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{path}: {answer}");
        }
        let foreign = format!("host: {addr}\r\norigin: http://evil.example\r\ncontent-length: 0");
        let answer = ask_as(addr, "PUT", "/log-level", &foreign).await;
        assert!(answer.starts_with("HTTP/1.1 403") && answer.contains("another origin"), "{answer}");
        assert!(ask(addr, "/log-level").await.contains("x-content-type-options: nosniff"));
        signal.drain().await;
        server.await.unwrap();
    }
}
