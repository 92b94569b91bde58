//! A YAML document as a tree that knows its lines, and typed values read from it with *all* their errors.
//!
//! serde stops at the first error. So the invalid value is removed from the tree, and the rest is read again, until no error
//! is left: each error is reported once, with its line and its field. Pure.

use crate::objects::IS_NULL;
use remora_kube::yaml;
use serde::de::DeserializeOwned;
use serde_path_to_error::Segment;

/// The most errors reported of one object.
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

/// One thing that is wrong with a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mistake {
    pub(super) line: usize,
    pub(super) field: String,
    pub(super) problem: String,
}

impl From<yaml::Node> for Node {
    fn from(node: yaml::Node) -> Self {
        let value = match node.value {
            yaml::Value::Scalar(scalar) => Value::Scalar(scalar),
            yaml::Value::List(items) => Value::List(items.into_iter().map(Self::from).collect()),
            yaml::Value::Map(entries) => {
                Value::Map(entries.into_iter().map(|(key, node)| (key, node.into())).collect())
            }
        };
        Self { line: node.line, value, dropped: false }
    }
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

    /// With every field below `spec` that is null named so ([`IS_NULL`]).
    pub(super) fn with_nulls_named(&self) -> Self {
        let mut tree = self.clone();
        if let Value::Map(entries) = &mut tree.value {
            entries.iter_mut().filter(|(name, _)| name == "spec").for_each(|(_, spec)| spec.name_nulls());
        }
        tree
    }

    fn name_nulls(&mut self) {
        match &mut self.value {
            Value::Scalar(_) => {}
            Value::List(items) => items.iter_mut().for_each(Self::name_nulls),
            Value::Map(entries) => {
                for (name, item) in entries {
                    if item.is_null() {
                        name.push_str(IS_NULL);
                    }
                    item.name_nulls();
                }
            }
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

    /// Whether this error is only a consequence of our having removed a field whose error is reported already.
    fn lacks_what_was_dropped(&self, problem: &str) -> bool {
        let missing = problem.strip_prefix("missing field `").and_then(|rest| rest.split('`').next());
        match (&self.value, missing) {
            (Value::Map(entries), Some(missing)) => entries.iter().any(|(name, item)| name == missing && item.dropped),
            _ => false,
        }
    }

    /// What is not dropped. A field that is null is a field that is absent, as in Kubernetes, unless its name says it.
    fn json(&self) -> serde_json::Value {
        match &self.value {
            Value::Scalar(scalar) => scalar.clone(),
            Value::List(items) => items.iter().filter(|item| !item.dropped).map(Self::json).collect(),
            Value::Map(entries) => {
                let absent = |name: &str, item: &Self| item.dropped || (item.is_null() && !name.ends_with(IS_NULL));
                let kept = entries.iter().filter(|(name, item)| !absent(name, item));
                kept.map(|(name, item)| (name.clone(), item.json())).collect()
            }
        }
    }

    fn is_null(&self) -> bool {
        matches!(self.value, Value::Scalar(serde_json::Value::Null))
    }
}
