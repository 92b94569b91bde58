//! Rate limits and faults of a port. What cannot be read does not hold: the port stays as open as its rules have it.

use super::{At, InvalidMessage, Problem, conditions, known, list, list_of, millis, name, to_millis};
use crate::v1::{self, fault_abort::With, rate_limit};
use http::{HeaderName, HeaderValue, StatusCode};
use remora_model::{
    AbortWith, Amount, By, Fault, PathPattern, Rate, RateLimit, RateOverride, RequestMatch, SpiffeId, Traffic, policy,
    traffic::{DELAY_MAX, FAULTS_MAX, INTERVAL_MAX, LIMITS_MAX, RATE_MAX, REQUESTS_PER_SECOND_MAX, WHOLE},
};

/// What a port's message says.
type Said = (Vec<v1::RateLimit>, Vec<v1::Fault>);

/// Takes it out of the message.
pub(super) fn taken(message: &mut v1::Inbound) -> Said {
    (std::mem::take(&mut message.rate_limits), std::mem::take(&mut message.faults))
}

/// Reads it, each of it.
pub(super) fn strict((limits, faults): Said) -> Result<Traffic, InvalidMessage> {
    Ok(Traffic {
        limits: list_of("rate_limits", LIMITS_MAX, limits, RateLimit::try_from)?,
        faults: list_of("faults", FAULTS_MAX, faults, Fault::try_from)?,
    })
}

/// Reads what of it can be read, and notes what cannot.
pub(super) fn readable((limits, faults): Said, problems: &mut Vec<InvalidMessage>) -> Traffic {
    let mut traffic = Traffic::default();
    for (field, length, most) in [("rate_limits", limits.len(), LIMITS_MAX), ("faults", faults.len(), FAULTS_MAX)] {
        problems.extend((length > most).then(|| Problem::TooMany(length, most).at(field)));
    }
    for (index, limit) in limits.into_iter().take(LIMITS_MAX).enumerate() {
        match RateLimit::try_from(limit) {
            Ok(limit) => traffic.limits.push(limit),
            Err(problem) => problems.push(problem.within("rate_limits", Some(index))),
        }
    }
    for (index, fault) in faults.into_iter().take(FAULTS_MAX).enumerate() {
        match Fault::try_from(fault) {
            Ok(fault) => traffic.faults.push(fault),
            Err(problem) => problems.push(problem.within("faults", Some(index))),
        }
    }
    traffic
}

impl From<&RateLimit> for v1::RateLimit {
    fn from(limit: &RateLimit) -> Self {
        let by = match &limit.by {
            By::Target => rate_limit::By::Target(true),
            By::Identity => rate_limit::By::Identity(true),
            By::Header(name) => rate_limit::By::Header(name.to_string()),
            By::ClientAddress => rate_limit::By::ClientAddress(true),
        };
        let rate = v1::Rate::from(&limit.rate);
        let of = match limit.of {
            Amount::Requests => rate_limit::Of::Requests(rate),
            Amount::Connections => rate_limit::Of::Connections(rate),
            Amount::Bytes => rate_limit::Of::Bytes(rate),
        };
        Self {
            name: limit.name.to_string(),
            only: said(&limit.only),
            overrides: limit.overrides.iter().map(Into::into).collect(),
            dry_run: limit.dry_run,
            by: Some(by),
            of: Some(of),
        }
    }
}

impl TryFrom<v1::RateLimit> for RateLimit {
    type Error = InvalidMessage;

    fn try_from(message: v1::RateLimit) -> Result<Self, InvalidMessage> {
        let always = |said: bool, field, by: By| if said { Ok(by) } else { Err(Problem::OutOfRange.at(field)) };
        let by = match message.by.ok_or_else(|| Problem::Missing.at("by"))? {
            rate_limit::By::Target(said) => always(said, "target", By::Target)?,
            rate_limit::By::Identity(said) => always(said, "identity", By::Identity)?,
            rate_limit::By::ClientAddress(said) => always(said, "client_address", By::ClientAddress)?,
            rate_limit::By::Header(name) => By::Header(header_name(&name).at("header")?),
        };
        let (of, field, rate) = match message.of.ok_or_else(|| Problem::Missing.at("of"))? {
            rate_limit::Of::Requests(rate) => (Amount::Requests, "requests", rate),
            rate_limit::Of::Connections(rate) => (Amount::Connections, "connections", rate),
            rate_limit::Of::Bytes(rate) => (Amount::Bytes, "bytes", rate),
        };
        let only = message.only.map_or(Ok(RequestMatch::default()), RequestMatch::try_from).at("only")?;
        if of != Amount::Requests && (!only.is_any() || matches!(by, By::Header(_))) {
            return Err(Problem::Excludes("only, and by a header").at(field));
        }
        let limit = Self {
            name: name(message.name).at("name")?,
            only,
            rate: checked(rate, of).at(field)?,
            overrides: list("overrides", message.overrides, |one| overriding(one, of))?,
            dry_run: message.dry_run,
            by,
            of,
        };
        if !limit.overrides.is_empty() && limit.by != By::Identity {
            return Err(Problem::Excludes("every by but identity").at("overrides"));
        }
        Ok(limit)
    }
}

