//! Makes plans of what discovery says, with pools that all targets of the worker share. A pool lives while a plan or a request
//! uses it; its task then ends, and with it the subscription.

use super::{Answer, Full, Handle, Known, MakeBranch, Plan, State, changed};
use crate::{
    backend::{Pool, endpoint::Table},
    limits,
    resources::Resources,
    telemetry::{Journal, Reason},
};
use remora_api::sync::{Name, Resource};
use remora_model::{BackendId, Outbound, Parent};
use std::{
    cell::RefCell,
    collections::HashMap,
    convert::Infallible,
    rc::{Rc, Weak},
    sync::Arc,
};
use tokio::{sync::oneshot, time::sleep};

/// What tasks need of the directory.
#[derive(Clone)]
pub(super) struct Plans {
    pub(super) handle: Handle,
    pub(super) journal: Rc<Journal>,
    pub(super) resources: Rc<Resources>,
    make: MakeBranch,
    pub(super) connections: Rc<Table>,
    pools: Rc<RefCell<HashMap<BackendId, Weak<Pool>>>>,
}

impl Plans {
    pub(super) fn new(handle: Handle, (resources, make): (Rc<Resources>, MakeBranch), journal: Rc<Journal>) -> Self {
        Self { handle, resources, make, journal, connections: Rc::default(), pools: Rc::default() }
    }

    /// What follows for a target from what is known of it.
    pub(super) async fn answer(&self, state: State) -> Answer {
        let resource = match state {
            State::Silent => return Answer::Silent,
            State::Unusable(detail) => return Answer::Unusable(detail),
            State::Held(resource) => resource,
        };
        let Resource::Outbound(outbound) = &*resource else { return Answer::Silent };
        match &outbound.parent {
            Parent::Outside => Answer::Outside,
            Parent::Unknown => Answer::Unknown,
            Parent::Backend(id) => Answer::Plan(self.plan(id, outbound).await),
        }
    }

    async fn plan(&self, parent: &BackendId, outbound: &Outbound) -> Rc<Plan> {
        let parent = self.pool(parent).await;
        let mut pools = HashMap::from([(parent.id.clone(), parent.clone())]);
        for id in outbound.backends() {
            if *id != parent.id {
                pools.insert(id.clone(), self.pool(id).await);
            }
        }
        Rc::new(Plan::new(
            (&self.resources, self.make),
            self.journal.clone(),
            Arc::new(outbound.clone()),
            parent,
            &pools,
        ))
    }

    /// The backends that plans or requests use now.
    pub(super) fn backends(&self) -> Vec<Rc<Pool>> {
        self.pools.borrow().values().filter_map(Weak::upgrade).collect()
    }

    fn known_pool(&self, id: &BackendId) -> Option<Rc<Pool>> {
        self.pools.borrow().get(id).and_then(Weak::upgrade)
    }

    async fn pool(&self, id: &BackendId) -> Rc<Pool> {
        if let Some(pool) = self.known_pool(id) {
            return pool;
        }
        let (kept, dropped) = oneshot::channel();
        let name = Name::Backend(id.clone());
        let (handle, asked) = (self.handle.clone(), name.clone());
        let doubt = Box::new(move || handle.doubt(asked.clone()));
        let zone = self.handle.zone.clone();
        let told = zone.becomes_known();
        let pool = Rc::new(Pool::new(id.clone(), (doubt, zone), (&self.resources, &self.connections), kept));
        let watched = self.handle.watch(name.clone()).await;
        if let Some(pool) = self.known_pool(id) {
            return pool; // another target was quicker
        }
        let known = match watched {
            Ok(Some(mut known)) => {
                let state = known.borrow_and_update().clone();
                if matches!(state, State::Silent) {
                    self.handle.doubt(name.clone()); // backends come before their targets: this one was lost on the way
                }
                apply(&pool, &state);
                Some(known)
            }
            Ok(None) => return pool,
            Err(Full) => {
                pool.blocked(Reason::Overloaded);
                None
            }
        };
        self.pools.borrow_mut().insert(id.clone(), Rc::downgrade(&pool));
        self.resources.background.spawn(self.clone().keep(Rc::downgrade(&pool), name, known, dropped, told));
        pool
    }

    /// Keeps a pool current until no plan uses it any more. `known`: what there was no room for at first is asked for until
    /// there is. `zone` resolves when ours becomes known.
    async fn keep(
        self,
        pool: Weak<Pool>,
        name: Name,
        mut known: Option<Known>,
        mut dropped: oneshot::Receiver<Infallible>,
        zone: impl Future<Output = ()>,
    ) {
        if known.is_none() {
            known = self.room(&name, &mut dropped).await;
            if let (Some(pool), Some(known)) = (pool.upgrade(), &mut known) {
                let state = known.borrow_and_update().clone();
                pool.blocked(Reason::DiscoverySilent);
                apply(&pool, &state);
            }
        }
        if let Some(mut known) = known {
            // The pool took its endpoints as of no zone, if ours is told late.
            let mut zone = std::pin::pin!(zone);
            let mut zone_is_known = false;
            loop {
                tokio::select! {
                    more = changed(&mut known, &mut dropped) => if !more { break },
                    () = &mut zone, if !zone_is_known => zone_is_known = true,
                }
                let Some(pool) = pool.upgrade() else { break };
                let state = known.borrow_and_update().clone();
                apply(&pool, &state);
            }
        }
        if let Name::Backend(id) = &name
            && self.known_pool(id).is_none()
        {
            self.pools.borrow_mut().remove(id);
        }
        self.handle.unwatch(name).await;
    }

    /// A subscription, as soon as there is room for it. `None`: no plan needs it any more, or the control thread has ended.
    async fn room(&self, name: &Name, dropped: &mut oneshot::Receiver<Infallible>) -> Option<Known> {
        loop {
            tokio::select! {
                () = sleep(limits::DISCOVERY_TIMEOUT) => {}
                _ = &mut *dropped => return None,
            }
            if let Ok(known) = self.handle.watch(name.clone()).await {
                return known;
            }
        }
    }
}

fn apply(pool: &Pool, state: &State) {
    match state {
        State::Held(resource) => {
            if let Resource::Backend(backend) = &**resource {
                pool.update(backend);
            }
        }
        State::Unusable(_) => pool.blocked(Reason::UnusableConfig),
        State::Silent => {}
    }
}
