//! Outbound targets: routes, matches, filters.

use super::{
    At, InvalidMessage, Problem, conditions, known, list, method, millis, name,
    name::{protocol, target, to_protocol},
    optional, port, required, text, to_millis,
};
use crate::v1;
use http::{HeaderName, HeaderValue, StatusCode};
use remora_model::{
    BackendRef, BackendRefState, Filter, GrpcCodes, HeaderEdit, HeaderMatch, Outbound, Parent, PathMatch, PathRewrite,
    Pattern, QueryMatch, Redirect, Retry, RouteMatch, Rule, Timeouts, TlsRule, ValueMatch,
};
use std::sync::Arc;

impl From<&Outbound> for v1::Outbound {
    fn from(outbound: &Outbound) -> Self {
        Self {
            target: outbound.target.to_string(),
            parent: outbound.parent.backend().map(Into::into),
            outside: outbound.parent == Parent::Outside,
            protocol: to_protocol(outbound.protocol),
            matches: outbound.matches.iter().map(Into::into).collect(),
            rules: outbound.rules.iter().map(Into::into).collect(),
            tls: outbound.tls.iter().map(Into::into).collect(),
            tcp: outbound.tcp.as_ref().map(Into::into),
        }
    }
}

impl TryFrom<v1::Outbound> for Outbound {
    type Error = InvalidMessage;

    fn try_from(message: v1::Outbound) -> Result<Self, InvalidMessage> {
        let rules = list("rules", message.rules, Rule::try_from)?;
        let matches = list("matches", message.matches, |one| {
            let one = RouteMatch::try_from(one)?;
            if one.rule < rules.len() { Ok(one) } else { Err(Problem::RuleIndex.at("rule")) }
        })?;
        Ok(Self {
            matches,
            rules,
            tls: list("tls", message.tls, TlsRule::try_from)?,
            tcp: optional("tcp", message.tcp)?,
            ..without_rules(&message.target, message.parent, message.outside, message.protocol)?
        })
    }
}

/// All but the matches and rules.
pub(super) fn without_rules(
    text: &str,
    backend: Option<v1::BackendId>,
    outside: bool,
    said: i32,
) -> Result<Outbound, InvalidMessage> {
    let parent = match optional("parent", backend)? {
        Some(_) if outside => return Err(Problem::OutOfRange.at("outside")),
        Some(id) => Parent::Backend(id),
        None if outside => Parent::Outside,
        None => Parent::Unknown,
    };
    let target = target(text).at("target")?;
    Ok(Outbound { protocol: protocol(said).at("protocol")?, ..Outbound::bare(target, parent) })
}

impl From<&RouteMatch> for v1::RouteMatch {
    fn from(one: &RouteMatch) -> Self {
        use v1::path_match::Kind;
        let path = one.path.as_ref().map(|path| match path {
            PathMatch::Exact(text) => Kind::Exact(text.to_string()),
            PathMatch::Prefix(text) => Kind::Prefix(text.to_string()),
            PathMatch::Pattern(pattern) => Kind::Pattern(pattern.as_str().to_owned()),
        });
        let header = |h: &HeaderMatch| v1::HeaderMatch { name: h.name.to_string(), value: Some((&h.value).into()) };
        let query = |q: &QueryMatch| v1::QueryMatch { name: q.name.to_string(), value: Some((&q.value).into()) };
        Self {
            path: path.map(|kind| v1::PathMatch { kind: Some(kind) }),
            method: one.method.as_ref().map(ToString::to_string).unwrap_or_default(),
            headers: one.headers.iter().map(header).collect(),
            query: one.query.iter().map(query).collect(),
            rule: u32::try_from(one.rule).unwrap_or(u32::MAX),
            conditions: conditions([
                one.path.is_none(),
                one.method.is_none(),
                one.headers.is_empty(),
                one.query.is_empty(),
            ]),
        }
    }
}

impl TryFrom<v1::RouteMatch> for RouteMatch {
    type Error = InvalidMessage;

