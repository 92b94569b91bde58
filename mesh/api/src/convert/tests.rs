use super::*;
use crate::{
    sync::{Delta, DeltaError, Name, Resource, Update},
    v1,
};
use http::{HeaderName, HeaderValue, Method, StatusCode};
use remora_model::*;
use std::sync::Arc;

fn id(name: &str) -> BackendId {
    BackendId::service("shop", name, 8080)
}

fn endpoint(address: &str) -> Endpoint {
    Endpoint {
        address: address.parse().unwrap(),
        identity: Some(SpiffeId::parse("spiffe://cluster.local/ns/shop/sa/api").unwrap()),
        proxy: Some("127.0.0.1:4143".parse().unwrap()),
        weight: 1,
        zone: "a".into(),
        pod: "shop/api-1".into(),
        node: None,
    }
}

fn backend(addresses: &[&str]) -> Backend {
    Backend {
        id: id("api"),
        protocol: Protocol::Http2,
        settings: BackendSettings {
            load_balancer: LoadBalancer::SourceHash(HashSource::Ip),
            ..BackendSettings::default()
        },
        endpoints: addresses.iter().map(|address| endpoint(address)).collect(),
    }
}

fn edit() -> HeaderEdit {
    HeaderEdit {
        set: vec![(HeaderName::from_static("a"), HeaderValue::from_static("b"))],
        add: vec![(HeaderName::from_static("c"), HeaderValue::from_bytes(b"\xff").unwrap())],
        remove: vec![HeaderName::from_static("d")],
    }
}

fn cors() -> Cors {
    Cors {
        origins: Origins::These(vec![OriginPattern::parse("https://*.example:8443").unwrap()]),
        credentials: true,
        methods: remora_model::cors::Allowed::These(vec![Method::PUT]),
        headers: remora_model::cors::Allowed::Any,
        expose: remora_model::cors::Allowed::These(vec![HeaderName::from_static("x-total")]),
        max_age: 600,
    }
}

#[test]
fn a_star_stands_alone() {
    let sent = |origins: &[&str], methods: &[&str]| {
        let texts = |all: &[&str]| all.iter().map(ToString::to_string).collect();
        Cors::try_from(v1::Cors { origins: texts(origins), methods: texts(methods), ..v1::Cors::default() })
    };
    assert_eq!(sent(&["*"], &["*"]).unwrap().origins, Origins::Any);
    assert_eq!(sent(&["*", "https://a"], &[]).unwrap_err().to_string(), "origins: has `*` beside others");
    assert_eq!(sent(&[], &["GET", "*"]).unwrap_err().to_string(), "methods: has `*` beside others");
    assert!(sent(&["https://"], &[]).unwrap_err().to_string().starts_with("origins[0]: is no origin like"));
}

fn share(name: &str) -> BackendRef {
    BackendRef { backend: id(name), weight: 3, state: BackendRefState::Valid, filters: Vec::new() }
}

fn outbound() -> Outbound {
    let redirect = Redirect {
        scheme: Some("https".into()),
        hostname: None,
        port: Some(443),
        path: Some(PathRewrite::Full("/x".into())),
        status: StatusCode::FOUND,
    };
    let filters = vec![
        Filter::RequestHeaders(edit()),
        Filter::ResponseHeaders(edit()),
        Filter::Redirect(redirect),
        Filter::Rewrite { hostname: Some("h".into()), path: Some(PathRewrite::Prefix("".into())) },
        Filter::Mirror { backend: id("shadow"), numerator: 1, denominator: 2 },
        Filter::Cors(Arc::new(cors())),
    ];
    let one = RouteMatch {
        path: Some(PathMatch::Pattern(Pattern::new("/a|/b").unwrap())),
        method: Some(Method::GET),
        headers: vec![HeaderMatch { name: HeaderName::from_static("x"), value: ValueMatch::Exact("".into()) }],
        query: vec![QueryMatch { name: "q".into(), value: ValueMatch::Pattern(Pattern::new("[0-9]+").unwrap()) }],
        rule: 0,
    };
    let prefix = RouteMatch { path: Some(PathMatch::Prefix("".into())), ..one.clone() };
    let rule = Rule {
        label: "HTTPRoute/shop/api rule 0".into(),
        filters: filters.clone(),
        backends: vec![BackendRef { backend: id("api"), weight: 0, state: BackendRefState::Invalid, filters }],
        timeouts: Timeouts { request: Some(Duration::from_millis(1500)), backend_request: None },
        retry: Some(Retry {
            attempts: 2,
            codes: vec![StatusCode::BAD_GATEWAY],
            grpc_codes: GrpcCodes::parse("unavailable,internal").unwrap(),
            backoff: Duration::from_millis(25),
            any_method: true,
        }),
    };
    Outbound {
        target: Target::parse("api.shop:8080", 80).unwrap(),
        parent: Parent::Backend(id("api")),
        protocol: Protocol::Detect,
        matches: vec![one, prefix],
        rules: vec![rule],
        tls: vec![TlsRule {
            label: "TLSRoute/shop/api rule 0".into(),
            hostnames: vec![HostPattern::parse("*.example.com").unwrap(), HostPattern::parse("api").unwrap()],
            backends: vec![share("api")],
        }],
        tcp: Some(TcpRule { label: "TCPRoute/shop/api rule 0".into(), backends: vec![share("api"), share("next")] }),
    }
}

