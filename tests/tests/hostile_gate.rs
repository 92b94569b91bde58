//! Requests that may leave HTTP, from clients that mean something else by it: to have the gate switched off, to step round a
//! policy or a route.

use anyhow::ensure;
use remora_tests::{
    patience::until,
    wire::{Ending, Line, Reply, Road, Scene, http1},
};
use std::time::{Duration, Instant};

fn scene() -> anyhow::Result<Scene> {
    Scene::start(env!("CARGO_BIN_EXE_remora-components"), &[])
}

/// Offers of HTTP in another guise. A server that took one would be asked behind every rule's back.
const GUISES: [&str; 7] = [
    "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n",
    "Connection: upgrade\r\nUpgrade: H2C\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n",
    "Connection: HTTP2-Settings\r\nConnection: Upgrade\r\nUpgrade: h2c, h2c\r\nhttp2-settings: AA\r\n",
    "Connection: Upgrade\r\nUpgrade: h2\r\n",
    "Connection: Upgrade\r\nUpgrade: TLS/1.3, HTTP/1.1\r\n",
    "Connection: Upgrade\r\nUpgrade: HTTP/2.0\r\n",
    "Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n",
];

fn switch(to: &str) -> Reply {
    Reply::Bytes(format!("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: {to}\r\n\r\n").into())
}

