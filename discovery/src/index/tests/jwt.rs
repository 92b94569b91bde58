//! Issuers of tokens, their keys, and rules that ask for tokens.

use super::*;
use remora_model::{Inbound, TokenPlace};

const KEYS: &str =
    r#"{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"k","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;

fn policy(name: &str, namespace: &str, spec: &str) -> String {
    format!(
        "---
apiVersion: remora.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {{ name: {name}, namespace: {namespace} }}
spec: {{ {spec} }}
"
    )
}

fn issuer(text: &str) -> String {
    format!("{{ issuer: {text}, jwks: {{ inline: '{KEYS}' }} }}")
}

fn port(world: &Snapshot) -> Inbound {
    world.inbound("shop", "api-1", 8000).unwrap()
}

/// The issuers that each rule means, by name.
fn meant(inbound: &Inbound) -> Vec<String> {
    let conditions = inbound.rules.iter().flat_map(|rule| &rule.from).filter_map(|source| source.jwt.as_ref());
    conditions.map(|asked| asked.issuers.join(", ")).collect()
}

#[test]
fn what_a_policy_says_of_an_issuer_is_what_proxies_are_told() {
    let spec = format!(
        "jwt: [{{ issuer: idp, audiences: [a, b], jwks: {{ inline: '{KEYS}' }}, forward: true,
           from: [{{ header: {{ name: X-T, prefix: 'T ' }} }}, {{ cookie: c }}, {{ query: q }}],
           claimHeaders: [{{ claim: [realm, roles], header: X-Roles }}] }}, {}],
         rules: [{{ from: [{{ jwt: {{ issuers: [idp], claims: [{{ claim: [groups], values: [x] }}] }} }}] }}, {{ from: [{{ jwt: {{}} }}] }}]",
        issuer("two")
    );
    let world = with(&policy("p", "shop", &spec));
    assert_eq!(world.reports, Vec::<String>::new());
    let inbound = port(&world);
    let [one, two] = &inbound.issuers[..] else { panic!("{inbound:?}") };
    assert_eq!(
        (&*one.name, &*one.issuer, one.audiences.join(" "), one.forward),
        ("shop/p issuer 0", "idp", "a b".into(), true)
    );
    assert_eq!(one.keys.as_deref().map(|keys| keys.contains("11qYAY")), Some(true));
    let header = TokenPlace::Header { name: "x-t".parse().unwrap(), prefix: "T ".into() };
    assert_eq!(one.from, [header, TokenPlace::Cookie("c".into()), TokenPlace::Query("q".into())]);
    assert_eq!(
        (one.claim_headers[0].claim.join("."), one.claim_headers[0].header.as_str()),
        ("realm.roles".into(), "x-roles")
    );
    assert_eq!((&*two.from, two.forward, two.dry_run), (&[TokenPlace::bearer()][..], false, false));
    assert_eq!(meant(&inbound), ["shop/p issuer 0", "shop/p issuer 0, shop/p issuer 1"]);
    let dry = with(&policy("p", "shop", &format!("mode: DryRun, jwt: [{}], rules: []", issuer("idp"))));
    assert!(port(&dry).issuers[0].dry_run);
}

