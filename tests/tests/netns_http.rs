//! The corners of HTTP with stock programs at both ends, directly and through two redirected proxies.

use anyhow::{Context as _, ensure};
use remora_tests::netns::{
    self, APP_UID, Command, Pod, apps,
    scene::{Scene, url},
};
use std::{
    net::{IpAddr, SocketAddr},
    path::Path,
    process::ExitCode,
    time::Duration,
};

fn main() -> ExitCode {
    netns::run(&[
        ("heads_are_the_same_but_for_what_belongs_to_one_hop", heads),
        ("http_1_0_is_answered_as_http_1_0", http_1_0),
        ("http_2_in_plaintext_exchanges_the_same_bytes", http_2),
        ("a_thousand_requests_on_kept_http_1_0_connections_all_succeed", apache_bench),
        ("a_websocket_echoes_text_and_bytes_and_closes_cleanly", websocket),
        ("connect_tunnels_through_a_stock_proxy", connect),
        ("events_arrive_one_by_one_as_the_server_sends_them", events),
        ("an_upload_that_awaits_100_continue_gets_it", expect_continue),
        ("a_refusal_of_a_large_upload_reaches_the_client", early_refusal),
        ("a_final_answer_follows_early_hints", early_hints),
        ("a_half_closed_connection_carries_the_answer_back", half_close),
        ("a_request_and_the_end_of_input_at_once_are_answered", half_closed_http),
    ])
}

/// Version, code and fields, as far as a proxy must leave them alone: RFC 9110 §7.6.1 makes the rest the hop's own, names
/// of fields have no case, and nobody may act on a reason phrase (RFC 9112 §4), which HTTP/2 does not carry.
fn head(answer: &[u8]) -> anyhow::Result<Vec<String>> {
    const OF_ONE_HOP: [&str; 4] = ["connection:", "keep-alive:", "transfer-encoding:", "date:"];
    let text = String::from_utf8_lossy(answer).into_owned();
    let mut lines = text.lines().take_while(|line| !line.trim().is_empty());
    let status = lines.next().context("no status line")?.splitn(3, ' ').take(2).collect::<Vec<_>>().join(" ");
    let lower = |line: &str| match line.trim().split_once(':') {
        Some((name, value)) => format!("{}:{value}", name.to_ascii_lowercase()),
        None => line.to_owned(),
    };
    let ours = |line: &String| !OF_ONE_HOP.iter().any(|name| line.starts_with(name));
    let mut fields: Vec<_> = lines.map(lower).filter(ours).collect();
    fields.sort();
    fields.insert(0, status);
    Ok(fields)
}

fn heads() -> anyhow::Result<()> {
    let scene = Scene::new(apps::nginx)?;
    let questions = [
        ("/random", ""),
        ("/random", "-I"),
        ("/random", "-r 100-199"),
        ("/random", "-H If-None-Match:*"),
        ("/random", "-X DELETE"),
        ("/nothing", ""),
        ("/%2e/random?a=b%20c", "--path-as-is"),
    ];
    let ask = || -> anyhow::Result<Vec<Vec<String>>> {
        let mut heads = Vec::new();
        for (path, words) in questions {
            let curl = |client: &Pod, ip| {
                client.command("curl").args("-sS -D - -o /dev/null").args(words).arg(url("http", ip, 8080, path))
            };
            for answer in scene.ask(curl)? {
                heads.push(head(&answer)?);
            }
        }
        Ok(heads)
    };
    let direct = ask()?;
    let meshed = scene.mesh(&[8080])?;
    for (direct, through) in direct.iter().zip(meshed.context(ask())?) {
        ensure!(*direct == through, "directly: {direct:#?}\nthrough the mesh: {through:#?}");
    }
    meshed.saw_mtls(&scene)
}

fn http_1_0() -> anyhow::Result<()> {
    let scene = Scene::new(apps::nginx)?;
    let get = |client: &Pod, ip| {
        client.command("curl").args("-sS --fail-with-body --http1.0").arg(url("http", ip, 8080, "/random"))
    };
    scene.compare(&[8080], get).map(drop)
}

fn http_2() -> anyhow::Result<()> {
    let scene = Scene::new(apps::nginx)?;
    let get = |client: &Pod, ip| {
        let curl = client.command("curl").args("-sS --fail-with-body --http2-prior-knowledge -w %{http_version}");
        curl.arg(url("http", ip, apps::H2C_PORT, "/random"))
    };
    scene.compare(&[apps::H2C_PORT], get).map(drop)
}

fn apache_bench() -> anyhow::Result<()> {
    let scene = Scene::new(apps::nginx)?;
    std::fs::write(scene.dir.path().join("small"), "some bytes\n")?;
    let meshed = scene.mesh(&[8080])?;
    for ip in scene.server.addresses() {
        let ab =
            scene.client.command("ab").uid(APP_UID).args("-q -k -n 1000 -c 10").arg(url("http", ip, 8080, "/small"));
        let said = meshed.context(ab.output())?;
        let counted =
            |line: &str| said.lines().find_map(|it| it.strip_prefix(line)).map_or("none", str::trim).to_owned();
        let counts =
            ["Complete requests:", "Failed requests:", "Non-2xx responses:", "Keep-Alive requests:"].map(counted);
        ensure!(counts == ["1000", "0", "none", "1000"], "{said}");
    }
    meshed.saw_mtls(&scene)
}

