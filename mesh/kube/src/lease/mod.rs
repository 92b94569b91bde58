//! Leader election on a `coordination.k8s.io/v1` Lease: which replica writes.
//!
//! In: the Lease as the API server shows it. Out: a watch that says whether we lead. [`elector`] decides; this drives it:
//! watches, writes, and releases at drain, so that a rolling update hands over in milliseconds. Leading is for not doing
//! work twice: what is written must stay right if two replicas write it for a moment. Rights: `get`, `list`, `watch`,
//! `create`, `update` on `leases` (all but `create` can be limited to the Lease's name).

pub mod elector;

#[cfg(test)]
mod tests;

use self::elector::{Elector, Next, Terms, Write};
use crate::{
    client::{CALL_TIMEOUT, CallError, call, call_within},
    names::MADE_BY,
};
use futures_util::StreamExt as _;
use k8s_openapi::{api::coordination::v1::Lease, jiff::Timestamp};
use kube::{
    Api, Client,
    api::PostParams,
    runtime::{WatchStreamExt as _, watcher::watch_object},
};
use remora_runtime::drain;
use std::time::Duration;
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

/// Pause after a write that failed.
const RETRY: Duration = Duration::from_secs(1);
/// How long handing over may hold up the end of the process.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(2);

/// Who stands for what.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// The Lease's namespace: the control plane's.
    pub namespace: String,
    /// The Lease's name: the part's.
    pub name: String,
    /// The pod's name.
    pub me: String,
}

/// Whether we lead, and the task that sees to it until `drain`. Dropping the task ends the leading.
pub fn elect(
    client: Client,
    candidate: Candidate,
    drain: drain::Watch,
) -> (watch::Receiver<bool>, impl Future<Output = ()> + Send) {
    let (sender, leads) = watch::channel(false);
    let part = candidate.name.clone();
    let api = Api::namespaced(client, &candidate.namespace);
    let elector = Elector::new(&candidate.name, &candidate.me, Terms::default());
    (leads, run(Writer { api, part }, elector, Told(sender), drain))
}

/// Tells the rest of the process who leads; once it is dropped this process does not lead.
struct Told(watch::Sender<bool>);

impl Told {
    fn say(&self, leads: bool) {
        let changed = self.0.send_if_modified(|told| std::mem::replace(told, leads) != leads);
        if changed {
            tracing::info!(leads, "leader election");
        }
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        self.say(false);
    }
}

async fn run(writer: Writer, mut elector: Elector, told: Told, drain: drain::Watch) {
    let changes = watch_object(writer.api.clone(), &writer.part).default_backoff();
    let mut changes = std::pin::pin!(changes);
    let mut not_before = Instant::now();
    while !drain.is_signaled() {
        let now = Instant::now();
        told.say(elector.leads(now));
        let wake = match elector.next(now, Timestamp::now()) {
            // The watch's backoff decides how often is looked.
            Next::Look => now + CALL_TIMEOUT,
            Next::Wait(until) => until,
            Next::Write(_) if now < not_before => not_before,
            Next::Write(write) => {
                // A write that outlives our lead would tell us too late that it was lost.
                let limit = elector.leads_until().map_or(CALL_TIMEOUT, |until| until.saturating_duration_since(now));
                match writer.write(*write, limit.clamp(Duration::from_millis(100), CALL_TIMEOUT)).await {
                    Ok(lease) => elector.wrote(lease, now),
                    Err(error) => {
                        tracing::debug!(%error, "lease not written");
                        not_before = Instant::now() + RETRY;
                        // A read of etcd itself, which no cache that lags answers.
                        if let Ok(lease) = call(writer.api.get_opt(&writer.part)).await {
                            elector.believe(lease, Instant::now());
                        }
                    }
                }
                continue;
            }
        };
        let wake = elector.leads_until().map_or(wake, |until| if now < until { wake.min(until) } else { wake });
        tokio::select! {
            () = drain.signaled() => {}
            change = changes.next() => match change {
                Some(Ok(lease)) => elector.observe(lease, Instant::now()),
                Some(Err(error)) => tracing::debug!(%error, "lease not watched"),
                None => return,
            },
            () = sleep_until(wake) => {}
        }
    }
    told.say(false);
    if let Some(lease) = elector.released(Timestamp::now())
        && let Err(error) = writer.write(Write::Replace(lease), RELEASE_TIMEOUT).await
    {
        tracing::debug!(%error, "lease not released");
    }
}

struct Writer {
    api: Api<Lease>,
    /// The part, the Lease and the field manager have one name.
    part: String,
}

impl Writer {
    async fn write(&self, write: Write, limit: Duration) -> Result<Lease, CallError> {
        let params = PostParams { field_manager: Some(self.part.clone()), ..PostParams::default() };
        match write {
            Write::Create(mut lease) => {
                let labels = lease.metadata.labels.get_or_insert_default();
                labels.insert(MADE_BY.to_owned(), self.part.clone());
                call_within(limit, self.api.create(&params, &lease)).await
            }
            Write::Replace(lease) => call_within(limit, self.api.replace(&self.part, &params, &lease)).await,
        }
    }
}