#[test]
fn an_issuer_that_cannot_be_read_closes_its_policy_whatever_it_does() {
    let inline = format!("jwks: {{ inline: '{KEYS}' }}");
    for (jwt, said) in [
        (format!("{{ {inline} }}"), "spec.jwt[0].issuer: is empty"),
        ("{ issuer: a, jwks: {} }".to_owned(), "spec.jwt[0].jwks: has neither inline nor url"),
        ("{ issuer: a, jwks: { inline: junk } }".to_owned(), "spec.jwt[0].jwks.inline: is no JWKS"),
        (
            "{ issuer: a, jwks: { inline: '{\"keys\":[]}' } }".to_owned(),
            "spec.jwt[0].jwks.inline: has no key that checks",
        ),
        ("{ issuer: a, jwks: { url: 'http://a/' } }".to_owned(), "spec.jwt[0].jwks.url: \"http://a/\" is not https"),
        (
            "{ issuer: a, jwks: { url: 'https://a/' } }".to_owned(),
            "spec.jwt[0].jwks.url: \"a\" is no host that keys may be fetched from",
        ),
        (format!("{{ issuer: a, {inline}, audience: [b] }}"), "spec.jwt[0].audience: there is no such field"),
        (
            format!("{{ issuer: a, {inline}, from: [{{ cookie: 'a=b' }}] }}"),
            "spec.jwt[0].from[0].cookie: \"a=b\" is no name of a cookie",
        ),
        (
            format!("{{ issuer: a, {inline}, from: [{{ header: {{ name: cookie }} }}] }}"),
            "spec.jwt[0].from[0].header.name: say `cookie`",
        ),
        (
            format!("{{ issuer: a, {inline}, claimHeaders: [{{ claim: [s], header: Host }}] }}"),
            "spec.jwt[0].claimHeaders[0].header: \"Host\" has a meaning",
        ),
        (
            format!("{{ issuer: a, {inline}, claimHeaders: [{{ claim: [s], header: x-remora-a }}] }}"),
            "spec.jwt[0].claimHeaders[0].header: \"x-remora-a\" has a meaning",
        ),
        (format!("{}, {}", issuer("a"), issuer("a")), "spec.jwt[1].issuer: \"a\" is named twice"),
    ] {
        for action in ["Allow", "Deny", "Audit"] {
            let world = with(&policy("p", "shop", &format!("action: {action}, jwt: [{jwt}], rules: [{{ from: [] }}]")));
            assert!(world.reports[0].contains(said), "{said}: {:?}", world.reports);
            assert!(world.reports[0].ends_with("; it denies everything"), "{:?}", world.reports);
            let inbound = port(&world);
            let denies = remora_model::AuthorizationRule::deny_everything("shop/p".into());
            assert_eq!((inbound.rules, inbound.issuers.len()), (vec![denies], 0), "{said}");
        }
    }
}

#[test]
fn a_rule_means_issuers_of_its_own_policy_and_of_the_meshs_where_that_names_none_of_the_name() {
    let central = policy("idp", "remora", &format!("action: Audit, jwt: [{}, {}]", issuer("idp"), issuer("other")));
    let asks = |jwt: &str| format!("rules: [{{ from: [{{ jwt: {jwt} }}] }}]");
    let own = |jwt: &str| format!("jwt: [{}], {}", issuer("idp"), asks(jwt));
    for (spec, expected) in [
        (own("{ issuers: [idp] }"), "shop/p issuer 0"),
        (own("{ issuers: [idp, other] }"), "shop/p issuer 0, remora/idp issuer 1"),
        (own("{}"), "shop/p issuer 0"),
        (asks("{ issuers: [other] }"), "remora/idp issuer 1"),
        (asks("{}"), "remora/idp issuer 0, remora/idp issuer 1"),
    ] {
        let world = with(&format!("{central}{}", policy("p", "shop", &spec)));
        assert_eq!(world.reports, Vec::<String>::new());
        let inbound = port(&world);
        assert_eq!(meant(&inbound), [expected], "{spec}");
        let sent: Vec<_> = inbound.issuers.iter().map(|one| &*one.name).collect();
        assert!(expected.split(", ").all(|name| sent.contains(&name)), "each is sent as well: {sent:?}");
    }
    for (spec, said) in [
        (asks("{ issuers: [third] }"), "spec.rules[0].from[0].jwt.issuers[0]: \"third\" is named neither"),
        (asks("{ issuer: [idp] }"), "spec.rules[0].from[0].jwt.issuer: there is no such field"),
    ] {
        let world = with(&format!("{central}{}", policy("p", "shop", &spec)));
        assert!(world.reports[0].contains(said), "{:?}", world.reports);
        assert!(port(&world).default_deny && port(&world).rules.is_empty());
    }
    let nobody = with(&policy("p", "shop", &asks("{}")));
    assert!(
        nobody.reports[0].contains("no issuer is named in spec.jwt, nor by a policy of the mesh"),
        "{:?}",
        nobody.reports
    );
    // Another namespace's issuers mean nothing here.
    let elsewhere = policy("idp", "bank", &format!("action: Audit, jwt: [{}]", issuer("idp")));
    assert!(!with(&format!("{elsewhere}{}", policy("p", "shop", &asks("{ issuers: [idp] }")))).reports.is_empty());
}

