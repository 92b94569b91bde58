//! The rows that attackers try (docs/authorization.md), each on a token that is signed here: by the right key unless the row says otherwise.

use super::*;
use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{HeaderMap, Request, Uri, header::AUTHORIZATION, request::Parts};
use remora_model::{ClaimCondition, TokenPlace};
use serde_json::json;
use std::{
    sync::LazyLock,
    time::{SystemTime, UNIX_EPOCH},
};

const NOW: Duration = Duration::from_secs(1_800_000_000);
const IDP: &str = "https://idp.example/realms/shop";

struct Signer(EcdsaKeyPair);

impl Signer {
    fn new() -> Self {
        Self(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap())
    }

    fn jwks(&self) -> Arc<str> {
        let (x, y) = self.0.public_key().as_ref()[1..].split_at(32);
        let key = json!({ "kty": "EC", "crv": "P-256", "kid": "k", "x": encoded(x), "y": encoded(y) });
        json!({ "keys": [key] }).to_string().into()
    }

    fn sign_with(&self, header: &Value, claims: &str) -> String {
        let text = format!("{}.{}", encoded(header.to_string().as_bytes()), encoded(claims.as_bytes()));
        let signature = self.0.sign(&SystemRandom::new(), text.as_bytes()).unwrap();
        format!("{text}.{}", encoded(signature.as_ref()))
    }

    fn sign(&self, claims: &Value) -> String {
        self.sign_with(&json!({ "alg": "ES256", "kid": "k" }), &claims.to_string())
    }
}

fn encoded(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn claims() -> Value {
    let now = NOW.as_secs();
    json!({ "iss": IDP, "sub": "ann", "aud": ["shop", "other"], "nbf": now - 5, "exp": now + 300, "groups": ["dev", "ops"] })
}

fn with(name: &str, to: Value) -> Value {
    let mut claims = claims();
    claims[name] = to;
    claims
}

fn without(name: &str) -> Value {
    let mut claims = claims();
    claims.as_object_mut().unwrap().remove(name);
    claims
}

fn issuer(signer: &Signer) -> JwtIssuer {
    JwtIssuer {
        name: "shop/users issuer 0".into(),
        issuer: IDP.into(),
        audiences: vec!["shop".into()],
        keys: Some(signer.jwks()),
        from: vec![TokenPlace::bearer()],
        forward: false,
        claim_headers: Vec::new(),
        dry_run: false,
    }
}

static OF_TESTS: LazyLock<Signer> = LazyLock::new(Signer::new);

/// An issuer that tells the application who asks, in `x-user`.
pub(crate) fn issuer_of_tests() -> JwtIssuer {
    let told = ClaimHeader { claim: vec!["sub".into()], header: "x-user".parse().unwrap() };
    JwtIssuer { claim_headers: vec![told], ..issuer(&OF_TESTS) }
}

/// A token of it, or with its key of another issuer, that is good for some minutes.
pub(crate) fn token_of_tests(issuer: Option<&str>) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let mut said = with("iss", json!(issuer.unwrap_or(IDP)));
    (said["nbf"], said["exp"]) = (json!(now), json!(now + 300));
    OF_TESTS.sign(&said)
}

fn issuers(all: &[JwtIssuer]) -> Issuers {
    let groups = ClaimCondition { claim: vec!["groups".into()], values: Vec::new() };
    let asked = JwtCondition { issuers: Vec::new(), claims: vec![groups] };
    Issuers::new(&all.iter().collect::<Vec<_>>(), [&asked], &Rc::default(), &[]).unwrap()
}

fn head(uri: &str, fields: &[(&str, &str)]) -> Parts {
    let builder = fields.iter().fold(Request::get(uri), |builder, (name, value)| builder.header(*name, *value));
    builder.body(()).unwrap().into_parts().0
}

fn bearer(token: &str) -> Parts {
    head("/", &[("authorization", &format!("Bearer {token}"))])
}

fn check(issuers: &Issuers, head: &Parts, now: Duration) -> Result<Option<Shown>, Refusal> {
    issuers.check((&head.headers, &head.uri), now)
}

