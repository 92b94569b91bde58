//! Sidecars one by one, asked at their admin ports: readiness, version, certificate.

use super::{namespace::some, report::Check, unanswered};
use crate::{
    admin::{self, Certificate},
    cluster::{Cluster, FORWARDS_MAX, forward::PodPort, list, target},
};
use futures_util::{StreamExt as _, stream};
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{Pod, PodSpec},
};
use kube::{Api, ResourceExt as _, api::ListParams};
use remora_kube::{client, names};
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::join;

const GROUP: &str = "proxies";

/// What one sidecar said.
#[derive(Debug)]
struct Proxy {
    /// `namespace/pod`.
    name: String,
    image: String,
    /// Or why it is not ready, or could not be asked.
    ready: Result<(), String>,
    certificate: Result<Option<Certificate>, String>,
}

/// All of them, of one namespace or of all.
pub(super) async fn checks(
    cluster: &Cluster,
    own: &str,
    namespace: Option<&str>,
    selector: Option<&str>,
) -> Vec<Check> {
    let pods: Api<Pod> = match namespace {
        Some(name) => Api::namespaced(cluster.client.clone(), name),
        None => Api::all(cluster.client.clone()),
    };
    let meshed = target::meshed_selector();
    let labels = selector.map_or_else(|| meshed.clone(), |selector| format!("{meshed},{selector}"));
    let list = match list::all(&pods, ListParams::default().labels(&labels)).await {
        Ok(list) => list,
        Err(error) => return vec![unanswered(GROUP, "sidecars", &error)],
    };
    let deployments: Api<Deployment> = Api::namespaced(cluster.client.clone(), own);
    let asked = list.into_iter().filter(target::meshed).map(|pod| ask(cluster, pod));
    let (proxies, injector) = join!(
        stream::iter(asked).buffered(FORWARDS_MAX).collect::<Vec<_>>(),
        client::call(deployments.get_opt(names::INJECTOR)),
    );
    // The injector gives sidecars its own image.
    let wanted = injector.ok().flatten().and_then(|it| it.spec?.template.spec?.containers.into_iter().next()?.image);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    judge(&proxies, wanted.as_deref(), now)
}

async fn ask(cluster: &Cluster, pod: Pod) -> Proxy {
    let (namespace, name) = (pod.namespace().unwrap_or_default(), pod.name_any());
    let port = names::PROXY_ADMIN_PORT;
    let place = PodPort { client: cluster.client.clone(), namespace: namespace.clone(), pod: name.clone(), port };
    let (ready, certificate) =
        join!(admin::get(place.clone(), "/ready"), admin::page::<Option<Certificate>>(place, "/certificate"));
    let ready = match ready {
        Ok(answer) if answer.status.is_success() => Ok(()),
        Ok(answer) => Err(String::from_utf8_lossy(&answer.body).lines().collect::<Vec<_>>().join("; ")),
        Err(error) => Err(crate::chain(&error)),
    };
    Proxy {
        name: format!("{namespace}/{name}"),
        image: pod.spec.as_ref().and_then(image).unwrap_or_default(),
        ready,
        certificate: certificate.map_err(|error| crate::chain(&error)),
    }
}

fn image(spec: &PodSpec) -> Option<String> {
    let mut all = spec.init_containers.iter().flatten().chain(&spec.containers);
    all.find(|it| it.name == names::PROXY_CONTAINER)?.image.clone()
}

fn judge(proxies: &[Proxy], wanted: Option<&str>, now: u64) -> Vec<Check> {
    if proxies.is_empty() {
        let remedy = format!("kubectl annotate namespace NAMESPACE {}=enabled, and restart its pods", names::INJECT);
        return vec![Check::warning(GROUP, "sidecars", "there is none", remedy)];
    }
    let all = proxies.len();
    let unready: Vec<String> =
        proxies.iter().filter_map(|it| Some(format!("{} ({})", it.name, it.ready.as_ref().err()?))).collect();
    let ready = match unready.is_empty() {
        true => Check::ok(GROUP, "ready", format!("{all} of {all}")),
        false => Check::failed(
            GROUP,
            "ready",
            format!("{} of {all}; not {}", all - unready.len(), some(&unready)),
            "kubectl logs --namespace NAMESPACE POD --container remora-proxy",
        ),
    };
    vec![ready, judge_certificates(proxies, now), judge_versions(proxies, wanted)]
}

