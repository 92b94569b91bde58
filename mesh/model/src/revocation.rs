//! Who is trusted no more although a certificate says so: identities, single certificates, pods.
//!
//! In: revocations, as operators wrote them. Out: whether what a peer shows is revoked, and by which of them. One look costs the
//! same however many there are. No clock: who asks says what time it is.

use crate::SpiffeId;
use std::{collections::HashMap, fmt, str::FromStr, sync::Arc};

/// The most revocations that hold at a time. All of them go to every proxy with each change: as many, by the longest names that Kubernetes
/// has, are 700 kB; ten are some 2 kB. What is revoked and has expired by itself needs none any more.
pub const REVOCATIONS_MAX: usize = 512;
/// The bytes of a serial number (RFC 5280 §4.1.2.2).
pub const SERIAL_BYTES_MAX: usize = 20;
/// Bytes of the reason that goes to proxies, which tell it in their logs.
pub const REASON_BYTES_MAX: usize = 256;
/// Bytes of a name of Kubernetes: of a pod, an object.
pub const NAME_BYTES_MAX: usize = 253;
/// Bytes of a pod's unique id. Kubernetes' have 36.
pub const UID_BYTES_MAX: usize = 64;

/// The serial number of a certificate, without leading zeros.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Serial(Box<[u8]>);

/// A text or a number that is no serial.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("is no serial number: 1 to {SERIAL_BYTES_MAX} bytes as hexadecimal digits, with or without colons")]
pub struct InvalidSerial;

impl Serial {
    /// Of the bytes that a certificate has.
    ///
    /// # Errors
    /// There are none but zeros, or more than [`SERIAL_BYTES_MAX`].
    pub fn new(bytes: &[u8]) -> Result<Self, InvalidSerial> {
        let from = bytes.iter().position(|byte| *byte != 0).ok_or(InvalidSerial)?;
        let bytes = &bytes[from..];
        if bytes.len() > SERIAL_BYTES_MAX { Err(InvalidSerial) } else { Ok(Self(bytes.into())) }
    }

    /// The bytes, the highest first.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// As the identity service logs it, and openssl prints it: `4f:0a` and `4F0A` are the same.
impl FromStr for Serial {
    type Err = InvalidSerial;

    fn from_str(text: &str) -> Result<Self, InvalidSerial> {
        let digits: Vec<u8> = text
            .chars()
            .filter(|char| *char != ':')
            .map(|char| char.to_digit(16).and_then(|digit| u8::try_from(digit).ok()).ok_or(InvalidSerial))
            .collect::<Result<_, _>>()?;
        if digits.len() > 2 * (SERIAL_BYTES_MAX + 1) {
            return Err(InvalidSerial);
        }
        let (odd, pairs) = digits.split_at(digits.len() % 2);
        let pairs = pairs.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]);
        Self::new(&odd.iter().copied().chain(pairs).collect::<Vec<u8>>())
    }
}

impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().enumerate().try_for_each(|(i, byte)| write!(f, "{}{byte:02x}", if i == 0 { "" } else { ":" }))
    }
}

impl fmt::Debug for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Which pod a certificate was issued to.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct PodName {
    pub namespace: Arc<str>,
    pub name: Arc<str>,
    /// Empty: any pod of that name, one after the other.
    pub uid: Arc<str>,
}

impl PodName {
    /// `None`: a part is empty that must not be, is too long, or has what separates the parts.
    pub fn new(namespace: &str, name: &str, uid: &str) -> Option<Self> {
        let named = |part: &str, most: usize| !part.is_empty() && part.len() <= most;
        let plain =
            [namespace, name, uid].iter().all(|part| part.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/'));
        let good =
            plain && named(namespace, NAME_BYTES_MAX) && named(name, NAME_BYTES_MAX) && uid.len() <= UID_BYTES_MAX;
        good.then(|| Self { namespace: namespace.into(), name: name.into(), uid: uid.into() })
    }
}

impl fmt::Display for PodName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { namespace, name, uid } = self;
        if uid.is_empty() { write!(f, "{namespace}/{name}") } else { write!(f, "{namespace}/{name} ({uid})") }
    }
}

