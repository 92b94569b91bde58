//! All that one worker knows: targets with their plans, and the ports of its pod.
//!
//! A target is in the table from the first question on, with one subscription, which all who wait for it share. What makes
//! room is nothing that is in use, and nothing that could not be asked for again.

use super::{
    Answer, Full, Handle, Kept, MakeBranch, Plan, Port, Refusal, State, Verdict, Way, changed, plans::Plans,
    ports::Ports, waiting::Waiting,
};
use crate::{
    backend::{
        Pool,
        endpoint::{Table, Upstream},
    },
    first::Habit,
    limits,
    resources::Resources,
    telemetry::{Counters, Direction, Journal, Reason},
};
use remora_api::sync::Name;
use remora_model::Target;
use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    fmt,
    net::SocketAddr,
    rc::Rc,
    time::Duration,
};
use tokio::{
    sync::{Notify, oneshot},
    time::{Instant, sleep},
};

/// A target as a worker knows it; its plan is replaced when discovery says something new.
#[derive(Debug)]
pub(crate) struct Route {
    pub target: Target,
    pub habit: Habit,
    answer: RefCell<Answer>,
    changed: Notify,
    /// When it was used last, by the directory's count of questions.
    used: Cell<u64>,
    /// What keeps the plan current.
    _kept: Kept,
}

impl Route {
    /// The plan of this moment; `None` where the target has none, or none any more.
    pub(crate) fn plan(&self) -> Option<Rc<Plan>> {
        match &*self.answer.borrow() {
            Answer::Plan(plan) => Some(plan.clone()),
            _ => None,
        }
    }

    fn is_answered(&self) -> bool {
        matches!(&*self.answer.borrow(), Answer::Plan(_) | Answer::Outside)
    }

    fn set(&self, answer: Answer) {
        self.answer.replace(answer);
        self.changed.notify_waiters();
    }
}

/// All that one worker knows. Bounded by [`limits::TARGETS_MAX`], which all workers together have; what no connection uses stays
/// within the worker's share.
pub(crate) struct Directory {
    plans: Plans,
    targets: RefCell<HashMap<Target, Rc<Route>>>,
    /// What it keeps where no connection uses it, so that no worker takes the others' room for that.
    share: usize,
    /// Counts questions, to know which target was asked for longest ago.
    asked: Cell<u64>,
    waiting: Waiting,
    ports: Ports,
    /// The counters of what is passed through.
    passed: Rc<Counters>,
}

impl fmt::Debug for Directory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Directory").field("targets", &self.targets.borrow().len()).finish_non_exhaustive()
    }
}

impl Directory {
    /// Knows nothing yet.
    pub(crate) fn new(handle: Handle, resources: Rc<Resources>, make: MakeBranch, journal: Rc<Journal>) -> Self {
        // Never the address: labels come from what discovery vouches for.
        let passed = Rc::new(Counters::new(journal.clone(), Direction::Outbound, "unknown".into(), Vec::new()));
        let share = (limits::TARGETS_MAX / resources.config.workers.max(1)).max(limits::EVICTED_AT_ONCE);
        let plans = Plans::new(handle, (resources, make), journal);
        Self {
            waiting: Waiting::new(limits::WAITING_OUTBOUND_MAX, plans.handle.wanted.clone()),
            ports: Ports::new(plans.clone()),
            plans,
            targets: RefCell::default(),
            share,
            asked: Cell::new(0),
            passed,
        }
    }

    /// This worker's connections to endpoints.
    pub(crate) fn connections(&self) -> &Rc<Table> {
        &self.plans.connections
    }

    /// The backends that plans or requests use now.
    pub(crate) fn backends(&self) -> Vec<Rc<Pool>> {
        self.plans.backends()
    }

    /// The counters of connections that are passed through.
    pub(crate) fn passed(&self) -> &Counters {
        &self.passed
    }

