//! What the parts of Remora talk about: identities, targets, routes, policies and endpoints.
//!
//! Pure values: no IO, no async, no clock, no wire format. `mesh/api` turns them into messages; discovery makes them,
//! the proxy acts on them.

pub mod asks;
mod backend;
pub mod bytes;
pub mod connection;
pub mod cors;
pub mod feature;
pub mod field;
pub mod grpc;
pub mod host;
pub mod identity;
pub mod load_balancer;
pub mod locality;
pub mod network;
pub mod path;
pub mod pattern;
pub mod policy;
mod policy_needs;
pub mod ports;
pub mod route;
pub mod settings;
pub mod target;
pub mod tracing;
// for tests and cargo-fuzz alone
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;

pub use backend::{Accrual, Backend, BackendId, BackendKind, BackendSettings, Endpoint, Protocol, RetryIntervals};
pub use bytes::{HostPattern, TcpRule, TlsRule};
pub use connection::ConnectionSettings;
pub use cors::{Cors, OriginPattern, Origins};
pub use feature::{Closed, Feature, Features};
pub use field::{FieldMatch, FieldRule, GrpcRule};
pub use grpc::GrpcCodes;
pub use host::HostRule;
pub use identity::{SpiffeId, TrustDomain};
pub use load_balancer::{CookieName, HashHeader, HashKey, HashSource, LoadBalancer, RequestHash};
pub use locality::Locality;
pub use path::PathPattern;
pub use pattern::{InvalidPattern, Pattern};
pub use policy::{
    Action, AuthorizationRule, DefaultInbound, DryRun, Inbound, InboundDefault, MtlsMode, Operation, OperationExcept,
    ServiceAccount, Source, SourceExcept, Unidentified,
};
pub use route::{
    BackendRef, BackendRefState, Filter, HeaderEdit, HeaderMatch, Outbound, Parent, PathMatch, PathRewrite, QueryMatch,
    Redirect, Retry, RouteMatch, Rule, Timeouts, ValueMatch,
};
pub use settings::{ProxySettings, Setting, UnknownTargets};
pub use target::Target;
pub use tracing::{Sample, Tracing};
