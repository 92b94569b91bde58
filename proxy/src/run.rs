//! The process: reads the configuration, opens the listeners, starts the workers and the control thread, and ends them
//! in good order.

use crate::{
    accept,
    access_log::AccessLog,
    account,
    admin::{self, AdminState, Saturation},
    config::{Config, Mode},
    discover::{self, InForce, Link, client::Client},
    init, inspect, limits, probe,
    pulse::{self, Pulse},
    spans::Exporter,
    supervise::{self, Alarm},
    sys,
    telemetry::{self, Routes},
    worker::{self, Listeners, Parts},
};
use anyhow::Context;
use futures_util::future::BoxFuture;
use remora_api::{convert, v1};
use remora_model::{Features, SpiffeId};
use remora_runtime::{
    EX_USAGE,
    admin::{Admin, Readiness, install_metrics},
    certify::{self, CertifyConfig},
    drain, grpc, idle, log, tls,
};
use serde_json::{Value, json};
use std::{
    process::ExitCode,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::UNIX_EPOCH,
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::Instant,
};

/// Requests were cut off when the grace period ended.
const EX_CUT: u8 = 3;

/// `remora-proxy [run]` and `remora-proxy init …`.
pub fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1).peekable();
    match args.peek().and_then(|first| first.to_str()) {
        Some("init") => init::main(args.skip(1)),
        None | Some("run") => start(),
        Some("--version" | "-V") => {
            println!("remora-proxy {}", env!("CARGO_PKG_VERSION"));
            ExitCode::SUCCESS
        }
        Some(other) => {
            eprintln!("remora-proxy: no such command: {other}; there are run (default) and init");
            ExitCode::from(EX_USAGE)
        }
    }
}

fn start() -> ExitCode {
    let config = match Config::from_env() {
        Ok(config) => config,
        Err(mistakes) => {
            eprint!("remora-proxy: {mistakes}");
            return ExitCode::from(EX_USAGE);
        }
    };
    let format = if config.log_json { log::Format::Json } else { log::Format::Text };
    let logs = match log::init(&config.log, format) {
        Ok(logs) => logs,
        Err(error) => {
            eprintln!("remora-proxy: REMORA_PROXY_LOG: {error}");
            return ExitCode::FAILURE;
        }
    };
    // From here on by the log: standard error may take nothing, which must not keep the process from ending.
    let code = match run(config, logs) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(cut) => {
            tracing::warn!(cut, "the grace period ended before these tasks did");
            ExitCode::from(EX_CUT)
        }
        Err(error) => {
            tracing::error!("the proxy ends: {error:#}");
            ExitCode::FAILURE
        }
    };
    log::flush();
    code
}

