//! HTTPRoutes and GRPCRoutes to rules, attached to the Service ports that they name (GAMMA).

use super::sort::Rank;
use super::{Key, Snapshot, values};
use crate::objects::{Metadata, Object, routes as k8s};
use http::{HeaderName, HeaderValue, Method, StatusCode};
use remora_model::{
    BackendId, BackendRef, BackendRefState, Filter, HeaderEdit, HeaderMatch, PathMatch, PathRewrite, Pattern,
    QueryMatch, Redirect, Retry, RouteMatch, Rule, Timeouts, ValueMatch,
};
use std::time::Duration;

/// Set on a route whose requests may be sent twice whatever their method: `"true"`.
const RETRY_ANY_METHOD: &str = "remora.dev/retry-any-method";

/// One rule of a route, on one Service port.
#[derive(Debug, Clone)]
pub(super) struct Attached {
    /// The namespace whose clients it is for; `None` for a producer's route, which is for everybody.
    pub(super) consumer: Option<String>,
    pub(super) matches: Vec<(Rank, RouteMatch)>,
    pub(super) rule: Rule,
}

impl Snapshot {
    pub(super) fn index_routes(&mut self, objects: &[Object]) {
        let grants: Vec<&k8s::ReferenceGrant> = objects
            .iter()
            .filter_map(|object| if let Object::ReferenceGrant(grant) = object { Some(grant) } else { None })
            .collect();
        for object in objects {
            let (kind, parents, count) = match object {
                Object::HttpRoute(route) => ("HTTPRoute", &route.spec.parent_refs, route.spec.rules.len()),
                Object::GrpcRoute(route) => ("GRPCRoute", &route.spec.parent_refs, route.spec.rules.len()),
                _ => continue,
            };
            let meta = object.metadata();
            let mut reports = Vec::new();
            let reader = Reader { snapshot: self, grants: &grants, meta, kind };
            let read = |index| match object {
                Object::HttpRoute(route) => reader.http(index, &route.spec.rules[index]),
                Object::GrpcRoute(route) => reader.grpc(index, &route.spec.rules[index]),
                _ => (Vec::new(), reader.failed(index)),
            };
            let rules: Vec<_> = (0..count)
                .map(|index| {
                    let (matches, rule) = read(index);
                    let rule = rule.unwrap_or_else(|problem| {
                        reports.push(format!("{kind} {}/{}: {problem}", meta.namespace, meta.name));
                        reader.broken(index)
                    });
                    (matches, rule)
                })
                .collect();
            let targets: Vec<BackendId> = parents.iter().flat_map(|parent| reader.parent(parent)).collect();
            for id in targets {
                let consumer = (*id.namespace != meta.namespace).then(|| meta.namespace.clone());
                let attached = rules.iter().cloned().map(|(matches, rule)| {
                    let mut good = Vec::new();
                    for one in matches {
                        match one {
                            Ok(one) => good.push(one),
                            Err(problem) => reports.push(problem),
                        }
                    }
                    Attached { consumer: consumer.clone(), matches: good, rule }
                });
                self.routes.entry(id).or_default().extend(attached.collect::<Vec<_>>());
            }
            self.reports.append(&mut reports);
        }
    }
}

type Matches = Vec<Result<(Rank, RouteMatch), String>>;

struct Reader<'a> {
    snapshot: &'a Snapshot,
    grants: &'a [&'a k8s::ReferenceGrant],
    meta: &'a Metadata,
    kind: &'static str,
}

