//! `remora authz explain`.

use super::{ExplainArgs, world::World};
use crate::{
    Look, Outcome,
    inspect::pretty,
    output::Output,
    text::{self, Line, Style},
};
use http::HeaderMap;
use remora_jose::claims::Verified;
use remora_model::{Action, AuthorizationRule, Inbound, JwtIssuer};
use remora_policy::{Act, Caller, Compiled, Denial, Noted, Notes};
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// What came of it.
pub(super) struct Explained {
    pub(super) allowed: bool,
    /// One word.
    decision: &'static str,
    /// Which rule, if one.
    rule: Option<String>,
    why: String,
    /// What would be needed, one line each.
    needs: Vec<String>,
    /// Rules that decide nothing and match.
    noted: Vec<String>,
}

pub(super) async fn explain(args: &ExplainArgs, look: Look) -> Outcome {
    let mut world = World::read(&args.objects, &args.to).await?;
    let (at, inbound) = world.resolve(&args.to)?;
    let caller = Caller { identity: args.from.identity(&args.objects.trust_domain)?, address: args.address };
    let headers: HeaderMap = args.header.iter().cloned().collect();
    let token = args.token.as_ref().map(|claims| said_by(claims, &inbound));
    let (host, tokens) = (args.host.as_deref(), [token.as_ref(), None]);
    let act = match (&args.method, &args.path) {
        (Some(method), Some(path)) if !args.bytes => Act::Request { method, path, host, headers: &headers, tokens },
        _ => Act::Bytes,
    };
    let mut explained = judge(&inbound, &caller, act);
    if world.default_is_assumed && explained.decision == "default" {
        explained.why.push_str("; that nothing else holds by default is taken for granted (--default-inbound-policy)");
    }
    let place = explained.rule.as_deref().and_then(|rule| world.place(rule));
    let who = caller.identity.as_ref().map_or_else(|| "a caller without a certificate".to_owned(), ToString::to_string);
    if args.objects.output == Output::Json {
        return pretty(&json(&explained, &who, &at, act, place.as_deref()), explained.allowed);
    }
    let (style, word) = if explained.allowed { (Style::Good, "allowed") } else { (Style::Bad, "denied") };
    let mut lines = vec![Line::of(style, word).and(Style::Plain, format!("  {who} → {at}  {}", words(act)))];
    let place = place.map(|place| format!(" ({place})")).unwrap_or_default();
    lines.push(Line::of(Style::Plain, format!("  {}{place}", explained.why)));
    lines.extend(explained.needs.iter().map(|need| Line::of(Style::Faint, format!("  needed: {need}"))));
    lines.extend(explained.noted.iter().map(|noted| Line::of(Style::Faint, format!("  noted:  {noted}"))));
    Ok((text::render(&lines, look.coloured), explained.allowed))
}

fn words(act: Act<'_>) -> String {
    match act {
        Act::Bytes => "bytes".to_owned(),
        Act::Request { method, path, .. } => format!("{method} {path}"),
    }
}

fn json(explained: &Explained, who: &str, at: &str, act: Act<'_>, place: Option<&str>) -> Value {
    let Explained { allowed, decision, rule, why, needs, noted } = explained;
    json!({
        "allowed": allowed, "decision": decision, "rule": rule, "place": place, "why": why, "needs": needs, "noted": noted,
        "from": who, "to": at, "act": words(act),
    })
}

/// A token as its issuer would have it: it is of all issuers of the port that have its `iss`.
fn said_by(claims: &Map<String, Value>, inbound: &Inbound) -> Verified {
    let is = |issuer: &&JwtIssuer| claims.get("iss").and_then(Value::as_str) == Some(&*issuer.issuer);
    let issuers = inbound.issuers.iter().filter(is).map(|issuer| Arc::clone(&issuer.name)).collect();
    Verified { issuers, claims: claims.clone() }
}

/// Asks the function that proxies run.
pub(super) fn judge(inbound: &Arc<Inbound>, caller: &Caller, act: Act<'_>) -> Explained {
    let compiled = Compiled::new(Arc::clone(inbound));
    let decision = compiled.judge(caller, inbound.port, act);
    let noting: Vec<Notes<'_>> = compiled.noting().collect();
    let noted = decision.noted.iter().filter_map(|(index, noted)| {
        Some(match (noting.get(*index)?, noted) {
            (Notes::Audit(name), Noted::Ambiguous) => format!("{name} may mean it: its path has no canonical form"),
            (Notes::Audit(name), _) => format!("{name} audits it"),
            (Notes::DryRun(name), Noted::Denies) => format!("{name} would deny it, if it were not in dry run"),
            (Notes::DryRun(name), Noted::Allows) => format!("{name} would allow it, if it were not in dry run"),
            (Notes::DryRun(name), Noted::Ambiguous) => {
                format!("{name} would refuse it, if it were not in dry run: its path has no canonical form")
            }
            (Notes::DryRun(name), Noted::Matched) => {
                format!("{name} would make no difference, if it were not in dry run")
            }
        })
    });
    let noted = noted.collect();
    let explained = |allowed, decision, rule: Option<&str>, why: String, needs| Explained {
        allowed,
        decision,
        rule: rule.map(str::to_owned),
        why,
        needs,
        noted,
    };
    match decision.outcome {
        Ok(Some(rule)) => explained(true, "allowed", Some(rule), format!("by {rule}"), Vec::new()),
        Ok(None) => explained(
            true,
            "default",
            None,
            "no Allow policy selects this port, and no Deny rule matches".to_owned(),
            Vec::new(),
        ),
        Err(denial) => {
            let (word, rule, needs) = match &denial {
                Denial::Denied { rule } => (
                    "denied",
                    Some(Arc::clone(rule)),
                    vec![format!("an exception in {rule}, for a Deny rule counts before every Allow rule")],
                ),
                Denial::Plaintext { .. } => (
                    "plaintext",
                    None,
                    vec!["a caller in the mesh, or a MeshTLSPolicy that is Permissive here".to_owned()],
                ),
                Denial::Ambiguous(_) => ("ambiguous", None, vec!["a path in its canonical form".to_owned()]),
                Denial::NotAllowed { .. } => ("not_allowed", None, needed(inbound, caller, act)),
            };
            explained(false, word, rule.as_deref(), denial.to_string(), needs)
        }
    }
}

/// What each allow rule lacks, found by asking it without one of its halves.
fn needed(inbound: &Inbound, caller: &Caller, act: Act<'_>) -> Vec<String> {
    let allows = inbound.rules.iter().filter(|rule| rule.action == Action::Allow && rule.decides());
    let mut needs: Vec<String> = allows
        .map(|rule| {
            let takes = |rule: AuthorizationRule| {
                let alone = Inbound { rules: vec![rule], default_deny: true, ..inbound.clone() };
                Compiled::new(Arc::new(alone)).allows(caller, inbound.port, act).is_ok()
            };
            let names_caller = takes(AuthorizationRule { to: Vec::new(), ..rule.clone() });
            let takes_act = takes(AuthorizationRule { from: Vec::new(), ..rule.clone() });
            match (names_caller, takes_act) {
                (true, _) => format!("{} names this caller, and does not take {}", rule.name, words(act)),
                (false, true) => format!("{} takes {}, and does not name this caller", rule.name, words(act)),
                (false, false) => format!("{} neither names this caller nor takes {}", rule.name, words(act)),
            }
        })
        .collect();
    if needs.is_empty() {
        needs.push("an Allow rule: the policies that select this port have none that can be read".to_owned());
    }
    needs
}
