//! Is a namespace meshed: opted in, its trust anchors there, and a sidecar in every pod that wants one.

use super::{
    control::{is_ready, trouble},
    report::Check,
    unanswered,
};
use crate::cluster::{Cluster, FORWARDS_MAX, list, target};
use futures_util::{StreamExt as _, stream};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, ResourceQuota};
use kube::{Api, ResourceExt as _, api::ListParams};
use remora_kube::{client, names};
use std::collections::BTreeMap;
use tokio::join;

/// How many pods a line names.
const NAMED_MAX: usize = 5;

/// All of them.
pub(super) async fn checks(cluster: &Cluster, own: &str, name: &str) -> Vec<Check> {
    let group = format!("namespace {name}");
    let namespaces: Api<Namespace> = Api::all(cluster.client.clone());
    let maps = |namespace: &str| Api::<ConfigMap>::namespaced(cluster.client.clone(), namespace);
    let pods: Api<Pod> = Api::namespaced(cluster.client.clone(), name);
    let quotas: Api<ResourceQuota> = Api::namespaced(cluster.client.clone(), name);
    let (their_maps, own_maps, all_pods) = (maps(name), maps(own), ListParams::default());
    let (namespace, quotas, pods, theirs, ours) = join!(
        client::call(namespaces.get_opt(name)),
        client::call(quotas.list(&all_pods)),
        client::call(pods.list(&all_pods)),
        client::call(their_maps.get_opt(names::TRUST_ANCHORS)),
        client::call(own_maps.get_opt(names::TRUST_ANCHORS)),
    );
    let namespace = match namespace {
        Ok(Some(namespace)) => namespace,
        Ok(None) => {
            return vec![Check::failed(&group, "exists", "it does not", format!("kubectl create namespace {name}"))];
        }
        Err(error) => return vec![unanswered(&group, "exists", &error)],
    };
    let mut all = vec![judge_opt_in(&group, &namespace)];
    all.extend(judge_pod_security(&group, &namespace));
    match quotas {
        Ok(quotas) => all.extend(judge_quotas(&group, &namespace, &quotas.items)),
        Err(error) => all.push(unanswered(&group, "quotas", &error)),
    }
    match (theirs, ours) {
        (Ok(theirs), Ok(ours)) => all.push(judge_anchors(&group, theirs.as_ref(), ours.as_ref())),
        (Err(error), _) | (_, Err(error)) => all.push(unanswered(&group, "trust anchors", &error)),
    }
    match pods {
        Ok(pods) => all.extend(judge_pods(&group, &namespace, &pods.items)),
        Err(error) => all.push(unanswered(&group, "sidecars", &error)),
    }
    all
}

/// The same of every namespace that is opted in.
pub(super) async fn everywhere(cluster: &Cluster, own: &str) -> Vec<Check> {
    const GROUP: &str = "namespaces";
    let namespaces: Api<Namespace> = Api::all(cluster.client.clone());
    let all = match list::all(&namespaces, ListParams::default()).await {
        Ok(all) => all,
        Err(error) => return vec![unanswered(GROUP, "opted in", &error)],
    };
    let opted = all.iter().filter(|it| wish(it.annotations(), it.labels()) == Some(true)).map(Namespace::name_any);
    let opted: Vec<String> = opted.collect();
    if opted.is_empty() {
        let remedy = format!("kubectl annotate namespace NAMESPACE {}=enabled, and restart its pods", names::INJECT);
        return vec![Check::warning(GROUP, "opted in", format!("none of {}", all.len()), remedy)];
    }
    let checked = opted.iter().map(|name| checks(cluster, own, name));
    stream::iter(checked).buffered(FORWARDS_MAX).collect::<Vec<_>>().await.concat()
}

/// What an object says of injection: an annotation wins over a label. `None`: nothing, or nothing that is understood.
fn wish(annotations: &BTreeMap<String, String>, labels: &BTreeMap<String, String>) -> Option<bool> {
    match annotations.get(names::INJECT).or_else(|| labels.get(names::INJECT))?.as_str() {
        names::ENABLED => Some(true),
        names::DISABLED => Some(false),
        _ => None,
    }
}

