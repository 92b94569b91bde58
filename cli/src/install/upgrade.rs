//! The manifests of this version for a control plane that runs.
//!
//! In: what runs: its version, and its settings at the installation. Out: manifests that keep that, and what this version no
//! longer has, which `kubectl apply` would leave behind. It refuses what would do harm: a step back, or a release that
//! Helm holds.

use super::{
    UpgradeArgs,
    manifests::{Settings, VERSION},
    namespace,
};
use crate::cluster::{
    Cluster, NoCluster,
    objects::{self, Object},
};
use k8s_openapi::api::{apps::v1::Deployment, core::v1::Container};
use kube::{Api, ResourceExt as _, api::ListParams};
use remora_kube::{
    client::{self, CallError},
    names, yaml,
};

/// The label with the version, on everything of the chart.
const VERSION_LABEL: &str = "app.kubernetes.io/version";

/// Why there are no manifests.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("{0}")]
    Cluster(#[from] NoCluster),
    #[error("{0}")]
    Call(#[from] CallError),
    #[error("no control plane runs here; start one by: remora install | kubectl apply --server-side -f -")]
    Absent,
    #[error("Helm holds it: helm upgrade {release} charts/remora --namespace {namespace} --reset-then-reuse-values")]
    Helm { release: String, namespace: String },
    #[error("version {running} runs, which is newer than {VERSION}: use that version's command, or say --downgrade")]
    Newer { running: String },
    #[error("what runs was not made by this command: {0}; apply what `remora install` prints for your settings")]
    Unknown(String),
    #[error("manifests cannot be read")]
    Manifests(#[source] yaml::Mistake),
}

/// What runs.
#[derive(Debug, PartialEq, Eq)]
struct Running {
    settings: Settings,
    version: String,
}

/// The manifests and the notes.
pub(super) async fn run(args: &UpgradeArgs) -> Result<(String, Vec<String>), Error> {
    let cluster = Cluster::connect(&args.cluster).await?;
    let deployments: Api<Deployment> = Api::all(cluster.client.clone());
    let mine = ListParams::default().labels(names::PART);
    let (list, all) = tokio::try_join!(client::call(deployments.list(&mine)), objects::all(&cluster))?;
    let named = |name: &str| list.items.iter().find(|it| it.name_any() == name);
    let identity = named(names::IDENTITY).ok_or(Error::Absent)?;
    let Running { mut settings, version } = read(identity, named(names::INJECTOR))?;
    if newer(&version, VERSION) && !args.downgrade {
        return Err(Error::Newer { running: version });
    }
    settings.create_namespace =
        matches!(namespace::state(&cluster, &settings.namespace).await?, namespace::State::Ours);
    settings.ha |= args.ha;
    settings.image = args.image.clone().or(settings.image);
    settings.image_tag.clone_from(&args.image_tag);
    let manifests = settings.render();
    let wanted = objects::of_manifests(&manifests).map_err(Error::Manifests)?;
    Ok((manifests, notes(&version, &all, &wanted)))
}

/// The settings of the identity service, and the injector's settings about the cluster.
fn read(identity: &Deployment, injector: Option<&Deployment>) -> Result<Running, Error> {
    let namespace = identity.namespace().unwrap_or_default();
    if let Some(release) = identity.annotations().get("meta.helm.sh/release-name") {
        return Err(Error::Helm { release: release.clone(), namespace });
    }
    let unknown = |what: &str| Error::Unknown(format!("Deployment {namespace}/{} has no {what}", names::IDENTITY));
    let version = identity.labels().get(VERSION_LABEL).ok_or_else(|| unknown("version label"))?.clone();
    let spec = identity.spec.as_ref().ok_or_else(|| unknown("spec"))?;
    let container = container_of(identity).ok_or_else(|| unknown("container"))?;
    let repository = container.image.as_deref().and_then(repository).map(str::to_owned);
    let domain = told(container, "--trust-domain=").and_then(|it| it.parse().ok());
    let of_cluster = |flag: &str| injector.and_then(container_of).and_then(|it| told(it, flag)).map(str::to_owned);
    Ok(Running {
        settings: Settings {
            ha: spec.replicas.is_some_and(|it| it > 1),
            create_namespace: false,
            trust_domain: Some(domain.ok_or_else(|| unknown("--trust-domain"))?),
            cluster_domain: of_cluster("--cluster-domain="),
            cluster_networks: of_cluster("--cluster-networks="),
            image: Some(repository.ok_or_else(|| unknown("image tag"))?),
            image_tag: None,
            namespace,
        },
        version,
    })
}

/// The repository of an image that has a tag or a digest, or both.
fn repository(image: &str) -> Option<&str> {
    let (name, digest) = image.split_once('@').map_or((image, None), |(name, digest)| (name, Some(digest)));
    // A registry's port is before a slash.
    match name.rsplit_once(':').filter(|(_, tag)| !tag.contains('/')) {
        Some((repository, _)) => Some(repository),
        None => digest.map(|_| name),
    }
}

fn container_of(deployment: &Deployment) -> Option<&Container> {
    deployment.spec.as_ref()?.template.spec.as_ref()?.containers.first()
}

/// What the argument that begins with `flag` says.
fn told<'a>(container: &'a Container, flag: &str) -> Option<&'a str> {
    container.args.iter().flatten().find_map(|arg| arg.strip_prefix(flag))
}

