//! What running proxies are told of their settings.

use super::*;
use remora_model::{ProxySettings, Setting, UnknownTargets};
use std::time::Duration;

const NAMESPACE: &str = "apiVersion: v1\nkind: Namespace\nmetadata: { name: shop, annotations: { ANNOTATIONS } }\n";
const POD: &str =
    "apiVersion: v1\nkind: Pod\nmetadata: { name: web-1, namespace: shop, annotations: { ANNOTATIONS } }\n";

fn world(namespace: &str, pod: &str, mesh: &Mesh) -> Snapshot {
    let with = |text: &str, annotations: &str| text.replace("ANNOTATIONS", annotations);
    let text = format!("{}---\n{}", with(NAMESPACE, namespace), with(POD, pod));
    Snapshot::build(parse(&text, "test.yaml").whole().unwrap(), mesh)
}

fn settings(namespace: &str, pod: &str, mesh: &Mesh) -> ProxySettings {
    world(namespace, pod, mesh).proxy_settings("shop", "web-1").expect("the pod is known")
}

#[test]
fn a_pods_word_counts_before_its_namespaces_and_that_before_the_meshs() {
    let of_mesh = ProxySettings { log_filter: Setting::Said("warn".into()), ..ProxySettings::default() };
    let mesh = Mesh { proxies: of_mesh.clone(), ..mesh() };
    assert_eq!(settings("", "", &super::mesh()), ProxySettings::default(), "the mesh need not say anything");
    assert_eq!(settings("", "", &mesh), of_mesh);
    let of_namespace = "remora.dev/log-level: info, remora.dev/unknown: deny, remora.dev/drain-grace: 5s, remora.dev/tracing: 'otel:4317 sample=5%'";
    let said = ProxySettings {
        log_filter: Setting::Said("info".into()),
        unknown_targets: Setting::Said(UnknownTargets::Deny),
        drain_grace: Setting::Said(Duration::from_secs(5)),
        access_log: Setting::AsStarted,
        tracing: Setting::Said("otel:4317 sample=5%".parse().unwrap()),
    };
    assert_eq!(settings(of_namespace, "", &mesh), said);
    let log_filter = Setting::Said("info,remora_proxy=debug".into());
    let of_pod = "remora.dev/log-level: ' info,remora_proxy=debug '";
    assert_eq!(settings(of_namespace, of_pod, &mesh), ProxySettings { log_filter, ..said });
}

#[test]
fn an_annotation_that_cannot_be_read_is_reported_and_leaves_what_its_proxies_have() {
    let mesh = mesh();
    let namespace = "remora.dev/log-level: debug, remora.dev/unknown: allow";
    let unreadable = ProxySettings {
        log_filter: Setting::Unreadable,
        unknown_targets: Setting::Unreadable,
        drain_grace: Setting::AsStarted,
        access_log: Setting::AsStarted,
        tracing: Setting::AsStarted,
    };
    assert_eq!(settings(namespace, "remora.dev/log-level: '=,='", &mesh), unreadable);
    let told = world(namespace, "remora.dev/log-level: ''", &mesh).reports;
    let expected = [
        "test.yaml: line 1: Namespace default/shop: metadata.annotations: remora.dev/unknown: \"allow\": is pass or deny; running proxies keep what they have",
        "test.yaml: line 5: Pod shop/web-1: metadata.annotations: remora.dev/log-level: \"\": is a filter such as info or info,remora_proxy=debug; running proxies keep what they have",
    ];
    assert_eq!(told, expected);
}

#[test]
fn a_pod_that_is_not_known_is_told_nothing() {
    assert_eq!(world("", "", &mesh()).proxy_settings("shop", "web-2"), None);
}
