//! The messages of the corpus: one for each kind of resource, of request, and of what a rule can say.

use crate::{
    convert::{Problem, to_features},
    sync::{Delta, Name, request},
    v1::{self, SyncRequest, SyncResponse, sync_response::Kind},
};
use http::{HeaderName, HeaderValue, Method, StatusCode};
use prost::Message as _;
use remora_model::{
    Action, AuthorizationRule, Backend, BackendId, BackendKind, BackendRef, BackendRefState, BackendSettings,
    ConnectionSettings, CookieName, Cors, DryRun, Endpoint, Features, FieldMatch, FieldRule, Filter, GrpcCodes,
    GrpcRule, HashHeader, HashKey, HashSource, HeaderEdit, HeaderMatch, HostPattern, HostRule, Inbound, InboundDefault,
    LoadBalancer, Locality, MtlsMode, Operation, OperationExcept, OriginPattern, Origins, Outbound, Parent, PathMatch,
    PathPattern, PathRewrite, Pattern, Protocol, ProxySettings, QueryMatch, Redirect, RequestHash, Retry,
    RetryIntervals, RouteMatch, Rule, ServiceAccount, Setting, Source, SourceExcept, SpiffeId, Target, TcpRule,
    Timeouts, TlsRule, TrustDomain, Unidentified, UnknownTargets, ValueMatch,
    cors::Allowed,
    settings::{AccessLog, AccessLogFormat},
};
use std::{num::NonZeroU32, sync::Arc, time::Duration};

/// A message with the name of its file. `said`: by discovery; else a proxy asks it.
pub(super) struct Sample {
    pub(super) name: &'static str,
    pub(super) said: bool,
    pub(super) bytes: Vec<u8>,
}

fn said(name: &'static str, kind: Kind) -> Sample {
    Sample { name, said: true, bytes: SyncResponse { kind: Some(kind) }.encode_to_vec() }
}

fn asked(name: &'static str, message: SyncRequest) -> Sample {
    Sample { name, said: false, bytes: message.encode_to_vec() }
}

/// All of them.
pub(super) fn all() -> Vec<Sample> {
    [targets(), bytes(), filters(), endpoints(), ports(), others(), requests()].into_iter().flatten().collect()
}

fn id(name: &str) -> BackendId {
    BackendId::service("shop", name, 8080)
}

fn cors() -> Cors {
    Cors {
        origins: Origins::These(vec![OriginPattern::parse("https://*.example:8443").unwrap()]),
        credentials: true,
        methods: Allowed::These(vec![Method::PUT]),
        headers: Allowed::Any,
        expose: Allowed::These(vec![HeaderName::from_static("x-total")]),
        max_age: 600,
    }
}

fn share(name: &str, weight: u32) -> BackendRef {
    BackendRef { backend: id(name), weight, state: BackendRefState::Valid, filters: Vec::new() }
}

fn rule(filters: Vec<Filter>) -> Rule {
    Rule {
        label: "HTTPRoute/shop/api rule 0".into(),
        filters,
        backends: vec![share("api", 1)],
        timeouts: Timeouts::default(),
        retry: None,
    }
}

fn any() -> RouteMatch {
    RouteMatch { path: None, method: None, headers: Vec::new(), query: Vec::new(), rule: 0 }
}

fn outbound(parent: Parent, matches: Vec<RouteMatch>, rules: Vec<Rule>) -> Kind {
    let target = Target::parse("10.96.0.7:8080", 80).unwrap();
    whole(&Outbound { protocol: Protocol::Http1, matches, rules, ..Outbound::bare(target, parent) })
}

fn whole(outbound: &Outbound) -> Kind {
    Kind::Outbound(v1::OutboundResource { version: 7, outbound: Some(outbound.into()) })
}

/// Of connections that are no requests.
fn bytes() -> Vec<Sample> {
    let bare = || Outbound::bare(Target::parse("10.96.0.7:8080", 80).unwrap(), Parent::Backend(id("api")));
    let invalid = BackendRef { state: BackendRefState::Invalid, ..share("gone", 1) };
    let hostnames = ["api.example.com", "*.example.com"].map(|host| HostPattern::parse(host).unwrap());
    let label = "TLSRoute/shop/api rule 0".into();
    let tls = TlsRule { label, hostnames: hostnames.into(), backends: vec![share("api", 1)] };
    let backends = vec![share("api", 90), share("next", 10), invalid];
    let tcp = TcpRule { label: "TCPRoute/shop/api rule 0".into(), backends };
    vec![
        said("outbound-tls", whole(&Outbound { tls: vec![tls], ..bare() })),
        said("outbound-tcp", whole(&Outbound { tcp: Some(tcp), ..bare() })),
    ]
}

