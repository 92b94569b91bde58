//! WebSocket over HTTP/2 (extended CONNECT, RFC 8441) from a client to a server that both speak it, through both proxies.

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use h2::{RecvStream, SendStream, client::SendRequest, ext::Protocol};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use remora_tests::{
    local::{Mesh, Proxy},
    patience::until,
};
use std::{
    net::{IpAddr, SocketAddr, TcpListener},
    thread,
    time::Duration,
};
use tokio::{sync::mpsc, time::timeout};

/// For a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(10);
/// More than any window holds.
const MUCH: usize = 3 << 20;

/// What has a server reset a stream.
const BREAK: &[u8] = b"break";

/// An HTTP/2 server. It says what it was asked in a field; what is sent on `/chat` it sends back, `/closed` is 403. `ends` is told of each end of a
/// client's words whether it was in order.
fn app(ip: IpAddr, takes_extended: bool, ends: mpsc::UnboundedSender<bool>) -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind((ip, 0))?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    thread::spawn(move || {
        block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, takes_extended, ends.clone()));
            }
            Ok(())
        })
    });
    Ok(address)
}

async fn serve(
    stream: tokio::net::TcpStream,
    takes_extended: bool,
    ends: mpsc::UnboundedSender<bool>,
) -> anyhow::Result<()> {
    let mut builder = h2::server::Builder::new();
    if takes_extended {
        builder.enable_connect_protocol();
    }
    let mut connection = builder.handshake::<_, Bytes>(stream).await?;
    while let Some(request) = connection.accept().await {
        let (request, mut respond) = request?;
        let protocol = request.extensions().get::<Protocol>().map_or("none", Protocol::as_str);
        let field =
            |name: &str| request.headers().get(name).and_then(|it| it.to_str().ok()).unwrap_or("none").to_owned();
        let seen = format!(
            "{} {} {protocol} {} {} {}",
            request.method(),
            request.uri(),
            field("sec-websocket-version"),
            field("upgrade"),
            field("x-remora-extended-connect"),
        );
        let status = if request.uri().path() == "/closed" { StatusCode::FORBIDDEN } else { StatusCode::OK };
        let answer = Response::builder().status(status).header("x-seen", seen).body(())?;
        let extended = request.method() == Method::CONNECT && status == StatusCode::OK;
        let back = respond.send_response(answer, !extended)?;
        if extended {
            let ends = ends.clone();
            tokio::spawn(async move {
                let in_order = echo(request.into_body(), back).await.is_ok();
                // A test may be over.
                let _ = ends.send(in_order);
            });
        }
    }
    Ok(())
}

async fn echo(mut from: RecvStream, mut to: SendStream<Bytes>) -> anyhow::Result<()> {
    while let Some(data) = from.data().await {
        let data = data?;
        from.flow_control().release_capacity(data.len())?;
        if data == BREAK {
            to.send_reset(h2::Reason::CANCEL);
            return Ok(());
        }
        send(&mut to, data).await?;
    }
    to.send_data(Bytes::new(), true)?;
    Ok(())
}

/// As the other side takes it.
async fn send(to: &mut SendStream<Bytes>, mut data: Bytes) -> anyhow::Result<()> {
    while !data.is_empty() {
        to.reserve_capacity(data.len());
        let room = std::future::poll_fn(|cx| to.poll_capacity(cx)).await.context("no one reads")??;
        to.send_data(data.split_to(room.min(data.len())), false)?;
    }
    Ok(())
}

fn block_on<T>(task: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(task)
}

/// The pod that asks, that of the server, what holds them, and how streams end for the server.
fn scene(takes_extended: bool) -> anyhow::Result<(Mesh, Proxy, Proxy, mpsc::UnboundedReceiver<bool>)> {
    let mesh = Mesh::start(env!("CARGO_BIN_EXE_remora-components"))?;
    let (web, api) = (mesh.proxy("web").spawn()?, mesh.proxy("api").spawn()?);
    let (tell, ends) = mpsc::unbounded_channel();
    mesh.service("api", 80, None, &[app(api.ip, takes_extended, tell)?])?;
    let (web, api) = (web.ready()?, api.ready()?);
    until("api is known", || block_on(known(&web)))?;
    Ok((mesh, web, api, ends))
}

async fn known(web: &Proxy) -> anyhow::Result<Option<()>> {
    let request = Request::get("http://api:80/closed").body(())?;
    let (answer, _) = client(web).await?.send_request(request, true)?;
    Ok((answer.await?.status() == StatusCode::FORBIDDEN).then_some(()))
}

/// A connection to the proxy, of a client that knows whether it may use extended CONNECT.
async fn client(web: &Proxy) -> anyhow::Result<SendRequest<Bytes>> {
    let stream = tokio::net::TcpStream::connect(web.outbound).await?;
    let (client, connection) = h2::client::handshake(stream).await?;
    tokio::spawn(connection);
    Ok(client.ready().await?)
}

