//! The objects that a question is about, indexed as discovery does, and the port that is meant.

use super::Objects;
use crate::{
    cluster::{Cluster, policies},
    lint,
};
use k8s_openapi::api::{apps::v1::Deployment, core::v1::Namespace};
use kube::Api;
use remora_discovery::{
    index::{Answer, Asked, Change, Mesh, World as Index},
    objects::{Object, core::Pod, jwks::hosts_of, registry::kinds},
    source::parse::parse,
};
use remora_kube::client;
use remora_model::{BackendId, DefaultInbound, Inbound, SpiffeId, TrustDomain};
use serde_json::{Value, json};
use std::{collections::BTreeSet, sync::Arc};

/// The kinds that say what is allowed, and where.
const KINDS: [&str; 5] = ["Pod", "Service", "EndpointSlice", "AuthorizationPolicy", "MeshTLSPolicy"];
/// Kinds that make pods, by a template.
const WORKLOADS: [&str; 4] = ["Deployment", "StatefulSet", "DaemonSet", "ReplicaSet"];

/// What was named is not among the objects.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Absent(String);

/// Who calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum From {
    /// Without a certificate.
    Nobody,
    Identity(SpiffeId),
    /// Of the mesh's trust domain: namespace and service account.
    Account(String, String),
}

impl From {
    pub(super) fn identity(&self, trust_domain: &TrustDomain) -> anyhow::Result<Option<SpiffeId>> {
        Ok(match self {
            Self::Nobody => None,
            Self::Identity(id) => Some(id.clone()),
            Self::Account(namespace, account) => Some(SpiffeId::workload(trust_domain, namespace, account)?),
        })
    }
}

pub(super) fn from(text: &str) -> Result<From, String> {
    if text == "none" {
        return Ok(From::Nobody);
    }
    if text.starts_with("spiffe:") {
        return SpiffeId::parse(text).map(From::Identity).map_err(|error| error.to_string());
    }
    match text.split_once('/') {
        Some((namespace, account)) if !namespace.is_empty() && !account.is_empty() && !account.contains('/') => {
            Ok(From::Account(namespace.to_owned(), account.to_owned()))
        }
        _ => Err("say NAMESPACE/SERVICE-ACCOUNT, spiffe://… or none".to_owned()),
    }
}

/// Whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct To {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) port: Option<u16>,
}

pub(super) fn to(text: &str) -> Result<To, String> {
    let wrong = || "say NAMESPACE/NAME or NAMESPACE/NAME:PORT".to_owned();
    let (namespace, rest) = text.split_once('/').ok_or_else(wrong)?;
    let (name, port) = match rest.split_once(':') {
        Some((name, port)) => (name, Some(port.parse().ok().filter(|port| *port != 0).ok_or_else(wrong)?)),
        None => (rest, None),
    };
    if namespace.is_empty() || name.is_empty() || name.contains('/') {
        return Err(wrong());
    }
    Ok(To { namespace: namespace.to_owned(), name: name.to_owned(), port })
}

/// See the module.
pub(super) struct World {
    index: Index,
    objects: Vec<Object>,
    pub(super) mesh: Mesh,
    /// Whether what holds by default is not known, and is taken to be the chart's own default.
    pub(super) default_is_assumed: bool,
}

/// What was read: the objects, and what discovery was told that holds where no policy says anything, if that is known.
type Read = (Vec<Object>, Option<DefaultInbound>);

impl World {
    pub(super) async fn read(args: &Objects, of: &To) -> anyhow::Result<Self> {
        let (objects, known) = if args.file.is_empty() { live(args, of).await? } else { (files(args)?, None) };
        let default = args.default_inbound_policy.or(known);
        let mesh = Mesh {
            trust_domain: args.trust_domain.clone(),
            namespace: args.control_plane.namespace.clone(),
            jwks_hosts: hosts_of(&objects),
            default_inbound: default.unwrap_or_default(),
            ..Mesh::default()
        };
        let mut index = Index::new(mesh.clone());
        index.apply(objects.iter().cloned().map(Change::Put), &mut |_, _| {});
        index.assume_keys();
        Ok(Self { index, objects, mesh, default_is_assumed: default.is_none() })
    }

