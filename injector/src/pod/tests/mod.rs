//! What becomes of pods.

mod goldens;
mod token;
mod twice;

use super::*;
use remora_kube::names::OPAQUE_PORTS;
use serde_json::json;

/// A namespace that is opted in.
fn shop() -> Namespace {
    Namespace { name: "shop".into(), opted_in: true, live: true, ..Namespace::default() }
}

/// As the API server sends it: with a service account.
fn pod(more: Value) -> Value {
    let mut pod = json!({ "metadata": { "name": "web" }, "spec": {
        "serviceAccountName": "web",
        "containers": [{ "name": "app", "image": "app:1", "resources": {} }],
    } });
    merge(&mut pod, more);
    pod
}

fn merge(into: &mut Value, more: Value) {
    match (into, more) {
        (Value::Object(into), Value::Object(more)) => {
            for (key, value) in more {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, more) => *into = more,
    }
}

fn annotated(name: &str, value: &str) -> Value {
    pod(json!({ "metadata": { "annotations": { name: value } } }))
}

#[track_caller]
fn injected(pod: &Value, namespace: &Namespace) -> Value {
    match inject(pod, namespace, &Defaults::default(), &ProbeToken::fixed()) {
        Outcome::Inject(injection) => {
            let mut patched = pod.clone();
            json_patch::patch(&mut patched, &injection.patch).unwrap();
            assert_eq!(patched, injection.pod, "the patch leads to the pod that is wanted");
            patched
        }
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn skipped(pod: &Value, namespace: &Namespace) -> Skip {
    match inject(pod, namespace, &Defaults::default(), &ProbeToken::fixed()) {
        Outcome::Skip(skip) => skip,
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn refused(pod: &Value, namespace: &Namespace) -> String {
    match inject(pod, namespace, &Defaults::default(), &ProbeToken::fixed()) {
        Outcome::Refuse(mistakes) => mistakes.to_string(),
        other => panic!("{other:?}"),
    }
}

fn container<'a>(pod: &'a Value, name: &str) -> &'a Value {
    let all = ["initContainers", "containers"].into_iter().flat_map(|field| json::elements(&pod["spec"], field));
    all.into_iter().find(|container| json::name(container) == name).unwrap()
}

fn env<'a>(pod: &'a Value, name: &str) -> Option<&'a str> {
    let env = json::elements(container(pod, "remora-proxy"), "env");
    env.iter().find(|variable| variable["name"] == name)?["value"].as_str()
}

#[test]
fn the_pods_word_wins_over_its_namespaces_and_an_annotation_over_a_label() {
    let word = |value: &str| BTreeMap::from([("remora.dev/inject".to_owned(), value.to_owned())]);
    let namespace = |annotations: &str, labels: &str| Namespace {
        annotations: if annotations.is_empty() { BTreeMap::new() } else { word(annotations) },
        labels: if labels.is_empty() { BTreeMap::new() } else { word(labels) },
        opted_in: false,
        ..shop()
    };
    let plain = pod(json!({}));
    injected(&plain, &namespace("enabled", ""));
    injected(&plain, &namespace("", "enabled"));
    injected(&plain, &namespace("enabled", "disabled"));
    assert_eq!(skipped(&plain, &namespace("disabled", "enabled")), Skip::DisabledByNamespace);
    assert_eq!(skipped(&plain, &namespace("", "")), Skip::NotOptedIn);
    injected(&annotated("remora.dev/inject", "enabled"), &namespace("disabled", ""));
    injected(&pod(json!({"metadata": {"labels": {"remora.dev/inject": "enabled"}}})), &namespace("", ""));
    assert_eq!(skipped(&annotated("remora.dev/inject", "disabled"), &namespace("enabled", "")), Skip::DisabledByPod);
    let wrong = refused(&annotated("remora.dev/inject", "enable"), &shop());
    assert_eq!(
        wrong,
        "the pod's annotation remora.dev/inject=\"enable\" is neither enabled nor disabled; the nearest is enabled"
    );
}

#[test]
fn what_cannot_have_a_sidecar_is_skipped_with_its_reason() {
    let cases = [
        (json!({"spec": {"hostNetwork": true}}), Skip::HostNetwork),
        (json!({"spec": {"os": {"name": "windows"}}}), Skip::Windows),
        (json!({"spec": {"nodeSelector": {"kubernetes.io/os": "windows"}}}), Skip::Windows),
        (json!({"metadata": {"annotations": {"kubernetes.io/config.mirror": "x"}}}), Skip::MirrorPod),
        (json!({"spec": {"containers": [{"name": "app"}, {"name": "linkerd-proxy"}]}}), Skip::Linkerd),
        (json!({"spec": {"initContainers": [{"name": "istio-proxy"}]}}), Skip::Istio),
        (json!({"spec": {"serviceAccountName": ""}}), Skip::NoServiceAccount),
    ];
    for (more, expected) in cases {
        assert_eq!(skipped(&pod(more), &shop()), expected);
    }
    for (name, expected) in [("remora", Skip::ControlPlane), ("kube-system", Skip::SystemNamespace)] {
        assert_eq!(skipped(&pod(json!({})), &Namespace { name: name.into(), ..shop() }), expected);
    }
    let template = json!({"metadata": {}, "spec": {"containers": [{"name": "app"}]}});
    injected(&template, &Namespace { live: false, ..shop() });
    for skip in Skip::ALL {
        assert_eq!(Skip::ALL.iter().filter(|other| other.reason() == skip.reason()).count(), 1, "{skip}");
    }
}

#[test]
fn unknown_and_malformed_settings_are_refused_by_name_all_at_once() {
    let wrong = pod(json!({"metadata": {
        "annotations": {
            "remora.dev/skip-inbound-port": "22",
            "remora.dev/skip-subnets": "10.0.0.0/33",
            "remora.dev/proxy-memory-limit": "64m",
            "remora.dev/log-format": "jason",
        },
        "labels": {"remora.dev/log-level": "debug"},
    }}));
    let namespace =
        Namespace { annotations: BTreeMap::from([("remora.dev/drain-grace".to_owned(), "30".to_owned())]), ..shop() };
    let text = refused(&wrong, &namespace);
    for part in [
        "the pod's annotation remora.dev/skip-inbound-port: there is no such setting; the nearest is remora.dev/skip-inbound-ports",
        "remora.dev/skip-subnets=\"10.0.0.0/33\": \"10.0.0.0/33\" is neither a subnet",
        "remora.dev/proxy-memory-limit=\"64m\": is from 4Mi to 64Gi; did you mean 64Mi?",
        "remora.dev/log-format=\"jason\": is one of text, json; the nearest is json",
        "the namespace's annotation remora.dev/drain-grace=\"30\": is a number with a unit",
        "the pod's label remora.dev/log-level: this is read as an annotation only",
    ] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
}

#[test]
fn settings_come_from_the_pod_then_its_namespace_then_the_chart() {
    let namespace = Namespace {
        annotations: BTreeMap::from(
            [("remora.dev/log-level", "warn"), ("remora.dev/opaque-ports", "6379"), ("remora.dev/drain-grace", "5s")]
                .map(|(name, value)| (name.to_owned(), value.to_owned())),
        ),
        ..shop()
    };
    let pod = injected(&annotated("remora.dev/log-level", "debug"), &namespace);
    assert_eq!(env(&pod, "REMORA_PROXY_LOG"), Some("debug"));
    assert_eq!(env(&pod, "REMORA_PROXY_DRAIN_GRACE"), Some("5s"));
    assert_eq!(env(&pod, "REMORA_PROXY_LOG_FORMAT"), Some("text"));
    assert_eq!(pod["metadata"]["annotations"]["remora.dev/opaque-ports"], "6379", "discovery reads it on the pod");
    let pod = injected(&annotated("remora.dev/opaque-ports", "25"), &namespace);
    assert_eq!(pod["metadata"]["annotations"]["remora.dev/opaque-ports"], "25");
}

#[test]
fn skipped_ports_and_subnets_reach_the_init_container() {
    let pod = pod(json!({"metadata": {"annotations": {
        "remora.dev/skip-inbound-ports": "22, 9000-9099", "remora.dev/skip-subnets": "10.8.1.2/16,fd00::1",
    }}}));
    let args = &container(&injected(&pod, &shop()), "remora-init")["args"].clone();
    assert_eq!(*args, json!(["--skip-inbound-ports=22,9000-9099", "--skip-subnets=10.8.0.0/16,fd00::1/128"]));
}

#[test]
fn a_limit_below_the_charts_request_lowers_it_and_one_below_the_pods_own_is_refused() {
    let resources = |pod: &Value| container(pod, "remora-proxy")["resources"].clone();
    let low = injected(&annotated("remora.dev/proxy-memory-limit", "8Mi"), &shop());
    assert_eq!(resources(&low)["requests"]["memory"], "8Mi");
    let high = injected(&annotated("remora.dev/proxy-cpu-request", "2"), &shop());
    assert_eq!(resources(&high), json!({"requests": {"cpu": "2", "memory": "16Mi"}, "limits": {"memory": "128Mi"}}));
    let both = pod(json!({"metadata": {"annotations": {
        "remora.dev/proxy-cpu-request": "2", "remora.dev/proxy-cpu-limit": "1500m",
    }}}));
    assert!(refused(&both, &shop()).contains("remora.dev/proxy-cpu-request=2 is more than"));
}

#[test]
fn a_pod_with_a_total_of_its_own_shares_it_with_the_sidecar() {
    let total = json!({"spec": {"resources": {"limits": {"cpu": "1", "memory": "1Gi"}}}});
    let with = injected(&pod(total.clone()), &shop());
    assert_eq!(container(&with, "remora-proxy")["resources"], json!({}));
    let mut asked = annotated("remora.dev/proxy-memory-limit", "64Mi");
    merge(&mut asked, total);
    assert_eq!(container(&injected(&asked, &shop()), "remora-proxy")["resources"]["limits"]["memory"], "64Mi");
}

#[test]
fn what_the_sidecar_cannot_stand_beside_is_refused() {
    let wrong = pod(json!({"spec": {
        "securityContext": {"runAsUser": 2102},
        "volumes": [{"name": "remora-identity", "emptyDir": {}}],
        "containers": [
            {"name": "remora-proxy", "ports": [{"containerPort": 4143}]},
            {"name": "app", "securityContext": {"runAsUser": 2102}, "ports": [{"containerPort": 4191}]},
        ],
    }}));
    let text = refused(&wrong, &shop());
    for part in [
        "called remora-proxy",
        "port 4143",
        "port 4191",
        "container app runs as user 2102",
        "the pod runs as",
        "volume",
    ] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    assert_eq!(refused(&json!({"metadata": {}}), &shop()), "this is no pod: it has no spec");
}

#[test]
fn dollars_in_a_probe_reach_the_proxy_as_written() {
    let pod = pod(json!({"spec": {"containers": [{"name": "app",
        "livenessProbe": {"httpGet": {"path": "/$(HOME)", "port": 80}}}]}}));
    let pod = injected(&pod, &shop());
    assert_eq!(
        env(&pod, "REMORA_PROXY_PROBES"),
        Some(r#"{"app/liveness":{"httpGet":{"path":"/$$(HOME)","port":80},"timeoutSeconds":1}}"#)
    );
}

#[test]
fn the_charts_mistakes_are_told_all_at_once() {
    assert_eq!(Defaults::default().check(), Ok(()));
    let wrong: Defaults = serde_json::from_value(json!({
        "imagePullPolicy": "Sometimes", "image": "", "trustDomain": "UPPER", "proxy": {"resources": {"limits": {"cpu": "many"}}, "skipInboundPorts": [25, "9-8"]},
    }))
    .unwrap();
    let text = wrong.check().unwrap_err().to_string();
    for name in ["imagePullPolicy", "image=", "trustDomain", "proxy.resources.limits.cpu", "proxy.skipInboundPorts"] {
        assert!(text.contains(name), "{name} is not in {text}");
    }
    assert!(serde_json::from_value::<Defaults>(json!({"proxy": {"resource": {}}})).is_err());
}

#[test]
fn what_is_no_text_is_a_mistake_and_never_dropped() {
    for (field, value) in
        [("annotations", json!(3306)), ("annotations", json!(false)), ("labels", json!(1.5)), ("labels", json!([1]))]
    {
        for name in ["remora.dev/inject", "remora.dev/skip-outbound-ports", "example.com/other"] {
            let said = refused(&pod(json!({ "metadata": { field: { name: value } } })), &shop());
            assert!(said.contains(name) && said.contains("no text"), "{said}");
        }
    }
    for wrong in [json!([]), json!("a"), json!(1)] {
        assert!(
            refused(&pod(json!({ "metadata": { "annotations": wrong } })), &shop()).contains("metadata.annotations")
        );
    }
    // As the API server reads it: no text is the empty one.
    let nothing =
        pod(json!({ "metadata": { "annotations": { "remora.dev/skip-outbound-ports": null }, "labels": null } }));
    injected(&nothing, &shop());
    assert!(
        refused(&pod(json!({ "metadata": { "annotations": { "remora.dev/inject": null } } })), &shop())
            .contains("neither")
    );
}

#[test]
fn what_becomes_of_the_unknown_is_said_by_pod_namespace_or_chart() {
    let name = "remora.dev/unknown";
    let mut deny = shop();
    deny.annotations.insert(name.to_owned(), "deny".to_owned());
    assert_eq!(env(&injected(&pod(json!({})), &shop()), "REMORA_PROXY_UNKNOWN"), Some("pass"));
    assert_eq!(env(&injected(&pod(json!({})), &deny), "REMORA_PROXY_UNKNOWN"), Some("deny"));
    assert_eq!(env(&injected(&annotated(name, "pass"), &deny), "REMORA_PROXY_UNKNOWN"), Some("pass"));
    for wrong in ["", "drop", "Deny", "true"] {
        assert!(refused(&annotated(name, wrong), &shop()).contains("pass, deny"), "{wrong}");
    }
}

#[test]
fn the_clusters_networks_and_domain_reach_the_sidecar_as_they_were_told() {
    let told = |defaults: &Defaults| match inject(&pod(json!({})), &shop(), defaults, &ProbeToken::fixed()) {
        Outcome::Inject(injection) => injection.pod,
        other => panic!("{other:?}"),
    };
    assert_eq!(env(&told(&Defaults::default()), "REMORA_PROXY_CLUSTER_NETWORKS"), None);
    let defaults = Defaults {
        cluster_networks: "10.96.0.0/16,fd00::/8".to_owned(),
        cluster_domain: "k8s.example".to_owned(),
        ..Defaults::default()
    };
    let pod = told(&defaults);
    assert_eq!(env(&pod, "REMORA_PROXY_CLUSTER_NETWORKS"), Some("10.96.0.0/16,fd00::/8"));
    assert_eq!(env(&pod, "REMORA_PROXY_IDENTITY_ADDR"), Some("remora-identity.remora.svc.k8s.example.:4180"));
    let variables = json::elements(container(&pod, "remora-proxy"), "env");
    let host = variables.iter().find(|it| it["name"] == "REMORA_PROXY_HOST_IP").unwrap();
    assert_eq!(host["valueFrom"]["fieldRef"]["fieldPath"], "status.hostIPs");
    assert_eq!(cluster_networks(" 10.0.0.0/8 , fd00::/8,"), Ok("10.0.0.0/8,fd00::/8".to_owned()));
    assert_eq!(cluster_networks(""), Ok(String::new()));
    // What the chart's schema takes, and discovery.
    assert_eq!(cluster_networks("10.96.7.0/12,fd00::1/8"), Ok("10.96.0.0/12,fd00::/8".to_owned()));
    let wrong = cluster_networks("10.0.0.1/8,10.0.0.0,x").unwrap_err();
    for part in ["\"10.0.0.0\" is no subnet", "\"x\" is no subnet"] {
        assert!(wrong.contains(part), "{part} is not in {wrong}");
    }
}

#[test]
fn ports_that_the_proxy_does_not_listen_on_stay_the_applications() {
    let port = |protocol: Value| {
        let port = json!({ "containerPort": 4143, "protocol": protocol });
        pod(json!({ "spec": { "containers": [{ "name": "app", "image": "a", "ports": [port] }] } }))
    };
    for other in ["UDP", "SCTP"] {
        injected(&port(json!(other)), &shop());
    }
    for same in [json!("TCP"), json!(null)] {
        assert!(refused(&port(same), &shop()).contains("4143"));
    }
}

#[test]
fn opaque_ports_are_handed_on_in_the_form_that_discovery_reads() {
    for (given, expected) in [("80 - 90", "80-90"), (" 6379,, 3306 ", "6379,3306"), ("22", "22")] {
        let pod = injected(&annotated(OPAQUE_PORTS, given), &shop());
        assert_eq!(pod["metadata"]["annotations"][OPAQUE_PORTS], expected);
        assert_eq!(skipped(&pod, &shop()), Skip::AlreadyInjected);
    }
}

#[test]
fn every_kind_with_a_template_has_it_where_we_look() {
    for (kind, pointer) in [("Pod", Some("")), ("StatefulSet", Some("/spec/template")), ("Service", None)] {
        assert_eq!(template_pointer(kind), pointer);
    }
}

#[test]
fn the_documentation_has_every_setting_and_reason() {
    let text = include_str!("../../../../docs/injection.md");
    for Setting { name, what, example } in SETTINGS {
        let row = format!("| `{name}` | {what} | `{example}` |");
        assert!(text.contains(&row), "docs/injection.md has no {row}");
    }
    for skip in Skip::ALL {
        assert!(text.contains(&format!("`{}`", skip.reason())), "docs/injection.md has no {}", skip.reason());
    }
}
