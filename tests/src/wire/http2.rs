//! HTTP/2 by hand: frames and header blocks as they are written, right or wrong, and what comes back.

use super::{Ending, Heard, Line};

/// What a client says first.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Frame types (RFC 9113 §6).
pub mod kind {
    #![allow(missing_docs, reason = "the names are the RFC's")]
    pub const DATA: u8 = 0;
    pub const HEADERS: u8 = 1;
    pub const PRIORITY: u8 = 2;
    pub const RST_STREAM: u8 = 3;
    pub const SETTINGS: u8 = 4;
    pub const PUSH_PROMISE: u8 = 5;
    pub const PING: u8 = 6;
    pub const GOAWAY: u8 = 7;
    pub const WINDOW_UPDATE: u8 = 8;
    pub const CONTINUATION: u8 = 9;
}

/// Flags. `ACK` is `END_STREAM` on other frames.
pub const END_STREAM: u8 = 1;
/// See [`END_STREAM`].
pub const ACK: u8 = 1;
/// The header block is whole.
pub const END_HEADERS: u8 = 4;

/// A frame's bytes; the length is the payload's.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend_from_slice(&stream.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

/// A header block of literal fields that no table keeps. Nothing is checked.
pub fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            // Latin 1, so that a test can name any byte.
            let bytes: Vec<u8> = text.chars().map(|c| c as u8).collect();
            integer(&mut block, 7, bytes.len());
            block.extend_from_slice(&bytes);
        }
    }
    block
}

/// An integer with a prefix of `bits` (RFC 7541 §5.1).
fn integer(block: &mut Vec<u8>, bits: u32, mut value: usize) {
    let max = (1_usize << bits) - 1;
    if value < max {
        block.push(value as u8);
        return;
    }
    block.push(max as u8);
    value -= max;
    while value >= 128 {
        block.push(value as u8 | 128);
        value >>= 7;
    }
    block.push(value as u8);
}

/// The header block of a whole request's head on one stream, cut into frames of at most 16 KiB.
pub fn headers(stream: u32, flags: u8, block: &[u8]) -> Vec<u8> {
    let mut pieces = block.chunks(16_384).peekable();
    let mut frames = Vec::new();
    let mut first = true;
    while let Some(piece) = pieces.next() {
        let end = if pieces.peek().is_none() { END_HEADERS } else { 0 };
        let (kind, flags) = if first { (kind::HEADERS, flags | end) } else { (kind::CONTINUATION, end) };
        frames.extend(frame(kind, flags, stream, piece));
        first = false;
    }
    frames
}

/// The preface, and settings that keep the other side's header blocks simple.
pub fn hello() -> Vec<u8> {
    [PREFACE, &settings(&[(1, 0)])].concat()
}

/// A SETTINGS frame.
pub fn settings(values: &[(u16, u32)]) -> Vec<u8> {
    let payload: Vec<u8> =
        values.iter().flat_map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat()).collect();
    frame(kind::SETTINGS, 0, 0, &payload)
}

/// A frame that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// See [`kind`].
    pub kind: u8,
    /// See [`END_STREAM`].
    pub flags: u8,
    /// Its stream.
    pub stream: u32,
    /// What it holds.
    pub payload: Vec<u8>,
}

/// The whole frames at the beginning of `bytes`, and how many bytes they are.
pub fn frames(bytes: &[u8]) -> (Vec<Frame>, usize) {
    let (mut all, mut at) = (Vec::new(), 0);
    while let Some(&[high, middle, low, kind, flags, a, b, c, d]) = bytes.get(at..at + 9) {
        let length = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
        let Some(payload) = bytes.get(at + 9..at + 9 + length) else { break };
        all.push(Frame { kind, flags, stream: u32::from_be_bytes([a, b, c, d]), payload: payload.to_owned() });
        at += 9 + length;
    }
    (all, at)
}

/// What became of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// An answer with this status, whole.
    Answered(u16),
    /// The stream was reset with this code, whatever came before.
    Reset(u32),
    /// The connection ends, with this code if a GOAWAY said one.
    Ended(Option<u32>),
    /// None of these in time.
    Silent,
}

