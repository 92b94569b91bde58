//! The process: arguments in, exit code out.

use crate::{
    anchors::keep,
    authority::{Authority, TurnError},
    config::{Config, Place, Raw},
    revoked,
    server::{ISSUER, Parts, ServeError, serve},
    service::Terms,
    source::{Source, SourceError, directory::Directory, secret::Secret},
    store::Store,
    token::{
        Proofs,
        jwks::{Keys, KeysError},
        review::Reviewer,
    },
};
use futures_util::future::{BoxFuture, FutureExt as _};
use kube::Client;
use remora_kube::{
    client::{ClientError, connect_as},
    events::Events,
    lease::{Candidate, elect},
    names::IDENTITY,
    outage::Part,
};
use remora_runtime::{
    admin::{self, Admin, Readiness},
    drain, log, process,
};
use std::{
    net::SocketAddr,
    process::ExitCode,
    sync::{Arc, OnceLock},
    time::{Duration, SystemTime},
};
use tokio::net::TcpListener;

const PART: Part = Part {
    name: IDENTITY,
    stands_still: "tokens that are new here are not reviewed; the issuer's Secret and the ConfigMaps of trust anchors are not kept up",
    works_on: "certificates are renewed by tokens that were accepted before, and bundles are served",
};

/// How long open calls may take after a signal.
const DRAIN_GRACE: Duration = Duration::from_secs(10);

/// The first pauses between tries to get an issuer from the API server, and the longest.
const OPEN_RETRY: Duration = Duration::from_millis(200);
const OPEN_RETRY_MAX: Duration = Duration::from_secs(5);

