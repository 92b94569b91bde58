//! Inbound ports.

use super::{
    At, InvalidMessage, Problem, list, list_of, name,
    name::{protocol, to_protocol},
    optional_text, port,
};
use crate::v1;
use remora_model::{
    AuthorizationRule, DryRun, Inbound, InboundDefault, MtlsMode, TrustDomain, policy::DRY_RUN_POLICIES_MAX,
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
            dry_run_strict: inbound.dry_run.strict.as_deref().unwrap_or_default().to_owned(),
            dry_run_allow: inbound.dry_run.allow.iter().map(ToString::to_string).collect(),
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

/// A port, 0 included, with rules of which each can be read.
fn strict(mut message: v1::Inbound) -> Result<Inbound, InvalidMessage> {
    let rules = list("rules", std::mem::take(&mut message.rules), AuthorizationRule::try_from)?;
    Ok(Inbound { rules, ..without_rules(message)? })
}

/// All but the rules.
pub(super) fn without_rules(message: v1::Inbound) -> Result<Inbound, InvalidMessage> {
    let mtls = match v1::MtlsMode::try_from(message.mtls).map_err(|_| Problem::UnknownVariant).at("mtls")? {
        v1::MtlsMode::Unspecified => return Err(Problem::Missing.at("mtls")),
        v1::MtlsMode::Permissive => MtlsMode::Permissive,
        v1::MtlsMode::Strict => MtlsMode::Strict,
    };
    let strict = optional_text("dry_run_strict", message.dry_run_strict)?;
    let dry_run = DryRun {
        strict: Some(strict).filter(|policy| !policy.is_empty()),
        allow: list_of("dry_run_allow", DRY_RUN_POLICIES_MAX, message.dry_run_allow, name)?,
    };
    Ok(Inbound {
        port: u16::try_from(message.port).map_err(|_| Problem::OutOfRange).at("port")?,
        parent: name(message.parent).at("parent")?,
        protocol: protocol(message.protocol).at("protocol")?,
        mtls,
        rules: Vec::new(),
        default_deny: message.default_deny,
        dry_run,
        ending: message.ending,
        trust_domain: TrustDomain::new(&message.trust_domain).map_err(Problem::from).at("trust_domain")?,
    })
}
