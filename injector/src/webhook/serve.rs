//! The HTTPS server. In: a listener and the certificate as it changes. Out: answers.
//!
//! Bounded: connections and the bytes of their bodies by [`Room`], which makes room for new connections; handshakes, first
//! reviews, heads and bodies in time; each body in size; streams. A new certificate is for new connections; one that is open goes on. At the drain, HTTP/2 says GOAWAY and HTTP/1 closes after
//! the answer under way: API servers then open another connection, to another replica.

use super::{
    decide::Decider,
    room::{Gone, Place, Room},
    stats::Stats,
    timely::{Reviews, Timely},
};
use crate::{
    certificate::Serving,
    registration::{BY_NAMESPACE, BY_POD},
};
use axum::{
    Router,
    body::Body,
    extract::{Extension, Request, State},
    http::{StatusCode, header},
    response::{IntoResponse as _, Response},
    routing::post,
};
use http_body_util::BodyExt as _;
use hyper::{
    body::Incoming,
    service::{Service as _, service_fn},
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use remora_runtime::{accept, drain, slots::Slots};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    time::timeout,
};
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt as _;

/// A pod is 1.5 MB at most (etcd's limit); its review holds it once, and some words.
const BODY_BYTES_MAX: usize = 2 * 1024 * 1024;
/// What is read ahead of an HTTP/1 connection; a head must fit in it. An API server's has some 300 bytes.
const READ_BYTES_MAX: usize = 64 * 1024;
/// The API server waits no longer for the answer (`timeoutSeconds`).
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// A handshake takes two round trips.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// From a connection's beginning to its first answered review: an API server connects because it has one.
const FIRST_REVIEW_TIMEOUT: Duration = Duration::from_secs(10);
/// Connections at once, including those that are being closed. [`Room`] bounds them.
const ACCEPTED_MAX: usize = 1024;
/// Reviews under way on one connection; each may hold a body.
const STREAMS_MAX: u32 = 64;
/// How long an API server keeps a connection that it does not use (Go's `http.DefaultTransport`).
const API_SERVER_KEEPS: Duration = Duration::from_secs(90);
/// How long an HTTP/1 connection may be silent between reviews. API servers ask over HTTP/1, and do not ask again where the
/// connection closes under a question: the pod is refused. So it is they who close first. A head that has begun must come
/// within [`REQUEST_TIMEOUT`], as a body must.
const SILENCE_MAX: Duration = Duration::from_secs(150);
const _: () = assert!(SILENCE_MAX.as_secs() > API_SERVER_KEEPS.as_secs() + REQUEST_TIMEOUT.as_secs());
/// PING, so that a peer that vanished does not hold its connection.
const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// The ends of a connection, of either version of HTTP.
macro_rules! until_drained {
    ($connection:expr, $drain:expr) => {{
        let mut connection = std::pin::pin!($connection);
        let done = tokio::select! {
            done = connection.as_mut() => done,
            () = $drain.signaled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        done.map_err(|error| error.to_string())
    }};
}

/// Serves until `drain`, then finishes what is under way.
pub(crate) async fn serve(
    listener: TcpListener,
    serving: watch::Receiver<Option<Serving>>,
    decider: Arc<Decider>,
    drain: drain::Watch,
) {
    serve_in(Room::default(), FIRST_REVIEW_TIMEOUT, listener, serving, decider, drain).await;
}

/// As [`serve`], with this much room and time.
pub(super) async fn serve_in(
    room: Room,
    first_review: Duration,
    listener: TcpListener,
    serving: watch::Receiver<Option<Serving>>,
    decider: Arc<Decider>,
    drain: drain::Watch,
) {
    let stats = Arc::clone(&decider.stats);
    stats.show(room.clone());
    let router = router(decider);
    let slots = Slots::new(ACCEPTED_MAX, ACCEPTED_MAX);
    accept::each(listener, "webhook", slots, drain.clone(), |tcp, peer| {
        let tls = serving.borrow().as_ref()?.tls.clone();
        let place = Arc::new(room.enter(peer.ip(), Instant::now()));
        let (stats, drain) = (Arc::clone(&stats), drain.clone());
        let served = connection(tcp, TlsAcceptor::from(tls), router.clone(), Arc::clone(&place), drain);
        Some(bounded(served, place, first_review, stats))
    })
    .await;
}

fn router(decider: Arc<Decider>) -> Router {
    let by = |opted_in: bool| {
        post(
            async move |State(decider): State<Arc<Decider>>,
                        Extension(place): Extension<Arc<Place>>,
                        request: Request| {
                match timeout(REQUEST_TIMEOUT, read(&place, request)).await {
                    Ok(Ok(body)) => answer(&decider, &place, &body, opted_in),
                    Ok(Err(refused)) => refused,
                    Err(_) => (StatusCode::REQUEST_TIMEOUT, "the request did not come in time\n").into_response(),
                }
            },
        )
    };
    Router::new().route(BY_NAMESPACE, by(true)).route(BY_POD, by(false)).with_state(decider)
}

/// The whole body, if there is room for it; else what to answer.
async fn read(place: &Place, request: Request) -> Result<Vec<u8>, Response> {
    let too_large = || (StatusCode::PAYLOAD_TOO_LARGE, "a review is no larger than 2 MiB\n").into_response();
    let said = request.headers().get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    if said.is_some_and(|bytes: usize| bytes > BODY_BYTES_MAX) {
        return Err(too_large());
    }
    let (mut held, mut read, mut body) = (place.hold(), Vec::new(), request.into_body());
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| (StatusCode::BAD_REQUEST, format!("{error}\n")).into_response())?;
        let Ok(data) = frame.into_data() else { continue };
        if read.len() + data.len() > BODY_BYTES_MAX {
            return Err(too_large());
        }
        held.add(data.len(), Instant::now())
            .map_err(|Gone| (StatusCode::SERVICE_UNAVAILABLE, "there is no room for this body\n").into_response())?;
        read.extend_from_slice(&data);
    }
    Ok(read)
}

