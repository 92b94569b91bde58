//! A cluster with many Services: discovery stays small, and a change arrives soon.

use anyhow::{Context as _, ensure};
use futures_util::future::try_join_all;
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api,
    api::{DynamicObject, Patch, PatchParams, PostParams},
    core::{ApiResource, GroupVersionKind},
};
use remora_kube::names;
use remora_tests::cluster::{self, Cluster, POD_PATIENCE, Part, Scope};
use serde_json::{Value, json};
use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

const SERVICES: usize = 500;
/// Of each Service: 2 000 in all.
const ENDPOINTS: usize = 4;
/// Discovery's resident memory, all of it.
const RSS_MAX: u64 = 60 << 20;
/// From the change of an EndpointSlice to the sending of the first request that goes to its new address.
const ARRIVES_WITHIN: Duration = Duration::from_secs(1);
const CHANGES: usize = 6;
/// Pods of a larger world, and how many of them are a Service's.
const CROWD: usize = 5000;
const CROWD_OF_SERVICE: usize = 10;
/// How long the API server is away from it; REMORA_CLUSTER_LONG=1 asks for that, and for etcd's snapshot.
const AWAY: Duration = Duration::from_secs(180);

fn main() -> ExitCode {
    cluster::run(&[
        ("five_hundred_services_keep_discovery_small_and_changes_quick", many),
        ("five_thousand_pods_outlive_discovery_the_api_server_and_a_restored_etcd", crowded),
    ])
}

/// A Service whose endpoints are written by hand, as many others have them: nobody answers there.
const FILLER: &str = "
apiVersion: v1
kind: Service
metadata: {name: filler-$NUMBER}
spec: {ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: filler-$NUMBER-1, labels: {kubernetes.io/service-name: filler-$NUMBER}}
addressType: IPv4
ports: [{name: http, port: 8080, protocol: TCP}]
endpoints: [$ENDPOINTS]";

const MOVED: &str = "
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: moved-1, labels: {kubernetes.io/service-name: moved}}
addressType: IPv4
ports: [{name: http, port: 8080, protocol: TCP}]
endpoints: [{addresses: [$IP], conditions: {ready: true}}]";

fn many(cluster: &Cluster) -> anyhow::Result<()> {
    cluster.needs_mesh()?;
    let scope = cluster.scope("scale")?;
    let began = Instant::now();
    for number in 0..SERVICES {
        let addresses: Vec<String> = (0..ENDPOINTS)
            .map(|endpoint| {
                format!(
                    "{{addresses: [10.250.{}.{}], conditions: {{ready: true}}}}",
                    number % 250,
                    number / 250 * 10 + endpoint
                )
            })
            .collect();
        scope.apply(FILLER, &[("NUMBER", &number.to_string()), ("ENDPOINTS", &addresses.join(", "))])?;
    }
    println!("    {SERVICES} Services with {ENDPOINTS} endpoints each made in {:?}", began.elapsed());

    let moving = Moving::between(&scope)?;
    moving.measure("")?;
    memory(cluster)
}

