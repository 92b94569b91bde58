use super::subscriber::Subscriber;
use crate::index::Snapshot;
use crate::source::parse::parse;
use remora_api::sync::{Name, Resource, Update, request};
use remora_api::v1::{Hello, SyncResponse};
use remora_model::{SpiffeId, TrustDomain};

fn world(pods: u8) -> Snapshot {
    let mut text = "apiVersion: v1
kind: Service
metadata: { name: api, namespace: shop }
spec: { clusterIP: 10.0.0.1, selector: { app: api }, ports: [{ port: 80 }] }
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
    Snapshot::build(parse(&text).unwrap(), &TrustDomain::new("cluster.local").unwrap())
}

fn hello() -> Hello {
    Hello { namespace: "shop".into(), pod: "web-1".into(), service_account: "web".into(), ..Hello::default() }
}

fn updates(responses: Vec<SyncResponse>) -> Vec<Update> {
    responses.into_iter().map(|response| response.try_into().unwrap()).collect()
}

fn api() -> Name {
    Name::Outbound("api:80".parse().unwrap())
}

#[test]
fn backends_come_before_the_target_and_then_only_deltas() {
    let mut proxy = Subscriber::new(hello()).unwrap();
    proxy.take(request::subscribe(&api())).unwrap();
    let first = updates(proxy.catch_up(&world(5)));
    let [
        Update::Whole { resource: Resource::Backend(held), version },
        Update::Whole { resource: Resource::Outbound(_), .. },
    ] = first.as_slice()
    else {
        panic!("{first:?}")
    };
    assert!(proxy.catch_up(&world(5)).is_empty(), "nothing changed");
    let next = updates(proxy.catch_up(&world(6)));
    let [Update::Delta(delta)] = next.as_slice() else { panic!("{next:?}") };
    assert_eq!(delta.apply(held, *version).unwrap().endpoints.len(), 6);

    let name = (&Name::Backend(held.id.clone())).into();
    proxy.take(request::nack(name, delta.version, "no".into())).unwrap();
    let whole = updates(proxy.catch_up(&world(6)));
    assert!(matches!(whole.as_slice(), [Update::Whole { resource: Resource::Backend(_), .. }]), "{whole:?}");
}

#[test]
fn a_proxy_that_offers_what_it_holds_is_only_told_that_it_is_right() {
    let mut proxy = Subscriber::new(hello()).unwrap();
    proxy.take(request::subscribe(&api())).unwrap();
    let versions = updates(proxy.catch_up(&world(3))).into_iter().map(|update| match update {
        Update::Whole { version, resource } => request::held(&resource.name(), version),
        other => panic!("{other:?}"),
    });
    let mut again = Subscriber::new(Hello { held: versions.collect(), ..hello() }).unwrap();
    let told = updates(again.catch_up(&world(3)));
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
