//! The story of the first screen: a shop that knows nothing of a mesh is meshed while people buy there, and unmeshed again.
//!
//! Needs a cluster without Remora (it installs and removes it), so it runs with `REMORA_CLUSTER_MESHED=0`; `kubectl`;
//! `tcpdump`, which sees the bridge of the node that it runs on; and the images of `tests/cluster/image remora shop redis`.

use anyhow::{Context as _, bail, ensure};
use remora_tests::cluster::{self, Cluster};
use serde_json::Value;
use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    process::{Child, Command, ExitCode, Stdio},
    time::Duration,
};

/// What is bought inside the mesh, and must not be seen on the wire once it is there.
const MARKER: &str = "unmistakable-marker";
const SHOP: [&str; 6] = ["web", "catalogue", "pricing", "ticker", "cart", "visitor"];
const PATIENCE: Duration = Duration::from_secs(180);
/// How long nothing changes while the loads go on.
const CALM: Duration = Duration::from_secs(8);

fn main() -> ExitCode {
    cluster::run(&[("a_shop_is_meshed_and_unmeshed_under_load_and_nobody_notices", story)])
}

fn story(cluster: &Cluster) -> anyhow::Result<()> {
    let before = everything()?;
    ensure!(!before.iter().any(|name| name.contains("remora-")), "Remora is installed already: remove it first");
    let manifest = fs::read_to_string(top().join("examples/02-shop/shop.yaml"))?;
    kubectl_with(&["apply", "-f", "-"], &manifest.replace("[visitor, --rate, \"50\"]", &buys()))?;
    let outside = Outside::open()?;
    for name in SHOP {
        rolled_out(cluster, name)?;
    }
    // The visitor inside may have come before there was anything to buy; its successor finds all open.
    kubectl(&["-n", "shop", "delete", "pod", "-l", "app=visitor", "--wait=true"])?;
    rolled_out(cluster, "visitor")?;
    let start = outside.tally(cluster, CALM)?;
    ensure!(start.failed == 0, "before anything happened: {start:?}");
    let wire = watch_the_wire(cluster)?;
    ensure!(wire.marker > 0, "the capture shows nothing of a shop without a mesh: {wire:?}");

    let tag = std::env::var_os("REMORA_IMAGE_TAG").map_or("dev".to_owned(), |tag| tag.to_string_lossy().into_owned());
    remora_pipe(&["install", "--image-tag", &tag], &["apply", "-f", "-"])?;
    kubectl(&["annotate", "namespace", "shop", "remora.dev/inject=enabled"])?;
    wait_for_control_plane(cluster)?;
    restart(cluster)?;
    let meshed = outside.tally(cluster, CALM)?;
    inside(cluster, "meshed")?;
    all_meshed(cluster, true)?;
    let wire = watch_the_wire(cluster)?;
    ensure!(wire.handshakes > 0 && wire.records > 100, "no TLS 1.3 was seen: {wire:?}");
    ensure!(wire.marker == 0, "what was bought is to be seen: {wire:?}");
    signals_agree(cluster)?;

    kubectl(&["annotate", "namespace", "shop", "remora.dev/inject-"])?;
    restart(cluster)?;
    all_meshed(cluster, false)?;
    remora_pipe(&["uninstall"], &["delete", "--wait=true", "-f", "-"])?;
    let end = outside.tally(cluster, CALM)?;
    inside(cluster, "unmeshed")?;
    println!("    seen from outside: {} requests when meshed, {} at the end", meshed.sent, end.sent);
    ensure!(end.failed == 0, "seen from outside: {end:?}");

    drop(outside);
    kubectl(&["delete", "namespace", "shop", "--wait=true"])?;
    cluster.until(PATIENCE, "the cluster's objects are what they were", || {
        let after = everything()?;
        let (more, less): (Vec<_>, Vec<_>) = (after.difference(&before).collect(), before.difference(&after).collect());
        ensure!(more.is_empty() && less.is_empty(), "left behind {more:?}, gone {less:?}");
        Ok(Some(()))
    })
}

fn buys() -> String {
    format!("[visitor, --rate, \"50\", --buy, {MARKER}]")
}

fn top() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// Runs a command as a person would, `input` on its standard input.
fn run(command: &mut Command, input: &str) -> anyhow::Result<String> {
    let stdin = tempfile::NamedTempFile::new()?;
    fs::write(stdin.path(), input)?;
    let output = command.stdin(fs::File::open(stdin.path())?).output();
    let output = output.with_context(|| format!("{command:?}"))?;
    let (out, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "{command:?}: {error}{out}");
    Ok(out.into_owned())
}

fn kubectl(args: &[&str]) -> anyhow::Result<String> {
    kubectl_with(args, "")
}

fn kubectl_with(args: &[&str], input: &str) -> anyhow::Result<String> {
    run(Command::new("kubectl").args(args), input)
}

