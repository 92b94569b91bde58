//! All connections of a worker to others, by whom they lead to.
//!
//! One pod may serve many Services, and one endpoint may be described anew while nothing about the way to it changed:
//! connections belong to the address, the identity, the proxy, and how they are kept, and outlive what is said about weight, zone or
//! time-outs.

use super::{
    http1::Idle,
    http2::{Kind, Streams},
    keep::{Keep, Places},
};
use crate::limits;
use remora_model::{ConnectionSettings, Endpoint, SpiffeId};
use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    net::SocketAddr,
    rc::{Rc, Weak},
    sync::Arc,
};

/// Whom a connection leads to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    address: SocketAddr,
    identity: Option<SpiffeId>,
    proxy: Option<SocketAddr>,
    settings: ConnectionSettings,
}

impl Key {
    fn of(endpoint: &Endpoint, settings: &ConnectionSettings) -> Self {
        let identity = endpoint.identity.clone();
        Self { address: endpoint.address, identity, proxy: endpoint.proxy, settings: *settings }
    }
}

/// This worker's connections to one endpoint.
#[derive(Debug)]
pub(super) struct Connections {
    pub(super) http1: Idle,
    /// Shared by all callers: towards a peer of the mesh.
    pub(super) http2: Rc<Streams>,
    /// Of all its connections, of callers' own as well.
    pub(super) places: Arc<Places>,
    /// How callers' own are kept.
    keep: Keep,
}

