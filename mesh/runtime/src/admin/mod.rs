//! The admin port: `/live`, `/ready` with reasons, `/metrics`, `/log-level`, and whatever a component adds.
//!
//! Bounded: so many connections at once, with places of their own for the pod and its node ([`room`]), header and idle times,
//! body size, the cost of scrapes ([`scrape`]). What would change the process answers only
//! to the pod itself ([`local_only`]), and never to a foreign web page in a browser on this machine ([`origin`]); probes
//! and scrapers may come from anywhere.

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
pub mod exposition;
mod origin;
pub mod page;
mod room;
mod scrape;

use crate::{accept, drain, log, slots::Slots};
use axum::{
    Router,
    body::Bytes,
    extract::{DefaultBodyLimit, Request, State},
    http::{StatusCode, header},
    middleware::{Next, from_fn, map_response},
    response::{IntoResponse, Response},
    routing::get,
};
use exposition::{Form, Page};
use futures_util::future::BoxFuture;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use room::{Place, Room, Teller};
use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpListener,
};
use tower::ServiceExt as _;

/// A client that does not finish its request head within this is dropped.
const HEADER_TIMEOUT: Duration = Duration::from_secs(2);
/// A client that takes nothing of its answer for so long, or is silent otherwise, is dropped.
const SILENCE_MAX: Duration = Duration::from_secs(10);
/// What a connection reads ahead, the head of a request included, and what it has to write at once. hyper's own 400 KiB would
/// be 94 MB on all connections of other addresses.
const READ_BYTES_MAX: usize = 16 * 1024;
/// Fields of a head.
const HEADERS_MAX: usize = 64;
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

type Extra = Arc<dyn Fn(Form) -> Page + Send + Sync>;
type Alive = Arc<dyn Fn() -> BoxFuture<'static, Result<(), String>> + Send + Sync>;

/// What the common endpoints show.
#[derive(Clone)]
pub struct Admin {
    readiness: Readiness,
    log: Option<log::Handle>,
    metrics: Option<PrometheusHandle>,
    extra: Option<Extra>,
    alive: Option<Alive>,
    scrapes: Arc<scrape::Scrapes>,
}

