//! How many HTTP/2 connections each peer has to this worker: what one may leave unread is bounded for all of its
//! connections together, not for each.

use super::share::Share;
use crate::{limits, policy::Peer};
use std::{cell::RefCell, collections::HashMap, rc::Rc};

/// The peers of one worker by identity and address; at most as many as there are connections.
#[derive(Debug, Clone, Default)]
pub(crate) struct Peers(Rc<RefCell<HashMap<Peer, usize>>>);

/// One connection of a peer, counted until it is dropped.
#[derive(Debug)]
pub(crate) struct Counted {
    peers: Peers,
    peer: Peer,
    /// Whether it is among the peer's first.
    first: bool,
}

impl Peers {
    /// One more connection of `peer`. `None`: it is a proxy that has [`limits::PEER_CONNECTIONS_MAX`] already. Other peers
    /// are known by an address only, which many clients may share, and none is refused for what its neighbours do.
    pub(crate) fn enter(&self, peer: &Peer) -> Option<Counted> {
        let mut peers = self.0.borrow_mut();
        let count = peers.entry(peer.clone()).or_default();
        if peer.identity.is_some() && *count >= limits::PEER_CONNECTIONS_MAX {
            return None;
        }
        *count += 1;
        Some(Counted { peers: self.clone(), peer: peer.clone(), first: *count <= limits::PEER_WIDE_CONNECTIONS })
    }
}

impl Counted {
    /// What it may have, as a client that is, or is not, a proxy.
    pub(crate) fn share(&self, mesh: bool) -> Share {
        if mesh { Share::mesh(self.first) } else { Share::client(self.first) }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut peers = self.peers.0.borrow_mut();
        if let Some(count) = peers.get_mut(&self.peer) {
            *count -= 1;
            if *count == 0 {
                peers.remove(&self.peer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(name: Option<&str>, last: u8) -> Peer {
        let identity = name.map(|name| format!("spiffe://cluster.local/ns/shop/sa/{name}").parse().unwrap());
        Peer { identity, address: [10, 0, 0, last].into() }
    }

    #[test]
    fn the_first_connections_of_each_peer_have_wide_windows_and_a_proxy_has_so_many_and_no_more() {
        let peers = Peers::default();
        let web = peer(Some("web"), 1);
        let mut held: Vec<_> =
            std::iter::repeat_with(|| peers.enter(&web)).take(limits::PEER_CONNECTIONS_MAX).flatten().collect();
        assert_eq!(held.len(), limits::PEER_CONNECTIONS_MAX);
        assert_eq!(held[0].share(true), Share::mesh(true));
        assert_eq!(held[limits::PEER_WIDE_CONNECTIONS - 1].share(true), Share::mesh(true));
        assert_eq!(held[limits::PEER_WIDE_CONNECTIONS].share(true), Share::mesh(false));
        assert!(peers.enter(&web).is_none());
        for other in [peer(Some("web"), 2), peer(Some("api"), 1), peer(None, 1)] {
            assert_eq!(peers.enter(&other).unwrap().share(false), Share::client(true), "{other:?}");
        }
        held.pop();
        assert!(peers.enter(&web).is_some(), "one left");
        held.clear();
        assert!(peers.0.borrow().is_empty(), "nobody is remembered");
    }

    #[test]
    fn somebody_without_an_identity_is_never_refused_for_his_address() {
        let peers = Peers::default();
        let behind_nat = peer(None, 1);
        let held: Vec<_> = std::iter::repeat_with(|| peers.enter(&behind_nat)).take(2000).flatten().collect();
        assert_eq!(held.len(), 2000);
    }
}
