//! Which connections stay open, so that there is always room for an API server. Any client can connect, and may share the
//! API server's address. A connection proves itself by a review, which any client can write. So no client is refused, and
//! no client is trusted much: a new connection takes the place of the one with the least claim to it. The
//! time is given.
//!
//! | claim | order of going |
//! |--|--|
//! | none: no review yet, or one too many of its address | first; within that, of the address with most of them, the oldest; those whose body is being read after those that are silent |
//! | standing: a review was carried | after all those; of the address with most of them, the one whose last review is longest ago |
//!
//! Standing have the [`STANDING_MAX`] connections of an address whose reviews are the latest, and all together half of the
//! room: an address that collects connections with reviews is a crowd like any other, and a new API server is none.
//!
//! A review counts once it is whole and answered: handshakes, heads and bodies that do not end claim nothing, however many
//! bytes they send. Where the bodies being read hold too many bytes, they make way whose address holds most.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tokio::sync::Notify;

/// API servers have one connection each, or a few; the self-check one.
const CONNECTIONS_MAX: usize = 256;
/// Connections of one address that have standing; more are more than an API server has.
const STANDING_MAX: usize = 8;
/// Connections of one address whose bodies are being read that go after its silent ones. Bodies that never end are easily made.
const READING_MAX: usize = 8;
/// Bodies that are being read, all together; once read they are judged one after the other.
const BODIES_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Between two lines of the log about those who had to go.
const WARN_INTERVAL: Duration = Duration::from_secs(10);

/// The places. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Room {
    connections_max: usize,
    bytes_max: usize,
    table: Arc<Mutex<Table>>,
}

#[derive(Debug, Default)]
struct Table {
    next: u64,
    seats: BTreeMap<u64, Seat>,
    /// Of all bodies.
    bytes: usize,
    /// Who had to go.
    gone: u64,
    /// How many of these are not logged yet, and when the last line was.
    untold: u64,
    told: Option<Instant>,
}

#[derive(Debug)]
struct Seat {
    address: IpAddr,
    /// When it came, or when its last review was answered.
    since: Instant,
    reviewed: bool,
    /// Of its bodies.
    bytes: usize,
    /// Bodies that are being read.
    reading: usize,
    leave: Arc<Notify>,
}

/// A connection's place, given back when dropped.
#[derive(Debug)]
pub(super) struct Place {
    room: Room,
    id: u64,
    leave: Arc<Notify>,
}

/// Bytes of a body, given back when dropped.
#[derive(Debug)]
pub(super) struct Held<'a> {
    place: &'a Place,
    bytes: usize,
}

/// The connection had to go.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Gone;

impl Default for Room {
    fn default() -> Self {
        Self::new(CONNECTIONS_MAX, BODIES_BYTES_MAX)
    }
}

impl Room {
    /// For so many connections and bytes at a time.
    pub(super) fn new(connections_max: usize, bytes_max: usize) -> Self {
        Self { connections_max, bytes_max, table: Arc::default() }
    }

    /// A place for a connection from `address`; where all are taken, that of another.
    pub(super) fn enter(&self, address: IpAddr, now: Instant) -> Place {
        let mut table = self.lock();
        while table.seats.len() >= self.connections_max {
            let Some(id) = table.least_seated(self.connections_max / 2) else { break };
            table.send_away(id, now);
        }
        let (id, leave) = (table.next, Arc::new(Notify::new()));
        table.next += 1;
        let address = address.to_canonical();
        let seat = Seat { address, since: now, reviewed: false, bytes: 0, reading: 0, leave: Arc::clone(&leave) };
        table.seats.insert(id, seat);
        Place { room: self.clone(), id, leave }
    }

