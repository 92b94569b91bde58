//! RevokedIdentity: who is trusted no more, as operators write it. Discovery reads it for the proxies, the identity service for itself, and
//! the command writes it; all three by these words.
//!
//! In: an object's `spec`. Out: a [`Revocation`], and what of it cannot be read. What cannot be read never makes the rest less: an end that
//! is no time is none.

use remora_model::{
    PodName, Revocation, Revocations, Serial, SpiffeId,
    revocation::{REASON_BYTES_MAX, REVOCATIONS_MAX},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

pub const GROUP: &str = "remora.dev";
pub const VERSION: &str = "v1alpha1";
pub const KIND: &str = "RevokedIdentity";
pub const PLURAL: &str = "revokedidentities";

/// What an object says. Each of what it names is revoked by itself.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Spec {
    /// A SPIFFE id, exactly.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
    /// Of one certificate, in hexadecimal, as the identity service logs it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// To whom certificates were issued.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod: Option<PodSpec>,
    /// For people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When it ends (RFC 3339); else never.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
    #[serde(flatten)]
    pub unknown: BTreeMap<String, Value>,
}

/// Which pod.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub struct PodSpec {
    pub namespace: String,
    pub name: String,
    /// Else any pod of that name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    #[serde(flatten)]
    pub unknown: BTreeMap<String, Value>,
}

/// What reading an object came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Read {
    /// `None`: nothing of it can be read.
    pub revocation: Option<Revocation>,
    /// By field.
    pub problems: Vec<String>,
}

/// Reads what the object `name` says.
#[must_use]
pub fn read(name: &str, spec: &Spec) -> Read {
    let mut problems = Vec::new();
    let mut told = |field: &str, problem: String| problems.push(format!("spec.{field}: {problem}"));
    let identity = spec.identity.as_deref().and_then(|text| {
        let read = SpiffeId::parse(text);
        read.map_err(|error| told("identity", format!("{text:?}: {error}; no identity is revoked"))).ok()
    });
    let serial = spec.serial.as_deref().and_then(|text| {
        let read = text.parse::<Serial>();
        read.map_err(|error| told("serial", format!("{text:?} {error}; no certificate is revoked"))).ok()
    });
    let pod = spec.pod.as_ref().and_then(|pod| {
        let made = PodName::new(&pod.namespace, &pod.name, pod.uid.as_deref().unwrap_or_default());
        if made.is_none() {
            told("pod", "has no namespace and name of a pod; no pod is revoked".to_owned());
        }
        for field in pod.unknown.keys() {
            told(&format!("pod.{field}"), "there is no such field; it means nothing".to_owned());
        }
        made
    });
    let until = spec.until.as_deref().and_then(|text| {
        let read = seconds(text);
        if read.is_none() {
            told("until", format!("{text:?} is no time as in 2026-01-31T08:00:00Z; the revocation does not end"));
        }
        read
    });
    for field in spec.unknown.keys() {
        told(field, "there is no such field; it means nothing".to_owned());
    }
    let reason = spec.reason.as_deref().unwrap_or_default();
    let reason = &reason[..reason.floor_char_boundary(REASON_BYTES_MAX)];
    let some = identity.is_some() || serial.is_some() || pod.is_some();
    if !some && problems.is_empty() {
        problems.push("spec: names none of identity, serial and pod; nothing is revoked".to_owned());
    }
    let revocation =
        some.then(|| Revocation { name: name.into(), reason: reason.into(), until, identity, serial, pod });
    Read { revocation, problems }
}

/// All that hold together: of more than [`REVOCATIONS_MAX`] the oldest, by the time of their creation and then by name. Objects are named with
/// that time as the API server writes it; those of files have none.
pub fn all<'a>(objects: impl IntoIterator<Item = (Option<&'a str>, &'a str, &'a Spec)>) -> (Revocations, Vec<String>) {
    let mut objects: Vec<_> = objects.into_iter().collect();
    // RFC 3339 in UTC sorts as text.
    objects.sort_by_key(|(created, name, _)| (created.unwrap_or_default().to_owned(), (*name).to_owned()));
    let read: Vec<Revocation> = objects.iter().filter_map(|(_, name, spec)| read(name, spec).revocation).collect();
    let beyond = read.iter().skip(REVOCATIONS_MAX).map(|one| one.name.to_string()).collect();
    (Revocations::new(read), beyond)
}

