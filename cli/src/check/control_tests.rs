use super::*;
use serde_json::json;

fn deployment(version: &str, wanted: i32, available: i32) -> Deployment {
    serde_json::from_value(json!({
        "metadata": { "labels": { "app.kubernetes.io/version": version } },
        "spec": { "replicas": wanted, "selector": {}, "template": {} },
        "status": { "availableReplicas": available, "updatedReplicas": wanted },
    }))
    .unwrap()
}

fn waiting(reason: &str) -> Pod {
    serde_json::from_value(json!({
        "metadata": { "name": "remora-identity-x" },
        "status": { "containerStatuses": [{
            "name": "identity", "image": "", "imageID": "", "ready": false, "restartCount": 0,
            "state": { "waiting": { "reason": reason, "message": "no such image" } },
        }] },
    }))
    .unwrap()
}

#[test]
fn a_part_that_is_not_ready_says_what_the_kubelet_says() {
    let check = judge("remora-identity", "remora", Some(&deployment(VERSION, 1, 0)), &[waiting("ImagePullBackOff")]);
    assert_eq!(check.status, Status::Failed);
    let said = "0 of 1 ready, 1 of this version; identity of pod remora-identity-x: ImagePullBackOff: no such image";
    assert_eq!(check.detail, said);
}

#[test]
fn a_part_of_another_version_works_but_is_told() {
    let status = |version, wanted, available| {
        judge("remora-identity", "remora", Some(&deployment(version, wanted, available)), &[]).status
    };
    assert_eq!(status(VERSION, 3, 3), Status::Ok);
    assert_eq!(status("0.0.1", 1, 1), Status::Warning);
    assert_eq!(status(VERSION, 0, 0), Status::Failed);
    assert_eq!(judge("remora-identity", "remora", None, &[]).status, Status::Failed);
}

#[test]
fn an_issuer_is_told_a_month_before_its_end() {
    let day = 86_400;
    let status = |expiry| judge_issuer(expiry, 1000).status;
    assert_eq!(status(Some(1000 + 31 * day)), Status::Ok);
    assert_eq!(status(Some(1000 + 29 * day)), Status::Warning);
    assert_eq!(status(Some(1000)), Status::Failed);
    assert_eq!(status(Some(0)), Status::Failed);
    assert_eq!(status(None), Status::Failed);
    let page = "# TYPE x gauge\nremora_identity_issuer_expiry_timestamp_seconds 1.8e9\n";
    assert_eq!(expiry(page), Some(1_800_000_000));
}

#[test]
fn a_webhook_nobody_trusts_is_a_failure() {
    let webhook = |ca: &str| -> MutatingWebhookConfiguration {
        serde_json::from_value(json!({ "webhooks": [{
            "name": "pods.remora.dev", "admissionReviewVersions": ["v1"], "sideEffects": "None",
            "clientConfig": { "caBundle": ca },
        }] }))
        .unwrap()
    };
    assert_eq!(judge_webhook(None).status, Status::Failed);
    assert_eq!(judge_webhook(Some(&webhook(""))).status, Status::Failed);
    assert_eq!(judge_webhook(Some(&webhook("QQ=="))).status, Status::Ok);
}

#[test]
fn only_a_pod_with_a_sidecar_passes_the_dry_run() {
    let pod = |name: &str| -> Pod {
        serde_json::from_value(json!({ "spec": { "containers": [], "initContainers": [{ "name": name }] } })).unwrap()
    };
    assert_eq!(judge_dry_run(Ok(pod("remora-proxy"))).status, Status::Ok);
    assert_eq!(judge_dry_run(Ok(pod("other"))).status, Status::Failed);
    let refused = |message: &str, code| {
        let status = kube::core::Status::failure(message, "Forbidden").with_code(code);
        judge_dry_run(Err(CallError::Refused(Box::new(status)))).status
    };
    assert_eq!(refused("ValidatingAdmissionPolicy 'remora-injector' denied request", 403), Status::Failed);
    assert_eq!(refused("pods is forbidden: User x cannot create", 403), Status::Warning);
}

#[test]
fn every_guard_must_be_there() {
    let all = GUARDS.map(|name| (name, true));
    assert_eq!(judge_guards(&all).status, Status::Ok);
    for (index, name) in GUARDS.iter().enumerate() {
        let mut guards = all;
        guards[index].1 = false;
        let check = judge_guards(&guards);
        assert!(check.status == Status::Failed && check.detail.contains(name), "{check:?}");
        // The chart makes each.
        let rendered = include_str!("../../../charts/remora/rendered/default.yaml");
        let objects = crate::cluster::objects::of_manifests(rendered).unwrap();
        let kinds = objects.iter().filter(|it| it.name == *name).map(crate::cluster::objects::Object::kind);
        assert_eq!(kinds.filter(|kind| kind.starts_with("ValidatingAdmissionPolicy")).count(), 2, "{name}");
    }
}
