//! Who is trusted no more. A list that cannot be read is refused as a whole, so that the one before stays: of two that are both
//! incomplete nobody could say which forbids more.

use super::{At, InvalidMessage, Problem, list_of, name};
use crate::v1;
use remora_model::{
    PodName, Revocation, Revocations, Serial, SpiffeId,
    revocation::{NAME_BYTES_MAX, REASON_BYTES_MAX, REVOCATIONS_MAX},
};

impl From<&Revocations> for v1::Revocations {
    fn from(revocations: &Revocations) -> Self {
        Self { all: revocations.iter().map(Into::into).collect() }
    }
}

impl From<&Revocation> for v1::Revocation {
    fn from(one: &Revocation) -> Self {
        Self {
            name: one.name.to_string(),
            reason: one.reason.to_string(),
            until_s: one.until.unwrap_or_default(),
            identity: one.identity.as_ref().map(ToString::to_string).unwrap_or_default(),
            serial: one.serial.as_ref().map(|serial| serial.as_bytes().to_vec()).unwrap_or_default(),
            pod: one.pod.as_ref().map(|PodName { namespace, name, uid }| v1::RevokedPod {
                namespace: namespace.to_string(),
                name: name.to_string(),
                uid: uid.to_string(),
            }),
        }
    }
}

impl TryFrom<v1::Revocations> for Revocations {
    type Error = InvalidMessage;

    fn try_from(message: v1::Revocations) -> Result<Self, InvalidMessage> {
        Ok(Self::new(list_of("all", REVOCATIONS_MAX, message.all, Revocation::try_from)?))
    }
}

impl TryFrom<v1::Revocation> for Revocation {
    type Error = InvalidMessage;

    fn try_from(message: v1::Revocation) -> Result<Self, InvalidMessage> {
        let within = |text: String, most: usize| if text.len() > most { Err(Problem::OutOfRange) } else { Ok(text) };
        let identity = Some(message.identity).filter(|text| !text.is_empty());
        let serial = Some(message.serial).filter(|bytes| !bytes.is_empty());
        let serial = serial.map(|bytes| match Serial::new(&bytes) {
            Ok(serial) if serial.as_bytes() == bytes => Ok(serial),
            _ => Err(Problem::OutOfRange),
        });
        let pod = message.pod.map(|pod| PodName::new(&pod.namespace, &pod.name, &pod.uid).ok_or(Problem::OutOfRange));
        let read = Self {
            name: within(message.name, NAME_BYTES_MAX).and_then(name).at("name")?,
            reason: within(message.reason, REASON_BYTES_MAX).at("reason")?.into(),
            until: Some(message.until_s).filter(|until| *until != 0),
            identity: identity.map(|text| SpiffeId::parse(&text).map_err(Problem::from)).transpose().at("identity")?,
            serial: serial.transpose().at("serial")?,
            pod: pod.transpose().at("pod")?,
        };
        // It would revoke nobody: what it meant is not known to this version.
        let names_none = read.identity.is_none() && read.serial.is_none() && read.pod.is_none();
        if names_none { Err(Problem::Missing.at("identity")) } else { Ok(read) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one() -> v1::Revocation {
        let pod = v1::RevokedPod { namespace: "shop".into(), name: "web-1".into(), uid: "u-7".into() };
        v1::Revocation {
            name: "stolen".into(),
            reason: "a key was stolen".into(),
            until_s: 1_900_000_000,
            identity: "spiffe://cluster.local/ns/shop/sa/web".into(),
            serial: vec![0x4f, 0],
            pod: Some(pod),
        }
    }

    fn all(all: Vec<v1::Revocation>) -> Result<Revocations, String> {
        v1::Revocations { all }.try_into().map_err(|error: InvalidMessage| error.to_string())
    }

    #[test]
    fn what_is_written_is_what_is_read() {
        let read = all(vec![one(), v1::Revocation { until_s: 0, pod: None, serial: Vec::new(), ..one() }]).unwrap();
        let message = v1::Revocations::from(&read);
        assert_eq!((message.all.len(), &message.all[0]), (2, &one()));
        assert_eq!(Revocations::try_from(message), Ok(read));
    }

    #[test]
    fn one_that_cannot_be_read_refuses_all_and_says_where() {
        let nobody = v1::Revocation { identity: String::new(), serial: Vec::new(), pod: None, ..one() };
        for (bad, told) in [
            (nobody, "all[1].identity: is missing"),
            (v1::Revocation { name: String::new(), ..one() }, "all[1].name: is missing"),
            (v1::Revocation { name: "x".repeat(254), ..one() }, "all[1].name: is out of range"),
            (v1::Revocation { reason: "x".repeat(257), ..one() }, "all[1].reason: is out of range"),
            (v1::Revocation { identity: "web".into(), ..one() }, "all[1].identity: is no SPIFFE id"),
            (v1::Revocation { serial: vec![0, 1], ..one() }, "all[1].serial: is out of range"),
            (v1::Revocation { serial: vec![1; 21], ..one() }, "all[1].serial: is out of range"),
            (v1::Revocation { pod: Some(v1::RevokedPod::default()), ..one() }, "all[1].pod: is out of range"),
        ] {
            let error = all(vec![one(), bad]).unwrap_err();
            assert!(error.starts_with(told), "{error}");
        }
        let error = all(vec![one(); REVOCATIONS_MAX + 1]).unwrap_err();
        assert_eq!(error, "all: has 513 entries, more than the 512 allowed");
    }
}
