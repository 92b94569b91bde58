use super::subscriber::Subscriber;
use crate::index::{Mesh, Snapshot};
use crate::source::parse::parse;
use remora_api::sync::{Name, Resource, Update, request};
use remora_api::v1::Hello;
use remora_model::{SpiffeId, TrustDomain};

fn world(pods: u8) -> Snapshot {
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
    let mesh = Mesh { trust_domain: TrustDomain::new("cluster.local").unwrap(), namespace: "remora".to_owned() };
    Snapshot::build(parse(&text, "world").whole().unwrap(), &mesh, None)
}

fn hello() -> Hello {
    Hello { namespace: "shop".into(), pod: "web-1".into(), service_account: "web".into(), ..Hello::default() }
}

/// All that the proxy is told of a new snapshot.
fn told(proxy: &mut Subscriber, snapshot: &Snapshot) -> Vec<Update> {
    proxy.renew();
    rest(proxy, snapshot)
}

fn rest(proxy: &mut Subscriber, snapshot: &Snapshot) -> Vec<Update> {
    std::iter::from_fn(|| proxy.next(snapshot)).map(|response| response.try_into().unwrap()).collect()
}

fn api() -> Name {
    Name::Outbound("api:80".parse().unwrap())
}

#[test]
fn backends_come_before_the_target_and_then_only_deltas() {
    let mut proxy = Subscriber::new(hello()).unwrap();
    proxy.take(request::subscribe(&api())).unwrap();
    let first = told(&mut proxy, &world(5));
    let [
        Update::Whole { resource: Resource::Backend(held), version },
        Update::Whole { resource: Resource::Outbound(_), .. },
    ] = first.as_slice()
    else {
        panic!("{first:?}")
    };
    assert!(told(&mut proxy, &world(5)).is_empty(), "nothing changed");
    let next = told(&mut proxy, &world(6));
    let [Update::Delta(delta)] = next.as_slice() else { panic!("{next:?}") };
    assert_eq!(delta.apply(held, *version).unwrap().endpoints.len(), 6);

    let name: remora_api::v1::ResourceName = (&Name::Backend(held.id.clone())).into();
    proxy.take(request::nack(name.clone(), delta.version, "no".into())).unwrap();
    let whole = rest(&mut proxy, &world(6));
    let [Update::Whole { resource: Resource::Backend(_), version }] = whole.as_slice() else { panic!("{whole:?}") };
    proxy.take(request::nack(name, *version, "no".into())).unwrap();
    assert!(rest(&mut proxy, &world(6)).is_empty(), "there is nothing better to send");
    let changed = told(&mut proxy, &world(7));
    assert!(matches!(changed.as_slice(), [Update::Whole { .. }]), "no delta to what was refused: {changed:?}");
}

#[test]
fn a_new_subscription_is_looked_at_alone() {
    let snapshot = world(3);
    let mut proxy = Subscriber::new(hello()).unwrap();
    proxy.take(request::subscribe(&api())).unwrap();
    told(&mut proxy, &snapshot);
    proxy.take(request::subscribe(&Name::Outbound("api:81".parse().unwrap()))).unwrap();
    assert_eq!(rest(&mut proxy, &snapshot).len(), 2, "the target and its backend");
}

#[test]
fn a_target_asked_for_again_is_told_whole_with_its_backends() {
    let snapshot = world(3);
    let mut proxy = Subscriber::new(hello()).unwrap();
    proxy.take(request::subscribe(&api())).unwrap();
    told(&mut proxy, &snapshot);
    proxy.take(request::unsubscribe(&api())).unwrap();
    proxy.take(request::subscribe(&api())).unwrap();
    let again = rest(&mut proxy, &snapshot);
    assert!(again.len() == 2 && again.iter().all(|update| matches!(update, Update::Whole { .. })), "{again:?}");
}

#[test]
fn a_slow_proxy_skips_what_it_missed() {
    let mut proxy = Subscriber::new(hello()).unwrap();
    for port in [80, 81] {
        proxy.take(request::subscribe(&Name::Outbound(format!("api:{port}").parse().unwrap()))).unwrap();
    }
    told(&mut proxy, &world(5));
    proxy.renew();
    assert!(proxy.next(&world(6)).is_some(), "it takes one message");
    // and no other until much later
    let last = told(&mut proxy, &world(9));
    let ends: Vec<_> =
        last.iter().map(|update| if let Update::Delta(d) = update { d.upserted.len() } else { 0 }).collect();
    assert_eq!(ends, [3, 4], "one step from what each had: {last:?}");
}

#[test]
fn a_proxy_that_offers_what_it_holds_is_only_told_that_it_is_right() {
    let mut proxy = Subscriber::new(hello()).unwrap();
    proxy.take(request::subscribe(&api())).unwrap();
    let versions = told(&mut proxy, &world(3)).into_iter().map(|update| match update {
        Update::Whole { version, resource } => request::held(&resource.name(), version),
        other => panic!("{other:?}"),
    });
    let mut again = Subscriber::new(Hello { held: versions.collect(), ..hello() }).unwrap();
    let told = told(&mut again, &world(3));
    assert_eq!(told.len(), 2);
    assert!(told.iter().all(|update| matches!(update, Update::Current { .. })), "{told:?}");
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
    let mesh = Mesh { trust_domain: TrustDomain::new("cluster.local").unwrap(), namespace: "remora".to_owned() };
    let zoned = Snapshot::build(parse(zoned, "world").whole().unwrap(), &mesh, None);
    let mut proxy = Subscriber::new(hello()).unwrap();
    proxy.take(request::subscribe(&api())).unwrap();
    assert_eq!(told(&mut proxy, &world(0)).len(), 2, "nobody knows the pod yet");
    assert_eq!(told(&mut proxy, &zoned)[0], Update::Zone("a".into()));
    assert!(told(&mut proxy, &zoned).is_empty());
    let mut proxy = Subscriber::new(Hello { zone: "b".into(), ..hello() }).unwrap();
    assert!(told(&mut proxy, &zoned).is_empty());
}
