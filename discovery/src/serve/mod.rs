//! `Discovery.Sync`: one stream per proxy.
//!
//! In: snapshots, as a watch of which each stream sees only the latest; before the first of them no stream opens. Out:
//! what each proxy subscribed to, when it differs from what it holds. A conversation is no task: it is the response stream itself, and goes on when its own
//! connection has room for a message. So its owner is the server, which awaits its connections; there is no queue; and a
//! proxy that reads nothing delays no other, and gets the latest when it reads again.

mod budget;
pub mod limits;
mod peers;
mod subscriber;

#[cfg(test)]
mod tests;

use crate::index::{Proof, Snapshot};
use budget::{Budget, Lines};
use futures_util::{FutureExt as _, Stream, stream};
use limits::{HELLO_TIMEOUT, REQUEST_BYTES_MAX, TURN};
use peers::{Peers, Place, Unproven};
use remora_api::v1::{
    Hello, SyncRequest, SyncResponse,
    discovery_server::{Discovery, DiscoveryServer},
    sync_request,
};
use remora_model::SpiffeId;
use remora_runtime::{drain, grpc::Peer};
use std::{
    net::IpAddr,
    pin::Pin,
    sync::{Arc, Weak},
};
use subscriber::{Next, Subscriber};
use tokio::{sync::watch, time::Instant};
use tonic::{Code, Request, Response, Status, Streaming};

/// What is served.
pub type Snapshots = watch::Receiver<Option<Arc<Snapshot>>>;

/// The service.
#[derive(Debug, Clone)]
pub struct Service {
    snapshots: Snapshots,
    draining: drain::Watch,
    /// Whether peers must be who they say. Only the plaintext listener for tests goes without.
    danger_any_peer: bool,
    peers: Peers,
    lines: Arc<Lines>,
}

impl Service {
    /// For the mTLS listener. Streams end when the drain begins.
    pub fn new(snapshots: Snapshots, draining: drain::Watch) -> Self {
        Self { snapshots, draining, danger_any_peer: false, peers: Peers::default(), lines: Arc::default() }
    }

    /// For a plaintext listener in tests: believes every Hello.
    pub fn danger_any_peer(self) -> Self {
        Self { danger_any_peer: true, ..self }
    }

    /// With its bounds, as a server takes it.
    pub fn into_server(self) -> DiscoveryServer<Self> {
        DiscoveryServer::new(self).max_decoding_message_size(REQUEST_BYTES_MAX)
    }
}

#[tonic::async_trait]
impl Discovery for Service {
    type SyncStream = Pin<Box<dyn Stream<Item = Result<SyncResponse, Status>> + Send>>;

    async fn sync(&self, request: Request<Streaming<SyncRequest>>) -> Result<Response<Self::SyncStream>, Status> {
        let peer = request.extensions().get::<Peer>();
        let (address, peer) = (peer.map(|peer| peer.addr.ip().to_canonical()), peer.and_then(|peer| peer.id.clone()));
        let identity = peer.as_ref().map(SpiffeId::as_str).unwrap_or_default();
        // Until anything is known no stream opens, so that no proxy takes itself for ready on our silence.
        let mut snapshots = self.snapshots.clone();
        tokio::select! {
            first = snapshots.wait_for(Option::is_some) => drop(first.map_err(|_| ending())?),
            () = self.draining.signaled() => return Err(ending()),
        }
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
            requests: request.into_inner(),
            snapshots,
            draining: self.draining.clone(),
            peer,
            address,
            service: self.clone(),
            unproven,
            proxy: None,
        };
        let responses = stream::unfold(Some(conversation), |conversation| async move {
            let mut conversation = conversation?;
            match conversation.next().await {
                Ok(response) => Some((Ok(response?), Some(conversation))),
                Err(status) => {
                    ended(&status, conversation.peer.as_ref(), &conversation.service.lines);
                    Some((Err(status), None))
                }
            }
        });
        Ok(Response::new(Box::pin(responses)))
    }
}

/// One stream.
struct Conversation {
    requests: Streaming<SyncRequest>,
    snapshots: Snapshots,
    draining: drain::Watch,
    peer: Option<SpiffeId>,
    address: Option<IpAddr>,
    service: Service,
    /// As long as the pod that it names is unknown.
    unproven: Option<Unproven>,
    /// Known after Hello.
    proxy: Option<Connected>,
}

