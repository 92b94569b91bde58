//! TLSRoutes and TCPRoutes on Services.

use super::*;
use remora_model::bytes;

/// Another Service of `shop`, and one of `vault`.
const MORE: &str = "apiVersion: v1
kind: Service
metadata: { name: next, namespace: shop }
spec: { clusterIP: 10.0.0.2, ports: [{ port: 80 }] }
---
apiVersion: v1
kind: Service
metadata: { name: safe, namespace: vault }
spec: { clusterIP: 10.0.0.3, ports: [{ port: 80 }] }
---
";

/// A route of `shop` on `shop/api` or a part of it, made in this year, with the rest of its `spec`.
fn route(kind: &str, name: &str, year: u16, parent: &str, spec: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1
kind: {kind}
metadata: {{ name: {name}, namespace: shop, creationTimestamp: '{year}-01-01T00:00:00Z' }}
spec: {{ parentRefs: [{{ group: '', kind: Service, name: api{parent} }}], {spec} }}
---
"
    )
}

const NEXT: &str = "rules: [{ backendRefs: [{ name: next, port: 80 }] }]";

fn world(routes: &[String]) -> Snapshot {
    with(&format!("{MORE}{}", routes.concat()))
}

/// The backends of a rule with their shares; of an invalid one the share alone.
fn shares(backends: &[BackendRef]) -> Vec<String> {
    let shown = |one: &BackendRef| match one.state {
        BackendRefState::Valid => format!("{} {}", one.backend, one.weight),
        BackendRefState::Invalid => one.weight.to_string(),
    };
    backends.iter().map(shown).collect()
}

/// Where a client of `shop` that asks for `name` gets, by the labels of rules. `None`: it is refused.
fn asked(world: &Snapshot, name: &str) -> Option<String> {
    let outbound = outbound(world, "shop", "api:80");
    bytes::select(&outbound.tls, name).map(|rule| outbound.tls[rule].label.to_string())
}

/// What is said of the first parent of each route, by its name.
fn said(world: &Snapshot) -> BTreeMap<String, String> {
    let shown = |status: &Arc<status::ObjectStatus>| {
        let conditions = status.ours()["parents"][0]["conditions"].as_array().unwrap().iter();
        let one = |c: &serde_json::Value| format!("{}={}/{} {}", c["type"], c["status"], c["reason"], c["message"]);
        (status.name.clone(), conditions.map(one).collect::<Vec<_>>().join("; ").replace('"', ""))
    };
    world.statuses.iter().map(shown).collect()
}

#[test]
fn a_tcp_route_shares_out_connections_and_requests_alike() {
    let spec = "rules: [{ backendRefs: [{ name: api, port: 80, weight: 90 }, { name: next, port: 80, weight: 10 }, { name: gone, port: 80 }] }]";
    let world = world(&[route("TCPRoute", "r", 2020, "", spec)]);
    let outbound = outbound(&world, "shop", "api:80");
    let tcp = outbound.tcp.as_ref().unwrap();
    let expected = ["shop/api:80 90", "shop/next:80 10", "1"];
    assert_eq!((&*tcp.label, shares(&tcp.backends)), ("TCPRoute/shop/r rule 0", expected.map(str::to_owned).into()));
    assert_eq!(outbound.rules[0].backends, tcp.backends);
    assert_eq!(outbound.backends().len(), 2, "their endpoints are sent as well");
    let told = &said(&world)["r"];
    assert!(told.contains("Accepted=True/Accepted") && told.contains("ResolvedRefs=False/BackendNotFound"), "{told}");
    assert!(told.contains("its share of connections is refused"), "{told}");
}

#[test]
fn a_tls_route_goes_by_the_name_that_clients_ask_for_and_by_nothing_else() {
    let tls =
        |name: &str, year, hosts: &str| route("TLSRoute", name, year, "", &format!("hostnames: [{hosts}], {NEXT}"));
    let world = world(&[
        tls("young", 2022, "api.example.com"),
        tls("old", 2021, "api.example.com, '*.example.org'"),
        tls("wide", 2020, "'*.example.com'"),
    ]);
    for (name, expected) in [
        ("api.example.com", Some("old")),
        ("a.example.org", Some("old")),
        ("web.example.com", Some("wide")),
        ("example.com", None),
        ("api", None),
    ] {
        assert_eq!(asked(&world, name), expected.map(|route| format!("TLSRoute/shop/{route} rule 0")), "{name}");
    }
    let outbound = outbound(&world, "shop", "api:80");
    assert_eq!(shares(&outbound.rules[0].backends), ["shop/api:80 1"], "requests are not the route's");
    assert!(outbound.tcp.is_none());
    assert!(world.reports.is_empty(), "{:?}", world.reports);
    assert!(said(&world).values().all(|told| told.starts_with("Accepted=True/Accepted")), "{:?}", said(&world));
}

