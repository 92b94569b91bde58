//! How long a thread's turns on a core are. In: a length. Out: what the scheduler knows. Does not: raise a priority, which needs
//! a right, or take more of a core.

#![allow(unsafe_code, reason = "sched_getattr and sched_setattr have no wrapper")]

use std::{io, time::Duration};

/// What both calls take: the first version of the kernel's `struct sched_attr`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Attributes {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    /// Of an ordinary thread the length of its turns, in nanoseconds.
    runtime: u64,
    deadline: u64,
    period: u64,
}

const SIZE: u32 = size_of::<Attributes>() as u32;

/// Gives the calling thread turns of this length. Who asks for short ones gets them sooner after it was woken (EEVDF, from Linux
/// 6.12 on; kernels before that take no notice).
///
/// # Errors
///
/// The kernel, or a filter of its calls, refuses.
pub(crate) fn set_turns(length: Duration) -> io::Result<()> {
    let runtime = u64::try_from(length.as_nanos()).unwrap_or(u64::MAX);
    // Nice and policy stay as they are.
    let wanted = Attributes { runtime, ..attributes()? };
    // SAFETY: 0 is the calling thread; the kernel reads `size` bytes, which are there.
    match unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const wanted, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Those of the calling thread.
fn attributes() -> io::Result<Attributes> {
    let mut found = Attributes::default();
    // SAFETY: 0 is the calling thread; the kernel writes no more than `SIZE` bytes, which are there.
    match unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut found, SIZE, 0) } {
        0 => Ok(Attributes { size: SIZE, ..found }),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_are_as_long_as_was_asked_where_the_kernel_knows_any_and_all_else_stays() {
        let before = attributes().unwrap();
        set_turns(Duration::from_micros(200)).unwrap();
        let after = attributes().unwrap();
        assert_eq!(after.runtime, if before.runtime == 0 { 0 } else { 200_000 });
        assert_eq!(Attributes { runtime: before.runtime, ..after }, before);
    }
}
