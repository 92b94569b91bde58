//! Remora as it is deployed: identity and discovery in a pod of their own, a proxy in each of the two pods.

use crate::{
    contender::Contender,
    pod::{Pod, Side},
    pods::{self, BULK_PORT, HTTP_PORT, SERVER_ADDRESS},
    process::{PROXY_UID, Process, Role, command},
    tools::{DIR, output},
};
use anyhow::{Context, Result, bail};
use jsonwebtoken::{
    Algorithm, EncodingKey, Header,
    jwk::{Jwk, JwkSet},
};
use rcgen::KeyPair;
use serde_json::json;
use std::{
    fs,
    os::unix::fs::{chown, symlink},
    path::Path,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

const IDENTITY_PORT: u16 = 4180;
const DISCOVERY_PORT: u16 = 4181;
const TOKEN_LIFETIME: Duration = Duration::from_secs(24 * 3600);
const ANCHORS_TIMEOUT: Duration = Duration::from_secs(10);

/// One build of Remora in the pods of one contender: its proxies, and the control plane that they need.
pub(crate) fn start(of: Contender, program: &Path) -> Result<(Vec<Process>, Vec<Process>)> {
    let build = Build { of };
    if !Path::new(&build.home()).exists() {
        build.prepare(program)?;
    }
    let identity = build.identity()?;
    let discovery = build.discovery()?;
    let proxies = vec![build.proxy(Side::Client)?, build.proxy(Side::Server)?];
    build.redirect()?;
    Ok((proxies, vec![identity, discovery]))
}

/// One build of Remora.
#[derive(Debug, Clone, Copy)]
struct Build {
    of: Contender,
}

impl Build {
    fn home(self) -> String {
        format!("{DIR}/{}", self.of)
    }

    fn file(self, name: &str) -> String {
        format!("{}/{name}", self.home())
    }

    fn component(self, name: &str) -> String {
        self.file(&format!("remora-{name}"))
    }

    fn identity(self) -> Result<Process> {
        let mut identity = command(Pod::control(self.of), Role::Load, self.component("identity"));
        identity.args(["--listen", &format!("[::]:{IDENTITY_PORT}"), "--issuer-dir", &self.file("issuer")]);
        let mut process =
            Process::start(&format!("{}-identity", self.of), identity.args(["--jwks", &self.file("jwks.json")]))?;
        // On its first start it makes the anchors that all others read.
        let deadline = Instant::now() + ANCHORS_TIMEOUT;
        while !Path::new(&self.file("issuer/ca.crt")).exists() {
            process.check()?;
            if Instant::now() > deadline {
                bail!("remora-identity made no ca.crt within {ANCHORS_TIMEOUT:?}:\n{}", process.log_end());
            }
            std::thread::yield_now();
        }
        // The issuer's folder is closed to the proxies' user.
        let anchors = fs::read_to_string(self.file("issuer/ca.crt")).context("read the anchors")?;
        self.write("ca.crt", &anchors)?;
        Ok(process)
    }

    fn discovery(self) -> Result<Process> {
        let mut discovery = command(Pod::control(self.of), Role::Load, self.component("discovery"));
        discovery.args(["--listen", &format!("[::]:{DISCOVERY_PORT}"), "--manifests", &self.file("manifests")]);
        discovery.args(["--identity-addr", &format!("127.0.0.1:{IDENTITY_PORT}")]);
        discovery.args(["--trust-anchors", &self.file("ca.crt"), "--token", &self.file("remora-discovery.jwt")]);
        Process::start(&format!("{}-discovery", self.of), &mut discovery)
    }

    fn proxy(self, side: Side) -> Result<Process> {
        let control = pods::control_address(side);
        let mut proxy = command(Pod { of: self.of, side }, Role::Proxy, self.component("proxy"));
        proxy.envs([
            ("REMORA_PROXY_NAMESPACE", "bench"),
            ("REMORA_PROXY_POD", side.name()),
            ("REMORA_PROXY_SERVICE_ACCOUNT", side.name()),
            ("REMORA_PROXY_TRUST_ANCHORS", &self.file("ca.crt")),
            ("REMORA_PROXY_TOKEN", &self.file(&format!("{}.jwt", side.name()))),
            ("REMORA_PROXY_IDENTITY_ADDR", &format!("{control}:{IDENTITY_PORT}")),
            ("REMORA_PROXY_DISCOVERY_ADDR", &format!("{control}:{DISCOVERY_PORT}")),
            ("REMORA_PROXY_WORKERS", "1"),
        ]);
        Process::start(&format!("{}-proxy-{}", self.of, side.name()), &mut proxy)
    }

    /// The rules that every pod gets.
    fn redirect(self) -> Result<()> {
        for pod in [Pod::client(self.of), Pod::server(self.of)] {
            output(command(pod, Role::Load, self.component("proxy")).arg("init"))?;
        }
        Ok(())
    }

    /// The binaries under their components' names, a signing key for tokens, a token per workload, and the manifests.
    fn prepare(self, program: &Path) -> Result<()> {
        for folder in ["", "issuer", "manifests"] {
            let folder = self.file(folder);
            fs::create_dir_all(&folder).with_context(|| format!("create {folder}"))?;
        }
        for name in ["proxy", "identity", "discovery"] {
            let component = self.component(name);
            symlink(program, &component).with_context(|| format!("link {component}"))?;
        }
        let key = KeyPair::generate()?;
        let key = EncodingKey::from_ec_pem(key.serialize_pem().as_bytes()).context("read our own key")?;
        let jwks = JwkSet { keys: vec![Jwk::from_encoding_key(&key, Algorithm::ES256)?] };
        self.write("jwks.json", &serde_json::to_string(&jwks)?)?;
        self.write("client.jwt", &token(&key, "bench", "client")?)?;
        self.write("server.jwt", &token(&key, "bench", "server")?)?;
        self.write("remora-discovery.jwt", &token(&key, "remora", "remora-discovery")?)?;
        let documents: Vec<String> = manifests().iter().map(ToString::to_string).collect();
        self.write("manifests/bench.yaml", &documents.join("\n---\n"))
    }

    fn write(self, name: &str, text: &str) -> Result<()> {
        let path = self.file(name);
        fs::write(&path, text).with_context(|| format!("write {path}"))?;
        let uid: u32 = PROXY_UID.parse()?;
        chown(&path, Some(uid), Some(uid)).with_context(|| format!("give {path} to the proxies"))
    }
}

/// A service-account token in the shape of Kubernetes' projected ones.
fn token(key: &EncodingKey, namespace: &str, account: &str) -> Result<String> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock is before 1970")?;
    let claims = json!({
        "iss": "https://kubernetes.default.svc.cluster.local",
        "sub": format!("system:serviceaccount:{namespace}:{account}"),
        "aud": ["identity.remora.dev"],
        "iat": now.as_secs(),
        "nbf": now.as_secs(),
        "exp": (now + TOKEN_LIFETIME).as_secs(),
        "kubernetes.io": {
            "namespace": namespace,
            "serviceaccount": { "name": account, "uid": format!("{namespace}-{account}") },
            "pod": { "name": account, "uid": format!("{namespace}-{account}-pod") }
        }
    });
    jsonwebtoken::encode(&Header::new(Algorithm::ES256), &claims, key).context("sign a token")
}

