//! gRPC by hand: the one method of an echo service, whose messages have one text field each.
//!
//! `proto.EchoTestService/Echo`, `EchoRequest {message = 1}` and `EchoResponse {message = 1}` are the names under which
//! Istio's echo is known. The server answers every method so, but for [`HEALTH`].

use anyhow::{Context as _, ensure};
use bytes::{BufMut as _, Bytes, BytesMut};

/// What the client calls unless told otherwise.
pub(crate) const METHOD: &str = "/proto.EchoTestService/Echo";

/// What a probe calls (gRPC Health Checking Protocol).
pub(crate) const HEALTH: &str = "/grpc.health.v1.Health/Check";

/// Field 1, length-delimited.
const MESSAGE: u8 = 0x0a;

/// One message with its gRPC prefix.
pub(crate) fn encode(text: &str) -> Bytes {
    let mut message = BytesMut::new();
    message.put_u8(MESSAGE);
    let mut length = text.len();
    while length >= 0x80 {
        message.put_u8((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    message.put_u8(length as u8);
    message.put_slice(text.as_bytes());
    framed(&message)
}

/// `HealthCheckResponse {status = 1}`: SERVING or NOT_SERVING.
pub(crate) fn health(serving: bool) -> Bytes {
    framed(&[0x08, if serving { 1 } else { 2 }])
}

fn framed(message: &[u8]) -> Bytes {
    let mut framed = BytesMut::new();
    framed.put_u8(0); // not compressed
    framed.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    framed.put_slice(message);
    framed.freeze()
}

/// The text of the first message of a body; an empty message has an empty text.
pub(crate) fn decode(body: &[u8]) -> anyhow::Result<String> {
    let (prefix, message) = body.split_at_checked(5).context("no gRPC message")?;
    ensure!(prefix[0] == 0, "the message is compressed");
    let length = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]);
    let message = message.get(..length as usize).context("the message is cut short")?;
    let Some((&tag, mut rest)) = message.split_first() else { return Ok(String::new()) };
    ensure!(tag == MESSAGE, "not an echo message");
    let (mut length, mut shift) = (0_usize, 0);
    loop {
        let (&byte, after) = rest.split_first().context("the length is cut short")?;
        ensure!(shift < 35, "the length is too long");
        length |= usize::from(byte & 0x7f) << shift;
        (rest, shift) = (after, shift + 7);
        if byte & 0x80 == 0 {
            break;
        }
    }
    Ok(String::from_utf8_lossy(rest.get(..length).context("the text is cut short")?).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_encoded_is_decoded_at_every_length_of_a_length() {
        for length in [0, 1, 127, 128, 16_383, 16_384, 100_000] {
            let text = "x".repeat(length);
            assert_eq!(decode(&encode(&text)).ok(), Some(text));
        }
    }

    #[test]
    fn a_message_cut_anywhere_is_an_error_or_empty() {
        let whole = encode("hello");
        assert!((0..whole.len()).all(|cut| decode(&whole[..cut]).is_err()));
    }
}
