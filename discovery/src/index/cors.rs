//! HTTPCORSFilter: what scripts of other origins may do.

use super::matches::header_name;
use crate::objects::routes as k8s;
use http::Method;
use remora_model::{Cors, OriginPattern, Origins, cors::Allowed};
use std::collections::BTreeSet;

/// Origins, fields of requests and of answers, each.
const NAMES_MAX: usize = 64;
/// All methods of RFC 9110 and PATCH.
const METHODS: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];
/// Seconds that a browser may remember an answer, unless the filter says.
const MAX_AGE: u32 = 5;

/// What the filter says. Errors begin with the field.
pub(super) fn read(cors: &k8s::Cors) -> Result<Cors, String> {
    cors.unknown.none().map_err(|e| format!(".cors.{e}"))?;
    let origin = |text: &str| OriginPattern::parse(text).map_err(|error| format!("{text:?} {error}"));
    let method = |name: &str| match METHODS.iter().find(|known| **known == name) {
        Some(_) => Method::from_bytes(name.as_bytes()).map_err(|_| format!("{name:?} is no method")),
        None => Err(format!("{name:?} is neither * nor one of {}", METHODS.join(", "))),
    };
    let origins = match allowed("allowOrigins", &cors.allow_origins, NAMES_MAX, origin)? {
        Allowed::Any => Origins::Any,
        Allowed::These(all) => Origins::These(all),
    };
    let max_age = match cors.max_age {
        None => MAX_AGE,
        Some(seconds) => u32::try_from(seconds)
            .ok()
            .filter(|seconds| *seconds > 0)
            .ok_or_else(|| format!(".cors.maxAge: {seconds} is below 1 or too large"))?,
    };
    Ok(Cors {
        origins,
        credentials: cors.allow_credentials.unwrap_or(false),
        methods: allowed("allowMethods", &cors.allow_methods, METHODS.len(), method)?,
        headers: allowed("allowHeaders", &cors.allow_headers, NAMES_MAX, header_name)?,
        expose: allowed("exposeHeaders", &cors.expose_headers, NAMES_MAX, header_name)?,
        max_age,
    })
}

/// `*` alone, or names that are there once.
fn allowed<T>(
    field: &str,
    names: &[String],
    max: usize,
    read: impl Fn(&str) -> Result<T, String>,
) -> Result<Allowed<T>, String> {
    let at = |problem: String| format!(".cors.{field}: {problem}");
    if names.len() > max {
        return Err(at(format!("has {} entries, more than the {max} allowed", names.len())));
    }
    if names == ["*"] {
        return Ok(Allowed::Any);
    }
    if names.iter().any(|name| name == "*") {
        return Err(at("has `*` beside others".to_owned()));
    }
    let mut seen = BTreeSet::new();
    if let Some(twice) = names.iter().find(|name| !seen.insert(name.as_str())) {
        return Err(at(format!("has {twice:?} twice")));
    }
    names.iter().map(|name| read(name).map_err(at)).collect::<Result<_, _>>().map(Allowed::These)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn of(filter: Value) -> Result<Cors, String> {
        read(&serde_json::from_value(filter).expect("a filter"))
    }

    #[test]
    fn a_filter_without_a_word_allows_nothing_for_five_seconds() {
        let cors = of(json!({})).expect("a filter");
        assert_eq!((cors.origins, cors.max_age, cors.credentials), (Origins::These(Vec::new()), 5, false));
        assert_eq!((cors.methods, cors.headers), (Allowed::These(Vec::new()), Allowed::These(Vec::new())));
        let all = ["*"];
        let stars = of(json!({ "allowOrigins": all, "allowMethods": all, "allowHeaders": all, "maxAge": 60 }));
        let stars = stars.expect("a filter");
        assert_eq!((stars.origins, stars.methods, stars.headers), (Origins::Any, Allowed::Any, Allowed::Any));
        assert_eq!(stars.max_age, 60);
    }

    #[test]
    fn what_the_crd_refuses_is_told_with_its_field() {
        let many: Vec<_> = (0..65).map(|i| format!("x-{i}")).collect();
        for (filter, told) in [
            (json!({ "allowOrigins": ["*", "https://a.example"] }), "allowOrigins: has `*` beside others"),
            (json!({ "allowOrigins": ["a.example"] }), "allowOrigins: \"a.example\" is no origin like"),
            (json!({ "allowMethods": ["get"] }), "allowMethods: \"get\" is neither * nor one of GET, "),
            (json!({ "allowHeaders": ["a b"] }), "allowHeaders: \"a b\" is no header name"),
            (json!({ "allowHeaders": many }), "allowHeaders: has 65 entries"),
            (json!({ "exposeHeaders": ["a", "a"] }), "exposeHeaders: has \"a\" twice"),
            (json!({ "maxAge": 0 }), "maxAge: 0 is below 1"),
            (json!({ "allowOrigin": ["*"] }), "allowOrigin"),
        ] {
            let problem = of(filter).unwrap_err();
            assert!(problem.starts_with(&format!(".cors.{told}")), "{told}: {problem}");
        }
    }
}
