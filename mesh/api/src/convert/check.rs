//! What a reader of our messages checks, run by their sender: so that one rule that no reader could take stands alone
//! in its closed form, instead of a whole resource being refused by every proxy.
//!
//! In: a value of the model. Out: nothing, or the field of the message that a reader would refuse. Costs a conversion there
//! and back; meant for when a value is made, not for each proxy that is sent it.

use super::{At as _, InvalidMessage, Problem, TEXT_BYTES_MAX};
use crate::v1;
use remora_model::{
    AuthorizationRule, Backend, BackendRef, Endpoint, Fault, Filter, RateLimit, RouteMatch, Rule, TlsRule,
};

/// A rule of a route.
pub fn rule(rule: &Rule) -> Result<(), InvalidMessage> {
    Rule::try_from(v1::Rule::from(rule)).map(drop)
}

/// A rule of a TLSRoute.
pub fn tls_rule(rule: &TlsRule) -> Result<(), InvalidMessage> {
    TlsRule::try_from(v1::TlsRule::from(rule)).map(drop)
}

/// The conditions of a rule, whatever rule they name.
pub fn route_match(one: &RouteMatch) -> Result<(), InvalidMessage> {
    RouteMatch::try_from(v1::RouteMatch::from(one)).map(drop)
}

/// One filter.
pub fn filter(filter: &Filter) -> Result<(), InvalidMessage> {
    Filter::try_from(v1::Filter::from(filter)).map(drop)
}

/// A share of a rule's requests.
pub fn backend_ref(backend: &BackendRef) -> Result<(), InvalidMessage> {
    BackendRef::try_from(v1::BackendRef::from(backend)).map(drop)
}

/// A rule of a policy.
pub fn authorization(rule: &AuthorizationRule) -> Result<(), InvalidMessage> {
    AuthorizationRule::try_from(v1::AuthorizationRule::from(rule)).map(drop)
}

/// A rate limit.
pub fn rate_limit(limit: &RateLimit) -> Result<(), InvalidMessage> {
    RateLimit::try_from(v1::RateLimit::from(limit)).map(drop)
}

/// A fault.
pub fn fault(fault: &Fault) -> Result<(), InvalidMessage> {
    Fault::try_from(v1::Fault::from(fault)).map(drop)
}

/// One endpoint. Cheap, as there are many: what its types cannot say is looked at, and nothing converted.
pub fn endpoint(endpoint: &Endpoint) -> Result<(), InvalidMessage> {
    if endpoint.weight == 0 {
        return Err(Problem::OutOfRange.at("weight"));
    }
    bounded(&endpoint.zone).at("zone")?;
    bounded(&endpoint.pod).at("pod")?;
    bounded(endpoint.node.as_deref().unwrap_or_default()).at("node")
}

fn bounded(text: &str) -> Result<(), Problem> {
    if text.len() > TEXT_BYTES_MAX { Err(Problem::TooLong) } else { Ok(()) }
}

/// A backend with its settings. Its endpoints are judged one by one, by [`endpoint`].
pub fn backend(backend: &Backend) -> Result<(), InvalidMessage> {
    let bare = Backend { endpoints: Vec::new(), ..backend.clone() };
    Backend::try_from(v1::Backend::from(&bare)).map(drop)
}
