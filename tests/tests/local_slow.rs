//! Nobody's slowness, limits or resets are felt by another caller: over real processes, with many of each.

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use h2::{RecvStream, client::SendRequest};
use http::{Request, Response, StatusCode};
use remora_tests::{
    local::{Mesh, Proxy, http as http1},
    patience::until,
};
use socket2::{Domain, SockRef, Socket, Type};
use std::{
    io::{self, Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};
use tokio::time::timeout;

/// So many stand still at once. One connection of old held up everybody from the seventeenth on.
const CROWD: usize = 100;
/// How long a bystander may wait on a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(10);
/// Nothing comes of a stream that stands.
const MOMENT: Duration = Duration::from_millis(300);

/// A client pod and a server pod whose application the test plays.
struct Scene {
    web: Proxy,
    api: Proxy,
    mesh: Mesh,
}

impl Scene {
    fn start(
        app_protocol: Option<&str>,
        app: impl FnOnce(IpAddr) -> anyhow::Result<SocketAddr>,
    ) -> anyhow::Result<Self> {
        let mesh = Mesh::start(env!("CARGO_BIN_EXE_remora-components"))?;
        let (web, api) = (mesh.proxy("web").spawn()?, mesh.proxy("api").spawn()?);
        mesh.service("api", 80, app_protocol, &[app(api.ip)?])?;
        let (web, api) = (web.ready()?, api.ready()?);
        Ok(Self { web, api, mesh })
    }

    /// The metric of the server's proxy.
    fn failures(&self, reason: &str) -> anyhow::Result<f64> {
        self.api.metric("remora_failures_total", &[&format!("reason=\"{reason}\"")])
    }
}

/// An HTTP/1 application: `/big` answers without end, `/sink` reads nothing of what is sent, anything else says hello.
fn http1_app(ip: IpAddr) -> anyhow::Result<SocketAddr> {
    telling_app(ip, mpsc::channel().0)
}

/// The same, which tells of each `/sink` when its connection has an error.
fn telling_app(ip: IpAddr, tell: mpsc::Sender<io::Error>) -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind((ip, 0))?;
    let address = listener.local_addr()?;
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let tell = tell.clone();
            thread::spawn(move || serve_http1(&mut stream, &tell));
        }
    });
    Ok(address)
}

