//! How requests are shared out among the endpoints of a Service, as a BackendPolicy says: over real processes.

use anyhow::{Context as _, ensure};
use remora_tests::{
    local::{Mesh, Proxy, http},
    patience::until,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    io::{Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    path::Path,
    thread,
};

/// An application that answers each request with its name.
fn application(ip: IpAddr, name: String) -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind((ip, 0))?;
    let address = listener.local_addr()?;
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let name = name.clone();
            // A connection that breaks is the client's to report.
            thread::spawn(move || drop(answer(stream, &name)));
        }
    });
    Ok(address)
}

fn answer(mut stream: TcpStream, name: &str) -> std::io::Result<()> {
    let (mut request, mut byte) = (Vec::new(), [0]);
    while stream.read(&mut byte)? == 1 {
        request.push(byte[0]);
        if request.ends_with(b"\r\n\r\n") {
            request.clear();
            write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{name}", name.len())?;
        }
    }
    Ok(())
}

/// A client's pod, and the pod of the five endpoints of a Service.
struct Scene {
    web: Proxy,
    _api: Proxy,
    mesh: Mesh,
    endpoints: Vec<SocketAddr>,
}

impl Scene {
    fn start() -> anyhow::Result<Self> {
        let mesh = Mesh::start(env!("CARGO_BIN_EXE_remora-components"))?;
        let (web, api) = (mesh.proxy("web").spawn()?, mesh.proxy("api").spawn()?);
        let endpoints = (0..5).map(|number| application(api.ip, format!("api-{number}")));
        let endpoints = endpoints.collect::<anyhow::Result<Vec<_>>>()?;
        mesh.service("api", 80, None, &endpoints)?;
        Ok(Self { web: web.ready()?, _api: api.ready()?, mesh, endpoints })
    }

    fn policy(&self, load_balancer: &str) -> anyhow::Result<()> {
        let text = format!(
            "apiVersion: remora.dev/v1alpha1
kind: BackendPolicy
metadata: {{ name: api, namespace: test }}
spec: {{ targetRefs: [{{ kind: Service, name: api }}], loadBalancer: {{ {load_balancer} }} }}
"
        );
        self.mesh.manifest("policy", &text)
    }

    /// Who answers a request with this header.
    fn ask(&self, header: &str) -> anyhow::Result<String> {
        let request = format!("GET / HTTP/1.1\r\nhost: api:80\r\n{header}\r\nconnection: close\r\n\r\n");
        let answer = http::Answer::parse(&http::exchange(self.web.outbound, request.as_bytes())?)?;
        ensure!(answer.status == 200, "{}\n{}", answer.head, self.web.program.log_end());
        Ok(answer.text())
    }

    /// Who answers each of forty users, three times each; `None`: for one of them not always the same.
    fn homes(&self, header: impl Fn(u32) -> String) -> anyhow::Result<Option<BTreeMap<u32, String>>> {
        let mut homes = BTreeMap::new();
        for user in 0..40 {
            let home = self.ask(&header(user))?;
            for _ in 0..2 {
                if self.ask(&header(user))? != home {
                    return Ok(None);
                }
            }
            homes.insert(user, home);
        }
        Ok(Some(homes))
    }
}

/// The policy that the page shows, for the namespace of the tests.
fn documented() -> anyhow::Result<String> {
    let page = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/backends.md"))?;
    let block = page.split("```yaml\n").nth(1).and_then(|rest| rest.split("```").next());
    Ok(block.context("docs/backends.md has no example")?.replace("namespace: shop", "namespace: test"))
}

#[test]
fn each_user_has_one_endpoint_and_keeps_it_when_another_goes() -> anyhow::Result<()> {
    let scene = Scene::start()?;
    let user = |number| format!("x-user: user-{number}");
    until("without a policy users have no endpoint of their own", || Ok(scene.homes(user)?.is_none().then_some(())))?;
    scene.mesh.manifest("policy", &documented()?)?;
    let before = until("each user has an endpoint", || scene.homes(user))?;
    let used: BTreeSet<&String> = before.values().collect();
    ensure!(used.len() == 5, "{used:?}");

    let gone = &before[&0];
    let number = scene.endpoints.len() - 1;
    let last = format!("api-{number}");
    scene.mesh.service("api", 80, None, &scene.endpoints[..number])?;
    let after = until(&format!("{last} is gone"), || {
        let homes = scene.homes(user)?;
        Ok(homes.filter(|homes| homes.values().all(|home| *home != last)))
    })?;
    for (user, home) in &before {
        ensure!(*home == last || after[user] == *home, "user {user} moved from {home} to {}", after[user]);
    }
    ensure!(after[&0] == *gone || *gone == last);

    scene.mesh.service("api", 80, None, &scene.endpoints)?;
    until("all are back where they were", || Ok((scene.homes(user)?.as_ref() == Some(&before)).then_some(())))?;

    // The cookie of the same name as the header is another key.
    scene.policy("type: ConsistentHash, consistentHash: { type: Cookie, cookie: { name: sid } }")?;
    let cookie = |number| format!("x-user: user-{number}\r\ncookie: a=b; sid=user-0");
    until("all share an endpoint with the cookie", || {
        let homes = scene.homes(cookie)?;
        let homes: Option<BTreeSet<String>> = homes.map(|homes| homes.into_values().collect());
        Ok(homes.filter(|homes| homes.len() == 1).map(drop))
    })
}

