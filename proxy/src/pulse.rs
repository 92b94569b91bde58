//! Whether the workers work: each answers a question on its own thread, between the turns of its connections.
//!
//! In: a question from the admin port's `/live`. Out: which worker does not answer in time, so that the kubelet restarts a
//! process whose data path stands still, whatever its control thread says. Bound: one question under way, however many clients ask.

use crate::limits;
use std::sync::Arc;
use tokio::{
    sync::{Mutex, mpsc, oneshot},
    time::{Instant, timeout_at},
};

/// Asks the workers. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Pulse(Arc<Asked>);

#[derive(Debug)]
struct Asked {
    workers: Vec<mpsc::Sender<oneshot::Sender<()>>>,
    /// When all of them answered last; held while they are asked.
    answered: Mutex<Option<Instant>>,
}

/// A worker's side.
#[derive(Debug)]
pub(crate) struct Answers(mpsc::Receiver<oneshot::Sender<()>>);

/// For so many workers.
pub(crate) fn channel(workers: usize) -> (Pulse, Vec<Answers>) {
    let (workers, answers) = (0..workers).map(|_| mpsc::channel(1)).map(|(ask, asked)| (ask, Answers(asked))).unzip();
    (Pulse(Arc::new(Asked { workers, answered: Mutex::default() })), answers)
}

impl Answers {
    /// Answers until the sender is dropped. Runs on the worker.
    pub(crate) async fn serve(mut self) {
        while let Some(asker) = self.0.recv().await {
            // The client may have given up.
            let _ = asker.send(());
        }
    }
}

impl Pulse {
    /// Asks every worker that has not ended: the number of one that did not answer within [`limits::PULSE_TIMEOUT`].
    /// An answer counts for [`limits::PULSE_KEPT`]. Cancel safe.
    pub(crate) async fn check(&self) -> Result<(), usize> {
        let mut answered = self.0.answered.lock().await;
        if answered.is_some_and(|at| at.elapsed() < limits::PULSE_KEPT) {
            return Ok(());
        }
        let deadline = Instant::now() + limits::PULSE_TIMEOUT;
        for (number, worker) in self.0.workers.iter().enumerate() {
            let (tell, told) = oneshot::channel();
            // One that ended does so in the drain: otherwise the process is ending, see `run`.
            let ask = async {
                if worker.send(tell).await.is_ok() {
                    drop(told.await)
                }
            };
            timeout_at(deadline, ask).await.map_err(|_| number)?;
        }
        *answered = Some(Instant::now());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_worker_that_stands_still_is_named_in_time_and_comes_back() {
        let (pulse, mut answers) = channel(2);
        let (second, first) = (answers.pop().unwrap(), answers.pop().unwrap());
        tokio::spawn(first.serve());
        let began = Instant::now();
        assert_eq!(pulse.check().await, Err(1));
        assert!(began.elapsed() >= limits::PULSE_TIMEOUT);
        tokio::spawn(second.serve());
        assert_eq!(pulse.check().await, Ok(()));
    }

    #[tokio::test]
    async fn however_many_ask_the_workers_are_asked_once() {
        let (pulse, mut answers) = channel(1);
        let Answers(mut asked) = answers.pop().unwrap();
        let worker = tokio::spawn(async move {
            let mut count = 0;
            while let Some(asker) = asked.recv().await {
                let _ = asker.send(());
                count += 1;
            }
            count
        });
        let all = (0..100).map(|_| pulse.check());
        assert!(futures_util::future::join_all(all).await.iter().all(Result::is_ok));
        drop(pulse);
        assert_eq!(worker.await.unwrap(), 1);
    }

    #[tokio::test]
    async fn a_worker_that_has_drained_is_no_failure() {
        let (pulse, answers) = channel(1);
        drop(answers);
        assert_eq!(pulse.check().await, Ok(()));
    }
}
