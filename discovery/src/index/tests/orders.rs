//! Any order of changes gives what a build from nothing gives, object for object: all that proxies may ask for, all that is
//! said to people. By chance, from a seed; `REMORA_SEED` gives another, `REMORA_ORDERS` more orders.

use super::*;
use std::collections::BTreeSet;

/// Orders tried, and changes in each.
const ORDERS: u64 = 30;
const CHANGES: usize = 60;

/// xorshift64*.
struct Chance(u64);

impl Chance {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        usize::try_from(self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33).unwrap() % end
    }

    fn of<'a>(&mut self, all: &[&'a str]) -> &'a str {
        all[self.below(all.len())]
    }
}

/// Some object of few names, so that changes meet: the same name, address, label and Service again and again.
fn some(chance: &mut Chance, line: usize) -> Object {
    let text = match chance.below(15) {
        0..=3 => pod(chance),
        4 => service(chance),
        5 | 6 => slice(chance),
        7 => route(chance),
        8 => policy(chance),
        9 => mode(chance),
        10 => settings(chance),
        11 => grant(chance),
        12 => limits(chance),
        13 => faults(chance),
        _ => cluster(chance),
    };
    let mut object = parse(&text, "a.yaml").whole().unwrap_or_else(|e| panic!("{text}: {e:?}")).remove(0);
    // In the API, or in a file: there one name may be given more than once.
    match &mut object {
        Object::Pod(pod) => Arc::make_mut(pod).metadata.origin.line = line % 2,
        Object::Service(service) => Arc::make_mut(service).metadata.origin.line = line % 2,
        Object::AuthorizationPolicy(policy) => Arc::make_mut(policy).metadata.origin.line = line % 2,
        _ => {}
    }
    object
}

fn meta(chance: &mut Chance, names: &[&str], more: &str) -> String {
    format!("metadata: {{ name: {}, namespace: {}{more} }}", chance.of(names), chance.of(&["shop", "other", "remora"]))
}

fn pod(chance: &mut Chance) -> String {
    let labels = format!(", labels: {{ app: {}, tier: {} }}", chance.of(&["a", "b"]), chance.of(&["t1", "t2"]));
    let annotations = chance.of(&[
        "",
        ", annotations: { remora.dev/injected: 'true' }",
        ", annotations: { remora.dev/opaque-ports: '8080' }",
    ]);
    let terminating = chance.of(&["", "", ", deletionTimestamp: '2026-01-01T00:00:00Z'"]);
    let uid = chance.of(&["", ", uid: u1", ", uid: u2"]);
    let meta = meta(chance, &["p1", "p2", "p3", "p4"], &format!("{labels}{annotations}{terminating}{uid}"));
    let (ip, node) =
        (chance.of(&["", "podIP: 10.1.0.1", "podIP: 10.1.0.2", "podIP: 10.1.0.3"]), chance.of(&["n1", "n2"]));
    let port = chance.of(&["8080", "9090"]);
    let host = chance.of(&["", "", "", "hostNetwork: true, "]);
    let ready = chance.of(&["", ", conditions: [{ type: Ready, status: 'False' }]"]);
    let status = if ip.is_empty() { "{}".to_owned() } else { format!("{{ {ip}{ready} }}") };
    format!(
        "apiVersion: v1\nkind: Pod\n{meta}\nspec: {{ {host}nodeName: {node}, serviceAccountName: web, containers: [{{ ports: [{{ name: web, containerPort: {port} }}] }}] }}\nstatus: {status}\n"
    )
}

fn service(chance: &mut Chance) -> String {
    let annotations = chance.of(&["", ", annotations: { remora.dev/opaque-ports: '80' }"]);
    let meta = meta(chance, &["s1", "s2"], annotations);
    let ip = chance.of(&[
        "clusterIP: None, ",
        "clusterIP: 10.0.0.1, ",
        "clusterIP: 10.0.0.2, ",
        "clusterIP: nonsense, ",
        "",
    ]);
    let kind = chance.of(&["", "", "type: ExternalName, "]);
    let selector = chance.of(&["{ app: a }", "{ app: b }", "{ app: a, tier: t1 }", "{}"]);
    let target = chance.of(&["", ", targetPort: 8080", ", targetPort: web"]);
    let more = chance.of(&["", ", { name: other, port: 81, appProtocol: grpc }"]);
    format!(
        "apiVersion: v1\nkind: Service\n{meta}\nspec: {{ {ip}{kind}selector: {selector}, ports: [{{ name: main, port: 80{target} }}{more}] }}\n"
    )
}

