//! A TCP connection in memory. In: bytes at one end, and a [`Weather`] by which they travel. Out: the same bytes at the other end, in
//! other pieces and later, and how the connection ended there: orderly, by a reset, or not at all for a while.
//!
//! It does what Linux does where that matters to a proxy: what arrived before a reset can still be read; an end that is dropped
//! with unread bytes resets; what is written to an end that is gone is taken once, and answered with a reset.
//!
//! All that is drawn is drawn per write and not per byte, so that a seed takes the same course although a certificate or a date
//! is a byte longer in another run.

use std::{
    collections::VecDeque,
    io,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll, Waker, ready},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    task::coop,
    time::{Instant, Sleep, sleep_until},
};

/// How bytes travel.
#[derive(Debug, Clone, Copy)]
pub(super) struct Weather {
    /// Bytes that may be under way or unread in one direction.
    pub capacity: usize,
    /// The most that a write is late, but for the rare one that is later.
    pub late_ms: u64,
    /// Of how many writes one is late for a second.
    pub very_late: u64,
    /// After so many writes, of either side, nothing travels for so long.
    pub stall: Option<(u64, Duration)>,
    /// After so many writes, of either side, both ends see a reset.
    pub cut: Option<u64>,
}

impl Weather {
    /// Everything arrives at once.
    pub(super) const FINE: Self = Self { capacity: 64 << 10, late_ms: 0, very_late: u64::MAX, stall: None, cut: None };
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Fin,
    Reset,
}

/// One direction.
#[derive(Debug)]
struct Way {
    /// What was written and not read, with the time from which it can be read.
    flight: VecDeque<(Instant, Vec<u8>, usize)>,
    bytes: usize,
    /// How it ends for its reader, and when.
    end: Option<(Instant, End)>,
    /// Nothing overtakes.
    last: Instant,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl Way {
    fn new() -> Self {
        let (flight, now) = (VecDeque::new(), Instant::now());
        Self { flight, bytes: 0, end: None, last: now, reader: None, writer: None }
    }

    fn wake(&mut self) {
        self.reader.take().into_iter().chain(self.writer.take()).for_each(Waker::wake);
    }

    /// Ends it for its reader, unless it has ended.
    fn close(&mut self, at: Instant, end: End) {
        if self.end.is_none_or(|(_, known)| known == End::Fin && end == End::Reset) {
            self.last = self.last.max(at);
            self.end = Some((self.last, end));
        }
        self.wake();
    }

    /// Loses what has not arrived, and resets.
    fn reset(&mut self, now: Instant) {
        while self.flight.back().is_some_and(|(at, ..)| *at > now) {
            self.bytes -= self.flight.pop_back().map_or(0, |(_, piece, from)| piece.len() - from);
        }
        self.last = now;
        self.end = Some((now, End::Reset));
        self.wake();
    }

    /// When there is something for the reader.
    fn due(&self) -> Option<Instant> {
        self.flight.front().map(|(at, ..)| *at).or(self.end.map(|(at, _)| at))
    }

    fn has_reset(&self, now: Instant) -> bool {
        self.end.is_some_and(|(at, end)| end == End::Reset && at <= now)
    }
}

/// Both directions: what the end of that number writes.
#[derive(Debug)]
pub(super) struct Link {
    ways: [Way; 2],
    gone: [bool; 2],
    weather: Weather,
    writes: u64,
    /// Nothing arrives before.
    stalled: Option<Instant>,
    rng: fastrand::Rng,
}

impl Link {
    /// How late what is sent now is.
    fn arrival(&mut self, now: Instant) -> Instant {
        let draw = self.rng.u64(..);
        let late =
            if draw.is_multiple_of(self.weather.very_late) { 1000 } else { (draw >> 32) % (self.weather.late_ms + 1) };
        let at = now + Duration::from_millis(late);
        self.stalled.map_or(at, |until| at.max(until))
    }

    /// Whether anything, bytes or an end, can be read at this end.
    pub(super) fn has_news(&self, side: usize) -> bool {
        self.ways[1 - side].due().is_some_and(|at| at <= Instant::now())
    }

    /// Whether this end has been reset, also while what came before is unread.
    pub(super) fn was_reset(&self, side: usize) -> bool {
        self.ways[1 - side].has_reset(Instant::now())
    }

    /// Whether both sides have ended it, as far as this end knows.
    pub(super) fn is_over(&self, side: usize) -> bool {
        let arrived = self.ways[1 - side].end.is_some_and(|(at, _)| at <= Instant::now());
        arrived && self.ways[side].end.is_some()
    }

