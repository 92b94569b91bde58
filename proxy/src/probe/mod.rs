//! The kubelet's probes and hooks of the application, carried out by the proxy: the kubelet speaks plaintext, which
//! strict mode refuses, and that this proxy takes a connection says nothing of the application. The injector makes
//! probes ask here and hands over what they were ([`config`]).
//!
//! In: GET `/probe/<container>/<kind>` on the admin port, from anywhere, for configured paths only. Out: what the kubelet
//! would have found itself: a connection to the same address and the given port, with its rules for what is good. It
//! does not pass the redirected path, nor policy: it reaches the pod's own application alone. Of an answer, only the
//! status is told, because whoever asks may be anybody. Bounded: by each probe's patience, and in how many run at once.

mod config;
mod grpc;
mod http;

pub use config::{Check, Kind, Probe, Probes};

use axum::Router;
use axum::extract::{Extension, Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use remora_runtime::admin::Ends;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// What came of a probe that was good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Good {
    /// As it should be.
    Healthy,
    /// The application answered; for a hook that is all there is to know.
    Answered(StatusCode),
}

/// Why a probe failed.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error("cannot connect to {to}: {source}")]
    Connect { to: SocketAddr, source: std::io::Error },
    #[error("tls with {to}: {source}")]
    Tls { to: SocketAddr, source: std::io::Error },
    #[error("http with {to}: {source}")]
    Http { to: SocketAddr, source: hyper::Error },
    #[error("{to} redirects to {location:?}, which is no address")]
    Redirect { to: SocketAddr, location: String },
    #[error("{to} redirected more than {} times", http::REDIRECTS_MAX)]
    Redirects { to: SocketAddr },
    #[error("grpc with {to}: {source}")]
    Grpc { to: SocketAddr, source: h2::Error },
    #[error("{to} answers {problem}")]
    Unhealthy { to: SocketAddr, problem: String },
    #[error("the application answers {0}")]
    Status(StatusCode),
    #[error("no answer in time")]
    Timeout,
    #[error("too many of it run already")]
    Busy,
}

/// The endpoint; for the admin server's router.
pub fn router(probes: Arc<Probes>) -> Router {
    Router::new().route("/probe/{container}/{kind}", get(answer)).with_state(probes)
}

async fn answer(
    State(probes): State<Arc<Probes>>,
    Path((container, kind)): Path<(String, String)>,
    Extension(ends): Extension<Ends>,
    headers: HeaderMap,
) -> Response {
    let key = format!("{container}/{kind}");
    let Some(probe) = probes.get(&key) else {
        return (StatusCode::NOT_FOUND, "no such probe\n").into_response();
    };
    let result = run(probe, ends.local, headers.get(header::USER_AGENT)).await;
    note(&key, probe, &result);
    match result {
        Ok(_) => "good\n".into_response(),
        // The kubelet does not look at a hook's status; only a request that fails lets the hook fail.
        Err(failed) if probe.kind.is_hook() => unusable(&failed),
        Err(Failed::Status(status)) => (status, "the application's status\n").into_response(),
        Err(failed) => (StatusCode::SERVICE_UNAVAILABLE, format!("{failed}\n")).into_response(),
    }
}

/// An answer that the kubelet's HTTP client takes for an error, with `failed` in its text, which Kubernetes shows in the
/// pod's event: a redirect to what cannot be parsed.
fn unusable(failed: &Failed) -> Response {
    let text: String = failed.to_string().chars().filter(|c| c.is_ascii_graphic() || *c == ' ').collect();
    let location = HeaderValue::from_str(&format!(":{text}")).unwrap_or(HeaderValue::from_static(":"));
    (StatusCode::FOUND, [(header::LOCATION, location)]).into_response()
}

/// Tells when a probe begins to fail, and when it is well again; not each time.
fn note(key: &str, probe: &Probe, result: &Result<Good, Failed>) {
    let failing = result.is_err();
    if probe.failing.swap(failing, Ordering::Relaxed) == failing {
        return;
    }
    match result {
        Ok(_) => tracing::info!(probe = key, "the application's probe is good again"),
        Err(error) => tracing::info!(probe = key, %error, "the application's probe fails"),
    }
}

/// Carries `probe` out against the address that was asked, which is the pod's, as the kubelet knows it.
async fn run(probe: &Probe, asked: SocketAddr, agent: Option<&HeaderValue>) -> Result<Good, Failed> {
    let _turn = probe.turns.try_acquire().map_err(|_| Failed::Busy)?;
    let to = SocketAddr::new(asked.ip().to_canonical(), probe.check.port());
    let check = async {
        match &probe.check {
            Check::Http(get) => http::get(get, to, agent).await.and_then(|status| judged(probe.kind, status)),
            Check::Tcp(_) => connect(to).await.map(|_| Good::Healthy),
            Check::Grpc { service, .. } => grpc::check(to, service, agent).await.map(|()| Good::Healthy),
        }
    };
    timeout(probe.patience, check).await.unwrap_or(Err(Failed::Timeout))
}

/// The kubelet's rule: from 200 to 399 is good; a hook is done when it was answered.
fn judged(kind: Kind, status: StatusCode) -> Result<Good, Failed> {
    if kind.is_hook() || (200..400).contains(&status.as_u16()) {
        Ok(Good::Answered(status))
    } else {
        Err(Failed::Status(status))
    }
}

/// Drives `connection` until there is an `answer`, which hears of its end.
async fn beside<A: Future>(connection: impl Future, answer: A) -> A::Output {
    let mut answer = std::pin::pin!(answer);
    tokio::select! {
        biased;
        answer = &mut answer => return answer,
        _ = connection => {}
    }
    answer.await
}

async fn connect(to: SocketAddr) -> Result<TcpStream, Failed> {
    TcpStream::connect(to).await.map_err(|source| Failed::Connect { to, source })
}

#[cfg(test)]
mod tests;
