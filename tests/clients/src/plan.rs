//! What is asked: requests of a seed in phases, as the lines that every program in `programs/` reads.
//!
//! ```text
//! RUN                                                   of this run: an application counts what it gets twice
//! flood WIDTH                                           the lines below, so many at a time
//! NUMBER  PAUSE  METHOD  PATH  FIELDS  BODY  FRAMING  EXTRA
//! pairs                                                 two lines each, on a client of their own: the first, the pause, the second
//! ```
//!
//! Tabs part the words of a line. FIELDS is how many fields of 4 KiB the head has, FRAMING `none`, `length` or `chunked`,
//! EXTRA `-`, `trailers` or `expect`.

use crate::tools::{Client, Server};
use fastrand::Rng;
use std::{fmt::Write as _, time::Duration};

/// When each of the servers closes a connection that is idle.
const IDLE: Duration = Duration::from_secs(2);
/// How far around [`IDLE`] the second requests of the pairs of a phase lie, a millisecond apart.
const AROUND_MS: u32 = 25;
/// What a proxy keeps of a body.
const KEPT_BYTES: u32 = 64 * 1024;
/// Phases of pairs in a long run.
const ROUNDS: u32 = 4;

/// One request.
#[derive(Debug, Clone)]
pub(crate) struct Line {
    pub(crate) number: usize,
    pub(crate) pause_ms: u32,
    pub(crate) method: &'static str,
    pub(crate) path: String,
    fields: u32,
    body: u32,
    framing: &'static str,
    extra: &'static str,
}

impl Line {
    /// As a person names it.
    pub(crate) fn shown(&self) -> String {
        let Self { number, pause_ms, method, path, body, framing, .. } = self;
        let body = if *framing == "none" { String::new() } else { format!(", {body} bytes by {framing}") };
        let pause = if *pause_ms == 0 { String::new() } else { format!(" after {pause_ms} ms of silence") };
        format!("{number}: {method} {path}{body}{pause}")
    }

    /// Whether `failure` is one that nobody can help if a connection ends as the request comes: it must not be sent twice, or its body is
    /// longer than what a proxy keeps for another try (docs/failures.md).
    pub(crate) fn was_lost(&self, failure: &str) -> bool {
        match failure {
            "502 upstream_reset" => self.method == "POST",
            "503 draining" => self.body > KEPT_BYTES,
            _ => false,
        }
    }
}

#[derive(Debug, Clone)]
enum Phase {
    Flood(u32),
    Pairs,
}

/// All that one client asks one server.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    phases: Vec<(Phase, Vec<Line>)>,
}

impl Plan {
    /// About `count` requests that this client can ask and this server answers.
    pub(crate) fn new(seed: u64, count: u32, client: Client, server: Server) -> Self {
        let mut maker = Maker { rng: Rng::with_seed(seed), client, server, next: 0 };
        let rounds = if count < 1000 { 1 } else { ROUNDS };
        let pairs = (count / 8).min(2 * AROUND_MS);
        let floods = count - rounds * pairs * 2;
        let mut phases =
            vec![(Phase::Flood(32), maker.lines(floods * 7 / 10)), (Phase::Flood(150), maker.crowd(floods / 10))];
        phases.extend((0..rounds).map(|_| (Phase::Pairs, maker.pairs(pairs))));
        phases.push((Phase::Flood(8), maker.lines(floods - floods * 7 / 10 - floods / 10)));
        Self { phases }
    }

    /// Only these of its requests, in no hurry.
    pub(crate) fn only(&self, numbers: &[usize]) -> Self {
        let lines = self.lines().filter(|line| numbers.contains(&line.number)).cloned();
        Self { phases: vec![(Phase::Flood(2), lines.collect())] }
    }

    pub(crate) fn lines(&self) -> impl Iterator<Item = &Line> {
        self.phases.iter().flat_map(|(_, lines)| lines)
    }

    /// As the programs read it.
    pub(crate) fn text(&self, run: &str) -> String {
        let mut text = format!("{run}\n");
        for (phase, lines) in &self.phases {
            let _ = match phase {
                Phase::Flood(width) => writeln!(text, "flood {width}"),
                Phase::Pairs => writeln!(text, "pairs"),
            };
            for Line { number, pause_ms, method, path, fields, body, framing, extra } in lines {
                let _ = writeln!(text, "{number}\t{pause_ms}\t{method}\t{path}\t{fields}\t{body}\t{framing}\t{extra}");
            }
        }
        text
    }
}

