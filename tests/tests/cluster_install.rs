//! The `remora` command against a real cluster.
//!
//! In a run without sidecars (`REMORA_CLUSTER_MESHED=0`), which no control plane may disturb: install, check, mesh,
//! take out, uninstall, and nothing is left. In a meshed run: what the command says of the mesh that is there.

use anyhow::{Context as _, ensure};
use kube::{
    api::{Api, DynamicObject, ListParams},
    discovery::{Discovery, verbs},
};
use remora_kube::names;
use remora_tests::cluster::{self, Cluster, POD_PATIENCE, Scope};
use serde_json::Value;
use std::{
    collections::BTreeSet,
    path::PathBuf,
    process::{Command, ExitCode, Output, Stdio},
    time::{Duration, Instant},
};

/// A green check: what a person waits for without noticing.
const CHECK_MAX: Duration = Duration::from_secs(2);
/// Kinds that come and go by themselves, or that only say something.
const RESTLESS: [&str; 4] = ["Event", "Lease", "EndpointSlice", "Endpoints"];

fn main() -> ExitCode {
    if std::env::var_os("REMORA_CLUSTER_MESHED").is_some_and(|it| it == "0") {
        return cluster::run(&[("uninstall_leaves_the_objects_that_were_there_before_install", there_and_back)]);
    }
    cluster::run(&[
        ("install_leaves_a_namespace_alone_that_it_did_not_make", foreign_namespace),
        ("check_is_green_within_two_seconds", check_is_green),
        ("check_names_a_pod_without_its_sidecar_and_what_to_do", bare_pod),
        ("identity_and_routes_find_pods_by_name_workload_and_namespace", found_by_name),
        ("uninstall_refuses_while_pods_have_a_sidecar", uninstall_refuses),
        ("helm_upgrade_to_other_values_and_back_costs_no_request", helm_upgrade),
    ])
}

/// Runs the command of this build.
fn remora(args: &[&str]) -> anyhow::Result<Output> {
    let program = std::env::current_exe()?;
    let folder = program.parent().and_then(|deps| deps.parent()).context("no target folder")?;
    let path: PathBuf = folder.join("remora");
    ensure!(path.exists(), "{} is missing: cargo build --workspace --bins", path.display());
    Command::new(path).args(args).stdin(Stdio::null()).output().context("running remora")
}

/// What it printed, if it ended well.
fn said(args: &[&str]) -> anyhow::Result<String> {
    let output = remora(args)?;
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "remora {}: {err}{out}", args.join(" "));
    Ok(out.into_owned())
}

