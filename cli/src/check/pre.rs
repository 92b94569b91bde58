//! Can it be installed here: the API server's version, what we may make, the nodes, and what is there already.

use super::{report::Check, unanswered};
use crate::cluster::Cluster;
use futures_util::future::join_all;
use k8s_openapi::api::{
    apps::v1::Deployment,
    authorization::v1::{ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec},
    core::v1::Node,
};
use kube::{
    Api, ResourceExt as _,
    api::{ListParams, PostParams},
};
use remora_kube::{
    client::{self, CallError},
    names,
};
use tokio::join;

pub(super) const GROUP: &str = "kubernetes";
/// What `remora install` makes: group and resource, and whether it is in a namespace.
const MADE: &[(&str, &str, bool)] = &[
    ("", "namespaces", false),
    ("apiextensions.k8s.io", "customresourcedefinitions", false),
    ("rbac.authorization.k8s.io", "clusterroles", false),
    ("rbac.authorization.k8s.io", "clusterrolebindings", false),
    ("admissionregistration.k8s.io", "validatingadmissionpolicies", false),
    ("admissionregistration.k8s.io", "validatingadmissionpolicybindings", false),
    ("", "serviceaccounts", true),
    ("", "configmaps", true),
    ("", "services", true),
    ("rbac.authorization.k8s.io", "roles", true),
    ("rbac.authorization.k8s.io", "rolebindings", true),
    ("apps", "deployments", true),
    ("networking.k8s.io", "networkpolicies", true),
];
/// The first kubelet with native sidecars on by default.
const KUBELET_MIN: (u32, u32) = (1, 29);

/// All of them.
pub(super) async fn checks(cluster: &Cluster, own: &str) -> Vec<Check> {
    let (permissions, nodes, gateway, absent) =
        join!(permissions(cluster, own), nodes(cluster), gateway(cluster), absent(cluster));
    vec![permissions, nodes, gateway, absent]
}

async fn permissions(cluster: &Cluster, own: &str) -> Check {
    const NAME: &str = "permissions";
    let reviews: Api<SelfSubjectAccessReview> = Api::all(cluster.client.clone());
    let asked = MADE.iter().map(|&(group, resource, namespaced)| {
        let attributes = ResourceAttributes {
            verb: Some("create".to_owned()),
            group: Some(group.to_owned()),
            resource: Some(resource.to_owned()),
            namespace: namespaced.then(|| own.to_owned()),
            ..ResourceAttributes::default()
        };
        let spec = SelfSubjectAccessReviewSpec { resource_attributes: Some(attributes), ..Default::default() };
        let review = SelfSubjectAccessReview { spec, ..SelfSubjectAccessReview::default() };
        let reviews = reviews.clone();
        async move {
            let answer = client::call(reviews.create(&PostParams::default(), &review)).await?;
            Ok::<_, CallError>((resource, answer.status.is_some_and(|it| it.allowed)))
        }
    });
    let mut missing = Vec::new();
    for answer in join_all(asked).await {
        match answer {
            Ok((_, true)) => {}
            Ok((resource, false)) => missing.push(resource),
            Err(error) => return unanswered(GROUP, NAME, &error),
        }
    }
    if missing.is_empty() {
        return Check::ok(GROUP, NAME, format!("may create all {} kinds of objects", MADE.len()));
    }
    Check::failed(
        GROUP,
        NAME,
        format!("may not create {}", missing.join(", ")),
        "install it as a cluster administrator (ClusterRole cluster-admin)",
    )
}

async fn nodes(cluster: &Cluster) -> Check {
    let nodes: Api<Node> = Api::all(cluster.client.clone());
    match client::call(nodes.list(&ListParams::default())).await {
        Ok(list) => judge_nodes(&list.items),
        Err(error) => unanswered(GROUP, "nodes", &error),
    }
}

