//! The process: source → index → serve, beside the admin server, until SIGTERM.

use crate::{
    config::Config,
    feed,
    index::Mesh,
    map,
    serve::{Hub, Service},
    source::kubernetes,
};
use anyhow::{Context as _, anyhow};
use remora_kube::names;
use remora_model::SpiffeId;
use remora_runtime::{
    admin, certify, drain, grpc, log, process,
    tls::{self, Alpn, ServerConfig},
};
use std::{process::ExitCode, sync::Arc, time::Duration};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;

/// How long open streams may take to end after SIGTERM.
const DRAIN_GRACE: Duration = Duration::from_secs(2);

/// Streams on one connection: a proxy has one, and one that is ending while it reconnects.
const STREAMS_MAX: u32 = 16;

/// Parses the arguments and runs until SIGTERM.
pub fn main() -> ExitCode {
    process::main("remora-discovery", Config::checked, |config| (config.log.clone(), config.log_format), run)
}

async fn run(config: Config, log: log::Handle) -> anyhow::Result<()> {
    let metrics = admin::install_metrics().map_err(|error| anyhow!(error))?;
    let readiness = admin::Readiness::new();
    // Before anybody can ask: without a condition it would be ready.
    let source = if config.manifests.is_some() { feed::CONDITION } else { kubernetes::CONDITION };
    readiness.waiting(source, "nothing is read yet");
    let (drain, draining) = drain::channel();
    let listener =
        TcpListener::bind(config.admin).await.with_context(|| format!("cannot listen on {}", config.admin))?;
    tracing::info!(admin = %listener.local_addr()?, "admin server listens");
    let hub = Hub::new(mesh(&config)?);
    let service = Service::new(hub.clone(), draining.clone());
    let (router, beside) = map::router(service.asking());
    let router = admin::Admin::new(readiness.clone()).with_log(log).with_metrics(metrics).router().merge(router);
    let until = draining.clone();
    let admin = on_its_own_thread(listener, async move |listener| {
        tokio::select! {
            () = admin::serve(listener, router, until) => {}
            never = beside => match never {},
        }
    })?;
    let streams = Streams::start()?;
    let mut reading = std::pin::pin!(read(&config, hub.clone(), &readiness, draining.clone()));
    let mut serving = std::pin::pin!(streams.run(serve(config.clone(), service, readiness.clone(), draining)));
    let early = tokio::select! {
        served = &mut serving => Some(served),
        read = &mut reading => Some(read),
        signal = drain::terminated() => {
            tracing::info!(signal = signal?, "ending");
            None
        }
    };
    drain.start();
    let rest = async {
        match early {
            Some(ended) => ended?,
            None => drop(tokio::try_join!(serving, reading)?),
        }
        admin.await.context("the admin server ended badly")
    };
    let ended = tokio::time::timeout(DRAIN_GRACE, rest).await;
    ended.unwrap_or_else(|_| {
        tracing::warn!("some connections did not end in time; they are cut off");
        Ok(())
    })
}

/// Runs the admin server where nothing that proxies ask for delays it: the kubelet must get its answer in any case. Resolves
/// when it has ended, or to an error if it did so badly.
fn on_its_own_thread<F: Future<Output = ()>>(
    listener: TcpListener,
    serve: impl FnOnce(TcpListener) -> F + Send + 'static,
) -> anyhow::Result<tokio::sync::oneshot::Receiver<()>> {
    let (ended, end) = tokio::sync::oneshot::channel();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    // Its own runtime must update its readiness, not the one that may be busy.
    let listener = listener.into_std()?;
    let run = move || {
        process::run_promptly();
        let served = runtime.block_on(async {
            serve(TcpListener::from_std(listener)?).await;
            std::io::Result::Ok(())
        });
        match served {
            Ok(()) => drop(ended.send(())),
            Err(error) => tracing::error!(%error, "the admin server cannot run"),
        }
    };
    std::thread::Builder::new().name("admin".to_owned()).spawn(run).context("cannot start the admin thread")?;
    Ok(end)
}

/// The threads of the streams: as many as there are cores, so that TLS and encoding use them all. Reading and indexing, and the
/// admin server, are elsewhere.
struct Streams(Option<tokio::runtime::Runtime>);

impl Streams {
    fn start() -> anyhow::Result<Self> {
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = runtime.thread_name("streams").enable_all().build();
        Ok(Self(Some(runtime.context("cannot start the threads of the streams")?)))
    }

