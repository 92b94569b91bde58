//! What the Gateway API's CRDs refuse by schema and CEL, where taking it would be something else than what was meant. The
//! directory has no API server before it; objects of the API have passed the same checks, of one version or another.
//!
//! Errors begin with the field, as a suffix to the path of the rule or match.

use crate::objects::routes::{
    BackendRef, BytesRule, Filter, GrpcMatch, GrpcRule, HttpMatch, HttpRule, PathMatch, PathMatchType, PathModifier,
    Retry, Timeouts, ValueMatch,
};
use remora_model::policy;

/// Filters of one rule or backend; backends of one rule; headers or parameters of one match.
const LIST_MAX: usize = 16;
/// Matches of one rule.
const MATCHES_MAX: usize = 64;
const WEIGHT_MAX: u32 = 1_000_000;
/// Fields of a rule that we do not carry out, and without which it does what it would by itself.
pub(super) const WITHOUT_EFFECT: [&str; 1] = ["sessionPersistence"];

/// A rule of an HTTPRoute, but for its matches.
pub(super) fn http_rule(rule: &HttpRule) -> Result<(), String> {
    rule.unknown.none_but(&WITHOUT_EFFECT)?;
    filters(&rule.filters)?;
    let lists = std::iter::once(("filters", &rule.filters))
        .chain(rule.backend_refs.iter().map(|backend| ("backendRefs.filters", &backend.filters)));
    for (field, list) in lists {
        if list.iter().any(replaces_prefix) && !one_prefix(&rule.matches) {
            return Err(format!("{field}: replacePrefixMatch needs a rule with one match, of type PathPrefix"));
        }
    }
    let redirects = rule.filters.iter().any(|filter| filter.kind == "RequestRedirect");
    if redirects && !rule.backend_refs.is_empty() {
        return Err("filters: RequestRedirect and backendRefs exclude each other".to_owned());
    }
    rule.timeouts.as_ref().map_or(Ok(()), timeouts)?;
    rule.retry.as_ref().map_or(Ok(()), retry)?;
    backends(&rule.backend_refs)?;
    within("matches", rule.matches.len(), MATCHES_MAX)
}

/// A rule of a GRPCRoute, but for its matches.
pub(super) fn grpc_rule(rule: &GrpcRule) -> Result<(), String> {
    rule.unknown.none_but(&WITHOUT_EFFECT)?;
    filters(&rule.filters)?;
    backends(&rule.backend_refs)?;
    within("matches", rule.matches.len(), MATCHES_MAX)
}

/// A rule of a TLSRoute or TCPRoute.
pub(super) fn bytes_rule(rule: &BytesRule) -> Result<(), String> {
    rule.unknown.none()?;
    if rule.backend_refs.is_empty() {
        return Err("backendRefs: is empty".to_owned());
    }
    if let Some(at) = rule.backend_refs.iter().position(|backend| !backend.filters.is_empty()) {
        return Err(format!("backendRefs[{at}].filters: there is no such field"));
    }
    backends(&rule.backend_refs)
}

/// The conditions of an HTTPRoute's rule.
pub(super) fn http_match(one: &HttpMatch) -> Result<(), String> {
    one.unknown.none().map_err(dotted)?;
    one.path.as_ref().map_or(Ok(()), path).map_err(|e| format!(".path{e}"))?;
    if let Some(method) = &one.method {
        policy::method(method).map_err(|e| format!(".method: {method:?} {e}"))?;
    }
    values("headers", &one.headers)?;
    values("queryParams", &one.query_params)
}

/// The conditions of a GRPCRoute's rule.
pub(super) fn grpc_match(one: &GrpcMatch) -> Result<(), String> {
    one.unknown.none().map_err(dotted)?;
    one.method.as_ref().map_or(Ok(()), |method| method.unknown.none()).map_err(|e| format!(".method.{e}"))?;
    values("headers", &one.headers)
}

fn dotted(error: String) -> String {
    format!(".{error}")
}

