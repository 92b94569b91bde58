//! Settings of a running proxy follow the annotations of its pod and namespace, over the real stream, without a restart.

use anyhow::ensure;
use remora_tests::{
    local::{Mesh, NAMESPACE, Proxy, http},
    patience::until,
};
use std::{collections::BTreeSet, fs};

/// The namespace of the pods, with these annotations.
fn namespace(mesh: &Mesh, annotations: &str) -> anyhow::Result<()> {
    let text = format!(
        "apiVersion: v1\nkind: Namespace\nmetadata: {{ name: {NAMESPACE}, annotations: {{ {annotations} }} }}\n"
    );
    mesh.manifest("namespace", &text)
}

/// A pod's manifest, as it was made.
struct Manifest(String, String);

impl Manifest {
    fn of(mesh: &Mesh, pod: &str) -> anyhow::Result<Self> {
        let name = format!("pod-{NAMESPACE}-{pod}");
        let text = fs::read_to_string(mesh.dir().join(format!("manifests/{name}.yaml")))?;
        Ok(Self(name, text))
    }

    /// With one annotation more.
    fn annotate(&self, mesh: &Mesh, annotation: &str) -> anyhow::Result<()> {
        let Self(name, text) = self;
        mesh.manifest(name, &text.replace("annotations: { ", &format!("annotations: {{ {annotation}, ")))
    }
}

/// What stands before each filter that names none of these.
const QUIET: &str = "h2=error,kube_client::client=off,kube_client::client::tls=warn,kube_runtime::watcher=off";

fn filter_becomes(proxy: &Proxy, filter: &str) -> anyhow::Result<()> {
    until(&format!("the log's filter becomes {filter}"), || {
        let now = proxy.admin("/log-level")?;
        let directives = |filter: &str| filter.trim().split(',').map(str::to_owned).collect::<BTreeSet<_>>();
        ensure!(directives(&now) == directives(&format!("{QUIET},{filter}")), "it is {now}");
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
    ensure!(answer.status == 204, "{}", answer.head);
    Ok(())
}

#[test]
fn the_log_level_of_a_running_proxy_follows_its_annotations() -> anyhow::Result<()> {
    let mesh = Mesh::builder(env!("CARGO_BIN_EXE_remora-components")).discovery("--proxy-log-level", "warn").start()?;
    let web = mesh.proxy("web").env("LOG", "info").spawn()?.ready()?;
    let pod = Manifest::of(&mesh, "web")?;
    filter_becomes(&web, "warn")?;
    namespace(&mesh, "remora.dev/log-level: 'info,remora_proxy=debug'")?;
    filter_becomes(&web, "info,remora_proxy=debug")?;
    pod.annotate(&mesh, "remora.dev/log-level: info")?;
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
    pod.annotate(&mesh, "remora.dev/log-level: error")?;
    filter_becomes(&web, "error")
}

#[test]
fn a_namespace_denies_unknown_destinations_to_the_pods_that_run_in_it() -> anyhow::Result<()> {
    let mesh = Mesh::start(env!("CARGO_BIN_EXE_remora-components"))?;
    let web = mesh.proxy("web").spawn()?.ready()?;
    let becomes = |word: &str| {
        until(&format!("unknown destinations: {word}"), || Ok((setting(&web, "unknown")? == word).then_some(())))
    };
    becomes("\"pass\"")?;
    namespace(&mesh, "remora.dev/unknown: deny")?;
    becomes("\"deny\"")?;
    assert_eq!(web.metric("remora_settings_changes_total", &[])?, 1.0);
    namespace(&mesh, "")?;
    becomes("\"pass\"")
}
