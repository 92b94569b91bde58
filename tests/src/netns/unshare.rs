//! How a test program gets its namespaces. In: the program's tests. Out: its exit code. Does not: need root where
//! user namespaces with a range of uids are allowed.
//!
//! Asked by `REMORA_NETNS=1`, the program starts itself again under `unshare` with network, mount and process
//! namespaces (and a user namespace, if it is not root) and runs its tests there, one after another. Unavailable is
//! not passed: if the namespaces cannot be had, it fails and says what is missing, unless `REMORA_SKIP=netns`.

use super::roles;
use anyhow::{Context as _, bail, ensure};
use std::{
    ffi::OsString,
    fs::Permissions,
    os::unix::fs::PermissionsExt as _,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    time::Instant,
};

/// Set for the copy of the program that runs inside.
const INSIDE: &str = "REMORA_NETNS_INSIDE";
/// A file system of the program's own, where every user may read: the build folder may be closed to others.
const STAGE: &str = "/mnt";
/// Where temporary files lie, for the same reason.
const TEMPORARY: &str = "/mnt/tmp";
/// The programs that the harness itself needs, and the Debian package of each.
const TOOLS: [(&str, &str); 5] = [
    ("unshare", "util-linux"),
    ("nsenter", "util-linux"),
    ("setpriv", "util-linux"),
    ("mount", "mount"),
    ("ip", "iproute2"),
];

/// The name of this test program on the stage.
const OWN: &str = "test";

/// A test: its name, which is its claim, and what it does.
pub type Test = (&'static str, fn() -> anyhow::Result<()>);

/// The `main` of a test program of network-namespace tests.
pub fn run(tests: &[Test]) -> ExitCode {
    let mut args = std::env::args_os().skip(1).peekable();
    if args.next_if(|arg| arg == "--role").is_some() {
        return roles::play(args);
    }
    let args: Vec<OsString> = args.collect();
    let outcome = if is("REMORA_SKIP", "netns") {
        println!("netns tests SKIPPED because of REMORA_SKIP=netns: nothing was tested");
        Ok(true)
    } else if !is("REMORA_NETNS", "1") {
        println!("netns tests not run: set REMORA_NETNS=1 (needs root or user namespaces)");
        Ok(true)
    } else if std::env::var_os(INSIDE).is_some() {
        prepare().map(|()| run_all(tests, &args))
    } else {
        enter(&args)
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}\nREMORA_SKIP=netns skips these tests");
            ExitCode::FAILURE
        }
    }
}

fn is(name: &str, value: &str) -> bool {
    std::env::var_os(name).is_some_and(|set| set.to_string_lossy().split(',').any(|word| word == value))
}

/// Starts this program again inside new namespaces; true if its tests passed.
fn enter(args: &[OsString]) -> anyhow::Result<bool> {
    for (tool, package) in TOOLS {
        let found = Command::new(tool).arg("--version").output().is_ok();
        ensure!(found, "netns tests need the program {tool}: apt-get install {package}");
    }
    let mut flags = vec!["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"];
    if !is_root()? {
        // Tests run programs as several users, so one mapped uid is not enough.
        flags.extend(["--map-root-user", "--map-auto"]);
    }
    let probe = Command::new("unshare").args(&flags).arg("true").output().context("running unshare")?;
    if !probe.status.success() {
        bail!(
            "cannot make namespaces ({}): run as root with CAP_SYS_ADMIN and CAP_NET_ADMIN, or allow user namespaces \
             (sysctl kernel.unprivileged_userns_clone=1, kernel.apparmor_restrict_unprivileged_userns=0) and install \
             uidmap with a range for your user in /etc/subuid and /etc/subgid",
            String::from_utf8_lossy(&probe.stderr).trim()
        );
    }
    let own = std::env::current_exe().context("finding this test program")?;
    let mut inside = Command::new("unshare");
    let status = inside.args(&flags).arg(own).args(args).env(INSIDE, "1").env("TMPDIR", TEMPORARY).status();
    Ok(status.context("running unshare")?.success())
}

fn is_root() -> anyhow::Result<bool> {
    use std::os::unix::fs::MetadataExt as _;
    Ok(std::fs::metadata("/proc/self").context("reading /proc/self")?.uid() == 0)
}

/// Makes the new namespaces usable: a place for named network namespaces that nobody else sees, one for files that
/// every user may read, and `lo` up.
fn prepare() -> anyhow::Result<()> {
    // A kernel that keeps nf_tables as a module loads it on first use only for real root.
    std::fs::create_dir_all("/run/netns").context("making /run/netns")?;
    let mounts = ["mount -t tmpfs netns /run/netns", "mount -t tmpfs -o mode=755 stage /mnt"];
    for words in mounts.into_iter().chain(["ip link set lo up"]) {
        let mut words = words.split(' ');
        let program = words.next().unwrap_or_default();
        let output = Command::new(program).args(words).output().with_context(|| format!("running {program}"))?;
        ensure!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    std::fs::create_dir(TEMPORARY).context("making a folder for temporary files")?;
    std::fs::set_permissions(TEMPORARY, Permissions::from_mode(0o1777))?;
    stage(&std::env::current_exe().context("finding this test program")?, OWN).map(drop)
}

/// This test program, where every user may run it.
pub(super) fn own_program() -> PathBuf {
    Path::new(STAGE).join(OWN)
}

/// Copies a program, once, to where every user may run it.
pub(super) fn stage(program: &Path, name: &str) -> anyhow::Result<PathBuf> {
    let staged = Path::new(STAGE).join(name);
    if !staged.exists() {
        std::fs::copy(program, &staged).with_context(|| format!("copying {}", program.display()))?;
        std::fs::set_permissions(&staged, Permissions::from_mode(0o755))?;
    }
    Ok(staged)
}

/// Runs the tests whose names contain one of the words, or all; true if all passed.
fn run_all(tests: &[Test], args: &[OsString]) -> bool {
    let words: Vec<_> = args.iter().map(|arg| arg.to_string_lossy()).filter(|arg| !arg.starts_with('-')).collect();
    let chosen = tests.iter().filter(|(name, _)| words.is_empty() || words.iter().any(|word| name.contains(&**word)));
    let (mut passed, mut failed) = (0, Vec::new());
    for (name, test) in chosen {
        let start = Instant::now();
        let outcome = catch_unwind(AssertUnwindSafe(test)).unwrap_or_else(|_| Err(anyhow::anyhow!("panicked")));
        let took = start.elapsed().as_secs_f32();
        match outcome {
            Ok(()) => {
                passed += 1;
                println!("test {name} ... ok ({took:.1} s)");
            }
            Err(error) => {
                println!("test {name} ... FAILED ({took:.1} s)\n    {error:#}");
                failed.push(name);
            }
        }
    }
    println!("\ntest result: {passed} passed; {} failed {failed:?}", failed.len());
    failed.is_empty()
}
