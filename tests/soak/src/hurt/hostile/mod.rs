//! Two hostile hosts against one pod, whose proxy has the memory that an injected one gets, while an honest peer calls it a
//! hundred times a second and the kubelet's probes come as ever. Each thing that must hold is told for itself.
//!
//! The hostile hosts have cores of their own, as far as one machine can show that: what attacks runs on what the attacked proxy
//! and the honest peer leave of the cores (`SCHED_IDLE`). What they sent is told beside the verdicts.

mod attacks;
mod frames;

use super::{at_most, failures, pause, percentile_ms, sent, steady, tell, victim};
use crate::report::Report;
use anyhow::Context as _;
use attacks::{Attack, Targets};
use remora_tests::{
    forge::Forge,
    local::{Mesh, Proxy},
    patience::until,
};
use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};
use steady::Sample;

/// Requests a second of the honest peer.
const RATE: u32 = 100;
/// How long it has the pod to itself, to know how long its requests take then.
const ALONE: Duration = Duration::from_secs(15);
/// What the injector gives a sidecar.
const MEMORY: &str = "128Mi";
const MEMORY_BYTES: f64 = (128 << 20) as f64;
/// A probe of the application's.
const PROBE: &str = "/probe/app/readiness";
/// What the hostile pod may not ask for.
const DENIED: &str = "/denied";
/// Between two looks at the memory, and between two probes.
const LOOK: Duration = Duration::from_millis(200);
/// How long the kubelet waits for a probe.
const PROBE_PATIENCE: Duration = Duration::from_secs(1);

