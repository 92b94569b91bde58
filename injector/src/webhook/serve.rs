//! The HTTPS server. In: a listener and the certificate as it changes. Out: answers.
//!
//! Bounded: connections in all and from one address, handshakes, heads and bodies in time, bodies in size, each and all
//! together (whoever finds this port may send some), streams. A new
//! certificate is for new connections; one that is open goes on. At the drain, HTTP/2 says GOAWAY and HTTP/1 closes after
//! the answer under way: API servers then open another connection, to another replica.

use super::decide::Decider;
use super::timely::{Reviews, Timely};
use crate::certificate::Serving;
use crate::registration::{BY_NAMESPACE, BY_POD};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use hyper::body::Incoming;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use remora_runtime::slots::Slots;
use remora_runtime::{accept, drain};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt as _;

/// A pod is 1.5 MB at most (etcd's limit); its review holds it once, and some words.
const BODY_BYTES_MAX: u32 = 2 * 1024 * 1024;
/// Bodies that are being read, all together; what comes beyond waits. Once read, they are judged one after the other.
const BODIES_BYTES_MAX: u32 = 32 * 1024 * 1024;
/// The API server waits no longer for the answer (`timeoutSeconds`).
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// A handshake takes two round trips.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// API servers have one connection each, or a few.
const CONNECTIONS_MAX: usize = 256;
/// See [`CONNECTIONS_MAX`].
const PER_ADDRESS_MAX: usize = 64;
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
    let router = router(decider);
    let slots = Slots::new(CONNECTIONS_MAX, PER_ADDRESS_MAX);
    accept::each(listener, "webhook", slots, drain.clone(), |tcp, _| {
        let tls = serving.borrow().as_ref()?.tls.clone();
        Some(connection(tcp, TlsAcceptor::from(tls), router.clone(), drain.clone()))
    })
    .await;
}

fn router(decider: Arc<Decider>) -> Router {
    let by = |opted_in: bool| {
        post(async move |State(decider): State<Arc<Decider>>, body: Bytes| answer(&decider, &body, opted_in))
    };
    Router::new()
        .route(BY_NAMESPACE, by(true))
        .route(BY_POD, by(false))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX as usize))
        .layer(from_fn_with_state(Arc::new(Semaphore::new(BODIES_BYTES_MAX as usize)), in_bounds))
        .with_state(decider)
}

/// Reads and answers within the time there is, once there is room for the body.
async fn in_bounds(State(room): State<Arc<Semaphore>>, request: Request, next: Next) -> Response {
    let said = request.headers().get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    let bytes = said.unwrap_or(BODY_BYTES_MAX).min(BODY_BYTES_MAX);
    let answered = async {
        let _room = room.acquire_many(bytes).await;
        next.run(request).await
    };
    match timeout(REQUEST_TIMEOUT, answered).await {
        Ok(response) => response,
        Err(_) => (StatusCode::REQUEST_TIMEOUT, "the request did not come in time\n").into_response(),
    }
}

fn answer(decider: &Decider, body: &[u8], opted_in: bool) -> Response {
    match decider.answer(body, opted_in) {
        Ok(answer) => ([(header::CONTENT_TYPE, "application/json")], answer).into_response(),
        Err(problem) => (StatusCode::BAD_REQUEST, format!("{problem}\n")).into_response(),
    }
}

async fn connection(tcp: TcpStream, acceptor: TlsAcceptor, router: Router, drain: drain::Watch) -> Result<(), String> {
    tcp.set_nodelay(true).map_err(|error| error.to_string())?;
    let tls = timeout(HANDSHAKE_TIMEOUT, acceptor.accept(tcp)).await.map_err(|_| "no handshake in time".to_owned())?;
    let tls = tls.map_err(|error| error.to_string())?;
    let is_http2 = tls.get_ref().1.alpn_protocol() == Some(b"h2");
    let service = router.map_request(|request: hyper::Request<Incoming>| request.map(Body::new));
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
        .serve_connection(TokioIo::new(timely), counted);
    until_drained!(connection, drain)
}