struct Maker {
    rng: Rng,
    client: Client,
    server: Server,
    next: usize,
}

impl Maker {
    fn line(&mut self, method: &'static str, path: impl Into<String>) -> Line {
        let number = self.next;
        self.next += 1;
        let path = path.into();
        Line { number, pause_ms: 0, method, path, fields: 0, body: 0, framing: "none", extra: "-" }
    }

    /// One with a body.
    fn upload(&mut self, method: &'static str, path: &str) -> Line {
        let sizes = [0, 1, 100, 1000, 16_000, 70_000, if self.rng.u8(..) < 16 { 1_000_000 } else { 300 }];
        let body = sizes[self.rng.usize(..sizes.len())];
        let framing = if self.rng.bool() || !self.client.sends_chunks() { "length" } else { "chunked" };
        let expects = self.client.can_expect() && body > 0 && self.rng.u8(..) < 12;
        Line { body, framing, extra: if expects { "expect" } else { "-" }, ..self.line(method, path) }
    }

    fn status(&mut self) -> Line {
        let code = [204, 302, 304, 404, 503][self.rng.usize(..5)];
        let method = ["GET", "HEAD", "POST", "DELETE"][self.rng.usize(..4)];
        let method = match method {
            // A 304 answers GET and HEAD.
            "POST" | "DELETE" if code == 304 => "GET",
            "POST" if !self.client.bears_early_answers() => "DELETE",
            method => method,
        };
        self.line(method, format!("/status/{code}"))
    }

    fn trailers(&mut self) -> Line {
        if !self.server.sends_trailers() {
            return self.line("GET", "/echo");
        }
        let upload = self.client.sends_trailers() && self.rng.bool();
        let line = if upload { self.upload("POST", "/trailers/640") } else { self.line("GET", "/trailers/640") };
        Line { extra: "trailers", framing: if upload { "chunked" } else { "none" }, ..line }
    }

    fn any(&mut self) -> Line {
        match self.rng.u32(..100) {
            0..15 => self.line("GET", "/bytes/16"),
            15..24 => {
                let size = [1024, 16_384, 131_072][self.rng.usize(..3)];
                self.line("GET", format!("/bytes/{size}"))
            }
            24..25 => self.line("GET", "/bytes/1048576"),
            25..40 => self.line("GET", "/echo?a=b&c=%20d"),
            40..58 => self.upload("POST", "/echo"),
            58..68 => self.upload("PUT", "/echo"),
            68..76 => {
                let path = ["/bytes/1024", "/echo"][self.rng.usize(..2)];
                self.line("HEAD", path)
            }
            76..84 => self.status(),
            84..90 => self.line("GET", "/chunks/6400"),
            90..93 => self.line("GET", "/large/12"),
            93..96 => Line { fields: 4, ..self.line("GET", "/echo") },
            96..98 => self.line("GET", "/slow/20"),
            _ => self.trailers(),
        }
    }

    fn lines(&mut self, count: u32) -> Vec<Line> {
        (0..count).map(|_| self.any()).collect()
    }

    /// Many that take long, so that more than a connection's streams are under way.
    fn crowd(&mut self, count: u32) -> Vec<Line> {
        let slow = |maker: &mut Self| match maker.rng.u8(..4) {
            0 => maker.upload("POST", "/slow/100"),
            1 => maker.any(),
            _ => maker.line("GET", "/slow/100"),
        };
        (0..count).map(|_| slow(self)).collect()
    }

    /// Pairs whose second request comes when the server closes: a millisecond apart, GET and POST.
    fn pairs(&mut self, count: u32) -> Vec<Line> {
        let idle = u32::try_from(IDLE.as_millis()).unwrap_or(u32::MAX);
        let pair = |at: u32| {
            let pause_ms = idle - count / 2 + at;
            let first = self.line("GET", "/slow/50");
            let second = if at.is_multiple_of(3) { self.line("GET", "/echo") } else { self.upload("POST", "/echo") };
            [first, Line { pause_ms, ..second }]
        };
        (0..count).flat_map(pair).collect()
    }
}