fn judge_opt_in(group: &str, namespace: &Namespace) -> Check {
    const NAME: &str = "opted in";
    let (annotations, labels) = (namespace.annotations(), namespace.labels());
    let said = annotations.get(names::INJECT).or_else(|| labels.get(names::INJECT));
    let remedy = format!("kubectl annotate --overwrite namespace {} {}=enabled", namespace.name_any(), names::INJECT);
    match (wish(annotations, labels), said) {
        (Some(true), _) => Check::ok(group, NAME, format!("{}=enabled", names::INJECT)),
        (Some(false), _) => Check::warning(group, NAME, format!("{}=disabled", names::INJECT), remedy),
        (None, Some(said)) => {
            let detail = format!("{}={said:?} is neither enabled nor disabled", names::INJECT);
            Check::failed(group, NAME, detail, remedy)
        }
        (None, None) => Check::warning(group, NAME, "it is not; only pods that opt in themselves are meshed", remedy),
    }
}

/// Pod Security's word on pods that are to be meshed; nothing where it lets them in.
fn judge_pod_security(group: &str, namespace: &Namespace) -> Option<Check> {
    const ENFORCE: &str = "pod-security.kubernetes.io/enforce";
    let (annotations, labels) = (namespace.annotations(), namespace.labels());
    let profile = labels.get(ENFORCE).filter(|it| matches!(it.as_str(), "restricted" | "baseline"))?;
    (wish(annotations, labels) == Some(true)).then(|| {
        Check::failed(
            group,
            "pod security",
            format!("{ENFORCE}={profile} refuses meshed pods: their container remora-init adds NET_ADMIN"),
            format!("kubectl label --overwrite namespace {} {ENFORCE}=privileged", namespace.name_any()),
        )
    })
}

/// What a ResourceQuota wants every container to say and a sidecar does not; nothing where it says all.
fn judge_quotas(group: &str, namespace: &Namespace, quotas: &[ResourceQuota]) -> Option<Check> {
    const COUNTED: &str = "limits.cpu";
    const SETTING: &str = "remora.dev/proxy-cpu-limit";
    let (annotations, labels) = (namespace.annotations(), namespace.labels());
    let counts = |quota: &&ResourceQuota| {
        quota.spec.as_ref().and_then(|spec| spec.hard.as_ref()).is_some_and(|hard| hard.contains_key(COUNTED))
    };
    let quota = quotas.iter().find(counts)?;
    (wish(annotations, labels) == Some(true) && !annotations.contains_key(SETTING)).then(|| {
        Check::warning(
            group,
            "quotas",
            format!(
                "ResourceQuota {} counts {COUNTED}, which sidecars do not set by default: it may refuse meshed pods",
                quota.name_any()
            ),
            format!("kubectl annotate namespace {} {SETTING}=1, unless a LimitRange sets it", namespace.name_any()),
        )
    })
}

fn judge_anchors(group: &str, theirs: Option<&ConfigMap>, ours: Option<&ConfigMap>) -> Check {
    const NAME: &str = "trust anchors";
    let pem =
        |map: Option<&ConfigMap>| map.and_then(|it| it.data.as_ref()).and_then(|it| it.get(names::CA_CRT)).cloned();
    match (pem(theirs), pem(ours)) {
        (Some(theirs), Some(ours)) if theirs == ours => Check::ok(group, NAME, "the control plane's"),
        (Some(_), _) => Check::failed(
            group,
            NAME,
            format!("ConfigMap {} holds others than the control plane's", names::TRUST_ANCHORS),
            "identity puts it right by itself: look at the log of deploy/remora-identity",
        ),
        (None, _) => Check::failed(
            group,
            NAME,
            format!("no ConfigMap {}: meshed pods cannot start", names::TRUST_ANCHORS),
            "identity makes it once a namespace is opted in: look at the log of deploy/remora-identity",
        ),
    }
}

