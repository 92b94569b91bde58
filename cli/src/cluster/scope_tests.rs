use super::*;
use clap::Parser;

#[derive(Debug, Parser)]
struct Line {
    #[command(flatten)]
    scope: Scope,
}

fn scope(line: &str) -> Result<Scope, clap::Error> {
    Line::try_parse_from(["x"].into_iter().chain(line.split_whitespace())).map(|line| line.scope)
}

#[test]
fn flags_are_kubectls() {
    let all = scope("-A -l app=web --kubeconfig f --context c --as u --as-group g --as-group h").unwrap();
    assert!(all.all_namespaces && all.selector.as_deref() == Some("app=web"));
    assert_eq!(
        (all.cluster.user.as_deref(), all.cluster.groups.as_slice()),
        (Some("u"), &["g".to_owned(), "h".to_owned()][..])
    );
    assert_eq!(scope("-n shop deploy/web sts/db pods/x").unwrap().targets.len(), 3);
    for wrong in ["-A deploy/web", "-A -n shop", "-n Shop", "--as-group g", "web"] {
        assert!(scope(wrong).is_err(), "{wrong}");
    }
}

fn meta(owner: Option<(&str, &str)>, hash: Option<&str>) -> ObjectMeta {
    let owners = owner.map(|(kind, name)| serde_json::json!([{ "apiVersion": "v1", "kind": kind, "name": name, "uid": "u", "controller": true }]));
    let labels = hash.map(|hash| serde_json::json!({ "pod-template-hash": hash }));
    serde_json::from_value(serde_json::json!({ "name": "web-5d-x", "ownerReferences": owners, "labels": labels }))
        .unwrap()
}

#[test]
fn a_pods_workload_is_what_a_person_would_name() {
    let of = |owner, hash| workload(&meta(owner, hash));
    assert_eq!(of(Some(("ReplicaSet", "web-5d")), Some("5d")), "deploy/web");
    assert_eq!(of(Some(("ReplicaSet", "web-5d")), None), "replicaset/web-5d");
    assert_eq!(of(Some(("StatefulSet", "db")), None), "sts/db");
    assert_eq!(of(Some(("Rollout", "web")), Some("5d")), "rollout/web");
    assert_eq!(of(None, None), "pod/web-5d-x");
}
