//! The mesh between clients and servers: `web` has the clients, `api` the servers, each behind its proxy.

use crate::{
    answer::{self, Answer},
    plan::Plan,
    tools::{self, Client, Process, Server},
};
use anyhow::{Context as _, bail, ensure};
use remora_tests::{
    local::{Mesh, Proxy},
    patience::{until, until_within},
};
use std::{
    collections::BTreeMap,
    fs::{self, File},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    path::Path,
    thread,
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// How often what failed directly is asked again, for something to compare with.
const AGAIN: usize = 5;

/// Where each server listens.
#[derive(Debug, Clone, Copy)]
struct Ports {
    nginx: u16,
    nginx_http2: u16,
    jetty: u16,
    backend: u16,
    gunicorn: u16,
}

impl Ports {
    /// Free ones. Another process may take one until its server does; then that server says so.
    fn free(ip: IpAddr) -> anyhow::Result<Self> {
        let all: Vec<_> = (0..5).map(|_| TcpListener::bind((ip, 0))).collect::<Result<_, _>>()?;
        let port = |at: usize| anyhow::Ok(all[at].local_addr()?.port());
        Ok(Self { nginx: port(0)?, nginx_http2: port(1)?, jetty: port(2)?, backend: port(3)?, gunicorn: port(4)? })
    }

    fn of(self, server: Server, client: Client) -> u16 {
        match server {
            Server::Nginx if client.has_prior_knowledge() => self.nginx_http2,
            Server::Nginx => self.nginx,
            Server::Jetty => self.jetty,
            Server::Gunicorn => self.gunicorn,
        }
    }
}

/// What came of one client and one server.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) plan: Plan,
    /// By their numbers, the first time.
    pub(crate) direct: BTreeMap<usize, Answer>,
    /// What was asked again, because it failed.
    pub(crate) again: BTreeMap<usize, Answer>,
    pub(crate) mesh: BTreeMap<usize, Answer>,
    pub(crate) took: Duration,
    /// Requests that the proxies sent again.
    pub(crate) retries: f64,
}

/// Everything that runs.
#[derive(Debug)]
pub(crate) struct Scene {
    // Fields end in their order.
    servers: Vec<Process>,
    ports: Ports,
    web: Proxy,
    api: Proxy,
    _mesh: Mesh,
    folder: TempDir,
}

impl Scene {
    pub(crate) fn start(servers: &[Server]) -> anyhow::Result<Self> {
        let mesh = Mesh::start(std::env::current_exe()?)?;
        let quiet = |name| mesh.proxy(name).env("LOG", "info").spawn();
        let (web, api) = (quiet("web")?, quiet("api")?);
        let ports = Ports::free(api.ip)?;
        // Clients name the port that they dial, so each Service has that of the proxy.
        let service = |name: &str, port: u16| mesh.service(name, web.outbound.port(), None, &[(api.ip, port).into()]);
        service("nginx", ports.nginx)?;
        service("nginx2", ports.nginx_http2)?;
        service("jetty", ports.jetty)?;
        service("gunicorn", ports.gunicorn)?;
        let (web, api) = (web.ready()?, api.ready()?);
        let folder = tempfile::Builder::new().prefix("remora-clients-").tempdir()?;
        let mut scene = Self { servers: Vec::new(), ports, web, api, _mesh: mesh, folder };
        scene.serve(servers)?;
        Ok(scene)
    }

    fn serve(&mut self, servers: &[Server]) -> anyhow::Result<()> {
        let (ip, ports, folder) = (self.api.ip, self.ports, self.folder.path());
        let mut start = |command, name: &str, listens: u16| {
            let mut process = Process::start(command, folder.join(format!("{name}.log")))?;
            until(&format!("{name} listens"), || {
                process.ended()?;
                TcpStream::connect((ip, listens)).context("connect").map(Some)
            })?;
            self.servers.push(process);
            anyhow::Ok(())
        };
        if servers.contains(&Server::Nginx) || servers.contains(&Server::Jetty) {
            start(tools::jetty(&ip.to_string(), ports.jetty, ports.backend), "jetty", ports.backend)?;
        }
        if servers.contains(&Server::Nginx) {
            start(tools::nginx(&settings(folder, ip, ports)?), "nginx", ports.nginx)?;
        }
        if servers.contains(&Server::Gunicorn) {
            start(tools::gunicorn(&SocketAddr::from((ip, ports.gunicorn)).to_string()), "gunicorn", ports.gunicorn)?;
        }
        Ok(())
    }

