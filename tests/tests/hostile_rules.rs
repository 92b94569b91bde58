//! Requests that want to be taken for others where rules name hosts, headers, gRPC calls and ports: over HTTP/1 and HTTP/2, from a peer of
//! the mesh that writes what it likes.
//!
//! What a Deny rule names must not reach the application by another spelling; what no Allow rule names neither. Paths are of
//! `hostile_authz`.

use anyhow::ensure;
use remora_runtime::tls::Alpn;
use remora_tests::{
    patience::until,
    wire::{
        Ending, Road, Scene, http1,
        http2::{END_STREAM, Outcome, block, headers, hello, outcome},
    },
};

const TARGETS: &str =
    "targetRefs: [{ group: \"\", kind: Service, name: api }, { group: \"\", kind: Service, name: api2 }]";

/// Denied: the host `internal`, the role `admin`, one gRPC call. Allowed: the tenant `a`, and the bystander, whom nobody may disturb.
fn policy() -> String {
    format!(
        "apiVersion: remora.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {{ name: deny, namespace: test }}
spec:
  {TARGETS}
  action: Deny
  rules:
    - to:
        - hosts: [internal, '*.internal']
        - headers: [{{ name: x-role, values: [admin] }}]
        - grpc: [{{ service: shop.Cart, method: Drop }}]
---
apiVersion: remora.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {{ name: allow, namespace: test }}
spec:
  {TARGETS}
  rules: [{{ to: [{{ headers: [{{ name: x-tenant, values: [a] }}] }}, {{ paths: [/bystander] }}] }}]
"
    )
}

/// Host, path, further fields, status.
type Asked = (&'static str, &'static str, &'static [(&'static str, &'static str)], u16);

/// Where the host is `~`, it is that of the road.
const REQUESTS: [Asked; 26] = [
    ("~", "/public", &[("x-tenant", "a")], 200),
    ("~", "/public", &[], 403),
    ("~", "/public", &[("x-tenant", "b")], 403),
    ("~", "/public", &[("x-tenant", "A")], 403),
    ("~", "/public", &[("x-tenant", "a"), ("x-tenant", "b")], 403),
    ("~", "/public", &[("x-tenant", "b"), ("x-tenant", "a")], 403),
    ("~", "/public", &[("x-tenant", "a,b")], 403),
    ("~", "/public", &[("x-tenant", "a, a")], 200),
    ("~", "/public", &[("x-tenant", "a"), ("x_tenant", "b")], 403),
    ("~", "/public", &[("x-tenant", "a"), ("x-role", "user")], 200),
    ("~", "/public", &[("x-tenant", "a"), ("x-role", "admin")], 403),
    ("~", "/public", &[("x-tenant", "a"), ("x-role", "ADMIN")], 403),
    ("~", "/public", &[("x-tenant", "a"), ("x-role", "user"), ("x-role", "admin")], 403),
    ("~", "/public", &[("x-tenant", "a"), ("x-role", "user,admin")], 403),
    ("~", "/public", &[("x-tenant", "a"), ("x_role", "admin")], 403),
    ("internal", "/public", &[("x-tenant", "a")], 403),
    ("INTERNAL", "/public", &[("x-tenant", "a")], 403),
    ("internal.", "/public", &[("x-tenant", "a")], 403),
    ("internal:8080", "/public", &[("x-tenant", "a")], 403),
    ("a.b.Internal", "/public", &[("x-tenant", "a")], 403),
    ("10.1", "/public", &[("x-tenant", "a")], 403),
    ("xinternal", "/public", &[("x-tenant", "a")], 200),
    ("~", "/shop.Cart/Drop", &[("x-tenant", "a")], 403),
    ("~", "//shop.Cart/Drop", &[("x-tenant", "a")], 403),
    ("~", "/shop.Cart/%44rop", &[("x-tenant", "a")], 403),
    ("~", "/shop.Cart%2FDrop", &[("x-tenant", "a")], 400),
];

fn ask(scene: &Scene, host: &str, path: &str, fields: &[(&str, &str)]) -> anyhow::Result<u16> {
    let mut line = scene.line(Road::Peer)?;
    let fields: String = fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    line.send(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{fields}Connection: close\r\n\r\n").as_bytes());
    let heard = line.hear_all();
    ensure!(heard.ending != Ending::Silent, "nothing happens");
    let answers = http1::responses(&heard.bytes).map_err(anyhow::Error::msg)?;
    Ok(answers.first().map_or(400, http1::Message::status))
}

/// By HTTP/2, which our inbound writes as HTTP/1 for the application.
fn ask2(scene: &Scene, host: &str, path: &str, fields: &[(&str, &str)]) -> anyhow::Result<u16> {
    let mut line = scene.mallory.dial(&scene.api, Alpn::MeshHttp, scene.app.address.port())?;
    let mut all = vec![(":method", "GET"), (":scheme", "http"), (":path", path), (":authority", host)];
    all.push(("x-remora-http", "1.1"));
    all.extend(fields);
    line.send(&[hello(), headers(1, END_STREAM, &block(&all))].concat());
    match outcome(&mut line, 1) {
        Outcome::Answered(status) => Ok(status),
        Outcome::Reset(_) | Outcome::Ended(_) => Ok(400),
        Outcome::Silent => anyhow::bail!("nothing happens"),
    }
}

#[test]
fn no_spelling_of_a_host_a_header_or_a_grpc_call_gets_past_a_policy() -> anyhow::Result<()> {
    let scene = Scene::start(env!("CARGO_BIN_EXE_remora-components"), &[])?;
    scene.mesh.manifest("policy", &policy())?;
    let own = Road::Peer.authority();
    until("the policy is in force", || Ok((ask(&scene, own, "/x", &[])? == 403).then_some(())))?;
    let mut wrong = Vec::new();
    for (host, path, fields, expected) in REQUESTS {
        for (wire, asked) in [("HTTP/1", ask as fn(&_, &_, &_, &_) -> _), ("HTTP/2", ask2)] {
            let status = asked(&scene, &host.replace('~', own), path, fields)?;
            if status != expected {
                wrong.push(format!("{wire} {host} {path} {fields:?}: {status}, not {expected}"));
            }
        }
    }
    ensure!(wrong.is_empty(), "{}:\n{}", wrong.len(), wrong.join("\n"));
    // Bytes are no request that an Allow rule could see.
    let mut line = scene.line(Road::Peer)?;
    line.send(b"SSH-2.0-x\r\n");
    line.end();
    ensure!(line.hear_all().bytes.is_empty() && scene.app.cut().is_empty(), "bytes reached the application");
    scene.close(|target| target == "/public" || target == "/x")
}
