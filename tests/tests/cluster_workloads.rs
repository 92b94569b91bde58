//! Everything that Kubernetes runs goes on working in a meshed namespace as it did before. The same tests pass without a
//! mesh (`REMORA_CLUSTER_MESHED=0`).

use anyhow::{Context as _, ensure};
use remora_tests::cluster::{self, Cluster, POD_PATIENCE, Scope};
use serde_json::json;
use std::{collections::BTreeSet, process::ExitCode, time::Duration};

/// What a mesh may add to the first byte of a server that speaks first.
const GREETING_MAX: Duration = Duration::from_millis(20);
/// Greetings of which the median counts.
const GREETINGS: usize = 9;

fn main() -> ExitCode {
    cluster::run(&[
        ("a_deployment_is_reached_by_its_service", deployment),
        ("a_job_completes", job),
        ("a_cron_jobs_jobs_complete", cron_job),
        ("a_stateful_sets_pods_are_reached_by_name", stateful_set),
        ("a_pods_own_init_containers_and_sidecars_work", own_containers),
        ("a_restricted_namespace_says_what_it_refuses", restricted),
        ("a_host_network_pod_serves_and_asks", host_network),
        ("a_service_without_a_selector_is_reached", no_selector),
        ("a_client_keeps_to_one_endpoint_where_the_service_says_so", session_affinity),
        ("a_node_port_is_reached_from_outside_the_mesh", node_port),
        ("port_forward_exec_and_logs_work", by_kubectl),
        ("a_server_that_speaks_first_is_heard_at_once", speaks_first),
        ("grpc_and_websocket_cross_between_pods", grpc_and_web_socket),
        ("probes_see_the_application_and_not_the_sidecar", probes),
        ("a_pod_that_ends_slowly_finishes_its_answer", slow_answer),
    ])
}

fn deployment(cluster: &Cluster) -> anyhow::Result<()> {
    let scope = cluster.scope("deployment")?;
    scope.echo("web", 2, "")?;
    scope.expect_sidecars("app=web")?;
    let client = scope.client("client")?;
    let said = scope.get(&client, "http://web/hello?a=b")?.well()?;
    ensure!(said.status() == Some(200) && said.fact("URL") == Some("/hello?a=b"), "{}", said.out);
    let caller = said.request_header("x-remora-client-id").map(str::to_owned);
    let meshed = format!("spiffe://cluster.local/ns/{}/sa/default", scope.namespace);
    ensure!(caller == cluster.is_meshed().then_some(meshed), "the caller is {caller:?}");
    Ok(())
}

