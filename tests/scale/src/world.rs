//! The world: manifests of a cluster, and what each proxy in it asks for. Pure, but for writing files.
//!
//! | Service | pods | asked for by |
//! |--|--|--|
//! | `s-N` in `ns-M` | 10 each | some 30 proxies each; most of the world |
//! | `few` in `big` | a tenth of the world, at most 1 000 | `--few` streams |
//! | `all` in `big` | the same | every stream |
//! | `nobody` in `nobody` | 10 | no stream |
//!
//! What changes during a measurement lies in files of its own, so that reading the directory costs as little as it can.

use anyhow::{Context as _, Result};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::{fs, path::Path};

/// Endpoints of `few` and `all` at most.
const BIG_MAX: u32 = 1_000;
/// Endpoints of a slice, as Kubernetes writes them.
const SLICE: u32 = 100;
/// Pods of an ordinary Service, and Services of a namespace.
const OF_SERVICE: u32 = 10;
const OF_NAMESPACE: u32 = 50;
/// Objects of a file that never changes.
const OF_FILE: usize = 2_000;

/// The service account of every pod.
pub(crate) const ACCOUNT: &str = "web";
/// The port of every Service.
pub(crate) const PORT: u16 = 80;
const TARGET_PORT: u16 = 8080;

/// Who asks for a Service whose endpoints change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Asked {
    /// `--few` streams
    Few,
    /// Every stream
    All,
    /// No stream
    Nobody,
}

/// How large it is.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Shape {
    pub(crate) pods: u32,
    pub(crate) streams: u32,
    pub(crate) few: u32,
    pub(crate) targets: u32,
}

impl Asked {
    /// The Service's name.
    pub(crate) fn service(self) -> &'static str {
        match self {
            Self::Few => "few",
            Self::All => "all",
            Self::Nobody => "nobody",
        }
    }

    pub(crate) fn namespace(self) -> &'static str {
        if self == Self::Nobody { "nobody" } else { "big" }
    }

    /// The second byte of its pods' addresses.
    fn network(self) -> u32 {
        match self {
            Self::Few => 201,
            Self::All => 202,
            Self::Nobody => 203,
        }
    }
}

impl Shape {
    /// Endpoints of a Service whose endpoints change.
    pub(crate) fn endpoints(self, of: Asked) -> u32 {
        if of == Asked::Nobody { OF_SERVICE } else { (self.pods / 10).clamp(1, BIG_MAX) }
    }

    /// Ordinary Services: what is left of the pods, and enough pods for the streams.
    fn services(self) -> u32 {
        let changing = self.endpoints(Asked::Few) + self.endpoints(Asked::All) + OF_SERVICE;
        self.pods.saturating_sub(changing).max(self.streams).div_ceil(OF_SERVICE)
    }

    /// All pods, which may be more than was asked for so that each stream has one.
    pub(crate) fn all_pods(self) -> u32 {
        let changing = [Asked::Few, Asked::All, Asked::Nobody].map(|of| self.endpoints(of));
        self.services() * OF_SERVICE + changing.iter().sum::<u32>()
    }

    /// Namespace and name of the pod of a stream.
    pub(crate) fn pod(self, stream: u32) -> (String, String) {
        let service = stream / OF_SERVICE;
        (namespace(service), format!("s-{service}-{}", stream % OF_SERVICE))
    }

    /// The namespaces of the streams' pods, whose certificates differ.
    pub(crate) fn namespaces(self) -> u32 {
        self.streams.div_ceil(OF_SERVICE).div_ceil(OF_NAMESPACE)
    }

    /// What a stream asks for.
    pub(crate) fn targets(self, stream: u32) -> Vec<String> {
        let big = |of: Asked| format!("{}.{}:{PORT}", of.service(), of.namespace());
        let mut targets = vec![big(Asked::All)];
        targets.extend((stream < self.few).then(|| big(Asked::Few)));
        let (own, services) = (stream / OF_SERVICE, self.services());
        let others = (1..).map(|step| (own + step * 7) % services).take(services as usize);
        targets.extend(others.map(|service| format!("s-{service}.{}:{PORT}", namespace(service))));
        targets.truncate(self.targets as usize);
        targets
    }

