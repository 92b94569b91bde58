//! The system calls that std has no safe name for: a child's fate and its signals. The only `unsafe` of this crate.

#![allow(unsafe_code, reason = "prctl and kill have no safe wrapper in std")]

use std::{io, os::unix::process::CommandExt, process::Command};

/// What can be sent to a child.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Signal {
    /// The demo application answers twenty times slower from now on.
    Slow,
    /// The demo application answers at its usual speed again.
    Usual,
}

/// Makes the child die with us (even if we are killed), and keeps the terminal's Ctrl-C from it: we end it ourselves.
pub(crate) fn tie_to_parent(command: &mut Command) -> &mut Command {
    let parent = std::process::id();
    command.process_group(0);
    // SAFETY: between fork and exec the closure calls only async-signal-safe functions (prctl, getppid),
    // allocates nothing on the success path and touches no memory but its own copied `parent`.
    unsafe {
        command.pre_exec(move || {
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
                return Err(io::Error::last_os_error());
            }
            // The parent may have died before prctl took effect; then no process would end this one.
            if libc::getppid().unsigned_abs() != parent {
                return Err(io::ErrorKind::Interrupted.into());
            }
            Ok(())
        })
    }
}

/// Sends `signal` to the process `pid`, which must be a child that was not waited for yet (its id is then still its own).
pub(crate) fn send(pid: u32, signal: Signal) -> io::Result<()> {
    let number = match signal {
        Signal::Slow => libc::SIGUSR1,
        Signal::Usual => libc::SIGUSR2,
    };
    let pid = libc::pid_t::try_from(pid).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    // SAFETY: kill takes two integers and touches no memory.
    if unsafe { libc::kill(pid, number) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The user we run as.
pub(crate) fn user_id() -> u32 {
    // SAFETY: geteuid takes nothing, touches no memory and cannot fail.
    unsafe { libc::geteuid() }
}

/// The terminal's size in columns and rows, if standard output is one.
pub(crate) fn terminal_size() -> Option<(u16, u16)> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCGWINSZ writes one `winsize`, and `size` is one that lives through the call.
    let answer = unsafe { libc::ioctl(libc::STDOUT_FILENO, libc::TIOCGWINSZ, &raw mut size) };
    (answer == 0 && size.ws_col > 0 && size.ws_row > 0).then_some((size.ws_col, size.ws_row))
}
