use super::*;
use crate::discover::settings;
use remora_api::sync::request;
use remora_model::{
    Backend, BackendSettings, Inbound, InboundDefault, MtlsMode, Outbound, Parent, Protocol, Rule, Target, Timeouts,
    TrustDomain,
};
use tokio::sync::oneshot;

fn store() -> (Store, watch::Receiver<Networks>) {
    let (tell, networks) = watch::channel(Networks::new(vec!["192.0.2.0/24".parse().unwrap()]));
    (Store::new(Zone::default(), tell, settings::tests::settings().0), networks)
}

fn target(number: usize) -> Name {
    Name::Outbound(format!("t{number}:80").parse().unwrap())
}

fn id(name: &str) -> BackendId {
    BackendId::service("shop", name, 80)
}

/// Watches: what is said of it, and where to read.
fn watch(store: &mut Store, name: Name) -> (Vec<v1::SyncRequest>, Result<Known, Full>) {
    let (tell, mut told) = oneshot::channel();
    let said = store.take(Command::Watch(name, tell));
    (said, told.try_recv().expect("told at once"))
}

fn outbound(name: &Name, backends: &[&str]) -> v1::Outbound {
    let Name::Outbound(target) = name else { panic!("{name} is no target") };
    let reference = |name: &&str| remora_model::BackendRef {
        backend: id(name),
        weight: 1,
        state: remora_model::BackendRefState::Valid,
        filters: Vec::new(),
    };
    let rule = Rule {
        label: "r".into(),
        filters: Vec::new(),
        backends: backends.iter().map(reference).collect(),
        timeouts: Timeouts::default(),
        retry: None,
    };
    let parent = backends.first().map_or(Parent::Outside, |name| Parent::Backend(id(name)));
    let outbound = Outbound { rules: vec![rule], ..Outbound::bare(target.clone(), parent) };
    (&outbound).into()
}

fn said(kind: v1::sync_response::Kind) -> v1::SyncResponse {
    v1::SyncResponse { kind: Some(kind) }
}

fn says_target(name: &Name, version: u64, backends: &[&str]) -> v1::SyncResponse {
    let outbound = Some(outbound(name, backends));
    said(v1::sync_response::Kind::Outbound(v1::OutboundResource { version, outbound }))
}

fn says_backend(name: &str, version: u64) -> v1::SyncResponse {
    let backend = Backend {
        id: id(name),
        protocol: Protocol::Detect,
        settings: BackendSettings::default(),
        endpoints: Vec::new(),
    };
    said(v1::sync_response::Kind::Backend(v1::BackendResource { version, backend: Some((&backend).into()) }))
}

/// A target that no reader can take: its parent has no port.
fn says_unusable(name: &Name) -> v1::SyncResponse {
    let parent = Some(v1::BackendId { port: 0, ..(&id("api")).into() });
    let outbound = Some(v1::Outbound { parent, ..outbound(name, &["api"]) });
    said(v1::sync_response::Kind::Outbound(v1::OutboundResource { version: 9, outbound }))
}

fn is_held(known: &Known) -> bool {
    matches!(&*known.borrow(), State::Held(_))
}

fn hello(messages: &[v1::SyncRequest]) -> &v1::Hello {
    match messages.first().and_then(|message| message.kind.as_ref()) {
        Some(v1::sync_request::Kind::Hello(hello)) => hello,
        other => panic!("no hello first, but {other:?}"),
    }
}

#[test]
fn targets_and_ports_have_bounds_of_their_own() {
    let (mut store, _) = store();
    let mut used = Vec::new();
    for port in 1..=u16::try_from(limits::PORTS_MAX).unwrap() {
        used.push(watch(&mut store, Name::Inbound(port)).1.expect("there is room"));
    }
    assert_eq!(watch(&mut store, Name::Inbound(60_000)).1.err(), Some(Full));
    for number in 0..limits::TARGETS_MAX {
        used.push(watch(&mut store, target(number)).1.expect("ports take no target's room"));
    }
    let (said, told) = watch(&mut store, target(limits::TARGETS_MAX));
    assert!(said.is_empty() && told.is_err(), "all are in use");
    used.pop();
    let (said, told) = watch(&mut store, target(limits::TARGETS_MAX));
    assert!(told.is_ok());
    assert_eq!(
        said,
        [request::unsubscribe(&target(limits::TARGETS_MAX - 1)), request::subscribe(&target(limits::TARGETS_MAX))]
    );
    const { assert!(limits::TARGETS_MAX + limits::PORTS_MAX < 4096, "what discovery takes of one proxy") };
}

