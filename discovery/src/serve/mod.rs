//! `Discovery.Sync`: one stream per proxy.
//!
//! In: the [`Hub`], which tells each stream what of its resources became another; before anything is known no stream opens. Out:
//! what each proxy subscribed to, when it differs from what it holds. A stream is polled by its connection: it owns no task and
//! no queue, and a proxy that reads nothing delays no other, and gets the latest when it reads again.

mod asking;
mod asks;
mod budget;
mod entries;
mod hub;
pub mod limits;
mod opening;
mod peers;
mod requests;
mod resource;
mod subscriber;
mod wire;

#[cfg(test)]
mod revoked_tests;
#[cfg(test)]
mod tests;

pub use asking::Asking;
pub(crate) use asks::{Body, Failure};
pub use hub::{Applied, Hub, Statuses};
pub(crate) use peers::Proxy;
pub use wire::Server;

use crate::index::Proof;
use budget::{Budget, Lines};
use futures_util::{FutureExt as _, stream};
use limits::{HELLO_TIMEOUT, TURN};
use opening::Opening;
use peers::{Peers, Place, Unproven};
use remora_api::{
    sync::RETURN_AFTER_MS,
    v1::{Hello, SyncRequest, sync_request},
};
use remora_model::SpiffeId;
use remora_runtime::{drain, grpc::Peer};
use requests::Requests;
use resource::Encoded;
use std::{net::IpAddr, sync::Arc, time::Duration};
use subscriber::{Next, Subscriber};
use tokio::time::Instant;
use tonic::{Code, Status};
use wire::Messages;

/// The service.
#[derive(Debug, Clone)]
pub struct Service {
    hub: Hub,
    draining: drain::Watch,
    /// Whether peers must be who they say. Only the plaintext listener for tests goes without.
    danger_any_peer: bool,
    peers: Peers,
    opening: Opening,
    lines: Arc<Lines>,
}

impl Service {
    /// For the mTLS listener. Streams end when the drain begins.
    pub fn new(hub: Hub, draining: drain::Watch) -> Self {
        Self {
            hub,
            draining,
            danger_any_peer: false,
            peers: Peers::default(),
            opening: Opening::default(),
            lines: Arc::default(),
        }
    }

    /// Asks the proxies whose streams are served.
    pub fn asking(&self) -> Asking {
        Asking::new(self.peers.clone(), self.hub.clone())
    }

    /// For a plaintext listener in tests: believes every Hello.
    pub fn danger_any_peer(self) -> Self {
        Self { danger_any_peer: true, ..self }
    }

    /// With its bounds, as a server takes it.
    pub fn into_server(self) -> Server {
        Server(self)
    }

    async fn sync(&self, peer: Option<Peer>, requests: Requests) -> Result<Messages, Status> {
        let address = peer.as_ref().map(|peer| peer.addr.ip().to_canonical());
        let peer = peer.and_then(|peer| peer.id);
        let identity = peer.as_ref().map(SpiffeId::as_str).unwrap_or_default();
        // Until anything is known no stream opens, so that no proxy takes itself for ready on our silence.
        tokio::select! {
            () = self.hub.known() => {}
            () = self.draining.signaled() => return Err(ending()),
        }
        let opening = self.opening.enter(Instant::now()).map_err(come_again);
        let opening = opening.inspect_err(|status| ended(status, peer.as_ref(), &self.lines))?;
        let unproven = if self.danger_any_peer {
            None
        } else {
            let arrived = tokio::select! {
                arrived = self.peers.arrive(identity, HELLO_TIMEOUT) => arrived,
                () = self.draining.signaled() => return Err(ending()),
            };
            Some(arrived.inspect_err(|status| ended(status, peer.as_ref(), &self.lines))?)
        };
        let conversation = Conversation {
            requests,
            draining: self.draining.clone(),
            peer,
            address,
            service: self.clone(),
            unproven,
            opening: Some(opening),
            proxy: None,
        };
        // A future holds what it takes more than once, so that is a pointer.
        let responses = stream::unfold(Some(Box::new(conversation)), |conversation| async move {
            let mut conversation = conversation?;
            match conversation.next().await {
                Ok(response) => Some((Ok(response?), Some(conversation))),
                Err(status) => {
                    ended(&status, conversation.peer.as_ref(), &conversation.service.lines);
                    Some((Err(status), None))
                }
            }
        });
        Ok(Box::pin(responses))
    }
}

