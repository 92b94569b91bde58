//! Why `init` failed. Each text says what to do about it.

use netlink_packet_core::DecodeError;
use std::io;

/// Why the rules could not be installed or removed. Nothing has changed unless the variant says so.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InitError {
    /// The arguments contradict each other.
    #[error("bad arguments: {0}")]
    BadArguments(String),
    /// No netlink socket of the netfilter family.
    #[error(
        "cannot open a netfilter netlink socket: {0}; the kernel needs CONFIG_NETFILTER_NETLINK and the sandbox must allow AF_NETLINK"
    )]
    Open(#[source] io::Error),
    /// The kernel asks for a capability that this process lacks.
    #[error(
        "not permitted to change nftables in this network namespace: run as root there with the capability NET_ADMIN (in a pod: securityContext.capabilities.add: [NET_ADMIN] on the init container)"
    )]
    NotPermitted,
    /// The kernel has no nftables at all.
    #[error(
        "the kernel has no nftables: load the module nf_tables on the node (modprobe nf_tables), or use a kernel with CONFIG_NF_TABLES, or mesh this pod by the CNI mode"
    )]
    NoNftables,
    /// The kernel has nftables but lacks nat chains or the redirect expression in them.
    #[error(
        "the kernel's nftables cannot redirect ({0}): load the modules nft_chain_nat and nft_redir on the node, or use a kernel with CONFIG_NFT_NAT and CONFIG_NFT_REDIR"
    )]
    NatUnsupported(#[source] io::Error),
    /// A message could not be sent.
    #[error("sending {what} to the kernel: {source}")]
    Send {
        /// What was sent.
        what: &'static str,
        /// What the kernel said to the send itself.
        #[source]
        source: io::Error,
    },
    /// An answer could not be received.
    #[error("receiving the kernel's answer to {what}: {source}")]
    Receive {
        /// What was asked.
        what: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// An answer could not be understood.
    #[error("understanding the kernel's answer to {what}: {source}")]
    Decode {
        /// What was asked.
        what: &'static str,
        /// What is wrong with the message.
        #[source]
        source: DecodeError,
    },
    /// The kernel refused one message, and so the whole batch.
    #[error("the kernel refused to {what}: {source}")]
    Refused {
        /// What was asked, with its object.
        what: String,
        /// The errno of the answer.
        #[source]
        source: io::Error,
    },
    /// The batch was sent but the kernel acknowledged neither success nor failure.
    #[error("the kernel did not acknowledge the rules; look at them with: nft list ruleset")]
    Unacknowledged,
    /// The rules in force are not those that were installed.
    #[error(
        "the rules read back differ from those installed, in {place}: {difference}; does another program change nftables in this namespace?"
    )]
    Mismatch {
        /// Table, chain and rule.
        place: String,
        /// What differs.
        difference: String,
    },
    /// The table outlived its removal.
    #[error("table {family} remora is still there after its removal: another program installed it again")]
    StillThere {
        /// `inet`, `ip` or `ip6`.
        family: &'static str,
    },
}
