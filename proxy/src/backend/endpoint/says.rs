//! What the answer that tells of a failure says otherwise, or beside its reason.

use http::StatusCode;
use std::time::Duration;

/// See the module. By default it says what the reason does.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Says {
    /// Of HTTP.
    pub status: Option<StatusCode>,
    /// Of a gRPC call.
    pub grpc: Option<u8>,
    /// How long the client should wait before it asks again.
    pub after: Option<Duration>,
    /// Whether all else that it may ask for here is refused until then: its proxy turns to other endpoints.
    pub busy: bool,
    /// What was done on purpose, in a word.
    pub fault: Option<&'static str>,
    /// There is no answer: the stream or connection of the request is reset.
    pub reset: bool,
}