/// Nothing runs in these pods, and no scheduler looks at them: they have an address and are ready, which is what discovery reads.
fn populate(crowd: &Scope<'_>) -> anyhow::Result<()> {
    let (cluster, namespace) = (crowd.cluster, crowd.namespace.as_str());
    let of = |group: &str, version: &str, kind: &str| {
        let kind = GroupVersionKind::gvk(group, version, kind);
        Api::<DynamicObject>::namespaced_with(cluster.client(), namespace, &ApiResource::from_gvk(&kind))
    };
    let (services, slices, routes, pods) = (
        of("", "v1", "Service"),
        of("discovery.k8s.io", "v1", "EndpointSlice"),
        of("gateway.networking.k8s.io", "v1", "HTTPRoute"),
        Api::<Pod>::namespaced(cluster.client(), namespace),
    );
    let ip = |number: usize| format!("10.{}.{}.{}", 251 + number / 62_500, number / 250 % 250, 1 + number % 250);
    for first in (0..CROWD).step_by(CROWD_OF_SERVICE) {
        let (name, each) = (format!("crowd-{}", first / CROWD_OF_SERVICE), first..first + CROWD_OF_SERVICE);
        let endpoints: Vec<Value> = each
            .clone()
            .map(|number| {
                let pod = json!({"kind": "Pod", "name": format!("pod-{number}"), "namespace": namespace});
                json!({"addresses": [ip(number)], "conditions": {"ready": true}, "targetRef": pod})
            })
            .collect();
        let parent = json!({"group": "", "kind": "Service", "name": name, "port": 80});
        let service =
            json!({"metadata": {"name": name}, "spec": {"ports": [{"name": "http", "port": 80, "targetPort": 8080}]}});
        let slice = json!({"metadata": {"name": format!("{name}-1"), "labels": {"kubernetes.io/service-name": name}},
            "addressType": "IPv4", "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}], "endpoints": endpoints});
        let route = json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
            "metadata": {"name": name}, "spec": {"parentRefs": [parent],
            "rules": [{"timeouts": {"request": "10s"}, "backendRefs": [{"name": name, "port": 80}]}]}});
        let made = async {
            let post = PostParams::default();
            for (api, object) in [(&services, service), (&slices, slice), (&routes, route)] {
                api.create(&post, &serde_json::from_value(object).map_err(kube::Error::SerdeError)?).await?;
            }
            let made = each.map(|number| {
                let (pods, name, ip) = (&pods, format!("pod-{number}"), ip(number));
                let pod = json!({"metadata": {"name": name}, "spec": {"schedulerName": "nobody",
                    "containers": [{"name": "none", "image": "none"}]}});
                let status = json!({"status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}],
                    "conditions": [{"type": "Ready", "status": "True"}]}});
                async move {
                    pods.create(&PostParams::default(), &serde_json::from_value(pod).map_err(kube::Error::SerdeError)?)
                        .await?;
                    pods.patch_status(&name, &PatchParams::default(), &Patch::Merge(status)).await
                }
            });
            try_join_all(made).await.map(drop)
        };
        cluster.ask(made)?;
    }
    Ok(())
}

/// How many routes of the crowd discovery has read, as their statuses say.
fn accepted(crowd: &Scope<'_>) -> anyhow::Result<usize> {
    let routes = crowd.cluster.objects(&crowd.namespace, "gateway.networking.k8s.io/v1/httproutes", "")?;
    Ok(routes.iter().filter(|route| route["status"]["parents"][0]["conditions"][0]["status"] == "True").count())
}

/// Pods that nobody asks for and that change nothing, in numbers, while a pair is called without a pause.
fn crowded(cluster: &Cluster) -> anyhow::Result<()> {
    cluster.needs_mesh()?;
    cluster.needs_own()?;
    let (scope, crowd) = (cluster.scope("crowd")?, cluster.bare_scope("crowded")?);
    scope.echo("web", 2, "")?;
    let load = scope.load("load", "http://web/", "--rate 200")?;
    let began = Instant::now();
    populate(&crowd)?;
    let made = began.elapsed();
    let services = CROWD / CROWD_OF_SERVICE;
    cluster
        .until(POD_PATIENCE, "all routes have a status", || Ok((accepted(&crowd)? == services).then_some(())))
        .with_context(|| format!("{:?} of {services}", accepted(&crowd)))?;
    println!(
        "    {CROWD} pods, {services} Services and routes made in {made:.1?}; all routes have a status {:.1?} later",
        began.elapsed() - made
    );
    let moving = Moving::between(&scope)?;
    moving.measure(" among them")?;
    resident(cluster)?;

    let (killed, before) = (Instant::now(), restarts(cluster)?);
    for (pod, container) in discoveries(cluster)? {
        cluster.kill(&cluster.control(), &pod, &container)?;
    }
    cluster.until(POD_PATIENCE, "discovery runs again", || Ok(restarts(cluster)?.filter(|now| Some(*now) > before)))?;
    let again = Instant::now();
    moving.to(1)?;
    println!(
        "    discovery ran again {:.1?} after it was killed; a change had arrived {:.1?} later",
        again - killed,
        moving.arrives(1)? - again
    );
    moving.measure(" with the next discovery")?;

    if std::env::var_os("REMORA_CLUSTER_LONG").is_some_and(|set| set == "1") {
        let away = cluster.stop(Part::ApiServer)?;
        std::thread::park_timeout(AWAY);
        away.resume()?;
        moving.changes_after(1, "the API server's return")?;
        moving.to(0)?;
        moving.arrives(0)?;
        cluster.save()?;
        moving.changes_after(1, "that etcd was copied")?;
        cluster.restore()?;
        let restored = Instant::now();
        println!("    what had been true was so again {:.1?} after etcd was restored", moving.arrives(0)? - restored);
        moving.changes_after(1, "the first one")?;
        resident(cluster)?;
    }
    let report = load.stop()?;
    println!("    {report}");
    report.none_failed()
}

/// A Service whose only endpoint is now one pod, now another.
struct Moving<'a> {
    scope: &'a Scope<'a>,
    client: String,
    addresses: [(String, String); 2],
}