fn judge_nodes(nodes: &[Node]) -> Check {
    const NAME: &str = "nodes";
    let info = |node: &Node| node.status.as_ref().and_then(|it| it.node_info.clone());
    let linux: Vec<&Node> =
        nodes.iter().filter(|node| info(node).is_some_and(|it| it.operating_system == "linux")).collect();
    if linux.is_empty() {
        return Check::failed(GROUP, NAME, "no Linux node", "add one: the control plane and meshed pods need Linux");
    }
    let old =
        |node: &&&Node| info(node).is_some_and(|it| version(&it.kubelet_version).is_some_and(|it| it < KUBELET_MIN));
    let old: Vec<String> = linux.iter().filter(old).map(|node| node.name_any()).collect();
    if !old.is_empty() {
        let detail = format!("a kubelet before 1.29 has no native sidecars: {}", old.join(", "));
        return Check::failed(GROUP, NAME, detail, "upgrade these nodes, or keep meshed pods off them");
    }
    let other = nodes.len() - linux.len();
    let rest = if other > 0 { format!(", {other} others, whose pods stay outside") } else { String::new() };
    Check::ok(GROUP, NAME, format!("{} with Linux and native sidecars{rest}", linux.len()))
}

/// Whether routes can be written.
async fn gateway(cluster: &Cluster) -> Check {
    const NAME: &str = "Gateway API";
    match client::call(cluster.client.list_api_groups()).await {
        Ok(list) if list.groups.iter().any(|group| group.name == "gateway.networking.k8s.io") => Check::ok(
            GROUP,
            NAME,
            "its CRDs are there: HTTPRoutes, GRPCRoutes, TLSRoutes and TCPRoutes on Services are carried out",
        ),
        Ok(_) => Check::ok(GROUP, NAME, "no CRDs; the mesh works without routes, and takes them up when they come"),
        Err(error) => unanswered(GROUP, NAME, &error),
    }
}

/// Whether there is a mesh already.
async fn absent(cluster: &Cluster) -> Check {
    const NAME: &str = "not installed yet";
    let deployments: Api<Deployment> = Api::all(cluster.client.clone());
    match client::call(deployments.list_metadata(&ListParams::default().labels(names::PART))).await {
        Ok(list) => match list.items.first() {
            None => Check::ok(GROUP, NAME, "no control plane runs here"),
            Some(first) => Check::failed(
                GROUP,
                NAME,
                format!("a control plane is in namespace {}", first.namespace().unwrap_or_default()),
                "check it by `remora check`, bring it to this version by `remora upgrade`",
            ),
        },
        Err(error) => unanswered(GROUP, NAME, &error),
    }
}

/// Major and minor of `v1.35.0-rc.1+x`.
pub(super) fn version(text: &str) -> Option<(u32, u32)> {
    let mut parts = text.trim_start_matches('v').split('.');
    let digits = |part: &str| part.trim_end_matches(|c: char| !c.is_ascii_digit()).parse().ok();
    Some((digits(parts.next()?)?, digits(parts.next()?)?))
}

#[cfg(test)]
mod tests {
    use super::{super::report::Status, *};

    fn node(name: &str, os: &str, kubelet: &str) -> Node {
        let info = serde_json::json!({
            "operatingSystem": os, "kubeletVersion": kubelet, "architecture": "", "bootID": "",
            "containerRuntimeVersion": "", "kernelVersion": "", "kubeProxyVersion": "", "machineID": "",
            "osImage": "", "systemUUID": "",
        });
        serde_json::from_value(serde_json::json!({ "metadata": { "name": name }, "status": { "nodeInfo": info } }))
            .unwrap()
    }

    #[test]
    fn versions_of_every_vendor_are_read() {
        assert_eq!(version("v1.35.0"), Some((1, 35)));
        assert_eq!(version("v1.31.4-gke.1183000"), Some((1, 31)));
        assert_eq!(version("1.30+"), Some((1, 30)));
        assert_eq!(version("dev"), None);
    }

    #[test]
    fn a_node_without_native_sidecars_is_named_and_a_windows_node_is_not() {
        let nodes = [node("a", "linux", "v1.35.0"), node("b", "linux", "v1.28.9"), node("w", "windows", "v1.28.0")];
        let check = judge_nodes(&nodes);
        assert_eq!(check.status, Status::Failed);
        assert!(check.detail.ends_with(": b"), "{}", check.detail);
        assert_eq!(judge_nodes(&[nodes[0].clone(), nodes[2].clone()]).status, Status::Ok);
        assert_eq!(judge_nodes(&nodes[2..]).status, Status::Failed);
    }
}
