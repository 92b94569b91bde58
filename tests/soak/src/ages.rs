//! How old connections get, as the kernel sees them: nobody's word is taken for it.

use std::{
    collections::HashMap,
    fs,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// Between two looks; ages are known to twice this.
pub(crate) const GLANCE: Duration = Duration::from_millis(250);
/// `TCP_ESTABLISHED` in `/proc/net/tcp`.
const ESTABLISHED: &str = "01";

/// What was seen of the connections to some ports.
#[derive(Debug, Default, Clone)]
pub(crate) struct Seen {
    pub(crate) connections: u64,
    pub(crate) oldest: Duration,
}

/// Watches until dropped.
#[derive(Debug)]
pub(crate) struct Watch {
    seen: Arc<Mutex<Seen>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// Watches the connections to these ports on IPv4.
    pub(crate) fn start(ports: Vec<u16>) -> Self {
        let (seen, stop) = (Arc::<Mutex<Seen>>::default(), Arc::new(AtomicBool::new(false)));
        let (tell, asked) = (Arc::clone(&seen), Arc::clone(&stop));
        let thread = thread::spawn(move || {
            let mut open = HashMap::new();
            while !asked.load(Ordering::Relaxed) {
                let table = fs::read_to_string("/proc/net/tcp").unwrap_or_default();
                look(
                    &table,
                    &ports,
                    Instant::now(),
                    &mut open,
                    &mut tell.lock().unwrap_or_else(PoisonError::into_inner),
                );
                thread::park_timeout(GLANCE);
            }
        });
        Self { seen, stop, thread: Some(thread) }
    }

    /// What there was so far.
    pub(crate) fn seen(&self) -> Seen {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            drop(thread.join());
        }
    }
}

/// Takes in one look at `/proc/net/tcp`. A connection is known by its addresses and its inode.
fn look(table: &str, ports: &[u16], now: Instant, open: &mut HashMap<String, Instant>, seen: &mut Seen) {
    let mut still = HashMap::new();
    for line in table.lines().skip(1) {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [_, local, remote, ESTABLISHED, _, _, _, _, _, inode, ..] = fields[..] else { continue };
        let port = remote.split_once(':').and_then(|(_, port)| u16::from_str_radix(port, 16).ok());
        if !port.is_some_and(|port| ports.contains(&port)) {
            continue;
        }
        let name = format!("{local} {remote} {inode}");
        let since = open.get(&name).copied().unwrap_or_else(|| {
            seen.connections += 1;
            now
        });
        seen.oldest = seen.oldest.max(now - since);
        still.insert(name, since);
    }
    *open = still;
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str =
        "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n";

    fn line(state: &str, port: &str, inode: u32) -> String {
        format!(
            "   0: 0200017F:D6D8 0300017F:{port} {state} 00000000:00000000 00:00000000 00000000     0        0 {inode} 1\n"
        )
    }

    #[test]
    fn a_connection_ages_while_it_is_seen_and_a_new_one_is_young() {
        let (start, mut open, mut seen) = (Instant::now(), HashMap::new(), Seen::default());
        let mut at = |seconds, table: String| {
            look(&table, &[4143], start + Duration::from_secs(seconds), &mut open, &mut seen);
            (seen.connections, seen.oldest.as_secs())
        };
        assert_eq!(at(0, format!("{HEAD}{}", line("01", "102F", 1))), (1, 0));
        assert_eq!(at(5, format!("{HEAD}{}", line("01", "102F", 1))), (1, 5));
        assert_eq!(at(9, format!("{HEAD}{}", line("01", "102F", 2))), (2, 5), "the same ports, another connection");
        assert_eq!(at(10, format!("{HEAD}{}{}", line("06", "102F", 0), line("01", "1030", 3))), (2, 5));
    }
}