    /// The route to `target` and what may be done with it, where no wait is needed to know.
    pub(crate) fn known(&self, target: &Target) -> Option<(Rc<Route>, Way)> {
        let route = self.targets.borrow().get(target).cloned()?;
        self.touch(&route);
        match self.judge(&route, Duration::ZERO) {
            Verdict::Go(way) => Some((route, way)),
            Verdict::Wait(_) | Verdict::Refuse(_) => None,
        }
    }

    /// The route to `target` and what may be done with it: at once if that is known, else as soon as discovery has said it,
    /// within [`limits::DISCOVERY_WAIT`].
    ///
    /// # Errors
    /// Says why the target cannot be reached for now. Nothing of that is remembered.
    pub(crate) async fn route(&self, target: &Target) -> Result<(Rc<Route>, Way), Refusal> {
        let full =
            |Full| Refusal::new(Reason::Overloaded, format!("no room for {target}: too many targets are in use"));
        let route = self.entry(target).map_err(full)?;
        let way = self.way(&route).await?;
        Ok((route, way))
    }

    /// What may be done with the target of `route`, waiting for it as [`Self::route`] does.
    ///
    /// # Errors
    /// As of [`Self::route`].
    pub(crate) async fn way(&self, route: &Route) -> Result<Way, Refusal> {
        match self.judge(route, Duration::ZERO) {
            Verdict::Go(way) => return Ok(way),
            Verdict::Refuse(refusal) => return Err(self.refused(route, refusal)),
            Verdict::Wait(_) => {}
        }
        let Some(_place) = self.waiting.enter() else {
            return Err(Refusal::new(Reason::Overloaded, "too many connections wait for discovery"));
        };
        self.plans.handle.started(self.plans.handle.start_until.0).await;
        let began = Instant::now();
        loop {
            let mut changed = std::pin::pin!(route.changed.notified());
            changed.as_mut().enable();
            let outcome = match self.judge(route, began.elapsed()) {
                Verdict::Wait(rest) => {
                    tokio::select! {
                        () = changed => {}
                        () = sleep(rest) => {}
                    }
                    continue;
                }
                Verdict::Go(way) => {
                    let passed = matches!(&*route.answer.borrow(), Answer::Silent);
                    waited(if passed { "passed" } else { "answered" });
                    return Ok(way);
                }
                Verdict::Refuse(refusal) => refusal,
            };
            waited("refused");
            return Err(self.refused(route, outcome));
        }
    }

    fn judge(&self, route: &Route, waited: Duration) -> Verdict {
        let answer = route.answer.borrow();
        let unknown = self.plans.handle.settings.borrow().unknown;
        let inside = match &*answer {
            Answer::Plan(_) | Answer::Outside => false, // does not matter
            _ => self.plans.handle.networks.borrow().contain(&route.target),
        };
        answer.judge(&route.target, inside, unknown, waited)
    }

    /// What could not be used is asked for again; ever more seldom.
    fn refused(&self, route: &Route, refusal: Refusal) -> Refusal {
        if refusal.reason == Reason::UnusableConfig {
            self.plans.handle.doubt(Name::Outbound(route.target.clone()));
        }
        refusal
    }

    /// The table's entry of `target`, which may be new.
    fn entry(&self, target: &Target) -> Result<Rc<Route>, Full> {
        if let Some(route) = self.targets.borrow().get(target) {
            self.touch(route);
            return Ok(route.clone());
        }
        self.make_room()?;
        let (kept, dropped) = oneshot::channel();
        let route = Rc::new(Route {
            target: target.clone(),
            habit: Habit::default(),
            answer: RefCell::default(),
            changed: Notify::new(),
            used: Cell::default(),
            _kept: kept,
        });
        self.touch(&route);
        self.targets.borrow_mut().insert(target.clone(), route.clone());
        self.keep(&route, dropped);
        Ok(route)
    }