/// What becomes of a token, asked twice: what is remembered is what was found out.
fn judged(issuers: &Issuers, token: &str) -> Result<(), Refusal> {
    let ask = || check(issuers, &bearer(token), NOW).map(|shown| drop(shown.expect("a token")));
    let first = ask();
    assert_eq!(ask(), first);
    first
}

#[test]
fn a_good_token_tells_whose_request_it_is_and_a_request_without_one_is_nobodys() {
    let signer = Signer::new();
    let issuers = issuers(&[issuer(&signer)]);
    let shown = check(&issuers, &bearer(&signer.sign(&claims())), NOW).unwrap().unwrap();
    assert!(shown.verified.token.says(&["groups".into()], "ops"));
    assert_eq!(shown.verified.token.issuers, ["shop/users issuer 0".into()]);
    assert_eq!(shown.verified.token.claims.len(), 1, "what nobody asks for is not kept");
    for no_token in [head("/", &[]), head("/", &[("authorization", "Basic YTpi")]), head("/", &[("authorization", "")])]
    {
        assert!(check(&issuers, &no_token, NOW).unwrap().is_none());
    }
    assert!(Issuers::new(&[], [], &Rc::default(), &[]).is_none());
}

#[test]
fn what_no_key_of_the_issuer_signed_is_refused() {
    let (signer, other) = (Signer::new(), Signer::new());
    let issuers = issuers(&[issuer(&signer)]);
    let good = signer.sign(&claims());
    assert_eq!(judged(&issuers, &good), Ok(()));
    assert_eq!(judged(&issuers, &other.sign(&claims())), Err(JoseError::Signature.into()));
    // alg none; HMAC with the public key as the secret; the algorithm of another type of key.
    for alg in ["none", "None", "HS256", "es256"] {
        let refused = Err(JoseError::Algorithm(alg.to_owned()).into());
        let unsigned = signer.sign_with(&json!({ "alg": alg, "kid": "k" }), &claims().to_string());
        assert_eq!(judged(&issuers, &unsigned), refused);
        assert_eq!(judged(&issuers, &format!("{}.", unsigned.rsplit_once('.').unwrap().0)), refused);
    }
    let header = |header: Value| judged(&issuers, &signer.sign_with(&header, &claims().to_string()));
    assert_eq!(header(json!({ "alg": "RS256", "kid": "k" })), Err(JoseError::UnknownKey.into()));
    // A kid is a name, whatever else it could be read as.
    for kid in ["../../etc/passwd", "k' OR '1'='1", "https://evil.example/jwks", "", "K"] {
        assert_eq!(header(json!({ "alg": "ES256", "kid": kid })), Err(JoseError::UnknownKey.into()), "{kid}");
    }
    // A token brings no keys of its own.
    let own: Value = serde_json::from_str(&other.jwks()).unwrap();
    let brought = json!({ "alg": "ES256", "kid": "k", "jwk": own["keys"][0], "jku": "https://evil.example/", "x5u": "https://evil.example/" });
    assert_eq!(judged(&issuers, &other.sign_with(&brought, &claims().to_string())), Err(JoseError::Signature.into()));
    assert_eq!(header(json!({ "alg": "ES256", "kid": "k", "crit": ["exp"] })), Err(JoseError::Critical.into()));
    assert_eq!(header(json!({ "alg": "ES256", "kid": "k", "typ": "dpop+jwt" })), Err(JoseError::Malformed.into()));
    assert_eq!(header(json!({ "alg": "ES256", "kid": "k", "typ": "at+JWT" })), Ok(()), "RFC 9068");
    for junk in ["x", "x.y", "a.b.c", &format!("{good}.x"), &good.replace('.', ""), &format!("{good}, Bearer {good}")] {
        assert!(judged(&issuers, junk).is_err(), "{junk}");
    }
    // The claims of one token with the signature of another.
    let (signed, _) = good.rsplit_once('.').unwrap();
    let another = signer.sign(&with("sub", json!("bob")));
    let (_, signature) = another.rsplit_once('.').unwrap();
    assert_eq!(judged(&issuers, &format!("{signed}.{signature}")), Err(JoseError::Signature.into()));
}

