//! A future that is polled only after its own waker fired, not on every wake-up of its task.
//!
//! A connection's task waits for many things at once. With every byte it asks all of them, and most (a drain, a
//! certificate's end, a ping that is due) come once in hours. In: such a future. Out: the same one, that answers
//! "not yet" at the cost of one load until the inner future's waker was called.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

/// See the module. Its waker is its own; the task that polled it last is woken.
#[derive(Debug)]
pub struct Seldom<F> {
    future: Pin<Box<F>>,
    bell: Arc<Bell>,
    /// The task that the bell knows.
    task: Option<Waker>,
}

/// What the future wakes.
#[derive(Debug)]
struct Bell {
    /// Whether it rang since the future was last polled.
    rung: AtomicBool,
    task: Mutex<Option<Waker>>,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // Told before the task is looked up: who sets another task after that sees that it rang.
        self.rung.store(true, Ordering::Release);
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(task) = task {
            task.wake();
        }
    }
}

impl<F> Seldom<F> {
    /// `future`, which is polled once at first, as any.
    pub fn new(future: F) -> Self {
        let bell = Bell { rung: AtomicBool::new(true), task: Mutex::new(None) };
        Self { future: Box::pin(future), bell: Arc::new(bell), task: None }
    }

    /// Whether the future has something to say since it was last polled, or was never polled.
    pub fn has_rung(&self) -> bool {
        self.bell.rung.load(Ordering::Relaxed)
    }

    /// The future.
    pub fn get_ref(&self) -> &F {
        &self.future
    }

    /// The future, which is polled anew after this.
    pub fn change(&mut self) -> Pin<&mut F> {
        self.bell.rung.store(true, Ordering::Relaxed);
        self.future.as_mut()
    }
}

impl<F: Future> Future for Seldom<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = &mut *self;
        if !this.task.as_ref().is_some_and(|known| known.will_wake(cx.waker())) {
            let task = Some(cx.waker().clone());
            this.bell.task.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&task);
            this.task = task;
        }
        if !this.bell.rung.load(Ordering::Relaxed) {
            return Poll::Pending;
        }
        // Before the future is asked: what it says after that rings again.
        this.bell.rung.swap(false, Ordering::AcqRel);
        this.future.as_mut().poll(&mut Context::from_waker(&Waker::from(this.bell.clone())))
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::{pending, poll_fn, ready},
        sync::atomic::AtomicUsize,
        time::Duration,
    };

    use futures_util::{StreamExt as _, future::Either, stream::FuturesUnordered};
    use tokio::sync::{mpsc, oneshot};

    use super::*;

    /// Counts how often it is woken.
    #[derive(Default)]
    struct Task(AtomicUsize);

    impl Wake for Task {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    impl Task {
        fn poll<F: Future>(self: &Arc<Self>, seldom: &mut Seldom<F>) -> Poll<F::Output> {
            Pin::new(seldom).poll(&mut Context::from_waker(&Waker::from(self.clone())))
        }

        fn woken(&self) -> usize {
            self.0.load(Ordering::SeqCst)
        }
    }

    #[test]
    fn it_is_polled_once_and_then_when_it_is_woken() {
        let (tell, mut told) = oneshot::channel();
        let polls = AtomicUsize::new(0);
        let mut seldom = Seldom::new(poll_fn(|cx| {
            polls.fetch_add(1, Ordering::SeqCst);
            Pin::new(&mut told).poll(cx)
        }));
        let task = Arc::new(Task::default());
        for _ in 0..100 {
            assert!(task.poll(&mut seldom).is_pending());
        }
        assert_eq!((polls.load(Ordering::SeqCst), task.woken()), (1, 0));
        tell.send(7).unwrap();
        assert_eq!(task.woken(), 1);
        assert_eq!(task.poll(&mut seldom), Poll::Ready(Ok(7)));
        assert_eq!(polls.load(Ordering::SeqCst), 2);
    }

    #[test]
    fn the_task_that_polled_last_is_woken_each_time() {
        let (tell, mut told) = mpsc::channel(1);
        let mut seldom = Seldom::new(poll_fn(|cx| told.poll_recv(cx).map(drop)));
        let (first, second) = (Arc::new(Task::default()), Arc::new(Task::default()));
        assert!(first.poll(&mut seldom).is_pending());
        assert!(second.poll(&mut seldom).is_pending());
        for round in 1..=3 {
            tell.try_send(()).unwrap();
            assert_eq!((first.woken(), second.woken()), (0, round));
            assert!(second.poll(&mut seldom).is_ready());
            // Ready is not the end of this one: it is polled again because that is asked for.
            seldom.change();
            assert!(second.poll(&mut seldom).is_pending());
        }
        assert!(first.poll(&mut seldom).is_pending());
        tell.try_send(()).unwrap();
        assert_eq!((first.woken(), second.woken()), (1, 3));
    }

    #[test]
    fn a_change_is_seen_by_the_next_poll() {
        let mut seldom = Seldom::new(Either::Left(pending()));
        let task = Arc::new(Task::default());
        assert!(task.poll(&mut seldom).is_pending());
        seldom.change().set(Either::Right(ready(3)));
        assert_eq!(task.poll(&mut seldom), Poll::Ready(3));
    }

    /// Two threads, and a task that is another one at every poll.
    #[tokio::test]
    async fn no_ring_is_lost() {
        // Under Miri, which looks at every access, a ring costs a thousand times as much.
        const RINGS: usize = if cfg!(miri) { 200 } else { 20_000 };
        let (tell, mut told) = mpsc::channel(1);
        let ringing = std::thread::spawn(move || (0..RINGS).all(|_| tell.blocking_send(()).is_ok()));
        let mut seldom = Seldom::new(poll_fn(|cx| told.poll_recv(cx)));
        let hearing = async {
            let mut heard = 0;
            loop {
                let rang = if heard % 2 == 0 {
                    poll_fn(|cx| Pin::new(&mut seldom).poll(cx)).await
                } else {
                    FuturesUnordered::from_iter([poll_fn(|cx| Pin::new(&mut seldom).poll(cx))]).next().await.flatten()
                };
                if rang.is_none() {
                    return heard;
                }
                heard += 1;
                seldom.change();
            }
        };
        assert_eq!(tokio::time::timeout(Duration::from_secs(60), hearing).await, Ok(RINGS));
        assert!(ringing.join().unwrap());
    }
}