#[test]
fn nothing_that_is_pipelined_with_a_tunnel_or_upgrade_switches_the_gate_off() -> anyhow::Result<()> {
    let scene = scene()?;
    for road in Road::ALL {
        let host = road.authority();
        let get = |name: &str| format!("GET /{road:?}/{name} HTTP/1.1\r\nHost: {host}\r\n\r\n");
        let connect = "CONNECT nowhere.example:80 HTTP/1.1\r\nHost: nowhere.example:80\r\n\r\n".to_owned();
        let upgrade = |name: &str| {
            format!("GET /{road:?}/{name} HTTP/1.1\r\nHost: {host}\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n")
        };
        // An application that grants no tunnel.
        let no = "HTTP/1.1 405 No\r\nContent-Length: 2\r\n\r\nno";
        scene.end(road).reply("nowhere.example:80", Reply::Bytes(no.into()));
        let smuggled = format!(
            "POST /smuggled HTTP/1.1\r\nHost: {host}\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
        );
        let lenient = format!("GET /smuggled HTTP/1.1\nHost: {host}\n\n");
        let firsts = [
            get("a") + &connect,
            get("a") + &upgrade("b"),
            get("a") + &get("a") + &connect,
            connect.clone() + &get("a"),
            upgrade("b") + &connect,
            upgrade("b") + &upgrade("b"),
        ];
        for first in &firsts {
            for second in [&smuggled, &lenient] {
                let mut line = scene.line(road)?;
                line.send(first.as_bytes());
                // What is refused may be closed before this is taken.
                line.send(second.as_bytes());
                let heard = line.hear_all();
                ensure!(matches!(heard.ending, Ending::Closed | Ending::Reset), "{road:?} {first:?}: {heard:?}");
            }
        }
        // One after another each has its answer, and the gate is where it was.
        for first in [upgrade("b"), connect] {
            for second in [&smuggled, &lenient] {
                let mut line = scene.line(road)?;
                line.send(first.as_bytes());
                let heard = line.hear(|bytes| http1::responses(bytes).is_ok_and(|answers| !answers.is_empty()));
                ensure!(!heard.text().contains(" 101 "), "{road:?} {first:?}: {heard:?}");
                if heard.ending == Ending::Open {
                    line.send(second.as_bytes());
                    let heard = line.hear_all();
                    ensure!(heard.ending != Ending::Silent && !heard.text().contains(" 200 "), "{road:?}: {heard:?}");
                }
            }
        }
    }
    for proxy in [&scene.web, &scene.api] {
        for detail in ["pipelined_upgrade", "early_bytes"] {
            let label = format!(r#"detail="{detail}""#);
            ensure!(proxy.metric("remora_requests_refused_total", &[&label])? >= 1.0, "{detail} is not counted");
        }
    }
    scene.close(|target| target.ends_with("/a") || target.ends_with("/b") || target.starts_with("nowhere.example"))
}

#[test]
fn an_offer_of_http_is_taken_off_and_the_request_is_one_like_any_other() -> anyhow::Result<()> {
    let scene = scene()?;
    for road in Road::ALL {
        let mut line = scene.line(road)?;
        for (number, guise) in GUISES.iter().enumerate() {
            let target = format!("/{road:?}/{number}");
            line.send(format!("GET {target} HTTP/1.1\r\nHost: {}\r\n{guise}\r\n", road.authority()).as_bytes());
            let heard = line.hear(|bytes| bytes.ends_with(b"ok"));
            ensure!(heard.ending == Ending::Open && heard.text().starts_with("HTTP/1.1 200 "), "{guise}: {heard:?}");
            let seen = scene.end(road).requests(&target);
            let [request] = seen.as_slice() else { anyhow::bail!("{target}: {} requests", seen.len()) };
            for name in ["upgrade", "http2-settings", "connection"] {
                ensure!(request.values(name).is_empty(), "{guise}: {name} reached the application");
            }
        }
        // An application that takes what nobody offered: nothing is tunnelled.
        for (number, guise) in GUISES.iter().enumerate() {
            let target = format!("/{road:?}/taken/{number}");
            scene.end(road).reply(&target, switch("h2c"));
            let mut line = scene.line(road)?;
            line.send(format!("GET {target} HTTP/1.1\r\nHost: {}\r\n{guise}\r\n", road.authority()).as_bytes());
            let heard = line.hear(|bytes| http1::responses(bytes).is_ok_and(|answers| !answers.is_empty()));
            ensure!(heard.text().starts_with("HTTP/1.1 502 "), "{road:?} {guise}: {heard:?}");
        }
        // Beside another protocol only that one is offered, and only that one can be chosen.
        for (chosen, status) in [("other", "101"), ("h2c", "502")] {
            let target = format!("/{road:?}/both/{chosen}");
            scene.end(road).reply(&target, switch(chosen));
            let fields = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c, other\r\nHTTP2-Settings: AA\r\n";
            let mut line = scene.line(road)?;
            line.send(format!("GET {target} HTTP/1.1\r\nHost: {}\r\n{fields}\r\n", road.authority()).as_bytes());
            let heard = line.hear(|bytes| bytes.windows(4).any(|window| window == b"\r\n\r\n"));
            ensure!(heard.text().starts_with(&format!("HTTP/1.1 {status} ")), "{road:?} {chosen}: {heard:?}");
            let seen = scene.end(road).requests(&target);
            ensure!(seen.iter().all(|request| request.values("upgrade") == ["other"]), "{road:?}: {seen:?}");
        }
    }
    scene.close(|target| target.matches('/').count() >= 2)
}

const ROUTE: &str = "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: { name: api, namespace: test }
spec:
  parentRefs: [{ group: '', kind: Service, name: api, port: 80 }]
  rules:
    - filters: [{ type: ResponseHeaderModifier, responseHeaderModifier: { set: [{ name: x-routed, value: 'yes' }] } }]
      timeouts: { request: 700ms }
      retry: { codes: [503], attempts: 2, backoff: 1ms }
      backendRefs: [{ name: api, port: 80 }]
";

/// Asks once: the answer, and how long it took.
fn ask(line: &mut Line, target: &str, fields: &str) -> (String, Duration) {
    let began = Instant::now();
    line.send(format!("GET {target} HTTP/1.1\r\nHost: api:80\r\n{fields}\r\n").as_bytes());
    let heard = line.hear(|bytes| http1::responses(bytes).is_ok_and(|answers| !answers.is_empty()));
    (heard.text(), began.elapsed())
}

#[test]
fn who_may_leave_http_is_bound_by_the_route_until_then() -> anyhow::Result<()> {
    let scene = scene()?;
    scene.mesh.manifest("route", ROUTE)?;
    until("the route is in force", || {
        Ok(ask(&mut scene.line(Road::Mesh)?, "/x", "").0.contains("x-routed").then_some(()))
    })?;
    let busy = "HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n";
    let offers = [
        "",
        GUISES[0],
        "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
        "Connection: Upgrade\r\nUpgrade: foo/2, bar\r\n",
    ];
    for (number, offer) in offers.iter().enumerate() {
        let held = format!("/hold/{number}");
        scene.app.reply(&held, Reply::Hold);
        let (answer, took) = ask(&mut scene.line(Road::Mesh)?, &held, offer);
        ensure!(answer.starts_with("HTTP/1.1 504 ") && answer.contains("timeout"), "{offer}: {answer}");
        ensure!(took >= Duration::from_millis(600), "{offer}: after {took:?}");
        for (name, reply) in [("busy", Reply::Bytes(busy.into())), ("dies", Reply::Close(Vec::new()))] {
            let target = format!("/{name}/{number}");
            scene.app.reply(&target, reply);
            let (answer, _) = ask(&mut scene.line(Road::Mesh)?, &target, offer);
            let tries = scene.app.requests(&target).len();
            ensure!(tries == 3, "{offer} {target}: tried {tries} times: {answer}");
        }
        // A switch that comes in time is not cut off by the deadline.
        let target = format!("/switch/{number}");
        scene.app.reply(&target, switch(if number == 3 { "bar" } else { "websocket" }));
        let mut line = scene.line(Road::Mesh)?;
        let (answer, _) = ask(&mut line, &target, offer);
        ensure!(answer.starts_with("HTTP/1.1 101 ") == (number >= 2), "{offer}: {answer}");
        if number >= 2 {
            std::thread::park_timeout(Duration::from_millis(900));
            line.send(format!("GET /inside/{number} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes());
            ensure!(line.hear(|bytes| bytes.ends_with(b"ok")).ending == Ending::Open, "{offer}: the tunnel is cut");
        }
    }
    let retries = scene.web.metric("remora_retries_total", &[])?;
    ensure!(retries >= 16.0, "{retries} retries");
    scene.close(|target| target == "/x" || target.matches('/').count() == 2)
}