/// Gives manifests to kubectl.
fn kubectl(args: &[&str], manifests: &str) -> anyhow::Result<()> {
    use std::io::Write as _;
    let mut child = Command::new("kubectl")
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("kubectl is missing")?;
    child.stdin.take().context("no stdin")?.write_all(manifests.as_bytes())?;
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "kubectl {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// Every object of the cluster: `kind namespace/name`.
fn objects(cluster: &Cluster) -> anyhow::Result<BTreeSet<String>> {
    let discovery = cluster.ask(Discovery::new(cluster.client()).run())?;
    let mut all = BTreeSet::new();
    for (resource, capabilities) in discovery.groups().flat_map(kube::discovery::ApiGroup::recommended_resources) {
        if !capabilities.supports_operation(verbs::LIST) || RESTLESS.contains(&&*resource.kind) {
            continue;
        }
        let api: Api<DynamicObject> = Api::all_with(cluster.client(), &resource);
        for object in cluster.ask(api.list_metadata(&ListParams::default()))?.items {
            let (namespace, name) = (object.metadata.namespace.unwrap_or_default(), object.metadata.name);
            all.insert(format!("{} {namespace}/{}", resource.kind, name.unwrap_or_default()));
        }
    }
    Ok(all)
}

fn there_and_back(cluster: &Cluster) -> anyhow::Result<()> {
    let tag = std::env::var_os("REMORA_TEST_TAG").map_or("dev".to_owned(), |set| set.to_string_lossy().into_owned());
    said(&["check", "--pre"])?;
    let before = objects(cluster)?;
    let manifests = said(&["install", "--image-tag", &tag])?;
    let applied = Instant::now();
    kubectl(&["apply", "--server-side", "-f", "-"], &manifests)?;
    said(&["check", "--wait", "60s"])?;
    println!("    applied, ready and checked in {:.1} s", applied.elapsed().as_secs_f32());
    // A second time changes nothing, by either way of applying.
    kubectl(&["apply", "--server-side", "-f", "-"], &manifests)?;
    kubectl(&["apply", "-f", "-"], &said(&["upgrade", "--image-tag", &tag])?)?;
    said(&["check", "--wait", "60s"])?;
    {
        let scope = cluster.bare_scope("install")?;
        scope.opt(Some("enabled"))?;
        scope.echo("web", 1, "")?;
        said(&["check", "--namespace", &scope.namespace, "--proxies", "--wait", "30s"])?;
        let refused = remora(&["uninstall"])?;
        ensure!(!refused.status.success() && refused.stdout.is_empty(), "it lists what must stay");
    }
    cluster.until(POD_PATIENCE, "the meshed pods are gone", || {
        Ok(remora(&["uninstall"])?.status.success().then_some(()))
    })?;
    kubectl(&["delete", "--wait", "-f", "-"], &said(&["uninstall"])?)?;
    cluster
        .until(POD_PATIENCE, "the objects are those of before", || Ok((objects(cluster)? == before).then_some(())))
        .with_context(|| {
            let after = objects(cluster).unwrap_or_default();
            let (more, fewer): (Vec<_>, Vec<_>) =
                (after.difference(&before).collect(), before.difference(&after).collect());
            format!("left behind: {more:?}; gone: {fewer:?}")
        })
}

fn foreign_namespace(cluster: &Cluster) -> anyhow::Result<()> {
    let scope = cluster.bare_scope("foreign")?;
    let name = scope.namespace.as_str();
    let output = remora(&["install", "--namespace", name])?;
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success() && err.contains("stays as it is"), "{err}");
    ensure!(!out.contains("kind: Namespace\n"), "the namespace is among the manifests");
    let refused = remora(&["install", "--namespace", name, "--create-namespace"])?;
    ensure!(!refused.status.success() && refused.stdout.is_empty(), "it takes the namespace over");
    // As an older version, or a person, may have labelled it.
    let label = serde_json::json!({"metadata": {"labels": {names::PART: "remora"}}});
    cluster.merge("", "v1/namespaces", name, &label)?;
    let listed = said(&["uninstall", "--force"])?;
    ensure!(!listed.contains(&format!("name: {name:?}")), "uninstall would delete it");
    let forbidden = remora(&["install", "--namespace", "kube-system"])?;
    ensure!(!forbidden.status.success() && forbidden.stdout.is_empty(), "kube-system is taken");
    Ok(())
}

fn check_is_green(_: &Cluster) -> anyhow::Result<()> {
    let mut took = Vec::new();
    for _ in 0..5 {
        let asked = Instant::now();
        let report: Value = serde_json::from_str(&said(&["check", "-o", "json"])?)?;
        took.push(asked.elapsed());
        ensure!(report["ok"] == true, "{report:#}");
    }
    took.sort();
    println!("    five checks: {took:?}");
    ensure!(took[2] < CHECK_MAX, "{took:?}");
    Ok(())
}

fn bare_pod(cluster: &Cluster) -> anyhow::Result<()> {
    let scope = cluster.bare_scope("check")?;
    scope.echo("web", 1, "")?;
    let pod = scope.pod("app=web")?;
    scope.opt(Some("enabled"))?;
    let output = remora(&["check", "--namespace", &scope.namespace])?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(!output.status.success(), "{said}");
    for word in [&*format!("1 of 1 pods have none: {pod}"), "kubectl rollout restart"] {
        ensure!(said.contains(word), "no {word:?} in: {said}");
    }
    Ok(())
}

