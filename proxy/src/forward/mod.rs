//! Stage 8 of 8: forward. In: two connections and a [`Permit`]. Out: bytes, each way, until both ways ended. A way that
//! ends is shut down on the other side, and the opposite way goes on (half-close). What broke on one side breaks on the
//! other: an end that looks whole would make what came before it look whole.

use crate::{io::Abort, limits, policy::Permit, telemetry::RouteStats, tls};
use std::io;
use tokio::io::{AsyncRead, AsyncWrite, copy_bidirectional_with_sizes};

/// Relays until both ways ended, or a certificate that one of the connections was made with did. Memory: two buffers of
/// [`limits::RELAY_BYTES`]. Backpressure: a way reads only when its buffer is written out.
pub async fn bytes<A, B>(_permit: Permit, down: &mut A, up: &mut B, stats: &RouteStats) -> io::Result<()>
where
    A: AsyncRead + AsyncWrite + Abort + Unpin,
    B: AsyncRead + AsyncWrite + Abort + Unpin,
{
    match copy_bidirectional_with_sizes(down, up, limits::RELAY_BYTES, limits::RELAY_BYTES).await {
        Ok((sent, received)) => {
            stats.bytes_in(sent);
            stats.bytes_out(received);
            Ok(())
        }
        Err(error) => {
            down.abort();
            up.abort();
            if tls::is_over(&error) { Ok(()) } else { Err(error) }
        }
    }
}

#[cfg(test)]
mod tests;
