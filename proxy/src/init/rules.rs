//! What the rules are. In: [`InitArgs`]. Out: [`Ruleset`], plain values that [`super::encode`] turns into messages and
//! `Display` into nftables text. Does not: know netlink.
//!
//! A connection walks its chain from the top; the first verdict wins, and the last rule redirects what is left.
//! nat chains see only the first packet of a connection, so rules cost nothing per packet.

use super::args::{InitArgs, PortRange};
use ipnet::IpNet;
use std::fmt;

/// The name of our table, in whichever family.
pub(super) const TABLE: &str = "remora";

/// The index that Linux gives to `lo` in every network namespace.
pub(super) const LOOPBACK_INDEX: u32 = 1;

/// The family of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    /// IPv4 and IPv6.
    Inet,
    Ipv4,
    Ipv6,
}

impl Family {
    /// As nftables writes it.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Inet => "inet",
            Self::Ipv4 => "ip",
            Self::Ipv6 => "ip6",
        }
    }

    const fn carries(self, net: &IpNet) -> bool {
        matches!((self, net), (Self::Inet, _) | (Self::Ipv4, IpNet::V4(_)) | (Self::Ipv6, IpNet::V6(_)))
    }
}

/// Where a chain sees connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hook {
    /// Coming from outside the pod.
    Prerouting,
    /// Made inside the pod.
    Output,
}

/// One condition of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Match {
    /// The packet is TCP.
    Tcp,
    /// The TCP destination port; only after [`Match::Tcp`].
    DestinationPort(PortRange),
    /// The destination address.
    Destination(IpNet),
    /// The socket belongs to this user.
    SocketUid(u32),
    /// The packet leaves through `lo`: the pod talks to itself.
    OutLoopback,
}

/// What becomes of a connection that meets all conditions of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// It goes where it was going.
    Accept,
    /// It is counted and goes to this port of ours.
    Redirect(u16),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) matches: Vec<Match>,
    pub(super) action: Action,
    /// Shown by `nft list ruleset`, for who wonders why.
    pub(super) comment: &'static str,
}

impl Rule {
    fn tcp(more: Option<Match>, action: Action, comment: &'static str) -> Self {
        Self { matches: std::iter::once(Match::Tcp).chain(more).collect(), action, comment }
    }

    fn accept(matches: Match, comment: &'static str) -> Self {
        Self { matches: vec![matches], action: Action::Accept, comment }
    }

    fn skip_port(ports: PortRange, comment: &'static str) -> Self {
        Self::tcp(Some(Match::DestinationPort(ports)), Action::Accept, comment)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Chain {
    pub(super) name: &'static str,
    pub(super) hook: Hook,
    pub(super) rules: Vec<Rule>,
}

/// All rules of one table; its `Display` is nftables text that replaces the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ruleset {
    pub(super) family: Family,
    pub(super) chains: [Chain; 2],
}

impl Ruleset {
    pub(super) fn new(args: &InitArgs, family: Family) -> Self {
        Self { family, chains: [inbound(args), outbound(args, family)] }
    }
}

fn inbound(args: &InitArgs) -> Chain {
    let mut rules = vec![
        Rule::skip_port(PortRange::one(args.inbound_port), "the proxy's inbound listener"),
        Rule::skip_port(PortRange::one(args.admin_port), "the proxy's admin server"),
    ];
    rules.extend(args.skip_inbound_ports.iter().map(|ports| Rule::skip_port(ports.clone(), "skipped inbound ports")));
    rules.push(Rule::tcp(None, Action::Redirect(args.inbound_port), "inbound tcp to the proxy"));
    Chain { name: "inbound", hook: Hook::Prerouting, rules }
}

fn outbound(args: &InitArgs, family: Family) -> Chain {
    let mut rules = vec![
        Rule::accept(Match::SocketUid(args.proxy_uid), "the proxy itself"),
        Rule::accept(Match::OutLoopback, "within the pod"),
    ];
    let subnets = args.skip_subnets.iter().filter(|net| family.carries(net));
    rules.extend(subnets.map(|net| Rule::accept(Match::Destination(*net), "skipped subnets")));
    rules.extend(args.skip_outbound_ports.iter().map(|ports| Rule::skip_port(ports.clone(), "skipped outbound ports")));
    rules.push(Rule::tcp(None, Action::Redirect(args.outbound_port), "outbound tcp to the proxy"));
    Chain { name: "outbound", hook: Hook::Output, rules }
}

impl fmt::Display for Ruleset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let family = self.family.name();
        writeln!(f, "table {family} {TABLE}\ndelete table {family} {TABLE}\ntable {family} {TABLE} {{")?;
        for chain in &self.chains {
            let hook = match chain.hook {
                Hook::Prerouting => "prerouting",
                Hook::Output => "output",
            };
            writeln!(f, "\tchain {} {{\n\t\ttype nat hook {hook} priority -100; policy accept;", chain.name)?;
            for rule in &chain.rules {
                writeln!(f, "\t\t{rule}")?;
            }
            writeln!(f, "\t}}")?;
        }
        writeln!(f, "}}")
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for condition in &self.matches {
            match condition {
                Match::Tcp => write!(f, "meta l4proto tcp ")?,
                Match::DestinationPort(ports) => write!(f, "th dport {ports} ")?,
                Match::Destination(net @ IpNet::V4(_)) => write!(f, "ip daddr {net} ")?,
                Match::Destination(net @ IpNet::V6(_)) => write!(f, "ip6 daddr {net} ")?,
                Match::SocketUid(uid) => write!(f, "meta skuid {uid} ")?,
                Match::OutLoopback => write!(f, "oif \"lo\" ")?,
            }
        }
        match self.action {
            Action::Accept => write!(f, "accept")?,
            Action::Redirect(port) => write!(f, "counter redirect to :{port}")?,
        }
        write!(f, " comment \"{}\"", self.comment)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use clap::Parser as _;

