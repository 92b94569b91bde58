//! Who is revoked: what it has open is cut, it is not let in and not called, it gets no certificate; and nobody else notices. Real programs, real
//! certificates.

use anyhow::ensure;
use remora_runtime::tls::Alpn;
use remora_tests::{
    local::{Mesh, NAMESPACE, Proxy},
    patience::until,
    wire::{Ending, Line, Recorder, Reply, Workload},
};
use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

/// Nothing that could become HTTP.
const PING: &[u8] = b"\0\x01\x02\x03";
const SWITCH: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\nhello";
/// Of an answer that does not end.
const BEGUN: &[u8] = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n";

/// Serves each connection on a thread of its own.
fn serve(pod: &Proxy, each: fn(TcpStream)) -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind((pod.ip, 0))?;
    let address = listener.local_addr()?;
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || each(stream));
        }
    });
    Ok(address)
}

fn echo(mut stream: TcpStream) {
    let mut buffer = [0; 1024];
    while let Ok(count @ 1..) = stream.read(&mut buffer) {
        if stream.write_all(&buffer[..count]).is_err() {
            return;
        }
    }
}

/// Begins an answer, and waits until its caller is gone.
fn begin(mut stream: TcpStream) {
    let mut buffer = [0; 4096];
    if stream.read(&mut buffer).is_ok_and(|count| count > 0) && stream.write_all(BEGUN).is_ok() {
        while stream.read(&mut buffer).is_ok_and(|count| count > 0) {}
    }
}

/// A pod `api` with applications, and those who call it: two workloads without a proxy, two pods with one.
struct Scene {
    api: Proxy,
    echo: SocketAddr,
    app: Recorder,
    mallory: Workload,
    alice: Workload,
    web: Proxy,
    shop: Proxy,
    mesh: Mesh,
}

impl Scene {
    fn start() -> anyhow::Result<Self> {
        let mesh = Mesh::start(env!("CARGO_BIN_EXE_remora-components"))?;
        let (api, web, shop) = (mesh.proxy("api").spawn()?, mesh.proxy("web").spawn()?, mesh.proxy("shop").spawn()?);
        let (echo, app) = (serve(&api, echo)?, Recorder::start(api.ip)?);
        app.reply("/chat", Reply::Bytes(SWITCH.into()));
        mesh.service("echo", 80, None, &[echo])?;
        mesh.service("api", 80, None, &[app.address])?;
        mesh.service("stream", 80, None, &[serve(&api, begin)?])?;
        let (mallory, alice) = (Workload::certified(&mesh, "mallory")?, Workload::certified(&mesh, "alice")?);
        let (api, web, shop) = (api.ready()?, web.ready()?, shop.ready()?);
        let scene = Self { api, echo, app, mallory, alice, web, shop, mesh };
        until("bytes are let in", || Ok(echoes(&mut scene.tunnel(&scene.alice)?).then_some(())))?;
        for pod in [&scene.web, &scene.shop] {
            until("requests are answered", || Ok((pod.get("api:80", "/x")?.status == 200).then_some(())))?;
        }
        Ok(scene)
    }

    fn revoke(&self, spec: &str) -> anyhow::Result<()> {
        let head =
            "apiVersion: remora.dev/v1alpha1\nkind: RevokedIdentity\nmetadata: { name: stolen, namespace: remora }\n";
        self.mesh.manifest("revoked", &format!("{head}spec: {{ {spec} }}\n"))
    }

    fn tunnel(&self, of: &Workload) -> anyhow::Result<Line> {
        of.dial(&self.api, Alpn::MeshTcp, self.echo.port())
    }

    /// Bytes, an upgraded connection, and one that had an answer and may ask again.
    fn open(&self, of: &Workload) -> anyhow::Result<[Line; 3]> {
        let http = || of.dial(&self.api, Alpn::MeshTcp, self.app.address.port());
        let (mut bytes, mut chat, mut kept) = (self.tunnel(of)?, http()?, http()?);
        ensure!(echoes(&mut bytes));
        chat.send(b"GET /chat HTTP/1.1\r\nHost: api\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n");
        ensure!(chat.hear(|bytes| bytes.ends_with(b"hello")).ending == Ending::Open);
        kept.send(b"GET /x HTTP/1.1\r\nHost: api\r\n\r\n");
        ensure!(kept.hear(|bytes| bytes.ends_with(b"ok")).ending == Ending::Open);
        Ok([bytes, chat, kept])
    }

    /// A request by a pod's application whose answer has begun; between the proxies it is HTTP/2.
    fn stream(&self, of: &Proxy) -> anyhow::Result<TcpStream> {
        until("an answer begins", || {
            let mut stream = TcpStream::connect(of.outbound)?;
            stream.set_read_timeout(Some(Duration::from_secs(30)))?;
            stream.write_all(b"GET /s HTTP/1.1\r\nHost: stream:80\r\n\r\n")?;
            let mut came = Vec::new();
            while !came.ends_with(b"hello\r\n") {
                let mut buffer = [0; 4096];
                let count = stream.read(&mut buffer)?;
                ensure!(count > 0, "{}", String::from_utf8_lossy(&came));
                came.extend_from_slice(&buffer[..count]);
            }
            Ok(Some(stream))
        })
    }
}

fn echoes(line: &mut Line) -> bool {
    line.send(PING) && line.hear(|bytes| bytes.len() >= PING.len()).bytes == PING
}

