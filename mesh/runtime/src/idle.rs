//! What an idle process does without. Most sidecars of a cluster do nothing most of the time, and the control plane hardly
//! more; what they hold then is what the mesh costs. In: the CPU time that the process used. Out: memory given back once it
//! has become idle. Does not: touch connections.

use crate::sys;
use std::{future::pending, time::Duration};
use tokio::time::sleep;

/// How often a process looks whether it is idle.
const LOOK: Duration = Duration::from_secs(5);

/// The CPU time between two looks up to which it is: PINGs, probes and timers cost a tenth of that.
const CPU: Duration = Duration::from_millis(20);

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
        let idle = used.saturating_sub(before) <= CPU;
        let was = std::mem::replace(&mut self.idle, idle);
        idle && !was
    }
}

/// Has the allocator give large blocks back to the kernel as soon as they are freed, however many there were before.
pub fn return_large_blocks() {
    sys::return_large_blocks();
}

/// Gives free heap back to the kernel. Stops the process's other allocations for as long, a few milliseconds.
pub fn release_freed() {
    sys::release_freed();
}

/// Gives memory back each time this process has become idle. Runs until it is dropped.
pub async fn watch() {
    let mut activity = Activity::default();
    loop {
        sleep(LOOK).await;
        match sys::cpu_time() {
            Ok(used) if activity.became_idle(used) => sys::give_back(),
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(%error, "cannot tell whether this process is idle");
                return pending().await;
            }
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
