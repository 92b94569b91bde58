//! Peers with certificates that must not count, over real sockets, in both directions: each is refused, with its own
//! reason in the log and in the metric, and nothing of theirs goes any further.

use anyhow::{Context as _, bail, ensure};
use remora_tests::{
    forge::{FLAWS, Flaw, Forge, Forged, knock, pose},
    local::{Mesh, NAMESPACE, Proxy},
    patience::until,
};
use std::{
    io::ErrorKind,
    net::{IpAddr, TcpListener},
};

const REFUSED: &str = "remora_tls_refused_total";

fn mesh() -> anyhow::Result<Mesh> {
    Mesh::start(env!("CARGO_BIN_EXE_remora-components"))
}

fn id(account: &str) -> String {
    format!("spiffe://cluster.local/ns/{NAMESPACE}/sa/{account}")
}

/// How many handshakes were refused for this reason.
fn refused(proxy: &Proxy, direction: &str, reason: &str) -> anyhow::Result<f64> {
    proxy.metric(REFUSED, &[&format!("direction=\"{direction}\""), &format!("reason=\"{reason}\"")])
}

/// Whether a log line says so: the first of a reason always does, a flood is told of with a count.
fn logged(proxy: &Proxy, reason: &str) -> bool {
    let said = format!("reason=\"{reason}\"");
    proxy.log().lines().any(|line| line.contains("mesh TLS") && line.contains(&said))
}

/// Knocks, and expects to be refused for exactly one reason, counted once and told in the log.
fn turned_away(proxy: &Proxy, name: &str, reason: &str, certificate: Option<Forged>) -> anyhow::Result<()> {
    let before = (refused(proxy, "inbound", reason)?, proxy.metric(REFUSED, &[])?);
    let verdict = knock(proxy.inbound, certificate, b"");
    ensure!(verdict.is_err(), "{name}: was let in");
    until(&format!("{name}: the metric and the log say {reason}"), || {
        let now = (refused(proxy, "inbound", reason)?, proxy.metric(REFUSED, &[])?);
        Ok((now == (before.0 + 1.0, before.1 + 1.0) && logged(proxy, reason)).then_some(()))
    })
    .with_context(|| format!("{verdict:?}\n{}", proxy.program.log_end()))
}

#[test]
fn a_client_with_a_flawed_certificate_is_refused_with_its_reason() -> anyhow::Result<()> {
    let mesh = mesh()?;
    let api = mesh.proxy("api").spawn()?;
    let application = TcpListener::bind((api.ip, 0))?;
    application.set_nonblocking(true)?;
    mesh.service("api", 80, None, &[application.local_addr()?])?;
    let api = api.ready()?;
    let ca = Forge::of(&mesh)?;

    let proper = ca.sign(&id("mallory"), |_| ())?;
    knock(api.inbound, Some(proper), b"no destination").context("a proper certificate, signed the same way")?;
    ensure!(api.metric(REFUSED, &[])? == 0.0, "the proper certificate was refused: {}", api.log());
    for flaw in FLAWS {
        turned_away(&api, flaw.name, flaw.reason, Some(flaw.certificate(&ca, &id("mallory"))?))?;
    }
    turned_away(&api, "no certificate", "no_certificate", None)?;
    match application.accept() {
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(()),
        other => bail!("the application was reached: {other:?}"),
    }
}

/// A pod of the service account `rogue` and a Service of its name, whose proxy is played by the test.
fn rogue(mesh: &Mesh, name: &str, ip: IpAddr, proxy: std::net::SocketAddr) -> anyhow::Result<()> {
    mesh.manifest(
        &format!("pod-{name}"),
        &format!(
            "apiVersion: v1
kind: Pod
metadata: {{ name: {name}, namespace: {NAMESPACE}, annotations: {{ remora.dev/proxy-address: \"{proxy}\" }} }}
spec: {{ serviceAccountName: rogue, containers: [{{ name: app, image: app }}] }}
status:
  phase: Running
  podIP: {ip}
  podIPs: [{{ ip: {ip} }}]
  conditions: [{{ type: Ready, status: \"True\" }}]
"
        ),
    )?;
    mesh.service(name, 80, None, &[(ip, 8080).into()])
}

/// A request of `web` to a peer that shows `certificate`: the answer's error, and what the peer saw.
fn call(mesh: &Mesh, web: &Proxy, name: &str, certificate: Forged) -> anyhow::Result<(String, Result<usize, String>)> {
    let ip = mesh.address();
    let (proxy, seen) = pose(ip, certificate)?;
    rogue(mesh, name, ip, proxy)?;
    until(&format!("{name} is called"), || {
        let answer = web.get(&format!("{name}:80"), "/secret")?;
        let error = answer.header("x-remora-error").unwrap_or_default().to_owned();
        // Before discovery knows the peer nobody calls it.
        Ok(seen.try_recv().ok().map(|came| (error, came)))
    })
    .with_context(|| web.program.log_end())
}

#[test]
fn a_server_with_a_flawed_certificate_is_refused_with_its_reason() -> anyhow::Result<()> {
    let mesh = mesh()?;
    let web = mesh.proxy("web").spawn()?.ready()?;
    let ca = Forge::of(&mesh)?;

    let (_, came) = call(&mesh, &web, "proper", ca.sign(&id("rogue"), |_| ())?)?;
    ensure!(came.as_ref().is_ok_and(|bytes| *bytes > 0), "the proper certificate was refused: {came:?}");
    ensure!(web.metric(REFUSED, &[])? == 0.0, "the proper certificate was refused: {}", web.log());

    let mismatch = Flaw::other("another workload's certificate", "identity_mismatch", |ca, _| {
        ca.sign("spiffe://cluster.local/ns/test/sa/somebody", |_| ())
    });
    for (number, flaw) in FLAWS.into_iter().chain([mismatch]).enumerate() {
        let Flaw { name, reason, .. } = flaw;
        let before = refused(&web, "outbound", reason)?;
        let certificate = flaw.certificate(&ca, &id("rogue"))?;
        let (error, came) = call(&mesh, &web, &format!("rogue-{number}"), certificate)?;
        let expected = if reason == "identity_mismatch" { reason } else { "tls_refused" };
        ensure!(error == expected, "{name}: the caller was told {error:?}, not {expected}");
        ensure!(came.is_err(), "{name}: bytes were sent to it: {came:?}");
        let after = refused(&web, "outbound", reason)?;
        ensure!(after > before && logged(&web, reason), "{name}: not told as {reason}: {before}, {after}");
    }
    Ok(())
}