    fn try_from(message: v1::RouteMatch) -> Result<Self, InvalidMessage> {
        let none =
            [message.path.is_none(), message.method.is_empty(), message.headers.is_empty(), message.query.is_empty()];
        known(message.conditions, none)?;
        let said = Some(message.method).filter(|text| !text.is_empty());
        let header = |h: v1::HeaderMatch| -> Result<_, InvalidMessage> {
            Ok(HeaderMatch { name: header_name(&h.name).at("name")?, value: required("value", h.value)? })
        };
        let query = |q: v1::QueryMatch| -> Result<_, InvalidMessage> {
            Ok(QueryMatch { name: name(q.name).at("name")?, value: required("value", q.value)? })
        };
        Ok(Self {
            path: optional("path", message.path)?,
            method: said.map(|text| method(&text)).transpose().at("method")?,
            headers: list("headers", message.headers, header)?,
            query: list("query", message.query, query)?,
            rule: usize::try_from(message.rule).map_err(|_| Problem::OutOfRange).at("rule")?,
        })
    }
}

impl TryFrom<v1::PathMatch> for PathMatch {
    type Error = InvalidMessage;

    fn try_from(message: v1::PathMatch) -> Result<Self, InvalidMessage> {
        use v1::path_match::Kind;
        match message.kind.ok_or_else(|| Problem::Missing.at("kind"))? {
            Kind::Exact(path) => Ok(Self::Exact(name(path).at("exact")?)),
            Kind::Prefix(path) => Ok(Self::Prefix(text(path).at("prefix")?)),
            Kind::Pattern(text) => Ok(Self::Pattern(pattern(text).at("pattern")?)),
        }
    }
}

impl From<&ValueMatch> for v1::ValueMatch {
    fn from(value: &ValueMatch) -> Self {
        use v1::value_match::Kind;
        let kind = match value {
            ValueMatch::Exact(text) => Kind::Exact(text.to_string()),
            ValueMatch::Pattern(pattern) => Kind::Pattern(pattern.as_str().to_owned()),
        };
        Self { kind: Some(kind) }
    }
}

impl TryFrom<v1::ValueMatch> for ValueMatch {
    type Error = InvalidMessage;

    fn try_from(message: v1::ValueMatch) -> Result<Self, InvalidMessage> {
        use v1::value_match::Kind;
        match message.kind.ok_or_else(|| Problem::Missing.at("kind"))? {
            Kind::Exact(value) => Ok(Self::Exact(text(value).at("exact")?)),
            Kind::Pattern(text) => Ok(Self::Pattern(pattern(text).at("pattern")?)),
        }
    }
}

impl From<&Rule> for v1::Rule {
    fn from(rule: &Rule) -> Self {
        Self {
            label: rule.label.to_string(),
            filters: rule.filters.iter().map(Into::into).collect(),
            backends: rule.backends.iter().map(Into::into).collect(),
            timeouts: Some(v1::Timeouts {
                request_ms: rule.timeouts.request.map(to_millis),
                backend_request_ms: rule.timeouts.backend_request.map(to_millis),
            }),
            retry: rule.retry.as_ref().map(|retry| v1::Retry {
                attempts: retry.attempts,
                codes: retry.codes.iter().map(|code| code.as_u16().into()).collect(),
                backoff_ms: to_millis(retry.backoff),
                any_method: retry.any_method,
                grpc_codes: retry.grpc_codes.iter().collect(),
            }),
        }
    }
}

impl TryFrom<v1::Rule> for Rule {
    type Error = InvalidMessage;

    fn try_from(message: v1::Rule) -> Result<Self, InvalidMessage> {
        Ok(Self {
            label: text(message.label).at("label")?,
            filters: list("filters", message.filters, Filter::try_from)?,
            backends: list("backends", message.backends, BackendRef::try_from)?,
            timeouts: optional("timeouts", message.timeouts)?.unwrap_or_default(),
            retry: optional("retry", message.retry)?,
        })
    }
}