#[test]
fn claims_are_read_as_rfc_7519_says() {
    let signer = Signer::new();
    let all = issuers(&[issuer(&signer)]);
    let judge = |claims: &Value| judged(&all, &signer.sign(claims));
    // An issuer is a text, and no part of it means anything: `https://idp.example/realms/shop/ann` is another one.
    for other in [
        "https://idp.example/realms/shop/",
        "https://idp.example/realms/shop/ann",
        "HTTPS://idp.example/realms/shop",
        "",
    ] {
        assert_eq!(judge(&with("iss", json!(other))), Err(Refusal::Issuer), "{other}");
    }
    assert_eq!(judge(&with("iss", json!([IDP]))), Err(Refusal::Claims));
    assert_eq!(judge(&without("iss")), Err(Refusal::Claims));
    assert_eq!(judge(&with("aud", json!("shop"))), Ok(()));
    for aud in [json!("shop,other"), json!(["sho"]), json!([]), json!("SHOP"), json!({ "shop": true }), json!(null)] {
        assert_eq!(judge(&with("aud", aud.clone())), Err(Refusal::Audience), "{aud}");
    }
    assert_eq!(judge(&without("aud")), Err(Refusal::Audience));
    let now = NOW.as_secs();
    assert_eq!(judge(&with("exp", json!(now - 59))), Ok(()), "within what clocks may be apart");
    assert_eq!(judge(&with("exp", json!(now - 60))), Err(Refusal::Expired));
    assert_eq!(judge(&with("nbf", json!(now + 60))), Ok(()));
    assert_eq!(judge(&with("nbf", json!(now + 61))), Err(Refusal::NotYetValid));
    assert_eq!(judge(&with("exp", json!(now + 1)).clone()), Ok(()));
    assert_eq!(judge(&without("exp")), Err(Refusal::Claims), "a token without an end is good for ever");
    assert_eq!(judge(&without("nbf")), Ok(()));
    for exp in [json!("1900000000"), json!(null), json!(true), json!([now + 9])] {
        assert_eq!(judge(&with("exp", exp.clone())), Err(Refusal::Claims), "{exp}");
    }
    let twice = claims().to_string().replacen('{', r#"{"exp":99999999999,"#, 1);
    let header = json!({ "alg": "ES256", "kid": "k" });
    assert_eq!(judged(&all, &signer.sign_with(&header, &twice)), Err(Refusal::Claims), "exp comes twice");
    let any = JwtIssuer { audiences: Vec::new(), ..issuer(&signer) };
    assert_eq!(judged(&issuers(&[any]), &signer.sign(&without("aud"))), Ok(()));
}

#[test]
fn a_token_that_is_remembered_expires_all_the_same() {
    let signer = Signer::new();
    let (issuers, head) = (issuers(&[issuer(&signer)]), bearer(&signer.sign(&claims())));
    assert!(check(&issuers, &head, NOW).is_ok());
    let later = NOW + Duration::from_secs(300) + limits::TOKEN_SKEW;
    assert_eq!(check(&issuers, &head, later).unwrap_err(), Refusal::Expired);
    assert!(check(&issuers, &head, later - Duration::from_secs(1)).is_ok());
    assert_eq!(check(&issuers, &head, NOW - Duration::from_secs(100)).unwrap_err(), Refusal::NotYetValid);
}

#[test]
fn without_keys_no_token_passes_and_the_keys_count_once_they_are_there() {
    let signer = Signer::new();
    let cache = Rc::default();
    let of = |keys: Option<Arc<str>>| Issuers::new(&[&JwtIssuer { keys, ..issuer(&signer) }], [], &cache, &[]).unwrap();
    let token = signer.sign(&claims());
    for none in [None, Some("".into()), Some("{}".into()), Some("<html>".into())] {
        assert_eq!(judged(&of(none), &token), Err(Refusal::NoKeys));
    }
    assert_eq!(judged(&of(Some(r#"{"keys":[]}"#.into())), &token), Err(JoseError::UnknownKey.into()));
    assert_eq!(judged(&of(Some(signer.jwks())), &token), Ok(()), "what was remembered of other keys does not count");
    // Discovery begins anew, and the issuer is away.
    let known = of(Some(signer.jwks()));
    let again = |name: &str| {
        let unknown = JwtIssuer { keys: None, name: name.into(), ..issuer(&signer) };
        judged(&Issuers::new(&[&unknown], [], &cache, &[&known]).unwrap(), &token)
    };
    assert_eq!(again("shop/users issuer 0"), Ok(()));
    assert_eq!(again("shop/others issuer 0"), Err(Refusal::NoKeys), "another policy's");
    // Replaced: the token of the old key is refused at once.
    assert_eq!(judged(&of(Some(Signer::new().jwks())), &token), Err(JoseError::Signature.into()));
}

#[test]
fn a_request_has_one_token_wherever_it_stands() {
    let signer = Signer::new();
    let from = vec![
        TokenPlace::bearer(),
        TokenPlace::Header { name: "x-token".parse().unwrap(), prefix: "".into() },
        TokenPlace::Cookie("session".into()),
        TokenPlace::Query("access_token".into()),
    ];
    let issuers = issuers(&[JwtIssuer { from, ..issuer(&signer) }]);
    let (a, b) = (&signer.sign(&claims()), &signer.sign(&with("sub", json!("bob"))));
    let ask =
        |uri: &str, fields: &[(&str, &str)]| check(&issuers, &head(uri, fields), NOW).map(|shown| shown.is_some());
    for (uri, field) in [
        ("/", ("authorization", format!("bearer {a}"))),
        ("/", ("authorization", format!("BEARER   {a} "))),
        ("/", ("x-token", a.clone())),
        ("/", ("cookie", format!("theme=dark; session={a}"))),
        ("/", ("cookie", format!("session=\"{a}\""))),
        (&*format!("/x?a=1&access_token={a}"), ("x-other", "1".into())),
    ] {
        assert_eq!(ask(uri, &[(field.0, &field.1)]), Ok(true), "{field:?}");
    }
    let (bearer_a, bearer_b, cookie_b) = (&*format!("Bearer {a}"), &*format!("Bearer {b}"), &*format!("session={b}"));
    for (uri, fields) in [
        ("/".to_owned(), vec![("authorization", bearer_a), ("authorization", bearer_b)]),
        ("/".to_owned(), vec![("authorization", bearer_a), ("cookie", cookie_b)]),
        ("/".to_owned(), vec![("cookie", &*format!("session={a}; session={b}"))]),
        ("/".to_owned(), vec![("cookie", cookie_b), ("cookie", &*format!("session={a}"))]),
        (format!("/?access_token={b}"), vec![("authorization", bearer_a)]),
        (format!("/?access_token={a}&access_token={b}"), vec![]),
        (format!("/?access%5Ftoken={a}&access_token={b}"), vec![]),
    ] {
        assert_eq!(ask(&uri, &fields), Err(Refusal::Several), "{uri} {fields:?}");
    }
    assert_eq!(ask(&format!("/?access_token={a}"), &[("authorization", bearer_a)]), Ok(true), "the same token twice");
    let mut odd = head("/", &[]);
    odd.headers.insert("x-token", http::HeaderValue::from_bytes(b"ab\xff").unwrap());
    assert_eq!(check(&issuers, &odd, NOW).unwrap_err(), Refusal::Unreadable);
    assert_eq!(ask("/", &[("x-token", &"x".repeat(limits::TOKEN_BYTES_MAX + 1))]), Err(Refusal::TooLong));
}

#[test]
fn an_issuer_is_taken_from_its_own_places_and_by_its_own_keys() {
    let (one, two) = (Signer::new(), Signer::new());
    let session = vec![TokenPlace::Cookie("session".into())];
    let second = JwtIssuer { name: "two".into(), issuer: "two".into(), from: session, ..issuer(&two) };
    let all = issuers(&[issuer(&one), second]);
    let two_says = two.sign(&with("iss", json!("two")));
    assert_eq!(judged(&all, &two_says), Err(Refusal::Place), "a session is no bearer token");
    assert!(check(&all, &head("/", &[("cookie", &format!("session={two_says}"))]), NOW).is_ok());
    assert_eq!(judged(&all, &two.sign(&claims())), Err(JoseError::Signature.into()), "it says that it is of another");
    // Two policies name one issuer with keys of their own: rules of each take their own tokens.
    let other = JwtIssuer { name: "shop/other issuer 0".into(), keys: Some(two.jwks()), ..issuer(&two) };
    let all = issuers(&[issuer(&one), other]);
    let of = |signer: &Signer| {
        check(&all, &bearer(&signer.sign(&claims())), NOW).unwrap().unwrap().verified.token.issuers.clone()
    };
    assert_eq!(of(&one), ["shop/users issuer 0".into()]);
    assert_eq!(of(&two), ["shop/other issuer 0".into()]);
}

/// What the application gets.
fn handed(issuers: &Issuers, parts: Parts) -> (HeaderMap, Uri) {
    let shown = check(issuers, &parts, NOW).unwrap();
    let Parts { mut headers, mut uri, .. } = parts;
    issuers.hand_on(shown.as_ref(), &mut headers, &mut uri);
    (headers, uri)
}

#[test]
fn the_application_gets_claims_in_fields_that_no_client_can_forge_and_no_token_unless_told() {
    let signer = Signer::new();
    let told = |claim: &str, header: &str| ClaimHeader { claim: vec![claim.into()], header: header.parse().unwrap() };
    let claim_headers = vec![
        told("sub", "x-user"),
        told("groups", "x-groups"),
        told("exp", "x-exp"),
        told("none", "x-none"),
        told("evil", "x-evil"),
    ];
    let from = vec![TokenPlace::bearer(), TokenPlace::Cookie("session".into()), TokenPlace::Query("t".into())];
    let said = JwtIssuer { claim_headers, from, ..issuer(&signer) };
    let token = signer.sign(&with("evil", json!("a\r\nx-admin: true")));
    let forged = [
        ("x-user", "root"),
        ("X-Groups", "admin"),
        ("x-none", "1"),
        ("x_user", "root"),
        ("X-GROUPS_", "kept"),
        ("x-kept", "1"),
    ];
    let all = issuers(std::slice::from_ref(&said));
    let (headers, _) = handed(&all, head("/", &forged));
    let names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
    assert_eq!(names, ["x-groups_", "x-kept"], "without a token as well");
    let bearer_token = format!("Bearer {token}");
    let both = [("authorization", &*bearer_token), ("authorization", "Basic x")];
    let fields: Vec<_> = forged.into_iter().chain(both).collect();
    let (headers, _) = handed(&all, head("/", &fields));
    let of = |name: &str| headers.get(name).map(|value| value.to_str().unwrap());
    assert_eq!((of("x-user"), of("x-groups"), of("x-exp")), (Some("ann"), Some("dev,ops"), Some("1800000300")));
    assert_eq!((of("x-none"), of("x-evil"), of("x-kept")), (None, None, Some("1")));
    assert_eq!(headers.get_all(AUTHORIZATION).iter().collect::<Vec<_>>(), ["Basic x"], "what is no token stays");
    let cookies = format!("a=1; session={token};b=2");
    let (headers, uri) = handed(&all, head(&format!("/p%20q?x=%2F&t={token}&y"), &[("cookie", &cookies)]));
    assert_eq!((headers["cookie"].to_str().unwrap(), &*uri.to_string()), ("a=1; b=2", "/p%20q?x=%2F&y"));
    let (headers, uri) = handed(&all, head(&format!("/?t={token}"), &[("cookie", &format!("session={token}"))]));
    assert_eq!((headers.get("cookie"), &*uri.to_string()), (None, "/"));
    let all = issuers(&[JwtIssuer { forward: true, ..said }]);
    let (headers, _) = handed(&all, bearer(&token));
    assert!(headers.contains_key(AUTHORIZATION));
}