/// Runs until the drain is over: how many tasks were cut off.
///
/// # Errors
///
/// What kept it from starting, and at once what ended that never should: see [`supervise`].
fn run(mut config: Config, logs: log::Handle) -> anyhow::Result<usize> {
    let metrics = install_metrics().map_err(anyhow::Error::msg)?;
    telemetry::describe();
    let room = accept::Room::new(sys::raise_limit().context("cannot read the limit of open files")?);
    let control = tokio::runtime::Builder::new_current_thread().enable_all().build().context("control runtime")?;
    let open = control.block_on(open_all(&mut config))?;
    let config = &Arc::new(config);
    let (signal, drained) = drain::channel();
    let (stop, stopped) = drain::channel();
    let signal = Arc::new(signal);
    let routes = Routes::new(format!("{}/{}", config.namespace, config.pod));
    let (handle, ends) = discover::Handle::new(limits::START_PATIENCE, config.networks.clone(), config.settings());
    handle.zone.tell(config.zone.clone());
    let account = account::of(config.memory_limit);
    let (pulse, mut answers) = pulse::channel(open.workers.len());
    let access_log = AccessLog::to(std::io::stdout(), &routes).context("cannot start a thread for the access log")?;
    let (inspect, mut inspected) = inspect::channel(open.workers.len());
    let (exporter, mut inbox, requests) = Exporter::new(&routes, config);

    let (identity, background) = control.block_on(async {
        let readiness = Readiness::new();
        let (source, certify) = certificate(config)?;
        let sees = ends.link.subscribe();
        let state = AdminState {
            common: Admin::new(readiness.clone()).with_log(logs.clone()).with_metrics(metrics).with_alive(alive(pulse)),
            routes: routes.clone(),
            inspect,
            saturation: Saturation::of(config.memory_limit, crate::config::cpu_limit()),
            discovery: discovery_shown(sees.clone(), ends.changed.subscribe()),
            config: shown(config, handle.settings.clone()),
            certificate: certificate_shown(source.clone()),
            probes: probe::Asked { probes: config.probes.clone(), token: config.probe_token.clone() },
            hosts: config.host_ips.clone(),
            drain: draining(&signal),
        };
        let made = (logs, admin::answers(state.clone()));
        let discovery = discovery(config, source.clone(), ends, handle.zone.clone(), made)?;
        tokio::spawn(ready(readiness, source.clone(), sees, routes.clone()));
        let background: Vec<supervise::Task> = vec![
            ("certify", certify),
            ("discovery", discovery),
            ("admin", tokio::spawn(admin::serve(open.admin, state, stopped))),
            ("idle", tokio::spawn(idle::watch())),
            ("memory", tokio::spawn(account::keep(account.clone()))),
            ("access-log", tokio::spawn(access_log.clone().run(handle.settings.clone()))),
            ("spans", tokio::spawn(exporter.run(handle.settings.clone()))),
        ];
        anyhow::Ok((source, background))
    })?;

    let (ended, ends) = mpsc::channel(1);
    answers.reverse();
    inspected.reverse();
    let workers = spawn_workers(open.workers, &ended, || Parts {
        pulse: answers.pop().expect("there are as many as workers"),
        inspect: inspected.pop().expect("there are as many as workers"),
        config: config.clone(),
        tls: identity.clone(),
        discover: handle.clone(),
        routes: routes.clone(),
        drain: drained.clone(),
        room,
        account: account.clone(),
        spans: inbox.take(),
        alive: requests.clone(),
    })?;
    let settings = handle.settings.clone();
    drop((handle, requests));
    let running = Running { workers, background, ends, signal, asked: drained, settings };
    let outcome = control.block_on(running.until_drained(&stop));
    access_log.finish();
    // The drain does not wait for a name that is being resolved.
    control.shutdown_background();
    outcome
}

/// All that was started.
struct Running {
    workers: Vec<Worker>,
    background: Vec<supervise::Task>,
    /// The number of a worker that ended.
    ends: mpsc::Receiver<usize>,
    signal: Arc<drain::Signal>,
    asked: drain::Watch,
    settings: watch::Receiver<InForce>,
}

impl Running {
    /// Waits for the wish to end, then for the workers: how many tasks were cut off. At once an error, if something ends that
    /// never should.
    async fn until_drained(mut self, stop: &drain::Signal) -> anyhow::Result<usize> {
        let name = tokio::select! {
            name = drain::terminated() => name.unwrap_or("no signals"),
            () = self.asked.signaled() => "/drain",
            ended = supervise::first_ended(&mut self.background, &mut self.ends) => return Err(ended.into()),
        };
        tracing::info!(by = name, grace = ?self.settings.borrow().drain_grace, "draining");
        self.signal.start();
        let workers = self.workers;
        let waiting = tokio::task::spawn_blocking(move || join(workers));
        let cut = waiting.await.context("workers")??;
        stop.start();
        for (_, task) in self.background {
            task.abort();
        }
        Ok(cut)
    }
}

/// What `/drain` does.
fn draining(signal: &Arc<drain::Signal>) -> Arc<dyn Fn() + Send + Sync> {
    let signal = signal.clone();
    Arc::new(move || signal.start())
}

/// What `/live` asks.
fn alive(pulse: Pulse) -> impl Fn() -> BoxFuture<'static, Result<(), String>> + Send + Sync + 'static {
    move || {
        let pulse = pulse.clone();
        Box::pin(async move { pulse.check().await.map_err(|number| format!("worker-{number} stands still")) })
    }
}

/// Our certificate, kept current by a task.
fn certificate(config: &Config) -> anyhow::Result<(certify::Source, JoinHandle<()>)> {
    let id = config.id().context("REMORA_PROXY_NAMESPACE and REMORA_PROXY_SERVICE_ACCOUNT make no SPIFFE ID")?;
    let identity_id = config.control_plane("remora-identity").context("the trust domain makes no SPIFFE ID")?;
    let wanted = CertifyConfig {
        identity_addr: config.identity_addr.clone(),
        identity_id,
        token_path: config.token.clone(),
        anchors_path: config.trust_anchors.clone(),
        id,
    };
    certify::start(wanted)
        .context("cannot start asking for a certificate (REMORA_PROXY_TRUST_ANCHORS, REMORA_PROXY_IDENTITY_ADDR)")
}