fn serve_http1(stream: &mut TcpStream, tell: &mpsc::Sender<io::Error>) -> io::Result<()> {
    let (mut bytes, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        while !bytes.windows(4).any(|end| end == b"\r\n\r\n") {
            match stream.read(&mut buffer)? {
                0 => return Ok(()),
                count => bytes.extend_from_slice(&buffer[..count]),
            }
        }
        if bytes.starts_with(b"GET /big") {
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\n")?;
            loop {
                stream.write_all(&[b'x'; 65_536])?;
            }
        }
        if bytes.starts_with(b"POST /sink") {
            // Until the other side goes.
            let error = loop {
                match stream.take_error()? {
                    Some(error) => break error,
                    None => thread::park_timeout(Duration::from_millis(20)),
                }
            };
            // Most tests do not ask.
            let _ = tell.send(error);
            return Ok(());
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello")?;
        bytes.clear();
    }
}

/// A connection that takes next to nothing at once.
fn narrow(to: SocketAddr) -> anyhow::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
    socket.set_recv_buffer_size(4096)?;
    socket.connect(&to.into())?;
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// One more download, from whose answer a few bytes are read, and then no more.
fn stalled_download(web: &Proxy) -> anyhow::Result<TcpStream> {
    let mut stream = narrow(web.outbound)?;
    stream.write_all(b"GET /big HTTP/1.1\r\nhost: api:80\r\n\r\n")?;
    let mut status = [0; 15];
    stream.read_exact(&mut status)?;
    ensure!(&status == b"HTTP/1.1 200 OK", "{}", String::from_utf8_lossy(&status));
    Ok(stream)
}

/// One more upload, of which as much is sent as is taken. An answer before its end is a refusal, after which no client goes on.
fn stalled_upload(web: &Proxy) -> anyhow::Result<TcpStream> {
    let mut stream = TcpStream::connect(web.outbound)?;
    stream.set_write_timeout(Some(Duration::from_millis(50)))?;
    stream.write_all(b"POST /sink HTTP/1.1\r\nhost: api:80\r\ncontent-length: 1000000000\r\n\r\n")?;
    while stream.write(&[b'x'; 65_536]).is_ok() {
        ensure!(!is_answered(&stream)?, "it is refused");
    }
    Ok(stream)
}

fn is_answered(stream: &TcpStream) -> anyhow::Result<bool> {
    stream.set_nonblocking(true)?;
    let peeked = stream.peek(&mut [0]);
    stream.set_nonblocking(false)?;
    Ok(peeked.is_ok())
}

/// What somebody else is answered, who wants little.
fn bystander(web: &Proxy) -> anyhow::Result<()> {
    let get = web.get("api:80", "/small").context("a GET")?;
    ensure!((get.status, &get.body[..]) == (200, b"hello"), "{} {}", get.head, get.text());
    let post = b"POST /small HTTP/1.1\r\nhost: api:80\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
    let post = http1::Answer::parse(&http1::exchange(web.outbound, post).context("a POST")?)?;
    ensure!((post.status, &post.body[..]) == (200, b"hello"), "{} {}", post.head, post.text());
    Ok(())
}

fn known(web: &Proxy) -> anyhow::Result<()> {
    until("api is known", || bystander(web).map(Some))
}

/// The application reads nothing, and so cannot hear of it from the bytes.
#[test]
fn an_upload_that_its_client_resets_ends_at_an_application_that_reads_nothing() -> anyhow::Result<()> {
    let (tell, told) = mpsc::channel();
    let scene = Scene::start(None, |ip| telling_app(ip, tell))?;
    known(&scene.web)?;
    let upload = stalled_upload(&scene.web)?;
    ensure!(told.try_recv().is_err(), "its client waits");
    SockRef::from(&upload).set_linger(Some(Duration::ZERO))?;
    drop(upload);
    let error = told.recv_timeout(PATIENCE).context("the application's connection is still open")?;
    ensure!(error.kind() == io::ErrorKind::ConnectionReset, "{error}");
    ensure!(scene.web.metric("remora_cancelled_total", &[])? == 1.0, "{}", scene.web.metrics()?);
    Ok(())
}

#[test]
fn downloads_that_nobody_reads_hold_up_nobody_and_those_who_trickle_go_on() -> anyhow::Result<()> {
    let scene = Scene::start(None, http1_app)?;
    known(&scene.web)?;
    let mut held = Vec::new();
    for count in 1..=CROWD {
        held.push(stalled_download(&scene.web)?);
        if count % 10 == 7 {
            bystander(&scene.web).with_context(|| format!("beside {count}"))?;
        }
    }
    bystander(&scene.web)?;
    // Each still gets what it reads, a byte at a time if it likes.
    for stream in &mut held {
        let mut byte = [0];
        for _ in 0..200 {
            stream.read_exact(&mut byte)?;
        }
    }
    drop(held);
    bystander(&scene.web)
}

#[test]
fn uploads_that_the_application_does_not_read_hold_up_nobody_and_leave_nothing_behind() -> anyhow::Result<()> {
    let scene = Scene::start(None, http1_app)?;
    known(&scene.web)?;
    let mut held = Vec::new();
    for count in 1..=CROWD {
        held.push(stalled_upload(&scene.web)?);
        if count % 10 == 7 {
            bystander(&scene.web).with_context(|| format!("beside {count}"))?;
        }
    }
    bystander(&scene.web)?;
    for stream in held {
        // As somebody goes who is killed.
        SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
    }
    bystander(&scene.web)
}

/// What stands still holds memory; these proxies may have as much as the injector gives a sidecar.
#[test]
fn proxies_live_within_their_memory_whatever_stands_still() -> anyhow::Result<()> {
    const LIMIT: u64 = 128 << 20;
    let mesh = Mesh::start(env!("CARGO_BIN_EXE_remora-components"))?;
    let limited = |name| mesh.proxy(name).env("MEMORY_LIMIT", LIMIT.to_string()).spawn();
    let (web, other, api) = (limited("web")?, limited("other")?, limited("api")?);
    mesh.service("api", 80, None, &[http1_app(api.ip)?])?;
    let (web, other, api) = (web.ready()?, other.ready()?, api.ready()?);
    known(&web)?;
    known(&other)?;
    for what in ["downloads", "uploads"] {
        let stalled = |web: &Proxy| if what == "uploads" { stalled_upload(web) } else { stalled_download(web) };
        let (mut held, mut refused) = (Vec::new(), 0);
        for _ in 0..600 {
            match stalled(&web) {
                Ok(stream) => held.push(stream),
                Err(_) => refused += 1,
            }
        }
        bystander(&other).with_context(|| format!("beside {} {what} of another pod", held.len()))?;
        for proxy in [&web, &api] {
            let (bytes, name) = (proxy.program.resident_bytes()?, proxy.program.name());
            println!("{what}: {} held, {refused} refused, {name} has {} MiB", held.len(), bytes >> 20);
            ensure!(bytes < LIMIT, "{name} holds {bytes} bytes for {} {what}", held.len());
        }
        let told = web.metric("remora_failures_total", &["reason=\"overloaded\""])?
            + api.metric("remora_failures_total", &["reason=\"overloaded\""])?
            + web.metric("remora_requests_refused_total", &["reason=\"overloaded\""])?;
        ensure!(told > 0.0, "nothing of {what} is said to be too much");
        drop(held);
        if what == "uploads" {
            // Limitation: who leaves behind an upload that is not read is noticed with the application's next step.
            break;
        }
        until("what stood still is given back", || {
            let charged =
                web.metric("remora_memory_charged_bytes", &[])? + api.metric("remora_memory_charged_bytes", &[])?;
            Ok((charged < f64::from(2 << 20)).then_some(()))
        })?;
        bystander(&web)?;
    }
    Ok(())
}

/// An HTTP/2 application, and how many connections it got. `/watch` says hello and goes on, `/huge` answers with 300 kB of
/// fields, `/chat` says as many small messages as are taken, anything else says hello.
fn http2_app(ip: IpAddr, limit: Option<u32>) -> anyhow::Result<(SocketAddr, Arc<AtomicUsize>)> {
    let listener = TcpListener::bind((ip, 0))?;
    listener.set_nonblocking(true)?;
    let (address, count) = (listener.local_addr()?, Arc::<AtomicUsize>::default());
    let counted = count.clone();
    thread::spawn(move || {
        block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            loop {
                let (stream, _) = listener.accept().await?;
                counted.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(serve_http2(stream, limit));
            }
            #[expect(unreachable_code, reason = "the type of what never comes")]
            anyhow::Ok(())
        })
    });
    Ok((address, count))
}

