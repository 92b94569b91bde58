//! `loadBalancer` of a BackendPolicy: how clients choose among a Service's endpoints.

use crate::objects::policy::{ConsistentHash, LoadBalancerSpec};
use remora_model::{
    CookieName, HashHeader, HashKey, HashSource, LoadBalancer, RequestHash,
    load_balancer::{BALANCE_FACTOR_MAX, BALANCE_FACTOR_MIN},
};

/// What it says, which is one setting as a whole.
///
/// # Errors
/// What is wrong, beginning with the field.
pub(super) fn read(spec: &LoadBalancerSpec) -> Result<LoadBalancer, String> {
    spec.unknown.none().map_err(dotted)?;
    let hash = spec.consistent_hash.as_ref();
    let plain = match spec.kind.as_deref() {
        Some("ConsistentHash") => {
            let hash = hash.ok_or(".consistentHash: is missing, and type ConsistentHash needs it")?;
            return consistent_hash(hash).map_err(|e| format!(".consistentHash{e}"));
        }
        Some("PeakEWMA") => LoadBalancer::PeakEwma,
        Some("LeastRequest") => LoadBalancer::LeastRequest,
        Some("RoundRobin") => LoadBalancer::RoundRobin,
        Some(kind) => {
            return Err(format!(".type: {kind:?} is none of PeakEWMA, LeastRequest, RoundRobin and ConsistentHash"));
        }
        None => return Err(".type: is missing".to_owned()),
    };
    if hash.is_some() { Err(".consistentHash: is for type ConsistentHash alone".to_owned()) } else { Ok(plain) }
}

fn consistent_hash(spec: &ConsistentHash) -> Result<LoadBalancer, String> {
    spec.unknown.none().map_err(dotted)?;
    let kind = spec.kind.as_deref().ok_or(".type: is missing")?;
    let bodies = [("Header", "header", spec.header.is_some()), ("Cookie", "cookie", spec.cookie.is_some())];
    if let Some((_, field, _)) = bodies.iter().find(|(of, _, there)| *there && *of != kind) {
        return Err(format!(".{field}: is not of type {kind}"));
    }
    let key = match kind {
        "SourceIP" | "SourceIdentity" if spec.balance_factor.is_some() => {
            return Err(format!(".balanceFactor: is not of type {kind}, by which all that a client sends has one key"));
        }
        "SourceIP" => return Ok(LoadBalancer::SourceHash(HashSource::Ip)),
        "SourceIdentity" => return Ok(LoadBalancer::SourceHash(HashSource::Identity)),
        "Header" => {
            let header = spec.header.as_ref().ok_or(".header: is missing, and type Header needs it")?;
            header.unknown.none().map_err(|e| format!(".header.{e}"))?;
            let wrong = |e| format!(".header.name: {:?} {e}", header.name);
            HashKey::Header(HashHeader::parse(&header.name).map_err(wrong)?)
        }
        "Cookie" => {
            let cookie = spec.cookie.as_ref().ok_or(".cookie: is missing, and type Cookie needs it")?;
            cookie.unknown.none().map_err(|e| format!(".cookie.{e}"))?;
            let wrong = |e| format!(".cookie.name: {:?} {e}", cookie.name);
            HashKey::Cookie(CookieName::parse(&cookie.name).map_err(wrong)?)
        }
        _ => return Err(format!(".type: {kind:?} is none of Header, Cookie, SourceIP and SourceIdentity")),
    };
    let balance_factor = spec.balance_factor;
    if balance_factor.is_some_and(|factor| !(BALANCE_FACTOR_MIN..=BALANCE_FACTOR_MAX).contains(&factor)) {
        let wrong = format!(".balanceFactor: is not from {BALANCE_FACTOR_MIN} to {BALANCE_FACTOR_MAX} percent");
        return Err(wrong);
    }
    Ok(LoadBalancer::RequestHash(RequestHash { key, balance_factor }))
}

