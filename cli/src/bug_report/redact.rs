//! What must not leave the cluster in a report: credentials in text, and of objects what only their owners should see.
//!
//! In: text or objects as they were read. Out: the same without these. Where it is unsure it takes away more: a report is sent to strangers.

use regex::bytes::{Captures, Regex};
use remora_kube::names;
use serde_json::Value;
use std::{borrow::Cow, sync::LazyLock};

/// In place of what was taken away.
const REDACTED: &str = "[redacted]";
/// In place of what is nobody's business.
const LEFT_OUT: &str = "[left out]";
/// The last word of the name of a field whose values are, or may well be, credentials: the list by which proxies keep no such value
/// (docs/admin-api.md).
const SECRET_WORDS: [&str; 10] =
    ["authorization", "cookie", "token", "key", "apikey", "secret", "password", "signature", "assertion", "cert"];
/// Annotations of applications' objects that are kept: those of Remora and of Kubernetes itself. Any other may hold anything.
const ANNOTATIONS_KEPT: [&str; 4] =
    ["remora.dev/", "app.kubernetes.io/", "deployment.kubernetes.io/", "kubectl.kubernetes.io/restartedAt"];
/// An annotation with a whole object, as it was applied once.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// The containers whose environment and arguments are ours to show.
const OURS: [&str; 5] =
    [names::PROXY_CONTAINER, names::INIT_CONTAINER, names::IDENTITY, names::DISCOVERY, names::INJECTOR];

/// What is taken out of text, in this order.
static SECRETS: LazyLock<Vec<Regex>> = LazyLock::new(|| {
    let words = SECRET_WORDS.join("|");
    let patterns = [
        // A private key in PEM, on its own lines or within a string; without its end, all that follows.
        r"(?s-u)-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\z)".to_owned(),
        // A JSON Web Token, whatever stands before it.
        r"(?-u)eyJ[A-Za-z0-9_-]{5,}\.[A-Za-z0-9_-]{5,}(?:\.[A-Za-z0-9_-]*)?".to_owned(),
        // The credentials behind their scheme.
        r"(?i-u)(?P<keep>\b(?:bearer|basic|digest|negotiate)[ \t]+)[A-Za-z0-9+/=._~-]{4,}".to_owned(),
        // Fields whose values have spaces and semicolons: within their quotes, or to the end of the line.
        r#"(?i-u)(?P<keep>\b(?:[a-z0-9]+[-_])*(?:authorization|cookie)\\?["']?[ \t]*[:=][ \t]*\\?["'])[^"'\\\r\n]+"#
            .to_owned(),
        r#"(?i-u)(?P<keep>\b(?:[a-z0-9]+[-_])*(?:authorization|cookie)[ \t]*[:=][ \t]*)[^"'\\\s\[][^\r\n]*"#.to_owned(),
        // `name: value`, `name=value`, `"name": "value"`, `\"name\":\"value\"`.
        format!(
            r#"(?i-u)(?P<keep>\b(?:[A-Za-z0-9]+[-_])*(?:{words})\\?["']?[ \t]*[:=][ \t]*\\?["']?)(?:(?:bearer|basic|digest|negotiate)[ \t]+)?[^\s"'\\,;{{}}\[\]]+"#
        ),
    ];
    // The patterns are constants: a test builds them.
    patterns.iter().filter_map(|pattern| Regex::new(pattern).ok()).collect()
});

/// Text without credentials.
pub(super) fn text(text: &str) -> String {
    let mut bytes = Cow::Borrowed(text.as_bytes());
    for secret in SECRETS.iter() {
        let without = secret.replace_all(&bytes, |found: &Captures<'_>| {
            let kept = found.name("keep").map_or(&b""[..], |kept| kept.as_bytes());
            [kept, REDACTED.as_bytes()].concat()
        });
        if let Cow::Owned(without) = without {
            bytes = Cow::Owned(without);
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// An object without what is its owner's alone: what was applied once, who manages which field, what applications' containers are told.
pub(super) fn object(mut object: Value) -> Value {
    let foreign = object["metadata"]["labels"].get(names::PART).is_none();
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
        if let Some(Value::Object(annotations)) = metadata.get_mut("annotations") {
            annotations.remove(LAST_APPLIED);
            for (name, value) in annotations.iter_mut() {
                if foreign && !ANNOTATIONS_KEPT.iter().any(|kept| name.starts_with(kept)) {
                    *value = LEFT_OUT.into();
                }
            }
        }
    }
    containers(&mut object);
    strings(&mut object);
    object
}

/// Goes through all lists of containers, wherever they are.
fn containers(value: &mut Value) {
    match value {
        Value::Array(all) => all.iter_mut().for_each(containers),
        Value::Object(fields) => {
            for (name, value) in fields.iter_mut() {
                match value {
                    Value::Array(all)
                        if ["containers", "initContainers", "ephemeralContainers"].contains(&name.as_str()) =>
                    {
                        all.iter_mut().for_each(container);
                    }
                    other => containers(other),
                }
            }
        }
        _ => {}
    }
}

fn container(container: &mut Value) {
    if container["name"].as_str().is_some_and(|name| OURS.contains(&name)) {
        return;
    }
    for variable in container["env"].as_array_mut().into_iter().flatten() {
        if let Some(value) = variable.get_mut("value") {
            *value = LEFT_OUT.into();
        }
    }
    for told in ["command", "args", "lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(value) = container.get_mut(told) {
            *value = LEFT_OUT.into();
        }
    }
}