    /// In words, for whoever looks for why it is open.
    pub(super) fn state(&self) -> String {
        let now = Instant::now();
        let way = |side: usize| {
            let Way { bytes, end, reader, writer, .. } = &self.ways[side];
            let due = self.ways[side].due().is_some_and(|at| at <= now);
            format!(
                "end {side} {} and wrote {bytes} bytes that are unread (due: {due}), its end is {:?}, a reader waits: {}, a writer waits: {}",
                if self.gone[side] { "is gone" } else { "is there" },
                end.map(|(_, end)| end),
                reader.is_some(),
                writer.is_some(),
            )
        };
        format!("{}; {}", way(0), way(1))
    }

    /// What happens with a write beside its bytes.
    fn written(&mut self, now: Instant) {
        self.writes += 1;
        if let Some((after, duration)) = self.weather.stall
            && self.writes == after
        {
            self.stalled = Some(now + duration);
        }
        if self.weather.cut == Some(self.writes) {
            self.ways.iter_mut().for_each(|way| way.reset(now));
        }
    }
}

/// One end.
#[derive(Debug)]
pub(crate) struct Pipe {
    link: Arc<Mutex<Link>>,
    side: usize,
    timer: Option<Pin<Box<Sleep>>>,
    aborts: std::sync::atomic::AtomicBool,
    /// How many ends there are in the network.
    open: Arc<AtomicUsize>,
}

/// A connection: both ends.
pub(super) fn pair(weather: Weather, seed: u64, open: &Arc<AtomicUsize>) -> (Pipe, Pipe) {
    let ways = [Way::new(), Way::new()];
    let rng = fastrand::Rng::with_seed(seed);
    let link = Arc::new(Mutex::new(Link { ways, gone: [false; 2], weather, writes: 0, stalled: None, rng }));
    let end = |side| {
        open.fetch_add(1, Relaxed);
        Pipe { link: link.clone(), side, timer: None, aborts: false.into(), open: open.clone() }
    };
    (end(0), end(1))
}

impl Pipe {
    fn link(&self) -> MutexGuard<'_, Link> {
        self.link.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// To ask about it once it is hidden.
    pub(super) fn weak(&self) -> (std::sync::Weak<Mutex<Link>>, usize) {
        (Arc::downgrade(&self.link), self.side)
    }

