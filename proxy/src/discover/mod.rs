//! Stage 2 of 8: discover. In: a target, a backend or a port. Out: what discovery says of it, as plans that a worker
//! can act on at once, kept current by tasks of the worker. What is known stays when discovery is lost.
//!
//! [`client`] runs on the control thread and holds the one stream; workers subscribe through a [`Handle`].

pub mod client;
mod plan;

pub use plan::{Branch, Entered, Plan, Pool, Signals};

use crate::{config::Config, first::Habit, http::client::Upstream, limits, telemetry::Routes, worker::Tasks};
use remora_api::sync::{Name, Resource};
use remora_model::{BackendId, Inbound, Outbound, Target};
use std::{
    cell::RefCell,
    collections::HashMap,
    convert::Infallible,
    fmt,
    net::SocketAddr,
    rc::Rc,
    sync::{Arc, OnceLock},
    time::Duration,
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::Instant,
};

/// What is known of a resource: nothing yet, or its latest state.
pub type Known = watch::Receiver<Option<Arc<Resource>>>;

/// What a worker asks the control thread.
#[derive(Debug)]
pub enum Command {
    /// Subscribe, and tell where to read.
    Watch(Name, oneshot::Sender<Known>),
    /// Nobody of the asking worker needs it any more.
    Unwatch(Name),
    /// What is known does not work (connections fail): ask again.
    Doubt(Name),
}

/// The topology zone of our pod: as configured, else as discovery says once, which knows the pod's node.
#[derive(Debug, Clone, Default)]
pub struct Zone(Arc<OnceLock<Arc<str>>>);

impl Zone {
    /// What is told first counts: a pod never moves. Nothing is no news.
    pub fn tell(&self, zone: Arc<str>) {
        if !zone.is_empty() {
            self.0.get_or_init(|| zone);
        }
    }

    /// Whether `other` is our zone.
    pub fn is(&self, other: &str) -> bool {
        self.0.get().is_some_and(|own| **own == *other)
    }
}

/// The way from a worker to the control thread. Bounded; a full queue makes workers wait.
#[derive(Debug, Clone)]
pub struct Handle {
    commands: mpsc::Sender<Command>,
    connected: watch::Receiver<bool>,
    /// Until when a process that has just started is waited for to have its certificate and its stream: for what leaves
    /// the pod, and for what comes in.
    start_until: (Instant, Instant),
    /// Where we are.
    pub zone: Zone,
}

impl Handle {
    /// A handle, the end that [`client`] reads, and where that tells whether its stream is open. Until it is, but not
    /// longer than `patience` from now, connections are held: an application may start before its proxy is ready, and
    /// neither plaintext nor a refusal is what it should meet then.
    pub fn new(patience: Duration) -> (Self, mpsc::Receiver<Command>, watch::Sender<bool>) {
        let (commands, receiver) = mpsc::channel(1024);
        let (tell, connected) = watch::channel(false);
        let now = Instant::now();
        let start_until = (now + patience, now + patience.min(limits::START_PATIENCE_INBOUND));
        (Self { commands, connected, start_until, zone: Zone::default() }, receiver, tell)
    }

    /// Waits for the stream, if the process has just started. Cancel safe.
    async fn started(&self, name: &Name) {
        let mut connected = self.connected.clone();
        let open = connected.wait_for(|connected| *connected);
        let (outbound, inbound) = self.start_until;
        let until = if matches!(name, Name::Inbound(_)) { inbound } else { outbound };
        // Neither end of the wait is an error: what is not known by then is treated as unknown.
        drop(tokio::time::timeout_at(until, open).await);
    }

    async fn watch(&self, name: Name) -> Option<Known> {
        let (tell, told) = oneshot::channel();
        self.commands.send(Command::Watch(name, tell)).await.ok()?;
        told.await.ok()
    }

    /// Says that nobody here reads `name` any more.
    async fn unwatch(&self, name: Name) {
        drop(self.commands.send(Command::Unwatch(name)).await);
    }

    /// Says that connections to what `name` names fail. Never waits; a full queue has heard enough.
    pub fn doubt(&self, name: Name) {
        drop(self.commands.try_send(Command::Doubt(name)));
    }
}

/// A target as a worker knows it; its plan is replaced when discovery says something new.
#[derive(Debug)]
pub struct Route {
    pub target: Target,
    pub habit: Habit,
    plan: RefCell<Rc<Plan>>,
    /// What keeps the plan current, if anything does.
    _kept: Option<Kept>,
}

/// Dropped, it ends the task that keeps something current, which then unsubscribes.
type Kept = oneshot::Sender<Infallible>;

impl Route {
    fn new(target: Target, plan: Rc<Plan>, kept: Option<Kept>) -> Rc<Self> {
        Rc::new(Self { target, habit: Habit::default(), plan: RefCell::new(plan), _kept: kept })
    }

