//! The conditions of HTTPRoute and GRPCRoute rules. Errors begin with the field, as a suffix to the path of the match.

use crate::objects::routes as k8s;
use http::{HeaderName, Method};
use remora_model::{HeaderMatch, PathMatch, Pattern, QueryMatch, RouteMatch, ValueMatch};

pub(super) fn http(one: &k8s::HttpMatch) -> Result<RouteMatch, String> {
    let path = one.path.as_ref().map(path).transpose().map_err(|e| format!(".path: {e}"))?;
    let method = one
        .method
        .as_deref()
        .map(|text| Method::from_bytes(text.as_bytes()).map_err(|_| format!(".method: {text:?} is no method")));
    let mut query: Vec<QueryMatch> = Vec::new();
    for q in &one.query_params {
        // Gateway API: of several entries with one name, only the first counts.
        if query.iter().all(|before| *before.name != *q.name) {
            let value = value(q).map_err(|e| format!(".queryParams: {e}"))?;
            query.push(QueryMatch { name: q.name.as_str().into(), value });
        }
    }
    Ok(RouteMatch { path, method: method.transpose()?, headers: headers(&one.headers)?, query, rule: 0 })
}

pub(super) fn grpc(one: &k8s::GrpcMatch) -> Result<RouteMatch, String> {
    let method = one.method.clone().unwrap_or_default();
    let exact = method.kind == k8s::MatchType::Exact;
    // An empty name is none: it means any.
    let [service, named] =
        [&method.service, &method.method].map(|name| name.as_deref().filter(|name| !name.is_empty()));
    let path = match (service, named) {
        (None, None) => None,
        (Some(service), Some(method)) if exact => Some(PathMatch::Exact(format!("/{service}/{method}").into())),
        (Some(service), None) if exact => Some(PathMatch::Prefix(format!("/{service}").into())),
        (service, method) => {
            let part = |name: &str, text: Option<&str>| match text {
                None => Ok("[^/]+".to_owned()),
                Some(text) if exact => Ok(literal(text)),
                // Each must be whole by itself: `a)(?:b` would close our group.
                Some(text) => pattern(text).map(|_| format!("(?:{text})")).map_err(|e| format!(".method.{name}: {e}")),
            };
            let text = format!("/{}/{}", part("service", service)?, part("method", method)?);
            Some(PathMatch::Pattern(pattern(&text).map_err(|e| format!(".method: {e}"))?))
        }
    };
    Ok(RouteMatch { path, method: None, headers: headers(&one.headers)?, query: Vec::new(), rule: 0 })
}

/// A header's name, if it is one.
pub(super) fn header_name(name: &str) -> Result<HeaderName, String> {
    HeaderName::from_bytes(name.as_bytes()).map_err(|_| format!("{name:?} is no header name"))
}

fn path(path: &k8s::PathMatch) -> Result<PathMatch, String> {
    let text = path.value.as_deref().unwrap_or("/");
    match path.kind {
        k8s::PathMatchType::RegularExpression => pattern(text).map(PathMatch::Pattern),
        _ if !text.starts_with('/') => Err(format!("{text:?} does not start with a slash")),
        k8s::PathMatchType::Exact => Ok(PathMatch::Exact(text.into())),
        k8s::PathMatchType::PathPrefix => Ok(PathMatch::Prefix(text.trim_end_matches('/').into())),
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

fn value(one: &k8s::ValueMatch) -> Result<ValueMatch, String> {
    match one.kind {
        k8s::MatchType::Exact => Ok(ValueMatch::Exact(one.value.as_str().into())),
        k8s::MatchType::RegularExpression => pattern(&one.value).map(ValueMatch::Pattern),
    }
}

fn pattern(text: &str) -> Result<Pattern, String> {
    Pattern::new(text).map_err(|error| format!("{text:?} is no usable regular expression: {error}"))
}

/// A pattern that matches `text` and nothing else.
fn literal(text: &str) -> String {
    let escaped = |c: char| if c.is_alphanumeric() || c == '_' { vec![c] } else { vec!['\\', c] };
    text.chars().flat_map(escaped).collect()
}
