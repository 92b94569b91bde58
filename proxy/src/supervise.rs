//! What must not end while the process lives: its control tasks and its workers.
//!
//! In: each of them with its name. Out: the first that ended, so that the process ends as well and is started anew, rather
//! than live on without certificates, updates or half of its workers. Does not: restart anything itself.

use futures_util::future::select_all;
use tokio::{sync::mpsc, task::JoinHandle};

/// Something ended before the drain.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Ended {
    #[error("the task {name:?} has panicked; see the log above")]
    Panicked { name: &'static str },
    #[error("the task {name:?} has ended, which it never should")]
    Returned { name: &'static str },
    #[error("worker-{number} has ended before the drain")]
    Worker { number: usize },
}

/// A task that lives as long as the process, by its name.
pub(crate) type Task = (&'static str, JoinHandle<()>);

/// Tells, when dropped, that a worker's thread has ended, however it did.
#[derive(Debug)]
pub(crate) struct Alarm {
    number: usize,
    ended: mpsc::Sender<usize>,
}

impl Alarm {
    /// For worker `number`.
    pub(crate) fn new(number: usize, ended: mpsc::Sender<usize>) -> Self {
        Self { number, ended }
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        // Full: another end was reported already, which is enough. Closed: the drain awaits the threads itself.
        let _ = self.ended.try_send(self.number);
    }
}

/// Waits for the first of `tasks` or workers to end. Cancel safe.
pub(crate) async fn first_ended(tasks: &mut [Task], workers: &mut mpsc::Receiver<usize>) -> Ended {
    let names: Vec<_> = tasks.iter().map(|(name, _)| *name).collect();
    tokio::select! {
        (outcome, at, _) = select_all(tasks.iter_mut().map(|(_, task)| task)) => match outcome {
            Ok(()) => Ended::Returned { name: names[at] },
            Err(_) => Ended::Panicked { name: names[at] },
        },
        Some(number) = workers.recv() => Ended::Worker { number },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::pending;

    fn tasks(second: impl Future<Output = ()> + Send + 'static) -> Vec<Task> {
        vec![("certify", tokio::spawn(pending())), ("discovery", tokio::spawn(second))]
    }

    #[tokio::test]
    async fn a_control_task_that_panics_or_returns_is_noticed_by_name() {
        let (_alarm, mut workers) = mpsc::channel(1);
        let ended = first_ended(&mut tasks(async { panic!("a mistake") }), &mut workers).await;
        assert!(matches!(ended, Ended::Panicked { name: "discovery" }), "{ended}");
        let ended = first_ended(&mut tasks(async {}), &mut workers).await;
        assert!(matches!(ended, Ended::Returned { name: "discovery" }), "{ended}");
    }

    #[tokio::test]
    async fn a_worker_thread_that_ends_or_panics_is_noticed() {
        for panics in [false, true] {
            let (ended, mut workers) = mpsc::channel(1);
            let alarm = Alarm::new(3, ended.clone());
            let thread = std::thread::spawn(move || {
                let _alarm = alarm;
                assert!(!panics, "a mistake");
            });
            let ended = first_ended(&mut tasks(pending()), &mut workers).await;
            assert!(matches!(ended, Ended::Worker { number: 3 }), "{ended}");
            assert_eq!(thread.join().is_err(), panics);
        }
    }
}