fn remora(args: &[&str]) -> anyhow::Result<String> {
    let program = std::env::var_os("REMORA_BIN").map_or_else(|| top().join("target/debug/remora"), Into::into);
    run(Command::new(program).args(args), "")
}

/// `remora … | kubectl …`.
fn remora_pipe(args: &[&str], to: &[&str]) -> anyhow::Result<()> {
    kubectl_with(to, &remora(args)?).map(drop)
}

/// All objects of the cluster by resource, namespace and name, but those that come and go by themselves.
fn everything() -> anyhow::Result<BTreeSet<String>> {
    let resources = kubectl(&["api-resources", "--verbs=list,create", "-o", "name"])?;
    let passing = ["events", "events.events.k8s.io", "endpointslices.discovery.k8s.io", "leases.coordination.k8s.io"];
    let mut names: Vec<&str> = resources.split_whitespace().filter(|name| !passing.contains(name)).collect();
    names.sort_unstable();
    let columns = "custom-columns=K:.kind,G:.apiVersion,NS:.metadata.namespace,N:.metadata.name";
    let listed = kubectl(&["get", &names.join(","), "-A", "--ignore-not-found", "--no-headers", "-o", columns])?;
    Ok(listed.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect())
}

/// What a visitor counted.
#[derive(Debug)]
struct Tally {
    sent: u64,
    failed: u64,
    /// The whole line, to be read where something failed.
    _line: String,
}

impl Tally {
    fn parse(log: &str) -> anyhow::Result<Self> {
        let line = log.trim().lines().last().context("the visitor said nothing yet")?;
        let value: Value = serde_json::from_str(line).with_context(|| line.to_owned())?;
        let number = |name: &str| value[name].as_u64().with_context(|| format!("no {name} in {line}"));
        Ok(Self { sent: number("sent")?, failed: number("failed")?, _line: line.to_owned() })
    }
}

/// A visitor in a namespace of its own, which is never meshed and never restarted: it sees the whole story.
struct Outside;

impl Outside {
    fn open() -> anyhow::Result<Self> {
        let yaml = "
apiVersion: v1
kind: Namespace
metadata: {name: visitors}
---
apiVersion: v1
kind: Pod
metadata: {name: visitor, namespace: visitors}
spec:
  containers:
    - {name: visitor, image: 'ghcr.io/remora-mesh/shop:dev', args: [visitor, --rate, '100', --web, 'http://web.shop:8080']}
";
        // It begins to count once the shop is there.
        kubectl(&["-n", "shop", "rollout", "status", "deploy", "--timeout=120s"])?;
        kubectl_with(&["apply", "-f", "-"], yaml)?;
        Ok(Self)
    }

    /// What it has counted after some more time.
    fn tally(&self, cluster: &Cluster, after: Duration) -> anyhow::Result<Tally> {
        let log = || Tally::parse(&kubectl(&["-n", "visitors", "logs", "visitor", "--tail", "1"])?);
        let begun = cluster.until(PATIENCE, "the visitor from outside has begun", || Ok(Some(log()?)))?;
        let wanted = begun.sent + after.as_secs() * 50;
        cluster.until(PATIENCE, "the visitor from outside goes on", || {
            Ok(Some(log()?).filter(|tally| tally.sent >= wanted))
        })
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        // What cannot be removed shows when the cluster's objects are compared.
        let _ = kubectl(&["delete", "namespace", "visitors", "--wait=true"]);
    }
}

/// The visitor in the shop itself, from its pod's beginning.
fn inside(cluster: &Cluster, when: &str) -> anyhow::Result<()> {
    let log = || Tally::parse(&kubectl(&["-n", "shop", "logs", "deploy/visitor", "-c", "visitor", "--tail", "1"])?);
    let enough = |tally: &Tally| tally.sent >= CALM.as_secs() * 25;
    let tally = cluster.until(PATIENCE, "the visitor inside has seen enough", || Ok(Some(log()?).filter(enough)))?;
    ensure!(tally.failed == 0, "seen from inside, {when}: {tally:?}");
    Ok(())
}

fn rolled_out(cluster: &Cluster, name: &str) -> anyhow::Result<()> {
    cluster.rolled_out("shop", "apps/v1/deployments", name, PATIENCE)
}

fn wait_for_control_plane(cluster: &Cluster) -> anyhow::Result<()> {
    for part in ["remora-identity", "remora-discovery", "remora-injector"] {
        cluster.rolled_out("remora", "apps/v1/deployments", part, PATIENCE)?;
    }
    // A part that is ready is not yet reached: kube-proxy hears of its endpoint later than the API server does.
    remora(&["check", "--wait", "60s"]).map(drop)
}

