//! Objects in a namespace of their own. Pods are objects only: no scheduler takes them, and their status is written here.

use super::PATIENCE;
use futures_util::stream::{self, StreamExt as _};
use kube::{
    Client,
    api::{Api, ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams},
    core::GroupVersionKind,
};
use remora_api::sync::Name;
use serde_json::{Value, json};
use std::{
    fmt::Write as _,
    path::Path,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

/// Objects made at the same time.
const AT_ONCE: usize = 16;

/// Every kind that discovery reads, but for those without a namespace.
const KINDS: [(&str, &str); 9] = [
    ("v1", "Pod"),
    ("v1", "Service"),
    ("discovery.k8s.io/v1", "EndpointSlice"),
    ("gateway.networking.k8s.io/v1", "HTTPRoute"),
    ("gateway.networking.k8s.io/v1", "GRPCRoute"),
    ("gateway.networking.k8s.io/v1beta1", "ReferenceGrant"),
    ("remora.dev/v1alpha1", "AuthorizationPolicy"),
    ("remora.dev/v1alpha1", "MeshTLSPolicy"),
    ("remora.dev/v1alpha1", "BackendPolicy"),
];

/// The objects of one test. Dropped, their namespace goes.
pub(crate) struct Objects {
    client: Client,
    namespace: String,
}

fn resource(version: &str, kind: &str) -> ApiResource {
    let (group, version) = version.split_once('/').unwrap_or(("", version));
    let plural = match kind {
        "MeshTLSPolicy" => "meshtlspolicies".to_owned(),
        kind if kind.ends_with("Policy") => format!("{}ies", kind.to_lowercase().trim_end_matches('y')),
        kind => format!("{}s", kind.to_lowercase()),
    };
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind), &plural)
}

impl Objects {
    pub(crate) async fn in_new_namespace(name: &str) -> Self {
        let client = remora_kube::client::connect("remora-tests").await.unwrap();
        let unique = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() % 10_000_000;
        let objects = Self { client, namespace: format!("discovery-{name}-{unique}") };
        let annotations = json!({"remora.dev/inject": "disabled", "remora.dev/opaque-ports": "6379"});
        let metadata = json!({"name": objects.namespace, "annotations": annotations});
        objects.apply(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})).await;
        let accounts = objects.api("v1", "ServiceAccount");
        let began = Instant::now();
        // Pods need their namespace's account, which a controller makes.
        while accounts.get_opt("default").await.unwrap().is_none() {
            assert!(began.elapsed() < PATIENCE, "no service account");
        }
        objects
    }

    pub(crate) fn namespace(&self) -> &str {
        &self.namespace
    }

    fn api(&self, version: &str, kind: &str) -> Api<DynamicObject> {
        let resource = resource(version, kind);
        if kind == "Namespace" {
            return Api::all_with(self.client.clone(), &resource);
        }
        Api::namespaced_with(self.client.clone(), &self.namespace, &resource)
    }

    /// Makes an object; its status too, if it has one.
    pub(crate) async fn apply(&self, object: Value) {
        let text = |field: &Value| field.as_str().unwrap().to_owned();
        let (version, kind) = (text(&object["apiVersion"]), text(&object["kind"]));
        let (api, name) = (self.api(&version, &kind), text(&object["metadata"]["name"]));
        let params = PatchParams::apply("remora-tests").force();
        api.patch(&name, &params, &Patch::Apply(&object)).await.unwrap_or_else(|e| panic!("{object}: {e}"));
        if let Some(status) = object.get("status") {
            let patch = json!({"status": status});
            api.patch_status(&name, &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
        }
    }

    pub(crate) async fn apply_all(&self, objects: Vec<Value>) {
        stream::iter(objects).for_each_concurrent(AT_ONCE, |object| self.apply(object)).await;
    }

    pub(crate) async fn merge(&self, version: &str, kind: &str, name: &str, patch: &Value) {
        let patch = Patch::Merge(patch);
        self.api(version, kind).patch(name, &PatchParams::default(), &patch).await.unwrap();
    }

    async fn list(&self, version: &str, kind: &str) -> Vec<Value> {
        let list = self.api(version, kind).list(&ListParams::default()).await.unwrap();
        let typed = |object: DynamicObject| {
            let mut value = serde_json::to_value(object).unwrap();
            value["apiVersion"] = version.into();
            value["kind"] = kind.into();
            value
        };
        list.items.into_iter().map(typed).collect()
    }

    /// Writes everything of the namespace as manifests.
    pub(crate) async fn write_into(&self, directory: &Path) {
        let mut text = String::new();
        let mut namespace = self.api("v1", "Namespace").get(&self.namespace).await.unwrap();
        namespace.types = None;
        let mut all = vec![serde_json::to_value(namespace).unwrap()];
        all[0]["apiVersion"] = "v1".into();
        all[0]["kind"] = "Namespace".into();
        for (version, kind) in KINDS {
            all.extend(self.list(version, kind).await);
        }
        for object in all {
            writeln!(text, "---\n{object}").unwrap();
        }
        std::fs::write(directory.join("all.yaml"), text).unwrap();
    }

    /// Everything that a proxy of this namespace may ask for.
    pub(crate) async fn names(&self) -> Vec<Name> {
        let outbound = |host: &str, port: &Value| Name::Outbound(format!("{host}:{port}").parse().unwrap());
        let mut names = vec![Name::Inbound(8000), Name::Inbound(6379), Name::Inbound(1)];
        for service in self.list("v1", "Service").await {
            let ip = service["spec"]["clusterIP"].as_str().filter(|ip| !matches!(*ip, "None" | "")).map(str::to_owned);
            let name = service["metadata"]["name"].as_str().unwrap().to_owned();
            for port in service["spec"]["ports"].as_array().into_iter().flatten() {
                names.extend([&name].into_iter().chain(&ip).map(|host| outbound(host, &port["port"])));
            }
        }
        for pod in self.list("v1", "Pod").await {
            names.extend(pod["status"]["podIP"].as_str().map(|ip| outbound(ip, &json!(8000))));
        }
        names
    }
}

