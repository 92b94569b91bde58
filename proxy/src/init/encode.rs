//! The rules as netlink messages. In: [`Ruleset`]. Out: [`Request`]s for [`super::netlink`]. Does not: send them.
//!
//! nftables runs a small register machine: an expression loads a field of the packet into a register, another
//! compares the register and ends the rule if it differs, and the last ones act. Every rule uses register 1 alone.
//! Numbers are from the kernel's `include/uapi/linux/netfilter/nf_tables.h`.

use super::rules::{Action, Chain, Family, Hook, LOOPBACK_INDEX, Match, Rule, Ruleset, TABLE};
use ipnet::IpNet;
use netlink_packet_core::{DefaultNla, NLM_F_APPEND, NLM_F_CREATE};
use netlink_packet_netfilter::nftables::{
    Bitwise, ChainAttribute, ChainMessage, Cmp, DataAttribute, ExpressionAttribute, Expressions, Hook as NlHook,
    Immediate, InetHookNumber, ListAttribute, Meta, MetaKey, NfTablesMessage, Operator, Payload, Register,
    RuleAttribute, RuleMessage, TableAttribute, TableMessage, Verdict, VerdictAttribute,
};

/// `NF_ACCEPT`: as a base chain's policy and as a rule's verdict.
const NF_ACCEPT: u32 = 1;
/// `NF_IP_PRI_NAT_DST`, where nft's `dstnat` is.
const PRIORITY_DSTNAT: i32 = -100;
/// `NFT_PAYLOAD_NETWORK_HEADER` and `NFT_PAYLOAD_TRANSPORT_HEADER`.
const BASE_NETWORK: u32 = 1;
const BASE_TRANSPORT: u32 = 2;
/// `NFTA_REDIR_REG_PROTO_MIN`: the register with the port to redirect to.
const REDIR_REG_PROTO_MIN: u16 = 1;
/// `NFT_REG_1`.
const REGISTER_1: u32 = 1;
const NFPROTO_IPV4: u8 = 2;
const NFPROTO_IPV6: u8 = 10;
/// `NFTNL_UDATA_RULE_COMMENT`: where libnftnl keeps a comment in a rule's user data.
const UDATA_COMMENT: u8 = 0;

/// One message of a batch, and what it is for in words.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) family: Family,
    pub(super) message: NfTablesMessage,
    pub(super) flags: u16,
    pub(super) what: String,
}

/// Replaces the table, whether it is there or not: made (a no-op if there), deleted, made anew, filled.
pub(super) fn replace(ruleset: &Ruleset) -> Vec<Request> {
    let family = ruleset.family;
    let mut requests = vec![create_table(family), delete(family), create_table(family)];
    for chain in &ruleset.chains {
        requests.push(Request {
            family,
            message: NfTablesMessage::NewChain(ChainMessage { attributes: chain_attributes(chain) }),
            flags: NLM_F_CREATE,
            what: format!("create the nat chain {} in table {} {TABLE}", chain.name, family.name()),
        });
        requests.extend(chain.rules.iter().map(|rule| Request {
            family,
            message: NfTablesMessage::NewRule(RuleMessage { attributes: rule_attributes(chain, rule) }),
            flags: NLM_F_CREATE | NLM_F_APPEND,
            what: format!("add to chain {} of table {} {TABLE} the rule: {rule}", chain.name, family.name()),
        }));
    }
    requests
}

fn create_table(family: Family) -> Request {
    Request {
        family,
        message: NfTablesMessage::NewTable(our_table()),
        flags: NLM_F_CREATE,
        what: format!("create table {} {TABLE}", family.name()),
    }
}

/// Deletes the table, which must be there, with all that is in it.
pub(super) fn delete(family: Family) -> Request {
    Request {
        family,
        message: NfTablesMessage::DeleteTable(our_table()),
        flags: 0,
        what: format!("delete table {} {TABLE}", family.name()),
    }
}

fn our_table() -> TableMessage {
    TableMessage { attributes: vec![TableAttribute::Name(TABLE.to_owned())] }
}

/// What describes a chain, both in the request and in what the kernel says of it later.
pub(super) fn chain_attributes(chain: &Chain) -> Vec<ChainAttribute> {
    let hook = match chain.hook {
        Hook::Prerouting => InetHookNumber::PreRouting,
        Hook::Output => InetHookNumber::LocalOut,
    };
    vec![
        ChainAttribute::Table(TABLE.to_owned()),
        ChainAttribute::Name(chain.name.to_owned()),
        ChainAttribute::Hook(vec![NlHook::Number(hook.into()), NlHook::Priority(PRIORITY_DSTNAT.cast_unsigned())]),
        ChainAttribute::Policy(NF_ACCEPT),
        ChainAttribute::Type("nat".to_owned()),
    ]
}

