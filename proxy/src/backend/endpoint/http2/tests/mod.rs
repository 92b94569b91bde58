//! Over pipes, with time that passes when nothing else can happen, against a server that is written frame by frame: no
//! library would lower its limit under way, or cut an answer into ten-byte frames.

use super::*;
use crate::{
    backend::endpoint::{
        Answer, AnswerBody, Failed,
        keep::{Keep, Places},
    },
    http::body::request::RequestBody,
    limits,
    tasks::Tasks,
    telemetry::Reason,
};
use bytes::Bytes;
use futures_util::{FutureExt as _, future::join_all};
use http_body::Body as _;
use http_body_util::BodyExt as _;
use remora_model::ConnectionSettings;
use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    net::SocketAddr,
    pin::Pin,
    rc::Rc,
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, ReadHalf, WriteHalf, duplex, split},
    sync::Notify,
    task::LocalSet,
};

mod keep_alive;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
/// `:status: 200`, by its place in HPACK's table.
const OK: &[u8] = &[0x88];

/// A network of one server: each dial is a connection of it.
#[derive(Clone, Default)]
struct Net(Rc<Inner>);

#[derive(Default)]
struct Inner {
    tasks: Tasks,
    dialled: RefCell<VecDeque<DuplexStream>>,
    news: Notify,
    dials: Cell<usize>,
    generation: Cell<u64>,
    refuses: Cell<Option<Reason>>,
}

/// As nobody says otherwise.
fn streams(kind: Kind) -> Rc<Streams> {
    Streams::new(kind, Keep::of(kind, &ConnectionSettings::default()))
}

impl Dial for Net {
    fn generation(&self) -> u64 {
        self.0.generation.get()
    }

    async fn dial(&self, streams: &Rc<Streams>, generation: u64) -> Result<(), Reason> {
        self.0.dials.set(self.0.dials.get() + 1);
        if let Some(reason) = self.0.refuses.get() {
            return Err(reason);
        }
        let (ours, theirs) = duplex(1 << 20);
        self.0.dialled.borrow_mut().push_back(theirs);
        self.0.news.notify_one();
        let address = SocketAddr::from(([192, 0, 2, 1], 80));
        let place = Places::new(&ConnectionSettings::default(), 1).take().unwrap();
        streams.add((ours, address, place), generation, None, &self.0.tasks).await.map_err(|_| Reason::ConnectFailed)
    }

    fn runs_on(&self) -> &Tasks {
        &self.0.tasks
    }
}

impl Net {
    /// The next connection, on which the server takes `limit` streams.
    async fn accept(&self, limit: Option<u32>) -> Server {
        let pipe = loop {
            if let Some(pipe) = self.0.dialled.borrow_mut().pop_front() {
                break pipe;
            }
            self.0.news.notified().await;
        };
        let (read, write) = split(pipe);
        let mut server = Server { read, write };
        let mut preface = [0; 24];
        server.read.read_exact(&mut preface).await.unwrap();
        server.limit(limit).await;
        server
    }

    /// Accepts for ever, and answers each request's head.
    fn serve(&self, limit: Option<u32>) {
        let net = self.clone();
        self.0.tasks.spawn(async move {
            loop {
                let mut server = net.accept(limit).await;
                net.0.tasks.spawn(async move {
                    while let Some(frame) = server.frame().await {
                        if frame.kind == HEADERS {
                            server.send(HEADERS, END_HEADERS, frame.stream, OK).await;
                        }
                    }
                });
            }
        });
    }

    fn dials(&self) -> usize {
        self.0.dials.get()
    }
}

struct Server {
    read: ReadHalf<DuplexStream>,
    write: WriteHalf<DuplexStream>,
}

struct Frame {
    kind: u8,
    stream: u32,
    payload: Vec<u8>,
}

impl Server {
    async fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let mut frame = vec![length[1], length[2], length[3], kind, flags];
        frame.extend_from_slice(&stream.to_be_bytes());
        frame.extend_from_slice(payload);
        // Whoever is gone needs nothing more.
        drop(self.write.write_all(&frame).await);
    }

    async fn limit(&mut self, limit: Option<u32>) {
        let mut settings = Vec::new();
        if let Some(limit) = limit {
            settings.extend_from_slice(&3_u16.to_be_bytes());
            settings.extend_from_slice(&limit.to_be_bytes());
        }
        self.send(SETTINGS, 0, 0, &settings).await;
    }

    async fn frame(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        self.read.read_exact(&mut head).await.ok()?;
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        self.read.read_exact(&mut payload).await.ok()?;
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        let acknowledged: &[u8] = if head[3] == PING { &payload } else { &[] };
        if matches!(head[3], PING | SETTINGS) && head[4] == 0 {
            self.send(head[3], 1, 0, acknowledged).await;
        }
        Some(Frame { kind: head[3], stream, payload })
    }

    /// The next frame of this kind.
    async fn next(&mut self, kind: u8) -> Frame {
        loop {
            let frame = self.frame().await.expect("the connection ended");
            if frame.kind == kind {
                return frame;
            }
        }
    }
}