    /// The plan of this moment.
    pub fn plan(&self) -> Rc<Plan> {
        self.plan.borrow().clone()
    }
}

/// An inbound port as a worker knows it.
#[derive(Debug)]
pub struct Port {
    inbound: RefCell<Arc<Inbound>>,
    pub habit: Habit,
    pub signals: Signals,
    /// The application behind it, with this worker's connections to it.
    app: RefCell<Option<Rc<Upstream>>>,
    /// Whether the pod is about to end.
    ending: watch::Sender<bool>,
    _kept: Kept,
}

impl Port {
    /// The policy of this moment.
    pub fn inbound(&self) -> Arc<Inbound> {
        self.inbound.borrow().clone()
    }

    /// Whether the pod is about to end.
    pub fn is_ending(&self) -> bool {
        *self.ending.borrow()
    }

    /// Returns when the pod is about to end.
    pub async fn ending(&self) {
        // The sender is our own.
        let _ended = self.ending.subscribe().wait_for(|ending| *ending).await.is_err();
    }
}

/// All that one worker knows. Bounded by [`limits::TARGETS_MAX`].
pub struct Directory {
    handle: Handle,
    tasks: Tasks,
    routes: Arc<Routes>,
    config: Arc<Config>,
    targets: RefCell<HashMap<Target, Rc<Route>>>,
    pools: Rc<RefCell<HashMap<BackendId, Rc<Pool>>>>,
    ports: RefCell<HashMap<u16, Rc<Port>>>,
}

impl fmt::Debug for Directory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Directory").field("targets", &self.targets.borrow().len()).finish_non_exhaustive()
    }
}

impl Directory {
    /// Knows nothing yet.
    pub fn new(handle: Handle, tasks: Tasks, routes: Arc<Routes>, config: Arc<Config>) -> Self {
        Self {
            handle,
            tasks,
            routes,
            config,
            targets: RefCell::default(),
            pools: Rc::default(),
            ports: RefCell::default(),
        }
    }

    /// The route to `target`: at once if it is known, else after discovery's first answer, or as an unknown target
    /// when that does not come in [`limits::DISCOVERY_TIMEOUT`].
    pub async fn route(&self, target: &Target) -> Rc<Route> {
        if let Some(route) = self.known_route(target) {
            return route;
        }
        let plans = Plans { directory: self.parts() };
        let Some(mut known) = self.first(Name::Outbound(target.clone())).await else {
            return Route::new(target.clone(), plans.unknown(target), None);
        };
        let outbound = known.borrow_and_update().clone();
        let (kept, mut dropped) = oneshot::channel();
        let route = Route::new(target.clone(), plans.make(outbound, target).await, Some(kept));
        if let Some(route) = self.targets.borrow().get(target) {
            return route.clone(); // another connection was quicker
        }
        self.make_room();
        self.targets.borrow_mut().insert(target.clone(), route.clone());
        let (weak, name) = (Rc::downgrade(&route), Name::Outbound(target.clone()));
        self.tasks.spawn(async move {
            while changed(&mut known, &mut dropped).await {
                let Some(route) = weak.upgrade() else { break };
                let outbound = known.borrow_and_update().clone();
                let plan = plans.make(outbound, &route.target).await;
                route.plan.replace(plan);
            }
            drop(known);
            plans.directory.handle.unwatch(name).await;
        });
        route
    }

    /// The route to `target`, if it is known.
    pub fn known_route(&self, target: &Target) -> Option<Rc<Route>> {
        self.targets.borrow().get(target).cloned()
    }

    /// The policy of an inbound port. `None` when discovery has not said anything in time: nothing may come in then.
    pub async fn port(&self, port: u16) -> Option<Rc<Port>> {
        if let Some(port) = self.known_port(port) {
            return Some(port);
        }
        let mut known = self.first(Name::Inbound(port)).await?;
        let inbound = as_inbound(known.borrow_and_update().clone())?;
        let signals = Signals::inbound(self.routes.clone(), inbound.parent.clone());
        let (kept, mut dropped) = oneshot::channel();
        let ending = watch::Sender::new(inbound.ending);
        let (inbound, app) = (RefCell::new(inbound), RefCell::default());
        let state = Rc::new(Port { inbound, habit: Habit::default(), signals, app, ending, _kept: kept });
        if self.ports.borrow().len() >= limits::TARGETS_MAX {
            self.ports.borrow_mut().retain(|_, port| Rc::strong_count(port) > 1);
        }
        self.ports.borrow_mut().insert(port, state.clone());
        let (weak, handle) = (Rc::downgrade(&state), self.handle.clone());
        self.tasks.spawn(async move {
            while changed(&mut known, &mut dropped).await {
                let Some(state) = weak.upgrade() else { break };
                if let Some(inbound) = as_inbound(known.borrow_and_update().clone()) {
                    state.ending.send_replace(inbound.ending);
                    state.inbound.replace(inbound);
                }
            }
            drop(known);
            handle.unwatch(Name::Inbound(port)).await;
        });
        Some(state)
    }

