//! The process: arguments in, exit code out.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use clap::Parser;
use remora_model::TrustDomain;
use remora_runtime::admin::{self, Admin, Readiness};
use remora_runtime::{EX_USAGE, drain, log};
use tokio::net::TcpListener;

use crate::authority::{Authority, AuthorityError, Sources};
use crate::server::{ServeError, serve};
use crate::service::Terms;

/// How long open calls may take after a signal.
const DRAIN_GRACE: Duration = Duration::from_secs(10);

/// The cluster's certificate authority.
#[derive(Debug, Parser)]
#[command(name = "remora-identity", version)]
struct Args {
    /// Where to serve gRPC over TLS.
    #[arg(long, env = "REMORA_IDENTITY_LISTEN", default_value = "[::]:4180")]
    listen: SocketAddr,
    /// Where to serve /live, /ready, /metrics.
    #[arg(long, env = "REMORA_IDENTITY_ADMIN", default_value = "[::]:4192")]
    admin: SocketAddr,
    /// The trust domain of all identities.
    #[arg(long, env = "REMORA_IDENTITY_TRUST_DOMAIN", default_value = "cluster.local")]
    trust_domain: TrustDomain,
    /// Folder with tls.crt, tls.key, ca.crt; filled on first start if it holds none of them.
    #[arg(long, env = "REMORA_IDENTITY_ISSUER_DIR")]
    issuer_dir: PathBuf,
    /// JWKS file with the keys that sign service-account tokens.
    #[arg(long, env = "REMORA_IDENTITY_JWKS")]
    jwks: PathBuf,
    /// The audience that tokens must be for.
    #[arg(long, env = "REMORA_IDENTITY_AUDIENCE", default_value = "identity.remora.dev")]
    audience: String,
    /// How long certificates live, like 24h.
    #[arg(long, env = "REMORA_IDENTITY_LEAF_LIFETIME", default_value = "24h", value_parser = duration)]
    leaf_lifetime: Duration,
    /// How far clocks may be apart, like 60s.
    #[arg(long, env = "REMORA_IDENTITY_SKEW", default_value = "60s", value_parser = duration)]
    skew: Duration,
    /// Log filter.
    #[arg(long, env = "REMORA_IDENTITY_LOG", default_value = "info")]
    log: String,
    /// Log format: text or json.
    #[arg(long, env = "REMORA_IDENTITY_LOG_FORMAT", default_value = "text")]
    log_format: log::Format,
}

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
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            let code = if error.use_stderr() { ExitCode::from(EX_USAGE) } else { ExitCode::SUCCESS };
            return error.print().map_or(ExitCode::FAILURE, |()| code);
        }
    };
    let log = match log::init(&args.log, args.log_format) {
        Ok(log) => log,
        Err(error) => {
            eprintln!("remora-identity: {error}");
            return ExitCode::from(EX_USAGE);
        }
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("remora-identity: cannot start the runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(run(args, log)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("remora-identity: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: Args, log: log::Handle) -> Result<(), RunError> {
    let metrics = admin::install_metrics().map_err(RunError::Metrics)?;
    let sources = Sources { issuer_dir: args.issuer_dir, jwks: args.jwks, trust_domain: args.trust_domain.clone() };
    let authority = Authority::open(sources, SystemTime::now()).map_err(RunError::Authority)?;
    let terms = Terms {
        trust_domain: args.trust_domain,
        audience: args.audience,
        leaf_lifetime: args.leaf_lifetime,
        skew: args.skew,
    };
    let listener = bind(args.listen).await?;
    let admin_listener = bind(args.admin).await?;
    for (what, listener) in [("grpc", &listener), ("admin", &admin_listener)] {
        if let Ok(addr) = listener.local_addr() {
            tracing::info!(what, %addr, "listening");
        }
    }
    let (signal, watch) = drain::channel();
    let admin = Admin::new(Readiness::new()).with_log(log).with_metrics(metrics);
    let admin = tokio::spawn(admin::serve(admin_listener, admin.router(), watch.clone()));
    let mut server = tokio::spawn(serve(listener, authority, terms, watch));
    let terminated = tokio::select! {
        ended = &mut server => return ended.unwrap_or(Ok(())).map_err(RunError::Serve),
        terminated = drain::terminated() => terminated,
    };
    let by = terminated.map_err(|source| RunError::Io { operation: "listen for signals".into(), source })?;
    tracing::info!(by, "draining");
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

/// `30s`, `5m`, `24h`, `250ms`.
fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| format!("{text:?} is no duration; write it like 30s or 24h"))?;
    let seconds = |factor: u64| number.checked_mul(factor).map(Duration::from_secs);
    let duration = match unit {
        "ms" => Some(Duration::from_millis(number)),
        "s" => seconds(1),
        "m" => seconds(60),
        "h" => seconds(3600),
        _ => None,
    };
    duration.ok_or_else(|| format!("{text:?} is no duration; write it like 30s or 24h"))
}
