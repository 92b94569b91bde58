//! The strict gate before hyper: refuses HTTP/1 that two implementations could read in two ways.
//!
//! In: the raw bytes that a client sends on one connection, in any pieces, before hyper sees them. Out: nothing, or a
//! [`Refusal`], after which the connection must be closed and no further byte of it be used. hyper is lenient where
//! the RFC lets it be (bare LF, lists of codings that end in `chunked`, both lengths at once); a proxy that passes on
//! what it read leniently is one half of a request-smuggling attack, so we take the other choice the RFC gives.
//!
//! It follows message boundaries by itself: heads line by line, bodies of known length by counting, chunked bodies by
//! their framing. Pieces that hold whole lines are judged in place; only a line cut in two is copied, into a buffer
//! that is kept. What it does not do: change or hold back bytes, or judge meaning (paths, reserved headers).
#![cfg_attr(not(test), deny(clippy::indexing_slicing))]

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod head;
mod io;
mod refusal;
mod stall;

pub(crate) use io::Guarded;
pub(crate) use refusal::Refusal;
pub(crate) use stall::{Patience, Wait};

use head::{Head, plain};

/// The head of a message, start line included.
pub(crate) const HEAD_BYTES_MAX: usize = 64 * 1024;
/// Field lines in a head, and in trailers.
pub(crate) const HEAD_FIELDS_MAX: usize = 100;
/// The request line alone.
pub(crate) const LINE_BYTES_MAX: usize = 16 * 1024;
/// Chunk extensions of one body, all together: only attackers use them.
pub(crate) const EXTENSION_BYTES_MAX: usize = 16 * 1024;
/// Trailers of one body.
pub(crate) const TRAILER_BYTES_MAX: usize = 16 * 1024;

/// Judges what comes on one connection.
#[derive(Debug)]
pub(crate) struct Guard {
    state: State,
    /// The beginning of a line whose end has not come.
    partial: Vec<u8>,
    /// Bytes of this head, these trailers, or this body's chunk extensions.
    bytes: usize,
    head: Head,
    /// Heads that have ended.
    heads: u64,
    /// Requests that have their whole answer.
    answered: u64,
    /// Which head it was that may make the connection one of bytes, until it has its answer.
    leaving: Option<u64>,
    /// Bytes that were judged.
    total: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Before a start line; whether an empty line was skipped (RFC 9112 §2.2 allows one).
    Start {
        skipped: bool,
    },
    Fields,
    Body(u64),
    ChunkSize,
    ChunkData(u64),
    ChunkEnd {
        cr: bool,
    },
    Trailers,
    /// Not ours to judge any more: an upgrade or a tunnel.
    Opaque,
}

impl Guard {
    /// For what a client sends.
    #[must_use]
    pub(crate) fn requests() -> Self {
        Self {
            state: State::Start { skipped: false },
            partial: Vec::new(),
            bytes: 0,
            head: Head::default(),
            heads: 0,
            answered: 0,
            leaving: None,
            total: 0,
        }
    }

    /// The connection is no longer HTTP/1 from the next byte on (101, or a 2xx to CONNECT). Only the server that sent this
    /// response knows.
    pub(crate) fn opaque(&mut self) {
        self.state = State::Opaque;
    }

    /// How many requests have their whole answer by now.
    pub(crate) fn answered(&mut self, count: u64) {
        self.answered = count;
    }

    /// What the next bytes will be part of, and how far that is; `None` once nothing is judged any more.
    fn awaited(&self) -> Option<(Wait, u64)> {
        match self.state {
            State::Start { .. } if self.partial.is_empty() => Some((Wait::Idle, self.heads)),
            State::Start { .. } | State::Fields => Some((Wait::Head, self.heads)),
            State::Body(_) | State::ChunkSize | State::ChunkData(_) | State::ChunkEnd { .. } | State::Trailers => {
                Some((Wait::Body, self.total))
            }
            State::Opaque => None,
        }
    }

    /// Judges the next bytes.
    ///
    /// # Errors
    /// They, with those before them, are nothing that may be acted on. Any later call refuses nothing and means nothing.
    pub(crate) fn feed(&mut self, mut bytes: &[u8]) -> Result<(), Refusal> {
        self.total += bytes.len() as u64;
        while !bytes.is_empty() {
            match self.state {
                State::Opaque => return Ok(()),
                State::Body(left) => {
                    let taken = skip(&mut bytes, left);
                    self.state =
                        if taken == left { State::Start { skipped: false } } else { State::Body(left - taken) };
                }
                State::ChunkData(left) => {
                    let taken = skip(&mut bytes, left);
                    self.state =
                        if taken == left { State::ChunkEnd { cr: false } } else { State::ChunkData(left - taken) };
                }
                State::ChunkEnd { cr } => {
                    let Some((byte, rest)) = bytes.split_first() else { return Ok(()) };
                    self.state = match (cr, byte) {
                        (false, b'\r') => State::ChunkEnd { cr: true },
                        (true, b'\n') => State::ChunkSize,
                        _ => return Err(Refusal::ChunkEnd),
                    };
                    bytes = rest;
                }
                State::Start { .. } if self.leaving.is_some_and(|head| self.answered < head) => {
                    return Err(Refusal::EarlyBytes);
                }
                State::Start { .. } | State::Fields | State::ChunkSize | State::Trailers => {
                    bytes = self.lines(bytes)?;
                }
            }
        }
        Ok(())
    }

