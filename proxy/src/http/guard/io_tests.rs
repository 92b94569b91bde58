//! The guard as a stream: what passes, what is told, and when a wait ends.

use super::{
    Patience, Refusal, Wait,
    io::{End, Guarded},
};
use crate::{http::under_way::UnderWay, limits, telemetry::Direction};
use std::{
    io,
    pin::Pin,
    task::{Context, Poll, Waker},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, duplex},
    time::Instant,
};

const PATIENCE: Patience =
    Patience { head: Duration::from_millis(40), body: Duration::from_millis(150), idle: Duration::from_millis(100) };
/// What a busy machine may add.
const LATE: Duration = Duration::from_secs(5);

fn guarded(stream: DuplexStream) -> Guarded<DuplexStream> {
    Guarded::new(stream, Direction::Outbound, PATIENCE, UnderWay::default(), None)
}

#[tokio::test(flavor = "current_thread")]
async fn a_refused_first_request_is_told_and_never_whole() {
    let (mut client, server) = duplex(4096);
    client
        .write_all(b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n")
        .await
        .unwrap();
    let mut server = guarded(server);
    let mut read = Vec::new();
    client.shutdown().await.unwrap();
    let error = server.read_to_end(&mut read).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    assert!(!read.ends_with(b"\r\n\r\n"), "the end of the head was let through");
    assert_eq!(server.end(), Some(End::Refused(Refusal::TwoLengths)));
    assert!(server.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.is_err());
    drop(server);
    let mut told = String::new();
    client.read_to_string(&mut told).await.unwrap();
    assert!(told.starts_with("HTTP/1.1 400 Bad Request\r\nx-remora-error: protocol_error\r\n"), "{told}");
    assert_eq!(told.matches("HTTP/1.1").count(), 1);
}

#[tokio::test(flavor = "current_thread")]
async fn an_answer_under_way_is_not_corrupted() {
    let (mut client, server) = duplex(4096);
    let mut server = guarded(server);
    client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    let mut read = [0; 64];
    assert_eq!(server.read(&mut read).await.unwrap(), 27);
    server.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf").await.unwrap();
    client.write_all(b"GET /\n").await.unwrap();
    assert!(server.read(&mut read).await.is_err());
    drop(server);
    let mut told = String::new();
    client.read_to_string(&mut told).await.unwrap();
    assert!(told.ends_with("half"), "{told}");
}

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const UPGRADE: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n";
const CONNECT: &[u8] = b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n";
const NO_HTTP: &[u8] = b"\0\n\0";

/// A client, its guarded connection, and what whoever answers tells it.
fn answered() -> (DuplexStream, Guarded<DuplexStream>, UnderWay) {
    let (client, server) = duplex(4096);
    let under_way = UnderWay::default();
    (client, Guarded::new(server, Direction::Outbound, PATIENCE, under_way.clone(), None), under_way)
}

#[tokio::test(flavor = "current_thread")]
async fn what_follows_passes_once_whoever_answers_has_left_http() {
    for asks in [UPGRADE, CONNECT] {
        let (mut client, mut server, under_way) = answered();
        client.write_all(asks).await.unwrap();
        let mut read = [0; 256];
        assert_eq!(server.read(&mut read).await.unwrap(), asks.len());
        let token = under_way.begin();
        token.leave_http();
        server.write_all(b"HTTP/1.1 101 Switching Protocols\r\n\r\n").await.unwrap();
        client.write_all(NO_HTTP).await.unwrap();
        assert_eq!(server.read(&mut read).await.unwrap(), 3);
        drop(token);
        // And may take its time.
        assert!(tokio::time::timeout(4 * PATIENCE.idle, server.read(&mut read)).await.is_err());
    }
}

/// Whatever is written, joined or in pieces, says nothing of what is spoken.
#[tokio::test(flavor = "current_thread")]
async fn no_answer_that_passes_ends_the_judging() {
    let answers: [&[u8]; 4] = [
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\nHTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"HTTP/1.0 299 OK\r\n\r\n",
    ];
    for asks in [GET, UPGRADE, CONNECT] {
        for answer in answers {
            let (mut client, mut server, under_way) = answered();
            client.write_all(asks).await.unwrap();
            let mut read = [0; 256];
            assert!(server.read(&mut read).await.unwrap() > 0);
            drop(under_way.begin());
            server.write_all(answer).await.unwrap();
            client.write_all(GET).await.unwrap();
            assert_eq!(server.read(&mut read).await.unwrap(), GET.len(), "it goes on as HTTP");
            client.write_all(NO_HTTP).await.unwrap();
            assert!(server.read(&mut read).await.is_err());
        }
    }
}

#[tokio::test(flavor = "current_thread")]
async fn nothing_is_asked_before_or_behind_what_may_leave_http_until_the_answer() {
    let twice = |a: &[u8], b: &[u8]| [a, b].concat();
    let cases = [
        (twice(GET, CONNECT), Refusal::PipelinedUpgrade),
        (twice(GET, UPGRADE), Refusal::PipelinedUpgrade),
        (twice(CONNECT, GET), Refusal::EarlyBytes),
        (twice(UPGRADE, GET), Refusal::EarlyBytes),
        (twice(UPGRADE, NO_HTTP), Refusal::EarlyBytes),
        (twice(CONNECT, b"\x16\x03\x01"), Refusal::EarlyBytes),
        (twice(UPGRADE, UPGRADE), Refusal::EarlyBytes),
        (twice(&twice(GET, GET), CONNECT), Refusal::PipelinedUpgrade),
    ];
    for (sent, refusal) in cases {
        let text = String::from_utf8_lossy(&sent).into_owned();
        // In one piece, and byte by byte while nothing is answered.
        for piece in [sent.len(), 1] {
            let (mut client, mut server, under_way) = answered();
            let mut owed = Vec::new();
            let result = async {
                for bytes in sent.chunks(piece) {
                    client.write_all(bytes).await.unwrap();
                    let mut read = vec![0; bytes.len()];
                    server.read_exact(&mut read).await?;
                    owed.push(under_way.begin());
                }
                io::Result::Ok(())
            };
            assert_eq!(result.await.unwrap_err().kind(), io::ErrorKind::InvalidData, "{text}");
            assert_eq!(server.end(), Some(End::Refused(refusal)), "{text}");
            drop(server);
            let mut told = String::new();
            client.read_to_string(&mut told).await.unwrap();
            assert!(told.starts_with("HTTP/1.1 400 ") && told.contains("protocol_error"), "{text}: {told}");
        }
    }
}

#[tokio::test(flavor = "current_thread")]
async fn requests_one_after_another_may_ask_to_leave_and_stay() {
    let (mut client, mut server, under_way) = answered();
    let mut read = [0; 256];
    for request in [GET, CONNECT, GET, UPGRADE, UPGRADE, GET, GET] {
        client.write_all(request).await.unwrap();
        assert_eq!(server.read(&mut read).await.unwrap(), request.len());
        drop(under_way.begin());
        server.write_all(b"HTTP/1.1 405 No\r\ncontent-length: 0\r\n\r\n").await.unwrap();
    }
    // An offer of HTTP is no offer, also pipelined.
    let h2c = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\r\n";
    client.write_all(&[&h2c[..], h2c, GET].concat()).await.unwrap();
    assert!(server.read(&mut [0; 1024]).await.unwrap() > 2 * h2c.len());
}

#[tokio::test(flavor = "current_thread")]
async fn who_asked_to_leave_and_was_refused_has_no_more_time_than_others() {
    let (mut client, mut server, under_way) = answered();
    client.write_all(CONNECT).await.unwrap();
    assert!(server.read(&mut [0; 256]).await.unwrap() > 0);
    drop(under_way.begin());
    client.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
    let (took, result) = read_all(server).await;
    assert_eq!(result.unwrap_err().kind(), io::ErrorKind::TimedOut);
    assert!(took <= 2 * PATIENCE.head + LATE, "{took:?}");
}

/// Reads what comes: when it ended, and how.
async fn read_all(mut server: Guarded<DuplexStream>) -> (Duration, io::Result<usize>) {
    let (began, mut read) = (Instant::now(), Vec::new());
    let result = server.read_to_end(&mut read).await;
    (began.elapsed(), result)
}

/// Sends `bytes` and then one more byte every `pause`, as long as anybody reads: what the reader came to, and the
/// client was told.
async fn drip(bytes: &[u8], byte: u8, pause: Duration) -> (Duration, io::Result<usize>, String) {
    let (client, server) = duplex(4096);
    let (mut hears, mut says) = tokio::io::split(client);
    says.write_all(bytes).await.unwrap();
    let dripping = async {
        let mut timer = tokio::time::interval_at(Instant::now() + pause, pause);
        loop {
            timer.tick().await;
            if says.write_all(&[byte]).await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    };
    let (took, result) = tokio::select! {
        read = read_all(guarded(server)) => read,
        () = dripping => unreachable!("drips forever"),
    };
    let mut told = String::new();
    hears.read_to_string(&mut told).await.unwrap();
    (took, result, told)
}

#[tokio::test(flavor = "current_thread")]
async fn a_head_that_drips_is_told_408_in_time() {
    for bytes in [&b"GET"[..], b"GET / HTTP/1.1\r\n", b"GET / HTTP/1.1\r\nX: "] {
        let (took, result, told) = drip(bytes, b'x', Duration::from_millis(4)).await;
        assert_eq!(result.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!(told.starts_with("HTTP/1.1 408 Request Timeout\r\nx-remora-error: timeout\r\n"), "{told}");
        assert!(took <= 2 * PATIENCE.head + LATE, "{took:?}");
    }
}

#[tokio::test(flavor = "current_thread")]
async fn a_body_may_be_slow_and_must_not_stop() {
    let head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 40\r\n\r\n";
    let (took, ..) = drip(head, b'x', PATIENCE.body / 10).await;
    assert!(took >= 4 * PATIENCE.body, "a slow body was cut after {took:?}");
    let (took, result, told) = drip(head, b'x', 3 * PATIENCE.body).await;
    assert_eq!(result.unwrap_err().kind(), io::ErrorKind::TimedOut);
    assert!(took <= 2 * PATIENCE.body + LATE && told.starts_with("HTTP/1.1 408"), "{took:?} {told}");
}

#[tokio::test(flavor = "current_thread")]
async fn an_idle_connection_ends_in_order_and_late() {
    for bytes in [&b""[..], b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"] {
        let (mut client, server) = duplex(4096);
        client.write_all(bytes).await.unwrap();
        let (took, result) = read_all(guarded(server)).await;
        assert_eq!(result.unwrap(), bytes.len());
        assert!(took >= PATIENCE.idle && took <= 2 * PATIENCE.idle + LATE, "{took:?}");
    }
}

#[tokio::test(flavor = "current_thread")]
async fn a_reader_that_takes_nothing_is_left() {
    let (mut client, server) = duplex(4096);
    let mut server = guarded(server);
    client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    assert!(server.read(&mut [0; 64]).await.unwrap() > 0);
    let began = Instant::now();
    let error = server.write_all(&[0; 8192]).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    assert!(began.elapsed() <= 2 * PATIENCE.body + LATE);
    assert_eq!(server.end(), Some(End::Stalled(Wait::Write)));
}

#[tokio::test(flavor = "current_thread")]
async fn a_client_that_ended_its_side_is_waited_for_while_it_is_owed_an_answer() {
    let (mut client, server) = duplex(4096);
    let under_way = UnderWay::default();
    let mut server = Guarded::new(server, Direction::Outbound, PATIENCE, under_way.clone(), None);
    client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    client.shutdown().await.unwrap();
    let mut buffer = [0; 64];
    assert!(server.read(&mut buffer).await.unwrap() > 0);
    let (owed, began) = (under_way.begin(), Instant::now());
    assert_eq!(server.read(&mut buffer).await.unwrap(), 0);
    assert!(began.elapsed() >= PATIENCE.body, "it was left after {:?}", began.elapsed());
    let began = Instant::now();
    let (read, ()) = tokio::join!(server.read(&mut buffer), async { drop(owed) });
    assert_eq!(read.unwrap(), 0);
    assert!(began.elapsed() < PATIENCE.body, "the end of the answer woke nobody for {:?}", began.elapsed());
}

#[tokio::test]
async fn answers_that_a_client_does_not_take_are_charged_to_it_and_too_many_end_its_connection() {
    use crate::account::{Account, Peer};
    let account = Account::new(3 * limits::HTTP1_BUFFER_BYTES);
    let holder = account.holder(Peer::at([10, 0, 0, 1].into()));
    let answers = || {
        let (client, server) = duplex(64);
        (client, Guarded::new(server, Direction::Inbound, PATIENCE, UnderWay::default(), Some(holder.clone())))
    };
    let ((mut reader, mut first), (_silent, mut second)) = (answers(), answers());
    let write = |server: &mut Guarded<DuplexStream>| {
        let mut cx = Context::from_waker(Waker::noop());
        Pin::new(server).poll_write(&mut cx, &[7; 64])
    };
    assert!(write(&mut first).is_ready());
    assert_eq!(account.used(), 0, "what the socket takes is not held");
    assert!(write(&mut first).is_pending());
    assert_eq!(account.used(), limits::HTTP1_BUFFER_BYTES);
    assert!(write(&mut second).is_ready());
    let Poll::Ready(Err(error)) = write(&mut second) else { panic!("a second one is beyond its share") };
    assert_eq!(error.kind(), io::ErrorKind::OutOfMemory);
    assert!(matches!(second.end(), Some(End::Overloaded(_))));
    reader.read_exact(&mut [0; 64]).await.unwrap();
    assert!(write(&mut first).is_ready());
    assert_eq!(account.used(), 0, "it reads again");
}

#[tokio::test]
async fn who_waits_for_an_answer_is_not_idle_however_long_it_takes() {
    let (mut client, mut server, under_way) = answered();
    client.write_all(GET).await.unwrap();
    let mut read = [0; 256];
    assert_eq!(server.read(&mut read).await.unwrap(), GET.len());
    let token = under_way.begin();
    assert!(tokio::time::timeout(4 * PATIENCE.idle, server.read(&mut read)).await.is_err());
    drop(token);
    assert_eq!(server.read(&mut read).await.unwrap(), 0, "now it is");
}
