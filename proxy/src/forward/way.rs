//! One way of a relay: read as much as there is, write it, and so on until the end, which is passed on as well.
//!
//! In: a reader and a writer. Out: counted bytes. A few large reads and writes cost far less than many small ones, since
//! each wakes up the process at the other end; so a way that finds its buffer full takes a larger one the next time, if the
//! account has room for it.
//! The buffers are [lent](Lent): an idle connection holds none. Bound: what one poll may read is the caller's [`Turn`].

use super::{Broken, Side};
use crate::{
    account::Holder,
    io::{Abort, Appetite, Lent, Size},
};
use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What both ways of a relay may still read in this poll, so that a stream that always has bytes shares the worker.
pub(super) struct Turn {
    pub(super) bytes_left: usize,
}

impl Turn {
    /// One of so many bytes.
    pub(super) const fn new(bytes_left: usize) -> Self {
        Self { bytes_left }
    }
}

/// Which end of a way broke, and how.
#[derive(Debug)]
pub(super) enum Fault {
    Reader(io::Error),
    Writer(io::Error),
}

impl Fault {
    /// The same of a relay, in which these are the reader's side and the writer's.
    pub(super) fn of(self, reader: Side, writer: Side) -> Broken {
        match self {
            Self::Reader(error) => Broken { side: reader, error },
            Self::Writer(error) => Broken { side: writer, error },
        }
    }
}

/// What was read and not yet written.
struct Held {
    buffer: Lent,
    from: usize,
    to: usize,
}

/// The state of one way.
pub(super) struct Way {
    held: Option<Held>,
    /// How much to read at once, and to have waiting as ciphertext.
    appetite: Appetite,
    /// Bytes read since it rested last.
    moved: usize,
    /// Bytes written.
    written: u64,
    /// What the reader came to, once it came to an end.
    end: Option<io::Result<()>>,
    /// Whether something was written that the writer may still keep to itself.
    unflushed: bool,
    closed: bool,
}

impl Default for Way {
    fn default() -> Self {
        Self {
            held: None,
            appetite: Appetite::new(2),
            moved: 0,
            written: 0,
            end: None,
            unflushed: false,
            closed: false,
        }
    }
}