/// Whether `a` is a later version than `b`. Versions that are no numbers are not compared.
fn newer(a: &str, b: &str) -> bool {
    let numbers = |text: &str| -> Option<Vec<u64>> {
        let core = text.split(['-', '+']).next()?;
        core.split('.').map(|part| part.parse().ok()).collect()
    };
    numbers(a).zip(numbers(b)).is_some_and(|(a, b)| a > b)
}

fn notes(version: &str, running: &[Object], wanted: &[Object]) -> Vec<String> {
    let mut notes =
        vec![format!("from {version} to {VERSION}; apply by: remora upgrade | kubectl apply --server-side -f -")];
    let old = running.iter().filter(|it| !it.made_by_part && !wanted.iter().any(|new| new.is(it)));
    let old: Vec<String> = old.map(Object::title).collect();
    if !old.is_empty() {
        notes.push(format!("no longer used, delete by hand once it is applied: {}", old.join(", ")));
    }
    notes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(more: serde_json::Value) -> Deployment {
        let mut deployment = serde_json::json!({
            "metadata": {
                "name": "remora-identity",
                "namespace": "mesh",
                "labels": { VERSION_LABEL: "0.1.0" },
            },
            "spec": {
                "replicas": 3,
                "selector": {},
                "template": { "spec": { "containers": [{
                    "name": "identity",
                    "image": "registry.local:5000/remora:0.0.9",
                    "args": ["--kubernetes", "--trust-domain=td.example"],
                }] } },
            },
        });
        if let (Some(into), serde_json::Value::Object(more)) = (deployment["metadata"].as_object_mut(), more) {
            into.extend(more);
        }
        serde_json::from_value(deployment).unwrap()
    }

    #[test]
    fn what_install_was_told_stays() {
        let injector = serde_json::json!({
            "spec": { "selector": {}, "template": { "spec": { "containers": [{
                "name": "injector",
                "args": ["--namespace=mesh", "--cluster-domain=k8s.example", "--cluster-networks=10.0.0.0/8"],
            }] } } },
        });
        let injector = serde_json::from_value(injector).unwrap();
        let running = read(&identity(serde_json::json!({})), Some(&injector)).unwrap();
        let settings = Settings {
            ha: true,
            namespace: "mesh".to_owned(),
            create_namespace: false,
            cluster_domain: Some("k8s.example".to_owned()),
            cluster_networks: Some("10.0.0.0/8".to_owned()),
            trust_domain: Some("td.example".parse().unwrap()),
            image: Some("registry.local:5000/remora".to_owned()),
            image_tag: None,
        };
        assert_eq!(running, Running { settings, version: "0.1.0".to_owned() });
    }

    #[test]
    fn the_repository_is_what_is_before_tag_and_digest() {
        for (image, expected) in [
            ("registry.local:5000/remora:0.0.9", Some("registry.local:5000/remora")),
            ("registry.local:5000/remora@sha256:0a", Some("registry.local:5000/remora")),
            ("remora:0.0.9@sha256:0a", Some("remora")),
            ("registry.local:5000/remora", None),
        ] {
            assert_eq!(repository(image), expected, "{image}");
        }
    }

    #[test]
    fn what_helm_holds_is_left_to_helm() {
        let held = identity(serde_json::json!({ "annotations": { "meta.helm.sh/release-name": "mesh-1" } }));
        let error = read(&held, None).unwrap_err().to_string();
        assert!(error.contains("helm upgrade mesh-1 charts/remora --namespace mesh"), "{error}");
    }

    #[test]
    fn versions_are_compared_as_numbers() {
        assert!(newer("0.10.0", "0.9.9") && newer("1.0.0", "0.99.0"));
        assert!(!newer("0.1.0", "0.1.0") && !newer("0.1.0-rc.1", "0.1.0") && !newer("dev", "0.1.0"));
    }
}