    /// Takes one line, or what there is of it, and returns the rest.
    fn lines<'a>(&mut self, bytes: &'a [u8]) -> Result<&'a [u8], Refusal> {
        let Some(end) = bytes.iter().position(|byte| *byte == b'\n') else {
            self.within_limits(self.partial.len() + bytes.len())?;
            self.partial.extend_from_slice(bytes);
            return Ok(&[]);
        };
        let (piece, rest) = bytes.split_at(end + 1);
        self.within_limits(self.partial.len() + piece.len())?;
        if self.partial.is_empty() {
            self.line(piece)?;
        } else {
            let mut whole = std::mem::take(&mut self.partial);
            whole.extend_from_slice(piece);
            self.line(&whole)?;
            whole.clear();
            self.partial = whole;
        }
        Ok(rest)
    }

    fn within_limits(&self, line: usize) -> Result<(), Refusal> {
        let total = self.bytes + line;
        match self.state {
            State::Start { .. } if line > LINE_BYTES_MAX => Err(Refusal::LineTooLong),
            State::Start { .. } | State::Fields if total > HEAD_BYTES_MAX => Err(Refusal::HeadTooLarge),
            State::ChunkSize if total > EXTENSION_BYTES_MAX => Err(Refusal::ChunkExtensions),
            State::Trailers if total > TRAILER_BYTES_MAX => Err(Refusal::TrailersTooLarge),
            _ => Ok(()),
        }
    }

    /// Judges one line, which ends in LF.
    fn line(&mut self, line: &[u8]) -> Result<(), Refusal> {
        let length = line.len();
        let line = line.strip_suffix(b"\r\n").ok_or(Refusal::BareLf)?;
        if line.contains(&b'\r') {
            return Err(Refusal::BareCr);
        }
        match self.state {
            State::Start { skipped: false } if line.is_empty() => {
                self.state = State::Start { skipped: true };
            }
            State::Start { .. } => {
                self.head.restart();
                self.bytes = length;
                self.head.request_line(line)?;
                self.state = State::Fields;
            }
            State::Fields if line.is_empty() => {
                self.bytes = 0;
                self.state = self.after_head()?;
            }
            State::Fields => {
                self.bytes += length;
                self.head.field(line)?;
            }
            State::ChunkSize => {
                let size = self.chunk_size(line)?;
                if size == 0 {
                    (self.bytes, self.head.fields) = (0, 0);
                    self.state = State::Trailers;
                } else {
                    self.state = State::ChunkData(size);
                }
            }
            State::Trailers if line.is_empty() => {
                self.bytes = 0;
                self.state = State::Start { skipped: false };
            }
            State::Trailers => {
                self.bytes += length;
                self.head.trailer(line)?;
            }
            State::Body(_) | State::ChunkData(_) | State::ChunkEnd { .. } | State::Opaque => {}
        }
        Ok(())
    }

    /// What follows a head that has ended.
    fn after_head(&mut self) -> Result<State, Refusal> {
        self.heads += 1;
        let length = self.head.length()?;
        self.head.check_host()?;
        self.leaving = self.head.may_leave().then_some(self.heads);
        if self.leaving.is_some() && self.answered + 1 < self.heads {
            return Err(Refusal::PipelinedUpgrade);
        }
        Ok(match length {
            head::Length::Chunked => State::ChunkSize,
            head::Length::Known(0) | head::Length::Unknown => State::Start { skipped: false },
            head::Length::Known(length) => State::Body(length),
        })
    }

    fn chunk_size(&mut self, line: &[u8]) -> Result<u64, Refusal> {
        let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
        let (size, extension) = line.split_at(digits);
        if !(1..=15).contains(&digits) || !(extension.is_empty() || extension.starts_with(b";")) {
            return Err(Refusal::ChunkSize);
        }
        if !plain(extension) {
            return Err(Refusal::ControlCharacter);
        }
        self.bytes += extension.len();
        let digit = |byte: &u8| u64::from(char::from(*byte).to_digit(16).unwrap_or(0));
        Ok(size.iter().fold(0, |size, byte| size << 4 | digit(byte)))
    }
}

/// Drops up to `left` bytes from the front, and says how many.
fn skip(bytes: &mut &[u8], left: u64) -> u64 {
    let taken = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
    *bytes = bytes.get(taken..).unwrap_or_default();
    taken as u64
}

#[cfg(test)]
mod io_tests;
#[cfg(test)]
mod tests;
