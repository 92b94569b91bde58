//! How much memory this process may use. In: what the kernel shows in `/proc` and `/sys`. Out: bytes.

use crate::limits;
use std::{
    fs,
    path::{Path, PathBuf},
};

/// The limit of this process's cgroup (v2 or v1), or [`limits::MEMORY_DEFAULT_BYTES`] where there is none.
pub(crate) fn memory_limit() -> u64 {
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    limit_in(&own, Path::new("/sys/fs/cgroup"))
}

/// The least limit on the way from the group that `own` (`/proc/self/cgroup`) names to the top below `root`. In a container
/// the named group is the top itself, whatever it is called outside.
fn limit_in(own: &str, root: &Path) -> u64 {
    let limits = own.lines().filter_map(|line| {
        let mut fields = line.splitn(3, ':');
        let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        let (base, file) = match controllers {
            "" => (root.to_owned(), "memory.max"),
            _ if controllers.split(',').any(|name| name == "memory") => (root.join("memory"), "memory.limit_in_bytes"),
            _ => return None,
        };
        let below = PathBuf::from(path.trim_start_matches('/'));
        below.ancestors().filter_map(|at| read(&base.join(at).join(file))).min()
    });
    // v1 without a limit says nearly 2^63.
    limits.min().filter(|limit| *limit < 1 << 60).unwrap_or(limits::MEMORY_DEFAULT_BYTES)
}

fn read(file: &Path) -> Option<u64> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn limit(own: &str, files: &[(&str, &str)]) -> u64 {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        limit_in(own, root.path())
    }

    #[test]
    fn the_limit_is_the_containers_in_either_version_and_the_least_above_it() {
        assert_eq!(limit("0::/\n", &[("memory.max", "134217728\n")]), 128 * MIB);
        assert_eq!(limit("0::/pod/container\n", &[("memory.max", "134217728\n")]), 128 * MIB, "seen from inside");
        let nested = [("pod/container/memory.max", "max\n"), ("pod/memory.max", "67108864\n")];
        assert_eq!(limit("0::/pod/container\n", &nested), 64 * MIB);
        let v1 = "9:cpu:/x\n4:memory:/pod\n0::/\n";
        assert_eq!(limit(v1, &[("memory/pod/memory.limit_in_bytes", "134217728\n")]), 128 * MIB);
        assert_eq!(limit(v1, &[("memory/memory.limit_in_bytes", "268435456\n")]), 256 * MIB);
    }

    #[test]
    fn none_or_nonsense_is_the_default() {
        let v1 = "4:memory:/\n";
        for (own, files) in [
            ("", &[][..]),
            ("0::/\n", &[("memory.max", "max\n")]),
            ("0::/\n", &[("memory.max", "lots")]),
            (v1, &[("memory/memory.limit_in_bytes", "9223372036854771712\n")]),
            ("nonsense", &[("memory.max", "1")]),
        ] {
            assert_eq!(limit(own, files), limits::MEMORY_DEFAULT_BYTES, "{own:?} {files:?}");
        }
    }
}
