//! Runs the kubelet's probes and hooks of the application: the kubelet speaks plaintext, which
//! strict mode refuses, and a connection to this proxy proves nothing about the application. The injector directs the
//! kubelet's probes here, and passes on the original ones ([`config`]).
//!
//! In: GET `/probe/<token>/<container>/<kind>` on the admin port, for configured paths only; the token is the pod's own, and
//! the kubelet knows it. Without a token (a proxy that the injector did not set up) `/probe/<container>/<kind>`, for any client, and
//! no hooks, because hooks have effects on the application. Out: the result that the kubelet would have got: a connection to the same
//! address and the given port, judged by the kubelet's rules. A probe passes neither redirection nor policy: it reaches
//! the pod's own application only. The response has the status only. Bounds: each probe's timeout, and one probe at a time, whose
//! result all clients get that ask meanwhile; without a token, one more for the pod and its node.

mod config;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod grpc;
mod http;
mod token;

pub(crate) use config::{Check, Kind, Probe, Probes};
pub(crate) use token::Token;

use axum::{
    Router,
    extract::{Extension, Path, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use futures_util::{
    FutureExt as _,
    future::{BoxFuture, Shared, WeakShared},
};
use remora_runtime::admin::Ends;
use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
};
use tokio::{net::TcpStream, time::timeout};

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
}

/// What probes and hooks there are, and who may ask.
#[derive(Debug, Clone, Default)]
pub(crate) struct Asked {
    pub probes: Arc<Probes>,
    /// What the paths begin with; without it any client may ask, and no hook is executed.
    pub token: Option<Token>,
}

/// The endpoint; for the admin server's router.
pub(crate) fn router(asked: Asked) -> Router {
    let path = if asked.token.is_some() { "/probe/{token}/{container}/{kind}" } else { "/probe/{container}/{kind}" };
    if asked.token.is_none() && asked.probes.has_hooks() {
        tracing::warn!("hooks are not run: REMORA_PROXY_PROBE_TOKEN is not set, so any client could run them");
    }
    let of_kubelet = async |State(asked): State<Asked>,
                            Path((token, container, kind)): Path<(String, String, String)>,
                            Extension(ends): Extension<Ends>,
                            headers: HeaderMap| {
        if !asked.token.as_ref().is_some_and(|own| own.is(&token)) {
            return refused("token", StatusCode::NOT_FOUND, "no such probe\n");
        }
        answer(&asked.probes, &format!("{container}/{kind}"), ends.local, true, &headers).await
    };
    let of_anybody = async |State(asked): State<Asked>,
                            Path((container, kind)): Path<(String, String)>,
                            Extension(ends): Extension<Ends>,
                            headers: HeaderMap| {
        let key = format!("{container}/{kind}");
        if asked.probes.get(&key).is_some_and(|probe| probe.kind.is_hook()) {
            return refused(
                "hook",
                StatusCode::FORBIDDEN,
                "hooks are run only for clients that have this pod's token\n",
            );
        }
        answer(&asked.probes, &key, ends.local, ends.known, &headers).await
    };
    let route = if asked.token.is_some() { get(of_kubelet) } else { get(of_anybody) };
    Router::new().route(path, route).with_state(asked)
}

fn refused(reason: &'static str, status: StatusCode, text: &'static str) -> Response {
    metrics::counter!("remora_admin_refused_total", "reason" => reason).increment(1);
    (status, text).into_response()
}

/// Carries the probe out, or waits for the one that is under way. `known`: its asker's words are the kubelet's.
async fn answer(probes: &Probes, key: &str, asked: SocketAddr, known: bool, headers: &HeaderMap) -> Response {
    let Some(probe) = probes.get(key) else {
        return (StatusCode::NOT_FOUND, "no such probe\n").into_response();
    };
    let agent = headers.get(header::USER_AGENT).filter(|_| known).cloned();
    let result = join(probe, asked, known, agent).await;
    note(key, probe, &result);
    match &*result {
        Ok(_) => "good\n".into_response(),
        // The kubelet does not look at a hook's status; only a request that fails lets the hook fail.
        Err(failed) if probe.kind.is_hook() => unusable(failed),
        Err(Failed::Status(status)) => (*status, "the application's status\n").into_response(),
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
fn note(key: &str, probe: &Probe, result: &Outcome) {
    let failing = result.is_err();
    if probe.failing.swap(failing, Ordering::Relaxed) == failing {
        return;
    }
    match &**result {
        Ok(_) => remora_runtime::limited!(info, probe = key, "the application's probe is good again"),
        Err(error) => remora_runtime::limited!(info, probe = key, %error, "the application's probe fails"),
    }
}

/// What came of a probe, for all who asked.
type Outcome = Arc<Result<Good, Failed>>;

/// What is under way of one probe. As many as the pod has addresses, twice.
#[derive(Debug, Default)]
struct Runs(Mutex<Vec<Run>>);

#[derive(Debug)]
struct Run {
    to: IpAddr,
    known: bool,
    outcome: WeakShared<BoxFuture<'static, Outcome>>,
}

/// The run that is under way at this address, or a new one. It ends with the last who waits for it. A stranger's is not the
/// kubelet's: it may ask in a way that the application answers otherwise.
fn join(
    probe: &Arc<Probe>,
    asked: SocketAddr,
    known: bool,
    agent: Option<HeaderValue>,
) -> Shared<BoxFuture<'static, Outcome>> {
    let to = SocketAddr::new(asked.ip().to_canonical(), probe.check.port());
    let mut runs = probe.runs.0.lock().unwrap_or_else(PoisonError::into_inner);
    runs.retain(|run| run.outcome.upgrade().is_some_and(|outcome| outcome.peek().is_none()));
    let under_way = runs.iter().find(|run| (run.to, run.known) == (to.ip(), known));
    if let Some(outcome) = under_way.and_then(|run| run.outcome.upgrade()) {
        return outcome;
    }
    let own = probe.clone();
    let outcome = async move { Arc::new(run(&own, to, agent.as_ref()).await) }.boxed().shared();
    runs.extend(outcome.downgrade().map(|outcome| Run { to: to.ip(), known, outcome }));
    outcome
}

/// Carries `probe` out against the address that was asked, which is the pod's, as the kubelet knows it.
async fn run(probe: &Probe, to: SocketAddr, agent: Option<&HeaderValue>) -> Result<Good, Failed> {
    let check = async {
        match &probe.check {
            Check::Http(get) => {
                http::get(get, to, agent, !probe.kind.is_hook()).await.and_then(|status| judged(probe.kind, status))
            }
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
