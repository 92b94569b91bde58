//! What gets past other policies (`docs/authorization.md`, the table of attacks), written in the rule and in the request. HTTP/1, HTTP/2
//! and gRPC ask in one way; that they do, `tests/tests/hostile_authz.rs` and `hostile_rules.rs` show.

use super::*;
use http::{HeaderName, HeaderValue};
use remora_model::{FieldMatch, FieldRule, GrpcRule, HostRule, OperationExcept, ServiceAccount, SourceExcept};

/// A request to `port`: its host, its headers.
struct Asked {
    method: Method,
    path: &'static str,
    host: Option<&'static str>,
    headers: HeaderMap,
    port: u16,
}

fn get(path: &'static str) -> Asked {
    Asked { method: Method::GET, path, host: Some("api"), headers: HeaderMap::new(), port: 80 }
}

impl Asked {
    fn host(self, host: &'static str) -> Self {
        Self { host: Some(host), ..self }
    }

    fn header(mut self, name: &'static str, value: &'static [u8]) -> Self {
        self.headers.append(HeaderName::from_static(name), HeaderValue::from_bytes(value).unwrap());
        self
    }

    fn of(&self, inbound: &Inbound, caller: &str) -> &'static str {
        let policy = Compiled::new(Arc::new(inbound.clone()));
        let Self { method, path, host, headers, port } = self;
        let act = Act::Request { method, path, host: *host, headers, tokens: [None; 2] };
        let outcome = policy.judge(&caller_of(caller), *port, act).outcome;
        match outcome {
            Ok(_) => "200",
            Err(Denial::Plaintext { .. }) => "tls",
            Err(Denial::Ambiguous(_)) => "400",
            Err(Denial::Denied { .. } | Denial::NotAllowed { .. }) => "403",
        }
    }
}

fn to(operation: Operation) -> [Inbound; 2] {
    [Action::Allow, Action::Deny].map(|action| {
        port(vec![AuthorizationRule { to: vec![operation.clone()], ..AuthorizationRule::of("p".into(), action) }])
    })
}

fn from(source: Source) -> [Inbound; 2] {
    [Action::Allow, Action::Deny].map(|action| {
        port(vec![AuthorizationRule { from: vec![source.clone()], ..AuthorizationRule::of("p".into(), action) }])
    })
}

