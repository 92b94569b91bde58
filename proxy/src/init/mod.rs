//! `remora-proxy init`: the redirect rules of a pod. In: flags. Out: nftables rules in this network namespace.
//!
//! [`rules`] decides what the rules are (pure), [`encode`] says it in netlink messages (pure), [`netlink`] sends one
//! atomic batch and reads back, [`verify`] compares the two (pure). Neither `nft` nor `iptables` is needed.
//! Running it again leaves the same rules; `--undo` removes them. Does not touch any table but its own, routes,
//! or sysctls, and does not redirect UDP.

mod args;
mod encode;
mod error;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod netlink;
mod rules;
mod verify;

pub(crate) use args::InitArgs;
pub(crate) use error::InitError;
pub(crate) use rules::Ruleset;

use self::{netlink::Netfilter, rules::Family};
use clap::Parser as _;
use std::{ffi::OsString, io, process::ExitCode};

/// The exit code of bad arguments (`EX_USAGE` of sysexits.h).
const EXIT_USAGE: u8 = 64;

#[derive(Debug, clap::Parser)]
#[command(name = "remora-proxy init", about = "Install the rules that redirect a pod's TCP traffic to its proxy")]
struct Command {
    #[command(flatten)]
    args: InitArgs,
}

/// Runs `init` with the arguments that follow the word `init`, and says what happened on stdout and stderr.
///
/// Exits with 0 when the rules are in force (or gone, with `--undo`), 64 on bad arguments and 1 on any failure,
/// which leaves the namespace as it was.
pub fn main(args: impl Iterator<Item = OsString>) -> ExitCode {
    let command = match Command::try_parse_from(std::iter::once(OsString::from("remora-proxy init")).chain(args)) {
        Ok(command) => command,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(EXIT_USAGE) } else { ExitCode::SUCCESS };
        }
    };
    match run(&command.args) {
        Ok(done) => {
            println!("{done}");
            ExitCode::SUCCESS
        }
        Err(error @ InitError::BadArguments(_)) => {
            eprintln!("error: {error}");
            ExitCode::from(EXIT_USAGE)
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Installs, prints or removes the rules, and returns one line (or, with `--print`, the rules) for people.
pub(crate) fn run(args: &InitArgs) -> Result<String, InitError> {
    args.check().map_err(InitError::BadArguments)?;
    if args.print {
        return Ok(Ruleset::new(args, Family::Inet).to_string().trim_end().to_owned());
    }
    if args.undo {
        return undo();
    }
    for plan in plans() {
        let rulesets: Vec<Ruleset> = plan.iter().map(|family| Ruleset::new(args, *family)).collect();
        match install(&rulesets) {
            Ok(()) => return Ok(summary(args, plan)),
            Err(InitError::NatUnsupported(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Err(InitError::NatUnsupported(io::Error::from_raw_os_error(libc::EOPNOTSUPP)))
}

/// The ways to cover IPv4 and IPv6, best first: one `inet` table, or (nat in `inet` came with Linux 5.2) one table
/// per family. A kernel without IPv6 has no IPv6 traffic to redirect.
fn plans() -> [&'static [Family]; 2] {
    let has_ipv6 = std::path::Path::new("/proc/net/if_inet6").exists();
    [&[Family::Inet], if has_ipv6 { &[Family::Ipv4, Family::Ipv6] } else { &[Family::Ipv4] }]
}

fn install(rulesets: &[Ruleset]) -> Result<(), InitError> {
    let mut netfilter = Netfilter::open()?;
    netfilter.apply(rulesets.iter().flat_map(encode::replace).collect())?;
    for ruleset in rulesets {
        let (chains, rules) = netfilter.read_back(ruleset.family)?;
        verify::compare(ruleset, &chains, &rules)?;
    }
    Ok(())
}

fn undo() -> Result<String, InitError> {
    let mut netfilter = Netfilter::open()?;
    let mut removed = Vec::new();
    for family in [Family::Inet, Family::Ipv4, Family::Ipv6] {
        if netfilter.has_our_table(family)? {
            removed.push(family);
        }
    }
    if removed.is_empty() {
        return Ok(format!("nothing to undo: there is no table {}", rules::TABLE));
    }
    netfilter.apply(removed.iter().map(|family| encode::delete(*family)).collect())?;
    for family in &removed {
        if netfilter.has_our_table(*family)? {
            return Err(InitError::StillThere { family: family.name() });
        }
    }
    Ok(format!("removed {}", table_names(&removed)))
}

fn summary(args: &InitArgs, plan: &[Family]) -> String {
    format!(
        "installed and verified {}: inbound tcp to port {}, outbound tcp to port {}, except of uid {}",
        table_names(plan),
        args.inbound_port,
        args.outbound_port,
        args.proxy_uid
    )
}

fn table_names(families: &[Family]) -> String {
    families.iter().map(|family| format!("table {} {}", family.name(), rules::TABLE)).collect::<Vec<_>>().join(" and ")
}