fn rule_attributes(chain: &Chain, rule: &Rule) -> Vec<RuleAttribute> {
    vec![
        RuleAttribute::Table(TABLE.to_owned()),
        RuleAttribute::Chain(chain.name.to_owned()),
        RuleAttribute::Expressions(expressions(rule).into_iter().map(ListAttribute::from).collect()),
        RuleAttribute::UserData(comment(rule.comment)),
    ]
}

/// The program of a rule.
pub(super) fn expressions(rule: &Rule) -> Vec<Expressions> {
    let mut program = Vec::new();
    for condition in &rule.matches {
        match condition {
            Match::Tcp => {
                program.push(load_meta(MetaKey::L4Proto));
                program.push(compare(Operator::Equal, vec![libc::IPPROTO_TCP as u8]));
            }
            Match::DestinationPort(ports) if ports.first() == ports.last() => {
                program.push(load_destination_port());
                program.push(compare(Operator::Equal, ports.first().to_be_bytes().to_vec()));
            }
            Match::DestinationPort(ports) => {
                program.push(load_destination_port());
                program.push(compare(Operator::GreatherThanEqual, ports.first().to_be_bytes().to_vec()));
                program.push(compare(Operator::LessThanEqual, ports.last().to_be_bytes().to_vec()));
            }
            Match::Destination(net) => program.extend(destination_in(net)),
            Match::SocketUid(uid) => {
                program.push(load_meta(MetaKey::SocketUserId));
                program.push(compare(Operator::Equal, uid.to_ne_bytes().to_vec()));
            }
            Match::OutLoopback => {
                program.push(load_meta(MetaKey::Oif));
                program.push(compare(Operator::Equal, LOOPBACK_INDEX.to_ne_bytes().to_vec()));
            }
        }
    }
    match rule.action {
        Action::Accept => program.push(accept()),
        Action::Redirect(port) => {
            program.push(named("counter", Vec::new()));
            program.push(immediate(Register::Reg1, DataAttribute::Value(port.to_be_bytes().to_vec())));
            let register = DefaultNla::new(REDIR_REG_PROTO_MIN, REGISTER_1.to_be_bytes().to_vec());
            program.push(named("redir", vec![register]));
        }
    }
    program
}

/// The family is compared first: an `inet` chain sees both, and the header fields lie elsewhere.
fn destination_in(net: &IpNet) -> Vec<Expressions> {
    let (protocol, offset, mask, network) = match net {
        IpNet::V4(net) => (NFPROTO_IPV4, 16, net.netmask().octets().to_vec(), net.network().octets().to_vec()),
        IpNet::V6(net) => (NFPROTO_IPV6, 24, net.netmask().octets().to_vec(), net.network().octets().to_vec()),
    };
    let len = if protocol == NFPROTO_IPV4 { 4 } else { 16 };
    vec![
        load_meta(MetaKey::Nfproto),
        compare(Operator::Equal, vec![protocol]),
        load_payload(BASE_NETWORK, offset, len),
        Expressions::Bitwise(vec![
            Bitwise::SourceRegister(Register::Reg1),
            Bitwise::DestinationRegister(Register::Reg1),
            Bitwise::Length(len),
            Bitwise::Mask(DataAttribute::Value(mask.clone())),
            Bitwise::Xor(DataAttribute::Value(vec![0; mask.len()])),
        ]),
        compare(Operator::Equal, network),
    ]
}

/// Bytes 2 and 3 of a TCP header.
fn load_destination_port() -> Expressions {
    load_payload(BASE_TRANSPORT, 2, 2)
}

fn load_meta(key: MetaKey) -> Expressions {
    Expressions::Meta(vec![Meta::DestinationRegister(Register::Reg1), Meta::Key(key)])
}

fn load_payload(base: u32, offset: u32, len: u32) -> Expressions {
    Expressions::Payload(vec![
        Payload::DestinationRegister(Register::Reg1),
        Payload::Base(base),
        Payload::Offset(offset),
        Payload::Len(len),
    ])
}

fn compare(operator: Operator, value: Vec<u8>) -> Expressions {
    Expressions::Cmp(vec![
        Cmp::SourceRegister(Register::Reg1),
        Cmp::Op(operator),
        Cmp::Data(DataAttribute::Value(value)),
    ])
}

fn accept() -> Expressions {
    let verdict = VerdictAttribute::Code(Verdict::Other(NF_ACCEPT));
    immediate(Register::Verdict, DataAttribute::Verdict(vec![verdict]))
}