    /// Has a client ask a server all of a plan, both ways.
    pub(crate) fn ask(&self, client: Client, server: Server, plan: &Plan) -> anyhow::Result<Seen> {
        let port = self.ports.of(server, client);
        let name = if port == self.ports.nginx_http2 { "nginx2" } else { server.name() };
        let (near, far) = ((self.api.ip, port).into(), self.web.outbound);
        until("the server is known to the proxy", || {
            let answer = self.web.get(&format!("{name}:{}", far.port()), "/bytes/16")?;
            // The HTTP/2 port of nginx has no answer for this: 502 from `api`, then.
            ensure!(answer.status == 200 || name == "nginx2" && answer.status == 502, "{}", answer.head);
            Ok(Some(()))
        })?;
        let (before, began) = (self.retries()?, Instant::now());
        // Both ways at once: most of the time is pauses.
        let (direct, mesh) = thread::scope(|scope| {
            let direct = scope.spawn(|| self.play(client, name, near, plan, 0));
            let mesh = self.play(client, name, far, plan, AGAIN + 1);
            (direct.join().unwrap_or_else(|_| bail!("the thread panicked")), mesh)
        });
        let (direct, mesh, took) = (direct?, mesh?, began.elapsed());
        let retries = self.retries()? - before;
        let (mut again, mut left) = (BTreeMap::new(), failed(&direct));
        for time in 1..=AGAIN {
            if !left.is_empty() {
                let answers = self.play(client, name, near, &plan.only(&left), time)?;
                left = failed(&answers);
                again.extend(answers);
            }
        }
        Ok(Seen { plan: plan.clone(), direct, again, mesh, took, retries })
    }

    fn retries(&self) -> anyhow::Result<f64> {
        let each = [&self.web, &self.api].map(|proxy| proxy.metric("remora_retries_total", &[]));
        each.into_iter().sum()
    }

    fn play(
        &self,
        client: Client,
        name: &str,
        to: SocketAddr,
        plan: &Plan,
        run: usize,
    ) -> anyhow::Result<BTreeMap<usize, Answer>> {
        let folder = self.folder.path().join(format!("{client:?}-{name}-{run}"));
        fs::create_dir(&folder)?;
        let file = |what: &str| folder.join(what);
        let host = format!("{name}.test");
        fs::write(file("hosts"), format!("{} {host}\n", to.ip()))?;
        fs::write(file("plan"), plan.text(&format!("{run} {name} {client:?}")))?;
        let base = format!("http://{host}:{}", to.port());
        let mut command = client.command(&base, &to.ip().to_string(), &file("hosts"));
        command.stdin(File::open(file("plan"))?).stdout(File::create(file("answers"))?);
        let mut process = Process::start(command, file("client.log"))?;
        let count = u64::try_from(plan.lines().count())?;
        // Each request may take 20 s, but not all of them.
        let patience = Duration::from_secs(120 + count / 20);
        until_within(patience, &format!("{} ends", client.title()), || match process.ended() {
            Ok(ended) => Ok(ended.then_some(Ok(()))),
            Err(error) => Ok(Some(Err(error))),
        })??;
        let answers = answer::read(&fs::read_to_string(file("answers"))?)?;
        fs::remove_dir_all(&folder)?;
        Ok(answers)
    }

    /// Fails if something ended, or a proxy panicked.
    pub(crate) fn check(mut self) -> anyhow::Result<()> {
        for server in &mut self.servers {
            ensure!(!server.ended()?, "a server ended");
        }
        for proxy in [&self.web, &self.api] {
            proxy.program.running()?;
            ensure!(!proxy.log().contains("panicked"), "a proxy panicked: {}", proxy.log());
        }
        Ok(())
    }
}

fn failed(answers: &BTreeMap<usize, Answer>) -> Vec<usize> {
    answers.iter().filter(|(_, answer)| answer.failure().is_some()).map(|(number, _)| *number).collect()
}

/// nginx's settings and files, in the folder.
fn settings(folder: &Path, ip: IpAddr, ports: Ports) -> anyhow::Result<std::path::PathBuf> {
    let bytes = folder.join("bytes");
    fs::create_dir(&bytes)?;
    for size in [16, 1024, 16_384, 131_072, 1_048_576] {
        fs::write(bytes.join(size.to_string()), "0123456789abcde\n".repeat(size / 16))?;
    }
    let mut text = fs::read_to_string(tools::here().join("servers/nginx.conf"))?;
    for (mark, value) in [
        ("@FOLDER@", folder.display().to_string()),
        ("@HOST@", ip.to_string()),
        ("@HTTP1@", ports.nginx.to_string()),
        ("@HTTP2@", ports.nginx_http2.to_string()),
        ("@BACKEND@", ports.backend.to_string()),
    ] {
        text = text.replace(mark, &value);
    }
    let path = folder.join("nginx.conf");
    fs::write(&path, text)?;
    Ok(path)
}
