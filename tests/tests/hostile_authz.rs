//! Requests that want to be taken for others: paths in disguise, bytes instead of requests, borrowed identities.
//!
//! `/admin` is denied and `/public` is allowed by policy at the application's proxy. The oracle is the application: it
//! must never see a target that some server would take for `/admin`.

use anyhow::{Context as _, ensure};
use remora_runtime::tls::Alpn;
use remora_tests::{
    patience::until,
    wire::{
        Ending, Reply, Road, Scene, http1,
        http2::{END_STREAM, Outcome, block, headers, hello, outcome},
    },
};

/// Target and status; `~` stands for `/admin`.
const PATHS: [(&str, u16); 71] = [
    ("~", 403),
    ("~/", 403),
    ("~/x", 403),
    ("~?x=y", 403),
    ("~?", 403),
    ("/~", 403),
    ("//~", 403),
    ("~//", 403),
    ("/.~", 403),
    ("/x/..~", 400),
    ("/x/y/../..~", 400),
    ("~/.", 403),
    ("~/x/..", 400),
    ("~;x", 403),
    ("~;x=y/z", 403),
    ("/;x~", 403),
    ("/%61dmin", 403),
    ("/%61%64%6d%69%6e", 403),
    ("/%61%64%6D%69%6E/x", 403),
    ("/x/../%61dmin", 400),
    ("http://^~", 403),
    ("http://^/~", 403),
    ("HTTP://^~?x", 403),
    ("/x/%2e%2e~", 400),
    ("/x/%2E%2e~", 400),
    ("/x/.%2e~", 400),
    ("/%2e~", 400),
    ("/%2fadmin", 400),
    ("/x%2f..%2fadmin", 400),
    ("/x/..%2fadmin", 400),
    ("~%2fx", 400),
    ("~%2F..%2Fx", 400),
    ("~%5cx", 400),
    ("/x%5c..%5cadmin", 400),
    ("~%00", 400),
    ("~%0a", 400),
    ("~%0d%0ax:y", 400),
    ("~%7f", 400),
    ("~%3b", 400),
    ("~%3f", 400),
    ("~%23", 400),
    ("/%2561dmin", 400),
    ("/%25252e", 400),
    ("~%", 400),
    ("~%2", 400),
    ("~%zz", 400),
    ("/%u0061dmin", 400),
    ("/%c0%af..%c0%afadmin", 400),
    ("/%e0%80%afadmin", 400),
    ("/%ff", 400),
    ("/x/../..~", 400),
    ("/..~", 400),
    ("/..", 400),
    ("~/../public", 400),
    ("~//../public", 400),
    ("~/x/../../public", 400),
    ("~/..;/public", 400),
    ("~/..;x=y/public", 400),
    ("~/./../public", 400),
    ("/public/..", 400),
    ("/public/..;/x", 400),
    ("\\admin", 400),
    ("/x\\..\\admin", 400),
    ("~\\", 400),
    ("/public", 200),
    ("/public/x", 200),
    ("/public/caf%C3%A9?x=%2e%2e%2f", 200),
    ("/public/a%20b;x=y", 200),
    ("/public/admin", 200),
    ("/public/..x/y..", 200),
    ("/public/..~x", 400),
];

