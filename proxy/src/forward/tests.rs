//! How the end of one connection is told on the other, over real sockets.

use super::*;
use crate::{
    limits,
    policy::{self, To},
    sys::Watch,
    telemetry::Fault,
};
use remora_model::Target;
use socket2::SockRef;
use std::{cell::Cell, rc::Rc, task::Context, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, ReadBuf},
    net::{TcpListener, TcpStream},
    time::timeout,
};

/// A connection's two ends.
async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let dialled = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    (dialled, listener.accept().await.unwrap().0)
}

fn permit() -> Permit {
    policy::outbound(To::Target(&Target::Address(([127, 0, 0, 1], 1).into())))
}

/// What a client reads through a relay from a server that says `half` and then ends as it likes.
async fn read_through(end: impl FnOnce(TcpStream)) -> (String, io::Result<()>, Result<(), Broken>) {
    let ((mut client, mut down), (mut up, mut server)) = (pair().await, pair().await);
    let record = Record::of_tests();
    let relay = async {
        let outcome = bytes(permit(), &mut down, &mut up, &record).await;
        drop((down, up));
        outcome
    };
    let talk = async {
        server.write_all(b"half").await.unwrap();
        let mut said = vec![0; 4];
        client.read_exact(&mut said).await.unwrap();
        end(server);
        let rest = client.read_to_end(&mut said).await.map(drop);
        drop(client);
        (String::from_utf8(said).unwrap(), rest)
    };
    let (relayed, (said, rest)) = tokio::join!(relay, talk);
    (said, rest, relayed)
}

