//! Who gets no certificate any more: the RevokedIdentities that discovery tells the proxies of, read here for ourselves.
//!
//! In: the Kubernetes API, or a folder of manifests. Out: a watch of [`Revocations`], `None` until they were read once; until then nobody gets a
//! certificate. A source that is lost, or cannot be read, leaves what was known.

mod folder;
mod objects;

pub use self::folder::Folder;
pub use self::objects::Objects;

use remora_model::Revocations;
use remora_runtime::admin::Readiness;
use std::sync::Arc;
use tokio::sync::watch;

/// Condition of `/ready`: it is known who is revoked.
pub(crate) const REVOCATIONS: &str = "revocations";

/// What is known.
pub type Known = watch::Receiver<Option<Arc<Revocations>>>;

/// Where they are written.
#[derive(Debug)]
pub enum Source {
    /// Nowhere: nobody is revoked.
    None,
    /// In manifests.
    Folder(Folder),
    /// In the API.
    Objects(Box<Objects>),
}

/// Says what is known, and keeps the condition.
#[derive(Debug)]
pub(crate) struct Teller {
    known: watch::Sender<Option<Arc<Revocations>>>,
    readiness: Readiness,
}

impl Teller {
    pub(crate) fn new(readiness: Readiness) -> (Self, Known) {
        readiness.waiting(REVOCATIONS, "they were not read yet");
        let (known, receiver) = watch::channel(None);
        (Self { known, readiness }, receiver)
    }

    /// From now on these hold.
    fn tell(&self, revocations: Revocations) {
        self.readiness.ready(REVOCATIONS);
        self.known.send_if_modified(|known| {
            let new = known.as_deref() != Some(&revocations);
            if new {
                let before = known.as_ref().map_or(0, |known| known.len());
                if before > 0 || !revocations.is_empty() {
                    tracing::info!(revoked = revocations.len(), before, "revocations changed");
                }
                metrics::gauge!("remora_identity_revocations").set(revocations.len() as f64);
                *known = Some(Arc::new(revocations));
            }
            new
        });
    }

    /// They cannot be read, because of `why`; what is known stays.
    fn lost(&self, why: &str) {
        if self.known.borrow().is_none() {
            self.readiness.waiting(REVOCATIONS, why.to_owned());
        }
        tracing::warn!(why, "cannot read who is revoked; what is known stays in force");
    }
}

impl Source {
    /// Tells what they say, as it changes, until dropped.
    pub(crate) async fn follow(&self, teller: Teller) {
        match self {
            Self::None => {
                teller.tell(Revocations::default());
                std::future::pending().await
            }
            Self::Folder(folder) => folder.follow(&teller).await,
            Self::Objects(objects) => objects.follow(&teller).await,
        }
    }
}