impl Admin {
    /// Endpoints over `readiness`; `/log-level` and `/metrics` stay empty until given something.
    #[must_use]
    pub fn new(readiness: Readiness) -> Self {
        Self { readiness, log: None, metrics: None, extra: None, alive: None, scrapes: Arc::default() }
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

    /// Makes `/live` ask whatever does the work, which must answer in bounded time: what stands still, if anything does.
    #[must_use]
    pub fn with_alive(
        mut self,
        alive: impl Fn() -> BoxFuture<'static, Result<(), String>> + Send + Sync + 'static,
    ) -> Self {
        self.alive = Some(Arc::new(alive));
        self
    }

    /// Appends what this says to `/metrics`: counters that are kept elsewhere for speed. Of the form that was asked for it need only know
    /// whether that has room for more than the text.
    #[must_use]
    pub fn with_extra_metrics(mut self, extra: impl Fn(Form) -> Page + Send + Sync + 'static) -> Self {
        self.extra = Some(Arc::new(extra));
        self
    }

    /// The common endpoints; merge your own into it.
    pub fn router(self) -> Router {
        let changing = local_only(Router::new().route("/log-level", get(read_level).put(write_level)));
        Router::new()
            .route("/live", get(live))
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
    /// Any client.
    pub peer: SocketAddr,
    /// The address that was asked.
    pub local: SocketAddr,
    /// Whether the client is the pod itself, or its node.
    pub known: bool,
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
    crate::limited!(warn by reason, reason, peer, path = ?request.uri().path(), "admin request refused");
}

/// Serves `router` until drained; then waits for open requests. Whatever the router holds is kept from foreign pages
/// and from caches.
pub async fn serve(listener: TcpListener, router: Router, drain: drain::Watch) {
    serve_beside(listener, router, Vec::new(), drain).await;
}

/// The same, with connections kept free for the node that the pod runs on, whose addresses are `hosts`.
pub async fn serve_beside(listener: TcpListener, router: Router, hosts: Vec<IpAddr>, drain: drain::Watch) {
    let router = router.layer(from_fn(origin::no_foreign_pages)).layer(map_response(common_headers));
    let room = Room::new(hosts);
    // The room is the bound.
    let slots = Slots::new(usize::MAX, usize::MAX);
    accept::each(listener, "admin", slots, drain.clone(), |tcp, peer| {
        let local = tcp.local_addr().ok()?;
        let Some(place) = room.enter(peer.ip(), local.ip(), tokio::time::Instant::now()) else {
            metrics::counter!("remora_admin_refused_total", "reason" => "overloaded").increment(1);
            tracing::debug!(%peer, reason = "overloaded", "admin connection refused");
            return None;
        };
        let ends = Ends { peer, local, known: place.known };
        Some(connection(tcp, ends, place, router.clone(), drain.clone()))
    })
    .await;
}

async fn common_headers(response: Response) -> impl IntoResponse {
    ([(header::CACHE_CONTROL, "no-store"), (header::X_CONTENT_TYPE_OPTIONS, "nosniff")], response)
}

async fn connection(
    tcp: impl AsyncRead + AsyncWrite + Unpin,
    ends: Ends,
    place: Place,
    router: Router,
    drain: drain::Watch,
) -> Result<(), String> {
    let teller = place.teller();
    let tcp = Heard { io: tcp, teller: teller.clone() };
    let service = tower::service_fn(move |mut request: hyper::Request<hyper::body::Incoming>| {
        let answering = teller.answering();
        request.extensions_mut().insert(ends);
        let answer = router.clone().oneshot(request.map(axum::body::Body::new));
        async move {
            let answer = answer.await;
            drop(answering);
            answer
        }
    });
    let http = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(READ_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        .serve_connection(TokioIo::new(tcp), TowerToHyperService::new(service));
    let mut http = std::pin::pin!(http);
    let done = tokio::select! {
        done = http.as_mut() => done,
        () = drain.signaled() => {
            http.as_mut().graceful_shutdown();
            http.await
        }
        () = place.given_up() => return Err("its place was needed".to_owned()),
        () = silence(&place) => return Err("it was silent for too long".to_owned()),
    };
    done.map_err(|e| e.to_string())
}

async fn live(State(admin): State<Admin>) -> Response {
    let alive = match &admin.alive {
        Some(alive) => alive().await,
        None => Ok(()),
    };
    match alive {
        Ok(()) => "live\n".into_response(),
        Err(what) => {
            crate::limited!(error, what, "not live");
            (StatusCode::SERVICE_UNAVAILABLE, what + "\n").into_response()
        }
    }
}

/// A connection that tells its place of what the client takes of its answer.
struct Heard<S> {
    io: S,
    teller: Teller,
}

impl<S: AsyncRead + Unpin> AsyncRead for Heard<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Heard<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(cx, buf);
        if matches!(written, Poll::Ready(Ok(1..))) {
            self.teller.takes();
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// Returns once nothing was asked, answered or taken for [`SILENCE_MAX`]. Cancel safe.
async fn silence(place: &Place) {
    loop {
        let silent = place.silent_since().map_or(Duration::ZERO, |since| since.elapsed());
        match SILENCE_MAX.checked_sub(silent) {
            Some(left) if !left.is_zero() => tokio::time::sleep(left).await,
            _ => return,
        }
    }
}

async fn ready(State(admin): State<Admin>) -> Response {
    let reasons = admin.readiness.reasons();
    if reasons.is_empty() {
        return "ready\n".into_response();
    }
    (StatusCode::SERVICE_UNAVAILABLE, reasons.join("\n") + "\n").into_response()
}

async fn metrics(State(admin): State<Admin>, request: Request) -> Response {
    let accepts = request.headers().get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let form = Form::asked(&accepts.collect::<Vec<_>>().join(","));
    let render = || {
        let mut page = Page::from(admin.metrics.as_ref().map(PrometheusHandle::render).unwrap_or_default());
        if let Some(extra) = &admin.extra {
            let Page { text, details } = extra(form);
            page.text.push_str(&text);
            page.details = details;
        }
        form.write(page)
    };
    let stranger = request.extensions().get::<Ends>().filter(|ends| !ends.known).map(|ends| ends.peer.ip());
    let page = match stranger {
        None => Bytes::from(render()),
        Some(peer) => match admin.scrapes.page(form, peer, Instant::now(), render) {
            Some(page) => page,
            None => {
                metrics::counter!("remora_admin_refused_total", "reason" => "scrapes").increment(1);
                let often = "this address scrapes more often than once a second\n";
                return (StatusCode::TOO_MANY_REQUESTS, [(header::RETRY_AFTER, "1")], often).into_response();
            }
        },
    };
    ([(header::CONTENT_TYPE, form.content_type())], page).into_response()
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
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpStream,
    };

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
        let admin = Admin::new(readiness.clone()).with_extra_metrics(|_| "extra 1\n".to_owned().into());
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

    /// A connection from an address of its own.
    async fn dial_from(from: [u8; 4], port: u16) -> TcpStream {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind((from, 0).into()).unwrap();
        socket.connect(([127, 0, 0, 1], port).into()).await.unwrap()
    }

    #[tokio::test]
    async fn what_stands_still_is_not_live() {
        let (signal, watch) = drain::channel();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let stuck = || Box::pin(async { Err("worker-1 stands still".to_owned()) }) as BoxFuture<'static, _>;
        let server = tokio::spawn(serve(listener, Admin::new(Readiness::new()).with_alive(stuck).router(), watch));
        let answer = ask(addr, "/live").await;
        assert!(answer.starts_with("HTTP/1.1 503") && answer.ends_with("worker-1 stands still\n"), "{answer}");
        signal.drain().await;
        server.await.unwrap();
    }

    #[tokio::test]
    async fn nobody_keeps_another_out_by_silence_from_however_many_addresses() {
        let (signal, watch) = drain::channel();
        let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = tokio::spawn(serve(listener, Admin::new(Readiness::new()).router(), watch));
        let mut silent = Vec::new();
        for number in 0..u8::try_from(room::STRANGERS_MAX).unwrap() {
            for _ in 0..2 {
                silent.push(dial_from([127, 9, number % 9, 1 + number], port).await);
            }
        }
        for asker in [[127, 0, 0, 1], [127, 8, 0, 1], [127, 9, 0, 1]] {
            let mut other = dial_from(asker, port).await;
            other.write_all(b"GET /live HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await.unwrap();
            let mut answer = String::new();
            other.read_to_string(&mut answer).await.unwrap();
            assert!(answer.starts_with("HTTP/1.1 200"), "{asker:?}: {answer}");
        }
        drop(silent);
        signal.drain().await;
        server.await.unwrap();
    }

    #[tokio::test]
    async fn a_stranger_who_scrapes_without_end_is_told_to_wait_and_the_pod_is_not() {
        let (signal, watch) = drain::channel();
        let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = tokio::spawn(serve(listener, Admin::new(Readiness::new()).router(), watch));
        for (from, refused) in [([127, 9, 0, 9], true), ([127, 0, 0, 1], false)] {
            let mut answers = String::new();
            for _ in 0..20 {
                let mut tcp = dial_from(from, port).await;
                tcp.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
                tcp.read_to_string(&mut answers).await.unwrap();
            }
            assert_eq!(answers.contains("HTTP/1.1 429 ") && answers.contains("retry-after: 1"), refused, "{answers}");
            assert!(answers.starts_with("HTTP/1.1 200 "), "{answers}");
        }
        signal.drain().await;
        server.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_not_cut_while_it_is_read_and_is_when_nobody_reads_it() {
        let (_signal, watch) = drain::channel();
        let text = "metric 1\n".repeat(20_000);
        let admin = Admin::new(Readiness::new()).with_extra_metrics(move |_| text.clone().into());
        let (room, local) = (Room::new(Vec::new()), SocketAddr::from(([127, 0, 0, 1], 4191)));
        for (pause, whole) in [(SILENCE_MAX / 2, true), (SILENCE_MAX * 2, false)] {
            let (mut client, server) = tokio::io::duplex(4096);
            let place = room.enter(local.ip(), local.ip(), tokio::time::Instant::now()).unwrap();
            let ends = Ends { peer: local, local, known: true };
            let serving = tokio::spawn(connection(server, ends, place, admin.clone().router(), watch.clone()));
            client.write_all(b"GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await.unwrap();
            let (mut answer, mut piece) = (Vec::new(), [0; 16 * 1024]);
            loop {
                tokio::time::sleep(pause).await;
                match client.read(&mut piece).await.unwrap() {
                    0 => break,
                    read => answer.extend_from_slice(&piece[..read]),
                }
            }
            assert_eq!(answer.len() > 20_000 * 9, whole, "{} bytes, a piece every {pause:?}", answer.len());
            assert_eq!(serving.await.unwrap().is_ok(), whole);
        }
    }

    #[tokio::test]
    async fn a_head_has_its_bounds_in_bytes_and_fields() {
        let (signal, watch) = drain::channel();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let server = tokio::spawn(serve(listener, Admin::new(Readiness::new()).router(), watch));
        let fields = |count: usize, bytes: usize| -> String {
            let field = |i| format!("\r\nx-{i}: {}", "v".repeat(bytes));
            (0..count).map(field).collect()
        };
        for (fields, status) in [(fields(60, 200), "200"), (fields(63, 1), "431"), (fields(1, READ_BYTES_MAX), "431")] {
            let answer = ask_as(addr, "GET", "/live", &format!("host: {addr}{fields}")).await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{} bytes: {answer}", fields.len());
        }
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