impl Way {
    /// Whether the writer was told the end in order.
    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }

    /// How many bytes the writer took.
    pub(super) fn written(&self) -> u64 {
        self.written
    }

    /// Whether the reader is asked for more, so that it tells how it ends.
    pub(super) fn reads(&self) -> bool {
        self.held.is_none() && self.end.is_none() && !self.closed
    }

    /// Relays what can be relayed in this `turn`. Ready once the end was passed on; an error of either side ends the way at
    /// once, after what was read before it is written. Pending with nothing left of the turn: the caller must wake the task.
    pub(super) fn poll<R: AsyncRead, W: AsyncWrite + Abort + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        mut reader: Pin<&mut R>,
        mut writer: Pin<&mut W>,
        (turn, holder): (&mut Turn, Option<&Holder>),
        count: impl Fn(u64),
    ) -> Poll<Result<(), Fault>> {
        while !self.closed {
            if self.held.is_none() && self.end.is_none() {
                if turn.bytes_left == 0 {
                    return Poll::Pending;
                }
                let size = self.appetite.size(holder);
                if size > Size::Min {
                    writer.queue_at_most(size.bytes());
                }
                let waits = self.read(cx, reader.as_mut(), size, turn);
                if waits && self.held.is_none() {
                    if self.unflushed {
                        ready!(writer.as_mut().poll_flush(cx)).map_err(Fault::Writer)?;
                        self.unflushed = false;
                    }
                    // Nothing is held any more, here or by the writer.
                    self.appetite.rest(std::mem::take(&mut self.moved));
                    writer.queue_at_most(Size::Min.bytes());
                    return Poll::Pending;
                }
            }
            while let Some(held) = &mut self.held {
                match ready!(writer.as_mut().poll_write(cx, &held.buffer[held.from..held.to])).map_err(Fault::Writer)? {
                    0 => return Poll::Ready(Err(Fault::Writer(io::ErrorKind::WriteZero.into()))),
                    written => {
                        count(written as u64);
                        self.written += written as u64;
                        self.unflushed = true;
                        held.from += written;
                        if held.from == held.to {
                            self.held = None;
                        }
                    }
                }
            }
            match self.end.take() {
                None => {}
                Some(Err(error)) => return Poll::Ready(Err(Fault::Reader(error))),
                Some(Ok(())) => {
                    self.end = Some(Ok(())); // the shutdown may have to wait
                    ready!(writer.as_mut().poll_shutdown(cx)).map_err(Fault::Writer)?;
                    self.closed = true;
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Has the writer keep nothing to itself while this way pauses.
    pub(super) fn flush<W: AsyncWrite>(&mut self, cx: &mut Context<'_>, writer: Pin<&mut W>) -> Result<(), Fault> {
        if self.unflushed
            && self.held.is_none()
            && let Poll::Ready(flushed) = writer.poll_flush(cx)
        {
            self.unflushed = false;
            flushed.map_err(Fault::Writer)?;
        }
        Ok(())
    }

    /// Fills a buffer with what there is. `true`: the reader has no more for now, and wakes us up.
    fn read<R: AsyncRead>(
        &mut self,
        cx: &mut Context<'_>,
        mut reader: Pin<&mut R>,
        size: Size,
        turn: &mut Turn,
    ) -> bool {
        let mut buffer = Lent::take(size);
        let wanted = buffer.len().min(turn.bytes_left);
        let mut filled = ReadBuf::new(&mut buffer[..wanted]);
        let waits = loop {
            let before = filled.filled().len();
            match reader.as_mut().poll_read(cx, &mut filled) {
                Poll::Pending => break true,
                Poll::Ready(Err(error)) => {
                    self.end = Some(Err(error));
                    break false;
                }
                Poll::Ready(Ok(())) if filled.filled().len() == before => {
                    self.end = Some(Ok(()));
                    break false;
                }
                Poll::Ready(Ok(())) if filled.remaining() == 0 => {
                    break false;
                }
                Poll::Ready(Ok(())) => {}
            }
        };
        let to = filled.filled().len();
        turn.bytes_left -= to;
        self.moved += to;
        if to == buffer.len() {
            self.appetite.grow();
        }
        if to > 0 {
            self.held = Some(Held { buffer, from: 0, to });
        }
        waits
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;

    /// Gives these, one at each read, and then nothing for now; an empty one is its end.
    struct Says(VecDeque<io::Result<&'static str>>);

    impl AsyncRead for Says {
        fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            let Some(next) = self.0.pop_front() else { return Poll::Pending };
            buf.put_slice(next?.as_bytes());
            Poll::Ready(Ok(()))
        }
    }

    /// Takes so many bytes; `None`: as if it had taken none of them.
    #[derive(Default)]
    struct Takes {
        room: Option<usize>,
        taken: Vec<u8>,
        flushed: usize,
        ended: bool,
    }

    impl AsyncWrite for Takes {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            let Some(room) = self.room else { return Poll::Ready(Ok(0)) };
            let count = room.min(bytes.len());
            self.room = Some(room - count);
            self.taken.extend_from_slice(&bytes[..count]);
            if count > 0 { Poll::Ready(Ok(count)) } else { Poll::Pending }
        }

        fn poll_flush(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.flushed = self.taken.len();
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.ended = true;
            Poll::Ready(Ok(()))
        }
    }

    impl Abort for Takes {
        fn abort(&self) {}
    }

    /// One poll with a turn of so many bytes.
    fn poll(way: &mut Way, says: &mut Says, takes: &mut Takes, turn: usize) -> Poll<Result<(), (Side, io::ErrorKind)>> {
        let cx = &mut Context::from_waker(std::task::Waker::noop());
        let turn = (&mut Turn::new(turn), None);
        let polled = way.poll(cx, Pin::new(says), Pin::new(takes), turn, |_| {});
        polled.map_err(|fault| {
            let Broken { side, error } = fault.of(Side::Downstream, Side::Upstream);
            (side, error.kind())
        })
    }

    fn says<const N: usize>(words: [io::Result<&'static str>; N]) -> Says {
        Says(words.into())
    }

    #[test]
    fn what_came_before_an_end_or_an_error_is_passed_on_before_it() {
        let reset = || Err(io::ErrorKind::ConnectionReset.into());
        for (last, ends) in [(Ok(""), true), (reset(), false)] {
            let mut takes = Takes { room: Some(100), ..Takes::default() };
            let mut way = Way::default();
            let polled = poll(&mut way, &mut says([Ok("he"), Ok("llo"), last]), &mut takes, 100);
            let broken = Err((Side::Downstream, io::ErrorKind::ConnectionReset));
            assert_eq!(polled, Poll::Ready(if ends { Ok(()) } else { broken }));
            assert_eq!((&takes.taken[..], takes.ended, way.is_closed()), (&b"hello"[..], ends, ends));
            assert!(!ends || !way.reads(), "nothing comes behind an end");
        }
    }

    #[test]
    fn a_way_reads_while_it_can_write_and_keeps_nothing_to_itself() {
        let (mut way, mut said) = (Way::default(), says([Ok("hello")]));
        let mut takes = Takes { room: Some(2), ..Takes::default() };
        assert!(poll(&mut way, &mut said, &mut takes, 0).is_pending() && said.0.len() == 1, "it is not its turn");
        assert!(poll(&mut way, &mut said, &mut takes, 100).is_pending());
        assert_eq!((&takes.taken[..], way.reads()), (&b"he"[..], false));
        takes.room = Some(100);
        assert!(poll(&mut way, &mut said, &mut takes, 100).is_pending());
        assert_eq!((&takes.taken[..], takes.flushed, way.reads()), (&b"hello"[..], 5, true));
        said.0.push_back(Ok(""));
        assert_eq!(poll(&mut way, &mut said, &mut takes, 100), Poll::Ready(Ok(())));
    }

    #[test]
    fn a_writer_that_takes_nothing_is_no_writer() {
        let polled = poll(&mut Way::default(), &mut says([Ok("hello")]), &mut Takes::default(), 100);
        assert_eq!(polled, Poll::Ready(Err((Side::Upstream, io::ErrorKind::WriteZero))));
    }
}