/// The stream to discovery, kept open by a task that begins once there is a certificate to show.
fn discovery(
    config: &Config,
    mut source: certify::Source,
    ends: discover::Ends,
    zone: crate::backend::Zone,
    (logs, answer): (log::Handle, discover::MakeAnswer),
) -> anyhow::Result<JoinHandle<()>> {
    let expected = config.control_plane("remora-discovery").context("the trust domain makes no SPIFFE ID")?;
    let current = source.clone();
    let endpoint = grpc::endpoint(&config.discovery_addr, limits::DISCOVERY_KEEP_ALIVE);
    let endpoint = endpoint.context("REMORA_PROXY_DISCOVERY_ADDR")?;
    let connect = move || {
        let (current, expected) = (current.clone(), expected.clone());
        grpc::mtls_channel_over(&endpoint, move || discovery_tls(&current, &expected))
    };
    let hello = v1::Hello {
        namespace: config.namespace.clone(),
        pod: config.pod.clone(),
        service_account: config.service_account.clone(),
        zone: config.zone.to_string(),
        proxy_version: env!("CARGO_PKG_VERSION").to_owned(),
        held: Vec::new(),
        features: convert::to_features(Features::all()),
    };
    let set_log: discover::SetLog = Box::new(move |filter| logs.set(filter));
    Ok(tokio::spawn(async move {
        if source.wait_for(Option::is_some).await.is_ok() {
            discover::client::run(Client { hello, ends, zone, set_log, answer }, connect).await;
        }
    }))
}

fn discovery_tls(source: &certify::Source, expected: &SpiffeId) -> Result<Arc<tls::ClientConfig>, String> {
    let credentials = source.borrow().clone().ok_or("no certificate yet")?;
    tls::client_config(&credentials, expected, &[tls::Alpn::Grpc]).map_err(|error| error.to_string())
}

/// Ready is: a certificate to show that has not ended, and a stream to discovery that was open once. It opens only when discovery
/// knows the cluster; that stays met when discovery goes down, because known traffic goes on.
async fn ready(
    readiness: Readiness,
    mut source: certify::Source,
    mut link: watch::Receiver<Link>,
    routes: Arc<Routes>,
) {
    readiness.waiting("discovery", "not connected yet");
    let certificate = certify::report(&readiness, source.clone());
    let once = async {
        if let Ok(credentials) = source.wait_for(Option::is_some).await
            && let Some(credentials) = &*credentials
        {
            routes.set_identity(credentials.svid.id().as_str());
            tracing::info!(identity = %credentials.svid.id(), "certified");
        }
        if link.wait_for(|link| *link == Link::Open).await.is_ok() {
            readiness.ready("discovery");
            tracing::info!("ready");
        }
    };
    tokio::join!(certificate, once);
}

/// The settings in force, for `/config`: names and paths, nothing secret.
fn shown(config: &Arc<Config>, settings: watch::Receiver<InForce>) -> Arc<dyn Fn() -> Value + Send + Sync> {
    let config = Arc::clone(config);
    Arc::new(move || shown_now(&config, &settings.borrow()))
}

fn shown_now(config: &Config, settings: &InForce) -> Value {
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "mode": match config.mode { Mode::Redirect => "redirect", Mode::Explicit => "explicit" },
        "outbound_listen": config.outbound_listen,
        "inbound_listen": config.inbound_listen,
        "admin_listen": config.admin_listen,
        "pod": format!("{}/{}", config.namespace, config.pod),
        "identity": config.id().map(|id| id.to_string()),
        "zone": &*config.zone,
        "node": &*config.node,
        "identity_addr": config.identity_addr,
        "discovery_addr": config.discovery_addr,
        "workers": config.workers,
        "log": &*settings.log,
        "drain_grace_s": settings.drain_grace.as_secs_f64(),
        "access_log": settings.access_log.to_string(),
        "tracing": settings.tracing.to_string(),
        "memory_limit_bytes": config.memory_limit,
        "opaque_ports": config.opaque_ports,
        "cluster_networks": config.networks.to_string(),
        "unknown": settings.unknown.name(),
        "control_namespace": config.control_namespace,
    })
}

