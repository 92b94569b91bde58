//! One rule of a route: filters, backends, timeouts, retries. Never fails: errors are reported, and the rule
//! then answers 500, as the Gateway API wants of filters that cannot be carried out.

use super::{
    Key,
    attached::{Kind, Rank},
    backend_id, cors,
    facts::Facts,
    fields, grpc_retry,
    matches::{self, header_name},
    report, schema,
    status::{Judgement, Unresolved},
    values,
};
use crate::objects::{Metadata, Unknown, routes as k8s};
use http::{HeaderValue, StatusCode};
use remora_api::convert::check;
use remora_model::{
    BackendId, BackendRef, BackendRefState, Filter, GrpcCodes, HeaderEdit, PathRewrite, Redirect, Retry, RouteMatch,
    Rule, Timeouts,
};
use std::{cell::RefCell, sync::Arc, time::Duration};

type Read = (Vec<(Rank, RouteMatch)>, Rule);

/// Reads the rules of one route.
pub(super) struct Reader<'a> {
    facts: &'a Facts,
    meta: &'a Metadata,
    kind: Kind,
    /// Whether it is read for the clients of its own namespace alone.
    pub(super) consumer: bool,
    reports: RefCell<Vec<String>>,
    judgement: RefCell<Judgement>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(facts: &'a Facts, meta: &'a Metadata, kind: Kind) -> Self {
        let (reports, judgement) = (RefCell::default(), RefCell::default());
        Self { facts, meta, kind, consumer: false, reports, judgement }
    }

    /// Reports an error; once, though a route may be read twice.
    pub(super) fn report(&self, problem: String) {
        let line = report(self.meta, self.kind.name(), problem);
        let mut reports = self.reports.borrow_mut();
        if !reports.contains(&line) {
            reports.push(line);
        }
    }

    /// What was found since this was asked last.
    pub(super) fn judgement(&self) -> Judgement {
        self.judgement.take()
    }

    fn invalid(&self, rule: usize, problem: &str) {
        self.judgement.borrow_mut().invalid.entry(rule).or_insert_with(|| problem.to_owned());
    }

    /// What made no sense.
    pub(super) fn reports(self) -> Vec<String> {
        self.reports.into_inner()
    }

    pub(super) fn http(&self, index: usize, rule: &k8s::HttpRule) -> Read {
        self.judgement.borrow_mut().rules += 1;
        let any = [k8s::HttpMatch::default()];
        let all = if rule.matches.is_empty() { &any[..] } else { &rule.matches };
        let ranked = |(i, one): (usize, &k8s::HttpMatch)| {
            let made = schema::http_match(one).and_then(|()| matches::http(one));
            let one = self.kept(index, i, made)?;
            Some((Rank::http(&one, self.meta, index, i), one))
        };
        let timeout = |text: &Option<String>| -> Result<Option<Duration>, String> {
            let time = text.as_deref().map(values::duration).transpose()?;
            Ok(time.filter(|time| !time.is_zero()))
        };
        grpc_retry::without_effect(self.meta).for_each(|problem| self.report(problem));
        let made = || -> Result<Rule, String> {
            self.without_effect(index, &rule.unknown);
            schema::http_rule(rule)?;
            let at = |field: &'static str| move |e| format!("{field}: {e}");
            let timeouts = rule.timeouts.clone().unwrap_or_default();
            Ok(Rule {
                timeouts: Timeouts {
                    request: timeout(&timeouts.request).map_err(at("timeouts.request"))?,
                    backend_request: timeout(&timeouts.backend_request).map_err(at("timeouts.backendRequest"))?,
                },
                retry: rule.retry.as_ref().map(|retry| self.retry(retry)).transpose().map_err(at("retry"))?,
                ..self.rule(index, rule.name.as_ref(), &rule.filters, &rule.backend_refs)?
            })
        };
        let matches = all.iter().enumerate().filter_map(ranked).collect();
        (matches, self.or_broken(index, rule.name.as_ref(), made()))
    }

    pub(super) fn grpc(&self, index: usize, rule: &k8s::GrpcRule) -> Read {
        self.judgement.borrow_mut().rules += 1;
        let any = [k8s::GrpcMatch::default()];
        let all = if rule.matches.is_empty() { &any[..] } else { &rule.matches };
        let ranked = |(i, one): (usize, &k8s::GrpcMatch)| {
            let made = schema::grpc_match(one).and_then(|()| matches::grpc(one));
            let made = self.kept(index, i, made)?;
            Some((Rank::grpc(one, made.headers.len(), self.meta, index, i), made))
        };
        let name = rule.name.as_ref();
        let made = || -> Result<Rule, String> {
            self.without_effect(index, &rule.unknown);
            schema::grpc_rule(rule)?;
            self.rule(index, name, &rule.filters, &rule.backend_refs)
        };
        let rule = match grpc_retry::read(self.meta) {
            Ok((timeouts, retry)) => {
                let made = made().map(|rule| Rule { timeouts, retry, ..rule });
                self.or_broken(index, name, made)
            }
            Err(problem) => self.broken(index, name, format!("{problem}; {}", self.instead())),
        };
        (all.iter().enumerate().filter_map(ranked).collect(), rule)
    }

    /// A rule of a TLSRoute or TCPRoute. `problem`: what is the matter with the route around it.
    pub(super) fn bytes(&self, index: usize, rule: &k8s::BytesRule, problem: Option<String>) -> Read {
        self.judgement.borrow_mut().rules += 1;
        let any = RouteMatch { path: None, method: None, headers: Vec::new(), query: Vec::new(), rule: 0 };
        let name = rule.name.as_ref();
        let made = || -> Result<Rule, String> {
            schema::bytes_rule(rule)?;
            self.rule(index, name, &[], &rule.backend_refs)
        };
        let rule = match problem {
            Some(problem) => self.broken(index, name, format!("{problem}; {}", self.instead())),
            None => self.or_broken(index, name, made()),
        };
        (vec![(Rank::bytes(self.meta, index), any)], rule)
    }

    /// What a rule does that cannot be carried out.
    fn instead(&self) -> &'static str {
        if self.kind.is_of_requests() { "it answers 500" } else { "it refuses connections" }
    }

    fn without_effect(&self, rule: usize, unknown: &Unknown) {
        for field in unknown.names().filter(|name| schema::WITHOUT_EFFECT.contains(name)) {
            self.report(format!("spec.rules[{rule}].{field}: is not carried out"));
        }
    }

    /// A match that its readers can take.
    fn kept(&self, rule: usize, index: usize, made: Result<RouteMatch, String>) -> Option<RouteMatch> {
        let readable = |one: RouteMatch| match check::route_match(&one) {
            Ok(()) => Ok(one),
            Err(error) => Err(format!(".{}", fields::of_route(&error, ""))),
        };
        let made = made.and_then(readable);
        let problem = |e: String| format!("spec.rules[{rule}].matches[{index}]{e}; it matches nothing");
        made.map_err(problem).inspect_err(|problem| self.invalid(rule, problem)).map_err(|e| self.report(e)).ok()
    }

    /// The rule, if its readers can take it; else what stands in for it: it takes its requests, and answers 500.
    fn or_broken(&self, index: usize, name: Option<&String>, made: Result<Rule, String>) -> Rule {
        let readable = |rule: Rule| match check::rule(&rule) {
            Ok(()) => Ok(rule),
            Err(error) => Err(fields::of_route(&error, "")),
        };
        made.and_then(readable).unwrap_or_else(|problem| {
            self.broken(index, name, format!("spec.rules[{index}].{problem}; {}", self.instead()))
        })
    }

    fn broken(&self, index: usize, name: Option<&String>, problem: String) -> Rule {
        self.invalid(index, &problem);
        self.report(problem);
        let closed = Rule::closed(self.label(index, name).into());
        let backends = vec![self.nothing()];
        // The name may be what its readers cannot take.
        let label = if check::rule(&closed).is_ok() { closed.label } else { self.label(index, None).into() };
        Rule { label, backends, ..Rule::closed("".into()) }
    }

    /// What stands in for all rules of a route that cannot be read: it takes every request that no other route takes, and
    /// answers 500.
    pub(super) fn closed(&self, why: &str) -> Read {
        let (matches, _) = match self.kind {
            Kind::Http => self.http(0, &k8s::HttpRule::default()),
            Kind::Grpc => self.grpc(0, &k8s::GrpcRule::default()),
            Kind::Tls | Kind::Tcp => return self.bytes(0, &k8s::BytesRule::default(), Some(why.to_owned())),
        };
        (matches, self.broken(0, None, format!("{why}; {}", self.instead())))
    }

    fn label(&self, index: usize, name: Option<&String>) -> String {
        let which = name.map_or_else(|| index.to_string(), Clone::clone);
        format!("{}/{}/{} rule {which}", self.kind.name(), self.meta.namespace, self.meta.name)
    }

    fn nothing(&self) -> BackendRef {
        let backend = BackendId::service(&self.meta.namespace, "invalid", 1);
        BackendRef { backend, weight: 1, state: BackendRefState::Invalid, filters: Vec::new() }
    }

    fn rule(
        &self,
        index: usize,
        name: Option<&String>,
        filters: &[k8s::Filter],
        backends: &[k8s::BackendRef],
    ) -> Result<Rule, String> {
        let filters = self.filters(filters)?;
        let made = backends.iter().enumerate().map(|(i, backend)| {
            let (id, state) = match self.backend(backend) {
                (id, Ok(())) => (id, BackendRefState::Valid),
                (id, Err((reason, problem))) => {
                    let share = if self.kind.is_of_requests() { "answers 500" } else { "of connections is refused" };
                    let problem = format!("spec.rules[{index}].backendRefs[{i}]: {problem}; its share {share}");
                    self.judgement.borrow_mut().unresolved.push((reason, problem.clone()));
                    self.report(problem);
                    (id, BackendRefState::Invalid)
                }
            };
            let filters = self.filters(&backend.filters).map_err(|e| format!("backendRefs[{i}].{e}"))?;
            // A reference that leads nowhere need not even be a name.
            let id = if state == BackendRefState::Valid { id } else { self.nothing().backend };
            Ok(BackendRef { backend: id, weight: backend.weight.unwrap_or(1), state, filters })
        });
        let mut backends = made.collect::<Result<Vec<_>, String>>()?;
        if backends.is_empty() && !filters.iter().any(|filter| matches!(filter, Filter::Redirect(_))) {
            backends.push(self.nothing());
        }
        let label = self.label(index, name).into();
        Ok(Rule { label, filters, backends, timeouts: Timeouts::default(), retry: None })
    }

    fn retry(&self, retry: &k8s::Retry) -> Result<Retry, String> {
        let code = |code: &u16| StatusCode::from_u16(*code).map_err(|_| format!("codes: {code} is no HTTP status"));
        let backoff = retry.backoff.as_deref().map_or(Ok(grpc_retry::BACKOFF), values::duration);
        Ok(Retry {
            attempts: retry.attempts.unwrap_or(1),
            codes: retry.codes.iter().map(code).collect::<Result<_, _>>()?,
            backoff: backoff.map_err(|e| format!("backoff: {e}"))?,
            grpc_codes: GrpcCodes::default(),
            any_method: grpc_retry::any_method(self.meta),
        })
    }

    /// Which backend is meant, and why it may not be used.
    ///
    /// A consumer's route moves only its own namespace's requests, which could go there by themselves, so it needs no
    /// grant (GEP-1426, "Namespace boundaries"). A producer's route moves everybody's, and would lend itself the identity
    /// of callers that the other namespace trusts; so it needs that namespace's grant.
    fn backend(&self, backend: &k8s::BackendRef) -> (BackendId, Result<(), Unresolved>) {
        let namespace = backend.namespace.as_ref().unwrap_or(&self.meta.namespace);
        let key = (namespace.clone(), backend.name.clone());
        let id = backend_id(&key, backend.port.unwrap_or(1));
        let service = backend.group.as_deref().unwrap_or("").is_empty()
            && backend.kind.as_deref().unwrap_or("Service") == "Service";
        let name = format!("Service {namespace}/{}", backend.name);
        let problem = if !service {
            Some(("InvalidKind", format!("{} is of no kind that can be a backend", backend.name)))
        } else if backend.port.is_none() {
            Some(("UnsupportedValue", "port is missing".to_owned()))
        } else if *namespace != self.meta.namespace && !self.consumer && !self.granted(&key) {
            Some(("RefNotPermitted", format!("no ReferenceGrant in {namespace} permits {name}")))
        } else if !self.facts.ports.contains_key(&id) {
            Some(("BackendNotFound", format!("{name} is not there, or has no such TCP port")))
        } else {
            None
        };
        (id, problem.map_or(Ok(()), Err))
    }

    fn granted(&self, (namespace, name): &Key) -> bool {
        self.facts.grants_in.get(namespace).filter_map(|grant| self.facts.grants.get(grant)).any(|grant| {
            // What an unknown field was to restrict is unknown, too: the entry grants nothing.
            let from = |from: &k8s::GrantFrom| {
                from.unknown.is_empty()
                    && from.group == "gateway.networking.k8s.io"
                    && from.kind == self.kind.name()
                    && from.namespace == self.meta.namespace
            };
            let to = |to: &k8s::GrantTo| {
                let named = to.name.as_deref().is_none_or(|n| n.is_empty() || n == name);
                to.unknown.is_empty() && to.group.is_empty() && to.kind == "Service" && named
            };
            grant.spec.unknown.is_empty() && grant.spec.from.iter().any(from) && grant.spec.to.iter().any(to)
        })
    }

    fn filters(&self, filters: &[k8s::Filter]) -> Result<Vec<Filter>, String> {
        let readable = |made: Option<Filter>| match made.as_ref().map_or(Ok(()), check::filter) {
            Ok(()) => Ok(made),
            Err(error) => Err(fields::of_route(&error, "")),
        };
        let one = |(i, filter)| {
            let made = self.filter(filter).map_err(|e| if e.starts_with('.') { e } else { format!(": {e}") });
            let made = made.and_then(|made| readable(made).map_err(|e| format!(".{e}")));
            made.map_err(|e| format!("filters[{i}]{e}")).transpose()
        };
        filters.iter().enumerate().filter_map(one).collect()
    }

    /// `None` for a mirror that leads nowhere, which the Gateway API wants left out.
    fn filter(&self, filter: &k8s::Filter) -> Result<Option<Filter>, String> {
        let missing = || format!("has no body for its type {}", filter.kind);
        let made = match filter.kind.as_str() {
            "RequestHeaderModifier" => {
                Filter::RequestHeaders(edit(filter.request_header_modifier.as_ref().ok_or_else(missing)?)?)
            }
            "ResponseHeaderModifier" => {
                Filter::ResponseHeaders(edit(filter.response_header_modifier.as_ref().ok_or_else(missing)?)?)
            }
            "RequestRedirect" if self.kind == Kind::Http => {
                Filter::Redirect(redirect(filter.request_redirect.as_ref().ok_or_else(missing)?)?)
            }
            "URLRewrite" if self.kind == Kind::Http => {
                let url = filter.url_rewrite.as_ref().ok_or_else(missing)?;
                let path = url.path.as_ref().map(rewrite).transpose()?;
                Filter::Rewrite { hostname: url.hostname.as_deref().map(Into::into), path }
            }
            "CORS" if self.kind == Kind::Http => {
                Filter::Cors(Arc::new(cors::read(filter.cors.as_ref().ok_or_else(missing)?)?))
            }
            "RequestMirror" => return self.mirror(filter.request_mirror.as_ref().ok_or_else(missing)?),
            other => return Err(format!("type {other} is not supported here")),
        };
        Ok(Some(made))
    }

    fn mirror(&self, mirror: &k8s::RequestMirror) -> Result<Option<Filter>, String> {
        let fraction = mirror.fraction.as_ref().map(|f| (f.numerator, f.denominator.unwrap_or(100)));
        let (numerator, denominator) = fraction.unwrap_or_else(|| (mirror.percent.unwrap_or(100), 100));
        if denominator == 0 || numerator > denominator {
            return Err("mirrors a share above one".to_owned());
        }
        match self.backend(&mirror.backend_ref) {
            (backend, Ok(())) => Ok(Some(Filter::Mirror { backend, numerator, denominator })),
            (_, Err((reason, problem))) => {
                let problem = format!("a mirror is left out: {problem}");
                self.judgement.borrow_mut().unresolved.push((reason, problem.clone()));
                self.report(problem);
                Ok(None)
            }
        }
    }
}

