//! Does the control plane work: its parts, what they make, and an injection tried out as a dry run.

use super::{
    networks, policies, pre,
    report::{Check, Status},
    unanswered,
};
use crate::{
    admin,
    cluster::{Cluster, forward::PodPort},
};
use futures_util::future::{join_all, try_join_all};
use k8s_openapi::{
    api::{
        admissionregistration::v1::{
            MutatingWebhookConfiguration, ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding,
        },
        apps::v1::Deployment,
        core::v1::{ConfigMap, Pod},
    },
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, ResourceExt as _,
    api::{ListParams, PostParams},
};
use remora_discovery::objects::{kind::OUR_GROUP, registry::kinds};
use remora_kube::{
    client::{self, CallError},
    names,
};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::join;

const GROUP: &str = "control plane";
/// What the API server itself sees to: no bare pods, no pods that leave the mesh, and what the injector's account may write.
const GUARDS: [&str; 3] = [names::INJECTOR, "remora-injector-membership", "remora-injector-account"];
const INJECTION: &str = "injection";
/// Our own version.
const VERSION: &str = env!("CARGO_PKG_VERSION");
/// The first API server with ValidatingAdmissionPolicy.
const SERVER_MIN: (u32, u32) = (1, 30);
const INSTALL: &str = "install it: remora install | kubectl apply --server-side -f -";
/// An issuer with less than this left wants renewing.
const ISSUER_LEFT_MIN: Duration = Duration::from_secs(30 * 86_400);

/// All of them.
pub(super) async fn checks(cluster: &Cluster, own: &str) -> Vec<Check> {
    let (crds, parts, issuer, anchors, networks, policies, admission, tried) = join!(
        crds(cluster),
        join_all([names::IDENTITY, names::DISCOVERY, names::INJECTOR].map(|part| deployed(cluster, own, part))),
        issuer(cluster, own),
        anchors(cluster, own),
        networks::check(cluster, own),
        policies::check(cluster),
        admission(cluster),
        dry_run(cluster),
    );
    let mut all = vec![crds];
    all.extend(parts);
    all.extend([issuer, anchors, networks, policies]);
    all.extend(admission);
    all.push(tried);
    all
}

/// The API server, and whether it is young enough; or that it does not answer.
pub(super) async fn server(cluster: &Cluster) -> Result<Check, Check> {
    const NAME: &str = "API server";
    let info = match client::call(cluster.client.apiserver_version()).await {
        Ok(info) => info,
        Err(error) => return Err(unanswered(pre::GROUP, NAME, &error)),
    };
    Ok(match pre::version(&info.git_version) {
        Some(version) if version < SERVER_MIN => Check::failed(
            pre::GROUP,
            NAME,
            format!("{} has no ValidatingAdmissionPolicy", info.git_version),
            "upgrade it to 1.30 or later",
        ),
        _ => Check::ok(pre::GROUP, NAME, info.git_version),
    })
}

async fn crds(cluster: &Cluster) -> Check {
    const NAME: &str = "CRDs of remora.dev";
    let api: Api<CustomResourceDefinition> = Api::all(cluster.client.clone());
    let ours = kinds().filter(|kind| kind.group == OUR_GROUP);
    let found = join_all(ours.map(|kind| {
        let (api, name) = (api.clone(), format!("{}.{OUR_GROUP}", kind.plural));
        async move {
            let found = client::call(api.get_metadata_opt(&name)).await;
            (name, found)
        }
    }))
    .await;
    let count = found.len();
    for (name, answer) in found {
        match answer {
            Err(error) => return unanswered(GROUP, NAME, &error),
            Ok(None) => return Check::failed(GROUP, NAME, format!("{name} is not there"), INSTALL),
            Ok(Some(crd)) => match crd.labels().get("app.kubernetes.io/version") {
                Some(version) if version == VERSION => {}
                version => {
                    let version = version.map_or("another version", String::as_str);
                    let detail = format!("{name} is of {version}, this command of {VERSION}");
                    return Check::warning(GROUP, NAME, detail, "remora upgrade | kubectl apply --server-side -f -");
                }
            },
        }
    }
    Check::ok(GROUP, NAME, format!("all {count} of {VERSION}"))
}

