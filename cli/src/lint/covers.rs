//! Whether one rule takes all that another takes. Pure, and careful: what is not surely covered is not.
//!
//! Structs are taken apart field by field, so that a condition that is new does not compile until it is looked at here.

use ipnet::IpNet;
use remora_discovery::objects::policy::{PolicyOperation, PolicyRule, PolicySource};

/// Whether every request that `inner` takes, `outer` takes as well.
pub(super) fn covers(outer: &PolicyRule, inner: &PolicyRule) -> bool {
    let PolicyRule { from, to, unidentified, unknown } = outer;
    unknown.is_empty()
        && inner.unknown.is_empty()
        && *unidentified == inner.unidentified
        && every(from.as_deref(), inner.from.as_deref(), source)
        && every(to.as_deref(), inner.to.as_deref(), operation)
}

/// Whether each of `inner` lies within one of `outer`. None, or an empty list, is everything.
fn every<T>(outer: Option<&[T]>, inner: Option<&[T]>, within: impl Fn(&T, &T) -> bool) -> bool {
    let (outer, inner) = (outer.unwrap_or_default(), inner.unwrap_or_default());
    outer.is_empty() || (!inner.is_empty() && inner.iter().all(|inner| outer.iter().any(|outer| within(outer, inner))))
}

fn source(outer: &PolicySource, inner: &PolicySource) -> bool {
    let PolicySource {
        identities,
        namespaces,
        service_accounts,
        trust_domains,
        authenticated,
        cidrs,
        jwt,
        except,
        unknown,
    } = outer;
    unknown.is_empty()
        && inner.unknown.is_empty()
        // They say what namespaces and service accounts mean.
        && *trust_domains == inner.trust_domains
        && authenticated.is_none_or(|asked| inner.authenticated == Some(asked))
        && (jwt.is_none() || *jwt == inner.jwt)
        && (except.is_none() || *except == inner.except)
        && subset(service_accounts.as_ref(), inner.service_accounts.as_ref(), |outer, inner| outer == inner)
        && subset(identities.as_ref(), inner.identities.as_ref(), |outer, inner| outer == inner)
        && subset(namespaces.as_ref(), inner.namespaces.as_ref(), |outer, inner| outer == inner)
        && subset(cidrs.as_ref(), inner.cidrs.as_ref(), range)
}

fn operation(outer: &PolicyOperation, inner: &PolicyOperation) -> bool {
    let PolicyOperation { methods, paths, hosts, headers, grpc, ports, except, unknown } = outer;
    unknown.is_empty()
        && inner.unknown.is_empty()
        && (headers.is_none() || *headers == inner.headers)
        && (grpc.is_none() || *grpc == inner.grpc)
        && (ports.is_none() || *ports == inner.ports)
        && (except.is_none() || *except == inner.except)
        && subset(hosts.as_ref(), inner.hosts.as_ref(), |outer, inner| outer == inner)
        && subset(methods.as_ref(), inner.methods.as_ref(), |outer, inner| outer == inner)
        && subset(paths.as_ref(), inner.paths.as_ref(), path)
}

/// What a list that is not there leaves open, no list closes.
fn subset(outer: Option<&Vec<String>>, inner: Option<&Vec<String>>, within: impl Fn(&str, &str) -> bool) -> bool {
    let Some(outer) = outer else { return true };
    inner.is_some_and(|inner| {
        !inner.is_empty() && inner.iter().all(|inner| outer.iter().any(|outer| within(outer, inner)))
    })
}

fn range(outer: &str, inner: &str) -> bool {
    match (outer.parse::<IpNet>(), inner.parse::<IpNet>()) {
        (Ok(outer), Ok(inner)) => outer.contains(&inner),
        _ => outer == inner,
    }
}

/// `/a/*` takes what begins with `/a/`.
fn path(outer: &str, inner: &str) -> bool {
    outer == inner
        || outer
            .strip_suffix("/*")
            .is_some_and(|prefix| inner.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('/')))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn rule(value: Value) -> PolicyRule {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn a_rule_covers_what_it_surely_takes_and_nothing_else() {
        let get = || json!({ "to": [{ "methods": ["GET"] }] });
        let web = || json!({ "from": [{ "namespaces": ["web"] }] });
        for (outer, inner, covered) in [
            (json!({ "from": [] }), web(), true),
            (json!({ "from": [] }), get(), true),
            (web(), json!({ "from": [] }), false),
            (web(), web(), true),
            (json!({ "from": [{ "namespaces": ["web", "shop"] }] }), web(), true),
            (web(), json!({ "from": [{ "namespaces": ["web", "shop"] }] }), false),
            (web(), json!({ "from": [{ "namespaces": ["web"], "cidrs": ["10.0.0.0/8"] }] }), true),
            (json!({ "from": [{ "namespaces": ["web"], "cidrs": ["10.0.0.0/8"] }] }), web(), false),
            (json!({ "from": [{ "cidrs": ["10.0.0.0/8"] }] }), json!({ "from": [{ "cidrs": ["10.1.0.0/16"] }] }), true),
            (
                json!({ "from": [{ "cidrs": ["10.1.0.0/16"] }] }),
                json!({ "from": [{ "cidrs": ["10.0.0.0/8"] }] }),
                false,
            ),
            (json!({ "to": [{ "paths": ["/a/*"] }] }), json!({ "to": [{ "paths": ["/a/b", "/a/c/*"] }] }), true),
            (json!({ "to": [{ "paths": ["/a/*"] }] }), json!({ "to": [{ "paths": ["/ab"] }] }), false),
            (
                get(),
                json!({ "from": [{ "namespaces": ["web"] }], "to": [{ "methods": ["GET"], "paths": ["/"] }] }),
                true,
            ),
            (json!({ "from": [], "unidentified": "Ignore" }), web(), false),
            (json!({ "from": [], "form": [] }), web(), false),
        ] {
            assert_eq!(covers(&rule(outer.clone()), &rule(inner.clone())), covered, "{outer} {inner}");
        }
    }
}
