//! Timeouts and retries of a GRPCRoute. The Gateway API (1.7) has fields for them on HTTPRoutes alone, so annotations of the route
//! say what those fields would, for all of its rules: each is named after the field. Pure.

use super::values;
use crate::objects::Metadata;
use remora_kube::names::{
    RETRY_ANY_METHOD, RETRY_ATTEMPTS, RETRY_BACKOFF, RETRY_CODES, TIMEOUTS_BACKEND_REQUEST, TIMEOUTS_REQUEST,
};
use remora_model::{GrpcCodes, Retry, Timeouts};
use std::time::Duration;

/// The annotations, each with the field of an HTTPRoute's rule that it stands for.
const ANNOTATIONS: [(&str, &str); 5] = [
    (TIMEOUTS_REQUEST, "timeouts.request"),
    (TIMEOUTS_BACKEND_REQUEST, "timeouts.backendRequest"),
    (RETRY_CODES, "retry.codes"),
    (RETRY_ATTEMPTS, "retry.attempts"),
    (RETRY_BACKOFF, "retry.backoff"),
];

/// The least wait before a try where no rule says one.
pub(super) const BACKOFF: Duration = Duration::from_millis(25);

/// What a GRPCRoute says of them.
///
/// # Errors
/// The first annotation that cannot be read, and why.
pub(super) fn read(meta: &Metadata) -> Result<(Timeouts, Option<Retry>), String> {
    let timeouts = Timeouts {
        request: said(meta, TIMEOUTS_REQUEST, timeout)?.flatten(),
        backend_request: said(meta, TIMEOUTS_BACKEND_REQUEST, timeout)?.flatten(),
    };
    let codes = said(meta, RETRY_CODES, |text| GrpcCodes::parse(text).map_err(|error| error.to_string()))?;
    let attempts = said(meta, RETRY_ATTEMPTS, |text| text.parse().map_err(|_| format!("{text:?} is no number")))?;
    let backoff = said(meta, RETRY_BACKOFF, values::duration)?;
    let is_said = codes.is_some() || attempts.is_some() || backoff.is_some();
    let retry = is_said.then(|| Retry {
        attempts: attempts.unwrap_or(1),
        codes: Vec::new(),
        grpc_codes: codes.unwrap_or_default(),
        backoff: backoff.unwrap_or(BACKOFF),
        any_method: any_method(meta),
    });
    Ok((timeouts, retry))
}

/// Whether a route's requests may be sent twice whatever their method.
pub(super) fn any_method(meta: &Metadata) -> bool {
    meta.annotations.get(RETRY_ANY_METHOD).is_some_and(|value| value == "true")
}

/// What is to be said of a route of another kind with such annotations.
pub(super) fn without_effect(meta: &Metadata) -> impl Iterator<Item = String> {
    let said = ANNOTATIONS.into_iter().filter(|(name, _)| meta.annotations.contains_key(*name));
    said.map(|(name, field)| {
        format!("metadata.annotations: {name}: is for GRPCRoutes alone, and has no effect; an HTTPRoute has spec.rules[].{field}")
    })
}

fn said<T>(meta: &Metadata, name: &str, parse: impl Fn(&str) -> Result<T, String>) -> Result<Option<T>, String> {
    let text = meta.annotations.get(name).map(|text| text.trim());
    text.map(parse).transpose().map_err(|wrong| format!("metadata.annotations: {name}: {wrong}"))
}

/// As in an HTTPRoute, zero means that there is none.
fn timeout(text: &str) -> Result<Option<Duration>, String> {
    values::duration(text).map(|time| Some(time).filter(|time| !time.is_zero()))
}
