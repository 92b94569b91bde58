//! The process: arguments in, exit code out.

use crate::{
    certificate, check,
    config::{Config, Raw},
    registration::{self, Namespaces},
    webhook::{Decider, Stats, serve},
};
use remora_kube::{
    client::{ClientError, connect_as},
    events::Events,
    lease::{Candidate, elect},
    names::INJECTOR,
    outage::Part,
};
use remora_runtime::{
    admin::{self, Admin, Readiness},
    drain, log, process,
};
use std::{net::SocketAddr, process::ExitCode, sync::Arc, time::Duration};
use tokio::{net::TcpListener, sync::watch, task::JoinSet};

const PART: Part = Part {
    name: INJECTOR,
    stands_still: "the webhook's configuration and certificate and the list of namespaces are not kept up",
    works_on: "reviews are answered by what was read before",
};

/// How long reviews under way may take after the drain's delay.
const DRAIN_GRACE: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
enum RunError {
    #[error("{0}")]
    Client(#[source] ClientError),
    #[error("cannot {operation}: {source}")]
    Io { operation: String, source: std::io::Error },
    #[error("cannot install metrics: {0}")]
    Metrics(String),
    #[error("a task ended that should not; the process starts anew")]
    Ended,
}

/// Parses arguments and environment, runs until SIGTERM, and says how it went.
#[must_use]
pub fn main() -> ExitCode {
    process::main("remora-injector", |raw: Raw| raw.read(), |config| (config.log.clone(), config.log_format), run)
}

async fn run(config: Config, log: log::Handle) -> Result<(), RunError> {
    let metrics = admin::install_metrics().map_err(RunError::Metrics)?;
    let client = connect_as(PART).await.map_err(RunError::Client)?;
    let listener = bind(config.listen).await?;
    let admin_listener = bind(config.admin).await?;
    let namespace = config.defaults.control_namespace.clone();
    let host = format!("{INJECTOR}.{namespace}.svc");
    let (readiness, stats, namespaces) = (Readiness::new(), Arc::new(Stats::default()), Namespaces::default());

    // What writes ends at once at the drain, so that another replica takes over; what serves goes on for a while.
    let (stop_keeping, keeping) = drain::channel();
    let (stop_serving, serving) = drain::channel();
    let (certificate, served) = watch::channel(None);
    let (trusting, trusted) = watch::channel(None);
    let (listing, listed) = watch::channel(None);
    let candidate = Candidate { namespace: namespace.clone(), name: INJECTOR.to_owned(), me: config.pod.clone() };
    let (leads, election) = elect(client.clone(), candidate, keeping.clone());
    let (events, telling) = Events::new(client.clone(), INJECTOR, &config.pod, serving.clone());

    let keeper = certificate::Keeper {
        client: client.clone(),
        namespace: namespace.clone(),
        host: host.clone(),
        lifetime: config.certificate_lifetime,
        keeping: keeping.clone(),
        readiness: readiness.clone(),
        leads: leads.clone(),
        trusted: trusted.clone(),
        serving: certificate,
    };
    let registrar = registration::Keeper {
        client: client.clone(),
        namespace,
        leads,
        serving: served.clone(),
        listed,
        trusted: trusting,
    };
    let decider =
        Decider { defaults: config.defaults, namespaces: namespaces.clone(), events, stats: Arc::clone(&stats) };
    let shown = Arc::clone(&stats);
    let admin = Admin::new(readiness.clone()).with_log(log).with_metrics(metrics);
    let admin = admin.with_extra_metrics(move |_| shown.prometheus().into());

    let mut tasks = JoinSet::new();
    tasks.spawn(election);
    tasks.spawn(registrar.run(keeping.clone()));
    tasks.spawn(check::run(host, trusted, stats, keeping));
    tasks.spawn(keeper.run(serving.clone()));
    tasks.spawn(namespaces.follow(client, readiness.clone(), listing, serving.clone()));
    tasks.spawn(telling);
    tasks.spawn(serve(listener, served, Arc::new(decider), serving.clone()));
    tasks.spawn(admin::serve(admin_listener, admin.router(), serving));

    let by = tokio::select! {
        by = drain::terminated() => by,
        Some(_) = tasks.join_next() => return Err(RunError::Ended),
    };
    let by = by.map_err(|source| RunError::Io { operation: "listen for signals".into(), source })?;
    tracing::info!(by, "draining");
    readiness.waiting("process", "it is ending");
    stop_keeping.start();
    // API servers call until they hear that this replica is gone; its endpoint goes within this.
    tokio::time::sleep(config.drain_delay).await;
    if tokio::time::timeout(DRAIN_GRACE, stop_serving.drain()).await.is_err() {
        tracing::warn!("some reviews did not finish in time");
    }
    Ok(())
}

async fn bind(addr: SocketAddr) -> Result<TcpListener, RunError> {
    let bound = TcpListener::bind(addr).await;
    let listener = bound.map_err(|source| RunError::Io { operation: format!("listen on {addr}"), source })?;
    tracing::info!(%addr, "listening");
    Ok(listener)
}
