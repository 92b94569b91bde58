//! Where requests have tokens. In: the head of a request. Out: its one token, and at which places it stands; or nothing. Refuses: two
//! tokens that differ, wherever they stand, since the application may read the other one.

use super::Refusal;
use http::{
    HeaderMap, Uri,
    header::{COOKIE, HeaderName, HeaderValue},
    uri::PathAndQuery,
};
use remora_model::TokenPlace;
use std::borrow::Cow;

/// The places of all issuers of a port, each once; a set of them is one of bits.
#[derive(Debug, Default)]
pub(super) struct Places(Vec<TokenPlace>);

impl Places {
    /// The set of these places. What has no bit any more is no place: issuers with so many places are refused before they come here.
    pub(super) fn of(&mut self, places: &[TokenPlace]) -> u64 {
        let mut set = 0;
        for place in places {
            let at = self.0.iter().position(|known| known == place).unwrap_or_else(|| {
                self.0.push(place.clone());
                self.0.len() - 1
            });
            set |= u32::try_from(at).ok().and_then(|at| 1_u64.checked_shl(at)).unwrap_or(0);
        }
        set
    }

    /// The one token of a request, and the places that have it.
    pub(super) fn token<'a>(
        &self,
        headers: &'a HeaderMap,
        uri: &'a Uri,
    ) -> Result<Option<(Cow<'a, str>, u64)>, Refusal> {
        let mut found = Found::default();
        for (at, place) in self.0.iter().enumerate().take(64) {
            found.look(1 << at, place, (headers, uri))?;
        }
        Ok(found.0)
    }

    /// Takes what stands at a set of places off a request.
    pub(super) fn take_off(&self, set: u64, headers: &mut HeaderMap, uri: &mut Uri) {
        let held = self.0.iter().enumerate().take(64).filter(|(at, _)| set & (1 << at) != 0);
        for (_, place) in held {
            match place {
                TokenPlace::Header { name, prefix } => without(headers, name, |value| behind(value, prefix).is_some()),
                TokenPlace::Cookie(name) => without_cookie(headers, name),
                TokenPlace::Query(name) => without_parameter(uri, name),
            }
        }
    }
}

/// The token that was found, and at which places.
#[derive(Debug, Default)]
struct Found<'a>(Option<(Cow<'a, str>, u64)>);

impl<'a> Found<'a> {
    /// Takes all that stands at a place.
    fn look(&mut self, at: u64, place: &TokenPlace, (headers, uri): (&'a HeaderMap, &'a Uri)) -> Result<(), Refusal> {
        match place {
            TokenPlace::Header { name, prefix } => {
                for bytes in headers.get_all(name).iter().filter_map(|value| behind(value, prefix)) {
                    self.take(Cow::Borrowed(text(bytes)?), at)?;
                }
            }
            TokenPlace::Cookie(name) => {
                let all = headers.get_all(COOKIE).iter().flat_map(|value| pairs(value.as_bytes()));
                for (_, bytes) in all.filter(|(key, _)| *key == name.as_bytes()) {
                    self.take(Cow::Borrowed(text(bytes)?), at)?;
                }
            }
            TokenPlace::Query(name) => {
                let all = form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes());
                for (_, value) in all.filter(|(key, _)| **key == **name) {
                    self.take(value, at)?;
                }
            }
        }
        Ok(())
    }

    fn take(&mut self, token: Cow<'a, str>, at: u64) -> Result<(), Refusal> {
        match &mut self.0 {
            Some((one, _)) if *one != token => return Err(Refusal::Several),
            Some((_, set)) => *set |= at,
            none => *none = Some((token, at)),
        }
        Ok(())
    }
}

/// What stands behind a prefix.
fn behind<'a>(value: &'a HeaderValue, prefix: &str) -> Option<&'a [u8]> {
    let (before, behind) = value.as_bytes().split_at_checked(prefix.len())?;
    before.eq_ignore_ascii_case(prefix.as_bytes()).then(|| behind.trim_ascii())
}

/// A token is ASCII; what is not would be compared otherwise than it is read.
fn text(bytes: &[u8]) -> Result<&str, Refusal> {
    std::str::from_utf8(bytes).ok().filter(|text| text.is_ascii()).ok_or(Refusal::Unreadable)
}

/// The cookies of one field (RFC 6265 §5.4), with the quotes that a server takes off their values.
fn pairs(field: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    field.split(|byte| *byte == b';').filter_map(|pair| {
        let at = pair.iter().position(|byte| *byte == b'=')?;
        let (name, value) = (pair[..at].trim_ascii(), pair[at + 1..].trim_ascii());
        Some((name, value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\"")).unwrap_or(value)))
    })
}

/// Takes off the values that `held` means, and leaves the others in their order.
fn without(headers: &mut HeaderMap, name: &HeaderName, held: impl Fn(&HeaderValue) -> bool) {
    let kept: Vec<_> = headers.get_all(name).iter().filter(|value| !held(value)).cloned().collect();
    headers.remove(name);
    for value in kept {
        headers.append(name, value);
    }
}

fn without_cookie(headers: &mut HeaderMap, name: &str) {
    let less = |value: &HeaderValue| {
        let kept = value.as_bytes().split(|byte| *byte == b';');
        let kept = kept.filter(|pair| pairs(pair).all(|(key, _)| key != name.as_bytes()));
        let kept = kept.map(<[u8]>::trim_ascii).filter(|pair| !pair.is_empty()).collect::<Vec<_>>().join(&b"; "[..]);
        HeaderValue::from_bytes(&kept).ok().filter(|value| !value.is_empty())
    };
    let kept: Vec<_> = headers.get_all(COOKIE).iter().filter_map(less).collect();
    headers.remove(COOKIE);
    for value in kept {
        headers.append(COOKIE, value);
    }
}

/// All other parameters stay as they were written.
fn without_parameter(uri: &mut Uri, name: &str) {
    let is_held = |pair: &&str| form_urlencoded::parse(pair.as_bytes()).any(|(key, _)| key == name);
    let kept: Vec<&str> = uri.query().unwrap_or_default().split('&').filter(|pair| !is_held(pair)).collect();
    let target = if kept.is_empty() { uri.path().to_owned() } else { format!("{}?{}", uri.path(), kept.join("&")) };
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = PathAndQuery::try_from(target).ok();
    if let Ok(less) = Uri::from_parts(parts) {
        *uri = less;
    }
}
