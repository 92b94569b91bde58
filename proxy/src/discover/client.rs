//! The one stream to discovery. In: what workers subscribe to. Out: resources, kept for them whatever happens to the
//! stream. On reconnect it offers what it holds, so that nothing is sent twice and nothing is lost.

use super::{
    Command, Ends, Link, SetLog, Wanted, Zone,
    answers::{Answers, MakeAnswer},
    settings::Settings,
    store::Store,
};
use crate::limits;
use remora_api::{
    receive::{self, Received},
    sync::RETURN_AFTER_MS,
    v1,
};
use std::{collections::VecDeque, time::Duration};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, MissedTickBehavior, interval, sleep, sleep_until},
};
use tokio_stream::{StreamExt, wrappers::ReceiverStream};
use tonic::{Status, Streaming, transport::Channel};

/// Who asks.
pub(crate) struct Client {
    pub hello: v1::Hello,
    /// The channels from and to the workers.
    pub ends: Ends,
    /// Told what discovery says of our zone.
    pub zone: Zone,
    /// Sets the log's filter, which discovery may change.
    pub set_log: SetLog,
    /// What the admin port shows, for discovery to ask.
    pub answer: MakeAnswer,
}

fn connected(is: bool) {
    metrics::gauge!("remora_discovery_connected").set(if is { 1.0 } else { 0.0 });
}

/// How often the stream could not be kept, in a row.
#[derive(Debug, Default)]
struct Failures(u32);

impl Failures {
    fn count(&mut self, lost: &Lost) {
        if lost.lasted >= limits::DISCOVERY_STEADY {
            *self = Self::default();
        }
        self.0 = self.0.saturating_add(1);
    }

    /// The wait before the next connection; `chance` is from 0 to 1.
    fn wait(&self, chance: f64) -> Duration {
        let most = self.doubled(limits::DISCOVERY_BACKOFF_MIN, limits::DISCOVERY_BACKOFF_MAX);
        most / 2 + most.mul_f64(chance / 2.0)
    }

    /// How long the next stream may take to open while a connection waits: longer each time, so that a discovery which is
    /// only slow succeeds in the end.
    fn patience(&self) -> Duration {
        self.doubled(limits::DISCOVERY_OPENS_WANTED, limits::DISCOVERY_OPENS)
    }

    /// `first`, doubled for each failure after the first one.
    fn doubled(&self, first: Duration, most: Duration) -> Duration {
        (first * 2_u32.pow(self.0.saturating_sub(1).min(16))).min(most)
    }
}

/// Runs until no worker is left. Never gives up: while discovery is down, the configuration stays as it is. `connect` makes a channel for
/// each stream, so that the next stream does not use a dead connection.
pub(crate) async fn run(client: Client, connect: impl Fn() -> Channel) {
    let Client { hello, ends, zone, set_log, answer } = client;
    let Ends { mut commands, link, networks, settings, revoked, wanted, changed } = ends;
    let store = Store::new(zone, networks, Settings::new(settings, set_log));
    let mut store = store.telling(changed).revoking(revoked);
    let (mut failures, mut answers) = (Failures::default(), Answers::new(answer));
    loop {
        let opening = store.opening(&hello);
        let late = late(&wanted, failures.patience());
        let (commands, answers) = (&mut commands, &mut answers);
        let mut session = Session { opening, link: &link, commands, store: &mut store, answers };
        let lost = match session.run(connect(), late).await {
            End::NoWorkers => return,
            End::Lost(lost) => lost,
        };
        if *link.borrow() == Link::Open {
            link.send_replace(Link::Lost);
            connected(false);
        }
        failures.count(&lost);
        // A discovery that has no room for us says when it will have: each proxy is told another time.
        let wait = lost.again.unwrap_or_else(|| failures.wait(fastrand::f64()));
        metrics::counter!("remora_discovery_disconnects_total").increment(1);
        let Lost { error, .. } = lost;
        remora_runtime::limited!(warn, %error, retry_in = ?wait, held = store.len(), "discovery is down; the known configuration stays in force");
        if pause(wait, &wanted, commands, &mut store).await.is_none() {
            return;
        }
    }
}

/// Returns when a stream has taken too long to open, which is sooner while a connection waits: `patience` then.
async fn late(wanted: &Wanted, patience: Duration) {
    let hurries = async {
        loop {
            wanted.begins().await;
            sleep(patience).await;
            if wanted.is() {
                return;
            }
        }
    };
    tokio::select! {
        () = sleep(limits::DISCOVERY_OPENS) => {}
        () = hurries => {}
    }
}

