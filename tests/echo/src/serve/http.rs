//! HTTP: every path answers with what the server received; a few do something else.
//!
//! | path | answer |
//! |--|--|
//! | `/status/503` | that status |
//! | `/fail?every=5&status=503` | every fifth request of the server fails |
//! | `/slow?for=250ms` | what was received, that much later |
//! | `/retry/…?uuid=ID&succeedAfter=2&responseCode=503` | the first two requests of that ID fail, `delayRetry=250ms` later |
//! | `/heard?of=ID` | how many requests had `uuid=ID` |
//! | any, with `delay=250ms` | what was received, that much later |
//! | `/drip?pieces=10&every=100ms` | a body in pieces |
//! | `/bytes?size=65536` | a body of that size |
//! | `/mirror` | the request's own body |
//! | `/live`, `/ready` | 200 or 503; `/set?live=false`, `/set?ready=true` say which |
//! | any, with `Upgrade: websocket` | messages come back |
//! | `/grpc.health.v1.Health/Check` | whether it is ready |
//! | any, with `content-type: application/grpc` | what was received, as a gRPC message; `/status/N` is the gRPC status |

use super::App;
use crate::{
    body::{Body, dripping, whole, with_trailers},
    drain::drained,
    grpc, text, websocket,
};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::BodyExt as _;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::watch,
    task::JoinSet,
};

/// Larger bodies are not made.
const BYTES_MAX: usize = 64 << 20;
/// What `/bytes` gives unless told.
const BYTES: usize = 64 << 10;

/// What is known of a connection.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) peer: SocketAddr,
    pub(super) local: SocketAddr,
    pub(super) alpn: Option<String>,
}

pub(super) async fn serve<S>(stream: S, seen: Seen, app: Arc<App>) -> anyhow::Result<()>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let seen = Arc::new(seen);
    // The WebSockets of this connection: it waits for them.
    let upgraded = Arc::new(Mutex::new(JoinSet::new()));
    let service = {
        let (app, upgraded) = (Arc::clone(&app), Arc::clone(&upgraded));
        service_fn(move |mut request: Request<Incoming>| {
            let (seen, app) = (Arc::clone(&seen), Arc::clone(&app));
            let switched = web_socket_key(&request).map(|key| {
                let (upgrade, draining) = (hyper::upgrade::on(&mut request), app.draining.clone());
                upgraded.lock().unwrap_or_else(PoisonError::into_inner).spawn(web_socket(upgrade, draining));
                switching(&key)
            });
            async move {
                Ok::<_, Infallible>(match switched {
                    Some(response) => response,
                    None => answer(request, &seen, &app).await,
                })
            }
        })
    };
    let builder = auto::Builder::new(TokioExecutor::new());
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let mut draining = app.draining.clone();
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = drained(&mut draining) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    let mut upgraded = std::mem::take(&mut *upgraded.lock().unwrap_or_else(PoisonError::into_inner));
    while upgraded.join_next().await.is_some() {}
    ended.map_err(anyhow::Error::from_boxed)
}

async fn web_socket(upgrade: hyper::upgrade::OnUpgrade, draining: watch::Receiver<bool>) {
    if let Ok(stream) = upgrade.await {
        // A client that goes away is no news.
        drop(websocket::echo(TokioIo::new(stream), draining).await);
    }
}

fn web_socket_key(request: &Request<Incoming>) -> Option<String> {
    let upgrade = request.headers().get(header::UPGRADE)?.to_str().ok()?;
    let key = request.headers().get(header::SEC_WEBSOCKET_KEY)?.to_str().ok()?;
    upgrade.eq_ignore_ascii_case("websocket").then(|| key.to_owned())
}

fn switching(key: &str) -> Response<Body> {
    let mut response = status(StatusCode::SWITCHING_PROTOCOLS, "");
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    response.headers_mut().insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    if let Ok(accept) = HeaderValue::from_str(&websocket::accept(key)) {
        response.headers_mut().insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    }
    response
}