    use super::*;

    pub(in super::super) fn args(words: &[&str]) -> InitArgs {
        super::super::Command::parse_from(std::iter::once(&"init").chain(words)).args
    }

    #[test]
    fn the_text_names_every_rule_in_order() {
        let all = args(&[
            "--skip-inbound-ports=22,9000-9009",
            "--skip-outbound-ports=3306",
            "--skip-subnets=10.96.0.0/12,fd00::/8",
        ]);
        let text = Ruleset::new(&all, Family::Inet).to_string();
        let expected = r#"table inet remora
delete table inet remora
table inet remora {
	chain inbound {
		type nat hook prerouting priority -100; policy accept;
		meta l4proto tcp th dport 4143 accept comment "the proxy's inbound listener"
		meta l4proto tcp th dport 4191 accept comment "the proxy's admin server"
		meta l4proto tcp th dport 22 accept comment "skipped inbound ports"
		meta l4proto tcp th dport 9000-9009 accept comment "skipped inbound ports"
		meta l4proto tcp counter redirect to :4143 comment "inbound tcp to the proxy"
	}
	chain outbound {
		type nat hook output priority -100; policy accept;
		meta skuid 2102 accept comment "the proxy itself"
		oif "lo" accept comment "within the pod"
		ip daddr 10.96.0.0/12 accept comment "skipped subnets"
		ip6 daddr fd00::/8 accept comment "skipped subnets"
		meta l4proto tcp th dport 3306 accept comment "skipped outbound ports"
		meta l4proto tcp counter redirect to :4140 comment "outbound tcp to the proxy"
	}
}
"#;
        assert_eq!(text, expected);
    }

    #[test]
    fn a_table_of_one_family_has_the_subnets_of_that_family_only() {
        let nets = args(&["--skip-subnets=10.0.0.0/8,fd00::/8"]);
        assert!(!Ruleset::new(&nets, Family::Ipv4).to_string().contains("fd00"));
        assert!(!Ruleset::new(&nets, Family::Ipv6).to_string().contains("10.0.0.0"));
    }

    #[test]
    fn ports_that_collide_are_all_reported() {
        let mistakes = args(&["--inbound-port=4140", "--admin-port=0"]).check().unwrap_err();
        assert!(mistakes.contains("--outbound-port and --inbound-port are both 4140"), "{mistakes}");
        assert!(mistakes.contains("--admin-port is 0"), "{mistakes}");
    }
}
