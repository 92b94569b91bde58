//! Memory that an idle process can do without. In: nothing. Out: what the process has used. Does not: touch anything that
//! was written since it was loaded, or decide when.

#![allow(unsafe_code, reason = "getrusage, madvise and mallopt and malloc_trim have no safe wrapper")]

use std::{fs, io, time::Duration};

/// The CPU time that this process has used, in user space and kernel.
///
/// # Errors
///
/// What `getrusage` says.
pub(crate) fn cpu_time() -> io::Result<Duration> {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: `usage` is a valid place for an rusage, which the call fills, and which is valid zeroed as well.
    let usage = unsafe {
        if libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr()) != 0 {
            return Err(io::Error::last_os_error());
        }
        usage.assume_init()
    };
    let time = |of: libc::timeval| Duration::new(of.tv_sec.unsigned_abs(), of.tv_usec.unsigned_abs() as u32 * 1000);
    Ok(time(usage.ru_utime) + time(usage.ru_stime))
}

/// Blocks from this size on have a mapping of their own, which ends when they are freed. By itself glibc raises its bound to
/// the largest block that it saw freed, and then cuts all others from the heap.
///
/// Who sets that bound loses the other one that glibc would raise with it: what is free at the heap's end is given to the kernel
/// from 128 KiB on, and records of a stream that are written and freed together would be so again and again.
pub(crate) fn return_large_blocks() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it sets numbers of the allocator's; other threads may allocate meanwhile.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, 512 * 1024);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 4 * 1024 * 1024);
    }
}

/// Gives free heap back to the kernel.
pub(crate) fn release_freed() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it frees what is free already; other threads may allocate meanwhile.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Gives free heap back to the kernel, and the mapped pages of this program's code and constants.
///
/// Linux maps code in pieces of 64 KiB around each page that is executed, and counts them as resident for good. What is
/// needed again is mapped again at its next use, from the page cache, at the cost of a minor fault.
pub(crate) fn give_back() {
    release_freed();
    let (Ok(own), Ok(maps)) = (fs::read_link("/proc/self/exe"), fs::read_to_string("/proc/self/maps")) else { return };
    let own = own.to_string_lossy();
    maps.lines().filter_map(|line| unwritten(line, &own)).for_each(|(start, end)| release(start, end));
}

/// The range of a mapping of `program` whose pages are as they are in the file: code, and the constants in front of it.
/// Constants behind it hold addresses that were filled in when the program was loaded.
fn unwritten(line: &str, program: &str) -> Option<(usize, usize)> {
    let mut fields = line.split_ascii_whitespace();
    let (range, permissions, offset) = (fields.next()?, fields.next()?, fields.next()?);
    let is_program = fields.nth(2)? == program;
    let as_loaded = permissions == "r-xp" || (permissions == "r--p" && offset.bytes().all(|digit| digit == b'0'));
    let (start, end) = range.split_once('-')?;
    let range = (usize::from_str_radix(start, 16).ok()?, usize::from_str_radix(end, 16).ok()?);
    (is_program && as_loaded).then_some(range)
}

fn release(start: usize, end: usize) {
    // SAFETY: the range is a private file mapping of this process that is not writable, so no page of it differs from the
    // file: a page that is dropped comes back with the same bytes. Nothing unmaps a program's own code while it runs.
    unsafe { libc::madvise(start as *mut libc::c_void, end - start, libc::MADV_DONTNEED) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_as_it_was_loaded_is_given_back() {
        let own = "/usr/bin/remora-proxy";
        let mapping = |permissions: &str, offset: &str, path: &str| {
            unwritten(&format!("1000-3000 {permissions} {offset} fe:00 99   {path}"), own)
        };
        assert_eq!(mapping("r-xp", "00002000", own), Some((0x1000, 0x3000)));
        assert_eq!(mapping("r--p", "00000000", own), Some((0x1000, 0x3000)));
        assert_eq!(mapping("r--p", "00009000", own), None, "addresses were filled in there");
        assert_eq!(mapping("rw-p", "00009000", own), None);
        assert_eq!(mapping("r-xp", "00000000", "/usr/lib/libc.so.6"), None);
        assert_eq!(unwritten("7000-8000 rw-p 00000000 00:00 0", own), None);
    }

    #[test]
    fn the_program_runs_on_without_them() {
        give_back();
        assert_eq!(format!("{:?}", [1.5, 2.5]), "[1.5, 2.5]");
    }
}