async fn answer(request: Request<Incoming>, seen: &Seen, app: &App) -> Response<Body> {
    let number = app.requests.fetch_add(1, Ordering::Relaxed) + 1;
    let text = request.uri().query().unwrap_or_default().to_owned();
    let query = |name: &str| asked(&text, name);
    let wait = |name: &str| query(name).and_then(|value| text::duration(value).ok());
    let path = request.uri().path();
    if request.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
    {
        return call(request, seen, app).await;
    }
    if let Some(code) = path.strip_prefix("/status/") {
        let code = code.parse().ok().and_then(|code| StatusCode::from_u16(code).ok());
        return status(code.unwrap_or(StatusCode::BAD_REQUEST), "");
    }
    let earlier = query("uuid").map_or(0, |name| app.heard.note(name));
    if path.starts_with("/retry/")
        && let Some(failure) = not_yet(&text, earlier).await
    {
        return failure;
    }
    match path {
        "/heard" => {
            let count = query("of").map_or(0, |name| app.heard.count(name));
            Response::new(whole(format!("Heard={count}\n")))
        }
        "/live" => word(app.live.load(Ordering::Relaxed)),
        "/ready" => word(app.ready.load(Ordering::Relaxed)),
        // Without a question it is a path like others: the Gateway API's suite asks for it.
        "/set" if request.uri().query().is_some() => {
            for (name, state) in [("live", &app.live), ("ready", &app.ready)] {
                if let Some(value) = query(name) {
                    state.store(value == "true", Ordering::Relaxed);
                }
            }
            status(StatusCode::OK, "set\n")
        }
        "/fail" => {
            let every = query("every").and_then(|every| every.parse().ok()).unwrap_or(1_u64).max(1);
            let code = query("status").and_then(|code| code.parse().ok()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            if number.is_multiple_of(every) {
                status(code, "asked to fail\n")
            } else {
                received(request, seen, app).await
            }
        }
        "/slow" => {
            tokio::time::sleep(wait("for").unwrap_or(Duration::from_secs(1))).await;
            received(request, seen, app).await
        }
        "/drip" => {
            let pieces = query("pieces").and_then(|pieces| pieces.parse().ok()).unwrap_or(10);
            let pause = wait("every").unwrap_or(Duration::from_millis(100));
            Response::new(dripping(Bytes::from_static(b"drip\n"), pieces, pause))
        }
        "/bytes" => {
            let size = query("size").and_then(|size| size.parse().ok()).unwrap_or(BYTES).min(BYTES_MAX);
            Response::new(whole(vec![b'x'; size]))
        }
        "/mirror" => match request.into_body().collect().await {
            Ok(body) => Response::new(whole(body.to_bytes())),
            Err(_) => status(StatusCode::BAD_REQUEST, "the body ended early\n"),
        },
        _ => {
            tokio::time::sleep(wait("delay").unwrap_or_default()).await;
            received(request, seen, app).await
        }
    }
}

/// A parameter of a query.
fn asked<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    query.split('&').filter_map(|pair| pair.split_once('=')).find(|(found, _)| *found == name).map(|(_, value)| value)
}

/// The failure that a request asks for until it came so often; `earlier` were before this one.
async fn not_yet(query: &str, earlier: u32) -> Option<Response<Body>> {
    let wanted: u32 = asked(query, "succeedAfter")?.parse().ok()?;
    if earlier >= wanted {
        return None;
    }
    let delay = asked(query, "delayRetry").and_then(|value| text::duration(value).ok());
    tokio::time::sleep(delay.unwrap_or_default()).await;
    let code = asked(query, "responseCode").and_then(|code| code.parse().ok());
    Some(status(code.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), "not yet\n"))
}

fn word(good: bool) -> Response<Body> {
    if good { status(StatusCode::OK, "ok\n") } else { status(StatusCode::SERVICE_UNAVAILABLE, "not now\n") }
}

fn status(status: StatusCode, text: &'static str) -> Response<Body> {
    let mut response = Response::new(whole(text));
    *response.status_mut() = status;
    response
}

/// Says what was received.
async fn received(request: Request<Incoming>, seen: &Seen, app: &App) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let Ok(body) = body.collect().await else { return status(StatusCode::BAD_REQUEST, "the body ended early\n") };
    let mut response = Response::new(whole(facts(&parts, body.to_bytes().len(), seen, app)));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    response
}

/// A gRPC call to any method; a method that ends in `/status/N` has that status.
async fn call(request: Request<Incoming>, seen: &Seen, app: &App) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let said = body.collect().await.ok().and_then(|body| grpc::decode(&body.to_bytes()).ok());
    let wanted = parts.uri.path().rsplit_once("/status/").map(|(_, code)| code);
    let (code, message) = match (said, wanted) {
        (None, _) => ("13", Bytes::new()),
        (Some(_), Some(code)) => (code, Bytes::new()),
        (Some(_), None) if parts.uri.path() == grpc::HEALTH => ("0", grpc::health(app.ready.load(Ordering::Relaxed))),
        (Some(said), None) => ("0", grpc::encode(&format!("{}Echo={said}\n", facts(&parts, said.len(), seen, app)))),
    };
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_str(code).unwrap_or(HeaderValue::from_static("3")));
    let mut response = Response::new(with_trailers(message, trailers));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

/// One fact a line, by the names that the conformance suite knows.
fn facts(parts: &http::request::Parts, length: usize, seen: &Seen, app: &App) -> String {
    let host = parts.headers.get(header::HOST).map(|host| String::from_utf8_lossy(host.as_bytes()).into_owned());
    let host = host.or_else(|| parts.uri.authority().map(ToString::to_string)).unwrap_or_default();
    let mut facts = format!("ServiceVersion={}\nServicePort={}\nHost={host}\n", app.version, seen.local.port());
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    let lines = [
        format!("URL={path}"),
        format!("Method={}", parts.method),
        format!("Proto={:?}", parts.version),
        format!("Alpn={}", seen.alpn.as_deref().unwrap_or_default()),
        format!("IP={}", seen.peer.ip().to_canonical()),
        format!("Hostname={}", app.hostname),
        format!("BodyBytes={length}"),
    ];
    let headers = parts.headers.iter().filter(|(name, _)| **name != header::HOST);
    let headers =
        headers.map(|(name, value)| format!("RequestHeader={name}:{}", String::from_utf8_lossy(value.as_bytes())));
    for line in lines.into_iter().chain(headers) {
        facts += &line;
        facts.push('\n');
    }
    facts
}
