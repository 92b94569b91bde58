//! The previous release's proxy and discovery against this one's, both ways.
//!
//! What the previous release says is kept. What it reads is what its protocol has: bytes that decode by it without a rest, and with
//! known values only. Nothing is released yet, so the first previous release is the protocol before features had names.

use super::{files, folder, samples};
use crate::{
    Received, convert,
    fuzzing::written,
    sync::{Resource, Update},
    v1::{self, sync_request},
};
use prost::Message as _;
use prost_reflect::{DescriptorPool, DynamicMessage, Kind, Value};
use remora_model::{Feature, Features};

/// What the previous release's proxies can carry out.
fn previous_features() -> Features {
    Features::unnamed()
}

/// The messages of a protocol.
pub(super) fn protocol(path: &std::path::Path) -> DescriptorPool {
    let files = protox::compile([path], [path.parent().unwrap()]).unwrap();
    DescriptorPool::from_file_descriptor_set(files).unwrap()
}

fn previous() -> DescriptorPool {
    protocol(&folder("previous").join("discovery.proto"))
}

/// Names what of a message its protocol does not know, by the way to it.
fn unknown(message: &DynamicMessage, path: &str, found: &mut Vec<String>) {
    found.extend(message.unknown_fields().map(|field| format!("{path}#{}", field.number())));
    for (field, value) in message.fields() {
        let path = format!("{path}{}", field.name());
        let values = match value {
            Value::List(all) => &all[..],
            one => std::slice::from_ref(one),
        };
        for value in values {
            match (value, field.kind()) {
                (Value::Message(message), _) => unknown(message, &format!("{path}."), found),
                (Value::EnumNumber(number), Kind::Enum(of)) if of.get_value(*number).is_none() => {
                    found.push(format!("{path}={number}"));
                }
                _ => {}
            }
        }
    }
}

fn read_by(pool: &DescriptorPool, name: &str, bytes: &[u8]) -> Vec<String> {
    let message = pool.get_message_by_name(name).unwrap();
    let mut found = Vec::new();
    unknown(&DynamicMessage::decode(message, bytes).unwrap(), "", &mut found);
    found
}

/// As it is sent to a proxy that can carry out no more than `known`.
fn degraded(resource: Resource, known: Features) -> Resource {
    match resource {
        Resource::Outbound(one) => Resource::Outbound(one.within(known).0),
        Resource::Inbound(one) => Resource::Inbound(one.within(known).0),
        Resource::InboundDefault(one) => Resource::InboundDefault(one.within(known).0),
        Resource::Backend(one) => Resource::Backend(one.within(known).0),
    }
}

#[test]
fn this_discovery_says_nothing_that_the_previous_proxy_does_not_know() {
    let previous = previous();
    for sample in samples::all().into_iter().filter(|sample| sample.said) {
        let bytes = match Update::try_from(Received::decode(&*sample.bytes).unwrap()).unwrap() {
            // Not sent at all.
            Update::Settings { .. } if !previous_features().contain(Feature::Settings) => continue,
            Update::Ask { .. } if !previous_features().contain(Feature::Asks) => continue,
            Update::Revocations { .. } if !previous_features().contain(Feature::Revocation) => continue,
            Update::Whole { version, resource, .. } => {
                written(&degraded(resource, previous_features()), version).encode_to_vec()
            }
            _ => sample.bytes,
        };
        let found = read_by(&previous, "remora.v1.SyncResponse", &bytes);
        assert_eq!(found, Vec::<String>::new(), "{}", sample.name);
    }
}

#[test]
fn this_proxy_is_understood_by_the_previous_discovery() {
    let previous = previous();
    for sample in samples::all().into_iter().filter(|sample| !sample.said) {
        let found = read_by(&previous, "remora.v1.SyncRequest", &sample.bytes);
        let expected: &[&str] = match sample.name {
            // What it does not know of a Hello, it leaves out.
            "hello" => &["hello.#7"],
            // Said only to a discovery that has sent settings.
            "ack-settings" => &["ack.name.#5"],
            // Said only to a discovery that has sent revocations.
            "ack-revocations" => &["ack.name.#40"],
            // Said only to a discovery that has asked.
            "answer" | "answer-part" => &["#6"],
            _ => &[],
        };
        assert_eq!(found, expected, "{}", sample.name);
    }
}

#[test]
fn this_proxy_reads_what_the_previous_discovery_says() {
    let mut kept = files("previous", "said");
    for sample in samples::all().into_iter().filter(|sample| sample.said) {
        // What is new has no forerunner.
        let Some(bytes) = kept.remove(sample.name) else { continue };
        let received = Received::decode(&*bytes).unwrap();
        if sample.name == "outbound-pod" {
            // It said `pod/NAME` where a Service's name stands.
            let told = Update::try_from(received).map_err(|problem| problem.to_string());
            assert_eq!(told, Err("outbound.parent.name: has a slash, which no name of an object has".to_owned()));
            continue;
        }
        assert!(received.known, "{}", sample.name);
        let (then, now) = (Update::try_from(received), Update::try_from(Received::decode(&*sample.bytes).unwrap()));
        assert_eq!(then, now, "{}", sample.name);
        let closed = matches!(&then, Ok(Update::Whole { closed, .. }) if !closed.is_empty());
        assert!(then.is_ok() && !closed, "{}: {then:?}", sample.name);
    }
    assert!(kept.is_empty(), "{:?}: nobody reads what the previous discovery may say", kept.keys());
}

#[test]
fn this_discovery_reads_what_the_previous_proxy_asks_for() {
    let mut kept = files("previous", "asked");
    for sample in samples::all().into_iter().filter(|sample| !sample.said) {
        let Some(bytes) = kept.remove(sample.name) else { continue };
        let [then, now] = [&bytes, &sample.bytes].map(|bytes| v1::SyncRequest::decode(&**bytes).unwrap().kind);
        match (then, now) {
            (Some(sync_request::Kind::Hello(then)), Some(sync_request::Kind::Hello(now))) => {
                assert_eq!(convert::features(&then.features), previous_features());
                assert_eq!(v1::Hello { features: now.features.clone(), ..then }, now);
            }
            (then, now) => assert_eq!(then, now, "{}", sample.name),
        }
    }
    assert!(kept.is_empty(), "{:?}: nobody reads what the previous proxy may ask for", kept.keys());
}
