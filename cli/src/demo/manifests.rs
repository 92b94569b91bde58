//! Writes the demo's Kubernetes objects: what discovery reads. The same YAML would go to a cluster.

use super::layout::{INBOUND_PORT, Layout, NAMESPACE, Pod, Role};
use std::{
    fmt::Write as _,
    fs, io,
    path::{Path, PathBuf},
};

const DENY_FILE: &str = "deny-cart.yaml";

/// Writes one file per kind of object into `dir`.
pub(crate) fn write(dir: &Path, layout: Layout) -> io::Result<()> {
    let pods: String = layout.pods().iter().map(|pod| self::pod(layout, pod)).collect();
    fs::write(dir.join("pods.yaml"), pods)?;
    let mut services = String::new();
    for role in [Role::Api, Role::Pricing, Role::Store] {
        services.push_str(&service(layout, role.name(), role, None));
        services.push_str(&endpoint_slice(layout, role.name(), role, None));
    }
    for version in ["v1", "v2"] {
        let name = format!("api-{version}");
        services.push_str(&service(layout, &name, Role::Api, Some(version)));
        services.push_str(&endpoint_slice(layout, &name, Role::Api, Some(version)));
    }
    fs::write(dir.join("services.yaml"), services)?;
    fs::write(dir.join("routes.yaml"), ROUTES)
}

/// Puts the policy of `--break deny` in place.
pub(crate) fn deny(dir: &Path) -> io::Result<()> {
    // Written beside and renamed: discovery never reads half a file.
    let (new, whole): (PathBuf, PathBuf) = (dir.join(".deny.tmp"), dir.join(DENY_FILE));
    fs::write(&new, DENY)?;
    fs::rename(new, whole)
}

/// Takes the policy of `--break deny` away again.
pub(crate) fn undeny(dir: &Path) -> io::Result<()> {
    match fs::remove_file(dir.join(DENY_FILE)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn pod(layout: Layout, pod: &Pod) -> String {
    let (ip, role) = (layout.ip(pod), pod.role.name());
    let mut text = format!(
        "---
apiVersion: v1
kind: Pod
metadata:
  name: {name}
  namespace: {NAMESPACE}
  labels: {{ app: {role}, version: {version}, topology.kubernetes.io/zone: {zone} }}
  annotations:
    # There is no redirection on one machine: peers dial the proxy itself.
    remora.dev/proxy-address: {ip}:{INBOUND_PORT}
spec:
  serviceAccountName: {role}
  containers:
    - name: app
      image: remora-demo
",
        name = pod.name,
        version = pod.version,
        zone = pod.zone,
    );
    if let Some(port) = pod.role.port() {
        let _ = writeln!(text, "      ports: [{{ containerPort: {port} }}]");
    }
    let _ = write!(
        text,
        "status:
  phase: Running
  podIP: {ip}
  podIPs: [{{ ip: {ip} }}]
  conditions: [{{ type: Ready, status: \"True\" }}]
"
    );
    text
}

fn service(layout: Layout, name: &str, role: Role, version: Option<&str>) -> String {
    let port = role.port().unwrap_or_default();
    let app_protocol = role.app_protocol().map(|it| format!(", appProtocol: {it}")).unwrap_or_default();
    // A version's own Service has no address: only routes point to it.
    let ip = if version.is_some() { "None".to_owned() } else { layout.cluster_ip(role).to_string() };
    let selector = version.map(|it| format!(", version: {it}")).unwrap_or_default();
    format!(
        "---
apiVersion: v1
kind: Service
metadata: {{ name: {name}, namespace: {NAMESPACE} }}
spec:
  clusterIP: {ip}
  clusterIPs: [{ip}]
  selector: {{ app: {app}{selector} }}
  ports: [{{ name: main, port: {port}, targetPort: {port}, protocol: TCP{app_protocol} }}]
",
        app = role.name()
    )
}

fn endpoint_slice(layout: Layout, name: &str, role: Role, version: Option<&str>) -> String {
    let port = role.port().unwrap_or_default();
    let app_protocol = role.app_protocol().map(|it| format!(", appProtocol: {it}")).unwrap_or_default();
    let mut text = format!(
        "---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{ name: {name}-1, namespace: {NAMESPACE}, labels: {{ kubernetes.io/service-name: {name} }} }}
addressType: IPv4
ports: [{{ name: main, port: {port}, protocol: TCP{app_protocol} }}]
endpoints:
"
    );
    for pod in layout.pods().iter().filter(|pod| pod.role == role && version.is_none_or(|it| it == pod.version)) {
        let _ = writeln!(
            text,
            "  - addresses: [{}]\n    conditions: {{ ready: true, serving: true, terminating: false }}\n    zone: {}\n    targetRef: {{ kind: Pod, name: {}, namespace: {NAMESPACE} }}",
            layout.ip(pod),
            pod.zone,
            pod.name
        );
    }
    text
}

/// Reads are retried and spread over all replicas; writes go 80:20 to the versions and are sent once.
const ROUTES: &str = "---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: { name: api, namespace: shop }
spec:
  parentRefs: [{ group: \"\", kind: Service, name: api, port: 8080 }]
  rules:
    - name: read
      matches: [{ method: GET, path: { type: PathPrefix, value: /items } }]
      timeouts: { request: 10s, backendRequest: 3s }
      retry: { codes: [500, 502, 503, 504], attempts: 3, backoff: 10ms }
      backendRefs: [{ name: api, port: 8080 }]
    - name: write
      matches: [{ method: POST, path: { type: Exact, value: /cart } }]
      timeouts: { request: 10s }
      backendRefs:
        - { name: api-v1, port: 8080, weight: 80 }
        - { name: api-v2, port: 8080, weight: 20 }
---
apiVersion: gateway.networking.k8s.io/v1
kind: GRPCRoute
metadata: { name: pricing, namespace: shop }
spec:
  parentRefs: [{ group: \"\", kind: Service, name: pricing, port: 9090 }]
  rules:
    - name: quote
      matches: [{ method: { service: shop.v1.Pricing, method: Quote } }]
      backendRefs: [{ name: pricing, port: 9090 }]
";

const DENY: &str = "---
apiVersion: remora.dev/v1alpha1
kind: AuthorizationPolicy
metadata: { name: deny-cart, namespace: shop }
spec:
  targetRefs: [{ group: \"\", kind: Service, name: api }]
  action: Deny
  rules:
    - from: [{ identities: [\"spiffe://cluster.local/ns/shop/sa/web\"] }]
      to: [{ methods: [POST], paths: [/cart] }]
";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::layout::TRUST_DOMAIN;

    #[test]
    fn the_deny_policy_names_the_identity_that_web_has() {
        assert!(DENY.contains(&format!("spiffe://{TRUST_DOMAIN}/ns/{NAMESPACE}/sa/{}", Role::Web.name())));
    }

    #[test]
    fn a_denial_can_be_taken_back_twice() {
        let dir = tempfile::tempdir().expect("temporary directory");
        deny(dir.path()).expect("written");
        assert!(dir.path().join(DENY_FILE).exists());
        undeny(dir.path()).expect("removed");
        undeny(dir.path()).expect("nothing to remove is no failure");
        assert_eq!(fs::read_dir(dir.path()).expect("readable").count(), 0);
    }

    #[test]
    fn every_replica_of_a_version_is_in_its_slice_alone() {
        let layout = Layout::candidates().next().expect("there are candidates");
        let v1 = endpoint_slice(layout, "api-v1", Role::Api, Some("v1"));
        assert!(v1.contains("api-1") && v1.contains("api-2") && !v1.contains("name: api-3"));
    }
}
