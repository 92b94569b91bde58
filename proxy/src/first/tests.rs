//! Clients that are silent, slow, cut in pieces, or that speak otherwise than was declared.

use super::*;
use std::convert::Infallible;
use tokio::io::{AsyncReadExt, DuplexStream, duplex};

const GRACE: Duration = Duration::from_millis(2);
const SILENT: Wait = Wait {
    grace: Duration::ZERO,
    mesh: false,
    by_name: false,
    said: Protocol::Detect,
    undecided: Undecided::Bytes(GRACE),
    idle: Duration::from_secs(1),
};
/// A client that says at once what it says.
const SPOKEN: Wait = Wait { grace: Duration::from_secs(1), ..SILENT };

/// What comes of a client that says `said` while the upstream is being opened.
async fn while_opening(said: &[u8]) -> First<DuplexStream> {
    let (client, mut says) = duplex(1024);
    let (upstream, _server) = duplex(1024);
    let (spoke, speaks) = tokio::sync::oneshot::channel();
    let mut client = Prefixed::new(client);
    let open = async || {
        says.write_all(said).await.unwrap();
        spoke.send(()).unwrap();
        // The client's bytes are seen before this is asked again.
        tokio::task::yield_now().await;
        Ok::<_, Infallible>(upstream)
    };
    let first = protocol(&mut client, &SILENT, open).await.unwrap();
    speaks.await.unwrap();
    assert_eq!(client.prefix(), said);
    first
}

/// The time passes: that of the test's own clock, which stands still while anybody has something to do, and then jumps to what is next.
async fn passes(time: Duration) {
    tokio::time::sleep(time).await;
}

#[tokio::test]
async fn a_connection_that_is_being_opened_is_used_by_a_client_that_speaks_meanwhile() {
    assert!(matches!(while_opening(b"\x01\x02 cookie of iperf3").await, First::Opened(_)));
    assert!(matches!(while_opening(b"GET / HTTP/1.1\r\n").await, First::Http1));
}

#[tokio::test]
async fn nothing_is_opened_for_a_client_that_has_spoken_or_gone() {
    let never = async || -> Result<DuplexStream, Infallible> { panic!("opened") };
    let (client, mut says) = duplex(1024);
    says.write_all(b"\x01\x02 cookie").await.unwrap();
    let first = protocol(&mut Prefixed::new(client), &SILENT, never).await.unwrap();
    assert!(matches!(first, First::Opaque));
    let (client, gone) = duplex(1024);
    drop(gone);
    assert!(matches!(protocol(&mut Prefixed::new(client), &SILENT, never).await.unwrap(), First::Closed));
}

/// A client and its side of the connection, an upstream and the server's side of it.
struct Ends {
    client: Prefixed<DuplexStream>,
    says: DuplexStream,
    upstream: Option<DuplexStream>,
    server: DuplexStream,
}

impl Ends {
    fn new() -> Self {
        let ((client, says), (upstream, server)) = (duplex(1024), duplex(1024));
        Self { client: Prefixed::new(client), says, upstream: Some(upstream), server }
    }
}

