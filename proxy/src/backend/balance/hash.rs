//! Consistent hashing: which endpoint a key leads to. In: what a request says, or who asks. Out: an endpoint's rank for it.
//!
//! **Rendezvous hashing**: each endpoint has a score for each key, and the highest counts. So an endpoint that comes or goes moves the
//! keys that lead to it and no others; what leaves the rotation leaves its keys to their next in rank, which is another one for each key;
//! shares are in proportion to weights; and there is no table to be kept or to be built anew with each change. A ring needs about a
//! hundred points per endpoint for shares as even, in each worker; Maglev's table moves other keys as well. The price is one
//! multiplication per endpoint and request: 2 µs for a thousand endpoints.
//!
//! Scores are the same in all workers, proxies and releases: it is part of what is promised, and the hash must never change.

use http::{HeaderMap, header};
use remora_model::{HashKey, RequestHash};
use std::net::{IpAddr, SocketAddr};

/// FNV-1a.
#[derive(Clone, Copy, Debug)]
struct Digest(u64);

impl Digest {
    const fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    fn and(self, bytes: &[u8]) -> Self {
        let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        Self(bytes.iter().fold(self.0, step))
    }
}

/// Spreads every bit over all (the finalizer of MurmurHash3).
const fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    bits = (bits ^ (bits >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    bits ^ (bits >> 33)
}

/// The score of an endpoint for a key, both of which are spread evenly: the two halves of their product with the golden ratio.
const fn score(key: Key, seed: u64) -> u64 {
    let product = (key.0 ^ seed) as u128 * 0x9e37_79b9_7f4a_7c15;
    (product >> 64) as u64 ^ product as u64
}

/// What leads to an endpoint: a request's key, or a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Key(u64);

impl Key {
    /// Of a client, by the words that name it.
    #[must_use]
    pub(crate) fn of(words: &[&str]) -> Self {
        // No name has a byte of zero.
        let digest = words.iter().fold(Digest::new(), |digest, word| digest.and(word.as_bytes()).and(&[0]));
        Self(mix(digest.0))
    }

    /// Of a request: the value of its cookie, or its values of the header field. `None`: it has none.
    #[must_use]
    pub(crate) fn in_fields(key: &HashKey, fields: &HeaderMap) -> Option<Self> {
        let digest = match key {
            HashKey::Cookie(name) => Digest::new().and(cookie(fields, name.as_str().as_bytes())?),
            HashKey::Header(header) => {
                let mut values = fields.get_all(header.name()).iter();
                let first = Digest::new().and(values.next()?.as_bytes());
                // As one field with all of its values (RFC 9110 §5.3).
                values.fold(first, |digest, value| digest.and(b", ").and(value.as_bytes()))
            }
        };
        Some(Self(mix(digest.0)))
    }

    /// The rank of an endpoint for this key, among those of other weights as well.
    #[must_use]
    pub(super) fn rank(self, seed: u64, weight: u32) -> u64 {
        // In proportion to weights (weighted rendezvous hashing): a positive number, whose bits are in its order.
        let share = ((score(self, seed) >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
        (f64::from(weight) / -share.ln()).to_bits()
    }
}

/// The value of the first cookie `name` (RFC 6265 §4.2.1), which HTTP/2 may have split over several fields (RFC 9113 §8.2.3).
fn cookie<'a>(fields: &'a HeaderMap, name: &[u8]) -> Option<&'a [u8]> {
    let pairs = fields.get_all(header::COOKIE).iter().flat_map(|field| field.as_bytes().split(|byte| *byte == b';'));
    pairs.map(<[u8]>::trim_ascii).find_map(|pair| pair.strip_prefix(name)?.strip_prefix(b"="))
}

/// What tells an endpoint's scores from another's.
pub(super) fn seed(endpoint: SocketAddr) -> u64 {
    let digest = match endpoint.ip() {
        IpAddr::V4(ip) => Digest::new().and(&ip.octets()),
        IpAddr::V6(ip) => Digest::new().and(&ip.octets()),
    };
    mix(digest.and(&endpoint.port().to_be_bytes()).0)
}

/// The endpoints of a set as keys see them, made when the set changes.
#[derive(Debug)]
pub(crate) struct Ranking {
    by: RequestHash,
    /// One for each slot, in their order.
    seeds: Box<[u64]>,
    /// The same, where not all are equal.
    weights: Option<Box<[u32]>>,
}

impl Ranking {
    /// Knows no endpoint yet.
    pub(super) fn new(by: RequestHash) -> Self {
        Self { by, seeds: Box::default(), weights: None }
    }

    /// Takes in the endpoints of the set, with their weights.
    pub(super) fn update(&mut self, slots: impl Iterator<Item = (SocketAddr, u32)>) {
        let (seeds, weights): (Vec<_>, Vec<_>) = slots.map(|(endpoint, weight)| (seed(endpoint), weight)).unzip();
        self.seeds = seeds.into();
        self.weights = weights.iter().any(|weight| *weight != weights[0]).then(|| weights.into());
    }

    /// The key of a request, if it has one.
    pub(super) fn key(&self, fields: &HeaderMap) -> Option<Key> {
        Key::in_fields(&self.by.key, fields)
    }

    /// How much of its share an endpoint takes, if that is bounded: 1.25 for 125 percent.
    pub(super) fn balance_factor(&self) -> Option<f64> {
        self.by.balance_factor.map(|percent| f64::from(percent) / 100.0)
    }

    /// The rank of slot `at`, to be compared with those of this set alone.
    pub(super) fn rank(&self, key: Key, at: usize) -> u64 {
        match &self.weights {
            None => score(key, self.seeds[at]),
            Some(weights) => key.rank(self.seeds[at], weights[at]),
        }
    }

    /// The slot that ranks first; 0 where there is none.
    pub(super) fn first(&self, key: Key) -> usize {
        let best = match &self.weights {
            None => self.seeds.iter().map(|seed| score(key, *seed)).enumerate().max_by_key(|(_, rank)| *rank),
            Some(weights) => {
                let both = self.seeds.iter().zip(weights);
                both.map(|(seed, weight)| key.rank(*seed, *weight)).enumerate().max_by_key(|(_, rank)| *rank)
            }
        };
        best.map_or(0, |(at, _)| at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use remora_model::{CookieName, HashHeader};

    fn fields(all: &[(&'static str, &'static str)]) -> HeaderMap {
        all.iter().map(|(name, value)| (name.parse::<http::HeaderName>().unwrap(), value.parse().unwrap())).collect()
    }

    fn by_cookie(name: &str) -> HashKey {
        HashKey::Cookie(CookieName::parse(name).unwrap())
    }

    fn by_header(name: &str) -> HashKey {
        HashKey::Header(HashHeader::parse(name).unwrap())
    }

    /// A release that hashes in another way would move nearly every key while it is rolled out.
    #[test]
    fn scores_are_the_same_in_all_releases() {
        assert_eq!(Key::of(&["shop", "web-1"]), Key(0x1be8_c886_9cb3_19ea));
        let key = Key::in_fields(&by_header("x-user"), &fields(&[("x-user", "ada")])).unwrap();
        assert_eq!(key, Key(0x21a5_12b9_376a_50e9));
        assert_eq!(seed("10.1.0.7:80".parse().unwrap()), 0x25d9_b16f_de71_cf65);
        // But for the last digits of a logarithm.
        let rank = f64::from_bits(key.rank(seed("[fd00::1]:80".parse().unwrap()), 3));
        assert!((rank - 3.729_410_652_832_63).abs() < 1e-12, "{rank}");
    }

    #[test]
    fn a_key_is_the_value_that_the_application_sees() {
        let key = |by: &HashKey, all: &[(&'static str, &'static str)]| Key::in_fields(by, &fields(all));
        let (user, session) = (by_header("X-User"), by_cookie("sid"));
        assert_eq!(key(&user, &[("x-other", "a"), ("cookie", "x-user=a")]), None);
        assert!(key(&user, &[("x-user", "")]).is_some(), "an empty value is a value");
        assert_ne!(key(&user, &[("x-user", "a")]), key(&user, &[("x-user", "b")]));
        let (two, joined) = ([("x-user", "a"), ("x-user", "b")], [("x-user", "a, b")]);
        assert_eq!(key(&user, &two), key(&user, &joined));

        let ada = key(&session, &[("cookie", "sid=ada")]);
        assert!(ada.is_some());
        for same in [
            &[("cookie", "a=b; sid=ada; c=d")][..],
            &[("cookie", "a=b"), ("cookie", "sid=ada")],
            &[("cookie", "a=b;sid=ada;")],
            &[("cookie", "sid=ada; sid=eve")],
        ] {
            assert_eq!(key(&session, same), ada, "{same:?}");
        }
        for none in [&[("cookie", "asid=ada; SID=ada; sid; sidx=ada")][..], &[("sid", "ada")], &[("cookie", ";;=")]] {
            assert_eq!(key(&session, none), None, "{none:?}");
        }
        assert_ne!(Key::of(&["a", "bc"]), Key::of(&["ab", "c"]));
    }
}
