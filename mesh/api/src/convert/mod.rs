//! Conversions between the messages of `discovery.proto` and the model's values.
//!
//! To the wire they cannot fail (`From`). From the wire they check everything (`TryFrom`): a missing field, a number
//! out of range, a name that is none, a list over its bound; the error names the field by its path in the message, so
//! that a nack tells the operator where to look. They deliberately do not fill in defaults for what must be said.

pub(crate) use backend::{addresses, endpoints};
pub use feature::{features, to_features};

mod authorization;
mod backend;
mod bytes;
mod connection;
mod cors;
pub mod check;
pub mod closed;
mod feature;
mod inbound;
mod load_balancer;
mod name;
mod outbound;
mod settings;

#[cfg(test)]
mod tests;

use remora_model::network;
use std::{fmt, time::Duration};

/// The most entries that one list of a message may have; a list of endpoints may have [`ENDPOINTS_MAX`].
pub const LIST_MAX: usize = 4096;
/// The most endpoints of one backend: some times Kubernetes' own bound for pods of a busy Service.
pub const ENDPOINTS_MAX: usize = 20_000;
/// The longest text in a message, in bytes, unless its own syntax is tighter.
pub const TEXT_BYTES_MAX: usize = 8192;
/// The longest time in a message: 366 days, far beyond any use and far from overflow.
pub const DURATION_MAX: Duration = Duration::from_secs(366 * 24 * 3600);

/// Why a message has no meaning, and which field is to blame.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {problem}")]
pub struct InvalidMessage {
    /// The field, from the outermost message inwards: `rules[3].filters[0].set[1].name`.
    pub path: FieldPath,
    pub problem: Problem,
}