const POLICY: &str = "apiVersion: remora.dev/v1alpha1
kind: AuthorizationPolicy
metadata: { name: denied, namespace: test }
spec:
  targetRefs: [{ group: \"\", kind: Service, name: api }]
  action: Deny
  rules: [{ to: [{ paths: [/denied, /denied/*] }] }]
";

pub(super) fn run(time: Duration, logs: Option<&Path>, report: &mut Report) -> anyhow::Result<()> {
    let mesh = Mesh::start(std::env::current_exe()?)?;
    let scene = Scene::open(&mesh)?;
    let load = steady::Load::start(scene.web.outbound, "api:80", RATE);
    let control = steady::Load::start(scene.web.outbound, "calm:80", RATE);
    let alone = Instant::now();
    pause(ALONE);
    let watch = Watch::start(&scene.api)?;
    let (lines, before) = (scene.api.log().lines().count(), Instant::now());
    let attack = Attack::start(&scene.targets()?, || Forge::of(&mesh))?;
    pause(time);
    let took = before.elapsed();
    let seen = watch.finish()?;
    let lines = scene.api.log().lines().count() - lines;
    for (what, count) in attack.finish()? {
        tell(report, what, count as f64, "");
    }
    let (samples, control) = (load.stop(report)?, control.stop(report)?);
    judge(report, (&samples, &control), (alone, before, took));
    at_most(report, "resident memory at most", seen.resident as f64 / 1e6, MEMORY_BYTES / 1e6, "MB");
    at_most(report, format!("probes not answered, of {}", seen.probes), seen.unanswered as f64, 0.0, "");
    at_most(report, "log lines a second", lines as f64 / took.as_secs_f64(), 1.0, "");
    let refused = scene.api.metric("remora_connections_refused_total", &[]).unwrap_or_default();
    tell(report, "connections refused", refused, "");
    scene.api.program.running().context("the attacked proxy has ended")?;
    if let Some(logs) = logs {
        std::fs::create_dir_all(logs)?;
        for proxy in [&scene.web, &scene.api, &scene.calm, &scene.mallory] {
            std::fs::write(logs.join(format!("{}.log", proxy.program.name())), proxy.log())?;
        }
    }
    Ok(())
}

/// The control, requests to a pod that nobody attacks, tells what the machine itself adds in the same seconds: its cores are
/// all busy, and every step of a request waits for one.
fn judge(report: &mut Report, loads: (&[Sample], &[Sample]), (alone, attacked, took): (Instant, Instant, Duration)) {
    let (samples, control) = loads;
    let failed = failures(report, sent(samples, attacked, Duration::ZERO..took));
    let count = sent(samples, attacked, Duration::ZERO..took).count();
    at_most(report, format!("honest requests failed, of {count}"), failed, 0.0, "");
    let p99 = |samples, from, within| percentile_ms(sent(samples, from, within), 99);
    let (before, control) = (p99(samples, alone, ALONE / 5..ALONE), p99(control, attacked, Duration::ZERO..took));
    let under_attack = p99(samples, attacked, Duration::ZERO..took);
    tell(report, "honest p99 alone, before the attack", before, "ms");
    at_most(report, "honest p99, by alone", under_attack, 3.0 * before, "ms");
    tell(report, "honest p99 to a pod that is not attacked", control, "ms");
    at_most(report, "honest p99, by that", under_attack, 3.0 * control, "ms");
}

/// The pods.
struct Scene {
    /// The honest peer.
    web: Proxy,
    /// The attacked pod.
    api: Proxy,
    /// One that is not attacked.
    calm: Proxy,
    /// The hostile one.
    mallory: Proxy,
    ports: victim::Ports,
}

impl Scene {
    fn open(mesh: &Mesh) -> anyhow::Result<Self> {
        let spec = mesh.proxy("api");
        let ports = victim::start(spec.ip())?;
        let probes = format!(r#"{{"app/readiness":{{"httpGet":{{"path":"/","port":{}}}}}}}"#, ports.http.port());
        let api =
            spec.env("MEMORY_LIMIT", MEMORY).env("WORKERS", "1").env("PROBES", probes).env("LOG", "info").spawn()?;
        let spec = mesh.proxy("calm");
        let calm_port = victim::start(spec.ip())?.http;
        let calm = spec.env("MEMORY_LIMIT", MEMORY).env("LOG", "info").spawn()?;
        let (web, mallory) = (mesh.proxy("web").spawn()?, mesh.proxy("mallory").elsewhere().spawn()?);
        mesh.service("api", 80, Some("http"), &[ports.http])?;
        mesh.service("calm", 80, Some("http"), &[calm_port])?;
        mesh.service("big", 80, Some("http"), &[ports.big])?;
        mesh.service("raw", 9000, None, &[ports.bytes])?;
        mesh.manifest("policy", POLICY)?;
        let (web, api, calm, mallory) = (web.ready()?, api.ready()?, calm.ready()?, mallory.ready()?);
        for service in ["api:80", "calm:80"] {
            until(&format!("{service} answers"), || Ok((web.get(service, "/")?.status == 200).then_some(())))
                .with_context(|| web.program.log_end())?;
        }
        until("policy is in force", || Ok((mallory.get("api:80", DENIED)?.status == 403).then_some(())))?;
        Ok(Self { web, api, calm, mallory, ports })
    }

    fn targets(&self) -> anyhow::Result<Targets> {
        let (port, big_port) = (self.ports.http.port(), self.ports.big.port());
        let (outbound, inbound, admin) = (self.mallory.outbound, self.api.inbound, self.api.admin);
        Ok(Targets { outbound, inbound, admin, port, big_port })
    }
}

/// What is seen of the attacked proxy from beside.
struct Watch {
    stop: Arc<AtomicBool>,
    resident: Arc<AtomicU64>,
    thread: JoinHandle<(u64, u64)>,
}

struct Seen {
    resident: u64,
    probes: u64,
    unanswered: u64,
}

impl Watch {
    fn start(api: &Proxy) -> anyhow::Result<Self> {
        let (stop, resident) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (until, most, pid, admin) = (stop.clone(), resident.clone(), api.pid()?, api.admin);
        let thread = std::thread::spawn(move || {
            let (mut probes, mut unanswered) = (0, 0);
            while !until.load(Relaxed) {
                most.fetch_max(resident_bytes(pid), Relaxed);
                for path in ["/live", PROBE] {
                    probes += 1;
                    unanswered += u64::from(!probe(admin, path).unwrap_or(false));
                }
                std::thread::park_timeout(LOOK);
            }
            (probes, unanswered)
        });
        Ok(Self { stop, resident, thread })
    }

    fn finish(self) -> anyhow::Result<Seen> {
        self.stop.store(true, Relaxed);
        let (probes, unanswered) = self.thread.join().map_err(|_| anyhow::anyhow!("the watch panicked"))?;
        Ok(Seen { resident: self.resident.load(Relaxed), probes, unanswered })
    }
}

fn resident_bytes(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok()).unwrap_or_default() * 1024
}

/// As the kubelet asks: whether the answer is 200, in time.
fn probe(admin: std::net::SocketAddr, path: &str) -> std::io::Result<bool> {
    use std::io::{Read as _, Write as _};
    let mut stream = std::net::TcpStream::connect_timeout(&admin, PROBE_PATIENCE)?;
    stream.set_read_timeout(Some(PROBE_PATIENCE))?;
    write!(stream, "GET {path} HTTP/1.1\r\nhost: {admin}\r\nconnection: close\r\n\r\n")?;
    let mut answer = [0; 12];
    stream.read_exact(&mut answer)?;
    Ok(answer.ends_with(b"200"))
}
