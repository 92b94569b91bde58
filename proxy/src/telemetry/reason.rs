//! The closed set of reasons why a request or connection failed: one word in the response header `x-remora-error`, in
//! the log and in the metric label. And whose fault that is, for who has to mend it.

use http::StatusCode;

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $text:literal, $status:ident, $grpc:literal, $fault:ident;)*) => {
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

            /// Whose fault it is where nothing more is known.
            pub(crate) const fn fault(self) -> Fault {
                match self { $(Self::$name => Fault::$fault,)* }
            }

            /// The reason of this word.
            pub(crate) fn from_bytes(text: &[u8]) -> Option<Self> {
                Self::ALL.iter().copied().find(|reason| reason.as_str().as_bytes() == text)
            }

            /// Whether a connection could not be made: all the time of such a try went there.
            pub(crate) const fn is_of_connecting(self) -> bool {
                matches!(
                    self,
                    Self::ConnectRefused
                        | Self::ConnectTimeout
                        | Self::ConnectFailed
                        | Self::TlsRefused
                        | Self::IdentityMismatch
                        | Self::Revoked
                )
            }

            /// Its place in [`Reason::ALL`].
            pub(crate) const fn index(self) -> usize {
                self as usize
            }
        }
    };
}

/// Whose fault a failure is, as far as the proxy that counts it can know. Both proxies of a request count the same, but that the client's
/// alone can say of the server's that it failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Who asked: it broke a rule of the protocol, or may not do what it asked for.
    Client,
    /// This proxy: a bound that it has, its end, or a bug.
    Proxy,
    /// Nothing came from the other side.
    Network,
    /// The proxy at the other side is not there, or not who it should be.
    Peer,
    /// Who was asked: it is not there, takes nothing, or broke off.
    Application,
    /// What was applied to the cluster, or discovery, which has to tell of it.
    Configuration,
}

impl Fault {
    /// Every one of them, in the order of [`Fault::index`].
    pub(crate) const ALL: [Self; 6] =
        [Self::Client, Self::Proxy, Self::Network, Self::Peer, Self::Application, Self::Configuration];

    /// Its place in [`Fault::ALL`].
    pub(crate) const fn index(self) -> u8 {
        self as u8
    }

    /// The word for it.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Proxy => "proxy",
            Self::Network => "network",
            Self::Peer => "peer",
            Self::Application => "application",
            Self::Configuration => "configuration",
        }
    }
}

/// Why something failed, and whose fault that is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Blame {
    pub reason: Reason,
    pub fault: Fault,
}

impl From<Reason> for Blame {
    fn from(reason: Reason) -> Self {
        Self { reason, fault: reason.fault() }
    }
}

impl Blame {
    /// The same of a failure between two proxies, of which the peer has said nothing: where an application would not be there or have broken off,
    /// that is the peer.
    pub(crate) fn at_peer(self) -> Self {
        match self.reason {
            Reason::ConnectRefused | Reason::UpstreamReset => Self { fault: Fault::Peer, ..self },
            _ => self,
        }
    }
}

reasons! {
    /// The backend has no endpoints at all.
    NoEndpoints = "no_endpoints", SERVICE_UNAVAILABLE, 14, Application;
    /// Every endpoint is out of rotation or was tried.
    AllEjected = "all_ejected", SERVICE_UNAVAILABLE, 14, Application;
    ConnectRefused = "connect_refused", BAD_GATEWAY, 14, Application;
    ConnectTimeout = "connect_timeout", GATEWAY_TIMEOUT, 14, Network;
    ConnectFailed = "connect_failed", BAD_GATEWAY, 14, Network;
    /// As many requests as allowed were waiting for the backend, or for one of its streams.
    QueueFull = "queue_full", SERVICE_UNAVAILABLE, 14, Application;
    /// The server refused the stream, without looking at the request (RFC 9113 §8.7).
    RefusedStream = "refused_stream", SERVICE_UNAVAILABLE, 14, Application;
    /// The route's or the caller's deadline passed.
    Timeout = "timeout", GATEWAY_TIMEOUT, 4, Application;
    /// Policy said no.
    Denied = "denied", FORBIDDEN, 7, Client;
    /// The request has a token of a user that is not good, or more than one.
    TokenRefused = "token_refused", UNAUTHORIZED, 16, Client;
    /// The keys of the issuer of a request's token are not known yet.
    TokenKeysUnknown = "token_keys_unknown", SERVICE_UNAVAILABLE, 14, Configuration;
    /// Policy or trust anchors changed or a peer was revoked, and what was open would not be let in any more.
    PolicyChanged = "policy_changed", FORBIDDEN, 7, Configuration;
    /// The Service has routes and none matches.
    NoRoute = "no_route", NOT_FOUND, 12, Configuration;
    /// The route names a backend that does not exist or is not permitted.
    InvalidBackend = "invalid_backend", INTERNAL_SERVER_ERROR, 14, Configuration;
    /// The client broke the protocol.
    ProtocolError = "protocol_error", BAD_REQUEST, 13, Client;
    /// More header bytes or fields than allowed.
    HeaderTooLarge = "header_too_large", REQUEST_HEADER_FIELDS_TOO_LARGE, 8, Client;
    /// The same of an answer, before whose end the server may have sent any number of interim answers.
    ResponseHeaderTooLarge = "response_header_too_large", BAD_GATEWAY, 8, Application;
    /// The client stopped sending its body.
    BodyAborted = "body_aborted", BAD_REQUEST, 1, Client;
    /// The client reset what was bytes, or became so: a TCP connection, an upgrade, a tunnel.
    DownstreamReset = "downstream_reset", BAD_REQUEST, 1, Client;
    /// The upstream closed or reset before its answer ended.
    UpstreamReset = "upstream_reset", BAD_GATEWAY, 14, Application;
    /// The peer refused mesh TLS, or we have no certificate.
    TlsRefused = "tls_refused", BAD_GATEWAY, 14, Peer;
    /// The peer is not who discovery said it is.
    IdentityMismatch = "identity_mismatch", BAD_GATEWAY, 14, Peer;
    /// The peer's identity, certificate or pod is revoked.
    Revoked = "revoked", BAD_GATEWAY, 14, Peer;
    /// The request came back to a proxy that had it, or names the proxy itself.
    Loop = "loop", LOOP_DETECTED, 13, Configuration;
    /// The server shuts down, and had not looked at the request yet.
    Draining = "draining", SERVICE_UNAVAILABLE, 14, Application;
    /// A bound of this proxy was reached, or it has no descriptors or memory left.
    Overloaded = "overloaded", SERVICE_UNAVAILABLE, 8, Proxy;
    /// Discovery has not said what the destination is, and it may be in the cluster. Discovery is late, down or busy.
    DiscoverySilent = "discovery_silent", SERVICE_UNAVAILABLE, 14, Configuration;
    /// Discovery knows nothing there, or it is outside the mesh and this pod denies that.
    UnknownTarget = "unknown_target", BAD_GATEWAY, 14, Configuration;
    /// This proxy could not use what discovery said of the destination, or discovery refused to say.
    UnusableConfig = "unusable_config", SERVICE_UNAVAILABLE, 14, Configuration;
    /// More than a rate limit lets through.
    RateLimited = "rate_limited", TOO_MANY_REQUESTS, 8, Client;
    /// A FaultPolicy had the request fail.
    FaultInjected = "fault_injected", SERVICE_UNAVAILABLE, 14, Configuration;
    /// A bug in the proxy.
    Internal = "internal", INTERNAL_SERVER_ERROR, 13, Proxy;
}
