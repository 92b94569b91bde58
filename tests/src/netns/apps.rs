//! Stock applications for pods. In: a pod and a folder of its own. Out: a server that listens. Does not: know the mesh.
//!
//! Each function starts one server as distributions ship it, as an unprivileged user, on its usual port, IPv4 and IPv6.

use anyhow::{Context as _, ensure};
use std::{
    fs,
    net::{IpAddr, SocketAddr},
    os::unix::fs::{PermissionsExt as _, chown},
    path::Path,
    process::Command as Tool,
};

pub use super::origin::EVENTS;
use super::{Pod, Process, go};

/// `nobody`: PostgreSQL and MariaDB want a user that has a name.
const UID: u32 = 65534;
/// Bytes of the file that nginx serves as `/random`.
pub const RANDOM_BYTES: u64 = 3_000_000;
/// Bytes of the file that nginx serves as `/large`.
pub const LARGE_BYTES: u64 = 1 << 30;

/// The port of nginx that speaks HTTP/2 in plaintext, by prior knowledge.
pub const H2C_PORT: u16 = 8082;
/// The port of grpc-go's interop server.
pub const GRPC_PORT: u16 = 10000;
/// The port of [`sha256`].
pub const SHA256_PORT: u16 = 9000;
/// The port of tinyproxy.
pub const TINYPROXY_PORT: u16 = 8888;

/// nginx with `/random` (a few MB of noise) and `/large` (1 GiB): HTTP/1 on port 8080, HTTP/2 on [`H2C_PORT`], and HTTPS
/// with its own certificate on 8443.
pub fn nginx(pod: &Pod, dir: &Path) -> anyhow::Result<Process> {
    give(dir)?;
    let mut noise = Vec::new();
    std::io::Read::read_to_end(&mut std::io::Read::take(fs::File::open("/dev/urandom")?, RANDOM_BYTES), &mut noise)?;
    fs::write(dir.join("random"), noise)?;
    fs::File::create(dir.join("large"))?.set_len(LARGE_BYTES)?;
    let own = rcgen::generate_simple_self_signed(["nginx.test".to_owned()])?;
    fs::write(dir.join("tls.crt"), own.cert.pem())?;
    fs::write(dir.join("tls.key"), own.signing_key.serialize_pem())?;
    chown(dir.join("tls.key"), Some(UID), Some(UID))?;
    let dir_name = dir.display();
    let config = format!(
        "daemon off; pid {dir_name}/pid; error_log stderr warn;
events {{ worker_connections 512; }}
http {{
    access_log off;
    client_body_temp_path {dir_name}/body; proxy_temp_path {dir_name}/proxy; fastcgi_temp_path {dir_name}/fastcgi;
    uwsgi_temp_path {dir_name}/uwsgi; scgi_temp_path {dir_name}/scgi;
    server {{
        listen 8080; listen [::]:8080; listen {H2C_PORT} http2; listen [::]:{H2C_PORT} http2;
        listen 8443 ssl; listen [::]:8443 ssl;
        ssl_certificate {dir_name}/tls.crt; ssl_certificate_key {dir_name}/tls.key;
        root {dir_name};
    }}
}}
"
    );
    fs::write(dir.join("nginx.conf"), config)?;
    pod.command("nginx").uid(UID).arg("-c").arg(dir.join("nginx.conf")).arg("-e").arg("stderr").spawn()?.listening(8443)
}

/// Redis on port 6379.
pub fn redis(pod: &Pod, dir: &Path) -> anyhow::Result<Process> {
    give(dir)?;
    let server = pod.command("redis-server").uid(UID).args("--port 6379 --bind 0.0.0.0 :: --protected-mode no");
    server.args("--appendonly no --dir").arg(dir).spawn()?.listening(6379)
}

/// MariaDB on port 3306 with the user `app` (no password): a protocol whose server speaks first.
pub fn mariadb(pod: &Pod, dir: &Path) -> anyhow::Result<Process> {
    give(dir)?;
    let data = dir.join("data");
    let install = Tool::new("mariadb-install-db")
        .args(["--no-defaults", "--user=nobody", "--auth-root-authentication-method=normal", "--skip-test-db"])
        .arg(format!("--datadir={}", data.display()))
        .output()
        .context("running mariadb-install-db (package mariadb-server)")?;
    ensure!(install.status.success(), "mariadb-install-db: {}", String::from_utf8_lossy(&install.stderr));
    fs::write(dir.join("init.sql"), "CREATE USER app@'%';\nGRANT ALL ON *.* TO app@'%';\n")?;
    pod.command("mariadbd")
        .uid(UID)
        .args("--no-defaults --port=3306 --bind-address=* --skip-name-resolve --skip-log-bin --innodb-buffer-pool-size=16M")
        .arg(format!("--datadir={}", data.display()))
        .arg(format!("--socket={}/sock", dir.display()))
        .arg(format!("--pid-file={}/pid", dir.display()))
        .arg(format!("--init-file={}/init.sql", dir.display()))
        .log(fs::File::create(dir.join("log"))?)
        .spawn()?
        .listening(3306)
}

