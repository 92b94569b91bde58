//! Which requests a limit or fault is for. In: a request's head and who sends it. Out: whether it is meant.
//!
//! A limit means what a server may take for the request that it names, as a deny rule does: methods in other letters, HEAD for GET, a path
//! without a canonical form for every path. A fault means no more than it says.

use http::{HeaderMap, Method};
use remora_model::{RequestMatch, SpiffeId, path};
use std::{borrow::Cow, cell::OnceCell};

/// A request, as limits and faults see it.
#[derive(Debug)]
pub(crate) struct Asked<'a> {
    pub(crate) method: &'a Method,
    /// As it came, without the query.
    pub(crate) path: &'a str,
    pub(crate) headers: &'a HeaderMap,
    pub(crate) identity: Option<&'a SpiffeId>,
    canonical: OnceCell<Option<Cow<'a, str>>>,
}

impl<'a> Asked<'a> {
    pub(crate) fn new(
        method: &'a Method,
        path: &'a str,
        headers: &'a HeaderMap,
        identity: Option<&'a SpiffeId>,
    ) -> Self {
        Self { method, path, headers, identity, canonical: OnceCell::new() }
    }

    /// Whether a limit on those counts it.
    pub(crate) fn counts_for(&self, only: &RequestMatch) -> bool {
        let same = |named: &Method| {
            let asked = self.method.as_str();
            named.as_str().eq_ignore_ascii_case(asked) || (*named == Method::GET && asked.eq_ignore_ascii_case("HEAD"))
        };
        (only.methods.is_empty() || only.methods.iter().any(same))
            && self.has(only)
            && (only.paths.is_empty() || self.path(only).unwrap_or(true))
    }

    /// Whether a fault on those may happen to it.
    pub(crate) fn is_one_of(&self, only: &RequestMatch) -> bool {
        (only.methods.is_empty() || only.methods.contains(self.method))
            && self.has(only)
            && (only.paths.is_empty() || self.path(only).unwrap_or(false))
    }

    fn has(&self, only: &RequestMatch) -> bool {
        let RequestMatch { headers, identities, .. } = only;
        headers.iter().all(|(name, value)| self.headers.get_all(name).iter().any(|there| there == value))
            && (identities.is_empty() || self.identity.is_some_and(|id| identities.contains(id)))
    }

    /// Whether its path is one of those; `None`: it has no canonical form.
    fn path(&self, only: &RequestMatch) -> Option<bool> {
        let canonical = self.canonical.get_or_init(|| path::canonical(self.path).ok());
        canonical.as_ref().map(|path| only.paths.iter().any(|pattern| pattern.matches(path)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderName, HeaderValue};
    use remora_model::PathPattern;

    const WEB: &str = "spiffe://cluster.local/ns/shop/sa/web";

    fn only(methods: &[&str], paths: &[&str]) -> RequestMatch {
        RequestMatch {
            methods: methods.iter().map(|text| text.parse().unwrap()).collect(),
            paths: paths.iter().map(|text| PathPattern::parse(text).unwrap()).collect(),
            ..RequestMatch::default()
        }
    }

    /// Whether a limit counts it, and a fault may happen to it.
    fn both(method: &str, path: &str, only: &RequestMatch) -> (bool, bool) {
        let (method, headers) = (method.parse().unwrap(), HeaderMap::new());
        let asked = Asked::new(&method, path, &headers, None);
        (asked.counts_for(only), asked.is_one_of(only))
    }

    #[test]
    fn a_limit_means_what_a_server_may_take_for_the_request_and_a_fault_the_request_alone() {
        let get = only(&["GET"], &["/orders/*"]);
        for (method, path, wanted) in [
            ("GET", "/orders", (true, true)),
            ("GET", "/orders/7;v=1", (true, true)),
            ("GET", "//orders/./7/", (true, true)),
            ("GET", "/order", (false, false)),
            ("POST", "/orders", (false, false)),
            ("HEAD", "/orders", (true, false)),
            ("get", "/orders", (true, false)),
            ("GET", "/a%2fb", (true, false)),
            ("GET", "/orders/../x", (true, false)),
        ] {
            assert_eq!(both(method, path, &get), wanted, "{method} {path}");
            assert_eq!(both(method, path, &RequestMatch::default()), (true, true));
        }
    }

    #[test]
    fn every_header_must_be_there_with_its_value_and_one_identity_of_those() {
        let header = |name: &'static str, value| (HeaderName::from_static(name), HeaderValue::from_static(value));
        let web = SpiffeId::parse(WEB).unwrap();
        let only = RequestMatch {
            headers: vec![header("x-tier", "free"), header("x-test", "1")],
            identities: vec![web.clone()],
            ..RequestMatch::default()
        };
        let mut headers = HeaderMap::new();
        for (name, value) in [("x-tier", "paid"), ("x-tier", "free"), ("x-test", "1")] {
            headers.append(name, HeaderValue::from_static(value));
        }
        let is = |headers: &HeaderMap, identity| {
            let asked = Asked::new(&Method::GET, "/", headers, identity);
            (asked.counts_for(&only), asked.is_one_of(&only))
        };
        assert_eq!((is(&headers, Some(&web)), is(&headers, None)), ((true, true), (false, false)));
        headers.insert("x-test", HeaderValue::from_static("11"));
        assert_eq!(is(&headers, Some(&web)), (false, false));
    }
}
