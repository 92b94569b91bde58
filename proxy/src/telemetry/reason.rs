//! The closed set of reasons why a request or connection failed: one word in the response header `x-remora-error`, in
//! the log and in the metric label.

use http::StatusCode;

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $text:literal, $status:ident, $grpc:literal;)*) => {
        /// Why a request or connection failed.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub(crate) enum Reason { $($(#[$doc])* $name,)* }

        impl Reason {
            /// Every reason, in the order of [`Reason::index`].
            pub(crate) const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The word for it.
            pub(crate) const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// The status of the answer that tells it.
            pub(crate) const fn http_status(self) -> StatusCode {
                match self { $(Self::$name => StatusCode::$status,)* }
            }

            /// The gRPC code of the answer that tells it.
            pub(crate) const fn grpc_code(self) -> u8 {
                match self { $(Self::$name => $grpc,)* }
            }

            /// The reason of this word.
            pub(crate) fn from_bytes(text: &[u8]) -> Option<Self> {
                Self::ALL.iter().copied().find(|reason| reason.as_str().as_bytes() == text)
            }

            /// Its place in [`Reason::ALL`].
            pub(crate) const fn index(self) -> usize {
                self as usize
            }
        }
    };
}

reasons! {
    /// The backend has no endpoints at all.
    NoEndpoints = "no_endpoints", SERVICE_UNAVAILABLE, 14;
    /// Every endpoint is out of rotation or was tried.
    AllEjected = "all_ejected", SERVICE_UNAVAILABLE, 14;
    ConnectRefused = "connect_refused", BAD_GATEWAY, 14;
    ConnectTimeout = "connect_timeout", GATEWAY_TIMEOUT, 14;
    ConnectFailed = "connect_failed", BAD_GATEWAY, 14;
    /// As many requests as allowed were waiting, here or at the server, which refused the stream.
    QueueFull = "queue_full", SERVICE_UNAVAILABLE, 14;
    /// The route's or the caller's deadline passed.
    Timeout = "timeout", GATEWAY_TIMEOUT, 4;
    /// Policy said no.
    Denied = "denied", FORBIDDEN, 7;
    /// Policy or trust anchors changed, and what was open would not be let in any more.
    PolicyChanged = "policy_changed", FORBIDDEN, 7;
    /// The Service has routes and none matches.
    NoRoute = "no_route", NOT_FOUND, 12;
    /// The route names a backend that does not exist or is not permitted.
    InvalidBackend = "invalid_backend", INTERNAL_SERVER_ERROR, 14;
    /// The client broke the protocol.
    ProtocolError = "protocol_error", BAD_REQUEST, 13;
    /// More header bytes or fields than allowed.
    HeaderTooLarge = "header_too_large", REQUEST_HEADER_FIELDS_TOO_LARGE, 8;
    /// The same of an answer, before whose end the server may have sent any number of interim answers.
    ResponseHeaderTooLarge = "response_header_too_large", BAD_GATEWAY, 8;
    /// The client stopped sending its body.
    BodyAborted = "body_aborted", BAD_REQUEST, 1;
    /// The upstream closed or reset before its answer ended.
    UpstreamReset = "upstream_reset", BAD_GATEWAY, 14;
    /// The peer refused mesh TLS, or we have no certificate.
    TlsRefused = "tls_refused", BAD_GATEWAY, 14;
    /// The peer is not who discovery said it is.
    IdentityMismatch = "identity_mismatch", BAD_GATEWAY, 14;
    /// The request came back to a proxy that had it, or names the proxy itself.
    Loop = "loop", LOOP_DETECTED, 13;
    /// This proxy is shutting down, or the server, which had not looked at the request yet.
    Draining = "draining", SERVICE_UNAVAILABLE, 14;
    /// A bound of this proxy was reached, or it has no descriptors or memory left.
    Overloaded = "overloaded", SERVICE_UNAVAILABLE, 8;
    /// Discovery has not said what the destination is, and it may be in the cluster. Discovery is late, down or busy.
    DiscoverySilent = "discovery_silent", SERVICE_UNAVAILABLE, 14;
    /// Discovery knows nothing there, or it is outside the mesh and this pod denies that.
    UnknownTarget = "unknown_target", BAD_GATEWAY, 14;
    /// This proxy could not use what discovery said of the destination, or discovery refused to say.
    UnusableConfig = "unusable_config", SERVICE_UNAVAILABLE, 14;
    /// A bug in the proxy.
    Internal = "internal", INTERNAL_SERVER_ERROR, 13;
}
