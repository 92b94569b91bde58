//! Rules that ask for the token of a request.

use super::{super::*, port};
use http::Method;
use remora_jose::claims::Verified;
use remora_model::{Action, AuthorizationRule, ClaimCondition, JwtCondition, Source};

fn asks(issuers: &[&str], claims: &[(&str, &[&str])]) -> Source {
    let claims = claims.iter().map(|(claim, values)| ClaimCondition {
        claim: vec![(*claim).into()],
        values: values.iter().map(|value| (*value).into()).collect(),
    });
    let issuers = issuers.iter().map(|name| (*name).into()).collect();
    Source { jwt: Some(JwtCondition { issuers, claims: claims.collect() }), ..Source::default() }
}

fn rule(action: Action, from: Source) -> AuthorizationRule {
    AuthorizationRule { from: vec![from], ..AuthorizationRule::of("shop/p rule 0".into(), action) }
}

fn token(issuer: &str, claims: &str) -> Verified {
    Verified { issuers: vec![issuer.into()], claims: serde_json::from_str(claims).unwrap() }
}

/// Whether a request with this token passes, from a caller in the mesh or one without an identity; and bytes.
fn passes(rule: AuthorizationRule, token: Option<&Verified>) -> (bool, bool) {
    let policy = Compiled::new(port(vec![rule]).into());
    let none = HeaderMap::new();
    let act = Act::Request { method: &Method::GET, path: "/", host: None, headers: &none, tokens: [token, None] };
    let web = SpiffeId::parse("spiffe://cluster.local/ns/shop/sa/web").ok();
    let by = |identity| policy.judge(&Caller { identity, address: [10, 0, 0, 9].into() }, 80, act).outcome.is_ok();
    let (meshed, stranger) = (by(web), by(None));
    assert_eq!(meshed, stranger, "a rule that asks for a token alone asks nobody for an identity");
    let bytes = policy.judge(&Caller { identity: None, address: [10, 0, 0, 9].into() }, 80, Act::Bytes);
    (meshed, bytes.outcome.is_ok())
}

#[test]
fn an_allow_rule_takes_tokens_of_its_issuers_with_its_claims_and_nothing_without_one() {
    let allow = |from| rule(Action::Allow, from);
    let good = token("idp", r#"{"groups": ["dev", "ops"], "admin": false, "none": null}"#);
    for (from, by, expected) in [
        (asks(&["idp"], &[]), Some(&good), true),
        (asks(&["other", "idp"], &[]), Some(&good), true),
        (asks(&["other"], &[]), Some(&good), false),
        (asks(&["idp"], &[]), None, false),
        (asks(&["idp"], &[("groups", &["ops", "root"])]), Some(&good), true),
        (asks(&["idp"], &[("groups", &["root"])]), Some(&good), false),
        (asks(&["idp"], &[("groups", &["ops"]), ("admin", &["true"])]), Some(&good), false),
        (asks(&["idp"], &[("groups", &[])]), Some(&good), true),
        (asks(&["idp"], &[("none", &[])]), Some(&good), false),
        (asks(&["idp"], &[("sub", &[])]), Some(&good), false),
    ] {
        assert_eq!(passes(allow(from.clone()), by), (expected, false), "{from:?}");
    }
}

#[test]
fn a_deny_rule_takes_tokens_that_it_names_and_bytes_which_may_be_a_request_with_any() {
    let deny = |from| rule(Action::Deny, from);
    let intern = token("idp", r#"{"role": "intern"}"#);
    let asked = || asks(&["idp"], &[("role", &["intern"])]);
    assert_eq!(passes(deny(asked()), Some(&intern)), (false, false));
    assert_eq!(passes(deny(asked()), Some(&token("idp", "{}"))), (true, false));
    assert_eq!(passes(deny(asked()), None), (true, false), "it certainly has none");
}

#[test]
fn the_token_of_an_issuer_in_dry_run_is_there_for_rules_that_name_it() {
    let policy = Compiled::new(port(vec![rule(Action::Allow, asks(&["tried"], &[]))]).into());
    let (none, decides, tried) = (HeaderMap::new(), token("idp", "{}"), token("tried", "{}"));
    let by = |tokens| {
        let act = Act::Request { method: &Method::GET, path: "/", host: None, headers: &none, tokens };
        policy.judge(&Caller { identity: None, address: [10, 0, 0, 9].into() }, 80, act).outcome.is_ok()
    };
    assert_eq!(
        [by([Some(&decides), Some(&tried)]), by([None, Some(&tried)]), by([Some(&decides), None])],
        [true, true, false]
    );
}

#[test]
fn a_workload_and_a_user_are_asked_for_together() {
    let both = Source { namespaces: vec!["shop".into()], ..asks(&["idp"], &[]) };
    let policy = Compiled::new(port(vec![rule(Action::Allow, both)]).into());
    let (none, user) = (HeaderMap::new(), token("idp", "{}"));
    let by = |namespace: &str, token| {
        let identity = SpiffeId::parse(&format!("spiffe://cluster.local/ns/{namespace}/sa/web")).ok();
        let act = Act::Request { method: &Method::GET, path: "/", host: None, headers: &none, tokens: [token, None] };
        policy.judge(&Caller { identity, address: [10, 0, 0, 9].into() }, 80, act).outcome.is_ok()
    };
    assert_eq!([by("shop", Some(&user)), by("shop", None), by("bank", Some(&user))], [true, false, false]);
}
