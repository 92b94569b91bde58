//! The pod as it is wanted: first without what is ours ([`bare`]), then with it ([`wanted`]).

use super::{json, probes, sidecar, sidecar::Ours};
use remora_kube::names::{
    ADMIN_PORT, INBOUND_PORT, INIT_CONTAINER, INJECTED, OPAQUE_PORTS, OUTBOUND_PORT, PROBES, PROXY_CONTAINER,
    PROXY_UID, PROXY_VOLUME,
};
use serde_json::{Map, Value};

const OURS: [&str; 2] = [INIT_CONTAINER, PROXY_CONTAINER];

/// `pod` without our containers and with its own probes. The volume is removed only if our proxy container is present;
/// otherwise a volume of that name is the user's.
pub(super) fn bare(pod: &Value) -> Value {
    let mut bare = pod.clone();
    let annotations = bare.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut);
    let originals = annotations.and_then(|annotations| annotations.remove(PROBES));
    let originals = originals.and_then(|text| serde_json::from_str::<Map<String, Value>>(text.as_str()?).ok());
    let Some(spec) = bare.get_mut("spec") else { return bare };
    probes::restore(spec, &originals.unwrap_or_default());
    if has_proxy(pod) {
        for (field, ours) in [("initContainers", &OURS[..]), ("volumes", &[PROXY_VOLUME])] {
            if let Some(list) = spec.get_mut(field).and_then(Value::as_array_mut) {
                list.retain(|element| !ours.contains(&json::name(element)));
            }
        }
    }
    bare
}

/// What the pod has that our sidecar cannot stand beside.
pub(super) fn conflicts(bare: &Value, mistakes: &mut Vec<String>) {
    let spec = &bare["spec"];
    for (field, is_init) in [("containers", false), ("initContainers", true)] {
        for container in json::elements(spec, field) {
            let name = json::name(container);
            if OURS.contains(&name) {
                mistakes.push(format!("a container is called {name}, which is the sidecar's name"));
            }
            if container["securityContext"]["runAsUser"] == PROXY_UID {
                mistakes.push(format!("container {name} runs as user {PROXY_UID}, whose traffic is never redirected"));
            }
            // A port of an init container that ends is free again.
            if is_init && container["restartPolicy"] != "Always" {
                continue;
            }
            for port in json::elements(container, "ports") {
                // The proxy listens on TCP.
                if port["protocol"].as_str().is_some_and(|protocol| protocol != "TCP") {
                    continue;
                }
                let number =
                    [INBOUND_PORT, OUTBOUND_PORT, ADMIN_PORT].into_iter().find(|own| port["containerPort"] == *own);
                if let Some(number) = number {
                    mistakes.push(format!("container {name} uses port {number}, which the sidecar needs"));
                }
            }
        }
    }
    if spec["securityContext"]["runAsUser"] == PROXY_UID {
        mistakes.push(format!("the pod runs as user {PROXY_UID}, whose traffic is never redirected"));
    }
    if json::elements(spec, "volumes").iter().any(|volume| json::name(volume) == PROXY_VOLUME) {
        mistakes.push(format!("a volume is called {PROXY_VOLUME}, which is the sidecar's name"));
    }
}

/// `bare` with its sidecar. Parts of the sidecar that `pod` has already, with the right content, are left unchanged.
pub(super) fn wanted(pod: &Value, mut bare: Value, ours: &Ours<'_>) -> Value {
    let settings = ours.settings;
    // Where the pod has a total of its own, the sidecar has its share of that, unless it was asked for more.
    let own_resources = settings.resources_asked || pod["spec"].get("resources").is_none_or(Value::is_null);
    let Some(spec) = bare.get_mut("spec") else { return bare };
    let rewritten = probes::rewrite(spec, ours.token);
    let init = sidecar::init(settings, own_resources);
    let proxy = sidecar::proxy(ours, &rewritten.probes, own_resources);
    if let Some(containers) = json::array(spec, "initContainers") {
        let ours = [init, proxy].map(|ours| kept(&pod["spec"], "initContainers", ours));
        containers.splice(0..0, ours);
    }
    place(pod, spec, kept(&pod["spec"], "volumes", sidecar::volume()));
    let Some(metadata) = bare.get_mut("metadata") else { return bare };
    if let Some(labels) = json::object(metadata, "labels") {
        labels.insert(INJECTED.to_owned(), "true".into());
    }
    let mut add = Vec::new();
    if !rewritten.originals.is_empty() {
        add.push((PROBES, Value::Object(rewritten.originals).to_string()));
    }
    add.extend(settings.opaque_ports.clone().map(|ports| (OPAQUE_PORTS, ports)));
    if !add.is_empty()
        && let Some(annotations) = json::object(metadata, "annotations")
    {
        annotations.extend(add.into_iter().map(|(name, value)| (name.to_owned(), value.into())));
    }
    bare
}

/// The element of this name that `spec` has, if it says all that `ours` says, and no more where more would mean something.
fn kept(spec: &Value, field: &str, ours: Value) -> Value {
    let existing = json::elements(spec, field).iter().find(|element| json::name(element) == json::name(&ours));
    let same = |existing: &&Value| {
        let settings = |container: &Value| {
            let env = json::elements(container, "env");
            env.iter().filter(|variable| json::name(variable).starts_with("REMORA_")).count()
        };
        json::covers(existing, &ours)
            && json::elements(existing, "args") == json::elements(&ours, "args")
            && settings(existing) == settings(&ours)
    };
    existing.filter(same).cloned().unwrap_or(ours)
}

/// Puts the volume where `pod` had it, else last.
fn place(pod: &Value, spec: &mut Value, volume: Value) {
    let at = json::elements(&pod["spec"], "volumes").iter().position(|volume| json::name(volume) == PROXY_VOLUME);
    if let Some(volumes) = json::array(spec, "volumes") {
        let at = at.filter(|_| has_proxy(pod)).unwrap_or(volumes.len()).min(volumes.len());
        volumes.insert(at, volume);
    }
}

fn has_proxy(pod: &Value) -> bool {
    json::elements(&pod["spec"], "initContainers").iter().any(|container| json::name(container) == PROXY_CONTAINER)
}
