//! What the whole path of a request notes in its record: the stacks as they ship, over a network in memory, in time that passes when nothing
//! else can happen. So every time that a record tells is known to the nanosecond.

mod ended_tests;
mod in_tests;
mod out_tests;

use super::{
    Branch,
    test::{World, incoming, paused},
};
use crate::{
    discover::BranchSpec,
    http::{
        Wire,
        body::response::ResponseBody,
        grpc,
        outbound::branch,
        request::{Arrived, ClientConnection, Routed},
    },
    sim::{Net, TcpStream, Trace},
    telemetry::{Entry, Routes, Which},
};
use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::BodyExt as _;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use remora_model::{GrpcCodes, Retry, Rule, Timeouts};
use std::{cell::RefCell, convert::Infallible, net::SocketAddr, rc::Rc, time::Duration};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream},
    task::spawn_local,
    time::{Instant, sleep},
};
use tower::Service;

const MS: Duration = Duration::from_millis(1);
/// In an answer: the server breaks off.
const CUT: &str = "cut";
const FINE: &str = "HTTP/1.1 200 Fine\r\ncontent-length: 5\r\n\r\nhello";
/// Of ten bytes.
const HALF: &str = "HTTP/1.1 200 Fine\r\ncontent-length: 10\r\n\r\nhello";
const BUSY: &str = "HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n";
const GET: &str = "GET /items/7?secret=1 HTTP/1.1\r\nhost: api\r\n\r\n";
const CHAT: &str = "GET /chat HTTP/1.1\r\nhost: api\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
const SWITCHES: &str = "HTTP/1.1 101 Yes\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";

/// What is said in answer to one request: after so many milliseconds, this.
type Said = &'static [(u64, &'static str)];

/// Runs a test in a network of its own.
fn networked(test: impl AsyncFnOnce(Rc<Net>)) {
    paused(async {
        let net = Net::enter(7, &Rc::new(Trace::new(false)));
        test(net).await;
        Net::leave();
    });
}

/// What servers of HTTP/1 answer, one request after the other, whichever of them is asked; the last for all that follow.
#[derive(Clone)]
struct Script {
    answers: Rc<Vec<Said>>,
    /// By whom each request was read, when its connection was there, and when its last byte was.
    asked: Rc<RefCell<Vec<(SocketAddr, Instant, Instant)>>>,
}

impl Script {
    fn of(answers: &[Said]) -> Self {
        Self { answers: Rc::new(answers.to_vec()), asked: Rc::default() }
    }

    /// Has somebody at this address act so.
    fn at(&self, net: &Net, at: SocketAddr, late_ms: u64) {
        let (mut clients, script) = (net.host(at, late_ms), self.clone());
        spawn_local(async move {
            while let Some((stream, _)) = clients.recv().await {
                spawn_local(script.clone().serve(stream, at));
            }
        });
    }

