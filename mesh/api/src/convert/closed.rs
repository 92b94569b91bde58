//! Reading what may be newer or worse than its reader: the unit of refusal is the rule.
//!
//! In: a message. Out: the value, with every rule that cannot be read replaced by its closed form, and what was wrong with
//! each. What a rule is not around (a protocol, a mode, a field of the resource itself) closes the resource: a target is unknown,
//! a port denies everything, a backend has no endpoint. Only what says what it is about refuses the message. The proxy reads with
//! this; discovery runs the same checks before it sends, so that in one release nothing is ever replaced here.

use super::{
    At, IntoInvalid, InvalidMessage, LIST_MAX, Problem,
    bytes::{closed_tcp, closed_tls},
    inbound::without_rules as inbound_without_rules,
    name::target as read_target,
    outbound::without_rules as outbound_without_rules,
    required,
};
use crate::v1;
use remora_model::{
    Action, AuthorizationRule, Backend, BackendSettings, Inbound, InboundDefault, MtlsMode, Outbound, Parent, Protocol,
    RouteMatch, Rule, TcpRule, TlsRule,
};

/// A value, and what of the message could not be read.
pub type Read<T> = (T, Vec<InvalidMessage>);

/// Reads an outbound target. A rule that cannot be read answers 500; a match that cannot be read matches nothing.
pub fn outbound(message: v1::Outbound) -> Result<Read<Outbound>, InvalidMessage> {
    if v1::Protocol::try_from(message.protocol).is_err() {
        return unknown_outbound(&message, Problem::UnknownVariant.at("protocol"));
    }
    if message.parent.as_ref().is_some_and(|parent| v1::BackendKind::try_from(parent.kind).is_err()) {
        let problem = Problem::UnknownVariant.at("kind").within("parent", None);
        return unknown_outbound(&message, problem);
    }
    bounded("rules", message.rules.len())?;
    bounded("matches", message.matches.len())?;
    bounded("tls", message.tls.len())?;
    let mut problems = Vec::new();
    let mut rules = Vec::with_capacity(message.rules.len());
    for (index, rule) in message.rules.into_iter().enumerate() {
        let label = rule.label.clone();
        rules.push(Rule::try_from(rule).unwrap_or_else(|problem| {
            problems.push(problem.into_invalid("rules", Some(index)));
            Rule::closed(super::name(label).unwrap_or_else(|_| "unreadable".into()))
        }));
    }
    let mut matches = Vec::with_capacity(message.matches.len());
    for (index, one) in message.matches.into_iter().enumerate() {
        match RouteMatch::try_from(one) {
            Ok(one) if one.rule < rules.len() => matches.push(one),
            Ok(_) => problems.push(Problem::RuleIndex.at("rule").into_invalid("matches", Some(index))),
            Err(problem) => problems.push(problem.into_invalid("matches", Some(index))),
        }
    }
    let rest = outbound_without_rules(&message.target, message.parent, message.outside, message.protocol)?;
    let tls = tls(message.tls, &mut problems);
    let tcp = message.tcp.map(|rule| {
        let label = rule.label.clone();
        TcpRule::try_from(rule).unwrap_or_else(|problem| {
            problems.push(problem.within("tcp", None));
            closed_tcp(label)
        })
    });
    Ok((Outbound { matches, rules, tls, tcp, ..rest }, problems))
}

/// A rule that cannot be read refuses the connections that it would have taken, as far as that can be read.
fn tls(rules: Vec<v1::TlsRule>, problems: &mut Vec<InvalidMessage>) -> Vec<TlsRule> {
    let mut read = Vec::with_capacity(rules.len());
    for (index, rule) in rules.into_iter().enumerate() {
        let (label, hostnames) = (rule.label.clone(), rule.hostnames.clone());
        read.push(TlsRule::try_from(rule).unwrap_or_else(|problem| {
            problems.push(problem.into_invalid("tls", Some(index)));
            closed_tls(label, &hostnames)
        }));
    }
    read
}

/// Reads a backend.
pub fn backend(message: v1::Backend) -> Result<Read<Backend>, InvalidMessage> {
    let locality = message.settings.as_ref().map_or(0, |settings| settings.locality);
    if v1::Protocol::try_from(message.protocol).is_err() {
        unknown_backend(message, Problem::UnknownVariant.at("protocol"))
    } else if v1::Locality::try_from(locality).is_err() {
        unknown_backend(message, Problem::UnknownVariant.at("locality").within("settings", None))
    } else {
        Ok((message.try_into()?, Vec::new()))
    }
}

/// Reads an inbound port. A deny rule that cannot be read denies everything, an allow rule allows nothing.
pub fn inbound(message: v1::Inbound) -> Result<Read<Inbound>, InvalidMessage> {
    let read = any_port(message)?;
    if read.0.port == 0 { Err(Problem::OutOfRange.at("port")) } else { Ok(read) }
}