/// A part's Deployment and its pods.
async fn deployed(cluster: &Cluster, own: &str, part: &'static str) -> Check {
    let deployments: Api<Deployment> = Api::namespaced(cluster.client.clone(), own);
    let pods: Api<Pod> = Api::namespaced(cluster.client.clone(), own);
    let of_part = ListParams::default().labels(&format!("{}={part}", names::PART));
    let (deployment, pods) = join!(client::call(deployments.get_opt(part)), client::call(pods.list(&of_part)));
    match (deployment, pods) {
        (Err(error), _) | (_, Err(error)) => unanswered(GROUP, part, &error),
        (Ok(deployment), Ok(pods)) => {
            let mut check = judge(part, own, deployment.as_ref(), &pods.items);
            // The part itself knows best what it waits for.
            let waiting = pods.iter().find(|pod| running(pod) && !is_ready(pod));
            if let (Status::Failed, Some(pod)) = (check.status, waiting)
                && let Ok(answer) = admin::get(port(cluster, pod, part), "/ready").await
            {
                let said: Vec<_> = String::from_utf8_lossy(&answer.body).lines().map(str::to_owned).collect();
                check.detail = format!("{}; it says: {}", check.detail, said.join("; "));
            }
            check
        }
    }
}

fn port(cluster: &Cluster, pod: &Pod, part: &str) -> PodPort {
    let port = match part {
        names::IDENTITY => names::IDENTITY_ADMIN_PORT,
        names::DISCOVERY => names::DISCOVERY_ADMIN_PORT,
        _ => names::INJECTOR_ADMIN_PORT,
    };
    let (namespace, pod) = (pod.namespace().unwrap_or_default(), pod.name_any());
    PodPort { client: cluster.client.clone(), namespace, pod, port }
}

fn judge(part: &str, own: &str, deployment: Option<&Deployment>, pods: &[Pod]) -> Check {
    let Some(deployment) = deployment else {
        return Check::failed(GROUP, part, format!("is not in namespace {own}"), INSTALL);
    };
    let wanted = deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
    let status = deployment.status.clone().unwrap_or_default();
    let (available, updated) = (status.available_replicas.unwrap_or(0), status.updated_replicas.unwrap_or(0));
    let version = deployment.labels().get("app.kubernetes.io/version").map_or("no version", String::as_str);
    if wanted == 0 {
        let remedy = format!("kubectl scale deployment {part} --namespace {own} --replicas 1");
        return Check::failed(GROUP, part, "is scaled to 0", remedy);
    }
    if available < wanted || updated < wanted {
        let ready = format!("{} of {wanted} ready, {updated} of this version", available.min(wanted));
        let why = pods.iter().find_map(trouble).unwrap_or_default();
        let remedy =
            format!("kubectl describe pod --namespace {own} --selector {}={part}; its log says more", names::PART);
        return Check::failed(GROUP, part, format!("{ready}{why}"), remedy);
    }
    let detail = format!("{available} of {wanted} ready, {version}");
    if version != VERSION {
        let detail = format!("{detail}; this command is {VERSION}");
        return Check::warning(GROUP, part, detail, "remora upgrade | kubectl apply --server-side -f -");
    }
    Check::ok(GROUP, part, detail)
}

fn running(pod: &Pod) -> bool {
    pod.status.as_ref().and_then(|it| it.phase.as_deref()) == Some("Running")
}

/// Whether the kubelet counts it as ready.
pub(super) fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|it| it.conditions.as_deref()).unwrap_or_default();
    conditions.iter().any(|it| it.type_ == "Ready" && it.status == "True")
}

/// What keeps a pod from running, as the kubelet or the scheduler says.
pub(super) fn trouble(pod: &Pod) -> Option<String> {
    let status = pod.status.as_ref()?;
    let containers = status.init_container_statuses.iter().chain(&status.container_statuses).flatten();
    for container in containers {
        let Some(state) = &container.state else { continue };
        if let Some(waiting) = &state.waiting
            && let Some(reason) = &waiting.reason
        {
            let message = waiting.message.as_deref().map_or_else(String::new, |it| format!(": {it}"));
            return Some(format!("; {} of pod {}: {reason}{message}", container.name, pod.name_any()));
        }
    }
    let unscheduled = status.conditions.as_deref().unwrap_or_default().iter();
    let mut unscheduled = unscheduled.filter(|it| it.type_ == "PodScheduled" && it.status == "False");
    let message = unscheduled.next()?.message.as_deref().unwrap_or("not scheduled");
    Some(format!("; pod {}: {message}", pod.name_any()))
}