#[test]
fn keys_of_a_url_are_wanted_while_a_policy_names_it_and_reach_proxies_when_they_are_there() {
    let mesh = Mesh { jwks_hosts: vec!["idp.example".parse().unwrap()], ..mesh() };
    let spec = "jwt: [{ issuer: idp, jwks: { url: 'https://idp.example/keys' } }], rules: [{ from: [{ jwt: {} }] }]";
    let text = format!("{WORLD}{}", policy("p", "shop", spec));
    let mut world = World::new(mesh);
    let objects = parse(&text, "test.yaml").whole().unwrap();
    world.apply(objects.iter().cloned().map(Change::Put), &mut |_, _| {});
    let url = JwksUrl::parse("https://idp.example/keys").unwrap();
    assert_eq!(world.wanted_keys().collect::<Vec<_>>(), [&url]);
    let asked = Arc::new(Asked::Inbound(("shop".into(), "api-1".into()), 8000));
    let known = |answer: &Answer| format!("{answer:?}").contains("11qYAY");
    assert!(!known(&world.ask(&asked)));
    let status = |world: &mut World| {
        world.settle();
        format!("{:?}", world.statuses().collect::<Vec<_>>())
    };
    assert!(status(&mut world).contains("its keys are not known: they are being fetched; its tokens are refused"));
    let mut told = Vec::new();
    let keys = crate::objects::jwks::useful(KEYS).unwrap();
    world.keys(&url, Some(Ok(keys.clone())), &mut |_, answer| told.push(known(&answer)));
    assert_eq!(told, [true], "who asked is told");
    assert!(!status(&mut world).contains("its keys are not known"));
    world.keys(&url, Some(Ok(keys)), &mut |_, _| panic!("they are the same"));
    world.keys(&url, Some(Err("answers 503".into())), &mut |_, _| {});
    assert!(status(&mut world).contains("its keys are not known: answers 503"));
    let policy = objects.into_iter().find(|object| object.kind() == "AuthorizationPolicy").unwrap();
    world.apply([Change::Gone(policy)], &mut |_, _| {});
    assert_eq!(world.wanted_keys().count(), 0);
}

#[test]
fn issuers_in_dry_run_take_nothing_from_those_that_decide() {
    let many = |mode: &str, name: &str, count: usize| {
        let all: Vec<_> = (0..count).map(|n| issuer(&format!("{name}{n}"))).collect();
        policy(name, "shop", &format!("action: Audit, jwt: [{}]{mode}", all.join(", ")))
    };
    // An Audit policy has no dry run: it decides nothing but by its issuers.
    let tried = |name: &str, count| many("", name, count).replace("action: Audit", "action: Deny, mode: DryRun");
    let world = with(&format!("{}{}{}", tried("a", 16), tried("b", 16), many("", "c", 2)));
    let inbound = port(&world);
    let decide: Vec<_> = inbound.issuers.iter().filter(|one| !one.dry_run).map(|one| &*one.issuer).collect();
    assert_eq!((decide, inbound.issuers.len(), inbound.rules.len()), (vec!["c0", "c1"], 16, 0));
    let world = with(&format!("{}{}", many("", "a", 16), many("", "b", 1)));
    assert_eq!(&*port(&world).rules[0].name, "too many issuers");
    // Nor may a rule that decides rest on one.
    let central = tried("idp", 1).replace("namespace: shop", "namespace: remora");
    let asks = policy("p", "shop", "rules: [{ from: [{ jwt: { issuers: [idp0] } }] }]");
    let world = with(&format!("{central}{asks}"));
    assert!(world.reports.iter().any(|line| line.contains("\"idp0\" is named neither")), "{:?}", world.reports);
}