fn judge_pods(group: &str, namespace: &Namespace, pods: &[Pod]) -> Vec<Check> {
    let theirs = wish(namespace.annotations(), namespace.labels());
    let (mut bare, mut left, mut host, mut unready, mut meshed) = (vec![], vec![], vec![], vec![], 0);
    for pod in pods.iter().filter(|pod| !target::ended(pod) && pod.metadata.deletion_timestamp.is_none()) {
        let wanted = wish(pod.annotations(), pod.labels()).or(theirs).unwrap_or(false);
        let host_network = pod.spec.as_ref().is_some_and(|spec| spec.host_network == Some(true));
        match (wanted, target::meshed(pod)) {
            (true, true) => meshed += 1,
            (true, false) if host_network => host.push(pod.name_any()),
            (true, false) => bare.push(pod.name_any()),
            (false, true) => left.push(pod.name_any()),
            (false, false) => {}
        }
        if target::meshed(pod) && !is_ready(pod) {
            unready.push(pod.name_any() + &trouble(pod).unwrap_or_default());
        }
    }
    let restart =
        format!("kubectl rollout restart deployment,statefulset,daemonset --namespace {}", namespace.name_any());
    let mut all = Vec::new();
    if bare.is_empty() {
        let rest =
            if host.is_empty() { String::new() } else { format!("; host network, never meshed: {}", some(&host)) };
        all.push(Check::ok(group, "sidecars", format!("in all {meshed} pods that want one{rest}")));
    } else {
        let detail = format!("{} of {} pods have none: {}", bare.len(), bare.len() + meshed, some(&bare));
        all.push(Check::failed(group, "sidecars", detail, format!("they are older than the opt-in; {restart}")));
    }
    if !left.is_empty() {
        let detail = format!("{} pods still have one and no longer want it: {}", left.len(), some(&left));
        all.push(Check::warning(group, "leftovers", detail, restart));
    }
    match unready.is_empty() {
        true => all.push(Check::ok(group, "readiness", format!("all {} meshed pods", meshed + left.len()))),
        false => all.push(Check::failed(
            group,
            "readiness",
            format!("{} meshed pods are not ready: {}", unready.len(), some(&unready)),
            format!("remora check --namespace {} --proxies", namespace.name_any()),
        )),
    }
    all
}

