//! The loopback port at which a running load is asked.

use super::report::Tally;
use crate::body::whole;
use http::{Request, Response};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use std::{cell::RefCell, convert::Infallible, rc::Rc};
use tokio::{net::TcpListener, sync::watch};

/// Answers one connection at a time.
pub(super) async fn serve(
    listener: TcpListener,
    tally: Rc<RefCell<Tally>>,
    stop: watch::Sender<bool>,
    finished: watch::Receiver<bool>,
) {
    while let Ok((stream, _)) = listener.accept().await {
        let service = service_fn(|request: Request<Incoming>| {
            let (tally, stop, mut finished) = (&tally, &stop, finished.clone());
            async move {
                if request.uri().path() == "/stop" {
                    stop.send_replace(true);
                    drop(finished.wait_for(|&finished| finished).await);
                }
                Ok::<_, Infallible>(Response::new(whole(tally.borrow().json())))
            }
        });
        // A client that goes away is no news.
        drop(http1::Builder::new().keep_alive(false).serve_connection(TokioIo::new(stream), service).await);
    }
}
