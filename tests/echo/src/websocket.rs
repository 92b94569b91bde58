//! WebSocket (RFC 6455), as much as an echo needs: the handshake, unfragmented messages up to a bound, ping and close.

use crate::drain::drained;
use anyhow::{Context as _, bail, ensure};
use aws_lc_rs::digest;
use bytes::Bytes;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    sync::watch,
};

/// RFC 6455 §1.3.
const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// Longer messages end the connection.
const MESSAGE_BYTES_MAX: u64 = 1 << 20;

/// RFC 6455 §7.4.1.
const GOING_AWAY: u16 = 1001;

const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

/// The answer to a handshake's key (RFC 6455 §4.2.2).
pub(crate) fn accept(key: &str) -> String {
    let mut context = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
    context.update(key.as_bytes());
    context.update(GUID.as_bytes());
    base64(context.finish().as_ref())
}

pub(crate) fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let group = chunk.iter().fold(0_u32, |group, &byte| group << 8 | u32::from(byte)) << (8 * (3 - chunk.len()));
        for digit in 0..4 {
            let value = (group >> (18 - 6 * digit)) & 63;
            text.push(if digit > chunk.len() { '=' } else { char::from(DIGITS[value as usize]) });
        }
    }
    text
}

/// Sends every message back until the peer closes, or says goodbye when asked to.
pub(crate) async fn echo<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    mut draining: watch::Receiver<bool>,
) -> anyhow::Result<()> {
    loop {
        let message = tokio::select! {
            message = read(&mut stream) => message?,
            () = drained(&mut draining) => {
                return write(&mut stream, CLOSE, &GOING_AWAY.to_be_bytes(), None).await;
            }
        };
        let Some((opcode, payload)) = message else { break };
        match opcode {
            TEXT | BINARY => write(&mut stream, opcode, &payload, None).await?,
            PING => write(&mut stream, PONG, &payload, None).await?,
            CLOSE => {
                write(&mut stream, CLOSE, &payload, None).await?;
                break;
            }
            PONG => {}
            other => bail!("opcode {other} is not understood"),
        }
    }
    Ok(())
}

/// The client's side: sends a text and returns the next one.
pub(crate) async fn ask<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, text: &str) -> anyhow::Result<Bytes> {
    write(stream, TEXT, text.as_bytes(), Some(*b"mask")).await?;
    loop {
        match read(stream).await?.context("the server closed")? {
            (TEXT | BINARY, payload) => return Ok(payload),
            (CLOSE, _) => bail!("the server closed"),
            _ => {}
        }
    }
}

async fn read<S: AsyncRead + Unpin>(stream: &mut S) -> anyhow::Result<Option<(u8, Bytes)>> {
    let mut head = [0; 2];
    match stream.read_exact(&mut head).await {
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
        read => drop(read?),
    }
    ensure!(head[0] & 0x80 != 0, "fragmented messages are not understood");
    let length = match head[1] & 0x7f {
        126 => u64::from(stream.read_u16().await?),
        127 => stream.read_u64().await?,
        short => u64::from(short),
    };
    ensure!(length <= MESSAGE_BYTES_MAX, "a message of {length} bytes is too long");
    let mut mask = [0; 4];
    if head[1] & 0x80 != 0 {
        stream.read_exact(&mut mask).await?;
    }
    let mut payload = vec![0; usize::try_from(length)?];
    stream.read_exact(&mut payload).await?;
    payload.iter_mut().zip(mask.iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
    Ok(Some((head[0] & 0x0f, payload.into())))
}

async fn write<S: AsyncWrite + Unpin>(
    stream: &mut S,
    opcode: u8,
    payload: &[u8],
    mask: Option<[u8; 4]>,
) -> anyhow::Result<()> {
    let masked = if mask.is_some() { 0x80 } else { 0 };
    let mut frame = vec![0x80 | opcode];
    match payload.len() {
        length @ 0..126 => frame.push(masked | length as u8),
        length @ 126..0x1_0000 => {
            frame.push(masked | 126);
            frame.extend((length as u16).to_be_bytes());
        }
        length => {
            frame.push(masked | 127);
            frame.extend((length as u64).to_be_bytes());
        }
    }
    let mask = mask.inspect(|mask| frame.extend(mask)).unwrap_or_default();
    frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    stream.write_all(&frame).await?;
    Ok(stream.flush().await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_the_rfc_is_accepted() {
        assert_eq!(accept("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn base64_is_padded() {
        assert_eq!(["", "f", "fo", "foo"].map(|text| base64(text.as_bytes())), ["", "Zg==", "Zm8=", "Zm9v"]);
    }

    #[tokio::test]
    async fn messages_of_every_length_come_back() -> anyhow::Result<()> {
        let (mut client, server) = tokio::io::duplex(1 << 21);
        let (_drain, draining) = watch::channel(false);
        let serving = tokio::spawn(echo(server, draining));
        for length in [0, 1, 125, 126, 65_535, 65_536] {
            let text = "x".repeat(length);
            assert_eq!(ask(&mut client, &text).await?, text.as_bytes());
        }
        drop(client);
        serving.await?
    }
}