/// Reads until it is known what became of `stream`.
pub fn outcome(line: &mut Line, stream: u32) -> Outcome {
    let heard = line.hear(|bytes| !matches!(outcome_of(&frames(bytes).0, stream), Outcome::Silent));
    judge(&heard, stream)
}

/// What the bytes that were heard say of `stream`.
pub fn judge(heard: &Heard, stream: u32) -> Outcome {
    match outcome_of(&frames(&heard.bytes).0, stream) {
        Outcome::Silent if matches!(heard.ending, Ending::Closed | Ending::Reset) => Outcome::Ended(None),
        outcome => outcome,
    }
}

fn outcome_of(frames: &[Frame], stream: u32) -> Outcome {
    let (mut status, mut code) = (0, None);
    for frame in frames {
        match frame.kind {
            kind::HEADERS if frame.stream == stream && status < 200 => status = self::status(&frame.payload),
            kind::RST_STREAM if frame.stream == stream => return Outcome::Reset(number(&frame.payload, 0)),
            kind::GOAWAY => code = Some(number(&frame.payload, 4)),
            _ => {}
        }
        let ends = matches!(frame.kind, kind::HEADERS | kind::DATA) && frame.flags & END_STREAM != 0;
        if ends && frame.stream == stream {
            return Outcome::Answered(status);
        }
    }
    code.map_or(Outcome::Silent, |code| Outcome::Ended(Some(code)))
}

fn number(payload: &[u8], at: usize) -> u32 {
    payload.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_be_bytes)
}

/// The status that a header block begins with; 0 if it is written in a way that our settings do not allow.
fn status(block: &[u8]) -> u16 {
    match block {
        [0x20..=0x3f, rest @ ..] => status(rest), // the size of the table
        [0x88, ..] => 200,
        [0x89, ..] => 204,
        [0x8a, ..] => 206,
        [0x8b, ..] => 304,
        [0x8c, ..] => 400,
        [0x8d, ..] => 404,
        [0x8e, ..] => 500,
        // A literal whose name is one of those entries'.
        [0x48..=0x4e | 0x08..=0x0e, length, rest @ ..] => {
            let text = rest.get(..usize::from(length & 0x7f)).unwrap_or_default();
            if length & 0x80 == 0 { digits(text) } else { huffman_digits(text) }
        }
        _ => 0,
    }
}

fn digits(text: &[u8]) -> u16 {
    std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// 0 to 2 have codes of five bits, 0b00000 to 0b00010; 3 to 9 of six, 0b011001 to 0b011111 (RFC 7541, appendix B).
fn huffman_digits(text: &[u8]) -> u16 {
    let bits = text.iter().fold(0_u64, |bits, byte| bits << 8 | u64::from(*byte)) << (64 - 8 * text.len().min(7));
    let (mut at, mut value) = (0, 0);
    for _ in 0..3 {
        let six = (bits << at >> 58) as u16;
        match six {
            0..=5 => (value, at) = (value * 10 + (six >> 1), at + 5),
            0b011001..=0b011111 => (value, at) = (value * 10 + 3 + six - 0b011001, at + 6),
            _ => return 0,
        }
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_read_however_it_is_written() {
        assert_eq!(status(&[0x20, 0x88]), 200);
        assert_eq!(status(&[0x08, 3, b'5', b'0', b'2']), 502);
        // The example of RFC 7541 §C.6.1: 302.
        assert_eq!(status(&[0x48, 0x82, 0x64, 0x02]), 302);
        // §C.6.2: 307.
        assert_eq!(status(&[0x48, 0x83, 0x64, 0x0e, 0xff]), 307);
    }

    #[test]
    fn frames_are_read_as_they_are_written() {
        let long = vec![b'x'; 300];
        let written = [frame(kind::PING, ACK, 0, &[1; 8]), headers(1, END_STREAM, &block(&[("a", "b")]))].concat();
        let (read, length) = frames(&[written.as_slice(), &frame(kind::DATA, 0, 1, &long)[..100]].concat());
        assert_eq!((read.len(), length), (2, written.len()));
        assert_eq!((read[1].stream, read[1].flags), (1, END_STREAM | END_HEADERS));
        assert_eq!(block(&[("", &"x".repeat(200))])[..4], [0, 0, 0x7f, 73]);
    }
}
