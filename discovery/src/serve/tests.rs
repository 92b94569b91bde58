use super::{
    Hub,
    resource::PREFIX_BYTES,
    subscriber::{Next, Subscriber},
};
use crate::{
    index::{Change, Mesh},
    objects::Object,
    source::parse::parse,
};
use futures_util::FutureExt as _;
use prost::Message as _;
use remora_api::{
    convert,
    sync::{Name, Resource, Update, request},
    v1::{Hello, SyncResponse},
};
use remora_model::{AuthorizationRule, Feature, Features, LoadBalancer, ProxySettings, Rule, Setting, SpiffeId};
use std::cell::RefCell;

/// A hub, and what it knows.
struct Known(Hub, RefCell<Vec<Object>>);

impl Known {
    fn new() -> Self {
        Self::with(&[])
    }

    /// In a cluster of these ranges.
    fn with(ranges: &[&str]) -> Self {
        let networks = ranges.iter().map(|range| range.parse().unwrap()).collect();
        Self(Hub::new(Mesh { networks, ..Mesh::default() }), RefCell::default())
    }

    /// From now on there is this.
    fn turn_into(&self, objects: Vec<Object>) {
        let before = self.1.replace(objects.clone());
        let gone = before.iter().filter(|object| !objects.contains(object)).cloned().map(Change::Gone);
        let put = objects.iter().filter(|object| !before.contains(object)).cloned().map(Change::Put);
        self.0.apply(gone.chain(put).collect::<Vec<_>>());
    }

    fn subscriber(&self, hello: Hello) -> Subscriber {
        let mut subscriber = Subscriber::new(hello, self.0.clone(), None, Default::default()).unwrap();
        subscriber.prove();
        subscriber
    }
}

fn world(pods: u8) -> Vec<Object> {
    let mut text = "apiVersion: v1
kind: Service
metadata: { name: api, namespace: shop }
spec: { clusterIP: 10.0.0.1, selector: { app: api }, ports: [{ port: 80 }, { port: 81 }] }
"
    .to_owned();
    for pod in 1..=pods {
        text += &format!(
            "---
apiVersion: v1
kind: Pod
metadata: {{ name: api-{pod}, namespace: shop, labels: {{ app: api }} }}
status: {{ podIP: 10.1.0.{pod} }}
"
        );
    }
    parse(&text, "world").whole().unwrap()
}

fn hello() -> Hello {
    Hello { namespace: "shop".into(), pod: "web-1".into(), service_account: "web".into(), ..Hello::default() }
}

/// All that the proxy is told, but for the cluster's ranges and the revoked, once there is `objects`.
fn told(proxy: &mut Subscriber, known: &Known, objects: Vec<Object>) -> Vec<Update> {
    let mut told = all(proxy, known, objects);
    told.retain(|update| !matches!(update, Update::Networks(_) | Update::Revocations { .. }));
    told
}

/// The same with the cluster's ranges.
fn all(proxy: &mut Subscriber, known: &Known, objects: Vec<Object>) -> Vec<Update> {
    known.turn_into(objects);
    let mut told = Vec::new();
    loop {
        match proxy.next() {
            Next::Tell(response) => {
                told.push(SyncResponse::decode(response.slice(PREFIX_BYTES..)).unwrap().try_into().unwrap())
            }
            Next::Later => {}
            Next::Nothing => return told,
        }
    }
}

fn api() -> Name {
    Name::Outbound("api:80".parse().unwrap())
}

