//! Who is trusted no more goes to every proxy that can refuse them, before all else, and it is known which have it.

use super::{
    Hub,
    resource::PREFIX_BYTES,
    subscriber::{Next, Subscriber},
};
use crate::{
    index::{Change, Mesh},
    source::parse::parse,
};
use prost::Message as _;
use remora_api::{
    convert,
    sync::{Name, Update, request},
    v1::{Hello, SyncResponse},
};
use remora_model::{Feature, Features};

fn change(hub: &Hub, spec: &str, there: bool) {
    let text = format!(
        "apiVersion: remora.dev/v1alpha1\nkind: RevokedIdentity\nmetadata: {{ name: stolen, namespace: remora }}\nspec: {{ {spec} }}\n"
    );
    let objects = parse(&text, "a.yaml").whole().unwrap();
    hub.apply(objects.into_iter().map(if there { Change::Put } else { Change::Gone }));
}

fn subscriber(hub: &Hub, pod: &str, lacks: &[Feature]) -> Subscriber {
    let features = convert::to_features(Features::all().beyond(lacks.iter().copied().collect()));
    let hello = Hello { namespace: "shop".into(), pod: pod.into(), features, ..Hello::default() };
    Subscriber::new(hello, hub.clone(), None, Default::default()).unwrap()
}

/// What a proxy is told now, in order.
fn told(proxy: &mut Subscriber) -> Vec<Update> {
    let mut told = Vec::new();
    loop {
        match proxy.next() {
            Next::Tell(message) => {
                let message = SyncResponse::decode(&message[PREFIX_BYTES..]).unwrap();
                told.push(Update::try_from(message).unwrap());
            }
            Next::Later => {}
            Next::Nothing => return told,
        }
    }
}

/// The version and how many are revoked, of the first word.
fn first(told: &[Update]) -> Option<(u64, usize)> {
    match told.first() {
        Some(Update::Revocations { version, revocations }) => Some((*version, revocations.len())),
        _ => None,
    }
}

#[test]
fn who_is_revoked_is_told_first_also_if_it_is_nobody_and_again_whenever_it_is_another() {
    let hub = Hub::new(Mesh::default());
    hub.apply([]);
    let mut proxy = subscriber(&hub, "web-1", &[]);
    assert!(matches!(first(&told(&mut proxy)), Some((_, 0))), "what it held of an earlier stream may be over");
    assert!(told(&mut proxy).is_empty());
    change(&hub, "serial: '4f'", true);
    assert!(matches!(first(&told(&mut proxy)), Some((_, 1))));
    change(&hub, "serial: '4F'", true);
    assert!(told(&mut proxy).is_empty(), "it says the same");
    change(&hub, "serial: '4F'", false);
    assert!(matches!(first(&told(&mut proxy)), Some((_, 0))));
    assert!(proxy.take(request::subscribe(&Name::Revocations)).is_err(), "it needs no subscription");
    drop(proxy);
    assert_eq!(hub.asked(), 0);
}

#[test]
fn it_is_known_how_many_proxies_have_the_list_of_now_and_which_cannot_have_any() {
    let hub = Hub::new(Mesh::default());
    change(&hub, "serial: '4f'", true);
    let mut proxies = [subscriber(&hub, "web-1", &[]), subscriber(&hub, "web-2", &[])];
    let mut old = subscriber(&hub, "old-1", &[Feature::Revocation]);
    assert_eq!(first(&told(&mut old)), None, "it could not read it");
    let known = || {
        let revoked = hub.revocations();
        (revoked.held, revoked.able, revoked.unable.pods, revoked.unable.first.join(" "))
    };
    assert_eq!(known(), (0, 2, 1, "shop/old-1".to_owned()));
    let ack = |proxy: &mut Subscriber| {
        let (version, _) = first(&told(proxy)).expect("it is told");
        proxy.take(request::ack(&Name::Revocations, version)).unwrap();
    };
    ack(&mut proxies[0]);
    assert_eq!(known().0, 1);
    ack(&mut proxies[1]);
    assert_eq!(known().0, 2);
    change(&hub, "serial: '50'", true);
    assert_eq!(known().0, 0, "nobody has the new one yet");
    ack(&mut proxies[0]);
    drop(proxies);
    assert_eq!((known().0, known().1), (0, 0));
    drop(old);
    assert_eq!(known(), (0, 0, 0, String::new()));
}
