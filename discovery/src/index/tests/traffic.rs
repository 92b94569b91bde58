//! RateLimitPolicies and FaultPolicies: where they hold, what becomes of what cannot be read, and what is said of it.

use super::*;
use remora_model::{AbortWith, Amount, By, Fault, Features, Rate, RateLimit, RequestMatch, Traffic};
use std::time::Duration;

const BAD: &str = include_str!("../../../../charts/tests/bad-traffic.yaml");
const MISSPELT: &str = include_str!("../../../../charts/tests/misspelt-traffic.yaml");
const GOOD: &str = include_str!("../../../../charts/tests/good-traffic.yaml");

const ALLOWED: &str = "---
apiVersion: v1
kind: Namespace
metadata: { name: shop, annotations: { remora.dev/fault-injection: allowed } }
";

fn policy(kind: &str, name: &str, spec: &str) -> String {
    let (namespace, name) = name.split_once('/').unwrap();
    format!(
        "---
apiVersion: remora.dev/v1alpha1
kind: {kind}
metadata: {{ name: {name}, namespace: {namespace} }}
spec: {{ {spec} }}
"
    )
}

fn limits(name: &str, spec: &str) -> String {
    policy("RateLimitPolicy", name, spec)
}

fn faults(name: &str, spec: &str) -> String {
    policy("FaultPolicy", name, spec)
}

fn world(policies: &[String]) -> Snapshot {
    with(policies.concat().trim_start_matches("---\n"))
}

/// What holds for a port of a pod.
fn traffic(world: &Snapshot, pod: &str, port: u16) -> Traffic {
    world.inbound("shop", pod, port).unwrap().traffic
}

/// The names of the limits there.
fn names(world: &Snapshot, pod: &str, port: u16) -> Vec<String> {
    traffic(world, pod, port).limits.iter().map(|limit| limit.name.to_string()).collect()
}

/// What is said of a policy: `Accepted=True/Accepted`, and the message.
fn said(world: &Snapshot, name: &str) -> Vec<(String, String)> {
    let status = world.statuses.iter().find(|status| status.name == name).unwrap();
    let status = status.to_write("2026-11-30T00:00:00Z").unwrap();
    let word = |one: &serde_json::Value, field: &str| one[field].as_str().unwrap().to_owned();
    let shown = |c: &serde_json::Value| {
        (format!("{}={}/{}", word(c, "type"), word(c, "status"), word(c, "reason")), word(c, "message"))
    };
    status["conditions"].as_array().unwrap().iter().map(shown).collect()
}

#[test]
fn a_limit_holds_for_its_port_service_pods_namespace_or_mesh() {
    let held = |name: &str, targets: &str| {
        let world = world(&[limits(name, &format!("{targets}limits: [{{ requests: {{ perSecond: 5 }} }}]"))]);
        let has = |pod, port| !traffic(&world, pod, port).limits.is_empty();
        assert!(world.reports.is_empty(), "{:?}", world.reports);
        // 8000 is the port of both of the Service's; 9000 of none.
        (has("api-1", 8000), has("api-1", 9000), has("bare", 8000))
    };
    let service = "targetRefs: [{ kind: Service, name: api }], ";
    assert_eq!(held("shop/p", "targetRefs: [{ kind: Service, name: api, sectionName: main }], "), (true, false, true));
    assert_eq!(held("shop/p", service), (true, false, true));
    assert_eq!(held("shop/p", "targetRefs: [{ kind: Pod, name: api-1 }], "), (true, true, false));
    assert_eq!(held("shop/p", "selector: { matchLabels: { app: api } }, "), (true, true, true));
    assert_eq!(held("shop/p", ""), (true, true, true));
    assert_eq!(held("remora/p", ""), (true, true, true), "the control plane's namespace is the mesh");
    assert_eq!(held("other/p", ""), (false, false, false));
    let world = world(&[limits("shop/p", "limits: [{ requests: { perSecond: 5 } }]")]);
    let default = world.inbound_default("shop", "api-1").unwrap().inbound.traffic;
    assert_eq!(default.limits.len(), 1, "ports that nobody declares");
}

