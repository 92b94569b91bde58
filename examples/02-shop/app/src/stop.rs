//! Ending well: go on, tell clients to go elsewhere, finish.

use axum::{
    Router,
    extract::Request,
    http::{HeaderValue, header},
    middleware::{self, Next},
    response::Response,
};
use std::time::Duration;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::watch,
};

/// What SIGTERM sets off.
#[derive(Debug, Clone)]
pub(crate) struct Stop {
    told: watch::Receiver<bool>,
    linger: Duration,
}

impl Stop {
    /// Listens for SIGTERM.
    pub(crate) fn new(linger: Duration) -> std::io::Result<Self> {
        let (tell, told) = watch::channel(false);
        let mut terminated = signal(SignalKind::terminate())?;
        tokio::spawn(async move {
            terminated.recv().await;
            tell.send_replace(true);
            // Holds the channel open for as long as the process lives.
            tell.closed().await;
        });
        Ok(Self { told, linger })
    }

    /// Whether SIGTERM came.
    pub(crate) fn is_told(&self) -> bool {
        *self.told.borrow()
    }

    /// When SIGTERM comes.
    pub(crate) async fn told(mut self) {
        // An error means that the process ends in any case.
        let _ended = self.told.wait_for(|told| *told).await.is_err();
    }

    /// When to take no new connections any more: some time after SIGTERM. Endpoints are removed while a pod ends, not
    /// before, and every client learns of it at its own time.
    pub(crate) async fn lingered(self) {
        let linger = self.linger;
        self.told().await;
        tokio::time::sleep(linger).await;
    }

    /// Serves until it is time to end; connections that are asked for something meanwhile are told that this was the last.
    pub(crate) async fn serve(self, listener: TcpListener, routes: Router) -> anyhow::Result<()> {
        let stop = self.clone();
        let routes = routes.layer(middleware::from_fn(move |request: Request, next: Next| {
            let stop = stop.clone();
            async move { last_words(next.run(request).await, &stop) }
        }));
        Ok(axum::serve(listener, routes).with_graceful_shutdown(self.lingered()).await?)
    }
}

fn last_words(mut response: Response, stop: &Stop) -> Response {
    if stop.is_told() {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}
