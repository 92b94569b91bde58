//! A namespace of a test's own, opted in if the run is meshed, which goes when the test ends.

use super::{Cluster, POD_PATIENCE, objects::text};
use anyhow::{Context as _, ensure};
use remora_kube::names;
use serde_json::{Value, json};
use std::{
    net::{IpAddr, TcpStream},
    time::Duration,
};

/// An echo Deployment with one Service: HTTP on 80, gRPC on 7070, bytes on 9090, a server that speaks first on 7777.
const ECHO: &str = "
apiVersion: v1
kind: Service
metadata: {name: $NAME}
spec:
  selector: {app: $NAME}
  ports:
    - {name: http, port: 80, targetPort: 8080}
    - {name: grpc, port: 7070}
    - {name: tcp, port: 9090}
    - {name: banner, port: 7777}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: $NAME}
spec:
  replicas: $REPLICAS
  selector: {matchLabels: {app: $NAME}}
  template:
    metadata: {labels: {app: $NAME}}
    spec:
      containers:
        - name: echo
          image: $IMAGE
          args: [--port=8080, --grpc=7070, --tcp=9090, --banner=7777, $ARGS]
          readinessProbe: {httpGet: {path: /ready, port: 8080}, periodSeconds: 1}
";

/// A namespace, by itself in the cluster.
#[derive(Debug)]
pub struct Scope<'a> {
    pub cluster: &'a Cluster,
    pub namespace: String,
}

impl Cluster {
    /// A new namespace, whose pods have a sidecar if the run is meshed.
    pub fn scope(&self, name: &str) -> anyhow::Result<Scope<'_>> {
        self.scope_opted(name, self.is_meshed())
    }

    /// A new namespace outside of the mesh.
    pub fn bare_scope(&self, name: &str) -> anyhow::Result<Scope<'_>> {
        self.scope_opted(name, false)
    }

    fn scope_opted(&self, name: &str, opted_in: bool) -> anyhow::Result<Scope<'_>> {
        let unique = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_millis()
            % 1_000_000;
        let namespace = format!("test-{name}-{unique:06}");
        let opted = if opted_in { names::ENABLED } else { names::DISABLED };
        let yaml = "apiVersion: v1\nkind: Namespace\nmetadata: {name: $NAME, annotations: {$INJECT: $OPTED}}";
        self.apply("", yaml, &[("NAME", &namespace), ("INJECT", names::INJECT), ("OPTED", opted)])?;
        let scope = Scope { cluster: self, namespace };
        // Pods need their namespace's account, which a controller makes.
        self.until(POD_PATIENCE, "the default service account", || {
            self.object(&scope.namespace, "v1/serviceaccounts", "default").map(Some)
        })?;
        if opted_in {
            scope.is_opted_in()?;
        }
        Ok(scope)
    }
}

