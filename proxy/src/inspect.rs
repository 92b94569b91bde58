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
use futures_util::future::join_all;
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
        // All at once: one that does not answer takes no time from the others.
        let asked = self.0.iter().map(async |worker| {
            let (tell, answer) = oneshot::channel();
            let ask = async {
                worker.send(tell).await.ok()?;
                answer.await.ok()
            };
            timeout_at(deadline, ask).await.ok().flatten()
        });
        let told = join_all(asked).await;
        let silent = told.iter().filter(|backends| backends.is_none()).count();
        (view::merge(told.into_iter().flatten()), silent)
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

    fn backend(name: &str, in_flight: u32) -> BackendView {
        let (name, balancer) = (name.to_owned(), "peak_ewma");
        BackendView { name, balancer, in_flight, in_flight_max: 8, budget: 0.5, endpoints: Vec::new() }
    }

    /// A worker that answers all questions alike.
    async fn answer(mut answers: Answers, told: Vec<BackendView>) {
        while let Some(asker) = answers.0.recv().await {
            let _ = asker.send(told.clone());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn workers_that_answer_are_heard_although_one_before_them_does_not() {
        for silent in 0..4 {
            let (inspect, answers) = channel(4);
            let mut held = Vec::new();
            for (worker, answers) in answers.into_iter().enumerate() {
                if worker == silent {
                    held.push(answers);
                } else {
                    tokio::spawn(answer(answers, vec![backend("shop/api:80", 2), backend("shop/db:1", 1)]));
                }
            }
            // Of the questions before, the silent one has one waiting still.
            for _ in 0..3 {
                let asked = Instant::now();
                let (told, missing) = inspect.backends().await;
                let told: Vec<_> = told.iter().map(|it| (it.name.as_str(), it.in_flight, it.in_flight_max)).collect();
                assert_eq!((told, missing), (vec![("shop/api:80", 6, 24), ("shop/db:1", 3, 24)], 1), "{silent}");
                assert_eq!(asked.elapsed().as_millis(), limits::PULSE_TIMEOUT.as_millis());
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_worker_that_is_gone_is_missing_at_once_and_one_that_wakes_up_is_there_again() {
        let (inspect, mut answers) = channel(3);
        let (gone, asleep, awake) = (answers.remove(0), answers.remove(0), answers.remove(0));
        drop(gone);
        tokio::spawn(answer(awake, vec![backend("shop/api:80", 1)]));
        assert_eq!(inspect.backends().await, (vec![backend("shop/api:80", 1)], 2));
        tokio::spawn(answer(asleep, vec![backend("shop/other:80", 5)]));
        let asked = Instant::now();
        let both = vec![backend("shop/api:80", 1), backend("shop/other:80", 5)];
        assert_eq!(inspect.backends().await, (both, 1));
        assert_eq!(asked.elapsed().as_millis(), 0, "nobody waits for who is gone");
        assert_eq!(channel(0).0.backends().await, (Vec::new(), 0));
    }
}
