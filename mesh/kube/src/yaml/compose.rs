//! Events of the parser to a tree: anchors, aliases, merge keys, bounds.

use super::{
    ALIASED_BYTES_MAX, DEPTH_MAX, Mistake, NODES_MAX, Node, Value, json,
    scalar::{self, Read},
    shown,
};
use granit_parser::{Event, Options, Parser, ScalarStyle, ScanError, Span, StrInput, Tag};
use serde_json::Value as Json;
use std::{borrow::Cow, collections::HashMap};

/// The documents of `text`, whose first line is `first`; after an error there is no next one.
pub(super) fn documents(text: &str, first: usize) -> Vec<Result<Node, Mistake>> {
    let mut options = Options::default();
    (options.flow_nesting_limit, options.block_nesting_limit) = (DEPTH_MAX, DEPTH_MAX);
    options.emit_comments = false;
    let parser = Parser::new_from_str_with_options(text, options);
    let (before, anchors) = (first - 1, HashMap::new());
    let mut composer = Composer { parser, before, unreadable: false, nodes: 0, aliased_bytes: 0, depth: 0, anchors };
    let mut all = Vec::new();
    loop {
        match composer.document() {
            Ok(None) => return all,
            Ok(Some(Node { value: Value::Scalar(Json::Null), .. })) => {}
            Ok(Some(node)) => all.push(Ok(node)),
            // It may be JSON all the same; what is wrong with it beside the form is wrong in both.
            Err(mistake) if composer.unreadable => {
                return json::documents(text, first).unwrap_or_else(|| with(all, mistake));
            }
            Err(mistake) => return with(all, mistake),
        }
    }
}

fn with(mut all: Vec<Result<Node, Mistake>>, mistake: Mistake) -> Vec<Result<Node, Mistake>> {
    all.push(Err(mistake));
    all
}

struct Composer<'a> {
    parser: Parser<'a, StrInput<'a>>,
    /// Lines before the text.
    before: usize,
    /// It is no YAML.
    unreadable: bool,
    /// Made so far for this document.
    nodes: usize,
    /// Text in what anchors keep and aliases stand for, so far for this document.
    aliased_bytes: usize,
    depth: usize,
    /// By id; `None` while what it stands for is being read.
    anchors: HashMap<usize, Option<Anchored>>,
}

/// What an alias may stand for.
struct Anchored {
    node: Node,
    extent: Extent,
}

/// How large a value is.
#[derive(Clone, Copy, Default)]
struct Extent {
    /// Values in it.
    nodes: usize,
    /// Of its texts and keys.
    bytes: usize,
    /// Mappings and lists in it, within each other.
    depth: usize,
}

/// A mapping that is being read.
#[derive(Default)]
struct Entries {
    list: Vec<(String, Node)>,
    at: HashMap<String, usize>,
    /// Line of what is there by itself, and not by a merge.
    own: HashMap<String, usize>,
}

impl Entries {
    /// What came before makes way.
    fn set(&mut self, key: String, node: Node) {
        match self.at.get(&key) {
            Some(at) => self.list[*at].1 = node,
            None => {
                self.at.insert(key.clone(), self.list.len());
                self.list.push((key, node));
            }
        }
    }
}

impl<'a> Composer<'a> {
    fn document(&mut self) -> Result<Option<Node>, Mistake> {
        loop {
            match self.next()? {
                None | Some((Event::StreamEnd, _)) => return Ok(None),
                Some((Event::DocumentStart(..), _)) => {
                    (self.nodes, self.aliased_bytes, self.depth) = (0, 0, 0);
                    self.anchors.clear();
                }
                Some((event @ (Event::Scalar(..) | Event::SequenceStart(..) | Event::MappingStart(..)), span)) => {
                    return self.node(event, span).map(Some);
                }
                Some(_) => {}
            }
        }
    }

    fn next(&mut self) -> Result<Option<(Event<'a>, Span)>, Mistake> {
        self.parser.next().transpose().map_err(|error: ScanError| {
            self.unreadable = true;
            let line = self.before + error.marker().line();
            Mistake { line, problem: format!("this is no YAML: {}", error.info()) }
        })
    }

