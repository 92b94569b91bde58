//! Messages of a discovery that is newer than its proxy, and says what it should have kept to itself: fields and values that this
//! version does not know, anywhere.

use super::{play::protocol, samples};
use crate::{
    Received,
    sync::{Resource, Update},
};
use prost::Message as _;
use prost_reflect::{DynamicMessage, Value};
use remora_model::{AuthorizationRule, Inbound, Outbound, Parent};
use std::path::Path;

/// Field 1999 with the number 1.
const FIELD: [u8; 3] = [0xf8, 0x7c, 0x01];
/// A value that no enum has.
const VALUE: i32 = 1999;

/// A change of one place of a message. Each looks at places in the same order, and changes the one whose turn it is.
type Change = fn(&mut DynamicMessage, &mut usize);

/// Each message within `message`, itself first.
fn add_field(message: &mut DynamicMessage, turn: &mut usize) {
    if *turn == 0 {
        message.merge(&FIELD[..]).unwrap();
    }
    *turn = turn.wrapping_sub(1);
    each(message, turn, |value, turn| {
        if let Value::Message(inner) = value {
            add_field(inner, turn);
        }
    });
}

/// Each value of an enum that is said.
fn set_value(message: &mut DynamicMessage, turn: &mut usize) {
    each(message, turn, |value, turn| match value {
        Value::Message(inner) => set_value(inner, turn),
        Value::EnumNumber(number) => {
            if *turn == 0 {
                *number = VALUE;
            }
            *turn = turn.wrapping_sub(1);
        }
        _ => {}
    });
}

fn each(message: &mut DynamicMessage, turn: &mut usize, change: impl Fn(&mut Value, &mut usize)) {
    for (_, value) in message.fields_mut() {
        match value {
            Value::List(all) => all.iter_mut().for_each(|value| change(value, turn)),
            one => change(one, turn),
        }
    }
}

/// Reads each message of the corpus with each change, and has `judge` say whether that is closed. How many there were.
fn with_each(change: Change, judge: impl Fn(&Received, Result<Update, crate::InvalidMessage>) -> bool) -> usize {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("proto/remora/v1/discovery.proto");
    let response = protocol(&path).get_message_by_name("remora.v1.SyncResponse").unwrap();
    let mut changed = 0;
    for sample in samples::all().into_iter().filter(|sample| sample.said) {
        for place in 0.. {
            let mut message = DynamicMessage::decode(response.clone(), &*sample.bytes).unwrap();
            let mut turn = place;
            change(&mut message, &mut turn);
            // Its turn did not come: there are no more places.
            if turn <= place {
                break;
            }
            let received = Received::decode(&*message.encode_to_vec()).unwrap();
            let update = Update::try_from(received.clone());
            let text = format!("{}, place {place}: {update:#?}", sample.name);
            assert!(judge(&received, update), "{text}");
            changed += 1;
        }
    }
    changed
}

fn denies(inbound: &Inbound) -> bool {
    let everything = |rule: &AuthorizationRule| *rule == AuthorizationRule::deny_everything(rule.name.clone());
    inbound.rules.iter().any(everything)
}

/// Whether nothing of it holds.
fn closes(resource: &Resource) -> bool {
    match resource {
        Resource::Outbound(outbound) => *outbound == Outbound::bare(outbound.target.clone(), Parent::Unknown),
        Resource::Backend(backend) => backend.endpoints.is_empty(),
        Resource::Inbound(inbound) => denies(inbound),
        Resource::InboundDefault(default) => denies(&default.inbound),
    }
}

#[test]
fn a_field_that_is_not_known_closes_what_it_stands_in_wherever_it_stands() {
    let places = with_each(add_field, |received, update| {
        let closed = match update {
            Ok(Update::Whole { resource, closed, .. }) => closes(&resource) && closed.len() == 1,
            Ok(Update::Networks(ranges)) => ranges.is_empty(),
            Ok(Update::Refused { .. }) | Err(_) => true,
            Ok(_) => false,
        };
        closed && !received.known
    });
    assert!(places > 150, "only {places} places were tried");
}

#[test]
fn a_value_that_is_not_known_closes_what_it_says_something_of() {
    let places = with_each(set_value, |_, update| match update {
        Ok(Update::Whole { resource, closed, .. }) => closes(&resource) && closed.len() == 1,
        Ok(_) => false,
        Err(_) => true,
    });
    assert!(places > 20, "only {places} places were tried");
}