async fn serve_http2(stream: tokio::net::TcpStream, limit: Option<u32>) -> anyhow::Result<()> {
    let mut builder = h2::server::Builder::new();
    // It bears what its own window lets through.
    builder.data_frame_budget(usize::MAX);
    if let Some(limit) = limit {
        builder.max_concurrent_streams(limit);
    }
    let mut connection = builder.handshake::<_, Bytes>(stream).await?;
    while let Some(request) = connection.accept().await {
        let (request, respond) = request?;
        tokio::spawn(answer(request, respond));
    }
    Ok(())
}

async fn answer(request: Request<RecvStream>, mut respond: h2::server::SendResponse<Bytes>) -> anyhow::Result<()> {
    let mut head = Response::builder();
    if request.uri().path() == "/huge" {
        for number in 0..10 {
            head = head.header(format!("x-{number}"), "y".repeat(30_000));
        }
    }
    let mut body = respond.send_response(head.body(())?, false)?;
    let once = !matches!(request.uri().path(), "/watch" | "/chat");
    body.send_data(Bytes::from_static(b"hello"), once)?;
    if request.uri().path() == "/chat" {
        for _ in 0..6000 {
            body.send_data(Bytes::from_static(b"some words"), false)?;
        }
    }
    // Until nobody wants it any more; what is sent to it is not read.
    std::future::poll_fn(|cx| body.poll_reset(cx)).await?;
    drop(request);
    Ok(())
}

fn block_on<T>(task: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(task)
}

