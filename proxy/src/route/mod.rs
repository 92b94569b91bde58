//! Stage 5 of 8: route. In: a request's head and the target's routes. Out: the rule that governs it. Refuses: a request
//! that no route of a routed Service matches (404). Pure.

use http::{HeaderMap, Method, Uri};
use remora_model::{HeaderMatch, Outbound, PathMatch, QueryMatch, RouteMatch, Rule};

/// The rule for a request, and the path prefix that selected it (for prefix rewrites).
#[derive(Debug, Clone, Copy)]
pub struct Selected<'a> {
    pub rule: &'a Rule,
    /// Index into [`Outbound::rules`].
    pub index: usize,
    /// `/a` for a prefix match of `/a`, empty for anything else.
    pub prefix: &'a str,
}

/// The first match that holds, in discovery's precedence order. `None`: no route matches.
pub fn select<'a>(outbound: &'a Outbound, method: &Method, uri: &Uri, headers: &HeaderMap) -> Option<Selected<'a>> {
    let hit = outbound.matches.iter().find(|candidate| holds(candidate, method, uri, headers))?;
    let prefix = match &hit.path {
        Some(PathMatch::Prefix(prefix)) => prefix,
        _ => "",
    };
    Some(Selected { rule: outbound.rules.get(hit.rule)?, index: hit.rule, prefix })
}

fn holds(candidate: &RouteMatch, method: &Method, uri: &Uri, headers: &HeaderMap) -> bool {
    candidate.method.as_ref().is_none_or(|wanted| wanted == method)
        && candidate.path.as_ref().is_none_or(|wanted| path_holds(wanted, uri.path()))
        && candidate.headers.iter().all(|wanted| header_holds(wanted, headers))
        && candidate.query.iter().all(|wanted| query_holds(wanted, uri.query().unwrap_or_default()))
}

fn path_holds(wanted: &PathMatch, path: &str) -> bool {
    match wanted {
        PathMatch::Exact(exact) => &**exact == path,
        PathMatch::Prefix(prefix) => {
            path.strip_prefix(&**prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        }
        PathMatch::Pattern(pattern) => pattern.matches(path),
    }
}

/// Several lines of one name are one value, joined with commas (RFC 9110 §5.3).
fn header_holds(wanted: &HeaderMatch, headers: &HeaderMap) -> bool {
    let mut values = headers.get_all(&wanted.name).iter();
    match (values.next(), values.next()) {
        (None, _) => false,
        (Some(only), None) => wanted.value.matches(only.as_bytes()),
        (Some(first), Some(second)) => {
            let mut joined = first.as_bytes().to_vec();
            for value in std::iter::once(second).chain(values) {
                joined.push(b',');
                joined.extend_from_slice(value.as_bytes());
            }
            wanted.value.matches(&joined)
        }
    }
}

fn query_holds(wanted: &QueryMatch, query: &str) -> bool {
    query
        .split('&')
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .find(|(name, _)| decoded(name) == wanted.name.as_bytes())
        .is_some_and(|(_, value)| wanted.value.matches(&decoded(value)))
}

/// `application/x-www-form-urlencoded` bytes; a broken escape stands for itself.
fn decoded(text: &str) -> std::borrow::Cow<'_, [u8]> {
    if !text.bytes().any(|b| b == b'%' || b == b'+') {
        return text.as_bytes().into();
    }
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let hex = |i: usize| bytes.get(i).and_then(|b| char::from(*b).to_digit(16));
        match (byte, hex(at + 1), hex(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                out.push((high * 16 + low) as u8);
                at += 3;
            }
            (b'+', ..) => {
                out.push(b' ');
                at += 1;
            }
            _ => {
                out.push(byte);
                at += 1;
            }
        }
    }
    out.into()
}
