//! `Discovery.Sync`: one stream per proxy.
//!
//! In: snapshots, as a watch of which each stream sees only the latest; before the first of them no stream opens. Out:
//! what each proxy subscribed to, when it differs from what it holds. A conversation is no task: it is the response stream itself, and goes on when its own
//! connection has room for a message. So its owner is the server, which awaits its connections; there is no queue; and a
//! proxy that reads nothing delays nobody, and on its return is told the latest.

mod subscriber;

#[cfg(test)]
mod tests;

use crate::index::Snapshot;
use futures_util::{FutureExt as _, Stream, stream};
use remora_api::v1::discovery_server::{Discovery, DiscoveryServer};
use remora_api::v1::{Hello, SyncRequest, SyncResponse, sync_request};
use remora_model::SpiffeId;
use remora_runtime::drain;
use remora_runtime::grpc::Peer;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::time::Duration;
use subscriber::Subscriber;
use tokio::sync::watch;
use tonic::{Code, Request, Response, Status, Streaming};

/// Resources that one proxy may subscribe to.
pub const SUBSCRIPTIONS_MAX: usize = 10_000;
/// How long a proxy may take to say who it is.
pub const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
/// The largest message taken: a Hello that offers twice [`SUBSCRIPTIONS_MAX`] resources of the longest names.
pub const REQUEST_BYTES_MAX: usize = 8 * 1024 * 1024;

/// What is served.
pub type Snapshots = watch::Receiver<Option<Arc<Snapshot>>>;

/// The service.
#[derive(Debug, Clone)]
pub struct Service {
    snapshots: Snapshots,
    draining: drain::Watch,
    /// Whether peers must be who they say. Only the plaintext listener for tests goes without.
    danger_any_peer: bool,
}

impl Service {
    /// For the mTLS listener. Streams end when the drain begins.
    pub fn new(snapshots: Snapshots, draining: drain::Watch) -> Self {
        Self { snapshots, draining, danger_any_peer: false }
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
        let peer = request.extensions().get::<Peer>().and_then(|peer| peer.id.clone());
        // Until anything is known no stream opens, so that no proxy takes itself for ready on our silence.
        let mut snapshots = self.snapshots.clone();
        tokio::select! {
            first = snapshots.wait_for(Option::is_some) => drop(first.map_err(|_| ending())?),
            () = self.draining.signaled() => return Err(ending()),
        }
        let conversation = Conversation {
            requests: request.into_inner(),
            snapshots,
            draining: self.draining.clone(),
            peer,
            any_peer: self.danger_any_peer,
            proxy: None,
        };
        let responses = stream::unfold(Some(conversation), |conversation| async move {
            let mut conversation = conversation?;
            match conversation.next().await {
                Ok(response) => Some((Ok(response?), Some(conversation))),
                Err(status) => {
                    ended(&status, conversation.peer.as_ref());
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
    any_peer: bool,
    /// Known after Hello.
    proxy: Option<Connected>,
}

/// A proxy that has said who it is.
struct Connected {
    subscriber: Subscriber,
    /// What it was told from. Not held fast: a proxy that reads nothing must not keep what it was told from for ever.
    told: Weak<Snapshot>,
}

impl Connected {
    fn new(hello: Hello) -> Result<Self, Status> {
        let subscriber = Subscriber::new(hello)?;
        metrics::gauge!("remora_discovery_streams").increment(1.0);
        Ok(Self { subscriber, told: Weak::new() })
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
    /// What the proxy said is heard before anything more is said to it, so that its acks never pile up.
    async fn next(&mut self) -> Result<Option<SyncResponse>, Status> {
        let proxy = match &mut self.proxy {
            Some(proxy) => proxy,
            None => {
                let hello = self.hello().await?;
                self.proxy.insert(Connected::new(hello)?)
            }
        };
        let mut heard = self.requests.message().now_or_never();
        loop {
            match heard.take() {
                Some(Ok(Some(message))) => {
                    proxy.subscriber.take(message)?;
                    heard = self.requests.message().now_or_never();
                    continue;
                }
                // The proxy is gone, in good order or not.
                Some(Ok(None) | Err(_)) => return Ok(None),
                None => {}
            }
            let latest = self.snapshots.borrow_and_update().clone();
            if let Some(latest) = latest {
                if !std::ptr::eq(proxy.told.as_ptr(), Arc::as_ptr(&latest)) {
                    proxy.told = Arc::downgrade(&latest);
                    proxy.subscriber.renew();
                }
                if let Some(response) = proxy.subscriber.next(&latest) {
                    metrics::counter!("remora_discovery_sent_total").increment(1);
                    return Ok(Some(response));
                }
            }
            tokio::select! {
                changed = self.snapshots.changed() => changed.map_err(|_| ending())?,
                () = self.draining.signaled() => return Err(ending()),
                message = self.requests.message() => heard = Some(message),
            }
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
        if !self.any_peer {
            same(self.peer.as_ref(), &hello)?;
        }
        Ok(hello)
    }
}

/// Logs why a stream was ended, and counts it if the proxy is to blame.
fn ended(status: &Status, peer: Option<&SpiffeId>) {
    let reason = match status.code() {
        Code::PermissionDenied => "identity",
        Code::Unauthenticated => "certificate",
        Code::DeadlineExceeded => "hello_timeout",
        Code::ResourceExhausted => "limit",
        Code::InvalidArgument => "protocol",
        _ => {
            tracing::info!(code = ?status.code(), reason = status.message(), "sync stream ended");
            return;
        }
    };
    metrics::counter!("remora_discovery_refused_total", "reason" => reason).increment(1);
    let peer = peer.map(SpiffeId::as_str);
    tracing::warn!(reason, peer, why = status.message(), "sync stream refused");
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
