//! How targets run what they are about: bytes in pieces, and futures that wait for nothing outside.

use std::{
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll, Wake},
};

/// Polls of one future. Whoever has more to do by then never ends.
const POLLS_MAX: usize = 100_000;

/// `data` cut at places that depend on nothing but itself.
pub(crate) fn pieces(data: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rng = fastrand::Rng::with_seed(data.iter().fold(7, |seed, byte| seed * 31 % 1_000_003 + u64::from(*byte)));
    let mut rest = data;
    std::iter::from_fn(move || {
        let length = rng.usize(1..=16).min(rest.len());
        let (piece, behind) = rest.split_at(length);
        rest = behind;
        (!piece.is_empty()).then_some(piece)
    })
}

/// Runs a future that waits for nothing outside.
pub(crate) fn finish<F: Future>(future: F) -> F::Output {
    settle(pin!(future)).expect("it waits for nothing")
}

/// Runs a future until it ends or waits for something.
pub(crate) fn settle<F: Future>(mut future: Pin<&mut F>) -> Option<F::Output> {
    let woken = Arc::new(Woken(AtomicBool::new(true)));
    let waker = woken.clone().into();
    for _ in 0..POLLS_MAX {
        if !woken.0.swap(false, Relaxed) {
            return None;
        }
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return Some(output);
        }
    }
    panic!("it wakes itself for ever");
}

/// Whether there is more to do.
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Relaxed);
    }
}
