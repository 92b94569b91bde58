//! Stock clients and servers, first directly, then through two redirected proxies: nobody can tell the difference.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use remora_tests::netns::mesh::{Mesh, Sidecar};
use remora_tests::netns::{self, APP_UID, Command, Network, Pod, Process, apps};

/// What two proxies may add to the first byte of a server that speaks first.
const FIRST_BYTE_EXTRA: Duration = Duration::from_millis(5);
/// What a proxy may grow by while 1 GiB passes through it.
const GROWTH_BYTES_MAX: u64 = 4 << 20;

fn main() -> ExitCode {
    netns::run(&[
        ("the_control_plane_starts_in_a_pod_of_its_own", control_plane),
        ("nginx_and_curl_exchange_the_same_bytes", nginx),
        ("https_with_its_own_certificate_passes_untouched", https),
        ("redis_exchanges_the_same_bytes", redis),
        ("mariadb_exchanges_the_same_bytes_and_greets_as_soon", mariadb),
        ("postgresql_exchanges_the_same_bytes", postgresql),
        ("a_gibibyte_each_way_takes_constant_memory", a_gibibyte),
        ("a_capture_between_the_pods_shows_tls_and_no_plaintext", capture),
    ])
}

/// A client pod, and a server pod whose application listens.
struct Scene {
    app: Process,
    client: Pod,
    server: Pod,
    net: Network,
    dir: tempfile::TempDir,
}

impl Scene {
    fn new(start: fn(&Pod, &Path) -> anyhow::Result<Process>) -> anyhow::Result<Self> {
        let dir = tempfile::tempdir()?;
        let net = Network::new("apps")?;
        let (client, server) = (net.pod("client")?, net.pod("server")?);
        let app = start(&server, dir.path())?;
        Ok(Self { app, client, server, net, dir })
    }

    /// What the client gets from each address of the server.
    fn ask(&self, question: impl Fn(&Pod, IpAddr) -> Command) -> anyhow::Result<Vec<Vec<u8>>> {
        self.server.addresses().into_iter().map(|ip| question(&self.client, ip).uid(APP_UID).bytes()).collect()
    }

    fn mesh(&self, port: u16) -> anyhow::Result<Meshed> {
        let mesh = Mesh::start(&self.net)?;
        let server = mesh.join(&self.server, &[port])?;
        let client = mesh.join(&self.client, &[])?;
        Ok(Meshed { client, server, _mesh: mesh })
    }
}

struct Meshed {
    client: Sidecar,
    server: Sidecar,
    _mesh: Mesh,
}

impl Meshed {
    /// Fails with both proxies' logs.
    fn context<T>(&self, outcome: anyhow::Result<T>) -> anyhow::Result<T> {
        outcome.with_context(|| format!("client proxy: {}\nserver proxy: {}", self.client.log(), self.server.log()))
    }
}

/// Asks directly, then through the mesh, and compares every byte; the server's proxy must have seen mutual TLS.
fn compared(scene: &Scene, port: u16, question: impl Fn(&Pod, IpAddr) -> Command) -> anyhow::Result<Meshed> {
    let direct = scene.ask(&question).context("directly")?;
    ensure!(direct.iter().all(|answer| !answer.is_empty()), "the server says nothing, even directly");
    let meshed = scene.mesh(port)?;
    let through = meshed.context(scene.ask(&question).context("through the mesh"))?;
    ensure!(direct == through, "the bytes through the mesh are not those of the direct path");
    let routes = meshed.server.routes(&scene.server)?;
    ensure!(
        routes["routes"].as_array().is_some_and(|routes| routes.iter().any(|route| route["tls"] == "mtls")),
        "the server's proxy saw no mutual TLS: {routes}"
    );
    Ok(meshed)
}

fn url(scheme: &str, ip: IpAddr, port: u16, path: &str) -> String {
    format!("{scheme}://{}{path}", SocketAddr::from((ip, port)))
}

/// Discovery is ready only once identity has certified it, so that this is the first use of the CA as well.
fn control_plane() -> anyhow::Result<()> {
    Mesh::start(&Network::new("ctl")?).map(drop)
}

fn nginx() -> anyhow::Result<()> {
    let scene = Scene::new(apps::nginx)?;
    let get = |client: &Pod, ip| client.command("curl").args("-sS --fail").arg(url("http", ip, 8080, "/random"));
    compared(&scene, 8080, get).map(drop)
}

fn https() -> anyhow::Result<()> {
    let scene = Scene::new(apps::nginx)?;
    let certificate = scene.dir.path().join("tls.crt");
    let get = |client: &Pod, ip: IpAddr| {
        let name = format!("nginx.test:8443:{}", if ip.is_ipv6() { format!("[{ip}]") } else { ip.to_string() });
        let curl = client.command("curl").args("-sS --fail --resolve").arg(name).arg("--cacert").arg(&certificate);
        curl.arg("https://nginx.test:8443/random")
    };
    compared(&scene, 8443, get).map(drop)
}

