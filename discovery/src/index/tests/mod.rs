//! What objects mean, by the Gateway API, by Kubernetes, and by our own promises.

mod attachment;
mod authorization;
mod closed;
mod cluster;
mod connections;
mod effects;
mod endpoints;
mod orders;
mod policies;
mod proxies;
mod routes;
mod schema;
mod statuses;
mod targets;

use super::*;
use crate::source::parse::parse;
use remora_model::{BackendRef, BackendRefState, Outbound, Parent};
use std::ops::Deref;

/// A world that was built from nothing, and all that is to be said of it.
#[derive(Debug)]
pub(crate) struct Snapshot {
    pub(crate) world: World,
    pub(crate) reports: Vec<String>,
    unseen: Vec<String>,
    pub(crate) statuses: Vec<Arc<status::ObjectStatus>>,
}

impl Snapshot {
    pub(crate) fn build(objects: Vec<Object>, mesh: &Mesh) -> Self {
        let mut world = World::new(mesh.clone());
        world.apply(objects.into_iter().map(Change::Put), &mut |_, _| {});
        Self::of(world)
    }

    fn of(mut world: World) -> Self {
        world.settle();
        let (reports, statuses) = (world.reports().cloned().collect(), world.statuses().cloned().collect());
        Self { reports, unseen: world.unseen(), statuses, world }
    }
}

impl Deref for Snapshot {
    type Target = Facts;

    fn deref(&self) -> &Facts {
        &self.world.facts
    }
}

/// A Service `shop/api` (10.0.0.1:80) with a meshed and a bare pod.
const WORLD: &str = r#"
apiVersion: v1
kind: Pod
metadata: { name: api-1, namespace: shop, labels: { app: api }, annotations: { remora.dev/proxy-address: "10.1.0.1:4143" } }
spec: { serviceAccountName: api, containers: [{ ports: [{ name: web, containerPort: 8000 }] }] }
status: { podIP: 10.1.0.1 }
---
apiVersion: v1
kind: Pod
metadata: { name: bare, namespace: shop, labels: { app: api } }
status: { podIP: 10.1.0.2 }
---
apiVersion: v1
kind: Service
metadata: { name: api, namespace: shop }
spec:
  clusterIP: 10.0.0.1
  selector: { app: api }
  ports: [{ name: main, port: 80, targetPort: 8000, appProtocol: grpc }, { name: extra, port: 90, targetPort: web }]
"#;

fn mesh() -> Mesh {
    Mesh::default()
}

fn snapshot(text: &str) -> Snapshot {
    Snapshot::build(parse(text, "test.yaml").whole().unwrap(), &mesh())
}

/// The world and more.
fn with(more: &str) -> Snapshot {
    snapshot(&format!("{WORLD}---\n{more}"))
}

fn outbound(snapshot: &Snapshot, client: &str, target: &str) -> Outbound {
    snapshot.outbound(client, &target.parse().unwrap())
}

/// Where a client's requests to a target go: `10.1.0.1:8000 10.1.0.2:8000`.
fn addresses(snapshot: &Snapshot, client: &str, target: &str) -> String {
    let Some(parent) = outbound(snapshot, client, target).parent.into_backend() else { return "unknown".to_owned() };
    let known = snapshot.backend(&parent).unwrap();
    known.endpoints.iter().map(|e| e.address.to_string()).collect::<Vec<_>>().join(" ")
}

/// All kinds of objects, with all kinds of values.
const EVERYTHING: &str = "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: { name: api, namespace: shop, creationTimestamp: '2026-01-01T00:00:00Z' }
spec:
  parentRefs: [{ group: '', kind: Service, name: api, sectionName: main }]
  rules:
    - matches: [{ path: { type: RegularExpression, value: '/[a-z]+' }, method: GET, headers: [{ name: x, value: v }] }]
      filters: [{ type: URLRewrite, urlRewrite: { path: { type: ReplacePrefixMatch, replacePrefixMatch: / } } }]
      backendRefs: [{ name: api, port: 80, weight: 3 }]
      timeouts: { request: 1s }
      retry: { codes: [503], attempts: 2, backoff: 10ms }
---
apiVersion: v1
kind: List
items:
  - apiVersion: remora.dev/v1alpha1
    kind: AuthorizationPolicy
    metadata: { name: p, namespace: shop }
    spec: { action: Deny, rules: [{ from: [{ cidrs: [10.0.0.0/8] }], to: [{ methods: [GET], paths: [/a/*] }] }] }
";

#[test]
fn no_change_of_a_byte_panics_or_loses_an_object_without_a_word() {
    let text = format!("{WORLD}---\n{EVERYTHING}");
    let whole = parse(&text, "test.yaml").whole().unwrap().len();
    assert_eq!(whole, 5);
    let mut rng = 1_u32;
    for at in (0..text.len()).step_by(2) {
        for with in [b'\n', b':', b'[', b'}', b'\'', b'9', b'&', b'\0'] {
            rng = rng.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            if rng >> 29 != 0 {
                continue; // an eighth of all, which ones is by chance, but always the same
            }
            let mut bytes = text.clone().into_bytes();
            bytes[at] = with;
            let parsed = parse(&String::from_utf8(bytes).unwrap(), "test.yaml");
            let (objects, mistakes) = (parsed.objects.len(), parsed.mistakes.len());
            let unused: usize = parsed.unused.values().sum();
            assert!(objects + unused >= whole || mistakes > 0, "byte {at}: something was lost without a word");
            let world = Snapshot::build(parsed.objects, &mesh());
            outbound(&world, "shop", "api:80");
            world.inbound("shop", "api-1", 8000);
        }
    }
}