impl From<&Rate> for v1::Rate {
    fn from(rate: &Rate) -> Self {
        Self { count: rate.count, interval_ms: to_millis(rate.interval), burst: rate.burst }
    }
}

fn checked(message: v1::Rate, of: Amount) -> Result<Rate, InvalidMessage> {
    let within = |value: u64, field| {
        if (1..=RATE_MAX).contains(&value) { Ok(value) } else { Err(Problem::OutOfRange.at(field)) }
    };
    let interval = millis(message.interval_ms).at("interval_ms")?;
    if interval.is_zero() || interval > INTERVAL_MAX {
        return Err(Problem::OutOfRange.at("interval_ms"));
    }
    let rate = Rate { count: within(message.count, "count")?, burst: within(message.burst, "burst")?, interval };
    let per_second = u128::from(rate.count) * 1000 / u128::from(message.interval_ms);
    if of != Amount::Bytes && per_second > u128::from(REQUESTS_PER_SECOND_MAX) {
        return Err(Problem::OutOfRange.at("count"));
    }
    Ok(rate)
}

impl From<&RateOverride> for v1::RateOverride {
    fn from(own: &RateOverride) -> Self {
        Self { identities: own.identities.iter().map(ToString::to_string).collect(), rate: Some((&own.rate).into()) }
    }
}

fn overriding(message: v1::RateOverride, of: Amount) -> Result<RateOverride, InvalidMessage> {
    if message.identities.is_empty() {
        return Err(Problem::Missing.at("identities"));
    }
    let rate = message.rate.ok_or_else(|| Problem::Missing.at("rate"))?;
    Ok(RateOverride { identities: identities(message.identities)?, rate: checked(rate, of).at("rate")? })
}

fn identities(texts: Vec<String>) -> Result<Vec<SpiffeId>, InvalidMessage> {
    list("identities", texts, |id| SpiffeId::parse(&id).map_err(Problem::from))
}

fn header_name(text: &str) -> Result<HeaderName, Problem> {
    HeaderName::from_bytes(text.as_bytes()).map_err(|_| Problem::HeaderName)
}

fn said(only: &RequestMatch) -> Option<v1::RequestMatch> {
    (!only.is_any()).then(|| only.into())
}

impl From<&RequestMatch> for v1::RequestMatch {
    fn from(only: &RequestMatch) -> Self {
        let header = |(name, value): &(HeaderName, HeaderValue)| v1::Header {
            name: name.to_string(),
            value: value.as_bytes().to_vec(),
        };
        let RequestMatch { methods, paths, headers, identities } = only;
        Self {
            methods: methods.iter().map(ToString::to_string).collect(),
            paths: paths.iter().map(ToString::to_string).collect(),
            headers: headers.iter().map(header).collect(),
            identities: identities.iter().map(ToString::to_string).collect(),
            conditions: conditions([methods.is_empty(), paths.is_empty(), headers.is_empty(), identities.is_empty()]),
        }
    }
}

impl TryFrom<v1::RequestMatch> for RequestMatch {
    type Error = InvalidMessage;

    fn try_from(message: v1::RequestMatch) -> Result<Self, InvalidMessage> {
        let v1::RequestMatch { methods, paths, headers, identities: ids, conditions } = message;
        known(conditions, [methods.is_empty(), paths.is_empty(), headers.is_empty(), ids.is_empty()])?;
        let path = |text: String| PathPattern::parse(&name(text)?).map_err(Problem::from);
        let header = |header: v1::Header| {
            let value = HeaderValue::from_bytes(&header.value).map_err(|_| Problem::HeaderValue).at("value")?;
            Ok::<_, InvalidMessage>((header_name(&header.name).at("name")?, value))
        };
        Ok(Self {
            methods: list("methods", methods, |text| policy::method(&text).map_err(Problem::from))?,
            paths: list("paths", paths, path)?,
            headers: list("headers", headers, header)?,
            identities: identities(ids)?,
        })
    }
}