    async fn run(&self, serve: impl Future<Output = anyhow::Result<()>> + Send + 'static) -> anyhow::Result<()> {
        match &self.0 {
            Some(runtime) => runtime.spawn(serve).await.context("serving ended badly")?,
            None => Ok(()),
        }
    }
}

impl Drop for Streams {
    fn drop(&mut self) {
        // Whoever drops it may be a task, which must not wait.
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

fn mesh(config: &Config) -> anyhow::Result<Mesh> {
    Ok(Mesh {
        trust_domain: config.trust_domain.clone(),
        namespace: config.namespace.clone(),
        cluster_domain: config.cluster_domain.clone(),
        networks: config.networks().map_err(|error| anyhow!(error))?,
        proxies: config.proxies().map_err(|error| anyhow!(error))?,
        default_inbound: config.default_inbound().map_err(|error| anyhow!(error))?,
    })
}

/// Keeps telling the hub what changed, wherever objects come from, until the drain.
async fn read(config: &Config, hub: Hub, readiness: &admin::Readiness, draining: drain::Watch) -> anyhow::Result<()> {
    if let Some(manifests) = &config.manifests {
        return feed::directory(manifests, hub, readiness, draining).await;
    }
    let client = kubernetes::client().await?;
    let (namespace, pod) = (config.namespace.clone(), config.pod.clone());
    kubernetes::run(client, hub, namespace, pod, readiness.clone(), draining).await
}

async fn serve(
    config: Config,
    service: Service,
    readiness: admin::Readiness,
    draining: drain::Watch,
) -> anyhow::Result<()> {
    let mut server = Server::builder()
        .http2_keepalive_interval(Some(grpc::KEEP_ALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(grpc::KEEP_ALIVE_TIMEOUT))
        .max_concurrent_streams(STREAMS_MAX);
    if let Some(address) = config.insecure_listen {
        let listener = TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))?;
        tracing::warn!(listen = %listener.local_addr()?, "serves plaintext to any client; for tests only");
        let service = service.danger_any_peer().into_server();
        let incoming = TcpListenerStream::new(listener);
        return Ok(server.add_service(service).serve_with_incoming_shutdown(incoming, draining.signaled()).await?);
    }
    let missing = || anyhow!("identity-addr, trust-anchors and token are required");
    let own = |account| SpiffeId::workload(&config.trust_domain, &config.namespace, account);
    readiness.waiting("certificate", "not issued yet");
    let (mut source, certifier) = certify::start(certify::CertifyConfig {
        identity_addr: config.identity_addr.clone().ok_or_else(missing)?,
        identity_id: own(names::IDENTITY)?,
        token_path: config.token.clone().ok_or_else(missing)?,
        anchors_path: config.trust_anchors.clone().ok_or_else(missing)?,
        id: own(names::DISCOVERY)?,
    })?;
    let listener = TcpListener::bind(config.listen).await;
    let listener = listener.with_context(|| format!("cannot listen on {}", config.listen))?;
    tokio::select! {
        first = source.wait_for(Option::is_some) => drop(first.context("the certificate client ended")?),
        () = draining.signaled() => return Ok(()),
    }
    readiness.ready("certificate");
    tracing::info!(listen = %listener.local_addr()?, "serves proxies");
    let last = Last::default();
    let reported = source.clone();
    let incoming = grpc::tls_incoming(listener, move || last.config(&source));
    let service = service.into_server();
    let served = tokio::select! {
        served = server.add_service(service).serve_with_incoming_shutdown(incoming, draining.signaled()) => served,
        () = certify::report(&readiness, reported) => return Err(anyhow!("the certificate client ended")),
    };
    certifier.abort();
    drop(certifier.await);
    Ok(served?)
}

/// The TLS configuration of the current certificate, made once per certificate.
#[derive(Default)]
struct Last(std::sync::Mutex<Option<(u64, Arc<ServerConfig>)>>);

impl Last {
    fn config(&self, source: &certify::Source) -> Arc<ServerConfig> {
        let mut last = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let credentials = source.borrow().clone();
        if let Some(credentials) = &credentials
            && last.as_ref().is_none_or(|(generation, _)| *generation != credentials.generation)
        {
            match tls::server_config(credentials, &[Alpn::Grpc]) {
                Ok(config) => *last = Some((credentials.generation, config)),
                Err(error) => tracing::error!(%error, "the new certificate cannot be used; the old one stays"),
            }
        }
        let made = last.as_ref().map(|(_, config)| Arc::clone(config));
        made.expect("serving starts with the first certificate, whose key was made here")
    }
}
