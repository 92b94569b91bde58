//! What happens in a simulation, drawn from its seed before it begins: who asks what, how it is answered, what breaks. Pure.

use super::pipe::Weather;
use crate::limits;
use fastrand::Rng;
use http::{Method, StatusCode};
use remora_model::{Accrual, BackendSettings, GrpcCodes, Retry, Timeouts};
use std::{fmt, time::Duration};

/// How a client, or an application, speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Speech {
    Http1,
    Http2,
}

/// How a message says where its body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    Length,
    /// Over HTTP/2: without a length.
    Chunked,
    /// At the end of the connection; answers over HTTP/1 only.
    Close,
}

/// How fast something is read or written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pace {
    Fast,
    /// So many bytes, and then a pause.
    Slow(usize, Duration),
    /// Nothing for so long, then all.
    Late(Duration),
}

/// One request.
#[derive(Debug, Clone)]
pub(super) struct Ask {
    pub id: u64,
    pub rule: usize,
    pub method: Method,
    pub framing: Framing,
    pub body: usize,
    pub grpc: bool,
    /// What a gRPC caller bounds it by.
    pub timeout: Option<Duration>,
    pub trailers: bool,
    /// How long the client waits before it asks.
    pub after: Duration,
    pub upload: Pace,
    pub reading: Pace,
    /// The upload ends here without its end being told.
    pub breaks: Option<usize>,
    /// The client gives up after so long: by a reset, or else by closing.
    pub gives_up: Option<(Duration, bool)>,
}

impl Ask {
    /// Whether its method says that it may be sent twice.
    pub(super) fn is_idempotent(&self) -> bool {
        self.method.is_idempotent()
    }
}

/// What an application does with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Whole,
    /// HTTP/2: the stream is refused before anything is done.
    Refused,
    /// The connection, or the stream, is reset before the head.
    ResetBeforeHead,
    /// The connection is closed before the head.
    CloseBeforeHead,
    /// HTTP/1: reset within the head.
    ResetInHead,
    /// Reset after so many bytes of the body.
    ResetInBody(usize),
    /// Closed after so many bytes of the body.
    CloseInBody(usize),
    /// HTTP/2: reset with NO_ERROR in the body.
    EndInBody(usize),
}

/// How an application answers.
#[derive(Debug, Clone)]
pub(super) struct Reply {
    pub fate: Fate,
    pub status: StatusCode,
    pub framing: Framing,
    pub body: usize,
    pub trailers: bool,
    pub interim: bool,
    /// Before the request's body was read.
    pub early: bool,
    pub thinks: Duration,
    pub pace: Pace,
    pub reading: Pace,
    /// Afterwards the connection is closed: HTTP/1 by `Connection: close` or without a word, HTTP/2 by GOAWAY.
    pub last: bool,
    pub says_last: bool,
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { fate, status, framing, body, thinks, pace, reading, .. } = self;
        write!(
            f,
            "{fate:?}, {} {framing:?} {body}, reads {reading:?}, thinks {thinks:?}, writes {pace:?}",
            status.as_u16()
        )?;
        for (is, what) in [(self.early, "early"), (self.trailers, "trailers"), (self.last, "last")] {
            if is {
                write!(f, ", {what}")?;
            }
        }
        Ok(())
    }
}

/// A rule of the target.
#[derive(Debug, Clone)]
pub(super) struct Rule {
    pub timeouts: Timeouts,
    pub retry: Option<Retry>,
    pub mirrored: bool,
}

impl Rule {
    /// How often a request may be executed.
    pub(super) fn attempts(&self) -> u32 {
        self.retry.as_ref().map_or(limits::DEFAULT_RETRIES, |retry| retry.attempts)
    }

    /// Whether a request that may have been delivered may be sent again.
    pub(super) fn repeats(&self, ask: &Ask) -> bool {
        ask.is_idempotent() || self.retry.as_ref().is_some_and(|retry| retry.any_method)
    }
}

/// A client with one connection at a time.
#[derive(Debug, Clone)]
pub(super) struct Client {
    pub speech: Speech,
    /// It is outside of the mesh, and calls the pod itself.
    pub outside: bool,
    pub asks: Vec<Ask>,
}

/// An endpoint of the target.
#[derive(Debug, Clone, Copy)]
pub(super) struct Endpoint {
    pub meshed: bool,
}

/// What changes meanwhile.
#[derive(Debug, Clone, Copy)]
pub(super) enum Event {
    /// The application, or where it is not, the proxy, refuses or is silent from now on, or is up again.
    App(usize, super::net::Host),
    Proxy(usize, super::net::Host),
    /// Discovery has exactly these endpoints, by their bits.
    Endpoints(u32),
    /// Policy lets nobody in to this endpoint, or all.
    Denied(usize, bool),
    /// The proxy of the endpoints is about to end.
    Drain,
}

