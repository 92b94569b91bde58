//! Byte connections held for as long as the mesh lets them live (CONNECT), with a ping now and then.

use crate::load::{Tally, head};
use anyhow::{Context as _, ensure};
use std::{
    io::{BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// Between two pings.
const EVERY: Duration = Duration::from_millis(100);
/// Longer than any answer takes.
const TIMEOUT: Duration = Duration::from_secs(15);

/// Tunnels held until dropped; one that the mesh ends is made anew.
#[derive(Debug)]
pub(crate) struct Tunnels {
    /// Pings, and tunnels that could not be made or corrupted a byte.
    pub(crate) tally: Arc<Tally>,
    /// How old tunnels were when the mesh ended them.
    ages: Arc<Mutex<Vec<Duration>>>,
    stop: Arc<AtomicBool>,
    holders: Vec<JoinHandle<()>>,
}

impl Tunnels {
    /// `count` tunnels through the proxy at `to`.
    pub(crate) fn hold(to: SocketAddr, authority: &'static str, count: u32) -> Self {
        let (tally, stop) = (Arc::new(Tally::default()), Arc::new(AtomicBool::new(false)));
        let ages = Arc::<Mutex<Vec<Duration>>>::default();
        let holders = (0..count).map(|_| {
            let (tally, stop, ages) = (Arc::clone(&tally), Arc::clone(&stop), Arc::clone(&ages));
            thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    match hold(to, authority, &tally, &stop) {
                        Ok(Some(age)) => ages.lock().unwrap_or_else(PoisonError::into_inner).push(age),
                        Ok(None) => {}
                        Err(error) => tally.fail(format!("tunnel: {error:#}")),
                    }
                }
            })
        });
        let holders = holders.collect();
        Self { tally, ages, stop, holders }
    }

    /// Ends them: how old those were that the mesh ended.
    pub(crate) fn finish(mut self) -> (Arc<Tally>, Vec<Duration>) {
        self.end();
        let ages = self.ages.lock().unwrap_or_else(PoisonError::into_inner).clone();
        (Arc::clone(&self.tally), ages)
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for holder in self.holders.drain(..) {
            holder.thread().unpark();
            if holder.join().is_err() {
                self.tally.fail("a holder of a tunnel panicked".into());
            }
        }
    }
}

impl Drop for Tunnels {
    fn drop(&mut self) {
        self.end();
    }
}

/// Makes a tunnel.
pub(crate) fn open(to: SocketAddr, authority: &str) -> anyhow::Result<BufReader<TcpStream>> {
    let stream = TcpStream::connect_timeout(&to, TIMEOUT).context("connecting to the proxy")?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    let mut stream = BufReader::new(stream);
    write!(stream.get_mut(), "CONNECT {authority} HTTP/1.1\r\nhost: {authority}\r\n\r\n")?;
    let head = head(&mut stream)?;
    ensure!(head.starts_with("HTTP/1.1 200"), "{}", head.replace("\r\n", " | "));
    Ok(stream)
}

/// Holds one tunnel: its age if the mesh ended it, nothing if we did.
fn hold(to: SocketAddr, authority: &str, tally: &Tally, stop: &AtomicBool) -> anyhow::Result<Option<Duration>> {
    let mut stream = open(to, authority)?;
    let (made, mut number) = (Instant::now(), 0_u64);
    while !stop.load(Ordering::Relaxed) {
        number += 1;
        tally.requests.fetch_add(1, Ordering::Relaxed);
        let ping = number.to_be_bytes();
        let mut pong = [0; 8];
        if stream.get_mut().write_all(&ping).is_err() || stream.read_exact(&mut pong).is_err() {
            return Ok(Some(made.elapsed()));
        }
        ensure!(ping == pong, "sent {ping:?}, got {pong:?}");
        thread::park_timeout(EVERY);
    }
    Ok(None)
}
