//! The ports of the pod, as a worker knows them. Those that are declared have a subscription each; all others share one, its
//! counters and its bound, so that connections to arbitrary ports cost no more than connections.

use super::{Kept, Refusal, State, changed, plans::Plans, waiting::Waiting};
use crate::{
    backend::endpoint::Upstream,
    first::Habit,
    jwt, limits, policy,
    telemetry::{Counters, Reason},
    traffic,
};
use remora_api::sync::{Name, Resource};
use remora_model::Inbound;
use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    net::SocketAddr,
    rc::{Rc, Weak},
    sync::Arc,
};
use tokio::{
    sync::{Notify, oneshot, watch},
    time::{Instant, sleep, timeout_at},
};

/// An inbound port as a worker knows it.
#[derive(Debug)]
pub(crate) struct Port {
    /// Which port of the pod. Its policy may be that of all undeclared ones, which names none.
    pub number: u16,
    policy: policy::Current,
    /// What bounds or disturbs what policy lets in.
    pub traffic: Rc<traffic::Current>,
    shared: traffic::Shared,
    pub habit: Habit,
    pub signals: Rc<Counters>,
    /// The application behind it, with this worker's connections to it.
    app: RefCell<Option<Rc<Upstream>>>,
    /// Whether the pod is about to end.
    ending: watch::Sender<bool>,
    /// Ports of the same number, from before it was declared, which connections still use.
    followers: RefCell<Vec<Weak<Self>>>,
    used: Cell<u64>,
    /// What keeps the policy current, where it is the port's own.
    _kept: Option<Kept>,
}

impl Port {
    fn new(
        number: u16,
        (policy, shared): (Rc<policy::Policy>, &traffic::Shared),
        signals: Rc<Counters>,
        kept: Option<Kept>,
    ) -> Rc<Self> {
        let traffic = Rc::<traffic::Current>::default();
        traffic.set(shared.compile(policy.inbound().port, &policy.inbound().traffic));
        Rc::new(Self {
            number,
            traffic,
            shared: shared.clone(),
            ending: watch::Sender::new(policy.inbound().ending),
            policy: policy::Current::new(policy),
            habit: Habit::default(),
            signals,
            app: RefCell::default(),
            followers: RefCell::default(),
            used: Cell::default(),
            _kept: kept,
        })
    }

    /// A port of which discovery says this.
    #[cfg(test)]
    pub(crate) fn of_tests(inbound: Inbound, signals: Rc<Counters>) -> Rc<Self> {
        let policy = compiled(Arc::new(inbound), &jwt::Memory::default(), None);
        Self::new(policy.inbound().port, (policy, &traffic::Shared::default()), signals, None)
    }

    /// Discovery says something else.
    #[cfg(test)]
    pub(crate) fn says(&self, inbound: Inbound) {
        self.set(&compiled(Arc::new(inbound), &jwt::Memory::default(), Some(&self.policy())));
    }

    /// What discovery says at this moment.
    pub(crate) fn inbound(&self) -> Arc<Inbound> {
        self.policy.get().inbound().clone()
    }

    /// The policy made of it.
    pub(crate) fn policy(&self) -> Rc<policy::Policy> {
        self.policy.get()
    }

    /// Changes of the policy from now on.
    pub(crate) fn changes(&self) -> policy::Changes {
        self.policy.changes()
    }

    /// Whether the pod is about to end.
    pub(crate) fn is_ending(&self) -> bool {
        *self.ending.borrow()
    }

    /// Returns when the pod is about to end.
    pub(crate) async fn ending(&self) {
        // The sender is our own.
        let _ended = self.ending.subscribe().wait_for(|ending| *ending).await.is_err();
    }

    pub(super) fn app(&self, address: SocketAddr, make: impl FnOnce() -> Rc<Upstream>) -> Rc<Upstream> {
        if let Some(app) = self.app.borrow().as_ref().filter(|app| app.endpoint.address == address) {
            return app.clone();
        }
        let app = make();
        *self.app.borrow_mut() = Some(app.clone());
        app
    }