#[test]
fn a_proxy_that_met_twenty_thousand_backends_holds_those_in_use() {
    let (mut store, _) = store();
    let (_, kept) = watch(&mut store, target(0));
    store.apply(says_backend("b0", 1));
    store.apply(says_target(&target(0), 1, &["b0"]));
    for number in 1..=20_000 {
        let (name, backend) = (target(number), format!("b{number}"));
        let (_, known) = watch(&mut store, name.clone());
        store.apply(says_backend(&backend, 1));
        store.apply(says_target(&name, 1, &[&backend]));
        let (_, pool) = watch(&mut store, Name::Backend(id(&backend)));
        assert!(is_held(known.as_ref().unwrap()) && is_held(pool.as_ref().unwrap()), "{name}");
        drop((known, pool));
        // In either order, since two tasks say it.
        let gone = [Command::Unwatch(name), Command::Unwatch(Name::Backend(id(&backend)))];
        let gone = if number % 2 == 0 { Vec::from(gone) } else { gone.into_iter().rev().collect() };
        gone.into_iter().for_each(|command| drop(store.take(command)));
    }
    assert_eq!(store.len(), 3, "the target in use, its backend, and what rules the ports");
    assert!(store.named.len() == 1 && store.doubts.is_empty());
    let offered = store.opening(&v1::Hello::default());
    assert_eq!(hello(&offered).held.len(), 2);
    assert!(is_held(&kept.unwrap()));
}

#[test]
fn what_is_offered_is_bounded_whatever_is_held() {
    let (mut store, _) = store();
    let mut used = Vec::new();
    for number in 0..limits::TARGETS_MAX {
        used.push(watch(&mut store, target(number)).1.unwrap());
        let backends: Vec<String> = (0..3).map(|split| format!("b{number}-{split}")).collect();
        for backend in &backends {
            store.apply(says_backend(backend, 1));
        }
        let backends: Vec<&str> = backends.iter().map(String::as_str).collect();
        store.apply(says_target(&target(number), 1, &backends));
    }
    let opening = store.opening(&v1::Hello::default());
    assert_eq!(hello(&opening).held.len(), limits::OFFERED_MAX);
    const { assert!(limits::OFFERED_MAX <= 2 * 4096, "what discovery takes") };
    let (_, more) = watch(&mut store, Name::Backend(id("one-more")));
    assert_eq!(more.err(), Some(Full), "they are all named by targets in use");
}

#[test]
fn a_backend_stays_while_any_target_names_it() {
    let (mut store, _) = store();
    let _used = [watch(&mut store, target(1)), watch(&mut store, target(2))];
    store.apply(says_backend("api", 1));
    store.apply(says_target(&target(1), 1, &["api"]));
    store.apply(says_target(&target(2), 1, &["api"]));
    let backend = Name::Backend(id("api"));
    assert!(store.take(Command::Unwatch(backend.clone())).is_empty(), "two name it");
    store.apply(says_target(&target(1), 2, &["other"]));
    assert!(store.table.contains_key(&backend), "one names it");
    let said = store.apply(says_target(&target(2), 2, &[]));
    assert_eq!(said, [request::ack(&target(2), 2), request::unsubscribe(&backend)]);
    assert!(!store.table.contains_key(&backend));
}

#[test]
fn what_was_given_up_does_not_come_back() {
    let (mut store, _) = store();
    let (_, known) = watch(&mut store, target(1));
    drop(known);
    assert_eq!(store.take(Command::Unwatch(target(1))), [request::unsubscribe(&target(1))]);
    assert!(store.apply(says_target(&target(1), 1, &["api"])).is_empty());
    assert!(!store.table.contains_key(&target(1)));
}