/// What an allow rule and a deny rule of the same say: `yes` it is meant, `no` it is not, `doubt`: neither lets it in.
#[track_caller]
fn meant([allow, deny]: &[Inbound; 2], caller: &str, asked: &Asked) -> &'static str {
    match (asked.of(allow, caller), asked.of(deny, caller)) {
        ("200", "403") => "yes",
        ("403", "200") => "no",
        ("403" | "400", "403" | "400") => "doubt",
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_host_that_is_said_in_another_way_is_the_host_or_in_doubt() {
    let hosts = |text: &str| to(Operation { hosts: vec![HostRule::parse(text).unwrap()], ..Operation::default() });
    for (rule, host, is) in [
        ("internal", "INTERNAL:8080", "yes"),
        ("internal", "internal.", "yes"),
        ("INTERNAL.", "internal", "yes"),
        ("internal:8080", "internal", "doubt"),
        ("*.shop", "a.SHOP.", "yes"),
        ("[fd00::1]", "[fd00:0::1]:9", "yes"),
        ("[fd00::1]", "[fd00::1%25eth0]", "doubt"),
        ("10.0.0.1", "0x0a000001", "doubt"),
        ("xn--caf-dma", "caf%C3%A9", "doubt"),
        ("internal", "public", "no"),
    ] {
        assert_eq!(meant(&hosts(rule), OURS, &get("/").host(host)), is, "{rule} {host}");
    }
    assert_eq!(meant(&hosts("internal"), OURS, &Asked { host: None, ..get("/") }), "doubt", "HTTP/1.0 says none");
}

#[test]
fn a_header_with_several_values_is_each_of_them() {
    let rule = FieldRule::new("x-role", FieldMatch::Exact, &["admin"]).unwrap();
    let both = to(Operation { headers: vec![rule], ..Operation::default() });
    for (values, is) in [
        (&[&b"admin"[..]][..], "yes"),
        (&[], "no"),
        (&[b"user"], "no"),
        (&[b"user", b"admin"], "doubt"),
        (&[b"admin", b"user"], "doubt"),
        (&[b"user,admin"], "doubt"),
        (&[b"\xff"], "doubt"),
        (&[b"ADMIN"], "doubt"),
    ] {
        let asked = values.iter().fold(get("/"), |asked, value| asked.header("x-role", value));
        assert_eq!(meant(&both, OURS, &asked), is, "{values:?}");
    }
    assert_eq!(meant(&both, OURS, &get("/").header("x_role", b"admin")), "yes", "as servers of the CGI's kind read it");
    // A method that a header claims is denied by the header.
    let over = FieldRule::new("x-http-method-override", FieldMatch::Exact, &["DELETE"]).unwrap();
    let both = to(Operation { headers: vec![over], ..Operation::default() });
    assert_eq!(meant(&both, OURS, &get("/").header("x-http-method-override", b"delete")), "doubt");
}

#[test]
fn a_grpc_call_is_its_path_however_that_is_spelt() {
    let rule =
        |method| to(Operation { grpc: vec![GrpcRule::new("shop.Cart", method).unwrap()], ..Operation::default() });
    let post = |path| Asked { method: Method::POST, ..get(path) };
    for (path, is) in [
        ("/shop.Cart/Drop", "yes"),
        ("//shop.Cart//Drop", "yes"),
        ("/shop.Cart/%44rop", "yes"),
        ("/shop.Cart/Drop;v=1", "yes"),
        ("/shop.cart/Drop", "no"),
        ("/shop.Cart/Drop/x", "no"),
        ("/shop.Cart%2FDrop", "doubt"),
        ("/x/../shop.Cart/Drop", "doubt"),
        ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", "no"),
    ] {
        assert_eq!(meant(&rule(Some("Drop")), OURS, &post(path)), is, "{path}");
    }
    assert_eq!(meant(&rule(None), OURS, &post("/shop.Cart/Drop")), "yes");
    assert_eq!(meant(&rule(None), OURS, &post("/shop.Cart")), "doubt");
    assert_eq!(meant(&rule(None), OURS, &get("/shop.Cart/Drop")), "doubt", "no gRPC, but for a lenient server");
}

#[test]
fn a_port_is_the_pods_own_and_bytes_are_seen_to_be_at_it() {
    let rule = || to(Operation { ports: vec![8080], ..Operation::default() });
    let several = rule().map(|inbound| Inbound { port: 0, ..inbound });
    for (port, is) in [(8080, "yes"), (80, "no")] {
        let here = rule().map(|inbound| Inbound { port, ..inbound });
        let asked = Asked { port, ..get("/") };
        assert_eq!((meant(&here, OURS, &asked), meant(&several, OURS, &asked)), (is, is), "{port}");
        for [allow, deny] in [&here, &several] {
            let bytes = |inbound: &Inbound| {
                Compiled::new(Arc::new(inbound.clone())).judge(&caller_of(OURS), port, Act::Bytes).outcome.is_ok()
            };
            assert_eq!((bytes(allow), bytes(deny)), (is == "yes", is == "no"), "{port}");
        }
    }
}

#[test]
fn an_identity_is_compared_whole_and_a_namespace_with_its_trust_domain() {
    let account = Source { service_accounts: vec![ServiceAccount::parse("shop/web").unwrap()], ..Source::default() };
    let partner = vec![TrustDomain::new("partner.example").unwrap()];
    let of_partner = Source { trust_domains: partner.clone(), ..account.clone() };
    let anyone_of_partner = Source { trust_domains: partner, ..Source::default() };
    let meshed = Source { authenticated: Some(true), ..Source::default() };
    let nobody = Source { authenticated: Some(false), ..Source::default() };
    for (source, caller, is) in [
        (&account, OURS, "yes"),
        (&account, FOREIGN, "no"),
        (&account, "spiffe://cluster.local/ns/shop/sa/web2", "no"),
        (&account, "spiffe://cluster.local/x/ns/shop/sa/web", "no"),
        (&account, "spiffe://cluster.local.evil/ns/shop/sa/web", "no"),
        (&account, "", "doubt"),
        (&of_partner, FOREIGN, "yes"),
        (&of_partner, OURS, "no"),
        (&anyone_of_partner, FOREIGN, "yes"),
        (&anyone_of_partner, MALLORY, "no"),
        (&meshed, MALLORY, "yes"),
        (&meshed, "", "doubt"),
        (&nobody, "", "yes"),
        (&nobody, OURS, "no"),
    ] {
        assert_eq!(meant(&from(source.clone()), caller, &get("/")), is, "{source:?} {caller}");
    }
}

#[test]
fn an_exception_is_certain_in_a_deny_rule_and_possible_in_an_allow_rule() {
    let ids = |id: &str| vec![SpiffeId::parse(id).unwrap()];
    let but_mallory = SourceExcept { identities: ids(MALLORY), ..SourceExcept::default() };
    let source = Source { cidrs: cidr("10.0.0.0/8").cidrs, except: but_mallory, ..Source::default() };
    for (caller, is) in [(OURS, "yes"), (MALLORY, "no"), ("", "doubt")] {
        assert_eq!(meant(&from(source.clone()), caller, &get("/")), is, "{caller}");
    }
    let paths = |text: &str| vec![PathPattern::parse(text).unwrap()];
    let except = OperationExcept { methods: vec![Method::GET], paths: paths("/a/b/*") };
    let operation = to(Operation { paths: paths("/a/*"), except, ..Operation::default() });
    for (method, path, is) in [
        ("POST", "/a", "yes"),
        ("GET", "/a", "no"),
        ("get", "/a", "doubt"),
        ("HEAD", "/a", "doubt"),
        ("POST", "/a/b/c", "no"),
        ("POST", "/a/%62", "no"),
        ("POST", "/a/x%2fb", "doubt"),
    ] {
        let asked = Asked { method: Method::from_bytes(method.as_bytes()).unwrap(), ..get(path) };
        assert_eq!(meant(&operation, OURS, &asked), is, "{method} {path}");
    }
}

#[test]
fn a_path_that_nobody_can_read_is_let_in_by_a_rule_that_does_not_ask_for_it_and_by_no_other() {
    let paths = |action, text: &str| rule(action, &[], &[("", text)]);
    let all = || rule(Action::Allow, &[identity(OURS)], &[]);
    let asked = get("/a%2Fb");
    assert_eq!(asked.of(&port(vec![paths(Action::Allow, "/a"), all()]), OURS), "200");
    assert_eq!(asked.of(&port(vec![paths(Action::Allow, "/a"), all()]), MALLORY), "400");
    assert_eq!(asked.of(&port(vec![paths(Action::Deny, "/a"), all()]), OURS), "400", "it may be what is denied");
}

#[test]
fn a_dry_run_says_what_would_be_and_lets_everything_be() {
    let dry = |rule: AuthorizationRule| AuthorizationRule { dry_run: true, ..rule };
    let noted = |inbound: &Inbound, caller: &str, asked: &Asked| {
        let policy = Compiled::new(Arc::new(inbound.clone()));
        let Asked { method, path, host, headers, .. } = asked;
        let decision = policy.judge(
            &caller_of(caller),
            80,
            Act::Request { method, path, host: *host, headers, tokens: [None; 2] },
        );
        (decision.outcome.is_ok(), decision.noted)
    };
    let deny = port(vec![dry(rule(Action::Deny, &[identity(MALLORY)], &[]))]);
    assert_eq!(noted(&deny, MALLORY, &get("/")), (true, vec![(0, Noted::Denies)]));
    assert_eq!(noted(&deny, OURS, &get("/")), (true, Vec::new()));
    let mut allow = port(vec![dry(rule(Action::Allow, &[identity(OURS)], &[]))]);
    allow.dry_run.allow = vec!["shop/p".into()];
    assert_eq!(noted(&allow, OURS, &get("/")), (true, vec![(0, Noted::Matched)]));
    assert_eq!(noted(&allow, MALLORY, &get("/")), (true, vec![(1, Noted::Denies)]), "by the policy as a whole");
    allow.default_deny = true;
    assert_eq!(noted(&allow, OURS, &get("/")), (false, vec![(0, Noted::Allows)]));
    let mut strict = port(Vec::new());
    strict.dry_run.strict = Some("shop/strict".into());
    assert_eq!(noted(&strict, "", &get("/")), (true, vec![(0, Noted::Denies)]));
    assert_eq!(noted(&strict, OURS, &get("/")), (true, Vec::new()));
}