/// The two pods and a Service in front of the server.
fn manifests() -> [serde_json::Value; 4] {
    let address = SERVER_ADDRESS.to_string();
    let labels = json!({ "app": "server" });
    let ports = |key: &str| {
        let port = |name: &str, number: u16| json!({ "name": name, key: number, "protocol": "TCP" });
        json!([port("http", HTTP_PORT), port("bulk", BULK_PORT)])
    };
    let pod = |name: &str, address: &str| {
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "name": name, "namespace": "bench", "uid": name, "labels": { "app": name },
                "annotations": { "remora.dev/injected": "true" }
            },
            "spec": {
                "serviceAccountName": name,
                "containers": [{ "name": "app", "image": "app", "ports": ports("containerPort") }]
            },
            "status": {
                "phase": "Running", "podIP": address, "podIPs": [{ "ip": address }],
                "conditions": [{ "type": "Ready", "status": "True" }]
            }
        })
    };
    [
        pod("client", &pods::CLIENT_ADDRESS.to_string()),
        pod("server", &address),
        json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": { "name": "server", "namespace": "bench" },
            "spec": { "clusterIP": "None", "selector": labels, "ports": ports("port") }
        }),
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {
                "name": "server-1", "namespace": "bench", "labels": { "kubernetes.io/service-name": "server" }
            },
            "addressType": "IPv4",
            "ports": ports("port"),
            "endpoints": [{
                "addresses": [address],
                "conditions": { "ready": true, "serving": true, "terminating": false },
                "targetRef": { "kind": "Pod", "namespace": "bench", "name": "server", "uid": "server" }
            }]
        }),
    ]
}