#[derive(Debug, thiserror::Error)]
enum RunError {
    #[error("{0}")]
    Source(#[source] SourceError),
    #[error("{0}")]
    Keys(#[source] KeysError),
    #[error("{0}")]
    Client(#[source] ClientError),
    #[error("cannot {operation}: {source}")]
    Io { operation: String, source: std::io::Error },
    #[error("cannot install metrics: {0}")]
    Metrics(String),
    #[error("{0}")]
    Serve(#[source] ServeError),
}

/// Parses arguments and environment, runs until SIGTERM, and says how it went.
#[must_use]
pub fn main() -> ExitCode {
    process::main("remora-identity", |raw: Raw| raw.read(), |config| (config.log.clone(), config.log_format), run)
}

/// What makes this process differ from one elsewhere.
struct World {
    source: Source,
    store: Store,
    proofs: Proofs,
    revoked: revoked::Source,
    /// In Kubernetes: what the leader's work needs, and the task that writes events.
    cluster: Option<(Client, Candidate, Events, BoxFuture<'static, ()>)>,
}

impl World {
    async fn open(place: Place, namespace: &str, drain: drain::Watch) -> Result<Self, RunError> {
        match place {
            Place::Files { issuer_dir, state_dir, jwks, revocations } => Ok(Self {
                source: Source::Directory(Directory::new(issuer_dir)),
                store: Store::file(state_dir),
                proofs: Proofs::Offline(Keys::open(jwks).map_err(RunError::Keys)?),
                revoked: revocations.map_or(revoked::Source::None, |dir| {
                    revoked::Source::Folder(revoked::Folder::new(dir, namespace.to_owned()))
                }),
                cluster: None,
            }),
            Place::Kubernetes { pod } => {
                let client = connect_as(PART).await.map_err(RunError::Client)?;
                let (events, writing) = Events::new(client.clone(), IDENTITY, &pod, drain);
                let candidate = Candidate { namespace: namespace.to_owned(), name: IDENTITY.to_owned(), me: pod };
                Ok(Self {
                    source: Source::Secret(Box::new(
                        Secret::new(client.clone(), namespace).with_events(events.clone()),
                    )),
                    store: Store::secret(client.clone(), namespace),
                    proofs: Proofs::Review(Box::new(Reviewer::new(&client))),
                    revoked: revoked::Source::Objects(Box::new(revoked::Objects::new(client.clone(), namespace))),
                    cluster: Some((client, candidate, events, writing.boxed())),
                })
            }
        }
    }
}

async fn run(config: Config, log: log::Handle) -> Result<(), RunError> {
    let metrics = admin::install_metrics().map_err(RunError::Metrics)?;
    let listener = bind(config.listen).await?;
    let admin_listener = bind(config.admin).await?;
    listening("admin", &admin_listener);
    let (signal, watch) = drain::channel();
    let readiness = Readiness::new();
    readiness.waiting(ISSUER, "it was not read yet");
    let shown: Arc<OnceLock<Arc<Authority>>> = Arc::default();
    let authority = Arc::clone(&shown);
    let admin = Admin::new(readiness.clone()).with_log(log).with_metrics(metrics);
    let admin = admin.with_extra_metrics(move |_| authority.get().map(|it| it.prometheus()).unwrap_or_default().into());
    let admin = tokio::spawn(admin::serve(admin_listener, admin.router(), watch.clone()));
    let mut work = tokio::spawn(work(config, listener, shown, readiness.clone(), watch));
    let terminated = tokio::select! {
        ended = &mut work => return ended.unwrap_or(Ok(())),
        terminated = drain::terminated() => terminated,
    };
    let by = terminated.map_err(|source| RunError::Io { operation: "listen for signals".into(), source })?;
    tracing::info!(by, "draining");
    readiness.waiting("process", "it is ending");
    if tokio::time::timeout(DRAIN_GRACE, signal.drain()).await.is_err() {
        tracing::warn!("some calls did not finish in time");
        work.abort();
        admin.abort();
    }
    Ok(())
}

/// All but the admin port, until `drain`.
async fn work(
    config: Config,
    listener: TcpListener,
    shown: Arc<OnceLock<Arc<Authority>>>,
    readiness: Readiness,
    drain: drain::Watch,
) -> Result<(), RunError> {
    let World { source, store, proofs, revoked, cluster } =
        World::open(config.place, &config.namespace, drain.clone()).await?;
    let terms = Terms {
        trust_domain: config.trust_domain,
        namespace: config.namespace,
        audience: config.audience,
        leaf_lifetime: config.leaf_lifetime,
        skew: config.skew,
    };
    let opened = tokio::select! {
        opened = open(&source, store, &terms, &readiness) => opened,
        () = drain.signaled() => return Ok(()),
    };
    let authority = opened.map_err(RunError::Source)?;
    let authority = Arc::clone(shown.get_or_init(|| authority));
    // Said when it is true for callers; by then the issuer's files are there.
    listening("grpc", &listener);
    let namespace = terms.namespace.clone();
    let in_force = authority.watch();
    let parts = Parts { authority, source, proofs, terms, revoked };
    let serving = serve(listener, parts, readiness, drain.clone());
    let Some((client, candidate, events, writing)) = cluster else {
        return serving.await.map_err(RunError::Serve);
    };
    let (leads, election) = elect(client.clone(), candidate, drain);
    let leading = async {
        tokio::join!(election, keep(client, events, &namespace, in_force, leads), writing);
        Ok(())
    };
    let serving = async { serving.await.map_err(RunError::Serve) };
    // The election gives its lease back before it ends.
    tokio::try_join!(serving, leading).map(|((), ())| ())
}

/// The issuer that is there, or a new one. In Kubernetes this waits for an API server that is away and for a Secret that
/// can be used, as somebody may be about to put it right; a folder is at hand, so what is wrong with it ends the process.
async fn open(
    source: &Source,
    store: Store,
    terms: &Terms,
    readiness: &Readiness,
) -> Result<Arc<Authority>, SourceError> {
    let mut pause = OPEN_RETRY;
    loop {
        let now = SystemTime::now();
        let held = source.open(&terms.trust_domain, now).await;
        let lives = (terms.leaf_lifetime, terms.skew);
        let opened = Authority::open(held.as_ref().ok(), &store, &terms.trust_domain, lives, now).await;
        let opened = opened.and_then(|begun| begun.usable(now));
        let error = match (opened, held) {
            (Ok(parts), held) => {
                if let Err(error) = held {
                    tracing::error!(%error, "the offered issuer is unusable; the current one goes on");
                }
                return Ok(parts.with(store));
            }
            // Without anything to go on with, what is wrong with the source says more.
            (Err(TurnError::Nothing), Err(error)) => error,
            (Err(error), _) => SourceError::Turn(error),
        };
        if matches!(source, Source::Directory(_)) && !matches!(error, SourceError::Turn(TurnError::Store(_))) {
            return Err(error);
        }
        tracing::error!(%error, "no issuer yet");
        readiness.waiting(ISSUER, error.to_string());
        tokio::time::sleep(pause).await;
        pause = (2 * pause).min(OPEN_RETRY_MAX);
    }
}

fn listening(what: &str, listener: &TcpListener) {
    if let Ok(addr) = listener.local_addr() {
        tracing::info!(what, %addr, "listening");
    }
}

async fn bind(addr: SocketAddr) -> Result<TcpListener, RunError> {
    TcpListener::bind(addr).await.map_err(|source| RunError::Io { operation: format!("listen on {addr}"), source })
}
