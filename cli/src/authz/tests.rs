//! Decisions over files, with the place of the rule.

use super::*;
use clap::Parser;
use std::fs;

const SHOP: &str = "apiVersion: apps/v1
kind: Deployment
metadata: { name: api, namespace: shop }
spec:
  template:
    metadata: { labels: { app: api } }
    spec: { serviceAccountName: api, containers: [{ name: app, ports: [{ containerPort: 8080 }] }] }
---
apiVersion: v1
kind: Service
metadata: { name: api, namespace: shop }
spec: { clusterIP: 10.0.0.1, selector: { app: api }, ports: [{ port: 80, targetPort: 8080 }] }
---
apiVersion: remora.dev/v1alpha1
kind: AuthorizationPolicy
metadata: { name: web, namespace: shop }
spec:
  targetRefs: [{ kind: Service, name: api }]
  rules:
    - from: [{ identities: [spiffe://cluster.local/ns/shop/sa/web] }]
      to: [{ methods: [GET], paths: [/orders/*] }]
---
apiVersion: remora.dev/v1alpha1
kind: AuthorizationPolicy
metadata: { name: closed, namespace: shop }
spec: { action: Deny, rules: [{ from: [{ namespaces: [evil] }] }, { to: [{ paths: [/admin] }] }] }
---
apiVersion: apps/v1
kind: Deployment
metadata: { name: db, namespace: data }
spec:
  template:
    metadata: { labels: { app: db } }
    spec: { serviceAccountName: db, containers: [{ name: db, ports: [{ containerPort: 5432 }] }] }
";

#[derive(Parser)]
struct Typed {
    #[command(subcommand)]
    command: Command,
}

/// What the command prints, and whether all was well.
fn run(words: &str) -> anyhow::Result<(String, bool)> {
    let dir = tempfile::tempdir()?;
    fs::write(dir.path().join("shop.yaml"), SHOP)?;
    let words = words.split(' ').chain(["-f", dir.path().to_str().unwrap()]);
    let typed = Typed::try_parse_from(std::iter::once("authz").chain(words))?;
    let look = Look { coloured: false };
    let (text, good) = match &typed.command {
        Command::Explain(args) => block_on(explain::explain(args, look))?,
        Command::List(args) => block_on(list::list(args, look))?,
        Command::Suggest(_) => unreachable!("it asks pods"),
    };
    Ok((text.replace(dir.path().to_str().unwrap(), "DIR"), good))
}

#[test]
fn a_call_is_allowed_or_denied_by_a_rule_that_is_named_with_its_place() {
    for (call, allowed, told) in [
        ("--from shop/web --to shop/api GET /orders/7?x=1", true, "by shop/web rule 0 (DIR/shop.yaml:14)"),
        (
            "--from shop/web --to shop/api:80 POST /orders/7",
            false,
            "needed: shop/web rule 0 names this caller, and does not take POST /orders/7",
        ),
        (
            "--from shop/other --to shop/api GET /orders/7",
            false,
            "needed: shop/web rule 0 takes GET /orders/7, and does not name this caller",
        ),
        ("--from evil/web --to shop/api GET /orders/7", false, "denied by shop/closed rule 0 (DIR/shop.yaml:23)"),
        ("--from shop/web --to shop/api GET /admin", false, "denied by shop/closed rule 1"),
        ("--from none --to shop/api GET /orders/7", false, "denied by shop/closed rule 0"),
        ("--from shop/web --to shop/api --bytes", false, "denied by shop/closed rule 1"),
        ("--from shop/web --to shop/api GET /orders/../x", false, "canonical form"),
    ] {
        let (text, good) = run(&format!("explain {call}")).unwrap();
        assert!(good == allowed && text.contains(told), "{call}: {text}");
    }
    let (json, _) = run("explain --from evil/web --to shop/api GET /x -o json").unwrap();
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(
        (&json["decision"], &json["rule"], &json["allowed"]),
        (&"denied".into(), &"shop/closed rule 0".into(), &false.into())
    );
}

#[test]
fn the_pod_of_a_workload_is_meant_by_the_workloads_name() {
    let (text, good) = run("explain --from shop/web --to shop/api-deployment GET /orders/7").unwrap();
    assert!(good && text.contains("shop/api-deployment:8080"), "{text}");
}

#[test]
fn what_is_not_there_is_said_to_be_so() {
    for words in ["explain --from shop/web --to shop/gone GET /x", "explain --from shop/web --to shop/api:81 GET /x"] {
        let error = run(words).unwrap_err();
        assert_eq!(crate::exit::Exit::of(&error), crate::exit::Exit::Absent, "{error}");
    }
}

#[test]
fn rules_are_listed_in_the_order_in_which_they_decide() {
    let (text, _) = run("list shop/api").unwrap();
    let order = ["shop/closed rule 0", "shop/closed rule 1", "shop/web rule 0"].map(|rule| text.find(rule));
    assert!(order.iter().all(Option::is_some) && order.is_sorted(), "{text}");
    assert!(
        text.contains("whom no Allow rule names is denied")
            && text.contains("GET /orders/*")
            && text.contains("ns/evil"),
        "{text}"
    );
}

#[test]
fn what_holds_by_default_is_said_to_be_taken_for_granted_where_nobody_says_it() -> anyhow::Result<()> {
    // A port that no Allow policy selects.
    let call = "explain --from data/web --to data/db:5432 --bytes";
    let (told, allowed) = run(call)?;
    assert!(allowed && told.contains("taken for granted (--default-inbound-policy)"), "{told}");
    for (word, expected) in [("allow", true), ("authenticated", true), ("same-namespace", true), ("deny", false)] {
        let (told, allowed) = run(&format!("{call} --default-inbound-policy {word}"))?;
        assert_eq!(allowed, expected, "{word}: {told}");
        assert!(!told.contains("taken for granted"), "{told}");
    }
    let stranger = "explain --from none --to data/db:5432 --bytes --default-inbound-policy authenticated";
    assert!(!run(stranger)?.1);
    Ok(())
}
