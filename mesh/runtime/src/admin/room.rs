//! Who may have a connection to the admin port. In: addresses that connect, and what becomes of their connections. Out: a
//! [`Place`], or whose place is given up for it.
//!
//! The kubelet restarts a pod whose probes fail, so no other client of the port may keep the probes out: not by silent
//! connections, not by many, not from many addresses. So the pod itself and its node have places of their own; all other
//! clients share the rest: a new connection takes the place of the one that was silent for longest at the address that has
//! most. A response that is being made is never cut off for it.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::{sync::Notify, time::Instant};

/// Probes of a pod's containers, a scraper or two, and a person.
pub(super) const STRANGERS_MAX: usize = 224;
/// For the pod itself and its node.
pub(super) const KNOWN_MAX: usize = 64;
/// From one other address.
pub(super) const PER_ADDRESS_MAX: usize = 32;

/// The places of one port.
#[derive(Debug, Clone)]
pub(super) struct Room {
    hosts: Arc<[IpAddr]>,
    held: Arc<Mutex<Held>>,
}

#[derive(Debug, Default)]
struct Held {
    next: u64,
    places: HashMap<u64, One>,
}

#[derive(Debug)]
struct One {
    address: IpAddr,
    known: bool,
    answers: usize,
    silent_since: Instant,
    give_up: Arc<Notify>,
}

/// A connection's place, given back when dropped.
#[derive(Debug)]
pub(super) struct Place {
    held: Arc<Mutex<Held>>,
    id: u64,
    /// Whether it is the pod itself, or its node.
    pub(super) known: bool,
    give_up: Arc<Notify>,
}

/// An answer is being made, until this is dropped.
#[derive(Debug)]
pub(super) struct Answering {
    held: Arc<Mutex<Held>>,
    id: u64,
}

impl Room {
    /// With places of their own for the pod's node, whose addresses these are.
    pub(super) fn new(hosts: impl Into<Arc<[IpAddr]>>) -> Self {
        Self { hosts: hosts.into(), held: Arc::default() }
    }

    /// A place for a connection from `peer` to `local`, taken `now`. `None`: all that could be given up are being answered.
    pub(super) fn enter(&self, peer: IpAddr, local: IpAddr, now: Instant) -> Option<Place> {
        let address = peer.to_canonical();
        let known = is_own(address, local.to_canonical()) || self.hosts.contains(&address);
        let mut held = lock(&self.held);
        let (max, per_address) = if known { (KNOWN_MAX, KNOWN_MAX) } else { (STRANGERS_MAX, PER_ADDRESS_MAX) };
        let mut by_address: HashMap<IpAddr, usize> = HashMap::from([(address, 1)]);
        for one in held.places.values().filter(|one| one.known == known) {
            *by_address.entry(one.address).or_default() += 1;
        }
        let own = by_address.get(&address).copied().unwrap_or_default();
        if own > per_address {
            held.give_up(|one| one.known == known && one.address == address, |_| 0)?;
        } else if by_address.values().sum::<usize>() > max {
            held.give_up(|one| one.known == known, |one| by_address.get(&one.address).copied().unwrap_or_default())?;
        }
        let (id, give_up) = (held.next, Arc::new(Notify::new()));
        held.next += 1;
        held.places.insert(id, One { address, known, answers: 0, silent_since: now, give_up: give_up.clone() });
        Some(Place { held: self.held.clone(), id, known, give_up })
    }
}

/// The pod itself. `127.0.0.0/8` is more than it: tests have many hosts there.
fn is_own(peer: IpAddr, local: IpAddr) -> bool {
    peer == local || peer == IpAddr::from([127, 0, 0, 1]) || peer == IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1])
}

impl Held {
    /// Gives up the place that was silent longest where `weight` is greatest.
    fn give_up(&mut self, may: impl Fn(&One) -> bool, weight: impl Fn(&One) -> usize) -> Option<()> {
        let silent = self.places.iter().filter(|(_, one)| one.answers == 0 && may(one));
        let (id, _) = silent.max_by_key(|(id, one)| (weight(one), std::cmp::Reverse((one.silent_since, **id))))?;
        let id = *id;
        let one = self.places.remove(&id)?;
        one.give_up.notify_one();
        metrics::counter!("remora_admin_refused_total", "reason" => "silent").increment(1);
        Some(())
    }
}

impl Place {
    /// Returns once another connection has taken the place. Cancel safe.
    pub(super) async fn given_up(&self) {
        self.give_up.notified().await;
    }

    /// What the requests of the connection tell the place.
    pub(super) fn teller(&self) -> Teller {
        Teller { held: self.held.clone(), id: self.id }
    }

