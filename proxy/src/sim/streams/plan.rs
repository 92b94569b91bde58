//! What the streams of a simulation are, drawn from its seed: how each begins, what both sides say and read, how each ends. Pure.

use crate::sim::plan::{self, Endpoint, Pace, Plan as Base, ms, once, pace, size};
use fastrand::Rng;
use std::time::Duration;

/// How a stream begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Begins {
    /// It is bytes from the first on; where clients speak to the outbound listener itself, behind a CONNECT that the proxy answers.
    Bytes,
    /// As an upgrade of HTTP/1.1.
    Upgrade,
    /// By a CONNECT that the application answers.
    Connect,
    /// As an extended CONNECT of HTTP/2.
    Extended,
}

/// How a side reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reads {
    At(Pace),
    /// Nothing for so long, then all.
    Nothing(Duration),
}

/// How a side ends what it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// In order, and goes on reading.
    Fin,
    /// In order, once the other side has.
    After,
    /// In order, after a silence.
    Late(Duration),
    /// In order; and after so long it resets.
    FinReset(Duration),
    /// By a reset, after so many bytes.
    Reset(usize),
    /// It closes after so many bytes, and reads no more.
    Close(usize),
}

/// What a side does.
#[derive(Debug, Clone)]
pub(super) struct Script {
    pub bytes: usize,
    pub pace: Pace,
    pub reads: Reads,
    pub end: End,
}

/// One stream, as its client makes it.
#[derive(Debug, Clone)]
pub(super) struct Stream {
    pub id: u64,
    pub begins: Begins,
    /// Its client is outside of the mesh, and calls the pod itself.
    pub outside: bool,
    pub after: Duration,
    pub script: Script,
}

/// Whether an application takes a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Take {
    Yes,
    /// It answers 403.
    No,
    /// It resets, or closes, the connection instead.
    Resets,
    Closes,
}

/// What an application does with a stream.
#[derive(Debug, Clone)]
pub(super) struct Reply {
    pub take: Take,
    pub thinks: Duration,
    /// Its first bytes come in one piece with the answer's head.
    pub at_once: bool,
    pub script: Script,
}

/// All of it.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    /// The world in which it happens; of its own it has no requests.
    pub base: Base,
    /// Applications speak first.
    pub greets: bool,
    pub streams: Vec<Stream>,
}

impl Plan {
    pub(super) fn of(seed: u64) -> Self {
        let rng = &mut Rng::with_seed(seed ^ 0x7374_7265_616d);
        let (quiet, greets, explicit, named) = (once(rng, 4), once(rng, 4), once(rng, 3), rng.bool());
        let endpoints: Vec<_> = (0..rng.usize(1..=3)).map(|_| Endpoint { meshed: !once(rng, 4) }).collect();
        let routed = !greets && rng.bool();
        let calls_pod = endpoints[0].meshed && !named;
        let kinds: &[Begins] = match (greets, routed, explicit) {
            (true, ..) => &[Begins::Bytes],
            (_, true, _) => &[Begins::Upgrade, Begins::Extended],
            (_, _, true) => &[Begins::Bytes, Begins::Upgrade, Begins::Extended],
            (_, _, false) => &[Begins::Bytes, Begins::Upgrade, Begins::Connect, Begins::Extended],
        };
        let streams = (1..=rng.u64(1..=5)).map(|id| stream(rng, id, kinds, calls_pod)).collect();
        let mut rules: Vec<_> = (0..if routed { 3 } else { 0 }).map(|_| plan::rule(rng, quiet)).collect();
        for rule in &mut rules {
            rule.mirrored = false;
            // A deadline is of the answer's head.
            if quiet && rng.bool() {
                rule.timeouts.request = Some(Duration::from_secs(2));
            }
        }
        let settings = plan::settings(rng, quiet);
        let events = if quiet { Vec::new() } else { plan::events(rng, endpoints.len()) };
        let base = Base { seed, quiet, named, explicit, rules, settings, endpoints, clients: Vec::new(), events };
        Self { base, greets, streams }
    }

    /// The stream of this number.
    pub(super) fn stream(&self, id: u64) -> Option<&Stream> {
        self.streams.iter().find(|stream| stream.id == id)
    }

    /// What an application does with a stream that it gets for the `number`th time: the same for each run of the seed.
    pub(super) fn reply(&self, stream: &Stream, number: usize) -> Reply {
        let seed = self.base.seed.wrapping_mul(0x2545_f491_4f6c_dd1d) ^ (stream.id << 8) ^ number as u64;
        let rng = &mut Rng::with_seed(seed);
        let mut script = script(rng);
        if once(rng, 3) {
            script.end = End::After;
        }
        let take = match rng.u32(..12) {
            0 => Take::No,
            1 if !self.base.quiet => Take::Resets,
            2 if !self.base.quiet => Take::Closes,
            _ => Take::Yes,
        };
        // The head does not wait for words that are late.
        let at_once = rng.bool() && !matches!(script.pace, Pace::Late(_));
        Reply { take, thinks: ms(rng, 50), at_once, script }
    }
}

fn stream(rng: &mut Rng, id: u64, kinds: &[Begins], calls_pod: bool) -> Stream {
    let begins = *rng.choice(kinds).unwrap_or(&Begins::Bytes);
    Stream { id, begins, outside: calls_pod && once(rng, 5), after: ms(rng, 500), script: script(rng) }
}

fn script(rng: &mut Rng) -> Script {
    // More than all buffers between both ends hold, now and then.
    let bytes = if once(rng, 6) { rng.usize(300_000..3_000_000) } else { size(rng) };
    let reads = if once(rng, 5) { Reads::Nothing(Duration::from_secs(90)) } else { Reads::At(pace(rng)) };
    let end = match rng.u32(..12) {
        0 | 1 => End::Reset(rng.usize(..=bytes)),
        2 => End::Close(rng.usize(..=bytes)),
        3 => End::FinReset(ms(rng, 2_000)),
        4 => End::Late(Duration::from_secs(90)),
        _ => End::Fin,
    };
    Script { bytes, pace: pace(rng), reads, end }
}