fn of_rule(rule: Rule) -> Kind {
    outbound(Parent::Backend(id("api")), vec![any()], vec![rule])
}

fn targets() -> Vec<Sample> {
    let service = || Parent::Backend(id("api"));
    let matches = vec![
        RouteMatch { path: Some(PathMatch::Exact("/a".into())), method: Some(Method::GET), ..any() },
        RouteMatch {
            path: Some(PathMatch::Prefix("/b".into())),
            headers: vec![HeaderMatch { name: HeaderName::from_static("x"), value: ValueMatch::Exact("1".into()) }],
            ..any()
        },
        RouteMatch {
            path: Some(PathMatch::Pattern(Pattern::new("/c|/d").unwrap())),
            query: vec![QueryMatch { name: "q".into(), value: ValueMatch::Pattern(Pattern::new("[0-9]+").unwrap()) }],
            ..any()
        },
    ];
    let invalid = BackendRef { state: BackendRefState::Invalid, ..share("gone", 1) };
    let weights = Rule { backends: vec![share("api", 90), share("next", 10), invalid], ..rule(Vec::new()) };
    let retry = Retry {
        attempts: 2,
        codes: vec![StatusCode::BAD_GATEWAY],
        grpc_codes: GrpcCodes::default(),
        backoff: Duration::from_millis(25),
        any_method: true,
    };
    let grpc = Retry { grpc_codes: GrpcCodes::parse("resource-exhausted,unavailable").unwrap(), ..retry.clone() };
    let timeouts =
        Timeouts { request: Some(Duration::from_secs(10)), backend_request: Some(Duration::from_millis(250)) };
    let pod = BackendId::pod("shop", "api-1", 8080);
    let external = BackendId { kind: BackendKind::External, ..id("api.example.com") };
    vec![
        said("outbound-service", outbound(service(), vec![any()], vec![Rule { label: "".into(), ..rule(Vec::new()) }])),
        said("outbound-pod", outbound(Parent::Backend(pod), Vec::new(), Vec::new())),
        said("outbound-external", outbound(Parent::Backend(external), Vec::new(), Vec::new())),
        said("outbound-outside", outbound(Parent::Outside, Vec::new(), Vec::new())),
        said("outbound-unknown", outbound(Parent::Unknown, Vec::new(), Vec::new())),
        said("outbound-matches", outbound(service(), matches, vec![rule(Vec::new())])),
        said("outbound-weights", of_rule(weights)),
        said("outbound-retry", of_rule(Rule { retry: Some(retry), ..rule(Vec::new()) })),
        said("outbound-retry-grpc", of_rule(Rule { retry: Some(grpc), ..rule(Vec::new()) })),
        said("outbound-timeouts", of_rule(Rule { timeouts, ..rule(Vec::new()) })),
    ]
}

fn filters() -> Vec<Sample> {
    let edit = || HeaderEdit {
        set: vec![(HeaderName::from_static("a"), HeaderValue::from_static("b"))],
        add: vec![(HeaderName::from_static("c"), HeaderValue::from_static("d"))],
        remove: vec![HeaderName::from_static("e")],
    };
    let redirect = Redirect {
        scheme: Some("https".into()),
        hostname: Some("shop.example".into()),
        port: Some(443),
        path: Some(PathRewrite::Full("/x".into())),
        status: StatusCode::FOUND,
    };
    let rewrite =
        Filter::Rewrite { hostname: Some("h.example".into()), path: Some(PathRewrite::Prefix("/new".into())) };
    let of_backend = BackendRef { filters: vec![Filter::RequestHeaders(edit())], ..share("api", 1) };
    vec![
        said("filter-request-headers", of_rule(rule(vec![Filter::RequestHeaders(edit())]))),
        said("filter-response-headers", of_rule(rule(vec![Filter::ResponseHeaders(edit())]))),
        said("filter-redirect", of_rule(Rule { backends: Vec::new(), ..rule(vec![Filter::Redirect(redirect)]) })),
        said("filter-rewrite", of_rule(rule(vec![rewrite]))),
        said(
            "filter-mirror",
            of_rule(rule(vec![Filter::Mirror { backend: id("shadow"), numerator: 1, denominator: 2 }])),
        ),
        said("filter-cors", of_rule(rule(vec![Filter::Cors(Arc::new(cors()))]))),
        said("filter-of-a-backend", of_rule(Rule { backends: vec![of_backend], ..rule(Vec::new()) })),
    ]
}