fn slice(chance: &mut Chance) -> String {
    let of = format!(", labels: {{ kubernetes.io/service-name: {} }}", chance.of(&["s1", "s2"]));
    let meta = meta(chance, &["e1", "e2"], &of);
    let pod = format!(
        "targetRef: {{ kind: Pod, name: {}{} }}",
        chance.of(&["p1", "p2", "p3"]),
        chance.of(&["", ", uid: u1"])
    );
    let target = chance.of(&["", &pod]).to_owned();
    let (ip, ready) = (chance.of(&["10.1.0.1", "10.1.0.2", "10.9.0.1"]), chance.of(&["true", "false"]));
    let rest = if target.is_empty() { String::new() } else { format!(", {target}") };
    format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n{meta}\nports: [{{ name: main, port: 8080 }}]\nendpoints: [{{ addresses: [{ip}], conditions: {{ ready: {ready} }}{rest} }}]\n"
    )
}

fn route(chance: &mut Chance) -> String {
    let kind = chance.of(&["HTTPRoute", "HTTPRoute", "GRPCRoute", "TLSRoute", "TCPRoute"]);
    let hostnames = if kind == "TLSRoute" { "hostnames: [a.example], " } else { "" };
    let made =
        chance.of(&["", ", creationTimestamp: '2026-01-01T00:00:00Z'", ", creationTimestamp: '2026-01-02T00:00:00Z'"]);
    let meta = meta(chance, &["r1", "r2"], made);
    let (parent, namespace) = (chance.of(&["s1", "s2"]), chance.of(&["", ", namespace: shop"]));
    let port = chance.of(&["", ", port: 80", ", sectionName: other"]);
    let (to, within) = (chance.of(&["s1", "s2", "gone"]), chance.of(&["", ", namespace: other"]));
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: {kind}\n{meta}\nspec: {{ parentRefs: [{{ group: '', kind: Service, name: {parent}{namespace}{port} }}], {hostnames}rules: [{{ backendRefs: [{{ name: {to}, port: 80{within} }}] }}] }}\n"
    )
}

fn targets(chance: &mut Chance) -> &'static str {
    chance.of(&[
        "",
        "targetRefs: [{ kind: Service, name: s1 }], ",
        "targetRefs: [{ kind: Pod, name: p1 }, { kind: Service, name: s2 }], ",
        "targetRefs: [{ kind: Service, name: s1, sectionName: main }, { kind: Service, name: s2, sectionName: other }], ",
        "targetRefs: [{ kind: Namespace, name: shop }], ",
        "selector: { matchLabels: { app: a } }, ",
    ])
}

fn policy(chance: &mut Chance) -> String {
    let meta = meta(chance, &["a1", "a2"], "");
    let targets = targets(chance);
    let selector =
        if targets.contains("selector") { "" } else { chance.of(&["", "selector: { matchLabels: { app: b } }, "]) };
    let rule = chance.of(&[
        "action: Allow, rules: [{ from: [{ namespaces: [shop] }] }]",
        "action: Deny, rules: [{ from: [{ namespaces: [shop] }], unidentified: Ignore }]",
        "action: Deny, rules: [{}]",
    ]);
    format!(
        "apiVersion: remora.dev/v1alpha1\nkind: AuthorizationPolicy\n{meta}\nspec: {{ {targets}{selector}{rule} }}\n"
    )
}

fn mode(chance: &mut Chance) -> String {
    let meta = meta(chance, &["m1", "m2"], "");
    format!(
        "apiVersion: remora.dev/v1alpha1\nkind: MeshTLSPolicy\n{meta}\nspec: {{ {}mode: {} }}\n",
        targets(chance),
        chance.of(&["Strict", "Permissive"])
    )
}

fn settings(chance: &mut Chance) -> String {
    let made = chance.of(&["", ", creationTimestamp: '2026-01-01T00:00:00Z'"]);
    let meta = meta(chance, &["b1", "b2"], made);
    format!(
        "apiVersion: remora.dev/v1alpha1\nkind: BackendPolicy\n{meta}\nspec: {{ targetRefs: [{{ {} }}], pendingMax: {}, loadBalancer: {{ type: {} }} }}\n",
        chance.of(&[
            "kind: Service, name: s1",
            "kind: Service, name: s2",
            "kind: Service, name: s1, sectionName: main",
            "kind: Namespace, name: shop",
            "kind: Namespace, name: remora",
        ]),
        chance.of(&["1", "2"]),
        chance.of(&["RoundRobin", "ConsistentHash, consistentHash: { type: SourceIP }", "Typo"])
    )
}