    /// The policy of an inbound port, if it is known.
    pub fn known_port(&self, port: u16) -> Option<Rc<Port>> {
        self.ports.borrow().get(&port).cloned()
    }

    /// The application behind `port`; made by `make` when it is new or was reached at another address.
    pub fn app(&self, port: &Port, address: SocketAddr, make: impl FnOnce() -> Rc<Upstream>) -> Rc<Upstream> {
        if let Some(app) = port.app.borrow().as_ref().filter(|app| app.endpoint.address == address) {
            return app.clone();
        }
        let app = make();
        *port.app.borrow_mut() = Some(app.clone());
        app
    }

    /// Says that no endpoint of `backend` can be reached.
    pub fn doubt(&self, backend: &BackendId) {
        self.handle.doubt(Name::Backend(backend.clone()));
    }

    /// Closes connections that were idle for too long. For the worker to call now and then.
    pub fn sweep(&self) {
        for pool in self.pools.borrow().values() {
            pool.upstreams().iter().for_each(|upstream| upstream.sweep());
        }
        for port in self.ports.borrow().values() {
            port.app.borrow().iter().for_each(|app| app.sweep());
        }
    }

    async fn first(&self, name: Name) -> Option<Known> {
        first(&self.handle, name).await
    }

    fn parts(&self) -> Parts {
        Parts {
            handle: self.handle.clone(),
            tasks: self.tasks.clone(),
            routes: self.routes.clone(),
            pools: self.pools.clone(),
            config: self.config.clone(),
        }
    }

    /// Drops targets that no connection uses when there are too many.
    fn make_room(&self) {
        let mut targets = self.targets.borrow_mut();
        if targets.len() < limits::TARGETS_MAX {
            return;
        }
        targets.retain(|_, route| Rc::strong_count(route) > 1);
    }
}

/// What tasks need of the directory.
#[derive(Clone)]
struct Parts {
    handle: Handle,
    tasks: Tasks,
    routes: Arc<Routes>,
    pools: Rc<RefCell<HashMap<BackendId, Rc<Pool>>>>,
    config: Arc<Config>,
}

struct Plans {
    directory: Parts,
}

impl Plans {
    fn unknown(&self, target: &Target) -> Rc<Plan> {
        Rc::new(Plan::unknown(self.directory.routes.clone(), target))
    }

    async fn make(&self, resource: Option<Arc<Resource>>, target: &Target) -> Rc<Plan> {
        let Some(outbound) = as_outbound(resource) else { return self.unknown(target) };
        let mut pools = HashMap::new();
        for id in outbound.backends() {
            pools.insert(id.clone(), self.pool(id).await);
        }
        Rc::new(Plan::new(self.directory.routes.clone(), outbound, &pools))
    }

    async fn pool(&self, id: &BackendId) -> Rc<Pool> {
        let parts = &self.directory;
        if let Some(pool) = parts.pools.borrow().get(id) {
            return pool.clone();
        }
        let pool = Rc::new(Pool::new(id.clone(), parts.handle.zone.clone(), &parts.config));
        let Some(mut known) = first(&parts.handle, Name::Backend(id.clone())).await else { return pool };
        apply(&pool, known.borrow_and_update().clone());
        if let Some(pool) = parts.pools.borrow().get(id) {
            return pool.clone(); // another connection was quicker
        }
        self.make_room();
        // Only now: whoever finds it takes it for complete.
        parts.pools.borrow_mut().insert(id.clone(), pool.clone());
        let kept = Rc::downgrade(&pool);
        parts.tasks.spawn(async move {
            while known.changed().await.is_ok() {
                let Some(pool) = kept.upgrade() else { break };
                apply(&pool, known.borrow_and_update().clone());
            }
        });
        pool
    }
}

impl Plans {
    /// Drops pools that no plan uses when there are too many.
    fn make_room(&self) {
        let mut pools = self.directory.pools.borrow_mut();
        if pools.len() < limits::TARGETS_MAX {
            return;
        }
        pools.retain(|id, pool| {
            let used = Rc::strong_count(pool) > 1;
            if !used {
                drop(self.directory.handle.commands.try_send(Command::Unwatch(Name::Backend(id.clone()))));
            }
            used
        });
    }
}

