//! The rules by table: who calls whom, and what comes of it.

mod attacks;
mod tokens;
mod cost;

use super::*;
use remora_model::{
    Action, AuthorizationRule, DryRun, Inbound, MtlsMode, Operation, PathPattern, Protocol, Source, TrustDomain,
    Unidentified, policy,
};
use std::sync::LazyLock;

const OURS: &str = "spiffe://cluster.local/ns/shop/sa/web";
const FOREIGN: &str = "spiffe://partner.example/ns/shop/sa/web";
const MALLORY: &str = "spiffe://cluster.local/ns/evil/sa/mallory";

fn caller_of(id: &str) -> Caller {
    let identity = (!id.is_empty()).then(|| SpiffeId::parse(id).unwrap());
    Caller { identity, address: [10, 0, 0, 9].into() }
}

/// Without a host, and without headers.
fn request<'a>(method: &'a Method, path: &'a str) -> Act<'a> {
    static NONE: LazyLock<HeaderMap> = LazyLock::new(HeaderMap::new);
    Act::Request { method, path, host: None, headers: &NONE, tokens: [None; 2] }
}

/// `Deny from=shop to=GET:/a,POST`: what is left out means anything.
fn rule(action: Action, from: &[Source], to: &[(&str, &str)]) -> AuthorizationRule {
    let operation = |(methods, paths): &(&str, &str)| Operation {
        methods: methods.split(' ').filter(|text| !text.is_empty()).map(|text| policy::method(text).unwrap()).collect(),
        paths: paths.split(' ').filter(|text| !text.is_empty()).map(|text| PathPattern::parse(text).unwrap()).collect(),
        ..Operation::default()
    };
    let (from, to) = (from.to_vec(), to.iter().map(operation).collect());
    AuthorizationRule { from, to, ..AuthorizationRule::of(format!("{action:?}").into(), action) }
}

fn port(rules: Vec<AuthorizationRule>) -> Inbound {
    Inbound {
        port: 80,
        parent: "shop/api:80".into(),
        protocol: Protocol::Detect,
        mtls: MtlsMode::Permissive,
        default_deny: rules.iter().any(|rule| rule.action == Action::Allow && rule.decides()),
        rules,
        dry_run: DryRun::default(),
        issuers: Vec::new(),
        traffic: Default::default(),
        ending: false,
        trust_domain: TrustDomain::new("cluster.local").unwrap(),
    }
}

fn namespace(name: &str) -> Source {
    Source { namespaces: vec![name.into()], ..Source::default() }
}

fn identity(id: &str) -> Source {
    Source { identities: vec![SpiffeId::parse(id).unwrap()], ..Source::default() }
}

fn cidr(text: &str) -> Source {
    Source { cidrs: vec![text.parse().unwrap()], ..Source::default() }
}

/// `200`, `403`, `400`, `tls` by what becomes of a request, or of bytes where there is no method.
fn outcome(inbound: &Inbound, caller: &str, method: &str, path: &str) -> &'static str {
    let policy = Compiled::new(Arc::new(inbound.clone()));
    let method = (!method.is_empty()).then(|| Method::from_bytes(method.as_bytes()).unwrap());
    let act = method.as_ref().map_or(Act::Bytes, |method| request(method, path));
    let (judged, guessed) =
        (policy.judge(&caller_of(caller), 80, act).outcome, policy.allows(&caller_of(caller), 80, act));
    assert_eq!(judged.as_ref().err(), guessed.as_ref().err(), "a guess is as good as a decision");
    match judged {
        Ok(_) => "200",
        Err(Denial::Plaintext { .. }) => "tls",
        Err(Denial::Ambiguous(_)) => "400",
        Err(Denial::Denied { .. } | Denial::NotAllowed { .. }) => "403",
    }
}

#[track_caller]
fn check(inbound: &Inbound, cases: &[(&str, &str, &str, &str)]) {
    for (caller, method, path, wanted) in cases {
        assert_eq!(outcome(inbound, caller, method, path), *wanted, "{caller:?} {method} {path}");
    }
}

#[test]
fn a_denial_names_no_port_that_is_none() {
    let words = |port| Denial::Plaintext { port }.to_string();
    assert!(
        words(80).starts_with("port 80 takes") && words(0).starts_with("a port that the pod does not declare takes")
    );
}

#[test]
fn without_rules_all_is_open_but_for_the_mode() {
    let mut inbound = port(Vec::new());
    check(&inbound, &[("", "GET", "/%2f", "200"), ("", "", "", "200"), (OURS, "GET", "/", "200")]);
    inbound.mtls = MtlsMode::Strict;
    check(&inbound, &[("", "GET", "/", "tls"), ("", "", "", "tls"), (OURS, "GET", "/", "200"), (OURS, "", "", "200")]);
    inbound.default_deny = true;
    check(&inbound, &[("", "GET", "/", "tls"), (OURS, "GET", "/", "403"), (OURS, "", "", "403")]);
}

