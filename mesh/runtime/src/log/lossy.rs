//! Standard error for the log: writing a line never blocks.
//!
//! The reader of a pipe may stop (a full disk, a stuck runtime), and a write to it then blocks for ever, with the thread that
//! serves connections. In: whole lines. Out: the same to a writer, by a thread of its own. Bound: [`QUEUE_BYTES_MAX`];
//! lines beyond it are dropped, counted in `remora_log_lines_dropped_total`, and reported when there is room again. Lines
//! that warn may use a quarter more than others.

use super::Format;
use std::{
    collections::VecDeque,
    io::{self, Write},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tracing::{Level, Metadata};
use tracing_subscriber::fmt::MakeWriter;

/// Lines that wait: a burst of a thousand.
const QUEUE_BYTES_MAX: usize = 256 * 1024;
/// Of this, for what is less than a warning.
const ORDINARY_BYTES_MAX: usize = QUEUE_BYTES_MAX / 4 * 3;
/// What the queue keeps allocated while it is empty.
const QUEUE_BYTES_KEPT: usize = 8 * 1024;

/// Lines for a writer that may block. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Lossy(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<Queue>,
    /// There is something to write, or something was written.
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    bytes: VecDeque<u8>,
    /// Lines that were dropped and are not reported yet.
    dropped: u64,
    /// The thread has taken bytes that it has not yet written.
    writing: bool,
}

/// One event's line.
#[derive(Debug)]
pub(super) struct Line<'a> {
    shared: &'a Shared,
    bytes_max: usize,
}

impl Lossy {
    /// Writes to `to` what is put in from now on. The thread lives as long as the process.
    pub(super) fn start(&self, mut to: impl Write + Send + 'static, format: Format) -> io::Result<()> {
        let shared = Arc::clone(&self.0);
        let thread = std::thread::Builder::new().name("log".into()).stack_size(64 * 1024);
        thread.spawn(move || {
            let mut batch = Vec::new();
            loop {
                let dropped = shared.take(&mut batch);
                // If this fails, there is nowhere left to report it.
                let _ = to.write_all(&batch);
                if dropped > 0 {
                    let _ = to.write_all(dropped_line(dropped, format).as_bytes());
                }
                let _ = to.flush();
                batch.clear();
                batch.shrink_to(QUEUE_BYTES_KEPT);
            }
        })?;
        Ok(())
    }

