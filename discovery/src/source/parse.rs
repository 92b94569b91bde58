//! Text of a manifest file to objects.
//!
//! In: YAML (many documents, `kind: List`) or JSON (which is YAML). Out: objects of the kinds that matter, **every**
//! error with its line and field, and which other kinds there were. Pure.

use super::tree::{self, Node, Value};
use crate::objects::{
    Kind, Object, Origin,
    kind::OUR_GROUP,
    names::{is_label, is_subdomain},
    registry::{Visitor, visit},
};
use remora_kube::yaml;
use std::{collections::BTreeMap, sync::Arc};

/// One error of a file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {field}: {problem}")]
pub struct ParseError {
    pub line: usize,
    /// The way to it: `spec.ports[0].port`.
    pub field: String,
    pub problem: String,
}

/// What a file says.
#[derive(Debug, Default)]
pub struct Parsed {
    /// Those without an error.
    pub objects: Vec<Object>,
    /// Objects of kinds that have no effect here, by `apiVersion kind`.
    pub unused: BTreeMap<String, usize>,
    /// In the order of lines.
    pub mistakes: Vec<ParseError>,
}

impl Parsed {
    /// The objects of a file that has no error.
    pub fn whole(self) -> Result<Vec<Object>, Vec<ParseError>> {
        if self.mistakes.is_empty() { Ok(self.objects) } else { Err(self.mistakes) }
    }
}

/// Reads all documents of `text`, which `file` names for people.
pub fn parse(text: &str, file: &str) -> Parsed {
    let mut parser = Parser { file: file.into(), item: String::new(), parsed: Parsed::default() };
    for document in yaml::read(text) {
        match document {
            Ok(node) => parser.document(&node.into()),
            Err(yaml::Mistake { line, problem }) => {
                parser.mistake(tree::Mistake { line, field: "document".to_owned(), problem });
            }
        }
    }
    parser.parsed
}

struct Parser {
    file: Arc<str>,
    /// `items[3]` within a List.
    item: String,
    parsed: Parsed,
}

impl Parser {
    fn mistake(&mut self, mistake: tree::Mistake) {
        let dot = if self.item.is_empty() { "" } else { "." };
        let field = format!("{}{dot}{}", self.item, mistake.field);
        self.parsed.mistakes.push(ParseError { line: mistake.line, field, problem: mistake.problem });
    }

    fn wrong(&mut self, node: &Node, field: &str, problem: impl Into<String>) {
        self.mistake(tree::Mistake { line: node.line, field: field.to_owned(), problem: problem.into() });
    }

    /// An object, or a List of them as `kubectl get -o yaml` prints it.
    fn document(&mut self, node: &Node) {
        let items = match (node.text("kind"), node.get("items").map(|items| &items.value)) {
            (Some("List"), Some(Value::List(items))) => items,
            (Some("List"), _) => return self.wrong(node, "items", "a List needs them"),
            _ => return self.object(node),
        };
        for (index, item) in items.iter().enumerate() {
            self.item = format!("items[{index}]");
            match item.text("kind") {
                Some("List") => self.wrong(item, "kind", "a List within a List is not read"),
                _ => self.object(item),
            }
        }
        self.item.clear();
    }

    fn object(&mut self, node: &Node) {
        let (Some(version), Some(kind)) = (node.text("apiVersion"), node.text("kind")) else {
            for field in ["apiVersion", "kind"].into_iter().filter(|field| node.text(field).is_none()) {
                self.wrong(node, field, "is missing, or is no text");
            }
            return;
        };
        let group = version.rsplit_once('/').map_or("", |(group, _)| group);
        let origin = Origin { file: self.file.clone(), line: node.line };
        let mut reading = Reading { node, group, kind, origin, read: None };
        visit(&mut reading);
        let Some(read) = reading.read else {
            // A policy whose kind is misspelt must not pass for something that is none of our business.
            if group == OUR_GROUP {
                return self.wrong(node, "kind", format!("{OUR_GROUP} has no kind {kind:?}"));
            }
            *self.parsed.unused.entry(format!("{version} {kind}")).or_default() += 1;
            return;
        };
        match read {
            Ok(object) => self.parsed.objects.push(object),
            Err(mistakes) => mistakes.into_iter().for_each(|mistake| self.mistake(mistake)),
        }
    }
}

/// A document, until its kind is met.
struct Reading<'a> {
    node: &'a Node,
    group: &'a str,
    kind: &'a str,
    origin: Origin,
    read: Option<Result<Object, Vec<tree::Mistake>>>,
}

impl Visitor for Reading<'_> {
    fn kind<T: Kind + Into<Object>>(&mut self) {
        if (self.group, self.kind) == (T::GROUP, T::KIND) {
            self.read = Some(read::<T>(self.node, self.origin.clone()));
        }
    }
}

