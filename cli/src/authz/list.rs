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
use remora_model::{Action, AuthorizationRule, Inbound, MtlsMode, Operation, Source};
use serde_json::json;

pub(super) async fn list(args: &ListArgs, look: Look) -> Outcome {
    let mut world = World::read(&args.objects, &args.to).await?;
    let (at, inbound) = world.resolve(&args.to)?;
    let mesh = remora_discovery::index::Mesh {
        namespace: args.objects.control_plane.namespace.clone(),
        ..remora_discovery::index::Mesh::default()
    };
    let odd = lint::odd(world.objects(), &mesh);
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
    let one = |Source { identities, namespaces, cidrs }: &Source| {
        let identities = identities.iter().map(ToString::to_string);
        let namespaces = namespaces.iter().map(|namespace| format!("ns/{namespace}"));
        conditions([identities.collect(), namespaces.collect(), cidrs.iter().map(ToString::to_string).collect()])
    };
    any_of(rule.from.iter().map(one).collect())
}

fn to(rule: &AuthorizationRule) -> String {
    let one = |Operation { methods, paths }: &Operation| {
        let methods = methods.iter().map(ToString::to_string).collect();
        conditions([methods, paths.iter().map(ToString::to_string).collect()])
    };
    any_of(rule.to.iter().map(one).collect())
}

/// Every list that is there must hold, by any of its entries.
fn conditions<const N: usize>(lists: [Vec<String>; N]) -> String {
    let lists: Vec<String> = lists.into_iter().filter(|list| !list.is_empty()).map(|list| list.join("|")).collect();
    if lists.is_empty() { "any".to_owned() } else { lists.join(" ") }
}

fn any_of(all: Vec<String>) -> String {
    if all.is_empty() { "any".to_owned() } else { all.join(" or ") }
}
