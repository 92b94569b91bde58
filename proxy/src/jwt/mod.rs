//! Tokens of users: whose request it is, whichever workload sent it. In: the head of a request, the issuers that the policies of a port
//! name, the time. Out: the claims of its token, or nothing if it has none. Refuses: a token that is not good, and more than one. Pure,
//! but for what it remembers of tokens that it has seen.
//!
//! A request without a token is nobody's and goes on: whether it may is for the rules (RFC 6750 §3.1 leaves that to the resource). One with a
//! bad token is refused whatever the rules say, so that nobody takes an expired session for an anonymous one.

mod cache;
mod handed;
mod places;

pub(crate) use cache::Cache;

use crate::limits;
use http::{HeaderMap, HeaderName, Uri};
use places::Places;
use remora_jose::{
    JoseError, KeySet, Profile,
    claims::{Audience, NumericDate, Verified},
};
use remora_model::{ClaimHeader, JwtCondition, JwtIssuer};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::{cell::RefCell, collections::BTreeSet, rc::Rc, sync::Arc, time::Duration};

/// What a worker remembers of tokens.
pub(crate) type Memory = Rc<RefCell<Cache>>;

/// Why a token is not taken. Deterministic but for the last three: the same token is refused for the same reason for as long as the issuers are
/// the same.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("the request has more than one token")]
    Several,
    #[error("the field, cookie or parameter that has the token is not text")]
    Unreadable,
    #[error("the token is longer than {} bytes", limits::TOKEN_BYTES_MAX)]
    TooLong,
    #[error("the token {0}")]
    Jose(#[from] JoseError),
    #[error("the token lacks a claim or holds it in another shape: iss, exp, nbf or aud")]
    Claims,
    #[error("no policy of this port names the token's issuer")]
    Issuer,
    #[error("the token's issuer is taken from another field, cookie or parameter")]
    Place,
    #[error("the token is for another audience")]
    Audience,
    #[error("the token has expired")]
    Expired,
    #[error("the token is not valid yet")]
    NotYetValid,
    #[error("the issuer's keys are not known, or cannot be read")]
    NoKeys,
}

impl Refusal {
    /// Whether the token's owner can do nothing about it.
    pub(crate) fn is_ours(&self) -> bool {
        matches!(self, Self::NoKeys)
    }

    /// Whether the same token will be refused again.
    fn lasts(&self) -> bool {
        !matches!(self, Self::Expired | Self::NotYetValid | Self::NoKeys)
    }
}

/// Issuers that the policies of a port name, ready to check tokens: those that decide, or apart from them those in dry run, which must not change what
/// the others find. One per port and worker, made when policy changes.
#[derive(Debug)]
pub(crate) struct Issuers {
    all: Vec<Issuer>,
    places: Places,
    headers: Vec<HeaderName>,
    /// The claims that rules or applications ask for, by their outermost names: no other is kept.
    wanted: BTreeSet<Arc<str>>,
    cache: Memory,
    /// What it finds out is remembered under this.
    number: u64,
}

#[derive(Debug)]
struct Issuer {
    name: Arc<str>,
    issuer: Arc<str>,
    audiences: Vec<Arc<str>>,
    /// `None`: not known, or no JWKS.
    keys: Option<KeySet>,
    /// The places that may have its tokens, as a set of bits.
    from: u64,
    forward: bool,
    claim_headers: Vec<ClaimHeader>,
}

/// The token of a request that was let through, and where it stood.
#[derive(Debug, Clone)]
pub(crate) struct Shown {
    pub verified: Arc<Checked>,
    /// The places that had it, as a set of bits.
    at: u64,
}

/// What was found out about a token.
#[derive(Debug)]
pub(crate) struct Checked {
    pub token: Verified,
    /// The issuers that took it, by their index.
    issuers: Vec<usize>,
    /// From when to when it is good, since 1970, without the allowance for clocks.
    from: Duration,
    until: Duration,
}

/// What a token must say. The issuer is read again by whoever checks it.
#[derive(Deserialize)]
struct Times {
    exp: NumericDate,
    nbf: Option<NumericDate>,
}

#[derive(Deserialize)]
struct Unverified {
    iss: String,
}

