//! `remora authz list`.

use super::{ListArgs, world::World};
use crate::{
    Look, Outcome,
    inspect::pretty,
    lint,
    output::Output,
    table::{Align, Table},
    text::{self, Line, Span, Style},
};
use remora_model::{
    Action, AuthorizationRule, ClaimCondition, FieldRule, Inbound, JwtCondition, MtlsMode, Operation, OperationExcept,
    Source, SourceExcept,
};
use serde_json::json;
use std::sync::Arc;

pub(super) async fn list(args: &ListArgs, look: Look) -> Outcome {
    let mut world = World::read(&args.objects, &args.to).await?;
    let (at, inbound) = world.resolve(&args.to)?;
    let odd = lint::odd(world.objects(), &world.mesh);
    // `spec.rules[1]: …` of `AuthorizationPolicy shop/web` is about `shop/web rule 1`.
    let why = |rule: &str| {
        let (policy, number) = rule.split_once(" rule ")?;
        let (object, start) = (format!("AuthorizationPolicy {policy}"), format!("spec.rules[{number}]: "));
        odd.iter().find_map(|(of, message)| message.strip_prefix(&start).filter(|_| *of == object).map(str::to_owned))
    };
    let rules = in_order(&inbound);
    if args.objects.output == Output::Json {
        let one = |rule: &&AuthorizationRule| json!({ "rule": &*rule.name, "action": word(rule.action), "from": from(rule), "to": to(rule), "never_decides": why(&rule.name), "place": world.place(&rule.name) });
        let value = json!({
            "to": at, "plaintext": inbound.mtls == MtlsMode::Permissive, "denies_the_rest": inbound.default_deny,
            "rules": rules.iter().map(one).collect::<Vec<_>>(),
        });
        return pretty(&value, true);
    }
    let mut lines = vec![Line::of(Style::Strong, &at).and(Style::Faint, format!("  {}", rest(&inbound)))];
    if !rules.is_empty() {
        use Align::Left;
        let mut table =
            Table::new(&[("RULE", Left), ("ACTION", Left), ("FROM", Left), ("TO", Left), ("NEVER DECIDES", Left)]);
        for rule in rules {
            let never = why(&rule.name).map_or_else(|| Span::new(Style::Faint, "-"), |why| Span::new(Style::Warn, why));
            table.row([(&*rule.name).into(), word(rule.action).into(), from(rule).into(), to(rule).into(), never]);
        }
        lines.extend(table.lines(usize::MAX));
    }
    Ok((text::render(&lines, look.coloured), true))
}

/// As they decide.
fn in_order(inbound: &Inbound) -> Vec<&AuthorizationRule> {
    let mut rules: Vec<&AuthorizationRule> = inbound.rules.iter().collect();
    rules.sort_by_key(|rule| match rule.action {
        Action::Deny => 0,
        Action::Allow => 1,
        Action::Audit => 2,
    });
    rules
}

fn rest(inbound: &Inbound) -> String {
    let plaintext = match inbound.mtls {
        MtlsMode::Strict => "mesh TLS only",
        MtlsMode::Permissive => "plaintext too",
    };
    let rest =
        if inbound.default_deny { "whom no Allow rule names is denied" } else { "whom no Deny rule names is allowed" };
    format!("{plaintext}; {rest}")
}

const fn word(action: Action) -> &'static str {
    match action {
        Action::Allow => "allow",
        Action::Deny => "deny",
        Action::Audit => "audit",
    }
}

/// Taken apart field by field, so that a condition that is new does not compile until it is shown.
fn from(rule: &AuthorizationRule) -> String {
    let one = |source: &Source| {
        let Source { identities, namespaces, service_accounts, trust_domains, authenticated, cidrs, jwt, except } =
            source;
        let SourceExcept { identities: not_identities, namespaces: not_namespaces, cidrs: not_cidrs } = except;
        let in_namespaces =
            |all: &[Arc<str>]| all.iter().map(|namespace| format!("ns/{namespace}")).collect::<Vec<_>>();
        let but = [texts(not_identities), in_namespaces(not_namespaces), texts(not_cidrs)].concat();
        conditions([
            texts(identities),
            in_namespaces(namespaces),
            service_accounts.iter().map(|account| format!("sa/{account}")).collect(),
            trust_domains.iter().map(|domain| format!("td/{domain}")).collect(),
            authenticated
                .iter()
                .map(|there| if *there { "authenticated" } else { "unauthenticated" }.to_owned())
                .collect(),
            texts(cidrs),
            jwt.iter().map(token).collect(),
            excepted(but),
        ])
    };
    any_of(rule.from.iter().map(one).collect())
}

fn to(rule: &AuthorizationRule) -> String {
    let one = |operation: &Operation| {
        let Operation { methods, paths, hosts, headers, grpc, ports, except } = operation;
        let OperationExcept { methods: not_methods, paths: not_paths } = except;
        let but = [texts(not_methods), texts(not_paths)].concat();
        let field = |field: &FieldRule| format!("{}:{}", field.name(), field.values().join(","));
        conditions([
            texts(methods),
            texts(paths),
            hosts.iter().map(|host| format!("host/{host}")).collect(),
            // All of them must hold.
            Some(headers.iter().map(field).collect::<Vec<_>>().join(" "))
                .filter(|text| !text.is_empty())
                .into_iter()
                .collect(),
            grpc.iter().map(|grpc| format!("grpc/{grpc}")).collect(),
            ports.iter().map(|port| format!("port/{port}")).collect(),
            excepted(but),
        ])
    };
    any_of(rule.to.iter().map(one).collect())
}

fn token(asked: &JwtCondition) -> String {
    let claim = |one: &ClaimCondition| format!("{}={}", one.claim.join("."), one.values.join(","));
    let claims = asked.claims.iter().map(claim).collect::<Vec<_>>().join(" ");
    format!("token of {}{}{claims}", asked.issuers.join(","), if claims.is_empty() { "" } else { " " })
}

fn excepted(all: Vec<String>) -> Vec<String> {
    if all.is_empty() { all } else { vec![format!("not {}", all.join("|"))] }
}

fn texts<T: ToString>(all: &[T]) -> Vec<String> {
    all.iter().map(ToString::to_string).collect()
}

/// Every list that is there must hold, by any of its entries.
fn conditions<const N: usize>(lists: [Vec<String>; N]) -> String {
    let lists: Vec<String> = lists.into_iter().filter(|list| !list.is_empty()).map(|list| list.join("|")).collect();
    if lists.is_empty() { "any".to_owned() } else { lists.join(" ") }
}

fn any_of(all: Vec<String>) -> String {
    if all.is_empty() { "any".to_owned() } else { all.join(" or ") }
}
