//! Peers that do not end their connections when they should: the proxy does, no later than their certificates end.

use anyhow::{Context as _, ensure};
use remora_tests::{
    forge::{Connection, Forge, dial, wanting},
    local::{Mesh, NAMESPACE, Proxy},
};
use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpListener},
    sync::mpsc,
    thread,
    time::{Duration, Instant, SystemTime},
};

/// How long the peer's certificate is valid. It ends with a whole second, so it may be one less.
const LIFE: Duration = Duration::from_secs(4);
/// For a machine that is busy.
const SLACK: Duration = Duration::from_secs(1);
/// Nothing that could become HTTP.
const PING: &[u8] = b"\0\x01\x02\x03";
const OUTLIVED: &str = "remora_connections_outlived_total";
/// An HTTP/2 client's first words, and nothing more: it answers no PING and heeds no GOAWAY.
const HELLO: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
const GOAWAY: u8 = 7;

struct Scene {
    api: Proxy,
    application: SocketAddr,
    /// How the application's connections ended.
    ended: mpsc::Receiver<std::io::Result<()>>,
    ca: Forge,
    _mesh: Mesh,
}

impl Scene {
    /// One pod, whose application sends every byte back.
    fn start() -> anyhow::Result<Self> {
        let mesh = Mesh::start(env!("CARGO_BIN_EXE_remora-components"))?;
        let api = mesh.proxy("api").spawn()?;
        let listener = TcpListener::bind((api.ip, 0))?;
        let application = listener.local_addr()?;
        let (tell, ended) = mpsc::channel();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let echoed = stream.try_clone().and_then(|mut from| std::io::copy(&mut from, &mut &stream));
                if tell.send(echoed.map(drop)).is_err() {
                    return;
                }
            }
        });
        mesh.service("api", 80, None, &[application])?;
        let (api, ca) = (api.ready()?, Forge::of(&mesh)?);
        Ok(Self { api, application, ended, ca, _mesh: mesh })
    }

    /// A peer with a certificate that ends soon.
    fn connect(&self, alpn: &str) -> anyhow::Result<Connection> {
        let id = format!("spiffe://cluster.local/ns/{NAMESPACE}/sa/mallory");
        let short = self.ca.sign(&id, |leaf| leaf.not_after = (SystemTime::now() + LIFE).into())?;
        let mut connection = dial(self.api.inbound, Some(short), &[alpn])?;
        connection.write_all(&wanting(self.application.port()))?;
        Ok(connection)
    }
}

#[test]
fn bytes_of_a_peer_end_with_its_certificate_and_the_application_sees_a_reset() -> anyhow::Result<()> {
    let scene = Scene::start()?;
    let (started, mut connection, mut pong) = (Instant::now(), scene.connect("remora/tcp")?, [0; 4]);
    while connection.write_all(PING).and_then(|()| connection.read_exact(&mut pong)).is_ok() {
        ensure!(pong == PING);
        ensure!(started.elapsed() < LIFE + SLACK, "it outlives its certificate");
        thread::park_timeout(Duration::from_millis(50));
    }
    ensure!(started.elapsed() > LIFE / 2, "it ended after {:?} already", started.elapsed());
    let ended = scene.ended.recv_timeout(SLACK).context("the application's connection is still open")?;
    ensure!(ended.as_ref().is_err_and(|error| error.kind() == ErrorKind::ConnectionReset), "{ended:?}");
    ensure!(scene.api.metric(OUTLIVED, &[])? == 1.0, "{}", scene.api.program.log_end());
    Ok(())
}

#[test]
fn a_peer_that_heeds_no_goaway_is_cut_off_when_its_certificate_ends() -> anyhow::Result<()> {
    let scene = Scene::start()?;
    let (started, mut connection) = (Instant::now(), scene.connect("remora/h2")?);
    connection.write_all(HELLO)?;
    let mut goodbye = None;
    let mut head = [0; 9];
    while connection.read_exact(&mut head).is_ok() {
        let [high, middle, low, kind, ..] = head;
        let length = u32::from_be_bytes([0, high, middle, low]);
        std::io::copy(&mut (&mut connection).take(length.into()), &mut std::io::sink())?;
        goodbye = goodbye.or((kind == GOAWAY).then(|| started.elapsed()));
    }
    let (end, goodbye) = (started.elapsed(), goodbye.context("no GOAWAY came")?);
    ensure!(goodbye > LIFE / 2 && goodbye < end, "GOAWAY after {goodbye:?}, the end after {end:?}");
    ensure!(end < LIFE + SLACK, "it outlives its certificate: {end:?}");
    ensure!(scene.api.metric(OUTLIVED, &[])? == 1.0, "{}", scene.api.program.log_end());
    Ok(())
}
