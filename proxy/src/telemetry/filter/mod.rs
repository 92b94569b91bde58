//! The filter language of tap, access log and command line: one line that says which records are meant.
//!
//! `status>=500 and peer=shop/web and ms>200`: comparisons of a record's fields, with `and`, `or`, `not` and parentheses. A filter is parsed
//! once ([`Filter::parse`]) into a small tree of bounded size, and asked for each record. What is wrong with one is told with its place.

mod lex;
mod parse;

use super::{
    RouteKey,
    record::{Entry, Outcome},
};
use std::{borrow::Cow, cmp::Ordering, time::Duration};

pub(crate) use parse::ParseError;

/// See the module. The empty filter takes everything.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Filter(Option<Node>);

#[derive(Debug, Clone, PartialEq)]
enum Node {
    And(Box<Self>, Box<Self>),
    Or(Box<Self>, Box<Self>),
    Not(Box<Self>),
    /// A word that stands alone.
    Is(Is),
    Number(Number, Op, f64),
    /// `status=5xx`.
    StatusClass(Op, u16),
    Text(Text, Op, String),
}

/// What is true or not of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Is {
    Failed,
    Retried,
    Cancelled,
}

/// A field that is a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Number {
    Status,
    Grpc,
    Tries,
    /// When it ended, in milliseconds since 1970.
    AtMs,
    Ms,
    BeforeMs,
    ConnectMs,
    ServerMs,
    AfterMs,
    BytesIn,
    BytesOut,
}