/// What is wrong with a field.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    #[error("is missing")]
    Missing,
    #[error("is unknown to this version")]
    UnknownVariant,
    #[error("has {0} entries, more than the {1} allowed")]
    TooMany(usize, usize),
    #[error("is longer than {TEXT_BYTES_MAX} bytes")]
    TooLong,
    #[error("has fields that this version does not know")]
    UnknownFields,
    #[error("has a slash, which no name of an object has")]
    Slash,
    #[error("is out of range")]
    OutOfRange,
    #[error("is not an address of the form ip:port")]
    Address,
    #[error("is no target: {0}")]
    Target(#[from] remora_model::target::TargetError),
    #[error("is no SPIFFE id: {0}")]
    SpiffeId(#[from] remora_model::identity::InvalidSpiffeId),
    #[error("{0}")]
    Cidr(#[from] network::InvalidNetwork),
    #[error("is no header name")]
    HeaderName,
    #[error("is no header value")]
    HeaderValue,
    #[error("{0}")]
    Host(#[from] remora_model::bytes::InvalidHost),
    #[error("is no HTTP method")]
    Method,
    #[error("names a method that no request can have: {0}")]
    PolicyMethod(#[from] remora_model::policy::InvalidMethod),
    #[error("is no path pattern: {0}")]
    PathPattern(#[from] remora_model::path::InvalidPathPattern),
    #[error("{0}")]
    ServiceAccount(#[from] remora_model::policy::InvalidServiceAccount),
    #[error("{0}")]
    HostRule(#[from] remora_model::host::InvalidHostRule),
    #[error("{0}")]
    FieldRule(#[from] remora_model::field::InvalidField),
    #[error("{0}")]
    GrpcRule(#[from] remora_model::field::InvalidGrpc),
    #[error("has conditions that this version does not know")]
    Conditions,
    #[error("is no HTTP status that can stand here")]
    Status,
    #[error("is no regular expression, or too large a one: {0}")]
    Pattern(String),
    #[error("{0}")]
    HashHeader(#[from] remora_model::load_balancer::InvalidHashHeader),
    #[error("{0}")]
    CookieName(#[from] remora_model::load_balancer::InvalidCookieName),
    #[error("excludes {0}")]
    Excludes(&'static str),
    #[error("names a rule that is not there")]
    RuleIndex,
    #[error("{0}")]
    Origin(#[from] remora_model::cors::InvalidOrigin),
    #[error("has `*` beside others")]
    Star,
    #[error("is not in the order of addresses, or names one twice")]
    Order,
}

/// The way to a field.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FieldPath(Vec<Step>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Step {
    field: &'static str,
    index: Option<usize>,
}

impl fmt::Display for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Kept innermost first, because errors travel outwards.
        for (i, step) in self.0.iter().rev().enumerate() {
            let dot = if i == 0 { "" } else { "." };
            write!(f, "{dot}{}", step.field)?;
            if let Some(index) = step.index {
                write!(f, "[{index}]")?;
            }
        }
        Ok(())
    }
}

impl Problem {
    /// The error for this problem with `field` of the message at hand.
    pub(crate) fn at(self, field: &'static str) -> InvalidMessage {
        InvalidMessage { path: FieldPath(vec![Step { field, index: None }]), problem: self }
    }
}

impl InvalidMessage {
    pub(crate) fn within(mut self, field: &'static str, index: Option<usize>) -> Self {
        self.path.0.push(Step { field, index });
        self
    }
}

/// Names the field in whatever error a conversion gave.
pub(crate) trait At<T> {
    fn at(self, field: &'static str) -> Result<T, InvalidMessage>;
}

impl<T, E: IntoInvalid> At<T> for Result<T, E> {
    fn at(self, field: &'static str) -> Result<T, InvalidMessage> {
        self.map_err(|error| error.into_invalid(field, None))
    }
}

/// What can become an [`InvalidMessage`] once its field is known.
pub(crate) trait IntoInvalid {
    fn into_invalid(self, field: &'static str, index: Option<usize>) -> InvalidMessage;
}

impl IntoInvalid for Problem {
    fn into_invalid(self, field: &'static str, index: Option<usize>) -> InvalidMessage {
        InvalidMessage { path: FieldPath(vec![Step { field, index }]), problem: self }
    }
}

impl IntoInvalid for InvalidMessage {
    fn into_invalid(self, field: &'static str, index: Option<usize>) -> InvalidMessage {
        self.within(field, index)
    }
}

/// Converts a required message.
pub(crate) fn required<W, T>(field: &'static str, message: Option<W>) -> Result<T, InvalidMessage>
where
    T: TryFrom<W, Error = InvalidMessage>,
{
    message.ok_or_else(|| Problem::Missing.at(field))?.try_into().at(field)
}

/// Converts a message that may be absent.
fn optional<W, T>(field: &'static str, message: Option<W>) -> Result<Option<T>, InvalidMessage>
where
    T: TryFrom<W, Error = InvalidMessage>,
{
    message.map(T::try_from).transpose().at(field)
}

/// Converts a list of at most [`LIST_MAX`] entries, each by `convert`.
fn list<W, T, E: IntoInvalid>(
    field: &'static str,
    entries: Vec<W>,
    convert: impl Fn(W) -> Result<T, E>,
) -> Result<Vec<T>, InvalidMessage> {
    list_of(field, LIST_MAX, entries, convert)
}

fn list_of<W, T, E: IntoInvalid>(
    field: &'static str,
    max: usize,
    entries: Vec<W>,
    convert: impl Fn(W) -> Result<T, E>,
) -> Result<Vec<T>, InvalidMessage> {
    if entries.len() > max {
        return Err(Problem::TooMany(entries.len(), max).at(field));
    }
    let convert_one = |(index, entry)| convert(entry).map_err(|error: E| error.into_invalid(field, Some(index)));
    entries.into_iter().enumerate().map(convert_one).collect()
}

/// How many of the conditions are there, by whether each is absent.
fn conditions<const N: usize>(absent: [bool; N]) -> u32 {
    absent.into_iter().map(|absent| u32::from(!absent)).sum()
}

/// Checks that the sender had no condition that this version does not know and has dropped in reading.
fn known<const N: usize>(sent: u32, absent: [bool; N]) -> Result<(), InvalidMessage> {
    if sent == conditions(absent) { Ok(()) } else { Err(Problem::Conditions.at("conditions")) }
}

/// A text within bounds.
fn text(value: String) -> Result<std::sync::Arc<str>, Problem> {
    if value.len() > TEXT_BYTES_MAX { Err(Problem::TooLong) } else { Ok(value.into()) }
}

/// A text that must not be empty.
fn name(value: String) -> Result<std::sync::Arc<str>, Problem> {
    if value.is_empty() { Err(Problem::Missing) } else { text(value) }
}

/// A bounded text that may be empty.
pub(crate) fn optional_text(field: &'static str, value: String) -> Result<std::sync::Arc<str>, InvalidMessage> {
    text(value).at(field)
}

fn port(value: u32) -> Result<u16, Problem> {
    u16::try_from(value).ok().filter(|port| *port != 0).ok_or(Problem::OutOfRange)
}

/// Address ranges.
pub(crate) fn networks(field: &'static str, cidrs: Vec<String>) -> Result<Vec<ipnet::IpNet>, InvalidMessage> {
    list(field, cidrs, |cidr| network::parse(&cidr).map_err(Problem::from))
}

fn address(value: &str) -> Result<std::net::SocketAddr, Problem> {
    value.parse().map_err(|_| Problem::Address)
}

fn millis(value: u64) -> Result<Duration, Problem> {
    Some(Duration::from_millis(value)).filter(|time| *time <= DURATION_MAX).ok_or(Problem::OutOfRange)
}

/// Whole milliseconds, rounded up so that a bound never becomes zero by rounding.
fn to_millis(time: Duration) -> u64 {
    u64::try_from(time.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

fn share(value: f32) -> Result<f32, Problem> {
    if (0.0..=1.0).contains(&value) { Ok(value) } else { Err(Problem::OutOfRange) }
}

fn method(value: &str) -> Result<http::Method, Problem> {
    http::Method::from_bytes(value.as_bytes()).map_err(|_| Problem::Method)
}