impl<'a> Moving<'a> {
    fn between(scope: &'a Scope<'a>) -> anyhow::Result<Self> {
        scope.echo("one", 1, "")?;
        scope.echo("two", 1, "")?;
        let (client, addresses) = (scope.client("client")?, [address(scope, "one")?, address(scope, "two")?]);
        scope.apply("apiVersion: v1\nkind: Service\nmetadata: {name: moved}\nspec: {ports: [{name: http, port: 80, targetPort: 8080}]}", &[])?;
        Ok(Self { scope, client, addresses })
    }

    /// Lets the Service lead to one of the two.
    fn to(&self, which: usize) -> anyhow::Result<()> {
        self.scope.apply(MOVED, &[("IP", &self.addresses[which].1)])
    }

    /// Waits until requests go there. When the first of them was sent.
    fn arrives(&self, which: usize) -> anyhow::Result<Instant> {
        self.scope.cluster.until(POD_PATIENCE, "the change arrives", || {
            let asked = Instant::now();
            let said = self.scope.get(&self.client, "http://moved/")?;
            Ok((said.fact("Hostname") == Some(&self.addresses[which].0)).then_some(asked))
        })
    }

    /// Makes a change as soon as the API server takes it, and waits for it.
    fn changes_after(&self, which: usize, what: &str) -> anyhow::Result<()> {
        let began = Instant::now();
        self.scope.cluster.until(POD_PATIENCE, "a change is taken", || self.to(which).map(Some))?;
        let taken = Instant::now();
        let arrived = self.arrives(which)?;
        println!(
            "    after {what}: a change was taken after {:.1?} and had arrived {:.1?} later",
            taken - began,
            arrived - taken
        );
        Ok(())
    }

    /// That changes arrive in time.
    fn measure(&self, when: &str) -> anyhow::Result<()> {
        let mut slowest = Duration::ZERO;
        for change in 0..=CHANGES {
            self.to(change % 2)?;
            let changed = Instant::now();
            let asked = self.arrives(change % 2)?;
            // It had arrived before the request that showed it. The first address is one that nobody had asked for.
            if change > 0 {
                slowest = slowest.max(asked - changed);
            }
        }
        println!("    the slowest of {CHANGES} changes{when} had arrived after {slowest:?}");
        ensure!(slowest < ARRIVES_WITHIN, "a change took {slowest:?}");
        Ok(())
    }
}

fn address(scope: &Scope<'_>, name: &str) -> anyhow::Result<(String, String)> {
    let pod = scope.pod(&format!("app={name}"))?;
    let ip = scope.object("v1/pods", &pod)?["status"]["podIP"].as_str().context("no address")?.to_owned();
    Ok((pod, ip))
}

/// The pods of discovery, and the container in each.
fn discoveries(cluster: &Cluster) -> anyhow::Result<Vec<(String, String)>> {
    let pods = cluster.objects(&cluster.control(), "v1/pods", &format!("{}={}", names::PART, names::DISCOVERY))?;
    let of = |pod: &Value| {
        let name = pod["metadata"]["name"].as_str().context("no name")?.to_owned();
        Ok((name, pod["spec"]["containers"][0]["name"].as_str().context("no container")?.to_owned()))
    };
    pods.iter().map(of).collect()
}

/// How often discovery's containers were started again; `None` while one does not run.
fn restarts(cluster: &Cluster) -> anyhow::Result<Option<u64>> {
    let pods = cluster.objects(&cluster.control(), "v1/pods", &format!("{}={}", names::PART, names::DISCOVERY))?;
    let of = |pod: &Value| {
        let status = &pod["status"]["containerStatuses"][0];
        status["state"]["running"].is_object().then(|| status["restartCount"].as_u64()).flatten()
    };
    Ok(pods.iter().map(of).sum())
}

/// The memory of each discovery.
fn resident(cluster: &Cluster) -> anyhow::Result<Vec<u64>> {
    let of = |(pod, container): (String, String)| {
        let bytes = cluster.rss_bytes(&cluster.control(), &pod, &container)?;
        println!("    {pod}: {:.1} MB resident", bytes as f64 / 1e6);
        Ok(bytes)
    };
    discoveries(cluster)?.into_iter().map(of).collect()
}

fn memory(cluster: &Cluster) -> anyhow::Result<()> {
    cluster.needs_own()?;
    for bytes in resident(cluster)? {
        ensure!(bytes < RSS_MAX, "discovery takes {bytes} bytes");
    }
    Ok(())
}
