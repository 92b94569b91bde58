//! The one stream to discovery. In: what workers subscribe to. Out: resources, kept for them whatever happens to the
//! stream. On reconnect it offers what it holds, so that nothing is sent twice and nothing is lost.

use super::{Command, Known, Zone};
use remora_api::{
    sync::{Name, Resource, Update, envelope, request},
    v1::{self, discovery_client::DiscoveryClient},
};
use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};
use tokio::{
    sync::{mpsc, watch},
    time::sleep,
};
use tokio_stream::{StreamExt, wrappers::ReceiverStream};
use tonic::{Streaming, transport::Channel};

/// First and longest wait between connections to discovery; half of it is chance.
const BACKOFF_MIN: Duration = Duration::from_millis(50);
/// See [`BACKOFF_MIN`]. Short, because endpoints must be right within a second of its return.
const BACKOFF_MAX: Duration = Duration::from_millis(800);
/// Targets and ports that are subscribed to. Discovery ends the stream of a proxy that has more than 10 000.
const SUBSCRIPTIONS_MAX: usize = 8192;
/// Messages handed to the connection and not sent yet.
const QUEUE: usize = 256;
/// Messages to discovery that wait; with more, workers' wishes wait too. Acks may exceed it: they are as many as updates.
const OUTBOX_MAX: usize = 4096;
/// The largest update: a backend with the most endpoints there may be, with long names.
const UPDATE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Between two questions about the same doubt.
const DOUBT_INTERVAL: Duration = Duration::from_secs(2);

/// Who asks.
#[derive(Debug, Clone)]
pub struct Client {
    pub hello: v1::Hello,
    /// Tells `/ready` whether discovery has answered.
    pub connected: watch::Sender<bool>,
    /// Told what discovery says of our zone.
    pub zone: Zone,
}

/// What is held of one resource.
struct Held {
    version: u64,
    state: watch::Sender<Option<Arc<Resource>>>,
    /// Asked for by a worker, not only named by a target.
    asked: bool,
}

type Store = HashMap<Name, Held>;

/// Runs until no worker is left. Never gives up: with discovery away, everything stays as it is.
pub async fn run(client: Client, channel: Channel, mut commands: mpsc::Receiver<Command>) {
    let mut store = Store::new();
    let mut backoff = BACKOFF_MIN;
    loop {
        match session(&client, channel.clone(), &mut commands, &mut store).await {
            End::NoWorkers => return,
            End::Lost { worked, error } => {
                if worked {
                    backoff = BACKOFF_MIN;
                }
                client.connected.send_replace(false);
                metrics::counter!("remora_discovery_disconnects_total").increment(1);
                tracing::warn!(%error, retry_in = ?backoff, held = store.len(), "discovery is away; going on with what is known");
            }
        }
        let wait = backoff / 2 + backoff.mul_f64(fastrand::f64() / 2.0);
        backoff = (backoff * 2).min(BACKOFF_MAX);
        let pause = sleep(wait);
        tokio::pin!(pause);
        loop {
            tokio::select! {
                () = &mut pause => break,
                command = commands.recv() => match command {
                    Some(command) => drop(take(command, &mut store)),
                    None => return,
                },
            }
        }
    }
}

enum End {
    NoWorkers,
    Lost { worked: bool, error: String },
}

async fn session(client: &Client, channel: Channel, commands: &mut mpsc::Receiver<Command>, store: &mut Store) -> End {
    let (send, receive) = mpsc::channel::<v1::SyncRequest>(QUEUE);
    let lost = |worked: bool, error: String| End::Lost { worked, error };
    let outgoing = tokio_stream::iter(opening(client, store)).chain(ReceiverStream::new(receive));
    let mut discovery = DiscoveryClient::new(channel).max_decoding_message_size(UPDATE_BYTES_MAX);
    let mut connecting = std::pin::pin!(discovery.sync(outgoing));
    // What is to be said, in order. Discovery hears us only while we listen, so listening never waits for saying.
    let mut outbox: VecDeque<v1::SyncRequest> = VecDeque::new();
    let mut updates: Streaming<v1::SyncResponse> = loop {
        tokio::select! {
            answer = &mut connecting => match answer {
                Ok(response) => break response.into_inner(),
                Err(status) => return lost(false, status.to_string()),
            },
            command = commands.recv(), if outbox.len() < OUTBOX_MAX => match command {
                Some(command) => outbox.extend(take(command, store)),
                None => return End::NoWorkers,
            },
        }
    };
    client.connected.send_replace(true);
    let mut worked = false;
    let mut doubts: HashMap<Name, tokio::time::Instant> = HashMap::new();
    loop {
        tokio::select! {
            update = updates.next() => match update {
                Some(Ok(update)) => {
                    worked = true;
                    outbox.extend(apply(update, store, &client.zone));
                }
                Some(Err(status)) => return lost(worked, status.to_string()),
                None => return lost(worked, "discovery ended the stream".to_owned()),
            },
            permit = send.reserve(), if !outbox.is_empty() => match (permit, outbox.pop_front()) {
                (Ok(permit), Some(message)) => permit.send(message),
                (Ok(_), None) => {}
                (Err(_), _) => return lost(worked, "discovery takes no more requests".to_owned()),
            },
            command = commands.recv(), if outbox.len() < OUTBOX_MAX => match command {
                Some(Command::Doubt(name)) => outbox.extend(doubt(&name, &mut doubts, store)),
                Some(command) => outbox.extend(take(command, store)),
                None => return End::NoWorkers,
            },
        }
    }
}