impl TryFrom<v1::Timeouts> for Timeouts {
    type Error = InvalidMessage;

    fn try_from(message: v1::Timeouts) -> Result<Self, InvalidMessage> {
        Ok(Self {
            request: message.request_ms.map(millis).transpose().at("request_ms")?,
            backend_request: message.backend_request_ms.map(millis).transpose().at("backend_request_ms")?,
        })
    }
}

impl TryFrom<v1::Retry> for Retry {
    type Error = InvalidMessage;

    fn try_from(message: v1::Retry) -> Result<Self, InvalidMessage> {
        Ok(Self {
            attempts: message.attempts,
            codes: list("codes", message.codes, status)?,
            backoff: millis(message.backoff_ms).at("backoff_ms")?,
            any_method: message.any_method,
            grpc_codes: GrpcCodes::of(message.grpc_codes).ok_or(Problem::OutOfRange).at("grpc_codes")?,
        })
    }
}

impl From<&BackendRef> for v1::BackendRef {
    fn from(backend: &BackendRef) -> Self {
        Self {
            backend: Some((&backend.backend).into()),
            weight: backend.weight,
            invalid: backend.state == BackendRefState::Invalid,
            filters: backend.filters.iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<v1::BackendRef> for BackendRef {
    type Error = InvalidMessage;

    fn try_from(message: v1::BackendRef) -> Result<Self, InvalidMessage> {
        Ok(Self {
            backend: required("backend", message.backend)?,
            weight: message.weight,
            state: if message.invalid { BackendRefState::Invalid } else { BackendRefState::Valid },
            filters: list("filters", message.filters, Filter::try_from)?,
        })
    }
}

impl From<&Filter> for v1::Filter {
    fn from(filter: &Filter) -> Self {
        use v1::filter::Kind;
        let kind = match filter {
            Filter::RequestHeaders(edit) => Kind::RequestHeaders(edit.into()),
            Filter::ResponseHeaders(edit) => Kind::ResponseHeaders(edit.into()),
            Filter::Redirect(redirect) => Kind::Redirect(v1::Redirect {
                scheme: redirect.scheme.as_deref().map(str::to_owned),
                hostname: redirect.hostname.as_deref().map(str::to_owned),
                port: redirect.port.map(Into::into),
                path: redirect.path.as_ref().map(Into::into),
                status: redirect.status.as_u16().into(),
            }),
            Filter::Rewrite { hostname, path } => Kind::Rewrite(v1::Rewrite {
                hostname: hostname.as_deref().map(str::to_owned),
                path: path.as_ref().map(Into::into),
            }),
            Filter::Mirror { backend, numerator, denominator } => Kind::Mirror(v1::Mirror {
                backend: Some(backend.into()),
                numerator: *numerator,
                denominator: *denominator,
            }),
            Filter::Cors(cors) => Kind::Cors(cors.as_ref().into()),
        };
        Self { kind: Some(kind) }
    }
}

impl TryFrom<v1::Filter> for Filter {
    type Error = InvalidMessage;

    fn try_from(message: v1::Filter) -> Result<Self, InvalidMessage> {
        use v1::filter::Kind;
        // An unknown filter is refused, not skipped: a request must never go out without a change that was asked for.
        match message.kind.ok_or_else(|| Problem::UnknownVariant.at("kind"))? {
            Kind::RequestHeaders(edit) => Ok(Self::RequestHeaders(edit.try_into().at("request_headers")?)),
            Kind::ResponseHeaders(edit) => Ok(Self::ResponseHeaders(edit.try_into().at("response_headers")?)),
            Kind::Redirect(redirect) => Ok(Self::Redirect(redirect.try_into().at("redirect")?)),
            Kind::Rewrite(rewrite) => Ok(Self::Rewrite {
                hostname: words(rewrite.hostname, "hostname").at("rewrite")?,
                path: optional("path", rewrite.path).at("rewrite")?,
            }),
            Kind::Mirror(mirror) => {
                if mirror.denominator == 0 || mirror.numerator > mirror.denominator {
                    return Err(Problem::OutOfRange.at("denominator")).at("mirror");
                }
                Ok(Self::Mirror {
                    backend: required("backend", mirror.backend).at("mirror")?,
                    numerator: mirror.numerator,
                    denominator: mirror.denominator,
                })
            }
            Kind::Cors(cors) => Ok(Self::Cors(Arc::new(cors.try_into().at("cors")?))),
        }
    }
}

impl TryFrom<v1::Redirect> for Redirect {
    type Error = InvalidMessage;

    fn try_from(message: v1::Redirect) -> Result<Self, InvalidMessage> {
        let redirects = |code: StatusCode| matches!(code.as_u16(), 301 | 302 | 303 | 307 | 308);
        let code = status(message.status).at("status")?;
        Ok(Self {
            scheme: words(message.scheme, "scheme")?,
            hostname: words(message.hostname, "hostname")?,
            port: message.port.map(port).transpose().at("port")?,
            path: optional("path", message.path)?,
            status: Some(code).filter(|code| redirects(*code)).ok_or(Problem::Status).at("status")?,
        })
    }
}

impl From<&PathRewrite> for v1::PathRewrite {
    fn from(rewrite: &PathRewrite) -> Self {
        use v1::path_rewrite::Kind;
        let kind = match rewrite {
            PathRewrite::Full(text) => Kind::Full(text.to_string()),
            PathRewrite::Prefix(text) => Kind::Prefix(text.to_string()),
        };
        Self { kind: Some(kind) }
    }
}

impl TryFrom<v1::PathRewrite> for PathRewrite {
    type Error = InvalidMessage;

    fn try_from(message: v1::PathRewrite) -> Result<Self, InvalidMessage> {
        use v1::path_rewrite::Kind;
        match message.kind.ok_or_else(|| Problem::Missing.at("kind"))? {
            Kind::Full(path) => Ok(Self::Full(name(path).at("full")?)),
            Kind::Prefix(path) => Ok(Self::Prefix(text(path).at("prefix")?)),
        }
    }
}

impl From<&HeaderEdit> for v1::HeaderEdit {
    fn from(edit: &HeaderEdit) -> Self {
        let header = |(name, value): &(HeaderName, HeaderValue)| v1::Header {
            name: name.to_string(),
            value: value.as_bytes().to_vec(),
        };
        Self {
            set: edit.set.iter().map(header).collect(),
            add: edit.add.iter().map(header).collect(),
            remove: edit.remove.iter().map(ToString::to_string).collect(),
        }
    }
}

impl TryFrom<v1::HeaderEdit> for HeaderEdit {
    type Error = InvalidMessage;

    fn try_from(message: v1::HeaderEdit) -> Result<Self, InvalidMessage> {
        let header = |header: v1::Header| -> Result<_, InvalidMessage> {
            let value = HeaderValue::from_bytes(&header.value).map_err(|_| Problem::HeaderValue);
            Ok((header_name(&header.name).at("name")?, value.at("value")?))
        };
        Ok(Self {
            set: list("set", message.set, header)?,
            add: list("add", message.add, header)?,
            remove: list("remove", message.remove, |name| header_name(&name))?,
        })
    }
}

fn words(value: Option<String>, field: &'static str) -> Result<Option<Arc<str>>, InvalidMessage> {
    value.map(name).transpose().at(field)
}

fn header_name(text: &str) -> Result<HeaderName, Problem> {
    HeaderName::from_bytes(text.as_bytes()).map_err(|_| Problem::HeaderName)
}

fn pattern(value: String) -> Result<Pattern, Problem> {
    let value = name(value)?;
    Pattern::new(&value).map_err(|error| Problem::Pattern(error.to_string()))
}

fn status(code: u32) -> Result<StatusCode, Problem> {
    u16::try_from(code).ok().and_then(|code| StatusCode::from_u16(code).ok()).ok_or(Problem::Status)
}