/// Every string without credentials.
fn strings(value: &mut Value) {
    match value {
        Value::String(string) => *string = text(string),
        Value::Array(all) => all.iter_mut().for_each(strings),
        Value::Object(fields) => fields.values_mut().for_each(strings),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn credentials_of_any_spelling_are_taken_out_of_text_and_the_rest_stays() {
        assert_eq!(SECRETS.len(), 6, "every pattern can be built");
        let jwt = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJ4In0.c2lnbmF0dXJl";
        let cases = [
            (format!("token review of {jwt} failed"), "token review of [redacted] failed"),
            ("Authorization: Bearer abcdef.123".to_owned(), "Authorization: [redacted]"),
            (r#"{"authorization":"Basic dXNlcjpwYXNz","ms":7}"#.to_owned(), r#"{"authorization":"[redacted]","ms":7}"#),
            (r#"{\"x-api-key\":\"s3cr3t\"}"#.to_owned(), r#"{\"x-api-key\":\"[redacted]\"}"#),
            ("x-auth-token=abc cookie: a=b".to_owned(), "x-auth-token=[redacted] cookie: [redacted]"),
            ("set-cookie: a=b; Path=/; c=d\nms=3".to_owned(), "set-cookie: [redacted]\nms=3"),
            (r#"{"cookie":"a=b; c=d","ms":7}"#.to_owned(), r#"{"cookie":"[redacted]","ms":7}"#),
            ("DB_PASSWORD='hunter2'".to_owned(), "DB_PASSWORD='[redacted]'"),
            ("sent Bearer abcd1234 to api".to_owned(), "sent Bearer [redacted] to api"),
            ("a -----BEGIN EC PRIVATE KEY-----\nMHc\n-----END EC PRIVATE KEY-----\nb".to_owned(), "a [redacted]\nb"),
            ("-----BEGIN PRIVATE KEY-----\nMHc and its end was cut off".to_owned(), "[redacted]"),
            ("a monkey: 7, route=GET /tokens ms=3".to_owned(), "a monkey: 7, route=GET /tokens ms=3"),
            (
                "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----".to_owned(),
                "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----",
            ),
        ];
        for (before, after) in cases {
            assert_eq!(text(&before), after, "{before}");
        }
    }

    #[test]
    fn the_words_are_those_by_which_proxies_keep_no_value() {
        let page = include_str!("../../../docs/admin-api.md");
        let (_, list) = page.split_once("or its last word behind a hyphen, is").unwrap();
        let list: Vec<_> = list.split(".\n").next().unwrap().split('`').skip(1).step_by(2).collect();
        assert_eq!(list[..SECRET_WORDS.len()], SECRET_WORDS);
    }

    #[test]
    fn an_applications_environment_and_arguments_stay_in_the_cluster_and_the_sidecars_are_shown() {
        let container = |name: &str| {
            json!({ "name": name, "image": "i:1", "args": ["--dsn=x"], "env": [
                { "name": "DSN", "value": "postgres://u:p@db" }, { "name": "FROM", "valueFrom": { "secretKeyRef": { "name": "s" } } }] })
        };
        let spec = json!({ "containers": [container("app"), container("remora-proxy")], "initContainers": [container("migrate")] });
        let shown = object(json!({
            "kind": "Deployment",
            "metadata": {
                "name": "web", "managedFields": [1],
                "annotations": { LAST_APPLIED: "{}", "remora.dev/inject": "enabled", "vault.example/role": "admin" },
            },
            "spec": { "template": { "spec": spec } },
        }));
        let spec = &shown["spec"]["template"]["spec"];
        for name in [&spec["containers"][0], &spec["initContainers"][0]] {
            assert_eq!(name["env"][0], json!({ "name": "DSN", "value": "[left out]" }));
            assert_eq!((&name["args"], &name["image"]), (&json!("[left out]"), &json!("i:1")));
            assert_eq!(name["env"][1]["valueFrom"]["secretKeyRef"]["name"], "s", "a name is no secret");
        }
        assert_eq!(spec["containers"][1]["env"][0]["value"], "postgres://u:p@db");
        let annotations = json!({ "remora.dev/inject": "enabled", "vault.example/role": "[left out]" });
        assert_eq!(shown["metadata"], json!({ "name": "web", "annotations": annotations }));
    }
}
