//! Stage 3 of 8: the wait for the first bytes. In: a connection, and how to open the one upstream. Out: the protocol,
//! or the upstream connection that was opened meanwhile. Never stalls a connection whose server speaks first.

use crate::{
    detect::{
        self, Detection,
        client_hello::{Peek, peek},
    },
    io::Prefixed,
    limits,
    tls::Alpn,
};
use futures_util::FutureExt;
use remora_model::Protocol;
use std::{cell::Cell, io, pin::pin, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    time::{Instant, timeout, timeout_at},
};

/// What the wait found out.
#[derive(Debug)]
pub(crate) enum First<U> {
    Http1,
    Http2,
    /// The whole ClientHello of another proxy; only where [`Wait::mesh`] asks for it.
    Mesh,
    /// A ClientHello of the application's own.
    Tls,
    /// The client spoke, and it is none of these.
    Opaque,
    /// The upstream was opened because the client was silent or undecided, and either the server spoke or the client turned
    /// out to be opaque. What the upstream has already is no longer in the client's prefix.
    Opened(Prefixed<U>),
    /// The client closed without a word.
    Closed,
    /// The client's words fit a protocol still and may not pass as bytes, and no more came.
    Undecided,
}

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum FirstError<E> {
    Client(io::Error),
    Upstream(E),
}

/// What other proxies offer in their ClientHello.
const MESH: [Alpn; 2] = [Alpn::MeshHttp, Alpn::MeshTcp];

/// How to wait.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wait {
    /// How long the client may be silent before the upstream is opened beside the wait.
    pub grace: Duration,
    /// Whether another proxy may begin mesh TLS here, which must be distinguished from the application's own TLS.
    pub mesh: bool,
    /// What is spoken here, where somebody said so. Opaque: nothing but mesh TLS is looked for. HTTP: its clients speak first, and
    /// what is said is true of all that the bytes leave open; they may be certain of another HTTP, or of TLS.
    pub said: Protocol,
    pub undecided: Undecided,
    /// How long a client may be silent where HTTP was said.
    pub idle: Duration,
}

impl Wait {
    /// For a client of this pod: what comes of its bytes is judged where they arrive.
    pub(crate) fn outbound(idle: Duration) -> Self {
        let undecided = Undecided::Bytes(limits::UNDECIDED_GRACE);
        Self { grace: limits::DETECT_GRACE, mesh: false, said: Protocol::Detect, undecided, idle }
    }

    /// What it is if nothing more is known.
    fn declared(&self) -> Option<Decision> {
        match self.said {
            Protocol::Detect => None,
            Protocol::Http1 => Some(Decision::Http1),
            Protocol::Http2 => Some(Decision::Http2),
            Protocol::Opaque => Some(Decision::Opaque),
        }
    }

    fn is_http_declared(&self) -> bool {
        matches!(self.said, Protocol::Http1 | Protocol::Http2)
    }
}

/// What becomes of a client whose words are no protocol yet and which waits for an answer: `ruok`, `JDWP-Handshake`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Undecided {
    /// After this long the upstream gets what there is. If it turns out to begin a request after all, before the server has
    /// said a word, that connection is dropped and the client is served as what it is.
    Bytes(Duration),
    /// As bytes it would not be let in, as a request it may be: it has this long.
    Closed(Duration),
}

/// What the bytes so far are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Decision {
    Http1,
    Http2,
    Mesh,
    Tls,
    Opaque,
}

impl Decision {
    /// `None`: more bytes decide.
    fn of(bytes: &[u8], wait: &Wait) -> Option<Self> {
        let said = wait.declared();
        let detection = detect::detect(bytes);
        match detection {
            Detection::Tls if wait.mesh => match peek(bytes) {
                Peek::Hello(hello) if MESH.iter().any(|alpn| hello.offers(alpn.as_bytes())) => return Some(Self::Mesh),
                Peek::Hello(_) | Peek::NotTls => {}
                Peek::Incomplete => return None,
            },
            Detection::Undecided if wait.mesh && bytes.first() == Some(&detect::TLS_HANDSHAKE) => return None,
            _ => {}
        }
        match detection {
            _ if wait.said == Protocol::Opaque => said,
            Detection::Tls => Some(Self::Tls),
            Detection::Http1 => Some(Self::Http1),
            Detection::Http2 => Some(Self::Http2),
            Detection::Undecided => None,
            Detection::Opaque => said.or(Some(Self::Opaque)),
        }
    }

