//! Replicas of the CA, killed by chance, behind one address that forwards to whichever runs.

use super::LIFE;
use remora_tests::local::{Mesh, Program};
use std::{
    net::{SocketAddr, TcpListener},
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    io::copy_bidirectional,
    net::{TcpSocket, TcpStream},
    runtime::Runtime,
};

/// How long a replica runs, and how long it is away.
const RUNS: (u64, u64) = (4_000, 20_000);
const AWAY: (u64, u64) = (0, 2_000);
/// One in so many kills takes all of them.
const ALL: u64 = 12;
/// Local addresses that the service calls from: a replica bounds the connections of each.
const FROM: u8 = 16;

pub(super) struct Replicas {
    replicas: Vec<Replica>,
    service: SocketAddr,
    pub(super) killed: u32,
    pub(super) killed_all: u32,
    _runtime: Runtime,
}

struct Replica {
    program: Program,
    /// When it is killed, or started.
    next: Instant,
    runs: bool,
}

impl Replicas {
    pub(super) fn start(mesh: &Mesh, issuer: &Path, count: u8) -> anyhow::Result<Self> {
        let path = |name: &str| mesh.dir().join(name).to_string_lossy().into_owned();
        let (issuer, state, jwks) = (issuer.to_string_lossy().into_owned(), path("fleet-state"), path("jwks.json"));
        let life = format!("{}s", LIFE.as_secs());
        let (mut replicas, mut addresses) = (Vec::new(), Vec::new());
        for number in 0..count {
            let [listen, admin] = [free()?, free()?];
            let (listen_text, admin) = (listen.to_string(), admin.to_string());
            let flags = [
                ("--listen", listen_text.as_str()),
                ("--admin", &admin),
                ("--issuer-dir", &issuer),
                ("--state-dir", &state),
                ("--jwks", &jwks),
                ("--leaf-lifetime", &life),
                ("--log", "info"),
            ];
            let program = mesh.helper(&format!("replica-{number}"), "remora-identity", &flags)?;
            replicas.push(Replica { program, next: Instant::now() + between(RUNS), runs: true });
            addresses.push(listen);
        }
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))?;
        let service = listener.local_addr()?;
        runtime.spawn(forward(listener, addresses.into()));
        Ok(Self { replicas, service, killed: 0, killed_all: 0, _runtime: runtime })
    }

    /// Where clients find whichever replica runs.
    pub(super) fn service(&self) -> SocketAddr {
        self.service
    }

    /// Kills and starts what is due.
    pub(super) fn hurt(&mut self) -> anyhow::Result<()> {
        let now = Instant::now();
        let due = self.replicas.iter().any(|replica| replica.runs && replica.next <= now);
        let all = due && fastrand::u64(0..ALL) == 0;
        self.killed_all += u32::from(all);
        for replica in &mut self.replicas {
            if replica.runs && (all || replica.next <= now) {
                replica.program.kill()?;
                self.killed += 1;
                (replica.runs, replica.next) = (false, now + between(AWAY));
            } else if !replica.runs && replica.next <= now {
                replica.program.restart()?;
                (replica.runs, replica.next) = (true, now + between(RUNS));
            }
        }
        Ok(())
    }
}

fn between((least, most): (u64, u64)) -> Duration {
    Duration::from_millis(fastrand::u64(least..=most))
}

fn free() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

/// A Service: each connection goes to some replica that takes it.
async fn forward(listener: tokio::net::TcpListener, replicas: Arc<[SocketAddr]>) {
    while let Ok((mut from, _)) = listener.accept().await {
        let replicas = Arc::clone(&replicas);
        tokio::spawn(async move {
            let first = fastrand::usize(..replicas.len());
            for replica in replicas.iter().cycle().skip(first).take(replicas.len()) {
                if let Ok(mut to) = call(*replica).await {
                    // Either end may break it off.
                    drop(copy_bidirectional(&mut from, &mut to).await);
                    return;
                }
            }
        });
    }
}

async fn call(replica: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(([127, 0, 9, fastrand::u8(1..FROM)], 0).into())?;
    socket.connect(replica).await
}