    /// The pod and its port that are meant, and what rules that.
    pub(super) fn resolve(&mut self, to: &To) -> anyhow::Result<(String, Arc<Inbound>)> {
        let (pod, port) = self.port_of(to)?;
        let (namespace, name) = pod.split_once('/').unwrap_or_default();
        let asked = Asked::Inbound((namespace.to_owned(), name.to_owned()), port);
        match self.index.ask(&Arc::new(asked)) {
            Answer::Inbound(Some(inbound)) => Ok((format!("{pod}:{port}"), Arc::new(inbound))),
            _ => Err(Absent(format!("pod {pod} has no address yet, so that its proxy lets nothing in")).into()),
        }
    }

    fn port_of(&mut self, to: &To) -> anyhow::Result<(String, u16)> {
        let To { namespace, name, port } = to;
        let service = self.objects.iter().find_map(|object| match object {
            Object::Service(service) if service.metadata.namespace == *namespace && service.metadata.name == *name => {
                Some(Arc::clone(service))
            }
            _ => None,
        });
        if let Some(service) = service {
            let known: Vec<u16> = service.spec.ports.iter().map(|port| port.port).collect();
            let port = one(*port, &known, &format!("Service {namespace}/{name}"))?;
            let backend = self.index.ask(&Arc::new(Asked::Backend(BackendId::service(namespace, name, port))));
            let Answer::Backend(Some(backend)) = backend else {
                return Err(Absent(format!("Service {namespace}/{name} has no port {port}")).into());
            };
            let meshed =
                backend.endpoints.iter().find(|endpoint| endpoint.identity.is_some() && !endpoint.pod.is_empty());
            let none = || {
                Absent(format!(
                    "no pod in the mesh serves port {port} of Service {namespace}/{name}: no proxy judges calls to it"
                ))
            };
            let endpoint = meshed.ok_or_else(none)?;
            return Ok((endpoint.pod.to_string(), endpoint.address.port()));
        }
        let is = |pod: &Pod| {
            let rest = pod.metadata.name.strip_prefix(name.as_str());
            pod.metadata.namespace == *namespace && rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
        };
        let mut pods =
            self.objects.iter().filter_map(|object| if let Object::Pod(pod) = object { Some(pod) } else { None });
        let pod = pods.find(|pod| is(pod));
        let pod = pod.ok_or_else(|| Absent(format!("there is no Service, pod or workload {namespace}/{name}")))?;
        let known: Vec<u16> =
            pod.spec.containers.iter().flat_map(|one| &one.ports).map(|port| port.container_port).collect();
        let port = one(*port, &known, &format!("pod {namespace}/{}", pod.metadata.name))?;
        Ok((format!("{namespace}/{}", pod.metadata.name), port))
    }

    /// Where a rule stands, by its name: `shop/web rule 1`.
    pub(super) fn place(&self, rule: &str) -> Option<String> {
        let (policy, _) = rule.split_once(" rule ").unwrap_or((rule, ""));
        let (namespace, name) = policy.split_once('/')?;
        let is = |object: &&Object| {
            let meta = object.metadata();
            object.kind() == "AuthorizationPolicy" && meta.namespace == namespace && meta.name == name
        };
        let origin = &self.objects.iter().find(is)?.metadata().origin;
        (*origin.file != *LIVE).then(|| format!("{}:{}", origin.file, origin.line))
    }

    pub(super) fn objects(&self) -> &[Object] {
        &self.objects
    }
}

fn one(said: Option<u16>, known: &[u16], what: &str) -> anyhow::Result<u16> {
    match (said, known) {
        (Some(port), _) | (None, &[port]) => Ok(port),
        (None, known) => {
            let known: Vec<String> = known.iter().map(u16::to_string).collect();
            anyhow::bail!(
                "say which port of {what}, behind a colon (it has {})",
                if known.is_empty() { "none".to_owned() } else { known.join(", ") }
            )
        }
    }
}

