//! The tasks of a worker: counted, so that its end can wait for them.

use std::{
    cell::Cell,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};
use tokio::{sync::Notify, task::AbortHandle};

/// The tasks of one worker, which it awaits before it ends.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tasks(Rc<Count>);

#[derive(Debug, Default)]
struct Count {
    running: Cell<usize>,
    ended: Notify,
}

struct Running(Rc<Count>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.set(self.0.running.get() - 1);
        if self.0.running.get() == 0 {
            self.0.ended.notify_waiters();
        }
    }
}

pin_project_lite::pin_project! {
    /// A task that counts as running. An `async` block around the task would hold it twice: once as what it captured
    /// and once as what it awaits.
    struct Owned<F> {
        #[pin]
        task: F,
        _running: Running,
    }
}

impl<F: Future> Future for Owned<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.project().task.poll(cx).map(drop)
    }
}

impl Tasks {
    /// Runs `task` on this thread; what it returns is dropped.
    pub(crate) fn spawn(&self, task: impl Future + 'static) {
        self.0.running.set(self.0.running.get() + 1);
        tokio::task::spawn_local(Owned { task, _running: Running(self.0.clone()) });
    }

    /// How many run.
    pub(crate) fn running(&self) -> usize {
        self.0.running.get()
    }

    /// Waits until none runs. Cancel safe.
    pub(crate) async fn idle(&self) {
        while self.0.running.get() > 0 {
            let mut ended = std::pin::pin!(self.0.ended.notified());
            ended.as_mut().enable();
            if self.0.running.get() > 0 {
                ended.await;
            }
        }
    }
}

/// A task that nobody waits for, because it ends with its owner.
#[derive(Debug)]
pub(crate) struct Attached(AbortHandle);

impl Attached {
    /// Runs `task` on this thread for as long as this value is kept.
    pub(crate) fn spawn(task: impl Future<Output = ()> + 'static) -> Self {
        Self(tokio::task::spawn_local(task).abort_handle())
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Lets hyper spawn onto this worker.
#[derive(Debug, Clone)]
pub(crate) struct LocalExec(pub Tasks);

impl<F: Future + 'static> hyper::rt::Executor<F> for LocalExec {
    fn execute(&self, future: F) {
        self.0.spawn(future);
    }
}