#[test]
fn an_unusable_answer_leaves_what_is_held_and_is_told_where_nothing_is() {
    let (mut store, _) = store();
    let (_, known) = watch(&mut store, target(1));
    let known = known.unwrap();
    let said = store.apply(says_unusable(&target(1)));
    let [v1::SyncRequest { kind: Some(v1::sync_request::Kind::Nack(_)) }] = &said[..] else { panic!("{said:?}") };
    match &*known.borrow() {
        State::Unusable(detail) => assert!(detail.starts_with("outbound t1:80: outbound.parent.port"), "{detail}"),
        other => panic!("{other:?}"),
    }
    assert!(store.opening(&v1::Hello::default()).contains(&request::subscribe(&target(1))), "asked for again");
    store.apply(says_target(&target(1), 1, &["api"]));
    assert!(is_held(&known), "the right one is taken up");
    store.apply(says_unusable(&target(1)));
    assert!(is_held(&known), "the last good stays");
}

#[test]
fn what_a_newer_discovery_says_closes_its_target_whatever_was_held() {
    let (mut store, _) = store();
    let (_, known) = watch(&mut store, target(1));
    let known = known.unwrap();
    store.apply(says_backend("api", 1));
    store.apply(says_target(&target(1), 1, &["api"]));
    assert!(is_held(&known));
    let said = store.apply(Received { message: says_target(&target(1), 2, &["api"]), known: false });
    let why = "outbound: has fields that this version does not know";
    match &*known.borrow() {
        State::Unusable(detail) => assert_eq!(**detail, format!("outbound t1:80: {why}")),
        other => panic!("{other:?}"),
    }
    let Some(v1::sync_request::Kind::Ack(ack)) = said.first().and_then(|said| said.kind.clone()) else {
        panic!("{said:?}")
    };
    assert_eq!((ack.version, &ack.closed[..]), (2, &[why.to_owned()][..]));
    assert!(said.contains(&request::unsubscribe(&Name::Backend(id("api")))), "nothing leads to it");
    store.apply(says_target(&target(1), 3, &["api"]));
    assert!(is_held(&known));
}

#[test]
fn an_unusable_backend_is_told_to_those_who_come_for_it_later() {
    let (mut store, _) = store();
    let bad = v1::Backend { id: Some((&id("api")).into()), ..v1::Backend::default() };
    store.apply(said(v1::sync_response::Kind::Backend(v1::BackendResource { version: 1, backend: Some(bad) })));
    let (_, known) = watch(&mut store, Name::Backend(id("api")));
    assert!(matches!(&*known.unwrap().borrow(), State::Unusable(_)));
}

#[test]
fn a_refusal_of_discoverys_is_told_at_once() {
    let (mut store, _) = store();
    let (_, known) = watch(&mut store, target(1));
    let name = Some((&target(1)).into());
    let refused = v1::Refused { name, reason: "not yours".into() };
    assert!(store.apply(said(v1::sync_response::Kind::Refused(refused))).is_empty());
    match &*known.unwrap().borrow() {
        State::Unusable(detail) => assert!(detail.contains("t1:80") && detail.contains("not yours"), "{detail}"),
        other => panic!("{other:?}"),
    };
}

#[test]
fn what_discovery_refused_is_asked_for_again_ever_more_seldom_even_where_something_is_held() {
    let (mut store, _) = store();
    let _used = watch(&mut store, target(1));
    store.apply(says_backend("api", 1));
    store.apply(says_target(&target(1), 1, &["api"]));
    let refuse = |store: &mut Store| {
        let refused = v1::Refused { name: Some((&target(1)).into()), reason: "too many".into() };
        assert!(store.apply(said(v1::sync_response::Kind::Refused(refused))).is_empty(), "not at once");
    };
    refuse(&mut store);
    let (start, asks) = (Instant::now(), [request::unsubscribe(&target(1)), request::subscribe(&target(1))]);
    assert!(store.has_refused() && store.again(start).is_empty());
    let mut times = 0;
    for second in 0..3600 {
        let asked = store.again(start + Duration::from_secs(second));
        if !asked.is_empty() {
            assert_eq!(asked, asks);
            refuse(&mut store);
            times += 1;
        }
    }
    assert!((8..=30).contains(&times), "{times} times in an hour");
    store.apply(says_target(&target(1), 2, &["api"]));
    assert!(!store.has_refused(), "it was answered");
}

