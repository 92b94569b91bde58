//! What a proxy tells for the map, read and bounded: the answer to `/map` (docs/admin-api.md).
//!
//! In: bytes of a proxy, which may say anything. Out: a [`Told`], or what is wrong with it. A field that is not known is left out.

use crate::serve::limits::{MAP_BUCKETS_MAX, MAP_ROWS_MAX};
use serde::{
    Deserialize, Deserializer,
    de::{Error as _, SeqAccess, Visitor},
};
use serde_json::{Value, json};
use std::{collections::BTreeMap, fmt, marker::PhantomData};

/// Bytes of a name: Services and identities have fewer.
const NAME_BYTES_MAX: usize = 1024;

/// The windows, by name.
pub(super) const WINDOWS: [&str; 5] = ["s10", "m1", "m5", "m15", "before"];

/// See the module.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Told {
    #[serde(default)]
    pub(super) version: Name,
    #[serde(default, deserialize_with = "rows")]
    pub(super) calls: Vec<Call>,
    #[serde(default, deserialize_with = "rows")]
    pub(super) callers: Vec<Caller>,
    #[serde(default, deserialize_with = "rows")]
    pub(super) serves: Vec<Name>,
}

/// What it calls.
#[derive(Debug, Deserialize)]
pub(super) struct Call {
    pub(super) parent: Name,
    pub(super) windows: Windows,
    #[serde(default, deserialize_with = "rows")]
    pub(super) to: Vec<End>,
    #[serde(default, deserialize_with = "rows")]
    pub(super) failures: Vec<Failed>,
}

/// Who calls it.
#[derive(Debug, Deserialize)]
pub(super) struct Caller {
    pub(super) peer: Name,
    pub(super) tls: Name,
    #[serde(default, deserialize_with = "rows")]
    pub(super) parents: Vec<Name>,
    pub(super) windows: Windows,
    #[serde(default, deserialize_with = "rows")]
    pub(super) failures: Vec<Failed>,
}

impl Caller {
    /// Whether these are what policy refused: they are counted without their caller.
    pub(super) fn is_refused(&self) -> bool {
        self.peer.0.is_empty() && self.tls.0 == "mtls"
    }
}

/// Where requests went, and how they were protected.
#[derive(Debug, Deserialize)]
pub(super) struct End {
    pub(super) peer: Name,
    pub(super) tls: Name,
    pub(super) requests: u64,
    pub(super) rps: f64,
}

#[derive(Debug, Deserialize)]
pub(super) struct Failed {
    pub(super) reason: Name,
    pub(super) fault: Name,
    pub(super) count: u64,
}

#[derive(Debug, Deserialize)]
pub(super) struct Windows {
    pub(super) s10: Option<Window>,
    pub(super) m1: Option<Window>,
    pub(super) m5: Option<Window>,
    pub(super) m15: Option<Window>,
    pub(super) before: Option<Window>,
}

impl Windows {
    /// In the order of [`WINDOWS`].
    pub(super) fn each(&self) -> [Option<&Window>; WINDOWS.len()] {
        [&self.s10, &self.m1, &self.m5, &self.m15, &self.before].map(Option::as_ref)
    }
}

#[derive(Debug, Deserialize)]
pub(super) struct Window {
    pub(super) requests: u64,
    pub(super) failed: u64,
    pub(super) rps: f64,
    #[serde(default, deserialize_with = "buckets")]
    pub(super) latencies_ns: Vec<(u64, u64)>,
}

/// A text that is not too long, and has no control characters.
#[derive(Debug, Default, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Name(pub(super) String);

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        if text.len() > NAME_BYTES_MAX || text.chars().any(char::is_control) {
            return Err(D::Error::custom("a name is longer than 1024 bytes, or has control characters"));
        }
        Ok(Self(text))
    }
}

/// Reads an answer.
pub(super) fn read(bytes: &[u8]) -> Result<Told, String> {
    // Lists would be taken for objects.
    if bytes.first() != Some(&b'{') {
        return Err("it is no JSON object".to_owned());
    }
    let told: Told = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    let numbers = told.calls.iter().flat_map(|call| call.to.iter().map(|end| end.rps));
    let windows = told.calls.iter().map(|call| &call.windows).chain(told.callers.iter().map(|caller| &caller.windows));
    let rates = windows.flat_map(|windows| windows.each()).flatten().map(|window| window.rps);
    if numbers.chain(rates).any(|rate| !(0.0..1e12).contains(&rate)) {
        return Err("a rate is no number that a rate can be".to_owned());
    }
    Ok(told)
}

fn rows<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Vec<T>, D::Error> {
    from.deserialize_seq(AtMost(MAP_ROWS_MAX, PhantomData))
}

fn buckets<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<(u64, u64)>, D::Error> {
    from.deserialize_seq(AtMost(MAP_BUCKETS_MAX, PhantomData))
}

struct AtMost<T>(usize, PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for AtMost<T> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a list of at most {}", self.0)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<T>, A::Error> {
        let mut read = Vec::new();
        while let Some(row) = list.next_element()? {
            if read.len() == self.0 {
                return Err(A::Error::custom(format!("a list has more than {} rows", self.0)));
            }
            read.push(row);
        }
        Ok(read)
    }
}

/// Several windows of several proxies, added up.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Sums(pub(super) [Option<Sum>; WINDOWS.len()]);

/// One of them.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Sum {
    pub(super) requests: u64,
    pub(super) failed: u64,
    /// In thousandths, so that it does not matter in which order they are added up.
    milli_rps: u64,
    latencies: BTreeMap<u64, u64>,
}