/// PostgreSQL on port 5432 with the user `app` (no password).
pub fn postgresql(pod: &Pod, dir: &Path) -> anyhow::Result<Process> {
    give(dir)?;
    let data = dir.join("data");
    pod.command(postgresql_program("initdb")?).uid(UID).args("-U app --auth trust --no-sync -D").arg(&data).output()?;
    fs::OpenOptions::new()
        .append(true)
        .open(data.join("pg_hba.conf"))
        .and_then(|mut file| std::io::Write::write_all(&mut file, b"host all all all trust\n"))
        .context("letting everybody into PostgreSQL")?;
    pod.command(postgresql_program("postgres")?)
        .uid(UID)
        .args("-p 5432 -c listen_addresses=* -c fsync=off")
        .arg("-k")
        .arg(dir)
        .arg("-D")
        .arg(data)
        .log(fs::File::create(dir.join("log"))?)
        .spawn()?
        .listening(5432)
}

/// The server of role `origin` on port 8080: `/sink` counts the bytes it is sent, `/hints` sends 103 first, `/events` is
/// a stream of [`EVENTS`] events, each sent when somebody asks for `/next`.
pub fn origin(pod: &Pod) -> anyhow::Result<Process> {
    pod.role("origin").arg("[::]:8080").uid(UID).spawn()?.listening(8080)
}

/// grpc-go's interop server on [`GRPC_PORT`].
pub fn grpc_go(pod: &Pod) -> anyhow::Result<Process> {
    let server = pod.command(go::program("interop/server")?).uid(UID).arg(format!("-port={GRPC_PORT}"));
    server.spawn()?.listening(GRPC_PORT)
}

/// Answers, on [`SHA256_PORT`], with the checksum of what it is sent, once the client has shut its side down: socat.
pub fn sha256(pod: &Pod) -> anyhow::Result<Process> {
    let listen = format!("TCP6-LISTEN:{SHA256_PORT},fork,reuseaddr,ipv6only=0");
    let socat = pod.command("socat").uid(UID).args("-t 30").arg(listen).arg("SYSTEM:sha256sum");
    socat.spawn()?.listening(SHA256_PORT)
}

/// tinyproxy, an HTTP proxy that tunnels (CONNECT), on [`TINYPROXY_PORT`].
pub fn tinyproxy(pod: &Pod, dir: &Path) -> anyhow::Result<Process> {
    let config = dir.join("tinyproxy.conf");
    fs::write(
        &config,
        format!(
            "Port {TINYPROXY_PORT}\nListen 0.0.0.0\nListen ::\nTimeout 60\nLogLevel Warning\nDisableViaHeader Yes\n"
        ),
    )?;
    pod.command("tinyproxy").uid(UID).arg("-d").arg("-c").arg(config).spawn()?.listening(TINYPROXY_PORT)
}

/// A WebSocket echo server of Python's `websockets` on port 8765; [`websocket_client`] asks it.
pub fn websocket(pod: &Pod) -> anyhow::Result<Process> {
    let python = pod.command("/usr/bin/python3").uid(UID).arg("-c").arg(include_str!("websocket_server.py"));
    python.spawn()?.listening(8765)
}

/// A client for [`websocket`]: prints what came back.
pub fn websocket_client(pod: &Pod, ip: IpAddr) -> super::Command {
    let python = pod.command("/usr/bin/python3").arg("-c").arg(include_str!("websocket_client.py"));
    python.arg(format!("ws://{}/chat", SocketAddr::from((ip, 8765))))
}

/// Debian keeps PostgreSQL's server programs out of the path, one folder per version.
fn postgresql_program(name: &str) -> anyhow::Result<std::path::PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").context("looking for PostgreSQL (package postgresql)")?;
    let mut found: Vec<_> = versions.flatten().map(|version| version.path().join("bin").join(name)).collect();
    found.retain(|path| path.exists());
    found.sort();
    found.pop().with_context(|| format!("no {name} in /usr/lib/postgresql (package postgresql)"))
}

/// Gives a folder to the servers' user.
fn give(dir: &Path) -> anyhow::Result<()> {
    chown(dir, Some(UID), Some(UID)).with_context(|| format!("giving {} to uid {UID}", dir.display()))?;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).context("opening a folder to clients")
}
