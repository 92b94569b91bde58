//! A record that ended, as words of a [ring](super::ring), and back.

use super::{
    head::{BYTES, Told},
    ring::WORDS,
};
use crate::telemetry::{Fault, Reason};
use std::{
    borrow::Cow,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    time::Duration,
};

/// Words before the head's.
pub(super) const FIXED: usize = 13;
/// The same of a record with a span.
pub(super) const TRACED: usize = FIXED + 4;
const _: () = assert!(TRACED + BYTES / 8 <= WORDS, "a record must find room in a slot");
/// Marks in the word that says how long the head is: refused, …
const REFUSED: u64 = 1 << 16;
/// … and with a span.
const SPAN: u64 = 1 << 17;
/// What stands for "none" in a byte.
const NONE: u8 = u8::MAX;

/// How a request or byte connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Answered below 500, or ended in order.
    Success,
    /// The mesh or the network could not serve it: it has a reason.
    Failure,
    /// The application said that it failed.
    ServerError,
    /// The client gave up.
    Cancelled,
}

impl Outcome {
    const ALL: [Self; 4] = [Self::Success, Self::Failure, Self::ServerError, Self::Cancelled];

    /// The word for it.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Failure => "failure",
            Self::ServerError => "server_error",
            Self::Cancelled => "cancelled",
        }
    }
}

/// Where the time of a request went. The four add up to its latency.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Times {
    /// Here, until there was a connection to send on or one was made: policy, queues, discovery, back-off.
    pub before: Duration,
    /// Until the connection was there.
    pub connect: Duration,
    /// From the last try's sending to the end of its answer, without …
    pub server: Duration,
    /// … the time for which bytes of it waited here, because the client did not take them.
    pub after: Duration,
}

/// A span in a trace. No id is zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    pub trace: u128,
    pub id: u64,
    /// The caller's; `None`: the trace begins here.
    pub parent: Option<u64>,
}

/// A record that ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// The series that it was counted in.
    pub series: u32,
    /// Refused before it had a route.
    pub refused: bool,
    /// When it ended, since the registry was made.
    pub ended: Duration,
    pub latency: Duration,
    pub times: Times,
    pub bytes_in: u64,
    pub bytes_out: u64,
    /// Of HTTP, if there was an answer.
    pub status: Option<u16>,
    pub grpc: Option<u8>,
    pub outcome: Outcome,
    pub reason: Option<Reason>,
    pub fault: Option<Fault>,
    pub tries: u8,
    /// Where the last try went.
    pub endpoint: Option<SocketAddr>,
    /// What is made of it.
    pub span: Option<Span>,
    pub head: Told,
}

/// The same without its head, which is bytes still.
pub(super) struct Fixed {
    pub(super) series: u32,
    pub(super) refused: bool,
    pub(super) ended: Duration,
    pub(super) latency: Duration,
    pub(super) times: Times,
    pub(super) bytes_in: u64,
    pub(super) bytes_out: u64,
    pub(super) status: Option<u16>,
    pub(super) grpc: Option<u8>,
    pub(super) outcome: Outcome,
    pub(super) why: Option<(Reason, Fault)>,
    pub(super) tries: u8,
    pub(super) endpoint: Option<SocketAddr>,
    pub(super) span: Option<Span>,
}

impl Fixed {
    /// The words of a record with a span before its head, which has so many bytes.
    pub(super) fn traced(&self, span: Span, head: usize) -> [u64; TRACED] {
        let mut words = [0; TRACED];
        words[..FIXED].copy_from_slice(&self.words(head));
        words[12] |= SPAN;
        let (trace, parent) = (span.trace, span.parent.unwrap_or(0));
        words[FIXED..].copy_from_slice(&[(trace >> 64) as u64, trace as u64, span.id, parent]);
        words
    }

    /// The words of a record without one.
    pub(super) fn words(&self, head: usize) -> [u64; FIXED] {
        let (address, port, family) = match self.endpoint {
            None => (0, 0, 0),
            Some(SocketAddr::V4(v4)) => (v4.ip().to_ipv6_mapped().to_bits(), v4.port(), 4),
            Some(SocketAddr::V6(v6)) => (v6.ip().to_bits(), v6.port(), 6),
        };
        let (reason, fault) = self.why.map_or((NONE, NONE), |(reason, fault)| (reason.index() as u8, fault.index()));
        [
            nanos(self.ended),
            nanos(self.latency),
            nanos(self.times.before),
            nanos(self.times.connect),
            nanos(self.times.server),
            nanos(self.times.after),
            self.bytes_in,
            self.bytes_out,
            u64::from_le_bytes([
                reason,
                fault,
                self.outcome as u8,
                self.tries,
                self.grpc.unwrap_or(NONE),
                family,
                (port & 0xff) as u8,
                (port >> 8) as u8,
            ]),
            u64::from(self.status.unwrap_or(0)) | u64::from(self.series) << 32,
            (address >> 64) as u64,
            address as u64,
            head as u64 | if self.refused { REFUSED } else { 0 },
        ]
    }
}