/// Reads what holds for the other ports.
pub fn inbound_default(message: v1::InboundDefault) -> Result<Read<InboundDefault>, InvalidMessage> {
    let (rest, problems) = any_port(message.inbound.ok_or_else(|| Problem::Missing.at("inbound"))?).at("inbound")?;
    let bare = v1::Inbound { rules: Vec::new(), ..(&rest).into() };
    let checked = InboundDefault::try_from(v1::InboundDefault { inbound: Some(bare), declared: message.declared })?;
    let inbound = Inbound { rules: rest.rules, ..checked.inbound };
    let within = |problem: InvalidMessage| problem.into_invalid("inbound", None);
    Ok((InboundDefault { inbound, declared: checked.declared }, problems.into_iter().map(within).collect()))
}

/// A target of which something is said that this version does not know: it may go nowhere.
pub fn unknown_outbound(message: &v1::Outbound, problem: InvalidMessage) -> Result<Read<Outbound>, InvalidMessage> {
    let target = read_target(&message.target).at("target")?;
    Ok((Outbound::bare(target, Parent::Unknown), vec![problem]))
}

/// A backend of which something is said that this version does not know: it has no endpoint.
pub fn unknown_backend(message: v1::Backend, problem: InvalidMessage) -> Result<Read<Backend>, InvalidMessage> {
    let (protocol, settings) = (Protocol::Detect, BackendSettings::default());
    Ok((Backend { id: required("id", message.id)?, protocol, settings, endpoints: Vec::new() }, vec![problem]))
}

/// A port of which something is said that this version does not know: it denies everything.
pub fn unknown_inbound(message: v1::Inbound, problem: InvalidMessage) -> Result<Read<Inbound>, InvalidMessage> {
    let mtls = v1::MtlsMode::Strict.into();
    let rest = v1::Inbound { rules: Vec::new(), mtls, protocol: v1::Protocol::Unspecified.into(), ..message };
    let rules = vec![AuthorizationRule::deny_everything("unknown to this version".into())];
    let inbound = Inbound { rules, default_deny: true, mtls: MtlsMode::Strict, ..inbound_without_rules(rest)? };
    Ok((inbound, vec![problem]))
}

/// The other ports, likewise.
pub fn unknown_inbound_default(
    message: v1::InboundDefault,
    problem: InvalidMessage,
) -> Result<Read<InboundDefault>, InvalidMessage> {
    let inbound = message.inbound.ok_or_else(|| Problem::Missing.at("inbound"))?;
    let (inbound, problems) = unknown_inbound(inbound, problem).at("inbound")?;
    let bare = v1::Inbound { rules: Vec::new(), ..(&inbound).into() };
    let checked = InboundDefault::try_from(v1::InboundDefault { inbound: Some(bare), declared: message.declared })?;
    Ok((InboundDefault { inbound, ..checked }, problems))
}

fn any_port(mut message: v1::Inbound) -> Result<Read<Inbound>, InvalidMessage> {
    if v1::MtlsMode::try_from(message.mtls).is_err() {
        return unknown_inbound(message, Problem::UnknownVariant.at("mtls"));
    }
    if v1::Protocol::try_from(message.protocol).is_err() {
        return unknown_inbound(message, Problem::UnknownVariant.at("protocol"));
    }
    let rules = std::mem::take(&mut message.rules);
    bounded("rules", rules.len())?;
    let mut inbound = inbound_without_rules(message)?;
    let mut problems = Vec::new();
    for (index, rule) in rules.into_iter().enumerate() {
        let (name, action, dry_run) = (rule.name.clone(), v1::Action::try_from(rule.action), rule.dry_run);
        match AuthorizationRule::try_from(rule) {
            Ok(rule) => {
                // An allow rule means that the rest is denied, whether its sender says so or not.
                inbound.default_deny |= rule.action == Action::Allow && rule.decides();
                inbound.rules.push(rule);
            }
            Err(problem) => {
                problems.push(problem.into_invalid("rules", Some(index)));
                let dry_run = dry_run && matches!(action, Ok(v1::Action::Allow | v1::Action::Deny));
                let harmless = dry_run || matches!(action, Ok(v1::Action::Allow | v1::Action::Audit));
                // That an allow policy is there, `default_deny` says.
                if harmless {
                    inbound.default_deny |= !dry_run && action == Ok(v1::Action::Allow);
                } else {
                    let name = super::name(name).unwrap_or_else(|_| "unreadable".into());
                    inbound.rules.push(AuthorizationRule::deny_everything(name));
                }
            }
        }
    }
    Ok((inbound, problems))
}

fn bounded(field: &'static str, length: usize) -> Result<(), InvalidMessage> {
    if length > LIST_MAX { Err(Problem::TooMany(length, LIST_MAX).at(field)) } else { Ok(()) }
}
