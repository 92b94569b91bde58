//! A fleet's worth of pods whose root is replaced in one write, again and again, while replicas of the CA are killed by chance.
//!
//! ```text
//!  200 workload clients ─► service (forwards to whichever replica runs) ─► 3 × identity ─► issuer/ (the operator's), state/ (theirs)
//!     └── each to each: a TLS handshake over a pipe, 200 times a second
//! ```
//!
//! A pod here is what of it takes part: the real client that renews the certificate and follows the bundle, and real TLS with what it
//! holds. Replicas are processes of their own. What the operator writes is what cert-manager and kubelet do: the three files are replaced
//! at once, by a link.

mod pods;
mod replicas;

use crate::{pki::Root, report::Report};
use anyhow::Context as _;
use pods::Pods;
use remora_tests::local::Mesh;
use replicas::Replicas;
use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How long it lasts
    #[arg(long = "for", default_value = "20m", value_parser = crate::duration, value_name = "TIME")]
    time: Duration,
    /// How many pods
    #[arg(long, default_value_t = 200)]
    pods: u16,
    /// How often the root is replaced
    #[arg(long, default_value = "2m", value_parser = crate::duration, value_name = "TIME")]
    roots: Duration,
    /// How many replicas of the CA
    #[arg(long, default_value_t = 3)]
    replicas: u8,
}

/// How long certificates live.
const LIFE: Duration = Duration::from_secs(20);
/// Between two looks at what is due.
const LOOK: Duration = Duration::from_millis(100);
/// The anchors that a proxy reads.
const ANCHORS_MAX: usize = 64;

pub(crate) fn run(args: &Args) -> anyhow::Result<Report> {
    let mut report = Report::new("fleet");
    // For its tokens and their keys; its own CA serves nobody here.
    let mesh = Mesh::start(std::env::current_exe()?)?;
    let mut operator = Operator::new(mesh.dir().join("fleet-issuer"))?;
    let mut replicas = Replicas::start(&mesh, &operator.dir, args.replicas)?;
    let pods = Pods::start(&mesh, &operator.dir.join("ca.crt"), replicas.service(), args.pods)?;
    let (started, mut replaced) = (Instant::now(), Instant::now());
    while started.elapsed() < args.time {
        if replaced.elapsed() >= args.roots {
            replaced = Instant::now();
            operator.replace_root()?;
        }
        replicas.hurt()?;
        std::thread::park_timeout(LOOK);
    }
    report.took(started.elapsed());
    let seen = pods.finish();
    report.note("pods, replicas", format!("{}, {}", args.pods, args.replicas));
    report.note("roots replaced in one write", operator.roots - 1);
    report.note("replicas killed, all at once", format!("{}, {}", replicas.killed, replicas.killed_all));
    let wanted = 0.8 * args.time.as_secs_f64() / (LIFE / 3).as_secs_f64() * f64::from(args.pods);
    let renewals = seen.renewals as f64;
    report.check("certificates", renewals, format!("at least {wanted:.0}"), renewals >= wanted);
    let handshakes = format!("{}, {}", seen.handshakes, seen.failed);
    report.check("handshakes, failed", handshakes, "0 failed", seen.failed == 0 && seen.handshakes > 0);
    let anchors = seen.anchors_max;
    report.check("most anchors at a time", anchors, format!("at most {ANCHORS_MAX}"), anchors <= ANCHORS_MAX);
    // One that is replaced before its anchor is known to all never signs.
    let least = if args.roots > LIFE { operator.roots - 1 } else { 2 };
    let signed = format!("{} of {}", seen.roots, operator.roots);
    report.check("roots that have signed", signed, format!("at least {least}"), seen.roots >= least);
    report.failures(seen.told);
    Ok(report)
}

/// Who replaces the root.
struct Operator {
    dir: PathBuf,
    roots: usize,
}

impl Operator {
    fn new(dir: PathBuf) -> anyhow::Result<Self> {
        fs::create_dir(&dir)?;
        let mut operator = Self { dir, roots: 0 };
        operator.replace_root()?;
        for name in ["tls.crt", "tls.key", "ca.crt"] {
            symlink(Path::new("..data").join(name), operator.dir.join(name))?;
        }
        Ok(operator)
    }

    /// A new root alone, with an issuer of it, in one write: as kubelet places a Secret.
    fn replace_root(&mut self) -> anyhow::Result<()> {
        self.roots += 1;
        let root = Root::new(&format!("root {}", self.roots))?;
        let signer = root.signer(&format!("signer {}", self.roots))?;
        let (folder, link) = (format!("..{}", self.roots), self.dir.join("..new"));
        fs::create_dir(self.dir.join(&folder))?;
        for (name, pem) in signer.files(&root.pem) {
            fs::write(self.dir.join(&folder).join(name), pem)?;
        }
        symlink(&folder, &link)?;
        fs::rename(&link, self.dir.join("..data")).context("placing the new root")
    }
}