#[test]
fn a_rule_that_cannot_be_read_is_acknowledged_as_closed() {
    let (mut store, _) = store();
    let (_, known) = watch(&mut store, target(1));
    let mut outbound = outbound(&target(1), &["api"]);
    outbound.rules[0].timeouts = Some(v1::Timeouts { request_ms: Some(u64::MAX), backend_request_ms: None });
    let said = store
        .apply(said(v1::sync_response::Kind::Outbound(v1::OutboundResource { version: 4, outbound: Some(outbound) })));
    let [v1::SyncRequest { kind: Some(v1::sync_request::Kind::Ack(ack)) }] = &said[..] else { panic!("{said:?}") };
    assert!(ack.closed.len() == 1 && ack.closed[0].contains("rules[0].timeouts.request_ms"), "{ack:?}");
    assert!(is_held(&known.unwrap()));
}

#[test]
fn a_doubt_is_asked_ever_more_seldom_until_the_answer_changes() {
    let (mut store, _) = store();
    let _used = watch(&mut store, target(1));
    store.apply(says_backend("api", 1));
    store.apply(says_target(&target(1), 1, &["api"]));
    let (name, start) = (Name::Backend(id("api")), Instant::now());
    let asked = |store: &mut Store, seconds: std::ops::Range<u32>| {
        seconds.filter(|at| !store.doubt(&name, start + Duration::from_secs(1) * *at).is_empty()).count()
    };
    let first = asked(&mut store, 0..3600);
    assert!((10..=30).contains(&first), "{first} questions in an hour of doubt each second");
    let later = asked(&mut store, 3600..7200);
    assert!(later <= 16, "{later} in the second hour");
    let again = [request::unsubscribe(&target(1)), request::subscribe(&target(1))];
    store.apply(says_backend("api", 2));
    assert_eq!(store.doubt(&name, start + Duration::from_secs(7200)), again, "what is new may be doubted at once");
    assert!(store.doubt(&Name::Backend(id("gone")), start).is_empty(), "what is not held is not asked for");
}

#[test]
fn settings_are_taken_without_being_asked_for_and_what_is_not_known_of_them_changes_nothing() {
    let (tell, _networks) = watch::channel(Networks::default());
    let (settings, in_force, _) = settings::tests::settings();
    let mut store = Store::new(Zone::default(), tell, settings);
    let mut told = v1::SettingsResource { version: 7, settings: Some(v1::ProxySettings::default()) };
    told.settings.as_mut().unwrap().drain_grace_ms = Some(1500);
    let message = v1::SyncResponse { kind: Some(v1::sync_response::Kind::Settings(told.clone())) };
    assert_eq!(store.apply(message.clone()), [request::ack(&Name::Settings, 7)]);
    assert_eq!(in_force.borrow().drain_grace, Duration::from_millis(1500));
    assert_eq!(store.len(), 1, "they take nobody's room");
    told.version = 8;
    told.settings = None;
    let say = store.apply(said(v1::sync_response::Kind::Settings(told)));
    assert_eq!(say, [request::nack((&Name::Settings).into(), 8, "settings.settings: is missing".to_owned())]);
    let say = store.apply(Received { message, known: false });
    assert!(matches!(&say[0].kind, Some(v1::sync_request::Kind::Nack(_))), "{say:?}");
    assert_eq!(in_force.borrow().drain_grace, Duration::from_millis(1500));
    let offered = store.opening(&v1::Hello::default());
    assert!(!format!("{offered:?}").contains("Settings"), "an older discovery could not read it: {offered:?}");
}