/// `kubectl rollout restart`, and what the visitor inside had counted by its end.
fn restart(cluster: &Cluster) -> anyhow::Result<()> {
    let last_words = tempfile::NamedTempFile::new()?;
    let mut follower: Child = Command::new("kubectl")
        .args(["-n", "shop", "logs", "-f", "deploy/visitor", "-c", "visitor"])
        .stdin(Stdio::null())
        .stdout(last_words.reopen()?)
        .spawn()?;
    kubectl(&["-n", "shop", "rollout", "restart", "deploy"])?;
    for name in SHOP {
        rolled_out(cluster, name)?;
    }
    let ended = cluster.until(PATIENCE, "the visitor inside has ended", || Ok(follower.try_wait()?));
    if ended.is_err() {
        follower.kill()?;
        follower.wait()?;
        bail!("the visitor inside did not end");
    }
    let tally = Tally::parse(&fs::read_to_string(last_words.path())?)?;
    ensure!(tally.failed == 0, "seen by the visitor inside that was replaced: {tally:?}");
    Ok(())
}

/// Whether every pod of the shop has a sidecar, or none.
fn all_meshed(cluster: &Cluster, meshed: bool) -> anyhow::Result<()> {
    cluster.until(PATIENCE, "the shop's old pods are gone", || {
        for pod in cluster.objects("shop", "v1/pods", "app!=report")? {
            let sidecars = pod.pointer("/spec/initContainers").and_then(Value::as_array);
            let has = sidecars.is_some_and(|all| all.iter().any(|it| it["name"] == "remora-proxy"));
            ensure!(has == meshed, "{}: sidecar {has}", pod["metadata"]["name"]);
        }
        Ok(Some(()))
    })
}

/// What a capture of everything between pods shows.
#[derive(Debug)]
struct Wire {
    /// ServerHellos that chose TLS 1.3.
    handshakes: usize,
    /// Records of TLS with application data.
    records: usize,
    /// How often what is bought is to be read.
    marker: usize,
}

/// Captures on the node while a pod is replaced, so that there are handshakes to see. A pod's own loopback, on which the
/// application and its proxy speak, is not captured.
fn watch_the_wire(cluster: &Cluster) -> anyhow::Result<Wire> {
    let capture = tempfile::NamedTempFile::new()?;
    let mut tcpdump = Command::new("tcpdump")
        .args(["-i", "any", "-U", "-s", "0", "-w"])
        .arg(capture.path())
        // But for what the API server keeps in etcd, where the shop's manifests are to be read.
        .arg("tcp and not port 6443 and not port 2379")
        .stderr(Stdio::null())
        .spawn()
        .context("tcpdump")?;
    let pods = cluster.objects("shop", "v1/pods", "app=pricing")?;
    let pod = pods.first().and_then(|pod| pod["metadata"]["name"].as_str()).context("no pod of pricing")?;
    kubectl(&["-n", "shop", "delete", "pod", pod, "--wait=true"])?;
    rolled_out(cluster, "pricing")?;
    inside(cluster, "while the wire was watched")?;
    tcpdump.kill()?;
    tcpdump.wait()?;
    let bytes = fs::read(capture.path())?;
    let seen = |wanted: &[u8]| bytes.windows(wanted.len()).filter(|window| *window == wanted).count();
    // The extension supported_versions of a ServerHello (RFC 8446 §4.2.1).
    let handshakes = seen(&[0x00, 0x2b, 0x00, 0x02, 0x03, 0x04]);
    let wire = Wire { handshakes, records: seen(&[0x17, 0x03, 0x03]), marker: seen(MARKER.as_bytes()) };
    println!("    captured {} bytes: {wire:?}", bytes.len());
    if let Some(at) = bytes.windows(MARKER.len()).position(|window| window == MARKER.as_bytes()) {
        let around = &bytes[at.saturating_sub(300)..(at + 100).min(bytes.len())];
        println!("    … {} …", String::from_utf8_lossy(around).escape_debug());
    }
    Ok(wire)
}

/// The sidecar of the visitor counts what the visitor does.
fn signals_agree(cluster: &Cluster) -> anyhow::Result<()> {
    let log = || Tally::parse(&kubectl(&["-n", "shop", "logs", "deploy/visitor", "-c", "visitor", "--tail", "1"])?);
    cluster.until(PATIENCE, "the sidecar's count agrees with its application's", || {
        let before = log()?.sent;
        let routes: Value = serde_json::from_str(&remora(&["routes", "-n", "shop", "deploy/visitor", "-o", "json"])?)?;
        let (counted, after) = (requests(&routes), log()?.sent);
        // A line is printed once a second, so the one before may be a second old, the one after as well.
        ensure!(before <= counted && counted <= after + 200, "{before} before, {counted} counted, {after} after");
        Ok(Some(()))
    })
}

/// The requests of all outbound rows towards the shop's front.
fn requests(value: &Value) -> u64 {
    match value {
        Value::Array(all) => all.iter().map(requests).sum(),
        Value::Object(row) if row.get("direction").is_some_and(|it| it == "outbound") => {
            let web = row["parent"].as_str().is_some_and(|parent| parent.starts_with("shop/web"));
            if web { row["requests"].as_u64().unwrap_or_default() } else { 0 }
        }
        Value::Object(all) => all.values().map(requests).sum(),
        _ => 0,
    }
}