fn websocket() -> anyhow::Result<()> {
    let scene = Scene::new(|pod, _| apps::websocket(pod))?;
    let _meshed = scene.compare(&[8765], apps::websocket_client)?;
    let said = scene.ask(apps::websocket_client)?;
    ensure!(said.iter().all(|said| said.ends_with(b"pong\nclosed 1000\n")), "the connection is not closed cleanly");
    Ok(())
}

/// curl asks tinyproxy in the server's pod for a tunnel to nginx in the same pod, and speaks HTTPS through it.
fn connect() -> anyhow::Result<()> {
    let scene = Scene::new(apps::nginx)?;
    let _proxy = apps::tinyproxy(&scene.server, scene.dir.path())?;
    let certificate = scene.dir.path().join("tls.crt");
    let get = |client: &Pod, ip| {
        let curl = client
            .command("curl")
            .args("-sS --fail-with-body --proxytunnel --connect-to nginx.test:8443:127.0.0.1:8443");
        let curl = curl.arg("--proxy").arg(url("http", ip, apps::TINYPROXY_PORT, "")).arg("--cacert").arg(&certificate);
        curl.arg("https://nginx.test:8443/random")
    };
    scene.compare(&[apps::TINYPROXY_PORT, 8443], get).map(drop)
}

/// The client asks for the next event only when it has read the last one: any buffering on the way is a deadlock.
fn events() -> anyhow::Result<()> {
    let scene = Scene::new(|pod, _| apps::origin(pod))?;
    let read = |client: &Pod, ip: IpAddr| client.role("events").arg(SocketAddr::from((ip, 8080)).to_string());
    scene.compare(&[8080], read).map(drop)
}

/// curl would wait 20 s for the interim answer before it sends the body, and the harness gives it less.
fn expect_continue() -> anyhow::Result<()> {
    let scene = Scene::new(|pod, _| apps::origin(pod))?;
    let post = |client: &Pod, ip| {
        let curl =
            client.command("curl").args("-sS --fail-with-body --expect100-timeout 20 -H").arg("Expect: 100-continue");
        curl.args("--data-binary @/etc/services").arg(url("http", ip, 8080, "/sink")).patience(Duration::from_secs(10))
    };
    scene.compare(&[8080], post).map(drop)
}

/// nginx takes bodies of 1 MiB and refuses what is larger when it has read the head.
fn early_refusal() -> anyhow::Result<()> {
    let scene = Scene::new(apps::nginx)?;
    let file = scene.dir.path().join("random");
    let put = |client: &Pod, ip, expect| {
        let curl = client.command("curl").args("-sS -w %{http_code} -H").arg(expect).arg("-T").arg(&file);
        curl.arg(url("http", ip, 8080, "/refused"))
    };
    let ask = || -> anyhow::Result<Vec<Vec<u8>>> {
        let mut answers = scene.ask(|client, ip| put(client, ip, "Expect: 100-continue"))?;
        answers.extend(scene.ask(|client, ip| put(client, ip, "Expect:"))?);
        Ok(answers)
    };
    let direct = ask()?;
    ensure!(direct.iter().all(|answer| answer.ends_with(b"413")), "nginx does not refuse the body");
    let meshed = scene.mesh(&[8080])?;
    let through = meshed.context(ask())?;
    ensure!(
        direct == through,
        "{:?}",
        through.iter().map(|answer| String::from_utf8_lossy(answer)).collect::<Vec<_>>()
    );
    meshed.saw_mtls(&scene)
}

/// What happens to the interim answer itself: docs/protocols.md.
fn early_hints() -> anyhow::Result<()> {
    let scene = Scene::new(|pod, _| apps::origin(pod))?;
    let get =
        |client: &Pod, ip| client.command("curl").args("-sS --fail-with-body").arg(url("http", ip, 8080, "/hints"));
    scene.compare(&[8080], get).map(drop)
}

/// nc shuts its side down when it has sent the file (-N); socat's child answers only then.
fn half_close() -> anyhow::Result<()> {
    let scene = Scene::new(|pod, _| apps::sha256(pod))?;
    let bytes: Vec<u8> = (0..3_000_000_u32).map(|number| (number.wrapping_mul(number) >> 7) as u8).collect();
    let file = scene.dir.path().join("bytes");
    std::fs::write(&file, bytes)?;
    scene.compare(&[apps::SHA256_PORT], |client, ip| piped(client, &file, ip, apps::SHA256_PORT)).map(drop)
}

/// nginx would take the end of input for the end of the client.
fn half_closed_http() -> anyhow::Result<()> {
    let scene = Scene::new(|pod, _| apps::origin(pod))?;
    let file = scene.dir.path().join("request");
    std::fs::write(
        &file,
        "GET /sink HTTP/1.1\r\nHost: nginx.test\r\n\r\nGET /hints HTTP/1.1\r\nHost: nginx.test\r\n\r\n",
    )?;
    let meshed = scene.mesh(&[8080])?;
    for answer in meshed.context(scene.ask(|client, ip| piped(client, &file, ip, 8080)))? {
        let answer = String::from_utf8_lossy(&answer);
        let answered = answer.matches("HTTP/1.1 200 OK").count() == 2 && answer.ends_with("the final answer\n");
        ensure!(answered, "{answer}");
    }
    meshed.saw_mtls(&scene)
}

/// Sends a file with nc, which then shuts its side down and prints what comes back.
fn piped(client: &Pod, file: &Path, ip: IpAddr, port: u16) -> Command {
    let script = format!("exec nc -N -w 20 {ip} {port} < {}", file.display());
    client.command("sh").arg("-c").arg(script)
}
