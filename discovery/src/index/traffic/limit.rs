//! One limit of a RateLimitPolicy. What the CRD refuses is refused here too (charts/remora/templates/crds.yaml). Errors begin with
//! the field, as a suffix to the path of the limit.

use super::only;
use crate::objects::traffic::{BySpec, LimitMode, LimitSpec, OverrideSpec, RateSpec};
use remora_api::convert::check;
use remora_model::{
    Amount, By, Rate, RateLimit, RateOverride, RequestMatch, TrustDomain, traffic::REQUESTS_PER_SECOND_MAX,
};
use std::{sync::Arc, time::Duration};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

/// Reads a limit, of which nothing is left out.
pub(super) fn read(
    name: Arc<str>,
    spec: &LimitSpec,
    mode: LimitMode,
    trust_domain: &TrustDomain,
) -> Result<RateLimit, String> {
    spec.unknown.none().map_err(|e| format!(".{e}"))?;
    let (of, rate) = one_rate([&spec.requests, &spec.connections, &spec.bytes])?;
    let by = spec.by.as_ref().map_or(Ok(By::Target), by).map_err(|e| format!(".by{e}"))?;
    let only = spec.only.as_ref().map(|spec| only::read(spec, trust_domain)).transpose();
    let only = only.map_err(|e| format!(".match{e}"))?.unwrap_or_default();
    if of != Amount::Requests {
        if only != RequestMatch::default() {
            return Err(format!(".match: is for requests alone, and this limit is of {}", word(of)));
        }
        if matches!(by, By::Header(_)) {
            return Err(format!(".by: a header is of requests alone, and this limit is of {}", word(of)));
        }
    }
    if spec.overrides.is_some() && by != By::Identity {
        return Err(".overrides: are for a limit by type Identity alone".to_owned());
    }
    let own = |own: &OverrideSpec| overriding(own, of, trust_domain);
    let overrides = only::some("overrides", &spec.overrides, own)?;
    let limit = RateLimit { name, only, by, of, rate, overrides, dry_run: mode == LimitMode::DryRun };
    check::rate_limit(&limit).map_err(|error| format!(": {error}"))?;
    Ok(limit)
}

fn word(of: Amount) -> &'static str {
    match of {
        Amount::Requests => "requests",
        Amount::Connections => "connections",
        Amount::Bytes => "bytes",
    }
}

/// Of requests, connections and bytes, the one that is there.
fn one_rate(rates: [&Option<RateSpec>; 3]) -> Result<(Amount, Rate), String> {
    let kinds = [Amount::Requests, Amount::Connections, Amount::Bytes];
    let mut there = kinds.into_iter().zip(rates).filter_map(|(of, rate)| Some((of, rate.as_ref()?)));
    let (of, spec) = there.next().ok_or(": has none of requests, connections and bytes")?;
    if let Some((other, _)) = there.next() {
        return Err(format!(".{}: {} are limited already; write another limit", word(other), word(of)));
    }
    Ok((of, rate(spec, of).map_err(|e| format!(".{}{e}", word(of)))?))
}

fn rate(spec: &RateSpec, of: Amount) -> Result<Rate, String> {
    spec.unknown.none().map_err(|e| format!(".{e}"))?;
    let (count, interval, field) = match (spec.per_second, spec.per_minute) {
        (Some(count), None) => (count, SECOND, "perSecond"),
        (None, Some(count)) => (count, MINUTE, "perMinute"),
        (None, None) => return Err(": has neither perSecond nor perMinute".to_owned()),
        (Some(_), Some(_)) => return Err(": has perSecond and perMinute; one of them must go".to_owned()),
    };
    if of == Amount::Bytes && interval == MINUTE {
        return Err(".perMinute: bytes have a rate by the second alone".to_owned());
    }
    let burst = spec.burst.unwrap_or(count);
    let most = if of == Amount::Bytes { remora_model::traffic::RATE_MAX } else { REQUESTS_PER_SECOND_MAX };
    for (field, value) in [(field, count), ("burst", burst)] {
        if !(1..=most).contains(&value) {
            return Err(format!(".{field}: {value} is not from 1 to {most}; an AuthorizationPolicy lets nothing in"));
        }
    }
    Ok(Rate { count, interval, burst })
}

fn by(spec: &BySpec) -> Result<By, String> {
    spec.unknown.none().map_err(|e| format!(".{e}"))?;
    let kind = spec.kind.as_deref().ok_or(".type: is missing")?;
    if spec.header.is_some() && kind != "Header" {
        return Err(format!(".header: is not of type {kind}"));
    }
    match kind {
        "Target" => Ok(By::Target),
        "Identity" => Ok(By::Identity),
        "ClientAddress" => Ok(By::ClientAddress),
        "Header" => {
            let header = spec.header.as_ref().ok_or(".header: is missing, and type Header needs it")?;
            header.unknown.none().map_err(|e| format!(".header.{e}"))?;
            Ok(By::Header(only::header_name(&header.name).map_err(|e| format!(".header.name{e}"))?))
        }
        _ => Err(format!(".type: {kind:?} is none of Target, Identity, Header and ClientAddress")),
    }
}

fn overriding(spec: &OverrideSpec, of: Amount, trust_domain: &TrustDomain) -> Result<RateOverride, String> {
    spec.unknown.none().map_err(|e| format!(".{e}"))?;
    let (kind, rate) = one_rate([&spec.requests, &spec.connections, &spec.bytes])?;
    if kind != of {
        return Err(format!(".{}: the limit is of {}", word(kind), word(of)));
    }
    let identities = only::callers(&spec.identities, &spec.service_accounts, trust_domain)?;
    if identities.is_empty() {
        return Err(": names nobody, by identities or serviceAccounts".to_owned());
    }
    Ok(RateOverride { identities, rate })
}
