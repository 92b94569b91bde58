//! The webhook configuration as it should be. Pure.

use k8s_openapi::{ByteString, api::admissionregistration::v1::MutatingWebhookConfiguration};
use remora_kube::names::{DISABLED, ENABLED, INJECT, INJECTOR, MADE_BY};
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// Called for pods of namespaces that are opted in.
pub(crate) const BY_NAMESPACE: &str = "/inject/namespace";
/// Called for pods that have their own word.
pub(crate) const BY_POD: &str = "/inject/pod";

/// How long an API server waits for us before it goes on without.
const TIMEOUT_SECONDS: u32 = 5;
/// Never ours: what makes the cluster work.
const SYSTEM: &str = "kube-system";
/// The label that every namespace has with its own name.
const NAME: &str = "kubernetes.io/metadata.name";

/// What the configuration depends on.
#[derive(Debug, Clone)]
pub(super) struct Facts<'a> {
    /// The control plane's namespace.
    pub(super) namespace: &'a str,
    /// The authorities to trust, PEM.
    pub(super) bundle: &'a str,
    /// Namespaces opted in by annotation.
    pub(super) listed: &'a BTreeSet<String>,
    /// The uid of the ClusterRole, with which the configuration goes; `None` if it is not known.
    pub(super) owner: Option<&'a str>,
}

/// The configuration: who is called for which pods.
pub(super) fn configuration(facts: &Facts<'_>) -> Result<MutatingWebhookConfiguration, serde_json::Error> {
    let never = [SYSTEM, facts.namespace];
    let listed: Vec<&str> = facts.listed.iter().map(String::as_str).filter(|name| !never.contains(name)).collect();
    let labelled = |operator: &str| json!({ "key": INJECT, "operator": operator, "values": [ENABLED] });
    let named = |operator: &str, names: &[&str]| json!({ "key": NAME, "operator": operator, "values": names });
    let mut webhooks =
        vec![webhook(facts, "labelled", (BY_NAMESPACE, not_disabled()), &[labelled("In"), named("NotIn", &never)])];
    if !listed.is_empty() {
        let selector = [labelled("NotIn"), named("In", &listed)];
        webhooks.push(webhook(facts, "listed", (BY_NAMESPACE, not_disabled()), &selector));
    }
    let others: Vec<&str> = never.iter().copied().chain(listed).collect();
    webhooks.push(webhook(facts, "pod", (BY_POD, asked_for()), &[labelled("NotIn"), named("NotIn", &others)]));
    let mut object = json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingWebhookConfiguration",
        "metadata": { "name": INJECTOR, "labels": { MADE_BY: INJECTOR } },
        "webhooks": webhooks,
    });
    if let Some(uid) = facts.owner {
        object["metadata"]["ownerReferences"] = json!([{
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "name": INJECTOR, "uid": uid,
        }]);
    }
    serde_json::from_value(object)
}

fn webhook(facts: &Facts<'_>, name: &str, (path, own_word): (&str, String), selector: &[Value]) -> Value {
    json!({
        "name": format!("{name}.injector.remora.dev"),
        "clientConfig": {
            "service": { "namespace": facts.namespace, "name": INJECTOR, "path": path, "port": 443 },
            "caBundle": ByteString(facts.bundle.as_bytes().to_vec()),
        },
        "rules": [{
            "apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"],
            "scope": "Namespaced",
        }],
        "namespaceSelector": { "matchExpressions": selector },
        "matchConditions": [
            { "name": "word-of-the-pod", "expression": own_word },
            { "name": "not-host-network", "expression": "!has(object.spec.hostNetwork) || !object.spec.hostNetwork" },
            { "name": "not-windows", "expression": "!has(object.spec.os) || object.spec.os.name != 'windows'" },
            {
                "name": "not-a-mirror-pod",
                "expression": "!has(object.metadata.annotations) || \
                               !('kubernetes.io/config.mirror' in object.metadata.annotations)",
            },
        ],
        // While the injector is down, the admission policy rejects pods without a sidecar.
        "failurePolicy": "Ignore",
        "matchPolicy": "Equivalent",
        "reinvocationPolicy": "IfNeeded",
        // Events; and none of a dry run.
        "sideEffects": "NoneOnDryRun",
        "timeoutSeconds": TIMEOUT_SECONDS,
        "admissionReviewVersions": ["v1"],
    })
}

/// Whether the pod's own word, its annotation before its label, is not that it should stay as it is.
fn not_disabled() -> String {
    let [annotation, label] = ["annotations", "labels"].map(has);
    format!(
        "{annotation} ? object.metadata.annotations['{INJECT}'] != '{DISABLED}' \
         : !({label} && object.metadata.labels['{INJECT}'] == '{DISABLED}')"
    )
}

/// Whether the pod has a word, and it is not that. A misspelt one comes to us, for us to say so.
fn asked_for() -> String {
    let [annotation, label] = ["annotations", "labels"].map(has);
    format!(
        "{annotation} ? object.metadata.annotations['{INJECT}'] != '{DISABLED}' \
         : {label} && object.metadata.labels['{INJECT}'] != '{DISABLED}'"
    )
}

