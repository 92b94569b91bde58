//! Stage 8 of 8: forward. In: two connections and a [`Permit`]. Out: bytes, each way, until both ways ended. A way that
//! ends is shut down on the other side, and the opposite way goes on (half-close). What broke on one side breaks on the
//! other: an end that looks whole would make what came before it look whole.

mod way;

use crate::{io::Abort, policy::Permit, telemetry::RouteStats, tls};
use std::{future::poll_fn, io, pin::Pin, task::Poll};
use tokio::io::{AsyncRead, AsyncWrite};
use way::Way;

/// Relays until both ways ended, or a certificate that one of the connections was made with did. Bytes are counted as
/// they flow. Memory: a way holds a buffer only while what it read cannot be written. Backpressure: it reads on only when
/// that is written out.
pub async fn bytes<A, B>(_permit: Permit, down: &mut A, up: &mut B, stats: &RouteStats) -> io::Result<()>
where
    A: AsyncRead + AsyncWrite + Abort + Unpin,
    B: AsyncRead + AsyncWrite + Abort + Unpin,
{
    let (mut sending, mut receiving) = (Way::default(), Way::default());
    let relayed = poll_fn(|cx| {
        let sent = sending.poll(cx, Pin::new(&mut *down), Pin::new(&mut *up), |count| stats.bytes_in(count))?;
        let received = receiving.poll(cx, Pin::new(&mut *up), Pin::new(&mut *down), |count| stats.bytes_out(count))?;
        if sent.is_ready() && received.is_ready() { Poll::Ready(Ok(())) } else { Poll::Pending }
    });
    let Err(error) = relayed.await else { return Ok(()) };
    down.abort();
    up.abort();
    if tls::is_over(&error) { Ok(()) } else { Err(error) }
}

#[cfg(test)]
mod tests;