fn endpoint(address: &str) -> Endpoint {
    Endpoint {
        address: address.parse().unwrap(),
        identity: Some(SpiffeId::parse("spiffe://cluster.local/ns/shop/sa/api").unwrap()),
        proxy: None,
        weight: 1,
        zone: "a".into(),
        pod: "shop/api-1".into(),
        node: None,
    }
}

fn endpoints() -> Vec<Sample> {
    let with_proxy = Endpoint { proxy: Some("10.1.0.9:4143".parse().unwrap()), weight: 3, ..endpoint("10.1.0.9:80") };
    let plain = Endpoint { identity: None, zone: "".into(), ..endpoint("[fd00::1]:80") };
    let load_balancer = LoadBalancer::SourceHash(HashSource::Ip);
    let settings = BackendSettings { load_balancer, pending_max: 1024, ..BackendSettings::default() };
    let endpoints = vec![endpoint("10.1.0.7:80"), with_proxy, plain];
    let backend = Backend { id: id("api"), protocol: Protocol::Http2, settings, endpoints };
    let delta = Delta {
        id: id("api"),
        from_version: 7,
        version: 8,
        upserted: vec![endpoint("10.1.0.8:80")],
        removed: vec!["10.1.0.7:80".parse().unwrap()],
    };
    let whole = |backend: &Backend| Kind::Backend(v1::BackendResource { version: 7, backend: Some(backend.into()) });
    let balanced = |load_balancer| {
        let settings = BackendSettings { load_balancer, ..BackendSettings::default() };
        whole(&Backend {
            id: id("api"),
            protocol: Protocol::Detect,
            settings,
            endpoints: vec![endpoint("10.1.0.7:80")],
        })
    };
    let hash = |key, balance_factor| balanced(LoadBalancer::RequestHash(RequestHash { key, balance_factor }));
    let connection = ConnectionSettings {
        idle_timeout: Some(Duration::from_secs(30)),
        keep_alive_interval: Some(Duration::from_secs(5)),
        keep_alive_timeout: Some(Duration::from_millis(500)),
        max_connections: NonZeroU32::new(8),
    };
    let kept = Backend { settings: BackendSettings { connection, ..BackendSettings::default() }, ..backend.clone() };
    let retry_intervals = RetryIntervals { budget: Duration::from_secs(60), rate: Duration::from_secs(30) };
    let settings = BackendSettings { retry_ratio: 0.1, min_retries: 5, retry_intervals, ..BackendSettings::default() };
    let seldom = Backend { settings, ..backend.clone() };
    let near = |locality| {
        let settings = BackendSettings { locality, ..BackendSettings::default() };
        let on_node = Endpoint { node: Some("node-1".into()), ..endpoint("10.1.0.7:80") };
        whole(&Backend { id: id("api"), protocol: Protocol::Detect, settings, endpoints: vec![on_node] })
    };
    vec![
        said("backend-locality-zone", near(Locality::Zone)),
        said("backend-locality-node", near(Locality::Node)),
        said("backend-locality-node-only", near(Locality::NodeOnly)),
        said("backend-connection", whole(&kept)),
        said("backend-retry-intervals", whole(&seldom)),
        said("backend", whole(&backend)),
        said("backend-delta", Kind::BackendDelta((&delta).into())),
        said("backend-least-request", balanced(LoadBalancer::LeastRequest)),
        said("backend-round-robin", balanced(LoadBalancer::RoundRobin)),
        said("backend-source-identity", balanced(LoadBalancer::SourceHash(HashSource::Identity))),
        said("backend-hash-header", hash(HashKey::Header(HashHeader::parse("x-user").unwrap()), None)),
        said("backend-hash-cookie", hash(HashKey::Cookie(CookieName::parse("Session").unwrap()), Some(125))),
    ]
}

