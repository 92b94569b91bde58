//! Change under steady load: 200 requests a second from a pod, and none may fail.

use anyhow::{Context as _, ensure};
use remora_kube::names;
use remora_tests::cluster::{self, Cluster, Load, POD_PATIENCE, Scope};
use std::{process::ExitCode, time::Duration};

/// Requests a second of each load.
const RATE: &str = "--rate 200";
/// What is looked at before and after a change.
const CALM: Duration = Duration::from_secs(3);

fn main() -> ExitCode {
    cluster::run(&[
        ("nginx_without_pre_stop_restarts_and_no_new_connection_fails", |cluster| nginx(cluster, "--new-connections")),
        ("nginx_without_pre_stop_restarts_and_no_kept_connection_fails", |cluster| nginx(cluster, "")),
        ("one_to_twenty_pods_and_back_fails_nothing", scaling),
        ("five_rollouts_of_slow_and_hasty_pods_fail_nothing", rollouts),
        ("a_killed_sidecar_costs_its_requests_in_flight_at_most", killed_sidecar),
        ("a_namespace_is_meshed_and_unmeshed_and_nothing_fails", in_and_out),
    ])
}

/// Debian's nginx: on SIGTERM it drops its connections and its listener at once.
const NGINX: &str = "
apiVersion: v1
kind: Service
metadata: {name: nginx}
spec: {selector: {app: nginx}, ports: [{name: http, port: 80}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: nginx}
spec:
  replicas: 3
  selector: {matchLabels: {app: nginx}}
  template:
    metadata: {labels: {app: nginx}}
    spec:
      containers:
        - name: nginx
          image: $NGINX
          imagePullPolicy: IfNotPresent
          readinessProbe: {httpGet: {path: /, port: 80}, periodSeconds: 1}
";

fn nginx(cluster: &Cluster, connections: &str) -> anyhow::Result<()> {
    let scope = cluster.scope("nginx")?;
    scope.apply(NGINX, &[])?;
    scope.rolled_out("apps/v1/deployments", "nginx")?;
    scope.is_served("nginx")?;
    scope.expect_sidecars("app=nginx")?;
    let load = scope.load("load", "http://nginx/", &format!("{RATE} {connections}"))?;
    load.go_on(CALM)?;
    cluster.restart(&scope.namespace, "nginx")?;
    scope.rolled_out("apps/v1/deployments", "nginx")?;
    gone(&scope, "app=nginx", 3)?;
    load.go_on(CALM)?;
    load.stop()?.none_failed()
}

/// Fewer requests than elsewhere: twenty pods that start at once leave two cores little for them.
fn scaling(cluster: &Cluster) -> anyhow::Result<()> {
    let scope = cluster.scope("scale")?;
    scope.echo("web", 1, "")?;
    let load = scope.load("load", "http://web/", "--rate 50")?;
    load.go_on(CALM)?;
    for replicas in [20, 1] {
        cluster.scale(&scope.namespace, "web", replicas)?;
        scope.rolled_out("apps/v1/deployments", "web")?;
        gone(&scope, "app=web", replicas as usize)?;
        load.go_on(CALM)?;
    }
    let report = load.stop()?;
    ensure!(report.servers.len() >= 15, "only {} servers had requests", report.servers.len());
    report.none_failed()
}

/// Two Deployments behind one Service: one that lingers after SIGTERM, one that leaves after a preStop pause.
const MIXED: &str = "
apiVersion: v1
kind: Service
metadata: {name: mixed}
spec: {selector: {service: mixed}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: slow}
spec:
  replicas: 2
  selector: {matchLabels: {app: slow}}
  template:
    metadata: {labels: {app: slow, service: mixed}}
    spec:
      containers:
        - name: echo
          image: $IMAGE
          args: [--port=8080, --shutdown=slow, --linger=5s]
          readinessProbe: {httpGet: {path: /ready, port: 8080}, periodSeconds: 1}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: hasty}
spec:
  replicas: 2
  selector: {matchLabels: {app: hasty}}
  template:
    metadata: {labels: {app: hasty, service: mixed}}
    spec:
      containers:
        - name: echo
          image: $IMAGE
          args: [--port=8080, --shutdown=abrupt]
          lifecycle: {preStop: {sleep: {seconds: 3}}}
          readinessProbe: {httpGet: {path: /ready, port: 8080}, periodSeconds: 1}
