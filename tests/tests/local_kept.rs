//! How connections to endpoints are kept, as a BackendPolicy says: over real processes, to applications outside the mesh, which see
//! each connection.

use anyhow::{Context as _, ensure};
use remora_tests::{
    local::{Mesh, Proxy, http},
    patience::until,
};
use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    time::{Duration, Instant},
};

const PATIENCE: Duration = Duration::from_secs(10);

/// A client's pod, and a Service whose one endpoint is this listener, outside the mesh.
struct Scene {
    web: Proxy,
    application: TcpListener,
    _mesh: Mesh,
}

impl Scene {
    /// The policy stands in the manifest of the Service, so that no proxy knows the one without the other.
    fn start(protocol: &str, policy: &str) -> anyhow::Result<Self> {
        let mesh = Mesh::start(env!("CARGO_BIN_EXE_remora-components"))?;
        let application = TcpListener::bind((mesh.address(), 0))?;
        let SocketAddr::V4(at) = application.local_addr()? else { anyhow::bail!("no IPv4 address") };
        let (ip, port) = (at.ip(), at.port());
        let text = format!(
            "apiVersion: v1
kind: Service
metadata: {{ name: legacy, namespace: test }}
spec: {{ clusterIP: None, ports: [{{ name: main, port: 80, appProtocol: {protocol} }}] }}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{ name: legacy, namespace: test, labels: {{ kubernetes.io/service-name: legacy }} }}
addressType: IPv4
ports: [{{ name: main, port: {port}, protocol: TCP }}]
endpoints: [{{ addresses: [{ip}], conditions: {{ ready: true }} }}]
---
{policy}"
        );
        mesh.manifest("legacy", &text)?;
        let web = mesh.proxy("web").spawn()?.ready()?;
        Ok(Self { web, application, _mesh: mesh })
    }

    /// Sends a request and reads no answer yet.
    fn ask(&self) -> anyhow::Result<TcpStream> {
        let mut client = TcpStream::connect(self.web.outbound)?;
        client.set_read_timeout(Some(PATIENCE))?;
        client.write_all(b"GET / HTTP/1.1\r\nhost: legacy:80\r\nconnection: close\r\n\r\n")?;
        Ok(client)
    }

    /// The next connection to the application, with a request on it that is not answered yet.
    fn asked(&self) -> anyhow::Result<TcpStream> {
        let (mut stream, _) = self.application.accept()?;
        stream.set_read_timeout(Some(PATIENCE))?;
        head(&mut stream)?;
        Ok(stream)
    }
}

/// Reads a head.
fn head(stream: &mut TcpStream) -> anyhow::Result<String> {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        ensure!(stream.read(&mut byte)? == 1, "{}", String::from_utf8_lossy(&head));
        head.push(byte[0]);
    }
    Ok(String::from_utf8(head)?)
}

fn answer(stream: &mut TcpStream) -> std::io::Result<()> {
    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
}

fn answered(mut client: TcpStream) -> anyhow::Result<(u16, Option<String>)> {
    let mut bytes = Vec::new();
    client.read_to_end(&mut bytes)?;
    let answer = http::Answer::parse(&bytes)?;
    Ok((answer.status, answer.header("x-remora-error").map(str::to_owned)))
}

/// The policy on connections that the page shows, for the namespace of the tests.
fn documented() -> anyhow::Result<String> {
    let page = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/backends.md"))?;
    let blocks = page.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next());
    let policy = blocks.into_iter().find(|block| block.contains("  connection:"));
    Ok(policy.context("docs/backends.md has no example of connections")?.replace("namespace: shop", "namespace: test"))
}

fn policy(connection: &str) -> String {
    format!(
        "apiVersion: remora.dev/v1alpha1
kind: BackendPolicy
metadata: {{ name: legacy, namespace: test }}
spec: {{ targetRefs: [{{ kind: Service, name: legacy }}], connection: {{ {connection} }} }}
"
    )
}

