//! Clients with a stopwatch. In: an address. Out: one line per request that failed or was slow, or per HTTP/2 frame that
//! matters. Does not: judge.

use anyhow::{Context as _, bail, ensure};
use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    sync::mpsc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// Connections of [`load`].
const CONNECTIONS: usize = 8;
/// A request that takes longer is told: below what the proxy takes to find out that an endpoint is not there (1 s), above
/// what a busy machine does to the others.
const SLOW: Duration = Duration::from_millis(900);
/// A request that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(20);

/// Sends GET requests without a pause on eight connections. Says `under way` when each had an answer, and at the end
/// `slow BEGAN MS` or `failed BEGAN MS` for the notable ones (BEGAN in ms since 1970), then `requests COUNT`.
pub(super) fn load(address: &str, seconds: &str) -> anyhow::Result<()> {
    let address: SocketAddr = address.parse().with_context(|| format!("{address:?} is no address"))?;
    let until = Instant::now() + Duration::from_secs(seconds.parse()?);
    let (answered, first) = mpsc::channel();
    let client = move || {
        let answered = answered.clone();
        std::thread::spawn(move || requests(address, until, &answered))
    };
    let clients: Vec<_> = std::iter::repeat_with(client).take(CONNECTIONS).collect();
    for _ in 0..CONNECTIONS {
        first.recv_timeout(PATIENCE).context("a connection got no answer")?;
    }
    println!("under way");
    let mut total = 0;
    for client in clients {
        let Ok((count, notable)) = client.join() else { bail!("a client panicked") };
        total += count;
        notable.iter().for_each(|line| println!("{line}"));
    }
    println!("requests {total}");
    Ok(())
}

fn requests(address: SocketAddr, until: Instant, answered: &mpsc::Sender<()>) -> (u64, Vec<String>) {
    let (mut count, mut notable) = (0, Vec::new());
    let mut connection = None;
    while Instant::now() < until {
        let (start, began) = (Instant::now(), SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default());
        let outcome = request(&mut connection, address);
        count += 1;
        if count == 1 {
            let _ = answered.send(());
        }
        let (began, took) = (began.as_millis(), start.elapsed());
        if let Err(error) = outcome {
            eprintln!("{error:#}");
            connection = None;
            notable.push(format!("failed {began} {}", took.as_millis()));
        } else if took > SLOW {
            notable.push(format!("slow {began} {}", took.as_millis()));
        }
    }
    (count, notable)
}

/// One GET on the kept connection, or a new one.
fn request(kept: &mut Option<BufReader<TcpStream>>, address: SocketAddr) -> anyhow::Result<()> {
    let connection = match kept.take() {
        Some(connection) => connection,
        None => {
            let connection = TcpStream::connect_timeout(&address, PATIENCE)?;
            connection.set_read_timeout(Some(PATIENCE))?;
            connection.set_nodelay(true)?;
            BufReader::new(connection)
        }
    };
    let mut connection = connection;
    connection.get_mut().write_all(format!("GET /sink HTTP/1.1\r\nhost: {address}\r\n\r\n").as_bytes())?;
    let (mut line, mut length, mut close) = (String::new(), 0, false);
    ensure!(connection.read_line(&mut line)? > 0, "closed before an answer");
    let status = line.trim().to_owned();
    while line != "\r\n" {
        line.clear();
        ensure!(connection.read_line(&mut line)? > 0, "closed within a head");
        let lower = line.trim_end().to_ascii_lowercase();
        ensure!(!lower.starts_with("x-remora-error"), "{status}, {lower}");
        close |= lower == "connection: close";
        if let Some(value) = lower.strip_prefix("content-length: ") {
            length = value.parse()?;
        }
    }
    std::io::copy(&mut (&mut connection).take(length), &mut std::io::sink())?;
    ensure!(status.starts_with("HTTP/1.1 200 "), "{status}");
    *kept = (!close).then_some(connection);
    Ok(())
}

/// Frame types and flags of RFC 9113 §6.
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;

