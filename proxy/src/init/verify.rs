//! Whether what is in force is what was asked for. In: a [`Ruleset`] and the kernel's answers. Out: nothing, or the
//! first difference. Does not: talk to the kernel.
//!
//! The kernel adds to what it was sent (handles, counters, defaults), so that a rule counts as present if
//! every attribute we sent is in its answer, expression by expression, in order.

use super::{
    encode::{chain_attributes, expression_of, expressions},
    error::InitError,
    rules::{Chain, Rule, Ruleset},
};
use netlink_packet_netfilter::nftables::{ChainAttribute, ChainMessage, Expressions, RuleAttribute, RuleMessage};

/// Refuses if the chains or rules in force differ from the ruleset.
pub(super) fn compare(ruleset: &Ruleset, chains: &[ChainMessage], rules: &[RuleMessage]) -> Result<(), InitError> {
    let table = format!("table {} {}", ruleset.family.name(), super::rules::TABLE);
    let mismatch = |place: String, difference: String| Err(InitError::Mismatch { place, difference });
    if chains.len() != ruleset.chains.len() {
        return mismatch(table, format!("{} chains, not {}", chains.len(), ruleset.chains.len()));
    }
    for chain in &ruleset.chains {
        let place = format!("chain {} of {table}", chain.name);
        if !chains.iter().any(|actual| is_chain(chain, actual)) {
            return mismatch(place, "its hook, priority, type or policy differs".to_owned());
        }
        let name = RuleAttribute::Chain(chain.name.to_owned());
        let actual: Vec<_> = rules.iter().filter(|rule| rule.attributes.contains(&name)).collect();
        if actual.len() != chain.rules.len() {
            return mismatch(place, format!("{} rules, not {}", actual.len(), chain.rules.len()));
        }
        for (rule, actual) in chain.rules.iter().zip(actual) {
            if !is_rule(rule, actual) {
                return mismatch(place, format!("this rule is not as installed: {rule}"));
            }
        }
    }
    Ok(())
}

fn is_chain(chain: &Chain, actual: &ChainMessage) -> bool {
    chain_attributes(chain).iter().all(|expected| {
        actual.attributes.iter().any(|attribute| match (expected, attribute) {
            (ChainAttribute::Hook(expected), ChainAttribute::Hook(actual)) => includes(actual, expected),
            (expected, actual) => expected == actual,
        })
    })
}

fn is_rule(rule: &Rule, actual: &RuleMessage) -> bool {
    let expected = expressions(rule);
    let actual: Vec<_> = actual
        .attributes
        .iter()
        .filter_map(|attribute| match attribute {
            RuleAttribute::Expressions(list) => Some(list),
            _ => None,
        })
        .flatten()
        .filter_map(expression_of)
        .collect();
    actual.len() == expected.len() && expected.iter().zip(actual).all(|(expected, actual)| does(actual, expected))
}

/// Whether an expression in force does what the expected one does.
fn does(actual: &Expressions, expected: &Expressions) -> bool {
    use Expressions::{Bitwise, Cmp, Immediate, Meta, Other, Payload};
    match (actual, expected) {
        (Bitwise(actual), Bitwise(expected)) => includes(actual, expected),
        (Cmp(actual), Cmp(expected)) => includes(actual, expected),
        (Immediate(actual), Immediate(expected)) => includes(actual, expected),
        (Meta(actual), Meta(expected)) => includes(actual, expected),
        (Payload(actual), Payload(expected)) => includes(actual, expected),
        (
            Other { expression_type: actual_type, attributes: actual },
            Other { expression_type: expected_type, attributes: expected },
        ) => actual_type == expected_type && includes(actual, expected),
        _ => false,
    }
}

fn includes<T: PartialEq>(actual: &[T], expected: &[T]) -> bool {
    expected.iter().all(|attribute| actual.contains(attribute))
}

#[cfg(test)]
mod tests {
    use netlink_packet_netfilter::nftables::NfTablesMessage;

    use super::{
        super::{
            encode::replace,
            rules::{Family, tests::args},
        },
        *,
    };

    /// What a kernel would answer that keeps just what it was sent.
    fn in_force(ruleset: &Ruleset) -> (Vec<ChainMessage>, Vec<RuleMessage>) {
        let (mut chains, mut rules) = (Vec::new(), Vec::new());
        for request in replace(ruleset) {
            match request.message {
                NfTablesMessage::NewChain(chain) => chains.push(chain),
                NfTablesMessage::NewRule(rule) => rules.push(rule),
                _ => {}
            }
        }
        (chains, rules)
    }

    #[test]
    fn the_same_rules_pass() {
        let ruleset = Ruleset::new(&args(&["--skip-subnets=10.0.0.0/8"]), Family::Inet);
        let (chains, rules) = in_force(&ruleset);
        compare(&ruleset, &chains, &rules).unwrap();
    }

    #[test]
    fn another_port_a_missing_rule_and_a_missing_chain_are_told() {
        let wanted = Ruleset::new(&args(&[]), Family::Inet);
        let (chains, mut rules) = in_force(&Ruleset::new(&args(&["--inbound-port=5000"]), Family::Inet));
        let told = compare(&wanted, &chains, &rules).unwrap_err().to_string();
        assert!(told.contains("dport 4143"), "{told}");
        rules.pop();
        rules.clear();
        let told = compare(&wanted, &chains, &rules).unwrap_err().to_string();
        assert!(told.contains("0 rules, not 3"), "{told}");
        let told = compare(&wanted, &chains[..1], &rules).unwrap_err().to_string();
        assert!(told.contains("1 chains, not 2"), "{told}");
    }
}
