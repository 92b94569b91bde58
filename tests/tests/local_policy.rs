//! Policy as it changes, as it is watched, and over connections that have begun: real programs, real certificates.

use anyhow::ensure;
use remora_runtime::tls::Alpn;
use remora_tests::{
    local::{Mesh, NAMESPACE, Proxy},
    patience::until,
    wire::{Ending, Line, Recorder, Workload},
};
use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener},
    thread,
};

/// Nothing that could become HTTP.
const PING: &[u8] = b"\0\x01\x02\x03";

/// A pod with an application that sends every byte back and one that speaks HTTP, and two workloads that call it.
struct Scene {
    api: Proxy,
    echo: SocketAddr,
    app: Recorder,
    mallory: Workload,
    alice: Workload,
    mesh: Mesh,
}

impl Scene {
    fn start() -> anyhow::Result<Self> {
        let mesh = Mesh::start(env!("CARGO_BIN_EXE_remora-components"))?;
        let api = mesh.proxy("api").spawn()?;
        let listener = TcpListener::bind((api.ip, 0))?;
        let echo = listener.local_addr()?;
        thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                thread::spawn(move || {
                    let mut buffer = [0; 1024];
                    while let Ok(count @ 1..) = stream.read(&mut buffer) {
                        if stream.write_all(&buffer[..count]).is_err() {
                            return;
                        }
                    }
                });
            }
        });
        let app = Recorder::start(api.ip)?;
        mesh.service("echo", 80, None, &[echo])?;
        mesh.service("api", 80, None, &[app.address])?;
        let (mallory, alice) = (Workload::certified(&mesh, "mallory")?, Workload::certified(&mesh, "alice")?);
        let scene = Self { api: api.ready()?, echo, app, mallory, alice, mesh };
        until("bytes are let in", || Ok(scene.echoes(&mut scene.tunnel(&scene.alice)?).then_some(())))?;
        Ok(scene)
    }

    fn policy(&self, spec: &str) -> anyhow::Result<()> {
        let head = "apiVersion: remora.dev/v1alpha1\nkind: AuthorizationPolicy\nmetadata: { name: p, namespace: ";
        self.mesh.manifest("policy", &format!("{head}{NAMESPACE} }}\nspec: {spec}\n"))
    }

    fn tunnel(&self, of: &Workload) -> anyhow::Result<Line> {
        of.dial(&self.api, Alpn::MeshTcp, self.echo.port())
    }

    fn http(&self, of: &Workload) -> anyhow::Result<Line> {
        of.dial(&self.api, Alpn::MeshTcp, self.app.address.port())
    }

    fn echoes(&self, line: &mut Line) -> bool {
        line.send(PING) && line.hear(|bytes| bytes.len() >= PING.len()).bytes == PING
    }

    /// The status of a request.
    fn get(&self, of: &Workload, target: &str) -> anyhow::Result<u16> {
        let mut line = self.http(of)?;
        line.send(format!("GET {target} HTTP/1.1\r\nHost: api\r\nConnection: close\r\n\r\n").as_bytes());
        Ok(line.hear_all().text().split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0))
    }
}

const SWITCH: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\nhello";