fn request() -> http::Request<RequestBody> {
    http::Request::get("http://api.shop/").version(http::Version::HTTP_2).body(RequestBody::Empty).unwrap()
}

async fn ask(streams: &Rc<Streams>, net: &Net) -> Result<Answer, Failed> {
    let entered = match streams.ready(net.generation(), || net.clone()) {
        Some(entered) => Ok(entered),
        None => streams.enter(net).await,
    };
    match entered {
        Ok((half, sender)) => send(half, sender, request(), net.runs_on()).await,
        Err(reason) => Err(Failed::unsent(reason, request())),
    }
}

async fn answered(streams: &Rc<Streams>, net: &Net) -> AnswerBody {
    ask(streams, net).await.expect("an answer").response.into_body()
}

fn reason(result: Result<Answer, Failed>) -> Reason {
    result.expect_err("no answer").reason
}

/// Everything that can happen without time passing happens.
async fn settle() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

/// The clock, which stands still otherwise, moves on by `time`; what is due on the way happens when it is.
async fn pass(time: Duration) {
    const STEPS: u32 = 100;
    for _ in 0..STEPS {
        tokio::time::advance(time / STEPS).await;
        settle().await;
    }
}

async fn run(test: impl Future) {
    LocalSet::new().run_until(test).await;
}

