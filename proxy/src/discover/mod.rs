//! Stage 2 of 8: discover. In: a target, a backend or a port. Out: what discovery says of it, as plans that a worker
//! can act on at once, kept current by tasks of the worker. What is known stays when discovery is lost, and what is not
//! known is refused in the end rather than waved through: see [`Answer`].
//!
//! [`client`] runs on the control thread and holds the one stream; workers subscribe through a [`Handle`].

mod answers;
pub(crate) mod client;
mod directory;
mod networks;
mod plan;
mod plans;
mod ports;
mod settings;
mod shares;
mod store;
mod waiting;

pub(crate) use answers::MakeAnswer;
pub(crate) use directory::{Directory, Route};
pub(crate) use networks::{Answer, Networks, Refusal, Verdict, Way};
pub(crate) use plan::{BranchSpec, MakeBranch, Plan};
pub(crate) use ports::Port;
pub(crate) use settings::{InForce, SetLog};
pub(crate) use waiting::Wanted;

use crate::{backend::Zone, limits, traffic};
use remora_api::sync::{Name, Resource};
use remora_model::Revocations;
use std::{convert::Infallible, sync::Arc, time::Duration};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::Instant,
};

/// What is known of a resource.
#[derive(Debug, Clone, Default)]
pub(crate) enum State {
    /// Nothing yet.
    #[default]
    Silent,
    /// Its latest state that could be read.
    Held(Arc<Resource>),
    /// Nothing is held, and what discovery said cannot be used: which object, and why.
    Unusable(Arc<str>),
}

/// Where to read what is known of a resource.
pub(crate) type Known = watch::Receiver<State>;

/// As many as may be are in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Full;

/// What a worker asks the control thread.
#[derive(Debug)]
pub(crate) enum Command {
    /// Subscribe, and tell where to read.
    Watch(Name, oneshot::Sender<Result<Known, Full>>),
    /// The asking worker does not need it any more.
    Unwatch(Name),
    /// What is known does not work (connections fail): ask again.
    Doubt(Name),
}

/// Dropped, it ends the task that keeps something current, which then unsubscribes.
type Kept = oneshot::Sender<Infallible>;

/// How the stream to discovery is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Link {
    /// It was never open: the process has just started.
    Never,
    Open,
    Lost,
}

/// The way from a worker to the control thread. Bounded; a full queue makes workers wait.
#[derive(Debug, Clone)]
pub(crate) struct Handle {
    commands: mpsc::Sender<Command>,
    link: watch::Receiver<Link>,
    networks: watch::Receiver<Networks>,
    /// The settings in force.
    pub settings: watch::Receiver<InForce>,
    /// Who is trusted no more; nobody, until discovery says.
    pub revoked: watch::Receiver<Arc<Revocations>>,
    /// The deadline of the start (outbound, inbound): until then connections are held while the process has no
    /// certificate or no discovery stream yet.
    start_until: (Instant, Instant),
    wanted: Wanted,
    /// The pod's own zone.
    pub zone: Zone,
    /// The rate limits of the process, which all workers keep together.
    traffic: traffic::Shared,
}

/// The control thread's ends of a [`Handle`].
#[derive(Debug)]
pub(crate) struct Ends {
    pub commands: mpsc::Receiver<Command>,
    pub link: watch::Sender<Link>,
    /// The cluster's ranges, as far as they are known.
    pub networks: watch::Sender<Networks>,
    /// The settings in force; at first as the proxy was started.
    pub settings: watch::Sender<InForce>,
    pub revoked: watch::Sender<Arc<Revocations>>,
    /// Whether a connection waits for discovery.
    pub wanted: Wanted,
    /// When a resource last became another, or known.
    pub changed: watch::Sender<Option<Instant>>,
}

impl Handle {
    /// A handle, with what [`client`] needs to serve it. Until the stream is open, but not longer than `patience` from now,
    /// connections are held: an application may start before its proxy is ready, and its connections must then neither be
    /// refused nor leave in plaintext. `networks`: the cluster's ranges, `settings`: those that change, each until discovery sends others.
    pub(crate) fn new(patience: Duration, networks: Networks, settings: InForce) -> (Self, Ends) {
        let (commands, receiver) = mpsc::channel(1024);
        let (tell, link) = watch::channel(Link::Never);
        let (tell_networks, networks) = watch::channel(networks);
        let (tell_settings, settings) = watch::channel(settings);
        let (tell_revoked, revoked) = watch::channel(Arc::default());
        let now = Instant::now();
        let start_until = (now + patience, now + patience.min(limits::START_PATIENCE_INBOUND));
        let wanted = Wanted::default();
        let (zone, wanted_too) = (Zone::default(), wanted.clone());
        let traffic = traffic::Shared::default();
        let handle =
            Self { commands, link, networks, settings, revoked, start_until, wanted: wanted_too, zone, traffic };
        let changed = watch::Sender::new(None);
        let (networks, settings, revoked) = (tell_networks, tell_settings, tell_revoked);
        (handle, Ends { commands: receiver, link: tell, networks, settings, revoked, wanted, changed })
    }

    /// Waits for the first stream, if the process has just started. Cancel safe.
    async fn started(&self, until: Instant) {
        let mut link = self.link.clone();
        let open = link.wait_for(|link| *link != Link::Never);
        // Neither end of the wait is an error: what is not known by then is refused in its own time.
        drop(tokio::time::timeout_at(until, open).await);
    }

    fn is_connected(&self) -> bool {
        *self.link.borrow() == Link::Open
    }

    /// Subscribes. `Ok(None)`: the control thread has ended.
    async fn watch(&self, name: Name) -> Result<Option<Known>, Full> {
        let (tell, told) = oneshot::channel();
        if self.commands.send(Command::Watch(name, tell)).await.is_err() {
            return Ok(None);
        }
        told.await.ok().transpose()
    }

    /// Says that this worker does not read `name` any more.
    async fn unwatch(&self, name: Name) {
        drop(self.commands.send(Command::Unwatch(name)).await);
    }

    /// Says that connections to what `name` names fail. Never waits; a full queue has heard enough.
    pub(crate) fn doubt(&self, name: Name) {
        drop(self.commands.try_send(Command::Doubt(name)));
    }
}

/// Waits for news; false when there will be none, or when no receiver is left.
async fn changed(known: &mut Known, dropped: &mut oneshot::Receiver<Infallible>) -> bool {
    tokio::select! {
        changed = known.changed() => changed.is_ok(),
        _ = dropped => false,
    }
}

#[cfg(test)]
mod live_tests;
#[cfg(test)]
mod tests;
