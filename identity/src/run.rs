//! The process: arguments in, exit code out.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use clap::Parser as _;
use remora_runtime::admin::{self, Admin, Readiness};
use remora_runtime::{EX_USAGE, drain, log};
use tokio::net::TcpListener;

use crate::authority::{Authority, AuthorityError, Sources};
use crate::config::{Config, Raw};
use crate::server::{ServeError, serve};
use crate::service::Terms;

/// How long open calls may take after a signal.
const DRAIN_GRACE: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
enum RunError {
    #[error("{0}")]
    Authority(#[source] AuthorityError),
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
    let raw = match Raw::try_parse() {
        Ok(raw) => raw,
        Err(error) => {
            let code = if error.use_stderr() { ExitCode::from(EX_USAGE) } else { ExitCode::SUCCESS };
            return error.print().map_or(ExitCode::FAILURE, |()| code);
        }
    };
    let config = match raw.read() {
        Ok(config) => config,
        Err(mistakes) => {
            eprint!("remora-identity: {mistakes}");
            return ExitCode::from(EX_USAGE);
        }
    };
    let log = match log::init(&config.log, config.log_format) {
        Ok(log) => log,
        Err(error) => {
            eprintln!("remora-identity: {error}");
            return ExitCode::FAILURE;
        }
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!("cannot start the runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(run(config, log)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Not by eprintln: it panics where standard error takes no more.
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(config: Config, log: log::Handle) -> Result<(), RunError> {
    let metrics = admin::install_metrics().map_err(RunError::Metrics)?;
    let sources = Sources {
        issuer_dir: config.issuer_dir,
        jwks: config.jwks,
        trust_domain: config.trust_domain.clone(),
        leaf_lifetime: config.leaf_lifetime,
    };
    let authority = Authority::open(sources, SystemTime::now()).map_err(RunError::Authority)?;
    let terms = Terms {
        trust_domain: config.trust_domain,
        audience: config.audience,
        leaf_lifetime: config.leaf_lifetime,
        skew: config.skew,
    };
    let listener = bind(config.listen).await?;
    let admin_listener = bind(config.admin).await?;
    for (what, listener) in [("grpc", &listener), ("admin", &admin_listener)] {
        if let Ok(addr) = listener.local_addr() {
            tracing::info!(what, %addr, "listening");
        }
    }
    let (signal, watch) = drain::channel();
    let readiness = Readiness::new();
    let shown = Arc::clone(&authority);
    let admin = Admin::new(readiness.clone()).with_log(log).with_metrics(metrics);
    let admin = admin.with_extra_metrics(move || shown.prometheus());
    let admin = tokio::spawn(admin::serve(admin_listener, admin.router(), watch.clone()));
    let mut server = tokio::spawn(serve(listener, authority, terms, readiness.clone(), watch));
    let terminated = tokio::select! {
        ended = &mut server => return ended.unwrap_or(Ok(())).map_err(RunError::Serve),
        terminated = drain::terminated() => terminated,
    };
    let by = terminated.map_err(|source| RunError::Io { operation: "listen for signals".into(), source })?;
    tracing::info!(by, "draining");
    readiness.waiting("process", "it is ending");
    if tokio::time::timeout(DRAIN_GRACE, signal.drain()).await.is_err() {
        tracing::warn!("some calls did not finish in time");
        server.abort();
        admin.abort();
    }
    Ok(())
}

async fn bind(addr: SocketAddr) -> Result<TcpListener, RunError> {
    TcpListener::bind(addr).await.map_err(|source| RunError::Io { operation: format!("listen on {addr}"), source })
}
