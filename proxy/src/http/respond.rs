//! Answers of the proxy's own.

use super::{body::response::ResponseBody, grpc, headers};
use crate::{
    backend::endpoint::Says,
    telemetry::{Direction, Reason},
    traffic::RETRY_AFTER_SECONDS_MAX,
};
use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};

/// An answer that names the reason, in the caller's protocol: a status for HTTP, `grpc-status` for gRPC.
pub(crate) fn failure(reason: Reason, is_grpc: bool, detail: &str) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::Empty);
    let fields = response.headers_mut();
    fields.insert(headers::ERROR, HeaderValue::from_static(reason.as_str()));
    if reason == Reason::TokenRefused {
        // RFC 9110 §11.6.1 asks for a challenge, RFC 6750 §3.1 says which.
        fields.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer error=\"invalid_token\""));
    }
    if is_grpc {
        fields.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        fields.extend(grpc::trailers(reason));
        return response;
    }
    let text = format!("remora: {}{}{detail}\n", reason.as_str(), if detail.is_empty() { "" } else { ": " });
    fields.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    *response.body_mut() = ResponseBody::Text(Some(Bytes::from(text)));
    *response.status_mut() = reason.http_status();
    response
}

/// Has an answer that tells of a failure say this as well.
pub(crate) fn say<B>(answer: &mut Response<B>, says: &Says, is_grpc: bool) {
    let number = |number: u128| HeaderValue::from(u64::try_from(number).unwrap_or(u64::MAX));
    if says.reset {
        answer.extensions_mut().insert(Reset);
    }
    if let (Some(status), false) = (says.status, is_grpc) {
        *answer.status_mut() = status;
    }
    let fields = answer.headers_mut();
    if let (Some(code), true) = (says.grpc, is_grpc) {
        fields.insert("grpc-status", HeaderValue::from(u16::from(code)));
    }
    if let Some(after) = says.after {
        // Rounded up: who comes as early as it may is let through.
        let millis = after.as_nanos().div_ceil(1_000_000).clamp(1, u128::from(RETRY_AFTER_SECONDS_MAX) * 1000);
        match is_grpc {
            true => fields.insert("grpc-retry-pushback-ms", number(millis)),
            false => fields.insert(header::RETRY_AFTER, number(millis.div_ceil(1000))),
        };
        if says.busy {
            fields.insert(headers::BUSY, number(millis));
        }
    }
    if let Some(fault) = says.fault {
        fields.insert(headers::FAULT, HeaderValue::from_static(fault));
    }
}

/// Stands in the extensions of an answer in whose place the stream or connection of the request is reset.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reset;

/// Stands in the extensions of an answer to a request that its server has not looked at, and that may be sent again whatever its
/// method.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Unprocessed;

/// The same for a request that no route counts, because it was refused before it had one.
pub(crate) fn refusal(direction: Direction, reason: Reason, grpc: bool, detail: &str) -> Response<ResponseBody> {
    crate::telemetry::refused(direction, reason, reason.as_str());
    tracing::debug!(direction = direction.as_str(), reason = reason.as_str(), detail, "request refused");
    failure(reason, grpc, detail)
}

/// An empty answer with `status`.
pub(crate) fn empty(status: StatusCode) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::Empty);
    *response.status_mut() = status;
    response
}