/// What the client of an extended CONNECT for `path` is answered.
async fn ask(
    client: &mut SendRequest<Bytes>,
    path: &str,
) -> anyhow::Result<(StatusCode, HeaderMap, RecvStream, SendStream<Bytes>)> {
    let mut request = Request::builder().method(Method::CONNECT).uri(format!("http://api:80{path}"));
    request = request.header("sec-websocket-version", "13");
    let mut request = request.body(())?;
    request.extensions_mut().insert(Protocol::from_static("websocket"));
    let (answer, to) = client.send_request(request, false)?;
    let answer = timeout(PATIENCE, answer).await.with_context(|| format!("no answer to {path}"))??;
    let (parts, body) = answer.into_parts();
    Ok((parts.status, parts.headers, body, to))
}

#[test]
fn websockets_over_http2_reach_a_server_that_takes_them_and_last_as_long_as_both_ends() -> anyhow::Result<()> {
    let (_mesh, web, api, mut ends) = scene(true)?;
    let failures = || Ok((web.metric("remora_failures_total", &[])?, api.metric("remora_failures_total", &[])?));
    let before: anyhow::Result<_> = failures();
    block_on(async {
        let mut client = client(&web).await?;
        let (status, fields, mut from, mut to) = ask(&mut client, "/chat?room=1").await?;
        ensure!(status == StatusCode::OK, "{status} {fields:?}");
        let seen = fields.get("x-seen").context("no word of the server")?.to_str()?;
        ensure!(seen == "CONNECT http://api:80/chat?room=1 websocket 13 none none", "{seen}");
        ensure!(!fields.contains_key("upgrade") && !fields.contains_key("connection"), "{fields:?}");
        let sent = Bytes::from(vec![7; MUCH]);
        let sending = async {
            send(&mut to, sent.clone()).await?;
            // The other way goes on.
            to.send_data(Bytes::new(), true)?;
            anyhow::Ok(())
        };
        let receiving = async {
            let mut count = 0;
            while let Some(data) = from.data().await {
                let data = data?;
                ensure!(data.iter().all(|byte| *byte == 7));
                from.flow_control().release_capacity(data.len())?;
                count += data.len();
            }
            Ok(count)
        };
        let ((), count) = timeout(PATIENCE, async { tokio::try_join!(sending, receiving) }).await??;
        ensure!(count == MUCH, "{count} bytes came back");
        let (status, fields, ..) = ask(&mut client, "/closed").await?;
        ensure!(status == StatusCode::FORBIDDEN && fields.contains_key("x-seen"), "{status} {fields:?}");
        Ok(())
    })?;
    for proxy in [&web, &api] {
        let counted = proxy.metric("remora_bytes_total", &["flow=\"in\""])?;
        ensure!(counted >= MUCH as f64, "{counted} of {MUCH} bytes are counted");
    }
    ensure!(before? == failures()?, "{}\n{}", web.metrics()?, api.metrics()?);
    ensure!(ends.blocking_recv() == Some(true), "the client's end was in order");
    Ok(())
}

#[test]
fn a_server_that_takes_none_is_not_asked_and_its_client_is_told() -> anyhow::Result<()> {
    let (_mesh, web, api, _ends) = scene(false)?;
    block_on(async {
        let (status, fields, ..) = ask(&mut client(&web).await?, "/chat").await?;
        let told = status == StatusCode::NOT_IMPLEMENTED && !fields.contains_key("x-seen");
        ensure!(told, "{status} {fields:?}\n{}\n{}", web.program.log_end(), api.program.log_end());
        Ok(())
    })
}

#[test]
fn a_websocket_that_either_side_resets_has_no_end_in_order_for_the_other() -> anyhow::Result<()> {
    let (_mesh, web, api, mut ends) = scene(true)?;
    block_on(async {
        for client_breaks in [true, false] {
            let mut client = client(&web).await?;
            let (status, _, mut from, mut to) = ask(&mut client, "/chat").await?;
            ensure!(status == StatusCode::OK, "{status}");
            send(&mut to, Bytes::from_static(b"hi")).await?;
            let back = timeout(PATIENCE, from.data()).await?.context("no echo")??;
            ensure!(&back[..] == b"hi", "{back:?}");
            if client_breaks {
                to.send_reset(h2::Reason::CANCEL);
                let in_order = timeout(PATIENCE, ends.recv()).await?;
                ensure!(in_order == Some(false), "the server heard an end in order");
            } else {
                send(&mut to, Bytes::from_static(BREAK)).await?;
                let end = timeout(PATIENCE, from.data()).await?;
                ensure!(matches!(end, Some(Err(_))), "the client heard an end in order: {end:?}");
            }
        }
        Ok(())
    })?;
    let open = || {
        Ok((api.metric("remora_connections", &[])? == 0.0 && web.metric("remora_connections", &[])? == 0.0)
            .then_some(()))
    };
    until("both proxies have let go of it", open)
}
