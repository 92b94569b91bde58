//! What an idle proxy does without. Most sidecars of a cluster do nothing most of the time; what they hold then is what the
//! mesh costs. In: the CPU time that the process used. Out: memory given back once it has become idle. Does not: touch
//! connections.

use crate::{limits, sys};
use std::time::Duration;
use tokio::time::sleep;

/// Whether the process is idle, from one look to the next.
#[derive(Debug, Default)]
struct Activity {
    used: Duration,
    idle: bool,
}

impl Activity {
    /// Looks at the CPU time used so far. `true` once each time the process has become idle.
    fn became_idle(&mut self, used: Duration) -> bool {
        let before = std::mem::replace(&mut self.used, used);
        let idle = used.saturating_sub(before) <= limits::IDLE_CPU;
        let was = std::mem::replace(&mut self.idle, idle);
        idle && !was
    }
}

/// Runs until it is dropped.
pub(crate) async fn watch() {
    let mut activity = Activity::default();
    loop {
        sleep(limits::IDLE_LOOK).await;
        match sys::cpu_time() {
            Ok(used) if activity.became_idle(used) => sys::give_back(),
            Ok(_) => {}
            Err(error) => return tracing::warn!(%error, "cannot tell whether this process is idle"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_given_back_once_each_time_the_process_becomes_idle() {
        let mut activity = Activity::default();
        let at = |ms: u64| Duration::from_millis(ms);
        let looks = [(900, false), (901, true), (902, false), (1900, false), (1905, true), (1910, false)];
        for (used, idle) in looks {
            assert_eq!(activity.became_idle(at(used)), idle, "{used} ms");
        }
    }
}
