//! TLSRoutes and TCPRoutes as callers meet them: over real processes, through tunnels.

use anyhow::{Context as _, ensure};
use remora_tests::{
    forge,
    local::{Mesh, Proxy},
    patience::until,
};
use std::{
    collections::BTreeSet,
    io::{Read as _, Write as _},
    net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream},
    thread,
    time::Duration,
};

const PATIENCE: Duration = Duration::from_secs(10);

/// An application that speaks no protocol that we know: it answers each connection with its name and all that was said.
fn application(ip: IpAddr, name: &'static str) -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind((ip, 0))?;
    let address = listener.local_addr()?;
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            thread::spawn(move || {
                let mut said = name.as_bytes().to_vec();
                // A connection that breaks is the client's to report.
                let _ = stream.read_to_end(&mut said);
                let _ = stream.write_all(&said);
            });
        }
    });
    Ok(address)
}

/// A client's pod, and the pod of three applications: the Service that is called, and two others.
struct Scene {
    web: Proxy,
    api: Proxy,
    mesh: Mesh,
}

impl Scene {
    fn start() -> anyhow::Result<Self> {
        let mesh = Mesh::start(env!("CARGO_BIN_EXE_remora-components"))?;
        let (web, api) = (mesh.proxy("web").spawn()?, mesh.proxy("api").spawn()?);
        for name in ["db", "one", "two"] {
            mesh.service(name, 80, None, &[application(api.ip, name)?])?;
        }
        Ok(Self { web: web.ready()?, api: api.ready()?, mesh })
    }

    fn route(&self, kind: &str, spec: &str) -> anyhow::Result<()> {
        let text = format!(
            "apiVersion: gateway.networking.k8s.io/v1
kind: {kind}
metadata: {{ name: r, namespace: test }}
spec: {{ parentRefs: [{{ group: '', kind: Service, name: db }}], {spec} }}
"
        );
        self.mesh.manifest("route", &text)
    }

    /// Says all of this through a tunnel to `db`, each piece by itself: who answered, and that it heard every byte. `None`: the
    /// tunnel was refused, or closed without a word.
    fn ask(&self, pieces: &[&[u8]]) -> anyhow::Result<Option<String>> {
        let mut client = TcpStream::connect(self.web.outbound)?;
        client.set_read_timeout(Some(PATIENCE))?;
        client.set_nodelay(true)?;
        client.write_all(b"CONNECT db:80 HTTP/1.1\r\nhost: db:80\r\n\r\n")?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            ensure!(client.read(&mut byte)? == 1, "{}", String::from_utf8_lossy(&head));
            head.push(byte[0]);
        }
        if !head.starts_with(b"HTTP/1.1 200 ") {
            return Ok(None);
        }
        let mut answer = Vec::new();
        let said = || -> std::io::Result<()> {
            pieces.iter().try_for_each(|piece| client.write_all(piece))?;
            client.shutdown(Shutdown::Write)?;
            client.read_to_end(&mut answer).map(drop)
        };
        // A tunnel that leads nowhere is closed, or reset for what was on its way.
        if { said }().is_err() || answer.is_empty() {
            return Ok(None);
        }
        let heard = pieces.concat();
        ensure!(answer.ends_with(&heard), "{} of {} bytes arrived", answer.len(), heard.len());
        answer.truncate(answer.len() - heard.len());
        Ok(Some(String::from_utf8(answer)?))
    }

    /// Waits until this is who answers.
    fn becomes(&self, said: &[u8], expected: Option<&str>) -> anyhow::Result<()> {
        let answered =
            until(&format!("{expected:?} answers"), || Ok((self.ask(&[said])?.as_deref() == expected).then_some(())));
        answered.with_context(|| format!("{}\n{}", self.mesh.discovery.log_end(), self.web.program.log_end()))
    }
}

#[test]
fn a_tcp_route_shares_out_connections_by_weight() -> anyhow::Result<()> {
    let scene = Scene::start()?;
    scene.becomes(b"\0hello", Some("db"))?;
    let rule = |backends: &str| format!("rules: [{{ backendRefs: [{backends}] }}]");
    scene.route("TCPRoute", &rule("{ name: one, port: 80, weight: 1 }, { name: two, port: 80, weight: 0 }"))?;
    scene.becomes(b"\0hello", Some("one"))?;
    for _ in 0..20 {
        ensure!(scene.ask(&[b"\0", b"hello"])?.as_deref() == Some("one"), "a weight of 0 takes nothing");
    }
    scene.route("TCPRoute", &rule("{ name: one, port: 80 }, { name: two, port: 80 }, { name: gone, port: 80 }"))?;
    let mut seen = BTreeSet::new();
    until("each has its share, and that of nobody is refused", || {
        seen.insert(scene.ask(&[b"\0hello"])?);
        let all = [None, Some("one".to_owned()), Some("two".to_owned())];
        Ok(all.iter().all(|one| seen.contains(one)).then_some(()))
    })?;
    scene.mesh.remove_manifest("route")?;
    scene.becomes(b"\0hello", Some("db"))
}

#[test]
fn a_tls_route_leads_by_the_name_that_a_client_asks_for_and_its_tls_is_not_ended() -> anyhow::Result<()> {
    let scene = Scene::start()?;
    let [exact, below, other] = ["a.example.com", "b.c.example.com", "example.org"].map(forge::asking_for);
    let (exact, below, other) = (exact?, below?, other?);
    scene.becomes(&exact, Some("db"))?;
    let route = |host: &str, backend: &str| {
        format!("hostnames: ['{host}'], rules: [{{ backendRefs: [{{ name: {backend}, port: 80 }}] }}]")
    };
    scene.route("TLSRoute", &route("a.example.com", "one"))?;
    scene.becomes(&exact, Some("one"))?;
    ensure!(scene.ask(&[&below])?.is_none(), "a name that no route has goes nowhere");
    ensure!(scene.ask(&[&forge::hello(&[])?])?.is_none(), "nor does a client that asks for no name");
    ensure!(scene.ask(&[b"\0no TLS"])?.as_deref() == Some("db"), "what is no TLS is not the route's");
    ensure!(scene.ask(&[b"SSH-2.0-client\r\n"])?.as_deref() == Some("db"), "whatever it is");
    // The name comes late, in pieces as small as they get.
    let (first, rest) = exact.split_at(1);
    let (second, third) = rest.split_at(rest.len() / 2);
    ensure!(scene.ask(&[first, second, third, b"and more"])?.as_deref() == Some("one"), "byte for byte");
    scene.route("TLSRoute", &route("*.example.com", "two"))?;
    scene.becomes(&exact, Some("two"))?;
    ensure!(scene.ask(&[&below])?.as_deref() == Some("two"), "any number of labels");
    ensure!(scene.ask(&[&other])?.is_none());
    scene.route("TLSRoute", &route("*.example.com", "gone"))?;
    scene.becomes(&exact, None)?;
    ensure!(scene.api.program.running().is_ok(), "and nobody minds");
    Ok(())
}