/// A time of RFC 3339 in seconds since 1970; parts of seconds are cut off. `None`: it is none, or before 1970.
#[must_use]
pub fn seconds(text: &str) -> Option<u64> {
    let time: k8s_openapi::jiff::Timestamp = text.parse().ok()?;
    u64::try_from(time.as_second()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn told(spec: Value) -> (bool, String) {
        let spec = serde_json::from_value(spec).unwrap();
        let Read { revocation, problems } = read("r", &spec);
        (revocation.is_some(), problems.join("; "))
    }

    #[test]
    fn each_of_what_it_names_is_read_by_itself() {
        let spec = json!({
            "identity": "spiffe://cluster.local/ns/shop/sa/web", "serial": "4F:0A",
            "pod": { "namespace": "shop", "name": "web-1" }, "reason": "stolen", "until": "2026-12-01T08:00:00+02:00",
        });
        let Read { revocation, problems } = read("r", &serde_json::from_value(spec).unwrap());
        let read = revocation.unwrap();
        assert_eq!((problems.len(), &*read.reason, read.until), (0, "stolen", seconds("2026-12-01T06:00:00Z")));
        assert!(read.identity.is_some() && read.serial.is_some() && read.pod.is_some());
    }

    #[test]
    fn what_cannot_be_read_is_told_and_takes_nothing_from_the_rest() {
        let identity = "spiffe://cluster.local/ns/shop/sa/web";
        for (spec, revokes, problem) in [
            (json!({}), false, "spec: names none of identity, serial and pod; nothing is revoked"),
            (json!({ "identity": "shop/web" }), false, "spec.identity: \"shop/web\": SPIFFE id does not start"),
            (json!({ "serial": "xyz" }), false, "spec.serial: \"xyz\" is no serial number"),
            (json!({ "pod": { "name": "web" } }), false, "spec.pod: has no namespace and name"),
            (json!({ "identity": identity, "serial": "xyz" }), true, "spec.serial: \"xyz\" is no serial"),
            (json!({ "identity": identity, "until": "tomorrow" }), true, "spec.until: \"tomorrow\" is no time"),
            (json!({ "identity": identity, "til": "2026-12-01T08:00:00Z" }), true, "spec.til: there is no such field"),
            (json!({ "pod": { "namespace": "a", "name": "b", "uuid": "c" } }), true, "spec.pod.uuid: there is no such"),
        ] {
            let (revoked, told) = told(spec.clone());
            assert!(revoked == revokes && told.starts_with(problem), "{spec}: {told}");
        }
    }

    #[test]
    fn a_time_that_is_no_time_never_ends_it() {
        let spec = Spec { serial: Some("1".into()), until: Some("1969-01-01T00:00:00Z".into()), ..Spec::default() };
        assert_eq!(read("r", &spec).revocation.unwrap().until, None);
    }

    #[test]
    fn of_too_many_the_oldest_hold_and_the_others_are_named() {
        let spec = |i: usize| Spec { serial: Some(format!("{:x}", i + 1)), ..Spec::default() };
        let specs: Vec<(String, String, Spec)> = (0..REVOCATIONS_MAX + 2)
            .map(|i| (format!("2026-01-01T00:{:02}:{:02}Z", 59 - i / 60, 59 - i % 60), format!("r{i}"), spec(i)))
            .collect();
        let (held, beyond) = all(specs.iter().map(|(at, name, spec)| (Some(&**at), &**name, spec)));
        assert_eq!((held.len(), beyond), (REVOCATIONS_MAX, vec!["r1".to_owned(), "r0".to_owned()]));
    }

    #[test]
    fn what_is_written_is_what_is_read() {
        let pod =
            PodSpec { namespace: "shop".into(), name: "web-1".into(), uid: Some("u".into()), ..PodSpec::default() };
        let spec = Spec { pod: Some(pod), reason: Some("r".into()), ..Spec::default() };
        let value = serde_json::to_value(&spec).unwrap();
        assert_eq!(value, json!({ "pod": { "namespace": "shop", "name": "web-1", "uid": "u" }, "reason": "r" }));
        assert_eq!(serde_json::from_value::<Spec>(value).unwrap(), spec);
    }
}
