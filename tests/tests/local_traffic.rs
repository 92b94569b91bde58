//! Rate limits and faults between real programs: what callers get, and what applications never see.

use anyhow::ensure;
use remora_runtime::tls::Alpn;
use remora_tests::{
    local::{Mesh, NAMESPACE, Proxy, http},
    patience::until,
    wire::{Ending, Line, Recorder, Workload},
};
use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener},
    thread,
};

/// A client's pod, and two with applications, which are the endpoints of one Service.
struct Scene {
    web: Proxy,
    api: [Proxy; 2],
    apps: [Recorder; 2],
    mesh: Mesh,
}

impl Scene {
    fn start() -> anyhow::Result<Self> {
        let mesh = Mesh::start(env!("CARGO_BIN_EXE_remora-components"))?;
        let (web, first, second) =
            (mesh.proxy("web").spawn()?, mesh.proxy("api-0").spawn()?, mesh.proxy("api-1").spawn()?);
        let apps = [Recorder::start(first.ip)?, Recorder::start(second.ip)?];
        mesh.service("api", 80, None, &[apps[0].address, apps[1].address])?;
        let scene = Self { web: web.ready()?, api: [first.ready()?, second.ready()?], apps, mesh };
        until("both are called", || {
            scene.get("/warm", "")?;
            Ok(scene.apps.iter().all(|app| !app.requests("/warm").is_empty()).then_some(()))
        })?;
        Ok(scene)
    }

    fn policy(&self, kind: &str, spec: &str) -> anyhow::Result<()> {
        let head =
            format!("apiVersion: remora.dev/v1alpha1\nkind: {kind}\nmetadata: {{ name: p, namespace: {NAMESPACE} }}\n");
        self.mesh.manifest("policy", &format!("{head}spec: {spec}\n"))
    }

    /// Waits until both servers' proxies have the policy; what they are asked meanwhile is none of its business.
    fn in_force(&self, metric: &str) -> anyhow::Result<()> {
        until("the policy is in force", || {
            self.get("/warm", "")?;
            let has = |proxy: &Proxy| Ok::<_, anyhow::Error>(proxy.metrics()?.contains(&format!("{metric}{{")));
            Ok((has(&self.api[0])? && has(&self.api[1])?).then_some(()))
        })
    }

    fn get(&self, path: &str, field: &str) -> anyhow::Result<http::Answer> {
        let request = format!("GET {path} HTTP/1.1\r\nhost: api\r\n{field}connection: close\r\n\r\n");
        http::Answer::parse(&http::exchange(self.web.outbound, request.as_bytes())?)
    }
}