impl From<&Fault> for v1::Fault {
    fn from(fault: &Fault) -> Self {
        let with = |with| match with {
            AbortWith::Status(status) => With::Status(status.as_u16().into()),
            AbortWith::Grpc(code) => With::GrpcCode(code.into()),
            AbortWith::Reset => With::Reset(true),
        };
        Self {
            name: fault.name.to_string(),
            only: said(&fault.only),
            delay: fault
                .delay
                .map(|(share, time)| v1::FaultDelay { share_millionths: share, delay_ms: to_millis(time) }),
            abort: fault.abort.map(|(share, how)| v1::FaultAbort { share_millionths: share, with: Some(with(how)) }),
        }
    }
}

impl TryFrom<v1::Fault> for Fault {
    type Error = InvalidMessage;

    fn try_from(message: v1::Fault) -> Result<Self, InvalidMessage> {
        if message.delay.is_none() && message.abort.is_none() {
            return Err(Problem::Missing.at("delay"));
        }
        let delay = |delay: v1::FaultDelay| {
            let time = millis(delay.delay_ms).at("delay_ms")?;
            if time.is_zero() || time > DELAY_MAX {
                return Err(Problem::OutOfRange.at("delay_ms"));
            }
            Ok((share(delay.share_millionths)?, time))
        };
        let abort = |abort: v1::FaultAbort| {
            let with = abort.with.ok_or_else(|| Problem::Missing.at("with"))?;
            Ok::<_, InvalidMessage>((share(abort.share_millionths)?, how(with)?))
        };
        Ok(Self {
            name: name(message.name).at("name")?,
            only: message.only.map_or(Ok(RequestMatch::default()), RequestMatch::try_from).at("only")?,
            delay: message.delay.map(delay).transpose().at("delay")?,
            abort: message.abort.map(abort).transpose().at("abort")?,
        })
    }
}

fn share(millionths: u32) -> Result<u32, InvalidMessage> {
    let field = "share_millionths";
    if (1..=WHOLE).contains(&millionths) { Ok(millionths) } else { Err(Problem::OutOfRange.at(field)) }
}

