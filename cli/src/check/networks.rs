//! Whether discovery can know the cluster's networks. Inside them a proxy sends nothing in plaintext unless discovery said
//! so; where they are not known, a destination that discovery does not know looks like one outside the cluster.

use super::{report::Check, unanswered};
use crate::cluster::Cluster;
use k8s_openapi::api::{apps::v1::Deployment, core::v1::Node};
use kube::{Api, ResourceExt, api::ListParams};
use remora_kube::{
    client::{self, CallError},
    names,
};
use tokio::try_join;

const GROUP: &str = "control plane";
const NAME: &str = "networks";
/// The flag of discovery that names them.
const FLAG: &str = "--cluster-networks=";
/// Nodes named in a line.
const SHOWN_MAX: usize = 3;

/// What discovery has to go by.
#[derive(Debug, Default, PartialEq, Eq)]
struct Facts {
    /// The networks that it was given.
    told: Option<String>,
    /// Whether the API has ServiceCIDRs.
    service_cidrs: bool,
    nodes: usize,
    /// Nodes without a pod CIDR.
    bare_nodes: Vec<String>,
}

/// The one check.
pub(super) async fn check(cluster: &Cluster, own: &str) -> Check {
    match facts(cluster, own).await {
        Ok(facts) => judge(&facts),
        Err(error) => unanswered(GROUP, NAME, &error),
    }
}

async fn facts(cluster: &Cluster, own: &str) -> Result<Facts, CallError> {
    let deployments: Api<Deployment> = Api::namespaced(cluster.client.clone(), own);
    let nodes: Api<Node> = Api::all(cluster.client.clone());
    let everything = ListParams::default();
    let (discovery, nodes, resources) = try_join!(
        client::call(deployments.get_opt(names::DISCOVERY)),
        client::call(nodes.list(&everything)),
        client::call(cluster.client.list_api_group_resources("networking.k8s.io/v1")),
    )?;
    let args = discovery.and_then(|it| it.spec?.template.spec?.containers.into_iter().next()?.args).unwrap_or_default();
    let cidrs =
        |node: &&Node| node.spec.as_ref().is_some_and(|spec| spec.pod_cidr.is_some() || spec.pod_cidrs.is_some());
    Ok(Facts {
        told: args.iter().find_map(|arg| arg.strip_prefix(FLAG)).filter(|it| !it.is_empty()).map(str::to_owned),
        service_cidrs: resources.resources.iter().any(|resource| resource.name == "servicecidrs"),
        nodes: nodes.items.len(),
        bare_nodes: nodes.items.iter().filter(|node| !cidrs(node)).map(ResourceExt::name_any).collect(),
    })
}

fn judge(facts: &Facts) -> Check {
    let remedy = "name them: value clusterNetworks of the chart, or remora install --cluster-networks CIDR,CIDR";
    if let Some(told) = &facts.told {
        return Check::ok(GROUP, NAME, format!("set: {told}"));
    }
    let mut unknown = Vec::new();
    if !facts.service_cidrs {
        unknown.push("those of Services are not known: this API server has no ServiceCIDRs".to_owned());
    }
    if !facts.bare_nodes.is_empty() {
        let shown = facts.bare_nodes.iter().take(SHOWN_MAX).cloned().collect::<Vec<_>>().join(", ");
        let more = facts.bare_nodes.len().saturating_sub(SHOWN_MAX);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        unknown.push(format!("those of pods are not known on nodes without a pod CIDR: {shown}{more}"));
    }
    if unknown.is_empty() {
        return Check::ok(GROUP, NAME, format!("found: ServiceCIDRs, and the pod CIDRs of {} nodes", facts.nodes));
    }
    Check::warning(GROUP, NAME, unknown.join("; "), remedy)
}

#[cfg(test)]
mod tests {
    use super::{super::report::Status, *};

    #[test]
    fn what_cannot_be_found_must_be_told_and_what_is_told_is_enough() {
        let found = Facts { service_cidrs: true, nodes: 2, ..Facts::default() };
        assert_eq!(judge(&found).status, Status::Ok);
        let old = Facts { nodes: 2, ..Facts::default() };
        let check = judge(&old);
        assert_eq!(check.status, Status::Warning);
        assert!(check.detail.contains("no ServiceCIDRs") && check.remedy.contains("clusterNetworks"), "{check:?}");
        let bare_nodes: Vec<String> = (1..6).map(|number| format!("n{number}")).collect();
        let bare = Facts { service_cidrs: true, nodes: 5, bare_nodes: bare_nodes.clone(), ..Facts::default() };
        let check = judge(&bare);
        assert_eq!(check.status, Status::Warning);
        assert!(check.detail.ends_with("n1, n2, n3 and 2 more"), "{check:?}");
        let told = Facts { told: Some("10.0.0.0/8".to_owned()), bare_nodes, ..Facts::default() };
        assert_eq!(judge(&told).status, Status::Ok);
    }
}