/// Waits before the next connection, but not long while a connection waits for an answer. `None`: no worker is left.
async fn pause(
    wait: Duration,
    wanted: &Wanted,
    commands: &mut mpsc::Receiver<Command>,
    store: &mut Store,
) -> Option<()> {
    let mut until = Instant::now() + wait;
    let mut hurries = false;
    loop {
        tokio::select! {
            () = sleep_until(until) => return Some(()),
            () = wanted.begins(), if !hurries => {
                hurries = true;
                let soon = limits::DISCOVERY_BACKOFF_WANTED.mul_f64(0.5 + fastrand::f64() / 2.0);
                until = until.min(Instant::now() + soon);
            }
            command = commands.recv() => match command? {
                Command::Doubt(_) => {} // the next stream brings whatever changed
                command => drop(store.take(command)),
            }
        }
    }
}

enum End {
    NoWorkers,
    Lost(Lost),
}

struct Lost {
    lasted: Duration,
    error: String,
    /// When discovery wants us back.
    again: Option<Duration>,
}

/// One stream.
struct Session<'a> {
    opening: Vec<v1::SyncRequest>,
    link: &'a watch::Sender<Link>,
    commands: &'a mut mpsc::Receiver<Command>,
    store: &'a mut Store,
    answers: &'a mut Answers,
}

impl Session<'_> {
    async fn run(&mut self, channel: Channel, late: impl Future<Output = ()>) -> End {
        let (send, receive) = mpsc::channel::<v1::SyncRequest>(limits::DISCOVERY_QUEUE_MAX);
        let outgoing = tokio_stream::iter(std::mem::take(&mut self.opening)).chain(ReceiverStream::new(receive));
        // Of answers one part at a time is on its way, so that no other message waits for more.
        let (tell, told) = mpsc::channel::<v1::SyncRequest>(1);
        let outgoing = outgoing.merge(ReceiverStream::new(told));
        self.answers.forget();
        let opening = receive::sync(channel, limits::UPDATE_BYTES_MAX, outgoing);
        let (mut connecting, mut late) = (std::pin::pin!(opening), std::pin::pin!(late));
        // What is to be said, in order. Discovery hears us only while we listen, so listening never waits for saying.
        let mut outbox: VecDeque<v1::SyncRequest> = VecDeque::new();
        let mut updates: Streaming<Received> = loop {
            tokio::select! {
                answer = &mut connecting => match answer {
                    Ok(response) => break response.into_inner(),
                    Err(status) => return lost(None, &status),
                },
                () = &mut late => return lost(None, &Status::deadline_exceeded("discovery opens no stream")),
                command = self.commands.recv(), if outbox.len() < limits::OUTBOX_MAX => match command {
                    Some(command) => outbox.extend(self.store.take(command)),
                    None => return End::NoWorkers,
                },
            }
        };
        self.link.send_replace(Link::Open);
        connected(true);
        let since = Some(Instant::now());
        let mut looks = interval(limits::DOUBT_MIN);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                now = looks.tick(), if self.store.has_refused() => outbox.extend(self.store.again(now)),
                update = updates.next() => match update {
                    Some(Ok(update)) => {
                        outbox.extend(self.answers.take(update).into_iter().flat_map(|update| self.store.apply(update)));
                    }
                    Some(Err(status)) => return lost(since, &status),
                    None => return lost(since, &Status::unavailable("discovery ended the stream")),
                },
                permit = send.reserve(), if !outbox.is_empty() => match (permit, outbox.pop_front()) {
                    (Ok(permit), Some(message)) => permit.send(message),
                    (Ok(_), None) => {}
                    (Err(_), _) => return lost(since, &Status::unavailable("discovery takes no more requests")),
                },
                command = self.commands.recv(), if outbox.len() < limits::OUTBOX_MAX => match command {
                    Some(command) => outbox.extend(self.store.take(command)),
                    None => return End::NoWorkers,
                },
                () = self.answers.made(), if self.answers.are_asked() => {}
                permit = tell.reserve(), if self.answers.have_part() => match (permit, self.answers.part()) {
                    (Ok(permit), Some(part)) => permit.send(part),
                    (Ok(_), None) => {}
                    (Err(_), _) => return lost(since, &Status::unavailable("discovery takes no more answers")),
                },
            }
        }
    }
}

fn lost(since: Option<Instant>, status: &Status) -> End {
    let lasted = since.map_or(Duration::ZERO, |since| since.elapsed());
    End::Lost(Lost { lasted, error: status.to_string(), again: again(status) })
}

