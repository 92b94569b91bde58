//! Small tools for JSON values.

use super::quantity::Quantity;
use serde_json::{Map, Value};

/// The elements of an array field; none where it is absent.
pub(super) fn elements<'a>(object: &'a Value, field: &str) -> &'a [Value] {
    object[field].as_array().map_or(&[], Vec::as_slice)
}

/// `name` of a container or volume.
pub(super) fn name(value: &Value) -> &str {
    value["name"].as_str().unwrap_or_default()
}

/// The object at `field`, made where it is absent or null. `value` must be an object.
pub(super) fn object<'a>(value: &'a mut Value, field: &str) -> Option<&'a mut Map<String, Value>> {
    let slot = value.as_object_mut()?.entry(field).or_insert(Value::Null);
    if slot.is_null() {
        *slot = Value::Object(Map::new());
    }
    slot.as_object_mut()
}

/// The array at `field`, made where it is absent or null. `value` must be an object.
pub(super) fn array<'a>(value: &'a mut Value, field: &str) -> Option<&'a mut Vec<Value>> {
    let slot = value.as_object_mut()?.entry(field).or_insert(Value::Null);
    if slot.is_null() {
        *slot = Value::Array(Vec::new());
    }
    slot.as_array_mut()
}

/// Whether `value` says all that `wanted` says: the API server adds defaults to what it was sent, and other admission
/// plugins add mounts and the like; neither is a reason to change it back. Lists are compared as sets, except of words,
/// whose order may mean something; quantities by their value.
pub(crate) fn covers(value: &Value, wanted: &Value) -> bool {
    match (value, wanted) {
        (Value::Object(value), Value::Object(wanted)) => {
            wanted.iter().all(|(key, wanted)| value.get(key).is_some_and(|value| covers(value, wanted)))
        }
        (Value::Array(value), Value::Array(wanted)) if wanted.iter().all(Value::is_object) => {
            wanted.iter().all(|wanted| value.iter().any(|value| covers(value, wanted)))
        }
        (Value::String(value), Value::String(wanted)) => {
            value == wanted || Quantity::parse(value).is_ok_and(|value| Quantity::parse(wanted) == Ok(value))
        }
        (value, wanted) => value == wanted,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn defaults_and_additions_are_covered_and_changes_are_not() {
        let wanted =
            json!({"name": "a", "resources": {"cpu": "0.1"}, "mounts": [{"name": "x"}], "command": ["a", "b"]});
        let more = json!({"name": "a", "resources": {"cpu": "100m", "memory": "1"}, "mounts": [{"name": "y"},
            {"name": "x", "readOnly": true}], "command": ["a", "b"], "stdin": false});
        assert!(covers(&more, &wanted) && !covers(&wanted, &more));
        assert!(!covers(&json!({"command": ["b", "a"]}), &json!({"command": ["a", "b"]})));
        assert!(!covers(&json!({"a": {"b": 1}}), &json!({"a": {"b": 2}})));
    }
}
