use super::*;
use crate::cluster::{
    standin::{self, Standin, World},
    target,
};
use flate2::read::GzDecoder;
use remora_kube::names;
use serde_json::json;
use std::{collections::BTreeMap, fs::File, io::Read as _, path::Path};

fn files(path: &Path) -> BTreeMap<String, String> {
    let mut archive = tar::Archive::new(GzDecoder::new(File::open(path).unwrap()));
    let entries = archive.entries().unwrap().map(|entry| {
        let mut entry = entry.unwrap();
        let mut text = String::new();
        let _: usize = entry.read_to_string(&mut text).unwrap();
        let path = entry.path().unwrap().display().to_string();
        (path.split_once('/').unwrap().1.to_owned(), text)
    });
    entries.collect()
}

fn world() -> World {
    let mut web = standin::pod("shop", "web-1", "web");
    web["spec"]["containers"][0]["env"] = json!([{ "name": "DSN", "value": "postgres://u:hunter2@db" }]);
    web["metadata"]["annotations"] = json!({ "kubectl.kubernetes.io/last-applied-configuration": "{\"hunter2\":1}" });
    let objects = vec![
        web,
        standin::pod("shop", "api-1", "api"),
        standin::replica(names::IDENTITY, "identity-1"),
        standin::replica(names::DISCOVERY, "discovery-1"),
        json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "namespace": "remora", "name": "remora-issuer" }, "data": { "tls.key": "aHVudGVyMg==" } }),
        json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "namespace": "remora", "name": names::TRUST_ANCHORS }, "data": { "ca.crt": "PEM" } }),
        json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "namespace": "remora", "name": "another" }, "data": { "a": "hunter2" } }),
        json!({ "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": { "namespace": "shop", "name": "route" }, "spec": {} }),
    ];
    let port = |pod: &str, port: u16, path: &str| match (pod, port, path) {
        ("shop/api-1", ..) => None,
        (_, names::PROXY_ADMIN_PORT, "/errors") => {
            Some((200, r#"{"errors":[{"reason":"timeout","token":"hunter2"}]}"#.to_owned()))
        }
        (_, _, path) => Some((200, format!("{{\"path\":\"{path}\"}}"))),
    };
    World { objects, forbidden: vec!["/apis/policy/v1".to_owned()], port: Box::new(port) }
}

async fn made(server: &Standin, targets: &[&str]) -> (BTreeMap<String, String>, String) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("report.tar.gz");
    let scope = Scope {
        targets: targets.iter().map(|it| target::parse(it).unwrap()).collect(),
        all_namespaces: false,
        ..server.everywhere()
    };
    let args = BugReportArgs {
        scope,
        control_plane: ControlPlane { namespace: names::NAMESPACE.to_owned() },
        file: Some(file.clone()),
        within: Duration::from_secs(60),
    };
    let (said, good) = run(&args).await.unwrap();
    assert!(good, "parts that failed fail nothing");
    (files(&file), said)
}

#[tokio::test]
async fn a_report_has_what_helps_and_no_secret_and_says_what_it_lacks() {
    let server = Standin::start(world()).await;
    let (files, said) = made(&server, &["pod/web-1", "pod/api-1"]).await;
    for name in [
        "versions.json",
        "check.txt",
        "check.json",
        "control-plane/pods.yaml",
        "control-plane/configmaps.yaml",
        "control-plane/discovery-1/metrics.txt",
        "control-plane/discovery-1/remora-discovery.log",
        "objects/httproutes.gateway.networking.k8s.io.yaml",
        "proxies/shop/web-1/config.json",
        "proxies/shop/web-1/signals.json",
        "proxies/shop/web-1/errors.json",
        "proxies/shop/web-1/certificate.json",
        "proxies/shop/web-1/metrics.txt",
        "proxies/shop/web-1/remora-proxy.log",
        "proxies/shop/web-1/pod.yaml",
        "failures.txt",
        "left-out.txt",
    ] {
        assert!(files.contains_key(name), "no {name} in {:#?}", files.keys());
    }
    assert!(!files.contains_key("proxies/shop/web-1/app.log"), "an application's log is its owner's");
    assert_eq!(server.asked("/secrets"), 0, "no Secret is read");
    for (name, text) in &files {
        assert!(!text.contains("hunter2") && !text.contains("aHVudGVyMg"), "{name}: {text}");
    }
    assert!(files["proxies/shop/web-1/remora-proxy.log"].contains("\"authorization\":\"[redacted]\""));
    assert!(files["proxies/shop/web-1/pod.yaml"].contains("[left out]"));
    assert!(files["failures.txt"].contains("control-plane/poddisruptionbudgets.yaml: "), "{}", files["failures.txt"]);
    assert!(files["failures.txt"].contains("proxies/shop/api-1/config.json: "), "{}", files["failures.txt"]);
    assert!(said.contains("could not be read: proxies/shop/api-1/config.json"), "{said}");
}

#[tokio::test]
async fn without_a_target_no_sidecar_is_asked_and_the_report_says_so() {
    let server = Standin::start(world()).await;
    let (files, said) = made(&server, &[]).await;
    assert!(!files.keys().any(|name| name.starts_with("proxies/")), "{:#?}", files.keys());
    assert!(said.contains("left out: sidecars: none was named"), "{said}");
}

#[tokio::test]
async fn what_there_is_no_time_for_is_left_out_and_named() {
    let server = Standin::start(world()).await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("report.tar.gz");
    let scope =
        Scope { targets: vec![target::parse("pod/web-1").unwrap()], all_namespaces: false, ..server.everywhere() };
    let session = scope.open().await.unwrap();
    let mut report = Report::new(Archive::create(&file, "r", 7).unwrap(), Duration::ZERO);
    collect::all(&mut report, &session, names::NAMESPACE).await.unwrap();
    let made = report.finish().unwrap();
    let files = files(&file);
    assert_eq!(files.keys().collect::<Vec<_>>(), ["failures.txt", "left-out.txt"]);
    assert!(made.left_out.contains(&"remora check: the time is over (--within)".to_owned()), "{:?}", made.left_out);
    assert!(files["left-out.txt"].contains("1 sidecar: the time is over"), "{}", files["left-out.txt"]);
}