    async fn serve(self, mut stream: TcpStream, at: SocketAddr) {
        let accepted = Instant::now();
        let mut read = Vec::new();
        while stream.read_buf(&mut read).await.is_ok_and(|bytes| bytes > 0) {
            if !is_whole(&read) {
                continue;
            }
            read.clear();
            let number = self.asked.borrow().len();
            self.asked.borrow_mut().push((at, accepted, Instant::now()));
            for (pause, said) in self.answers[number.min(self.answers.len() - 1)] {
                sleep(MS * u32::try_from(*pause).unwrap()).await;
                if *said == CUT || stream.write_all(said.as_bytes()).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// Whether a request was read to its end.
fn is_whole(read: &[u8]) -> bool {
    let text = String::from_utf8_lossy(read);
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
    length.is_none_or(|length: usize| body.len() == length)
}

/// The path out of a pod to endpoints outside the mesh.
struct Out {
    world: World,
    stack: Branch,
    client: Rc<ClientConnection>,
}

impl Out {
    fn of(addresses: &[SocketAddr], rule: &Rule) -> Self {
        Self::over(World::new(addresses), Some(rule), true)
    }

    /// `there`: whether the rule's backend is.
    fn over(world: World, rule: Option<&Rule>, there: bool) -> Self {
        let stack = branch(BranchSpec {
            resources: &world.resources,
            counters: &world.counters,
            rule: rule.map(|rule| (0, rule)),
            pool: there.then_some(&world.pool),
            parent: &world.pool,
            filters: Vec::new(),
            mirrors: Vec::new(),
        });
        Self { world, stack, client: ClientConnection::of_application(Wire::Http1, true) }
    }

    /// What becomes of a request.
    fn answer(
        &mut self,
        request: Request<Incoming>,
    ) -> impl Future<Output = Result<Response<ResponseBody>, Infallible>> + use<> {
        let grpc = grpc::is_grpc(request.headers());
        let (authority, client) = ("api".parse().ok(), self.client.clone());
        let arrived = Arrived { request, started: Instant::now(), grpc, authority, client };
        self.stack.call(Routed { arrived, prefix: 0 })
    }

    /// The answer to what a client sends, with the client's end.
    async fn ask(&mut self, sent: &str) -> (Response<ResponseBody>, DuplexStream) {
        let (request, client) = incoming(sent.as_bytes()).await;
        let Ok(answer) = self.answer(request).await;
        (answer, client)
    }

    /// The record of what a client sends, which takes all that comes.
    async fn record(&mut self, sent: &str) -> Entry {
        let (answer, _client) = self.ask(sent).await;
        drop(answer.into_body().collect().await);
        last(&self.world.routes)
    }
}

/// The last record.
fn last(routes: &Routes) -> Entry {
    let kept = routes.kept(Which::Recent);
    let entry = kept.into_iter().next().expect("it has ended");
    let times = entry.times;
    assert_eq!(times.before + times.connect + times.server + times.after, entry.latency, "{entry:?}");
    entry
}

fn rule(attempts: u32, codes: &[u16]) -> Rule {
    let codes = codes.iter().map(|code| http::StatusCode::from_u16(*code).unwrap()).collect();
    let grpc_codes = GrpcCodes::default();
    let retry = Some(Retry { attempts, codes, grpc_codes, backoff: Duration::ZERO, any_method: true });
    Rule { retry, ..Rule::closed("rule".into()) }
}

fn within(time: Duration) -> Rule {
    Rule { timeouts: Timeouts { request: Some(time), backend_request: None }, ..rule(0, &[]) }
}

/// A connection to one who answers its requests so, and lets it leave HTTP; the client's end.
fn connection<F>(answer: impl Fn(Request<Incoming>) -> F + 'static) -> DuplexStream
where
    F: Future<Output = Result<Response<ResponseBody>, Infallible>> + 'static,
{
    let (client, server) = tokio::io::duplex(1 << 16);
    let served = http1::Builder::new().serve_connection(TokioIo::new(server), service_fn(answer));
    spawn_local(async move { drop(served.with_upgrades().await) });
    client
}

/// Reads as much as this.
async fn heard(stream: &mut (impl tokio::io::AsyncRead + Unpin), expected: &str) {
    let mut read = vec![0; expected.len()];
    stream.read_exact(&mut read).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&read), expected);
}

/// Answers a call over HTTP/2 with a status in the trailers, behind five bytes, or in the head if there are none.
async fn call(stream: TcpStream, status: Option<&'static str>, bytes: bool) {
    let mut connection = h2::server::handshake(stream).await.unwrap();
    let trailers = || status.map(|status| ("grpc-status", status));
    while let Some(Ok((_, mut respond))) = connection.accept().await {
        let mut head = Response::builder().header("content-type", "application/grpc");
        if !bytes {
            head = trailers().into_iter().fold(head, |head, (name, value)| head.header(name, value));
        }
        let mut body = respond.send_response(head.body(()).unwrap(), !bytes).unwrap();
        if bytes {
            body.send_data(Bytes::from_static(b"hello"), false).unwrap();
            let mut fields = HeaderMap::new();
            trailers().into_iter().for_each(|(name, value)| drop(fields.insert(name, value.parse().unwrap())));
            body.send_trailers(fields).unwrap();
        }
    }
}

/// gRPC statuses: what the server says and whether it does behind bytes, what is noted, and how the call ended.
const CALLS: [(Option<&str>, bool, Option<u8>, &str); 8] = [
    (Some("0"), true, Some(0), "success"),
    (Some("5"), true, Some(5), "success"),
    (Some("13"), true, Some(13), "server_error"),
    (Some("14"), true, Some(14), "server_error"),
    (Some("4"), false, Some(4), "server_error"),
    (Some("16"), false, Some(16), "success"),
    (Some("999"), true, None, "success"),
    (None, true, None, "success"),
];
