//! The account of memory that peers can make this proxy hold, so that it stays within its limit whatever they do.
//!
//! In: a peer, and how many bytes it needs. Out: a [`Charge`], or none: then the connection is refused as overloaded, or a relay goes on with
//! its minimum. Shares: a peer may hold at most as much as is left for others afterwards (the pod itself
//! three times that). So one peer may use half of all while it is alone, two peers a third each, and there is always something
//! left for the next one. Bound: [`limits::account_bytes`]. It does not measure: each charge says what its object costs.

mod cgroup;

pub(crate) use cgroup::memory_limit;

use crate::limits;
use remora_model::SpiffeId;
use remora_runtime::idle;
use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

/// Whose share something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Peer {
    /// The application of this pod, and what the proxy opens for it.
    Pod,
    /// All callers at this address: see [`Peer::at`].
    At(IpAddr),
    /// Who has shown a certificate there: see [`Peer::certified`].
    Certified(IpAddr, u64),
}

impl Peer {
    /// All callers at `address`. A host has all of an IPv6 network of 64 bits.
    pub(crate) fn at(address: IpAddr) -> Self {
        Self::At(network(address))
    }

    /// The workload `id`, calling from `address`. Several may share an address, and must not share what one of them may
    /// use up.
    pub(crate) fn certified(address: IpAddr, id: &SpiffeId) -> Self {
        let mut hash = DefaultHasher::new();
        id.as_str().hash(&mut hash);
        Self::Certified(network(address), hash.finish())
    }

    /// The same workload, once it is known by its certificate.
    pub(crate) fn known_as(self, id: &SpiffeId) -> Self {
        match self {
            Self::At(address) => Self::certified(address, id),
            other => other,
        }
    }

    /// How many times of what is left this peer may hold.
    const fn weight(self) -> usize {
        match self {
            Self::Pod => 3,
            Self::At(_) | Self::Certified(..) => 1,
        }
    }
}

/// What one host has of addresses.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::from((u128::from(address) >> 64 << 64).to_be_bytes()),
        v4 => v4,
    }
}

/// What there is, and who holds it. Cheap to clone; shared by the workers, which touch it for each connection, each large
/// buffer, and each request that begins, ends or stands still: a few additions to numbers that all of them share.
#[derive(Debug, Clone)]
pub(crate) struct Account(Arc<Books>);

#[derive(Debug)]
struct Books {
    bytes_max: usize,
    used: AtomicUsize,
    /// The most that was used since [`Account::freed`] was asked.
    peak: AtomicUsize,
    peers: Mutex<HashMap<Peer, Weak<Share>>>,
}

#[derive(Debug)]
struct Share {
    books: Arc<Books>,
    peer: Peer,
    held: AtomicUsize,
}

/// One peer's share, the same for all its connections. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Holder(Arc<Share>);

/// Bytes that count as held until this is dropped.
#[derive(Debug)]
pub(crate) struct Charge {
    share: Arc<Share>,
    bytes: usize,
}

impl Account {
    /// An account of so many bytes.
    pub(crate) fn new(bytes_max: usize) -> Self {
        let (used, peak) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Self(Arc::new(Books { bytes_max, used, peak, peers: Mutex::default() }))
    }

    /// The share of `peer`.
    pub(crate) fn holder(&self, peer: Peer) -> Holder {
        let mut peers = self.0.peers();
        if let Some(share) = peers.get(&peer).and_then(Weak::upgrade) {
            return Holder(share);
        }
        let share = Arc::new(Share { books: self.0.clone(), peer, held: AtomicUsize::new(0) });
        peers.insert(peer, Arc::downgrade(&share));
        Holder(share)
    }

    /// Whether so much is held that what can be read in smaller pieces should be.
    pub(crate) fn is_tight(&self) -> bool {
        self.used() > self.0.bytes_max / limits::TIGHT_SHARE
    }

    /// What is held now.
    pub(crate) fn used(&self) -> usize {
        self.0.used.load(Relaxed)
    }

    /// How much less is held now than at the most since this was asked last: what the allocator may give back.
    pub(crate) fn freed(&self) -> usize {
        let used = self.used();
        self.0.peak.swap(used, Relaxed).saturating_sub(used)
    }
}

impl Books {
    fn peers(&self) -> MutexGuard<'_, HashMap<Peer, Weak<Share>>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Holder {
    /// Whose share it is.
    pub(crate) fn peer(&self) -> Peer {
        self.0.peer
    }

    /// Charges `bytes` to this share, if they are within it.
    pub(crate) fn charge(&self, bytes: usize) -> Option<Charge> {
        let Share { books, peer, held } = &*self.0;
        let used = books.used.fetch_add(bytes, Relaxed) + bytes;
        let held = held.fetch_add(bytes, Relaxed) + bytes;
        let charge = Charge { share: self.0.clone(), bytes };
        let left = books.bytes_max.checked_sub(used)?;
        (held <= left.saturating_mul(peer.weight())).then(|| {
            books.peak.fetch_max(used, Relaxed);
            charge
        })
    }
}