impl Drop for Objects {
    fn drop(&mut self) {
        let name = self.namespace.clone();
        // The runtime of the test is ending; this one is its own.
        let gone = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let client = remora_kube::client::connect("remora-tests").await.unwrap();
                let api: Api<DynamicObject> = Api::all_with(client, &resource("v1", "Namespace"));
                drop(api.delete(&name, &DeleteParams::default()).await);
            });
        });
        drop(gone.join());
    }
}

fn pod(name: &str, app: &str, ip: &str, more: &Value) -> Value {
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": app}},
        "spec": {
            // Nobody of this name schedules.
            "schedulerName": "remora-nobody",
            "containers": [{"name": "a", "image": "none", "ports": [{"name": "web", "containerPort": 8000}]}],
        },
        "status": {
            "phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}],
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    });
    merge(&mut pod, more);
    pod
}

/// What the injector adds to a pod, as far as discovery looks at it.
fn sidecar() -> Value {
    let env = json!([{"name": "REMORA_PROXY_LOG", "value": "info"}]);
    let proxy = json!({"name": "remora-proxy", "image": "none", "restartPolicy": "Always", "env": env});
    json!({"metadata": {"labels": {"remora.dev/injected": "true"}}, "spec": {"initContainers": [proxy]}})
}

fn merge(into: &mut Value, more: &Value) {
    match (into, more) {
        (Value::Object(into), Value::Object(more)) => {
            for (name, value) in more {
                merge(into.entry(name.clone()).or_insert(Value::Null), value);
            }
        }
        (into, more) => *into = more.clone(),
    }
}

fn service(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec})
}

fn slice(name: &str, service: &str, ports: Value, endpoints: Value) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": name, "labels": {"kubernetes.io/service-name": service}},
        "ports": ports, "endpoints": endpoints,
    })
}

fn route(kind: &str, name: &str, parent: &str, rules: Value) -> Value {
    let parent = json!({"group": "", "kind": "Service", "name": parent, "port": 80});
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": kind, "metadata": {"name": name},
        "spec": {"parentRefs": [parent], "rules": rules},
    })
}