fn has(field: &str) -> String {
    format!("(has(object.metadata.{field}) && '{INJECT}' in object.metadata.{field})")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(listed: &[&str]) -> Value {
        let listed = listed.iter().map(|name| (*name).to_owned()).collect();
        let facts = Facts { namespace: "remora", bundle: "PEM", listed: &listed, owner: Some("u-1") };
        serde_json::to_value(configuration(&facts).unwrap()).unwrap()
    }

    fn selector(object: &Value, at: usize) -> Vec<String> {
        let expressions = object["webhooks"][at]["namespaceSelector"]["matchExpressions"].as_array().unwrap();
        expressions.iter().map(|e| format!("{} {} {}", e["key"], e["operator"], e["values"]).replace('"', "")).collect()
    }

    #[test]
    fn a_namespace_is_called_for_by_one_entry_alone() {
        let object = of(&["shop", "remora", "kube-system"]);
        assert_eq!(
            selector(&object, 0),
            ["remora.dev/inject In [enabled]", "kubernetes.io/metadata.name NotIn [kube-system,remora]"]
        );
        assert_eq!(
            selector(&object, 1),
            ["remora.dev/inject NotIn [enabled]", "kubernetes.io/metadata.name In [shop]"]
        );
        assert_eq!(
            selector(&object, 2),
            ["remora.dev/inject NotIn [enabled]", "kubernetes.io/metadata.name NotIn [kube-system,remora,shop]"]
        );
    }

    /// The chart's policy on what our account may write repeats what we write; `tests/tests/cluster_injection.rs` has the
    /// API server judge it.
    #[test]
    fn the_policy_on_our_account_lets_us_write_this_and_repeats_it_word_for_word() {
        let rendered = include_str!("../../../charts/remora/rendered/default.yaml");
        let documents = remora_kube::yaml::read(rendered).into_iter().map(|it| it.unwrap().into_json());
        let policy = documents.into_iter().find(|it| {
            it["kind"] == "ValidatingAdmissionPolicy" && it["metadata"]["name"] == "remora-injector-account"
        });
        let spec = &policy.unwrap()["spec"];
        let variable = |name: &str| {
            let all = spec["variables"].as_array().unwrap();
            all.iter().find(|it| it["name"] == name).unwrap()["expression"].as_str().unwrap().to_owned()
        };
        let quoted = |text: &str| format!("\"{text}\"");
        assert_eq!(variable("byNamespace"), quoted(&not_disabled()));
        assert_eq!(variable("byPod"), quoted(&asked_for()));
        let object = of(&["shop"]);
        let validations: Vec<&str> =
            spec["validations"].as_array().unwrap().iter().map(|it| it["expression"].as_str().unwrap()).collect();
        let validations = validations.join("\n");
        for entry in object["webhooks"].as_array().unwrap() {
            let conditions = entry["matchConditions"].as_array().unwrap().iter().skip(1);
            let conditions: Vec<String> = conditions.map(|it| quoted(it["expression"].as_str().unwrap())).collect();
            assert_eq!(variable("conditions"), format!("[{}]", conditions.join(", ")));
            for field in ["failurePolicy", "sideEffects", "matchPolicy"] {
                assert!(validations.contains(&format!("w.{field} == '{}'", entry[field].as_str().unwrap())), "{field}");
            }
            for word in [&entry["name"], &entry["clientConfig"]["service"]["path"]] {
                assert!(validations.contains(&format!("'{}'", word.as_str().unwrap())), "{word}");
            }
        }
    }

    /// What it refuses the API server judges, in `tests/tests/cluster_injection.rs`.
    #[test]
    fn the_policy_on_membership_sees_updates_of_the_status_too_which_may_change_labels() {
        let rendered = include_str!("../../../charts/remora/rendered/default.yaml");
        let documents = remora_kube::yaml::read(rendered).into_iter().map(|it| it.unwrap().into_json());
        let policy = documents.into_iter().find(|it| {
            it["kind"] == "ValidatingAdmissionPolicy" && it["metadata"]["name"] == "remora-injector-membership"
        });
        let rule = &policy.unwrap()["spec"]["matchConstraints"]["resourceRules"][0];
        assert_eq!(rule["resources"], json!(["pods", "pods/status"]));
    }

    #[test]
    fn an_empty_list_is_no_entry() {
        let object = of(&[]);
        let names: Vec<_> = object["webhooks"].as_array().unwrap().iter().map(|entry| &entry["name"]).collect();
        assert_eq!(names, ["labelled.injector.remora.dev", "pod.injector.remora.dev"]);
    }

    #[test]
    fn it_fails_open_soon_and_goes_with_its_owner() {
        let object = of(&["shop"]);
        for entry in object["webhooks"].as_array().unwrap() {
            assert_eq!((&entry["failurePolicy"], &entry["timeoutSeconds"]), (&json!("Ignore"), &json!(5)));
            assert_eq!(entry["clientConfig"]["caBundle"], "UEVN");
        }
        assert_eq!(object["metadata"]["ownerReferences"][0]["uid"], "u-1");
        assert_eq!(object["metadata"]["labels"]["remora.dev/made-by"], "remora-injector");
    }
}
