//! HTTP/2 frames as an attacker writes them (RFC 9113 §4, RFC 7541 without Huffman codes).

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The beginning of a connection whose streams may each be sent so many bytes.
pub(super) fn opening(window: u32) -> Vec<u8> {
    let [a, b, c, d] = window.to_be_bytes();
    let mut opening = PREFACE.to_vec();
    opening.extend(frame(4, 0, 0, &[0, 4, a, b, c, d]));
    opening
}

/// A whole GET, with `fill` bytes in a header.
pub(super) fn get(stream: u32, authority: &str, path: &str, fill: usize) -> Vec<u8> {
    let mut block = vec![0x82, 0x86];
    for (index, value) in [(1, authority), (4, path)] {
        block.push(index);
        text(&mut block, value.as_bytes());
    }
    if fill > 0 {
        block.push(0);
        text(&mut block, b"x-fill");
        text(&mut block, &vec![b'f'; fill]);
    }
    let mut pieces = block.chunks(16 * 1024).peekable();
    let (mut frames, mut kind, mut flags) = (Vec::new(), 1, 1);
    while let Some(piece) = pieces.next() {
        let last = if pieces.peek().is_none() { 4 } else { 0 };
        frames.extend(frame(kind, flags | last, stream, piece));
        (kind, flags) = (9, 0);
    }
    frames
}

/// RST_STREAM with CANCEL.
pub(super) fn reset(stream: u32) -> Vec<u8> {
    frame(3, 0, stream, &[0, 0, 0, 8])
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let [_, a, b, c] = u32::try_from(payload.len()).unwrap_or_default().to_be_bytes();
    let mut frame = vec![a, b, c, kind, flags];
    frame.extend(stream.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

/// A literal: its length in seven bits and as many more as it takes.
fn text(block: &mut Vec<u8>, bytes: &[u8]) {
    let Some(mut rest) = bytes.len().checked_sub(127) else {
        block.push(u8::try_from(bytes.len()).unwrap_or_default());
        return block.extend_from_slice(bytes);
    };
    block.push(127);
    while rest >= 128 {
        block.push(u8::try_from(rest % 128).unwrap_or_default() | 128);
        rest /= 128;
    }
    block.push(u8::try_from(rest).unwrap_or_default());
    block.extend_from_slice(bytes);
}