impl Issuers {
    /// `conditions` are those of all rules of the port. An issuer whose keys are not known has those that it had `before`. `None`: there is no issuer, and
    /// nobody looks at requests for tokens.
    pub(crate) fn new<'a>(
        issuers: &[&JwtIssuer],
        conditions: impl IntoIterator<Item = &'a JwtCondition>,
        cache: &Memory,
        before: &[&Self],
    ) -> Option<Self> {
        if issuers.is_empty() {
            return None;
        }
        let mut places = Places::default();
        let all = issuers.iter().map(|said| Issuer {
            name: said.name.clone(),
            issuer: said.issuer.clone(),
            audiences: said.audiences.clone(),
            keys: match &said.keys {
                Some(keys) => KeySet::parse(keys, Profile::USERS).ok(),
                None => before.iter().find_map(|before| before.keys_of(said)).cloned(),
            },
            from: places.of(&said.from),
            forward: said.forward,
            claim_headers: said.claim_headers.clone(),
        });
        let all: Vec<_> = all.collect();
        let mut headers: Vec<_> =
            all.iter().flat_map(|issuer| &issuer.claim_headers).map(|told| told.header.clone()).collect();
        headers.sort_by(|one, other| one.as_str().cmp(other.as_str()));
        headers.dedup();
        let told = issuers.iter().flat_map(|issuer| &issuer.claim_headers).map(|told| &told.claim);
        let asked = conditions.into_iter().flat_map(|condition| &condition.claims).map(|asked| &asked.claim);
        let wanted = told.chain(asked).filter_map(|claim| claim.first().cloned()).collect();
        let number = cache.borrow_mut().number();
        Some(Self { all, places, headers, wanted, cache: cache.clone(), number })
    }

    /// The keys of an issuer, as far as they are known.
    fn keys_of(&self, said: &JwtIssuer) -> Option<&KeySet> {
        self.all.iter().find(|one| one.name == said.name && one.issuer == said.issuer)?.keys.as_ref()
    }

    /// The token of a request with this head, as of `now` since 1970. `None`: it has none.
    pub(crate) fn check(&self, (headers, uri): (&HeaderMap, &Uri), now: Duration) -> Result<Option<Shown>, Refusal> {
        let Some((token, at)) = self.places.token(headers, uri)? else { return Ok(None) };
        if token.len() > limits::TOKEN_BYTES_MAX {
            return Err(Refusal::TooLong);
        }
        let verified = self.remembered(&token, at)?;
        if now >= verified.until.saturating_add(limits::TOKEN_SKEW) {
            return Err(Refusal::Expired);
        }
        if now.saturating_add(limits::TOKEN_SKEW) < verified.from {
            return Err(Refusal::NotYetValid);
        }
        Ok(Some(Shown { verified, at }))
    }

    /// What was found out about this token at these places, now or before.
    fn remembered(&self, token: &str, at: u64) -> Result<Arc<Checked>, Refusal> {
        let key = cache::key(token, at, self.number);
        if let Some(found) = self.cache.borrow_mut().get(&key) {
            return found;
        }
        let found = self.verify(token, at).map(Arc::new);
        if found.as_ref().err().is_none_or(Refusal::lasts) {
            self.cache.borrow_mut().put(key, found.clone());
        }
        found
    }

    fn verify(&self, token: &str, at: u64) -> Result<Checked, Refusal> {
        let issuer = unverified_issuer(token)?;
        let named: Vec<_> = self.all.iter().enumerate().filter(|(_, one)| *one.issuer == *issuer).collect();
        if named.is_empty() {
            return Err(Refusal::Issuer);
        }
        let mut taken: Option<Checked> = None;
        let mut why = Refusal::Place;
        for (index, issuer) in named {
            // Whichever of its places had it, each must be meant.
            let found = if at & !issuer.from == 0 { issuer.verify(token) } else { Err(Refusal::Place) };
            match (found, &mut taken) {
                (Ok(times), Some(taken)) => {
                    taken.token.issuers.push(issuer.name.clone());
                    taken.issuers.push(index);
                    drop(times);
                }
                (Ok((mut claims, from, until)), none) => {
                    claims.retain(|name, _| self.wanted.contains(&**name));
                    let token = Verified { issuers: vec![issuer.name.clone()], claims };
                    *none = Some(Checked { token, issuers: vec![index], from, until });
                }
                // The reason of one that could have taken it tells more.
                (Err(Refusal::Place), _) => {}
                (Err(other), _) => why = other,
            }
        }
        taken.ok_or(why)
    }
}

impl Issuer {
    /// What the token says, and from when to when, if one of this issuer's keys signed it for us.
    fn verify(&self, token: &str) -> Result<(Map<String, Value>, Duration, Duration), Refusal> {
        let keys = self.keys.as_ref().ok_or(Refusal::NoKeys)?;
        let bytes = keys.verified(token)?;
        // What is checked is what was signed: all is read from these bytes, and a name that comes twice is refused.
        let said: Unverified = serde_json::from_slice(&bytes).map_err(|_| Refusal::Claims)?;
        if *said.iss != *self.issuer {
            return Err(Refusal::Issuer);
        }
        let times: Times = serde_json::from_slice(&bytes).map_err(|_| Refusal::Claims)?;
        if !self.audiences.is_empty() {
            let meant: Audience = serde_json::from_slice(&bytes).map_err(|_| Refusal::Audience)?;
            if !self.audiences.iter().any(|audience| meant.aud.holds(audience)) {
                return Err(Refusal::Audience);
            }
        }
        let claims = serde_json::from_slice(&bytes).map_err(|_| Refusal::Claims)?;
        Ok((claims, times.nbf.map_or(Duration::ZERO, |NumericDate(from)| from), times.exp.0))
    }
}

/// Who the token says that it is of, which nobody has checked yet: it chooses the keys.
fn unverified_issuer(token: &str) -> Result<String, Refusal> {
    let payload = token.split('.').nth(1).ok_or(JoseError::Malformed)?;
    let payload = remora_jose::decoded(payload).ok_or(JoseError::Malformed)?;
    let said: Unverified = serde_json::from_slice(&payload).map_err(|_| Refusal::Claims)?;
    Ok(said.iss)
}

#[cfg(test)]
pub(crate) mod tests;