/// A client's connection to a pod's proxy.
async fn client(web: &Proxy) -> anyhow::Result<SendRequest<Bytes>> {
    client_with(web, &h2::client::Builder::new()).await
}

async fn client_with(web: &Proxy, builder: &h2::client::Builder) -> anyhow::Result<SendRequest<Bytes>> {
    let stream = tokio::net::TcpStream::connect(web.outbound).await?;
    let (client, connection) = builder.handshake(stream).await?;
    tokio::spawn(connection);
    Ok(client.ready().await?)
}

async fn ask(client: &SendRequest<Bytes>, method: &str, path: &str) -> anyhow::Result<Response<RecvStream>> {
    let request = Request::builder().method(method).uri(format!("http://api:80{path}")).body(())?;
    let (response, _) = client.clone().ready().await?.send_request(request, true)?;
    Ok(timeout(PATIENCE, response).await.with_context(|| format!("no answer to {path}"))??)
}

/// A stream that has said hello.
async fn watch(client: &SendRequest<Bytes>) -> anyhow::Result<RecvStream> {
    let response = ask(client, "GET", "/watch").await?;
    ensure!(response.status() == StatusCode::OK, "{response:?}");
    let mut body = response.into_body();
    let hello = timeout(PATIENCE, body.data()).await?.context("it ended")??;
    ensure!(&hello[..] == b"hello", "{hello:?}");
    Ok(body)
}

/// Whether nothing has happened to it.
async fn stands(body: &mut RecvStream) -> anyhow::Result<()> {
    match timeout(MOMENT, body.data()).await {
        Err(_) => Ok(()),
        Ok(end) => anyhow::bail!("it ended: {end:?}"),
    }
}

/// Waits until the application is known and answers.
async fn known2(web: &Proxy) -> anyhow::Result<()> {
    let deadline = tokio::time::Instant::now() + PATIENCE * 3;
    loop {
        let answered = ask(&client(web).await?, "GET", "/once").await?;
        if answered.status() == StatusCode::OK {
            return Ok(());
        }
        ensure!(tokio::time::Instant::now() < deadline, "{answered:?}");
        tokio::task::yield_now().await;
    }
}

#[test]
fn an_application_that_takes_few_streams_gets_as_many_connections_as_its_callers_need() -> anyhow::Result<()> {
    for limit in [1, 5] {
        let mut connections = Arc::default();
        let scene = Scene::start(Some("kubernetes.io/h2c"), |ip| {
            let (address, count) = http2_app(ip, Some(limit))?;
            connections = count;
            Ok(address)
        })?;
        block_on(async {
            known2(&scene.web).await?;
            let mut held = Vec::new();
            // One client with ten streams, then ten with one.
            let many = client(&scene.web).await?;
            for _ in 0..10 {
                held.push(watch(&many).await?);
            }
            for _ in 0..10 {
                held.push(watch(&client(&scene.web).await?).await?);
            }
            let once = ask(&many, "GET", "/once").await?;
            ensure!(once.status() == StatusCode::OK, "{once:?}");
            for stream in &mut held {
                stands(stream).await?;
            }
            Ok(())
        })
        .with_context(|| format!("limit {limit}"))?;
        let connections = connections.load(Ordering::SeqCst);
        ensure!(connections <= 40, "{connections} connections for 20 streams");
        ensure!(scene.failures("queue_full")? == 0.0);
    }
    Ok(())
}

#[test]
fn who_gets_no_stream_is_told_so_in_time() -> anyhow::Result<()> {
    let scene = Scene::start(Some("kubernetes.io/h2c"), |ip| Ok(http2_app(ip, Some(1))?.0))?;
    block_on(async {
        known2(&scene.web).await?;
        let one = client(&scene.web).await?;
        let mut held = Vec::new();
        let refused = loop {
            let response = ask(&one, "POST", "/watch").await?;
            if response.status() != StatusCode::OK {
                break response;
            }
            held.push(response);
            ensure!(held.len() < 100, "an application of one stream a connection had a hundred");
        };
        let reason = refused.headers().get("x-remora-error").map(|reason| reason.as_bytes());
        ensure!(refused.status() == 503 && reason == Some(b"queue_full"), "{refused:?}");
        Ok(())
    })?;
    ensure!(scene.failures("queue_full")? >= 1.0);
    ensure!(scene.api.log().contains("a request finds no HTTP/2 stream"), "{}", scene.api.program.log_end());
    Ok(())
}