    /// Writes everything.
    pub(crate) fn write(self, dir: &Path) -> Result<()> {
        let services = self.services();
        let mut objects = Vec::new();
        for service in 0..services {
            let (name, ns) = (format!("s-{service}"), namespace(service));
            let address = |k: u32| address(128, service * OF_SERVICE + k);
            let pods: Vec<(String, String)> = (0..OF_SERVICE).map(|k| (format!("{name}-{k}"), address(k))).collect();
            objects.extend(pods.iter().map(|(pod, ip)| a_pod(&ns, &name, pod, ip)));
            objects.push(a_service(&ns, &name, &address_of_service(service)));
            objects.push(a_slice(&ns, &name, 0, pods.iter().map(|(pod, ip)| an_endpoint(&ns, pod, ip, "a")).collect()));
            objects.extend((service % 10 == 0).then(|| a_route(&ns, &name)));
            objects.extend((service % 5 == 0).then(|| a_policy(&ns, &name)));
        }
        for of in [Asked::Few, Asked::All, Asked::Nobody] {
            objects.push(a_service(of.namespace(), of.service(), &address(90, of.network())));
        }
        for (at, chunk) in objects.chunks(OF_FILE).enumerate() {
            put(dir, &format!("world-{at:04}"), chunk)?;
        }
        for of in [Asked::Few, Asked::All, Asked::Nobody] {
            let big = Changing::new(self, of);
            for at in 0..self.endpoints(of) {
                put(dir, &big.pod_file(at), &[big.pod(at)])?;
            }
            for slice in 0..self.endpoints(of).div_ceil(SLICE) {
                put(dir, &big.slice_file(slice * SLICE), &[big.slice(slice * SLICE, "a")])?;
            }
        }
        Ok(())
    }
}

/// A Service whose endpoints change.
#[derive(Debug)]
pub(crate) struct Changing {
    of: Asked,
    /// How often each pod was replaced.
    generations: Vec<u32>,
}

impl Changing {
    pub(crate) fn new(shape: Shape, of: Asked) -> Self {
        Self { of, generations: vec![0; shape.endpoints(of) as usize] }
    }

    /// Gives the first endpoint another zone, which says so: one endpoint's change, with a name.
    pub(crate) fn mark(&self, dir: &Path, mark: u32) -> Result<()> {
        put(dir, &self.slice_file(0), &[self.slice(0, &format!("m{mark}"))])
    }

    /// Replaces a pod as a rollout does: the new one comes, the slice names it, the old one goes.
    pub(crate) fn replace(&mut self, dir: &Path, at: u32) -> Result<()> {
        let old = self.pod(at);
        self.generations[at as usize] += 1;
        put(dir, &self.pod_file(at), &[old, self.pod(at)])?;
        put(dir, &self.slice_file(at), &[self.slice(at, "a")])?;
        put(dir, &self.pod_file(at), &[self.pod(at)])
    }

    fn name(&self, at: u32) -> (String, String) {
        let generation = self.generations[at as usize];
        (format!("{}-{at}-{generation}", self.of.service()), address(self.of.network() + 10 * (generation % 5), at))
    }

    fn pod(&self, at: u32) -> Value {
        let (name, ip) = self.name(at);
        a_pod(self.of.namespace(), self.of.service(), &name, &ip)
    }

    /// The slice with the endpoint `at`; the zone of the first is `mark`.
    fn slice(&self, at: u32, mark: &str) -> Value {
        let first = at / SLICE * SLICE;
        let last = (first + SLICE).min(u32::try_from(self.generations.len()).unwrap_or(u32::MAX));
        let endpoint = |at: u32| {
            let (name, ip) = self.name(at);
            an_endpoint(self.of.namespace(), &name, &ip, if at == 0 { mark } else { "a" })
        };
        a_slice(self.of.namespace(), self.of.service(), first / SLICE, (first..last).map(endpoint).collect())
    }