/// A field that is text.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Text {
    Direction,
    Parent,
    Route,
    Peer,
    Tls,
    Protocol,
    Method,
    Path,
    Outcome,
    Reason,
    Fault,
    Endpoint,
    Trace,
    /// In lower case.
    Header(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Op {
    Equal,
    Unequal,
    Less,
    AtMost,
    More,
    AtLeast,
    Contains,
}

impl Op {
    fn holds<T: PartialOrd>(self, left: &T, right: &T) -> bool {
        let order = left.partial_cmp(right);
        match self {
            Self::Equal | Self::Contains => order == Some(Ordering::Equal),
            Self::Unequal => order != Some(Ordering::Equal),
            Self::Less => order == Some(Ordering::Less),
            Self::AtMost => matches!(order, Some(Ordering::Less | Ordering::Equal)),
            Self::More => order == Some(Ordering::Greater),
            Self::AtLeast => matches!(order, Some(Ordering::Greater | Ordering::Equal)),
        }
    }
}

impl Filter {
    /// The filter that `text` says; empty text is the filter that takes everything.
    pub(crate) fn parse(text: &str) -> Result<Self, ParseError> {
        parse::filter(text).map(Self)
    }

    /// Whether it takes a record, which was counted under `key` and ended at that time of day, in milliseconds since 1970.
    pub(crate) fn takes(&self, key: &RouteKey, entry: &Entry, at_ms: u64) -> bool {
        self.0.as_ref().is_none_or(|node| node.takes(key, entry, at_ms))
    }
}

impl Node {
    fn takes(&self, key: &RouteKey, entry: &Entry, at_ms: u64) -> bool {
        match self {
            Self::And(left, right) => left.takes(key, entry, at_ms) && right.takes(key, entry, at_ms),
            Self::Or(left, right) => left.takes(key, entry, at_ms) || right.takes(key, entry, at_ms),
            Self::Not(node) => !node.takes(key, entry, at_ms),
            Self::Is(Is::Failed) => matches!(entry.outcome, Outcome::Failure | Outcome::ServerError),
            Self::Is(Is::Cancelled) => entry.outcome == Outcome::Cancelled,
            Self::Is(Is::Retried) => entry.tries > 1,
            // What is not there is neither equal nor unequal to anything.
            Self::Number(number, op, value) => number.of(entry, at_ms).is_some_and(|of| op.holds(&of, value)),
            Self::StatusClass(op, class) => entry.status.is_some_and(|status| op.holds(&(status / 100), class)),
            Self::Text(text, op, value) => text.of(key, entry).is_some_and(|of| text.compares(&of, *op, value)),
        }
    }
}

impl Number {
    fn of(self, entry: &Entry, at_ms: u64) -> Option<f64> {
        let ms = |time: Duration| Some(time.as_nanos() as f64 / 1e6);
        match self {
            Self::Status => entry.status.map(f64::from),
            Self::Grpc => entry.grpc.map(f64::from),
            Self::Tries => Some(f64::from(entry.tries)),
            Self::AtMs => Some(at_ms as f64),
            Self::Ms => ms(entry.latency),
            Self::BeforeMs => ms(entry.times.before),
            Self::ConnectMs => ms(entry.times.connect),
            Self::ServerMs => ms(entry.times.server),
            Self::AfterMs => ms(entry.times.after),
            Self::BytesIn => Some(entry.bytes_in as f64),
            Self::BytesOut => Some(entry.bytes_out as f64),
        }
    }
}

impl Text {
    fn of<'a>(&self, key: &'a RouteKey, entry: &'a Entry) -> Option<Cow<'a, str>> {
        Some(Cow::Borrowed(match self {
            Self::Direction => key.direction.as_str(),
            Self::Parent => &key.parent,
            Self::Route => &key.route,
            Self::Peer => entry.head.peer().unwrap_or(&key.peer),
            Self::Tls => key.tls.as_str(),
            Self::Protocol => key.protocol.as_str(),
            Self::Method => &entry.head.method,
            Self::Path => &entry.head.path,
            Self::Outcome => entry.outcome.as_str(),
            Self::Reason => entry.reason?.as_str(),
            Self::Fault => entry.fault?.as_str(),
            Self::Endpoint => return entry.endpoint.map(|endpoint| Cow::Owned(endpoint.to_string())),
            Self::Trace => return entry.trace(),
            Self::Header(name) => entry.head.field(name)?,
        }))
    }

    fn compares(&self, of: &str, op: Op, value: &str) -> bool {
        match (self, op) {
            (_, Op::Contains) => of.contains(value),
            (Self::Peer, Op::Equal) => is_peer(of, value),
            (Self::Peer, Op::Unequal) => !is_peer(of, value),
            _ => op.holds(&of, &value),
        }
    }
}

/// Whether `peer` is that SPIFFE ID, or one of `NAMESPACE/ACCOUNT` in any trust domain.
fn is_peer(peer: &str, value: &str) -> bool {
    if value.starts_with("spiffe://") || value.is_empty() {
        return peer == value;
    }
    let path = peer.strip_prefix("spiffe://").and_then(|rest| rest.split_once('/')).map(|(_, path)| path);
    let parts = path.and_then(|path| path.strip_prefix("ns/")?.split_once("/sa/"));
    parts.is_some_and(|parts| Some(parts) == value.split_once('/'))
}

#[cfg(test)]
mod model_tests;

#[cfg(test)]
mod tests {
    use super::{
        super::{Fault, Reason, record::Told, routes::tests::key},
        *,
    };
    use crate::telemetry::record::Times;

    fn entry() -> Entry {
        let ms = Duration::from_millis;
        let fields =
            [("user-agent", "curl/8"), ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")];
        Entry {
            series: 1,
            refused: false,
            ended: ms(5000),
            latency: ms(250),
            times: Times { before: ms(1), connect: ms(9), server: ms(240), after: ms(0) },
            bytes_in: 10,
            bytes_out: 2000,
            status: Some(504),
            grpc: None,
            outcome: Outcome::Failure,
            reason: Some(Reason::Timeout),
            fault: Some(Fault::Application),
            tries: 2,
            endpoint: Some("10.1.2.3:8080".parse().unwrap()),
            span: None,
            head: Told {
                method: "GET".to_owned(),
                path: "/users/7".to_owned(),
                fields: fields.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
            },
        }
    }

    #[test]
    fn each_field_is_compared_as_what_it_is() {
        for (text, takes) in [
            ("", true),
            ("status>=500", true),
            ("status=504 and ms>200", true),
            ("status=5xx", true),
            ("status=4xx", false),
            ("status<5xx", false),
            ("ms>250.5", false),
            ("before_ms=1 and connect_ms>=9 and server_ms<241 and after_ms=0", true),
            ("bytes_out>1000 and bytes_in<=10", true),
            ("grpc=14", false),
            ("not grpc=14", true),
            ("grpc!=14", false),
            ("at_ms>=1790000000000 and at_ms<1790000000124", true),
            ("failed", true),
            ("retried and not cancelled", true),
            ("tries=1", false),
            ("peer=shop/api", true),
            ("peer=shop/ap", false),
            ("peer!=shop/web", true),
            ("peer=spiffe://cluster.local/ns/shop/sa/api", true),
            ("peer~cluster.local", true),
            ("parent=shop/api:8080 and route=\"GET /users/:id\" and direction=outbound", false),
            ("path~/users/ and method=GET", true),
            ("reason=timeout and fault=application and outcome=failure", true),
            ("endpoint=10.1.2.3:8080", true),
            ("tls=mtls and protocol=http1", true),
            ("trace=4bf92f3577b34da6a3ce929d0e0e4736", true),
            ("header.user-agent~curl", true),
            ("header.User-Agent=curl/8", true),
            ("header.x-none=1", false),
            ("header.x-none!=1", false),
            ("status=200 or reason=timeout", true),
            ("status=200 or status=201 and ms>1", false),
            ("(status=200 or reason=timeout) and ms<1", false),
            ("not (failed and ms>200)", false),
        ] {
            let filter = Filter::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(filter.takes(&key("GET /"), &entry(), 1_790_000_000_123), takes, "{text}");
        }
    }
}