fn read<T: Kind + Into<Object>>(node: &Node, origin: Origin) -> Result<Object, Vec<tree::Mistake>> {
    let mut object: T = if T::is_ours() { node.with_nulls_named().decode()? } else { node.decode()? };
    let metadata = object.metadata_mut();
    let wrong = |field: &str, problem: String| tree::Mistake { line: node.line, field: field.to_owned(), problem };
    if !is_subdomain(&metadata.name) {
        return Err(vec![wrong("metadata.name", format!("{:?} is no name", metadata.name))]);
    }
    if !is_label(&metadata.namespace) {
        return Err(vec![wrong("metadata.namespace", format!("{:?} is no name of a namespace", metadata.namespace))]);
    }
    metadata.origin = origin;
    Ok(object.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(text: &str) -> Vec<String> {
        parse(text, "test").mistakes.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_mistake_is_named_by_line_and_field() {
        let text =
            "# first\n---\napiVersion: v1\nkind: Service\nmetadata: { name: api }\nspec:\n  ports:\n    - port: many\n";
        assert_eq!(told(text), ["line 8: spec.ports[0].port: invalid type: string \"many\", expected u16"]);
        let error = &parse("apiVersion: remora.dev/v1alpha1\nkind: Nonsense\n", "test").mistakes[0];
        assert_eq!(error.field, "kind");
    }

    #[test]
    fn all_mistakes_of_all_documents_are_told_at_once_and_each_once() {
        let text = "apiVersion: v1
kind: Service
metadata: { name: api, namespace: 7 }
spec:
  clusterIP: [10.0.0.1]
  ports:
    - { port: many, targetPort: 80 }
    - { port: 70000 }
    - { name: none }
---
: not yaml : [
---
kind: Pod
---
apiVersion: v1
kind: Pod
metadata: { name: fine }
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: { name: api }
spec:
  rules:
    - matches:
        - path: { type: Suffix, value: /a }
        - headers: [{ name: x }]
";
        let parsed = parse(text, "test");
        let at: Vec<_> = parsed.mistakes.iter().map(|m| (m.line, m.field.as_str())).collect();
        let expected = [
            (3, "metadata.namespace"),
            (5, "spec.clusterIP"),
            (7, "spec.ports[0].port"),
            (8, "spec.ports[1].port"),
            (9, "spec.ports[2]"),
            (11, "document"),
            (13, "apiVersion"),
            (25, "spec.rules[0].matches[0].path.type"),
            (26, "spec.rules[0].matches[1].headers[0]"),
        ];
        assert_eq!(at, expected, "{:#?}", parsed.mistakes);
        assert_eq!(parsed.objects.len(), 1, "what is right is read");
        assert!(parsed.whole().is_err());
    }

    #[test]
    fn json_is_read_and_an_object_knows_its_line() {
        let json = "\n{\"apiVersion\":\"v1\",\"kind\":\"Service\",\n\"metadata\":{\"name\":\"api\"},\"spec\":{\"ports\":[{\"port\":80}],\"clusterIP\":null}}";
        let objects = parse(json, "a.json").whole().unwrap();
        assert_eq!(objects[0].metadata().origin.to_string(), "a.json: line 2");
    }

    #[test]
    fn kinds_without_effect_are_counted_not_hidden() {
        let text = "apiVersion: apps/v1\nkind: Deployment\nmetadata: { name: a }\n---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n---\napiVersion: apps/v1\nkind: Deployment\n";
        let parsed = parse(text, "test");
        assert!(parsed.objects.is_empty() && parsed.mistakes.is_empty());
        let unused: Vec<_> = parsed.unused.iter().map(|(kind, count)| (kind.as_str(), *count)).collect();
        assert_eq!(unused, [("apps/v1 Deployment", 2), ("security.istio.io/v1 AuthorizationPolicy", 1)]);
    }

    #[test]
    fn a_list_is_its_items() {
        let text = "apiVersion: v1
kind: List
items:
  - { apiVersion: v1, kind: Pod, metadata: { name: a } }
  - { apiVersion: v1, kind: Pod, metadata: {} }
  - { apiVersion: v1, kind: List, items: [] }
";
        let parsed = parse(text, "test");
        assert_eq!(parsed.objects.len(), 1);
        assert_eq!(
            told(text),
            [
                "line 5: items[1].metadata: missing field `name`",
                "line 6: items[2].kind: a List within a List is not read"
            ]
        );
        assert_eq!(told("apiVersion: v1\nkind: List\n"), ["line 1: items: a List needs them"]);
    }

    #[test]
    fn what_no_api_server_would_take_for_a_name_is_a_mistake() {
        for name in ["''", "A", "a/b", &"a".repeat(254)] {
            let mistakes = told(&format!("apiVersion: v1\nkind: Pod\nmetadata: {{ name: {name} }}\n"));
            assert!(mistakes.len() == 1 && mistakes[0].starts_with("line 1: metadata.name: "), "{mistakes:?}");
        }
        let mistakes = told("apiVersion: v1\nkind: Pod\nmetadata: { name: a, namespace: a.b }\n");
        assert!(mistakes[0].contains("metadata.namespace"), "{mistakes:?}");
    }

    #[test]
    fn a_key_that_is_given_twice_is_a_mistake() {
        let mistakes = told("apiVersion: v1\nkind: Pod\nmetadata: { name: a, name: b }\n");
        assert!(mistakes.len() == 1 && mistakes[0].starts_with("line 3: "), "{mistakes:?}");
    }
}
