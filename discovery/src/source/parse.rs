//! Text of a manifest file to objects.
//!
//! In: YAML (many documents) or JSON (which is YAML). Out: objects of the kinds that matter, or the first mistake with
//! its line and field. Kinds that we do not use are skipped. Pure.

use crate::objects::Object;
use serde::Deserialize;
use serde::de::DeserializeOwned;

/// The first mistake of a file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {field}: {problem}")]
pub struct ParseError {
    pub line: usize,
    /// The way to it by keys, as far as it can be told: `spec.ports.port`.
    pub field: String,
    pub problem: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Head {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    kind: String,
}

/// Reads all documents of `text`.
pub fn parse(text: &str) -> Result<Vec<Object>, ParseError> {
    let mut objects = Vec::new();
    for (first_line, document) in documents(text) {
        if document.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#')) {
            continue;
        }
        if let Some(object) = object(&document, first_line)? {
            objects.push(object);
        }
    }
    Ok(objects)
}

fn object(document: &str, first_line: usize) -> Result<Option<Object>, ParseError> {
    fn read<T: DeserializeOwned>(document: &str, first_line: usize) -> Result<T, ParseError> {
        serde_saphyr::from_str(document).map_err(|error| mistake(document, first_line, &error))
    }
    let head: Head = read(document, first_line)?;
    let group = head.api_version.rsplit_once('/').map_or("", |(group, _)| group);
    let object = match (group, head.kind.as_str()) {
        ("", "Pod") => Object::Pod(read(document, first_line)?),
        ("", "Service") => Object::Service(read(document, first_line)?),
        ("discovery.k8s.io", "EndpointSlice") => Object::EndpointSlice(read(document, first_line)?),
        ("gateway.networking.k8s.io", "HTTPRoute") => Object::HttpRoute(read(document, first_line)?),
        ("gateway.networking.k8s.io", "GRPCRoute") => Object::GrpcRoute(read(document, first_line)?),
        ("gateway.networking.k8s.io", "ReferenceGrant") => Object::ReferenceGrant(read(document, first_line)?),
        ("remora.dev", "AuthorizationPolicy") => Object::AuthorizationPolicy(read(document, first_line)?),
        ("remora.dev", "MeshTLSPolicy") => Object::MeshTlsPolicy(read(document, first_line)?),
        ("remora.dev", "BackendPolicy") => Object::BackendPolicy(read(document, first_line)?),
        ("remora.dev", kind) => {
            return Err(ParseError {
                line: first_line,
                field: "kind".to_owned(),
                problem: format!("remora.dev has no kind {kind:?}"),
            });
        }
        _ => return Ok(None),
    };
    Ok(Some(object))
}

/// Splits at `---` lines; each document with the number of its first line.
fn documents(text: &str) -> Vec<(usize, String)> {
    let mut all = vec![(1, String::new())];
    for (index, line) in text.lines().enumerate() {
        if line == "---" || line.starts_with("--- ") {
            all.push((index + 2, String::new()));
        } else if let Some((_, document)) = all.last_mut() {
            document.push_str(line);
            document.push('\n');
        }
    }
    all
}

fn mistake(document: &str, first_line: usize, error: &serde_saphyr::Error) -> ParseError {
    let within = error.location().map_or(1, |location| usize::try_from(location.line()).unwrap_or(1));
    let problem = error.without_snippet().to_string();
    let problem = problem.lines().next().unwrap_or("is not valid").to_owned();
    ParseError { line: first_line + within - 1, field: field_at(document, within), problem }
}

/// The keys that lead to a line, by indentation; for flow style that is the block around it.
fn field_at(document: &str, line: usize) -> String {
    let mut path: Vec<&str> = Vec::new();
    let mut depth = usize::MAX;
    let before: Vec<&str> = document.lines().take(line).collect();
    for text in before.iter().rev() {
        let bare = text.trim_start_matches([' ', '-']);
        let indent = text.len() - bare.len();
        let Some((key, _)) = bare.split_once(':') else { continue };
        let key = key.trim_matches(['"', ' ', '{']);
        if indent < depth && !key.is_empty() && !key.starts_with('#') {
            path.push(key);
            depth = indent;
        }
    }
    path.reverse();
    if path.is_empty() { "document".to_owned() } else { path.join(".") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistake_is_named_by_line_and_field() {
        let text =
            "# first\n---\napiVersion: v1\nkind: Service\nmetadata: { name: api }\nspec:\n  ports:\n    - port: many\n";
        let error = parse(text).unwrap_err();
        assert_eq!((error.line, error.field.as_str()), (8, "spec.ports.port"), "{error}");
        let error = parse("apiVersion: remora.dev/v1alpha1\nkind: Nonsense\n").unwrap_err();
        assert_eq!(error.field, "kind");
    }

    #[test]
    fn json_and_unused_kinds_are_read_and_skipped() {
        let json = r#"{"apiVersion":"v1","kind":"Service","metadata":{"name":"api","namespace":"shop"},"spec":{"ports":[{"port":80}]}}"#;
        assert_eq!(parse(json).unwrap().len(), 1);
        assert_eq!(parse("apiVersion: apps/v1\nkind: Deployment\nmetadata: { name: a }\n").unwrap(), vec![]);
    }

    #[test]
    fn a_misspelt_policy_field_is_refused() {
        let text = "apiVersion: remora.dev/v1alpha1\nkind: AuthorizationPolicy\nmetadata: { name: a }\nspec:\n  rules:\n    - form: []\n";
        assert!(parse(text).unwrap_err().problem.contains("form"));
    }
}