/// How long the issuer still lives, by identity's own metric: reading the Secret would need more permission.
async fn issuer(cluster: &Cluster, own: &str) -> Check {
    const NAME: &str = "issuer";
    let pods: Api<Pod> = Api::namespaced(cluster.client.clone(), own);
    let of_part = ListParams::default().labels(&format!("{}={}", names::PART, names::IDENTITY));
    let pod = match client::call(pods.list(&of_part)).await {
        Ok(list) => list.items.into_iter().find(running),
        Err(error) => return unanswered(GROUP, NAME, &error),
    };
    let Some(pod) = pod else {
        return Check::failed(GROUP, NAME, "no identity service runs that could say", "see remora-identity");
    };
    match admin::get(port(cluster, &pod, names::IDENTITY), "/metrics").await {
        Ok(answer) => {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
            judge_issuer(expiry(&String::from_utf8_lossy(&answer.body)), now)
        }
        Err(error) => Check::warning(GROUP, NAME, crate::chain(&error), "`create` on `pods/portforward` is needed"),
    }
}

/// The end of the issuer's chain, from the metrics page.
fn expiry(metrics: &str) -> Option<u64> {
    let line =
        metrics.lines().find_map(|line| line.strip_prefix("remora_identity_issuer_expiry_timestamp_seconds "))?;
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped; a time in seconds fits")]
    line.trim().parse::<f64>().ok().map(|it| it.clamp(0.0, 1e15) as u64)
}

fn judge_issuer(expiry: Option<u64>, now: u64) -> Check {
    const NAME: &str = "issuer";
    let remedy = "replace Secret remora-issuer: docs/identity.md, Rotating";
    match expiry.map(|it| it.checked_sub(now)) {
        None => Check::failed(GROUP, NAME, "identity has none yet", "look at the log of deploy/remora-identity"),
        Some(None | Some(0)) => Check::failed(GROUP, NAME, "has expired", remedy),
        Some(Some(left)) if left < ISSUER_LEFT_MIN.as_secs() => {
            Check::warning(GROUP, NAME, format!("ends in {}", crate::inspect::span(left)), remedy)
        }
        Some(Some(left)) => Check::ok(GROUP, NAME, format!("valid for {}", crate::inspect::span(left))),
    }
}

/// The trust anchors, without which no proxy can start.
async fn anchors(cluster: &Cluster, own: &str) -> Check {
    const NAME: &str = "trust anchors";
    let maps: Api<ConfigMap> = Api::namespaced(cluster.client.clone(), own);
    match client::call(maps.get_opt(names::TRUST_ANCHORS)).await {
        Ok(Some(map)) if map.data.as_ref().is_some_and(|data| data.contains_key(names::CA_CRT)) => {
            Check::ok(GROUP, NAME, format!("published as ConfigMap {}", names::TRUST_ANCHORS))
        }
        Ok(_) => Check::failed(
            GROUP,
            NAME,
            format!("no ConfigMap {own}/{} with {}", names::TRUST_ANCHORS, names::CA_CRT),
            "identity's leader makes it: look at the log of deploy/remora-identity",
        ),
        Err(error) => unanswered(GROUP, NAME, &error),
    }
}

/// What stands between a pod and the API server.
async fn admission(cluster: &Cluster) -> Vec<Check> {
    let client = cluster.client.clone();
    let webhooks: Api<MutatingWebhookConfiguration> = Api::all(client.clone());
    let policies: Api<ValidatingAdmissionPolicy> = Api::all(client.clone());
    let bindings: Api<ValidatingAdmissionPolicyBinding> = Api::all(client);
    let both = GUARDS.map(|name| {
        let (policies, bindings) = (policies.clone(), bindings.clone());
        async move {
            let (policy, binding) =
                join!(client::call(policies.get_metadata_opt(name)), client::call(bindings.get_metadata_opt(name)),);
            Ok::<_, CallError>((name, policy?.is_some() && binding?.is_some()))
        }
    });
    let (webhook, guards) = join!(client::call(webhooks.get_opt(names::INJECTOR)), try_join_all(both));
    let webhook = match webhook {
        Ok(found) => judge_webhook(found.as_ref()),
        Err(error) => unanswered(INJECTION, "webhook", &error),
    };
    let guard = match guards {
        Ok(guards) => judge_guards(&guards),
        Err(error) => unanswered(INJECTION, "guard", &error),
    };
    vec![webhook, guard]
}