    fn slice_file(&self, at: u32) -> String {
        format!("{}-slice-{}", self.of.service(), at / SLICE)
    }

    fn pod_file(&self, at: u32) -> String {
        format!("{}-pod-{at}", self.of.service())
    }
}

/// Puts a file in its place in one step, so that nobody reads half of it. JSON is YAML.
fn put(dir: &Path, name: &str, objects: &[Value]) -> Result<()> {
    let text = objects.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n---\n");
    let (new, path) = (dir.join(format!(".{name}")), dir.join(format!("{name}.yaml")));
    fs::write(&new, text).with_context(|| format!("write {}", new.display()))?;
    fs::rename(&new, &path).with_context(|| format!("write {}", path.display()))
}

fn namespace(service: u32) -> String {
    format!("ns-{}", service / OF_NAMESPACE)
}

fn address(network: u32, number: u32) -> String {
    // Whatever is above 16 bits goes to the second.
    format!("10.{}.{}.{}", network + number / 65_536, number / 256 % 256, number % 256)
}

fn address_of_service(service: u32) -> String {
    address(96, service + 1)
}

fn a_pod(namespace: &str, app: &str, name: &str, ip: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": name, "namespace": namespace, "uid": name, "labels": { "app": app },
            "annotations": { "remora.dev/injected": "true" }
        },
        "spec": {
            "serviceAccountName": ACCOUNT, "nodeName": "node",
            "containers": [{ "name": "app", "ports": [{ "name": "http", "containerPort": TARGET_PORT }] }]
        },
        "status": { "phase": "Running", "podIP": ip, "conditions": [{ "type": "Ready", "status": "True" }] }
    })
}

fn a_service(namespace: &str, name: &str, ip: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": { "name": name, "namespace": namespace },
        "spec": {
            "clusterIP": ip, "selector": { "app": name },
            "ports": [{ "name": "http", "port": PORT, "targetPort": TARGET_PORT }]
        }
    })
}

fn an_endpoint(namespace: &str, pod: &str, ip: &str, zone: &str) -> Value {
    json!({
        "addresses": [ip], "zone": zone, "conditions": { "ready": true },
        "targetRef": { "kind": "Pod", "namespace": namespace, "name": pod, "uid": pod }
    })
}

fn a_slice(namespace: &str, service: &str, number: u32, endpoints: Vec<Value>) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {
            "name": format!("{service}-{number}"), "namespace": namespace,
            "labels": { "kubernetes.io/service-name": service }
        },
        "ports": [{ "name": "http", "port": TARGET_PORT, "protocol": "TCP" }],
        "endpoints": endpoints
    })
}

fn a_route(namespace: &str, service: &str) -> Value {
    let backend = json!({ "name": service, "port": PORT });
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
        "metadata": { "name": service, "namespace": namespace },
        "spec": {
            "parentRefs": [{ "group": "", "kind": "Service", "name": service }],
            "rules": [
                { "matches": [{ "path": { "type": "PathPrefix", "value": "/a" } }], "backendRefs": [backend] },
                { "backendRefs": [backend], "timeouts": { "request": "5s" } }
            ]
        }
    })
}

fn a_policy(namespace: &str, service: &str) -> Value {
    json!({
        "apiVersion": "remora.dev/v1alpha1", "kind": "AuthorizationPolicy",
        "metadata": { "name": service, "namespace": namespace },
        "spec": {
            "targetRefs": [{ "kind": "Service", "name": service }], "action": "Allow",
            "rules": [{ "from": [{ "namespaces": [namespace] }], "to": [{ "methods": ["GET"], "paths": ["/a/*"] }] }]
        }
    })
}