    fn set(&self, policy: &Rc<policy::Policy>) {
        let (now, before) = (policy.inbound(), self.inbound());
        self.ending.send_replace(now.ending);
        if (now.port, &now.traffic) != (before.port, &before.traffic) {
            self.traffic.set(self.shared.compile(now.port, &now.traffic));
        }
        self.policy.set(policy.clone());
        let mut followers = self.followers.borrow_mut();
        followers.retain(|follower| follower.upgrade().inspect(|follower| follower.set(policy)).is_some());
    }
}

/// What holds for all ports that are not declared.
struct Default {
    policy: Rc<policy::Policy>,
    /// In order.
    declared: Vec<u16>,
    signals: Rc<Counters>,
}

/// The ports of the pod.
pub(super) struct Ports(Rc<Inner>);

struct Inner {
    plans: Plans,
    /// Declared ports.
    own: RefCell<HashMap<u16, Rc<Port>>>,
    /// The others that connections use, and some that were used lately.
    others: RefCell<HashMap<u16, Rc<Port>>>,
    /// How many of the others there may be before idle ones are looked for.
    others_max: Cell<usize>,
    used: Cell<u64>,
    default: RefCell<Result<Rc<Default>, Refusal>>,
    /// Told when `default` changes.
    told: Notify,
    /// Whether a task keeps `default` current.
    watched: Cell<bool>,
    waiting: Waiting,
}

impl Ports {
    pub(super) fn new(plans: Plans) -> Self {
        Self(Rc::new(Inner {
            waiting: Waiting::new(limits::WAITING_INBOUND_MAX, plans.handle.wanted.clone()),
            plans,
            own: RefCell::default(),
            others: RefCell::default(),
            others_max: Cell::new(limits::UNDECLARED_PORTS_IDLE_MAX),
            used: Cell::default(),
            default: RefCell::new(Err(silent("the ports of this pod"))),
            told: Notify::new(),
            watched: Cell::default(),
        }))
    }

    /// The port, if it is known.
    pub(super) fn known(&self, number: u16) -> Option<Rc<Port>> {
        let port = self.0.own.borrow().get(&number).cloned();
        port.or_else(|| self.0.other(number))
    }

    /// The port, within [`limits::DISCOVERY_TIMEOUT`] of the start or of now.
    pub(super) async fn find(&self, number: u16) -> Result<Rc<Port>, Refusal> {
        match self.known(number) {
            Some(port) => Ok(port),
            None => self.0.clone().find(number).await,
        }
    }

    /// Closes idle connections to the application, and forgets ports that are neither declared nor used any more.
    pub(super) fn sweep(&self) {
        let declared = self.0.default.borrow().as_ref().ok().cloned();
        self.0.own.borrow_mut().retain(|number, port| {
            declared.as_ref().is_none_or(|default| default.declares(*number)) || Rc::strong_count(port) > 1
        });
        for port in self.0.own.borrow().values().chain(self.0.others.borrow().values()) {
            port.app.borrow().iter().for_each(|app| app.sweep());
        }
    }
}

impl Default {
    fn declares(&self, number: u16) -> bool {
        self.declared.binary_search(&number).is_ok()
    }
}

fn silent(what: &str) -> Refusal {
    Refusal::new(Reason::DiscoverySilent, format!("discovery has not said what rules {what}"))
}