/// All of it.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub seed: u64,
    /// Nothing breaks: everything has to go well.
    pub quiet: bool,
    /// Nothing redirects connections to the proxy of the endpoints: its peers name the port that they want.
    pub named: bool,
    /// Nothing redirects connections to the proxy of the clients either: they speak to its listener, and name where they want to go.
    pub explicit: bool,
    pub rules: Vec<Rule>,
    pub settings: BackendSettings,
    pub endpoints: Vec<Endpoint>,
    pub clients: Vec<Client>,
    pub events: Vec<(Duration, Event)>,
}

/// True once in `times`.
pub(super) fn once(rng: &mut Rng, times: u32) -> bool {
    rng.u32(..times) == 0
}

pub(super) fn ms(rng: &mut Rng, most: u64) -> Duration {
    Duration::from_millis(rng.u64(..=most))
}

pub(super) fn size(rng: &mut Rng) -> usize {
    match rng.u32(..20) {
        0..4 => 0,
        4..12 => rng.usize(1..200),
        12..17 => rng.usize(200..8_000),
        17..19 => rng.usize(8_000..70_000),
        _ => rng.usize(70_000..200_000),
    }
}

pub(super) fn pace(rng: &mut Rng) -> Pace {
    match rng.u32(..12) {
        0 => Pace::Slow(rng.usize(500..5_000), ms(rng, 30)),
        1 => Pace::Late(ms(rng, 8_000)),
        _ => Pace::Fast,
    }
}

impl Plan {
    pub(super) fn of(seed: u64) -> Self {
        let rng = &mut Rng::with_seed(seed);
        let quiet = once(rng, 8);
        let rules: Vec<Rule> = (0..3).map(|_| rule(rng, quiet)).collect();
        let settings = settings(rng, quiet);
        let (named, count) = (rng.bool(), rng.usize(1..=3));
        let endpoints: Vec<Endpoint> = (0..count).map(|_| Endpoint { meshed: !once(rng, 4) }).collect();
        let mut id = 0;
        let calls_pod = endpoints[0].meshed && !named;
        let clients = (0..rng.usize(1..=3)).map(|_| client(rng, quiet, calls_pod, &mut id)).collect();
        let events = if quiet { Vec::new() } else { events(rng, endpoints.len()) };
        Self { seed, quiet, named, explicit: false, rules, settings, endpoints, clients, events }
    }

    /// Every request.
    pub(super) fn asks(&self) -> impl Iterator<Item = (&Client, &Ask)> {
        self.clients.iter().flat_map(|client| client.asks.iter().map(move |ask| (client, ask)))
    }

    /// How the request is answered when it is executed for the `number`th time. Not drawn beforehand, because who is asked when is
    /// not known; but the same for each run of the seed.
    pub(super) fn reply(&self, ask: &Ask, number: usize) -> Reply {
        let seed = self.seed.wrapping_mul(0x2545_f491_4f6c_dd1d) ^ (ask.id << 8) ^ number as u64;
        let rng = &mut Rng::with_seed(seed);
        let body = size(rng);
        let fate = match rng.u32(..24) {
            _ if self.quiet => Fate::Whole,
            0 => Fate::Refused,
            1 => Fate::ResetBeforeHead,
            2 => Fate::CloseBeforeHead,
            3 => Fate::ResetInHead,
            4..6 => Fate::ResetInBody(rng.usize(..=body)),
            6..8 => Fate::CloseInBody(rng.usize(..=body)),
            8 => Fate::EndInBody(rng.usize(..=body)),
            _ => Fate::Whole,
        };
        let statuses = [200, 200, 200, 200, 201, 204, 304, 404, 500, 503];
        let status = if ask.grpc { 200 } else { *rng.choice(&statuses).unwrap_or(&200) };
        let thinks = match rng.u32(..10) {
            0 => ms(rng, if self.quiet { 200 } else { 20_000 }),
            1..4 => ms(rng, 50),
            _ => Duration::ZERO,
        };
        Reply {
            fate,
            status: StatusCode::from_u16(status).unwrap_or_default(),
            framing: *rng
                .choice(&[Framing::Length, Framing::Length, Framing::Chunked, Framing::Close])
                .unwrap_or(&Framing::Length),
            body,
            trailers: ask.grpc || once(rng, 6),
            interim: once(rng, 10),
            early: once(rng, 8),
            thinks,
            pace: pace(rng),
            reading: pace(rng),
            // What a GOAWAY of an application leaves over, nobody sends again for a client outside of the mesh.
            last: once(rng, 6) && !(self.quiet && self.clients.iter().any(|client| client.outside)),
            // Whoever asks on a connection that is just being closed without a word has no answer, in the best of worlds.
            says_last: rng.bool() || self.quiet,
        }
    }