/// What is said first: who we are, what we hold (which subscribes to it), and what we ask for and do not hold.
fn opening(client: &Client, store: &mut Store) -> Vec<v1::SyncRequest> {
    // Discovery forgets the backends that no target leads to; so do we.
    store.retain(|name, held| !matches!(name, Name::Backend(_)) || held.state.receiver_count() > 0);
    let mut hello = client.hello.clone();
    let mut asked = Vec::new();
    for (name, held) in &*store {
        if held.state.borrow().is_some() {
            hello.held.push(request::held(name, held.version));
        } else if held.asked {
            asked.push(request::subscribe(name));
        }
    }
    std::iter::once(request::hello(hello)).chain(asked).collect()
}

/// Carries out a worker's wish; what discovery must be told of it.
fn take(command: Command, store: &mut Store) -> Vec<v1::SyncRequest> {
    match command {
        Command::Watch(name, tell) => {
            let mut say = Vec::new();
            if store.len() >= SUBSCRIPTIONS_MAX && !store.contains_key(&name) {
                say = prune(store);
                if store.values().filter(|held| held.asked).count() >= SUBSCRIPTIONS_MAX {
                    // Told nothing, the worker takes it for unknown.
                    tracing::warn!(%name, "more than {SUBSCRIPTIONS_MAX} targets are in use; this one stays unknown");
                    return say;
                }
            }
            let held = store.entry(name.clone()).or_insert_with(Held::unknown);
            let known: Known = held.state.subscribe();
            let new = !held.asked && !matches!(name, Name::Backend(_));
            held.asked |= new;
            drop(tell.send(known));
            say.extend(new.then(|| request::subscribe(&name)));
            say
        }
        Command::Unwatch(name) => {
            let unused = store.get(&name).is_some_and(|held| held.state.receiver_count() == 0);
            if !unused {
                return Vec::new();
            }
            store.remove(&name);
            vec![request::unsubscribe(&name)]
        }
        Command::Doubt(_) => Vec::new(),
    }
}

/// Unsubscribes from all that nobody reads: targets that were asked for while discovery was away, say.
fn prune(store: &mut Store) -> Vec<v1::SyncRequest> {
    let mut gone = Vec::new();
    store.retain(|name, held| {
        let used = !held.asked || held.state.receiver_count() > 0;
        if !used {
            gone.push(request::unsubscribe(name));
        }
        used
    });
    gone
}

/// Asks again for every target that leads to a backend that cannot be reached: the whole of it, not the difference.
fn doubt(name: &Name, doubts: &mut HashMap<Name, tokio::time::Instant>, store: &mut Store) -> Vec<v1::SyncRequest> {
    let now = tokio::time::Instant::now();
    doubts.retain(|_, since| now.duration_since(*since) < DOUBT_INTERVAL);
    if doubts.contains_key(name) {
        return Vec::new();
    }
    doubts.insert(name.clone(), now);
    metrics::counter!("remora_discovery_doubts_total").increment(1);
    let Name::Backend(id) = name else { return Vec::new() };
    let leads = |resource: &Resource| match resource {
        Resource::Outbound(outbound) => outbound.backends().contains(&id),
        _ => false,
    };
    let targets: Vec<Name> = store
        .iter()
        .filter(|(_, held)| held.state.borrow().as_deref().is_some_and(leads))
        .map(|(name, _)| name.clone())
        .collect();
    targets.iter().flat_map(|name| [request::unsubscribe(name), request::subscribe(name)]).collect()
}