#[test]
fn backends_come_before_the_target_and_then_only_deltas() {
    let known = Known::new();
    let mut proxy = known.subscriber(hello());
    proxy.take(request::subscribe(&api())).unwrap();
    let first = told(&mut proxy, &known, world(5));
    let [
        Update::Whole { resource: Resource::Backend(held), version, .. },
        Update::Whole { resource: Resource::Outbound(_), .. },
    ] = first.as_slice()
    else {
        panic!("{first:?}")
    };
    assert!(told(&mut proxy, &known, world(5)).is_empty(), "nothing changed");
    let next = told(&mut proxy, &known, world(6));
    let [Update::Delta(delta)] = next.as_slice() else { panic!("{next:?}") };
    assert_eq!(delta.apply(held, *version).unwrap().endpoints.len(), 6);

    let name: remora_api::v1::ResourceName = (&Name::Backend(held.id.clone())).into();
    proxy.take(request::nack(name.clone(), delta.version, "no".into())).unwrap();
    let whole = told(&mut proxy, &known, world(6));
    let [Update::Whole { resource: Resource::Backend(_), version, .. }] = whole.as_slice() else { panic!("{whole:?}") };
    proxy.take(request::nack(name, *version, "no".into())).unwrap();
    assert!(told(&mut proxy, &known, world(6)).is_empty(), "there is nothing better to send");
    let changed = told(&mut proxy, &known, world(7));
    assert!(matches!(changed.as_slice(), [Update::Whole { .. }]), "no delta to what was refused: {changed:?}");
}

#[test]
fn a_change_wakes_those_whom_it_concerns_and_is_encoded_once_for_all() {
    let known = Known::new();
    let (mut one, mut other, mut nobody) =
        (known.subscriber(hello()), known.subscriber(hello()), known.subscriber(hello()));
    for proxy in [&mut one, &mut other] {
        proxy.take(request::subscribe(&api())).unwrap();
    }
    nobody.take(request::subscribe(&Name::Outbound("else:80".parse().unwrap()))).unwrap();
    for proxy in [&mut one, &mut other, &mut nobody] {
        all(proxy, &known, world(5));
    }
    known.turn_into(world(6));
    let (Next::Tell(first), Next::Tell(second)) = (one.next(), other.next()) else { panic!("nothing to tell") };
    assert!(std::ptr::eq(first.as_ptr(), second.as_ptr()), "the same bytes in the same place");
    assert!(nobody.mailbox.take().next().is_none(), "it is not even woken");
}

#[test]
fn who_is_gone_is_forgotten() {
    let known = Known::new();
    let mut proxy = known.subscriber(hello());
    proxy.take(request::subscribe(&api())).unwrap();
    told(&mut proxy, &known, world(3));
    assert_eq!(known.0.asked(), 4, "the target, its backend, the ranges, its own pod");
    proxy.take(request::unsubscribe(&api())).unwrap();
    told(&mut proxy, &known, world(3));
    assert_eq!(known.0.asked(), 2);
    drop(proxy);
    assert_eq!(known.0.asked(), 0);
}

#[test]
fn a_new_subscription_is_looked_at_alone() {
    let snapshot = world(3);
    let known = Known::new();
    let mut proxy = known.subscriber(hello());
    proxy.take(request::subscribe(&api())).unwrap();
    told(&mut proxy, &known, snapshot.clone());
    proxy.take(request::subscribe(&Name::Outbound("api:81".parse().unwrap()))).unwrap();
    assert_eq!(told(&mut proxy, &known, snapshot.clone()).len(), 2, "the target and its backend");
}

#[test]
fn a_target_asked_for_again_is_told_whole_with_its_backends() {
    let snapshot = world(3);
    let known = Known::new();
    let mut proxy = known.subscriber(hello());
    proxy.take(request::subscribe(&api())).unwrap();
    told(&mut proxy, &known, snapshot.clone());
    proxy.take(request::unsubscribe(&api())).unwrap();
    proxy.take(request::subscribe(&api())).unwrap();
    let again = told(&mut proxy, &known, snapshot.clone());
    assert!(again.len() == 2 && again.iter().all(|update| matches!(update, Update::Whole { .. })), "{again:?}");
}

/// `api:80` with a route of it to another of its ports.
fn routed(port: u16) -> Vec<Object> {
    let text = format!(
        "apiVersion: v1
kind: Service
metadata: {{ name: api, namespace: shop }}
spec: {{ clusterIP: 10.0.0.1, selector: {{ app: api }}, ports: [{{ port: 80 }}, {{ port: 81 }}, {{ port: 82 }}] }}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{ name: r, namespace: shop }}
spec:
  parentRefs: [{{ group: '', kind: Service, name: api, port: 80 }}]
  rules: [{{ backendRefs: [{{ name: api, port: {port} }}] }}]
"
    );
    parse(&text, "world").whole().unwrap()
}