/// What the objects of a cluster are read as.
const LIVE: &str = "cluster";

/// Those of the namespace that is meant, and the policies of the mesh.
async fn live(args: &Objects, of: &To) -> anyhow::Result<Read> {
    let cluster = Cluster::connect(&args.cluster).await?;
    let control = &args.control_plane.namespace;
    let mut items = Vec::new();
    for kind in kinds().filter(|kind| KINDS.contains(&kind.kind)) {
        let resource = policies::resource(kind);
        let mut found = policies::objects(&cluster, &resource, Some(&of.namespace)).await?;
        if kind.group == remora_discovery::objects::kind::OUR_GROUP && *control != of.namespace {
            found.extend(policies::objects(&cluster, &resource, Some(control)).await?);
        }
        for object in found {
            let mut object = serde_json::to_value(object)?;
            object["apiVersion"] = resource.api_version.clone().into();
            object["kind"] = resource.kind.clone().into();
            items.push(object);
        }
    }
    // What they say holds by default.
    let namespaces: Api<Namespace> = Api::all(cluster.client.clone());
    for name in BTreeSet::from([&of.namespace, control]) {
        let found = client::call(namespaces.get_opt(name)).await?;
        items.extend(found.map(serde_json::to_value).transpose()?);
    }
    let objects = parse(&json!({ "apiVersion": "v1", "kind": "List", "items": items }).to_string(), LIVE).objects;
    // Who may not read it is told that it is not known.
    let deployments: Api<Deployment> = Api::namespaced(cluster.client.clone(), control);
    let discovery = client::call(deployments.get_opt(remora_kube::names::DISCOVERY)).await.ok().flatten();
    Ok((objects, discovery.as_ref().and_then(default_of)))
}

/// What discovery was started with.
fn default_of(discovery: &Deployment) -> Option<DefaultInbound> {
    let containers = &discovery.spec.as_ref()?.template.spec.as_ref()?.containers;
    let mut args = containers.iter().flat_map(|container| container.args.iter().flatten());
    args.find_map(|arg| arg.strip_prefix("--default-inbound-policy="))?.parse().ok()
}

/// What files say, and the pods that their workloads would make.
fn files(args: &Objects) -> anyhow::Result<Vec<Object>> {
    let manifests = lint::manifests(&args.file)?;
    let mut objects = manifests.objects;
    for (number, (file, document)) in manifests.trees.into_iter().enumerate() {
        if let Some(pod) = pod_of(&document.into_json(), number) {
            objects.extend(parse(&pod.to_string(), &file).objects);
        }
    }
    Ok(objects)
}

/// One pod of a workload, as if it ran in the mesh.
fn pod_of(workload: &Value, number: usize) -> Option<Value> {
    let kind = workload["kind"].as_str().filter(|kind| WORKLOADS.contains(kind))?;
    let (meta, template) = (&workload["metadata"], &workload["spec"]["template"]);
    let mut labels = template["metadata"]["labels"].as_object().cloned().unwrap_or_default();
    labels.insert(remora_kube::names::INJECTED.to_owned(), "true".into());
    let name = format!("{}-{}", meta["name"].as_str()?, kind.to_lowercase());
    let namespace = meta["namespace"].as_str().unwrap_or("default");
    // Of documentation (RFC 5737, 6890): no pod has it.
    let ip = format!("198.18.{}.{}", number / 250 % 250, number % 250 + 1);
    Some(json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": name, "namespace": namespace, "labels": labels },
        "spec": { "serviceAccountName": template["spec"]["serviceAccountName"], "containers": template["spec"]["containers"] },
        "status": { "phase": "Running", "podIP": ip, "conditions": [{ "type": "Ready", "status": "True" }] },
    }))
}