#[test]
fn an_endpoint_has_no_more_connections_than_its_policy_allows_and_they_are_not_kept_for_longer() -> anyhow::Result<()> {
    let scene = Scene::start("http", &documented()?)?;
    let (first, second) = (scene.ask()?, scene.ask()?);
    let (mut one, mut two) = (scene.asked()?, scene.asked()?);
    assert_eq!(answered(scene.ask()?)?, (503, Some("queue_full".to_owned())), "{}", scene.web.program.log_end());
    answer(&mut one)?;
    assert_eq!(answered(first)?.0, 200);
    // Kept, it is used again: the application sees no third connection.
    let third = scene.ask()?;
    head(&mut one)?;
    answer(&mut one)?;
    assert_eq!(answered(third)?.0, 200);
    // It is kept for a second and closed by the look after that, and so within five.
    let since = Instant::now();
    ensure!(one.read(&mut [0])? == 0, "nobody asks any more");
    ensure!(since.elapsed() < Duration::from_millis(5500), "closed after {:?}", since.elapsed());
    // Its place is free, the other's is not.
    let fourth = scene.ask()?;
    answer(&mut scene.asked()?)?;
    assert_eq!(answered(fourth)?.0, 200);
    answer(&mut two)?;
    assert_eq!(answered(second)?.0, 200);
    Ok(())
}

#[test]
fn bytes_count_as_connections_and_end_when_they_like() -> anyhow::Result<()> {
    let scene = Scene::start("tcp", &policy("maxConnections: 1, idleTimeout: 1s"))?;
    let tunnel = || -> anyhow::Result<(TcpStream, String)> {
        let mut client = TcpStream::connect(scene.web.outbound)?;
        client.set_read_timeout(Some(PATIENCE))?;
        client.write_all(b"CONNECT legacy:80 HTTP/1.1\r\nhost: legacy:80\r\n\r\n")?;
        let answer = head(&mut client)?;
        Ok((client, answer))
    };
    let (mut held, answer) = tunnel()?;
    ensure!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    let (mut near, _) = scene.application.accept()?;
    let (_, answer) = tunnel()?;
    ensure!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("x-remora-error: queue_full"), "{answer}");
    // No byte passes for longer than a connection for requests would be kept.
    held.set_read_timeout(Some(Duration::from_millis(5500)))?;
    let silent = held.read(&mut [0]).map_err(|error| error.kind());
    ensure!(matches!(silent, Err(ErrorKind::WouldBlock | ErrorKind::TimedOut)), "{silent:?}");
    near.write_all(b"x")?;
    ensure!(held.read(&mut [0])? == 1);
    drop((held, near));
    until("its place is free", || Ok(tunnel()?.1.starts_with("HTTP/1.1 200 ").then_some(())))
}

#[test]
fn a_connection_is_kept_for_as_long_as_its_policy_says() -> anyhow::Result<()> {
    let scene = Scene::start("http", &policy("idleTimeout: 1m"))?;
    let first = scene.ask()?;
    let mut near = scene.asked()?;
    answer(&mut near)?;
    assert_eq!(answered(first)?.0, 200);
    // Without a policy it is closed after eight seconds at most.
    near.set_read_timeout(Some(Duration::from_millis(8500)))?;
    let silent = near.read(&mut [0]).map_err(|error| error.kind());
    ensure!(matches!(silent, Err(ErrorKind::WouldBlock | ErrorKind::TimedOut)), "{silent:?}");
    near.set_read_timeout(Some(PATIENCE))?;
    let second = scene.ask()?;
    head(&mut near)?;
    answer(&mut near)?;
    assert_eq!(answered(second)?.0, 200);
    Ok(())
}

#[test]
fn an_http2_server_that_answers_no_ping_is_given_up_where_its_policy_has_it_asked() -> anyhow::Result<()> {
    const PING: u8 = 6;
    let keep_alive = "keepAlive: { interval: 1s, timeout: 200ms }";
    let scene = Scene::start("kubernetes.io/h2c", &policy(keep_alive))?;
    let client = scene.ask()?;
    let (mut near, _) = scene.application.accept()?;
    near.set_read_timeout(Some(PATIENCE))?;
    near.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0])?;
    near.read_exact(&mut [0; 24])?;
    let mut pinged = false;
    let mut head = [0; 9];
    while near.read_exact(&mut head).is_ok() {
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        near.read_exact(&mut vec![0; length])?;
        pinged |= head[3] == PING;
    }
    ensure!(pinged, "the connection ended without a question");
    let (status, reason) = answered(client)?;
    ensure!(status >= 500 && reason.is_some(), "{status} {reason:?}");
    Ok(())
}