#[test]
fn every_word_of_a_limit_means_what_it_says() {
    let spec = "mode: DryRun, limits: [
        { by: { type: Identity }, requests: { perMinute: 60, burst: 5 }, overrides: [{ serviceAccounts: [shop/web], requests: { perSecond: 9 } }] },
        { match: { methods: [POST], paths: [/a/*], headers: [{ name: X-Tier, value: free }] }, by: { type: Header, header: { name: X-User } }, requests: { perSecond: 2 } },
        { by: { type: ClientAddress }, connections: { perSecond: 3 } },
        { bytes: { perSecond: 1000, burst: 7 } }]";
    let world = world(&[limits("shop/p", spec)]);
    let read = traffic(&world, "api-1", 8000).limits;
    let rate = |count, seconds, burst| Rate { count, interval: Duration::from_secs(seconds), burst };
    let shown: Vec<_> = read.iter().map(|limit| (limit.of, limit.rate, limit.dry_run)).collect();
    let expected = [
        (Amount::Requests, rate(60, 60, 5), true),
        (Amount::Requests, rate(2, 1, 2), true),
        (Amount::Connections, rate(3, 1, 3), true),
        (Amount::Bytes, rate(1000, 1, 7), true),
    ];
    assert_eq!(shown, expected);
    let by: Vec<&By> = read.iter().map(|limit| &limit.by).collect();
    assert_eq!(by, [&By::Identity, &By::Header("x-user".parse().unwrap()), &By::ClientAddress, &By::Target]);
    let own = &read[0].overrides[0];
    assert_eq!((own.identities[0].as_str(), own.rate), ("spiffe://cluster.local/ns/shop/sa/web", rate(9, 1, 9)));
    let RequestMatch { methods, paths, headers, .. } = &read[1].only;
    assert_eq!((methods.len(), paths[0].to_string(), headers[0].0.as_str()), (1, "/a/*".to_owned(), "x-tier"));
    assert_eq!(said(&world, "p")[1].0, "Programmed=True/Programmed");
}

#[test]
fn all_limits_of_all_policies_hold_the_most_specific_first() {
    let one = "limits: [{ requests: { perSecond: 5 } }]";
    let all = [
        limits("remora/mesh", one),
        limits("shop/all", one),
        limits("shop/api", &format!("targetRefs: [{{ kind: Service, name: api }}], {one}")),
        limits("shop/again", one),
    ];
    let held = names(&world(&all), "api-1", 8000);
    assert_eq!(held, ["shop/api limit 0", "shop/again limit 0", "shop/all limit 0", "remora/mesh limit 0"]);
}

#[test]
fn a_limit_that_cannot_be_read_does_not_hold_and_those_beside_it_do() {
    let two = "limits: [{ requests: { perSecond: 0 } }, { requests: { perSecond: 5 } }]";
    let partly = world(&[limits("shop/p", two)]);
    assert_eq!(names(&partly, "api-1", 8000), ["shop/p limit 1"]);
    let told = said(&partly, "p");
    let conditions: Vec<&str> = told.iter().map(|(shown, _)| shown.as_str()).collect();
    assert_eq!(
        conditions,
        ["Accepted=True/Accepted", "Programmed=True/PartiallyProgrammed", "PartiallyInvalid=True/Invalid"]
    );
    assert!(told[2].1.starts_with("spec.limits[0].requests.perSecond: 0 is not from 1"), "{told:?}");
    let wholly = world(&[limits("shop/p", "limits: [{ requests: { perSecond: 0 } }]")]);
    assert_eq!((names(&wholly, "api-1", 8000).len(), said(&wholly, "p")[0].0.as_str()), (0, "Accepted=False/Invalid"));
    // Whom a misspelt target means is not known: everybody would be.
    let target =
        world(&[limits("shop/p", "targetRef: { kind: Service, name: api }, limits: [{ requests: { perSecond: 5 } }]")]);
    assert!(names(&target, "bare", 9000).is_empty() && target.reports.len() == 1, "{:?}", target.reports);
}

#[test]
fn a_target_that_is_not_there_is_told_and_limits_nothing_else() {
    for (target, reason) in [
        ("{ kind: Service, name: apy }", "Service shop/apy is not there; it holds once it is"),
        ("{ kind: Service, name: api, sectionName: mian }", "; until it has, it holds for nothing"),
    ] {
        let world = world(&[limits(
            "shop/p",
            &format!("targetRefs: [{target}], limits: [{{ requests: {{ perSecond: 5 }} }}]"),
        )]);
        assert!(names(&world, "api-1", 8000).is_empty());
        let (condition, message) = said(&world, "p").remove(0);
        assert_eq!(condition, "Accepted=False/TargetNotFound");
        assert!(message.ends_with(reason), "{message}");
    }
}

#[test]
fn a_fault_happens_only_where_its_namespace_allows_it() {
    let fault = faults(
        "shop/p",
        "faults: [{ delay: { duration: 200ms, percent: 0.5 } }, { abort: { grpcStatus: unavailable } }]",
    );
    let refused = world(std::slice::from_ref(&fault));
    assert!(traffic(&refused, "api-1", 8000).faults.is_empty());
    let (condition, message) = said(&refused, "p").remove(0);
    assert_eq!(condition, "Accepted=False/Invalid");
    assert!(message.contains("namespace shop does not allow faults"), "{message}");
    let allowed = world(&[fault.clone(), ALLOWED.to_owned()]);
    let happens: Vec<Fault> = traffic(&allowed, "api-1", 8000).faults;
    assert_eq!((happens[0].delay, happens[0].abort), (Some((5_000, Duration::from_millis(200))), None));
    assert_eq!((happens[1].delay, happens[1].abort), (None, Some((1_000_000, AbortWith::Grpc(14)))));
    assert_eq!(said(&allowed, "p")[0].0, "Accepted=True/Accepted");
    let by_label = ALLOWED.replace("annotations", "labels");
    assert_eq!(traffic(&world(&[fault.clone(), by_label]), "api-1", 8000).faults.len(), 2);
    let other = world(&[fault, ALLOWED.replace("allowed }", "maybe }")]);
    assert!(traffic(&other, "api-1", 8000).faults.is_empty());
    assert!(other.reports.iter().any(|line| line.contains("\"maybe\" is not \"allowed\"")), "{:?}", other.reports);
}

#[test]
fn a_fault_of_the_mesh_happens_in_namespaces_that_allow_it_alone() {
    let fault = faults("remora/p", "faults: [{ abort: { reset: true } }]");
    assert!(traffic(&world(std::slice::from_ref(&fault)), "api-1", 8000).faults.is_empty());
    let world = world(&[fault, faults("shop/own", "faults: [{ abort: { httpStatus: 500 } }]"), ALLOWED.to_owned()]);
    let held: Vec<String> = traffic(&world, "api-1", 8000).faults.iter().map(|fault| fault.name.to_string()).collect();
    assert_eq!(held, ["shop/own fault 0", "remora/p fault 0"], "the most specific first");
    assert!(said(&world, "p")[0].1.starts_with("holds in namespaces that allow faults"));
}

#[test]
fn more_limits_than_a_port_may_have_are_told() {
    let limit = "{ requests: { perSecond: 5 } }";
    let many = format!("limits: [{}]", [limit; 16].join(", "));
    let all: Vec<String> = (0..5).map(|number| limits(&format!("shop/p{number}"), &many)).collect();
    let world = world(&all);
    assert_eq!(names(&world, "api-1", 8000).len(), 64);
    assert!(
        world.reports.iter().any(|line| line.contains("namespace shop: has 80 rate limits")),
        "{:?}",
        world.reports
    );
    let one_more = format!("limits: [{}]", [limit; 17].join(", "));
    let world = self::world(&[limits("shop/p", &one_more)]);
    assert!(world.reports[0].contains("spec.limits[16]: is one of more than 16"), "{:?}", world.reports);
}

#[test]
fn a_proxy_that_cannot_carry_it_out_is_sent_none() {
    let world = world(&[limits("shop/p", "limits: [{ requests: { perSecond: 5 } }]")]);
    let inbound = world.inbound("shop", "api-1", 8000).unwrap();
    let (less, closed) = inbound.within(Features::unnamed());
    let limits: &[RateLimit] = &less.traffic.limits;
    assert!(limits.is_empty() && !less.default_deny && closed.len() == 1, "{closed:?}");
}

/// What is said of one manifest, as a file and as an object.
fn told(manifest: &str) -> Vec<String> {
    let parsed = parse(manifest, "test.yaml");
    let mut told: Vec<String> = parsed.mistakes.iter().map(ToString::to_string).collect();
    told.extend(Snapshot::build(parsed.objects, &mesh()).reports);
    told.retain(|line| !line.contains("is not there") && !line.contains("does not allow faults"));
    told
}

fn documents(text: &str) -> impl Iterator<Item = &str> {
    text.split("---\n").filter(|text| text.contains("kind:"))
}

#[test]
fn what_the_crds_refuse_or_do_not_know_is_refused_in_a_directory_too_and_does_nothing() {
    assert!(documents(BAD).count() > 40 && documents(MISSPELT).count() > 10);
    for manifest in documents(BAD).chain(documents(MISSPELT)) {
        assert!(!told(manifest).is_empty(), "{manifest}");
        let in_shop = manifest.replace("name: bad", "name: bad, namespace: shop").replace("name: a}", "name: api}");
        let parsed = parse(&format!("{WORLD}{ALLOWED}---\n{in_shop}"), "test.yaml");
        let world = Snapshot::build(parsed.objects, &mesh());
        assert_eq!(traffic(&world, "api-1", 8000), Traffic::default(), "{manifest}");
    }
    assert_eq!(told(GOOD), Vec::<String>::new());
}