/// One stream.
struct Conversation {
    requests: Requests,
    draining: drain::Watch,
    peer: Option<SpiffeId>,
    address: Option<IpAddr>,
    service: Service,
    /// As long as the pod that it names is unknown.
    unproven: Option<Unproven>,
    /// Until it was told all that it asked for at first.
    opening: Option<opening::Place>,
    /// Known after Hello.
    proxy: Option<Connected>,
}

/// A proxy that has said who it is.
struct Connected {
    subscriber: Subscriber,
    budget: Budget,
    place: Place,
}

impl Connected {
    fn new(hello: Hello, address: Option<IpAddr>, identity: &str, service: &Service) -> Result<Self, Status> {
        let pod = format!("{}/{}", hello.namespace, hello.pod);
        let subscriber = Subscriber::new(hello, service.hub.clone(), address, Arc::clone(&service.lines))?;
        if !service.danger_any_peer {
            proof(&subscriber)?;
        }
        let place = service.peers.settle(identity, &pod);
        metrics::gauge!("remora_discovery_streams").increment(1.0);
        Ok(Self { subscriber, budget: Budget::new(Instant::now()), place })
    }
}

/// Whether the pod is known to be the caller's; an error if it is known to be another's.
fn proof(subscriber: &Subscriber) -> Result<bool, Status> {
    match subscriber.proof() {
        Proof::Unknown => Ok(false),
        Proof::Proven => Ok(true),
        Proof::Refuted(why) => Err(Status::permission_denied(format!("pod {} {why}", subscriber.named()))),
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        self.subscriber.mailbox.asks.end();
        metrics::gauge!("remora_discovery_streams").decrement(1.0);
    }
}

impl Conversation {
    /// The next thing to say; `None` when the proxy is gone.
    ///
    /// What the proxy said is heard before anything more is said to it, so that its acks never pile up; but no more at once
    /// than a turn, so that a client that asks without end delays no other.
    async fn next(&mut self) -> Result<Option<Encoded>, Status> {
        if self.proxy.is_none() {
            let hello = self.hello().await?;
            let identity = self.peer.as_ref().map_or(hello.service_account.as_str(), SpiffeId::as_str).to_owned();
            self.proxy = Some(Connected::new(hello, self.address, &identity, &self.service)?);
        }
        loop {
            if !self.hear()? {
                return Ok(None);
            }
            let next = self.look()?;
            let Some(proxy) = &mut self.proxy else { return Ok(None) };
            if let Some(wait) = proxy.budget.spend(proxy.subscriber.spent(), Instant::now()) {
                metrics::counter!("remora_discovery_throttled_total").increment(1);
                tokio::select! {
                    () = tokio::time::sleep(wait) => {}
                    _ = &mut proxy.place.lost => return Err(replaced()),
                    () = self.draining.signaled() => return Err(ending()),
                }
            }
            match next {
                Next::Tell(response) => {
                    metrics::counter!("remora_discovery_sent_total").increment(1);
                    return Ok(Some(response));
                }
                Next::Later => {
                    tokio::task::yield_now().await;
                    continue;
                }
                Next::Nothing => self.opening = None,
            }
            tokio::select! {
                () = proxy.subscriber.mailbox.filled() => {}
                () = self.draining.signaled() => return Err(ending()),
                _ = &mut proxy.place.lost => return Err(replaced()),
                message = self.requests.next() => match message {
                    Ok(Some(message)) => proxy.subscriber.take(message)?,
                    // The proxy is gone, in good order or not.
                    Ok(None) | Err(_) => return Ok(None),
                },
            }
        }
    }

