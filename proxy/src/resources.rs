//! What everything of one worker shares: made first, and known to its endpoints. Nothing of it is shared with other threads or
//! locked.

use crate::{
    account::{Account, Holder},
    config::Config,
    jwt,
    tasks::Tasks,
    tls,
};
use std::{cell::RefCell, sync::Arc};

/// What it takes to connect to endpoints and to carry requests.
#[derive(Debug)]
pub(crate) struct Resources {
    pub config: Arc<Config>,
    pub tls: tls::Store,
    /// The memory that peers may make this process hold.
    pub account: Account,
    /// The share of it that the pod's own application has.
    pub pod: Holder,
    /// What the drain waits for: connections accepted, and tunnels.
    pub tasks: Tasks,
    /// What ends with the worker: connections upstream, which idle until a request wants them, and subscriptions.
    pub background: Tasks,
    /// What was found out about tokens of users.
    pub tokens: jwt::Memory,
    pub rng: RefCell<fastrand::Rng>,
}

#[cfg(test)]
impl Resources {
    /// Without a certificate, and with memory for everything.
    pub(crate) fn of_tests(config: Config) -> std::rc::Rc<Self> {
        let account = Account::new(usize::MAX / 2);
        std::rc::Rc::new(Self {
            config: Arc::new(config),
            tls: tls::Store::new(tokio::sync::watch::channel(None).1, &account),
            pod: account.holder(crate::account::Peer::Pod),
            account,
            tasks: Tasks::default(),
            background: Tasks::default(),
            tokens: jwt::Memory::default(),
            rng: RefCell::new(fastrand::Rng::with_seed(7)),
        })
    }
}