#[test]
fn what_one_callers_answers_and_resets_do_to_a_connection_they_do_to_nobody_else() -> anyhow::Result<()> {
    let scene = Scene::start(Some("kubernetes.io/h2c"), |ip| Ok(http2_app(ip, None)?.0))?;
    let other = scene.mesh.proxy("other").spawn()?.ready()?;
    block_on(async {
        known2(&scene.web).await?;
        known2(&other).await?;
        // One in another pod, one in the same.
        let mut held = [watch(&client(&other).await?).await?, watch(&client(&scene.web).await?).await?];
        let huge = ask(&client(&scene.web).await?, "POST", "/huge").await?;
        ensure!(huge.status() == StatusCode::BAD_GATEWAY, "{huge:?}");
        for stream in &mut held {
            stands(stream).await.context("beside 300 kB of fields")?;
        }
        let impatient = client(&scene.web).await?;
        for _ in 0..30 {
            let mut given_up = Vec::new();
            for _ in 0..50 {
                let request = Request::get("http://api:80/watch").body(())?;
                given_up.push(impatient.clone().ready().await?.send_request(request, true)?);
            }
            // An answer behind them: they have arrived.
            let once = ask(&impatient, "GET", "/once").await?;
            ensure!(once.status() == StatusCode::OK, "{once:?}");
        }
        for stream in &mut held {
            stands(stream).await.context("beside 1 500 requests that were given up")?;
        }
        let once = ask(&client(&scene.web).await?, "GET", "/once").await?;
        ensure!(once.status() == StatusCode::OK, "{once:?}");
        Ok(())
    })
    .with_context(|| format!("{}{}", scene.web.program.log_end(), scene.api.program.log_end()))
}

#[test]
fn streams_of_small_messages_that_nobody_reads_end_no_connection() -> anyhow::Result<()> {
    let scene = Scene::start(Some("kubernetes.io/h2c"), |ip| Ok(http2_app(ip, None)?.0))?;
    block_on(async {
        known2(&scene.web).await?;
        // It bears what its own window lets through; the rest waits in the proxies.
        let slow = client_with(&scene.web, h2::client::Builder::new().data_frame_budget(usize::MAX)).await?;
        let mut held = [watch(&client(&scene.web).await?).await?];
        let mut chats = Vec::new();
        for _ in 0..40 {
            chats.push(ask(&slow, "GET", "/chat").await?.into_body());
        }
        stands(&mut held[0]).await?;
        let once = ask(&client(&scene.web).await?, "GET", "/once").await?;
        ensure!(once.status() == StatusCode::OK, "{once:?}");
        // The other way: uploads of which the application reads nothing.
        let sender = client(&scene.web).await?;
        let mut uploads = Vec::new();
        for _ in 0..40 {
            let request = Request::post("http://api:80/watch").body(())?;
            let (response, mut body) = sender.clone().ready().await?.send_request(request, false)?;
            for _ in 0..6000 {
                body.send_data(Bytes::from_static(b"some words"), false)?;
            }
            uploads.push((timeout(PATIENCE, response).await??, body));
        }
        for _ in 0..20 {
            let once = ask(&client(&scene.web).await?, "GET", "/once").await?;
            ensure!(once.status() == StatusCode::OK, "{once:?}");
        }
        stands(&mut held[0]).await.context("beside uploads")?;
        // All of it is there once it is read.
        let read = async |chat: &mut RecvStream| {
            let mut bytes = 0;
            while bytes < 5 + 6000 * 10 {
                let data = timeout(PATIENCE, chat.data()).await?.context("it ended")??;
                bytes += data.len();
                chat.flow_control().release_capacity(data.len())?;
            }
            anyhow::Ok(())
        };
        futures_util::future::try_join_all(chats.iter_mut().map(read)).await?;
        Ok(())
    })
    .with_context(|| format!("{}{}", scene.web.program.log_end(), scene.api.program.log_end()))
}