fn inbound() -> Inbound {
    let source = Source {
        identities: vec![SpiffeId::parse("spiffe://cluster.local/ns/shop/sa/web").unwrap()],
        namespaces: vec!["shop".into()],
        cidrs: vec!["10.0.0.0/8".parse().unwrap()],
        ..Source::default()
    };
    let operation = Operation {
        methods: vec![Method::GET],
        paths: ["/x", "/*"].map(|path| PathPattern::parse(path).unwrap()).into(),
        ..Operation::default()
    };
    let rule = AuthorizationRule {
        from: vec![source],
        to: vec![operation],
        unidentified: Unidentified::Ignore,
        ..AuthorizationRule::of("shop/p rule 0".into(), Action::Audit)
    };
    Inbound {
        port: 8080,
        parent: "shop/api:8080".into(),
        protocol: Protocol::Opaque,
        mtls: MtlsMode::Strict,
        rules: vec![rule],
        default_deny: true,
        dry_run: DryRun::default(),
        ending: true,
        trust_domain: TrustDomain::new("cluster.local").unwrap(),
    }
}

fn inbound_default() -> InboundDefault {
    InboundDefault { inbound: Inbound { port: 0, ..inbound() }, declared: vec![80, 8080] }
}

#[test]
fn every_value_survives_the_way_over_the_wire() {
    let backend = backend(&["10.0.0.1:80", "[::1]:80"]);
    assert_eq!(Backend::try_from(v1::Backend::from(&backend)), Ok(backend));
    assert_eq!(Outbound::try_from(v1::Outbound::from(&outbound())), Ok(outbound()));
    assert_eq!(Inbound::try_from(v1::Inbound::from(&inbound())), Ok(inbound()));
    assert_eq!(InboundDefault::try_from(v1::InboundDefault::from(&inbound_default())), Ok(inbound_default()));
    for parent in [Parent::Outside, Parent::Unknown] {
        let bare = Outbound { parent, ..outbound() };
        assert_eq!(Outbound::try_from(v1::Outbound::from(&bare)), Ok(bare));
    }
    for name in [Name::Outbound(outbound().target), Name::Backend(id("api")), Name::Inbound(1), Name::InboundDefault] {
        assert_eq!(Name::try_from(v1::ResourceName::from(&name)), Ok(name));
    }
}

#[test]
fn a_writer_refuses_of_an_endpoint_what_its_reader_would() {
    let long: Arc<str> = "x".repeat(TEXT_BYTES_MAX + 1).into();
    let just: Arc<str> = "x".repeat(TEXT_BYTES_MAX).into();
    let one = endpoint("10.0.0.1:80");
    for (odd, fine) in [
        (one.clone(), true),
        (Endpoint { weight: 0, ..one.clone() }, false),
        (Endpoint { weight: u32::MAX, zone: just.clone(), pod: just, ..one.clone() }, true),
        (Endpoint { zone: long.clone(), ..one.clone() }, false),
        (Endpoint { pod: long, ..one.clone() }, false),
        (Endpoint { zone: "".into(), pod: "".into(), identity: None, proxy: None, ..one }, true),
    ] {
        let read = Endpoint::try_from(v1::Endpoint::from(&odd)).map(drop);
        assert_eq!((check::endpoint(&odd), read.is_ok()), (read, fine));
    }
}

fn refused<T: fmt::Debug>(result: Result<T, InvalidMessage>, expected: &str) {
    assert_eq!(result.unwrap_err().to_string(), expected);
}