    /// Keeps a route current, in a task that ends with it.
    fn keep(&self, route: &Rc<Route>, mut dropped: oneshot::Receiver<std::convert::Infallible>) {
        let (weak, plans, name) = (Rc::downgrade(route), self.plans.clone(), Name::Outbound(route.target.clone()));
        self.plans.resources.background.spawn(async move {
            let mut known = loop {
                match plans.handle.watch(name.clone()).await {
                    Ok(Some(known)) => break known,
                    Ok(None) => return,
                    Err(Full) => {
                        let Some(route) = weak.upgrade() else { return };
                        route.set(Answer::Full);
                    }
                }
                tokio::select! {
                    () = sleep(limits::DISCOVERY_TIMEOUT) => {}
                    _ = &mut dropped => return,
                }
            };
            loop {
                let state: State = known.borrow_and_update().clone();
                let answer = plans.answer(state).await;
                let Some(route) = weak.upgrade() else { break };
                route.set(answer);
                drop(route);
                if !changed(&mut known, &mut dropped).await {
                    break;
                }
            }
            drop(known);
            plans.handle.unwatch(name).await;
        });
    }

    fn touch(&self, route: &Route) {
        self.asked.set(self.asked.get() + 1);
        route.used.set(self.asked.get());
    }

    /// Drops a few targets that no connection uses, those without an answer and those longest unused first. While discovery
    /// is down, none that has an answer: the proxy could not get it again. What is in use may take more than the worker's share.
    fn make_room(&self) -> Result<(), Full> {
        let mut targets = self.targets.borrow_mut();
        if targets.len() < self.share {
            return Ok(());
        }
        let connected = self.plans.handle.is_connected();
        let may_go = |route: &Rc<Route>| Rc::strong_count(route) == 1 && (connected || !route.is_answered());
        let idle = targets.values().filter(|route| may_go(route));
        let mut idle: Vec<(bool, u64, Target)> =
            idle.map(|route| (route.is_answered(), route.used.get(), route.target.clone())).collect();
        let count = limits::EVICTED_AT_ONCE.min(idle.len());
        if count == 0 {
            return if targets.len() < limits::TARGETS_MAX { Ok(()) } else { Err(Full) };
        }
        idle.select_nth_unstable(count - 1);
        for (_, _, target) in &idle[..count] {
            targets.remove(target);
        }
        metrics::counter!("remora_discovery_evicted_total").increment(count as u64);
        Ok(())
    }

    #[cfg(test)]
    pub(super) fn is_in_table(&self, target: &Target) -> bool {
        self.targets.borrow().contains_key(target)
    }

    /// The policy of an inbound port.
    ///
    /// # Errors
    /// Says why nothing may come in: discovery has not said the policy in time, or said what could not be used, or too many wait.
    /// The log and a metric say it too.
    pub(crate) async fn port(&self, number: u16) -> Result<Rc<Port>, Refusal> {
        self.ports.find(number).await.inspect_err(|Refusal { reason, detail }| {
            let reason = reason.as_str();
            metrics::counter!("remora_discovery_ports_refused_total", "reason" => reason).increment(1);
            remora_runtime::limited!(warn by reason, port = number, reason, %detail, "connections to a port are refused");
        })
    }

    /// The policy of an inbound port, if it is known.
    pub(crate) fn known_port(&self, number: u16) -> Option<Rc<Port>> {
        self.ports.known(number)
    }

    /// The application behind `port`; made by `make` when it is new or was reached at another address.
    pub(crate) fn app(&self, port: &Port, address: SocketAddr, make: impl FnOnce() -> Rc<Upstream>) -> Rc<Upstream> {
        port.app(address, make)
    }

    /// Closes connections that were idle for too long, and remembers which targets are in use. For the worker to call now
    /// and then.
    pub(crate) fn sweep(&self) {
        for route in self.targets.borrow().values().filter(|route| Rc::strong_count(route) > 1) {
            self.touch(route);
        }
        self.plans.connections.sweep();
        self.ports.sweep();
    }
}

fn waited(outcome: &'static str) {
    metrics::counter!("remora_discovery_waits_total", "outcome" => outcome).increment(1);
}
