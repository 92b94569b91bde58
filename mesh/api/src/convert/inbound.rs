//! Inbound ports and their authorisation rules.

use super::{
    At, InvalidMessage, Problem, conditions, known, list, name,
    name::{protocol, to_protocol},
    port, traffic,
};
use crate::v1;
use remora_model::{
    Action, AuthorizationRule, Inbound, InboundDefault, MtlsMode, Operation, PathPattern, Source, SpiffeId, Traffic,
    TrustDomain, Unidentified, policy,
};

impl From<&Inbound> for v1::Inbound {
    fn from(inbound: &Inbound) -> Self {
        let mtls = match inbound.mtls {
            MtlsMode::Permissive => v1::MtlsMode::Permissive,
            MtlsMode::Strict => v1::MtlsMode::Strict,
        };
        Self {
            port: inbound.port.into(),
            parent: inbound.parent.to_string(),
            protocol: to_protocol(inbound.protocol),
            mtls: mtls.into(),
            rules: inbound.rules.iter().map(Into::into).collect(),
            default_deny: inbound.default_deny,
            ending: inbound.ending,
            trust_domain: inbound.trust_domain.to_string(),
            rate_limits: inbound.traffic.limits.iter().map(Into::into).collect(),
            faults: inbound.traffic.faults.iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<v1::Inbound> for Inbound {
    type Error = InvalidMessage;

    fn try_from(message: v1::Inbound) -> Result<Self, InvalidMessage> {
        let inbound = strict(message)?;
        if inbound.port == 0 { Err(Problem::OutOfRange.at("port")) } else { Ok(inbound) }
    }
}

impl From<&InboundDefault> for v1::InboundDefault {
    fn from(default: &InboundDefault) -> Self {
        Self {
            inbound: Some((&default.inbound).into()),
            declared: default.declared.iter().map(|port| (*port).into()).collect(),
        }
    }
}

impl TryFrom<v1::InboundDefault> for InboundDefault {
    type Error = InvalidMessage;

    fn try_from(message: v1::InboundDefault) -> Result<Self, InvalidMessage> {
        let inbound = strict(message.inbound.ok_or_else(|| Problem::Missing.at("inbound"))?).at("inbound")?;
        let declared = list("declared", message.declared, port)?;
        if inbound.port != 0 {
            return Err(Problem::OutOfRange.at("port")).at("inbound");
        }
        if !declared.is_sorted_by(|a, b| a < b) {
            return Err(Problem::Order.at("declared"));
        }
        Ok(Self { inbound, declared })
    }
}

/// A port, 0 included, with rules, limits and faults of which each can be read.
fn strict(mut message: v1::Inbound) -> Result<Inbound, InvalidMessage> {
    let rules = list("rules", std::mem::take(&mut message.rules), AuthorizationRule::try_from)?;
    let traffic = traffic::strict(traffic::taken(&mut message))?;
    Ok(Inbound { rules, traffic, ..without_rules(message)? })
}

/// All but the rules, limits and faults.
pub(super) fn without_rules(message: v1::Inbound) -> Result<Inbound, InvalidMessage> {
    let mtls = match v1::MtlsMode::try_from(message.mtls).map_err(|_| Problem::UnknownVariant).at("mtls")? {
        v1::MtlsMode::Unspecified => return Err(Problem::Missing.at("mtls")),
        v1::MtlsMode::Permissive => MtlsMode::Permissive,
        v1::MtlsMode::Strict => MtlsMode::Strict,
    };
    Ok(Inbound {
        port: u16::try_from(message.port).map_err(|_| Problem::OutOfRange).at("port")?,
        parent: name(message.parent).at("parent")?,
        protocol: protocol(message.protocol).at("protocol")?,
        mtls,
        rules: Vec::new(),
        default_deny: message.default_deny,
        ending: message.ending,
        trust_domain: TrustDomain::new(&message.trust_domain).map_err(Problem::from).at("trust_domain")?,
        traffic: Traffic::default(),
    })
}

impl From<&AuthorizationRule> for v1::AuthorizationRule {
    fn from(rule: &AuthorizationRule) -> Self {
        let action = match rule.action {
            Action::Allow => v1::Action::Allow,
            Action::Deny => v1::Action::Deny,
            Action::Audit => v1::Action::Audit,
        };
        Self {
            name: rule.name.to_string(),
            action: action.into(),
            from: rule.from.iter().map(Into::into).collect(),
            to: rule.to.iter().map(Into::into).collect(),
            ignores_unidentified: rule.unidentified == Unidentified::Ignore,
            conditions: conditions([rule.from.is_empty(), rule.to.is_empty()]),
        }
    }
}

impl TryFrom<v1::AuthorizationRule> for AuthorizationRule {
    type Error = InvalidMessage;

    fn try_from(message: v1::AuthorizationRule) -> Result<Self, InvalidMessage> {
        let action = match v1::Action::try_from(message.action).map_err(|_| Problem::UnknownVariant).at("action")? {
            v1::Action::Unspecified => return Err(Problem::Missing.at("action")),
            v1::Action::Allow => Action::Allow,
            v1::Action::Deny => Action::Deny,
            v1::Action::Audit => Action::Audit,
        };
        known(message.conditions, [message.from.is_empty(), message.to.is_empty()])?;
        let unidentified = if message.ignores_unidentified { Unidentified::Ignore } else { Unidentified::Match };
        Ok(Self {
            name: name(message.name).at("name")?,
            action,
            unidentified,
            from: list("from", message.from, Source::try_from)?,
            to: list("to", message.to, Operation::try_from)?,
        })
    }
}

impl From<&Source> for v1::Source {
    fn from(source: &Source) -> Self {
        Self {
            identities: source.identities.iter().map(ToString::to_string).collect(),
            namespaces: source.namespaces.iter().map(ToString::to_string).collect(),
            cidrs: source.cidrs.iter().map(ToString::to_string).collect(),
            conditions: conditions([
                source.identities.is_empty(),
                source.namespaces.is_empty(),
                source.cidrs.is_empty(),
            ]),
        }
    }
}

impl TryFrom<v1::Source> for Source {
    type Error = InvalidMessage;

    fn try_from(message: v1::Source) -> Result<Self, InvalidMessage> {
        let none = [message.identities.is_empty(), message.namespaces.is_empty(), message.cidrs.is_empty()];
        known(message.conditions, none)?;
        Ok(Self {
            identities: list("identities", message.identities, |id| SpiffeId::parse(&id).map_err(Problem::from))?,
            namespaces: list("namespaces", message.namespaces, name)?,
            cidrs: super::networks("cidrs", message.cidrs)?,
        })
    }
}

impl From<&Operation> for v1::Operation {
    fn from(operation: &Operation) -> Self {
        Self {
            methods: operation.methods.iter().map(ToString::to_string).collect(),
            paths: operation.paths.iter().map(ToString::to_string).collect(),
            conditions: conditions([operation.methods.is_empty(), operation.paths.is_empty()]),
        }
    }
}

impl TryFrom<v1::Operation> for Operation {
    type Error = InvalidMessage;

    fn try_from(message: v1::Operation) -> Result<Self, InvalidMessage> {
        let path = |text: String| PathPattern::parse(&name(text)?).map_err(Problem::from);
        known(message.conditions, [message.methods.is_empty(), message.paths.is_empty()])?;
        Ok(Self {
            methods: list("methods", message.methods, |text| policy::method(&text).map_err(Problem::from))?,
            paths: list("paths", message.paths, path)?,
        })
    }
}
