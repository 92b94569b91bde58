//! The flags of `init`. In: words. Out: [`InitArgs`], parsed and checked. Does not: touch the kernel.

use ipnet::IpNet;
use std::{fmt, net::IpAddr, ops::RangeInclusive, str::FromStr};

/// Entries of one skip list. Each becomes a rule that every new connection walks past, and all rules must fit one
/// netlink batch (about 200 KiB by default, some 300 bytes a rule).
const SKIP_ENTRIES_MAX: usize = 128;

/// What `init` is asked to do; the flags, with `REMORA_INIT_*` in the environment as their defaults.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct InitArgs {
    /// Port of the proxy's inbound listener, to which connections from outside the pod are redirected
    #[arg(long, env = "REMORA_INIT_INBOUND_PORT", default_value_t = 4143, value_name = "PORT")]
    pub inbound_port: u16,
    /// Port of the proxy's outbound listener, to which connections of the application are redirected
    #[arg(long, env = "REMORA_INIT_OUTBOUND_PORT", default_value_t = 4140, value_name = "PORT")]
    pub outbound_port: u16,
    /// Port of the proxy's admin server, never redirected
    #[arg(long, env = "REMORA_INIT_ADMIN_PORT", default_value_t = 4191, value_name = "PORT")]
    pub admin_port: u16,
    /// User id of the proxy; its own connections are never redirected
    #[arg(long, env = "REMORA_INIT_PROXY_UID", default_value_t = 2102, value_name = "UID")]
    pub proxy_uid: u32,
    /// Ports or ranges (22,9000-9099) of this pod that are reached directly
    #[arg(long, env = "REMORA_INIT_SKIP_INBOUND_PORTS", value_delimiter = ',', value_name = "PORTS")]
    pub skip_inbound_ports: Vec<PortRange>,
    /// Destination ports or ranges to which the application connects directly
    #[arg(long, env = "REMORA_INIT_SKIP_OUTBOUND_PORTS", value_delimiter = ',', value_name = "PORTS")]
    pub skip_outbound_ports: Vec<PortRange>,
    /// Destination subnets (10.96.0.0/12,fd00::/8) to which the application connects directly
    #[arg(long, env = "REMORA_INIT_SKIP_SUBNETS", value_delimiter = ',', value_name = "CIDRS", value_parser = subnet)]
    pub skip_subnets: Vec<IpNet>,
    /// Remove the rules
    #[arg(long)]
    pub undo: bool,
    /// Print the rules as nftables text (for `nft -f -`) and change nothing
    #[arg(long, conflicts_with = "undo")]
    pub print: bool,
}

impl InitArgs {
    /// What is wrong with the arguments together; each alone was checked by its parser.
    pub(crate) fn check(&self) -> Result<(), String> {
        let mut mistakes = Vec::new();
        let ports = [("inbound", self.inbound_port), ("outbound", self.outbound_port), ("admin", self.admin_port)];
        for (name, port) in ports {
            if port == 0 {
                mistakes.push(format!("--{name}-port is 0: give the port that the proxy really listens on"));
            }
        }
        for (index, (name, port)) in ports.iter().enumerate() {
            for (earlier, _) in ports[..index].iter().filter(|(_, other)| other == port) {
                mistakes.push(format!("--{name}-port and --{earlier}-port are both {port}: each listener has its own"));
            }
        }
        let lists = [
            ("skip-inbound-ports", self.skip_inbound_ports.len()),
            ("skip-outbound-ports", self.skip_outbound_ports.len()),
            ("skip-subnets", self.skip_subnets.len()),
        ];
        for (name, len) in lists {
            if len > SKIP_ENTRIES_MAX {
                mistakes.push(format!("--{name} has {len} entries, more than {SKIP_ENTRIES_MAX}: join them to ranges"));
            }
        }
        if mistakes.is_empty() { Ok(()) } else { Err(mistakes.join("; ")) }
    }
}

/// One or more neighbouring ports: `22` or `9000-9099`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PortRange(RangeInclusive<u16>);

impl PortRange {
    /// This port alone.
    pub(crate) const fn one(port: u16) -> Self {
        Self(port..=port)
    }

    /// The lowest port of the range.
    pub(crate) const fn first(&self) -> u16 {
        *self.0.start()
    }

    /// The highest port of the range.
    pub(crate) const fn last(&self) -> u16 {
        *self.0.end()
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.first(), self.last()) {
            (first, last) if first == last => write!(f, "{first}"),
            (first, last) => write!(f, "{first}-{last}"),
        }
    }
}

impl FromStr for PortRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let port = |word: &str| match word.trim().parse::<u16>() {
            Ok(0) | Err(_) => Err(format!("{word:?} is not a port: give 1 to 65535, or a range such as 9000-9099")),
            Ok(port) => Ok(port),
        };
        let (first, last) = match text.split_once('-') {
            Some((first, last)) => (port(first)?, port(last)?),
            None => (port(text)?, port(text)?),
        };
        if first > last {
            return Err(format!("the range {text} runs backwards: write {last}-{first}"));
        }
        Ok(Self(first..=last))
    }
}

/// A subnet in its canonical form (host bits cleared); an address alone is the subnet of just itself.
pub(super) fn subnet(text: &str) -> Result<IpNet, String> {
    let text = text.trim();
    let parsed = match text.parse::<IpAddr>() {
        Ok(address) => IpNet::from(address),
        Err(_) => text
            .parse::<IpNet>()
            .map_err(|_| format!("{text:?} is not a subnet: write it as 10.0.0.0/8 or fd00::/8"))?,
    };
    Ok(parsed.trunc())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_ranges_are_parsed_or_refused_with_the_reason() {
        for (text, expected) in [("22", Ok("22")), ("1-65535", Ok("1-65535")), (" 80 ", Ok("80"))] {
            assert_eq!(text.parse::<PortRange>().map(|range| range.to_string()), expected.map(String::from));
        }
        for (text, reason) in [("0", "not a port"), ("70000", "not a port"), ("", "not a port"), ("9-8", "backwards")] {
            assert!(text.parse::<PortRange>().unwrap_err().contains(reason), "{text}");
        }
    }

    #[test]
    fn subnets_lose_their_host_bits() {
        for (text, expected) in [("10.1.2.3/8", "10.0.0.0/8"), ("fd00::1", "fd00::1/128"), ("10.0.0.1", "10.0.0.1/32")]
        {
            assert_eq!(subnet(text).unwrap().to_string(), expected);
        }
        assert!(subnet("10.0.0.0/33").is_err());
    }
}