fn job(cluster: &Cluster) -> anyhow::Result<()> {
    let scope = cluster.scope("job")?;
    scope.echo("web", 1, "")?;
    let yaml = "
apiVersion: batch/v1
kind: Job
metadata: {name: once}
spec:
  completions: 3
  parallelism: 2
  backoffLimit: 0
  template:
    metadata: {labels: {app: once}}
    spec:
      restartPolicy: Never
      containers: [{name: echo, image: $IMAGE, args: [client, http://web/]}]";
    scope.apply(yaml, &[])?;
    let completed = cluster.until(POD_PATIENCE, "the Job completes", || {
        Ok((scope.object("batch/v1/jobs", "once")?["status"]["succeeded"] == 3).then_some(()))
    });
    completed.with_context(|| cluster.pods_said(&scope.namespace))?;
    scope.expect_sidecars("app=once")
}

fn cron_job(cluster: &Cluster) -> anyhow::Result<()> {
    let scope = cluster.scope("cron")?;
    scope.echo("web", 1, "")?;
    let yaml = "
apiVersion: batch/v1
kind: CronJob
metadata: {name: minutely}
spec:
  schedule: '* * * * *'
  jobTemplate:
    spec:
      backoffLimit: 0
      template:
        metadata: {labels: {app: minutely}}
        spec:
          restartPolicy: Never
          containers: [{name: echo, image: $IMAGE, args: [client, http://web/]}]";
    scope.apply(yaml, &[])?;
    scope.succeeded("app=minutely", Duration::from_secs(60) + POD_PATIENCE)?;
    scope.expect_sidecars("app=minutely")
}

fn stateful_set(cluster: &Cluster) -> anyhow::Result<()> {
    let scope = cluster.scope("stateful")?;
    let yaml = "
apiVersion: v1
kind: Service
metadata: {name: db}
spec: {clusterIP: None, selector: {app: db}, ports: [{name: http, port: 8080}, {name: tcp, port: 9090}]}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db}
spec:
  serviceName: db
  replicas: 2
  podManagementPolicy: Parallel
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec: {containers: [{name: echo, image: $IMAGE, args: [--port=8080, --tcp=9090]}]}";
    scope.apply(yaml, &[])?;
    scope.rolled_out("apps/v1/statefulsets", "db")?;
    scope.expect_sidecars("app=db")?;
    let client = scope.client("client")?;
    for pod in ["db-0", "db-1"] {
        let answered = cluster.until(POD_PATIENCE, &format!("{pod} answers by its name"), || {
            let said = scope.get(&client, &format!("http://{pod}.db:8080/"))?.well()?;
            ensure!(said.fact("Hostname") == Some(pod), "{}", said.out);
            Ok(Some(()))
        });
        answered.with_context(|| cluster.pods_said(&scope.namespace))?;
        let said =
            scope.exec(&client, "echo", &["client", "--body=marker\n", &format!("tcp://{pod}.db:9090")])?.well()?;
        ensure!(said.body() == "marker", "{}", said.out);
    }
    // From a pod of the set to its sibling, as databases replicate.
    let said = scope.get("db-0", "http://db-1.db:8080/")?.well()?;
    ensure!(said.fact("Hostname") == Some("db-1"), "{}", said.out);
    Ok(())
}

/// An init container that needs the network, a native sidecar and a second container, all at once.
fn own_containers(cluster: &Cluster) -> anyhow::Result<()> {
    let scope = cluster.scope("containers")?;
    scope.echo("web", 1, "")?;
    let yaml = "
apiVersion: v1
kind: Pod
metadata: {name: many, labels: {app: many}}
spec:
  restartPolicy: Never
  initContainers:
    - {name: fetch, image: $IMAGE, args: [client, http://web/fetched-before-start]}
    - {name: helper, image: $IMAGE, restartPolicy: Always, args: [--port=8088], startupProbe: {httpGet: {path: /ready, port: 8088}, periodSeconds: 1}}
  containers:
    - {name: echo, image: $IMAGE, args: [client, http://127.0.0.1:8088/by-loopback]}
    - {name: other, image: $IMAGE, args: [client, http://web/by-service]}";
    scope.apply(yaml, &[])?;
    scope.succeeded("app=many", POD_PATIENCE)?;
    scope.expect_sidecars("app=many")?;
    for (container, path) in [("fetch", "/fetched-before-start"), ("echo", "/by-loopback"), ("other", "/by-service")] {
        let log = scope.logs("many", container)?;
        ensure!(log.contains(&format!("URL={path}")) && log.contains("StatusCode=200"), "{container}: {log}");
    }
    Ok(())
}

/// Bare, a pod as the profile wants it runs; meshed, the refusal names our container, and `docs/injection.md` what to do.
fn restricted(cluster: &Cluster) -> anyhow::Result<()> {
    let scope = cluster.scope("restricted")?;
    let enforce = |profile: &str| {
        let labels = json!({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": profile}}});
        cluster.merge("", "v1/namespaces", &scope.namespace, &labels)
    };
    let yaml = "
apiVersion: v1
kind: Pod
metadata: {name: careful, labels: {app: careful}}
spec:
  securityContext: {runAsNonRoot: true, runAsUser: 10001, seccompProfile: {type: RuntimeDefault}}
  containers:
    - name: echo
      image: $IMAGE
      securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}";
    enforce("restricted")?;
    if cluster.is_meshed() {
        let refused = cluster.until(POD_PATIENCE, "the profile is enforced", || {
            let Err(error) = scope.apply(yaml, &[]) else {
                // Let in by what admission knew of the namespace a moment before.
                return cluster.delete(&scope.namespace, "v1/pods", "careful").map(|()| None);
            };
            Ok(Some(format!("{error:#}")))
        })?;
        ensure!(refused.contains("PodSecurity") && refused.contains("remora-init"), "{refused}");
        enforce("privileged")?;
    }
    cluster.until(POD_PATIENCE, "the pod is let in", || scope.apply(yaml, &[]).map(Some))?;
    scope.pod("app=careful")?;
    scope.expect_sidecars("app=careful")
}

fn host_network(cluster: &Cluster) -> anyhow::Result<()> {
    let scope = cluster.scope("host")?;
    let yaml = "
apiVersion: v1
kind: Service
metadata: {name: host}
spec: {selector: {app: host}, ports: [{name: http, port: 80, targetPort: 18080}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: host}
spec:
  replicas: 1
  strategy: {type: Recreate}
  selector: {matchLabels: {app: host}}
  template:
    metadata: {labels: {app: host}}
    spec:
      hostNetwork: true
      dnsPolicy: ClusterFirstWithHostNet
      containers: [{name: echo, image: $IMAGE, args: [--port=18080]}]";
    scope.apply(yaml, &[])?;
    scope.rolled_out("apps/v1/deployments", "host")?;
    scope.is_served("host")?;
    scope.echo("web", 1, "")?;
    let (client, host) = (scope.client("client")?, scope.pod("app=host")?);
    let said = scope.get(&client, "http://host/to-the-host")?.well()?;
    ensure!(said.fact("URL") == Some("/to-the-host"), "{}", said.out);
    let said = scope.get(&host, "http://web/from-the-host")?.well()?;
    ensure!(said.fact("URL") == Some("/from-the-host"), "{}", said.out);
    Ok(())
}

/// A Service whose endpoints somebody else writes, here those of a pod outside the mesh.
fn no_selector(cluster: &Cluster) -> anyhow::Result<()> {
    let (scope, outside) = (cluster.scope("noselector")?, cluster.bare_scope("outside")?);
    outside.echo("web", 1, "")?;
    let pod = outside.object("v1/pods", &outside.pod("app=web")?)?;
    let ip = pod["status"]["podIP"].as_str().context("no address")?;
    let yaml = "
apiVersion: v1
kind: Service
metadata: {name: legacy}
spec: {ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: legacy-1, labels: {kubernetes.io/service-name: legacy}}
addressType: IPv4
ports: [{name: http, port: 8080, protocol: TCP}]
endpoints: [{addresses: [$IP], conditions: {ready: true}}]";
    scope.apply(yaml, &[("IP", ip)])?;
    let client = scope.client("client")?;
    cluster.until(POD_PATIENCE, "the hand-written endpoint answers", || {
        let said = scope.get(&client, "http://legacy/")?.well()?;
        ensure!(said.fact("ServicePort") == Some("8080"), "{}", said.out);
        Ok(Some(()))
    })
}

fn session_affinity(cluster: &Cluster) -> anyhow::Result<()> {
    let scope = cluster.scope("affinity")?;
    scope.echo("web", 3, "")?;
    let yaml = "
apiVersion: v1
kind: Service
metadata: {name: kept}
spec: {sessionAffinity: ClientIP, selector: {app: web}, ports: [{name: http, port: 80, targetPort: 8080}]}";
    scope.apply(yaml, &[])?;
    let client = scope.client("client")?;
    cluster.until(POD_PATIENCE, "the Service answers", || Ok(scope.get(&client, "http://kept/")?.well().ok()))?;
    let mut answered = BTreeSet::new();
    for _ in 0..20 {
        let said = scope.get(&client, "http://kept/")?.well()?;
        answered.insert(said.fact("Hostname").context("no Hostname")?.to_owned());
    }
    ensure!(answered.len() == 1, "{answered:?}");
    Ok(())
}

fn node_port(cluster: &Cluster) -> anyhow::Result<()> {
    let (scope, outside) = (cluster.scope("nodeport")?, cluster.bare_scope("outside")?);
    scope.echo("web", 1, "")?;
    let yaml = "
apiVersion: v1
kind: Service
metadata: {name: open}
spec: {type: NodePort, selector: {app: web}, ports: [{name: http, port: 80, targetPort: 8080}]}";
    scope.apply(yaml, &[])?;
    let port = &scope.object("v1/services", "open")?["spec"]["ports"][0]["nodePort"];
    let pod = scope.object("v1/pods", &scope.pod("app=web")?)?;
    let node = pod["status"]["hostIP"].as_str().context("no node")?;
    let client = outside.client("client")?;
    cluster.until(POD_PATIENCE, "the node port answers", || {
        let said = outside.get(&client, &format!("http://{node}:{port}/"))?.well()?;
        ensure!(said.status() == Some(200), "{}", said.out);
        Ok(Some(()))
    })
}

fn by_kubectl(cluster: &Cluster) -> anyhow::Result<()> {
    let scope = cluster.scope("kubectl")?;
    scope.echo("web", 1, "")?;
    let pod = scope.pod("app=web")?;
    let forwarded = scope.port_forward(&pod, 8080, "/forwarded")?;
    ensure!(forwarded.starts_with("HTTP/1.1 200 ") && forwarded.contains("URL=/forwarded"), "{forwarded}");
    let said = scope.get(&pod, "http://127.0.0.1:8080/by-exec")?.well()?;
    ensure!(said.fact("URL") == Some("/by-exec"), "{}", said.out);
    let log = scope.logs(&pod, "echo")?;
    ensure!(log.contains("serving HTTP on 8080"), "{log}");
    Ok(())
}

fn speaks_first(cluster: &Cluster) -> anyhow::Result<()> {
    let (scope, outside) = (cluster.scope("banner")?, cluster.bare_scope("outside")?);
    scope.echo("mail", 1, "")?;
    let url = format!("tcp://mail.{}:7777", scope.namespace);
    for (who, from) in [("a client of the mesh", &scope), ("a client outside of it", &outside)] {
        let client = from.client("client")?;
        let count = format!("--count={GREETINGS}");
        let said = from.exec(&client, "echo", &["client", &count, &url])?.well()?;
        ensure!(said.body().matches("220 ").count() == GREETINGS, "{who}: {}", said.out);
        let mut took: Vec<Duration> = said.out.lines().filter_map(latency).collect();
        took.sort_unstable();
        let median = took.get(GREETINGS / 2).copied().context("no latencies")?;
        println!("    {who}: greeted after {median:?}, the slowest after {:?}", took.last());
        ensure!(median <= GREETING_MAX, "{who} waits for {median:?}");
    }
    Ok(())
}

/// `[0] Latency=1.5ms`, as Rust writes durations.
fn latency(line: &str) -> Option<Duration> {
    let text = line.split_once("Latency=")?.1;
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let number: f64 = text[..digits].parse().ok()?;
    let seconds = match &text[digits..] {
        "ns" => 1e-9,
        "µs" => 1e-6,
        "ms" => 1e-3,
        _ => 1.0,
    };
    Some(Duration::from_secs_f64(number * seconds))
}

fn grpc_and_web_socket(cluster: &Cluster) -> anyhow::Result<()> {
    let scope = cluster.scope("protocols")?;
    scope.echo("web", 1, "")?;
    let client = scope.client("client")?;
    let ask = |args: &[&str]| scope.exec(&client, "echo", &[&["client"], args].concat())?.well();
    let said = ask(&["--body=hello", "grpc://web:7070"])?;
    ensure!(said.status() == Some(200) && said.fact("Echo") == Some("hello"), "{}", said.out);
    let said = ask(&["grpc://web:7070/any.Service/status/7"])?;
    ensure!(said.status() == Some(7), "{}", said.out);
    let said = ask(&["--body=hello", "ws://web/socket"])?;
    ensure!(said.body() == "hello", "{}", said.out);
    let said = ask(&["h2c://web/by-http2"])?;
    ensure!(said.fact("Proto") == Some("HTTP/2.0"), "{}", said.out);
    let said = ask(&["http://web/by-http1"])?;
    ensure!(said.fact("Proto") == Some("HTTP/1.1"), "{}", said.out);
    let said = ask(&["--method=POST", "--body=marker", "http://web/mirror"])?;
    ensure!(said.body() == "marker", "{}", said.out);
    Ok(())
}

/// A pod whose application is not ready must not be, whatever its sidecar accepts; one that is not live is restarted.
fn probes(cluster: &Cluster) -> anyhow::Result<()> {
    let scope = cluster.scope("probes")?;
    let yaml = "
apiVersion: v1
kind: Pod
metadata: {name: probed, labels: {app: probed}}
spec:
  containers:
    - name: echo
      image: $IMAGE
      args: [--port=8080, --ready-after=3s]
      readinessProbe: {httpGet: {path: /ready, port: 8080}, periodSeconds: 1, failureThreshold: 1}
      livenessProbe: {httpGet: {path: /live, port: 8080}, periodSeconds: 1, failureThreshold: 2}
    - name: closed
      image: $IMAGE
      args: [--tcp=9090]
      readinessProbe: {tcpSocket: {port: 9091}, periodSeconds: 1, failureThreshold: 1}";
    scope.apply(yaml, &[])?;
    let ready = |container: &str| -> anyhow::Result<bool> {
        let pod = scope.object("v1/pods", "probed")?;
        let statuses = pod["status"]["containerStatuses"].as_array().context("no containers yet")?.clone();
        Ok(statuses.iter().any(|status| status["name"] == container && status["ready"] == true))
    };
    let until = |what: &str, wanted: bool| {
        let seen = cluster.until(POD_PATIENCE, what, || Ok((ready("echo")? == wanted).then_some(())));
        seen.with_context(|| cluster.pods_said(&scope.namespace))
    };
    until("the application says that it is ready", true)?;
    scope.get("probed", "http://127.0.0.1:8080/set?ready=false")?.well()?;
    until("the application says that it is not", false)?;
    ensure!(!ready("closed")?, "a port that nobody listens on counts as ready");
    scope.get("probed", "http://127.0.0.1:8080/set?live=false")?.well()?;
    cluster.until(POD_PATIENCE, "a dead application is restarted", || {
        let pod = scope.object("v1/pods", "probed")?;
        let statuses = pod["status"]["containerStatuses"].as_array().context("no containers")?.clone();
        let restarted =
            |status: &serde_json::Value| status["name"] == "echo" && status["restartCount"].as_u64() > Some(0);
        Ok(statuses.iter().any(restarted).then_some(()))
    })
}

/// The sidecar outlives the application: an answer that takes longer than the pod's first moment of goodbye arrives.
fn slow_answer(cluster: &Cluster) -> anyhow::Result<()> {
    let scope = cluster.scope("slow")?;
    scope.echo("web", 1, "")?;
    let (client, pod) = (scope.client("client")?, scope.pod("app=web")?);
    let asked = std::thread::scope(|threads| {
        let scope: &Scope<'_> = &scope;
        let asking = threads.spawn(|| scope.get(&client, "http://web/slow?for=6s"));
        // The answer is on its way once the server has counted the request; a moment is enough.
        std::thread::park_timeout(Duration::from_secs(1));
        cluster.delete(&scope.namespace, "v1/pods", &pod)?;
        asking.join().map_err(|_| anyhow::anyhow!("panicked"))?
    });
    let said = asked?.well()?;
    ensure!(said.fact("Hostname") == Some(&*pod), "{}", said.out);
    Ok(())
}