";

fn rollouts(cluster: &Cluster) -> anyhow::Result<()> {
    let scope = cluster.scope("rollouts")?;
    scope.apply(MIXED, &[])?;
    for name in ["slow", "hasty"] {
        scope.rolled_out("apps/v1/deployments", name)?;
    }
    scope.is_served("mixed")?;
    let (fresh, kept) = (
        scope.load("fresh", "http://mixed/", &format!("{RATE} --new-connections"))?,
        scope.load("kept", "http://mixed/", RATE)?,
    );
    for _ in 0..5 {
        for name in ["slow", "hasty"] {
            cluster.restart(&scope.namespace, name)?;
            scope.rolled_out("apps/v1/deployments", name)?;
        }
    }
    gone(&scope, "service=mixed", 4)?;
    kept.go_on(CALM)?;
    let (fresh, kept) = (fresh.stop()?, kept.stop()?);
    fresh.none_failed()?;
    kept.none_failed()
}

/// The server's sidecar dies as if memory had run out. A request may be lost that it had in its hands; the others go
/// elsewhere, and the sidecar comes back.
fn killed_sidecar(cluster: &Cluster) -> anyhow::Result<()> {
    cluster.needs_mesh()?;
    cluster.needs_own()?;
    let scope = cluster.scope("killed")?;
    scope.echo("web", 2, "")?;
    let load = scope.load("load", "http://web/", RATE)?;
    load.go_on(CALM)?;
    let pod = scope.pod("app=web")?;
    scope.kill(&pod, names::PROXY_CONTAINER)?;
    cluster.until(POD_PATIENCE, "the sidecar is started again", || {
        let pod = scope.object("v1/pods", &pod)?;
        let statuses = pod["status"]["initContainerStatuses"].as_array().context("no sidecar")?.clone();
        let again = statuses.iter().any(|it| {
            it["name"] == names::PROXY_CONTAINER && it["restartCount"].as_u64() > Some(0) && it["ready"] == true
        });
        Ok(again.then_some(()))
    })?;
    load.go_on(CALM)?;
    let report = load.stop()?;
    // Half of 200 requests a second, each in flight for a few milliseconds: more than a handful were not in flight.
    ensure!(report.failed <= 5, "{report}");
    Ok(())
}

/// The story: opted in and restarted under load, then out again.
fn in_and_out(cluster: &Cluster) -> anyhow::Result<()> {
    cluster.needs_mesh()?;
    let (scope, outside) = (cluster.bare_scope("story")?, cluster.bare_scope("asking")?);
    // Lingers as every application should that is restarted under load.
    scope.echo("web", 2, "--shutdown=slow, --linger=5s")?;
    scope.echo("front", 1, "--shutdown=slow, --linger=5s")?;
    let url = format!("http://web.{}/", scope.namespace);
    let load: Load<'_> = outside.load("load", &url, &format!("{RATE} --new-connections"))?;
    load.go_on(CALM)?;
    for (word, sidecars) in [(names::ENABLED, true), (names::DISABLED, false)] {
        scope.opt(Some(word))?;
        for name in ["web", "front"] {
            cluster.restart(&scope.namespace, name)?;
            scope.rolled_out("apps/v1/deployments", name)?;
        }
        gone(&scope, "app=web", 2)?;
        for pod in scope.pods("app=web")? {
            let label = &pod["metadata"]["labels"][names::INJECTED];
            ensure!((label == "true") == sidecars, "{}: injected {label}", pod["metadata"]["name"]);
        }
        load.go_on(CALM)?;
    }
    load.stop()?.none_failed()
}

/// Waits until no pods of a selector are left but so many: those on their way out count.
fn gone(scope: &Scope<'_>, selector: &str, left: usize) -> anyhow::Result<()> {
    scope.cluster.until(POD_PATIENCE * 2, &format!("{left} pods of {selector} are left"), || {
        Ok((scope.pods(selector)?.len() == left).then_some(()))
    })
}
