//! What the two hostile hosts do, each of them all the time. One host is a pod of the mesh whose application misbehaves behind
//! its own proxy, and which has taken its certificate and speaks to others' proxies itself; the other has no certificate.

use super::{
    super::bulk::{TUNNEL, read_bulk},
    frames,
};
use anyhow::Context as _;
use remora_tests::{
    forge::{self, Forge},
    local::thread_elsewhere,
};
use std::{
    future::Future,
    io::{Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    task::JoinSet,
    time::{sleep, timeout},
};

/// The host without a certificate.
const STRANGER: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 9, 9, 2));
/// How long a connection is kept before another takes its place.
const KEPT: Duration = Duration::from_secs(20);
/// Between two attempts of one attacker.
const PAUSE: Duration = Duration::from_millis(5);
/// How long anything is waited for.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where to.
#[derive(Debug, Clone)]
pub(super) struct Targets {
    /// The hostile pod's own proxy.
    pub(super) outbound: SocketAddr,
    /// The attacked proxy.
    pub(super) inbound: SocketAddr,
    pub(super) admin: SocketAddr,
    /// Its application's ports: of all, and of answers without end.
    pub(super) port: u16,
    pub(super) big_port: u16,
}

/// What was done so far, by name.
#[derive(Debug, Default)]
pub(super) struct Done(Vec<(&'static str, Arc<AtomicU64>)>);

/// Attacks until dropped.
#[derive(Debug)]
pub(super) struct Attack {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<anyhow::Result<()>>>,
    done: Done,
}

impl Attack {
    /// Begins all of it at once. `certificate` signs what the hostile pod shows.
    pub(super) fn start(targets: &Targets, certificate: impl Fn() -> anyhow::Result<Forge>) -> anyhow::Result<Self> {
        let (stop, mut done, mut threads) = (Arc::new(AtomicBool::new(false)), Done::default(), Vec::new());
        let kinds = (done.of("slow readers of bytes"), done.of("slow readers of answers"), done.of("slow uploads"));
        let more = (done.of("bulk streams, MB"), done.of("denied requests"), done.of("silent connections"));
        let rest = (done.of("silent handshakes"), done.of("probes and scrapes"));
        let (to, until) = (targets.clone(), stop.clone());
        threads.push(thread_elsewhere(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let mut all = JoinSet::new();
                many(&mut all, 200, &kinds.0, move || stalled(to.outbound, TUNNEL.to_owned(), false));
                many(&mut all, 200, &kinds.1, move || stalled(to.outbound, request("GET /endless", "big", 0), false));
                many(&mut all, 100, &kinds.2, move || {
                    stalled(to.outbound, request("POST /upload", "api", 1 << 30), true)
                });
                for _ in 0..4 {
                    all.spawn(read_bulk(to.outbound, more.0.clone()));
                }
                many(&mut all, 4, &more.1, move || denied(to.outbound));
                many(&mut all, 1000, &more.2, move || silent(to.inbound, b"G".to_vec()));
                let hello = forge::hello(&["remora/h2"]).unwrap_or_default();
                many(&mut all, 500, &rest.0, move || silent(to.inbound, hello.clone()));
                many(&mut all, 8, &rest.1, move || ask(to.admin, ["/metrics", super::PROBE, "/live"]));
                while !until.load(Relaxed) {
                    sleep(Duration::from_millis(100)).await;
                }
            });
            Ok(())
        })?);
        let raw: [(&str, Raw); 5] = [
            ("bad handshakes", bad_handshake),
            ("reset streams", reset_storm),
            ("huge heads", huge_heads),
            ("streams with a window of one byte", tiny_windows),
            ("connections to many ports", many_ports),
        ];
        for (name, attack) in raw {
            let (to, stop, count, forge) = (targets.clone(), stop.clone(), done.of(name), certificate()?);
            threads.push(thread_elsewhere(move || {
                while !stop.load(Relaxed) {
                    // Being refused is what an attacker expects.
                    let _ = attack(&to, &forge, &count, &stop);
                    std::thread::park_timeout(PAUSE);
                }
                Ok(())
            })?);
        }
        Ok(Self { stop, threads, done })
    }

    /// Ends it: how much was done of each.
    pub(super) fn finish(self) -> anyhow::Result<Vec<(&'static str, u64)>> {
        self.stop.store(true, Relaxed);
        for thread in self.threads {
            thread.join().map_err(|_| anyhow::anyhow!("an attacker panicked"))??;
        }
        Ok(self.done.0.iter().map(|(name, count)| (*name, count.load(Relaxed))).collect())
    }
}

impl Done {
    fn of(&mut self, name: &'static str) -> Arc<AtomicU64> {
        let count = Arc::new(AtomicU64::new(0));
        self.0.push((name, count.clone()));
        count
    }
}

/// So many at a time, over and over.
fn many<F>(
    all: &mut JoinSet<()>,
    at_once: usize,
    count: &Arc<AtomicU64>,
    attack: impl Fn() -> F + Clone + Send + 'static,
) where
    F: Future<Output = anyhow::Result<()>> + Send + 'static,
{
    for number in 0..at_once {
        let (attack, count) = (attack.clone(), count.clone());
        all.spawn(async move {
            // Not all in one moment: what is asked is how it goes on.
            sleep(PAUSE * u32::try_from(number).unwrap_or_default()).await;
            loop {
                count.fetch_add(1, Relaxed);
                // Being refused is what an attacker expects.
                let _ = attack().await;
                sleep(PAUSE).await;
            }
        });
    }
}

fn request(line: &str, service: &str, length: u64) -> String {
    format!("{line} HTTP/1.1\r\nhost: {service}:80\r\ncontent-length: {length}\r\n\r\n")
}

