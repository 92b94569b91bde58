//! Parts of the control plane, or the API server, are away: known traffic does not notice, new pods wait or are refused,
//! and everything comes back by itself.

use anyhow::{Context as _, ensure};
use remora_kube::names;
use remora_tests::cluster::{self, Cluster, POD_PATIENCE, Part, Scope};
use serde_json::Value;
use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

const RATE: &str = "--rate 200";
/// How soon the mesh must do again what it could not while something was away.
const BACK_WITHIN: Duration = Duration::from_secs(30);
/// How long the API server is away; REMORA_CLUSTER_LONG=1 makes it three minutes.
const AWAY: Duration = Duration::from_secs(30);
const AWAY_LONG: Duration = Duration::from_secs(180);

fn main() -> ExitCode {
    cluster::run(&[
        ("without_its_injector_opted_in_pods_are_refused_and_others_made_as_fast", without_injector),
        ("without_identity_known_traffic_goes_on_and_new_pods_wait", |cluster| without(cluster, names::IDENTITY)),
        ("without_discovery_known_traffic_goes_on_and_new_pods_wait", |cluster| without(cluster, names::DISCOVERY)),
        ("killed_parts_come_back_and_nothing_fails", killed_parts),
        ("a_node_whose_containers_all_died_comes_back_alone", crash),
        ("without_the_api_server_known_traffic_goes_on", without_api_server),
    ])
}

/// A part scaled to nothing until this is dropped.
struct Away<'a> {
    cluster: &'a Cluster,
    part: &'static str,
    replicas: u32,
}

impl<'a> Away<'a> {
    fn new(cluster: &'a Cluster, part: &'static str) -> anyhow::Result<Self> {
        let deployment = cluster.object(&cluster.control(), "apps/v1/deployments", part)?;
        let replicas = deployment["spec"]["replicas"].as_u64().unwrap_or(1);
        cluster.scale(&cluster.control(), part, 0)?;
        let away = Self { cluster, part, replicas: u32::try_from(replicas)? };
        cluster.until(POD_PATIENCE, &format!("{part} is away"), || {
            Ok(cluster
                .objects(&cluster.control(), "v1/pods", &format!("{}={part}", names::PART))?
                .is_empty()
                .then_some(()))
        })?;
        Ok(away)
    }

    fn back(self) -> anyhow::Result<()> {
        self.cluster.scale(&self.cluster.control(), self.part, self.replicas)?;
        self.cluster.rolled_out(&self.cluster.control(), "apps/v1/deployments", self.part, POD_PATIENCE)
    }
}

impl Drop for Away<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.cluster.scale(&self.cluster.control(), self.part, self.replicas) {
            eprintln!("{} is not back: {error:#}", self.part);
        }
    }
}

fn without_injector(cluster: &Cluster) -> anyhow::Result<()> {
    cluster.needs_mesh()?;
    let (scope, outside) = (cluster.scope("injector")?, cluster.bare_scope("outside")?);
    scope.echo("before", 1, "")?;
    let load = scope.load("load", "http://before/", RATE)?;
    let usual = creations(&outside, "usual")?;
    let away = Away::new(cluster, names::INJECTOR)?;

    let without = creations(&outside, "without")?;
    println!("    a pod elsewhere is made in {usual:?} with and {without:?} without the injector");
    ensure!(without < usual + Duration::from_millis(10), "{without:?} rather than {usual:?}");

    let refused = scope.client("refused").err().map(|error| format!("{error:#}")).context("a pod was let in bare")?;
    let (_, message) = refused.split_once("denied request: ").context(refused.clone())?;
    let message = message.lines().next().unwrap_or_default().split(": Invalid").next().unwrap_or_default();
    println!("    refused: {message}");
    ensure!(message.contains("remora"), "the refusal does not say what to do");
    // A Deployment's pods are refused and tried again.
    cluster.restart(&scope.namespace, "before")?;

    let returned = Instant::now();
    away.back()?;
    scope.rolled_out("apps/v1/deployments", "before")?;
    println!("    its pods exist {:.1} s after the injector's return", returned.elapsed().as_secs_f32());
    ensure!(returned.elapsed() < BACK_WITHIN, "after {:?}", returned.elapsed());
    scope.expect_sidecars("app=before")?;
    load.stop()?.none_failed()
}

/// The median time of making a pod, tried and not kept.
fn creations(scope: &Scope<'_>, name: &str) -> anyhow::Result<Duration> {
    let pod = serde_json::json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"containers": [{"name": "echo", "image": "local/echo:dev"}]}});
    let pod: k8s_openapi::api::core::v1::Pod = serde_json::from_value(pod)?;
    let api = kube::Api::namespaced(scope.cluster.client(), &scope.namespace);
    let dry = kube::api::PostParams { dry_run: true, ..Default::default() };
    let mut took = Vec::new();
    for _ in 0..31 {
        let began = Instant::now();
        scope.cluster.ask(api.create(&dry, &pod))?;
        took.push(began.elapsed());
    }
    took.sort_unstable();
    Ok(took[took.len() / 2])
}

fn without(cluster: &Cluster, part: &'static str) -> anyhow::Result<()> {
    cluster.needs_mesh()?;
    let scope = cluster.scope("without")?;
    scope.echo("web", 2, "")?;
    let load = scope.load("load", "http://web/", RATE)?;
    let away = Away::new(cluster, part)?;
    load.go_on(Duration::from_secs(10))?;
    // A new pod of the server: it is made, and waits for its certificate or its configuration.
    cluster.restart(&scope.namespace, "web")?;
    load.go_on(Duration::from_secs(5))?;
    let returned = Instant::now();
    away.back()?;
    scope.rolled_out("apps/v1/deployments", "web")?;
    println!("    new pods are ready {:.1} s after the return of {part}", returned.elapsed().as_secs_f32());
    ensure!(returned.elapsed() < BACK_WITHIN, "after {:?}", returned.elapsed());
    load.go_on(Duration::from_secs(3))?;
    load.stop()?.none_failed()
}