/// Something that is revoked: each of what it names by itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Revocation {
    /// Of the object that says so.
    pub name: Arc<str>,
    /// For people; may be empty.
    pub reason: Arc<str>,
    /// When it ends, in seconds since 1970; `None`: never.
    pub until: Option<u64>,
    pub identity: Option<SpiffeId>,
    pub serial: Option<Serial>,
    pub pod: Option<PodName>,
}

impl Revocation {
    /// Whether it holds at `now`, in seconds since 1970.
    pub fn holds(&self, now: u64) -> bool {
        self.until.is_none_or(|until| now < until)
    }
}

/// By which of them a peer is refused, in words.
impl fmt::Display for Revocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RevokedIdentity {}", self.name)?;
        if self.reason.is_empty() { Ok(()) } else { write!(f, " ({})", self.reason) }
    }
}

/// What a peer shows of itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Shown {
    pub identity: SpiffeId,
    /// `None`: of a form that nobody can revoke.
    pub serial: Option<Serial>,
    /// `None`: the certificate does not say.
    pub pod: Option<PodName>,
}

/// Those that name the same.
type Named = Vec<Arc<Revocation>>;

/// All revocations, by what they name. Cheap to look at, costly to make.
#[derive(Clone, Default, Debug)]
pub struct Revocations {
    all: Vec<Arc<Revocation>>,
    identities: HashMap<SpiffeId, Named>,
    serials: HashMap<Serial, Named>,
    /// By namespace and name.
    pods: HashMap<(Arc<str>, Arc<str>), Named>,
}

impl PartialEq for Revocations {
    fn eq(&self, other: &Self) -> bool {
        self.all == other.all
    }
}