#[test]
fn requests_go_round_or_to_the_endpoint_of_their_pod() -> anyhow::Result<()> {
    let scene = Scene::start()?;
    scene.policy("type: RoundRobin")?;
    until("requests go round", || {
        let round: Vec<String> = (0..10).map(|_| scene.ask("a: b")).collect::<anyhow::Result<_>>()?;
        let all: BTreeSet<&String> = round[..5].iter().collect();
        Ok((all.len() == 5 && round[..5] == round[5..]).then_some(()))
    })?;
    scene.policy("type: ConsistentHash, consistentHash: { type: SourceIdentity }")?;
    until("the client keeps to one", || {
        let all: BTreeSet<String> = (0..20).map(|_| scene.ask("a: b")).collect::<anyhow::Result<_>>()?;
        Ok((all.len() == 1).then_some(()))
    })?;
    scene.policy("type: LeastRequest")?;
    until("the client uses all again", || {
        let all: BTreeSet<String> = (0..40).map(|_| scene.ask("a: b")).collect::<anyhow::Result<_>>()?;
        Ok((all.len() == 5).then_some(()))
    })
}

/// A Service whose endpoints are pods outside the mesh: their names, addresses and nodes.
fn on_nodes(mesh: &Mesh, spec: &str, pods: &[(&str, SocketAddr, &str)]) -> anyhow::Result<()> {
    let mut text = format!(
        "apiVersion: v1
kind: Service
metadata: {{ name: agent, namespace: test }}
spec: {{ clusterIP: None, ports: [{{ name: main, port: 80 }}], {spec} }}
"
    );
    for (name, address, node) in pods {
        let (ip, port) = (address.ip(), address.port());
        text += &format!(
            "---
apiVersion: v1
kind: Pod
metadata: {{ name: {name}, namespace: test }}
spec: {{ nodeName: {node} }}
status: {{ podIP: {ip} }}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{ name: agent-{name}, namespace: test, labels: {{ kubernetes.io/service-name: agent }} }}
addressType: IPv4
ports: [{{ name: main, port: {port}, protocol: TCP }}]
endpoints: [{{ addresses: [{ip}], conditions: {{ ready: true }} }}]
"
        );
    }
    mesh.manifest("agent", &text)
}

#[test]
fn a_service_for_its_node_alone_is_never_called_on_another() -> anyhow::Result<()> {
    let mesh = Mesh::start(env!("CARGO_BIN_EXE_remora-components"))?;
    let near = application(mesh.address(), "near".to_owned())?;
    let far = application(mesh.address(), "far".to_owned())?;
    let (near, far) = (("near", near, "node-1"), ("far", far, "node-2"));
    on_nodes(&mesh, "internalTrafficPolicy: Local", &[near, far])?;
    let web = mesh.proxy("web").env("NODE", "node-1").spawn()?.ready()?;
    let answers = || -> anyhow::Result<BTreeSet<String>> {
        (0..20)
            .map(|_| {
                let answer = web.get("agent:80", "/")?;
                Ok(answer.header("x-remora-error").map_or_else(|| answer.text(), str::to_owned))
            })
            .collect()
    };
    let become_these = |what: &str, expected: &[&str]| {
        until(what, || Ok((answers()?.iter().eq(expected)).then_some(())))
            .with_context(|| format!("{:?}\n{}", answers(), web.program.log_end()))
    };
    become_these("its node answers", &["near"])?;
    on_nodes(&mesh, "internalTrafficPolicy: Local", &[far])?;
    become_these("nobody is on its node", &["no_endpoints"])?;
    on_nodes(&mesh, "trafficDistribution: PreferSameNode", &[far])?;
    become_these("another node does where it may", &["far"])?;
    on_nodes(&mesh, "trafficDistribution: PreferSameNode", &[far, near])?;
    become_these("its own does as soon as it can", &["near"])?;
    on_nodes(&mesh, "internalTrafficPolicy: Cluster", &[far, near])?;
    become_these("all do where nobody says", &["far", "near"])
}
