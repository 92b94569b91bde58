//! `ticker`: today's offers, over WebSocket, one every second.

use crate::stop::Stop;
use axum::{
    extract::Request,
    http::{StatusCode, header},
    response::{IntoResponse as _, Response},
    routing::{Router, any, get},
};
use futures_util::{SinkExt as _, StreamExt as _};
use hyper_util::rt::TokioIo;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        handshake::derive_accept_key,
        protocol::{Message, Role},
    },
};

const EVERY: Duration = Duration::from_secs(1);

pub(crate) async fn run(listener: TcpListener, stop: Stop) -> anyhow::Result<()> {
    let told = stop.clone();
    let routes = Router::new()
        .route("/healthz", get(|| async { "well\n" }))
        .route("/offers", any(move |request| offers(request, told.clone())));
    stop.serve(listener, routes).await
}

async fn offers(mut request: Request, stop: Stop) -> Response {
    let Some(key) = request.headers().get(header::SEC_WEBSOCKET_KEY) else {
        return (StatusCode::UPGRADE_REQUIRED, "this is a WebSocket\n").into_response();
    };
    let accept = derive_accept_key(key.as_bytes());
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let Ok(upgraded) = upgrade.await else { return };
        let socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, None).await;
        // A client that is gone needs no offers.
        let _gone = tell(socket, stop).await.is_err();
    });
    let headers =
        [(header::UPGRADE, "websocket"), (header::CONNECTION, "upgrade"), (header::SEC_WEBSOCKET_ACCEPT, &accept)];
    (StatusCode::SWITCHING_PROTOCOLS, headers).into_response()
}

/// Sends offers until the client goes, or until this process does.
async fn tell(
    mut socket: WebSocketStream<TokioIo<hyper::upgrade::Upgraded>>,
    stop: Stop,
) -> Result<(), tokio_tungstenite::tungstenite::Error> {
    let mut every = tokio::time::interval(EVERY);
    let mut told = std::pin::pin!(stop.told());
    for number in 0_u64.. {
        tokio::select! {
            _ = every.tick() => {}
            () = &mut told => break,
            message = socket.next() => match message {
                Some(Ok(Message::Close(_)) | Err(_)) | None => return Ok(()),
                Some(Ok(_)) => continue,
            },
        }
        socket.send(Message::text(format!("offer {number} of {}", crate::pod()))).await?;
    }
    socket.close(None).await
}
