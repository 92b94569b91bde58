//! The peer's side: ends TLS and hands requests or bytes to the application on loopback.

use crate::{
    BYTES_PORT, CONNECTION_WINDOW, LocalExecutor, RELAY_BUFFER, STREAMS_MAX, dial, original_destination, spawn,
};
use anyhow::{Context, Result};
use hyper::{
    Request, Response, Version,
    body::Incoming,
    client::conn::http1::{self, SendRequest},
    header::{CONNECTION, HOST, HeaderValue},
    server::conn::http2,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use std::{
    cell::RefCell,
    net::{Ipv4Addr, SocketAddr},
    rc::Rc,
};
use tokio::{
    io::copy_bidirectional_with_sizes,
    net::{TcpListener, TcpStream},
    task::spawn_local,
};
use tokio_rustls::TlsAcceptor;

/// Idle connections to the application, the last used on top.
type Pool = Rc<RefCell<Vec<SendRequest<Incoming>>>>;

pub(crate) async fn run(tls: TlsAcceptor) -> Result<()> {
    let pool = Pool::default();
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 4143)).await.context("listen on port 4143")?;
    loop {
        let (stream, _) = listener.accept().await.context("accept")?;
        spawn(serve(tls.clone(), pool.clone(), stream));
    }
}

async fn serve(tls: TlsAcceptor, pool: Pool, stream: TcpStream) -> Result<()> {
    stream.set_nodelay(true)?;
    let port = original_destination(&stream)?.port();
    let app = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut peer = tls.accept(stream).await.context("TLS with the peer")?;
    if port == BYTES_PORT {
        let mut app = dial(app).await?;
        copy_bidirectional_with_sizes(&mut peer, &mut app, RELAY_BUFFER, RELAY_BUFFER).await?;
        return Ok(());
    }
    let service = service_fn(move |request| forward(pool.clone(), app, request));
    http2::Builder::new(LocalExecutor)
        .max_concurrent_streams(STREAMS_MAX)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .serve_connection(TokioIo::new(peer), service)
        .await
        .context("HTTP/2 from the peer")
}

/// Sends one request to the application as HTTP/1 and its response back as HTTP/2.
async fn forward(pool: Pool, app: SocketAddr, mut request: Request<Incoming>) -> Result<Response<Incoming>> {
    let authority = request.uri().authority().context("a request without an authority")?;
    let host = HeaderValue::from_str(authority.as_str())?;
    *request.uri_mut() = request.uri().path_and_query().cloned().context("a request without a path")?.into();
    request.headers_mut().insert(HOST, host);
    *request.version_mut() = Version::HTTP_11;

    let mut connection = match idle(&pool) {
        Some(connection) => connection,
        None => connect(app).await?,
    };
    let response = connection.send_request(request).await?;
    spawn_local(async move {
        if connection.ready().await.is_ok() {
            pool.borrow_mut().push(connection);
        }
    });

    let (mut head, body) = response.into_parts();
    head.version = Version::HTTP_2;
    head.headers.remove(CONNECTION);
    Ok(Response::from_parts(head, body))
}

fn idle(pool: &Pool) -> Option<SendRequest<Incoming>> {
    let mut pool = pool.borrow_mut();
    std::iter::from_fn(|| pool.pop()).find(SendRequest::is_ready)
}

async fn connect(app: SocketAddr) -> Result<SendRequest<Incoming>> {
    let stream: TcpStream = dial(app).await?;
    let (sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.context("open HTTP/1 to the application")?;
    spawn(async move { connection.await.context("HTTP/1 to the application") });
    Ok(sender)
}
