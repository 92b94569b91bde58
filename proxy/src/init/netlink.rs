//! The conversation with the kernel. In: [`Request`]s. Out: done or refused, and what the kernel has. Does not: know
//! what the rules mean.
//!
//! The kernel handles a request inside `sendmsg`, so that when it returns every answer is already queued: nothing
//! here waits for long, and no timeout is needed.

use super::{
    encode::Request,
    error::InitError,
    rules::{Family, TABLE},
};
use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily,
    nftables::{
        ChainAttribute, ChainMessage, NfTablesMessage, RuleAttribute, RuleMessage, TableAttribute, TableMessage,
    },
    none::ControlMessage,
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};
use std::io;

/// `NFNL_SUBSYS_NFTABLES`: whom a batch is for.
const SUBSYSTEM_NFTABLES: u16 = 10;
/// Bytes of one answer; the kernel fills at most 32 KiB of a dump at once.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// An open netlink socket to the netfilter subsystem of this network namespace.
pub(super) struct Netfilter {
    socket: Socket,
    sequence: u32,
}

impl Netfilter {
    pub(super) fn open() -> Result<Self, InitError> {
        let open = || {
            let mut socket = Socket::new(NETLINK_NETFILTER)?;
            socket.bind_auto()?;
            socket.connect(&SocketAddr::new(0, 0))?;
            // The kernel then repeats the header alone of a refused message.
            socket.set_cap_ack(true)?;
            Ok(socket)
        };
        Ok(Self { socket: open().map_err(InitError::Open)?, sequence: 0 })
    }

    /// Applies all requests, or none of them.
    pub(super) fn apply(&mut self, requests: Vec<Request>) -> Result<(), InitError> {
        const WHAT: &str = "the batch of rules";
        let begin = self.sequence + 1;
        let mut batch = Vec::new();
        self.append(&mut batch, NetfilterProtoFamily::Unspec, SUBSYSTEM_NFTABLES, ControlMessage::BatchBegin, 0);
        let last = requests.len().saturating_sub(1);
        let mut asked = Vec::new();
        for (index, request) in requests.into_iter().enumerate() {
            // One acknowledgement is enough: a batch is applied whole, and a refusal is always reported.
            let flags = request.flags | if index == last { NLM_F_ACK } else { 0 };
            self.append(&mut batch, family(request.family), 0, request.message, flags);
            asked.push(request.what);
        }
        self.append(&mut batch, NetfilterProtoFamily::Unspec, SUBSYSTEM_NFTABLES, ControlMessage::BatchEnd, 0);
        self.socket.send(&batch, 0).map_err(|source| match source.raw_os_error() {
            Some(libc::EPERM) => InitError::NotPermitted,
            _ => InitError::Send { what: WHAT, source },
        })?;
        let mut acknowledged = false;
        while let Some(answers) = self.receive(WHAT, libc::MSG_DONTWAIT)? {
            for answer in answers {
                let NetlinkPayload::Error(error) = answer.payload else { continue };
                if error.code.is_none() {
                    acknowledged = true;
                    continue;
                }
                let index = answer.header.sequence_number.checked_sub(begin + 1).map(|index| index as usize);
                return Err(refusal(index.and_then(|index| asked.get(index)), error.to_io()));
            }
        }
        if acknowledged { Ok(()) } else { Err(InitError::Unacknowledged) }
    }

    pub(super) fn has_our_table(&mut self, of: Family) -> Result<bool, InitError> {
        let tables = match self.dump("the list of tables", of, NfTablesMessage::GetTable(empty_table())) {
            Ok(tables) => tables,
            // The kernel lacks that family altogether.
            Err(InitError::Receive { source, .. }) if unsupported(&source) => return Ok(false),
            Err(error) => return Err(error),
        };
        Ok(tables.into_iter().any(|message| match message {
            NfTablesMessage::NewTable(table) => table.attributes.contains(&TableAttribute::Name(TABLE.to_owned())),
            _ => false,
        }))
    }

    /// The chains and the rules of our table, as the kernel has them, in their order.
    pub(super) fn read_back(&mut self, of: Family) -> Result<(Vec<ChainMessage>, Vec<RuleMessage>), InitError> {
        let name = ChainAttribute::Table(TABLE.to_owned());
        let get = NfTablesMessage::GetChain(ChainMessage { attributes: vec![] });
        let chains = self.dump("the list of chains", of, get)?.into_iter().filter_map(|message| match message {
            NfTablesMessage::NewChain(chain) if chain.attributes.contains(&name) => Some(chain),
            _ => None,
        });
        let chains = chains.collect();
        let name = RuleAttribute::Table(TABLE.to_owned());
        let get = NfTablesMessage::GetRule(RuleMessage { attributes: vec![name.clone()] });
        let rules = self.dump("the list of rules", of, get)?.into_iter().filter_map(|message| match message {
            NfTablesMessage::NewRule(rule) if rule.attributes.contains(&name) => Some(rule),
            _ => None,
        });
        Ok((chains, rules.collect()))
    }