fn meshed_pair<'a>(cluster: &'a Cluster, name: &str) -> anyhow::Result<(Scope<'a>, String)> {
    let scope = cluster.scope(name)?;
    scope.echo("web", 2, "")?;
    let client = scope.client("client")?;
    scope.get(&client, "http://web/hello")?.well()?;
    Ok((scope, client))
}

fn found_by_name(cluster: &Cluster) -> anyhow::Result<()> {
    let (scope, client) = meshed_pair(cluster, "found")?;
    let (namespace, pod) = (scope.namespace.as_str(), format!("pod/{client}"));
    let counted = |args: &[&str]| -> anyhow::Result<usize> {
        let answers: Vec<Value> = serde_json::from_str(&said(args)?)?;
        ensure!(answers.iter().all(|it| it.get("error").is_none()), "{answers:?}");
        Ok(answers.len())
    };
    for command in ["identity", "routes"] {
        ensure!(counted(&[command, &pod, "-n", namespace, "-o", "json"])? == 1, "{command} {pod}");
        ensure!(counted(&[command, "deploy/web", "-n", namespace, "-o", "json"])? == 2, "{command} deploy/web");
        ensure!(counted(&[command, "-n", namespace, "-o", "json"])? == 3, "{command} of the namespace");
    }
    let text = said(&["identity", &pod, "-n", namespace])?;
    ensure!(text.contains(&format!("spiffe://cluster.local/ns/{namespace}/sa/default")), "{text}");
    let text = said(&["routes", &pod, "-n", namespace])?;
    ensure!(text.contains(&format!("{namespace}/web:80")) && text.contains("mTLS"), "{text}");
    Ok(())
}

fn uninstall_refuses(cluster: &Cluster) -> anyhow::Result<()> {
    let (scope, _) = meshed_pair(cluster, "uninstall")?;
    let output = remora(&["uninstall"])?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(!output.status.success() && output.stdout.is_empty(), "it lists what must stay");
    ensure!(said.contains(&format!("namespace {}: 3", scope.namespace)) && said.contains("rollout restart"), "{said}");
    Ok(())
}

/// Helm takes over what is installed, changes values of every part, and changes them back.
fn helm_upgrade(cluster: &Cluster) -> anyhow::Result<()> {
    let (scope, _) = meshed_pair(cluster, "helm")?;
    let control = cluster.control();
    let identity = cluster.object(&control, "apps/v1/deployments", names::IDENTITY)?;
    let image = identity.pointer("/spec/template/spec/containers/0/image").and_then(Value::as_str);
    let (repository, tag) = image.and_then(|it| it.rsplit_once(':')).context("no image")?;
    let load = scope.load("load", "http://web/", "--rate 50")?;
    let image = format!("image.repository={repository},image.tag={tag}");
    for values in ["log.level=debug,proxy.log.level=warn,replicas=2", "log.level=info,proxy.log.level=info,replicas=1"]
    {
        helm(
            &["upgrade", "--install", "remora", "--namespace", &control, "--take-ownership", "--wait"],
            &[&image, values],
        )?;
        load.go_on(Duration::from_secs(5))?;
    }
    load.stop()?.none_failed()?;
    said(&["check", "--wait", "30s", "--control-plane-namespace", &control])?;
    let refused = remora(&["upgrade"])?;
    let told = String::from_utf8_lossy(&refused.stderr);
    ensure!(!refused.status.success() && told.contains("helm upgrade remora"), "{told}");
    Ok(())
}

fn helm(args: &[&str], values: &[&str]) -> anyhow::Result<()> {
    let top = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("no parent")?;
    let home = std::env::home_dir().context("no home")?;
    let own = home.join(".cache/remora-tests/bin/helm");
    let program = if own.exists() { own } else { "helm".into() };
    let mut command = Command::new(program);
    command.args(args).arg("--timeout").arg("120s").args(values.iter().flat_map(|it| ["--set", it]));
    // `helm upgrade RELEASE CHART`: the chart comes after the release.
    let output = command.arg(top.join("charts/remora")).output().context("helm is missing: tests/go-tools")?;
    ensure!(output.status.success(), "helm: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