    /// Dropped, it resets.
    pub(crate) fn abort(&self) {
        self.aborts.store(true, Relaxed);
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        let aborts = self.aborts.load(Relaxed);
        let side = self.side;
        let mut link = self.link();
        let now = Instant::now();
        link.gone[side] = true;
        let unread = !link.ways[1 - side].flight.is_empty();
        let at = link.arrival(now);
        if aborts {
            link.ways[side].reset(now);
        } else {
            link.ways[side].close(at, if unread { End::Reset } else { End::Fin });
        }
        link.ways[1 - side].flight.clear();
        link.ways[1 - side].bytes = 0;
        link.ways[1 - side].wake();
        drop(link);
        self.open.fetch_sub(1, Relaxed);
    }
}

impl AsyncRead for Pipe {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let progress = ready!(coop::poll_proceed(cx));
        let this = self.get_mut();
        let now = Instant::now();
        let mut link = this.link.lock().unwrap_or_else(PoisonError::into_inner);
        let way = &mut link.ways[1 - this.side];
        let before = buf.filled().len();
        while buf.remaining() > 0
            && let Some((at, piece, from)) = way.flight.front_mut()
            && *at <= now
        {
            let count = buf.remaining().min(piece.len() - *from);
            buf.put_slice(&piece[*from..*from + count]);
            *from += count;
            way.bytes -= count;
            if *from == piece.len() {
                way.flight.pop_front();
            }
        }
        if buf.filled().len() > before {
            way.writer.take().into_iter().for_each(Waker::wake);
            progress.made_progress();
            return Poll::Ready(Ok(()));
        }
        match (way.flight.is_empty(), way.end) {
            (true, Some((at, end))) if at <= now => {
                progress.made_progress();
                return Poll::Ready(if end == End::Fin { Ok(()) } else { Err(io::ErrorKind::ConnectionReset.into()) });
            }
            _ => {}
        }
        way.reader = Some(cx.waker().clone());
        let due = way.due();
        drop(link);
        if let Some(due) = due {
            let timer = this.timer.get_or_insert_with(|| Box::pin(sleep_until(due)));
            if timer.deadline() != due {
                timer.as_mut().reset(due);
            }
            if timer.as_mut().poll(cx).is_ready() {
                cx.waker().wake_by_ref(); // it arrived while we looked
            }
        }
        Poll::Pending
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let progress = ready!(coop::poll_proceed(cx));
        let (side, now) = (self.side, Instant::now());
        let mut link = self.link();
        let link = &mut *link;
        if link.ways[1 - side].has_reset(now) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        if link.ways[side].end.is_some() {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if link.gone[1 - side] {
            let at = link.arrival(now).max(now + Duration::from_millis(1));
            link.ways[1 - side].close(at, End::Reset);
            progress.made_progress();
            return Poll::Ready(Ok(buf.len()));
        }
        let room = link.weather.capacity - link.ways[side].bytes.min(link.weather.capacity);
        if room == 0 {
            link.ways[side].writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let count = room.min(buf.len());
        // One piece or two.
        let draw = link.rng.u64(..);
        let cut =
            if link.weather.late_ms > 0 && draw.is_multiple_of(3) { count / (2 + (draw >> 60) as usize) } else { 0 };
        for piece in [&buf[..cut], &buf[cut..count]] {
            if !piece.is_empty() {
                let at = link.arrival(now).max(link.ways[side].last);
                let way = &mut link.ways[side];
                way.last = at;
                way.flight.push_back((at, piece.to_vec(), 0));
                way.bytes += piece.len();
            }
        }
        link.ways[side].reader.take().into_iter().for_each(Waker::wake);
        link.written(now);
        progress.made_progress();
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let side = self.side;
        let mut link = self.link();
        let at = link.arrival(Instant::now());
        link.ways[side].close(at, End::Fin);
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    fn pipes(weather: Weather) -> (Pipe, Pipe) {
        pair(weather, 7, &Arc::default())
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_arrive_whole_and_in_order_and_then_the_end() {
        let (mut near, mut far) = pipes(Weather { capacity: 100, late_ms: 20, very_late: 7, ..Weather::FINE });
        let sent: Vec<u8> = (0..10_000).map(|number| number as u8).collect();
        let write = async {
            near.write_all(&sent).await.unwrap();
            near.shutdown().await.unwrap();
        };
        let mut got = Vec::new();
        let ((), read) = tokio::join!(write, far.read_to_end(&mut got));
        assert_eq!((read.unwrap(), got), (sent.len(), sent));
        far.write_all(b"back").await.unwrap();
        drop(far);
        let mut back = String::new();
        near.read_to_string(&mut back).await.unwrap();
        assert_eq!(back, "back", "the other direction goes on");
    }

    #[tokio::test(start_paused = true)]
    async fn a_reset_is_seen_after_what_arrived_before_it() {
        for (aborts, unread) in [(true, false), (false, true), (false, false)] {
            let (mut near, mut far) = pipes(Weather::FINE);
            near.write_all(b"last words").await.unwrap();
            if unread {
                far.write_all(b"unread").await.unwrap();
            }
            if aborts {
                near.abort();
            }
            drop(near);
            let mut got = [0; 16];
            assert_eq!(far.read(&mut got).await.unwrap(), 10);
            let end = far.read(&mut got).await.map_err(|error| error.kind());
            assert_eq!(end, if aborts || unread { Err(io::ErrorKind::ConnectionReset) } else { Ok(0) });
            let kind = far.write(b"x").await.map_err(|error| error.kind());
            if aborts || unread {
                continue;
            }
            assert_eq!(kind, Ok(1), "the first write to an end that is gone is not known to be lost");
            tokio::time::sleep(Duration::from_millis(5)).await;
            assert!(far.write(b"x").await.is_err());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_cut_resets_both_ends_and_a_stall_delays_both() {
        let (mut near, mut far) = pipes(Weather { cut: Some(2), ..Weather::FINE });
        near.write_all(b"1").await.unwrap();
        near.write_all(b"2").await.unwrap();
        let mut got = Vec::new();
        assert!(far.read_to_end(&mut got).await.is_err() && near.read_to_end(&mut Vec::new()).await.is_err());
        assert_eq!(got, b"12");
        let (mut near, mut far) = pipes(Weather { stall: Some((1, Duration::from_secs(9))), ..Weather::FINE });
        let began = Instant::now();
        near.write_all(b"1").await.unwrap();
        near.write_all(b"2").await.unwrap();
        far.read_exact(&mut [0; 2]).await.unwrap();
        assert_eq!(began.elapsed(), Duration::from_secs(9));
    }
}