fn policy(kind: &str, name: &str, spec: Value) -> Value {
    json!({"apiVersion": "remora.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec})
}

/// A little of everything.
pub(crate) async fn world(objects: &Objects) {
    let injected = sidecar();
    let opaque = json!({"metadata": {"annotations": {"remora.dev/opaque-ports": "9000-9100"}}});
    let sidecar = json!({"spec": {"initContainers": [
        {"name": "s", "image": "none", "restartPolicy": "Always", "ports": [{"name": "extra", "containerPort": 9001}]},
    ]}});
    let unready = json!({"status": {"conditions": [{"type": "Ready", "status": "False"}]}});
    let host = json!({"spec": {"hostNetwork": true, "containers": [{
        "name": "a", "image": "none", "ports": [{"name": "web", "containerPort": 8000, "hostPort": 8000}],
    }]}});
    let pods = [("api-0", &injected), ("api-1", &opaque), ("api-2", &sidecar), ("api-3", &unready), ("api-4", &host)];
    let pods = pods.iter().enumerate().map(|(i, (name, more))| pod(name, "api", &format!("10.254.1.{}", i + 1), more));
    objects.apply_all(pods.collect()).await;
    let web = json!([{"name": "http", "port": 80, "targetPort": "web", "appProtocol": "http"},
        {"name": "extra", "port": 90, "targetPort": "extra"}, {"name": "redis", "port": 6379}]);
    let by_hand = json!([{"addresses": ["10.254.1.1"]}, {"addresses": ["192.0.2.1"], "zone": "b", "hints": {"forZones": [{"name": "a"}]}},
        {"addresses": ["192.0.2.2"], "conditions": {"ready": false, "serving": true, "terminating": true}}]);
    let none = json!([]);
    let weighted = json!([{"backendRefs": [{"name": "api", "port": 80, "weight": 3}, {"name": "hand", "port": 80}]},
        {"matches": [{"path": {"type": "Exact", "value": "/gone"}}], "backendRefs": [{"name": "gone", "port": 80}]}]);
    let grpc = json!([{"matches": [{"method": {"service": "a.B", "method": "Get"}}], "backendRefs": [{"name": "api", "port": 80}]}]);
    objects
        .apply_all(vec![
            service("api", json!({"selector": {"app": "api"}, "ports": web})),
            service("headless", json!({"clusterIP": "None", "selector": {"app": "api"}, "ports": [{"port": 8000}]})),
            service("hand", json!({"ports": [{"port": 80}]})),
            service("empty", json!({"ports": [{"port": 80}]})),
            service("outside", json!({"type": "ExternalName", "externalName": "example.com"})),
            slice("hand-1", "hand", json!([{"port": 8000}]), by_hand),
            slice("empty-1", "empty", json!([{"port": 8000}]), none),
            route("HTTPRoute", "weighted", "hand", weighted),
            route("GRPCRoute", "grpc", "empty", grpc),
            policy("MeshTLSPolicy", "strict", json!({"mode": "Strict"})),
            policy(
                "BackendPolicy",
                "patient",
                json!({"targetRefs": [{"kind": "Service", "name": "api"}], "connectTimeout": "3s"}),
            ),
            policy(
                "AuthorizationPolicy",
                "some",
                json!({"targetRefs": [{"kind": "Service", "name": "api"}],
                    "rules": [{"from": [{"namespaces": ["web"]}], "to": [{"methods": ["GET"], "paths": ["/a/*"]}]}]}),
            ),
        ])
        .await;
    // The controller's slices come in their own time.
    let began = Instant::now();
    while objects.list("discovery.k8s.io/v1", "EndpointSlice").await.len() < 4 {
        assert!(began.elapsed() < PATIENCE, "no slices");
    }
}

/// Services `s0` to `sN` with pods of their own, by slices made by hand.
pub(crate) async fn many(objects: &Objects, services: usize, pods_each: usize) {
    let mut meshed = sidecar();
    merge(&mut meshed, &json!({"metadata": {"labels": {"version": "v1", "team": "shop"}}}));
    let mut all = Vec::new();
    for number in 0..services {
        let name = format!("s{number}");
        let pods = (0..pods_each).map(|i| {
            let at = number * pods_each + i;
            (format!("{name}-{i}"), format!("10.253.{}.{}", at / 250, at % 250 + 1))
        });
        let endpoints: Vec<Value> = pods
            .clone()
            .map(|(pod, ip)| json!({"addresses": [ip], "targetRef": {"kind": "Pod", "name": pod}}))
            .collect();
        all.extend(pods.map(|(pod_name, ip)| pod(&pod_name, &name, &ip, &meshed)));
        all.push(service(&name, json!({"ports": [{"name": "http", "port": 80}]})));
        all.push(slice(&name, &name, json!([{"name": "http", "port": 8000}]), json!(endpoints)));
    }
    objects.apply_all(all).await;
}
