//! An HTTP/1.1 server and a client of event streams, for what no stock program does on command. In: an address. Out:
//! raw bytes, exactly those written here. Does not: parse more than its own tests send.

use anyhow::{Context as _, bail, ensure};
use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Condvar, Mutex, PoisonError},
};

/// Events of one stream.
pub const EVENTS: usize = 5;

/// How many events were asked for.
#[derive(Default)]
struct Asked(Mutex<usize>, Condvar);

/// Serves `/sink` (counts the body's bytes), `/hints` (103, then 200), `/events` (a stream that sends its next event
/// when somebody asks for `/next`).
pub(super) fn serve(listen: &str) -> anyhow::Result<()> {
    let listener = TcpListener::bind(listen).with_context(|| format!("listening on {listen}"))?;
    println!("ready");
    let asked = Arc::new(Asked::default());
    loop {
        let (connection, _) = listener.accept()?;
        let asked = asked.clone();
        std::thread::spawn(move || answer_all(connection, &asked));
    }
}

fn poisoned<T>(_: PoisonError<T>) -> anyhow::Error {
    anyhow::anyhow!("a thread panicked")
}

/// A request's target, the length of its body, and whether it awaits 100.
struct Head {
    path: String,
    length: u64,
    expects: bool,
}

fn head(reader: &mut impl std::io::BufRead) -> anyhow::Result<Option<Head>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let path = line.split(' ').nth(1).context("no target")?.to_owned();
    let mut head = Head { path, length: 0, expects: false };
    loop {
        line.clear();
        ensure!(reader.read_line(&mut line)? > 0, "the head is cut");
        let lower = line.trim_end().to_ascii_lowercase();
        if lower.is_empty() {
            return Ok(Some(head));
        }
        if let Some(value) = lower.strip_prefix("content-length:") {
            head.length = value.trim().parse()?;
        }
        head.expects |= lower == "expect: 100-continue";
    }
}

fn answer_all(connection: TcpStream, asked: &Asked) -> anyhow::Result<()> {
    let mut reader = BufReader::with_capacity(1 << 16, connection.try_clone()?);
    let mut writer = connection;
    while let Some(head) = head(&mut reader)? {
        match head.path.as_str() {
            "/sink" | "/" => {
                if head.expects {
                    writer.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
                }
                let count = std::io::copy(&mut (&mut reader).take(head.length), &mut std::io::sink())?;
                ok(&mut writer, &count.to_string())?;
            }
            "/hints" => {
                writer.write_all(b"HTTP/1.1 103 Early Hints\r\nlink: </style.css>; rel=preload\r\n\r\n")?;
                ok(&mut writer, "the final answer\n")?;
            }
            "/next" => {
                *asked.0.lock().map_err(poisoned)? += 1;
                asked.1.notify_all();
                ok(&mut writer, "asked\n")?;
            }
            "/events" => stream(&mut writer, asked)?,
            other => bail!("nothing at {other}"),
        }
    }
    Ok(())
}

fn ok(writer: &mut TcpStream, body: &str) -> anyhow::Result<()> {
    // In one piece: several would wait for one another's acknowledgements.
    let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    writer.write_all(answer.as_bytes()).context("answering")
}

fn stream(writer: &mut TcpStream, asked: &Asked) -> anyhow::Result<()> {
    *asked.0.lock().map_err(poisoned)? = 0;
    write!(writer, "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")?;
    for number in 0..EVENTS {
        let count = asked.0.lock().map_err(poisoned)?;
        drop(asked.1.wait_while(count, |count| *count < number).map_err(poisoned)?);
        let event = format!("data: {number}\n\n");
        write!(writer, "{:x}\r\n{event}\r\n", event.len())?;
    }
    writer.write_all(b"0\r\n\r\n").context("ending the stream")
}

/// Reads the stream of [`serve`], asking for each event when it has the one before; prints what came.
pub(super) fn events(address: &str) -> anyhow::Result<()> {
    let address: SocketAddr = address.parse().with_context(|| format!("{address:?} is no address"))?;
    let dial = |path| -> anyhow::Result<BufReader<TcpStream>> {
        let mut connection = TcpStream::connect(address)?;
        write!(connection, "GET {path} HTTP/1.1\r\nhost: {address}\r\n\r\n")?;
        Ok(BufReader::new(connection))
    };
    let mut stream = dial("/events")?;
    let mut line = String::new();
    for number in 0..EVENTS {
        let wanted = format!("data: {number}\n");
        while line != wanted {
            line.clear();
            ensure!(stream.read_line(&mut line)? > 0, "the stream ends before event {number}");
        }
        print!("{line}");
        dial("/next")?.read_line(&mut line)?;
        ensure!(line.ends_with("200 OK\r\n"), "/next is answered {line:?}");
    }
    Ok(())
}
