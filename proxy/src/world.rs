//! What the connections of one worker share. Nothing of it is shared with other threads or locked.

use crate::{
    account::{Account, Holder},
    config::Config,
    discover::Directory,
    http::peers::Peers,
    tasks::Tasks,
    tls,
};
use remora_runtime::drain;
use std::{cell::RefCell, sync::Arc};

/// All that a connection of this worker needs.
#[derive(Debug)]
pub(crate) struct World {
    pub config: Arc<Config>,
    pub tls: tls::Store,
    /// The memory that peers may make this process hold.
    pub account: Account,
    /// The share of it that the pod's own application has.
    pub pod: Holder,
    pub directory: Directory,
    pub drain: drain::Watch,
    /// What the drain waits for: connections accepted, and tunnels.
    pub tasks: Tasks,
    /// What ends with the worker: connections upstream, which idle until a request wants them, and subscriptions.
    pub background: Tasks,
    /// Who has HTTP/2 connections to this worker.
    pub peers: Peers,
    pub rng: RefCell<fastrand::Rng>,
}