fn how(with: With) -> Result<AbortWith, InvalidMessage> {
    match with {
        With::Status(number) => {
            let status = u16::try_from(number).ok().and_then(|number| StatusCode::from_u16(number).ok());
            let error = status.filter(|status| status.is_client_error() || status.is_server_error());
            error.map(AbortWith::Status).ok_or_else(|| Problem::Status.at("status"))
        }
        With::GrpcCode(code) => {
            let code = u8::try_from(code).ok().filter(|code| (1..=16).contains(code));
            code.map(AbortWith::Grpc).ok_or_else(|| Problem::OutOfRange.at("grpc_code"))
        }
        With::Reset(true) => Ok(AbortWith::Reset),
        With::Reset(false) => Err(Problem::OutOfRange.at("reset")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Method;
    use std::time::Duration;

    const WEB: &str = "spiffe://cluster.local/ns/shop/sa/web";

    fn only() -> RequestMatch {
        RequestMatch {
            methods: vec![Method::GET],
            paths: vec![PathPattern::parse("/a/*").unwrap()],
            headers: vec![(HeaderName::from_static("x-user"), HeaderValue::from_static("eve"))],
            identities: vec![SpiffeId::parse(WEB).unwrap()],
        }
    }

    fn limit() -> RateLimit {
        let rate = Rate { count: 10, interval: Duration::from_secs(60), burst: 3 };
        let overrides = vec![RateOverride { identities: vec![SpiffeId::parse(WEB).unwrap()], rate }];
        let name = "shop/p limit 0".into();
        RateLimit { name, only: only(), by: By::Identity, of: Amount::Requests, rate, overrides, dry_run: true }
    }

    fn fault(abort: AbortWith) -> Fault {
        let delay = Some((1, Duration::from_millis(20)));
        Fault { name: "shop/p fault 0".into(), only: only(), delay, abort: Some((WHOLE, abort)) }
    }

    #[test]
    fn limits_and_faults_survive_the_way_over_the_wire() {
        let bare = || RateLimit { only: RequestMatch::default(), overrides: Vec::new(), ..limit() };
        let by_header = RateLimit { by: By::Header(HeaderName::from_static("x-user")), ..bare() };
        let connections = RateLimit { by: By::ClientAddress, of: Amount::Connections, ..bare() };
        let bytes = RateLimit { by: By::Target, of: Amount::Bytes, ..bare() };
        for limit in [limit(), bare(), by_header, connections, bytes] {
            assert_eq!(RateLimit::try_from(v1::RateLimit::from(&limit)), Ok(limit));
        }
        for with in [AbortWith::Status(StatusCode::TOO_MANY_REQUESTS), AbortWith::Grpc(14), AbortWith::Reset] {
            let fault = fault(with);
            assert_eq!(Fault::try_from(v1::Fault::from(&fault)), Ok(fault));
        }
    }

    #[test]
    fn a_limit_without_a_meaning_is_none_and_the_others_hold() {
        type Change = fn(&mut v1::RateLimit);
        let rate = |count, interval_ms, burst| Some(rate_limit::Of::Requests(v1::Rate { count, interval_ms, burst }));
        let wrong: [(&str, Change); 7] = [
            ("name", |limit| limit.name.clear()),
            ("by", |limit| limit.by = None),
            ("of", |limit| limit.of = None),
            ("by", |limit| limit.by = Some(rate_limit::By::Target(false))),
            ("overrides", |limit| limit.by = Some(rate_limit::By::Target(true))),
            ("only", |limit| limit.only.as_mut().unwrap().conditions = 5),
            ("overrides", |limit| limit.overrides[0].identities.clear()),
        ];
        let mut messages: Vec<v1::RateLimit> = Vec::new();
        for (_, change) in wrong {
            let mut message = v1::RateLimit::from(&limit());
            change(&mut message);
            messages.push(message);
        }
        for of in [rate(0, 1000, 1), rate(1, 0, 1), rate(1, 1000, 0), rate(1, 3_600_001, 1), rate(1001, 1, 1)] {
            messages.push(v1::RateLimit { of, ..v1::RateLimit::from(&limit()) });
        }
        let mut problems = Vec::new();
        let count = messages.len();
        messages.push((&limit()).into());
        assert!(strict((messages.clone(), Vec::new())).is_err());
        let read = readable((messages, Vec::new()), &mut problems);
        assert_eq!((read.limits, problems.len()), (vec![limit()], count), "{problems:?}");
        assert!(problems[0].to_string().starts_with("rate_limits[0].name: is missing"), "{}", problems[0]);
    }

    #[test]
    fn a_fault_without_a_meaning_does_not_happen() {
        let mut nothing = v1::Fault::from(&fault(AbortWith::Reset));
        (nothing.delay, nothing.abort) = (None, None);
        let aborts = [
            (0, Some(With::Reset(true))),
            (WHOLE + 1, Some(With::Reset(true))),
            (1, None),
            (1, Some(With::Reset(false))),
            (1, Some(With::Status(200))),
            (1, Some(With::Status(600))),
            (1, Some(With::GrpcCode(0))),
            (1, Some(With::GrpcCode(17))),
        ];
        let mut wrong: Vec<v1::Fault> = vec![nothing];
        for (share_millionths, with) in aborts {
            let abort = Some(v1::FaultAbort { share_millionths, with });
            wrong.push(v1::Fault { abort, ..(&fault(AbortWith::Reset)).into() });
        }
        for delay_ms in [0, 3_600_001] {
            let delay = Some(v1::FaultDelay { share_millionths: 1, delay_ms });
            wrong.push(v1::Fault { delay, ..(&fault(AbortWith::Reset)).into() });
        }
        let (mut problems, count) = (Vec::new(), wrong.len());
        assert!(readable((Vec::new(), wrong), &mut problems).faults.is_empty());
        assert_eq!(problems.len(), count, "{problems:?}");
    }

    #[test]
    fn no_more_limits_are_taken_than_a_port_may_have() {
        let many: Vec<v1::RateLimit> = (0..=LIMITS_MAX).map(|_| (&limit()).into()).collect();
        assert!(strict((many.clone(), Vec::new())).is_err());
        let mut problems = Vec::new();
        let read = readable((many, Vec::new()), &mut problems);
        assert_eq!((read.limits.len(), problems.len()), (LIMITS_MAX, 1));
    }
}
