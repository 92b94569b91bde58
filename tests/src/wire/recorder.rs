//! An application that keeps every byte it gets, and answers with the bytes that a test gave it.

use super::http1::{self, Message, Read};
use anyhow::Context as _;
use std::{
    collections::HashMap,
    io::{Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

/// What the application answers.
#[derive(Debug, Clone)]
pub enum Reply {
    /// These bytes; the connection stays open.
    Bytes(Vec<u8>),
    /// These bytes, then the end of the connection.
    Close(Vec<u8>),
    /// These bytes, then a reset.
    Reset(Vec<u8>),
    /// These bytes again and again, until nobody takes them.
    Flood(Vec<u8>, Vec<u8>),
    /// Nothing, ever.
    Hold,
}

/// Everything that was seen.
#[derive(Debug, Default)]
struct Seen {
    /// Whole requests.
    requests: Vec<Message>,
    /// Bytes that nobody can read, with the reason.
    malformed: Vec<String>,
    /// Requests that began and never became whole: what there was of them.
    cut: Vec<Vec<u8>>,
    replies: HashMap<String, Reply>,
}

/// A recording application.
#[derive(Debug)]
pub struct Recorder {
    /// Where it listens.
    pub address: SocketAddr,
    seen: Arc<Mutex<Seen>>,
}

impl Recorder {
    /// Listens on a port of `ip`.
    pub fn start(ip: IpAddr) -> anyhow::Result<Self> {
        let listener = TcpListener::bind((ip, 0)).context("listening as an application")?;
        let (address, seen) = (listener.local_addr()?, Arc::<Mutex<Seen>>::default());
        let shared = seen.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let seen = shared.clone();
                thread::spawn(move || serve(stream, &seen));
            }
        });
        Ok(Self { address, seen })
    }

    /// One whose requests somebody else hears.
    pub(super) fn silent(address: SocketAddr) -> Self {
        Self { address, seen: Arc::default() }
    }

    /// Keeps a request that somebody else heard.
    pub(super) fn keeper(&self) -> impl Fn(Message) + Clone + Send + use<> {
        let seen = self.seen.clone();
        move |request| lock(&seen).requests.push(request)
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        lock(&self.seen)
    }

    /// What requests for `target` will be answered with; others get a small 200.
    pub fn reply(&self, target: &str, reply: Reply) {
        self.seen().replies.insert(target.to_owned(), reply);
    }

    /// The whole requests for `target`, in origin form or as the path of one in absolute form.
    pub fn requests(&self, target: &str) -> Vec<Message> {
        self.seen().requests.iter().filter(|request| path(request.target()) == target).cloned().collect()
    }

    /// What came of requests that never became whole, or after one that is not answered.
    pub fn cut(&self) -> Vec<u8> {
        self.seen().cut.concat()
    }

    /// Targets of whole requests that `expected` does not know, and whatever was malformed.
    pub fn surprises(&self, expected: impl Fn(&str) -> bool) -> Vec<String> {
        let seen = self.seen();
        let targets = seen
            .requests
            .iter()
            .map(|request| path(request.target()))
            .filter(|target| !expected(target))
            .map(str::to_owned);
        targets.chain(seen.malformed.iter().cloned()).collect()
    }
}

fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

fn serve(mut stream: TcpStream, seen: &Mutex<Seen>) {
    let mut bytes = Vec::new();
    let mut buffer = [0; 16 * 1024];
    loop {
        match http1::request(&bytes) {
            Read::Whole(request) => {
                bytes.drain(..request.length);
                let reply = {
                    let mut seen = lock(seen);
                    let reply = seen.replies.get(request.target()).cloned();
                    seen.requests.push(request);
                    reply
                };
                if matches!(reply, Some(Reply::Hold)) {
                    hold(stream, bytes, seen);
                    return;
                }
                if !answer(&mut stream, reply) {
                    return;
                }
            }
            Read::Malformed(why) => {
                lock(seen).malformed.push(why);
                return;
            }
            Read::Part => match stream.read(&mut buffer) {
                Ok(count) if count > 0 => bytes.extend_from_slice(&buffer[..count]),
                _ => {
                    if !bytes.is_empty() {
                        lock(seen).cut.push(bytes);
                    }
                    return;
                }
            },
        }
    }
}

/// Answers: whether the connection goes on.
fn answer(stream: &mut TcpStream, reply: Option<Reply>) -> bool {
    match reply {
        None => stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").is_ok(),
        Some(Reply::Bytes(bytes)) => stream.write_all(&bytes).is_ok(),
        Some(Reply::Close(bytes)) => {
            let _ = stream.write_all(&bytes);
            false
        }
        Some(Reply::Reset(bytes)) => {
            let _ = stream.write_all(&bytes);
            let _ = socket2::SockRef::from(&*stream).set_linger(Some(Duration::ZERO));
            false
        }
        Some(Reply::Flood(first, again)) => {
            let mut sent = stream.write_all(&first);
            while sent.is_ok() {
                sent = stream.write_all(&again);
            }
            false
        }
        Some(Reply::Hold) => true,
    }
}

/// Keeps what else comes on a connection that is not answered.
fn hold(mut stream: TcpStream, mut bytes: Vec<u8>, seen: &Mutex<Seen>) {
    let mut buffer = [0; 1024];
    loop {
        if !bytes.is_empty() {
            lock(seen).cut.push(std::mem::take(&mut bytes));
        }
        match stream.read(&mut buffer) {
            Ok(count) if count > 0 => bytes.extend_from_slice(&buffer[..count]),
            _ => return,
        }
    }
}

/// The path and query of a target in any form.
fn path(target: &str) -> &str {
    let rest = target.strip_prefix("http://");
    rest.and_then(|rest| rest.find('/').and_then(|at| rest.get(at..))).unwrap_or(target)
}