#[test]
fn a_mistake_is_named_by_its_path() {
    let with = |change: fn(&mut v1::Outbound)| {
        let mut message = v1::Outbound::from(&outbound());
        change(&mut message);
        Outbound::try_from(message)
    };
    refused(with(|m| m.target = "api".into()), "target: is out of range");
    refused(with(|m| m.protocol = 9), "protocol: is unknown to this version");
    refused(with(|m| m.matches[1].rule = 1), "matches[1].rule: names a rule that is not there");
    refused(with(|m| m.matches[0].method = "A B".into()), "matches[0].method: is no HTTP method");
    refused(with(|m| m.matches[0].query[0].value = None), "matches[0].query[0].value: is missing");
    refused(with(|m| m.rules[0].backends[0].backend = None), "rules[0].backends[0].backend: is missing");
    refused(with(|m| m.rules[0].filters[3].kind = None), "rules[0].filters[3].kind: is unknown to this version");
    refused(
        with(|m| m.rules[0].retry.as_mut().unwrap().codes[0] = 70_000),
        "rules[0].retry.codes[0]: is no HTTP status that can stand here",
    );
    refused(
        with(|m| {
            let Some(v1::filter::Kind::RequestHeaders(edit)) = &mut m.rules[0].filters[0].kind else { panic!() };
            edit.set[0].name = "a:".into();
        }),
        "rules[0].filters[0].request_headers.set[0].name: is no header name",
    );
    refused(
        with(|m| {
            let many = vec![m.rules[0].clone(); LIST_MAX + 1];
            m.rules = many;
        }),
        "rules: has 4097 entries, more than the 4096 allowed",
    );
    let mut message = v1::Inbound::from(&inbound());
    message.mtls = 0;
    refused(Inbound::try_from(message), "mtls: is missing");
    let mut message = v1::Backend::from(&backend(&["10.0.0.1:80", "10.0.0.2:80"]));
    message.endpoints.swap(0, 1);
    refused(Backend::try_from(message.clone()), "endpoints: is not in the order of addresses, or names one twice");
    message.endpoints[1].weight = 0;
    refused(Backend::try_from(message), "endpoints[1].weight: is out of range");
}

