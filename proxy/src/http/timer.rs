//! The timer that hyper's keep-alives run on.

use hyper::rt;
use remora_runtime::seldom::Seldom;
use std::{
    pin::Pin,
    task::{Context, Poll},
    time::{Duration, Instant},
};
use tokio::time;

/// tokio's, but that a wait is polled only when it may be over: a connection asks its keep-alive with every frame.
#[derive(Debug, Clone, Copy)]
pub(super) struct Timer;

#[derive(Debug)]
struct Sleep(Seldom<time::Sleep>);

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        Pin::new(&mut self.0).poll(cx)
    }
}

impl rt::Sleep for Sleep {}

impl rt::Timer for Timer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn rt::Sleep>> {
        Box::pin(Sleep(Seldom::new(time::sleep(duration))))
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn rt::Sleep>> {
        Box::pin(Sleep(Seldom::new(time::sleep_until(deadline.into()))))
    }

    fn reset(&self, sleep: &mut Pin<Box<dyn rt::Sleep>>, deadline: Instant) {
        if let Some(sleep) = sleep.as_mut().downcast_mut_pin::<Sleep>() {
            sleep.get_mut().0.change().reset(deadline.into());
        }
    }

    fn now(&self) -> Instant {
        time::Instant::now().into_std()
    }
}
