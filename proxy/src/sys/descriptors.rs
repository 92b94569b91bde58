//! How many descriptors this process may have open. In: nothing. Out: a number. Does not: count those that are open.

#![allow(unsafe_code, reason = "getrlimit and setrlimit have no safe wrapper in std")]

use std::io;

/// Raises the soft limit to the hard one, as most servers do, and returns what holds then.
///
/// # Errors
///
/// What `getrlimit` says. A limit that cannot be raised is not an error: it is returned as it is.
pub fn raise_limit() -> io::Result<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a valid rlimit that outlives the call, which writes nothing else.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let raised = libc::rlimit { rlim_cur: limit.rlim_max, rlim_max: limit.rlim_max };
    // SAFETY: `raised` is a valid rlimit that outlives the call, which only reads it.
    let set = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const raised) } == 0;
    Ok(if set { raised.rlim_cur } else { limit.rlim_cur })
}
