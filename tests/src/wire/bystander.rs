//! A client that does everything right while others do not, and notices if it is answered wrongly or not at all. How
//! much slower it is answered is for the benchmarks: a debug build on a busy machine cannot say.

use super::{
    Ending, Line,
    http1::{self, Read},
};
use anyhow::ensure;
use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

/// The target that bystanders ask for.
pub(super) const TARGET: &str = "/bystander";
/// A client that asks on one connection, again and again.
#[derive(Debug)]
pub struct Bystander {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<anyhow::Result<usize>>,
}

impl Bystander {
    /// Begins to ask `authority` through the listener at `to`.
    pub fn start(to: SocketAddr, authority: &str) -> anyhow::Result<Self> {
        let stop = Arc::<AtomicBool>::default();
        let (stopped, mut line) = (stop.clone(), Line::plain(to)?);
        let request = format!("GET {TARGET} HTTP/1.1\r\nhost: {authority}\r\n\r\n");
        let thread = thread::spawn(move || {
            let mut asked = 0;
            // At least once, however short the test.
            loop {
                line.send(request.as_bytes());
                let heard = line.hear(|bytes| !matches!(http1::response(bytes, "GET", false), Read::Part));
                ensure!(heard.ending == Ending::Open, "answer {asked}: {:?} {}", heard.ending, heard.text());
                ensure!(heard.bytes.starts_with(b"HTTP/1.1 200 "), "answer {asked}: {}", heard.text());
                asked += 1;
                if stopped.load(Ordering::Relaxed) {
                    return Ok(asked);
                }
                thread::park_timeout(Duration::from_millis(2));
            }
        });
        Ok(Self { stop, thread })
    }

    /// Ends, and says how many answers it got; none may have been wrong or late.
    pub fn end(self) -> anyhow::Result<usize> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow::anyhow!("the bystander panicked"))?
    }
}