fn answer(decider: &Decider, place: &Place, body: &[u8], opted_in: bool) -> Response {
    match decider.answer(body, opted_in) {
        Ok(answer) => {
            place.reviewed(Instant::now());
            ([(header::CONTENT_TYPE, "application/json")], answer).into_response()
        }
        Err(problem) => (StatusCode::BAD_REQUEST, format!("{problem}\n")).into_response(),
    }
}

/// A connection, as long as it has its place and a review comes.
async fn bounded(
    served: impl Future<Output = Result<(), String>>,
    place: Arc<Place>,
    first_review: Duration,
    stats: Arc<Stats>,
) -> Result<(), String> {
    let late = async {
        tokio::time::sleep(first_review).await;
        // An API server may have kept it for later, and does not ask again what is cut off under way.
        if !place.has_reviewed() && place.is_reading() {
            tokio::time::sleep(REQUEST_TIMEOUT).await;
        }
        if place.has_reviewed() {
            std::future::pending().await
        }
    };
    tokio::select! {
        done = served => done,
        () = place.taken() => Err("closed to make room".to_owned()),
        () = late => {
            stats.no_review();
            Err("no review came in time".to_owned())
        }
    }
}

async fn connection(
    tcp: TcpStream,
    acceptor: TlsAcceptor,
    router: Router,
    place: Arc<Place>,
    drain: drain::Watch,
) -> Result<(), String> {
    tcp.set_nodelay(true).map_err(|error| error.to_string())?;
    let tls = timeout(HANDSHAKE_TIMEOUT, acceptor.accept(tcp)).await.map_err(|_| "no handshake in time".to_owned())?;
    let tls = tls.map_err(|error| error.to_string())?;
    let is_http2 = tls.get_ref().1.alpn_protocol() == Some(b"h2");
    let service = router.map_request(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(Arc::clone(&place));
        request.map(Body::new)
    });
    let service = TowerToHyperService::new(service);
    if is_http2 {
        let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS_MAX)
            .keep_alive_interval(KEEP_ALIVE)
            .serve_connection(TokioIo::new(tls), service);
        return until_drained!(connection, drain);
    }
    let reviews = Reviews::default();
    let timely = Timely::new(tls, reviews.clone(), REQUEST_TIMEOUT);
    let counted = service_fn(move |request| {
        let (review, answer) = (reviews.begin(), service.call(request));
        async move {
            let answer = answer.await;
            drop(review);
            answer
        }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(SILENCE_MAX)
        .max_buf_size(READ_BYTES_MAX)
        .serve_connection(TokioIo::new(timely), counted);
    until_drained!(connection, drain)
}