    /// Whether the application's connection has use for what was decided.
    fn is_bytes(self) -> bool {
        matches!(self, Self::Opaque | Self::Tls)
    }

    fn first<U>(self) -> First<U> {
        match self {
            Self::Http1 => First::Http1,
            Self::Http2 => First::Http2,
            Self::Mesh => First::Mesh,
            Self::Tls => First::Tls,
            Self::Opaque => First::Opaque,
        }
    }
}

/// What the last connection to a destination taught. Where the client spoke first, one that is slow to begin (its host
/// is busy, it keeps connections in reserve) is waited for much longer before the upstream is opened for nothing; where
/// the server did, the upstream is opened at once. A wrong guess costs one connection, and is corrected by it.
#[derive(Debug, Default)]
pub(crate) struct Habit {
    client_first: Cell<Option<bool>>,
}

impl Habit {
    /// The silence to allow.
    pub(crate) fn grace(&self) -> Duration {
        match self.client_first.get() {
            None => limits::DETECT_GRACE,
            Some(true) => limits::DETECT_GRACE_CLIENT_FIRST,
            Some(false) => Duration::ZERO,
        }
    }

    /// Learns from what a wait found out.
    pub(crate) fn learn<U>(&self, first: &First<U>) {
        match first {
            First::Http1 | First::Http2 | First::Mesh | First::Tls | First::Opaque => self.client_first.set(Some(true)),
            First::Opened(_) => self.client_first.set(Some(false)),
            First::Closed | First::Undecided => {}
        }
    }
}

/// Reads until the protocol is certain. A client that is silent for the grace has its upstream opened beside the wait, and
/// so has one whose first words leave it open what they are, if they may pass as bytes.
/// Not cancel safe: what `open` made is lost.
pub(crate) async fn protocol<S, U, E>(
    client: &mut Prefixed<S>,
    wait: &Wait,
    open: impl AsyncFnOnce() -> Result<U, E>,
) -> Result<First<U>, FirstError<E>>
where
    S: AsyncRead + Unpin,
    U: AsyncRead + AsyncWrite + Unpin,
{
    if client.prefix().is_empty() && wait.is_http_declared() {
        let read = timeout(wait.idle, client.read_ahead(limits::DETECT_BYTES_MAX)).await;
        if !matches!(read, Ok(Ok(1..))) {
            return read.map_or(Ok(First::Closed), |read| read.map(|_| First::Closed).map_err(FirstError::Client));
        }
    } else if client.prefix().is_empty() {
        if wait.grace.is_zero() {
            // A timer of nothing still waits for the runtime's next millisecond.
            return Box::pin(race(client, wait, open)).await;
        }
        match timeout(wait.grace, client.read_ahead(limits::DETECT_BYTES_MAX)).await {
            Ok(read) => {
                if read.map_err(FirstError::Client)? == 0 {
                    return Ok(First::Closed);
                }
            }
            // Boxed: few clients are silent, and the others need not carry the room for it.
            Err(_) => return Box::pin(race(client, wait, open)).await,
        }
    }
    spoken(client, wait, open).await
}

/// For a client that has spoken, and whose upstream is not open.
async fn spoken<S, U, E>(
    client: &mut Prefixed<S>,
    wait: &Wait,
    open: impl AsyncFnOnce() -> Result<U, E>,
) -> Result<First<U>, FirstError<E>>
where
    S: AsyncRead + Unpin,
    U: AsyncRead + AsyncWrite + Unpin,
{
    match decide(client, wait).await.map_err(FirstError::Client)? {
        Some(decision) => Ok(decision.first()),
        None if matches!(wait.undecided, Undecided::Closed(_)) => Ok(First::Undecided),
        None => {
            Box::pin(async {
                let upstream = Prefixed::new(open().await.map_err(FirstError::Upstream)?);
                early(client, wait, upstream).await
            })
            .await
        }
    }
}