fn inbound(port: u16, mtls: MtlsMode, rules: Vec<AuthorizationRule>) -> Inbound {
    Inbound {
        port,
        parent: "shop/api:8080".into(),
        protocol: Protocol::Detect,
        mtls,
        default_deny: rules.iter().any(|rule| rule.action == Action::Allow && !rule.dry_run),
        rules,
        dry_run: DryRun::default(),
        ending: false,
        trust_domain: TrustDomain::new("cluster.local").unwrap(),
    }
}

fn policy(action: Action, from: Source, to: Operation) -> AuthorizationRule {
    AuthorizationRule { from: vec![from], to: vec![to], ..AuthorizationRule::of("shop/p rule 0".into(), action) }
}

fn ports() -> Vec<Sample> {
    let identities = Source {
        identities: vec![SpiffeId::parse("spiffe://cluster.local/ns/shop/sa/web").unwrap()],
        ..Source::default()
    };
    let namespaces = Source { namespaces: vec!["shop".into()], ..Source::default() };
    let cidrs = Source { cidrs: vec!["10.0.0.0/8".parse().unwrap()], ..Source::default() };
    let operation = Operation {
        methods: vec![Method::GET, Method::POST],
        paths: ["/x", "/y/*"].map(|path| PathPattern::parse(path).unwrap()).into(),
        ..Operation::default()
    };
    let deny = AuthorizationRule {
        unidentified: Unidentified::Ignore,
        ..policy(Action::Deny, namespaces, Operation::default())
    };
    let rules =
        vec![policy(Action::Allow, identities, operation), deny, policy(Action::Audit, cidrs, Operation::default())];
    let port = |inbound: &Inbound| Kind::Inbound(v1::InboundResource { version: 7, inbound: Some(inbound.into()) });
    let default = InboundDefault { inbound: inbound(0, MtlsMode::Permissive, Vec::new()), declared: vec![80, 8080] };
    let default = v1::InboundDefaultResource { version: 7, inbound_default: Some((&default).into()) };
    vec![
        said("inbound-permissive", port(&Inbound { ending: true, ..inbound(8080, MtlsMode::Permissive, Vec::new()) })),
        said("inbound-rules", port(&inbound(8080, MtlsMode::Strict, rules))),
        said("inbound-default", Kind::InboundDefault(default)),
        said("inbound-conditions", port(&conditions())),
        said("inbound-dry-run", port(&dry_run())),
    ]
}

/// Rules with each condition that FEATURE_AUTHORIZATION_CONDITIONS is about.
fn conditions() -> Inbound {
    let from = Source {
        service_accounts: vec![ServiceAccount::parse("shop/web").unwrap()],
        trust_domains: vec![TrustDomain::new("partner.example").unwrap()],
        authenticated: Some(true),
        except: SourceExcept {
            identities: vec![SpiffeId::parse("spiffe://partner.example/ns/shop/sa/old").unwrap()],
            namespaces: vec!["test".into()],
            cidrs: vec!["10.9.0.0/16".parse().unwrap()],
        },
        ..Source::default()
    };
    let paths = |text: &str| vec![PathPattern::parse(text).unwrap()];
    let to = Operation {
        paths: paths("/users/{id}/*"),
        hosts: ["api", "*.shop:8080", "[fd00::1]"].map(|host| HostRule::parse(host).unwrap()).into(),
        ports: vec![8080],
        except: OperationExcept { methods: vec![Method::DELETE], paths: paths("/users/0/*") },
        ..Operation::default()
    };
    let grpc = [Some("Get"), None].map(|method| GrpcRule::new("shop.v1.Cart", method).unwrap());
    let grpc = Operation {
        grpc: grpc.into(),
        headers: vec![
            FieldRule::new("x-tenant", FieldMatch::Exact, &["a", "b"]).unwrap(),
            FieldRule::new("user-agent", FieldMatch::Prefix, &["curl/"]).unwrap(),
        ],
        ..Operation::default()
    };
    let nobody = Source { authenticated: Some(false), ..Source::default() };
    let rules = vec![policy(Action::Allow, from, to), policy(Action::Deny, nobody, grpc)];
    inbound(8080, MtlsMode::Permissive, rules)
}