#[test]
fn the_ranges_are_what_discovery_says_and_until_it_does_what_is_configured() {
    let (mut store, networks) = store();
    let tell = |store: &mut Store, cidrs: &[&str]| {
        let cidrs = cidrs.iter().map(|cidr| (*cidr).to_owned()).collect();
        assert!(store.apply(said(v1::sync_response::Kind::Networks(v1::Networks { cidrs }))).is_empty());
    };
    let inside = |target: &str| networks.borrow().contain(&target.parse::<Target>().unwrap());
    assert!(inside("192.0.2.1:80") && !inside("198.51.100.1:80"));
    tell(&mut store, &["198.51.100.0/24"]);
    assert!(!inside("192.0.2.1:80") && inside("198.51.100.1:80"));
    tell(&mut store, &["not a range"]);
    assert!(inside("198.51.100.1:80"), "the last good stays");
    tell(&mut store, &[]);
    assert!(inside("192.0.2.1:80") && inside("198.51.100.1:80"), "none is known, so everything may be the cluster's");
}

#[test]
fn what_rules_undeclared_ports_is_asked_for_from_the_start_and_never_given_up() {
    let (mut store, _) = store();
    let opening = store.opening(&v1::Hello::default());
    assert_eq!(opening[1..], [request::subscribe(&Name::InboundDefault)]);
    assert!(store.take(Command::Unwatch(Name::InboundDefault)).is_empty());
    let inbound = Inbound {
        port: 0,
        parent: "shop/web".into(),
        protocol: Protocol::Detect,
        mtls: MtlsMode::Strict,
        rules: Vec::new(),
        default_deny: false,
        dry_run: Default::default(),
        ending: false,
        trust_domain: TrustDomain::new("cluster.local").unwrap(),
    };
    let default = (&InboundDefault { inbound, declared: vec![80] }).into();
    let whole = v1::InboundDefaultResource { version: 3, inbound_default: Some(default) };
    let said = store.apply(said(v1::sync_response::Kind::InboundDefault(whole)));
    assert_eq!(said, [request::ack(&Name::InboundDefault, 3)]);
    let offered = store.opening(&v1::Hello::default());
    assert_eq!(hello(&offered).held, [request::held(&Name::InboundDefault, 3)]);
}

#[test]
fn the_zone_is_what_is_told_first() {
    let (mut store, _) = store();
    let zone = store.zone.clone();
    assert!(!zone.is(""), "nobody is in no zone");
    for name in ["", "a", "b"] {
        assert!(store.apply(said(v1::sync_response::Kind::Zone(name.into()))).is_empty(), "nothing to ack");
    }
    assert!(zone.is("a") && !zone.is("b"));
}

fn endpoint(number: u16, weight: u32) -> remora_model::Endpoint {
    let address = ([10, 0, 0, 1], number).into();
    remora_model::Endpoint { address, identity: None, proxy: None, weight, zone: "".into(), pod: "".into(), node: None }
}

fn holding(endpoints: &[remora_model::Endpoint]) -> Backend {
    let (settings, endpoints) = (BackendSettings::default(), endpoints.to_vec());
    Backend { id: id("api"), protocol: Protocol::Detect, settings, endpoints }
}

fn whole(backend: &Backend, version: u64) -> v1::SyncResponse {
    said(v1::sync_response::Kind::Backend(v1::BackendResource { version, backend: Some(backend.into()) }))
}

fn changed(from: (&Backend, u64), to: (&Backend, u64)) -> v1::SyncResponse {
    let delta = Delta::between(from, to).expect("only endpoints differ");
    said(v1::sync_response::Kind::BackendDelta((&delta).into()))
}