impl Inner {
    async fn find(self: Rc<Self>, number: u16) -> Result<Rc<Port>, Refusal> {
        let known = self.default.borrow().clone();
        match known {
            // There is no subscription, so nothing waits for discovery: a client that tries every port causes no work.
            Ok(default) if !default.declares(number) => return Ok(self.undeclared(number, &default)),
            Err(refusal) if refusal.reason != Reason::DiscoverySilent => {
                self.plans.handle.doubt(Name::InboundDefault);
                return Err(refusal);
            }
            Ok(_) | Err(_) => {}
        }
        let Some(_place) = self.waiting.enter() else {
            return Err(Refusal::new(Reason::Overloaded, "too many connections wait for discovery"));
        };
        self.watch_default();
        self.plans.handle.started(self.plans.handle.start_until.1).await;
        let until = Instant::now() + limits::DISCOVERY_TIMEOUT;
        let default = match timeout_at(until, self.default()).await {
            Ok(default) => default?,
            Err(_) => return Err(silent("the ports of this pod")),
        };
        if !default.declares(number) {
            return Ok(self.undeclared(number, &default));
        }
        match timeout_at(until, self.declared(number)).await {
            Ok(port) => port,
            Err(_) => Err(silent(&format!("port {number}"))),
        }
    }

    /// What holds for undeclared ports, once that is known.
    async fn default(&self) -> Result<Rc<Default>, Refusal> {
        loop {
            let told = self.told.notified();
            match &*self.default.borrow() {
                Err(Refusal { reason: Reason::DiscoverySilent, .. }) => {}
                known => return known.clone(),
            }
            told.await;
        }
    }

    fn other(&self, number: u16) -> Option<Rc<Port>> {
        let port = self.others.borrow().get(&number).cloned()?;
        self.used.set(self.used.get() + 1);
        port.used.set(self.used.get());
        Some(port)
    }

    fn undeclared(&self, number: u16, default: &Default) -> Rc<Port> {
        if let Some(port) = self.other(number) {
            return port; // another connection was quicker
        }
        self.make_room();
        let policy = (default.policy.clone(), &self.plans.handle.traffic);
        let port = Port::new(number, policy, default.signals.clone(), None);
        self.others.borrow_mut().insert(number, port.clone());
        port
    }

    /// Drops the undeclared ports that no connection uses but for the last few.
    fn make_room(&self) {
        let mut others = self.others.borrow_mut();
        if others.len() < self.others_max.get() {
            return;
        }
        let idle = others.values().filter(|port| Rc::strong_count(port) == 1);
        let mut idle: Vec<(u64, u16)> = idle.map(|port| (port.used.get(), port.number)).collect();
        // Half of what may stay, so that it is not looked for each time.
        let surplus = idle.len().saturating_sub(limits::UNDECLARED_PORTS_IDLE_MAX / 2);
        if surplus > 0 {
            idle.select_nth_unstable(surplus - 1);
            for (_, number) in &idle[..surplus] {
                others.remove(number);
            }
        }
        self.others_max.set(others.len() + limits::UNDECLARED_PORTS_IDLE_MAX / 2);
    }

    /// The port by a subscription of its own.
    async fn declared(self: &Rc<Self>, number: u16) -> Result<Rc<Port>, Refusal> {
        let full = |super::Full| Refusal::new(Reason::Overloaded, format!("no room for port {number}"));
        let name = Name::Inbound(number);
        let Some(mut known) = self.plans.handle.watch(name.clone()).await.map_err(full)? else {
            return Err(silent(&format!("port {number}")));
        };
        let inbound = loop {
            match known.borrow_and_update().clone() {
                State::Held(resource) => break as_inbound(&resource),
                State::Unusable(detail) => {
                    self.plans.handle.doubt(name);
                    return Err(Refusal::new(Reason::UnusableConfig, detail));
                }
                State::Silent => {}
            }
            if known.changed().await.is_err() {
                return Err(silent(&format!("port {number}")));
            }
        };
        let Some(inbound) = inbound else { return Err(silent(&format!("port {number}"))) };
        if let Some(port) = self.own.borrow().get(&number) {
            return Ok(port.clone()); // another connection was quicker
        }
        let (kept, mut dropped) = oneshot::channel();
        let signals = Rc::new(Counters::inbound(self.plans.journal.clone(), inbound.parent.clone()));
        let tokens = self.plans.resources.tokens.clone();
        let policy = compiled(inbound, &tokens, None);
        let port = Port::new(number, (policy, &self.plans.handle.traffic), signals, Some(kept));
        self.own.borrow_mut().insert(number, port.clone());
        let (weak, handle) = (Rc::downgrade(&port), self.plans.handle.clone());
        self.plans.resources.background.spawn(async move {
            while changed(&mut known, &mut dropped).await {
                let Some(port) = weak.upgrade() else { break };
                if let State::Held(resource) = &*known.borrow_and_update()
                    && let Some(inbound) = as_inbound(resource)
                {
                    port.set(&compiled(inbound, &tokens, Some(&port.policy())));
                }
            }
            drop(known);
            handle.unwatch(name).await;
        });
        Ok(port)
    }