fn limits(chance: &mut Chance) -> String {
    let meta = meta(chance, &["l1", "l2"], "");
    format!(
        "apiVersion: remora.dev/v1alpha1\nkind: RateLimitPolicy\n{meta}\nspec: {{ {}mode: {}, limits: [{{ {} }}, {{ requests: {{ perMinute: {} }} }}] }}\n",
        targets(chance),
        chance.of(&["Enforce", "DryRun"]),
        chance.of(&["requests: { perSecond: 1 }", "by: { type: Identity }, connections: { perSecond: 2 }", "typo: 1"]),
        chance.of(&["0", "5"])
    )
}

fn faults(chance: &mut Chance) -> String {
    let meta = meta(chance, &["f1", "f2"], "");
    format!(
        "apiVersion: remora.dev/v1alpha1\nkind: FaultPolicy\n{meta}\nspec: {{ {}faults: [{{ {} }}] }}\n",
        targets(chance),
        chance.of(&["delay: { duration: 1s }", "abort: { httpStatus: 503, percent: 1 }", "abort: { reset: false }"])
    )
}

fn grant(chance: &mut Chance) -> String {
    let meta = meta(chance, &["g1"], "");
    format!(
        "apiVersion: gateway.networking.k8s.io/v1beta1\nkind: ReferenceGrant\n{meta}\nspec: {{ from: [{{ group: gateway.networking.k8s.io, kind: {}, namespace: shop }}], to: [{{ kind: Service }}] }}\n",
        chance.of(&["HTTPRoute", "GRPCRoute"])
    )
}

fn revoked(chance: &mut Chance) -> String {
    let made = chance.of(&["", ", creationTimestamp: '2026-01-01T00:00:00Z'"]);
    let meta = meta(chance, &["v1", "v2"], made);
    let spec = chance.of(&["serial: '4f'", "serial: '50', until: never", "pod: { namespace: shop, name: p1 }", ""]);
    format!("apiVersion: remora.dev/v1alpha1\nkind: RevokedIdentity\n{meta}\nspec: {{ {spec} }}\n")
}

fn cluster(chance: &mut Chance) -> String {
    match chance.below(5) {
        4 => revoked(chance),
        0 => format!(
            "apiVersion: v1\nkind: Namespace\nmetadata: {{ name: {}{} }}\n",
            chance.of(&["shop", "other"]),
            chance.of(&[
                "",
                ", annotations: { remora.dev/opaque-ports: '9090' }",
                ", annotations: { remora.dev/opaque-ports: x }",
                ", annotations: { remora.dev/log-level: debug, remora.dev/unknown: deny }",
                ", annotations: { remora.dev/log-level: '=,=' }",
                ", annotations: { remora.dev/fault-injection: allowed }",
                ", labels: { remora.dev/fault-injection: maybe }"
            ])
        ),
        1 => format!(
            "apiVersion: v1\nkind: Node\nmetadata: {{ name: {}{} }}\nspec: {{ podCIDR: {} }}\n",
            chance.of(&["n1", "n2"]),
            chance.of(&["", ", labels: { topology.kubernetes.io/zone: z }"]),
            chance.of(&["10.1.0.0/31", "10.1.0.0/24", "nonsense"])
        ),
        2 => format!(
            "apiVersion: gateway.networking.x-k8s.io/v1alpha1\nkind: XMesh\nmetadata: {{ name: {} }}\nspec: {{ controllerName: {}{} }}\n",
            chance.of(&["m1", "m2"]),
            chance.of(&["remora.dev/discovery", "example.com/mesh"]),
            chance.of(&["", ", parametersRef: { group: '', kind: ConfigMap, name: c }"])
        ),
        _ => format!(
            "apiVersion: networking.k8s.io/v1\nkind: ServiceCIDR\nmetadata: {{ name: c }}\nspec: {{ cidrs: [{}] }}\n",
            chance.of(&["10.0.0.0/24", "10.0.0.0/32"])
        ),
    }
}

