//! Fields of our messages by the names that users know: an error of a reader is reported at the field of the manifest.

use remora_api::InvalidMessage;

/// What is wrong with a rule of a route, or with a part of it that is named `within` (`Rule`'s own fields: `""`).
///
/// `rules[1].timeouts.request_ms` of the wire is `timeouts.request` of an HTTPRoute, and so on.
pub(super) fn of_route(error: &InvalidMessage, within: &str) -> String {
    let path = error.path.to_string();
    let mut named: Vec<String> = Vec::new();
    let mut outer = within;
    for segment in path.split('.') {
        let (name, index) = segment.split_at(segment.find('[').unwrap_or(segment.len()));
        let user = match (outer, name) {
            // A BackendRef is its own reference.
            ("backends", "backend") | ("value", "exact" | "pattern") => None,
            ("mirror", "backend") => Some("backendRef"),
            ("path", "full") => Some("replaceFullPath"),
            ("path", "prefix") if named.iter().any(|name| name.starts_with("request") || name == "urlRewrite") => {
                Some("replacePrefixMatch")
            }
            ("path", "exact" | "prefix" | "pattern") => Some("value"),
            (_, name) => Some(user(name)),
        };
        named.extend(user.map(|user| format!("{user}{index}")));
        outer = name;
    }
    named.retain(|name| !name.is_empty());
    if named.is_empty() { error.problem.to_string() } else { format!("{}: {}", named.join("."), error.problem) }
}

fn user(wire: &str) -> &str {
    match wire {
        "label" => "name",
        "backends" => "backendRefs",
        "request_ms" => "request",
        "backend_request_ms" => "backendRequest",
        "backoff_ms" => "backoff",
        "request_headers" => "requestHeaderModifier",
        "response_headers" => "responseHeaderModifier",
        "redirect" => "requestRedirect",
        "rewrite" => "urlRewrite",
        "mirror" => "requestMirror",
        "query" => "queryParams",
        "status" => "statusCode",
        name => name,
    }
}

/// What is wrong with a rule of an AuthorizationPolicy. The names are the same on both sides.
pub(super) fn of_policy(error: &InvalidMessage) -> String {
    error.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use remora_api::convert::check;
    use remora_model::*;
    use std::time::Duration;

    #[test]
    fn a_field_of_the_wire_is_told_as_the_users_own() {
        let id = |name: &str, port| BackendId::service("shop", name, port);
        let rewrite = |path| Filter::Rewrite { hostname: None, path: Some(path) };
        let rule = |change: fn(&mut Rule)| {
            let mut rule = Rule::closed("r".into());
            change(&mut rule);
            of_route(&check::rule(&rule).unwrap_err(), "")
        };
        let long = rule(|rule| rule.timeouts.request = Some(Duration::MAX));
        assert_eq!(long, "timeouts.request: is out of range");
        assert!(rule(|rule| rule.label = "x".repeat(9000).into()).starts_with("name: is longer than"));
        let told = |filter: &Filter| of_route(&check::filter(filter).unwrap_err(), "");
        assert_eq!(told(&rewrite(PathRewrite::Full("".into()))), "urlRewrite.path.replaceFullPath: is missing");
        let long = PathRewrite::Prefix("x".repeat(9000).into());
        assert!(told(&rewrite(long)).starts_with("urlRewrite.path.replacePrefixMatch: "));
        let mirror = Filter::Mirror { backend: id("", 1), numerator: 1, denominator: 1 };
        assert_eq!(told(&mirror), "requestMirror.backendRef.name: is missing");
        let backend =
            BackendRef { backend: id("api", 0), weight: 1, state: BackendRefState::Valid, filters: Vec::new() };
        assert_eq!(of_route(&check::backend_ref(&backend).unwrap_err(), "backends"), "port: is out of range");
        let query = vec![QueryMatch { name: "".into(), value: ValueMatch::Exact("1".into()) }];
        let one = RouteMatch { path: None, method: None, headers: Vec::new(), query, rule: 0 };
        assert_eq!(of_route(&check::route_match(&one).unwrap_err(), ""), "queryParams[0].name: is missing");
        let path = Some(PathMatch::Exact("".into()));
        let one = RouteMatch { path, query: Vec::new(), ..one };
        assert_eq!(of_route(&check::route_match(&one).unwrap_err(), ""), "path.value: is missing");
    }
}
