//! Asks `/live` all the while, as a kubelet would, and keeps how long each answer took.

use crate::control::get;
use remora_runtime::process;
use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// How often.
const EVERY: Duration = Duration::from_millis(50);

/// Answers since the last look, in milliseconds; a failure counts as infinite.
#[derive(Debug)]
pub(crate) struct Live {
    took: Arc<Mutex<Vec<f64>>>,
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Live {
    pub(crate) fn start(admin: SocketAddr) -> Self {
        let (took, ended) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let (kept, end) = (Arc::clone(&took), Arc::clone(&ended));
        let ask = move || {
            // A kubelet does not wait for a core behind the proxies of all its cluster.
            process::run_promptly();
            while !end.load(Ordering::Relaxed) {
                let began = Instant::now();
                let answered = get(admin, "/live").is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"));
                let ms = if answered { began.elapsed().as_secs_f64() * 1000.0 } else { f64::INFINITY };
                kept.lock().unwrap_or_else(PoisonError::into_inner).push(ms);
                thread::park_timeout(EVERY.saturating_sub(began.elapsed()));
            }
        };
        Self { took, ended, thread: Some(thread::spawn(ask)) }
    }

    /// What was seen since this was asked last.
    pub(crate) fn take(&self) -> Vec<f64> {
        std::mem::take(&mut self.took.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        // It only panics if the allocator does.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}
