//! An API server that cannot be reached: one line for all requests that fail meanwhile.
//!
//! In: how each request of a client ended. Out: a line when the API server cannot be reached, again each [`REMINDER`] while that
//! lasts, and one when it answers again. It waits for nothing and repeats nothing; what the API server refuses is told by who asked.

use http::StatusCode;
use k8s_openapi::jiff::Timestamp;
use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// The shortest time between two lines that say that it cannot be reached, of one outage or of several.
const REMINDER: Duration = Duration::from_secs(60);

/// A part of the control plane, and what an outage of the API server means to it.
#[derive(Debug, Clone, Copy)]
pub struct Part {
    /// Its name, for `User-Agent`.
    pub name: &'static str,
    /// What stands still meanwhile.
    pub stands_still: &'static str,
    /// What works on.
    pub works_on: &'static str,
}

/// What one client knows of the API server.
#[derive(Debug)]
pub(crate) struct Outage {
    part: Part,
    server: String,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Since when no request was answered.
    since: Option<Instant>,
    /// When it was last said that it cannot be reached.
    said: Option<Instant>,
}

/// What there is to say.
#[derive(Debug, PartialEq, Eq)]
enum News {
    /// It has not answered for so long.
    Away(Duration),
    /// It answers again, after so long.
    Back(Duration),
}

impl Outage {
    pub(crate) fn new(part: Part, server: String) -> Self {
        Self { part, server, state: Mutex::default() }
    }

    /// Takes how a request ended, now: with an answer, or why with none. Says what there is to say.
    pub(crate) fn ended(&self, ended: Result<StatusCode, String>) {
        let why = match ended {
            Ok(status) if is_nobodys(status) => Some(status.to_string()),
            Ok(_) => None,
            Err(error) => Some(error),
        };
        let news = self.state.lock().unwrap_or_else(PoisonError::into_inner).ended(why.is_some(), Instant::now());
        let Part { stands_still, works_on, .. } = self.part;
        let server = self.server.as_str();
        match news {
            None => {}
            Some(News::Away(lasted)) => {
                let since = Timestamp::now() - lasted;
                tracing::warn!(server, %since, why, stands_still, works_on, "the API server cannot be reached");
            }
            Some(News::Back(lasted)) => tracing::info!(server, ?lasted, "the API server answers again"),
        }
    }
}

/// Whether this is the answer of something on the way that has no API server behind it.
fn is_nobodys(status: StatusCode) -> bool {
    matches!(status, StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT)
}

impl State {
    fn ended(&mut self, failed: bool, now: Instant) -> Option<News> {
        if !failed {
            let since = self.since.take()?;
            let was_said = self.said.is_some_and(|said| said >= since);
            return was_said.then(|| News::Back(now.saturating_duration_since(since)));
        }
        let since = *self.since.get_or_insert(now);
        if self.said.is_some_and(|said| now.saturating_duration_since(said) < REMINDER) {
            return None;
        }
        self.said = Some(now);
        Some(News::Away(now.saturating_duration_since(since)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn an_outage_is_said_at_once_again_each_minute_and_when_it_is_over() {
        let (mut state, began) = (State::default(), Instant::now());
        let mut said = Vec::new();
        for tenth in 0..1801_u32 {
            said.extend(state.ended(true, began + SECOND * tenth / 10));
        }
        assert_eq!(said, [0, 60, 120, 180].map(|at| News::Away(SECOND * at)));
        assert_eq!(state.ended(false, began + SECOND * 181), Some(News::Back(SECOND * 181)));
        assert_eq!(state.ended(false, began + SECOND * 182), None, "it is said once");
    }

    #[test]
    fn a_server_that_comes_and_goes_makes_a_pair_of_lines_a_minute() {
        let (mut state, began) = (State::default(), Instant::now());
        let mut said = Vec::new();
        for second in 0..600_u32 {
            said.extend(state.ended(second % 2 == 0, began + SECOND * second));
        }
        assert_eq!(said.len(), 20);
        assert!(said.chunks(2).all(|pair| pair == [News::Away(Duration::ZERO), News::Back(SECOND)]), "{said:?}");
    }

    #[test]
    fn a_refusal_is_an_answer_and_a_gateway_without_a_server_is_none() {
        for (status, away) in
            [(200, false), (403, false), (410, false), (429, false), (500, false), (502, true), (503, true)]
        {
            assert_eq!(is_nobodys(StatusCode::from_u16(status).unwrap()), away, "{status}");
        }
    }
}