impl Entry {
    /// The trace that it belongs to: its span's, or the one that its head says.
    pub(crate) fn trace(&self) -> Option<Cow<'_, str>> {
        match self.span {
            Some(span) => Some(Cow::Owned(format!("{:032x}", span.trace))),
            None => self.head.trace().map(Cow::Borrowed),
        }
    }

    /// What [`Fixed::words`] or [`Fixed::traced`] made, with a head behind it.
    pub(super) fn of(words: &[u64; WORDS]) -> Self {
        let [reason, fault, outcome, tries, grpc, family, low, high] = words[8].to_le_bytes();
        let address = Ipv6Addr::from_bits(u128::from(words[10]) << 64 | u128::from(words[11]));
        let port = u16::from_le_bytes([low, high]);
        let address = match family {
            4 => address.to_ipv4_mapped().map(IpAddr::V4),
            6 => Some(IpAddr::V6(address)),
            _ => None,
        };
        let time = |word: usize| Duration::from_nanos(words[word]);
        let (span, head) = match words[12] & SPAN {
            0 => (None, &words[FIXED..]),
            _ => (Some(span(&words[FIXED..TRACED])), &words[TRACED..]),
        };
        let head: Vec<u8> = head.iter().flat_map(|word| word.to_le_bytes()).collect();
        let len = usize::from(words[12] as u16).min(BYTES);
        Self {
            series: (words[9] >> 32) as u32,
            refused: words[12] & REFUSED != 0,
            ended: time(0),
            latency: time(1),
            times: Times { before: time(2), connect: time(3), server: time(4), after: time(5) },
            bytes_in: words[6],
            bytes_out: words[7],
            status: Some(words[9] as u16).filter(|status| *status > 0),
            grpc: Some(grpc).filter(|code| *code != NONE),
            outcome: Outcome::ALL[usize::from(outcome) % Outcome::ALL.len()],
            reason: Reason::ALL.get(usize::from(reason)).copied(),
            fault: Fault::ALL.get(usize::from(fault)).copied(),
            tries,
            endpoint: address.map(|address| SocketAddr::new(address, port)),
            span,
            head: Told::of(&head[..len]),
        }
    }
}

fn span(words: &[u64]) -> Span {
    let word = |at: usize| words.get(at).copied().unwrap_or(0);
    let trace = u128::from(word(0)) << 64 | u128::from(word(1));
    Span { trace, id: word(2), parent: Some(word(3)).filter(|parent| *parent != 0) }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::{super::ring::Ring, *};

    fn there_and_back(fixed: &Fixed, head: &[u8]) -> Entry {
        let (ring, writer) = Ring::new(1);
        let mut words = [0; WORDS];
        let padded: Vec<[u8; 8]> =
            head.chunks(8).map(|part| std::array::from_fn(|at| part.get(at).copied().unwrap_or(0xff))).collect();
        match fixed.span {
            None => writer.push(&fixed.words(head.len()), &padded),
            Some(span) => writer.push(&fixed.traced(span, head.len()), &padded),
        }
        assert!(ring.read(0, &mut words));
        Entry::of(&words)
    }

    #[test]
    fn a_record_comes_out_of_its_words_as_it_went_in() {
        let milli = Duration::from_millis;
        let root = Span { trace: u128::MAX - 1, id: u64::MAX - 2, parent: None };
        let child = Span { trace: 1, id: 2, parent: Some(u64::MAX) };
        for (endpoint, why, status, grpc, span) in [
            (Some("10.1.2.3:8080"), Some((Reason::Timeout, Fault::Application)), Some(504), None, None),
            (Some("[2001:db8::7]:65535"), Some((Reason::Internal, Fault::Proxy)), Some(200), Some(13), Some(root)),
            (None, None, None, Some(0), Some(child)),
        ] {
            let endpoint = endpoint.map(|address| address.parse().unwrap());
            let times = Times { before: milli(1), connect: milli(2), server: milli(3), after: milli(4) };
            let fixed = Fixed {
                series: u32::MAX - 1,
                refused: why.is_some(),
                ended: milli(90_000),
                latency: milli(10),
                times,
                bytes_in: 7,
                bytes_out: u64::MAX,
                status,
                grpc,
                outcome: Outcome::Failure,
                why,
                tries: 3,
                endpoint,
                span,
            };
            let entry = there_and_back(&fixed, b"\x03GET\x02/a\x01x\x01y");
            assert_eq!((entry.series, entry.ended, entry.latency), (u32::MAX - 1, milli(90_000), milli(10)));
            assert_eq!((entry.refused, entry.span), (why.is_some(), span));
            assert_eq!((entry.times, entry.bytes_in, entry.bytes_out), (times, 7, u64::MAX));
            assert_eq!((entry.status, entry.grpc, entry.outcome), (status, grpc, Outcome::Failure));
            assert_eq!((entry.reason.zip(entry.fault), entry.tries, entry.endpoint), (why, 3, endpoint));
            assert_eq!((entry.head.path.as_str(), entry.head.field("x")), ("/a", Some("y")));
        }
    }

    #[test]
    fn every_reason_fault_and_outcome_has_a_byte_of_its_own() {
        assert!(Reason::ALL.len() < usize::from(NONE) && Fault::ALL.len() < usize::from(NONE));
        for (index, outcome) in Outcome::ALL.into_iter().enumerate() {
            assert_eq!(outcome as usize, index);
        }
        for (index, fault) in Fault::ALL.iter().enumerate() {
            assert_eq!(usize::from(fault.index()), index);
        }
    }
}
