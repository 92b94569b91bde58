//! Inbound ports and their authorisation rules.

use super::name::{protocol, to_protocol};
use super::{At, InvalidMessage, Problem};
use super::{list, method, name, port};
use crate::v1;
use remora_model::{Action, AuthorizationRule, Inbound, MtlsMode, Operation, PathPattern, Source, SpiffeId};

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
        }
    }
}

impl TryFrom<v1::Inbound> for Inbound {
    type Error = InvalidMessage;

    fn try_from(message: v1::Inbound) -> Result<Self, InvalidMessage> {
        let mtls = match v1::MtlsMode::try_from(message.mtls).map_err(|_| Problem::UnknownVariant).at("mtls")? {
            v1::MtlsMode::Unspecified => return Err(Problem::Missing.at("mtls")),
            v1::MtlsMode::Permissive => MtlsMode::Permissive,
            v1::MtlsMode::Strict => MtlsMode::Strict,
        };
        Ok(Self {
            port: port(message.port).at("port")?,
            parent: name(message.parent).at("parent")?,
            protocol: protocol(message.protocol).at("protocol")?,
            mtls,
            rules: list("rules", message.rules, AuthorizationRule::try_from)?,
            default_deny: message.default_deny,
            ending: message.ending,
        })
    }
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
        Ok(Self {
            name: name(message.name).at("name")?,
            action,
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
        }
    }
}

impl TryFrom<v1::Source> for Source {
    type Error = InvalidMessage;

    fn try_from(message: v1::Source) -> Result<Self, InvalidMessage> {
        Ok(Self {
            identities: list("identities", message.identities, |id| SpiffeId::parse(&id).map_err(Problem::from))?,
            namespaces: list("namespaces", message.namespaces, name)?,
            cidrs: list("cidrs", message.cidrs, |cidr| cidr.parse().map_err(|_| Problem::Cidr))?,
        })
    }
}

impl From<&Operation> for v1::Operation {
    fn from(operation: &Operation) -> Self {
        use v1::path_pattern::Kind;
        let path = |pattern: &PathPattern| v1::PathPattern {
            kind: Some(match pattern {
                PathPattern::Exact(text) => Kind::Exact(text.to_string()),
                PathPattern::Prefix(text) => Kind::Prefix(text.to_string()),
            }),
        };
        Self {
            methods: operation.methods.iter().map(ToString::to_string).collect(),
            paths: operation.paths.iter().map(path).collect(),
        }
    }
}

impl TryFrom<v1::Operation> for Operation {
    type Error = InvalidMessage;

    fn try_from(message: v1::Operation) -> Result<Self, InvalidMessage> {
        use v1::path_pattern::Kind;
        let path = |pattern: v1::PathPattern| match pattern.kind {
            Some(Kind::Exact(text)) => name(text).map(PathPattern::Exact),
            Some(Kind::Prefix(text)) => super::text(text).map(PathPattern::Prefix),
            None => Err(Problem::Missing),
        };
        Ok(Self {
            methods: list("methods", message.methods, |text| method(&text))?,
            paths: list("paths", message.paths, path)?,
        })
    }
}