    /// How bytes travel between a client, or a proxy, and who is next.
    pub(super) fn weather(quiet: bool, rng: &mut Rng) -> Weather {
        if once(rng, 3) {
            return Weather::FINE;
        }
        // Narrow and late, it lets keep-alive between the proxies fail.
        let capacity = *rng.choice(&[700, 4 << 10, 64 << 10, 256 << 10][2 * usize::from(quiet)..]).unwrap_or(&4096);
        let very_late = if quiet { u64::MAX } else { 500 };
        let fine = Weather { capacity, late_ms: rng.u64(..12), very_late, ..Weather::FINE };
        if quiet || !once(rng, 6) {
            return fine;
        }
        match rng.u32(..2) {
            0 => Weather { stall: Some((rng.u64(1..40), ms(rng, 20_000))), ..fine },
            _ => Weather { cut: Some(rng.u64(1..60)), ..fine },
        }
    }
}

pub(super) fn rule(rng: &mut Rng, quiet: bool) -> Rule {
    let long = |rng: &mut Rng, most| (!quiet && once(rng, 3)).then(|| Duration::from_millis(20) + ms(rng, most));
    let timeouts = Timeouts { request: long(rng, 5_000), backend_request: long(rng, 2_000) };
    let retry = rng.bool().then(|| Retry {
        attempts: rng.u32(..5),
        codes: if rng.bool() {
            vec![StatusCode::SERVICE_UNAVAILABLE, StatusCode::INTERNAL_SERVER_ERROR]
        } else {
            Vec::new()
        },
        grpc_codes: GrpcCodes::default(),
        backoff: ms(rng, 100),
        any_method: once(rng, 4),
    });
    Rule { timeouts, retry, mirrored: once(rng, 5) }
}

pub(super) fn settings(rng: &mut Rng, quiet: bool) -> BackendSettings {
    BackendSettings {
        accrual: Accrual { consecutive: rng.u32(2..10), ..Accrual::default() },
        retry_ratio: if once(rng, 3) { 0.0 } else { 1.0 },
        min_retries: rng.u32(..20),
        pending_max: if !quiet && once(rng, 10) { 2 } else { 1024 },
        ..BackendSettings::default()
    }
}

fn client(rng: &mut Rng, quiet: bool, calls_pod: bool, id: &mut u64) -> Client {
    let speech = if rng.bool() { Speech::Http1 } else { Speech::Http2 };
    let outside = calls_pod && once(rng, 6);
    let asks = (0..rng.usize(1..=8)).map(|_| {
        *id += 1;
        ask(rng, quiet, speech, *id)
    });
    Client { speech, outside, asks: asks.collect() }
}

fn ask(rng: &mut Rng, quiet: bool, speech: Speech, id: u64) -> Ask {
    let grpc = speech == Speech::Http2 && once(rng, 3);
    let methods = [
        Method::GET,
        Method::GET,
        Method::HEAD,
        Method::POST,
        Method::POST,
        Method::PUT,
        Method::PATCH,
        Method::DELETE,
    ];
    let method = if grpc { Method::POST } else { rng.choice(&methods).cloned().unwrap_or(Method::GET) };
    let body = if [Method::GET, Method::HEAD].contains(&method) && !once(rng, 8) { 0 } else { size(rng) };
    let faults = !quiet && once(rng, 5);
    let late = if once(rng, 10) { 5_000 } else { 20 };
    Ask {
        id,
        rule: rng.usize(..3),
        method,
        framing: if body > 0 && rng.bool() { Framing::Chunked } else { Framing::Length },
        body,
        grpc,
        timeout: (grpc && !quiet && once(rng, 4)).then(|| Duration::from_millis(5) + ms(rng, 3_000)),
        trailers: once(rng, 8),
        after: ms(rng, late),
        upload: pace(rng),
        reading: pace(rng),
        breaks: (faults && body > 0 && rng.bool()).then(|| rng.usize(..body)),
        gives_up: (faults && rng.bool()).then(|| (ms(rng, 400), rng.bool())),
    }
}

pub(super) fn events(rng: &mut Rng, endpoints: usize) -> Vec<(Duration, Event)> {
    use super::net::Host;
    let mut events = Vec::new();
    for _ in 0..rng.usize(..4) {
        let (at, one) = (ms(rng, 2_000), rng.usize(..endpoints));
        let host = *rng.choice(&[Host::Refuses, Host::Silent, Host::Up]).unwrap_or(&Host::Up);
        let event = match rng.u32(..6) {
            0 => Event::App(one, host),
            1 => Event::Proxy(one, host),
            2 | 3 => Event::Endpoints(rng.u32(..1 << endpoints)),
            4 => Event::Denied(one, rng.bool()),
            _ => Event::Drain,
        };
        events.push((at, event));
    }
    events.sort_by_key(|(at, _)| *at);
    events
}
