//! Status codes of gRPC.

use std::fmt;

/// Their names by number, as gRPC has them: in lower case, with a dash between words.
const NAMES: [&str; 17] = [
    "ok",
    "cancelled",
    "unknown",
    "invalid-argument",
    "deadline-exceeded",
    "not-found",
    "already-exists",
    "permission-denied",
    "resource-exhausted",
    "failed-precondition",
    "aborted",
    "out-of-range",
    "unimplemented",
    "internal",
    "unavailable",
    "data-loss",
    "unauthenticated",
];

/// A set of status codes, all of them failures: from 1 to 16.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct GrpcCodes(u32);

/// No status code of a failure.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no gRPC status of a failure, such as unavailable or resource-exhausted")]
pub struct InvalidGrpcCode(pub String);

impl GrpcCodes {
    /// Reads names with commas between them: `unavailable,resource-exhausted`.
    ///
    /// # Errors
    /// The first word that names no failure; nothing at all is such a word.
    pub fn parse(text: &str) -> Result<Self, InvalidGrpcCode> {
        let mut codes = Self::default();
        for word in text.split(',').map(str::trim) {
            let number = NAMES.iter().position(|name| *name == word).and_then(|number| u32::try_from(number).ok());
            codes.0 |= number.and_then(bit).ok_or_else(|| InvalidGrpcCode(word.to_owned()))?;
        }
        Ok(codes)
    }

    /// Of numbers; `None`: one of them is no failure's.
    pub fn of(numbers: impl IntoIterator<Item = u32>) -> Option<Self> {
        numbers.into_iter().try_fold(0, |set, number| Some(set | bit(number)?)).map(Self)
    }

    /// Whether there is none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether the code with this number is one of them.
    pub fn contain(self, number: u32) -> bool {
        bit(number).is_some_and(|bit| self.0 & bit != 0)
    }

    /// Their numbers, in order.
    pub fn iter(self) -> impl Iterator<Item = u32> {
        (1..17).filter(move |number| self.contain(*number))
    }
}

fn bit(number: u32) -> Option<u32> {
    (1..17).contains(&number).then(|| 1 << number)
}

impl fmt::Debug for GrpcCodes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_read_by_name_and_no_success_is_one() {
        let codes = GrpcCodes::parse("unavailable, resource-exhausted,unavailable").unwrap();
        assert_eq!(codes.iter().collect::<Vec<_>>(), [8, 14]);
        assert_eq!(GrpcCodes::of([14, 8]), Some(codes));
        assert!(codes.contain(14) && !codes.contain(2) && !codes.contain(0) && !codes.contain(46));
        for wrong in ["", "ok", "UNAVAILABLE", "14", "unavailable,"] {
            assert!(GrpcCodes::parse(wrong).is_err(), "{wrong:?}");
        }
        for wrong in [0, 17, 32, u32::MAX] {
            assert_eq!(GrpcCodes::of([wrong]), None, "{wrong}");
        }
        assert_eq!(GrpcCodes::of(1..17).map(|all| all.iter().count()), Some(16));
    }
}