#[test]
fn a_backend_that_is_let_go_of_while_a_route_comes_back_to_it_is_told_again_at_once() {
    let known = Known::new();
    let mut proxy = known.subscriber(hello());
    proxy.take(request::subscribe(&api())).unwrap();
    let backend = |update: &Update| match update {
        Update::Whole { resource: Resource::Backend(backend), .. } if backend.id.port == 81 => {
            Some(Name::Backend(backend.id.clone()))
        }
        _ => None,
    };
    let first = told(&mut proxy, &known, routed(81)).iter().find_map(backend).unwrap();
    // Both are told before the proxy's word of the first is heard.
    for objects in [routed(82), routed(81)] {
        told(&mut proxy, &known, objects);
    }
    proxy.take(request::unsubscribe(&first)).unwrap();
    let again = told(&mut proxy, &known, routed(81));
    assert_eq!(again.iter().filter_map(backend).collect::<Vec<_>>(), [first], "{again:?}");
    let other = Name::Backend(remora_model::BackendId::service("shop", "api", 82));
    proxy.take(request::unsubscribe(&other)).unwrap();
    assert!(told(&mut proxy, &known, routed(81)).is_empty(), "nothing leads to the other");
}

#[test]
fn a_slow_proxy_skips_what_it_missed() {
    let known = Known::new();
    let mut proxy = known.subscriber(hello());
    for port in [80, 81] {
        proxy.take(request::subscribe(&Name::Outbound(format!("api:{port}").parse().unwrap()))).unwrap();
    }
    told(&mut proxy, &known, world(5));
    known.turn_into(world(6));
    assert!(matches!(proxy.next(), Next::Tell(_)), "it takes one message");
    // and no other until much later
    let last = told(&mut proxy, &known, world(9));
    let ends: Vec<_> =
        last.iter().map(|update| if let Update::Delta(d) = update { d.upserted.len() } else { 0 }).collect();
    assert_eq!(ends, [3, 4], "one step from what each had: {last:?}");
}

#[test]
fn a_proxy_that_offers_what_it_holds_is_only_told_that_it_is_right() {
    let known = Known::new();
    let mut proxy = known.subscriber(hello());
    proxy.take(request::subscribe(&api())).unwrap();
    let versions = told(&mut proxy, &known, world(3)).into_iter().map(|update| match update {
        Update::Whole { version, resource, .. } => request::held(&resource.name(), version),
        other => panic!("{other:?}"),
    });
    let mut again = known.subscriber(Hello { held: versions.collect(), ..hello() });
    let told = told(&mut again, &known, world(3));
    assert_eq!(told.len(), 2);
    assert!(told.iter().all(|update| matches!(update, Update::Current { .. })), "{told:?}");
}

/// `shop/web-1`, meshed, with an address, and a Service of it.
fn own_world(more: &str) -> Vec<Object> {
    let text = format!(
        "apiVersion: v1
kind: Pod
metadata: {{ name: web-1, namespace: shop, labels: {{ app: web }} }}
spec: {{ containers: [{{ name: app, ports: [{{ containerPort: 8080 }}] }}] }}
status: {{ podIP: 10.1.0.9 }}
---
{more}"
    );
    parse(&text, "world").whole().unwrap()
}

#[test]
fn the_clusters_ranges_come_before_all_else_and_whenever_they_change() {
    let range = |range: &str| Update::Networks(vec![range.parse().unwrap()]);
    let known = Known::with(&["10.0.0.0/8"]);
    let mut proxy = known.subscriber(hello());
    proxy.take(request::subscribe(&api())).unwrap();
    let first = all(&mut proxy, &known, own_world(""));
    assert_eq!((&first[0], first.len()), (&range("10.0.0.0/8"), 2));
    assert!(all(&mut proxy, &known, own_world("")).is_empty(), "they are the same");
    let wider = "apiVersion: networking.k8s.io/v1
kind: ServiceCIDR
metadata: { name: more }
spec: { cidrs: [11.0.0.0/8] }
";
    assert_eq!(all(&mut proxy, &known, own_world(wider))[0], range("10.0.0.0/7"));
    let known = Known::new();
    let mut proxy = known.subscriber(hello());
    assert_eq!(all(&mut proxy, &known, world(1)), [Update::Networks(vec![])], "nobody knows them");
}