#[test]
fn each_server_lets_through_what_its_limit_says_and_callers_turn_to_the_other_meanwhile() -> anyhow::Result<()> {
    let scene = Scene::start()?;
    let limit = "match: { headers: [{ name: x-counted, value: 'yes' }] }, by: { type: Identity }";
    // Of requests with a field, so that nobody is passed over for what others send.
    scene
        .policy("RateLimitPolicy", &format!("{{ limits: [{{ {limit}, requests: {{ perMinute: 1, burst: 3 }} }}] }}"))?;
    scene.in_force("remora_rate_limit_total")?;
    let counted = || scene.get("/counted", "x-counted: yes\r\n");
    let mut statuses = Vec::new();
    for _ in 0..20 {
        let answer = counted()?;
        if answer.status == 429 {
            ensure!(answer.header("x-remora-error") == Some("rate_limited"), "{}", answer.head);
            let after: u64 = answer.header("retry-after").and_then(|after| after.parse().ok()).unwrap_or(0);
            ensure!((1..=60).contains(&after), "{}", answer.head);
            ensure!(answer.header("x-remora-busy").is_none(), "{}", answer.head);
        }
        statuses.push(answer.status);
    }
    let through = statuses.iter().filter(|status| **status == 200).count();
    ensure!((3..=6).contains(&through), "{statuses:?}");
    for (proxy, app) in scene.api.iter().zip(&scene.apps) {
        let admitted =
            proxy.metric("remora_rate_limit_total", &[r#"rule="test/p limit 0""#, r#"outcome="admitted""#])?;
        ensure!(admitted <= 3.0 && app.requests("/counted").len() == admitted as usize, "{admitted}");
    }
    let refused = scene.web.metric("remora_failures_total", &[r#"reason="rate_limited""#])?;
    ensure!(refused == (20 - through) as f64, "{refused} {statuses:?}");
    // Of all that this caller sends: the one that has said so is passed over, and the other has its whole share.
    scene
        .policy("RateLimitPolicy", "{ limits: [{ by: { type: Identity }, requests: { perMinute: 1, burst: 4 } }] }")?;
    let mut first = Vec::new();
    until("the next policy is in force", || {
        let status = scene.get("/all", "")?.status;
        first.push(status);
        Ok((status == 429).then_some(()))
    })?;
    let rest: Vec<u16> = (0..5).map(|_| scene.get("/all", "").map(|answer| answer.status)).collect::<Result<_, _>>()?;
    let served = rest.iter().take_while(|status| **status == 200).count();
    ensure!(rest[served..].iter().all(|status| *status == 429), "{first:?} {rest:?}");
    let endpoints = scene.web.admin("/signals")?;
    ensure!(endpoints.contains("rate_limited"), "{endpoints}");
    Ok(())
}

#[test]
fn a_fault_is_what_the_caller_meets_and_the_application_does_not() -> anyhow::Result<()> {
    let scene = Scene::start()?;
    let allowed = format!(
        "apiVersion: v1\nkind: Namespace\nmetadata: {{ name: {NAMESPACE}, annotations: {{ remora.dev/fault-injection: allowed }} }}\n"
    );
    scene.mesh.manifest("namespace", &allowed)?;
    let faults = "{ match: { paths: [/status] }, abort: { httpStatus: 418 } }, { match: { paths: [/reset] }, abort: { reset: true } }, { match: { paths: [/late] }, delay: { duration: 50ms } }";
    scene.policy("FaultPolicy", &format!("{{ faults: [{faults}] }}"))?;
    scene.in_force("remora_faults_injected_total")?;
    let status = scene.get("/status", "")?;
    let said = ["x-remora-error", "x-remora-fault"].map(|name| status.header(name).unwrap_or_default());
    ensure!((status.status, said) == (418, ["fault_injected", "abort"]), "{}", status.head);
    let reset = scene.get("/reset", "")?;
    ensure!((reset.status, reset.header("x-remora-error")) == (502, Some("upstream_reset")), "{}", reset.head);
    let late = scene.get("/late", "")?;
    ensure!((late.status, late.header("x-remora-fault")) == (200, Some("delay")), "{}", late.head);
    for app in &scene.apps {
        ensure!(app.requests("/status").is_empty() && app.requests("/reset").is_empty());
    }
    let of = |proxy: &Proxy, labels: &[&str]| proxy.metric("remora_faults_injected_total", labels);
    let aborts: f64 = scene.api.iter().map(|api| of(api, &[r#"fault="abort""#])).sum::<anyhow::Result<f64>>()?;
    ensure!(aborts >= 2.0, "{aborts}");
    Ok(())
}

#[test]
fn connections_beyond_their_rate_are_reset_and_bytes_beyond_theirs_wait() -> anyhow::Result<()> {
    let mesh = Mesh::start(env!("CARGO_BIN_EXE_remora-components"))?;
    let api = mesh.proxy("api").spawn()?;
    let echo = echo(api.ip)?;
    mesh.service("echo", 80, None, &[echo])?;
    let (flood, other) = (Workload::certified(&mesh, "flood")?, Workload::certified(&mesh, "other")?);
    let api = api.ready()?;
    let open = |of: &Workload| of.dial(&api, Alpn::MeshTcp, echo.port());
    let echoes = |line: &mut Line| line.send(b"\0ping") && line.hear(|bytes| bytes.len() >= 5).ending == Ending::Open;
    until("bytes are let in", || Ok(echoes(&mut open(&other)?).then_some(())))?;
    let head = format!(
        "apiVersion: remora.dev/v1alpha1\nkind: RateLimitPolicy\nmetadata: {{ name: p, namespace: {NAMESPACE} }}\n"
    );
    let limits = "[{ by: { type: Identity }, connections: { perMinute: 1, burst: 3 } }, { by: { type: Identity }, bytes: { perSecond: 100000, burst: 20000 } }]";
    mesh.manifest("policy", &format!("{head}spec: {{ limits: {limits} }}\n"))?;
    until("the policy is in force", || Ok(api.metrics()?.contains("remora_rate_limit_total{").then_some(())))?;
    let mut lines: Vec<Line> = (0..3).map(|_| open(&flood)).collect::<anyhow::Result<_>>()?;
    ensure!(lines.iter_mut().all(echoes), "as many as may be there at once");
    ensure!(open(&flood).map_or(true, |mut line| !echoes(&mut line)), "one more was let in");
    ensure!(echoes(&mut open(&other)?), "another identity has its own");
    // 60 kB there and back, of which 20 kB may go at once: a second.
    let (sent, began) = (vec![0; 60_000], std::time::Instant::now());
    let line = &mut lines[0];
    ensure!(
        line.send(&sent) && line.hear(|bytes| bytes.len() >= sent.len()).bytes.len() == sent.len(),
        "nothing is lost"
    );
    let took = began.elapsed().as_millis();
    ensure!(took >= 900, "{took} ms for 120 kB");
    ensure!(api.metric("remora_rate_limit_total", &[r#"rule="test/p limit 1""#, r#"outcome="limited""#])? > 0.0);
    Ok(())
}

fn echo(ip: std::net::IpAddr) -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind((ip, 0))?;
    let address = listener.local_addr()?;
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            thread::spawn(move || {
                let mut buffer = [0; 4096];
                while let Ok(count @ 1..) = stream.read(&mut buffer) {
                    if stream.write_all(&buffer[..count]).is_err() {
                        return;
                    }
                }
            });
        }
    });
    Ok(address)
}