#[test]
fn who_shows_no_identity_counts_as_whoever_a_deny_rule_names() {
    for named in [identity(MALLORY), namespace("evil")] {
        let mut inbound = port(vec![rule(Action::Deny, std::slice::from_ref(&named), &[])]);
        check(&inbound, &[(MALLORY, "GET", "/", "403"), ("", "GET", "/", "403"), ("", "", "", "403")]);
        check(&inbound, &[(OURS, "GET", "/", "200"), (OURS, "", "", "200")]);
        inbound.rules[0].unidentified = Unidentified::Ignore;
        check(&inbound, &[(MALLORY, "GET", "/", "403"), ("", "GET", "/", "200"), ("", "", "", "200")]);
        // What it does not count as: somebody whom an allow or audit rule names.
        let inbound = port(vec![rule(Action::Allow, std::slice::from_ref(&named), &[])]);
        check(&inbound, &[(MALLORY, "GET", "/", "200"), ("", "GET", "/", "403"), ("", "", "", "403")]);
        // Every other condition still holds.
        let elsewhere = Source { cidrs: cidr("192.0.2.0/24").cidrs, ..named };
        check(&port(vec![rule(Action::Deny, &[elsewhere], &[])]), &[("", "GET", "/", "200"), ("", "", "", "200")]);
    }
    // A rule that names no identity never asked for one.
    let mut inbound = port(vec![rule(Action::Deny, &[cidr("10.0.0.0/8")], &[])]);
    inbound.rules[0].unidentified = Unidentified::Ignore;
    check(&inbound, &[("", "GET", "/", "403"), (OURS, "GET", "/", "403")]);
}

#[test]
fn a_namespace_is_one_of_the_rules_own_trust_domain() {
    for action in [Action::Allow, Action::Deny] {
        let inbound = port(vec![rule(action, &[namespace("shop")], &[])]);
        let (named, other) = if action == Action::Allow { ("200", "403") } else { ("403", "200") };
        check(&inbound, &[(OURS, "GET", "/", named), (FOREIGN, "GET", "/", other), (MALLORY, "GET", "/", other)]);
        // By its whole name a foreigner can be meant.
        let inbound = port(vec![rule(action, &[identity(FOREIGN)], &[])]);
        check(&inbound, &[(FOREIGN, "GET", "/", named), (OURS, "GET", "/", other)]);
    }
    let path = "spiffe://cluster.local/x/ns/shop/sa/web";
    check(&port(vec![rule(Action::Deny, &[namespace("shop")], &[])]), &[(path, "GET", "/", "200")]);
}

#[test]
fn deny_comes_before_allow_and_both_before_what_nobody_says() {
    let inbound = port(vec![
        rule(Action::Allow, &[], &[("GET", "/*")]),
        rule(Action::Deny, &[identity(MALLORY)], &[("", "/admin/*")]),
    ]);
    check(
        &inbound,
        &[
            (OURS, "GET", "/admin", "200"),
            (OURS, "POST", "/admin", "403"),
            (MALLORY, "GET", "/x", "200"),
            (MALLORY, "GET", "/admin/x", "403"),
            ("", "GET", "/admin", "403"),
            // Bytes may be what a deny rule names, and are nothing that an allow rule names.
            (OURS, "", "", "403"),
            (MALLORY, "", "", "403"),
        ],
    );
    check(&port(vec![rule(Action::Deny, &[], &[("DELETE", "/x")])]), &[(OURS, "", "", "403")]);
    check(&port(vec![rule(Action::Allow, &[], &[("", "")])]), &[(OURS, "", "", "200")]);
}

/// Each spelling in the policy and in the request.
#[test]
fn a_denied_path_is_denied_however_policy_and_request_spell_it() {
    let spellings = [
        "/admin",
        "/admin/",
        "//admin",
        "/admin//",
        "/./admin",
        "/admin/.",
        "/admin;v=1",
        "/;x/admin",
        "/%61dmin",
        "/%61%64%6D%69n",
    ];
    for written in spellings {
        let exact = port(vec![rule(Action::Deny, &[], &[("", written)])]);
        let below = port(vec![rule(Action::Deny, &[], &[("", &format!("{written}/*"))])]);
        for asked in spellings {
            for inbound in [&exact, &below] {
                check(inbound, &[(OURS, "GET", asked, "403"), ("", "POST", asked, "403")]);
            }
            check(&below, &[(OURS, "GET", &format!("{asked}/y"), "403")]);
        }
        check(&exact, &[(OURS, "GET", "/administrator", "200"), (OURS, "GET", "/a", "200"), (OURS, "GET", "/", "200")]);
    }
}

