//! Rules of authorization.
//!
//! In: a message. Out: the rule, of which nothing is left out: what cannot be read makes the whole of it unreadable, and `conditions`
//! says whether something was sent that this version does not know.

use super::{At, InvalidMessage, Problem, conditions, known, list, name, networks, optional, port};
use crate::v1;
use http::Method;
use remora_model::{
    Action, AuthorizationRule, FieldMatch, FieldRule, GrpcRule, HostRule, Operation, OperationExcept, PathPattern,
    ServiceAccount, Source, SourceExcept, SpiffeId, TrustDomain, Unidentified, policy,
};
use std::{fmt, sync::Arc};

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
            dry_run: rule.dry_run,
            by_default: rule.by_default,
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
            dry_run: message.dry_run,
            by_default: message.by_default,
        })
    }
}

fn texts(all: &[impl fmt::Display]) -> Vec<String> {
    all.iter().map(ToString::to_string).collect()
}

impl From<&Source> for v1::Source {
    fn from(source: &Source) -> Self {
        let mut message = Self {
            identities: texts(&source.identities),
            namespaces: texts(&source.namespaces),
            cidrs: texts(&source.cidrs),
            conditions: 0,
            service_accounts: texts(&source.service_accounts),
            trust_domains: texts(&source.trust_domains),
            authenticated: source.authenticated,
            except: (source.except != SourceExcept::default()).then(|| (&source.except).into()),
        };
        message.conditions = conditions(of_source(&message));
        message
    }
}

fn of_source(message: &v1::Source) -> [bool; 7] {
    [
        message.identities.is_empty(),
        message.namespaces.is_empty(),
        message.cidrs.is_empty(),
        message.service_accounts.is_empty(),
        message.trust_domains.is_empty(),
        message.authenticated.is_none(),
        message.except.is_none(),
    ]
}

impl TryFrom<v1::Source> for Source {
    type Error = InvalidMessage;

    fn try_from(message: v1::Source) -> Result<Self, InvalidMessage> {
        known(message.conditions, of_source(&message))?;
        let account = |text: String| ServiceAccount::parse(&text).map_err(Problem::from);
        let domain = |text: String| TrustDomain::new(&text).map_err(Problem::from);
        Ok(Self {
            identities: list("identities", message.identities, identity)?,
            namespaces: list("namespaces", message.namespaces, name)?,
            service_accounts: list("service_accounts", message.service_accounts, account)?,
            trust_domains: list("trust_domains", message.trust_domains, domain)?,
            authenticated: message.authenticated,
            cidrs: networks("cidrs", message.cidrs)?,
            except: optional("except", message.except)?.unwrap_or_default(),
        })
    }
}

fn identity(text: String) -> Result<SpiffeId, Problem> {
    SpiffeId::parse(&text).map_err(Problem::from)
}

impl From<&SourceExcept> for v1::SourceExcept {
    fn from(except: &SourceExcept) -> Self {
        Self {
            identities: texts(&except.identities),
            namespaces: texts(&except.namespaces),
            cidrs: texts(&except.cidrs),
            conditions: conditions([
                except.identities.is_empty(),
                except.namespaces.is_empty(),
                except.cidrs.is_empty(),
            ]),
        }
    }
}

impl TryFrom<v1::SourceExcept> for SourceExcept {
    type Error = InvalidMessage;

    fn try_from(message: v1::SourceExcept) -> Result<Self, InvalidMessage> {
        let none = [message.identities.is_empty(), message.namespaces.is_empty(), message.cidrs.is_empty()];
        known(message.conditions, none)?;
        if none == [true; 3] {
            return Err(Problem::Missing.at("conditions"));
        }
        Ok(Self {
            identities: list("identities", message.identities, identity)?,
            namespaces: list("namespaces", message.namespaces, name)?,
            cidrs: networks("cidrs", message.cidrs)?,
        })
    }
}