fn redis() -> anyhow::Result<()> {
    let scene = Scene::new(apps::redis)?;
    let script = "local v = {} for i = 1, 200000 do v[i] = i end return table.concat(v, ' ')";
    let eval = |client: &Pod, ip: IpAddr| {
        client.command("redis-cli").arg("-h").arg(ip.to_string()).args("-p 6379 --raw eval").arg(script).arg("0")
    };
    compared(&scene, 6379, eval).map(drop)
}

fn mariadb() -> anyhow::Result<()> {
    let scene = Scene::new(apps::mariadb)?;
    let select = |client: &Pod, ip: IpAddr| {
        let client =
            client.command("mariadb").args("--no-defaults --skip-ssl --user=app --batch --host").arg(ip.to_string());
        client.arg("--execute").arg("select seq, sha2(seq, 512) from mysql.seq_1_to_10000")
    };
    let first_byte = |scene: &Scene| -> anyhow::Result<Duration> {
        let address = SocketAddr::from((scene.server.ipv4, 3306)).to_string();
        let said = scene.client.role("first-byte")?.uid(APP_UID).arg(address).output()?;
        Ok(Duration::from_micros(said.trim().parse()?))
    };
    let direct = first_byte(&scene)?;
    let meshed = compared(&scene, 3306, select)?;
    let through = meshed.context(first_byte(&scene))?;
    ensure!(
        through <= direct + FIRST_BYTE_EXTRA,
        "the greeting takes {through:?} through the mesh, {direct:?} directly"
    );
    Ok(())
}

fn postgresql() -> anyhow::Result<()> {
    let scene = Scene::new(apps::postgresql)?;
    let select = |client: &Pod, ip: IpAddr| {
        let psql = client.command("psql").args("-U app -d postgres -A -t -h").arg(ip.to_string());
        psql.arg("-c").arg("select n, md5(n::text) from generate_series(1, 20000) n")
    };
    compared(&scene, 5432, select).map(drop)
}

fn a_gibibyte() -> anyhow::Result<()> {
    let scene = Scene::new(apps::nginx)?;
    let mut sink = scene.server.role("sink")?.arg("[::]:8081").spawn()?;
    ensure!(sink.line()? == "ready");
    let meshed = scene.mesh(8080)?;
    let warm = |path: &str| {
        let curl = scene.client.command("curl").uid(APP_UID).args("-sS --fail -o /dev/null -w %{size_download}");
        curl.patience(Duration::from_secs(120)).arg(url("http", scene.server.ipv4.into(), 8080, path)).output()
    };
    let upload = |file: &str| {
        let curl =
            scene.client.command("curl").uid(APP_UID).args("-sS --fail -H Expect: -T").arg(scene.dir.path().join(file));
        curl.patience(Duration::from_secs(120)).arg(url("http", scene.server.ipv4.into(), 8081, "/")).output()
    };
    meshed.context(warm("/random").and_then(|_| upload("random")))?;
    let before = [meshed.client.process.resident_bytes()?, meshed.server.process.resident_bytes()?];
    ensure!(meshed.context(warm("/large"))? == apps::LARGE_BYTES.to_string(), "the download is cut");
    ensure!(meshed.context(upload("large"))?.trim() == apps::LARGE_BYTES.to_string(), "the upload is cut");
    let after = [meshed.client.process.resident_bytes()?, meshed.server.process.resident_bytes()?];
    for (name, before, after) in [("client", before[0], after[0]), ("server", before[1], after[1])] {
        let growth = after.saturating_sub(before);
        println!("    {name} proxy: {} KiB before, {} KiB after 2 GiB", before >> 10, after >> 10);
        ensure!(growth < GROWTH_BYTES_MAX, "the {name}'s proxy grew by {growth} bytes");
    }
    Ok(())
}

fn capture() -> anyhow::Result<()> {
    const MARKER: &str = "a-marker-that-nobody-between-the-pods-may-read";
    let scene = Scene::new(apps::nginx)?;
    std::fs::write(scene.dir.path().join("secret"), MARKER)?;
    let meshed = scene.mesh(8080)?;
    let file = scene.dir.path().join("capture");
    let tcpdump = scene.server.command("tcpdump").args("-i eth0 -U -Z root -w").arg(&file).args("tcp port 8080");
    let mut tcpdump = tcpdump.log_lines()?;
    ensure!(tcpdump.line()?.contains("listening on"), "tcpdump does not listen");
    let get = scene.client.command("curl").uid(APP_UID).args("-sS --fail").arg("-H").arg(format!("x-secret: {MARKER}"));
    let body = meshed.context(get.arg(url("http", scene.server.ipv4.into(), 8080, "/secret")).output())?;
    ensure!(body == MARKER);
    drop(tcpdump);
    let captured = std::fs::read(&file)?;
    let has = |needle: &[u8]| captured.windows(needle.len()).any(|window| window == needle);
    // A TLS 1.3 ServerHello names its version in an extension: supported_versions, two bytes, 0x0304.
    ensure!(has(&[0, 0x2b, 0, 2, 3, 4]), "the capture ({} bytes) has no TLS 1.3 handshake", captured.len());
    ensure!(!has(MARKER.as_bytes()), "the capture has the marker in plain text");
    drop(scene.app);
    Ok(())
}
