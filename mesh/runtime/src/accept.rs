//! Taking connections from a listener, bounded, until the drain; then waiting for those that are open.

use crate::{drain, slots::Slots};
use std::{fmt::Display, net::SocketAddr, time::Duration};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

/// Pause after a failed `accept`: out of descriptors, say, which the next moment may cure.
const PAUSE: Duration = Duration::from_millis(50);

/// Serves each connection by `serve` as far as `slots` has a place for it, turning away the others and those that `serve`
/// has nothing for. At the drain the listener is closed, so that no client waits in its queue, and the open ones are awaited:
/// to end them is for `serve`. `what` names the listener in the log.
pub async fn each<F, E>(
    listener: TcpListener,
    what: &'static str,
    slots: Slots,
    drain: drain::Watch,
    mut serve: impl FnMut(TcpStream, SocketAddr) -> Option<F>,
) where
    F: Future<Output = Result<(), E>> + Send + 'static,
    E: Display + Send,
{
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = drain.signaled() => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((tcp, peer)) => {
                    let Ok(slot) = slots.take(peer.ip()) else {
                        tracing::debug!(what, %peer, reason = "overloaded", "connection refused");
                        continue;
                    };
                    let Some(serving) = serve(tcp, peer) else { continue };
                    connections.spawn(async move {
                        if let Err(error) = serving.await {
                            tracing::debug!(what, %peer, %error, "connection failed");
                        }
                        drop(slot);
                    });
                }
                Err(error) => {
                    crate::limited!(warn, what, %error, "cannot accept a connection; pausing");
                    tokio::time::sleep(PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}
