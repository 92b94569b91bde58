//! What strict mode refuses, with a stock openssl and a stock curl that are outside the mesh.

use anyhow::{Context as _, ensure};
use remora_tests::{
    netns::{self, APP_UID, Network, Pod, mesh::Mesh},
    patience::until,
};
use std::process::ExitCode;

const PORT: u16 = 8080;
const STRICT: &str = "apiVersion: remora.dev/v1alpha1
kind: MeshTLSPolicy
metadata: { name: strict, namespace: test }
spec: { mode: Strict }
";

fn main() -> ExitCode {
    netns::run(&[("strict_mode_takes_nothing_without_a_client_certificate", strict)])
}

/// Asks over plain HTTP.
fn ask(pod: &Pod, server: &Pod) -> anyhow::Result<String> {
    let url = format!("http://{}:{PORT}/", server.ipv4);
    pod.command("curl").uid(APP_UID).args("-sS --fail-with-body --max-time 5").arg(url).output()
}

/// Speaks TLS 1.3 to the server without a client certificate: what openssl complains of.
fn s_client(pod: &Pod, server: &Pod, words: &str) -> anyhow::Result<String> {
    let openssl = pod.command("openssl").uid(APP_UID).args("s_client -tls1_3 -ign_eof -connect");
    let outcome = openssl.arg(format!("{}:{PORT}", server.ipv4)).args(words).output();
    match outcome {
        Ok(said) => anyhow::bail!("openssl was let in: {said}"),
        Err(complaint) => Ok(format!("{complaint:#}")),
    }
}

fn strict() -> anyhow::Result<()> {
    let net = Network::new("strict")?;
    let (outsider, member, server) = (net.pod("outsider")?, net.pod("member")?, net.pod("server")?);
    let mut app = server.role("origin").arg(format!("[::]:{PORT}")).spawn()?;
    ensure!(app.line()? == "ready");
    let mesh = Mesh::start(&net)?;
    let sidecar = mesh.join(&server, &[PORT])?;
    let _member = mesh.join(&member, &[])?;
    ask(&outsider, &server).context("permissive mode takes plaintext")?;

    mesh.manifest("strict", STRICT)?;
    until("plaintext is refused", || Ok(ask(&outsider, &server).is_err().then_some(())))
        .with_context(|| sidecar.log())?;
    ask(&member, &server).context("a member of the mesh is let in")?;

    let complaint = s_client(&outsider, &server, "-alpn remora/h2")?;
    ensure!(complaint.contains("alert certificate required"), "{complaint}");
    let refused = "remora_tls_refused_total{direction=\"inbound\",reason=\"no_certificate\"} 1";
    let metrics = sidecar.metrics(&server)?;
    ensure!(metrics.contains(refused), "{metrics}");
    ensure!(sidecar.log().contains("reason=\"no_certificate\""), "{}", sidecar.log());

    // Not the mesh's protocol, so the application's own TLS, so plaintext to policy.
    let complaint = s_client(&outsider, &server, "-servername server")?;
    ensure!(!complaint.contains("BEGIN CERTIFICATE"), "{complaint}");
    ensure!(sidecar.log().contains("takes mesh TLS only"), "{}", sidecar.log());
    let denied = sidecar.metrics(&server)?;
    let denied = denied.lines().find(|line| line.starts_with("remora_failures_total") && line.contains("denied"));
    ensure!(denied.is_some(), "no failure is counted as denied");
    Ok(())
}
