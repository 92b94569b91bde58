use super::*;
use crate::sync::{Delta, DeltaError, Name, Update};
use crate::v1;
use http::{HeaderName, HeaderValue, Method, StatusCode};
use remora_model::*;

fn id(name: &str) -> BackendId {
    BackendId { namespace: "shop".into(), name: name.into(), port: 8080 }
}

fn endpoint(address: &str) -> Endpoint {
    Endpoint {
        address: address.parse().unwrap(),
        identity: Some(SpiffeId::parse("spiffe://cluster.local/ns/shop/sa/api").unwrap()),
        proxy: Some("127.0.0.1:4143".parse().unwrap()),
        weight: 1,
        zone: "a".into(),
        pod: "shop/api-1".into(),
    }
}

fn backend(addresses: &[&str]) -> Backend {
    Backend {
        id: id("api"),
        protocol: Protocol::Http2,
        settings: BackendSettings { session_affinity: true, ..BackendSettings::default() },
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
            backoff: Duration::from_millis(25),
            any_method: true,
        }),
    };
    Outbound {
        target: Target::parse("api.shop:8080", 80).unwrap(),
        parent: Some(id("api")),
        protocol: Protocol::Detect,
        matches: vec![one, prefix],
        rules: vec![rule],
    }
}

fn inbound() -> Inbound {
    let source = Source {
        identities: vec![SpiffeId::parse("spiffe://cluster.local/ns/shop/sa/web").unwrap()],
        namespaces: vec!["shop".into()],
        cidrs: vec!["10.0.0.0/8".parse().unwrap()],
    };
    let operation = Operation {
        methods: vec![Method::GET],
        paths: vec![PathPattern::Exact("/x".into()), PathPattern::Prefix("".into())],
    };
    let rule = AuthorizationRule {
        name: "shop/p rule 0".into(),
        action: Action::Audit,
        from: vec![source],
        to: vec![operation],
    };
    Inbound {
        port: 8080,
        parent: "shop/api:8080".into(),
        protocol: Protocol::Opaque,
        mtls: MtlsMode::Strict,
        rules: vec![rule],
        default_deny: true,
        ending: true,
    }
}

#[test]
fn every_value_survives_the_way_over_the_wire() {
    let backend = backend(&["10.0.0.1:80", "[::1]:80"]);
    assert_eq!(Backend::try_from(v1::Backend::from(&backend)), Ok(backend));
    assert_eq!(Outbound::try_from(v1::Outbound::from(&outbound())), Ok(outbound()));
    assert_eq!(Inbound::try_from(v1::Inbound::from(&inbound())), Ok(inbound()));
    for name in [Name::Outbound(outbound().target), Name::Backend(id("api")), Name::Inbound(1)] {
        assert_eq!(Name::try_from(v1::ResourceName::from(&name)), Ok(name));
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