#[test]
fn what_is_open_ends_when_policy_says_no_and_what_policy_still_lets_goes_on() -> anyhow::Result<()> {
    use remora_tests::wire::Reply;
    let scene = Scene::start()?;
    scene.app.reply("/chat", Reply::Bytes(SWITCH.into()));
    let open = |of: &Workload| -> anyhow::Result<[Line; 2]> {
        let (mut bytes, mut chat) = (scene.tunnel(of)?, scene.http(of)?);
        ensure!(scene.echoes(&mut bytes));
        chat.send(b"GET /chat HTTP/1.1\r\nHost: api\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n");
        ensure!(chat.hear(|bytes| bytes.ends_with(b"hello")).ending == Ending::Open);
        Ok([bytes, chat])
    };
    let ([mut bytes, mut chat], [mut others, _chat]) = (open(&scene.mallory)?, open(&scene.alice)?);
    // A policy that changes nothing for them ends nothing: what follows is still the same connection.
    scene
        .policy("{ action: Deny, rules: [{ from: [{ identities: [spiffe://cluster.local/ns/test/sa/nobody] }] }] }")?;
    let nobody = Workload::certified(&scene.mesh, "nobody")?;
    until("the policy is in force", || Ok((scene.get(&nobody, "/x")? == 403).then_some(())))?;
    ensure!(scene.echoes(&mut bytes) && scene.echoes(&mut others));
    scene
        .policy("{ action: Deny, rules: [{ from: [{ identities: [spiffe://cluster.local/ns/test/sa/mallory] }] }] }")?;
    for line in [&mut bytes, &mut chat] {
        let heard = line.hear_all();
        ensure!(matches!(heard.ending, Ending::Closed | Ending::Reset), "it is open still: {heard:?}");
    }
    ensure!(scene.echoes(&mut others), "another caller's connection ended with it");
    ensure!(scene.get(&scene.mallory, "/x")? == 403 && scene.get(&scene.alice, "/x")? == 200);
    let revoked = scene.api.metric("remora_connections_revoked_total", &[r#"cause="denied""#])?;
    let failed = scene.api.metric("remora_failures_total", &[r#"reason="policy_changed""#])?;
    ensure!((revoked, failed) == (2.0, 2.0), "{revoked} revoked, {failed} failed: {}", scene.api.program.log_end());
    ensure!(scene.api.log().contains(r#"reason="policy_changed""#), "{}", scene.api.program.log_end());
    Ok(())
}

#[test]
fn each_request_and_each_connection_leaves_one_record_of_an_audit_rule_and_is_not_refused_for_it() -> anyhow::Result<()>
{
    let scene = Scene::start()?;
    scene.policy("{ action: Audit, rules: [{ from: [] }, { to: [{ paths: [/admin, /admin/*] }] }] }")?;
    let counted = |rule: u8, outcome: &str| {
        let (rule, outcome) = (format!(r#"rule="test/p rule {rule}""#), format!(r#"outcome="{outcome}""#));
        scene.api.metric("remora_policy_audit_total", &[&rule, &outcome])
    };
    until("the policy is in force", || {
        Ok((scene.get(&scene.alice, "/x")? == 200 && counted(0, "matched")? > 0.0).then_some(()))
    })?;
    let lines = || scene.api.log().lines().filter(|line| line.contains(" audit ")).count();
    for (target, of_path) in [
        ("/y", "none"),
        ("/./admin", "matched"),
        ("/x/../admin", "ambiguous"),
        ("/a%2Fb", "ambiguous"),
        ("/%2e%2e/x", "ambiguous"),
    ] {
        let before = (counted(0, "matched")?, counted(1, "matched")?, counted(1, "ambiguous")?, lines());
        ensure!(scene.get(&scene.alice, target)? == 200, "{target}");
        let after = (counted(0, "matched")?, counted(1, "matched")?, counted(1, "ambiguous")?);
        let (matched, ambiguous) = (f64::from(of_path == "matched"), f64::from(of_path == "ambiguous"));
        ensure!(after == (before.0 + 1.0, before.1 + matched, before.2 + ambiguous), "{target}: {before:?} {after:?}");
        until("its lines are written", || Ok((lines() == before.3 + 1 + matched as usize).then_some(())))?;
    }
    let before = counted(0, "matched")?;
    ensure!(scene.echoes(&mut scene.tunnel(&scene.mallory)?));
    ensure!(counted(0, "matched")? == before + 1.0, "a byte connection is one record");
    let log = scene.api.log();
    let line = log.lines().rfind(|line| line.contains(" audit ") && line.contains("/./admin")).unwrap_or_default();
    for field in ["test/p rule 1", "sa/alice", "127.", "GET", r#"would="permitted""#] {
        ensure!(line.contains(field), "no {field} in {line}");
    }
    Ok(())
}

#[test]
fn a_policy_in_dry_run_refuses_nobody_and_says_whom_it_would() -> anyhow::Result<()> {
    let scene = Scene::start()?;
    let alice = "{ from: [{ identities: ['spiffe://cluster.local/ns/test/sa/alice'] }] }";
    scene.policy(&format!("{{ mode: DryRun, rules: [{alice}] }}"))?;
    let counted = |rule: &str, would: &str| {
        let (rule, would) = (format!(r#"rule="{rule}""#), format!(r#"would="{would}""#));
        scene.api.metric("remora_policy_dry_run_total", &[&rule, &would])
    };
    until("the policy is known", || {
        Ok((scene.get(&scene.alice, "/x")? == 200 && counted("test/p rule 0", "same")? > 0.0).then_some(()))
    })?;
    let before = (counted("test/p rule 0", "same")?, counted("test/p", "denied")?);
    ensure!(scene.get(&scene.alice, "/x")? == 200 && scene.get(&scene.mallory, "/x")? == 200);
    ensure!(scene.echoes(&mut scene.tunnel(&scene.mallory)?), "bytes are let in as well");
    let after = (counted("test/p rule 0", "same")?, counted("test/p", "denied")?);
    ensure!(after == (before.0 + 1.0, before.1 + 2.0), "{before:?} {after:?}");
    let log = scene.api.log();
    let line = log.lines().rfind(|line| line.contains(" dry run ") && line.contains("GET")).unwrap_or_default();
    for field in ["test/p", "sa/mallory", "/x", r#"would="denied""#] {
        ensure!(line.contains(field), "no {field} in {line}");
    }
    // Held, it does what was counted.
    scene.policy(&format!("{{ rules: [{alice}] }}"))?;
    until("the policy is in force", || Ok((scene.get(&scene.mallory, "/x")? == 403).then_some(())))?;
    ensure!(scene.get(&scene.alice, "/x")? == 200);
    Ok(())
}

#[test]
fn a_policy_on_a_port_by_name_holds_there_alone_and_one_on_a_port_that_is_not_there_closes_its_service()
-> anyhow::Result<()> {
    const MALLORY: &str =
        "action: Deny, rules: [{ from: [{ identities: [spiffe://cluster.local/ns/test/sa/mallory] }] }]";
    let scene = Scene::start()?;
    let on = |port: &str, rest: &str| {
        scene.policy(&format!("{{ targetRefs: [{{ kind: Service, name: api, sectionName: {port} }}], {rest} }}"))
    };
    let answers = |of: &Workload, status: u16| Ok((scene.get(of, "/x")? == status).then_some(()));
    let echoes = |of: &Workload| -> anyhow::Result<bool> { Ok(scene.echoes(&mut scene.tunnel(of)?)) };
    on("main", MALLORY)?;
    until("it is in force", || answers(&scene.mallory, 403))?;
    ensure!(scene.get(&scene.alice, "/x")? == 200 && echoes(&scene.mallory)?, "it holds for more than its port");
    // Attached to nothing, an Allow policy would leave its Service open to everybody.
    on("mian", "rules: [{ from: [{ identities: [spiffe://cluster.local/ns/test/sa/alice] }] }]")?;
    until("its Service is closed", || answers(&scene.alice, 403))?;
    ensure!(scene.get(&scene.mallory, "/x")? == 403 && echoes(&scene.mallory)?, "the pod's other Service");
    on("main", "rules: [{ from: [{ identities: [spiffe://cluster.local/ns/test/sa/alice] }] }]")?;
    until("it is in force", || answers(&scene.alice, 200))?;
    // What stands in the control plane's namespace holds for the whole mesh.
    let head = "apiVersion: remora.dev/v1alpha1\nkind: AuthorizationPolicy\nmetadata: { name: p, namespace: remora }\n";
    scene.mesh.manifest("mesh-wide", &format!("{head}spec: {{ {MALLORY} }}\n"))?;
    until("bytes are not let in", || Ok((!echoes(&scene.mallory)?).then_some(())))?;
    ensure!(echoes(&scene.alice)? && scene.get(&scene.alice, "/x")? == 200);
    Ok(())
}

/// What a client says first, waits for an answer to, and could still be the beginning of a request.
const WORDS: [&[u8]; 7] = [b"JDWP-Handshake", b"ruok", b"HZC", b"\r\n", b"PING ", b"\x16", b"G"];

#[test]
fn a_short_word_is_bytes_where_its_sender_may_send_bytes_and_ends_where_not() -> anyhow::Result<()> {
    let scene = Scene::start()?;
    for word in WORDS {
        let mut line = scene.tunnel(&scene.alice)?;
        line.send(word);
        let heard = line.hear(|bytes| bytes.len() >= word.len());
        ensure!(heard.bytes == word, "{word:?}: {heard:?}");
    }
    // A request that comes in two pieces is a request all the same: its sender's borrowed name never arrives.
    let mut line = scene.http(&scene.alice)?;
    line.send(b"GE");
    thread::park_timeout(std::time::Duration::from_millis(300));
    line.send(b"T /slow HTTP/1.1\r\nHost: api\r\nX-Remora-Client-Id: spiffe://evil\r\n\r\n");
    ensure!(line.hear(|bytes| bytes.ends_with(b"ok")).ending == Ending::Open);
    let seen = scene.app.requests("/slow");
    let ids: Vec<_> = seen.iter().flat_map(|request| request.values("x-remora-client-id")).collect();
    ensure!(ids == ["spiffe://cluster.local/ns/test/sa/alice"], "{ids:?}");

    scene.policy("{ action: Deny, rules: [{ to: [{ paths: [/admin] }] }] }")?;
    until("the policy is in force", || Ok((scene.get(&scene.alice, "/admin")? == 403).then_some(())))?;
    let mut lines = Vec::new();
    for word in WORDS {
        let mut line = scene.tunnel(&scene.alice)?;
        line.send(word);
        lines.push(line);
    }
    for (word, mut line) in WORDS.into_iter().zip(lines) {
        let heard = line.hear_all();
        ensure!(heard.bytes.is_empty() && heard.ending == Ending::Closed, "{word:?}: {heard:?}");
    }
    let refused = scene.api.metric("remora_requests_refused_total", &[r#"detail="undecided""#])?;
    ensure!(refused == WORDS.len() as f64, "{refused}");
    ensure!(scene.api.log().contains("connection denied"), "{}", scene.api.program.log_end());
    Ok(())
}

#[test]
fn who_is_refused_uses_up_no_room_for_the_signals_of_others() -> anyhow::Result<()> {
    let scene = Scene::start()?;
    scene
        .policy("{ action: Allow, rules: [{ from: [{ identities: [spiffe://cluster.local/ns/test/sa/alice] }] }] }")?;
    until("the policy is in force", || Ok((scene.get(&scene.mallory, "/x")? == 403).then_some(())))?;
    let before = scene.api.metric("remora_requests_total", &[r#"direction="inbound""#])?;
    for number in 0..150 {
        let word: String = (0..2).map(|place| char::from(b'a' + (number / 13_u8.pow(place)) % 13)).collect();
        ensure!(scene.get(&scene.mallory, &format!("/{}/{word}", number % 19))? == 403);
        ensure!(scene.get(&scene.mallory, &format!("/q{word}/{word}"))? == 403);
    }
    ensure!(scene.get(&scene.alice, "/orders")? == 200);
    let series = scene.api.metrics()?;
    let series: Vec<_> = series.lines().filter(|line| line.starts_with("remora_requests_total{")).collect();
    ensure!(series.iter().any(|line| line.contains(r#"route="GET /orders""#)), "{series:#?}");
    let refused: Vec<_> = series.iter().filter(|line| line.contains(r#"route="denied""#)).collect();
    ensure!(refused.len() == 1 && !refused[0].contains("mallory"), "{refused:#?}");
    // But for what was let in before the policy was there.
    let mallorys =
        series.iter().filter(|line| line.contains("sa/mallory") && !line.contains(r#"route="GET /x""#)).count();
    ensure!(mallorys == 0, "{series:#?}");
    let after = scene.api.metric("remora_requests_total", &[r#"direction="inbound""#])?;
    ensure!(after >= before + 301.0, "each is counted: {before} {after}");
    Ok(())
}
