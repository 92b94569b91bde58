//! Pods: each a workload client, and handshakes from one to another by what they hold.

use anyhow::Context as _;
use remora_model::{SpiffeId, TrustDomain};
use remora_runtime::{
    certify::{self, CertifyConfig, Source},
    tls::{Alpn, Credentials, client_config, server_config, server_name},
};
use remora_tests::local::Mesh;
use std::{
    collections::HashSet,
    net::SocketAddr,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};
use tokio::time::timeout;
use tokio_rustls::{TlsAcceptor, TlsConnector};

const NAMESPACE: &str = "fleet";
/// Between two handshakes.
const EVERY: Duration = Duration::from_millis(5);
/// Until all have their first certificate.
const FIRST: Duration = Duration::from_secs(90);
/// Failures that are told in words.
const TOLD_MAX: usize = 8;
/// A pipe's room: more than a flight of a handshake.
const PIPE_BYTES: usize = 64 * 1024;

/// What was seen.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) handshakes: u64,
    pub(super) failed: u64,
    pub(super) renewals: u64,
    pub(super) anchors_max: usize,
    /// Issuers that leaves were seen of.
    pub(super) roots: usize,
    pub(super) told: Vec<String>,
}

pub(super) struct Pods {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Seen>,
}

impl Pods {
    /// Starts `count` of them, and waits until each has a certificate.
    pub(super) fn start(mesh: &Mesh, anchors: &Path, identity: SocketAddr, count: u16) -> anyhow::Result<Self> {
        let trust_domain = TrustDomain::new("cluster.local")?;
        let mut configs = Vec::new();
        for number in 0..count {
            let name = format!("pod-{number}");
            configs.push(CertifyConfig {
                identity_addr: identity.to_string(),
                identity_id: SpiffeId::workload(&trust_domain, "remora", "remora-identity")?,
                token_path: mesh.token(NAMESPACE, &name, &name)?,
                anchors_path: anchors.to_owned(),
                id: SpiffeId::workload(&trust_domain, NAMESPACE, &name)?,
            });
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let sources = runtime.block_on(async {
            let started: Result<Vec<_>, _> = configs.into_iter().map(certify::start).collect();
            let mut sources: Vec<Source> = started?.into_iter().map(|(source, _)| source).collect();
            for source in &mut sources {
                let first = timeout(FIRST, source.wait_for(Option::is_some)).await;
                drop(first.context("a pod has no certificate")??);
            }
            anyhow::Ok(sources)
        })?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || runtime.block_on(shake_hands(sources, &stopped)));
        Ok(Self { stop, thread })
    }

    /// Ends them, and tells.
    pub(super) fn finish(self) -> Seen {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or_else(|_| Seen {
            failed: 1,
            told: vec!["the pods panicked".into()],
            ..Seen::default()
        })
    }
}

async fn shake_hands(sources: Vec<Source>, stop: &AtomicBool) -> Seen {
    let (mut seen, mut issuers, started) = (Seen::default(), HashSet::new(), Instant::now());
    let mut certificates = vec![None; sources.len()];
    let mut every = tokio::time::interval(EVERY);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    while !stop.load(Ordering::Relaxed) {
        every.tick().await;
        let [from, to] = [(); 2].map(|()| fastrand::usize(..sources.len()));
        // Both at one moment, as two proxies that meet.
        let (Some(client), Some(server)) = (sources[from].borrow().clone(), sources[to].borrow().clone()) else {
            continue;
        };
        // Each pod is met some twice a second, and is certified anew every seventh.
        for (number, pod) in [(from, &client), (to, &server)] {
            let certificate = &mut certificates[number];
            seen.renewals += u64::from(*certificate != Some(pod.svid.not_after()));
            *certificate = Some(pod.svid.not_after());
        }
        seen.anchors_max = seen.anchors_max.max(client.bundle.anchors().len());
        issuers.extend(client.svid.chain().get(1).map(|issuer| issuer.to_vec()));
        seen.handshakes += 1;
        if let Err(error) = handshake(&client, &server).await {
            seen.failed += 1;
            if seen.told.len() < TOLD_MAX {
                let at = started.elapsed().as_secs_f64();
                seen.told.push(format!("after {at:.1} s: pod-{from} to pod-{to}: {error:#}"));
            }
        }
    }
    seen.roots = issuers.len();
    seen
}

async fn handshake(client: &Credentials, server: &Credentials) -> anyhow::Result<()> {
    let connector = TlsConnector::from(client_config(client, server.svid.id(), &[Alpn::MeshHttp])?);
    let acceptor = TlsAcceptor::from(server_config(server, &[Alpn::MeshHttp])?);
    let (a, b) = tokio::io::duplex(PIPE_BYTES);
    let both = async { tokio::join!(connector.connect(server_name(), a), acceptor.accept(b)) };
    let (client, server) = timeout(Duration::from_secs(10), both).await.context("it hangs")?;
    client.context("the client")?;
    server.context("the server")?;
    Ok(())
}