fn immediate(register: Register, data: DataAttribute) -> Expressions {
    Expressions::Immediate(vec![Immediate::DestinationRegister(register), Immediate::Data(data)])
}

fn named(name: &str, attributes: Vec<DefaultNla>) -> Expressions {
    Expressions::Other { expression_type: name.to_owned(), attributes }
}

/// A comment as libnftnl stores it: type, length, text and a zero byte.
fn comment(text: &str) -> Vec<u8> {
    let len = u8::try_from(text.len() + 1).expect("comments are literals of this module's neighbour, all short");
    [&[UDATA_COMMENT, len], text.as_bytes(), &[0]].concat()
}

/// The expression inside a list element as the kernel sends it.
pub(super) fn expression_of(element: &ListAttribute<ExpressionAttribute>) -> Option<&Expressions> {
    let ListAttribute::Element(attributes) = element else { return None };
    attributes.iter().find_map(|attribute| match attribute {
        ExpressionAttribute::Data(expression) => Some(expression),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use netlink_packet_core::Emitable as _;

    use super::{super::rules::tests::args, *};

    fn bytes(rule: &Rule) -> Vec<Vec<u8>> {
        let emit = |expression: Expressions| {
            let mut buffer = vec![0; expression.buffer_len()];
            expression.emit(&mut buffer);
            buffer
        };
        expressions(rule).into_iter().map(emit).collect()
    }

    fn rule(condition: Match) -> Rule {
        Rule { matches: vec![condition], action: Action::Accept, comment: "" }
    }

    /// As `nft --debug=netlink` and a capture of `nft add rule inet t c ip daddr 10.0.0.0/9 accept` have it,
    /// but for the shorter load that nft uses where a prefix ends at a byte.
    #[test]
    fn a_subnet_is_masked_and_compared_in_network_order() {
        let program = bytes(&rule(Match::Destination("10.128.0.0/9".parse().unwrap())));
        let expected: [&[u8]; 6] = [
            &[8, 0, 1, 0, 0, 0, 0, 1, 8, 0, 2, 0, 0, 0, 0, 15],
            &[8, 0, 1, 0, 0, 0, 0, 1, 8, 0, 2, 0, 0, 0, 0, 0, 12, 0, 3, 128, 5, 0, 1, 0, 2, 0, 0, 0],
            &[8, 0, 1, 0, 0, 0, 0, 1, 8, 0, 2, 0, 0, 0, 0, 1, 8, 0, 3, 0, 0, 0, 0, 16, 8, 0, 4, 0, 0, 0, 0, 4],
            &[
                8, 0, 1, 0, 0, 0, 0, 1, 8, 0, 2, 0, 0, 0, 0, 1, 8, 0, 3, 0, 0, 0, 0, 4, 12, 0, 4, 128, 8, 0, 1, 0, 255,
                128, 0, 0, 12, 0, 5, 128, 8, 0, 1, 0, 0, 0, 0, 0,
            ],
            &[8, 0, 1, 0, 0, 0, 0, 1, 8, 0, 2, 0, 0, 0, 0, 0, 12, 0, 3, 128, 8, 0, 1, 0, 10, 128, 0, 0],
            &[8, 0, 1, 0, 0, 0, 0, 0, 16, 0, 2, 128, 12, 0, 2, 128, 8, 0, 1, 0, 0, 0, 0, 1],
        ];
        assert_eq!(program, expected);
    }

    #[test]
    fn a_uid_is_compared_in_host_order_and_a_port_in_network_order() {
        let uid = bytes(&rule(Match::SocketUid(2102)));
        assert_eq!(uid[1][24..], 2102u32.to_ne_bytes());
        let port = bytes(&rule(Match::DestinationPort("4143".parse().unwrap())));
        assert_eq!(port[1][24..26], [0x10, 0x2f]);
    }

    #[test]
    fn a_range_is_two_comparisons() {
        let program = bytes(&rule(Match::DestinationPort("9000-9009".parse().unwrap())));
        let operators: Vec<u8> = program[1..3].iter().map(|compare| compare[15]).collect();
        assert_eq!(operators, [5, 3], "at least the first port, at most the last");
    }

    #[test]
    fn the_table_is_made_deleted_and_made_before_it_is_filled() {
        let requests = replace(&Ruleset::new(&args(&[]), Family::Inet));
        let verbs: Vec<&str> = requests.iter().filter_map(|request| request.what.split(' ').next()).collect();
        assert_eq!(verbs, ["create", "delete", "create", "create", "add", "add", "add", "create", "add", "add", "add"]);
    }
}