impl Connections {
    pub(super) fn new(endpoint: &Endpoint, settings: &ConnectionSettings, workers: usize) -> Rc<Self> {
        let kind = if endpoint.identity.is_some() { Kind::Mesh } else { Kind::Other };
        let (keep, places) = (Keep::of(kind, settings), Places::new(settings, workers));
        Rc::new(Self { http1: Idle::new(keep.http1), http2: Streams::new(kind, keep), places, keep })
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
    pub(super) fn find(&self, endpoint: &Endpoint, settings: &ConnectionSettings, workers: usize) -> Rc<Connections> {
        let (key, mut known) = (Key::of(endpoint, settings), self.known.borrow_mut());
        known.entry(key).or_insert_with(|| Connections::new(endpoint, settings, workers)).clone()
    }

    /// Connections of one caller alone, to who has those `connections`.
    pub(super) fn own(&self, connections: &Connections) -> Rc<Streams> {
        let streams = Streams::new(Kind::Other, connections.keep);
        self.own.borrow_mut().push(Rc::downgrade(&streams));
        streams
    }

    /// Closes connections that were idle for too long, or belong to no backend any more. For the worker to call every
    /// [`limits::IDLE_TIMEOUT`].
    pub(crate) fn sweep(&self) {
        let mut open = 0;
        self.known.borrow_mut().retain(|_, connections| {
            connections.http1.sweep();
            let unused = Rc::strong_count(connections) == 1;
            let streams = connections.http2.sweep(unused);
            open += streams;
            !(unused && streams == 0 && connections.http1.is_empty())
        });
        self.own.borrow_mut().retain(|streams| {
            let streams = streams.upgrade();
            open += streams.as_ref().map_or(0, |streams| streams.sweep(false));
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
    use super::{super::http2::Dial, *};
    use crate::{tasks::Tasks, telemetry::Reason};

    fn endpoint(identity: Option<&str>, change: impl FnOnce(&mut Endpoint)) -> Endpoint {
        let mut endpoint = Endpoint {
            address: ([10, 0, 0, 1], 80).into(),
            identity: identity.map(|name| format!("spiffe://cluster.local/ns/shop/sa/{name}").parse().unwrap()),
            proxy: None,
            weight: 1,
            zone: "a".into(),
            pod: "shop/api-1".into(),
            node: None,
        };
        change(&mut endpoint);
        endpoint
    }

    fn unsaid() -> ConnectionSettings {
        ConnectionSettings::default()
    }

    #[test]
    fn services_that_share_a_pod_share_its_connections_and_what_is_said_of_it_closes_none() {
        let table = Table::default();
        let first = table.find(&endpoint(Some("api"), |_| ()), &unsaid(), 1);
        let changes: [fn(&mut Endpoint); 4] = [
            |_| (),
            |endpoint| endpoint.weight = 7,
            |endpoint| endpoint.zone = "b".into(),
            |endpoint| endpoint.pod = "shop/api-2".into(),
        ];
        for change in changes {
            assert!(Rc::ptr_eq(&first, &table.find(&endpoint(Some("api"), change), &unsaid(), 1)));
        }
        let others = [
            endpoint(Some("other"), |_| ()),
            endpoint(None, |_| ()),
            endpoint(Some("api"), |endpoint| endpoint.proxy = Some(([10, 0, 0, 2], 4143).into())),
            endpoint(Some("api"), |endpoint| endpoint.address.set_port(81)),
        ];
        for other in others {
            assert!(!Rc::ptr_eq(&first, &table.find(&other, &unsaid(), 1)), "{other:?}");
        }
        let settings = ConnectionSettings { max_connections: std::num::NonZeroU32::new(1), ..unsaid() };
        let bounded = table.find(&endpoint(Some("api"), |_| ()), &settings, 1);
        assert!(!Rc::ptr_eq(&first, &bounded), "what one Service's policy says of its connections is not another's");
    }

    #[test]
    fn what_belongs_to_nobody_is_forgotten() {
        let table = Table::default();
        let held = table.find(&endpoint(Some("api"), |_| ()), &unsaid(), 1);
        let own = table.own(&held);
        table.find(&endpoint(None, |_| ()), &unsaid(), 1);
        table.sweep();
        assert_eq!((table.known.borrow().len(), table.own.borrow().len()), (1, 1));
        drop((held, own));
        table.sweep();
        assert_eq!((table.known.borrow().len(), table.own.borrow().len()), (0, 0));
    }

    /// Nobody connects by it.
    #[derive(Clone)]
    struct Never(Tasks);

    impl Dial for Never {
        fn generation(&self) -> u64 {
            0
        }

        async fn dial(&self, _: &Rc<Streams>, _: u64) -> Result<(), Reason> {
            panic!("no connection is to be made")
        }

        fn runs_on(&self) -> &Tasks {
            &self.0
        }
    }

    /// So many connections to one endpoint, to servers that say nothing.
    async fn connected(table: &Table, tasks: &Tasks, (port, many): (u16, usize)) -> Rc<Connections> {
        let endpoint = endpoint(Some("api"), |endpoint| endpoint.address.set_port(port));
        let connections = table.find(&endpoint, &unsaid(), 1);
        for _ in 0..many {
            let (ours, theirs) = tokio::io::duplex(1 << 10);
            let place = connections.places.take().expect("there is room");
            connections.http2.add((ours, endpoint.address, place), 0, None, tasks).await.expect("it is written");
            tasks.spawn(async move {
                let _silent = theirs;
                std::future::pending::<()>().await;
            });
        }
        connections
    }

    fn run(test: impl Future<Output = ()>) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        tokio::task::LocalSet::new().block_on(&runtime, test);
    }

    #[test]
    fn a_full_table_makes_room_by_what_was_unused_for_the_longest_time() {
        run(async {
            let (table, tasks) = (Table::default(), Tasks::default());
            let half = limits::MESH_CONNECTIONS_MAX / 2;
            let old = connected(&table, &tasks, (1, half)).await;
            table.sweep();
            let new = connected(&table, &tasks, (2, half - 1)).await;
            let open = || (old.http2.len(), new.http2.len());
            assert!(table.make_room() && open() == (half, half - 1), "there is room for one more");
            let last = connected(&table, &tasks, (3, 1)).await;
            assert!(table.make_room(), "it is made");
            assert_eq!((open(), last.http2.len()), ((0, half - 1), 1));
            assert!(table.make_room() && open() == (0, half - 1), "and there is some now");
        });
    }

    #[test]
    fn a_full_table_whose_connections_are_all_in_use_has_no_room_until_one_is_not() {
        run(async {
            let (table, tasks) = (Table::default(), Tasks::default());
            let half = limits::MESH_CONNECTIONS_MAX / 2;
            let one = connected(&table, &tasks, (1, half)).await;
            let two = connected(&table, &tasks, (2, half)).await;
            let stream = |of: &Rc<Connections>| of.http2.ready(0, || Never(tasks.clone())).expect("a stream");
            // An endpoint with one stream on one of its connections is in use.
            let (used, using) = (stream(&one), stream(&two));
            table.sweep();
            assert!(!table.make_room());
            assert_eq!((one.http2.len(), two.http2.len()), (half, half), "nothing was closed for that");
            drop(used);
            assert!(table.make_room());
            assert_eq!((one.http2.len(), two.http2.len()), (0, half));
            drop(using);
        });
    }
}
