//! Stage 8 of 8: forward. In: two connections and a [`Permit`]. Out: bytes, each way, until both ways ended. A way that
//! ends is shut down on the other side, and the opposite way goes on (half-close). What broke on one side breaks on the
//! other: an end that looks whole would make what came before it look whole.

mod unread;
mod way;

use crate::{
    io::{Abort, pace},
    limits,
    policy::Permit,
    telemetry::{Reason, Record},
    tls,
    traffic::Pacer,
};
use std::{future::poll_fn, io, pin::Pin, task::Poll};
use tokio::io::{AsyncRead, AsyncWrite};
use unread::Look;
use way::{Turn, Way};

/// A connection of a relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Downstream,
    Upstream,
}

impl Side {
    const fn other(self) -> Self {
        match self {
            Self::Downstream => Self::Upstream,
            Self::Upstream => Self::Downstream,
        }
    }

    const fn as_str(self) -> &'static str {
        match self {
            Self::Downstream => "downstream",
            Self::Upstream => "upstream",
        }
    }
}

/// Why a relay failed: its first connection to break, and how that did.
#[derive(Debug, thiserror::Error)]
#[error("the {} connection broke: {error}", .side.as_str())]
pub(crate) struct Broken {
    side: Side,
    error: io::Error,
}

impl Broken {
    /// The reason that the metrics record.
    pub(crate) fn reason(&self) -> Reason {
        match self.side {
            _ if self.error.kind() == io::ErrorKind::OutOfMemory => Reason::Overloaded,
            _ if tls::is_untrusted(&self.error) => Reason::PolicyChanged,
            Side::Downstream => Reason::DownstreamReset,
            Side::Upstream => Reason::UpstreamReset,
        }
    }
}

/// [`paced`], as fast as it goes.
pub(crate) fn bytes<A, B>(
    permit: Permit,
    down: &mut A,
    up: &mut B,
    record: &Record,
) -> impl Future<Output = Result<(), Broken>>
where
    A: AsyncRead + AsyncWrite + Abort + Unpin,
    B: AsyncRead + AsyncWrite + Abort + Unpin,
{
    paced(permit, down, up, record, None)
}

/// Relays until both ways ended, or a certificate that one of the connections was made with did. Bytes are counted as
/// they flow. Memory: a way holds a buffer only while what it read cannot be written. Backpressure: it reads on only when
/// that is written out; meanwhile, and once a side has ended its way, the kernel is asked whether that side has reset its connection, which
/// nothing else would tell; and what both have ended, and one takes no more, is given up in time. Fairness: one poll reads at most its [`Part`](pace::Part) of a turn, of either way first in turns; the
/// worker looks for other connections' bytes before the next. Rates: reading pauses as long as `pacer` has no room.
///
/// # Errors
///
/// What the first connection to break says, and `OutOfMemory` where the peer's share of the account has no room for one more relay.
pub(crate) async fn paced<A, B>(
    _permit: Permit,
    down: &mut A,
    up: &mut B,
    record: &Record,
    mut pacer: Option<Pacer>,
) -> Result<(), Broken>
where
    A: AsyncRead + AsyncWrite + Abort + Unpin,
    B: AsyncRead + AsyncWrite + Abort + Unpin,
{
    let holder = down.holder().or_else(|| up.holder()).cloned();
    let charge = holder.as_ref().map(|holder| holder.charge(limits::RELAY_BYTES));
    if matches!(charge, Some(None)) {
        down.abort();
        up.abort();
        return Err(Broken { side: Side::Downstream, error: io::ErrorKind::OutOfMemory.into() });
    }
    let (mut sending, mut receiving, mut sends_first) = (Way::default(), Way::default(), false);
    let (mut part, mut look, mut lost) = (pace::Part::default(), Look::default(), false);
    let relayed = poll_fn(|cx| {
        let (whole, room) = (part.turn(), pacer.as_mut().map_or(usize::MAX, Pacer::room));
        let (mut turn, mut ended) = (Turn::new(whole.min(room)), 0);
        sends_first = !sends_first;
        for sends in [sends_first, !sends_first] {
            let (down, up) = (Pin::new(&mut *down), Pin::new(&mut *up));
            let way = match sends {
                true => sending
                    .poll(cx, down, up, (&mut turn, holder.as_ref()), |count| record.bytes_in(count))
                    .map_err(|fault| fault.of(Side::Downstream, Side::Upstream))?,
                false => receiving
                    .poll(cx, up, down, (&mut turn, holder.as_ref()), |count| record.bytes_out(count))
                    .map_err(|fault| fault.of(Side::Upstream, Side::Downstream))?,
            };
            ended += u8::from(way.is_ready());
        }
        if ended == 2 {
            return Poll::Ready(Ok(()));
        }
        let unread = [(!sending.reads()).then(|| down.asked()), (!receiving.reads()).then(|| up.asked())];
        let relayed = sending.written() + receiving.written();
        if let Poll::Ready(side) = look.poll(cx, unread.map(Option::flatten), relayed) {
            lost = true;
            return Poll::Ready(Err(Broken { side, error: io::ErrorKind::ConnectionReset.into() }));
        }
        if let Some(pacer) = pacer.as_mut().filter(|pacer| !pacer.is_idle()) {
            pacer.spent(whole.min(room) - turn.bytes_left);
        }
        part.used(turn.bytes_left == 0 && whole <= room);
        if turn.bytes_left > 0 {
            return Poll::Pending;
        }
        // What was written goes out, however long the pause is.
        sending.flush(cx, Pin::new(&mut *up)).map_err(|fault| fault.of(Side::Downstream, Side::Upstream))?;
        receiving.flush(cx, Pin::new(&mut *down)).map_err(|fault| fault.of(Side::Upstream, Side::Downstream))?;
        let waits = whole > room && pacer.as_mut().is_some_and(|pacer| pacer.poll_room(cx).is_pending());
        if !waits {
            pace::after_others(cx);
        }
        Poll::Pending
    });
    let Err(broken) = relayed.await else { return Ok(()) };
    down.abort();
    up.abort();
    // Where nobody takes what is on its way, nothing behind it is seen; and a side that has had its end in order expects nothing more.
    if lost || receiving.is_closed() {
        down.cut();
    }
    if lost || sending.is_closed() {
        up.cut();
    }
    if tls::is_over(&broken.error) { Ok(()) } else { Err(broken) }
}

#[cfg(test)]
mod tests;