/// Waits for news; false when there will be none, or when nobody wants them any more.
async fn changed(known: &mut Known, dropped: &mut oneshot::Receiver<Infallible>) -> bool {
    tokio::select! {
        changed = known.changed() => changed.is_ok(),
        _ = dropped => false,
    }
}

/// Subscribes and waits for the first answer.
async fn first(handle: &Handle, name: Name) -> Option<Known> {
    handle.started(&name).await;
    let wait = async {
        let mut known = handle.watch(name).await?;
        known.wait_for(Option::is_some).await.ok()?;
        Some(known)
    };
    tokio::time::timeout(limits::DISCOVERY_TIMEOUT, wait).await.ok().flatten()
}

fn apply(pool: &Pool, resource: Option<Arc<Resource>>) {
    if let Some(Resource::Backend(backend)) = resource.as_deref() {
        pool.update(backend);
    }
}

fn as_outbound(resource: Option<Arc<Resource>>) -> Option<Arc<Outbound>> {
    match &*resource? {
        Resource::Outbound(outbound) => Some(Arc::new(outbound.clone())),
        _ => None,
    }
}

fn as_inbound(resource: Option<Arc<Resource>>) -> Option<Arc<Inbound>> {
    match &*resource? {
        Resource::Inbound(inbound) => Some(Arc::new(inbound.clone())),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use remora_model::Protocol;

    fn outbound(target: &Target) -> Arc<Resource> {
        let (matches, rules) = (Vec::new(), Vec::new());
        let protocol = Protocol::Detect;
        Arc::new(Resource::Outbound(Outbound { target: target.clone(), parent: None, protocol, matches, rules }))
    }

    #[tokio::test(flavor = "current_thread")]
    async fn targets_that_nobody_uses_any_more_are_unsubscribed() {
        tokio::task::LocalSet::new().run_until(check_unsubscription()).await;
    }

    #[tokio::test(flavor = "current_thread")]
    async fn while_the_process_starts_nothing_is_taken_for_unknown() {
        tokio::task::LocalSet::new().run_until(check_start()).await;
    }

    async fn check_start() {
        let (handle, mut commands, connected) = Handle::new(limits::START_PATIENCE);
        let config = Arc::new(crate::config::tests::least());
        let directory = Directory::new(handle, Tasks::default(), Routes::new("shop/web-1".into()), config);
        let target = Target::Address(SocketAddr::from(([192, 0, 2, 1], 80)));
        let answer = async |commands: &mut mpsc::Receiver<Command>| {
            let Some(Command::Watch(_, tell)) = commands.recv().await else { panic!("no subscription") };
            tell.send(watch::Sender::new(Some(outbound(&target))).subscribe()).unwrap();
        };
        tokio::join!(directory.route(&target), async {
            assert!(commands.try_recv().is_err(), "the time of an answer begins once there is who could answer");
            connected.send_replace(true);
            answer(&mut commands).await;
        });
        assert!(directory.known_route(&target).is_some());

        let (handle, mut commands, _disconnected) = Handle::new(Duration::ZERO);
        let config = Arc::new(crate::config::tests::least());
        let directory = Directory::new(handle, Tasks::default(), Routes::new("shop/web-1".into()), config);
        tokio::join!(directory.route(&target), answer(&mut commands));
        assert!(directory.known_route(&target).is_some(), "later, nobody waits for a stream");
    }

    async fn check_unsubscription() {
        let (handle, mut commands, _) = Handle::new(Duration::ZERO);
        let config = Arc::new(crate::config::tests::least());
        let directory = Directory::new(handle, Tasks::default(), Routes::new("shop/web-1".into()), config);
        let target = |port: usize| Target::Address(SocketAddr::from(([192, 0, 2, 1], u16::try_from(port).unwrap())));
        let mut known = Vec::new();
        let mut used = None;
        for port in 1..=limits::TARGETS_MAX + 1 {
            let target = target(port);
            let (route, ()) = tokio::join!(directory.route(&target), async {
                let Some(Command::Watch(name, tell)) = commands.recv().await else { panic!("no subscription") };
                assert_eq!(name, Name::Outbound(target.clone()));
                let state = watch::Sender::new(Some(outbound(&target)));
                tell.send(state.subscribe()).unwrap();
                known.push(state);
            });
            used.get_or_insert(route);
        }
        for _ in 1..limits::TARGETS_MAX {
            let Some(Command::Unwatch(name)) = commands.recv().await else { panic!("nothing is unsubscribed") };
            let Name::Outbound(gone) = name else { panic!("{name}") };
            assert_eq!(known[usize::from(gone.port()) - 1].receiver_count(), 0, "nobody reads it any more");
        }
        assert_eq!(known[0].receiver_count(), 1, "one is still in use");
        assert!(directory.known_route(&target(1)).is_some() && directory.known_route(&target(2)).is_none());
    }
}
