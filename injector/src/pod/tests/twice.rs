//! Injecting what is injected changes nothing, whatever happened to the pod in between.

use super::*;

/// A pod of many shapes, by the bits of `seed`.
fn shape(seed: u32) -> Value {
    let bit = |at: u32| seed >> at & 1 == 1;
    let mut pod = pod(json!({}));
    let mut app = json!({"name": "app", "image": "app:1", "ports": [{"name": "http", "containerPort": 8080}]});
    if bit(0) {
        app["livenessProbe"] =
            json!({"httpGet": {"path": "/live", "port": "http", "scheme": "HTTP"}, "periodSeconds": 3});
    }
    if bit(1) {
        app["readinessProbe"] = json!({"tcpSocket": {"port": 8080}, "timeoutSeconds": 5});
        app["startupProbe"] = json!({"exec": {"command": ["true"]}});
    }
    if bit(2) {
        app["lifecycle"] = json!({"preStop": {"httpGet": {"path": "/stop", "port": 8080}}, "postStart": {"exec": {}}});
    }
    merge(&mut pod, json!({"spec": {"containers": [app]}}));
    if bit(3) {
        let sidecar = json!({"name": "cache", "restartPolicy": "Always", "readinessProbe": {"grpc": {"port": 9000}}});
        merge(&mut pod, json!({"spec": {"initContainers": [{"name": "migrate"}, sidecar]}}));
    }
    if bit(4) {
        merge(&mut pod, json!({"spec": {"volumes": [{"name": "data", "emptyDir": {}}]}}));
    }
    if bit(5) {
        merge(
            &mut pod,
            json!({"metadata": {"annotations": {"remora.dev/skip-outbound-ports": "3306"}, "labels": {"app": "web"}}}),
        );
    }
    if bit(6) {
        merge(&mut pod, json!({"metadata": {"annotations": {"remora.dev/proxy-cpu-request": "0.1"}}}));
    }
    pod
}

#[test]
fn injecting_twice_is_injecting_once() {
    for seed in 0..128 {
        let once = injected(&shape(seed), &shop());
        assert_eq!(skipped(&once, &shop()), Skip::AlreadyInjected, "{seed:b}");
    }
}

#[test]
fn what_the_api_server_adds_is_no_reason_for_another_patch() {
    for seed in 0..128 {
        let mut pod = injected(&shape(seed), &shop());
        for container in pod["spec"]["initContainers"].as_array_mut().unwrap() {
            merge(container, json!({"stdin": false, "resources": {"limits": {"ephemeral-storage": "1Gi"}}}));
            if container["resources"]["requests"]["cpu"] == "0.1" {
                container["resources"]["requests"]["cpu"] = json!("100m");
            }
            let mounts = container.as_object_mut().unwrap().entry("volumeMounts").or_insert(json!([]));
            mounts.as_array_mut().unwrap().push(json!({"name": "other", "mountPath": "/other"}));
        }
        pod["spec"]["volumes"].as_array_mut().unwrap().push(json!({"name": "other", "emptyDir": {}}));
        assert_eq!(skipped(&pod, &shop()), Skip::AlreadyInjected, "{seed:b}");
    }
}

/// Another injector puts its containers first and last; ours go before them again, and its probes are rewritten too.
#[test]
fn after_another_injector_ours_are_first_again_and_its_probes_work() {
    for seed in 0..128 {
        let mut pod = injected(&shape(seed), &shop());
        let foreign = json!({"name": "vault-init"});
        pod["spec"]["initContainers"].as_array_mut().unwrap().insert(0, foreign);
        let vault = json!({"name": "vault", "livenessProbe": {"httpGet": {"port": 8200, "path": "/"}}});
        pod["spec"]["containers"].as_array_mut().unwrap().push(vault);
        let again = injected(&pod, &shop());
        let names: Vec<_> = json::elements(&again["spec"], "initContainers").iter().map(json::name).collect();
        assert_eq!(names[..3], ["remora-init", "remora-proxy", "vault-init"]);
        assert!(env(&again, "REMORA_PROXY_PROBES").unwrap().contains("vault/liveness"));
        assert_eq!(container(&again, "vault")["livenessProbe"]["httpGet"]["port"], 4191);
        assert_eq!(skipped(&again, &shop()), Skip::AlreadyInjected);
    }
}

#[test]
fn without_what_is_ours_the_pod_is_what_it_was() {
    for seed in 0..128 {
        let before = shape(seed);
        let mut after = wanted::bare(&injected(&before, &shop()));
        after["metadata"]["labels"].as_object_mut().unwrap().remove("remora.dev/injected");
        for (at, field) in
            [("/metadata", "labels"), ("/metadata", "annotations"), ("/spec", "initContainers"), ("/spec", "volumes")]
        {
            let object = after.pointer_mut(at).unwrap().as_object_mut().unwrap();
            let empty = object.get(field).is_some_and(|it| *it == json!({}) || *it == json!([]));
            if empty {
                object.remove(field);
            }
        }
        assert_eq!(after, before, "{seed:b}");
    }
}

#[test]
fn a_changed_setting_changes_the_sidecar() {
    let mut pod = injected(&annotated("remora.dev/skip-outbound-ports", "3306"), &shop());
    pod["metadata"]["annotations"].as_object_mut().unwrap().remove("remora.dev/skip-outbound-ports");
    assert_eq!(container(&injected(&pod, &shop()), "remora-init").get("args"), None);
}