/// What decides nothing, beside a rule that holds by default.
fn dry_run() -> Inbound {
    let dry = |action| AuthorizationRule { dry_run: true, ..policy(action, Source::default(), Operation::default()) };
    let namespace = Source { namespaces: vec!["shop".into()], ..Source::default() };
    let by_default = AuthorizationRule {
        by_default: true,
        name: "remora.dev/default-inbound-policy".into(),
        ..policy(Action::Allow, namespace, Operation::default())
    };
    let rules = vec![dry(Action::Deny), dry(Action::Allow), by_default];
    let dry_run = DryRun { strict: Some("shop/strict".into()), allow: vec!["shop/p".into()] };
    Inbound { dry_run, ..inbound(8080, MtlsMode::Permissive, rules) }
}

fn names() -> [(&'static str, Name); 4] {
    [
        ("subscribe-outbound", Name::Outbound(Target::parse("api.shop:8080", 80).unwrap())),
        ("subscribe-backend", Name::Backend(id("api"))),
        ("subscribe-inbound", Name::Inbound(8080)),
        ("subscribe-inbound-default", Name::InboundDefault),
    ]
}

fn others() -> Vec<Sample> {
    let [(_, target), ..] = names();
    let current = v1::Current { name: Some((&target).into()), version: 7 };
    let refused = v1::Refused { name: Some((&target).into()), reason: "too many".to_owned() };
    let settings =
        |settings: &ProxySettings| Kind::Settings(v1::SettingsResource { version: 7, settings: Some(settings.into()) });
    let said_settings = ProxySettings {
        log_filter: Setting::Said("info,remora_proxy=debug".into()),
        unknown_targets: Setting::Said(UnknownTargets::Deny),
        drain_grace: Setting::Said(Duration::from_secs(45)),
        access_log: Setting::Said(AccessLog::On { format: AccessLogFormat::Logfmt, filter: "status>=500".into() }),
        tracing: Setting::Said("otel-collector.observability:4317 sample=0.5%".parse().unwrap()),
    };
    let unreadable = ProxySettings {
        log_filter: Setting::Unreadable,
        unknown_targets: Setting::Unreadable,
        drain_grace: Setting::Unreadable,
        access_log: Setting::Unreadable,
        tracing: Setting::Unreadable,
    };
    vec![
        said("networks", Kind::Networks(v1::Networks { cidrs: vec!["10.96.0.0/12".into(), "fd00::/8".into()] })),
        said("zone", Kind::Zone("a".to_owned())),
        said("settings", settings(&said_settings)),
        said("settings-unreadable", settings(&unreadable)),
        said("current", Kind::Current(current)),
        said("refused", Kind::Refused(refused)),
        said("ask", Kind::Ask(v1::Ask { id: 3, path: "/map".to_owned() })),
    ]
}

fn requests() -> Vec<Sample> {
    let all = names();
    let held = all.iter().map(|(_, name)| request::held(name, 7)).collect();
    let hello = v1::Hello {
        namespace: "shop".to_owned(),
        pod: "web-1".to_owned(),
        service_account: "web".to_owned(),
        zone: "a".to_owned(),
        proxy_version: "0.1.0".to_owned(),
        held,
        features: to_features(Features::all()),
    };
    let [_, (_, backend), ..] = &all;
    let subscriptions = all.iter().map(|(file, name)| asked(file, request::subscribe(name)));
    let mut made: Vec<Sample> = subscriptions.collect();
    let closed = Problem::UnknownVariant.at("kind");
    made.extend([
        asked("hello", request::hello(hello)),
        asked("unsubscribe", request::unsubscribe(backend)),
        asked("ack", request::ack(backend, 7)),
        asked("ack-settings", request::ack(&Name::Settings, 7)),
        asked("ack-closed", request::ack_closed(backend, 7, &[closed])),
        asked("answer", request::answer(3, br#"{"pod":"shop/web-1"}"#.to_vec(), Some(200))),
        asked("answer-part", request::answer(3, br#"{"pod":"#.to_vec(), None)),
        asked("nack", request::nack(backend.into(), 7, "is unreadable".to_owned())),
    ]);
    made
}