impl Sums {
    pub(super) fn add(&mut self, windows: &Windows) {
        for (sum, window) in self.0.iter_mut().zip(windows.each()) {
            let Some(window) = window else { continue };
            sum.get_or_insert_default().add(window);
        }
    }

    /// By name; `null` where there is none yet.
    pub(super) fn json(&self) -> Value {
        let windows = WINDOWS.iter().zip(&self.0);
        windows.map(|(name, sum)| (name.to_string(), sum.as_ref().map_or(Value::Null, Sum::json))).collect()
    }

    /// Requests of the last minute, and of the last fifteen.
    pub(super) fn lately(&self) -> (u64, u64) {
        let requests = |at: usize| self.0[at].as_ref().map_or(0, |sum| sum.requests);
        (requests(1), requests(3))
    }
}

impl Sum {
    fn add(&mut self, window: &Window) {
        self.requests = self.requests.saturating_add(window.requests);
        self.failed = self.failed.saturating_add(window.failed);
        self.milli_rps = self.milli_rps.saturating_add((window.rps * 1e3).round() as u64);
        for (middle, count) in &window.latencies_ns {
            let sum = self.latencies.entry(*middle).or_default();
            *sum = sum.saturating_add(*count);
        }
    }

    fn rps(&self) -> f64 {
        self.milli_rps as f64 / 1e3
    }

    fn json(&self) -> Value {
        let share = if self.requests == 0 { 0.0 } else { self.failed as f64 / self.requests as f64 };
        let quantiles = self.quantiles([0.5, 0.95, 0.99]);
        let ms = |at: usize| quantiles.map(|all| (all[at] * 1e3).round() / 1e3);
        json!({
            "rps": self.rps(), "requests": self.requests, "failed": self.failed, "errors": (share * 1e6).round() / 1e6,
            "p50_ms": ms(0), "p95_ms": ms(1), "p99_ms": ms(2),
        })
    }

    /// The latencies in milliseconds that these shares, in ascending order, do not exceed. `None`: none is known.
    fn quantiles<const N: usize>(&self, shares: [f64; N]) -> Option<[f64; N]> {
        let ended = self.latencies.values().fold(0_u64, |sum, count| sum.saturating_add(*count));
        let last = *self.latencies.keys().next_back()?;
        if ended == 0 {
            return None;
        }
        // A count beyond 2^53 loses its last bits here, which no quantile shows.
        let ranks = shares.map(|share| ((share * ended as f64).ceil() as u64).max(1));
        let (mut quantiles, mut seen, mut at) = ([last as f64 / 1e6; N], 0_u64, 0);
        for (middle, count) in &self.latencies {
            seen = seen.saturating_add(*count);
            while at < N && seen >= ranks[at] {
                quantiles[at] = *middle as f64 / 1e6;
                at += 1;
            }
        }
        Some(quantiles)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(latencies: &[(u64, u64)]) -> Window {
        let requests = latencies.iter().map(|(_, count)| count).sum();
        Window { requests, failed: 1, rps: 0.1, latencies_ns: latencies.to_vec() }
    }

    #[test]
    fn histograms_are_added_up_and_quantiles_are_those_of_all_requests() {
        let mut sum = Sum::default();
        sum.add(&window(&[(1_000_000, 98)]));
        sum.add(&window(&[(1_000_000, 1), (900_000_000, 1)]));
        assert_eq!(sum.quantiles([0.5, 0.95, 0.99, 1.0]), Some([1.0, 1.0, 1.0, 900.0]));
        assert_eq!((sum.requests, sum.failed, sum.rps()), (100, 2, 0.2));
        assert_eq!(Sum::default().quantiles([0.5]), None);
    }

    #[test]
    fn the_order_of_answers_does_not_matter() {
        let mut rng = fastrand::Rng::with_seed(3);
        let mut all: Vec<Window> = (0..40)
            .map(|_| {
                let latencies: Vec<_> = (0..rng.usize(..20)).map(|_| (rng.u64(..30) * 1000, rng.u64(..9))).collect();
                Window { rps: rng.f64() * 100.0, ..window(&latencies) }
            })
            .collect();
        let sum = |all: &[Window]| {
            let mut sum = Sum::default();
            all.iter().for_each(|window| sum.add(window));
            sum
        };
        let first = sum(&all);
        for _ in 0..20 {
            rng.shuffle(&mut all);
            assert_eq!(sum(&all), first);
        }
    }

    #[test]
    fn what_is_beyond_a_bound_or_no_answer_is_refused_and_what_is_new_is_left_out() {
        let one = json!({"requests": 1, "failed": 0, "rps": 1.0, "new": 1});
        let windows = json!({"s10": one, "m1": null, "m5": null, "m15": null, "before": null});
        let call = |parent: &str| json!({"parent": parent, "windows": windows, "to": [], "failures": [], "new": {}});
        let read = |calls: Value| read(json!({"version": "1", "calls": calls}).to_string().as_bytes());
        assert_eq!(read(json!([call("shop/api:80")])).unwrap().calls.len(), 1);
        assert!(read(json!(vec![call("a"); MAP_ROWS_MAX + 1])).unwrap_err().contains("more than"));
        assert!(read(json!([call(&"a".repeat(2000))])).is_err());
        assert!(read(json!([call("a\u{1b}[31m")])).is_err(), "terminals and logs would take it for a command");
        let mut negative = call("a");
        negative["windows"]["s10"]["rps"] = json!(-1.0);
        assert!(read(json!([negative])).is_err());
        for bytes in [&b""[..], b"{", b"[]", b"null", b"\xff"] {
            assert!(super::read(bytes).is_err(), "{bytes:?}");
        }
    }
}