    /// The next event, of which there must be one.
    fn must(&mut self) -> Result<(Event<'a>, Span), Mistake> {
        let ended = || Mistake { line: self.before + 1, problem: "this is no YAML: it ends too soon".to_owned() };
        let ended = ended();
        self.next()?.ok_or(ended)
    }

    fn mistake(&self, span: Span, problem: impl Into<String>) -> Mistake {
        Mistake { line: self.before + span.start.line(), problem: problem.into() }
    }

    fn count(&mut self, more: usize, span: Span) -> Result<(), Mistake> {
        self.nodes += more;
        if self.nodes > NODES_MAX {
            return Err(self.mistake(span, format!("more than {NODES_MAX} values in one document: split it")));
        }
        Ok(())
    }

    /// One more of what an anchor names.
    fn copy(&mut self, extent: Extent, span: Span) -> Result<(), Mistake> {
        self.count(extent.nodes, span)?;
        self.aliased_bytes = self.aliased_bytes.saturating_add(extent.bytes);
        if self.aliased_bytes > ALIASED_BYTES_MAX {
            let problem = format!("its aliases stand for more than {ALIASED_BYTES_MAX} bytes of text");
            return Err(self.mistake(span, problem));
        }
        Ok(())
    }

    fn node(&mut self, event: Event<'a>, span: Span) -> Result<Node, Mistake> {
        self.count(1, span)?;
        let line = self.before + span.start.line();
        let (anchor, value) = match event {
            Event::Scalar(text, style, anchor, tag) => {
                let json = self.scalar(&text, style, tag, span)?.json(&text);
                (anchor, Value::Scalar(json.map_err(|problem| self.mistake(span, problem))?))
            }
            Event::Alias(id) => return self.alias(id, span),
            Event::SequenceStart(_, anchor, _) => {
                self.begin(anchor, span)?;
                (anchor, self.list()?)
            }
            Event::MappingStart(_, anchor, _) => {
                self.begin(anchor, span)?;
                (anchor, self.map()?)
            }
            _ => return Err(self.mistake(span, "this is no YAML: a value is missing")),
        };
        let node = Node { line, value };
        if anchor != 0 {
            self.keep(anchor, &node, span)?;
        }
        Ok(node)
    }

    /// Keeps a copy of `node` for aliases.
    fn keep(&mut self, anchor: usize, node: &Node, span: Span) -> Result<(), Mistake> {
        let extent = extent(node);
        self.copy(extent, span)?;
        self.anchors.insert(anchor, Some(Anchored { node: node.clone(), extent }));
        Ok(())
    }