    /// Takes what the proxy has said. Whether it is still there.
    fn hear(&mut self) -> Result<bool, Status> {
        let Some(proxy) = &mut self.proxy else { return Ok(false) };
        for _ in 0..TURN {
            if !proxy.subscriber.hears() {
                break;
            }
            match self.requests.next().now_or_never() {
                Some(Ok(Some(message))) => proxy.subscriber.take(message)?,
                Some(Ok(None) | Err(_)) => return Ok(false),
                None => break,
            }
        }
        Ok(true)
    }

    /// What there is to say.
    fn look(&mut self) -> Result<Next, Status> {
        let Some(proxy) = &mut self.proxy else { return Ok(Next::Nothing) };
        if self.service.danger_any_peer || proof(&proxy.subscriber)? {
            proxy.subscriber.prove();
            if proxy.subscriber.answers() {
                proxy.place.answers(&proxy.subscriber.mailbox);
            }
            self.unproven = None;
        }
        Ok(proxy.subscriber.next())
    }

    async fn hello(&mut self) -> Result<Hello, Status> {
        let first = tokio::select! {
            first = tokio::time::timeout(HELLO_TIMEOUT, self.requests.next()) => first,
            () = self.draining.signaled() => return Err(ending()),
        };
        let first = first.map_err(|_| Status::deadline_exceeded(format!("no hello within {HELLO_TIMEOUT:?}")))??;
        let Some(SyncRequest { kind: Some(sync_request::Kind::Hello(hello)) }) = first else {
            return Err(Status::invalid_argument("the first message must be hello"));
        };
        if !self.service.danger_any_peer {
            same(self.peer.as_ref(), &hello)?;
        }
        Ok(hello)
    }
}

/// Logs why a stream was ended, unless too much was said already, and counts it if the proxy is to blame.
fn ended(status: &Status, peer: Option<&SpiffeId>, lines: &Lines) {
    let reason = match status.code() {
        Code::PermissionDenied => "identity",
        Code::Unauthenticated => "certificate",
        Code::DeadlineExceeded => "hello_timeout",
        Code::ResourceExhausted => "limit",
        Code::Aborted => "replaced",
        Code::Unavailable if status.metadata().contains_key(RETURN_AFTER_MS) => "overloaded",
        Code::InvalidArgument => "protocol",
        _ => {
            tracing::info!(code = ?status.code(), reason = status.message(), "sync stream ended");
            return;
        }
    };
    metrics::counter!("remora_discovery_refused_total", "reason" => reason).increment(1);
    let peer = peer.map(SpiffeId::as_str);
    if let Some(left_out) = lines.may_say(Instant::now()) {
        tracing::warn!(reason, peer, why = status.message(), left_out, "sync stream refused");
    }
}

/// There is no room for a stream at the moment. Says when to come again.
fn come_again(after: Duration) -> Status {
    let mut status = Status::unavailable(format!("too many streams are being opened; come again in {after:?}"));
    let after = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
    status.metadata_mut().insert(RETURN_AFTER_MS, after.into());
    status
}

fn replaced() -> Status {
    Status::aborted("a newer stream of this pod has begun")
}

fn ending() -> Status {
    Status::unavailable("discovery is shutting down")
}

/// Whether the peer is the workload that it says.
fn same(peer: Option<&SpiffeId>, hello: &Hello) -> Result<(), Status> {
    let peer = peer.ok_or_else(|| Status::unauthenticated("no client certificate"))?;
    let says = (Some(hello.namespace.as_str()), Some(hello.service_account.as_str()));
    if (peer.namespace(), peer.service_account()) == says {
        return Ok(());
    }
    let claim = format!("ns/{}/sa/{}", hello.namespace, hello.service_account);
    Err(Status::permission_denied(format!("the certificate is {peer}'s, but the hello says {claim}")))
}
