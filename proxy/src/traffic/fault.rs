//! Faults on purpose. In: a request and randomness. Out: what happens to it, if anything. Pure, but for the count.

use super::{record::FaultCounters, which::Asked};
use remora_model::{AbortWith, Fault, traffic::WHOLE};
use std::{fmt, sync::Arc, time::Duration};

/// One fault, with its counts.
pub(crate) struct Injected {
    fault: Fault,
    counters: FaultCounters,
}

impl fmt::Debug for Injected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Injected").field("fault", &self.fault).finish_non_exhaustive()
    }
}

/// What happens to a request. One of delay and abort is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Happens {
    pub(crate) rule: Arc<str>,
    pub(crate) delay: Option<Duration>,
    pub(crate) abort: Option<AbortWith>,
}

impl Injected {
    pub(crate) fn new(fault: &Fault) -> Self {
        Self { counters: FaultCounters::new(&fault.name), fault: fault.clone() }
    }

    fn draws(&self, rng: &mut fastrand::Rng) -> Option<Happens> {
        let mut drawn = |share: u32| rng.u32(..WHOLE) < share;
        let delay = self.fault.delay.filter(|(share, _)| drawn(*share)).map(|(_, time)| time);
        let abort = self.fault.abort.filter(|(share, _)| drawn(*share)).map(|(_, how)| how);
        (delay.is_some() || abort.is_some()).then(|| Happens { rule: self.fault.name.clone(), delay, abort })
    }
}

/// What happens to a request: the first of the faults that are for it and are drawn.
pub(crate) fn drawn(faults: &[Injected], asked: &Asked<'_>, rng: &mut fastrand::Rng) -> Option<Happens> {
    let (of, happens) =
        faults.iter().filter(|one| asked.is_one_of(&one.fault.only)).find_map(|one| Some((one, one.draws(rng)?)))?;
    if happens.delay.is_some() {
        of.counters.delayed.increment(1);
    }
    if happens.abort.is_some() {
        of.counters.aborted.increment(1);
    }
    Some(happens)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderMap, Method};
    use remora_model::{PathPattern, RequestMatch};

    fn fault(path: &str, delay: u32, abort: u32) -> Injected {
        let only = RequestMatch { paths: vec![PathPattern::parse(path).unwrap()], ..RequestMatch::default() };
        let delay = (delay > 0).then_some((delay, Duration::from_millis(50)));
        let abort = (abort > 0).then_some((abort, AbortWith::Reset));
        Injected::new(&Fault { name: path.into(), only, delay, abort })
    }

    fn count(faults: &[Injected], path: &str) -> (usize, usize) {
        let (mut rng, headers) = (fastrand::Rng::with_seed(7), HeaderMap::new());
        let all: Vec<Happens> = (0..10_000)
            .filter_map(|_| drawn(faults, &Asked::new(&Method::GET, path, &headers, None), &mut rng))
            .collect();
        let with = |is: fn(&Happens) -> bool| all.iter().filter(|one| is(one)).count();
        (with(|one| one.delay.is_some()), with(|one| one.abort.is_some()))
    }

    #[test]
    fn as_many_requests_meet_a_fault_as_its_share_says_and_no_others() {
        let faults = [fault("/a", WHOLE / 2, 0), fault("/b/*", 0, WHOLE / 100), fault("/c", WHOLE, WHOLE)];
        let (delays, aborts) = count(&faults, "/a");
        assert!((4800..5200).contains(&delays) && aborts == 0, "{delays} {aborts}");
        let (delays, aborts) = count(&faults, "/b/x");
        assert!((60..150).contains(&aborts) && delays == 0, "{delays} {aborts}");
        assert_eq!((count(&faults, "/c"), count(&faults, "/d"), count(&[], "/a")), ((10_000, 10_000), (0, 0), (0, 0)));
    }

    #[test]
    fn the_first_that_is_drawn_happens_and_no_second() {
        let faults = [fault("/*", WHOLE / 2, 0), fault("/a", 0, WHOLE)];
        let (delays, aborts) = count(&faults, "/a");
        assert_eq!(delays + aborts, 10_000);
        assert!((4800..5200).contains(&aborts), "{aborts}");
    }
}