    /// Since when it is silent; `None` while it is being answered.
    pub(super) fn silent_since(&self) -> Option<Instant> {
        let held = lock(&self.held);
        held.places.get(&self.id).filter(|one| one.answers == 0).map(|one| one.silent_since)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        lock(&self.held).places.remove(&self.id);
    }
}

/// Tells a place of the requests on its connection.
#[derive(Debug, Clone)]
pub(super) struct Teller {
    held: Arc<Mutex<Held>>,
    id: u64,
}

impl Teller {
    /// A request came.
    pub(super) fn answering(&self) -> Answering {
        if let Some(one) = lock(&self.held).places.get_mut(&self.id) {
            one.answers += 1;
        }
        Answering { held: self.held.clone(), id: self.id }
    }

    /// Something of an answer was taken.
    pub(super) fn takes(&self) {
        if let Some(one) = lock(&self.held).places.get_mut(&self.id) {
            one.silent_since = Instant::now();
        }
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        if let Some(one) = lock(&self.held).places.get_mut(&self.id) {
            one.answers -= 1;
            one.silent_since = Instant::now();
        }
    }
}

fn lock(held: &Mutex<Held>) -> MutexGuard<'_, Held> {
    held.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::FutureExt as _;

    use super::*;

    const POD: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 1, 0, 7));

    fn stranger(number: usize) -> IpAddr {
        IpAddr::from([10, 9, (number / 250) as u8, (number % 250) as u8])
    }

    fn lost(place: &Place) -> bool {
        place.given_up().now_or_never().is_some()
    }

    #[test]
    fn however_many_are_silent_one_more_address_has_its_place_and_keeps_it() {
        let (room, start) = (Room::new([]), Instant::now());
        for addresses in [9, 300, 2000] {
            let mut silent = Vec::new();
            for number in 0..(addresses * 40).min(3000) {
                let now = start + Duration::from_millis(number as u64);
                silent.extend(room.enter(stranger(number % addresses), POD, now));
                // Who has lost a place does not hold it.
                silent.retain(|place| !lost(place));
            }
            assert_eq!(silent.len(), STRANGERS_MAX, "of {addresses} addresses");
            let kubelet = room.enter([10, 8, 0, 1].into(), POD, start + Duration::from_secs(999)).unwrap();
            for number in 0..STRANGERS_MAX - 1 {
                let late = start + Duration::from_secs(1000);
                silent.extend(room.enter(stranger(number % addresses), POD, late));
            }
            assert!(!lost(&kubelet), "{addresses} addresses");
        }
    }

    #[test]
    fn who_is_being_answered_keeps_the_place_and_the_longest_silent_goes_first() {
        let (room, start) = (Room::new([]), Instant::now());
        let places: Vec<_> = (0..PER_ADDRESS_MAX)
            .map(|i| room.enter(stranger(1), POD, start + Duration::from_secs(i as u64)).unwrap())
            .collect();
        let answering: Vec<_> = places[..2].iter().map(|place| place.teller().answering()).collect();
        let newcomer = room.enter(stranger(1), POD, start + Duration::from_secs(99)).unwrap();
        let gone: Vec<_> = (0..PER_ADDRESS_MAX).filter(|i| lost(&places[*i])).collect();
        assert_eq!(gone, [2], "of those that say nothing, the first");
        assert!(places[0].silent_since().is_none());
        drop(answering);
        assert!(places[0].silent_since().is_some_and(|since| since >= start));
        let busy: Vec<_> =
            places[3..].iter().chain([&newcomer]).chain(&places[..2]).map(|p| p.teller().answering()).collect();
        assert!(room.enter(stranger(1), POD, start).is_none(), "nobody can be given up");
        assert!(room.enter(stranger(2), POD, start).is_some(), "and that is this address's affair");
        drop(busy);
    }

    #[test]
    fn the_pod_and_its_node_have_places_that_nobody_else_takes() {
        let node: IpAddr = "::ffff:10.8.0.1".parse().unwrap();
        let (room, now) = (Room::new([IpAddr::from([10, 8, 0, 1])]), Instant::now());
        let busy: Vec<_> = (0..STRANGERS_MAX)
            .map(|number| {
                let place = room.enter(stranger(number), POD, now).unwrap();
                let answering = place.teller().answering();
                (place, answering)
            })
            .collect();
        assert!(room.enter(stranger(999), POD, now).is_none());
        for own in [node, POD, [127, 0, 0, 1].into(), "::1".parse().unwrap()] {
            assert!(room.enter(own, POD, now).is_some_and(|place| place.known), "{own}");
        }
        drop(busy);
        assert!(lock(&room.held).places.is_empty(), "places come back");
    }
}