async fn dial(from: Option<IpAddr>, to: SocketAddr) -> anyhow::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    if let Some(from) = from {
        socket.bind((from, 0).into())?;
    }
    socket.set_recv_buffer_size(4096)?;
    Ok(timeout(PATIENCE, socket.connect(to)).await.context("connecting")??)
}

/// Asks and reads nothing; or goes on with a byte a second.
async fn stalled(to: SocketAddr, ask: String, drips: bool) -> anyhow::Result<()> {
    let mut stream = dial(None, to).await?;
    stream.write_all(ask.as_bytes()).await?;
    for _ in 0..KEPT.as_secs() {
        if drips {
            stream.write_all(b"x").await?;
        }
        sleep(Duration::from_secs(1)).await;
    }
    Ok(())
}

/// A path that nobody has asked for before, and that policy denies.
async fn denied(to: SocketAddr) -> anyhow::Result<()> {
    let mut stream = dial(None, to).await?;
    let began = Instant::now();
    while began.elapsed() < KEPT {
        let path = format!("GET {}/{:x}", super::DENIED, began.elapsed().as_nanos());
        stream.write_all(request(&path, "api", 0).as_bytes()).await?;
        timeout(PATIENCE, stream.read(&mut [0; 4096])).await??;
        sleep(PAUSE).await;
    }
    Ok(())
}

/// Says `first` and then nothing.
async fn silent(to: SocketAddr, first: Vec<u8>) -> anyhow::Result<()> {
    let mut stream = dial(Some(STRANGER), to).await?;
    stream.write_all(&first).await?;
    // Until the proxy has had enough.
    while timeout(KEPT, stream.read(&mut [0; 4096])).await?? > 0 {}
    Ok(())
}

async fn ask(to: SocketAddr, paths: [&str; 3]) -> anyhow::Result<()> {
    for path in paths {
        let mut stream = dial(Some(STRANGER), to).await?;
        stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: {to}\r\nconnection: close\r\n\r\n").as_bytes()).await?;
        let mut answer = Vec::new();
        timeout(PATIENCE, stream.read_to_end(&mut answer)).await??;
    }
    Ok(())
}

type Raw = fn(&Targets, &Forge, &AtomicU64, &AtomicBool) -> anyhow::Result<()>;

/// A connection of the hostile pod's own making, to a port of the attacked one.
fn peer(to: &Targets, forge: &Forge, port: u16, window: u32) -> anyhow::Result<forge::Connection> {
    let certificate = forge.sign("spiffe://cluster.local/ns/test/sa/mallory", |_| ())?;
    let mut connection = forge::dial(to.inbound, Some(certificate), &["remora/h2"])?;
    connection.write_all(&forge::wanting(port))?;
    connection.write_all(&frames::opening(window))?;
    Ok(connection)
}

fn bad_handshake(to: &Targets, _: &Forge, count: &AtomicU64, _: &AtomicBool) -> anyhow::Result<()> {
    count.fetch_add(1, Relaxed);
    let certificate = Forge::stranger()?.sign("spiffe://cluster.local/ns/test/sa/mallory", |_| ())?;
    forge::knock(to.inbound, Some(certificate), b"")?;
    forge::knock(to.inbound, None, b"")
}

/// Streams that are reset as soon as they are opened (CVE-2023-44487).
fn reset_storm(to: &Targets, forge: &Forge, count: &AtomicU64, stop: &AtomicBool) -> anyhow::Result<()> {
    let mut connection = peer(to, forge, to.port, 65_535)?;
    for stream in (1..2001).step_by(2) {
        let mut both = frames::get(stream, "api:80", "/", 0);
        both.extend(frames::reset(stream));
        connection.write_all(&both)?;
        count.fetch_add(1, Relaxed);
        if stop.load(Relaxed) {
            break;
        }
        std::thread::park_timeout(PAUSE / 5);
    }
    Ok(())
}

fn huge_heads(to: &Targets, forge: &Forge, count: &AtomicU64, stop: &AtomicBool) -> anyhow::Result<()> {
    let mut connection = peer(to, forge, to.port, 65_535)?;
    for stream in (1..201).step_by(2) {
        connection.write_all(&frames::get(stream, "api:80", "/", 60_000))?;
        count.fetch_add(1, Relaxed);
        if stop.load(Relaxed) {
            break;
        }
        std::thread::park_timeout(PAUSE);
    }
    Ok(())
}

/// Answers without end to somebody who takes one byte of each.
fn tiny_windows(to: &Targets, forge: &Forge, count: &AtomicU64, stop: &AtomicBool) -> anyhow::Result<()> {
    let mut connection = peer(to, forge, to.big_port, 1)?;
    connection.sock.set_read_timeout(Some(Duration::from_millis(100)))?;
    for stream in (1..2001).step_by(2) {
        connection.write_all(&frames::get(stream, "big:80", "/endless", 0))?;
        count.fetch_add(1, Relaxed);
    }
    let until = Instant::now() + KEPT;
    while !stop.load(Relaxed) && Instant::now() < until {
        let mut buffer = [0; 16 * 1024];
        match connection.read(&mut buffer) {
            Ok(0) => break,
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn many_ports(to: &Targets, forge: &Forge, count: &AtomicU64, stop: &AtomicBool) -> anyhow::Result<()> {
    let mut held = Vec::new();
    for port in 20_000..20_100 {
        if stop.load(Relaxed) {
            break;
        }
        let port = port + u16::try_from(count.fetch_add(1, Relaxed) % 40_000).unwrap_or_default();
        held.push(peer(to, forge, port, 65_535)?);
        std::thread::park_timeout(PAUSE);
    }
    Ok(())
}