#[test]
fn what_holds_for_undeclared_ports_is_told_and_kept_current() {
    let known = Known::new();
    let mut proxy = known.subscriber(hello());
    proxy.take(request::subscribe(&Name::InboundDefault)).unwrap();
    assert!(told(&mut proxy, &known, world(1)).is_empty(), "nobody knows the pod");
    let declared = |updates: &[Update]| match updates {
        [Update::Whole { resource: Resource::InboundDefault(default), .. }] => default.declared.clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!(declared(&told(&mut proxy, &known, own_world(""))), [8080]);
    assert!(told(&mut proxy, &known, own_world("")).is_empty());
    let service = "apiVersion: v1
kind: Service
metadata: { name: web, namespace: shop }
spec: { selector: { app: web }, ports: [{ port: 80, targetPort: 9000 }] }
";
    assert_eq!(declared(&told(&mut proxy, &known, own_world(service))), [8080, 9000]);
}

#[test]
fn who_asks_without_end_and_reads_nothing_is_not_heard_any_more() {
    let known = Known::new();
    let mut proxy = Subscriber::new(hello(), known.0.clone(), None, Default::default()).unwrap();
    let (mut asked, mut refused) = (0, 0);
    while proxy.hears() {
        asked += 1;
        proxy.take(request::subscribe(&Name::Outbound(format!("s{asked}:80").parse().unwrap()))).unwrap();
    }
    assert!(asked > 1024 && asked < 2000, "{asked}");
    for update in told(&mut proxy, &known, world(1)) {
        refused += usize::from(matches!(update, Update::Refused { .. }));
    }
    assert_eq!(asked - refused, 1024, "a pod that nobody knows has fewer");
    assert!(proxy.hears() && proxy.spent() > 1024);
}

#[test]
fn a_hello_must_name_the_certificates_workload() {
    let web = SpiffeId::parse("spiffe://cluster.local/ns/shop/sa/web").unwrap();
    let api = SpiffeId::parse("spiffe://cluster.local/ns/shop/sa/api").unwrap();
    assert!(super::same(Some(&web), &hello()).is_ok());
    assert_eq!(super::same(Some(&api), &hello()).unwrap_err().code(), tonic::Code::PermissionDenied);
    assert_eq!(super::same(None, &hello()).unwrap_err().code(), tonic::Code::Unauthenticated);
}

#[test]
fn a_proxy_is_told_its_zone_once_before_all_else_unless_it_knows() {
    let zoned = "apiVersion: v1
kind: Pod
metadata: { name: web-1, namespace: shop, labels: { topology.kubernetes.io/zone: a } }
";
    let zoned = parse(zoned, "world").whole().unwrap();
    let known = Known::new();
    let mut proxy = known.subscriber(hello());
    proxy.take(request::subscribe(&api())).unwrap();
    assert_eq!(told(&mut proxy, &known, world(0)).len(), 2, "nobody knows the pod yet");
    assert_eq!(told(&mut proxy, &known, zoned.clone())[0], Update::Zone("a".into()));
    assert!(told(&mut proxy, &known, zoned.clone()).is_empty());
    let mut proxy = known.subscriber(Hello { zone: "b".into(), ..hello() });
    assert!(told(&mut proxy, &known, zoned.clone()).is_empty());
}

/// A Service with a route that mirrors, and a policy that names a method.
fn ruled() -> Vec<Object> {
    let text = "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: { name: api, namespace: shop }
spec:
  parentRefs: [{ group: '', kind: Service, name: api, port: 80 }]
  rules:
    - matches: [{ path: { value: /copied } }]
      filters: [{ type: RequestMirror, requestMirror: { backendRef: { name: api, port: 81 } } }]
      backendRefs: [{ name: api, port: 80 }]
    - backendRefs: [{ name: api, port: 80 }]
---
apiVersion: remora.dev/v1alpha1
kind: AuthorizationPolicy
metadata: { name: p, namespace: shop }
spec: { action: Deny, rules: [{ to: [{ methods: [DELETE] }] }] }
---
apiVersion: v1
kind: Pod
metadata: { name: web-1, namespace: shop }
status: { podIP: 10.1.0.99 }
";
    let more = parse(text, "ruled").whole().unwrap();
    world(1).into_iter().chain(more).collect()
}

/// What `features` make of a target, and of a port.
fn told_with(known: &Known, features: &[i32]) -> (remora_model::Outbound, remora_model::Inbound) {
    let mut proxy = known.subscriber(Hello { features: features.to_vec(), ..hello() });
    proxy.take(request::subscribe(&api())).unwrap();
    proxy.take(request::subscribe(&Name::Inbound(8080))).unwrap();
    let (mut target, mut port) = (None, None);
    for update in told(&mut proxy, known, ruled()) {
        match update {
            Update::Whole { resource: Resource::Outbound(outbound), .. } => target = Some(outbound),
            Update::Whole { resource: Resource::Inbound(inbound), .. } => port = Some(inbound),
            _ => {}
        }
    }
    (target.unwrap(), port.unwrap())
}

#[test]
fn a_proxy_that_lacks_a_feature_is_sent_the_rule_closed_and_others_are_sent_it_whole() {
    let known = Known::new();
    let all = convert::to_features(Features::all());
    let (whole, port) = told_with(&known, &all);
    assert!(!whole.rules[0].filters.is_empty() && port.rules[0].to[0].methods == ["DELETE"]);
    assert_eq!(told_with(&known, &[]).0, whole, "one that is older than the names has what there was");
    let without = |feature: Feature| {
        let lacks = [feature].into_iter().collect();
        convert::to_features(Features::all().beyond(lacks))
    };
    let (less, same) = told_with(&known, &without(Feature::Mirrors));
    assert_eq!((&less.rules[0], &less.rules[1]), (&Rule::closed(whole.rules[0].label.clone()), &whole.rules[1]));
    assert_eq!(less.matches, whole.matches);
    assert_eq!(same, port);
    let (same, less) = told_with(&known, &without(Feature::Operations));
    assert_eq!(same, whole);
    assert_eq!(less.rules, [AuthorizationRule::deny_everything(port.rules[0].name.clone())]);
    assert_eq!(known.0.asked(), 0, "whatever they were, nobody asks any more");
}

#[test]
fn that_rules_are_closed_for_a_proxy_is_said_in_their_status_as_long_as_it_is_there() {
    let known = Known::new();
    let said = || {
        known.0.settle();
        let all = known.0.statuses().borrow().iter().map(|status| format!("{:?}", status.ours())).collect::<String>();
        (all.contains("HTTPRoute/shop/api rule 0: needs"), all.contains("shop/p rule 0: needs"))
    };
    known.turn_into(ruled());
    assert_eq!(said(), (false, false));
    let old = known.subscriber(Hello { features: vec![1], ..hello() });
    assert_eq!(known.0.unsettled().now_or_never(), Some(()), "there is something to say");
    assert_eq!(said(), (true, true));
    let one = known.subscriber(Hello { features: convert::to_features(Features::all()), ..hello() });
    assert_eq!(said(), (true, true));
    drop((old, one));
    assert_eq!(said(), (false, false));
}

#[test]
fn a_setting_that_a_proxy_lacks_is_at_its_default_there_and_its_policy_says_so() {
    let known = Known::new();
    let policy = "apiVersion: remora.dev/v1alpha1
kind: BackendPolicy
metadata: { name: p, namespace: shop }
spec: { targetRefs: [{ kind: Service, name: api }], pendingMax: 7, loadBalancer: { type: RoundRobin } }
";
    let objects = || world(3).into_iter().chain(parse(policy, "policy").whole().unwrap()).collect::<Vec<_>>();
    let backend = |features: Features| {
        let mut proxy = known.subscriber(Hello { features: convert::to_features(features), ..hello() });
        proxy.take(request::subscribe(&api())).unwrap();
        let told = told(&mut proxy, &known, objects());
        let backend = told.into_iter().find_map(|update| match update {
            Update::Whole { resource: Resource::Backend(backend), .. } => Some(backend),
            _ => None,
        });
        known.0.settle();
        let all = known.0.statuses().borrow().iter().map(|status| format!("{:?}", status.ours())).collect::<String>();
        (backend.unwrap(), all.contains("(load-balancers); there the default holds"))
    };
    let (whole, said) = backend(Features::all());
    assert_eq!((&whole.settings.load_balancer, said), (&LoadBalancer::RoundRobin, false));
    let (less, said) = backend(Features::all().beyond([Feature::LoadBalancers].into_iter().collect()));
    assert_eq!((&less.settings.load_balancer, said), (&LoadBalancer::PeakEwma, true));
    assert_eq!((less.settings.pending_max, less.endpoints), (7, whole.endpoints));
}

/// A pod with these annotations.
fn with(annotations: &str) -> Vec<Object> {
    let text = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{ name: web-1, namespace: shop, annotations: {{ {annotations} }} }}\n"
    );
    parse(&text, "world").whole().unwrap()
}

