//! What workers hold, for the admin port: each tells it on its own thread, between the turns of its connections, when somebody asks.
//!
//! In: a question from the control thread. Out: the [`BackendView`]s of all workers, added up. Bound: one question under way in each worker;
//! one that does not answer within [`limits::PULSE_TIMEOUT`] is left out, and counted.

use crate::{
    backend::view::{self, BackendView},
    discover::Directory,
    limits,
    world::World,
};
use std::rc::Rc;
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, timeout_at},
};

type Question = oneshot::Sender<Vec<BackendView>>;

/// Asks the workers. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Inspect(std::sync::Arc<[mpsc::Sender<Question>]>);

/// A worker's side.
#[derive(Debug)]
pub(crate) struct Answers(mpsc::Receiver<Question>);

/// For so many workers.
pub(crate) fn channel(workers: usize) -> (Inspect, Vec<Answers>) {
    let (ask, answers): (Vec<_>, _) =
        (0..workers).map(|_| mpsc::channel(1)).map(|(ask, asked)| (ask, Answers(asked))).unzip();
    (Inspect(ask.into()), answers)
}

impl Answers {
    /// Answers until the sender is dropped. Runs on the worker.
    pub(crate) async fn serve(mut self, world: Rc<World>) {
        while let Some(asker) = self.0.recv().await {
            // Who asked may have given up.
            let _ = asker.send(told(&world.directory));
        }
    }
}

fn told(directory: &Directory) -> Vec<BackendView> {
    let now = Instant::now();
    directory.backends().iter().map(|pool| pool.view(now)).collect()
}

impl Inspect {
    /// What all workers hold, and how many of them did not say. Cancel safe.
    pub(crate) async fn backends(&self) -> (Vec<BackendView>, usize) {
        let deadline = Instant::now() + limits::PULSE_TIMEOUT;
        let (mut told, mut silent) = (Vec::new(), 0);
        for worker in &*self.0 {
            let (tell, answer) = oneshot::channel();
            let ask = async {
                worker.send(tell).await.ok()?;
                answer.await.ok()
            };
            match timeout_at(deadline, ask).await {
                Ok(Some(backends)) => told.push(backends),
                Ok(None) | Err(_) => silent += 1,
            }
        }
        (view::merge(told), silent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_worker_that_does_not_answer_is_left_out_and_counted() {
        let (inspect, mut answers) = channel(2);
        let (_silent, mut first) = (answers.pop().unwrap(), answers.pop().unwrap());
        let backend = BackendView {
            name: "shop/api:80".to_owned(),
            balancer: "peak_ewma",
            in_flight: 0,
            in_flight_max: 1,
            budget: 0.0,
            endpoints: Vec::new(),
        };
        let told = backend.clone();
        tokio::spawn(async move { first.0.recv().await.unwrap().send(vec![told]) });
        assert_eq!(inspect.backends().await, (vec![backend], 1));
    }
}
