//! Exports spans of requests that ended, by OTLP.
//!
//! In: the workers' records, and the setting, which may change while the proxy runs. Out: batches to the collector, one at a time, sent by a worker
//! ([`send`]) as requests of the pod's own. It costs the data path nothing, and a collector that is away costs memory within bounds: what finds no
//! room is counted. The control thread runs it.

mod otlp;
mod pending;
mod send;

pub(crate) use send::{Inbox, serve};

use crate::{
    config::Config,
    discover::InForce,
    limits,
    telemetry::{FollowSpans, Routes},
};
use bytes::Bytes;
use pending::{Batch, Pending};
use remora_api::otlp::{Attribute, rejected};
use remora_model::{Target, Tracing};
use send::{Export, SendError};
use std::{convert::Infallible, sync::Arc};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, sleep, timeout_at},
};

/// Why a span was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lost {
    /// More ended at once than are kept.
    Overwritten,
    /// The collector takes fewer than there are.
    QueueFull,
    /// It cannot be reached.
    Unreachable,
    /// It refused it.
    Rejected,
    /// The process has ended, or tracing was turned off.
    Ended,
}

impl Lost {
    fn count(self, spans: u64) {
        let reason = match self {
            Self::Overwritten => "overwritten",
            Self::QueueFull => "queue_full",
            Self::Unreachable => "unreachable",
            Self::Rejected => "rejected",
            Self::Ended => "ended",
        };
        if spans > 0 {
            metrics::counter!("remora_trace_spans_dropped_total", "reason" => reason).increment(spans);
        }
    }
}

/// Held by each worker while requests may end on it.
pub(crate) type Alive = mpsc::Sender<Infallible>;

/// See the module.
#[derive(Debug)]
pub(crate) struct Exporter {
    routes: Arc<Routes>,
    resource: Vec<Attribute>,
    /// The setting in force, and whom what was made under it goes to.
    setting: Tracing,
    collector: Option<Target>,
    follow: Option<FollowSpans>,
    pending: Pending,
    out: mpsc::Sender<Export>,
    sending: Option<Sending>,
    /// What did not arrive, and is sent again.
    again: Option<Batch>,
    /// When the next one may be sent, after so many that did not arrive.
    not_before: Instant,
    failures: u32,
    /// Closed, once no request can end any more.
    alive: mpsc::Receiver<Infallible>,
}

#[derive(Debug)]
struct Sending {
    batch: Batch,
    told: oneshot::Receiver<Result<Bytes, SendError>>,
}

impl Exporter {
    /// Exports nothing yet. Beside it, the end of the one worker that sends, and what each worker holds.
    pub(crate) fn new(routes: &Arc<Routes>, config: &Config) -> (Self, Option<Inbox>, Alive) {
        let (out, inbox) = mpsc::channel(1);
        let (hold, alive) = mpsc::channel(1);
        let Config { namespace, pod, service_account, node, .. } = config;
        let exporter = Self {
            routes: routes.clone(),
            resource: otlp::resource(namespace, pod, service_account, node),
            setting: Tracing::Off,
            collector: None,
            follow: None,
            pending: Pending::default(),
            out,
            sending: None,
            again: None,
            not_before: Instant::now(),
            failures: 0,
            alive,
        };
        (exporter, Some(Inbox(inbox)), hold)
    }

    /// Exports what ends, as the settings say, until no request can end any more; then what is left, within [`limits::TRACE_LAST`].
    pub(crate) async fn run(mut self, mut settings: watch::Receiver<InForce>) {
        // Without a sender there are no other settings ever.
        let mut changes = true;
        loop {
            let setting = settings.borrow_and_update().tracing.clone();
            self.set(setting);
            tokio::select! {
                _ = self.alive.recv() => break,
                changed = settings.changed(), if changes => changes = changed.is_ok(),
                sent = sent(&mut self.sending), if self.sending.is_some() => self.told(sent),
                () = sleep(limits::TRACE_STEP), if self.is_busy() => self.step(Instant::now()),
            }
        }
        self.finish().await;
        // Who sends for it ends with it.
        drop(self);
        std::future::pending().await
    }

    fn is_busy(&self) -> bool {
        self.follow.is_some() || self.again.is_some() || !self.pending.is_empty()
    }