#[test]
fn a_setting_that_a_proxy_lacks_is_not_sent_to_it_and_the_others_are() {
    let known = Known::new();
    let said = "remora.dev/tracing: 'otel:4317', remora.dev/access-log: json, remora.dev/unknown: deny";
    let sent = |lacked: &[Feature]| {
        let features = Features::all().beyond(lacked.iter().copied().collect());
        let mut proxy = known.subscriber(Hello { features: convert::to_features(features), ..hello() });
        match &told(&mut proxy, &known, with(said))[..] {
            [Update::Settings { settings, .. }] => settings.clone(),
            other => panic!("{other:?}"),
        }
    };
    let all = sent(&[]);
    assert!(matches!((&all.tracing, &all.access_log), (Setting::Said(_), Setting::Said(_))));
    let unknown_targets = all.unknown_targets.clone();
    let rest = ProxySettings { unknown_targets, ..ProxySettings::default() };
    assert_eq!(sent(&[Feature::Tracing, Feature::AccessLog]), rest);
}

#[test]
fn settings_go_to_proxies_that_can_change_them_and_again_whenever_they_are_others() {
    let known = Known::new();
    let features = convert::to_features(Features::all());
    let mut proxy = known.subscriber(Hello { features, ..hello() });
    let mut old = known.subscriber(hello());
    assert!(told(&mut proxy, &known, world(1)).is_empty(), "nobody knows the pod");
    let filters = |updates: &[Update]| -> Vec<Setting<String>> {
        let filter = |update: &Update| match update {
            Update::Settings { settings, .. } => match &settings.log_filter {
                Setting::Said(filter) => Setting::Said(filter.to_string()),
                Setting::AsStarted => Setting::AsStarted,
                Setting::Unreadable => Setting::Unreadable,
            },
            other => panic!("{other:?}"),
        };
        updates.iter().map(filter).collect()
    };
    let mut now = |annotation: &str| filters(&told(&mut proxy, &known, with(annotation)));
    assert_eq!(now(""), [Setting::AsStarted]);
    assert_eq!(now("remora.dev/log-level: debug"), [Setting::Said("debug".to_owned())]);
    assert_eq!(now("remora.dev/log-level: ' debug'"), [], "it is the same");
    assert_eq!(now("remora.dev/log-level: '=,='"), [Setting::Unreadable]);
    assert_eq!(now(""), [Setting::AsStarted]);
    assert!(told(&mut old, &known, with("remora.dev/log-level: debug")).is_empty(), "it could not read them");
    proxy.take(request::ack(&Name::Settings, 7)).unwrap();
    proxy.take(request::nack((&Name::Settings).into(), 7, "no".into())).unwrap();
    assert!(proxy.take(request::subscribe(&Name::Settings)).is_err(), "they need no subscription");
    drop((proxy, old));
    assert_eq!(known.0.asked(), 0);
}