impl Reader<'_> {
    fn parent(&self, parent: &k8s::ParentRef) -> Vec<BackendId> {
        if parent.kind.as_deref() != Some("Service") || !matches!(parent.group.as_deref(), Some("" | "core")) {
            return Vec::new();
        }
        let namespace = parent.namespace.as_ref().unwrap_or(&self.meta.namespace);
        let of_service = |id: &&BackendId| *id.namespace == **namespace && *id.name == *parent.name;
        let mut ids: Vec<BackendId> = self.snapshot.backends.keys().filter(of_service).cloned().collect();
        ids.retain(|id| parent.port.is_none_or(|port| port == id.port));
        ids
    }

    fn label(&self, index: usize, name: Option<&String>) -> String {
        let which = name.map_or_else(|| index.to_string(), Clone::clone);
        format!("{}/{}/{} rule {which}", self.kind, self.meta.namespace, self.meta.name)
    }

    /// What stands in for a rule that makes no sense: it takes its requests, and answers 500.
    fn broken(&self, index: usize) -> Rule {
        let (timeouts, filters) = (Timeouts::default(), Vec::new());
        Rule { label: self.label(index, None).into(), filters, backends: vec![self.nothing()], timeouts, retry: None }
    }

    fn failed(&self, index: usize) -> Result<Rule, String> {
        Err(format!("spec.rules[{index}]: is of no known kind"))
    }

    fn nothing(&self) -> BackendRef {
        let backend = BackendId { namespace: self.meta.namespace.as_str().into(), name: "invalid".into(), port: 1 };
        BackendRef { backend, weight: 1, state: BackendRefState::Invalid, filters: Vec::new() }
    }

    fn http(&self, index: usize, rule: &k8s::HttpRule) -> (Matches, Result<Rule, String>) {
        let any = [k8s::HttpMatch::default()];
        let all = if rule.matches.is_empty() { &any[..] } else { &rule.matches };
        let at = |i: usize, e| {
            format!("{} {}/{}: spec.rules[{index}].matches[{i}]{e}", self.kind, self.meta.namespace, self.meta.name)
        };
        let ranked = |(i, one): (usize, &k8s::HttpMatch)| {
            let one = http_match(one).map_err(|e| at(i, e))?;
            Ok((Rank::http(&one, self.meta, index, i), one))
        };
        let made = || -> Result<Rule, String> {
            let at = |field: &'static str| move |e| format!("spec.rules[{index}].{field}: {e}");
            let timeout = |text: &Option<String>| -> Result<Option<Duration>, String> {
                let time = text.as_deref().map(values::duration).transpose()?;
                Ok(time.filter(|time| !time.is_zero()))
            };
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
        (all.iter().enumerate().map(ranked).collect(), made())
    }

    fn grpc(&self, index: usize, rule: &k8s::GrpcRule) -> (Matches, Result<Rule, String>) {
        let any = [k8s::GrpcMatch::default()];
        let all = if rule.matches.is_empty() { &any[..] } else { &rule.matches };
        let ranked = |(i, one): (usize, &k8s::GrpcMatch)| {
            let at = |e| {
                format!("GRPCRoute {}/{}: spec.rules[{index}].matches[{i}]{e}", self.meta.namespace, self.meta.name)
            };
            let made = grpc_match(one).map_err(at)?;
            Ok((Rank::grpc(one, self.meta, index, i), made))
        };
        let made = self.rule(index, rule.name.as_ref(), &rule.filters, &rule.backend_refs);
        (all.iter().enumerate().map(ranked).collect(), made)
    }

    fn rule(
        &self,
        index: usize,
        name: Option<&String>,
        filters: &[k8s::Filter],
        backends: &[k8s::BackendRef],
    ) -> Result<Rule, String> {
        let at = |e| format!("spec.rules[{index}].{e}");
        let filters = self.filters(filters).map_err(at)?;
        let made = backends.iter().map(|backend| {
            let (id, state) = self.backend(backend);
            let filters = self.filters(&backend.filters)?;
            Ok(BackendRef { backend: id, weight: backend.weight.unwrap_or(1), state, filters })
        });
        let mut backends = made.collect::<Result<Vec<_>, String>>().map_err(at)?;
        if backends.is_empty() && !filters.iter().any(|filter| matches!(filter, Filter::Redirect(_))) {
            backends.push(self.nothing());
        }
        let label = self.label(index, name).into();
        Ok(Rule { label, filters, backends, timeouts: Timeouts::default(), retry: None })
    }

    fn retry(&self, retry: &k8s::Retry) -> Result<Retry, String> {
        let code = |code: &u16| StatusCode::from_u16(*code).map_err(|_| format!("{code} is no HTTP status"));
        Ok(Retry {
            attempts: retry.attempts.unwrap_or(1),
            codes: retry.codes.iter().map(code).collect::<Result<_, _>>()?,
            backoff: retry.backoff.as_deref().map_or(Ok(Duration::from_millis(25)), values::duration)?,
            any_method: self.meta.annotations.get(RETRY_ANY_METHOD).is_some_and(|value| value == "true"),
        })
    }

    /// Which backend is meant, and whether it may be used: it must be a Service port that is there, in our namespace or
    /// in one that grants it.
    fn backend(&self, backend: &k8s::BackendRef) -> (BackendId, BackendRefState) {
        let namespace = backend.namespace.as_ref().unwrap_or(&self.meta.namespace);
        let port = backend.port.unwrap_or(1);
        let id = super::backend_id(&(namespace.clone(), backend.name.clone()), port);
        let service = backend.group.as_deref().unwrap_or("").is_empty()
            && backend.kind.as_deref().unwrap_or("Service") == "Service";
        let there = service && backend.port.is_some() && self.snapshot.backends.contains_key(&id);
        let key = (namespace.clone(), backend.name.clone());
        let allowed = *namespace == self.meta.namespace || self.granted(&key);
        (id, if there && allowed { BackendRefState::Valid } else { BackendRefState::Invalid })
    }

    fn granted(&self, (namespace, name): &Key) -> bool {
        self.grants.iter().filter(|grant| grant.metadata.namespace == *namespace).any(|grant| {
            let from = |from: &k8s::GrantFrom| {
                from.group == "gateway.networking.k8s.io"
                    && from.kind == self.kind
                    && from.namespace == self.meta.namespace
            };
            let to = |to: &k8s::GrantTo| {
                to.group.is_empty() && to.kind == "Service" && to.name.as_ref().is_none_or(|n| n == name)
            };
            grant.spec.from.iter().any(from) && grant.spec.to.iter().any(to)
        })
    }

    fn filters(&self, filters: &[k8s::Filter]) -> Result<Vec<Filter>, String> {
        let one = |(i, filter)| self.filter(filter).map_err(|e| format!("filters[{i}]: {e}"));
        filters.iter().enumerate().map(one).collect()
    }

    fn filter(&self, filter: &k8s::Filter) -> Result<Filter, String> {
        let missing = || format!("has no body for its type {}", filter.kind);
        match filter.kind.as_str() {
            "RequestHeaderModifier" => {
                edit(filter.request_header_modifier.as_ref().ok_or_else(missing)?).map(Filter::RequestHeaders)
            }
            "ResponseHeaderModifier" => {
                edit(filter.response_header_modifier.as_ref().ok_or_else(missing)?).map(Filter::ResponseHeaders)
            }
            "RequestRedirect" => {
                let redirect = filter.request_redirect.as_ref().ok_or_else(missing)?;
                let status = redirect.status_code.unwrap_or(302);
                if !matches!(status, 301 | 302 | 303 | 307 | 308) {
                    return Err(format!("{status} is no status of a redirect"));
                }
                Ok(Filter::Redirect(Redirect {
                    scheme: redirect.scheme.as_deref().map(Into::into),
                    hostname: redirect.hostname.as_deref().map(Into::into),
                    port: redirect.port,
                    path: redirect.path.as_ref().map(rewrite).transpose()?,
                    status: StatusCode::from_u16(status).map_err(|e| e.to_string())?,
                }))
            }
            "URLRewrite" => {
                let url = filter.url_rewrite.as_ref().ok_or_else(missing)?;
                let path = url.path.as_ref().map(rewrite).transpose()?;
                Ok(Filter::Rewrite { hostname: url.hostname.as_deref().map(Into::into), path })
            }
            "RequestMirror" => {
                let mirror = filter.request_mirror.as_ref().ok_or_else(missing)?;
                let (backend, BackendRefState::Valid) = self.backend(&mirror.backend_ref) else {
                    return Err(format!("mirrors to {}, which is not there or not permitted", mirror.backend_ref.name));
                };
                let fraction = mirror.fraction.as_ref().map(|f| (f.numerator, f.denominator.unwrap_or(100)));
                let (numerator, denominator) = fraction.unwrap_or_else(|| (mirror.percent.unwrap_or(100), 100));
                if denominator == 0 || numerator > denominator {
                    return Err("mirrors a share above one".to_owned());
                }
                Ok(Filter::Mirror { backend, numerator, denominator })
            }
            other => Err(format!("type {other} is not supported")),
        }
    }
}