#[tokio::test(start_paused = true)]
async fn each_stream_that_one_connection_does_not_take_gets_another_connection() {
    for (limit, streams_open, connections) in [(1, 8, 8), (5, 9, 2), (5, 26, 6), (100, 100, 1)] {
        run(async {
            let (net, streams) = (Net::default(), streams(Kind::Other));
            net.serve(Some(limit));
            let held = join_all((0..streams_open).map(|_| answered(&streams, &net))).await;
            assert_eq!(held.len(), streams_open);
            assert_eq!(streams.len(), connections, "{streams_open} streams, {limit} on each");
            assert!(net.dials() <= connections + limits::CONNECTING_MAX as usize, "{} for {connections}", net.dials());
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn few_requests_share_one_connection_and_without_a_limit_many_do() {
    run(async {
        for kind in [Kind::Mesh, Kind::Other] {
            let (net, streams) = (Net::default(), streams(kind));
            net.serve(None);
            let held = join_all((0..limits::MESH_STREAMS_MAX).map(|_| answered(&streams, &net))).await;
            assert_eq!((held.len(), streams.len()), (limits::MESH_STREAMS_MAX as usize, 1), "{kind:?}");
            let _one_more = answered(&streams, &net).await;
            assert_eq!(streams.len(), 2, "{kind:?}: its windows would not fit");
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_finds_no_stream_waits_and_then_fails_with_its_reason() {
    run(async {
        let (net, streams) = (Net::default(), streams(Kind::Other));
        net.serve(Some(1));
        let mut held = join_all((0..limits::CONNECTIONS_PER_ADDRESS_MAX).map(|_| answered(&streams, &net))).await;
        let began = tokio::time::Instant::now();
        assert_eq!(reason(ask(&streams, &net).await), Reason::QueueFull);
        assert!(began.elapsed() >= limits::STREAM_WAIT && began.elapsed() < limits::STREAM_WAIT * 2);
        // One that ends in the meantime is for who waits longest.
        let mut waiting: Vec<_> = (0..3).map(|_| Box::pin(ask(&streams, &net))).collect();
        for each in &mut waiting {
            assert!(each.as_mut().now_or_never().is_none());
        }
        held.pop();
        held.push(waiting.remove(0).await.expect("a stream").response.into_body());
        assert_eq!(reason(waiting.remove(0).await), Reason::QueueFull);
        drop(waiting);
        // Who comes later does not overtake.
        let mut first = Box::pin(ask(&streams, &net));
        assert!(first.as_mut().now_or_never().is_none());
        held.pop();
        let mut second = Box::pin(ask(&streams, &net));
        assert!(second.as_mut().now_or_never().is_none());
        held.push(first.await.expect("the first of them is served").response.into_body());
        assert_eq!(reason(second.await), Reason::QueueFull);
        assert_eq!(streams.len(), limits::CONNECTIONS_PER_ADDRESS_MAX, "and not one connection more");
        // Where as many wait as may, the next one is told at once.
        let mut waiting: Vec<_> = (0..limits::STREAM_WAITERS_MAX).map(|_| Box::pin(ask(&streams, &net))).collect();
        waiting.iter_mut().for_each(|each| assert!(each.as_mut().now_or_never().is_none()));
        assert_eq!(reason(ask(&streams, &net).now_or_never().expect("no wait")), Reason::QueueFull);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_limit_that_is_lowered_or_raised_under_way_is_kept() {
    run(async {
        let (net, streams) = (Net::default(), streams(Kind::Other));
        let (first, mut server) = tokio::join!(answered(&streams, &net), async {
            let mut server = net.accept(Some(10)).await;
            let stream = server.next(HEADERS).await.stream;
            server.send(HEADERS, END_HEADERS, stream, OK).await;
            server
        });
        server.limit(Some(1)).await;
        settle().await;
        // One is under way here, so the next goes elsewhere.
        let (second, mut other) = tokio::join!(answered(&streams, &net), async {
            let mut other = net.accept(Some(1)).await;
            let stream = other.next(HEADERS).await.stream;
            other.send(HEADERS, END_HEADERS, stream, OK).await;
            other
        });
        other.limit(Some(2)).await;
        settle().await;
        let (third, _) = tokio::join!(answered(&streams, &net), async {
            let stream = other.next(HEADERS).await.stream;
            other.send(HEADERS, END_HEADERS, stream, OK).await;
        });
        assert_eq!(net.dials(), 2, "the second connection took two");
        drop((first, second, third));
        // Zero is a limit, too: nothing is sent there.
        for server in [&mut server, &mut other] {
            server.limit(Some(0)).await;
        }
        settle().await;
        net.serve(Some(0));
        assert_eq!(reason(ask(&streams, &net).await), Reason::QueueFull);
    })
    .await;
}

/// A reader that stands still, on each of so many streams, and one who asks for five bytes beside them.
async fn bystander_beside(stalled: usize, piece: usize) {
    let (net, streams) = (Net::default(), streams(Kind::Mesh));
    let body = vec![b'x'; limits::STREAM_WINDOW_BYTES as usize];
    let served = net.clone();
    net.0.tasks.spawn(async move {
        let mut server = served.accept(Some(limits::MESH_STREAMS_MAX)).await;
        while let Some(frame) = server.frame().await {
            assert!(frame.kind != GOAWAY, "{}", String::from_utf8_lossy(&frame.payload));
            if frame.kind != HEADERS {
                continue;
            }
            server.send(HEADERS, END_HEADERS, frame.stream, OK).await;
            if (frame.stream as usize).div_ceil(2) <= stalled {
                for piece in body.chunks(piece) {
                    server.send(DATA, 0, frame.stream, piece).await;
                }
            } else {
                server.send(DATA, END_STREAM, frame.stream, b"hello").await;
            }
        }
    });
    let mut held = Vec::new();
    for _ in 0..stalled {
        held.push(answered(&streams, &net).await);
    }
    settle().await;
    let small = answered(&streams, &net).await.collect().await.expect("the connection stands").to_bytes();
    assert_eq!((&small[..], net.dials()), (&b"hello"[..], 1), "beside {stalled} that stand still");
    // They lose nothing by it.
    let mut late = held.pop().expect("one");
    let mut bytes = 0;
    while bytes < limits::STREAM_WINDOW_BYTES as usize {
        bytes += late.frame().await.expect("more").expect("no error").into_data().expect("data").len();
    }
    assert_eq!(bytes, limits::STREAM_WINDOW_BYTES as usize);
}

#[tokio::test(start_paused = true)]
async fn as_many_streams_as_a_connection_takes_may_stand_still_and_the_last_one_is_served() {
    for stalled in [1, 15, 16, 17, limits::MESH_STREAMS_MAX as usize - 1] {
        run(bystander_beside(stalled, 16 * 1024)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn small_messages_that_nobody_reads_end_no_connection() {
    for (stalled, piece) in [(1, 6), (20, 10), (100, 25)] {
        run(bystander_beside(stalled, piece)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_gives_up_gives_his_stream_back() {
    run(async {
        let (net, streams) = (Net::default(), streams(Kind::Other));
        let mut given_up = Box::pin(ask(&streams, &net));
        assert!(given_up.as_mut().now_or_never().is_none());
        let mut server = net.accept(Some(1)).await;
        assert!(given_up.as_mut().now_or_never().is_none());
        let stream = server.next(HEADERS).await.stream;
        drop(given_up);
        assert_eq!(server.next(RST_STREAM).await.stream, stream);
        // In the middle of the body, too, with all of its window unread.
        for _ in 0..3 {
            let (body, ()) = tokio::join!(answered(&streams, &net), async {
                let stream = server.next(HEADERS).await.stream;
                server.send(HEADERS, END_HEADERS, stream, OK).await;
                for _ in 0..4 {
                    server.send(DATA, 0, stream, &[0; 16 * 1024]).await;
                }
            });
            settle().await;
            drop(body);
            server.next(RST_STREAM).await;
        }
        assert_eq!(net.dials(), 1);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_reset_before_its_end_is_broken_whatever_the_code() {
    run(async {
        for code in [0_u32, 2, 7, 8, 11] {
            let (net, streams) = (Net::default(), streams(Kind::Other));
            let (body, _server) = tokio::join!(answered(&streams, &net), async {
                let mut server = net.accept(None).await;
                let stream = server.next(HEADERS).await.stream;
                server.send(HEADERS, END_HEADERS, stream, OK).await;
                server.send(DATA, 0, stream, b"half").await;
                server.send(RST_STREAM, 0, stream, &code.to_be_bytes()).await;
                server
            });
            assert!(body.collect().await.is_err(), "code {code}");
        }
        // Behind the end it says nothing of the answer.
        let (net, streams) = (Net::default(), streams(Kind::Other));
        let (body, _server) = tokio::join!(answered(&streams, &net), async {
            let mut server = net.accept(None).await;
            let stream = server.next(HEADERS).await.stream;
            server.send(HEADERS, END_HEADERS, stream, OK).await;
            server.send(DATA, END_STREAM, stream, b"whole").await;
            server.send(RST_STREAM, 0, stream, &[0; 4]).await;
            server
        });
        assert_eq!(&body.collect().await.expect("whole").to_bytes()[..], b"whole");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn with_new_credentials_a_connection_is_made_beside_the_old_one_which_ends_with_its_streams() {
    run(async {
        let (net, streams) = (Net::default(), streams(Kind::Mesh));
        net.serve(None);
        let old = answered(&streams, &net).await;
        net.0.generation.set(1);
        net.0.refuses.set(Some(Reason::TlsRefused));
        // What is there is good until its successor is ready, however often that fails.
        for _ in 0..5 {
            assert!(ask(&streams, &net).now_or_never().is_none(), "sent at once");
            pass(limits::RENEWAL_SPREAD).await;
            assert!(ask(&streams, &net).await.is_ok());
        }
        net.0.refuses.set(None);
        pass(limits::RENEWAL_SPREAD * 3).await;
        assert!(ask(&streams, &net).await.is_ok());
        assert_eq!(streams.len(), 1, "the old one takes nothing new");
        assert!(!old.is_end_stream(), "but its stream stands");
        assert_eq!(net.0.tasks.running(), 5, "acceptor, and driver and server of two connections");
        drop(old);
        settle().await;
        assert_eq!(net.0.tasks.running(), 3, "it ended with its last stream");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn connections_that_nobody_uses_are_closed_and_used_ones_are_not() {
    run(async {
        let kept = ConnectionSettings { idle_timeout: Some(3 * limits::IDLE_TIMEOUT), ..ConnectionSettings::default() };
        let (net, streams) = (Net::default(), Streams::new(Kind::Mesh, Keep::of(Kind::Mesh, &kept)));
        net.serve(Some(1));
        let held = answered(&streams, &net).await;
        drop(answered(&streams, &net).await);
        let counts: Vec<_> = (0..5).map(|_| streams.sweep(false)).collect();
        assert_eq!(counts, [2, 2, 2, 1, 1]);
        drop(held);
        let counts: Vec<_> = (0..5).map(|_| streams.sweep(false)).collect();
        assert_eq!(counts, [1, 1, 1, 0, 0]);
        drop(answered(&streams, &net).await);
        assert_eq!(streams.len(), 1, "one is made when one is needed");
    })
    .await;
}

/// A body of which nothing more comes.
#[tokio::test(start_paused = true)]
async fn a_pipe_that_breaks_says_so_to_every_stream() {
    run(async {
        let (net, streams) = (Net::default(), streams(Kind::Other));
        let (mut body, server) = tokio::join!(answered(&streams, &net), async {
            let mut server = net.accept(None).await;
            let stream = server.next(HEADERS).await.stream;
            server.send(HEADERS, END_HEADERS, stream, OK).await;
            server
        });
        drop(server);
        let end = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await;
        assert!(end.is_some_and(|end: Result<http_body::Frame<Bytes>, _>| end.is_err()));
        assert!(streams.is_away());
        net.0.refuses.set(Some(Reason::ConnectRefused));
        assert_eq!(reason(ask(&streams, &net).await), Reason::ConnectRefused);
    })
    .await;
}
