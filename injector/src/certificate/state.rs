//! What the Secret holds, and what is to be done with it. Pure.

use super::make::{BACKDATE, Pair};
use k8s_openapi::ByteString;
use remora_runtime::tls::web::{self, WebError};
use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

/// How long a new authority must have been seen in the webhook configuration before it is relied on: other API servers
/// hear of it a moment later. Less for the short lives of tests.
const SETTLE_MAX: Duration = Duration::from_secs(10);

/// The Secret's data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct State {
    /// What is served.
    pub(super) current: Pair,
    /// What will be.
    pub(super) next: Option<Pair>,
    /// The authority of what was served before, which some replica may still serve.
    pub(super) previous: Option<String>,
}

/// Why the Secret is of no use.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unusable {
    #[error("it has no {0}")]
    Missing(&'static str),
    #[error("its {0} is no text")]
    NoText(&'static str),
    #[error("{0}")]
    Web(#[source] WebError),
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing before this time.
    Wait(SystemTime),
    /// Make the next pair.
    Prepare,
    /// Serve the next pair.
    Promote,
    /// Forget the authority before.
    Retire,
}

const CURRENT: [&str; 3] = ["ca.crt", "tls.crt", "tls.key"];
const NEXT: [&str; 3] = ["next-ca.crt", "next-tls.crt", "next-tls.key"];
const PREVIOUS: &str = "previous-ca.crt";

impl State {
    pub(super) fn new(current: Pair) -> Self {
        Self { current, next: None, previous: None }
    }

    /// Reads the Secret's data, and proves that it can be served. A next pair that is incomplete is none.
    pub(super) fn read(data: &BTreeMap<String, ByteString>) -> Result<Self, Unusable> {
        let text = |name: &'static str| {
            let bytes = data.get(name).ok_or(Unusable::Missing(name))?;
            String::from_utf8(bytes.0.clone()).map_err(|_| Unusable::NoText(name))
        };
        let pair = |[authority, certificate, key]: [&'static str; 3]| {
            let pair = Pair { authority: text(authority)?, certificate: text(certificate)?, key: text(key)? };
            web::server_config(pair.certificate.as_bytes(), pair.key.as_bytes()).map_err(Unusable::Web)?;
            web::client_config(pair.authority.as_bytes()).map_err(Unusable::Web)?;
            Ok(pair)
        };
        Ok(Self { current: pair(CURRENT)?, next: pair(NEXT).ok(), previous: text(PREVIOUS).ok() })
    }

    /// The Secret's data.
    pub(super) fn data(&self) -> BTreeMap<String, ByteString> {
        let pair = |names: [&'static str; 3], pair: &Pair| {
            names.into_iter().zip([pair.authority.clone(), pair.certificate.clone(), pair.key.clone()])
        };
        let next = self.next.iter().flat_map(|next| pair(NEXT, next));
        let previous = self.previous.iter().map(|previous| (PREVIOUS, previous.clone()));
        let all = pair(CURRENT, &self.current).chain(next).chain(previous);
        all.map(|(name, text)| (name.to_owned(), ByteString(text.into_bytes()))).collect()
    }

    /// All authorities by which a replica may be known now or soon, for the webhook configuration.
    pub(super) fn bundle(&self) -> String {
        let next = self.next.iter().map(|next| &next.authority);
        std::iter::once(&self.current.authority).chain(next).chain(&self.previous).map(String::as_str).collect()
    }

    /// What is to be done. `trusted` is since when the webhook configuration was seen to have the next authority.
    pub(super) fn step(&self, now: SystemTime, trusted: Option<SystemTime>) -> Result<Step, WebError> {
        let (from, until) = web::validity(self.current.certificate.as_bytes())?;
        let from = from + BACKDATE;
        let life = until.duration_since(from).unwrap_or_default();
        if let Some(next) = &self.next {
            let (_, next_until) = web::validity(next.certificate.as_bytes())?;
            if now >= next_until {
                return Ok(Step::Prepare); // it waited too long to be of use
            }
            if now >= until {
                return Ok(Step::Promote); // nobody takes what is served; this they may
            }
            let settled = trusted.map(|since| since + settle(life));
            return Ok(match settled {
                Some(settled) if now >= settled => Step::Promote,
                Some(settled) => Step::Wait(settled.min(until)),
                None => Step::Wait(until),
            });
        }
        if let Some(previous) = &self.previous {
            let ended = web::validity(previous.as_bytes()).map_or(now, |(_, until)| until);
            if now >= ended {
                return Ok(Step::Retire);
            }
        }
        let due = from + life * 2 / 3;
        Ok(if now >= due { Step::Prepare } else { Step::Wait(due) })
    }

    /// The state after the next pair took over.
    pub(super) fn promoted(self) -> Self {
        match self.next {
            Some(next) => Self { current: next, next: None, previous: Some(self.current.authority) },
            None => self,
        }
    }
}

fn settle(life: Duration) -> Duration {
    (life / 20).min(SETTLE_MAX)
}

#[cfg(test)]
mod tests {
    use super::{super::make, *};

    const HOUR: Duration = Duration::from_secs(3600);
    const LIFE: Duration = Duration::from_secs(30 * 3600);

    fn start() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
    }

    fn pair(now: SystemTime) -> Pair {
        make::pair("remora-injector.remora.svc", now, LIFE).unwrap()
    }

    #[test]
    fn what_is_written_is_read() {
        let state =
            State { current: pair(start()), next: Some(pair(start())), previous: Some(pair(start()).authority) };
        assert_eq!(State::read(&state.data()).unwrap(), state);
        let mut data = state.data();
        data.remove("next-tls.key");
        assert_eq!(State::read(&data).unwrap().next, None);
        data.insert("tls.key".to_owned(), ByteString(pair(start()).key.into_bytes()));
        assert!(matches!(State::read(&data), Err(Unusable::Web(_))), "the key of another certificate");
        assert!(matches!(State::read(&BTreeMap::new()), Err(Unusable::Missing("ca.crt"))));
    }

    #[test]
    fn a_rotation_goes_step_by_step_and_both_authorities_are_trusted_in_between() {
        let now = start();
        let mut state = State::new(pair(now));
        let Step::Wait(due) = state.step(now, None).unwrap() else { panic!() };
        assert_eq!(due, now + LIFE * 2 / 3);
        assert_eq!(state.step(due, None).unwrap(), Step::Prepare);
        state.next = Some(pair(due));
        assert!(matches!(state.step(due, None).unwrap(), Step::Wait(_)), "nobody trusts it yet");
        assert_eq!(state.step(due, Some(due)).unwrap(), Step::Wait(due + SETTLE_MAX));
        let before = state.bundle();
        assert_eq!(state.step(due + SETTLE_MAX, Some(due)).unwrap(), Step::Promote);
        let old = state.current.clone();
        let mut state = state.promoted();
        assert!(before.contains(&old.authority) && before.contains(&state.current.authority));
        assert!(state.bundle().contains(&old.authority), "a replica may serve it for a moment");
        assert!(matches!(state.step(due + HOUR, None).unwrap(), Step::Wait(_)));
        assert_eq!(state.step(now + LIFE, None).unwrap(), Step::Retire);
        state.previous = None;
        assert_eq!(state.bundle(), state.current.authority);
    }

    #[test]
    fn when_time_has_run_out_the_next_is_served_at_once() {
        let now = start();
        let mut state = State::new(pair(now));
        state.next = Some(pair(now + 25 * HOUR));
        assert_eq!(state.step(now + LIFE, None).unwrap(), Step::Promote);
        assert_eq!(state.step(now + 2 * LIFE, None).unwrap(), Step::Prepare);
    }

    #[test]
    fn a_pair_serves_its_host_and_its_authority_vouches_for_it() {
        let pair = pair(start());
        assert!(web::server_config(pair.certificate.as_bytes(), pair.key.as_bytes()).is_ok());
        assert!(web::client_config(pair.authority.as_bytes()).is_ok());
        assert_ne!(pair.authority, self::pair(start()).authority);
    }
}