const POLICY: &str = "apiVersion: remora.dev/v1alpha1
kind: AuthorizationPolicy
metadata: { name: admin, namespace: test }
spec:
  targetRefs: [{ group: \"\", kind: Service, name: api }, { group: \"\", kind: Service, name: api2 }]
  action: Deny
  rules: [{ to: [{ paths: [/admin, /admin/*] }] }]
---
apiVersion: remora.dev/v1alpha1
kind: AuthorizationPolicy
metadata: { name: public, namespace: test }
spec:
  targetRefs: [{ group: \"\", kind: Service, name: api }, { group: \"\", kind: Service, name: api2 }]
  action: Allow
  rules: [{ to: [{ paths: [/public/*, /bystander] }] }]
";

fn guarded() -> anyhow::Result<Scene> {
    let scene = Scene::start(env!("CARGO_BIN_EXE_remora-components"), &[])?;
    scene.mesh.manifest("policy", POLICY)?;
    until("the policy is in force", || Ok((ask(&scene, Road::Mesh, "/x")? == 403).then_some(())))?;
    until("the policy is in force", || Ok((ask2(&scene, Road::Mesh, "api2:80", "/x")? == 403).then_some(())))?;
    Ok(scene)
}

/// The status of a request by HTTP/1; the end of the connection is as good as 400.
fn ask(scene: &Scene, road: Road, target: &str) -> anyhow::Result<u16> {
    let mut line = scene.line(road)?;
    line.send(format!("GET {target} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", road.authority()).as_bytes());
    let heard = line.hear_all();
    let answers = http1::responses(&heard.bytes).map_err(anyhow::Error::msg)?;
    ensure!(heard.ending != Ending::Silent, "nothing happens");
    Ok(answers.first().map_or(400, http1::Message::status))
}

/// The status of a request by HTTP/2; a reset is as good as 400.
fn ask2(scene: &Scene, road: Road, authority: &str, target: &str) -> anyhow::Result<u16> {
    let (mut line, _) = if authority == "api:80" && road == Road::Peer {
        (scene.mallory.dial(&scene.api, Alpn::MeshHttp, scene.app.address.port())?, "")
    } else {
        scene.line2(road)?
    };
    let mut fields = vec![(":method", "GET"), (":scheme", "http"), (":path", target), (":authority", authority)];
    if authority == "api:80" {
        fields.push(("x-remora-http", "1.1"));
    }
    line.send(&[hello(), headers(1, END_STREAM, &block(&fields))].concat());
    match outcome(&mut line, 1) {
        Outcome::Answered(status) => Ok(status),
        Outcome::Reset(_) | Outcome::Ended(_) => Ok(400),
        Outcome::Silent => anyhow::bail!("nothing happens"),
    }
}

#[test]
fn no_spelling_of_a_path_gets_past_a_policy() -> anyhow::Result<()> {
    let scene = guarded()?;
    let mut wrong = Vec::new();
    for (path, expected) in PATHS {
        let path = path.replace('~', "/admin");
        for road in [Road::Mesh, Road::Peer] {
            let status = ask(&scene, road, &path.replace('^', road.authority())).with_context(|| path.clone())?;
            if status != expected {
                wrong.push(format!("{path} ({road:?}): {status}, not {expected}"));
            }
            if path.contains('^') {
                continue;
            }
            // Straight to HTTP/2, and HTTP/2 that our inbound writes as HTTP/1.
            for authority in ["api2:80", "api:80"] {
                if road == Road::Mesh && authority == "api:80" {
                    continue;
                }
                let status = ask2(&scene, road, authority, &path)?;
                if status != expected {
                    wrong.push(format!("{path} ({road:?}, HTTP/2 to {authority}): {status}, not {expected}"));
                }
            }
        }
    }
    ensure!(wrong.is_empty(), "{}:\n{}", wrong.len(), wrong.join("\n"));
    scene.close(|target| target.starts_with("/public") || target == "/x")
}

/// Every octet, escaped, before, in and behind a guarded name.
#[test]
fn no_escaped_octet_gets_past_a_policy() -> anyhow::Result<()> {
    let scene = guarded()?;
    for octet in 0..=255_u8 {
        for shape in [format!("/%{octet:02x}dmin"), format!("/admi%{octet:02X}"), format!("/%{octet:02x}admin")] {
            let status = ask(&scene, Road::Mesh, &shape)?;
            ensure!(status == 403 || status == 400, "{shape}: {status}");
        }
    }
    scene.close(|target| target == "/x")
}

/// What is no request that we can read may be one that the application can: it must meet the policy for bytes, which
/// is stricter.
#[test]
fn bytes_that_might_be_a_request_meet_the_strictest_policy() -> anyhow::Result<()> {
    let scene = guarded()?;
    let whole = format!("GET /admin HTTP/1.1\r\nHost: {}\r\n\r\n", Road::Peer.authority());
    let disguises = [
        "\0\0\0\0".to_owned(),
        "\u{16}\u{3}\u{1}".to_owned(),
        "SSH-2.0-x\r\n".to_owned(),
        "*1\r\n$4\r\nPING\r\n".to_owned(),
        format!(" {whole}"),
        format!("\n{whole}"),
        format!("\r\n\r\n\r\n{whole}"),
        format!("{}{whole}", "\n".repeat(9000)),
        whole.replace("GET ", "get "),
        whole.replace("GET ", "GET\t"),
        whole.replace("GET ", &format!("{} ", "G".repeat(40))),
        whole.replace("HTTP/1.1", "HTTP/1.9"),
        whole.replace(" HTTP/1.1", ""),
        whole.replace("\r\n", "\n"),
        whole.replace("\r\n", "\r"),
        "PRI * HTTP/2.0\r\n\r\nGET /admin HTTP/1.1\r\n\r\n".to_owned(),
        whole[..2].to_owned(),
    ];
    for bytes in &disguises {
        for split in [false, true] {
            let mut line = scene.line(Road::Peer)?;
            match split {
                false => _ = line.send(bytes.as_bytes()),
                true => bytes.bytes().take(100).for_each(|byte| _ = line.send(&[byte])),
            }
            line.end();
            let heard = line.hear_all();
            ensure!(heard.ending != Ending::Silent, "{bytes:?}: {heard:?}");
            ensure!(!heard.text().contains(" 200 "), "{bytes:?}: {}", heard.text());
        }
    }
    ensure!(scene.app.cut().is_empty(), "bytes reached the application: {:?}", scene.app.cut());
    for (method, more) in [("CONNECT", ""), ("GET", "Connection: upgrade\r\nUpgrade: x\r\n")] {
        let target = if method == "CONNECT" { "api:80" } else { "/admin" };
        let mut line = scene.line(Road::Peer)?;
        line.send(format!("{method} {target} HTTP/1.1\r\nHost: api:80\r\n{more}\r\n").as_bytes());
        let heard = line.hear(|bytes| bytes.windows(4).any(|window| window == b"\r\n\r\n"));
        ensure!(heard.text().starts_with("HTTP/1.1 40"), "{method}: {}", heard.text());
    }
    scene.close(|target| target == "/x")
}

/// The spellings of the header that tells an application its caller.
fn spoofs() -> Vec<String> {
    let name = "x-remora-client-id";
    let cased = (0..64_u32).map(|bits| {
        let mut letters = name.chars().filter(char::is_ascii_alphabetic).count();
        let case = |c: char| {
            if !c.is_ascii_alphabetic() {
                return c;
            }
            letters -= 1;
            if bits >> (letters % 6) & 1 == 1 { c.to_ascii_uppercase() } else { c }
        };
        name.chars().map(case).collect::<String>()
    });
    let dashed = (0..8_u32).map(|bits| {
        let mut dashes = 0;
        let dash = |c: char| {
            if c != '-' {
                return c;
            }
            dashes += 1;
            if bits >> (dashes - 1) & 1 == 1 { '_' } else { '-' }
        };
        name.chars().map(dash).collect::<String>()
    });
    let others = ["x-remora-", "X-Remora-X", "x-remora-http", "x-remora-error", "x-remora-hops", "X_REMORA_HTTP"];
    cased.chain(dashed).chain(others.map(str::to_owned)).collect()
}

#[test]
fn no_spelling_of_a_reserved_header_reaches_an_application() -> anyhow::Result<()> {
    let scene = Scene::start(env!("CARGO_BIN_EXE_remora-components"), &[])?;
    let switch = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n";
    for road in Road::ALL {
        let caller = match road {
            Road::Mesh => vec![scene.web.identity.clone()],
            Road::Outside => vec![],
            Road::Peer => vec!["spiffe://cluster.local/ns/test/sa/mallory".to_owned()],
        };
        for (number, name) in spoofs().iter().enumerate() {
            let shapes = [
                format!("{name}: spiffe://evil\r\n"),
                format!("{name}: spiffe://evil\r\n{name}: spiffe://evil\r\n"),
                format!("Connection: {name}\r\n{name}: spiffe://evil\r\n"),
                format!(
                    "Connection: x-remora-client-id\r\nConnection: X-Remora-Client-Id, close\r\n{name}: spiffe://evil\r\n"
                ),
                format!("Connection: upgrade, x-remora-client-id\r\nUpgrade: x\r\n{name}: spiffe://evil\r\n"),
            ];
            for (shape, fields) in shapes.iter().enumerate() {
                let target = format!("/{road:?}/{number}/{shape}");
                if shape == 4 {
                    scene.end(road).reply(&target, Reply::Close(switch.into()));
                }
                let mut line = scene.line(road)?;
                line.send(format!("GET {target} HTTP/1.1\r\nHost: {}\r\n{fields}\r\n", road.authority()).as_bytes());
                line.hear(|bytes| {
                    bytes.ends_with(b"ok") || bytes.starts_with(b"HTTP/1.1 101") && bytes.ends_with(b"\r\n\r\n")
                });
                let seen = scene.end(road).requests(&target);
                let [request] = seen.as_slice() else { anyhow::bail!("{target} {fields}: {} requests", seen.len()) };
                let told: Vec<_> =
                    request.fields.iter().filter(|(name, _)| name.replace('_', "-").starts_with("x-remora-")).collect();
                let told: Vec<_> = told.into_iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
                let right: Vec<_> = caller.iter().map(|id| ("x-remora-client-id", id.as_str())).collect();
                ensure!(told == right, "{target} {fields}: {told:?}");
            }
        }
    }
    scene.close(|target| target.matches('/').count() == 3)
}
