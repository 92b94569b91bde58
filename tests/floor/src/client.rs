//! The application's side: takes its connections and carries them across.

use crate::{
    BYTES_PORT, CONNECTION_WINDOW, LocalExecutor, RELAY_BUFFER, STREAM_WINDOW, dial, original_destination, spawn,
    tls::SERVER_NAME,
};
use anyhow::{Context, Result};
use hyper::{
    Request, Response, Uri, Version,
    body::Incoming,
    client::conn::http2::{self, SendRequest},
    header::{CONNECTION, HOST},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use std::{
    cell::RefCell,
    collections::HashMap,
    net::{Ipv4Addr, SocketAddr},
    rc::Rc,
};
use tokio::{
    io::copy_bidirectional_with_sizes,
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{TlsConnector, client::TlsStream};

/// What all connections of this process share.
struct Client {
    tls: TlsConnector,
    /// The one HTTP/2 connection to each destination.
    peers: RefCell<HashMap<SocketAddr, SendRequest<Incoming>>>,
}

pub(crate) async fn run(tls: TlsConnector) -> Result<()> {
    let client = Rc::new(Client { tls, peers: RefCell::default() });
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 4140)).await.context("listen on port 4140")?;
    loop {
        let (stream, _) = listener.accept().await.context("accept")?;
        spawn(client.clone().serve(stream));
    }
}

impl Client {
    async fn serve(self: Rc<Self>, mut app: TcpStream) -> Result<()> {
        app.set_nodelay(true)?;
        let destination = original_destination(&app)?;
        if destination.port() == BYTES_PORT {
            let mut peer = self.connect(destination).await?;
            copy_bidirectional_with_sizes(&mut app, &mut peer, RELAY_BUFFER, RELAY_BUFFER).await?;
            return Ok(());
        }
        let peer = self.peer(destination).await?;
        let service = service_fn(move |request| forward(peer.clone(), request));
        // The application may close a connection whenever it likes: not an error here.
        let _ = http1::Builder::new().serve_connection(TokioIo::new(app), service).await;
        Ok(())
    }

    /// The open HTTP/2 connection to `destination`, or a new one.
    async fn peer(&self, destination: SocketAddr) -> Result<SendRequest<Incoming>> {
        if let Some(peer) = self.peers.borrow().get(&destination)
            && !peer.is_closed()
        {
            return Ok(peer.clone());
        }
        let stream = TokioIo::new(self.connect(destination).await?);
        let (peer, connection) = http2::Builder::new(LocalExecutor)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .handshake(stream)
            .await
            .context("open HTTP/2 to the peer")?;
        spawn(async move { connection.await.context("HTTP/2 to the peer") });
        self.peers.borrow_mut().insert(destination, peer.clone());
        Ok(peer)
    }

    async fn connect(&self, destination: SocketAddr) -> Result<TlsStream<TcpStream>> {
        let name = ServerName::try_from(SERVER_NAME)?;
        self.tls.connect(name, dial(destination).await?).await.context("TLS with the peer")
    }
}

/// Sends one HTTP/1 request as HTTP/2 and its response back.
async fn forward(mut peer: SendRequest<Incoming>, mut request: Request<Incoming>) -> Result<Response<Incoming>> {
    let host = request.headers_mut().remove(HOST).context("a request without Host")?;
    let path = request.uri().path_and_query().cloned().context("a request without a path")?;
    *request.uri_mut() = Uri::builder().scheme("http").authority(host.as_bytes()).path_and_query(path).build()?;
    *request.version_mut() = Version::HTTP_2;
    request.headers_mut().remove(CONNECTION);
    peer.ready().await?;
    let mut response = peer.send_request(request).await?;
    *response.version_mut() = Version::HTTP_11;
    Ok(response)
}
