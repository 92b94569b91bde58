//! Stage 5 of 8: route. In: a request's head and the target's routes. Out: the rule that governs it. Refuses: a request
//! that no route of a routed Service matches (404). Pure.

use http::{HeaderMap, Method, Uri, header::HOST};
use remora_model::{HeaderMatch, Outbound, PathMatch, QueryMatch, RouteMatch};

/// The rule for a request, and the path prefix that selected it (for prefix rewrites).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Selected<'a> {
    /// Index into [`Outbound::rules`].
    pub index: usize,
    /// `/a` for a prefix match of `/a`, empty for anything else.
    pub prefix: &'a str,
}

/// The first match that holds, in discovery's precedence order. `None`: no route matches.
pub(crate) fn select<'a>(
    outbound: &'a Outbound,
    method: &Method,
    uri: &Uri,
    headers: &HeaderMap,
) -> Option<Selected<'a>> {
    let hit = outbound.matches.iter().find(|candidate| holds(candidate, method, uri, headers))?;
    let prefix = match &hit.path {
        Some(PathMatch::Prefix(prefix)) => prefix,
        _ => "",
    };
    outbound.rules.get(hit.rule)?;
    Some(Selected { index: hit.rule, prefix })
}

fn holds(candidate: &RouteMatch, method: &Method, uri: &Uri, headers: &HeaderMap) -> bool {
    candidate.method.as_ref().is_none_or(|wanted| wanted == method)
        && candidate.path.as_ref().is_none_or(|wanted| path_holds(wanted, uri.path()))
        && candidate.headers.iter().all(|wanted| header_holds(wanted, uri, headers))
        && candidate.query.iter().all(|wanted| query_holds(wanted, uri.query().unwrap_or_default()))
}

fn path_holds(wanted: &PathMatch, path: &str) -> bool {
    match wanted {
        PathMatch::Exact(exact) => &**exact == path,
        PathMatch::Prefix(prefix) => {
            path.strip_prefix(&**prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        }
        PathMatch::Pattern(pattern) => pattern.matches(path.as_bytes()),
    }
}

/// Several lines of one name are one value, joined with commas (RFC 9110 §5.3). HTTP/2 names the host in `:authority`.
fn header_holds(wanted: &HeaderMatch, uri: &Uri, headers: &HeaderMap) -> bool {
    let mut values = headers.get_all(&wanted.name).iter();
    match (values.next(), values.next()) {
        (None, _) if wanted.name == HOST => {
            uri.authority().is_some_and(|authority| wanted.value.matches(authority.as_str().as_bytes()))
        }
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

#[cfg(test)]
mod tests {
    use remora_model::Rule;

    use super::*;
    use http::{HeaderName, HeaderValue};
    use remora_model::{Parent, Pattern, RouteMatch, Timeouts, ValueMatch};

    fn any() -> RouteMatch {
        RouteMatch { path: None, method: None, headers: Vec::new(), query: Vec::new(), rule: 0 }
    }

    /// Whether a GET with these headers meets the conditions.
    fn meets(conditions: RouteMatch, uri: &str, headers: &[(&str, &str)]) -> bool {
        let headers = headers
            .iter()
            .map(|(name, value)| (HeaderName::try_from(*name).unwrap(), HeaderValue::try_from(*value).unwrap()));
        holds(&conditions, &Method::GET, &uri.parse().unwrap(), &headers.collect())
    }

    fn path(wanted: PathMatch, path: &str) -> bool {
        meets(RouteMatch { path: Some(wanted), ..any() }, path, &[])
    }

    #[test]
    fn paths_match_whole_whole_segments_or_a_whole_pattern() {
        let exact = || PathMatch::Exact("/a".into());
        assert!(path(exact(), "/a?b=c") && !path(exact(), "/a/") && !path(exact(), "/A"));
        let prefix = || PathMatch::Prefix("/a".into());
        assert!(path(prefix(), "/a") && path(prefix(), "/a/") && path(prefix(), "/a/b"));
        assert!(!path(prefix(), "/ab") && !path(prefix(), "/b/a"));
        assert!(path(PathMatch::Prefix("".into()), "/anything"));
        let pattern = || PathMatch::Pattern(Pattern::new("/[0-9]+|/x").unwrap());
        assert!(
            path(pattern(), "/42") && path(pattern(), "/x") && !path(pattern(), "/42/") && !path(pattern(), "/y/x")
        );
    }

    fn header(name: &'static str, value: &str, headers: &[(&str, &str)]) -> bool {
        let wanted = HeaderMatch { name: HeaderName::from_static(name), value: ValueMatch::Exact(value.into()) };
        meets(RouteMatch { headers: vec![wanted], ..any() }, "http://api:80/", headers)
    }

    #[test]
    fn headers_match_as_one_value_whatever_their_lines() {
        assert!(header("x-a", "1", &[("X-A", "1")]));
        assert!(!header("x-a", "1", &[("x-a", "12")]) && !header("x-a", "1", &[]));
        assert!(
            header("x-a", "1,2", &[("x-a", "1"), ("x-a", "2")]) && !header("x-a", "1", &[("x-a", "1"), ("x-a", "2")])
        );
    }

    #[test]
    fn the_host_is_a_header_in_both_versions_of_http() {
        assert!(
            header("host", "api", &[("host", "api")]) && header("host", "api:80", &[]) && !header("host", "api", &[])
        );
    }

    fn query(value: &str, query: &str) -> bool {
        let wanted = QueryMatch { name: "q".into(), value: ValueMatch::Exact(value.into()) };
        meets(RouteMatch { query: vec![wanted], ..any() }, &format!("/?{query}"), &[])
    }

    #[test]
    fn query_parameters_match_decoded_and_by_their_first_value() {
        assert!(query("a b", "q=a+b") && query("a b", "p&q=a%20b") && query("", "q"));
        assert!(query("1", "q=1&q=2") && !query("2", "q=1&q=2") && !query("1", "Q=1") && !query("1", ""));
        assert!(query("100%", "q=100%"), "a broken escape stands for itself");
    }

    #[test]
    fn the_first_match_that_holds_wins_and_all_its_conditions_must() {
        let post = RouteMatch { method: Some(Method::POST), rule: 1, ..any() };
        let prefix = RouteMatch { path: Some(PathMatch::Prefix("/a".into())), rule: 0, ..any() };
        let rule = |label: &str| Rule {
            label: label.into(),
            filters: Vec::new(),
            backends: Vec::new(),
            timeouts: Timeouts::default(),
            retry: None,
        };
        let outbound = Outbound {
            matches: vec![RouteMatch { method: Some(Method::PUT), ..prefix.clone() }, post, prefix],
            rules: vec![rule("a"), rule("post")],
            ..Outbound::bare("api:80".parse().unwrap(), Parent::Outside)
        };
        let select = |method: Method, uri: &str| {
            let selected = select(&outbound, &method, &uri.parse().unwrap(), &HeaderMap::new())?;
            Some((outbound.rules[selected.index].label.to_string(), selected.index, selected.prefix.to_owned()))
        };
        assert_eq!(select(Method::POST, "/a/b"), Some(("post".into(), 1, String::new())));
        assert_eq!(select(Method::GET, "/a/b"), Some(("a".into(), 0, "/a".into())));
        assert_eq!(select(Method::GET, "/b"), None);
    }
}