#[test]
fn a_path_of_which_nobody_knows_the_meaning_is_refused_where_paths_decide() {
    let odd = [
        "/a%2Fb",
        "/a%5cb",
        "/a\\b",
        "/%2e%2e/admin",
        "/%252e",
        "/a%00",
        "/%c0%ae",
        "/..",
        "/%",
        "x",
        "",
        "//..",
        "/x/../admin",
        "/admin/x/..",
        "/admin//../x",
        "/admin/..;/x",
    ];
    for action in [Action::Allow, Action::Deny] {
        let inbound = port(vec![rule(action, &[], &[("", "/admin")])]);
        for path in odd {
            check(&inbound, &[(OURS, "GET", path, "400")]);
        }
        check(&inbound, &[(OURS, "OPTIONS", "*", if action == Action::Allow { "403" } else { "200" })]);
        check(&inbound, &[(OURS, "GET", "*", "400")]);
    }
    // Where a rule denies whatever the path may be, that comes first; where none names paths, it does not matter.
    let inbound = port(vec![rule(Action::Deny, &[], &[("", "/admin")]), rule(Action::Deny, &[identity(MALLORY)], &[])]);
    check(&inbound, &[(MALLORY, "GET", "/a%2Fb", "403"), (OURS, "GET", "/a%2Fb", "400")]);
    check(&port(vec![rule(Action::Deny, &[], &[("POST", "")])]), &[(OURS, "GET", "/a%2Fb", "200")]);
}

#[test]
fn a_denied_method_is_denied_however_it_is_spelt_and_an_allowed_one_is_exact() {
    let deny = port(vec![rule(Action::Deny, &[], &[("GET DELETE", "")])]);
    for method in ["GET", "get", "Get", "HEAD", "head", "DELETE", "delete"] {
        check(&deny, &[(OURS, method, "/", "403")]);
    }
    check(&deny, &[(OURS, "POST", "/", "200"), (OURS, "GETX", "/", "200"), (OURS, "CONNECT", "", "200")]);
    let allow = port(vec![rule(Action::Allow, &[], &[("GET", "")])]);
    check(&allow, &[(OURS, "GET", "/", "200"), (OURS, "get", "/", "403"), (OURS, "HEAD", "/", "403")]);
}

#[test]
fn an_audit_rule_decides_nothing_and_is_found_in_the_decision_once() {
    use Noted::{Ambiguous, Matched};
    let audit = |to: &[(&str, &str)], from: &[Source]| rule(Action::Audit, from, to);
    let rules = vec![
        audit(&[], &[]),
        audit(&[("", "/admin/*")], &[]),
        audit(&[("POST", "/admin"), ("POST", "/x")], &[]),
        audit(&[], &[identity(MALLORY)]),
    ];
    let policy = Compiled::new(Arc::new(port(rules.clone())));
    let found = |caller: &str, method: &Method, path: &str| {
        let decision = policy.judge(&caller_of(caller), 80, request(method, path));
        assert!(decision.outcome.is_ok(), "{path}");
        decision.noted
    };
    assert_eq!(found(OURS, &Method::GET, "/y"), [(0, Matched)]);
    assert_eq!(found(OURS, &Method::POST, "/./admin"), [(0, Matched), (1, Matched), (2, Matched)]);
    assert_eq!(found("", &Method::GET, "/a%2Fb"), [(0, Matched), (1, Ambiguous)], "and nobody is named by no identity");
    assert_eq!(found(MALLORY, &Method::GET, "/"), [(0, Matched), (3, Matched)]);
    assert_eq!(
        policy.judge(&caller_of(OURS), 80, Act::Bytes).noted,
        [(0, Matched)],
        "bytes are no operation that it names"
    );

    // Beside rules that decide, it sees what they refuse as well.
    let both = port([rules, vec![rule(Action::Deny, &[], &[("", "/admin")])]].concat());
    let policy = Compiled::new(Arc::new(both.clone()));
    let decision = policy.judge(&caller_of(OURS), 80, request(&Method::GET, "/admin"));
    assert!(decision.outcome.is_err() && decision.noted == [(0, Matched), (1, Matched)]);
    check(&both, &[(OURS, "GET", "/a%2Fb", "400"), (OURS, "GET", "/y", "200")]);
}

/// What the byte path rests on: who may send bytes may send every request that can be read in one way.
#[test]
fn whoever_may_send_bytes_may_send_every_request() {
    let mut random = fastrand::Rng::with_seed(11);
    let sources = [
        identity(OURS),
        identity(MALLORY),
        namespace("shop"),
        namespace("evil"),
        cidr("10.0.0.0/8"),
        Source::default(),
    ];
    let operations = [("", ""), ("GET", ""), ("", "/a"), ("POST", "/a/*"), ("", "/*")];
    for _ in 0..5000 {
        let rules = (0..random.usize(0..4)).map(|_| {
            let action = [Action::Allow, Action::Deny, Action::Audit][random.usize(0..3)];
            let from: Vec<_> =
                (0..random.usize(0..3)).map(|_| sources[random.usize(0..sources.len())].clone()).collect();
            let to: Vec<_> = (0..random.usize(0..3)).map(|_| operations[random.usize(0..operations.len())]).collect();
            rule(action, &from, &to)
        });
        let inbound = port(rules.collect());
        for caller in [OURS, FOREIGN, MALLORY, ""] {
            if outcome(&inbound, caller, "", "") == "200" {
                for (method, path) in
                    [("GET", "/a"), ("POST", "/a/b"), ("DELETE", "/"), ("HEAD", "/x"), ("OPTIONS", "*")]
                {
                    assert_eq!(outcome(&inbound, caller, method, path), "200", "{caller} {method} {path} {inbound:?}");
                }
            }
        }
    }
}
