//! Who called what, as the proxies of those who were called have counted it: for who writes policy from it.

use super::ask::Asking;
use crate::cluster::{ControlPlane, scope::Scope};

/// Calls of one peer to one route of a pod, since its proxy's start.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Seen {
    pub(crate) namespace: String,
    /// `shop/web-1`.
    pub(crate) pod: String,
    /// `shop/api:80`.
    pub(crate) parent: String,
    /// `GET /orders/:id`, or what else it is called by.
    pub(crate) route: String,
    /// A SPIFFE ID; empty: nobody.
    pub(crate) peer: String,
    pub(crate) requests: u64,
    /// For how long the proxy has counted.
    pub(crate) seconds: f64,
}

/// What came in of all pods that are meant, but for what policy refused; and which pods said nothing.
pub(crate) async fn inbound(scope: &Scope, control_plane: &ControlPlane) -> anyhow::Result<(Vec<Seen>, Vec<String>)> {
    let mut all = Vec::new();
    let asking = Asking::of(scope, control_plane).await?;
    let silent = asking.signals(|found, signals| {
        for route in signals.routes.iter().filter(|route| route.direction == "inbound" && route.route != "denied") {
            let edges = signals.edges.iter().filter(|edge| edge.route == route.id && edge.requests > 0);
            all.extend(edges.map(|edge| Seen {
                namespace: found.namespace.clone(),
                pod: found.name.clone(),
                parent: route.parent.clone(),
                route: route.route.clone(),
                peer: edge.peer.clone(),
                requests: edge.requests,
                seconds: signals.uptime_s,
            }));
        }
    });
    let silent = silent.await?;
    Ok((all, silent.into_iter().map(|silent| format!("{}: {}", silent.pod, silent.error)).collect()))
}
