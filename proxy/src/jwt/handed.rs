//! What the application gets of a token: what it says, in fields of their own, and the token itself only where a policy says so. A client's own
//! fields of these names are always taken off: whoever reads them may believe them.

use super::{Issuers, Shown};
use http::{HeaderMap, HeaderName, HeaderValue, Uri};
use serde_json::Value;

impl Issuers {
    /// Makes of what the client sent what the application gets.
    pub(crate) fn hand_on(&self, shown: Option<&Shown>, headers: &mut HeaderMap, uri: &mut Uri) {
        self.strip(headers);
        let Some(shown) = shown else { return };
        let taken = || shown.verified.issuers.iter().filter_map(|index| self.all.get(*index));
        for told in taken().flat_map(|issuer| &issuer.claim_headers) {
            let value = shown.verified.token.claim(&told.claim).and_then(text);
            if let Some(value) = value.and_then(|text| HeaderValue::from_str(&text).ok()) {
                headers.insert(told.header.clone(), value);
            }
        }
        if !taken().any(|issuer| issuer.forward) {
            self.places.take_off(shown.at, headers, uri);
        }
    }
}

impl Issuers {
    /// Takes off a client's own fields of the names that claims have. Servers of the CGI's kind read `_` as `-`.
    fn strip(&self, headers: &mut HeaderMap) {
        for name in &self.headers {
            headers.remove(name);
        }
        let alike = |given: &HeaderName| {
            let same = |(a, b): (u8, u8)| a == b || (a == b'_' && b == b'-') || (a == b'-' && b == b'_');
            let is = |name: &HeaderName| {
                let (given, name) = (given.as_str(), name.as_str());
                given.len() == name.len() && given.bytes().zip(name.bytes()).all(same)
            };
            given.as_str().contains('_') && self.headers.iter().any(is)
        };
        while let Some(forged) = headers.keys().find(|given| alike(given)).cloned() {
            headers.remove(forged);
        }
    }
}

/// A claim as the text of a field: entries of a list are parted by commas. What is an object, or has one in it, is no text; nor is what has a
/// comma in a list, which would be read as two.
fn text(claim: &Value) -> Option<String> {
    match claim {
        Value::String(text) => Some(text.clone()),
        Value::Number(_) | Value::Bool(_) => Some(claim.to_string()),
        Value::Array(all) => {
            let entry = |one: &Value| if one.is_array() { None } else { text(one).filter(|text| !text.contains(',')) };
            all.iter().map(entry).collect::<Option<Vec<_>>>().map(|all| all.join(","))
        }
        Value::Null | Value::Object(_) => None,
    }
}