    /// Waits until all that was put in before is written, at most for `within`. `false`: it was not.
    pub(super) fn flush(&self, within: Duration) -> bool {
        let queue = self.0.lock();
        let pending = |queue: &mut Queue| queue.writing || !queue.bytes.is_empty() || queue.dropped > 0;
        let waited = self.0.changed.wait_timeout_while(queue, within, pending);
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for lines, and moves them to `batch`: how many were dropped.
    fn take(&self, batch: &mut Vec<u8>) -> u64 {
        let mut queue = self.lock();
        queue.writing = false;
        self.changed.notify_all();
        let empty = |queue: &mut Queue| queue.bytes.is_empty() && queue.dropped == 0;
        queue = self.changed.wait_while(queue, empty).unwrap_or_else(PoisonError::into_inner);
        queue.writing = true;
        let (head, tail) = queue.bytes.as_slices();
        batch.extend_from_slice(head);
        batch.extend_from_slice(tail);
        queue.bytes.clear();
        queue.bytes.shrink_to(QUEUE_BYTES_KEPT);
        std::mem::take(&mut queue.dropped)
    }

    /// A line is whole or not at all.
    fn put(&self, line: &[u8], bytes_max: usize) {
        let mut queue = self.lock();
        if queue.bytes.len() + line.len() > bytes_max {
            queue.dropped += 1;
            drop(queue);
            metrics::counter!("remora_log_lines_dropped_total").increment(1);
            return;
        }
        queue.bytes.extend(line);
        drop(queue);
        self.changed.notify_all();
    }
}

fn dropped_line(count: u64, format: Format) -> String {
    let message = "log lines were dropped: standard error took them too slowly";
    match format {
        Format::Text => format!(" WARN remora_runtime::log: {message} dropped={count}\n"),
        Format::Json => {
            format!("{{\"level\":\"WARN\",\"fields\":{{\"message\":\"{message}\",\"dropped\":{count}}}}}\n")
        }
    }
}

impl Write for Line<'_> {
    /// All of it, always: the formatter hands over one line at a time.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.shared.put(line, self.bytes_max);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lossy {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line { shared: &self.0, bytes_max: ORDINARY_BYTES_MAX }
    }

    fn make_writer_for(&'a self, of: &Metadata<'_>) -> Line<'a> {
        let bytes_max = if *of.level() <= Level::WARN { QUEUE_BYTES_MAX } else { ORDINARY_BYTES_MAX };
        Line { shared: &self.0, bytes_max }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader, Read as _, pipe};

    use super::*;

    const LINE: &[u8] = b"0123456789012345678901234567890123456789012345678901234567890123456789\n";
    /// Longer than anything here takes.
    const PATIENCE: Duration = Duration::from_secs(60);

    fn info(lossy: &Lossy) -> Line<'_> {
        lossy.make_writer()
    }

    #[test]
    fn a_pipe_that_nobody_drains_stops_nobody_and_what_was_lost_is_told_once_it_is_drained() {
        let (reader, writer) = pipe().unwrap();
        let lossy = Lossy::default();
        lossy.start(writer, Format::Text).unwrap();
        // Far more than a pipe and the queue hold.
        const LINES: u64 = 20_000;
        for _ in 0..LINES {
            info(&lossy).write_all(LINE).unwrap();
        }
        assert!(lossy.0.lock().bytes.len() <= ORDINARY_BYTES_MAX);
        assert!(!lossy.flush(Duration::from_millis(1)), "nothing reads, so nothing can be written");
        let (mut whole, mut dropped) = (0, 0);
        for line in BufReader::new(reader).lines() {
            let line = line.unwrap();
            match line.split_once("dropped=") {
                Some((_, count)) => dropped += count.parse::<u64>().unwrap(),
                None => {
                    assert_eq!(line.as_bytes(), &LINE[..LINE.len() - 1], "a line is whole or not there");
                    whole += 1;
                }
            }
            if whole + dropped == LINES {
                break;
            }
        }
        assert!(dropped > 0 && whole > 0, "{whole} written, {dropped} dropped");
    }

    #[test]
    fn a_warning_finds_room_where_the_rest_does_not() {
        let lossy = Lossy::default(); // nothing takes the lines
        for _ in 0..QUEUE_BYTES_MAX / LINE.len() {
            info(&lossy).write_all(LINE).unwrap();
        }
        let queued = || {
            let queue = lossy.0.lock();
            (queue.bytes.len(), queue.dropped)
        };
        let before = queued();
        assert!(before.1 > 0);
        Line { shared: &lossy.0, bytes_max: QUEUE_BYTES_MAX }.write_all(LINE).unwrap();
        assert_eq!(queued(), (before.0 + LINE.len(), before.1));
    }

    #[test]
    fn all_that_was_put_in_is_there_after_a_flush() {
        let (mut reader, writer) = pipe().unwrap();
        let lossy = Lossy::default();
        lossy.start(writer, Format::Json).unwrap();
        info(&lossy).write_all(b"one\n").unwrap();
        info(&lossy).write_all(b"two\n").unwrap();
        assert!(lossy.flush(PATIENCE));
        let mut said = [0; 8];
        reader.read_exact(&mut said).unwrap();
        assert_eq!(&said, b"one\ntwo\n");
    }

    #[test]
    fn what_is_told_of_dropped_lines_is_json_where_the_log_is() {
        let line: serde_json::Value = serde_json::from_str(&dropped_line(7, Format::Json)).unwrap();
        assert_eq!((&line["fields"]["dropped"], &line["level"]), (&7.into(), &"WARN".into()));
    }
}
