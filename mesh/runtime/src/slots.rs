//! How many connections may be open at a time: in all, and from one address, so that no one pod can take them all.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Connections of one listener.
#[derive(Debug, Clone)]
pub struct Slots {
    max: usize,
    per_address_max: usize,
    taken: Arc<Mutex<Taken>>,
}

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    by_address: HashMap<IpAddr, usize>,
}

/// Why a connection is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Full {
    /// There are too many in all.
    #[error("too many connections are open")]
    All,
    /// There are too many from this address.
    #[error("too many connections from this address are open")]
    Address,
}

/// A connection's place, given back when dropped.
#[derive(Debug)]
pub struct Slot {
    taken: Arc<Mutex<Taken>>,
    address: IpAddr,
}

impl Slots {
    /// At most `max` at a time, of which `per_address_max` from one address.
    #[must_use]
    pub fn new(max: usize, per_address_max: usize) -> Self {
        Self { max, per_address_max, taken: Arc::default() }
    }

    /// A place for a connection from `address`.
    pub fn take(&self, address: IpAddr) -> Result<Slot, Full> {
        let address = address.to_canonical();
        let mut taken = lock(&self.taken);
        if taken.all >= self.max {
            return Err(Full::All);
        }
        let own = taken.by_address.entry(address).or_default();
        if *own >= self.per_address_max {
            return Err(Full::Address);
        }
        *own += 1;
        taken.all += 1;
        Ok(Slot { taken: Arc::clone(&self.taken), address })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut taken = lock(&self.taken);
        taken.all -= 1;
        if let Some(own) = taken.by_address.get_mut(&self.address) {
            *own -= 1;
            if *own == 0 {
                taken.by_address.remove(&self.address);
            }
        }
    }
}

fn lock(taken: &Mutex<Taken>) -> MutexGuard<'_, Taken> {
    taken.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_cannot_take_what_is_for_all_and_places_come_back() {
        let (slots, [a, b, c]) = (Slots::new(3, 2), [1, 2, 3].map(|last| IpAddr::from([10, 0, 0, last])));
        let first = slots.take(a).unwrap();
        let _second = slots.take(a).unwrap();
        assert_eq!(slots.take(a).unwrap_err(), Full::Address);
        let _third = slots.take(b).unwrap();
        assert_eq!(slots.take(c).unwrap_err(), Full::All);
        drop(first);
        let _fourth = slots.take(a).unwrap();
        assert_eq!(lock(&slots.taken).by_address.len(), 2, "nobody is remembered who holds nothing");
    }

    #[test]
    fn an_ipv4_address_is_the_same_on_a_listener_for_both_families() {
        let slots = Slots::new(9, 1);
        let _slot = slots.take("::ffff:10.0.0.1".parse().unwrap()).unwrap();
        assert_eq!(slots.take("10.0.0.1".parse().unwrap()).unwrap_err(), Full::Address);
    }
}
