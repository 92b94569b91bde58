//! How clients choose among endpoints. What `sessionAffinity: ClientIP` of a Service asks has a field of its own, which is older.

use super::{At as _, InvalidMessage, Problem};
use crate::v1::{self, load_balancer::Kind, request_hash::Key};
use remora_model::{
    CookieName, HashHeader, HashKey, HashSource, LoadBalancer, RequestHash,
    load_balancer::{BALANCE_FACTOR_MAX, BALANCE_FACTOR_MIN},
};

/// As [`v1::BackendSettings`] says it.
pub(super) fn said(load_balancer: &LoadBalancer) -> (bool, Option<v1::LoadBalancer>) {
    let kind = match load_balancer {
        LoadBalancer::PeakEwma => return (false, None),
        LoadBalancer::SourceHash(HashSource::Ip) => return (true, None),
        LoadBalancer::LeastRequest => Kind::LeastRequest(true),
        LoadBalancer::RoundRobin => Kind::RoundRobin(true),
        LoadBalancer::SourceHash(HashSource::Identity) => Kind::SourceIdentity(true),
        LoadBalancer::RequestHash(hash) => Kind::RequestHash(hash.into()),
    };
    (false, Some(v1::LoadBalancer { kind: Some(kind) }))
}

/// Reads what [`v1::BackendSettings`] says.
pub(super) fn read(session_affinity: bool, message: Option<v1::LoadBalancer>) -> Result<LoadBalancer, InvalidMessage> {
    let Some(message) = message else {
        return Ok(if session_affinity { LoadBalancer::SourceHash(HashSource::Ip) } else { LoadBalancer::PeakEwma });
    };
    if session_affinity {
        return Err(Problem::Excludes("load_balancer").at("session_affinity"));
    }
    balancer(message).at("load_balancer")
}

fn balancer(message: v1::LoadBalancer) -> Result<LoadBalancer, InvalidMessage> {
    let always = |said: bool, field, is: LoadBalancer| if said { Ok(is) } else { Err(Problem::OutOfRange.at(field)) };
    match message.kind.ok_or_else(|| Problem::Missing.at("kind"))? {
        Kind::LeastRequest(said) => always(said, "least_request", LoadBalancer::LeastRequest),
        Kind::RoundRobin(said) => always(said, "round_robin", LoadBalancer::RoundRobin),
        Kind::SourceIdentity(said) => always(said, "source_identity", LoadBalancer::SourceHash(HashSource::Identity)),
        Kind::RequestHash(hash) => Ok(LoadBalancer::RequestHash(hash.try_into().at("request_hash")?)),
    }
}

impl From<&RequestHash> for v1::RequestHash {
    fn from(hash: &RequestHash) -> Self {
        let key = match &hash.key {
            HashKey::Header(header) => Key::Header(header.name().to_string()),
            HashKey::Cookie(name) => Key::Cookie(name.as_str().to_owned()),
        };
        Self { key: Some(key), balance_factor: hash.balance_factor.unwrap_or_default() }
    }
}

impl TryFrom<v1::RequestHash> for RequestHash {
    type Error = InvalidMessage;

    fn try_from(message: v1::RequestHash) -> Result<Self, InvalidMessage> {
        let key = match message.key.ok_or_else(|| Problem::Missing.at("key"))? {
            Key::Header(name) => HashKey::Header(HashHeader::parse(&name).map_err(Problem::from).at("header")?),
            Key::Cookie(name) => HashKey::Cookie(CookieName::parse(&name).map_err(Problem::from).at("cookie")?),
        };
        let balance_factor = match message.balance_factor {
            0 => None,
            BALANCE_FACTOR_MIN..=BALANCE_FACTOR_MAX => Some(message.balance_factor),
            _ => return Err(Problem::OutOfRange.at("balance_factor")),
        };
        Ok(Self { key, balance_factor })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_load_balancer_survives_the_wire_and_nothing_is_guessed() {
        let header = || HashKey::Header(HashHeader::parse("x-user").unwrap());
        let cookie = HashKey::Cookie(CookieName::parse("Session").unwrap());
        let all = [
            LoadBalancer::PeakEwma,
            LoadBalancer::LeastRequest,
            LoadBalancer::RoundRobin,
            LoadBalancer::SourceHash(HashSource::Ip),
            LoadBalancer::SourceHash(HashSource::Identity),
            LoadBalancer::RequestHash(RequestHash { key: header(), balance_factor: None }),
            LoadBalancer::RequestHash(RequestHash { key: cookie, balance_factor: Some(125) }),
        ];
        for one in all {
            let (affinity, message) = said(&one);
            assert_eq!(read(affinity, message), Ok(one));
        }
        let told = |affinity, kind| read(affinity, Some(v1::LoadBalancer { kind })).map_err(|error| error.to_string());
        let hash = |key, balance_factor| Some(Kind::RequestHash(v1::RequestHash { key, balance_factor }));
        let named = |name: &str| Some(Key::Header(name.to_owned()));
        for (affinity, kind, error) in [
            (true, Some(Kind::RoundRobin(true)), "session_affinity: excludes load_balancer"),
            (false, None, "load_balancer.kind: is missing"),
            (false, Some(Kind::LeastRequest(false)), "load_balancer.least_request: is out of range"),
            (false, hash(None, 0), "load_balancer.request_hash.key: is missing"),
            (false, hash(named("a b"), 0), "load_balancer.request_hash.header: is no header name"),
            (false, hash(named("x"), 99), "load_balancer.request_hash.balance_factor: is out of range"),
            (false, hash(named("x"), 10_001), "load_balancer.request_hash.balance_factor: is out of range"),
        ] {
            assert_eq!(told(affinity, kind), Err(error.to_owned()));
        }
    }
}