/// All that proxies may ask for.
fn questions() -> Vec<Asked> {
    let mut all = vec![Asked::Networks, Asked::Revocations];
    let names = ["s1", "s1.shop", "s2.other", "p1.s1.shop", "s1.shop.svc.cluster.local", "x.remora"];
    let hosts = names.iter().map(|host| (*host).to_owned());
    let hosts =
        hosts.chain(["10.0.0.1", "10.0.0.2", "10.1.0.1", "10.1.0.2", "10.1.0.3", "10.9.0.1"].map(str::to_owned));
    for host in hosts {
        for namespace in ["shop", "other"] {
            let target = |port: u16| Asked::Outbound(namespace.to_owned(), format!("{host}:{port}").parse().unwrap());
            all.extend([80, 81, 8080].map(target));
        }
    }
    for namespace in ["shop", "other", "remora"] {
        let key = |name: &str| (namespace.to_owned(), name.to_owned());
        for service in ["s1", "s2"] {
            all.extend([80, 81].map(|port| Asked::Backend(backend_id(&key(service), port))));
        }
        for pod in ["p1", "p2", "p3", "p4"] {
            all.push(Asked::Backend(pod_backend(&key(pod), 8080)));
            all.extend([80, 8080].map(|port| Asked::Inbound(key(pod), port)));
            all.push(Asked::InboundDefault(key(pod)));
            let address = Some("10.1.0.1".parse().unwrap());
            all.push(Asked::Own { pod: key(pod), account: "web".to_owned(), address });
        }
    }
    all
}

/// Where an object stands: one place holds one.
fn place(object: &Object) -> (&'static str, String, String, usize) {
    let meta = object.metadata();
    (object.kind(), meta.namespace.clone(), meta.name.clone(), meta.origin.line)
}

/// Changes of a world, each of which it is told, while proxies ask, and cease to.
fn try_one(seed: u64) {
    let mut chance = Chance(seed);
    let (mut world, mut there) = (World::new(mesh()), BTreeMap::new());
    let mut answers: BTreeMap<Asked, Answer> = BTreeMap::new();
    let questions = questions();
    for step in 0..CHANGES {
        let mut changes = Vec::new();
        for _ in 0..=chance.below(3) {
            if chance.below(3) == 0 && !there.is_empty() {
                let at = chance.below(there.len());
                let place = there.keys().nth(at).cloned().unwrap();
                changes.extend(there.remove(&place).map(Change::Gone));
            } else {
                let object = some(&mut chance, step);
                there.insert(place(&object), object.clone());
                changes.push(Change::Put(object));
            }
        }
        world.apply(changes, &mut |asked, answer| drop(answers.insert(asked.clone(), answer)));
        for _ in 0..10 {
            let asked = &questions[chance.below(questions.len())];
            if chance.below(4) == 0 {
                world.forget(&Arc::new(asked.clone()));
                answers.remove(asked);
            } else {
                answers.insert(asked.clone(), world.ask(&Arc::new(asked.clone())));
            }
        }
        if chance.below(4) == 0 {
            world.settle();
        }
    }
    let whole = Snapshot::build(there.into_values().collect(), &mesh());
    for (asked, answer) in &answers {
        assert_eq!(*answer, whole.world.facts.answer(asked), "seed {seed}: {asked:?} was not told");
    }
    for asked in &questions {
        assert_eq!(world.facts.answer(asked), whole.world.facts.answer(asked), "seed {seed}: {asked:?}");
    }
    let grown = Snapshot::of(world);
    let lines = |all: &[String]| all.iter().cloned().collect::<BTreeSet<_>>();
    assert_eq!(lines(&grown.reports), lines(&whole.reports), "seed {seed}");
    assert_eq!(lines(&grown.unseen), lines(&whole.unseen), "seed {seed}");
    assert_eq!(grown.statuses, whole.statuses, "seed {seed}");
    assert_eq!(grown.world.counts(), whole.world.counts(), "seed {seed}");
}

#[test]
fn any_order_of_changes_gives_what_a_build_from_nothing_gives() {
    let read = |name: &str, default: u64| match std::env::var_os(name) {
        Some(text) => text.to_str().and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("{name}={text:?}")),
        None => default,
    };
    let (seed, orders) = (read("REMORA_SEED", 1), read("REMORA_ORDERS", ORDERS));
    for order in 0..orders {
        try_one((seed + order).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
    }
    println!("{orders} orders of {CHANGES} sets of changes each, from seed {seed}");
}