/// An HTTP/2 client that lets its windows run full, says `under way`, waits for GOAWAY, says its code, opens the windows,
/// and says how many bytes came in all.
pub(super) fn slow_http2(address: &str, path: &str) -> anyhow::Result<()> {
    const WINDOW: usize = 65_535;
    // :method GET and :scheme http from the static table; :path and :authority literal, with the table's names.
    let head = [&[0x82, 0x86, 0x04][..], &literal(path)?, &[0x01], &literal(address)?].concat();
    let mut stream = open_http2(address, &[frame(HEADERS, END_STREAM | END_HEADERS, 1, &head)])?;
    let (mut received, mut warned) = (0, false);
    loop {
        match answered(&mut stream)? {
            (DATA, flags, payload) => {
                let before = received;
                received += payload.len();
                if before < WINDOW && received >= WINDOW {
                    println!("under way");
                }
                if flags & END_STREAM != 0 {
                    println!("{received} bytes");
                    return Ok(());
                }
            }
            // A second one may follow, which names the last stream.
            (GOAWAY, _, payload) if !warned => {
                warned = true;
                ensure!(payload.get(4..8) == Some(&[0; 4]), "GOAWAY with an error: {payload:?}");
                println!("GOAWAY NO_ERROR");
                let increment = (1_u32 << 30).to_be_bytes();
                stream.write_all(&[frame(8, 0, 0, &increment), frame(8, 0, 1, &increment)].concat())?;
            }
            (RST_STREAM, _, payload) => bail!("the stream is reset: {payload:?}"),
            _ => {}
        }
    }
}

/// Opens a stream of grpc-go's interop server, is silent while a proxy would send six PINGs, and ends it. A server
/// of gRPC closes the connection of whoever pings it so often.
pub(super) fn silent_stream(address: &str) -> anyhow::Result<()> {
    const SILENCE: Duration = Duration::from_secs(13);
    // :method POST, :scheme http; content-type is entry 31 of the static table; `te` is not in it.
    let path = literal("/grpc.testing.TestService/FullDuplexCall")?;
    let head =
        [&[0x83, 0x86, 0x04][..], &path, &[0x01], &literal(address)?, &[0x0f, 0x10], &literal("application/grpc")?];
    let head = [&head.concat()[..], &[0x00], &literal("te")?, &literal("trailers")?].concat();
    let mut stream = open_http2(address, &[frame(HEADERS, END_HEADERS, 1, &head)])?;
    stream.set_read_timeout(Some(Duration::from_secs(1)))?;
    let end = Instant::now() + SILENCE;
    let mut ended = false;
    loop {
        if !ended && Instant::now() > end {
            stream.write_all(&frame(DATA, END_STREAM, 1, &[]))?;
            ended = true;
        }
        // Frames are small and whole on a local network: the time-out falls between them.
        match answered(&mut stream) {
            Ok((HEADERS, flags, _)) if flags & END_STREAM != 0 => {
                ensure!(ended, "the stream ended before the client did");
                println!("ended after its silence");
                return Ok(());
            }
            Ok((kind @ (RST_STREAM | GOAWAY), _, payload)) => bail!("frame type {kind}: {payload:?}"),
            Ok(_) => {}
            Err(error) if is_timeout(&error) && Instant::now() < end + PATIENCE => {}
            Err(error) => return Err(error),
        }
    }
}

fn is_timeout(error: &anyhow::Error) -> bool {
    use std::io::ErrorKind::{TimedOut, WouldBlock};
    error.downcast_ref::<std::io::Error>().is_some_and(|error| matches!(error.kind(), WouldBlock | TimedOut))
}

/// A string without Huffman coding, as HPACK wants it (RFC 7541 §5.2).
fn literal(text: &str) -> anyhow::Result<Vec<u8>> {
    ensure!(text.len() < 127, "too long for one byte of length: {text}");
    Ok([&[u8::try_from(text.len())?], text.as_bytes()].concat())
}

fn open_http2(address: &str, frames: &[Vec<u8>]) -> anyhow::Result<TcpStream> {
    let mut stream = TcpStream::connect(address).with_context(|| format!("connecting to {address}"))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")?;
    stream.write_all(&[frame(SETTINGS, 0, 0, &[]), frames.concat()].concat())?;
    Ok(stream)
}

/// The next frame, once what a connection must answer is answered.
fn answered(stream: &mut TcpStream) -> anyhow::Result<(u8, u8, Vec<u8>)> {
    loop {
        let (kind, flags, payload) = read_frame(stream)?;
        match kind {
            SETTINGS if flags & ACK == 0 => stream.write_all(&frame(SETTINGS, ACK, 0, &[]))?,
            PING if flags & ACK == 0 => stream.write_all(&frame(PING, ACK, 0, &payload))?,
            _ => return Ok((kind, flags, payload)),
        }
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or_default().to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend_from_slice(&stream.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

/// Type, flags and payload of the next frame.
fn read_frame(stream: &mut TcpStream) -> anyhow::Result<(u8, u8, Vec<u8>)> {
    let mut head = [0; 9];
    stream.read_exact(&mut head)?;
    let mut payload = vec![0; usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2])];
    stream.read_exact(&mut payload)?;
    Ok((head[3], head[4], payload))
}