fn within(field: &str, length: usize, max: usize) -> Result<(), String> {
    if length > max { Err(format!("{field}: has {length} entries, more than the {max} allowed")) } else { Ok(()) }
}

fn path(path: &PathMatch) -> Result<(), String> {
    path.unknown.none().map_err(dotted)?;
    let Some(text) = path.value.as_deref().filter(|_| path.kind != PathMatchType::RegularExpression) else {
        return Ok(());
    };
    let lower = text.to_ascii_lowercase();
    let wrong = ["//", "/./", "/../", "%2f", "#"].into_iter().find(|part| lower.contains(part));
    let wrong = wrong.or_else(|| ["/..", "/."].into_iter().find(|end| text.ends_with(end)));
    match wrong {
        Some(part) => Err(format!(".value: {text:?} has {part:?}, which no request's path has when it is compared")),
        None => Ok(()),
    }
}

fn values(field: &str, list: &[ValueMatch]) -> Result<(), String> {
    within(field, list.len(), LIST_MAX).map_err(dotted)?;
    for (i, one) in list.iter().enumerate() {
        one.unknown.none().map_err(|e| format!(".{field}[{i}].{e}"))?;
        if one.name.is_empty() || one.value.is_empty() {
            let empty = if one.name.is_empty() { "name" } else { "value" };
            return Err(format!(".{field}[{i}].{empty}: is empty"));
        }
    }
    Ok(())
}

fn backends(list: &[BackendRef]) -> Result<(), String> {
    within("backendRefs", list.len(), LIST_MAX)?;
    for (i, backend) in list.iter().enumerate() {
        let at = |e: String| format!("backendRefs[{i}].{e}");
        backend.unknown.none().map_err(at)?;
        filters(&backend.filters).map_err(at)?;
        if backend.weight.is_some_and(|weight| weight > WEIGHT_MAX) {
            return Err(at(format!("weight: is more than {WEIGHT_MAX}")));
        }
    }
    Ok(())
}

fn filters(list: &[Filter]) -> Result<(), String> {
    within("filters", list.len(), LIST_MAX)?;
    for (i, filter) in list.iter().enumerate() {
        one_filter(filter).map_err(|e| format!("filters[{i}]{e}"))?;
        let again = list.iter().take(i).any(|before| before.kind == filter.kind);
        if again && !matches!(filter.kind.as_str(), "RequestMirror" | "ExtensionRef") {
            return Err(format!("filters[{i}]: {} may be there once", filter.kind));
        }
    }
    let has = |kind: &str| list.iter().any(|filter| filter.kind == kind);
    if has("RequestRedirect") && has("URLRewrite") {
        return Err("filters: RequestRedirect and URLRewrite exclude each other".to_owned());
    }
    Ok(())
}

