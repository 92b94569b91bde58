//! `Discovery.Sync`: one stream per proxy.
//!
//! In: snapshots, as a watch of which each stream sees only the latest. Out: what each proxy subscribed to, when it
//! differs from what it holds. Every stream is one task that waits for its own proxy only: a stalled one stays behind
//! alone, and its queue is at most [`QUEUE_MAX`] messages.

mod subscriber;

#[cfg(test)]
mod tests;

use crate::index::Snapshot;
use remora_api::v1::discovery_server::Discovery;
use remora_api::v1::{Hello, SyncRequest, SyncResponse, sync_request};
use remora_model::SpiffeId;
use remora_runtime::grpc::Peer;
use std::sync::Arc;
use std::time::Duration;
use subscriber::Subscriber;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

/// Messages on their way to one proxy, beside what HTTP/2 buffers; a fuller queue waits.
pub const QUEUE_MAX: usize = 16;
/// Resources that one proxy may subscribe to.
pub const SUBSCRIPTIONS_MAX: usize = 10_000;
/// How long a proxy may take to say who it is.
pub const HELLO_TIMEOUT: Duration = Duration::from_secs(10);

/// What is served: nothing until the first snapshot.
pub type Snapshots = watch::Receiver<Option<Arc<Snapshot>>>;

/// The service.
#[derive(Debug, Clone)]
pub struct Service {
    snapshots: Snapshots,
    /// Whether peers must be who they say. Only the plaintext listener for tests goes without.
    danger_any_peer: bool,
}

impl Service {
    /// For the mTLS listener.
    pub fn new(snapshots: Snapshots) -> Self {
        Self { snapshots, danger_any_peer: false }
    }

    /// For a plaintext listener in tests: believes every Hello.
    pub fn danger_any_peer(snapshots: Snapshots) -> Self {
        Self { snapshots, danger_any_peer: true }
    }
}

#[tonic::async_trait]
impl Discovery for Service {
    type SyncStream = ReceiverStream<Result<SyncResponse, Status>>;

    async fn sync(&self, request: Request<Streaming<SyncRequest>>) -> Result<Response<Self::SyncStream>, Status> {
        let peer = request.extensions().get::<Peer>().and_then(|peer| peer.id.clone());
        let any_peer = self.danger_any_peer;
        let (to_proxy, responses) = mpsc::channel(QUEUE_MAX);
        let snapshots = self.snapshots.clone();
        let mut requests = request.into_inner();
        // The task ends with its stream: when the proxy goes, or the server drops the responses.
        tokio::spawn(async move {
            let check = |hello: &Hello| if any_peer { Ok(()) } else { same(peer.as_ref(), hello) };
            if let Err(status) = run(&mut requests, &to_proxy, snapshots, check).await {
                tracing::warn!(code = ?status.code(), reason = status.message(), "sync stream refused");
                if to_proxy.send(Err(status)).await.is_err() {
                    tracing::debug!("the proxy left before it was told");
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(responses)))
    }
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

async fn run(
    requests: &mut Streaming<SyncRequest>,
    to_proxy: &mpsc::Sender<Result<SyncResponse, Status>>,
    mut snapshots: Snapshots,
    check: impl Fn(&Hello) -> Result<(), Status>,
) -> Result<(), Status> {
    let first = tokio::time::timeout(HELLO_TIMEOUT, requests.message()).await;
    let first = first.map_err(|_| Status::deadline_exceeded("no hello within ten seconds"))??;
    let Some(SyncRequest { kind: Some(sync_request::Kind::Hello(hello)) }) = first else {
        return Err(Status::invalid_argument("the first message must be hello"));
    };
    check(&hello)?;
    let mut subscriber = Subscriber::new(hello)?;
    metrics::gauge!("remora_discovery_streams").increment(1.0);
    let done = converse(requests, to_proxy, &mut snapshots, &mut subscriber).await;
    metrics::gauge!("remora_discovery_streams").decrement(1.0);
    done
}

async fn converse(
    requests: &mut Streaming<SyncRequest>,
    to_proxy: &mpsc::Sender<Result<SyncResponse, Status>>,
    snapshots: &mut Snapshots,
    subscriber: &mut Subscriber,
) -> Result<(), Status> {
    loop {
        let snapshot = snapshots.borrow_and_update().clone();
        for response in snapshot.iter().flat_map(|snapshot| subscriber.catch_up(snapshot)) {
            metrics::counter!("remora_discovery_sent_total").increment(1);
            if to_proxy.send(Ok(response)).await.is_err() {
                return Ok(());
            }
        }
        tokio::select! {
            changed = snapshots.changed() => {
                if changed.is_err() {
                    return Err(Status::unavailable("discovery is shutting down"));
                }
            }
            message = requests.message() => match message {
                Ok(Some(message)) => subscriber.take(message)?,
                // The proxy is gone, in good order or not.
                Ok(None) | Err(_) => return Ok(()),
            },
            () = to_proxy.closed() => return Ok(()),
        }
    }
}