    fn set(&mut self, setting: Tracing) {
        if setting == self.setting {
            return;
        }
        self.read(Instant::now());
        self.routes.sampling().set(&setting);
        match &setting {
            // What is left goes to who was to have it.
            Tracing::Off => self.follow = None,
            Tracing::On { collector, .. } => {
                if self.collector.as_ref() != Some(collector) {
                    (self.failures, self.not_before) = (0, Instant::now());
                }
                self.collector = Some(collector.clone());
                self.follow.get_or_insert_with(|| self.routes.follow_spans());
            }
        }
        self.setting = setting;
    }

    /// Reads what ended, and sends what is due.
    fn step(&mut self, now: Instant) {
        self.read(now);
        if self.sending.is_none() && now >= self.not_before {
            let due = self.pending.is_due(now);
            if let Some(batch) = self.again.take().or_else(|| due.then(|| self.pending.take(&self.resource)).flatten())
            {
                self.send(batch);
            }
        }
    }

    fn read(&mut self, now: Instant) {
        let Some(follow) = &mut self.follow else { return };
        let (ended, missed) = follow.next();
        Lost::Overwritten.count(missed);
        let mut no_room = 0;
        for span in ended.iter().filter_map(otlp::span) {
            no_room += u64::from(!self.pending.push(span, now));
        }
        Lost::QueueFull.count(no_room);
    }

    fn send(&mut self, batch: Batch) {
        let Some(collector) = self.collector.clone() else { return Lost::Ended.count(batch.spans) };
        let (tell, told) = oneshot::channel();
        // One is under way at a time, so that there is room; unless the worker has ended.
        match self.out.try_send(Export { collector, frame: batch.frame.clone(), told: tell }) {
            Ok(()) => self.sending = Some(Sending { batch, told }),
            Err(_) => Lost::Ended.count(batch.spans),
        }
    }

    /// Takes what became of a batch.
    fn told(&mut self, sent: Result<Bytes, SendError>) {
        let Some(Sending { mut batch, .. }) = self.sending.take() else { return };
        match sent {
            Ok(answer) => {
                let (refused, why) = rejected(&answer);
                let refused = refused.min(batch.spans);
                if refused > 0 {
                    remora_runtime::limited!(warn, refused, why = %why.escape_debug(), "the collector rejected spans");
                }
                Lost::Rejected.count(refused);
                metrics::counter!("remora_trace_spans_exported_total").increment(batch.spans - refused);
                self.failures = 0;
            }
            Err(error) => {
                let collector = self.collector.as_ref().map(ToString::to_string).unwrap_or_default();
                remora_runtime::limited!(warn, %error, %collector, "spans were not exported");
                batch.tries += 1;
                let passes = error.may_pass();
                match passes {
                    true if batch.tries < limits::TRACE_TRIES_MAX => self.again = Some(batch),
                    true => Lost::Unreachable.count(batch.spans),
                    false => Lost::Rejected.count(batch.spans),
                }
                let pause = limits::TRACE_BACKOFF_MAX.min(limits::TRACE_BACKOFF_MIN * 2_u32.pow(self.failures.min(10)));
                self.failures = self.failures.saturating_add(1);
                self.not_before = Instant::now() + pause.mul_f64(0.5 + fastrand::f64() / 2.0);
            }
        }
    }

    /// Sends what is left, without pauses, as long as it arrives.
    async fn finish(&mut self) {
        let until = Instant::now() + limits::TRACE_LAST;
        self.read(Instant::now());
        loop {
            if self.sending.is_none()
                && let Some(batch) = self.again.take().or_else(|| self.pending.take(&self.resource))
            {
                self.send(batch);
            }
            if self.sending.is_none() {
                break;
            }
            let Ok(sent) = timeout_at(until, sent(&mut self.sending)).await else { break };
            let failed = sent.is_err();
            self.told(sent);
            if failed {
                break;
            }
        }
        let sending = self.sending.take().map(|sending| sending.batch.spans);
        let again = self.again.take().map(|batch| batch.spans);
        Lost::Ended.count(sending.unwrap_or(0) + again.unwrap_or(0) + self.pending.len() as u64);
    }
}

/// What becomes of what is under way. Cancel safe.
async fn sent(sending: &mut Option<Sending>) -> Result<Bytes, SendError> {
    match sending {
        // Without a word the worker has ended.
        Some(sending) => (&mut sending.told).await.unwrap_or(Err(SendError::Ended)),
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod otlp_tests;
#[cfg(test)]
mod tests;