/// How the stream to discovery is, and since when, for `/signals`.
fn discovery_shown(
    mut link: watch::Receiver<Link>,
    changed: watch::Receiver<Option<Instant>>,
) -> Arc<dyn Fn() -> Value + Send + Sync> {
    let seen = Arc::new(Mutex::new((*link.borrow_and_update(), Instant::now())));
    let now = seen.clone();
    tokio::spawn(async move {
        while link.changed().await.is_ok() {
            *now.lock().unwrap_or_else(PoisonError::into_inner) = (*link.borrow_and_update(), Instant::now());
        }
    });
    Arc::new(move || {
        let (link, since) = *seen.lock().unwrap_or_else(PoisonError::into_inner);
        let state = match link {
            Link::Never => "never",
            Link::Open => "open",
            Link::Lost => "lost",
        };
        let millis = |time: std::time::Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let changed = changed.borrow().map(|at| UNIX_EPOCH.elapsed().unwrap_or_default().saturating_sub(at.elapsed()));
        json!({ "state": state, "for_ms": millis(since.elapsed()), "changed_ms": changed.map(millis) })
    })
}

fn certificate_shown(source: certify::Source) -> Arc<dyn Fn() -> Value + Send + Sync> {
    let seconds = |time: std::time::SystemTime| time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    Arc::new(move || match &*source.borrow() {
        None => Value::Null,
        Some(credentials) => json!({
            "identity": credentials.svid.id().as_str(),
            "not_before": seconds(credentials.svid.not_before()),
            "not_after": seconds(credentials.svid.not_after()),
            "generation": credentials.generation,
            "anchors": credentials.bundle.anchors().len(),
        }),
    })
}

type Worker = thread::JoinHandle<std::io::Result<usize>>;

/// The listeners of the process.
struct Open {
    admin: tokio::net::TcpListener,
    /// Each worker has its own, on the same addresses.
    workers: Vec<Listeners>,
}

/// Opens every listener before anything else, so that a port in use is reported at once. Where a port is 0, `config` knows
/// the one that was chosen from then on: a proxy must know its own ports, or it may be made to call itself.
async fn open_all(config: &mut Config) -> anyhow::Result<Open> {
    let address = config.admin_listen;
    let admin = tokio::net::TcpListener::bind(address).await;
    let admin = admin.with_context(|| format!("cannot listen on {address} (REMORA_PROXY_ADMIN_LISTEN)"))?;
    config.admin_listen = admin.local_addr()?;
    tracing::info!(address = %config.admin_listen, "admin");
    let mut workers = Vec::new();
    for _ in 0..config.workers {
        workers.push(Listeners {
            outbound: open(&mut config.outbound_listen, "OUTBOUND_LISTEN")?,
            inbound: open(&mut config.inbound_listen, "INBOUND_LISTEN")?,
        });
    }
    Ok(Open { admin, workers })
}

fn open(addresses: &mut [std::net::SocketAddr], setting: &str) -> anyhow::Result<Vec<std::net::TcpListener>> {
    let open = |address: &mut std::net::SocketAddr| {
        let listener = accept::listen(*address).and_then(tokio::net::TcpListener::into_std);
        let listener = listener.with_context(|| format!("cannot listen on {address} (REMORA_PROXY_{setting})"))?;
        *address = listener.local_addr()?;
        tracing::info!(%address, setting, "listening");
        Ok(listener)
    };
    addresses.iter_mut().map(open).collect()
}

/// Starts a thread per worker.
fn spawn_workers(
    open: Vec<Listeners>,
    ended: &mpsc::Sender<usize>,
    mut parts: impl FnMut() -> Parts,
) -> anyhow::Result<Vec<Worker>> {
    let spawn = |(number, listeners)| {
        let (parts, alarm) = (parts(), Alarm::new(number, ended.clone()));
        let worker = thread::Builder::new().name(format!("worker-{number}"));
        let run = move || {
            let _alarm = alarm;
            worker::run(parts, listeners)
        };
        worker.spawn(run).context("cannot start a thread")
    };
    open.into_iter().enumerate().map(spawn).collect()
}

/// Waits for every worker: how many tasks they cut off.
fn join(workers: Vec<Worker>) -> anyhow::Result<usize> {
    let mut cut = 0;
    for worker in workers {
        cut += worker.join().map_err(|_| anyhow::anyhow!("a worker panicked"))?.context("worker")?;
    }
    Ok(cut)
}
