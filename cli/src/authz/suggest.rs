//! `remora authz suggest`: AuthorizationPolicies that allow what was seen, and nothing else.
//!
//! In: what proxies have counted of those who called. Out: a policy for each Service that was called, as YAML, with the counts as comments. A call that did
//! not happen while the proxies counted is not in it: so the policies are written as a dry run, where this version knows that.

use super::SuggestArgs;
use crate::{
    Outcome,
    inspect::{pretty, span},
    look::{Seen, seen},
    output::Output,
};
use remora_discovery::{index::Mesh, source::parse::parse};
use remora_kube::yaml;
use remora_model::PathPattern;
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

/// Of each Service, of each peer: what it did, and how often.
type Calls = BTreeMap<String, BTreeMap<String, BTreeMap<Did, u64>>>;

/// What a peer did, as a rule can say it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Did {
    /// What no rule can name: bytes, or a route that is not known by its path.
    Anything(String),
    /// A path pattern and a method.
    Request(String, String),
}

pub(super) async fn suggest(args: &SuggestArgs) -> Outcome {
    let (all, silent) = seen(&args.scope, &args.control_plane).await?;
    silent.iter().for_each(|why| eprintln!("remora: {why}; what it has seen is missing"));
    let dry = !args.enforce;
    anyhow::ensure!(
        !dry || knows_dry_run(),
        "this version has no `mode: DryRun`, so that these policies would hold at once: say --enforce if that is meant"
    );
    let policies = policies(&all, dry);
    if args.output == Output::Json {
        return pretty(&policies.iter().map(|(_, policy)| policy).collect::<Vec<_>>(), silent.is_empty());
    }
    let mut text = String::new();
    for (comment, policy) in policies {
        let start = if text.is_empty() { "" } else { "---\n" };
        write!(text, "{start}{comment}{}", yaml::write(&policy))?;
    }
    if text.is_empty() {
        "# no call of the mesh to a Service was seen\n".clone_into(&mut text);
    }
    Ok((text, silent.is_empty()))
}

/// Whether discovery of this version reads it.
fn knows_dry_run() -> bool {
    let policy = policy("a", "b", true, Vec::new());
    let objects = parse(&policy.to_string(), "").objects;
    let mut world = remora_discovery::index::World::new(Mesh::default());
    world.apply(objects.into_iter().map(remora_discovery::index::Change::Put), &mut |_, _| {});
    world.settle();
    !world.reports().any(|report| report.contains("mode"))
}

fn policy(namespace: &str, service: &str, dry: bool, rules: Vec<Value>) -> Value {
    let mut policy = json!({
        "apiVersion": "remora.dev/v1alpha1",
        "kind": "AuthorizationPolicy",
        "metadata": { "name": format!("seen-{service}"), "namespace": namespace },
        "spec": { "targetRefs": [{ "kind": "Service", "name": service }], "action": "Allow", "rules": rules },
    });
    if dry {
        policy["spec"]["mode"] = "DryRun".into();
    }
    policy
}

/// Each with its comment.
fn policies(all: &[Seen], dry: bool) -> Vec<(String, Value)> {
    let (mut calls, mut longest, mut strangers) = (Calls::new(), BTreeMap::new(), BTreeMap::new());
    for one in all {
        // `shop/web-1:8080` is a port that no Service has: no Service's policy holds there.
        let Some((service, _)) = one.parent.rsplit_once(':').filter(|(parent, _)| *parent != one.pod) else { continue };
        let time: &mut f64 = longest.entry(service.to_owned()).or_default();
        *time = time.max(one.seconds);
        if one.peer.is_empty() {
            *strangers.entry(service.to_owned()).or_insert(0_u64) += one.requests;
            continue;
        }
        let peers = calls.entry(service.to_owned()).or_default();
        *peers.entry(one.peer.clone()).or_default().entry(did(&one.route)).or_default() += one.requests;
    }
    calls
        .into_iter()
        .filter_map(|(service, peers)| {
            let (namespace, name) = service.split_once('/')?;
            let seconds = longest.get(&service).map_or(0, |time| *time as u64);
            let mut comment = format!("# Service {service}: seen by its proxies in the last {}.\n", span(seconds));
            if let Some(count) = strangers.get(&service) {
                _ = writeln!(comment, "# {count} calls came without an identity: no rule here allows them.");
            }
            for (number, (peer, done)) in peers.iter().enumerate() {
                _ = writeln!(comment, "# rule {number}: {peer}: {}", counts(done));
            }
            Some((comment, policy(namespace, name, dry, peers.iter().map(rule).collect())))
        })
        .collect()
}

