//! JSON that the parser of YAML does not take: objects one after the other, above all. By the same bounds (`serde_json` itself goes 128
//! deep, which is less), and no key is there twice.

use super::{Mistake, NODES_MAX, Node, Value, scalar, shown};
use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Value as Json;
use std::{collections::HashSet, fmt};

/// The documents of `text`, whose first line is `first`, if it is JSON that begins with an object; after an error there is no next one.
pub(super) fn documents(text: &str, first: usize) -> Option<Vec<Result<Node, Mistake>>> {
    if !text.trim_start().starts_with('{') {
        return None;
    }
    let (mut json, mut all) = (serde_json::Deserializer::from_str(text), Vec::new());
    loop {
        let mut read = Reading { line: first, nodes: 0, problem: None };
        match (read.node().deserialize(&mut json), read.problem) {
            (Ok(Node { value: Value::Scalar(Json::Null), .. }), _) => {}
            (Ok(node), _) => all.push(Ok(node)),
            (Err(error), Some(problem)) => {
                all.push(Err(Mistake { line: first - 1 + error.line().max(1), problem }));
                return Some(all);
            }
            (Err(_), None) => return None,
        }
        if json.end().is_ok() {
            return Some(all);
        }
    }
}

/// A document that is being read.
struct Reading {
    line: usize,
    /// Made so far.
    nodes: usize,
    /// What is wrong with it although it is JSON.
    problem: Option<String>,
}

impl Reading {
    fn node(&mut self) -> Seed<'_> {
        Seed(self)
    }

    fn count<E: serde::de::Error>(&mut self) -> Result<(), E> {
        self.nodes += 1;
        if self.nodes > NODES_MAX {
            return Err(self.wrong(format!("more than {NODES_MAX} values in one document: split it")));
        }
        Ok(())
    }

    fn wrong<E: serde::de::Error>(&mut self, problem: String) -> E {
        let error = E::custom(&problem);
        self.problem = Some(problem);
        error
    }
}

/// One value of it.
struct Seed<'a>(&'a mut Reading);

impl Seed<'_> {
    fn scalar<E>(self, json: impl Into<Json>) -> Result<Node, E> {
        Ok(Node { line: self.0.line, value: Value::Scalar(json.into()) })
    }
}

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Node;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        self.0.count()?;
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        self.scalar(Json::Null)
    }

    fn visit_bool<E>(self, word: bool) -> Result<Node, E> {
        self.scalar(word)
    }

    fn visit_i64<E>(self, int: i64) -> Result<Node, E> {
        self.scalar(int)
    }

    fn visit_u64<E>(self, int: u64) -> Result<Node, E> {
        self.scalar(int)
    }

    fn visit_f64<E: serde::de::Error>(self, float: f64) -> Result<Node, E> {
        let number = scalar::of_float(float).ok_or_else(|| E::custom("this is no number that JSON has"))?;
        self.scalar(number)
    }

    fn visit_str<E>(self, text: &str) -> Result<Node, E> {
        self.scalar(text)
    }

    fn visit_string<E>(self, text: String) -> Result<Node, E> {
        self.scalar(text)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Node, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element_seed(self.0.node())? {
            items.push(item);
        }
        Ok(Node { line: self.0.line, value: Value::List(items) })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
        let (mut entries, mut keys) = (Vec::new(), HashSet::new());
        while let Some(key) = map.next_key::<String>()? {
            self.0.count()?;
            if !keys.insert(key.clone()) {
                return Err(self.0.wrong(format!("the key {} is there twice", shown(&key))));
            }
            entries.push((key, map.next_value_seed(self.0.node())?));
        }
        Ok(Node { line: self.0.line, value: Value::Map(entries) })
    }
}