fn rewrite(path: &k8s::PathModifier) -> Result<PathRewrite, String> {
    match (&path.replace_full_path, &path.replace_prefix_match) {
        (Some(full), None) => Ok(PathRewrite::Full(full.as_str().into())),
        (None, Some(prefix)) => Ok(PathRewrite::Prefix(prefix.trim_end_matches('/').into())),
        _ => Err("path needs one of replaceFullPath and replacePrefixMatch".to_owned()),
    }
}

fn header_name(name: &str) -> Result<HeaderName, String> {
    HeaderName::from_bytes(name.as_bytes()).map_err(|_| format!("{name:?} is no header name"))
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

fn pattern(text: &str) -> Result<Pattern, String> {
    Pattern::new(text).map_err(|error| format!("{text:?} is no usable regular expression: {error}"))
}

fn value(one: &k8s::ValueMatch) -> Result<ValueMatch, String> {
    match one.kind {
        k8s::MatchType::Exact => Ok(ValueMatch::Exact(one.value.as_str().into())),
        k8s::MatchType::RegularExpression => pattern(&one.value).map(ValueMatch::Pattern),
    }
}

fn headers(list: &[k8s::ValueMatch]) -> Result<Vec<HeaderMatch>, String> {
    let mut all: Vec<HeaderMatch> = Vec::new();
    for one in list {
        let name = header_name(&one.name).map_err(|e| format!(".headers: {e}"))?;
        // Gateway API: of several entries with one name, only the first counts.
        if all.iter().all(|before| before.name != name) {
            all.push(HeaderMatch { name, value: value(one).map_err(|e| format!(".headers: {e}"))? });
        }
    }
    Ok(all)
}

fn http_match(one: &k8s::HttpMatch) -> Result<RouteMatch, String> {
    let path = one.path.as_ref().map(|path| {
        let text = path.value.as_deref().unwrap_or("/");
        match path.kind {
            k8s::PathMatchType::Exact => Ok(PathMatch::Exact(text.into())),
            k8s::PathMatchType::PathPrefix => Ok(PathMatch::Prefix(text.trim_end_matches('/').into())),
            k8s::PathMatchType::RegularExpression => pattern(text).map(PathMatch::Pattern),
        }
    });
    let method = one.method.as_deref().map(|m| Method::from_bytes(m.as_bytes()).map_err(|_| format!("{m:?}")));
    let mut query: Vec<QueryMatch> = Vec::new();
    for q in &one.query_params {
        if query.iter().all(|before| *before.name != *q.name) {
            let value = value(q).map_err(|e| format!(".queryParams: {e}"))?;
            query.push(QueryMatch { name: q.name.as_str().into(), value });
        }
    }
    Ok(RouteMatch {
        path: path.transpose().map_err(|e| format!(".path: {e}"))?,
        method: method.transpose().map_err(|e| format!(".method: {e} is no method"))?,
        headers: headers(&one.headers)?,
        query,
        rule: 0,
    })
}

fn grpc_match(one: &k8s::GrpcMatch) -> Result<RouteMatch, String> {
    let method = one.method.clone().unwrap_or_default();
    let exact = method.kind == k8s::MatchType::Exact;
    let path = match (method.service.as_deref(), method.method.as_deref()) {
        (None, None) => None,
        (Some(service), Some(method)) if exact => Some(PathMatch::Exact(format!("/{service}/{method}").into())),
        (Some(service), None) if exact => Some(PathMatch::Prefix(format!("/{service}").into())),
        (service, method) => {
            // A name that is given exactly is a pattern of itself; gRPC names have no special characters but dots.
            let quoted = |text: &str| if exact { text.replace('.', "\\.") } else { format!("(?:{text})") };
            let part = |text: Option<&str>| text.map_or_else(|| "[^/]+".to_owned(), quoted);
            let text = format!("/{}/{}", part(service), part(method));
            Some(PathMatch::Pattern(pattern(&text).map_err(|e| format!(".method: {e}"))?))
        }
    };
    Ok(RouteMatch { path, method: None, headers: headers(&one.headers)?, query: Vec::new(), rule: 0 })
}