/// `GET /orders/:id` may be anything below `/orders`.
fn did(route: &str) -> Did {
    let (method, path) = match route.split_once(' ') {
        Some((method, path)) => (method, path.to_owned()),
        // A method of gRPC: `shop.Orders/Get`.
        None => ("POST", format!("/{}", route.trim_start_matches('/'))),
    };
    let literal: Vec<&str> = path.split('/').take_while(|segment| !segment.starts_with(':')).collect();
    let pattern =
        if literal.len() == path.split('/').count() { path.clone() } else { format!("{}/*", literal.join("/")) };
    let is_path =
        route.contains('/') && PathPattern::parse(&pattern).is_ok() && remora_model::policy::method(method).is_ok();
    if is_path { Did::Request(pattern, method.to_owned()) } else { Did::Anything(route.to_owned()) }
}

fn counts(done: &BTreeMap<Did, u64>) -> String {
    let one = |(did, count): (&Did, &u64)| match did {
        Did::Anything(what) => format!("{what} ({count})"),
        Did::Request(path, method) => format!("{method} {path} ({count})"),
    };
    done.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// What no rule can name allows everything to that peer.
fn rule((peer, done): (&String, &BTreeMap<Did, u64>)) -> Value {
    let from = json!([{ "identities": [peer] }]);
    let mut paths: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for did in done.keys() {
        match did {
            Did::Anything(_) => return json!({ "from": from }),
            Did::Request(path, method) => drop(paths.entry(path).or_default().insert(method)),
        }
    }
    let mut by_methods: BTreeMap<Vec<&str>, Vec<&str>> = BTreeMap::new();
    for (path, methods) in paths {
        by_methods.entry(methods.into_iter().collect()).or_default().push(path);
    }
    let to: Vec<Value> =
        by_methods.into_iter().map(|(methods, paths)| json!({ "methods": methods, "paths": paths })).collect();
    json!({ "from": from, "to": to })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lint;

    fn one(pod: &str, parent: &str, route: &str, peer: &str, requests: u64) -> Seen {
        let peer = if peer.is_empty() { String::new() } else { format!("spiffe://cluster.local/ns/shop/sa/{peer}") };
        let (pod, parent, route) = (pod.to_owned(), parent.to_owned(), route.to_owned());
        Seen { namespace: "shop".into(), pod, parent, route, peer, requests, seconds: 7200.0 }
    }

    #[test]
    fn what_was_seen_is_allowed_and_nothing_else_with_its_counts() {
        let all = [
            one("shop/api-1", "shop/api:80", "GET /orders/:id", "web", 7),
            one("shop/api-2", "shop/api:80", "GET /orders/:id", "web", 3),
            one("shop/api-1", "shop/api:80", "POST /orders", "web", 2),
            one("shop/api-1", "shop/api:80", "shop.Orders/Get", "cart", 5),
            one("shop/api-1", "shop/api:80", "tcp", "db", 1),
            one("shop/api-1", "shop/api:80", "GET /", "", 9),
            one("shop/api-1", "shop/api-1:9090", "GET /metrics", "prom", 4),
        ];
        let policies = policies(&all, false);
        let [(comment, policy)] = &policies[..] else { panic!("{policies:?}") };
        let id = |name: &str| format!("spiffe://cluster.local/ns/shop/sa/{name}");
        assert_eq!(
            policy["spec"]["rules"],
            json!([
                { "from": [{ "identities": [id("cart")] }], "to": [{ "methods": ["POST"], "paths": ["/shop.Orders/Get"] }] },
                { "from": [{ "identities": [id("db")] }] },
                { "from": [{ "identities": [id("web")] }], "to": [{ "methods": ["GET"], "paths": ["/orders/*"] }, { "methods": ["POST"], "paths": ["/orders"] }] },
            ])
        );
        assert!(
            comment.contains("in the last 2 h 0 min") && comment.contains("9 calls came without an identity"),
            "{comment}"
        );
        assert!(
            comment.contains("rule 2: spiffe://cluster.local/ns/shop/sa/web: POST /orders (2), GET /orders/* (10)"),
            "{comment}"
        );
        let told = parse(&format!("{comment}{}", yaml::write(policy)), "a.yaml").whole().unwrap();
        assert_eq!(lint::odd(&told, &Mesh::default()), []);
    }
}
