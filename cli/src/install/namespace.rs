//! Whose the control plane's namespace is. `remora install` makes it only where there is none, and marks what it makes; a
//! namespace without the mark is a person's: it is neither labelled nor deleted.

use super::InstallArgs;
use crate::cluster::Cluster;
use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, ResourceExt as _};
use remora_kube::{
    client::{self, CallError},
    names,
};

/// What is there of that name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// None.
    Absent,
    /// What `remora install` made.
    Ours,
    /// Created by somebody else.
    Foreign,
}

/// Why there are no manifests.
#[derive(Debug, thiserror::Error)]
#[error(
    "namespace {0} is there already, and remora install did not make it: without --create-namespace it is left as it is"
)]
pub(super) struct Refused(String);

/// Asks the cluster.
pub(super) async fn state(cluster: &Cluster, name: &str) -> Result<State, CallError> {
    let namespaces: Api<Namespace> = Api::all(cluster.client.clone());
    let found = client::call(namespaces.get_metadata_opt(name)).await?;
    Ok(match found {
        None => State::Absent,
        Some(found) if found.labels().get(names::MADE_BY).is_some_and(|by| by == names::INSTALL) => State::Ours,
        Some(_) => State::Foreign,
    })
}

/// Whether the Namespace is among the manifests, and what a person must know of it.
pub(super) async fn create(args: &InstallArgs) -> Result<(bool, Option<String>), Refused> {
    let asked = match Cluster::connect(&args.cluster).await {
        Ok(cluster) => state(&cluster, &args.namespace).await.map_err(|error| error.to_string()),
        Err(error) => Err(crate::chain(&error)),
    };
    decide(asked, args.create_namespace, &args.namespace)
}

/// The same, from what the cluster said, or why it said nothing. Pure.
fn decide(asked: Result<State, String>, wanted: bool, name: &str) -> Result<(bool, Option<String>), Refused> {
    match (asked, wanted) {
        (Ok(State::Absent | State::Ours), _) => Ok((true, None)),
        (Ok(State::Foreign), true) => Err(Refused(name.to_owned())),
        (Ok(State::Foreign), false) => Ok((
            false,
            Some(format!(
                "namespace {name} is there already and stays as it is: it gets no labels for Pod Security, and `remora \
                 uninstall` will not delete it"
            )),
        )),
        (Err(why), true) => Ok((
            true,
            Some(format!(
                "no cluster could be asked ({why}): applied where namespace {name} is there already, these manifests make it \
                 Remora's: labelled for Pod Security, and deleted by `remora uninstall`"
            )),
        )),
        (Err(why), false) => Ok((
            false,
            Some(format!(
                "no cluster could be asked ({why}): namespace {name} is not among the manifests; make it first, or say \
                 --create-namespace if there is none"
            )),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_that_install_did_not_make_is_in_no_manifest() {
        for state in [State::Absent, State::Ours] {
            for wanted in [false, true] {
                assert_eq!(decide(Ok(state), wanted, "mesh").unwrap(), (true, None));
            }
        }
        let (create, note) = decide(Ok(State::Foreign), false, "monitoring").unwrap();
        assert!(!create && note.is_some_and(|note| note.contains("monitoring") && note.contains("stays as it is")));
        assert!(decide(Ok(State::Foreign), true, "monitoring").is_err());
    }

    #[test]
    fn who_renders_without_a_cluster_says_whether_there_is_one_and_is_told() {
        let away = || Err("connection refused".to_owned());
        let (create, note) = decide(away(), false, "remora").unwrap();
        assert!(!create && note.is_some_and(|note| note.contains("--create-namespace")));
        let (create, note) = decide(away(), true, "remora").unwrap();
        assert!(create && note.is_some_and(|note| note.contains("connection refused")));
    }
}