    fn begin(&mut self, anchor: usize, span: Span) -> Result<(), Mistake> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(self.mistake(span, format!("more than {DEPTH_MAX} mappings and lists within each other")));
        }
        if anchor != 0 {
            self.anchors.insert(anchor, None);
        }
        Ok(())
    }

    fn alias(&mut self, id: usize, span: Span) -> Result<Node, Mistake> {
        let extent = match self.anchors.get(&id) {
            Some(Some(anchored)) => anchored.extent,
            Some(None) => return Err(self.mistake(span, "this alias stands for something that it is part of")),
            None => return Err(self.mistake(span, "this alias stands for nothing")),
        };
        self.copy(extent, span)?;
        if self.depth + extent.depth > DEPTH_MAX {
            return Err(self.mistake(span, format!("more than {DEPTH_MAX} mappings and lists within each other")));
        }
        match self.anchors.get(&id) {
            Some(Some(anchored)) => Ok(anchored.node.clone()),
            _ => Err(self.mistake(span, "this alias stands for nothing")),
        }
    }

    fn list(&mut self) -> Result<Value, Mistake> {
        let mut items = Vec::new();
        loop {
            match self.must()? {
                (Event::SequenceEnd, _) => break,
                (event, span) => items.push(self.node(event, span)?),
            }
        }
        self.depth -= 1;
        Ok(Value::List(items))
    }

    fn map(&mut self) -> Result<Value, Mistake> {
        let mut entries = Entries::default();
        loop {
            let (event, span) = self.must()?;
            if matches!(event, Event::MappingEnd) {
                break;
            }
            let merges = matches!(&event, Event::Scalar(text, ScalarStyle::Plain, _, None) if *text == "<<");
            let key = self.key(event, span)?;
            let (event, value_span) = self.must()?;
            let node = self.node(event, value_span)?;
            if merges {
                self.merge(&mut entries, node, value_span)?;
                continue;
            }
            let line = self.before + span.start.line();
            if let Some(first) = entries.own.insert(key.clone(), line) {
                return Err(
                    self.mistake(span, format!("the key {} is there twice, first in line {first}", shown(&key)))
                );
            }
            entries.set(key, node);
        }
        self.depth -= 1;
        Ok(Value::Map(entries.list))
    }

    fn key(&mut self, event: Event<'a>, span: Span) -> Result<String, Mistake> {
        if let Event::Scalar(text, style, anchor, tag) = event {
            self.count(1, span)?;
            let read = self.scalar(&text, style, tag, span)?;
            let key = read.key(&text).map_err(|problem| self.mistake(span, problem))?;
            if anchor != 0 {
                let node = Node { line: self.before + span.start.line(), value: Value::Scalar(key.clone().into()) };
                self.keep(anchor, &node, span)?;
            }
            return Ok(key);
        }
        match self.node(event, span)?.value {
            Value::Scalar(Json::String(text)) => Ok(text),
            _ => Err(self.mistake(span, "this is no key in JSON, which has text for keys")),
        }
    }

    /// `<<`: the entries of a mapping, or of some, the first of which wins.
    fn merge(&self, entries: &mut Entries, node: Node, span: Span) -> Result<(), Mistake> {
        let maps = match node.value {
            Value::List(items) => items,
            value => vec![Node { line: node.line, value }],
        };
        for map in maps.into_iter().rev() {
            let Value::Map(map) = map.value else {
                return Err(self.mistake(span, "<< takes a mapping, or a list of them"));
            };
            map.into_iter().for_each(|(key, node)| entries.set(key, node));
        }
        Ok(())
    }

    fn scalar(&self, text: &str, style: ScalarStyle, tag: Option<Cow<'a, Tag>>, span: Span) -> Result<Read, Mistake> {
        const CORE: &str = "tag:yaml.org,2002:";
        let name = tag.map(|tag| format!("{}{}", tag.handle(), tag.suffix()));
        match name.as_deref() {
            // `!` is the tag of what has none.
            Some("!") => Ok(scalar::plain(text)),
            None if style == ScalarStyle::Plain => Ok(scalar::plain(text)),
            None => Ok(Read::Text),
            Some(name) => {
                let read = scalar::tagged(name.strip_prefix(CORE).unwrap_or_default(), text);
                read.map_err(|problem| self.mistake(span, problem))
            }
        }
    }
}

/// How large `node` is.
fn extent(node: &Node) -> Extent {
    let add = |all: Extent, one: Extent| Extent {
        nodes: all.nodes + one.nodes,
        bytes: all.bytes + one.bytes,
        depth: all.depth.max(one.depth),
    };
    let of_key = |key: &str| Extent { bytes: key.len(), ..Extent::default() };
    let within = match &node.value {
        Value::Scalar(Json::String(text)) => return Extent { nodes: 1, ..of_key(text) },
        Value::Scalar(_) => return Extent { nodes: 1, ..Extent::default() },
        Value::List(items) => items.iter().map(extent).fold(Extent::default(), add),
        Value::Map(entries) => {
            let entries = entries.iter().map(|(key, node)| add(of_key(key), extent(node)));
            entries.fold(Extent::default(), add)
        }
    };
    Extent { nodes: within.nodes + 1, depth: within.depth + 1, ..within }
}