    /// Keeps what holds for undeclared ports current, in a task of the worker.
    fn watch_default(self: &Rc<Self>) {
        if self.watched.replace(true) {
            return;
        }
        let inner = self.clone();
        self.plans.resources.background.spawn(async move {
            let Ok(Some(mut known)) = inner.plans.handle.watch(Name::InboundDefault).await else {
                inner.watched.set(false); // the next connection asks again
                return;
            };
            loop {
                let state = known.borrow_and_update().clone();
                inner.take_default(&state);
                if known.changed().await.is_err() {
                    return;
                }
            }
        });
    }

    fn take_default(self: &Rc<Self>, state: &State) {
        let new = match state {
            State::Silent => return,
            State::Unusable(detail) => Err(Refusal::new(Reason::UnusableConfig, detail.clone())),
            State::Held(resource) => match &**resource {
                Resource::InboundDefault(default) => {
                    let parent = default.inbound.parent.clone();
                    let before = self.default.borrow().as_ref().ok().map(|default| default.signals.clone());
                    let signals = before.filter(|signals| signals.parent() == &*parent);
                    let new = || Rc::new(Counters::inbound(self.plans.journal.clone(), parent));
                    let before = self.default.borrow().as_ref().ok().map(|default| default.policy.clone());
                    let tokens = &self.plans.resources.tokens;
                    let policy = compiled(Arc::new(default.inbound.clone()), tokens, before.as_deref());
                    let declared = default.declared.clone();
                    Ok(Rc::new(Default { policy, declared, signals: signals.unwrap_or_else(new) }))
                }
                _ => return,
            },
        };
        if let Ok(default) = &new {
            self.others.borrow_mut().retain(|number, port| {
                if !default.declares(*number) {
                    port.set(&default.policy);
                } else if Rc::strong_count(port) > 1 {
                    self.adopt(port);
                }
                !default.declares(*number)
            });
        }
        *self.default.borrow_mut() = new;
        self.told.notify_waiters();
    }

    /// Has a port that was not declared, and that connections use, follow the policy that it has now.
    fn adopt(self: &Rc<Self>, port: &Rc<Port>) {
        let (number, old, inner) = (port.number, Rc::downgrade(port), self.clone());
        self.plans.resources.background.spawn(async move {
            while old.strong_count() > 0 {
                let new = timeout_at(Instant::now() + limits::DISCOVERY_WAIT, inner.declared(number)).await;
                if let (Ok(Ok(new)), Some(old)) = (new, old.upgrade()) {
                    old.set(&new.policy());
                    new.followers.borrow_mut().push(Rc::downgrade(&old));
                    return;
                }
                sleep(limits::DISCOVERY_TIMEOUT).await;
            }
        });
    }
}

/// With what is known of issuers' keys `before`.
fn compiled(inbound: Arc<Inbound>, tokens: &jwt::Memory, before: Option<&policy::Policy>) -> Rc<policy::Policy> {
    Rc::new(policy::Policy::new(inbound, tokens, before))
}

fn as_inbound(resource: &Resource) -> Option<Arc<Inbound>> {
    match resource {
        Resource::Inbound(inbound) => Some(Arc::new(inbound.clone())),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
