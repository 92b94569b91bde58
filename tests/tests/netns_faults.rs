//! Proxies that end and endpoints that vanish, under load, between pods.

use anyhow::{Context as _, ensure};
use remora_tests::{
    netns::{
        self, APP_UID, Network, Pod, Process, apps,
        mesh::{Mesh, Sidecar},
        scene::{Scene, url},
    },
    patience::until,
};
use std::{
    io::Write as _,
    net::SocketAddr,
    process::ExitCode,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// The Service of the tests with several endpoints.
const SERVICE: &str = "10.96.0.10:8080";
/// What the exit code of a proxy says that had to cut something off.
const CUT: i32 = 3;

fn main() -> ExitCode {
    netns::run(&[
        ("a_draining_proxy_finishes_what_is_under_way_and_exits_with_0", drain_finishes),
        ("a_draining_proxy_tells_http_2_peers_and_finishes_their_streams", drain_says_goaway),
        ("a_tunnel_that_ends_within_the_grace_period_loses_nothing", drain_waits_for_tunnels),
        ("a_proxy_that_must_cut_something_off_says_so_by_its_exit_code", drain_cuts),
        ("no_request_fails_while_an_endpoint_drains_under_load", drain_under_load),
        ("a_black_holed_endpoint_of_five_leaves_within_five_seconds", black_hole),
    ])
}

/// An event stream is under way when both proxies are asked to end; it gets all its events.
fn drain_finishes() -> anyhow::Result<()> {
    let scene = Scene::new(|pod, _| apps::origin(pod))?;
    let mut meshed = scene.mesh(&[8080])?;
    let curl = scene.client.command("curl").uid(APP_UID).args("-sSN --fail-with-body");
    let mut curl = curl.arg(url("http", scene.server.ipv4.into(), 8080, "/events")).spawn()?;
    ensure!(meshed.context(curl.line())? == "data: 0");
    for sidecar in [&meshed.server, &meshed.client] {
        sidecar.process.terminate()?;
    }
    until("both proxies drain", || Ok((meshed.server.is_draining() && meshed.client.is_draining()).then_some(())))?;
    for number in 1..apps::EVENTS {
        // From within its pod nothing redirects the request.
        scene.server.command("curl").args("-sS --fail-with-body http://127.0.0.1:8080/next").output()?;
        ensure!(meshed.context(curl.line())?.is_empty(), "an event ends with an empty line");
        ensure!(meshed.context(curl.line())? == format!("data: {number}"));
    }
    ensure!(curl.ended()?.success(), "curl saw the end of the stream cut");
    for (name, sidecar) in [("server", &mut meshed.server), ("client", &mut meshed.client)] {
        let ended = sidecar.process.ended()?;
        ensure!(ended.success(), "the {name}'s proxy: {ended}; {}", sidecar.log());
    }
    Ok(())
}

/// An HTTP/2 client of the outbound listener reads slowly when its proxy is asked to end.
fn drain_says_goaway() -> anyhow::Result<()> {
    let scene = Scene::new(apps::nginx)?;
    let mut meshed = scene.mesh(&[apps::H2C_PORT])?;
    let address = SocketAddr::from((scene.server.ipv4, apps::H2C_PORT)).to_string();
    let mut client = scene.client.role("slow-http2").uid(APP_UID).arg(address).arg("/random").spawn()?;
    ensure!(meshed.context(client.line())? == "under way");
    meshed.client.process.terminate()?;
    ensure!(meshed.context(client.line())? == "GOAWAY NO_ERROR");
    ensure!(meshed.context(client.line())? == format!("{} bytes", apps::RANDOM_BYTES));
    let ended = meshed.client.process.ended()?;
    ensure!(ended.success(), "{ended}; {}", meshed.client.log());
    Ok(())
}

/// Half of a tunnel's bytes go before both proxies are asked to end, the other half, and the answer, afterwards.
fn drain_waits_for_tunnels() -> anyhow::Result<()> {
    let scene = Scene::new(|pod, _| apps::sha256(pod))?;
    let direct = scene.client.command("sh").arg("-c").arg("printf 'half, and half' | sha256sum").output()?;
    let mut meshed = scene.mesh(&[apps::SHA256_PORT])?;
    let pipe = scene.dir.path().join("pipe");
    scene.client.command("mkfifo").arg("-m").arg("666").arg(&pipe).output()?;
    let script = format!("exec nc -N -w 20 {} {} < {}", scene.server.ipv4, apps::SHA256_PORT, pipe.display());
    let mut client = scene.client.command("sh").arg("-c").arg(script).uid(APP_UID).spawn()?;
    let mut bytes = std::fs::File::options().write(true).open(&pipe)?;
    bytes.write_all(b"half, ")?;
    until("the tunnel is open", || Ok(meshed.client.routes(&scene.client)?.to_string().contains("tcp").then_some(())))?;
    for sidecar in [&meshed.server, &meshed.client] {
        sidecar.process.terminate()?;
    }
    until("both proxies drain", || Ok((meshed.server.is_draining() && meshed.client.is_draining()).then_some(())))?;
    bytes.write_all(b"and half")?;
    drop(bytes);
    ensure!(meshed.context(client.line())? == direct.trim(), "the tunnel lost something");
    for (name, sidecar) in [("server", &mut meshed.server), ("client", &mut meshed.client)] {
        let ended = sidecar.process.ended()?;
        ensure!(ended.success(), "the {name}'s proxy: {ended}; {}", sidecar.log());
    }
    Ok(())
}

/// A stream that nobody ends outlives a grace period of one second.
fn drain_cuts() -> anyhow::Result<()> {
    let scene = Scene::new(|pod, _| apps::origin(pod))?;
    let mesh = Mesh::start(&scene.net)?;
    let _server = mesh.join(&scene.server, &[8080])?;
    let mut client = mesh.join_with(&scene.client, &[], &[("REMORA_PROXY_DRAIN_GRACE", "1s")])?;
    let curl = scene.client.command("curl").uid(APP_UID).args("-sSN --fail-with-body");
    let mut curl = curl.arg(url("http", scene.server.ipv4.into(), 8080, "/events")).spawn()?;
    ensure!(curl.line()? == "data: 0");
    client.process.terminate()?;
    let ended = client.process.ended()?;
    ensure!(ended.code() == Some(CUT), "{ended}; {}", client.log());
    ensure!(!curl.ended()?.success(), "curl took a cut stream for a whole one");
    Ok(())
}

/// A Service with as many endpoints as asked for, each of which counts bodies, and a client's pod; all in the mesh.
struct Group {
    // Fields end in their order: programs before their pods.
    endpoints: Vec<(Sidecar, Process, Pod)>,
    client_proxy: Sidecar,
    client: Pod,
    _mesh: Mesh,
    _net: Network,
}

impl Group {
    fn new(endpoints: usize) -> anyhow::Result<Self> {
        let net = Network::new("group")?;
        let mesh = Mesh::start(&net)?;
        let (ip, port) = SERVICE.split_once(':').context("no port")?;
        mesh.manifest(
            "service",
            &format!(
                "apiVersion: v1
kind: Service
metadata: {{ name: origin, namespace: test }}
spec: {{ clusterIP: {ip}, selector: {{ part: origin }}, ports: [{{ port: {port} }}] }}
"
            ),
        )?;
        let mut started = Vec::new();
        for number in 1..=endpoints {
            let pod = net.pod(&format!("origin-{number}"))?;
            let app = apps::origin(&pod)?;
            let sidecar = mesh.join_as(&pod, "origin", &[8080], &[])?;
            started.push((sidecar, app, pod));
        }
        let client = net.pod("client")?;
        let client_proxy = mesh.join(&client, &[])?;
        Ok(Self { endpoints: started, client_proxy, client, _mesh: mesh, _net: net })
    }

    /// Requests without a pause on eight connections for that long; the first lines come when all have been answered.
    fn load(&self, seconds: u32) -> anyhow::Result<Process> {
        let load = self.client.role("load").uid(APP_UID).arg(SERVICE).arg(seconds.to_string());
        let mut load = load.spawn()?;
        ensure!(load.line()? == "under way");
        Ok(load)
    }

    fn context<T>(&self, outcome: anyhow::Result<T>) -> anyhow::Result<T> {
        let others = || self.endpoints.iter().map(|(sidecar, _, pod)| format!("{}: {}", pod.name(), sidecar.log()));
        outcome.with_context(|| {
            format!("client proxy: {}\n{}", self.client_proxy.log(), others().collect::<Vec<_>>().join("\n"))
        })
    }
}

/// What a load saw of one request that failed or took long.
struct Notable {
    /// Milliseconds since 1970.
    began: u64,
    ms: u64,
    failed: bool,
}

/// Reads what a load has to say at its end: how many requests there were, and the notable ones.
fn report(load: &mut Process) -> anyhow::Result<(u64, Vec<Notable>)> {
    let mut notable = Vec::new();
    loop {
        let line = load.line()?;
        let words: Vec<&str> = line.split(' ').collect();
        match *words.as_slice() {
            ["requests", count] => return Ok((count.parse()?, notable)),
            [outcome, began, ms] => {
                notable.push(Notable { began: began.parse()?, ms: ms.parse()?, failed: outcome == "failed" });
            }
            _ => anyhow::bail!("the load says {line:?}"),
        }
    }
}

fn drain_under_load() -> anyhow::Result<()> {
    let mut group = Group::new(2)?;
    let mut load = group.load(6)?;
    group.endpoints[0].0.process.terminate()?;
    let ended = group.endpoints[0].0.process.ended()?;
    ensure!(ended.success(), "the draining proxy: {ended}; {}", group.endpoints[0].0.log());
    let (count, notable) = group.context(report(&mut load))?;
    let failed = notable.iter().filter(|request| request.failed).count();
    println!("    {count} requests, {failed} failed");
    group.context(if failed == 0 { Ok(()) } else { Err(anyhow::anyhow!("{failed} of {count} requests failed")) })
}

fn black_hole() -> anyhow::Result<()> {
    /// Within this time the endpoint must have left the rotation.
    const LEAVES_WITHIN: Duration = Duration::from_secs(5);
    /// Probes afterwards, one slow request each: the pod has two addresses, and each is tried again after 1, 2, 4 s.
    const PROBES_MAX: usize = 6;
    let group = Group::new(5)?;
    let mut load = group.load(12)?;
    let pod = &group.endpoints[2].2;
    for rule in [
        "add table inet hole",
        "add chain inet hole in { type filter hook input priority -300 ; policy drop ; }",
        "add chain inet hole out { type filter hook output priority -300 ; policy drop ; }",
    ] {
        pod.command("nft").args(rule).output()?;
    }
    let dropped = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis() as u64;
    let (count, notable) = group.context(report(&mut load))?;
    let failed = notable.iter().filter(|request| request.failed).count();
    let late = dropped + LEAVES_WITHIN.as_millis() as u64;
    let slow_late = notable.iter().filter(|request| request.began > late).count();
    let last = notable.iter().map(|request| request.began.saturating_sub(dropped)).max().unwrap_or(0);
    let longest = notable.iter().map(|request| request.ms).max().unwrap_or(0);
    println!("    {count} requests, {failed} failed, {} slow (at most {longest} ms)", notable.len());
    println!("    the last slow one began {last} ms after the endpoint vanished; {slow_late} after 5 s");
    group.context(if failed == 0 { Ok(()) } else { Err(anyhow::anyhow!("{failed} of {count} requests failed")) })?;
    ensure!(slow_late <= PROBES_MAX, "after 5 s still {slow_late} requests met the endpoint");
    Ok(())
}