/// Goes on reading while a prefix is undecided. At the client's end or the bound it is opaque, since no request can come
/// of it any more. `None`: it is undecided still, and has had its time.
///
/// # Errors
/// The connection's; and `TimedOut` for what began as a ClientHello and is none in the time of a handshake. A peer's may come
/// in two packets, of which the second was lost: none of it is for the application, however long that takes.
async fn decide<S: AsyncRead + Unpin>(client: &mut Prefixed<S>, wait: &Wait) -> io::Result<Option<Decision>> {
    let (Undecided::Bytes(within) | Undecided::Closed(within)) = wait.undecided;
    let began = Instant::now();
    loop {
        if let Some(decision) = Decision::of(client.prefix(), wait) {
            return Ok(Some(decision));
        }
        let hello = wait.mesh && client.prefix().starts_with(&detect::TLS_RECORD);
        let within = if hello { limits::HANDSHAKE_TIMEOUT } else { within };
        match timeout_at(began + within, client.read_ahead(limits::DETECT_BYTES_MAX)).await {
            Err(_) if hello => return Err(io::Error::new(io::ErrorKind::TimedOut, "a ClientHello without its end")),
            Err(_) => return Ok(wait.declared()),
            Ok(Ok(0)) => return Ok(wait.declared().or(Some(Decision::Opaque))),
            Ok(read) => drop(read?),
        }
    }
}

/// Gives the server what the client has said so far, while it stays open what that is: until the server answers, or the
/// client goes on. No bound in time: it is a connection of bytes that both ends leave open.
async fn early<S, U, E>(
    client: &mut Prefixed<S>,
    wait: &Wait,
    mut upstream: Prefixed<U>,
) -> Result<First<U>, FirstError<E>>
where
    S: AsyncRead + Unpin,
    U: AsyncRead + AsyncWrite + Unpin,
{
    let mut sent = 0;
    loop {
        let more = client.prefix().get(sent..).unwrap_or_default();
        let written = async {
            upstream.write_all(more).await?;
            upstream.flush().await
        };
        // If the server has closed already, the relay notices.
        let gone = written.await.is_err();
        sent = client.prefix().len();
        if !gone {
            tokio::select! {
                biased;
                read = client.read_ahead(limits::DETECT_BYTES_MAX) => {
                    let ended = read.map_err(FirstError::Client)? == 0;
                    match Decision::of(client.prefix(), wait) {
                        Some(decision) if !decision.is_bytes() => return Ok(decision.first()),
                        None if !ended => continue,
                        _ => {}
                    }
                }
                _ = upstream.read_ahead(limits::DETECT_BYTES_MAX) => {}
            }
        }
        client.consume(sent);
        return Ok(First::Opened(upstream));
    }
}

/// For a client that has said nothing yet and whose upstream cannot be had. It may be slow to begin a request, which is
/// answered with the reason; not so where the server is known to speak first.
async fn unopened<S, U, E>(client: &mut Prefixed<S>, wait: &Wait, error: E) -> Result<First<U>, FirstError<E>>
where
    S: AsyncRead + Unpin,
{
    if !wait.grace.is_zero()
        && let Ok(read) = timeout(limits::UNOPENED_GRACE, client.read_ahead(limits::DETECT_BYTES_MAX)).await
    {
        if read.map_err(FirstError::Client)? == 0 {
            return Ok(First::Closed);
        }
        if let Some(decision) = decide(client, wait).await.map_err(FirstError::Client)?
            && !decision.is_bytes()
        {
            return Ok(decision.first());
        }
    }
    Err(FirstError::Upstream(error))
}

