//! All connections of a worker to others, by whom they lead to.
//!
//! One pod may serve many Services, and one endpoint may be described anew while nothing about the way to it changed:
//! connections belong to the address, the identity and the proxy, and outlive what is said about weight, zone or time-outs.

use super::{
    http1::Idle,
    http2::{Kind, Streams},
};
use crate::limits;
use remora_model::{Endpoint, SpiffeId};
use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    net::SocketAddr,
    rc::{Rc, Weak},
};

/// Whom a connection leads to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    address: SocketAddr,
    identity: Option<SpiffeId>,
    proxy: Option<SocketAddr>,
}

impl Key {
    fn of(endpoint: &Endpoint) -> Self {
        Self { address: endpoint.address, identity: endpoint.identity.clone(), proxy: endpoint.proxy }
    }
}

/// This worker's connections to one endpoint.
#[derive(Debug)]
pub(super) struct Connections {
    pub(super) http1: Idle,
    /// Shared by all callers: towards a peer of the mesh.
    pub(super) http2: Rc<Streams>,
}

impl Connections {
    pub(super) fn new(endpoint: &Endpoint) -> Rc<Self> {
        let kind = if endpoint.identity.is_some() { Kind::Mesh } else { Kind::Other };
        Rc::new(Self { http1: Idle::default(), http2: Streams::new(kind) })
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Table {
    known: RefCell<HashMap<Key, Rc<Connections>>>,
    /// Those that callers have for themselves.
    own: RefCell<Vec<Weak<Streams>>>,
    /// How many connections the gauge knows of.
    told: Cell<usize>,
}

impl Table {
    /// The connections to `endpoint`, which other backends may share.
    pub(super) fn find(&self, endpoint: &Endpoint) -> Rc<Connections> {
        let mut known = self.known.borrow_mut();
        known.entry(Key::of(endpoint)).or_insert_with(|| Connections::new(endpoint)).clone()
    }

    /// Connections of one caller alone.
    pub(super) fn own(&self) -> Rc<Streams> {
        let streams = Streams::new(Kind::Other);
        self.own.borrow_mut().push(Rc::downgrade(&streams));
        streams
    }

    /// Closes connections that were idle for too long, or belong to no backend any more. For the worker to call every
    /// [`limits::IDLE_TIMEOUT`].
    pub(crate) fn sweep(&self) {
        let sweeps = |idle: std::time::Duration| (idle.as_millis() / limits::IDLE_TIMEOUT.as_millis()) as u32;
        let (mesh, other) = (sweeps(limits::MESH_IDLE_TIMEOUT), sweeps(limits::APP_HTTP2_IDLE_TIMEOUT));
        let mut open = 0;
        self.known.borrow_mut().retain(|key, connections| {
            connections.http1.sweep();
            let unused = Rc::strong_count(connections) == 1;
            let idle = if key.identity.is_some() { mesh } else { other };
            let streams = connections.http2.sweep(if unused { 0 } else { idle });
            open += streams;
            !(unused && streams == 0 && connections.http1.is_empty())
        });
        self.own.borrow_mut().retain(|streams| {
            let streams = streams.upgrade();
            open += streams.as_ref().map_or(0, |streams| streams.sweep(other));
            streams.is_some()
        });
        // Each worker has its part of the sum.
        let before = self.told.replace(open);
        metrics::gauge!("remora_http2_connections").increment(open as f64 - before as f64);
    }

    /// Makes room for one more connection between proxies: where there are [`limits::MESH_CONNECTIONS_MAX`], those that
    /// were unused for the longest time are closed. False if all of them are in use.
    pub(super) fn make_room(&self) -> bool {
        let known = self.known.borrow();
        let open: usize = known.values().map(|connections| connections.http2.len()).sum();
        if open < limits::MESH_CONNECTIONS_MAX {
            return true;
        }
        let oldest = known.values().filter_map(|it| Some((it.http2.idle()?, it))).max_by_key(|(idle, _)| *idle);
        if let Some((_, oldest)) = &oldest {
            oldest.http2.retire();
        }
        oldest.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(identity: Option<&str>, change: impl FnOnce(&mut Endpoint)) -> Endpoint {
        let mut endpoint = Endpoint {
            address: ([10, 0, 0, 1], 80).into(),
            identity: identity.map(|name| format!("spiffe://cluster.local/ns/shop/sa/{name}").parse().unwrap()),
            proxy: None,
            weight: 1,
            zone: "a".into(),
            pod: "shop/api-1".into(),
        };
        change(&mut endpoint);
        endpoint
    }

    #[test]
    fn services_that_share_a_pod_share_its_connections_and_what_is_said_of_it_closes_none() {
        let table = Table::default();
        let first = table.find(&endpoint(Some("api"), |_| ()));
        let changes: [fn(&mut Endpoint); 4] = [
            |_| (),
            |endpoint| endpoint.weight = 7,
            |endpoint| endpoint.zone = "b".into(),
            |endpoint| endpoint.pod = "shop/api-2".into(),
        ];
        for change in changes {
            assert!(Rc::ptr_eq(&first, &table.find(&endpoint(Some("api"), change))));
        }
        let others = [
            endpoint(Some("other"), |_| ()),
            endpoint(None, |_| ()),
            endpoint(Some("api"), |endpoint| endpoint.proxy = Some(([10, 0, 0, 2], 4143).into())),
            endpoint(Some("api"), |endpoint| endpoint.address.set_port(81)),
        ];
        for other in others {
            assert!(!Rc::ptr_eq(&first, &table.find(&other)), "{other:?}");
        }
    }

    #[test]
    fn what_belongs_to_nobody_is_forgotten() {
        let table = Table::default();
        let (held, own) = (table.find(&endpoint(Some("api"), |_| ())), table.own());
        table.find(&endpoint(None, |_| ()));
        table.sweep();
        assert_eq!((table.known.borrow().len(), table.own.borrow().len()), (1, 1));
        drop((held, own));
        table.sweep();
        assert_eq!((table.known.borrow().len(), table.own.borrow().len()), (0, 0));
    }
}