impl Scope<'_> {
    /// Applies YAML in this namespace; `$IMAGE` and `$NGINX` are the images of the tests.
    pub fn apply(&self, yaml: &str, values: &[(&str, &str)]) -> anyhow::Result<()> {
        let images = &self.cluster.images;
        let mut all = vec![("IMAGE", &*images.echo), ("NGINX", &*images.nginx), ("NAMESPACE", &*self.namespace)];
        all.extend(values);
        self.cluster.apply(&self.namespace, yaml, &all)
    }

    /// An echo Deployment and its Service, rolled out and reached. `args` are further flags of the echo program, by commas.
    pub fn echo(&self, name: &str, replicas: u32, args: &str) -> anyhow::Result<()> {
        self.apply(ECHO, &[("NAME", name), ("REPLICAS", &replicas.to_string()), ("ARGS", args)])?;
        self.rolled_out("apps/v1/deployments", name)?;
        self.is_served(name)
    }

    /// Waits until the node's kube-proxy sends connections to a Service's cluster IP on. A Deployment that is rolled out
    /// says nothing of that: the endpoints travel by two watches more, and a pod without a sidecar is refused meanwhile.
    /// In somebody else's cluster, whose addresses are not reached from here, it waits for the ready endpoints alone.
    pub fn is_served(&self, service: &str) -> anyhow::Result<()> {
        let of_service = format!("kubernetes.io/service-name={service}");
        self.cluster.until(POD_PATIENCE, &format!("Service {service} has a ready endpoint"), || {
            let slices = self.cluster.objects(&self.namespace, "discovery.k8s.io/v1/endpointslices", &of_service)?;
            let mut endpoints = slices.iter().filter_map(|slice| slice["endpoints"].as_array()).flatten();
            Ok(endpoints.any(|endpoint| endpoint["conditions"]["ready"] == true).then_some(()))
        })?;
        if !self.cluster.is_own() {
            return Ok(());
        }
        let object = self.object("v1/services", service)?;
        let address: IpAddr = text(&object, "/spec/clusterIP")?.parse().context("no cluster IP")?;
        let ports = object["spec"]["ports"].as_array().context("no ports")?;
        for port in ports.iter().filter_map(|port| u16::try_from(port["port"].as_u64()?).ok()) {
            self.cluster.until(POD_PATIENCE, &format!("{address}:{port} of Service {service} is reached"), || {
                TcpStream::connect_timeout(&(address, port).into(), Duration::from_secs(1))?;
                Ok(Some(()))
            })?;
        }
        Ok(())
    }

    /// See [`Cluster::rolled_out`].
    pub fn rolled_out(&self, resource: &str, name: &str) -> anyhow::Result<()> {
        self.cluster.rolled_out(&self.namespace, resource, name, POD_PATIENCE * 2)
    }

    pub fn object(&self, resource: &str, name: &str) -> anyhow::Result<Value> {
        self.cluster.object(&self.namespace, resource, name)
    }

    /// The pods of a selector.
    pub fn pods(&self, selector: &str) -> anyhow::Result<Vec<Value>> {
        self.cluster.objects(&self.namespace, "v1/pods", selector)
    }

    /// The name of one ready pod of a selector.
    pub fn pod(&self, selector: &str) -> anyhow::Result<String> {
        let found = self.cluster.until(POD_PATIENCE, &format!("a ready pod of {selector}"), || {
            self.pods(selector)?.iter().find(|pod| is_ready(pod)).map(|pod| text(pod, "/metadata/name")).transpose()
        });
        found.with_context(|| self.cluster.pods_said(&self.namespace))
    }

    /// A pod that stays and is there to ask from, ready. Its container is named `echo`.
    pub fn client(&self, name: &str) -> anyhow::Result<String> {
        let yaml = "
apiVersion: v1
kind: Pod
metadata: {name: $NAME, labels: {app: $NAME}}
spec: {containers: [{name: echo, image: $IMAGE}]}";
        self.apply(yaml, &[("NAME", name)])?;
        self.pod(&format!("app={name}"))
    }

    /// Waits until a pod has run to its end, and well.
    pub fn succeeded(&self, selector: &str, patience: Duration) -> anyhow::Result<Value> {
        let ended = self.cluster.until(patience, &format!("a pod of {selector} succeeds"), || {
            let pods = self.pods(selector)?;
            ensure!(pods.iter().all(|pod| pod["status"]["phase"] != "Failed"), "it failed");
            Ok(pods.into_iter().find(|pod| pod["status"]["phase"] == "Succeeded"))
        });
        ended.with_context(|| self.cluster.pods_said(&self.namespace))
    }

    /// Sets or takes away the namespace's annotation.
    pub fn opt(&self, word: Option<&str>) -> anyhow::Result<()> {
        let patch = json!({"metadata": {"annotations": {names::INJECT: word}}});
        self.cluster.merge("", "v1/namespaces", &self.namespace, &patch)
    }

    /// An opt-in by annotation reaches the API server's webhook configuration a moment later: a bare pod made in between
    /// would be refused by the admission policy, never let in, but a test wants to make its pods once.
    fn is_opted_in(&self) -> anyhow::Result<()> {
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "opted-in"},
            "spec": {"containers": [{"name": "echo", "image": self.cluster.images.echo}]},
        });
        let api = kube::Api::<k8s_openapi::api::core::v1::Pod>::namespaced(self.cluster.client(), &self.namespace);
        let pod = serde_json::from_value(pod)?;
        let dry = kube::api::PostParams { dry_run: true, ..Default::default() };
        self.cluster.until(POD_PATIENCE, "the injector takes up the namespace", || {
            let made = serde_json::to_value(self.cluster.ask(api.create(&dry, &pod))?)?;
            Ok(has_sidecar(&made).then_some(()))
        })
    }
}

impl Drop for Scope<'_> {
    fn drop(&mut self) {
        if std::env::var_os("REMORA_CLUSTER_KEEP").is_some() {
            eprintln!("kept: namespace {}", self.namespace);
        } else if let Err(error) = self.cluster.delete("", "v1/namespaces", &self.namespace) {
            eprintln!("namespace {} could not be deleted: {error:#}", self.namespace);
        }
    }
}

/// Whether a pod is ready, and is not on its way out.
pub(super) fn is_ready(pod: &Value) -> bool {
    let conditions = pod.pointer("/status/conditions").and_then(Value::as_array);
    let ready = conditions.is_some_and(|all| all.iter().any(|it| it["type"] == "Ready" && it["status"] == "True"));
    ready && pod.pointer("/metadata/deletionTimestamp").is_none()
}

/// Whether a pod has the sidecar.
pub(super) fn has_sidecar(pod: &Value) -> bool {
    let containers = pod.pointer("/spec/initContainers").and_then(Value::as_array);
    containers.is_some_and(|all| all.iter().any(|container| container["name"] == names::PROXY_CONTAINER))
}