async fn race<S, U, E>(
    client: &mut Prefixed<S>,
    wait: &Wait,
    open: impl AsyncFnOnce() -> Result<U, E>,
) -> Result<First<U>, FirstError<E>>
where
    S: AsyncRead + Unpin,
    U: AsyncRead + AsyncWrite + Unpin,
{
    // Nothing is opened for a client that has spoken already.
    if let Some(read) = client.read_ahead(limits::DETECT_BYTES_MAX).now_or_never() {
        return match read.map_err(FirstError::Client)? {
            0 => Ok(First::Closed),
            _ => spoken(client, wait, open).await,
        };
    }
    let mut open = pin!(open());
    let mut upstream = tokio::select! {
        biased;
        read = client.read_ahead(limits::DETECT_BYTES_MAX) => {
            if read.map_err(FirstError::Client)? == 0 {
                return Ok(First::Closed);
            }
            let decision = decide(client, wait).await.map_err(FirstError::Client)?;
            return match decision {
                Some(decision) if !decision.is_bytes() => Ok(decision.first()),
                None if matches!(wait.undecided, Undecided::Closed(_)) => Ok(First::Undecided),
                // The server may have seen this connection already: if a second one replaced it, the first would look
                // abandoned, which servers count, and some serve one client at a time.
                _ => {
                    let upstream = Prefixed::new(open.await.map_err(FirstError::Upstream)?);
                    if decision.is_some() { Ok(First::Opened(upstream)) } else { early(client, wait, upstream).await }
                }
            };
        }
        opened = open.as_mut() => match opened {
            Ok(upstream) => Prefixed::new(upstream),
            Err(error) => return unopened(client, wait, error).await,
        },
    };
    tokio::select! {
        // The server spoke (or closed): no client protocol that we know waits for that.
        _ = upstream.read_ahead(limits::DETECT_BYTES_MAX) => Ok(First::Opened(upstream)),
        read = client.read_ahead(limits::DETECT_BYTES_MAX) => {
            if read.map_err(FirstError::Client)? == 0 {
                return Ok(First::Opened(upstream)); // half-closed: the server may still speak
            }
            match decide(client, wait).await.map_err(FirstError::Client)? {
                Some(decision) if !decision.is_bytes() => Ok(decision.first()),
                Some(_) => Ok(First::Opened(upstream)),
                None if matches!(wait.undecided, Undecided::Closed(_)) => Ok(First::Undecided),
                None => early(client, wait, upstream).await,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;
    use tokio::io::{AsyncReadExt, DuplexStream, duplex};

    const GRACE: Duration = Duration::from_millis(2);
    const SILENT: Wait = Wait {
        grace: Duration::ZERO,
        mesh: false,
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
            tokio::time::sleep(after).await;
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

    #[tokio::test]
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

    #[tokio::test]
    async fn what_turns_out_to_be_a_request_is_served_as_one_however_slowly_it_comes() {
        let hello = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
        for (whole, http1) in
            [(&b"GET /admin HTTP/1.1\r\n"[..], true), (b"\r\n\r\nget / HTTP/1.0\n", true), (hello, false)]
        {
            for pause in [GRACE * 2, Duration::ZERO] {
                let Ends { mut client, mut says, mut upstream, mut server } = Ends::new();
                let open = async || Ok::<_, Infallible>(upstream.take().unwrap());
                let drip = async {
                    for byte in whole {
                        says.write_all(&[*byte]).await.unwrap();
                        // A slow client is one whose bytes are read one by one: with the pause, after the grace.
                        tokio::time::sleep(pause).await;
                    }
                };
                let first = tokio::select! {
                    first = protocol(&mut client, &SPOKEN, open) => first.unwrap(),
                    () = drip => panic!("undecided at the end"),
                };
                assert!(matches!((&first, http1), (First::Http1, true) | (First::Http2, false)), "{first:?}");
                assert!(whole.starts_with(client.prefix()), "nothing of it is lost");
                let mut seen = Vec::new();
                server.read_to_end(&mut seen).await.unwrap();
                assert!(seen.len() < client.prefix().len(), "the server never had all of it: {seen:?}");
            }
        }
    }

    #[tokio::test]
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
    async fn certain_bytes_beat_what_somebody_said_of_http_and_nothing_is_opened_meanwhile() {
        const HELLO: &[u8] = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03";
        let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
        for said in [Protocol::Http1, Protocol::Http2] {
            for (spoken, expected) in [
                (&b"GET / HTTP/1.1\r\n"[..], Decision::Http1),
                (b"POST / HTTP/1.1\r\n", Decision::Http1),
                (preface, Decision::Http2),
                (HELLO, Decision::Tls),
                // Not certain: what was said holds.
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
    async fn a_client_that_never_speaks_where_http_was_said_is_left_in_time() {
        let Ends { mut client, says, .. } = Ends::new();
        let wait = Wait { said: Protocol::Http1, ..SILENT };
        let never = async || -> Result<DuplexStream, Infallible> { panic!("opened") };
        assert!(matches!(protocol(&mut client, &wait, never).await, Ok(First::Closed)));
        drop(says);
        assert!(matches!(protocol(&mut client, &wait, never).await, Ok(First::Closed)));
    }

    #[tokio::test]
    async fn where_a_port_is_said_to_be_opaque_nothing_is_waited_for() {
        for word in [&b"ruok"[..], b"GET /", b"\x16\x03"] {
            let wait = Wait { said: Protocol::Opaque, ..SPOKEN };
            let Ends { mut client, mut says, .. } = Ends::new();
            says.write_all(word).await.unwrap();
            let never = async || -> Result<DuplexStream, Infallible> { panic!("opened") };
            // The first read decides, and there is none after it that could.
            let first = protocol(&mut client, &wait, never).now_or_never();
            let first = first.expect("no wait").unwrap();
            assert!(matches!(first, First::Opaque), "{first:?}");
        }
    }
}