impl Revocations {
    /// In this order; of more than [`REVOCATIONS_MAX`] the first.
    pub fn new(all: impl IntoIterator<Item = Revocation>) -> Self {
        let mut made = Self::default();
        for one in all.into_iter().take(REVOCATIONS_MAX) {
            let one = Arc::new(one);
            if let Some(identity) = &one.identity {
                made.identities.entry(identity.clone()).or_default().push(Arc::clone(&one));
            }
            if let Some(serial) = &one.serial {
                made.serials.entry(serial.clone()).or_default().push(Arc::clone(&one));
            }
            if let Some(pod) = &one.pod {
                let key = (Arc::clone(&pod.namespace), Arc::clone(&pod.name));
                made.pods.entry(key).or_default().push(Arc::clone(&one));
            }
            made.all.push(one);
        }
        made
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// One after the other.
    pub fn iter(&self) -> impl Iterator<Item = &Revocation> {
        self.all.iter().map(|one| &**one)
    }

    /// By which of them this identity is revoked at `now`, whatever certificate it shows.
    pub fn of_identity(&self, identity: &SpiffeId, now: u64) -> Option<&Arc<Revocation>> {
        self.identities.get(identity)?.iter().find(|one| one.holds(now))
    }

    /// By which of them a pod is revoked at `now`. Of a pod whose unique id is not known every word about its name counts.
    pub fn of_pod(&self, pod: &PodName, now: u64) -> Option<&Arc<Revocation>> {
        let key = (Arc::clone(&pod.namespace), Arc::clone(&pod.name));
        let is = |one: &Revocation| {
            one.pod.as_ref().is_some_and(|it| it.uid.is_empty() || pod.uid.is_empty() || it.uid == pod.uid)
        };
        self.pods.get(&key)?.iter().find(|one| one.holds(now) && is(one))
    }

    /// By which of them who shows this is revoked at `now`, in seconds since 1970.
    pub fn judge(&self, shown: &Shown, now: u64) -> Option<&Arc<Revocation>> {
        if self.is_empty() {
            return None;
        }
        let serial = || self.serials.get(shown.serial.as_ref()?)?.iter().find(|one| one.holds(now));
        self.of_identity(&shown.identity, now).or_else(serial).or_else(|| self.of_pod(shown.pod.as_ref()?, now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> SpiffeId {
        SpiffeId::parse(&format!("spiffe://cluster.local/ns/shop/sa/{text}")).unwrap()
    }

    fn none(name: &str) -> Revocation {
        Revocation { name: name.into(), reason: "".into(), until: None, identity: None, serial: None, pod: None }
    }

    fn shown(identity: &str, serial: &str, pod: Option<(&str, &str)>) -> Shown {
        let pod = pod.map(|(name, uid)| PodName::new("shop", name, uid).unwrap());
        Shown { identity: id(identity), serial: serial.parse().ok(), pod }
    }

    #[test]
    fn a_serial_is_the_same_however_it_is_written_and_what_is_none_is_refused() {
        let serial = |text: &str| text.parse::<Serial>();
        for same in ["4f:0a:00", "4F0A00", "04f0a00", "00:4f:0a:00"] {
            assert_eq!(serial(same).unwrap().to_string(), "4f:0a:00", "{same}");
        }
        let long = "ff".repeat(SERIAL_BYTES_MAX + 1);
        for wrong in ["", ":", "0", "00:00", "4g", "4f 0a", "-1", &long, &"0".repeat(9999)] {
            assert_eq!(serial(wrong), Err(InvalidSerial), "{wrong}");
        }
        assert_eq!(Serial::new(&[0, 0, 7]), serial("7"));
    }

    #[test]
    fn each_of_what_a_revocation_names_is_revoked_by_itself_and_nothing_else_is() {
        let all = Revocations::new([
            Revocation { identity: Some(id("web")), ..none("an-identity") },
            Revocation { serial: "4f:0a".parse().ok(), ..none("a-serial") },
            Revocation { pod: PodName::new("shop", "api-1", ""), ..none("a-pod") },
            Revocation { pod: PodName::new("shop", "db-0", "uid-7"), ..none("one-pod") },
            Revocation { identity: Some(id("old")), serial: "01".parse().ok(), ..none("two") },
        ]);
        let by = |shown: &Shown| all.judge(shown, 0).map(|one| one.name.to_string());
        for (shown, name) in [
            (shown("web", "02", None), Some("an-identity")),
            (shown("api", "4f:0a", None), Some("a-serial")),
            (shown("api", "02", Some(("api-1", "any"))), Some("a-pod")),
            (shown("api", "02", Some(("db-0", "uid-7"))), Some("one-pod")),
            (shown("api", "02", Some(("db-0", ""))), Some("one-pod")),
            (shown("old", "02", None), Some("two")),
            (shown("api", "01", None), Some("two")),
            (shown("api", "02", Some(("db-0", "uid-8"))), None),
            (shown("api", "02", Some(("api-11", ""))), None),
            (shown("webs", "4f", None), None),
        ] {
            assert_eq!(by(&shown).as_deref(), name, "{shown:?}");
        }
        let elsewhere = Shown { pod: PodName::new("shop2", "api-1", ""), ..shown("api", "02", None) };
        assert_eq!(by(&elsewhere), None);
    }

    #[test]
    fn a_revocation_ends_at_its_time_and_another_of_the_same_goes_on() {
        let until = |until, name| Revocation { until, identity: Some(id("web")), ..none(name) };
        let all = Revocations::new([until(Some(10), "first"), until(Some(20), "second")]);
        let by = |now| all.judge(&shown("web", "01", None), now).map(|one| one.name.to_string());
        assert_eq!((by(9).as_deref(), by(10).as_deref(), by(20)), (Some("first"), Some("second"), None));
    }

    #[test]
    fn there_are_so_many_and_no_more() {
        let all = Revocations::new((0..2 * REVOCATIONS_MAX).map(|i| none(&i.to_string())));
        assert_eq!(
            (all.len(), all.iter().next().map(|one| one.name.to_string()).as_deref()),
            (REVOCATIONS_MAX, Some("0"))
        );
    }

    #[test]
    fn a_pods_name_has_parts_that_nothing_can_blur() {
        assert!(PodName::new("shop", "web-1", "").is_some());
        let long = "x".repeat(NAME_BYTES_MAX + 1);
        for (namespace, name, uid) in [
            ("", "a", ""),
            ("a", "", ""),
            ("a/b", "c", ""),
            ("a", "b/c", "d"),
            ("a", "b", "c d"),
            ("a", &long, ""),
            ("a", "b", &long),
        ] {
            assert_eq!(PodName::new(namespace, name, uid), None, "{namespace} {name} {uid}");
        }
    }
}
