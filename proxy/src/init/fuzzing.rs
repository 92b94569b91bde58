//! Fuzz targets of `init`. In: what the kernel answers, or what the flags say. Out: nothing, or a panic. Does not: open a socket.

use super::{
    InitArgs,
    encode::replace,
    netlink::decode,
    rules::{Family, Ruleset},
    verify::compare,
};
use crate::init::args::PortRange;
use netlink_packet_core::{NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily, nftables::NfTablesMessage,
};

/// The least that a message takes: its header.
const HEADER_BYTES: usize = 16;

/// An answer is read to its end or refused, and what was read can be compared with what was asked for.
///
/// Limitation: no answer with a chain or a rule in it is tried. netlink-packet-netfilter 0.4 reads what is nested in their
/// attributes without looking at its length and panics; the kernel, which nobody else speaks for, does not send such, and `init`
/// would fail either way. [`init_settings`] has chains and rules.
pub fn netlink_answers(data: &[u8]) {
    if is_nested(data) {
        return;
    }
    let Ok(messages) = decode("fuzzing", data) else { return };
    assert!(messages.len() <= data.len().div_ceil(HEADER_BYTES), "{} of {} bytes", messages.len(), data.len());
    let (mut chains, mut rules) = (Vec::new(), Vec::new());
    for message in messages {
        let NetlinkPayload::InnerMessage(message) = message.payload else { continue };
        match message.inner {
            NetfilterMessageInner::NfTables(NfTablesMessage::NewChain(chain)) => chains.push(chain),
            NetfilterMessageInner::NfTables(NfTablesMessage::NewRule(rule)) => rules.push(rule),
            _ => {}
        }
    }
    if let Err(error) = compare(&Ruleset::new(&args(), Family::Inet), &chains, &rules) {
        assert!(!error.to_string().is_empty());
    }
}

/// Whether a message of a datagram is about more than a table.
fn is_nested(mut data: &[u8]) -> bool {
    while let [a, b, c, d, kind, subsystem, ..] = data {
        let table = *subsystem == 10 && *kind <= 2;
        if *subsystem != 0 && !table {
            return true;
        }
        let length = u32::from_ne_bytes([*a, *b, *c, *d]) as usize;
        data = data.get(length.next_multiple_of(4).max(1)..).unwrap_or_default();
    }
    false
}

/// What the flags name is written as it is meant, and the rules that are sent are the rules that are read back.
pub fn init_settings(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let mut args = args();
    for word in text.split(['\n', ',']) {
        if let Ok(ports) = word.parse::<PortRange>() {
            assert_eq!(ports.to_string().parse(), Ok(ports.clone()), "{word:?}");
            assert!(0 < ports.first() && ports.first() <= ports.last());
            args.skip_inbound_ports.push(ports.clone());
            args.skip_outbound_ports.push(ports);
        }
        if let Ok(net) = super::args::subnet(word) {
            assert_eq!(super::args::subnet(&net.to_string()), Ok(net), "{word:?}");
            args.skip_subnets.push(net);
        }
    }
    for family in [Family::Inet, Family::Ipv4, Family::Ipv6] {
        let ruleset = Ruleset::new(&args, family);
        assert_eq!(ruleset.to_string().lines().filter(|line| line.contains("comment")).count(), {
            ruleset.chains.iter().map(|chain| chain.rules.len()).sum::<usize>()
        });
        let (mut chains, mut rules) = (Vec::new(), Vec::new());
        for request in replace(&ruleset) {
            match read_back(request.message) {
                NfTablesMessage::NewChain(chain) => chains.push(chain),
                NfTablesMessage::NewRule(rule) => rules.push(rule),
                _ => {}
            }
        }
        compare(&ruleset, &chains, &rules).expect("the kernel reads what was meant");
    }
}

/// A message on its way through bytes.
fn read_back(message: NfTablesMessage) -> NfTablesMessage {
    let header = NetfilterHeader::new(NetfilterProtoFamily::Inet, 0, 0);
    let payload = NetlinkPayload::from(NetfilterMessage::new(header, message));
    let mut message = NetlinkMessage::new(NetlinkHeader::default(), payload);
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    let mut read = decode("fuzzing", &bytes).expect("what we write we read");
    assert_eq!(read.len(), 1);
    match read.remove(0).payload {
        NetlinkPayload::InnerMessage(NetfilterMessage { inner: NetfilterMessageInner::NfTables(message), .. }) => {
            message
        }
        other => panic!("it became {other:?}"),
    }
}

fn args() -> InitArgs {
    InitArgs {
        inbound_port: 4143,
        outbound_port: 4140,
        admin_port: 4191,
        proxy_uid: 2102,
        skip_inbound_ports: Vec::new(),
        skip_outbound_ports: Vec::new(),
        skip_subnets: Vec::new(),
        undo: false,
        print: false,
    }
}