impl Charge {
    /// Whose share it is of.
    pub(crate) fn holder(&self) -> Holder {
        Holder(self.share.clone())
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut peers = self.books.peers();
        // It may have come back meanwhile.
        if peers.get(&self.peer).is_some_and(|share| share.strong_count() == 0) {
            peers.remove(&self.peer);
        }
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.share.held.fetch_sub(self.bytes, Relaxed);
        self.share.books.used.fetch_sub(self.bytes, Relaxed);
    }
}

/// The account of a process that may use `memory_limit` bytes.
pub(crate) fn of(memory_limit: u64) -> Account {
    Account::new(limits::account_bytes(memory_limit))
}

/// Shows what is charged, and has the allocator give back what peers no longer hold. Runs until it is dropped.
pub(crate) async fn keep(account: Account) {
    idle::return_large_blocks();
    let charged = metrics::gauge!("remora_memory_charged_bytes");
    loop {
        tokio::time::sleep(limits::MEMORY_LOOK).await;
        charged.set(account.used() as f64);
        if account.freed() >= limits::MEMORY_FREED_BYTES {
            idle::release_freed();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(last: u8) -> Peer {
        Peer::at([10, 0, 0, last].into())
    }

    /// As many charges of `bytes` as there are to be had.
    fn greedy(holder: &Holder, bytes: usize) -> Vec<Charge> {
        std::iter::from_fn(|| holder.charge(bytes)).collect()
    }

    #[test]
    fn one_peer_takes_half_and_there_is_always_some_left_for_who_comes_next() {
        let account = Account::new(1024);
        let mut kept = Vec::new();
        for (number, share) in [(1, 512), (2, 256), (3, 128), (4, 64), (5, 32)] {
            let charges = greedy(&account.holder(peer(number)), 1);
            assert_eq!(charges.len(), share, "peer {number}");
            kept.push(charges);
        }
        kept.clear();
        assert_eq!(account.used(), 0);
    }

    #[test]
    fn the_pod_itself_takes_three_quarters_at_most() {
        let account = Account::new(1024);
        let own = greedy(&account.holder(Peer::Pod), 1);
        assert_eq!(own.len(), 768);
        assert_eq!(greedy(&account.holder(peer(1)), 1).len(), 128);
    }

    #[test]
    fn what_is_refused_is_not_held_and_what_is_dropped_is_free() {
        let account = Account::new(100);
        let holder = account.holder(peer(1));
        assert!(holder.charge(51).is_none() && holder.charge(usize::MAX / 4).is_none());
        assert_eq!(account.used(), 0);
        let charge = holder.charge(50).unwrap();
        assert!(holder.charge(1).is_none());
        drop(charge);
        assert!(holder.charge(50).is_some());
    }

    #[test]
    fn two_connections_of_a_peer_have_one_share_and_nobody_is_remembered_who_holds_nothing() {
        let account = Account::new(100);
        let (first, second) = (account.holder(peer(1)), account.holder(peer(1)));
        let held = first.charge(40).unwrap();
        assert!(second.charge(40).is_none());
        drop((first, second));
        assert!(account.holder(peer(1)).charge(40).is_none(), "what it holds is still its own");
        drop(held);
        assert!(account.holder(peer(1)).charge(40).is_some());
        drop(account.holder(peer(2)));
        assert!(account.0.peers().is_empty(), "{:?}", account.0.peers());
    }

    #[test]
    fn a_host_with_a_network_of_its_own_is_one_peer() {
        let at = |text: &str| Peer::at(text.parse().unwrap());
        assert_eq!(at("fd00:1:2:3::1"), at("fd00:1:2:3:ffff:ffff:ffff:ffff"));
        assert_ne!(at("fd00:1:2:3::1"), at("fd00:1:2:4::1"));
        assert_eq!(at("::ffff:10.0.0.1"), peer(1));
    }

    #[test]
    fn workloads_that_share_an_address_do_not_share_what_they_hold() {
        let account = Account::new(1024);
        let id = |name: &str| SpiffeId::parse(&format!("spiffe://cluster.local/ns/shop/sa/{name}")).unwrap();
        let mallory = greedy(&account.holder(peer(1).known_as(&id("mallory"))), 1);
        let web = greedy(&account.holder(peer(1).known_as(&id("web"))), 1);
        let stranger = greedy(&account.holder(peer(1)), 1);
        assert_eq!([mallory.len(), web.len(), stranger.len()], [512, 256, 128]);
    }

    #[test]
    fn threads_that_charge_at_once_hold_no_more_than_there_is_and_give_all_back() {
        const ALL: usize = 1000;
        let account = Account::new(ALL);
        std::thread::scope(|scope| {
            for number in 0..4 {
                let account = &account;
                scope.spawn(move || {
                    let holder = account.holder(Peer::at([10, 0, 0, number].into()));
                    for bytes in 250..300 {
                        let charge = holder.charge(bytes);
                        assert!(account.used() <= ALL, "{} of {ALL}", account.used());
                        drop(charge);
                    }
                });
            }
        });
        assert_eq!(account.used(), 0);
    }

    #[test]
    fn what_was_freed_is_told_once() {
        let account = Account::new(1024);
        let charges = greedy(&account.holder(peer(1)), 64);
        drop(charges);
        assert_eq!((account.freed(), account.freed()), (512, 0));
    }
}
