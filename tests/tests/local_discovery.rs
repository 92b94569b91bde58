//! Discovery that cannot read what it should: nothing opens by that, and nothing that works stops.

use anyhow::{Context as _, ensure};
use remora_tests::{
    local::{Mesh, NAMESPACE, Proxy, http},
    patience::until,
};
use std::{
    fs::{self, File},
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener},
    os::unix::process::CommandExt as _,
    process::{Child, Command},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    thread,
};

/// Nobody but `nobody` may call `api`.
const POLICY: &str = "apiVersion: remora.dev/v1alpha1
kind: AuthorizationPolicy
metadata: { name: api, namespace: test }
spec: { targetRefs: [{ kind: Service, name: api }], action: Allow, rules: [{ from: [{ namespaces: [NAMESPACES] }] }] }
";

/// An application that answers every connection once.
fn application(pod: &Proxy) -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind((pod.ip, 0))?;
    let address = listener.local_addr()?;
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            // A connection that breaks is the client's to report.
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok");
        }
    });
    Ok(address)
}

/// Waits until a call is answered so.
fn answered(web: &Proxy, status: u16, reason: Option<&str>) -> anyhow::Result<()> {
    until(&format!("a call is answered with {status}"), || {
        let answer = web.get("api:80", "/")?;
        ensure!(answer.status == status && answer.header("x-remora-error") == reason, "{}", answer.head);
        Ok(Some(()))
    })
    .with_context(|| web.program.log_end())
}

#[test]
fn a_policy_that_is_broken_when_discovery_starts_opens_nothing_and_stops_nothing() -> anyhow::Result<()> {
    let mesh = Mesh::start(env!("CARGO_BIN_EXE_remora-components"))?;
    let (web, api) = (mesh.proxy("web").spawn()?, mesh.proxy("api").spawn()?);
    mesh.service("api", 80, None, &[application(&api)?])?;
    let (web, api) = (web.ready()?, api.ready()?);
    answered(&web, 200, None)?;

    // Broken while discovery runs: what was known stays.
    mesh.manifest("policy", &POLICY.replace("NAMESPACES", NAMESPACE))?;
    answered(&web, 200, None)?;
    mesh.manifest("policy", &POLICY.replace("action: Allow", "action: Alow"))?;
    until("the mistake is told", || {
        Ok(mesh.discovery.log().contains("policy.yaml: line 4: spec.action: unknown variant `Alow`").then_some(()))
    })?;
    answered(&web, 200, None)?;

    // Broken when it starts: it says so, serves nothing, and those who know the rest go on.
    mesh.discovery.restart()?;
    let admin = mesh.discovery.kept("--admin")?;
    until("discovery says why it is not ready", || {
        let answer = http::get(admin, &admin.to_string(), "/ready")?;
        let told = answer.text().contains("policy.yaml never could be read");
        Ok((answer.status == 503 && told).then_some(()))
    })?;
    answered(&web, 200, None)?;

    // A proxy that knows nothing lets nobody in: without a policy there is not even one who could say "denied".
    api.program.restart()?;
    answered(&web, 502, Some("upstream_reset"))?;
    let ready = http::get(api.admin, &api.admin.to_string(), "/ready")?;
    assert!(ready.status == 503 && ready.text().contains("discovery"), "it says so: {}", ready.text());

    mesh.manifest("policy", &POLICY.replace("NAMESPACES", NAMESPACE))?;
    mesh.ready(&mesh.discovery)?;
    answered(&web, 200, None)?;
    mesh.manifest("policy", &POLICY.replace("NAMESPACES", "other"))?;
    answered(&web, 403, Some("denied"))?;

    // With proxies connected it ends at once, and nothing is cut off.
    assert_eq!(mesh.discovery.terminate()?, Some(0));
    let log = mesh.discovery.log();
    assert!(log.contains("ending") && !log.contains("did not end in time"), "{}", mesh.discovery.log_end());
    Ok(())
}

/// An API server that hangs up on whoever calls, and how often it did.
fn away() -> anyhow::Result<(SocketAddr, Arc<AtomicUsize>)> {
    let (listener, calls) = (TcpListener::bind(("127.0.0.1", 0))?, Arc::<AtomicUsize>::default());
    let (address, counted) = (listener.local_addr()?, Arc::clone(&calls));
    thread::spawn(move || {
        for called in listener.incoming().flatten() {
            counted.fetch_add(1, SeqCst);
            drop(called);
        }
    });
    Ok((address, calls))
}

/// Ends with the test.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn an_api_server_that_is_away_is_told_of_in_one_line_whatever_the_filter_unless_it_names_the_library()
-> anyhow::Result<()> {
    const OURS: &str = "the API server cannot be reached";
    const THEIRS: &str = "failed with error";
    let (server, calls) = away()?;
    let dir = tempfile::tempdir()?;
    let (kubeconfig, log) = (dir.path().join("kubeconfig"), dir.path().join("log"));
    let text = format!(
        "apiVersion: v1
kind: Config
clusters: [{{ name: c, cluster: {{ server: 'http://{server}' }} }}]
contexts: [{{ name: c, context: {{ cluster: c, user: u }} }}]
users: [{{ name: u, user: {{ token: t }} }}]
current-context: c
"
    );
    fs::write(&kubeconfig, text)?;
    let mut discovery = Command::new(env!("CARGO_BIN_EXE_remora-components"));
    discovery.arg0("remora-discovery").env_clear().env("KUBECONFIG", &kubeconfig).stderr(File::create(&log)?);
    discovery.args(["--kubernetes", "--insecure-listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
    let _discovery = Ended(discovery.spawn()?);

    let said = || fs::read_to_string(&log).map_err(anyhow::Error::from);
    let tried = |times: usize| {
        let enough = calls.load(SeqCst) + times;
        until("it tries again", || Ok((calls.load(SeqCst) >= enough).then_some(())))
            .with_context(|| said().unwrap_or_default())
    };
    let admin: SocketAddr = until("the admin server listens", || {
        let said = said()?;
        let line = said.lines().find_map(|line| line.split_once("admin server listens admin="));
        Ok(line.map(|(_, address)| address.trim().parse()).transpose()?)
    })?;
    let filter = |filter: &str| -> anyhow::Result<()> {
        let length = filter.len();
        let put = format!(
            "PUT /log-level HTTP/1.1\r\nhost: {admin}\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{filter}"
        );
        let answer = http::Answer::parse(&http::exchange(admin, put.as_bytes())?)?;
        ensure!(answer.status == 204, "{}", answer.head);
        Ok(())
    };
    tried(40)?;
    filter("debug")?;
    tried(40)?;
    let quiet = said()?;
    let ours: Vec<&str> = quiet.lines().filter(|line| line.contains(OURS)).collect();
    let [only] = ours.as_slice() else { anyhow::bail!("{} lines of ours in {quiet}", ours.len()) };
    for field in [&format!("server=\"http://{server}/\""), " WARN ", "since=", "why=", "stands_still=", "works_on="] {
        ensure!(only.contains(field), "no {field} in {only}");
    }
    ensure!(!quiet.contains(THEIRS) && !quiet.contains("cannot be watched"), "{quiet}");
    filter("info,kube_client=info")?;
    until("the library speaks", || Ok(said()?.contains(THEIRS).then_some(())))
}