    /// How many places are taken, and how many had to go so far.
    pub(super) fn counts(&self) -> (usize, u64) {
        let table = self.lock();
        (table.seats.len(), table.gone)
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The first few of each address, and of all.
struct Few {
    each: usize,
    all: usize,
    taken: HashMap<IpAddr, usize>,
}

impl Few {
    fn of(each: usize, all: usize) -> Self {
        Self { each, all, taken: HashMap::new() }
    }

    /// Whether one more of `address` is among them.
    fn takes(&mut self, address: IpAddr) -> bool {
        let taken = self.taken.entry(address).or_default();
        let takes = *taken < self.each && self.all > 0;
        if takes {
            (*taken, self.all) = (*taken + 1, self.all - 1);
        }
        takes
    }
}

impl Table {
    /// Who has the least claim to its place, where so many have standing.
    fn least_seated(&self, standing_max: usize) -> Option<u64> {
        let mut latest: Vec<(u64, &Seat)> = self.seats.iter().map(|(id, seat)| (*id, seat)).collect();
        latest.sort_by_key(|(_, seat)| Reverse(seat.since));
        let (mut standing, mut reading) = (Few::of(STANDING_MAX, standing_max), Few::of(READING_MAX, usize::MAX));
        let mut crowds: HashMap<(IpAddr, bool), usize> = HashMap::new();
        let mut ranked = Vec::with_capacity(latest.len());
        for (id, seat) in latest {
            let stands = seat.reviewed && standing.takes(seat.address);
            let reads = seat.reading > 0 && reading.takes(seat.address);
            *crowds.entry((seat.address, stands)).or_default() += 1;
            ranked.push((id, seat, stands, reads));
        }
        let crowd = |seat: &Seat, stands| Reverse(crowds.get(&(seat.address, stands)).copied().unwrap_or_default());
        let claim =
            |(_, seat, stands, reads): &(u64, &Seat, bool, bool)| (*stands, crowd(seat, *stands), *reads, seat.since);
        ranked.into_iter().min_by_key(claim).map(|(id, ..)| id)
    }

    /// Whose bodies have the least claim to their bytes.
    fn least_read(&self) -> Option<u64> {
        let mut crowds: HashMap<IpAddr, usize> = HashMap::new();
        for seat in self.seats.values() {
            *crowds.entry(seat.address).or_default() += seat.bytes;
        }
        let claim = |seat: &Seat| {
            let crowd = crowds.get(&seat.address).copied().unwrap_or_default();
            (Reverse(crowd), seat.reviewed, seat.since)
        };
        let heavy = self.seats.iter().filter(|(_, seat)| seat.bytes > 0);
        heavy.min_by_key(|(_, seat)| claim(seat)).map(|(id, _)| *id)
    }

    fn send_away(&mut self, id: u64, now: Instant) {
        let Some(seat) = self.seats.remove(&id) else { return };
        self.bytes -= seat.bytes;
        self.gone += 1;
        self.untold += 1;
        seat.leave.notify_one();
        if self.told.is_none_or(|told| now.saturating_duration_since(told) >= WARN_INTERVAL) {
            tracing::warn!(
                peer = %seat.address, carried_a_review = seat.reviewed, connections = self.untold,
                "connections to the webhook are closed to make room for others"
            );
            (self.told, self.untold) = (Some(now), 0);
        }
    }
}

impl Place {
    /// Ready once another connection has the place. Cancel safe.
    pub(super) async fn taken(&self) {
        self.leave.notified().await;
    }

    /// A review was answered.
    pub(super) fn reviewed(&self, now: Instant) {
        if let Some(seat) = self.room.lock().seats.get_mut(&self.id) {
            (seat.reviewed, seat.since) = (true, now);
        }
    }

    /// Whether a review was ever answered.
    pub(super) fn has_reviewed(&self) -> bool {
        self.room.lock().seats.get(&self.id).is_some_and(|seat| seat.reviewed)
    }

    /// Whether a body is being read.
    pub(super) fn is_reading(&self) -> bool {
        self.room.lock().seats.get(&self.id).is_some_and(|seat| seat.reading > 0)
    }

    /// Nothing yet of a body that is to be read.
    pub(super) fn hold(&self) -> Held<'_> {
        if let Some(seat) = self.room.lock().seats.get_mut(&self.id) {
            seat.reading += 1;
        }
        Held { place: self, bytes: 0 }
    }
}

impl Held<'_> {
    /// More bytes of the body came. Where there are too many, connections go, perhaps this one.
    pub(super) fn add(&mut self, bytes: usize, now: Instant) -> Result<(), Gone> {
        let room = &self.place.room;
        let mut table = room.lock();
        let Some(seat) = table.seats.get_mut(&self.place.id) else { return Err(Gone) };
        seat.bytes += bytes;
        table.bytes += bytes;
        self.bytes += bytes;
        while table.bytes > room.bytes_max {
            let Some(id) = table.least_read() else { break };
            table.send_away(id, now);
        }
        if table.seats.contains_key(&self.place.id) { Ok(()) } else { Err(Gone) }
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let mut table = self.place.room.lock();
        if let Some(seat) = table.seats.get_mut(&self.place.id) {
            seat.bytes -= self.bytes;
            seat.reading -= 1;
            table.bytes -= self.bytes;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut table = self.room.lock();
        if let Some(seat) = table.seats.remove(&self.id) {
            table.bytes -= seat.bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn address(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    fn there(room: &Room, place: &Place) -> bool {
        room.lock().seats.contains_key(&place.id)
    }

    #[test]
    fn who_has_carried_no_review_goes_before_who_has_however_long_ago() {
        let (room, now) = (Room::new(3, 100), Instant::now());
        let server = room.enter(address(1), now);
        server.reviewed(now);
        let silent = room.enter(address(2), now + SECOND);
        let later = room.enter(address(3), now + SECOND * 2);
        let new = room.enter(address(4), now + SECOND * 100);
        assert!(there(&room, &server) && !there(&room, &silent) && there(&room, &later) && there(&room, &new));
        assert_eq!(room.counts(), (3, 1));
    }

    #[test]
    fn a_crowd_from_one_address_goes_before_a_stranger_however_new_it_is() {
        let (room, now) = (Room::new(4, 100), Instant::now());
        let server = room.enter(address(1), now);
        let crowd = [0, 1, 2].map(|later| room.enter(address(2), now + SECOND * (later + 1)));
        let _new = room.enter(address(3), now + SECOND * 9);
        assert!(there(&room, &server));
        assert_eq!(crowd.iter().map(|place| there(&room, place)).collect::<Vec<_>>(), [false, true, true]);
    }

    #[test]
    fn of_those_with_reviews_the_one_goes_that_is_silent_for_longest() {
        let (room, now) = (Room::new(2, 100), Instant::now());
        let [first, second] = [1, 2].map(|last| room.enter(address(last), now));
        first.reviewed(now + SECOND);
        second.reviewed(now + SECOND * 2);
        first.reviewed(now + SECOND * 3);
        let new = room.enter(address(3), now + SECOND * 4);
        assert!(there(&room, &first) && !there(&room, &second) && there(&room, &new));
    }

    #[test]
    fn behind_one_address_a_new_connection_finds_room_too() {
        let (room, now) = (Room::new(2, 100), Instant::now());
        let _silent = room.enter(address(1), now);
        let _silent_too = room.enter("::ffff:10.0.0.1".parse().unwrap(), now);
        let server = room.enter(address(1), now + SECOND);
        server.reviewed(now + SECOND);
        let places: Vec<Place> = (2..90).map(|later| room.enter(address(1), now + SECOND * later)).collect();
        assert!(there(&room, &server), "it carried a review, and {} others did not", places.len());
    }

    #[test]
    fn who_collects_connections_with_reviews_makes_room_for_a_new_one_without() {
        for addresses in [1, 2, 16] {
            let (room, now) = (Room::new(64, 100), Instant::now());
            let mut later = (1..).map(|seconds| now + SECOND * seconds);
            let mut at = || later.next().unwrap();
            let idle = room.enter(address(100), at());
            idle.reviewed(at());
            let mut crowd: Vec<Place> = (0..63).map(|n| room.enter(address(n % addresses), at())).collect();
            crowd.iter().for_each(|place| place.reviewed(at()));
            let server = room.enter(address(101), at());
            // What follows comes under the new one's handshake.
            crowd.extend((0..20).map(|n| room.enter(address(n % addresses), at())));
            assert!(there(&room, &server) && there(&room, &idle), "{addresses}");
            let body = server.hold();
            crowd.extend((0..20).map(|n| room.enter(address(n % addresses), at())));
            assert!(there(&room, &server) && there(&room, &idle), "{addresses}");
            drop(body);
            assert_eq!(room.counts(), (64, 41));
        }
    }

    #[test]
    fn behind_the_address_of_a_crowd_with_reviews_a_new_connection_has_time_for_one() {
        let (room, now) = (Room::new(64, 100), Instant::now());
        let mut crowd: Vec<Place> = (0..64).map(|n| room.enter(address(1), now + SECOND * n)).collect();
        crowd.iter().for_each(|place| place.reviewed(now + SECOND * 70));
        let server = room.enter(address(1), now + SECOND * 80);
        crowd.extend((0..50).map(|n| room.enter(address(1), now + SECOND * (81 + n))));
        assert!(there(&room, &server));
    }

    #[test]
    fn who_is_silent_goes_before_who_sends_a_body() {
        let (room, now) = (Room::new(3, 100), Instant::now());
        let sends = room.enter(address(1), now);
        let body = sends.hold();
        let silent = room.enter(address(2), now + SECOND);
        let places = [3, 4, 5].map(|last| room.enter(address(last), now + SECOND * u32::from(last)));
        assert!(there(&room, &sends) && !there(&room, &silent) && !there(&room, &places[0]));
        drop(body);
        let _new = room.enter(address(6), now + SECOND * 6);
        assert!(!there(&room, &sends));
    }

    #[test]
    fn bodies_that_never_end_do_not_put_a_new_connection_of_their_address_first() {
        let (room, now) = (Room::new(32, 100), Instant::now());
        let crowd: Vec<Place> = (0..31).map(|n| room.enter(address(1), now + SECOND * n)).collect();
        let _bodies: Vec<Held<'_>> = crowd.iter().map(Place::hold).collect();
        let server = room.enter(address(1), now + SECOND * 40);
        let _more: Vec<Place> = (0..20).map(|n| room.enter(address(1), now + SECOND * (41 + n))).collect();
        assert!(there(&room, &server));
    }

    #[test]
    fn who_has_carried_a_review_does_not_fill_the_room_for_bodies() {
        let (room, now) = (Room::new(9, 100), Instant::now());
        let crowd = [1, 1, 2].map(|last| room.enter(address(last), now));
        crowd.iter().for_each(|place| place.reviewed(now));
        let mut bodies: Vec<_> = crowd.iter().map(Place::hold).collect();
        bodies.iter_mut().for_each(|body| assert_eq!(body.add(33, now), Ok(())));
        let server = room.enter(address(3), now);
        assert_eq!(server.hold().add(5, now), Ok(()));
    }

    #[test]
    fn bodies_that_hold_too_much_go_and_give_their_bytes_back() {
        let (room, now) = (Room::new(9, 100), Instant::now());
        let [slow, slower, server] = [1, 2, 3].map(|last| room.enter(address(last), now));
        server.reviewed(now);
        let (mut a, mut b, mut c) = (slow.hold(), slower.hold(), server.hold());
        assert_eq!((a.add(60, now), b.add(40, now)), (Ok(()), Ok(())));
        assert_eq!(c.add(50, now), Ok(()), "the review of one that has carried others is read");
        assert!(!there(&room, &slow) && there(&room, &slower));
        assert_eq!(a.add(1, now), Err(Gone));
        assert_eq!(b.add(30, now), Err(Gone), "it has the least claim itself");
        drop((a, b, c));
        assert_eq!(room.counts(), (1, 2));
        assert_eq!(room.lock().bytes, 0);
    }

    #[test]
    fn a_place_comes_back_when_its_connection_ends() {
        let (room, now) = (Room::new(1, 100), Instant::now());
        for _ in 0..3 {
            let place = room.enter(address(1), now);
            place.hold().add(10, now).unwrap();
        }
        assert_eq!(room.counts(), (0, 0));
        assert_eq!(room.lock().bytes, 0);
    }
}
