//! The system calls that std has no safe name for: a child's fate, its place at the cores, and its signals. The only `unsafe` of this crate.

#![allow(unsafe_code, reason = "prctl, setrlimit, sched_setscheduler, setns and kill have no safe wrapper in std")]

use std::{io, os::unix::process::CommandExt as _, process::Command};

/// Makes the child die with the thread that starts it, and so with this program, even if that is killed.
pub(crate) fn tie_to_parent(command: &mut Command) -> &mut Command {
    let parent = std::process::id();
    // SAFETY: between fork and exec the closure calls only async-signal-safe functions (prctl, getppid),
    // allocates nothing on the success path and touches no memory but its own copied `parent`.
    unsafe {
        command.pre_exec(move || {
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
                return Err(io::Error::last_os_error());
            }
            // The parent may have died before prctl took effect; then nobody would end us.
            if libc::getppid().unsigned_abs() != parent {
                return Err(io::ErrorKind::Interrupted.into());
            }
            Ok(())
        })
    }
}

/// Lets the child have at most `count` descriptors open.
pub(crate) fn limit_descriptors(command: &mut Command, count: u64) -> &mut Command {
    // SAFETY: between fork and exec the closure calls only setrlimit, which is async-signal-safe, allocates nothing, and
    // touches no memory but its own copied `count`.
    unsafe {
        command.pre_exec(move || {
            let limit = libc::rlimit { rlim_cur: count, rlim_max: count };
            if libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) == 0 {
                return Ok(());
            }
            Err(io::Error::last_os_error())
        })
    }
}

/// The child, all of its threads, runs only while nobody else wants the core (`SCHED_IDLE`, sched(7)).
pub(crate) fn give_way(command: &mut Command) -> &mut Command {
    // SAFETY: between fork and exec the closure calls only sched_setscheduler, a bare system call, allocates nothing, and
    // touches no memory but its own.
    unsafe { command.pre_exec(give_way_here) }
}

/// The same for the calling thread, and for threads that it starts from now on.
pub(crate) fn give_way_here() -> io::Result<()> {
    let priority = libc::sched_param { sched_priority: 0 };
    // SAFETY: 0 is the calling thread; `priority` is read during the call only.
    if unsafe { libc::sched_setscheduler(0, libc::SCHED_IDLE, &raw const priority) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Sends a signal to the process `pid`, which must be a child that was not waited for yet (its id is then still its own).
pub(crate) fn send(pid: u32, signal: libc::c_int) -> io::Result<()> {
    let pid = libc::pid_t::try_from(pid).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    // SAFETY: kill takes two integers and touches no memory.
    if unsafe { libc::kill(pid, signal) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Moves the calling thread into a network namespace, for good: sockets that it makes from now on are there.
pub(crate) fn enter_network(namespace: &std::fs::File) -> io::Result<()> {
    use std::os::fd::AsRawFd as _;
    // SAFETY: setns takes a descriptor, which `namespace` keeps open through the call, and touches no memory.
    if unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
