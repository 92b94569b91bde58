//! What our containers and the volume look like. Everything that a `restricted` Pod Security profile or a pod-wide security
//! context could ask for is said by the containers themselves, so that no pod changes them. Of what a ResourceQuota can
//! ask for, a CPU limit is left out unless an annotation or the chart sets one.

use super::{Defaults, ProbeToken, probes::Probe, settings::Settings, token};
use remora_kube::names::{
    ADMIN_PORT, AUDIENCE, CA_CRT, DISCOVERY, IDENTITY, INIT_CONTAINER, PROXY_CONTAINER, PROXY_MOUNT, PROXY_UID,
    PROXY_VOLUME, TRUST_ANCHORS,
};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Where admission mounts the pod's token for the API server into every container that has nothing there.
const API_TOKEN_MOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// How long the identity token lives; the kubelet renews it at four fifths of that.
const TOKEN_SECONDS: u32 = 86_400;

/// The container that programs the redirect rules. Root, because only root has a capability in effect from its start;
/// the one that is not `restricted`.
pub(super) fn init(settings: &Settings, own_resources: bool) -> Value {
    let lists = [
        ("--skip-inbound-ports", &settings.skip_inbound_ports),
        ("--skip-outbound-ports", &settings.skip_outbound_ports),
        ("--skip-subnets", &settings.skip_subnets),
    ];
    let args: Vec<String> =
        lists.iter().filter(|(_, list)| !list.is_empty()).map(|(flag, list)| format!("{flag}={list}")).collect();
    let mut container = json!({
        "name": INIT_CONTAINER,
        "image": settings.image,
        "imagePullPolicy": settings.image_pull_policy,
        "command": ["/remora", "run", "proxy", "init"],
        "resources": resources(settings, own_resources),
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "capabilities": { "add": ["NET_ADMIN"], "drop": ["ALL"] },
            "privileged": false,
            "readOnlyRootFilesystem": true,
            "runAsGroup": 0,
            "runAsNonRoot": false,
            "runAsUser": 0,
            "seccompProfile": { "type": "RuntimeDefault" },
        },
        // Its one line says what is missing in the kernel; `kubectl describe pod` shows it.
        "terminationMessagePath": "/dev/termination-log",
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [instead_of_api_token()],
    });
    if !args.is_empty() {
        container["args"] = json!(args);
    }
    container
}

/// What the sidecar is made from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ours<'a> {
    pub(super) settings: &'a Settings,
    pub(super) defaults: &'a Defaults,
    pub(super) token: &'a ProbeToken,
}

/// The proxy. No startup probe: it holds connections until it is ready, so that the pod need not wait for it.
pub(super) fn proxy(ours: &Ours<'_>, probes: &BTreeMap<String, Probe>, own_resources: bool) -> Value {
    let settings = ours.settings;
    json!({
        "name": PROXY_CONTAINER,
        "image": settings.image,
        "imagePullPolicy": settings.image_pull_policy,
        "command": ["/remora", "run", "proxy"],
        "restartPolicy": "Always",
        "env": env(ours, probes),
        "ports": [{ "name": "remora-admin", "containerPort": ADMIN_PORT, "protocol": "TCP" }],
        "readinessProbe": {
            "httpGet": { "path": "/ready", "port": ADMIN_PORT, "scheme": "HTTP" },
            "periodSeconds": 1,
            "timeoutSeconds": 2,
            "successThreshold": 1,
            "failureThreshold": 3,
        },
        "resources": resources(settings, own_resources),
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "capabilities": { "drop": ["ALL"] },
            "privileged": false,
            "readOnlyRootFilesystem": true,
            "runAsGroup": PROXY_UID,
            "runAsNonRoot": true,
            "runAsUser": PROXY_UID,
            "seccompProfile": { "type": "RuntimeDefault" },
        },
        "terminationMessagePath": "/dev/termination-log",
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [
            { "name": PROXY_VOLUME, "mountPath": PROXY_MOUNT, "readOnly": true },
            instead_of_api_token(),
        ],
    })
}