fn killed_parts(cluster: &Cluster) -> anyhow::Result<()> {
    cluster.needs_mesh()?;
    cluster.needs_own()?;
    let scope = cluster.scope("parts")?;
    scope.echo("web", 2, "")?;
    let load = scope.load("load", "http://web/", &format!("{RATE} --new-connections"))?;
    for part in [names::IDENTITY, names::DISCOVERY, names::INJECTOR] {
        let control = cluster.control();
        for pod in cluster.objects(&control, "v1/pods", &format!("{}={part}", names::PART))? {
            let name = pod["metadata"]["name"].as_str().context("no name")?;
            let container = pod["spec"]["containers"][0]["name"].as_str().context("no container")?;
            cluster.kill(&control, name, container)?;
            cluster.until(POD_PATIENCE, &format!("{name} is killed"), || {
                let pod = cluster.object(&control, "v1/pods", name)?;
                Ok((pod["status"]["containerStatuses"][0]["restartCount"].as_u64() > Some(0)).then_some(()))
            })?;
        }
        cluster.rolled_out(&control, "apps/v1/deployments", part, POD_PATIENCE)?;
        load.after(400)?;
    }
    load.stop()?.none_failed()
}

/// Requests go on while the API server is gone, and after its return a new pod meshes in time.
fn without_api_server(cluster: &Cluster) -> anyhow::Result<()> {
    cluster.needs_own()?;
    let long = std::env::var_os("REMORA_CLUSTER_LONG").is_some_and(|set| set == "1");
    let scope = cluster.scope("apiserver")?;
    scope.echo("web", 2, "")?;
    let (fresh, kept) = (
        scope.load("fresh", "http://web/", &format!("{RATE} --new-connections"))?,
        scope.load("kept", "http://web/", RATE)?,
    );
    let away = cluster.stop(Part::ApiServer)?;
    std::thread::park_timeout(if long { AWAY_LONG } else { AWAY });
    away.resume()?;
    cluster.until(POD_PATIENCE, "the API server is back", || {
        cluster.object(&scope.namespace, "v1/services", "web").map(Some)
    })?;
    let returned = Instant::now();
    // It answers before it can do everything: addresses for Services and controllers come later, for pods of any kind.
    let bare = cluster.bare_scope("away-bare")?;
    cluster.until(POD_PATIENCE, "a new application is made without the mesh", || bare.echo("late", 1, "").map(Some))?;
    let cluster_back = returned.elapsed();
    cluster.until(POD_PATIENCE, "a new application is made", || scope.echo("late", 1, "").map(Some))?;
    let late = returned.elapsed().saturating_sub(cluster_back);
    println!(
        "    a new pod is ready {:.1} s after the API server's return, one in the mesh {:.1} s later",
        cluster_back.as_secs_f32(),
        late.as_secs_f32()
    );
    scope.expect_sidecars("app=late")?;
    cluster.until(
        POD_PATIENCE,
        "the new application is called by its name, once the cluster's DNS knows it",
        || {
            let said = scope.get(&fresh.pod, "http://late/")?.well()?;
            ensure!(said.status() == Some(200), "{}", said.out);
            Ok(Some(()))
        },
    )?;
    let (fresh, kept) = (fresh.stop()?, kept.stop()?);
    fresh.none_failed()?;
    kept.none_failed()?;
    ensure!(late < BACK_WITHIN, "a new pod was ready after {late:?}");
    Ok(())
}

/// As after a power cut: applications, sidecars and control plane start at once, each needing another.
fn crash(cluster: &Cluster) -> anyhow::Result<()> {
    cluster.needs_own()?;
    let scope = cluster.scope("crash")?;
    scope.echo("web", 2, "")?;
    let client = scope.client("client")?;
    cluster.crash()?;
    let began = Instant::now();
    let restarted = |selector: &str| -> anyhow::Result<bool> {
        let pods = scope.pods(selector)?;
        let again = |pod: &Value| pod["status"]["containerStatuses"][0]["restartCount"].as_u64() > Some(0);
        Ok(!pods.is_empty() && pods.iter().all(again))
    };
    cluster.until(POD_PATIENCE, "the applications are started again", || {
        Ok((restarted("app=web")? && restarted("app=client")?).then_some(()))
    })?;
    scope.rolled_out("apps/v1/deployments", "web")?;
    if cluster.is_meshed() {
        for part in [names::IDENTITY, names::DISCOVERY, names::INJECTOR] {
            cluster.rolled_out(&cluster.control(), "apps/v1/deployments", part, POD_PATIENCE)?;
        }
    }
    let answered = cluster.until(POD_PATIENCE, "the client is answered again", || {
        let said = scope.get(&client, "http://web/")?.well()?;
        ensure!(said.status() == Some(200), "{}", said.out);
        ensure!(said.request_header("x-remora-client-id").is_some() == cluster.is_meshed(), "{}", said.out);
        Ok(Some(()))
    });
    answered.with_context(|| cluster.pods_said(&scope.namespace))?;
    println!("    everything works {:.1} s after all containers died", began.elapsed().as_secs_f32());
    Ok(())
}
