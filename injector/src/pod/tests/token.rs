//! The part of a probe's path that nobody can guess.

use super::*;

fn probed() -> Value {
    let get = json!({ "httpGet": { "path": "/ready", "port": 8080 } });
    let containers = json!([{ "name": "app", "image": "a", "readinessProbe": get, "lifecycle": { "preStop": get } }]);
    pod(json!({ "spec": { "containers": containers } }))
}

fn with(pod: &Value, fresh: &ProbeToken) -> Outcome {
    inject(pod, &shop(), &Defaults::default(), fresh)
}

#[test]
fn probes_ask_at_a_path_that_differs_from_pod_to_pod() {
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..16 {
        let Outcome::Inject(injection) = with(&probed(), &ProbeToken::random().unwrap()) else { panic!() };
        let token = env(&injection.pod, "REMORA_PROXY_PROBE_TOKEN").unwrap().to_owned();
        assert!(token.len() == 32 && token.bytes().all(|it| it.is_ascii_hexdigit()), "128 bits: {token}");
        let app = container(&injection.pod, "app");
        assert_eq!(app["readinessProbe"]["httpGet"]["path"], format!("/probe/{token}/app/readiness"));
        assert_eq!(app["lifecycle"]["preStop"]["httpGet"]["path"], format!("/probe/{token}/app/preStop"));
        seen.insert(token);
    }
    assert_eq!(seen.len(), 16);
    assert_eq!(env(&injected(&pod(json!({})), &shop()), "REMORA_PROXY_PROBE_TOKEN"), None, "nothing to ask for");
}

#[test]
fn a_pod_that_has_a_token_keeps_it_whoever_comes_between() {
    let Outcome::Inject(first) = with(&probed(), &ProbeToken::random().unwrap()) else { panic!() };
    assert_eq!(with(&first.pod, &ProbeToken::random().unwrap()), Outcome::Skip(Skip::AlreadyInjected));
    // Another webhook adds a container with a probe; then ours is asked again.
    let mut more = first.pod.clone();
    let added = json!({ "name": "more", "image": "m", "livenessProbe": { "tcpSocket": { "port": 9 } } });
    more["spec"]["containers"].as_array_mut().unwrap().push(added);
    let Outcome::Inject(second) = with(&more, &ProbeToken::random().unwrap()) else { panic!() };
    let [before, after] = [&first.pod, &second.pod].map(|pod| env(pod, "REMORA_PROXY_PROBE_TOKEN").unwrap());
    assert_eq!(before, after);
    let path = &container(&second.pod, "more")["livenessProbe"]["httpGet"]["path"];
    assert_eq!(path, &json!(format!("/probe/{after}/more/liveness")));
    assert_eq!(container(&second.pod, "app"), container(&first.pod, "app"));
}

#[test]
fn what_is_no_token_is_replaced_and_an_older_path_is_put_back() {
    let Outcome::Inject(first) = with(&probed(), &ProbeToken::fixed()) else { panic!() };
    let text = first.pod.to_string();
    let token = ProbeToken::fixed().as_str().to_owned();
    for weak in ["", "guess", "0123", &"Z".repeat(32), "../../x"] {
        let pod: Value = serde_json::from_str(&text.replace(&format!("\"{token}\""), &format!("\"{weak}\""))).unwrap();
        let Outcome::Inject(again) = with(&pod, &ProbeToken::random().unwrap()) else { panic!("{weak}") };
        let now = env(&again.pod, "REMORA_PROXY_PROBE_TOKEN").unwrap();
        assert_eq!(now.len(), 32, "{weak}");
        assert_eq!(
            container(&again.pod, "app")["readinessProbe"]["httpGet"]["path"],
            format!("/probe/{now}/app/readiness")
        );
    }
    // As an injector before tokens made it.
    let old: Value = serde_json::from_str(&text.replace(&format!("/probe/{token}/"), "/probe/")).unwrap();
    let Outcome::Inject(again) = with(&old, &ProbeToken::fixed()) else { panic!() };
    assert_eq!(
        again.pod["metadata"]["annotations"]["remora.dev/probes"],
        first.pod["metadata"]["annotations"]["remora.dev/probes"]
    );
    assert_eq!(container(&again.pod, "app"), container(&first.pod, "app"));
}