/// What its readers have of the backend.
fn read(known: &Known) -> Backend {
    match &*known.borrow() {
        State::Held(resource) => match &**resource {
            Resource::Backend(backend) => backend.clone(),
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
}

fn nacked(messages: &[v1::SyncRequest]) -> Option<(u64, &str)> {
    match messages {
        [v1::SyncRequest { kind: Some(v1::sync_request::Kind::Nack(nack)) }] => Some((nack.version, &nack.reason)),
        _ => None,
    }
}

#[test]
fn a_delta_that_has_nothing_to_be_applied_to_is_refused_and_no_reader_hears_of_it() {
    let (mut store, _) = store();
    let name = Name::Backend(id("api"));
    let (old, new) = (holding(&[]), holding(&[endpoint(1, 1)]));
    let delta = || changed((&old, 1), (&new, 2));
    let none = Some((2, "nothing is held to apply a delta to"));
    assert_eq!(nacked(&store.apply(delta())), none);
    assert_eq!(store.len(), 1, "it is not held because of that");
    let (_, known) = watch(&mut store, name.clone());
    let known = known.unwrap();
    assert_eq!(nacked(&store.apply(delta())), none);
    assert!(matches!(&*known.borrow(), State::Silent), "the whole follows");
    store.unusable(name.clone(), "because");
    assert_eq!(nacked(&store.apply(delta())), none);
    assert!(matches!(&*known.borrow(), State::Unusable(_)));
    assert_eq!(store.apply(whole(&old, 1)), [request::ack(&name, 1)]);
    assert_eq!(store.apply(delta()), [request::ack(&name, 2)]);
    assert_eq!(read(&known), new);
}

#[test]
fn a_delta_of_another_version_or_of_what_is_not_there_leaves_what_is_held() {
    let (mut store, _) = store();
    let (_, known) = watch(&mut store, Name::Backend(id("api")));
    let mut known = known.unwrap();
    let (one, two) = (holding(&[endpoint(1, 1)]), holding(&[endpoint(2, 1)]));
    store.apply(whole(&one, 5));
    known.borrow_and_update();
    for (from, version) in [(4, 6), (6, 7), (0, 5)] {
        let said = store.apply(changed((&one, from), (&two, version)));
        assert_eq!(nacked(&said).map(|(version, _)| version), Some(version), "{said:?}");
    }
    let said = store.apply(changed((&two, 5), (&holding(&[]), 6)));
    assert_eq!(nacked(&said).map(|(version, _)| version), Some(6), "it is not there to be taken away: {said:?}");
    assert!(!known.has_changed().unwrap() && read(&known) == one);
    store.apply(changed((&one, 5), (&two, 6)));
    assert_eq!(read(&known), two);
}

#[test]
fn a_delta_that_changes_nothing_is_taken_and_moves_the_version_alone() {
    let (mut store, _) = store();
    let name = Name::Backend(id("api"));
    let _used = watch(&mut store, target(1));
    store.apply(says_target(&target(1), 1, &["api"]));
    let (_, known) = watch(&mut store, name.clone());
    let mut known = known.unwrap();
    let backend = holding(&[endpoint(1, 1), endpoint(2, 1)]);
    store.apply(whole(&backend, 5));
    known.borrow_and_update();
    assert_eq!(store.apply(changed((&backend, 5), (&backend, 5))), [request::ack(&name, 5)]);
    assert!(!known.has_changed().unwrap(), "it is the same version");
    assert_eq!(store.apply(changed((&backend, 5), (&backend, 6))), [request::ack(&name, 6)]);
    assert_eq!(read(&known), backend);
    assert!(hello(&store.opening(&v1::Hello::default())).held.contains(&request::held(&name, 6)));
    let stale = store.apply(changed((&backend, 5), (&backend, 7)));
    assert_eq!(nacked(&stale).map(|(version, _)| version), Some(7));
}

#[test]
fn deltas_one_after_the_other_come_to_what_the_whole_would_say() {
    let mut rng = fastrand::Rng::with_seed(7);
    let (mut store, _) = store();
    let (_, known) = watch(&mut store, Name::Backend(id("api")));
    let known = known.unwrap();
    let mut held = holding(&[]);
    store.apply(whole(&held, 1));
    for version in 1..200 {
        let mut endpoints = Vec::new();
        for number in 1..20 {
            if rng.bool() {
                endpoints.push(endpoint(number, rng.u32(1..3)));
            }
        }
        let next = holding(&endpoints);
        let said = store.apply(changed((&held, version), (&next, version + 1)));
        assert_eq!(said, [request::ack(&Name::Backend(id("api")), version + 1)]);
        assert_eq!(read(&known), next, "version {version}");
        held = next;
    }
}