/// Whether nothing more comes, and soon.
fn is_open(stream: &TcpStream) -> anyhow::Result<bool> {
    stream.set_read_timeout(Some(Duration::from_millis(50)))?;
    match (&*stream).read(&mut [0; 16]) {
        Ok(0) => Ok(false),
        Ok(_) => Ok(true),
        Err(error) => Ok(matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut)),
    }
}

#[test]
fn what_a_revoked_identity_has_open_is_cut_it_is_let_in_no_more_and_nobody_else_notices() -> anyhow::Result<()> {
    let scene = Scene::start()?;
    let ([mut bytes, mut chat, mut kept], [mut others, _chat, mut others_kept]) =
        (scene.open(&scene.mallory)?, scene.open(&scene.alice)?);
    let others_stream = scene.stream(&scene.shop)?;
    let began = Instant::now();
    scene.revoke("identity: spiffe://cluster.local/ns/test/sa/mallory, reason: stolen")?;
    for line in [&mut bytes, &mut chat, &mut kept] {
        let heard = line.hear_all();
        ensure!(matches!(heard.ending, Ending::Closed | Ending::Reset), "it is open still: {heard:?}");
    }
    println!("three connections were cut {:?} after the manifest was written", began.elapsed());
    ensure!(echoes(&mut others), "another caller's connection ended with it");
    others_kept.send(b"GET /x HTTP/1.1\r\nHost: api\r\n\r\n");
    ensure!(
        others_kept.hear(|bytes| bytes.ends_with(b"ok")).ending == Ending::Open,
        "another caller's requests failed"
    );
    ensure!(is_open(&others_stream)?, "a request under way of another pod failed");
    // It comes again: the handshake is refused, and why is told to who operates the proxy.
    let refused = scene.tunnel(&scene.mallory).map(|mut line| echoes(&mut line));
    ensure!(!refused.unwrap_or(false), "it is let in again");
    until("the refusal is counted", || {
        let labels = [r#"direction="inbound""#, r#"reason="revoked""#];
        Ok((scene.api.metric("remora_tls_refused_total", &labels)? >= 1.0).then_some(()))
    })?;
    ensure!(scene.api.log().contains("RevokedIdentity stolen (stolen)"), "{}", scene.api.program.log_end());
    let cut = scene.api.metric("remora_connections_revoked_total", &[r#"cause="revoked""#])?;
    ensure!(cut == 3.0, "{cut} were counted: {}", scene.api.program.log_end());
    // And it is let in again once it is trusted again.
    scene.mesh.remove_manifest("revoked")?;
    until("it is let in", || Ok(echoes(&mut scene.tunnel(&scene.mallory)?).then_some(())))
}

#[test]
fn a_revoked_pod_is_cut_off_both_ways_and_other_pods_of_its_service_account_are_not() -> anyhow::Result<()> {
    let scene = Scene::start()?;
    let twin = scene.mesh.proxy("web-2").service_account("web").spawn()?.ready()?;
    until("requests of its twin are answered", || Ok((twin.get("api:80", "/x")?.status == 200).then_some(())))?;
    let (under_way, twins) = (scene.stream(&scene.web)?, scene.stream(&twin)?);
    scene.revoke(&format!("pod: {{ namespace: {NAMESPACE}, name: web }}"))?;
    until("its request under way ends", || Ok((!is_open(&under_way)?).then_some(())))?;
    until("its requests fail", || Ok((scene.web.get("api:80", "/x")?.status >= 500).then_some(())))?;
    ensure!(twin.get("api:80", "/x")?.status == 200 && is_open(&twins)?, "its twin is cut off, too");
    // Now the one that is called: nobody calls it, and the caller's application is told why.
    let under_way = scene.stream(&scene.shop)?;
    scene.revoke(&format!("pod: {{ namespace: {NAMESPACE}, name: api }}"))?;
    until("what was under way to it ends", || Ok((!is_open(&under_way)?).then_some(())))?;
    until("it is not called", || {
        let answer = scene.shop.get("api:80", "/x")?;
        let why = answer.header("x-remora-error").unwrap_or_default().to_owned();
        Ok((answer.status == 502 && why == "revoked").then_some(()))
    })?;
    let labels = [r#"direction="outbound""#, r#"reason="revoked""#];
    ensure!(scene.shop.metric("remora_tls_refused_total", &labels)? >= 1.0);
    scene.mesh.remove_manifest("revoked")?;
    until("it is called again", || Ok((scene.shop.get("api:80", "/x")?.status == 200).then_some(())))
}

#[test]
fn a_revoked_pod_gets_no_certificate_and_a_pod_of_another_name_does() -> anyhow::Result<()> {
    let scene = Scene::start()?;
    scene.revoke(&format!("pod: {{ namespace: {NAMESPACE}, name: late }}"))?;
    until("the identity service has it", || {
        Ok(scene.mesh.identity.log().contains("revocations changed").then_some(()))
    })?;
    let _late = scene.mesh.proxy("late").spawn()?;
    let refused = r#"reason="revoked""#;
    until("it is refused", || Ok(scene.mesh.identity.log().lines().any(|line| line.contains(refused)).then_some(())))?;
    scene.mesh.proxy("later").service_account("late").spawn()?.ready()?;
    Ok(())
}