/// That a filter has the body of its type and no other; filters of an unsupported type are not checked here.
fn one_filter(filter: &Filter) -> Result<(), String> {
    let bodies = [
        ("RequestHeaderModifier", "requestHeaderModifier", filter.request_header_modifier.is_some()),
        ("ResponseHeaderModifier", "responseHeaderModifier", filter.response_header_modifier.is_some()),
        ("RequestRedirect", "requestRedirect", filter.request_redirect.is_some()),
        ("URLRewrite", "urlRewrite", filter.url_rewrite.is_some()),
        ("RequestMirror", "requestMirror", filter.request_mirror.is_some()),
        ("CORS", "cors", filter.cors.is_some()),
    ];
    if !bodies.iter().any(|(kind, ..)| *kind == filter.kind) {
        return Ok(());
    }
    filter.unknown.none().map_err(dotted)?;
    if let Some((_, field, _)) = bodies.iter().find(|(kind, _, there)| *there && *kind != filter.kind) {
        return Err(format!(".{field}: is not the body of type {}", filter.kind));
    }
    for modifier in filter.request_header_modifier.iter().chain(&filter.response_header_modifier) {
        modifier.unknown.none().map_err(dotted)?;
        for list in [&modifier.set, &modifier.add] {
            list.iter().try_for_each(|header| header.unknown.none()).map_err(dotted)?;
        }
    }
    if let Some(redirect) = &filter.request_redirect {
        redirect.unknown.none().map_err(|e| format!(".requestRedirect.{e}"))?;
        redirect.path.as_ref().map_or(Ok(()), modifier).map_err(|e| format!(".requestRedirect.path{e}"))?;
        if let Some(scheme) = redirect.scheme.as_deref().filter(|scheme| !matches!(*scheme, "http" | "https")) {
            return Err(format!(".requestRedirect.scheme: {scheme:?} is neither http nor https"));
        }
    }
    if let Some(rewrite) = &filter.url_rewrite {
        rewrite.unknown.none().map_err(|e| format!(".urlRewrite.{e}"))?;
        rewrite.path.as_ref().map_or(Ok(()), modifier).map_err(|e| format!(".urlRewrite.path{e}"))?;
    }
    if let Some(mirror) = &filter.request_mirror {
        mirror.unknown.none().map_err(|e| format!(".requestMirror.{e}"))?;
        mirror.backend_ref.unknown.none().map_err(|e| format!(".requestMirror.backendRef.{e}"))?;
        if mirror.percent.is_some() && mirror.fraction.is_some() {
            return Err(".requestMirror: percent and fraction exclude each other".to_owned());
        }
    }
    Ok(())
}

fn modifier(path: &PathModifier) -> Result<(), String> {
    path.unknown.none().map_err(dotted)?;
    let has = (path.replace_full_path.is_some(), path.replace_prefix_match.is_some());
    match (path.kind.as_deref(), has) {
        (Some("ReplaceFullPath"), (true, false)) | (Some("ReplacePrefixMatch"), (false, true)) => Ok(()),
        (Some("ReplaceFullPath"), _) => Err(": type ReplaceFullPath has replaceFullPath and nothing else".to_owned()),
        (Some("ReplacePrefixMatch"), _) => {
            Err(": type ReplacePrefixMatch has replacePrefixMatch and nothing else".to_owned())
        }
        (Some(kind), _) => Err(format!(".type: {kind:?} is neither ReplaceFullPath nor ReplacePrefixMatch")),
        (None, _) => Err(".type: is missing".to_owned()),
    }
}

fn replaces_prefix(filter: &Filter) -> bool {
    let redirect = filter.request_redirect.as_ref().and_then(|redirect| redirect.path.as_ref());
    let rewrite = filter.url_rewrite.as_ref().and_then(|rewrite| rewrite.path.as_ref());
    redirect.into_iter().chain(rewrite).any(|path| path.replace_prefix_match.is_some())
}

/// Whether there is exactly one match, by prefix. None given is the one by the prefix `/`; so is one without a path.
fn one_prefix(matches: &[HttpMatch]) -> bool {
    let prefix = |one: &HttpMatch| one.path.as_ref().is_none_or(|path| path.kind == PathMatchType::PathPrefix);
    matches.is_empty() || matches!(matches, [one] if prefix(one))
}

fn timeouts(timeouts: &Timeouts) -> Result<(), String> {
    timeouts.unknown.none().map_err(|e| format!("timeouts.{e}"))?;
    let read = |text: &Option<String>| text.as_deref().and_then(|text| super::values::duration(text).ok());
    match (read(&timeouts.request), read(&timeouts.backend_request)) {
        (Some(request), Some(backend)) if !request.is_zero() && backend > request => {
            Err("timeouts.backendRequest: is longer than the whole request may take".to_owned())
        }
        _ => Ok(()),
    }
}

fn retry(retry: &Retry) -> Result<(), String> {
    retry.unknown.none().map_err(|e| format!("retry.{e}"))?;
    match retry.codes.iter().find(|code| !(400..=599).contains(*code)) {
        Some(code) => Err(format!("retry.codes: {code} is not from 400 to 599")),
        None => Ok(()),
    }
}