/// The first few of a list.
pub(super) fn some(names: &[String]) -> String {
    let shown = names.iter().take(NAMED_MAX).map(String::as_str).collect::<Vec<_>>().join(", ");
    match names.len().checked_sub(NAMED_MAX) {
        Some(more) if more > 0 => format!("{shown} and {more} more"),
        _ => shown,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{super::report::Status, *};

    fn namespace(inject: &str) -> Namespace {
        serde_json::from_value(json!({ "metadata": { "name": "shop", "annotations": { names::INJECT: inject } } }))
            .unwrap()
    }

    fn pod(name: &str, meshed: bool, more: &Value) -> Pod {
        let mut pod = json!({
            "metadata": { "name": name, "labels": {} },
            "spec": { "containers": [] },
            "status": { "phase": "Running", "conditions": [{ "type": "Ready", "status": "True" }] },
        });
        if meshed {
            pod["metadata"]["labels"][names::INJECTED] = json!("true");
        }
        for (key, value) in more.as_object().unwrap() {
            pod[key].as_object_mut().unwrap().extend(value.as_object().unwrap().clone());
        }
        serde_json::from_value(pod).unwrap()
    }

    fn statuses(inject: &str, pods: &[Pod]) -> Vec<(String, Status)> {
        judge_pods("g", &namespace(inject), pods).into_iter().map(|it| (it.name, it.status)).collect()
    }

    #[test]
    fn a_quota_that_counts_what_sidecars_do_not_set_is_told_where_they_are_wanted() {
        let quota = |counted: &str| -> ResourceQuota {
            serde_json::from_value(json!({ "metadata": { "name": "q" }, "spec": { "hard": { counted: "4" } } }))
                .unwrap()
        };
        let check = judge_quotas("g", &namespace("enabled"), &[quota("pods"), quota("limits.cpu")]).unwrap();
        assert!(check.status == Status::Warning && check.detail.contains("ResourceQuota q"), "{check:?}");
        assert!(check.remedy.contains("remora.dev/proxy-cpu-limit=1"), "{check:?}");
        let mut said = namespace("enabled");
        said.metadata.annotations.get_or_insert_default().insert("remora.dev/proxy-cpu-limit".into(), "1".into());
        for (namespace, counted) in
            [(&namespace("enabled"), "requests.cpu"), (&namespace("disabled"), "limits.cpu"), (&said, "limits.cpu")]
        {
            assert_eq!(judge_quotas("g", namespace, &[quota(counted)]), None);
        }
    }

    #[test]
    fn a_pod_older_than_the_opt_in_is_named_with_the_command_that_helps() {
        let all = judge_pods("g", &namespace("enabled"), &[pod("a", true, &json!({})), pod("b", false, &json!({}))]);
        assert_eq!((all[0].status, &*all[0].detail), (Status::Failed, "1 of 2 pods have none: b"));
        assert!(all[0].remedy.contains("kubectl rollout restart"));
    }

    #[test]
    fn a_profile_that_refuses_meshed_pods_is_told_with_the_command_that_helps() {
        let with = |inject: &str, profile: &str| {
            let mut namespace = namespace(inject);
            namespace.labels_mut().insert("pod-security.kubernetes.io/enforce".into(), profile.into());
            judge_pod_security("g", &namespace)
        };
        for profile in ["restricted", "baseline"] {
            let check = with("enabled", profile).unwrap();
            assert_eq!(check.status, Status::Failed);
            assert!(check.detail.contains(profile) && check.detail.contains("remora-init"), "{}", check.detail);
            assert!(check.remedy.ends_with("namespace shop pod-security.kubernetes.io/enforce=privileged"));
        }
        assert!(with("enabled", "privileged").is_none() && with("disabled", "restricted").is_none());
        assert!(judge_pod_security("g", &namespace("enabled")).is_none());
    }

    #[test]
    fn pods_that_cannot_or_will_not_be_meshed_are_no_failure() {
        let host = pod("h", false, &json!({ "spec": { "hostNetwork": true } }));
        let out = pod("o", false, &json!({ "metadata": { "annotations": { names::INJECT: "disabled" } } }));
        let done = pod("d", false, &json!({ "status": { "phase": "Succeeded" } }));
        let ok = |name: &str| (name.to_owned(), Status::Ok);
        assert_eq!(statuses("enabled", &[host, out, done]), [ok("sidecars"), ok("readiness")]);
    }

    #[test]
    fn a_sidecar_that_is_no_longer_wanted_is_told() {
        let found = statuses("disabled", &[pod("a", true, &json!({}))]);
        assert!(found.contains(&("leftovers".to_owned(), Status::Warning)), "{found:?}");
    }

    #[test]
    fn a_word_that_nobody_understands_is_a_failure_and_silence_a_warning() {
        assert_eq!(judge_opt_in("g", &namespace("enabled")).status, Status::Ok);
        assert_eq!(judge_opt_in("g", &namespace("true")).status, Status::Failed);
        assert_eq!(judge_opt_in("g", &Namespace::default()).status, Status::Warning);
    }

    #[test]
    fn anchors_of_another_control_plane_are_a_failure() {
        let map = |pem: &str| -> ConfigMap { serde_json::from_value(json!({ "data": { "ca.crt": pem } })).unwrap() };
        let (ours, others) = (map("a"), map("b"));
        let status = |theirs| judge_anchors("g", theirs, Some(&ours)).status;
        assert_eq!(status(Some(&ours)), Status::Ok);
        assert_eq!(status(Some(&others)), Status::Failed);
        assert_eq!(status(None), Status::Failed);
    }

    #[test]
    fn long_lists_are_cut() {
        let names: Vec<String> = (0..7).map(|it| it.to_string()).collect();
        assert_eq!(some(&names), "0, 1, 2, 3, 4 and 2 more");
        assert_eq!(some(&names[..5]), "0, 1, 2, 3, 4");
    }

    #[tokio::test]
    async fn every_namespace_that_is_opted_in_is_checked_and_no_other() {
        use crate::cluster::standin::{self, Standin, World};
        let namespace = |name: &str, inject: &str| serde_json::json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name, "annotations": { names::INJECT: inject } } });
        let mut bare = standin::pod("pay", "bare", "card");
        bare["metadata"]["labels"] = serde_json::json!({});
        let objects = vec![
            namespace("shop", "enabled"),
            namespace("pay", "enabled"),
            namespace("other", "disabled"),
            standin::pod("shop", "web-1", "web"),
            bare,
        ];
        let server = Standin::start(World { objects, ..World::default() }).await;
        let all = everywhere(&server.cluster().await, names::NAMESPACE).await;
        let of = |group: &str| all.iter().filter(|it| it.group == group).collect::<Vec<_>>();
        assert!(of("namespace other").is_empty() && !of("namespace shop").is_empty(), "{all:?}");
        let sidecars = |group: &str| of(group).into_iter().find(|it| it.name == "sidecars").map(|it| it.status);
        assert_eq!(sidecars("namespace shop"), Some(Status::Ok));
        assert_eq!(sidecars("namespace pay"), Some(Status::Failed));
    }
}