/// What the proxy makes of a message, and what it says could not be read.
fn read(kind: v1::sync_response::Kind) -> (Resource, Vec<String>) {
    match Update::try_from(v1::SyncResponse { kind: Some(kind) }).unwrap() {
        Update::Whole { resource, closed, .. } => (resource, closed.iter().map(ToString::to_string).collect()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_rule_that_cannot_be_read_answers_500_and_leaves_the_others_alone() {
    let check = |change: fn(&mut v1::Outbound), expected: &str| {
        let mut message = v1::Outbound::from(&outbound());
        message.rules.push(message.rules[0].clone());
        message.rules[1].label = "HTTPRoute/shop/api rule 1".into();
        message.matches[1].rule = 1;
        let whole = Outbound::try_from(message.clone()).unwrap();
        change(&mut message);
        let resource = v1::OutboundResource { version: 1, outbound: Some(message) };
        let (resource, closed) = read(v1::sync_response::Kind::Outbound(resource));
        assert_eq!(closed, [expected]);
        let rules = vec![whole.rules[0].clone(), Rule::closed("HTTPRoute/shop/api rule 1".into())];
        assert_eq!(resource, Resource::Outbound(Outbound { rules, ..whole }));
    };
    check(|m| m.rules[1].filters[0].kind = None, "outbound.rules[1].filters[0].kind: is unknown to this version");
    check(
        |m| m.rules[1].timeouts.as_mut().unwrap().request_ms = Some(u64::MAX),
        "outbound.rules[1].timeouts.request_ms: is out of range",
    );
    check(|m| m.rules[1].backends[0].backend = None, "outbound.rules[1].backends[0].backend: is missing");
}

#[test]
fn a_rule_of_connections_that_cannot_be_read_refuses_them_and_leaves_the_others_alone() {
    let check = |change: fn(&mut v1::Outbound), expected: &str, closed: Outbound| {
        let mut message = v1::Outbound::from(&outbound());
        change(&mut message);
        let resource = v1::OutboundResource { version: 1, outbound: Some(message) };
        let (resource, problems) = read(v1::sync_response::Kind::Outbound(resource));
        assert_eq!((resource, problems), (Resource::Outbound(closed), vec![expected.to_owned()]));
    };
    let (tls, tcp) = (outbound().tls.remove(0), outbound().tcp.unwrap());
    check(
        |m| m.tls[0].backends[0].backend = None,
        "outbound.tls[0].backends[0].backend: is missing",
        Outbound { tls: vec![TlsRule { backends: Vec::new(), ..tls.clone() }], ..outbound() },
    );
    let hostnames = vec![tls.hostnames[1].clone()];
    check(
        |m| m.tls[0].hostnames[0] = "*".into(),
        "outbound.tls[0].hostnames[0]: is no host name of lower-case letters, digits, - and dots, nor one with *. before it",
        Outbound { tls: vec![TlsRule { hostnames, backends: Vec::new(), ..tls }], ..outbound() },
    );
    check(
        |m| m.tcp.as_mut().unwrap().backends[0].filters = m.rules[0].filters.clone(),
        "outbound.tcp.backends[0].filters: is out of range",
        Outbound { tcp: Some(TcpRule { backends: Vec::new(), ..tcp }), ..outbound() },
    );
}

#[test]
fn a_match_with_an_unknown_condition_matches_nothing_rather_than_more() {
    let mut message = v1::Outbound::from(&outbound());
    message.matches[0].conditions += 1;
    let resource = v1::OutboundResource { version: 1, outbound: Some(message) };
    let (resource, closed) = read(v1::sync_response::Kind::Outbound(resource));
    let mut expected = outbound();
    expected.matches.remove(0);
    assert_eq!(resource, Resource::Outbound(expected));
    assert_eq!(closed, ["outbound.matches[0].conditions: has conditions that this version does not know"]);
}

#[test]
fn an_authorization_rule_that_cannot_be_read_denies_by_its_action() {
    let changes: [fn(&mut v1::AuthorizationRule); 15] = [
        |rule| rule.from[0].namespaces[0].clear(),
        |rule| rule.from[0].conditions += 1,
        |rule| rule.to[0].conditions += 1,
        |rule| rule.conditions += 1,
        |rule| rule.to[0].methods = vec!["get".into()],
        |rule| rule.to[0].paths = vec!["/a%2Fb".into()],
        |rule| rule.from[0].cidrs = vec!["10.0.0.0".into()],
        |rule| rule.from[0].authenticated = Some(true),
        |rule| rule.from[0].except = Some(v1::SourceExcept::default()),
        |rule| {
            rule.from[0].service_accounts = vec!["shop".into()];
            rule.from[0].conditions += 1;
        },
        |rule| {
            rule.to[0].hosts = vec!["*".into()];
            rule.to[0].conditions += 1;
        },
        |rule| {
            rule.to[0].headers = vec![v1::FieldRule { name: "x".into(), r#match: 0, values: vec!["a".into()] }];
            rule.to[0].conditions += 1;
        },
        |rule| {
            rule.to[0].headers = vec![v1::FieldRule { name: "x".into(), r#match: 1, values: Vec::new() }];
            rule.to[0].conditions += 1;
        },
        |rule| {
            rule.to[0].ports = vec![0];
            rule.to[0].conditions += 1;
        },
        |rule| {
            rule.to[0].except = Some(v1::OperationExcept::default());
            rule.to[0].conditions += 1;
        },
    ];
    for (change, default) in changes.iter().flat_map(|change| [(change, false), (change, true)]) {
        for (action, instead) in [(1, None), (2, Some(())), (3, None), (9, Some(())), (0, Some(()))] {
            let mut message = v1::Inbound::from(&inbound());
            message.default_deny = false;
            message.rules[0].action = action;
            change(&mut message.rules[0]);
            let kind = if default {
                let inbound = Some(v1::Inbound { port: 0, ..message });
                let default = v1::InboundDefault { inbound, declared: Vec::new() };
                let default = v1::InboundDefaultResource { version: 1, inbound_default: Some(default) };
                v1::sync_response::Kind::InboundDefault(default)
            } else {
                v1::sync_response::Kind::Inbound(v1::InboundResource { version: 1, inbound: Some(message) })
            };
            let (resource, closed) = read(kind);
            assert_eq!(closed.len(), 1, "{closed:?}");
            let (Resource::Inbound(inbound) | Resource::InboundDefault(InboundDefault { inbound, .. })) = resource
            else {
                panic!("{resource:?}")
            };
            let rules: Vec<_> =
                instead.iter().map(|()| AuthorizationRule::deny_everything("shop/p rule 0".into())).collect();
            assert_eq!((inbound.rules, inbound.default_deny), (rules, action == 1));
        }
    }
}

#[test]
fn a_dry_run_that_cannot_be_read_is_left_out_and_denies_nothing() {
    for action in [1, 2] {
        let mut message = v1::Inbound::from(&inbound());
        message.default_deny = false;
        message.rules[0] = v1::AuthorizationRule { action, dry_run: true, conditions: 9, ..message.rules[0].clone() };
        let resource = v1::InboundResource { version: 1, inbound: Some(message) };
        let (resource, closed) = read(v1::sync_response::Kind::Inbound(resource));
        let Resource::Inbound(inbound) = resource else { panic!("{resource:?}") };
        assert_eq!((inbound.rules.len(), inbound.default_deny, closed.len()), (0, false, 1));
    }
    let allow = AuthorizationRule { dry_run: true, ..AuthorizationRule::of("shop/p rule 0".into(), Action::Allow) };
    let message = v1::Inbound::from(&Inbound { rules: vec![allow], default_deny: false, ..inbound() });
    let resource = v1::InboundResource { version: 1, inbound: Some(message) };
    let (Resource::Inbound(inbound), _) = read(v1::sync_response::Kind::Inbound(resource)) else { panic!("none") };
    assert!(!inbound.default_deny && inbound.rules.len() == 1, "it denies no rest");
}

#[test]
fn a_range_of_ipv4_written_in_ipv6_is_read_as_ipv4() {
    let mut message = v1::Inbound::from(&inbound());
    message.rules[0].from[0].cidrs = vec!["::ffff:10.0.0.0/104".into()];
    let resource = v1::InboundResource { version: 1, inbound: Some(message) };
    let (Resource::Inbound(inbound), _) = read(v1::sync_response::Kind::Inbound(resource)) else { panic!("none") };
    assert_eq!(inbound.rules[0].from[0].cidrs, ["10.0.0.0/8".parse().unwrap()]);
}

#[test]
fn an_allow_rule_denies_the_rest_whatever_its_message_says_and_whatever_is_wrong_beside_it() {
    let allow = AuthorizationRule { action: Action::Allow, ..inbound().rules[0].clone() };
    for broken in [None, Some(3), Some(2)] {
        let mut message = v1::Inbound::from(&Inbound { rules: vec![allow.clone()], ..inbound() });
        message.default_deny = false;
        message.rules.extend(broken.map(|action| v1::AuthorizationRule {
            action,
            conditions: 9,
            ..v1::AuthorizationRule::from(&allow)
        }));
        let resource = v1::InboundResource { version: 1, inbound: Some(message) };
        let (resource, closed) = read(v1::sync_response::Kind::Inbound(resource));
        assert_eq!(closed.len(), usize::from(broken.is_some()), "{closed:?}");
        let Resource::Inbound(inbound) = resource else { panic!("{resource:?}") };
        assert!(inbound.default_deny && inbound.rules.contains(&allow), "{broken:?}");
    }
}

#[test]
fn a_delta_leads_from_one_backend_to_the_other_and_nowhere_else() {
    let old = backend(&["10.0.0.1:80", "10.0.0.2:80"]);
    let mut new = backend(&["10.0.0.2:80", "10.0.0.3:80"]);
    new.endpoints[0].weight = 5;
    let delta = Delta::between((&old, 1), (&new, 2)).unwrap();
    assert_eq!((delta.upserted.len(), delta.removed.len()), (2, 1));
    let message = v1::SyncResponse { kind: Some(v1::sync_response::Kind::BackendDelta((&delta).into())) };
    assert_eq!(Update::try_from(message), Ok(Update::Delta(delta.clone())));
    assert_eq!(delta.apply(&old, 1), Ok(new.clone()));
    assert!(matches!(delta.apply(&old, 7), Err(DeltaError::Version { .. })));
    assert!(matches!(delta.apply(&new, 1), Err(DeltaError::Unknown { .. })));
    let other = Backend { id: id("web"), ..old.clone() };
    assert!(matches!(delta.apply(&other, 1), Err(DeltaError::OtherBackend { .. })));
    let changed = Backend { protocol: Protocol::Opaque, ..old.clone() };
    assert!(Delta::between((&old, 1), (&changed, 2)).is_none(), "more than endpoints differ");
}