impl From<&Operation> for v1::Operation {
    fn from(operation: &Operation) -> Self {
        let mut message = Self {
            methods: texts(&operation.methods),
            paths: texts(&operation.paths),
            conditions: 0,
            hosts: texts(&operation.hosts),
            headers: operation.headers.iter().map(Into::into).collect(),
            grpc: operation.grpc.iter().map(Into::into).collect(),
            ports: operation.ports.iter().map(|port| (*port).into()).collect(),
            except: (operation.except != OperationExcept::default()).then(|| (&operation.except).into()),
        };
        message.conditions = conditions(of_operation(&message));
        message
    }
}

fn of_operation(message: &v1::Operation) -> [bool; 7] {
    [
        message.methods.is_empty(),
        message.paths.is_empty(),
        message.hosts.is_empty(),
        message.headers.is_empty(),
        message.grpc.is_empty(),
        message.ports.is_empty(),
        message.except.is_none(),
    ]
}

impl TryFrom<v1::Operation> for Operation {
    type Error = InvalidMessage;

    fn try_from(message: v1::Operation) -> Result<Self, InvalidMessage> {
        known(message.conditions, of_operation(&message))?;
        let host = |text: String| HostRule::parse(&name(text)?).map_err(Problem::from);
        Ok(Self {
            methods: list("methods", message.methods, method)?,
            paths: list("paths", message.paths, path)?,
            hosts: list("hosts", message.hosts, host)?,
            headers: list("headers", message.headers, FieldRule::try_from)?,
            grpc: list("grpc", message.grpc, GrpcRule::try_from)?,
            ports: list("ports", message.ports, port)?,
            except: optional("except", message.except)?.unwrap_or_default(),
        })
    }
}

fn method(text: String) -> Result<Method, Problem> {
    policy::method(&text).map_err(Problem::from)
}

fn path(text: String) -> Result<PathPattern, Problem> {
    let text: Arc<str> = name(text)?;
    PathPattern::parse(&text).map_err(Problem::from)
}

impl From<&OperationExcept> for v1::OperationExcept {
    fn from(except: &OperationExcept) -> Self {
        Self {
            methods: texts(&except.methods),
            paths: texts(&except.paths),
            conditions: conditions([except.methods.is_empty(), except.paths.is_empty()]),
        }
    }
}

impl TryFrom<v1::OperationExcept> for OperationExcept {
    type Error = InvalidMessage;

    fn try_from(message: v1::OperationExcept) -> Result<Self, InvalidMessage> {
        let none = [message.methods.is_empty(), message.paths.is_empty()];
        known(message.conditions, none)?;
        if none == [true; 2] {
            return Err(Problem::Missing.at("conditions"));
        }
        Ok(Self { methods: list("methods", message.methods, method)?, paths: list("paths", message.paths, path)? })
    }
}

impl From<&FieldRule> for v1::FieldRule {
    fn from(rule: &FieldRule) -> Self {
        let by = match rule.by() {
            FieldMatch::Exact => v1::FieldMatch::Exact,
            FieldMatch::Prefix => v1::FieldMatch::Prefix,
        };
        Self { name: rule.name().to_string(), r#match: by.into(), values: texts(rule.values()) }
    }
}

impl TryFrom<v1::FieldRule> for FieldRule {
    type Error = InvalidMessage;

    fn try_from(message: v1::FieldRule) -> Result<Self, InvalidMessage> {
        let by = match v1::FieldMatch::try_from(message.r#match).map_err(|_| Problem::UnknownVariant).at("match")? {
            v1::FieldMatch::Unspecified => return Err(Problem::Missing.at("match")),
            v1::FieldMatch::Exact => FieldMatch::Exact,
            v1::FieldMatch::Prefix => FieldMatch::Prefix,
        };
        let values = list("values", message.values, name)?;
        Self::new(&message.name, by, &values).map_err(Problem::from).at("name")
    }
}

impl From<&GrpcRule> for v1::GrpcRule {
    fn from(rule: &GrpcRule) -> Self {
        Self { service: rule.service().to_owned(), method: rule.method().unwrap_or_default().to_owned() }
    }
}

impl TryFrom<v1::GrpcRule> for GrpcRule {
    type Error = InvalidMessage;

    fn try_from(message: v1::GrpcRule) -> Result<Self, InvalidMessage> {
        let method = Some(&*message.method).filter(|method| !method.is_empty());
        Self::new(&message.service, method).map_err(Problem::from).at("service")
    }
}