/// When discovery wants us back, if it says so; what it says is bounded, for it decides how long we know nothing new.
fn again(status: &Status) -> Option<Duration> {
    let after = status.metadata().get(RETURN_AFTER_MS)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_millis(after).min(limits::DISCOVERY_BACKOFF_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config,
        discover::{Handle, Networks, waiting::Waiting},
    };
    use hyper_util::rt::TokioIo;
    use std::{
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering::Relaxed},
        },
        task::{Context, Poll},
    };
    use tokio::io::DuplexStream;
    use tonic::{
        codegen::Service,
        transport::{Endpoint, Uri},
    };

    fn lost(lasted: Duration) -> Lost {
        Lost { lasted, error: String::new(), again: None }
    }

    /// Takes every connection, and never says a word.
    #[derive(Clone)]
    struct Mute(Arc<AtomicUsize>);

    impl Service<Uri> for Mute {
        type Response = TokioIo<DuplexStream>;
        type Error = std::io::Error;
        type Future = std::future::Pending<Result<Self::Response, Self::Error>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, _: Uri) -> Self::Future {
            self.0.fetch_add(1, Relaxed);
            std::future::pending()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_does_not_open_is_given_up_and_soon_where_somebody_waits() {
        for waits in [false, true] {
            let (_handle, ends) = Handle::new(Duration::ZERO, Networks::default(), config::tests::least().settings());
            let waiting = Waiting::new(1, ends.wanted.clone());
            let _place = waits.then(|| waiting.enter());
            let dials = Arc::new(AtomicUsize::new(0));
            let mute = Mute(dials.clone());
            let connect = move || Endpoint::from_static("http://discovery:1").connect_with_connector_lazy(mute.clone());
            let set_log: SetLog = Box::new(|_| Ok(()));
            let answer: MakeAnswer = Box::new(|_| Box::pin(async { (200, Vec::new()) }));
            let client = Client { hello: v1::Hello::default(), ends, zone: Zone::default(), set_log, answer };
            let until = async |time| {
                sleep_until(time).await;
                dials.load(Relaxed)
            };
            let start = Instant::now();
            let client = tokio::spawn(run(client, connect));
            let in_time = until(start + limits::DISCOVERY_WAIT).await;
            assert_eq!(in_time > 1, waits, "whoever waits gets to another one in time");
            assert!(until(start + 3 * limits::DISCOVERY_OPENS).await >= 3, "and nobody hangs for ever");
            client.abort();
        }
    }

    #[test]
    fn a_discovery_that_vanishes_is_noticed_before_whoever_waits_is_refused() {
        let noticed = limits::DISCOVERY_KEEP_ALIVE.interval + limits::DISCOVERY_KEEP_ALIVE.timeout;
        assert!(noticed + limits::DISCOVERY_BACKOFF_MIN < limits::DISCOVERY_WAIT);
        let failures = |count| Failures(count).patience();
        assert_eq!(failures(0), limits::DISCOVERY_OPENS_WANTED);
        assert!(failures(2) > failures(1) && failures(99) == limits::DISCOVERY_OPENS, "a slow one gets there");
    }

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn a_single_loss_is_made_good_at_once_and_many_in_a_row_are_not() {
        let mut failures = Failures::default();
        failures.count(&lost(LONG));
        assert!(failures.wait(1.0) <= limits::DISCOVERY_BACKOFF_MIN);
        for _ in 0..40 {
            failures.count(&lost(Duration::ZERO));
        }
        assert_eq!(failures.wait(1.0), limits::DISCOVERY_BACKOFF_MAX);
        assert_eq!(failures.wait(0.0), limits::DISCOVERY_BACKOFF_MAX / 2, "half of it is chance");
        failures.count(&lost(LONG));
        assert!(failures.wait(1.0) <= limits::DISCOVERY_BACKOFF_MIN);
    }

    #[test]
    fn a_discovery_that_has_no_room_is_believed_when_it_says_when_but_not_without_bound() {
        let said = |value: &str| {
            let mut status = Status::unavailable("too many");
            status.metadata_mut().insert(RETURN_AFTER_MS, value.parse().unwrap());
            again(&status)
        };
        assert_eq!(said("2500"), Some(Duration::from_millis(2500)));
        assert_eq!(said("99999999999"), Some(limits::DISCOVERY_BACKOFF_MAX));
        assert_eq!((said("-1"), said("soon"), again(&Status::unavailable("away"))), (None, None, None));
    }

    #[test]
    fn a_stream_that_ends_after_a_word_is_no_success() {
        let mut failures = Failures::default();
        for _ in 0..10 {
            failures.count(&lost(Duration::from_millis(20)));
        }
        assert!(failures.wait(0.0) > Duration::from_secs(1));
    }
}
