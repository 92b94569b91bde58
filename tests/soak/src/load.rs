//! Steady HTTP requests over kept connections, and what became of them.

use anyhow::{Context as _, ensure};
use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// How many failures are told in words.
const TOLD_MAX: usize = 8;
/// Longer than any answer takes.
const TIMEOUT: Duration = Duration::from_secs(15);

/// What is asked, by how many clients, how often.
#[derive(Debug, Clone)]
pub(crate) struct Spec {
    /// The proxy's outbound listener.
    pub(crate) to: SocketAddr,
    /// The Service.
    pub(crate) authority: &'static str,
    pub(crate) path: &'static str,
    pub(crate) clients: u32,
    /// Of each client; a request that takes longer delays the next.
    pub(crate) every: Duration,
}

/// What came of it.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) requests: AtomicU64,
    pub(crate) failed: AtomicU64,
    slowest_us: AtomicU64,
    told: Mutex<Vec<String>>,
}

impl Tally {
    pub(crate) fn slowest(&self) -> Duration {
        Duration::from_micros(self.slowest_us.load(Ordering::Relaxed))
    }

    /// The first failures.
    pub(crate) fn told(&self) -> Vec<String> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn fail(&self, why: String) {
        self.failed.fetch_add(1, Ordering::Relaxed);
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.len() < TOLD_MAX {
            told.push(why);
        }
    }
}

/// Clients at work until dropped.
#[derive(Debug)]
pub(crate) struct Load {
    pub(crate) tally: Arc<Tally>,
    started: Instant,
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<()>>,
}

impl Load {
    pub(crate) fn start(spec: &Spec) -> Self {
        let (tally, stop, started) = (Arc::new(Tally::default()), Arc::new(AtomicBool::new(false)), Instant::now());
        let clients = (0..spec.clients).map(|number| {
            let (spec, tally, stop) = (spec.clone(), Arc::clone(&tally), Arc::clone(&stop));
            // Spread over the interval.
            let first = started + spec.every * number / spec.clients;
            thread::spawn(move || client(&spec, first, started, &tally, &stop))
        });
        let clients = clients.collect();
        Self { tally, started, stop, clients }
    }

    /// Ends the clients and waits for their last answers.
    pub(crate) fn finish(mut self) -> (Arc<Tally>, Duration) {
        self.end();
        (Arc::clone(&self.tally), self.started.elapsed())
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for client in self.clients.drain(..) {
            client.thread().unpark();
            if client.join().is_err() {
                self.tally.fail("a client panicked".into());
            }
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.end();
    }
}

fn client(spec: &Spec, first: Instant, started: Instant, tally: &Tally, stop: &AtomicBool) {
    let (mut next, mut connection) = (first, None);
    while !stop.load(Ordering::Relaxed) {
        let wait = next.saturating_duration_since(Instant::now());
        if !wait.is_zero() {
            thread::park_timeout(wait);
            continue;
        }
        next += spec.every;
        let asked = Instant::now();
        let answered = ask(&mut connection, spec);
        tally.requests.fetch_add(1, Ordering::Relaxed);
        tally.slowest_us.fetch_max(u64::try_from(asked.elapsed().as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
        if let Err(error) = answered {
            connection = None;
            tally.fail(format!("after {:.1} s: {}: {error:#}", started.elapsed().as_secs_f64(), spec.path));
        }
        next = next.max(Instant::now());
    }
}

fn ask(connection: &mut Option<BufReader<TcpStream>>, spec: &Spec) -> anyhow::Result<()> {
    let stream = match connection {
        Some(stream) => stream,
        None => {
            let stream = TcpStream::connect_timeout(&spec.to, TIMEOUT).context("connecting to the proxy")?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(TIMEOUT))?;
            connection.insert(BufReader::new(stream))
        }
    };
    write!(stream.get_mut(), "GET {} HTTP/1.1\r\nhost: {}\r\n\r\n", spec.path, spec.authority)?;
    let head = head(stream)?;
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<u64>().ok())?
    });
    let mut body = String::new();
    stream.take(length.context("the answer has no length")?).read_to_string(&mut body)?;
    ensure!(head.starts_with("HTTP/1.1 200 "), "{} {body}", head.replace("\r\n", " | "));
    Ok(())
}

/// Reads to the end of a head.
pub(crate) fn head(stream: &mut BufReader<TcpStream>) -> anyhow::Result<String> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        ensure!(stream.read_line(&mut head)? > 0, "the connection ended in a head: {head:?}");
    }
    Ok(head)
}
