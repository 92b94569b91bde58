//! A YAML document as a tree that knows its lines, and typed values read from it with *all* their mistakes.
//!
//! serde stops at the first mistake. So what is wrong is left out of the tree, and the rest is read again, until nothing
//! more is wrong: each mistake is told once, with its line and its field. Pure.

use serde::de::{Deserialize, DeserializeOwned, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_path_to_error::Segment;
use serde_saphyr::Spanned;
use std::fmt;

/// The most mistakes told of one object; whoever made more has other worries.
const MISTAKES_MAX: usize = 50;

/// A value and where it stands.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) line: usize,
    pub(super) value: Value,
    /// Wrong, and left out.
    dropped: bool,
}

#[derive(Debug, Clone)]
pub(super) enum Value {
    /// Null, a boolean, a number, a text.
    Scalar(serde_json::Value),
    List(Vec<Node>),
    Map(Vec<(String, Node)>),
}

/// One thing that is wrong with a document. Lines count from the document's first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mistake {
    pub(super) line: usize,
    pub(super) field: String,
    pub(super) problem: String,
}

/// Reads one YAML document.
pub(super) fn read(document: &str) -> Result<Node, Mistake> {
    serde_saphyr::from_str(document).map_err(|error| {
        let line = error.location().map_or(1, |location| usize::try_from(location.line()).unwrap_or(1));
        let problem = error.without_snippet().to_string();
        let problem = problem.lines().next().unwrap_or("is no YAML").to_owned();
        Mistake { line, field: "document".to_owned(), problem }
    })
}

impl Node {
    /// The value under `key` of a map.
    pub(super) fn get(&self, key: &str) -> Option<&Self> {
        match &self.value {
            Value::Map(entries) => entries.iter().find(|(name, _)| name == key).map(|(_, node)| node),
            Value::Scalar(_) | Value::List(_) => None,
        }
    }

    /// The text under `key` of a map.
    pub(super) fn text(&self, key: &str) -> Option<&str> {
        match &self.get(key)?.value {
            Value::Scalar(serde_json::Value::String(text)) => Some(text),
            _ => None,
        }
    }

    /// Reads a `T`, or tells everything that is wrong with it.
    pub(super) fn decode<T: DeserializeOwned>(&self) -> Result<T, Vec<Mistake>> {
        let mut tree = self.clone();
        let mut mistakes: Vec<Mistake> = Vec::new();
        loop {
            let error = match serde_path_to_error::deserialize::<_, T>(&tree.json()) {
                Ok(value) if mistakes.is_empty() => return Ok(value),
                Ok(_) => return Err(mistakes),
                Err(error) => error,
            };
            let problem = error.inner().to_string();
            let (positions, field) = tree.find(error.path().iter());
            let Some(wrong) = tree.at(&positions) else { return Err(mistakes) };
            if !wrong.lacks_what_was_dropped(&problem) {
                mistakes.push(Mistake { line: wrong.line, field, problem });
            }
            if wrong.dropped || mistakes.len() == MISTAKES_MAX {
                return Err(mistakes);
            }
            wrong.dropped = true;
            if tree.dropped {
                return Err(mistakes);
            }
        }
    }

    /// Follows a path among what is not dropped, as far as it leads: by positions, and as it was written.
    fn find<'a>(&self, path: impl Iterator<Item = &'a Segment>) -> (Vec<usize>, String) {
        let (mut node, mut positions, mut field) = (self, Vec::new(), String::new());
        for segment in path {
            let next = match (segment, &node.value) {
                (Segment::Seq { index }, Value::List(items)) => {
                    let kept = items.iter().enumerate().filter(|(_, item)| !item.dropped).nth(*index);
                    kept.map(|(at, item)| (format!("[{at}]"), at, item))
                }
                (Segment::Map { key } | Segment::Enum { variant: key }, Value::Map(entries)) => {
                    let dot = if field.is_empty() { "" } else { "." };
                    let found = entries.iter().enumerate().find(|(_, (name, item))| name == key && !item.dropped);
                    found.map(|(at, (_, item))| (format!("{dot}{key}"), at, item))
                }
                _ => None,
            };
            let Some((step, at, item)) = next else { break };
            field += &step;
            positions.push(at);
            node = item;
        }
        if field.is_empty() {
            field.push_str("document");
        }
        (positions, field)
    }

    fn at(&mut self, positions: &[usize]) -> Option<&mut Self> {
        let Some((first, rest)) = positions.split_first() else { return Some(self) };
        let child = match &mut self.value {
            Value::List(items) => items.get_mut(*first)?,
            Value::Map(entries) => &mut entries.get_mut(*first)?.1,
            Value::Scalar(_) => return None,
        };
        child.at(rest)
    }

    /// Whether this "mistake" is only our having dropped the field for a mistake that is told already.
    fn lacks_what_was_dropped(&self, problem: &str) -> bool {
        let missing = problem.strip_prefix("missing field `").and_then(|rest| rest.split('`').next());
        match (&self.value, missing) {
            (Value::Map(entries), Some(missing)) => entries.iter().any(|(name, item)| name == missing && item.dropped),
            _ => false,
        }
    }

    /// What is not dropped. A field that is null is a field that is absent, as in Kubernetes.
    fn json(&self) -> serde_json::Value {
        match &self.value {
            Value::Scalar(scalar) => scalar.clone(),
            Value::List(items) => items.iter().filter(|item| !item.dropped).map(Self::json).collect(),
            Value::Map(entries) => {
                let kept = entries.iter().filter(|(_, item)| !item.dropped && !item.is_null());
                kept.map(|(name, item)| (name.clone(), item.json())).collect()
            }
        }
    }

    fn is_null(&self) -> bool {
        matches!(self.value, Value::Scalar(serde_json::Value::Null))
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Value>::deserialize(deserializer)?;
        let line = usize::try_from(spanned.referenced.line()).unwrap_or(1);
        Ok(Self { line, value: spanned.value, dropped: false })
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyValue)
    }
}

struct AnyValue;

impl<'de> Visitor<'de> for AnyValue {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Scalar(serde_json::Value::Null))
    }

    fn visit_none<E: Error>(self) -> Result<Value, E> {
        self.visit_unit()
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Scalar(value.into()))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Scalar(value.into()))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Scalar(value.into()))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Scalar(value.into()))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        Ok(Value::Scalar(value.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = list.next_element()? {
            items.push(item);
        }
        Ok(Value::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Value::Map(entries))
    }
}