#[tokio::test(start_paused = true)]
async fn a_peers_hello_that_comes_in_two_packets_is_none_of_the_applications_however_late_the_second_is() {
    for wait in [SPOKEN, SILENT].map(|wait| Wait { mesh: true, ..wait }) {
        for first_packet in [2, 5, 6, 100] {
            let Ends { mut client, mut says, mut upstream, mut server } = Ends::new();
            let hello = [&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc][..], &[0; 500]].concat();
            says.write_all(&hello[..first_packet]).await.unwrap();
            let open = async || Ok::<_, Infallible>(upstream.take().unwrap());
            let end = protocol(&mut client, &wait, open).await;
            let Err(FirstError::Client(error)) = end else { panic!("{first_packet}: {end:?}") };
            assert_eq!(error.kind(), io::ErrorKind::TimedOut);
            drop(upstream);
            assert_eq!(server.read(&mut [0; 8]).await.unwrap(), 0, "not a byte of it");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_hello_that_goes_by_its_name_is_read_to_its_end_and_has_no_upstream_of_before() {
    // A record with a ClientHello of nothing but what must be there.
    let body = [&[3, 3][..], &[7; 32], &[0, 0, 2, 0x13, 1, 1, 0]].concat();
    let length = |bytes: usize| u8::try_from(bytes).unwrap();
    let hello = [&[0x16, 3, 1, 0, length(body.len() + 4), 1, 0, 0, length(body.len())][..], &body].concat();
    for (wait, cut) in [SPOKEN, SILENT].into_iter().flat_map(|wait| [(wait, 6), (wait, 20), (wait, hello.len())]) {
        let Ends { mut client, mut says, mut upstream, mut server } = Ends::new();
        let opened = upstream.is_some();
        let open = async || Ok::<_, Infallible>(upstream.take().unwrap());
        let talk = async {
            passes(GRACE / 2).await;
            says.write_all(&hello[..cut]).await.unwrap();
            passes(GRACE * 2).await;
            says.write_all(&hello[cut..]).await.unwrap();
        };
        let wait = Wait { by_name: true, said: Protocol::Opaque, ..wait };
        let (first, ()) = tokio::join!(protocol(&mut client, &wait, open), talk);
        assert!(opened && matches!(first, Ok(First::Tls)), "{cut}: {first:?}");
        assert_eq!(client.prefix().len(), hello.len().max(cut), "all of it is there to be read");
        drop(upstream);
        assert_eq!(server.read(&mut [0; 8]).await.unwrap(), 0, "not a byte of it");
    }
}

/// A record with the ClientHello of a peer, which offers mesh TLS for bytes.
fn peers_hello() -> Vec<u8> {
    let length = |bytes: usize| u8::try_from(bytes).unwrap();
    let name = remora_runtime::tls::Alpn::MeshTcp.as_bytes();
    let alpn = [&[0, length(name.len() + 1), length(name.len())][..], name].concat();
    let extensions = [&[0, 16, 0, length(alpn.len())][..], &alpn].concat();
    let body = [&[3, 3][..], &[7; 32], &[0, 0, 2, 0x13, 1, 1, 0, 0, length(extensions.len())], &extensions].concat();
    [&[0x16, 3, 1, 0, length(body.len() + 4), 1, 0, 0, length(body.len())][..], &body].concat()
}

/// What comes of a client that says `said` so long after its server has spoken.
async fn after_the_server(said: &[u8], wait: &Wait, after: Duration) -> First<DuplexStream> {
    let Ends { mut client, mut says, mut upstream, mut server } = Ends::new();
    server.write_all(b"220 ready").await.unwrap();
    let open = async || Ok::<_, Infallible>(upstream.take().unwrap());
    let talk = async {
        passes(after).await;
        says.write_all(said).await.unwrap();
    };
    tokio::join!(protocol(&mut client, wait, open), talk).0.unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_server_that_speaks_first_does_not_speak_to_a_peer_whose_hello_is_late() {
    let (hello, late) = (peers_hello(), limits::HELLO_GRACE / 2);
    for wait in [SILENT, Wait { grace: GRACE, ..SILENT }].map(|wait| Wait { mesh: true, ..wait }) {
        assert!(matches!(after_the_server(&hello, &wait, late).await, First::Mesh));
        // What comes too late, or is another's, is bytes like what the server said.
        for (said, after) in [(&hello[..], limits::HELLO_GRACE * 2), (b"\x16 cookie", late), (b"EHLO x", late)] {
            let First::Opened(upstream) = after_the_server(said, &wait, after).await else { panic!("{said:?}") };
            assert_eq!(upstream.prefix(), b"220 ready");
        }
    }
    let began = Instant::now();
    assert!(matches!(after_the_server(b"", &SILENT, Duration::ZERO).await, First::Opened(_)));
    assert!(began.elapsed() < limits::HELLO_GRACE, "where no peer may come, nobody waits for one");
}

/// What comes of a client that says `said` so long after its upstream could not be opened.
async fn unopened_then(
    said: &[u8],
    wait: &Wait,
    after: Duration,
) -> Result<First<DuplexStream>, FirstError<&'static str>> {
    let (client, mut says) = duplex(1024);
    let mut client = Prefixed::new(client);
    let refused = async || Err::<DuplexStream, _>("refused");
    let (first, _says) = tokio::join!(protocol(&mut client, wait, refused), async {
        passes(after).await;
        says.write_all(said).await.map(|()| says)
    });
    first
}

#[tokio::test(start_paused = true)]
async fn a_request_is_told_from_bytes_although_its_upstream_was_refused_before_it_began() {
    let wait = Wait { grace: GRACE, ..SILENT };
    let soon = limits::UNOPENED_GRACE / 2;
    let request: &[u8] = b"GET / HTTP/1.1\r\n";
    assert!(matches!(unopened_then(request, &wait, soon).await, Ok(First::Http1)));
    for (said, wait, after) in [
        (request, wait, limits::UNOPENED_GRACE * 2),
        (b"\x01\x02 cookie", wait, soon),
        (request, SILENT, soon), // the server is known to speak first
    ] {
        let ended = unopened_then(said, &wait, after).await;
        assert!(matches!(ended, Err(FirstError::Upstream("refused"))), "{said:?} after {after:?}: {ended:?}");
    }
}

const WORDS: [&[u8]; 9] =
    [b"JDWP-Handshake", b"ruok", b"mntr", b"HZC", b"\r\n", b"hello", b"PING ", b"\x16", b"PRI * HTT"];

#[tokio::test(start_paused = true)]
async fn a_short_word_reaches_a_server_that_waits_for_it_and_its_answer_comes_back() {
    for wait in [SPOKEN, SILENT, Wait { mesh: true, ..SPOKEN }] {
        for word in WORDS {
            let Ends { mut client, mut says, mut upstream, mut server } = Ends::new();
            says.write_all(word).await.unwrap();
            let open = async || Ok::<_, Infallible>(upstream.take().unwrap());
            let answer = async {
                let mut heard = vec![0; word.len()];
                server.read_exact(&mut heard).await.unwrap();
                server.write_all(b"imok").await.unwrap();
                heard
            };
            let (first, heard) = tokio::join!(protocol(&mut client, &wait, open), answer);
            let Ok(First::Opened(upstream)) = first else { panic!("{word:?}: {first:?}") };
            assert_eq!((&heard[..], client.prefix(), upstream.prefix()), (word, &b""[..], &b"imok"[..]));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_turns_out_to_be_a_request_is_served_as_one_however_slowly_it_comes() {
    let hello = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    for (whole, http1) in [(&b"GET /admin HTTP/1.1\r\n"[..], true), (b"\r\n\r\nget / HTTP/1.0\n", true), (hello, false)]
    {
        for pause in [GRACE * 2, Duration::ZERO] {
            let Ends { mut client, mut says, mut upstream, mut server } = Ends::new();
            let open = async || Ok::<_, Infallible>(upstream.take().unwrap());
            let drip = async {
                for byte in whole {
                    says.write_all(&[*byte]).await.unwrap();
                    // A slow client is one whose bytes are read one by one: with the pause, after the grace.
                    if pause.is_zero() {
                        tokio::task::yield_now().await;
                    } else {
                        passes(pause).await;
                    }
                }
                passes(GRACE * 100).await;
            };
            let first = tokio::select! {
                first = protocol(&mut client, &SPOKEN, open) => first.unwrap(),
                () = drip => panic!("undecided at the end"),
            };
            assert!(matches!((&first, http1), (First::Http1, true) | (First::Http2, false)), "{first:?}");
            assert!(whole.starts_with(client.prefix()), "nothing of it is lost");
            drop(upstream);
            let mut seen = Vec::new();
            server.read_to_end(&mut seen).await.unwrap();
            assert!(seen.len() < client.prefix().len(), "the server never had all of it: {seen:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn who_may_not_send_bytes_has_nothing_opened_and_no_more_than_its_time() {
    for wait in [SPOKEN, SILENT].map(|wait| Wait { undecided: Undecided::Closed(GRACE * 5), ..wait }) {
        for word in WORDS {
            let Ends { mut client, mut says, .. } = Ends::new();
            says.write_all(word).await.unwrap();
            let never = async || -> Result<DuplexStream, Infallible> { panic!("opened") };
            let began = Instant::now();
            let first = protocol(&mut client, &wait, never).await.unwrap();
            assert!(matches!(first, First::Undecided) && began.elapsed() >= GRACE * 5, "{first:?}");
        }
    }
}

#[tokio::test]
async fn certain_bytes_beat_a_declared_http_and_nothing_is_opened_meanwhile() {
    const HELLO: &[u8] = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03";
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    for said in [Protocol::Http1, Protocol::Http2] {
        for (spoken, expected) in [
            (&b"GET / HTTP/1.1\r\n"[..], Decision::Http1),
            (b"POST / HTTP/1.1\r\n", Decision::Http1),
            (preface, Decision::Http2),
            (HELLO, Decision::Tls),
            // Not certain: the declaration holds.
            (b"ruok", Wait { said, ..SILENT }.declared().unwrap()),
            (b"\x00\x01\x02", Wait { said, ..SILENT }.declared().unwrap()),
            (b"PO", Wait { said, ..SILENT }.declared().unwrap()),
            (b"PRI * HTTP/2.0\r\n\r\nSM", Wait { said, ..SILENT }.declared().unwrap()),
        ] {
            for wait in [SPOKEN, SILENT].map(|wait| Wait { said, ..wait }) {
                let Ends { mut client, mut says, .. } = Ends::new();
                let never = async || -> Result<DuplexStream, Infallible> { panic!("opened") };
                let drip = async {
                    for byte in spoken {
                        says.write_all(&[*byte]).await.unwrap();
                        tokio::task::yield_now().await;
                    }
                };
                let (first, ()) = tokio::join!(protocol(&mut client, &wait, never), drip);
                let expected = expected.first::<DuplexStream>();
                let first = first.unwrap();
                assert_eq!(format!("{first:?}"), format!("{expected:?}"), "{said:?}: {spoken:?}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_never_speaks_where_http_is_declared_is_closed_in_time() {
    let Ends { mut client, says, .. } = Ends::new();
    let wait = Wait { said: Protocol::Http1, ..SILENT };
    let never = async || -> Result<DuplexStream, Infallible> { panic!("opened") };
    assert!(matches!(protocol(&mut client, &wait, never).await, Ok(First::Closed)));
    drop(says);
    assert!(matches!(protocol(&mut client, &wait, never).await, Ok(First::Closed)));
}

#[tokio::test]
async fn where_a_port_is_declared_opaque_detection_does_not_wait() {
    // Where mesh TLS is looked for, a TLS record has to be read on.
    for (word, mesh) in [(&b"ruok"[..], true), (b"GET /", true), (b"ruok", false), (b"\x16\x03", false)] {
        let wait = Wait { said: Protocol::Opaque, mesh, ..SPOKEN };
        let Ends { mut client, mut says, .. } = Ends::new();
        says.write_all(word).await.unwrap();
        let never = async || -> Result<DuplexStream, Infallible> { panic!("opened") };
        // The first read decides, and there is none after it that could.
        let first = protocol(&mut client, &wait, never).now_or_never();
        let first = first.expect("no wait").unwrap();
        assert!(matches!(first, First::Opaque), "{first:?}");
    }
}
