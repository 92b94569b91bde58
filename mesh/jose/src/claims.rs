//! What tokens say of themselves (RFC 7519 §4.1).

use serde::{Deserialize, Deserializer, de::Error as _};
use serde_json::{Map, Number, Value};
use std::{sync::Arc, time::Duration};

/// RFC 7519 §2: seconds since 1970, perhaps with a fraction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NumericDate(pub Duration);

impl<'de> Deserialize<'de> for NumericDate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = Number::deserialize(deserializer)?;
        let whole = number.as_u64().map(Duration::from_secs);
        // What is before 1970 is 1970, what is beyond all time is the end of it.
        let late =
            || number.as_f64().map(|seconds| Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(Duration::MAX));
        whole.or_else(late).map(Self).ok_or_else(|| D::Error::custom("a time is a number"))
    }
}

/// RFC 7519 §4.1.3: one text or several.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub enum Audiences {
    One(String),
    Many(Vec<String>),
}

impl Audiences {
    /// Whether `audience` is one of them.
    #[must_use]
    pub fn holds(&self, audience: &str) -> bool {
        match self {
            Self::One(one) => one == audience,
            Self::Many(many) => many.iter().any(|one| one == audience),
        }
    }
}

/// Claims of which only the audience is read.
#[derive(Debug, Deserialize)]
pub struct Audience {
    pub aud: Audiences,
}

/// A token that was checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Verified {
    /// The issuers that it was checked for, by the names that rules have for them.
    pub issuers: Vec<Arc<str>>,
    /// All that it says.
    pub claims: Map<String, Value>,
}

impl Verified {
    /// The claim at the end of `path`, from the outermost name.
    #[must_use]
    pub fn claim(&self, path: &[Arc<str>]) -> Option<&Value> {
        let (first, rest) = path.split_first()?;
        rest.iter().try_fold(self.claims.get(&**first)?, |at, name| at.as_object()?.get(&**name))
    }

    /// Whether the claim is `wanted`, or is a list that has it. Numbers and booleans are compared as they are written in JSON.
    #[must_use]
    pub fn says(&self, path: &[Arc<str>], wanted: &str) -> bool {
        let one = |value: &Value| match value {
            Value::String(text) => text == wanted,
            Value::Number(number) => number.to_string() == wanted,
            Value::Bool(truth) => wanted == if *truth { "true" } else { "false" },
            Value::Null | Value::Array(_) | Value::Object(_) => false,
        };
        match self.claim(path) {
            // RFC 8693 §4.2: words.
            Some(Value::String(words)) if matches!(path, [name] if matches!(&**name, "scope" | "scp")) => {
                words.split(' ').any(|word| word == wanted)
            }
            Some(Value::Array(all)) => all.iter().any(one),
            Some(value) => one(value),
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verified(claims: &str) -> Verified {
        let Ok(Value::Object(claims)) = serde_json::from_str(claims) else { panic!("{claims}") };
        Verified { issuers: Vec::new(), claims }
    }

    #[test]
    fn a_claim_is_compared_by_its_path_and_a_list_has_each_of_its_entries() {
        let token = verified(
            r#"{"sub": "a", "n": 7, "admin": true, "groups": ["x", 8, ["deep"]], "realm_access": {"roles": ["r"]},
                "a.b": "dotted", "scope": "read write", "scp": "one two", "scopes": "read write", "null": null}"#,
        );
        let says = |path: &[&str], wanted| {
            let path: Vec<Arc<str>> = path.iter().map(|name| (*name).into()).collect();
            token.says(&path, wanted)
        };
        for (path, wanted) in [
            (&["sub"][..], "a"),
            (&["n"], "7"),
            (&["admin"], "true"),
            (&["groups"], "x"),
            (&["groups"], "8"),
            (&["realm_access", "roles"], "r"),
            (&["a.b"], "dotted"),
            (&["scope"], "write"),
            (&["scp"], "one"),
        ] {
            assert!(says(path, wanted), "{path:?} {wanted}");
        }
        for (path, wanted) in [
            (&["sub"][..], "A"),
            (&["sub"], ""),
            (&["groups"], "deep"),
            (&["groups"], "x,8"),
            (&["realm_access.roles"], "r"),
            (&["a", "b"], "dotted"),
            (&["scope"], "read write"),
            (&["scope"], "rea"),
            (&["scopes"], "read"),
            (&["null"], "null"),
            (&["sub", "x"], "a"),
            (&[], "a"),
        ] {
            assert!(!says(path, wanted), "{path:?} {wanted}");
        }
    }
}
