//! Issuers of users' tokens, and what rules ask of tokens.

use super::{At, InvalidMessage, Problem, conditions, known, list_of, name, text};
use crate::v1;
use http::HeaderName;
use remora_model::{ClaimCondition, ClaimHeader, ClaimPath, JwtCondition, JwtIssuer, TokenPlace};
use std::sync::Arc;

/// Issuers of one port. With [`PLACES_MAX`] of each, their places are no more than the bits of a word, which is what the proxy counts them with.
pub const ISSUERS_MAX: usize = 16;
/// Places that have the tokens of one issuer.
pub const PLACES_MAX: usize = 4;
/// Audiences of an issuer, claims that it tells, claims and issuers of a condition.
pub const CLAIMS_MAX: usize = 16;
/// Names of a path to a claim.
pub const CLAIM_DEPTH_MAX: usize = 8;
/// Values of a condition.
pub const CLAIM_VALUES_MAX: usize = 64;
/// Bytes of a JWKS of which only what checks signatures is left: a dozen RSA keys of 4096 bits.
pub const KEYS_BYTES_MAX: usize = 16 * 1024;

impl From<&JwtIssuer> for v1::JwtIssuer {
    fn from(issuer: &JwtIssuer) -> Self {
        Self {
            name: issuer.name.to_string(),
            issuer: issuer.issuer.to_string(),
            audiences: texts(&issuer.audiences),
            keys: issuer.keys.as_ref().map(ToString::to_string),
            from: issuer.from.iter().map(Into::into).collect(),
            forward: issuer.forward,
            claim_headers: issuer.claim_headers.iter().map(Into::into).collect(),
            dry_run: issuer.dry_run,
        }
    }
}

impl TryFrom<v1::JwtIssuer> for JwtIssuer {
    type Error = InvalidMessage;

    fn try_from(message: v1::JwtIssuer) -> Result<Self, InvalidMessage> {
        if message.from.is_empty() {
            return Err(Problem::Missing.at("from"));
        }
        if message.keys.as_ref().is_some_and(|keys| keys.len() > KEYS_BYTES_MAX) {
            return Err(Problem::OutOfRange.at("keys"));
        }
        Ok(Self {
            name: name(message.name).at("name")?,
            issuer: name(message.issuer).at("issuer")?,
            audiences: list_of("audiences", CLAIMS_MAX, message.audiences, name)?,
            keys: message.keys.map(Into::into),
            from: list_of("from", PLACES_MAX, message.from, TokenPlace::try_from)?,
            forward: message.forward,
            claim_headers: list_of("claim_headers", CLAIMS_MAX, message.claim_headers, ClaimHeader::try_from)?,
            dry_run: message.dry_run,
        })
    }
}

impl From<&TokenPlace> for v1::TokenPlace {
    fn from(place: &TokenPlace) -> Self {
        use v1::token_place::Place;
        let place = match place {
            TokenPlace::Header { name, prefix } => {
                Place::Header(v1::HeaderPlace { name: name.to_string(), prefix: prefix.to_string() })
            }
            TokenPlace::Cookie(name) => Place::Cookie(name.to_string()),
            TokenPlace::Query(name) => Place::Query(name.to_string()),
        };
        Self { place: Some(place) }
    }
}

impl TryFrom<v1::TokenPlace> for TokenPlace {
    type Error = InvalidMessage;

    fn try_from(message: v1::TokenPlace) -> Result<Self, InvalidMessage> {
        use v1::token_place::Place;
        match message.place {
            None => Err(Problem::Missing.at("place")),
            Some(Place::Header(v1::HeaderPlace { name, prefix })) => {
                Ok(Self::Header { name: header(&name).at("name")?, prefix: text(prefix).at("prefix")? })
            }
            Some(Place::Cookie(cookie)) => name(cookie).map(Self::Cookie).at("cookie"),
            Some(Place::Query(query)) => name(query).map(Self::Query).at("query"),
        }
    }
}

impl From<&ClaimHeader> for v1::ClaimHeader {
    fn from(told: &ClaimHeader) -> Self {
        Self { claim: texts(&told.claim), header: told.header.to_string() }
    }
}

impl TryFrom<v1::ClaimHeader> for ClaimHeader {
    type Error = InvalidMessage;

    fn try_from(message: v1::ClaimHeader) -> Result<Self, InvalidMessage> {
        Ok(Self { claim: claim(message.claim)?, header: header(&message.header).at("header")? })
    }
}

impl From<&JwtCondition> for v1::JwtCondition {
    fn from(asked: &JwtCondition) -> Self {
        Self {
            issuers: texts(&asked.issuers),
            claims: asked.claims.iter().map(Into::into).collect(),
            conditions: conditions([asked.issuers.is_empty(), asked.claims.is_empty()]),
        }
    }
}

impl TryFrom<v1::JwtCondition> for JwtCondition {
    type Error = InvalidMessage;

    fn try_from(message: v1::JwtCondition) -> Result<Self, InvalidMessage> {
        known(message.conditions, [message.issuers.is_empty(), message.claims.is_empty()])?;
        if message.issuers.is_empty() {
            return Err(Problem::Missing.at("issuers"));
        }
        Ok(Self {
            issuers: list_of("issuers", CLAIMS_MAX, message.issuers, name)?,
            claims: list_of("claims", CLAIMS_MAX, message.claims, ClaimCondition::try_from)?,
        })
    }
}

impl From<&ClaimCondition> for v1::ClaimCondition {
    fn from(asked: &ClaimCondition) -> Self {
        Self {
            claim: texts(&asked.claim),
            values: texts(&asked.values),
            conditions: conditions([asked.claim.is_empty(), asked.values.is_empty()]),
        }
    }
}

impl TryFrom<v1::ClaimCondition> for ClaimCondition {
    type Error = InvalidMessage;

    fn try_from(message: v1::ClaimCondition) -> Result<Self, InvalidMessage> {
        known(message.conditions, [message.claim.is_empty(), message.values.is_empty()])?;
        Ok(Self { claim: claim(message.claim)?, values: list_of("values", CLAIM_VALUES_MAX, message.values, text)? })
    }
}

fn claim(names: Vec<String>) -> Result<ClaimPath, InvalidMessage> {
    if names.is_empty() {
        return Err(Problem::Missing.at("claim"));
    }
    list_of("claim", CLAIM_DEPTH_MAX, names, name)
}

fn header(text: &str) -> Result<HeaderName, Problem> {
    HeaderName::from_bytes(text.as_bytes()).map_err(|_| Problem::HeaderName)
}

fn texts(all: &[Arc<str>]) -> Vec<String> {
    all.iter().map(ToString::to_string).collect()
}
