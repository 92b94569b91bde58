//! A proxy in a test: its connections served as a worker serves them, and discovery played.

use super::net::Incoming;
use crate::{
    account::{Account, Peer},
    config::Config,
    discover::{Command, Directory, Ends, Handle, Link, Networks, State},
    http::{outbound::branch, peers::Peers},
    io::{Prefixed, TcpStream},
    limits,
    resources::Resources,
    tasks::Tasks,
    telemetry::{Journal, Routes},
    tls,
    world::World,
};
use futures_util::FutureExt as _;
use remora_api::sync::{Name, Resource};
use remora_runtime::{drain, tls::Credentials};
use std::{cell::RefCell, collections::BTreeMap, net::SocketAddr, rc::Rc, sync::Arc, time::Duration};
use tokio::{sync::watch, time::sleep};

/// Discovery, as one proxy sees it.
#[derive(Default)]
pub(crate) struct Control(RefCell<BTreeMap<String, watch::Sender<State>>>);

impl Control {
    fn held(&self, name: &Name) -> watch::Receiver<State> {
        let mut held = self.0.borrow_mut();
        held.entry(name.to_string()).or_insert_with(|| watch::Sender::new(State::Silent)).subscribe()
    }

    /// Says it, from now on.
    pub(crate) fn say(&self, resource: Resource) {
        drop(self.held(&resource.name()));
        let held = self.0.borrow();
        if let Some(held) = held.get(&resource.name().to_string()) {
            held.send_replace(State::Held(Arc::new(resource)));
        }
    }
}

/// A proxy.
pub(crate) struct Proxy {
    pub world: Rc<World>,
    pub routes: Arc<Routes>,
    pub drain: drain::Signal,
    pub control: Rc<Control>,
    /// What must outlive it.
    _kept: (watch::Sender<Link>, watch::Sender<Networks>, watch::Sender<Option<Arc<Credentials>>>),
}

impl Proxy {
    /// As a worker makes it.
    pub(crate) fn new(config: Config, credentials: Option<Arc<Credentials>>, seed: u64) -> Self {
        let account = Account::new(256 << 20);
        let (renew, source) = watch::channel(credentials);
        let resources = Rc::new(Resources {
            tls: tls::Store::new(source, &account),
            pod: account.holder(Peer::Pod),
            account,
            config: Arc::new(config),
            tasks: Tasks::default(),
            background: Tasks::default(),
            tokens: Default::default(),
            rng: RefCell::new(fastrand::Rng::with_seed(seed)),
        });
        let (handle, ends) =
            Handle::new(Duration::ZERO, resources.config.networks.clone(), resources.config.settings());
        let Ends { mut commands, link, networks, .. } = ends;
        link.send_replace(Link::Open);
        let control = Rc::new(Control::default());
        let told = control.clone();
        tokio::task::spawn_local(async move {
            while let Some(command) = commands.recv().await {
                if let Command::Watch(name, tell) = command {
                    drop(tell.send(Ok(told.held(&name))));
                }
            }
        });
        let routes = Routes::new("shop/web-1".into());
        let (drain, watch) = drain::channel();
        let world = Rc::new(World {
            directory: Directory::new(handle, resources.clone(), branch, Journal::new(&routes)),
            resources,
            drain: watch,
            peers: Peers::default(),
        });
        let sweeper = world.clone();
        tokio::task::spawn_local(async move {
            loop {
                sleep(limits::IDLE_TIMEOUT).await;
                sweeper.directory.sweep();
            }
        });
        Self { world, routes, drain, control, _kept: (link, networks, renew) }
    }

    /// Serves what comes in, as a worker's listener does, until the proxy drains.
    pub(super) fn listen<F: Future<Output = ()> + 'static>(
        &self,
        mut incoming: Incoming,
        whose: fn(SocketAddr) -> Peer,
        serve: fn(Rc<World>, Prefixed<TcpStream>, SocketAddr) -> F,
    ) {
        let world = self.world.clone();
        tokio::task::spawn_local(async move {
            loop {
                let (stream, from) = tokio::select! {
                    biased;
                    () = world.drain.signaled() => return,
                    accepted = incoming.recv() => match accepted {
                        Some(accepted) => accepted,
                        None => return,
                    },
                };
                let holder = world.resources.account.holder(whose(from));
                let charge = holder.charge(limits::CONNECTION_BYTES);
                let serving = serve(world.clone(), Prefixed::charged(stream, holder), from);
                world.resources.tasks.spawn(serving.map(move |()| drop(charge)));
            }
        });
    }

    /// The sum of a counter over all routes.
    pub(crate) fn counted(&self, name: &str) -> u64 {
        let json = self.routes.json();
        let routes = json["routes"].as_array().into_iter().flatten();
        routes.map(|route| route[name].as_u64().unwrap_or(0)).sum()
    }

    /// Failures of all routes, by reason.
    pub(super) fn failures(&self) -> BTreeMap<String, u64> {
        let json = self.routes.json();
        let mut failures = BTreeMap::new();
        for route in json["routes"].as_array().into_iter().flatten() {
            for (reason, count) in route["failures"].as_object().into_iter().flatten() {
                *failures.entry(reason.clone()).or_default() += count.as_u64().unwrap_or(0);
            }
        }
        failures
    }

    /// How many requests have a record.
    pub(crate) fn ended(&self) -> u64 {
        self.counted("success") + self.counted("cancelled") + self.failures().values().sum::<u64>()
    }

    /// What it holds that it gives back once nothing is under way.
    pub(super) fn held(&self) -> usize {
        self.world.resources.account.used()
    }
}
