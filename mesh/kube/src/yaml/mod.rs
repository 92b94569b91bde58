//! YAML as `kubectl` reads it, for every reader of ours: `remora inject`, the directory source of discovery.
//!
//! In: text of any number of documents, YAML or JSON. Out: per document a tree that knows its lines, or what is wrong with
//! it. Pure. `kubectl` reads YAML 1.1 (`go.yaml.in/yaml/v2` below `sigs.k8s.io/yaml`): `0400` is 256 and `on` is true, so
//! they are here; [`scalar`] has these rules. Keys are read by the same rules and become text, as JSON wants it.
//!
//! Stricter than `kubectl` where it drops something in silence: of two equal keys in one mapping it keeps the last, here
//! that is an error. So are what JSON has no word for (`.nan`, a null as key) and the tag `!!binary`.
//!
//! Bounded: [`NODES_MAX`] values per document and [`DEPTH_MAX`], aliases counted as what they stand for, and
//! [`ALIASED_BYTES_MAX`] of text that aliases stand for. How much text there may be besides is for the caller to say.

mod compose;
mod json;
mod scalar;
mod write;

pub use write::write;

use serde_json::Value as Json;

/// Values in one document; a List of 7000 pods as `kubectl get` prints it has some 2 million. Each takes 100 bytes at most,
/// beside its text.
pub const NODES_MAX: usize = 4_000_000;
/// Bytes of text that aliases of one document stand for, all together: ten times what etcd takes of one object.
pub const ALIASED_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Mappings and sequences within each other. The deepest of Kubernetes are schemas in CRDs, some 60.
pub const DEPTH_MAX: usize = 200;

/// A value and where it stands.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// Its line in the text; the first is 1. In JSON that is no YAML, the first line of the document.
    pub line: usize,
    /// What it is.
    pub value: Value,
}

/// What a node is.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Null, a boolean, a number, a text.
    Scalar(Json),
    /// A sequence.
    List(Vec<Node>),
    /// A mapping, in the order of the text; no key is there twice.
    Map(Vec<(String, Node)>),
}

/// What is wrong with a document.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {problem}")]
pub struct Mistake {
    /// Where.
    pub line: usize,
    /// What.
    pub problem: String,
}

/// Reads all documents of `text`; those that are empty, or null, are left out. What is wrong with one says nothing of the
/// others.
#[must_use]
pub fn read(text: &str) -> Vec<Result<Node, Mistake>> {
    let mut all = Vec::new();
    for part in parts(text.strip_prefix('\u{feff}').unwrap_or(text)) {
        match part {
            Ok((line, text)) => all.append(&mut compose::documents(text, line)),
            Err(mistake) => all.push(Err(mistake)),
        }
    }
    all
}

/// Splits at lines of `---`; each part with the number of its first line. Nothing but a comment may follow on such a line.
fn parts(text: &str) -> Vec<Result<(usize, &str), Mistake>> {
    let (mut all, mut first, mut start, mut end) = (Vec::new(), 1, 0, 0);
    for (index, line) in text.split_inclusive('\n').enumerate() {
        let marker = line.strip_prefix("---").filter(|rest| rest.is_empty() || rest.starts_with(char::is_whitespace));
        if let Some(rest) = marker.map(str::trim) {
            all.push(Ok((first, &text[start..end])));
            (first, start) = (index + 2, end + line.len());
            if !rest.is_empty() && !rest.starts_with('#') {
                let problem = format!("kubectl takes nothing but a comment behind ---, not {}", shown(rest));
                all.push(Err(Mistake { line: index + 1, problem }));
            }
        }
        end += line.len();
    }
    all.push(Ok((first, &text[start..])));
    all.retain(|part| !matches!(part, Ok((_, text)) if is_empty(text)));
    all
}

/// Whether there is nothing but comments and directives.
fn is_empty(text: &str) -> bool {
    let nothing = |line: &str| line.is_empty() || line.starts_with(['#', '%']) || line == "...";
    text.lines().map(str::trim).all(nothing)
}

/// `text` for a message: quoted, and not too long.
fn shown(text: &str) -> String {
    const MAX: usize = 60;
    let cut: String = text.chars().take(MAX).collect();
    if cut.len() < text.len() { format!("{cut:?}…") } else { format!("{cut:?}") }
}

impl Node {
    /// The value under `key` of a mapping.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Self> {
        match &self.value {
            Value::Map(entries) => entries.iter().find(|(name, _)| name == key).map(|(_, node)| node),
            Value::Scalar(_) | Value::List(_) => None,
        }
    }

    /// The same without lines.
    #[must_use]
    pub fn into_json(self) -> Json {
        match self.value {
            Value::Scalar(scalar) => scalar,
            Value::List(items) => items.into_iter().map(Self::into_json).collect(),
            Value::Map(entries) => entries.into_iter().map(|(key, node)| (key, node.into_json())).collect(),
        }
    }
}

#[cfg(test)]
mod tests;