#[test]
fn only_the_most_specific_kind_of_routes_on_a_port_counts_and_the_others_are_told() {
    let http = route("HTTPRoute", "http", 2022, ", port: 80", NEXT);
    let grpc = route("GRPCRoute", "grpc", 2023, ", port: 80", NEXT);
    let tls = route("TLSRoute", "tls", 2021, "", &format!("hostnames: [api.example.com], {NEXT}"));
    let tcp = route("TCPRoute", "tcp", 2020, "", NEXT);
    let all = [tcp, tls, http, grpc];
    // By how many of them there are: the name of the one that has port 80, and of the one that has port 90.
    for (count, first, second) in [(1, "tcp", "tcp"), (2, "tls", "tls"), (3, "http", "tls"), (4, "grpc", "tls")] {
        let world = world(&all[..count]);
        let has = |target: &str| {
            let outbound = outbound(&world, "shop", target);
            let rules = outbound.rules.iter().map(|rule| &rule.label);
            let labels = rules.chain(outbound.tls.iter().map(|rule| &rule.label)).filter(|label| !label.is_empty());
            labels.map(|label| label.split(['/', ' ']).nth(2).unwrap().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!((has("api:80"), has("api:90")), (vec![first.to_owned()], vec![second.to_owned()]), "{count}");
        let told = said(&world);
        for (name, text) in &told {
            let holds = [first, second].contains(&name.as_str());
            assert_eq!(text.starts_with("Accepted=True/Accepted"), holds, "{count} {name}: {text}");
            assert_eq!(text.starts_with("Accepted=False/Conflicted"), !holds, "{count} {name}: {text}");
        }
        if count > 2 {
            let text = &told["tls"];
            assert!(text.contains("PartiallyInvalid=True") && text.contains("has port 80 of the Service"), "{text}");
        }
    }
}

#[test]
fn of_tcp_routes_the_oldest_has_all_connections_and_the_others_are_told() {
    let spec = |port: u16| format!("rules: [{{ backendRefs: [{{ name: api, port: {port} }}] }}]");
    let world = world(&[
        route("TCPRoute", "young", 2022, "", &spec(90)),
        route("TCPRoute", "old", 2020, "", &spec(80)),
        route("TCPRoute", "between", 2021, "", &spec(90)),
    ]);
    let tcp = outbound(&world, "shop", "api:90").tcp.unwrap();
    assert_eq!(shares(&tcp.backends), ["shop/api:80 1"]);
    let told = said(&world);
    assert!(told["old"].starts_with("Accepted=True"), "{told:?}");
    for other in ["between", "young"] {
        assert!(told[other].starts_with("Accepted=False/Conflicted TCPRoute shop/old has port"), "{told:?}");
    }
}

#[test]
fn a_consumers_route_of_connections_stands_in_the_producers_place() {
    let producers = route("TCPRoute", "r", 2020, "", NEXT);
    let consumers = "apiVersion: gateway.networking.k8s.io/v1
kind: TCPRoute
metadata: { name: r, namespace: vault }
spec: { parentRefs: [{ group: '', kind: Service, name: api, namespace: shop }], rules: [{ backendRefs: [{ name: safe, port: 80 }] }] }
---
";
    let world = world(&[producers, consumers.to_owned()]);
    let of = |client: &str| shares(&outbound(&world, client, "api.shop:80").tcp.unwrap().backends);
    assert_eq!((of("shop"), of("vault")), (vec!["shop/next:80 1".to_owned()], vec!["vault/safe:80 1".to_owned()]));
    assert!(world.statuses.iter().all(|status| status.ours()["parents"][0]["conditions"][0]["status"] == "True"));
}

#[test]
fn a_route_of_connections_that_makes_no_sense_refuses_them() {
    let rule = "rules: [{ backendRefs: [{ name: next, port: 80 }] }]";
    for (kind, spec, problem) in [
        ("TCPRoute", "rules: []".to_owned(), "spec.rules: has 0 entries"),
        ("TCPRoute", "rules: [{ backendRefs: [] }]".to_owned(), "spec.rules[0].backendRefs: is empty"),
        ("TCPRoute", "rules: [{ backendRefs: [{ name: next, port: 80, wight: 1 }] }]".to_owned(), "wight"),
        ("TCPRoute", "rules: [{ matches: [], backendRefs: [{ name: next, port: 80 }] }]".to_owned(), "matches"),
        ("TLSRoute", rule.to_owned(), "spec.hostnames: is empty"),
        ("TLSRoute", format!("hostnames: [a.example.com, 10.0.0.1], {rule}"), "spec.hostnames[1]:"),
        ("TLSRoute", "hostnames: [a.example.com], rules: [{ backendRefs: [] }]".to_owned(), "backendRefs: is empty"),
    ] {
        let world = world(&[route(kind, "r", 2020, "", &spec)]);
        let outbound = outbound(&world, "shop", "api:80");
        let closed =
            outbound.tls.iter().map(|rule| &rule.backends).chain(outbound.tcp.as_ref().map(|rule| &rule.backends));
        let closed: Vec<_> = closed.flatten().map(|backend| backend.state).collect();
        assert_eq!(closed, [BackendRefState::Invalid], "{spec}");
        let told = &said(&world)["r"];
        assert!(told.contains(problem) && told.contains("it refuses connections"), "{spec}: {told}");
        assert!(told.starts_with("Accepted=False/UnsupportedValue"), "{told}");
        if spec.contains("a.example.com") {
            assert!(asked(&world, "a.example.com").is_some(), "it takes the connections that it can be seen to mean");
        }
    }
}

#[test]
fn the_example_says_what_its_readme_says() {
    let text = include_str!("../../../../examples/03-connections/routes.yaml");
    let world = Snapshot::build(parse(text, "routes.yaml").whole().unwrap(), &mesh());
    assert_eq!(world.reports, Vec::<String>::new());
    assert!(said(&world).values().all(|told| told.starts_with("Accepted=True")), "{:?}", said(&world));
    let tcp = outbound(&world, "shop", "db:6379").tcp.unwrap();
    assert_eq!(shares(&tcp.backends), ["shop/db:6379 90", "shop/db-next:6379 10"]);
    let tls = outbound(&world, "shop", "api:443").tls;
    let asked = |name: &str| bytes::select(&tls, name).map(|rule| tls[rule].backends[0].backend.to_string());
    for (name, expected) in [
        ("eu.api.shop.example", Some("shop/api-eu:443")),
        ("us.api.shop.example", Some("shop/api:443")),
        ("api.shop.example", Some("shop/api:443")),
        ("shop.example", None),
    ] {
        assert_eq!(asked(name).as_deref(), expected, "{name}");
    }
}
