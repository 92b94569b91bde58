//! Settings of a running proxy follow the annotations of its pod and namespace, over the real stream, without a restart.

use anyhow::ensure;
use remora_tests::{
    local::{Mesh, NAMESPACE, Proxy, http},
    patience::until,
};
use std::{collections::BTreeSet, fs, net::TcpListener};

/// The namespace of the pods, with these annotations.
fn namespace(mesh: &Mesh, annotations: &str) -> anyhow::Result<()> {
    let text =
        format!("apiVersion: v1\nkind: Namespace\nmetadata: {{ name: {NAMESPACE}, annotations: {{ {annotations} }} }}\n");
    mesh.manifest("namespace", &text)
}

/// The pod's manifest with one more annotation.
fn annotate(mesh: &Mesh, pod: &str, annotation: &str) -> anyhow::Result<()> {
    let name = format!("pod-{NAMESPACE}-{pod}");
    let before = fs::read_to_string(mesh.dir().join(format!("manifests/{name}.yaml")))?;
    mesh.manifest(&name, &before.replace("annotations: { ", &format!("annotations: {{ {annotation}, ")))
}

fn filter_becomes(proxy: &Proxy, filter: &str) -> anyhow::Result<()> {
    until(&format!("the log's filter becomes {filter}"), || {
        let now = proxy.admin("/log-level")?;
        let directives = |filter: &str| filter.trim().split(',').map(str::to_owned).collect::<BTreeSet<_>>();
        ensure!(directives(&now) == directives(&format!("h2=error,{filter}")), "it is {now}");
        Ok(Some(()))
    })
}

/// A setting as `/config` shows it.
fn setting(proxy: &Proxy, name: &str) -> anyhow::Result<String> {
    let config: serde_json::Value = serde_json::from_str(&proxy.admin("/config")?)?;
    Ok(config[name].to_string())
}

/// Sets the filter as a person does who looks at one proxy.
fn put_filter(proxy: &Proxy, filter: &str) -> anyhow::Result<()> {
    let (host, length) = (proxy.admin, filter.len());
    let request = format!(
        "PUT /log-level HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{filter}"
    );
    let answer = http::Answer::parse(&http::exchange(proxy.admin, request.as_bytes())?)?;
    ensure!(answer.status == 200, "{}", answer.head);
    Ok(())
}

#[test]
fn the_log_level_of_a_running_proxy_follows_its_annotations() -> anyhow::Result<()> {
    let mesh = Mesh::builder(env!("CARGO_BIN_EXE_remora-components")).discovery("--proxy-log-level", "warn").start()?;
    let web = mesh.proxy("web").env("LOG", "info").spawn()?.ready()?;
    filter_becomes(&web, "warn")?;
    namespace(&mesh, "remora.dev/log-level: 'info,remora_proxy=debug'")?;
    filter_becomes(&web, "info,remora_proxy=debug")?;
    annotate(&mesh, "web", "remora.dev/log-level: info")?;
    filter_becomes(&web, "info")?;

    // One that cannot be read is told, and changes nothing: another change of the same object arrives.
    namespace(&mesh, "remora.dev/log-level: trace, remora.dev/drain-grace: soon")?;
    until("the mistake is told", || {
        Ok(mesh.discovery.log().contains(r#"remora.dev/drain-grace: "soon": "#).then_some(()))
    })?;
    namespace(&mesh, "remora.dev/drain-grace: 7s")?;
    until("the grace is another", || Ok((setting(&web, "drain_grace_s")? == "7.0").then_some(())))?;
    filter_becomes(&web, "info")?;

    // What a person sets stays until the mesh says something else, also when the stream begins anew.
    put_filter(&web, "debug")?;
    mesh.discovery.restart()?;
    mesh.ready(&mesh.discovery)?;
    namespace(&mesh, "remora.dev/drain-grace: 8s")?;
    until("the grace is another", || Ok((setting(&web, "drain_grace_s")? == "8.0").then_some(())))?;
    filter_becomes(&web, "debug")?;
    annotate(&mesh, "web", "remora.dev/log-level: error")?;
    filter_becomes(&web, "error")
}

#[test]
fn a_pod_that_may_call_anything_is_denied_what_is_outside_while_it_runs() -> anyhow::Result<()> {
    let networks = ("--cluster-networks", "10.0.0.0/8");
    let mesh = Mesh::builder(env!("CARGO_BIN_EXE_remora-components")).discovery(networks.0, networks.1).start()?;
    let web = mesh.proxy("web").spawn()?.ready()?;
    let outside = TcpListener::bind("127.0.0.1:0")?;
    let address = outside.local_addr()?;
    std::thread::spawn(move || {
        use std::io::{Read as _, Write as _};
        for mut stream in outside.incoming().flatten() {
            // A connection that breaks is the client's to report.
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        }
    });
    let answered = |status: u16| {
        until(&format!("a call outside is answered with {status}"), || {
            let answer = web.get(&address.to_string(), "/")?;
            ensure!(answer.status == status, "{}", answer.head);
            Ok(Some(()))
        })
    };
    answered(200)?;
    namespace(&mesh, "remora.dev/unknown: deny")?;
    answered(502)?;
    assert_eq!(setting(&web, "unknown")?, "\"deny\"");
    namespace(&mesh, "")?;
    answered(200)
}