/// The identity's token and the trust anchors.
pub(super) fn volume() -> Value {
    json!({
        "name": PROXY_VOLUME,
        "projected": {
            "defaultMode": 0o644,
            "sources": [
                { "serviceAccountToken": {
                    "audience": AUDIENCE, "expirationSeconds": TOKEN_SECONDS, "path": "token"
                } },
                { "configMap": { "name": TRUST_ANCHORS, "items": [{ "key": CA_CRT, "path": CA_CRT }] } },
            ],
        },
    })
}

/// Our containers never speak to the API server. Admission would mount the application's token for it into them, unless
/// something is mounted there; a token that only the identity service accepts does.
fn instead_of_api_token() -> Value {
    json!({ "name": PROXY_VOLUME, "mountPath": API_TOKEN_MOUNT, "readOnly": true })
}

fn resources(settings: &Settings, own: bool) -> Value {
    if !own {
        return json!({});
    }
    let amounts = |cpu: &Option<String>, memory: &Option<String>| {
        let both = [("cpu", cpu), ("memory", memory)];
        both.into_iter().filter_map(|(name, amount)| Some((name, amount.clone()?))).collect::<BTreeMap<_, _>>()
    };
    let (cpu, memory) = (&settings.cpu, &settings.memory);
    json!({ "requests": amounts(&cpu.request, &memory.request), "limits": amounts(&cpu.limit, &memory.limit) })
}

fn env(ours: &Ours<'_>, probes: &BTreeMap<String, Probe>) -> Vec<Value> {
    let (settings, defaults) = (ours.settings, ours.defaults);
    let field = |name: &str, path: &str| json!({ "name": name, "valueFrom": { "fieldRef": { "apiVersion": "v1", "fieldPath": path } } });
    let value = |name: &str, value: String| json!({ "name": name, "value": literal(&value) });
    // The last dot: no search through the pod's domains, whatever its dnsConfig.
    let service = |name: &str, port: u16| {
        format!("{name}.{}.svc.{}.:{port}", defaults.control_namespace, defaults.cluster_domain)
    };
    let mut env = vec![
        field("REMORA_PROXY_NAMESPACE", "metadata.namespace"),
        field("REMORA_PROXY_POD", "metadata.name"),
        field("REMORA_PROXY_SERVICE_ACCOUNT", "spec.serviceAccountName"),
        // Where the kubelet asks from: one address, or one of each family with a comma between them.
        field("REMORA_PROXY_HOST_IP", "status.hostIPs"),
        field("REMORA_PROXY_NODE", "spec.nodeName"),
        value("REMORA_PROXY_TRUST_DOMAIN", defaults.trust_domain.clone()),
        value("REMORA_PROXY_CONTROL_NAMESPACE", defaults.control_namespace.clone()),
        value("REMORA_PROXY_IDENTITY_ADDR", service(IDENTITY, 4180)),
        value("REMORA_PROXY_DISCOVERY_ADDR", service(DISCOVERY, 4181)),
        value("REMORA_PROXY_TRUST_ANCHORS", format!("{PROXY_MOUNT}/{CA_CRT}")),
        value("REMORA_PROXY_TOKEN", format!("{PROXY_MOUNT}/token")),
        value("REMORA_PROXY_LOG", settings.log.clone()),
        value("REMORA_PROXY_LOG_FORMAT", settings.log_format.clone()),
        value("REMORA_PROXY_DRAIN_GRACE", settings.drain_grace.clone()),
        value("REMORA_PROXY_ACCESS_LOG", settings.access_log.clone()),
        value("REMORA_PROXY_UNKNOWN", settings.unknown.clone()),
    ];
    // Only where it says something: a sidecar of an older image, which a pod may name, takes no name that it does not know.
    if settings.tracing != "off" {
        env.push(value("REMORA_PROXY_TRACING", settings.tracing.clone()));
    }
    if !defaults.cluster_networks.is_empty() {
        env.push(value("REMORA_PROXY_CLUSTER_NETWORKS", defaults.cluster_networks.clone()));
    }
    if !probes.is_empty() {
        env.push(value(token::VARIABLE, ours.token.as_str().to_owned()));
        env.push(value("REMORA_PROXY_PROBES", json!(probes).to_string()));
    }
    env
}

/// The kubelet expands `$(NAME)` in values; what must arrive as written says every `$` twice.
fn literal(value: &str) -> String {
    value.replace('$', "$$")
}