fn dotted(error: String) -> String {
    format!(".{error}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(json: &str) -> Result<LoadBalancer, String> {
        read(&serde_json::from_str(json).unwrap())
    }

    #[test]
    fn every_algorithm_is_read() {
        let key = |key, balance_factor| LoadBalancer::RequestHash(RequestHash { key, balance_factor });
        let header = HashKey::Header(HashHeader::parse("x-user").unwrap());
        let cookie = HashKey::Cookie(CookieName::parse("Session").unwrap());
        for (text, read) in [
            (r#"{"type": "PeakEWMA"}"#, LoadBalancer::PeakEwma),
            (r#"{"type": "LeastRequest"}"#, LoadBalancer::LeastRequest),
            (r#"{"type": "RoundRobin"}"#, LoadBalancer::RoundRobin),
            (
                r#"{"type": "ConsistentHash", "consistentHash": {"type": "SourceIP"}}"#,
                LoadBalancer::SourceHash(HashSource::Ip),
            ),
            (
                r#"{"type": "ConsistentHash", "consistentHash": {"type": "SourceIdentity"}}"#,
                LoadBalancer::SourceHash(HashSource::Identity),
            ),
            (
                r#"{"type": "ConsistentHash", "consistentHash": {"type": "Header", "header": {"name": "X-User"}}}"#,
                key(header, None),
            ),
            (
                r#"{"type": "ConsistentHash",
                    "consistentHash": {"type": "Cookie", "cookie": {"name": "Session"}, "balanceFactor": 125}}"#,
                key(cookie, Some(125)),
            ),
        ] {
            assert_eq!(told(text), Ok(read), "{text}");
        }
    }

    #[test]
    fn every_mistake_is_told_by_its_field() {
        let hash = |of: &str| format!(r#"{{"type": "ConsistentHash", "consistentHash": {{{of}}}}}"#);
        for (text, error) in [
            ("{}".to_owned(), ".type: is missing"),
            (r#"{"type": "roundrobin"}"#.to_owned(), r#".type: "roundrobin" is none of"#),
            (r#"{"type": "RoundRobin", "typo": 1}"#.to_owned(), ".typo"),
            (r#"{"type": "RoundRobin", "consistentHash": {}}"#.to_owned(), ".consistentHash: is for type"),
            (r#"{"type": "ConsistentHash"}"#.to_owned(), ".consistentHash: is missing"),
            (hash(""), ".consistentHash.type: is missing"),
            (hash(r#""type": "Query""#), r#".consistentHash.type: "Query" is none of"#),
            (hash(r#""type": "SourceIP", "typo": 1"#), ".consistentHash.typo"),
            (hash(r#""type": "SourceIP", "balanceFactor": 125"#), ".consistentHash.balanceFactor: is not of type"),
            (hash(r#""type": "SourceIP", "cookie": {"name": "a"}"#), ".consistentHash.cookie: is not of type SourceIP"),
            (hash(r#""type": "Header""#), ".consistentHash.header: is missing"),
            (hash(r#""type": "Header", "header": {"name": "a", "typo": 1}"#), ".consistentHash.header.typo"),
            (
                hash(r#""type": "Header", "header": {"name": "Host"}"#),
                r#".consistentHash.header.name: "Host" is a header that is not sent on"#,
            ),
            (hash(r#""type": "Cookie""#), ".consistentHash.cookie: is missing"),
            (
                hash(r#""type": "Cookie", "cookie": {"name": "a b"}"#),
                r#".consistentHash.cookie.name: "a b" is no name"#,
            ),
            (
                hash(r#""type": "Header", "header": {"name": "a"}, "balanceFactor": 99"#),
                ".consistentHash.balanceFactor: is not from 100 to 10000",
            ),
        ] {
            let wrong = told(&text).unwrap_err();
            assert!(wrong.starts_with(error), "{text}: {wrong}");
        }
    }
}
