//! How long the first bytes of a client are worth waiting for, by what the last connection showed.

use super::First;
use crate::limits;
use std::{cell::Cell, time::Duration};

/// What the last connection to a destination taught. Where the client spoke first, one that is slow to begin (its host
/// is busy, it keeps connections in reserve) is waited for much longer before the upstream is opened for nothing; where
/// the server did, the upstream is opened at once. A wrong guess costs one connection, and is corrected by it.
#[derive(Debug, Default)]
pub(crate) struct Habit {
    client_first: Cell<Option<bool>>,
}

impl Habit {
    /// The silence to allow.
    pub(crate) fn grace(&self) -> Duration {
        match self.client_first.get() {
            None => limits::DETECT_GRACE,
            Some(true) => limits::DETECT_GRACE_CLIENT_FIRST,
            Some(false) => Duration::ZERO,
        }
    }

    /// Learns from what a wait found out.
    pub(crate) fn learn<U>(&self, first: &First<U>) {
        match first {
            First::Http1 | First::Http2 | First::Mesh | First::Tls | First::Opaque => self.client_first.set(Some(true)),
            First::Opened(_) => self.client_first.set(Some(false)),
            First::Closed | First::Undecided => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::Prefixed;

    #[test]
    fn the_last_connection_that_said_anything_says_how_long_the_next_one_is_waited_for() {
        let habit = Habit::default();
        assert_eq!(habit.grace(), limits::DETECT_GRACE);
        let (long, none) = (limits::DETECT_GRACE_CLIENT_FIRST, Duration::ZERO);
        for (first, grace) in [
            (First::Undecided, limits::DETECT_GRACE),
            (First::Http1, long),
            (First::Closed, long),
            (First::Opened(Prefixed::new(())), none),
            (First::Closed, none),
            (First::Undecided, none),
            (First::Mesh, long),
            (First::Opened(Prefixed::new(())), none),
            (First::Opaque, long),
            (First::Tls, long),
            (First::Http2, long),
        ] {
            habit.learn(&first);
            assert_eq!(habit.grace(), grace, "{first:?}");
        }
    }
}