fn judge_certificates(proxies: &[Proxy], now: u64) -> Check {
    const NAME: &str = "certificates";
    let (mut bad, mut late, mut least) = (Vec::new(), Vec::new(), u64::MAX);
    for proxy in proxies {
        match &proxy.certificate {
            Err(why) => bad.push(format!("{} ({why})", proxy.name)),
            Ok(None) => bad.push(format!("{} (has none yet)", proxy.name)),
            Ok(Some(it)) if !it.holds(now) => {
                bad.push(format!(
                    "{} (ended {} ago)",
                    proxy.name,
                    crate::inspect::span(now.saturating_sub(it.not_after))
                ));
            }
            Ok(Some(it)) => {
                let (left, life) = (it.not_after - now, it.not_after - it.not_before);
                least = least.min(left);
                // It is renewed at a third of its life; at two thirds, that has failed for a third.
                if left < life / 3 {
                    late.push(format!("{} ({} left)", proxy.name, crate::inspect::span(left)));
                }
            }
        }
    }
    let remedy = "can these pods reach remora-identity? Look at its log, and at theirs";
    match (bad.is_empty(), late.is_empty()) {
        (false, _) => Check::failed(GROUP, NAME, format!("not valid: {}", some(&bad)), remedy),
        (true, false) => Check::warning(GROUP, NAME, format!("renewal is overdue: {}", some(&late)), remedy),
        (true, true) => Check::ok(GROUP, NAME, format!("all valid, for {} at least", crate::inspect::span(least))),
    }
}

fn judge_versions(proxies: &[Proxy], wanted: Option<&str>) -> Check {
    const NAME: &str = "version";
    let Some(wanted) = wanted else {
        return Check::warning(GROUP, NAME, "no injector that says which is wanted", "see remora-injector");
    };
    let other: Vec<String> =
        proxies.iter().filter(|it| it.image != wanted).map(|it| format!("{} ({})", it.name, it.image)).collect();
    match other.is_empty() {
        true => Check::ok(GROUP, NAME, format!("all {wanted}")),
        false => Check::warning(
            GROUP,
            NAME,
            format!("{} run another image than {wanted}: {}", other.len(), some(&other)),
            "they work; a restart of these pods brings them up to date",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::report::Status, *};

    fn proxy() -> Proxy {
        let (not_before, not_after) = (0, 900);
        let identity = "spiffe://cluster.local/ns/shop/sa/web".to_owned();
        Proxy {
            name: "shop/web-1".to_owned(),
            image: "remora:1".to_owned(),
            ready: Ok(()),
            certificate: Ok(Some(Certificate { identity, not_before, not_after, generation: 1, anchors: 1 })),
        }
    }

    fn statuses(proxies: &[Proxy], now: u64) -> Vec<Status> {
        judge(proxies, Some("remora:1"), now).iter().map(|it| it.status).collect()
    }

    #[test]
    fn a_certificate_that_was_not_renewed_is_told_before_it_ends() {
        assert_eq!(statuses(&[proxy()], 100), [Status::Ok; 3]);
        assert_eq!(statuses(&[proxy()], 700)[1], Status::Warning);
        assert_eq!(statuses(&[proxy()], 900)[1], Status::Failed);
        let none = Proxy { certificate: Ok(None), ..proxy() };
        assert_eq!(statuses(&[none], 100)[1], Status::Failed);
    }

    #[test]
    fn one_that_is_not_ready_says_why() {
        let waiting = Proxy { ready: Err("discovery: no answer yet".to_owned()), ..proxy() };
        let all = judge(&[proxy(), waiting], Some("remora:1"), 100);
        assert_eq!(all[0].status, Status::Failed);
        assert_eq!(all[0].detail, "1 of 2; not shop/web-1 (discovery: no answer yet)");
    }

    #[test]
    fn an_old_sidecar_is_told_and_fails_nothing() {
        assert_eq!(judge(&[proxy()], Some("remora:2"), 100)[2].status, Status::Warning);
        assert_eq!(judge(&[], Some("remora:2"), 100)[0].status, Status::Warning);
    }
}