#[tokio::test]
async fn a_reset_on_one_side_is_a_reset_on_the_other() {
    let (said, rest, relayed) = read_through(|server| {
        SockRef::from(&server).set_linger(Some(Duration::ZERO)).unwrap();
    })
    .await;
    assert_eq!(said, "half");
    assert_eq!(rest.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    assert_eq!(relayed.unwrap_err().reason(), Reason::UpstreamReset);
}

#[tokio::test]
async fn who_broke_first_is_at_fault() {
    for breaks in [Side::Downstream, Side::Upstream] {
        let ((client, mut down), (mut up, server)) = (pair().await, pair().await);
        let record = Record::of_tests();
        let (breaking, mut other) = if breaks == Side::Downstream { (client, server) } else { (server, client) };
        SockRef::from(&breaking).set_linger(Some(Duration::ZERO)).unwrap();
        drop(breaking);
        let broken = bytes(permit(), &mut down, &mut up, &record).await.unwrap_err();
        drop((down, up));
        let told = other.read(&mut [0]).await.map_err(|error| error.kind());
        assert_eq!((broken.side, told), (breaks, Err(io::ErrorKind::ConnectionReset)));
    }
    let fault = |side| Broken { side, error: io::ErrorKind::ConnectionReset.into() }.reason().fault();
    assert_eq!((fault(Side::Downstream), fault(Side::Upstream)), (Fault::Client, Fault::Application));
}

#[tokio::test]
async fn a_proper_end_on_one_side_is_a_proper_end_on_the_other() {
    let (said, rest, relayed) = read_through(drop).await;
    assert_eq!(said, "half");
    assert!(rest.is_ok() && relayed.is_ok(), "{rest:?} {relayed:?}");
}

#[tokio::test(start_paused = true)]
async fn a_reset_is_passed_on_although_its_side_is_not_read() {
    for half_closed in [false, true] {
        let ((mut client, mut down), (mut up, mut server)) = (pair().await, pair().await);
        let record = Record::of_tests();
        let relay = async {
            let outcome = bytes(permit(), &mut down, &mut up, &record).await;
            drop((down, up));
            outcome
        };
        let talk = async {
            if half_closed {
                client.shutdown().await.unwrap();
                assert_eq!(server.read(&mut [0; 8]).await.unwrap(), 0);
            } else {
                // Its server reads nothing, so that at last nothing more is taken.
                while timeout(10 * limits::ABANDONED_LOOK, client.write_all(&[7; 64 << 10])).await.is_ok() {}
            }
            SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
            drop(client);
        };
        let (relayed, ()) = tokio::join!(relay, talk);
        assert_eq!(relayed.unwrap_err().reason(), Reason::DownstreamReset, "half-closed: {half_closed}");
        assert!(Watch::asked(&server).was_reset(), "half-closed: {half_closed}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_said_before_both_sides_ended_in_order_arrives_however_late_it_is_read() {
    let ((mut client, mut down), (mut up, mut server)) = (pair().await, pair().await);
    let record = Record::of_tests();
    let relay = async {
        let outcome = bytes(permit(), &mut down, &mut up, &record).await;
        drop((down, up));
        outcome
    };
    let said = vec![7; 8 << 20];
    let server = async {
        server.shutdown().await.unwrap();
        tokio::time::sleep(20 * limits::ABANDONED_LOOK).await;
        let mut heard = Vec::new();
        server.read_to_end(&mut heard).await.unwrap();
        heard.len()
    };
    let client = async {
        assert_eq!(client.read(&mut [0; 8]).await.unwrap(), 0);
        client.write_all(&said).await.unwrap();
        client.shutdown().await.unwrap();
        drop(client);
    };
    let (relayed, (), heard) = tokio::join!(relay, client, server);
    assert_eq!(heard, said.len());
    relayed.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_stands_still_behind_both_ends_is_given_up_in_time() {
    for takes in [Side::Upstream, Side::Downstream] {
        let ((client, mut down), (mut up, server)) = (pair().await, pair().await);
        // So that the relay has to hold something, and the end behind the rest arrives there.
        SockRef::from(if takes == Side::Upstream { &up } else { &down }).set_send_buffer_size(4096).unwrap();
        let (mut says, mut silent) = if takes == Side::Upstream { (client, server) } else { (server, client) };
        let record = Record::of_tests();
        let began = tokio::time::Instant::now();
        let relay = async {
            let outcome = bytes(permit(), &mut down, &mut up, &record).await;
            drop((down, up));
            outcome
        };
        let talk = async {
            silent.shutdown().await.unwrap();
            assert_eq!(says.read(&mut [0; 8]).await.unwrap(), 0);
            says.write_all(&[7; 100 << 10]).await.unwrap();
            says.shutdown().await.unwrap();
            drop(says);
        };
        let (relayed, ()) = tokio::join!(relay, talk);
        assert_eq!(relayed.unwrap_err().side, takes);
        assert!(Watch::asked(&silent).was_reset() && began.elapsed() >= limits::RELAY_LINGER, "{takes:?}");
    }
}

/// A peer that always has bytes (as many as are asked for, or `piece`) and takes all; it counts what was read of it.
#[derive(Default, Clone)]
struct Endless {
    piece: Option<usize>,
    read: Rc<Cell<usize>>,
}

impl AsyncRead for Endless {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let count = buf.remaining().min(self.piece.unwrap_or(usize::MAX));
        buf.initialize_unfilled_to(count);
        buf.advance(count);
        self.read.set(self.read.get() + count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Endless {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl Abort for Endless {
    fn abort(&self) {}
}

#[tokio::test]
async fn one_poll_of_a_stream_that_never_ends_is_bounded_and_neither_way_starves_the_other() {
    // Without a share the buffers are the least.
    for piece in [None, Some(1), Some(1000), Some(3 * limits::RELAY_TURN_BYTES / 4)] {
        let (mut down, mut up) = (Endless { piece, ..Endless::default() }, Endless { piece, ..Endless::default() });
        let read = [down.read.clone(), up.read.clone()];
        let record = Record::of_tests();
        let mut relay = std::pin::pin!(bytes(permit(), &mut down, &mut up, &record));
        let (mut before, polls) = (0, 20);
        for _ in 0..polls {
            assert!(futures_util::poll!(relay.as_mut()).is_pending());
            let sum = read[0].get() + read[1].get();
            assert!(sum > before && sum - before <= limits::RELAY_TURN_BYTES, "{piece:?}: {} in a poll", sum - before);
            before = sum;
        }
        let [sent, received] = read.map(|read| read.get());
        assert!(sent >= before / 3 && received >= before / 3, "{piece:?}: {sent} up, {received} down");
    }
}

#[tokio::test]
async fn a_question_and_its_answer_pass_between_the_turns_of_streams_that_never_end() {
    const STREAMS: usize = 4;
    const QUESTIONS: usize = 200;
    let ((mut asks, mut answers), moved) = (pair().await, Rc::new(Cell::new(0)));
    tokio::task::LocalSet::new()
        .run_until(async {
            for _ in 0..STREAMS {
                let (mut down, mut up) = (Endless::default(), Endless::default());
                (down.read, up.read) = (moved.clone(), moved.clone());
                tokio::task::spawn_local(async move { bytes(permit(), &mut down, &mut up, &Record::of_tests()).await });
            }
            tokio::task::spawn_local(async move {
                while let Ok(byte) = answers.read_u8().await {
                    answers.write_u8(byte).await.unwrap();
                }
            });
            for _ in 0..QUESTIONS {
                asks.write_u8(7).await.unwrap();
                assert_eq!(asks.read_u8().await.unwrap(), 7);
            }
            // Two hops, each behind a turn of each stream, and as much again for what the kernel may be late by.
            let most = 4 * STREAMS * limits::RELAY_TURN_BYTES;
            assert!(moved.get() / QUESTIONS <= most, "{} bytes for a question", moved.get() / QUESTIONS);
            assert!(moved.get() > 0, "the streams went on");
        })
        .await;
}
