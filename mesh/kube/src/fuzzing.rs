//! Fuzz target of manifests as text. In: any bytes. Out: nothing, or a panic. Built for tests, which replay `fuzz/corpus` and
//! changes of it, and for `cargo fuzz` (which sets `cfg(fuzzing)`) alone.

use crate::yaml::{self, DEPTH_MAX, Node, Value};
use serde_json::Value as Json;

#[cfg(test)]
remora_replay::replays! {
    yaml_is_read_as_it_is_written: yaml_texts, 20_000;
}

/// What is read is written so that it is read as the same, no key is there twice, every line is one of the text, and JSON
/// means what it means.
pub fn yaml_texts(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    // In YAML a carriage return ends a line too.
    let lines = text.matches(['\n', '\r']).count() + 1;
    let all = yaml::read(&text);
    for document in &all {
        match document {
            Err(mistake) => {
                assert!((1..=lines + 1).contains(&mistake.line), "{mistake}");
                assert!(!mistake.problem.is_empty());
            }
            Ok(node) => {
                sound(node, lines, 0);
                let json = node.clone().into_json();
                let written = yaml::write(&json);
                let mut again = yaml::read(&written);
                assert_eq!(again.len(), 1, "{json:?} is written as {written:?}");
                let again = again.remove(0).unwrap_or_else(|mistake| panic!("{mistake} in {written:?}"));
                assert_eq!(again.into_json(), json, "by {written:?}");
            }
        }
    }
    if let (Ok(json @ Json::Object(_)), [Ok(node)]) = (serde_json::from_str(&text), &*all) {
        assert_eq!(node.clone().into_json(), numbers_alike(json), "JSON is YAML");
    }
}

fn sound(node: &Node, lines: usize, depth: usize) {
    // What is left out at the end stands behind it.
    assert!((1..=lines + 1).contains(&node.line) && depth <= DEPTH_MAX, "line {} at depth {depth}", node.line);
    match &node.value {
        Value::Scalar(scalar) => assert!(!scalar.is_array() && !scalar.is_object()),
        Value::List(items) => items.iter().for_each(|item| sound(item, lines, depth + 1)),
        Value::Map(entries) => {
            let mut keys: Vec<&String> = entries.iter().map(|(key, _)| key).collect();
            keys.sort();
            assert!(keys.windows(2).all(|two| two[0] != two[1]), "{keys:?}");
            entries.iter().for_each(|(_, item)| sound(item, lines, depth + 1));
        }
    }
}

/// Integers are integers, however they are spelt.
fn numbers_alike(json: Json) -> Json {
    match json {
        Json::Array(items) => items.into_iter().map(numbers_alike).collect(),
        Json::Object(entries) => entries.into_iter().map(|(key, value)| (key, numbers_alike(value))).collect(),
        Json::Number(number) if number.is_f64() => match number.as_f64() {
            Some(float) if float.fract() == 0.0 && float.abs() < 9e15 => (float as i64).into(),
            _ => Json::Number(number),
        },
        other => other,
    }
}