fn redirect(redirect: &k8s::RequestRedirect) -> Result<Redirect, String> {
    let status = redirect.status_code.unwrap_or(302);
    if !matches!(status, 301 | 302 | 303 | 307 | 308) {
        return Err(format!("{status} is no status of a redirect"));
    }
    Ok(Redirect {
        scheme: redirect.scheme.as_deref().map(Into::into),
        hostname: redirect.hostname.as_deref().map(Into::into),
        port: redirect.port,
        path: redirect.path.as_ref().map(rewrite).transpose()?,
        status: StatusCode::from_u16(status).map_err(|e| e.to_string())?,
    })
}

fn rewrite(path: &k8s::PathModifier) -> Result<PathRewrite, String> {
    match (&path.replace_full_path, &path.replace_prefix_match) {
        // A request without a path asks for the root.
        (Some(full), None) if full.is_empty() => Ok(PathRewrite::Full("/".into())),
        (Some(full), None) => Ok(PathRewrite::Full(full.as_str().into())),
        (None, Some(prefix)) => Ok(PathRewrite::Prefix(prefix.trim_end_matches('/').into())),
        _ => Err("path needs one of replaceFullPath and replacePrefixMatch".to_owned()),
    }
}

fn edit(modifier: &k8s::HeaderModifier) -> Result<HeaderEdit, String> {
    let header = |header: &k8s::Header| {
        let value = HeaderValue::from_str(&header.value).map_err(|_| format!("{:?} is no header value", header.value));
        Ok((header_name(&header.name)?, value?))
    };
    Ok(HeaderEdit {
        set: modifier.set.iter().map(header).collect::<Result<_, String>>()?,
        add: modifier.add.iter().map(header).collect::<Result<_, String>>()?,
        remove: modifier.remove.iter().map(|name| header_name(name)).collect::<Result<_, _>>()?,
    })
}
