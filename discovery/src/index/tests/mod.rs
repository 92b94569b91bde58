//! What objects mean, by the Gateway API, by Kubernetes, and by our own promises.

mod endpoints;
mod policies;
mod routes;
mod targets;

use super::*;
use crate::source::parse::parse;

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

fn snapshot(text: &str) -> Snapshot {
    let trust_domain = TrustDomain::new("cluster.local").unwrap();
    Snapshot::build(parse(text, "test.yaml").whole().unwrap(), &trust_domain)
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
    let Some(parent) = outbound(snapshot, client, target).parent else { return "unknown".to_owned() };
    let known = snapshot.backend(&parent).unwrap();
    known.backend.endpoints.iter().map(|e| e.address.to_string()).collect::<Vec<_>>().join(" ")
}