/// Takes an update in; the ack or nack for it. A bad one leaves what is held.
fn apply(message: v1::SyncResponse, store: &mut Store, zone: &Zone) -> Vec<v1::SyncRequest> {
    let envelope = envelope(&message);
    let refuse = |reason: String| {
        tracing::warn!(%reason, "discovery sent something unusable; keeping the last good state");
        metrics::counter!("remora_discovery_nacks_total").increment(1);
        envelope.clone().map(|(name, version)| request::nack(name, version, reason)).into_iter().collect::<Vec<_>>()
    };
    match Update::try_from(message) {
        Err(error) => refuse(error.to_string()),
        Ok(Update::Whole { version, resource }) => {
            let name = resource.name();
            store.entry(name.clone()).or_insert_with(Held::unknown).set(version, resource);
            vec![request::ack(&name, version)]
        }
        Ok(Update::Delta(delta)) => {
            let name = Name::Backend(delta.id.clone());
            let Some(held) = store.get_mut(&name) else {
                return refuse("nothing is held to apply a delta to".to_owned());
            };
            let state = held.state.borrow().clone();
            let Some(Resource::Backend(backend)) = state.as_deref() else {
                return refuse("nothing is held to apply a delta to".to_owned());
            };
            match delta.apply(backend, held.version) {
                Ok(next) => {
                    held.set(delta.version, Resource::Backend(next));
                    vec![request::ack(&name, delta.version)]
                }
                Err(error) => refuse(error.to_string()),
            }
        }
        Ok(Update::Zone(told)) => {
            zone.tell(told);
            Vec::new()
        }
        Ok(Update::Current { name, version }) => vec![request::ack(&name, version)],
        Ok(Update::Refused { name, reason }) => {
            tracing::warn!(%name, %reason, "discovery refused a subscription");
            Vec::new()
        }
    }
}

impl Held {
    fn unknown() -> Self {
        Self { version: 0, state: watch::Sender::new(None), asked: false }
    }

    fn set(&mut self, version: u64, resource: Resource) {
        self.version = version;
        self.state.send_replace(Some(Arc::new(resource)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use remora_model::{Outbound, Protocol};

    #[tokio::test]
    async fn there_are_never_more_subscriptions_than_discovery_bears() {
        let mut store = Store::new();
        let name = |number: usize| Name::Outbound(format!("t{number}:80").parse().expect("a target"));
        let mut watch = |number: usize| {
            let (tell, told) = tokio::sync::oneshot::channel();
            (take(Command::Watch(name(number), tell), &mut store), told)
        };
        // Nobody waited for the answers of the first half.
        let used: Vec<_> = (0..SUBSCRIPTIONS_MAX).map(|n| watch(n).1).skip(SUBSCRIPTIONS_MAX / 2).collect();
        let mut used: Vec<Known> = futures_util::future::try_join_all(used).await.expect("told");
        let (said, told) = watch(SUBSCRIPTIONS_MAX);
        used.push(told.await.expect("there is room again"));
        assert_eq!(said.len(), SUBSCRIPTIONS_MAX / 2 + 1, "those nobody reads are given up");
        for number in SUBSCRIPTIONS_MAX + 1..SUBSCRIPTIONS_MAX + SUBSCRIPTIONS_MAX / 2 {
            used.push(watch(number).1.await.expect("there is room"));
        }
        let (said, told) = watch(2 * SUBSCRIPTIONS_MAX);
        assert!(said.is_empty() && told.await.is_err(), "all are in use: one more stays unknown");
    }

    #[test]
    fn the_zone_is_what_is_told_first() {
        let zone = Zone::default();
        assert!(!zone.is(""), "nobody is in no zone");
        let told = |zone: &str| v1::SyncResponse { kind: Some(v1::sync_response::Kind::Zone(zone.into())) };
        for name in ["", "a", "b"] {
            assert!(apply(told(name), &mut Store::new(), &zone).is_empty(), "nothing to ack");
        }
        assert!(zone.is("a") && !zone.is("b"));
    }

    #[tokio::test]
    async fn on_reconnect_what_is_held_is_offered_and_asked_for_no_second_time() {
        let hello = v1::Hello { namespace: "shop".into(), ..v1::Hello::default() };
        let client = Client { hello, connected: watch::Sender::new(false), zone: Zone::default() };
        let mut store = Store::new();
        let name = |text: &str| Name::Outbound(text.parse().expect("a target"));
        let mut known = Vec::new();
        for target in ["held:80", "unanswered:80"] {
            let (tell, told) = tokio::sync::oneshot::channel();
            assert_eq!(take(Command::Watch(name(target), tell), &mut store), [request::subscribe(&name(target))]);
            known.push(told.await.expect("told where to read"));
        }
        let Name::Outbound(target) = name("held:80") else { panic!("made so") };
        let (matches, rules) = (Vec::new(), Vec::new());
        let outbound = Outbound { target, parent: None, protocol: Protocol::Detect, matches, rules };
        store.get_mut(&name("held:80")).expect("asked for").set(7, Resource::Outbound(outbound));
        let held = vec![request::held(&name("held:80"), 7)];
        let hello = v1::Hello { held, ..client.hello.clone() };
        assert_eq!(opening(&client, &mut store), [request::hello(hello), request::subscribe(&name("unanswered:80"))]);
    }
}