/// A proxy that has said who it is.
struct Connected {
    subscriber: Subscriber,
    /// The snapshot that was sent last. A weak reference: a proxy that reads nothing must not keep an old snapshot in memory.
    told: Weak<Snapshot>,
    budget: Budget,
    place: Place,
    namespace: String,
    pod: String,
    account: String,
}

impl Connected {
    fn new(hello: Hello, proven: bool, identity: &str, service: &Service) -> Result<Self, Status> {
        let place = service.peers.settle(identity, &format!("{}/{}", hello.namespace, hello.pod));
        let (namespace, pod, account) = (hello.namespace.clone(), hello.pod.clone(), hello.service_account.clone());
        let subscriber = Subscriber::new(hello, proven, Arc::clone(&service.lines))?;
        metrics::gauge!("remora_discovery_streams").increment(1.0);
        let (told, budget) = (Weak::new(), Budget::new(Instant::now()));
        Ok(Self { subscriber, told, budget, place, namespace, pod, account })
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        metrics::gauge!("remora_discovery_streams").decrement(1.0);
    }
}

impl Conversation {
    /// The next thing to say; `None` when the proxy is gone.
    ///
    /// What the proxy said is heard before anything more is said to it, so that its acks never pile up; but no more at once
    /// than a turn, so that a client that asks without end delays no other.
    async fn next(&mut self) -> Result<Option<SyncResponse>, Status> {
        if self.proxy.is_none() {
            let hello = self.hello().await?;
            let proven = self.prove(&hello.namespace, &hello.pod, &hello.service_account)?;
            let identity = self.peer.as_ref().map_or(hello.service_account.as_str(), SpiffeId::as_str).to_owned();
            self.proxy = Some(Connected::new(hello, proven, &identity, &self.service)?);
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
                Next::Nothing => {}
            }
            tokio::select! {
                changed = self.snapshots.changed() => changed.map_err(|_| ending())?,
                () = self.draining.signaled() => return Err(ending()),
                _ = &mut proxy.place.lost => return Err(replaced()),
                message = self.requests.message() => match message {
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
            match self.requests.message().now_or_never() {
                Some(Ok(Some(message))) => proxy.subscriber.take(message)?,
                Some(Ok(None) | Err(_)) => return Ok(false),
                None => break,
            }
        }
        Ok(true)
    }

    /// What there is to say of the latest snapshot.
    fn look(&mut self) -> Result<Next, Status> {
        let Some(latest) = self.snapshots.borrow_and_update().clone() else { return Ok(Next::Nothing) };
        let news = self.proxy.as_ref().is_some_and(|proxy| !std::ptr::eq(proxy.told.as_ptr(), Arc::as_ptr(&latest)));
        let who = self.proxy.as_ref().map(|one| (one.namespace.clone(), one.pod.clone(), one.account.clone()));
        let proven = match who.filter(|_| news) {
            Some((namespace, pod, account)) => self.prove(&namespace, &pod, &account)?,
            None => false,
        };
        let Some(proxy) = &mut self.proxy else { return Ok(Next::Nothing) };
        if news {
            proxy.told = Arc::downgrade(&latest);
            proxy.subscriber.proven |= proven;
            proxy.subscriber.renew();
        }
        Ok(proxy.subscriber.next(&latest))
    }

    /// Whether the pod is known to be the caller's; an error if it is known to be another's.
    fn prove(&mut self, namespace: &str, pod: &str, account: &str) -> Result<bool, Status> {
        if self.service.danger_any_peer {
            return Ok(true);
        }
        let latest = self.snapshots.borrow().clone();
        match latest.map_or(Proof::Unknown, |latest| latest.prove(namespace, pod, account, self.address)) {
            Proof::Unknown => Ok(false),
            Proof::Proven => {
                self.unproven = None;
                Ok(true)
            }
            Proof::Refuted(why) => Err(Status::permission_denied(format!("pod {namespace}/{pod} {why}"))),
        }
    }

    async fn hello(&mut self) -> Result<Hello, Status> {
        let first = tokio::select! {
            first = tokio::time::timeout(HELLO_TIMEOUT, self.requests.message()) => first,
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
