//! The last records of one worker: it writes them without waiting, and anybody reads them meanwhile.
//!
//! A slot has a number beside its words (a seqlock): odd while it is written, then even, and another one when the ring has gone round. A
//! reader that finds another number after than before has read nothing. All words are atomic, so that a torn slot is noticed and never undefined.

use std::{
    cell::Cell,
    marker::PhantomData,
    sync::{
        Arc, OnceLock,
        atomic::{
            AtomicU64,
            Ordering::{Acquire, Relaxed, Release},
            fence,
        },
    },
};

/// Words of a slot: 512 bytes.
pub(super) const WORDS: usize = 64;
/// Slots that are allocated together, when the first of them is written: an idle proxy has none.
const CHUNK: usize = 32;

/// See the module.
#[derive(Debug)]
pub(super) struct Ring {
    chunks: Box<[OnceLock<Box<[Slot]>>]>,
    /// How many were written in all.
    written: AtomicU64,
}

#[derive(Debug)]
struct Slot {
    /// `2n + 1` while the record `n` is written, `2n + 2` once it is there; 0 if there never was any.
    number: AtomicU64,
    words: [AtomicU64; WORDS],
}

/// The one who writes into a ring.
#[derive(Debug)]
pub(super) struct Writer {
    ring: Arc<Ring>,
    /// Not of several threads.
    _one: PhantomData<Cell<()>>,
}

impl Ring {
    /// A ring for the last `chunks` times 32 records, and its writer.
    pub(super) fn new(chunks: usize) -> (Arc<Self>, Writer) {
        let ring =
            Arc::new(Self { chunks: (0..chunks).map(|_| OnceLock::new()).collect(), written: AtomicU64::new(0) });
        (ring.clone(), Writer { ring, _one: PhantomData })
    }

    /// How many records were written since the start. Those of the last [`Self::capacity`] may still be there.
    pub(super) fn written(&self) -> u64 {
        self.written.load(Acquire)
    }

    /// How many records it keeps.
    pub(super) fn capacity(&self) -> u64 {
        (self.chunks.len() * CHUNK) as u64
    }

    /// Bytes that it takes now.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.chunks.iter().filter(|chunk| chunk.get().is_some()).count() * CHUNK * size_of::<Slot>()
    }

    /// Copies the record `number`, if it is still there and whole.
    pub(super) fn read(&self, number: u64, words: &mut [u64; WORDS]) -> bool {
        let Some(slot) = self.place(number).and_then(|(chunk, at)| self.chunks[chunk].get().map(|slots| &slots[at]))
        else {
            return false;
        };
        let whole = 2 * number + 2;
        if slot.number.load(Acquire) != whole {
            return false;
        }
        for (to, from) in words.iter_mut().zip(&slot.words) {
            *to = from.load(Relaxed);
        }
        fence(Acquire);
        slot.number.load(Relaxed) == whole
    }

    fn place(&self, number: u64) -> Option<(usize, usize)> {
        let at = number.checked_rem(self.capacity())? as usize;
        Some((at / CHUNK, at % CHUNK))
    }
}

impl Writer {
    /// Writes the next record: words, and bytes behind them, eight to a word. What finds no room in [`WORDS`] is left out; words beyond are what
    /// they were.
    pub(super) fn push<const N: usize>(&self, words: &[u64; N], bytes: &[[u8; 8]]) {
        let ring = &*self.ring;
        let number = ring.written.load(Relaxed);
        let Some((chunk, at)) = ring.place(number) else { return };
        let new = || (0..CHUNK).map(|_| Slot::empty()).collect();
        let slot = &ring.chunks[chunk].get_or_init(new)[at];
        slot.number.store(2 * number + 1, Relaxed);
        fence(Release);
        let (first, rest) = slot.words.split_at(N.min(WORDS));
        for (to, from) in first.iter().zip(words) {
            to.store(*from, Relaxed);
        }
        for (to, from) in rest.iter().zip(bytes) {
            to.store(u64::from_le_bytes(*from), Relaxed);
        }
        slot.number.store(2 * number + 2, Release);
        ring.written.store(number + 1, Release);
    }
}

impl Slot {
    fn empty() -> Self {
        Self { number: AtomicU64::new(0), words: [const { AtomicU64::new(0) }; WORDS] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(ring: &Ring, number: u64) -> Option<u64> {
        let mut words = [0; WORDS];
        ring.read(number, &mut words).then_some(words[0])
    }

    #[test]
    fn the_last_records_are_there_and_those_before_are_not() {
        let (ring, writer) = Ring::new(2);
        assert_eq!((ring.capacity(), ring.bytes(), read(&ring, 0)), (64, 0, None));
        for number in 0..100 {
            writer.push(&[number * 3], &[]);
        }
        assert_eq!(ring.written(), 100);
        for number in 0..120 {
            let expected = (36..100).contains(&number).then_some(number * 3);
            assert_eq!(read(&ring, number), expected, "{number}");
        }
    }

    #[test]
    fn memory_comes_with_the_first_records() {
        let (ring, writer) = Ring::new(8);
        writer.push(&[1], &[]);
        assert_eq!(ring.bytes(), CHUNK * (WORDS + 1) * 8);
    }

    #[test]
    fn a_ring_without_room_keeps_nothing() {
        let (ring, writer) = Ring::new(0);
        writer.push(&[1], &[]);
        assert_eq!(read(&ring, 0), None);
    }

    #[test]
    fn what_is_read_while_it_is_written_is_whole_or_not_there() {
        let rounds = if cfg!(miri) { 200 } else { 200_000 };
        let (ring, writer) = Ring::new(1);
        let reader = ring.clone();
        let read = std::thread::spawn(move || {
            let (mut words, mut whole) = ([0; WORDS], 0_u64);
            while reader.written() < rounds {
                let newest = reader.written().saturating_sub(1);
                for number in newest.saturating_sub(8)..=newest {
                    if reader.read(number, &mut words) {
                        assert!(words.iter().all(|word| *word == number), "{number}: {words:?}");
                        whole += 1;
                    }
                }
            }
            whole
        });
        for number in 0..rounds {
            writer.push(&[number; WORDS / 2], &[number.to_le_bytes(); WORDS / 2]);
        }
        let whole = read.join().unwrap();
        println!("{whole} records read whole while {rounds} were written");
    }
}