    fn dump(
        &mut self,
        what: &'static str,
        of: Family,
        request: NfTablesMessage,
    ) -> Result<Vec<NfTablesMessage>, InitError> {
        let mut buffer = Vec::new();
        self.append(&mut buffer, family(of), 0, request, NLM_F_DUMP);
        self.socket.send(&buffer, 0).map_err(|source| InitError::Send { what, source })?;
        let mut found = Vec::new();
        loop {
            for answer in self.receive(what, 0)?.unwrap_or_default() {
                match answer.payload {
                    NetlinkPayload::Done(_) => return Ok(found),
                    NetlinkPayload::Error(error) if error.code.is_none() => {}
                    NetlinkPayload::Error(error) => return Err(refused_read(what, error.to_io())),
                    NetlinkPayload::InnerMessage(message) => {
                        if let NetfilterMessageInner::NfTables(message) = message.inner {
                            found.push(message);
                        }
                    }
                    _ => {}
                }
            }
        }
    }

    /// The messages of one datagram; `None` if there is none now and `flags` forbid to wait.
    fn receive(
        &self,
        what: &'static str,
        flags: libc::c_int,
    ) -> Result<Option<Vec<NetlinkMessage<NetfilterMessage>>>, InitError> {
        let mut buffer = Vec::with_capacity(ANSWER_BYTES_MAX);
        match self.socket.recv(&mut buffer, flags) {
            Ok(_) => decode(what, &buffer).map(Some),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(source) => Err(InitError::Receive { what, source }),
        }
    }

    fn append(
        &mut self,
        buffer: &mut Vec<u8>,
        family: NetfilterProtoFamily,
        resource: u16,
        message: impl Into<NetfilterMessageInner>,
        flags: u16,
    ) {
        self.sequence += 1;
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let message = NetfilterMessage::new(NetfilterHeader::new(family, 0, resource), message);
        let mut message = NetlinkMessage::new(header, NetlinkPayload::from(message));
        message.finalize();
        let start = buffer.len();
        buffer.resize(start + message.buffer_len(), 0);
        message.serialize(&mut buffer[start..]);
    }
}

fn empty_table() -> TableMessage {
    TableMessage { attributes: vec![] }
}

fn family(of: Family) -> NetfilterProtoFamily {
    match of {
        Family::Inet => NetfilterProtoFamily::Inet,
        Family::Ipv4 => NetfilterProtoFamily::IPv4,
        Family::Ipv6 => NetfilterProtoFamily::IPv6,
    }
}

/// All messages of a datagram; each starts at a multiple of four bytes.
pub(super) fn decode(what: &'static str, datagram: &[u8]) -> Result<Vec<NetlinkMessage<NetfilterMessage>>, InitError> {
    let mut messages = Vec::new();
    let mut rest = datagram;
    while !rest.is_empty() {
        let message = NetlinkMessage::deserialize(rest).map_err(|source| InitError::Decode { what, source })?;
        // A message is at least its header, which `deserialize` has checked; so this loop ends.
        let len = (message.header.length as usize).next_multiple_of(4).max(1);
        rest = rest.get(len..).unwrap_or_default();
        messages.push(message);
    }
    Ok(messages)
}

/// What the kernel's errno to a message of the batch means; `what` is none for the batch itself.
fn refusal(what: Option<&String>, error: io::Error) -> InitError {
    match (error.raw_os_error(), what) {
        (Some(libc::EPERM), _) => InitError::NotPermitted,
        (_, None) if unsupported(&error) => InitError::NoNftables,
        // ENOENT to a creation: the module behind the chain type or the expression is missing.
        (code, Some(what)) if !what.starts_with("delete") && (unsupported(&error) || code == Some(libc::ENOENT)) => {
            InitError::NatUnsupported(error)
        }
        (_, what) => InitError::Refused {
            what: what.cloned().unwrap_or_else(|| "take the batch of rules".to_owned()),
            source: error,
        },
    }
}

fn refused_read(what: &'static str, error: io::Error) -> InitError {
    match error.raw_os_error() {
        Some(libc::EPERM) => InitError::NotPermitted,
        _ => InitError::Receive { what, source: error },
    }
}

fn unsupported(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EAFNOSUPPORT | libc::EPROTONOSUPPORT))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_errno_is_told_as_what_to_do() {
        let refusal = |what: Option<&str>, code| {
            refusal(what.map(String::from).as_ref(), io::Error::from_raw_os_error(code)).to_string()
        };
        assert!(refusal(None, libc::EPERM).contains("NET_ADMIN"));
        assert!(refusal(None, libc::EOPNOTSUPP).contains("modprobe nf_tables"));
        assert!(refusal(Some("create the nat chain"), libc::ENOENT).contains("nft_chain_nat"));
        assert!(refusal(Some("delete table"), libc::EBUSY).contains("refused to delete table"));
    }

    #[test]
    fn a_truncated_answer_is_an_error_and_no_panic() {
        for len in 1..20 {
            assert!(decode("x", &vec![0xff; len]).is_err(), "{len}");
        }
    }
}