/// `guards`: the policies by name, and whether each is there with its binding.
fn judge_guards(guards: &[(&str, bool)]) -> Check {
    match guards.iter().find(|(_, there)| !there) {
        None => Check::ok(INJECTION, "guard", "opted-in pods without a sidecar are refused, and stay in the mesh"),
        Some((name, _)) => Check::failed(
            INJECTION,
            "guard",
            format!("no ValidatingAdmissionPolicy {name} with its binding: a pod could start bare, or be taken out"),
            INSTALL,
        ),
    }
}

fn judge_webhook(found: Option<&MutatingWebhookConfiguration>) -> Check {
    const NAME: &str = "webhook";
    let remedy = "the injector's leader makes it: look at the log of deploy/remora-injector";
    let webhooks = found.and_then(|it| it.webhooks.as_deref()).unwrap_or_default();
    if webhooks.is_empty() {
        let detail = format!("no MutatingWebhookConfiguration {}: no pod gets a sidecar", names::INJECTOR);
        return Check::failed(INJECTION, NAME, detail, remedy);
    }
    if webhooks.iter().any(|it| it.client_config.ca_bundle.as_ref().is_none_or(|it| it.0.is_empty())) {
        return Check::failed(INJECTION, NAME, "has no caBundle: the API server does not trust the injector", remedy);
    }
    Check::ok(INJECTION, NAME, "registered, with the injector's CA")
}

/// A pod that opts itself in, created as a dry run: the only proof that the API server reaches the injector.
async fn dry_run(cluster: &Cluster) -> Check {
    const NAME: &str = "dry run";
    let pods: Api<Pod> = Api::namespaced(cluster.client.clone(), "default");
    let manifest = serde_json::json!({
        "metadata": { "generateName": "remora-check-", "annotations": { names::INJECT: names::ENABLED } },
        "spec": {
            "securityContext": { "runAsNonRoot": true, "runAsUser": 2000, "seccompProfile": { "type": "RuntimeDefault" } },
            "containers": [{
                "name": "check",
                "image": "registry.k8s.io/pause:3.10",
                "securityContext": { "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"] } },
            }],
        },
    });
    let pod = match serde_json::from_value(manifest) {
        Ok(pod) => pod,
        Err(error) => return Check::failed(INJECTION, NAME, error.to_string(), "this is a bug in this command"),
    };
    let dry = PostParams { dry_run: true, ..PostParams::default() };
    judge_dry_run(client::call(pods.create(&dry, &pod)).await)
}

fn judge_dry_run(answer: Result<Pod, CallError>) -> Check {
    const NAME: &str = "dry run";
    let unreached = "can the API server reach the injector? A firewall or NetworkPolicy may keep port 4182 from it; look \
                     at the log of deploy/remora-injector";
    match answer {
        Ok(pod) => {
            let inits = pod.spec.and_then(|spec| spec.init_containers).unwrap_or_default();
            if inits.iter().any(|it| it.name == names::PROXY_CONTAINER) {
                return Check::ok(INJECTION, NAME, "a pod in namespace default would get its sidecar");
            }
            Check::failed(INJECTION, NAME, "a pod that opts in would start without a sidecar", unreached)
        }
        Err(error) if error.to_string().contains(names::INJECTOR) => {
            Check::failed(INJECTION, NAME, error.to_string(), unreached)
        }
        Err(error) if error.is_forbidden() => Check::warning(
            INJECTION,
            NAME,
            error.to_string(),
            "not tried: it needs `create` on `pods` in namespace default, and no other policy against such a pod there",
        ),
        Err(error) => unanswered(INJECTION, NAME, &error),
    }
}

#[cfg(test)]
#[path = "control_tests.rs"]
mod tests;
