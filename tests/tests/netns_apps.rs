//! Stock clients and servers, first directly, then through two redirected proxies: nobody can tell the difference.

use anyhow::{Context as _, ensure};
use remora_tests::{
    netns::{
        self, APP_UID, Network, PROXY_UID, Pod, apps,
        mesh::Mesh,
        scene::{Scene, url},
    },
    patience::until,
};
use std::{
    net::{IpAddr, SocketAddr},
    process::ExitCode,
    time::Duration,
};

/// What two proxies may add to the first byte of a server that speaks first.
const FIRST_BYTE_EXTRA: Duration = Duration::from_millis(5);
/// Greetings of which the median counts.
const GREETINGS: usize = 15;
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
        ("a_peer_that_hesitates_before_its_client_hello_is_still_a_peer", late_hello),
    ])
}

/// Discovery is ready only once identity has certified it, so that this is the first use of the CA as well.
fn control_plane() -> anyhow::Result<()> {
    Mesh::start(&Network::new("ctl")?).map(drop)
}

fn nginx() -> anyhow::Result<()> {
    let scene = Scene::new(apps::nginx)?;
    let get =
        |client: &Pod, ip| client.command("curl").args("-sS --fail-with-body").arg(url("http", ip, 8080, "/random"));
    scene.compare(&[8080], get).map(drop)
}

fn https() -> anyhow::Result<()> {
    let scene = Scene::new(apps::nginx)?;
    let certificate = scene.dir.path().join("tls.crt");
    let get = |client: &Pod, ip: IpAddr| {
        let name = format!("nginx.test:8443:{}", if ip.is_ipv6() { format!("[{ip}]") } else { ip.to_string() });
        let curl =
            client.command("curl").args("-sS --fail-with-body --resolve").arg(name).arg("--cacert").arg(&certificate);
        curl.arg("https://nginx.test:8443/random")
    };
    scene.compare(&[8443], get).map(drop)
}

fn redis() -> anyhow::Result<()> {
    let scene = Scene::new(apps::redis)?;
    let script = "local v = {} for i = 1, 200000 do v[i] = i end return table.concat(v, ' ')";
    let eval = |client: &Pod, ip: IpAddr| {
        client.command("redis-cli").arg("-h").arg(ip.to_string()).args("-p 6379 --raw eval").arg(script).arg("0")
    };
    scene.compare(&[6379], eval).map(drop)
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
        let said = scene.client.role("first-byte").uid(APP_UID).arg(address).output()?;
        Ok(Duration::from_micros(said.trim().parse()?))
    };
    // A wait of ours would be in every one; what else the machine does is not.
    let usual = |scene: &Scene| -> anyhow::Result<Duration> {
        let mut taken = (0..GREETINGS).map(|_| first_byte(scene)).collect::<anyhow::Result<Vec<_>>>()?;
        taken.sort();
        taken.get(GREETINGS / 2).copied().context("no greeting")
    };
    let direct = usual(&scene)?;
    let meshed = scene.compare(&[3306], select)?;
    let through = meshed.context(usual(&scene))?;
    println!("    MariaDB greets after {through:?} through the mesh, {direct:?} directly (median of {GREETINGS})");
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
    scene.compare(&[5432], select).map(drop)
}

fn a_gibibyte() -> anyhow::Result<()> {
    let scene = Scene::new(apps::nginx)?;
    let mut sink = scene.server.role("origin").arg("[::]:8081").spawn()?;
    ensure!(sink.line()? == "ready");
    let meshed = scene.mesh(&[8080])?;
    let warm = |path: &str| {
        let curl =
            scene.client.command("curl").uid(APP_UID).args("-sS --fail-with-body -o /dev/null -w %{size_download}");
        curl.patience(Duration::from_secs(120)).arg(url("http", scene.server.ipv4.into(), 8080, path)).output()
    };
    let upload = |file: &str| {
        let curl = scene
            .client
            .command("curl")
            .uid(APP_UID)
            .args("-sS --fail-with-body -H Expect: -T")
            .arg(scene.dir.path().join(file));
        curl.patience(Duration::from_secs(120)).arg(url("http", scene.server.ipv4.into(), 8081, "/sink")).output()
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

/// The capture ends with a control: the same request from the proxy's own user, which no rule redirects. Its plaintext
/// shows that the capture would have shown the first one's, and that everything before it has been written.
fn capture() -> anyhow::Result<()> {
    const MARKER: &str = "a-marker-that-nobody-between-the-pods-may-read";
    const CONTROL: &str = "a-marker-that-everybody-may-read";
    let scene = Scene::new(apps::nginx)?;
    std::fs::write(scene.dir.path().join("secret"), MARKER)?;
    let meshed = scene.mesh(&[8080])?;
    let file = scene.dir.path().join("capture");
    let tcpdump = scene.server.command("tcpdump").args("-i eth0 -U --immediate-mode -Z root -w").arg(&file);
    let mut tcpdump = tcpdump.args("tcp port 8080").log_lines()?;
    ensure!(tcpdump.line()?.contains("listening on"), "tcpdump does not listen");
    let get = |uid, secret: &str, path| {
        let curl =
            scene.client.command("curl").uid(uid).args("-sS --fail-with-body -H").arg(format!("x-secret: {secret}"));
        curl.arg(url("http", scene.server.ipv4.into(), 8080, path)).output()
    };
    ensure!(meshed.context(get(APP_UID, MARKER, "/secret"))? == MARKER);
    get(PROXY_UID, CONTROL, "/random?control")?;
    let has = |captured: &[u8], needle: &[u8]| captured.windows(needle.len()).any(|window| window == needle);
    let captured = until("the control request is in the capture", || {
        let captured = std::fs::read(&file)?;
        Ok(has(&captured, CONTROL.as_bytes()).then_some(captured))
    })?;
    // A TLS 1.3 ServerHello names its version in an extension: supported_versions, two bytes, 0x0304.
    ensure!(has(&captured, &[0, 0x2b, 0, 2, 3, 4]), "the capture ({} bytes) has no TLS 1.3 handshake", captured.len());
    ensure!(!has(&captured, MARKER.as_bytes()), "the capture has the marker in plain text");
    Ok(())
}

/// In permissive mode the application may have been asked meanwhile; in strict mode silence is no plaintext.
fn late_hello() -> anyhow::Result<()> {
    const STRICT: &str = "apiVersion: remora.dev/v1alpha1
kind: MeshTLSPolicy
metadata: { name: strict, namespace: test }
spec: { mode: Strict }
";
    for manifests in [&[][..], &[("strict", STRICT)][..]] {
        let scene = Scene::new(apps::nginx)?;
        let outsider = scene.net.pod("outside")?;
        let meshed = scene.mesh_with(&[8080], manifests)?;
        for ip in scene.server.addresses() {
            let late = outsider.role("late-hello").arg(SocketAddr::from((ip, 8080)).to_string());
            ensure!(meshed.context(late.output())?.trim() == "ServerHello");
        }
    }
    Ok(())
}
