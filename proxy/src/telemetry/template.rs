//! Names for requests that no route names: path templates such as `GET /users/:id`, learned from the paths that are met.
//!
//! In: a method and a path, both from the peer and not to be trusted. Out: a [`TemplateId`], whose name is made of known
//! methods, harmless bytes and `:id` only. The templates are the leaves of a tree of segments. A segment that looks like a
//! value (number, UUID, hash, token, date, address) goes to its parent's `:id` child, and so does every segment of a
//! parent that has shown more than [`CHILDREN_MAX`] different ones. Everything is bounded; what does not fit is `other`, and
//! what was idle for [`limits::SIGNALS_IDLE`] gives way. A path that is known allocates nothing. It does not guess what a
//! value means, and has no clock: the caller passes the seconds.

use crate::limits;
use http::Method;
use std::sync::Arc;

/// Different segments under one parent before they count as values of a parameter.
const CHILDREN_MAX: usize = 20;
/// Segments of a path that is given a template.
const DEPTH_MAX: usize = 12;
/// A longer segment is a value.
const LITERAL_BYTES_MAX: usize = 40;
/// Templates ever named, per template that may live at once: those whose segment turned out to be a value stay named,
/// because their counts stay shown.
const NAMED_PER_LIVE: usize = 4;

/// The name of everything that has none.
pub(crate) const OTHER: &str = "other";

const METHODS: [Method; 9] = [
    Method::GET,
    Method::POST,
    Method::PUT,
    Method::DELETE,
    Method::PATCH,
    Method::HEAD,
    Method::OPTIONS,
    Method::CONNECT,
    Method::TRACE,
];

/// A template, by a small number that can index a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct TemplateId(u32);

impl TemplateId {
    /// What has no template of its own.
    pub(crate) const OTHER: Self = Self(0);

    /// The number: 0 for `other`, then in the order of learning.
    pub(crate) fn index(self) -> usize {
        self.0 as usize
    }
}

/// The templates learned by one worker.
#[derive(Debug)]
pub(crate) struct PathTemplates {
    live_max: usize,
    live: usize,
    names: Vec<Arc<str>>,
    /// When each was met last, in seconds.
    used: Vec<u32>,
    /// When room is looked for again.
    next_sweep: u32,
    /// Counts how often ids were given anew.
    generation: u32,
    /// The first [`METHODS`] of them are the roots.
    nodes: Vec<Node>,
}

#[derive(Debug, Default)]
struct Node {
    children: Vec<(Box<str>, u32)>,
    parameter: Option<u32>,
    /// More than [`CHILDREN_MAX`] children were met: they are values now.
    crowded: bool,
    template: Option<TemplateId>,
}

impl Default for PathTemplates {
    fn default() -> Self {
        Self::new(100)
    }
}

impl PathTemplates {
    /// Learns up to `max` templates.
    pub(crate) fn new(max: usize) -> Self {
        let nodes = METHODS.iter().map(|_| Node::default()).collect();
        Self { live_max: max, live: 0, names: vec![OTHER.into()], used: vec![0], next_sweep: 0, generation: 0, nodes }
    }

    /// Ids are good for one of these.
    pub(crate) fn generation(&self) -> u32 {
        self.generation
    }

    /// The template of a request at second `now`, learning it if it is new and there is room.
    pub(crate) fn learn(&mut self, method: &Method, path: &str, now: u32) -> TemplateId {
        let id = self.find(method, path, now);
        if let Some(used) = self.used.get_mut(id.index()) {
            *used = now;
        }
        id
    }

    fn find(&mut self, method: &Method, path: &str, now: u32) -> TemplateId {
        let path = path.split('?').next().unwrap_or_default();
        let Some(root) = METHODS.iter().position(|known| known == method) else { return TemplateId::OTHER };
        let Some(segments) = path.strip_prefix('/') else { return TemplateId::OTHER };

        let mut at = root;
        for (depth, segment) in segments.split('/').enumerate() {
            let kind = kind(segment);
            if kind == Kind::Unusual || depth == DEPTH_MAX {
                return TemplateId::OTHER;
            }
            let node = &self.nodes[at];
            let child = if kind == Kind::Value || node.crowded {
                node.parameter
            } else {
                node.children.iter().find(|(text, _)| **text == *segment).map(|(_, child)| *child)
            };
            match child {
                Some(child) => at = child as usize,
                None => return self.extend_at(root, segments, now),
            }
        }
        match self.nodes[at].template {
            Some(id) => id,
            None => self.extend_at(root, segments, now),
        }
    }

    /// Extends, if need be at the cost of what was idle.
    fn extend_at(&mut self, root: usize, segments: &str, now: u32) -> TemplateId {
        match self.extend(root, segments) {
            TemplateId::OTHER if self.forget_idle(now) => self.extend(root, segments),
            id => id,
        }
    }

    /// Drops the templates that were not met for long: whether there were any. Ids are given anew then.
    fn forget_idle(&mut self, now: u32) -> bool {
        let idle = limits::SIGNALS_IDLE.as_secs() as u32;
        if now < self.next_sweep {
            return false;
        }
        self.next_sweep = now.saturating_add(limits::SIGNALS_SWEEP.as_secs() as u32);
        if self.used.iter().skip(1).all(|used| now.saturating_sub(*used) < idle) {
            return false;
        }
        let old = std::mem::replace(self, Self::new(self.live_max));
        (self.next_sweep, self.generation) = (old.next_sweep, old.generation + 1);
        for root in 0..METHODS.len() {
            self.keep(&old, root, root, &|id| now.saturating_sub(old.used[id.index()]) < idle);
        }
        true
    }

    /// Takes over what is `fresh` below the node `from` of `old`.
    fn keep(&mut self, old: &Self, from: usize, to: usize, fresh: &impl Fn(TemplateId) -> bool) {
        let node = &old.nodes[from];
        if let Some(id) = node.template.filter(|id| fresh(*id)) {
            self.live += 1;
            self.nodes[to].template = Some(TemplateId(self.names.len() as u32));
            self.names.push(old.names[id.index()].clone());
            self.used.push(old.used[id.index()]);
        }
        let parameter = node.parameter.filter(|child| old.has_below(*child as usize, fresh));
        self.nodes[to].crowded = node.crowded && parameter.is_some();
        for (text, child) in &node.children {
            if old.has_below(*child as usize, fresh) {
                let grown = self.grow(to, Some(text));
                self.keep(old, *child as usize, grown, fresh);
            }
        }
        if let Some(child) = parameter {
            let grown = self.grow(to, None);
            self.keep(old, child as usize, grown, fresh);
        }
    }

    /// Whether there is a `fresh` template at a node or below.
    fn has_below(&self, at: usize, fresh: &impl Fn(TemplateId) -> bool) -> bool {
        let node = &self.nodes[at];
        let mut children = node.children.iter().map(|(_, child)| *child).chain(node.parameter);
        node.template.is_some_and(fresh) || children.any(|child| self.has_below(child as usize, fresh))
    }

    /// The name of a template, `GET /users/:id`.
    pub(crate) fn name(&self, id: TemplateId) -> Arc<str> {
        self.names.get(id.index()).unwrap_or(&self.names[0]).clone()
    }

    /// How many ids were given out, `other` included.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn len(&self) -> usize {
        self.names.len()
    }

    /// Adds what is missing for a path: nodes, then the template at their end.
    fn extend(&mut self, root: usize, segments: &str) -> TemplateId {
        let named_full = self.names.len() > self.live_max * NAMED_PER_LIVE;
        // Paths of the right kind cannot need more nodes than this; a tree that has them is full as well.
        let nodes_full = self.nodes.len() >= METHODS.len() + self.live_max * DEPTH_MAX;
        let checked = segments.split('/').enumerate().all(|(i, text)| i < DEPTH_MAX && kind(text) != Kind::Unusual);
        if !checked {
            return TemplateId::OTHER;
        }
        if named_full || nodes_full {
            super::series_full("template");
            return TemplateId::OTHER;
        }
        let mut at = root;
        let mut name = format!("{} ", METHODS[root]);
        for segment in segments.split('/') {
            name.push('/');
            if kind(segment) != Kind::Value && self.crowds(at, segment) {
                self.live -= self.templates_below(at);
                let node = &mut self.nodes[at];
                node.crowded = true;
                node.children = Vec::new();
                // What hung below an earlier `:id` child stays where it is, and stays counted.
                self.live += self.templates_below(at);
            }
            let node = &self.nodes[at];
            if kind(segment) == Kind::Value || node.crowded {
                name.push_str(":id");
                at = match node.parameter {
                    Some(child) => child as usize,
                    None => self.grow(at, None),
                };
            } else {
                name.push_str(segment);
                at = match node.children.iter().find(|(text, _)| **text == *segment) {
                    Some((_, child)) => *child as usize,
                    None => self.grow(at, Some(segment)),
                };
            }
        }
        if let Some(id) = self.nodes[at].template {
            return id;
        }
        if self.live >= self.live_max {
            super::series_full("template");
            return TemplateId::OTHER;
        }
        self.live += 1;
        let id = TemplateId(self.names.len() as u32);
        self.names.push(name.into());
        self.used.push(0);
        self.nodes[at].template = Some(id);
        id
    }

    /// Whether this segment is the one too many under its parent.
    fn crowds(&self, at: usize, segment: &str) -> bool {
        let node = &self.nodes[at];
        !node.crowded && node.children.len() >= CHILDREN_MAX && node.children.iter().all(|(text, _)| **text != *segment)
    }

    fn grow(&mut self, at: usize, segment: Option<&str>) -> usize {
        let child = self.nodes.len();
        self.nodes.push(Node::default());
        match segment {
            Some(text) => self.nodes[at].children.push((text.into(), child as u32)),
            None => self.nodes[at].parameter = Some(child as u32),
        }
        child
    }

    fn templates_below(&self, at: usize) -> usize {
        let node = &self.nodes[at];
        let children = node.children.iter().map(|(_, child)| *child).chain(node.parameter);
        children
            .map(|child| {
                usize::from(self.nodes[child as usize].template.is_some()) + self.templates_below(child as usize)
            })
            .sum()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Literal,
    Value,
    Unusual,
}

/// What one segment looks like.
fn kind(segment: &str) -> Kind {
    let bytes = segment.as_bytes();
    let (mut digits, mut hex, mut numeric, mut separators, mut escaped) = (0, 0, 0, 0, false);
    for &byte in bytes {
        match byte {
            b'0'..=b'9' => digits += 1,
            b'a'..=b'z'
            | b'A'..=b'Z'
            | b'~'
            | b'!'
            | b'$'
            | b'('
            | b')'
            | b'*'
            | b'+'
            | b','
            | b';'
            | b'='
            | b'&'
            | b'@' => {}
            b'-' | b'_' | b'.' | b':' => separators += 1,
            b'%' => escaped = true,
            _ => return Kind::Unusual,
        }
        hex += usize::from(byte.is_ascii_hexdigit());
        numeric += usize::from(matches!(byte, b'0'..=b'9' | b'-' | b'.' | b',' | b':'));
    }
    let number = digits > 0 && numeric == bytes.len();
    let hash = bytes.len() >= 8 && hex == bytes.len();
    let uuid = bytes.len() == 36 && hex == 32 && separators == 4;
    let token = bytes.len() > LITERAL_BYTES_MAX || (bytes.len() >= 16 && digits > 0 && separators == 0);
    let numbered = bytes.len() >= 6 && digits >= 4;
    let address = bytes.iter().skip(1).any(|&byte| byte == b'@');
    if number || hash || uuid || token || numbered || address || escaped { Kind::Value } else { Kind::Literal }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(cases: &[(&str, &str)]) {
        for (path, wanted) in cases {
            let mut templates = PathTemplates::default();
            let id = templates.learn(&Method::GET, path, 0);
            assert_eq!(&*templates.name(id), *wanted, "{path}");
            assert_eq!(templates.learn(&Method::GET, path, 0), id, "{path} a second time");
        }
    }

    #[test]
    fn values_become_id_and_words_stay() {
        check(&[
            ("/", "GET /"),
            ("/users", "GET /users"),
            ("/users/", "GET /users/"),
            ("/users/42", "GET /users/:id"),
            ("/users/42/orders/7?page=2", "GET /users/:id/orders/:id"),
            ("/v1/api.v1beta1", "GET /v1/api.v1beta1"),
            ("/o/550e8400-e29b-41d4-a716-446655440000/x", "GET /o/:id/x"),
            ("/blob/deadbeef", "GET /blob/:id"),
            ("/t/01ARZ3NDEKTSV4RRFFQ69G5FAV", "GET /t/:id"),
            ("/day/2026-11-21", "GET /day/:id"),
            ("/u/someone@example.org", "GET /u/:id"),
            ("/order/order-12345", "GET /order/:id"),
            ("/search/red%20shoes", "GET /search/:id"),
            ("/oauth2/callback", "GET /oauth2/callback"),
            ("/customer-relationship-management", "GET /customer-relationship-management"),
        ]);
    }

    #[test]
    fn strange_paths_and_methods_are_other() {
        check(&[
            ("*", "other"),
            ("", "other"),
            ("/a\"b", "other"),
            ("/<script>", "other"),
            ("/a\\b", "other"),
            ("/ü", "other"),
            ("/a\nb", "other"),
            ("/1/2/3/4/5/6/7/8/9/10/11/12/13", "other"),
        ]);
        let mut templates = PathTemplates::default();
        let odd = Method::from_bytes(b"ODD").unwrap();
        assert_eq!(templates.learn(&odd, "/", 0), TemplateId::OTHER);
        assert!(templates.len() == 1);
    }

    #[test]
    fn methods_have_templates_of_their_own() {
        let mut templates = PathTemplates::default();
        let get = templates.learn(&Method::GET, "/a", 0);
        let post = templates.learn(&Method::POST, "/a", 0);
        assert_ne!(get, post);
        assert_eq!(&*templates.name(post), "POST /a");
    }

    #[test]
    fn a_position_with_many_words_turns_out_to_be_a_parameter() {
        let word = |i: usize| {
            format!("/people/{}{}", ["ada", "bob", "eve"][i % 3], ["a", "b", "c", "d"][i / 3 % 4].repeat(1 + i / 12))
        };
        let mut templates = PathTemplates::default();
        for i in 0..CHILDREN_MAX {
            let id = templates.learn(&Method::GET, &word(i), 0);
            assert_eq!(*templates.name(id), format!("GET {}", word(i)));
        }
        for path in [word(CHILDREN_MAX), word(0)] {
            let id = templates.learn(&Method::GET, &path, 0);
            assert_eq!(&*templates.name(id), "GET /people/:id");
        }
        let id = templates.learn(&Method::GET, &format!("{}/friends", word(1)), 0);
        assert_eq!(&*templates.name(id), "GET /people/:id/friends");
        assert_eq!(templates.live, 2, "the words' own templates no longer count");
    }

    #[test]
    fn templates_are_bounded_whatever_is_sent() {
        let mut random = fastrand::Rng::with_seed(3);
        let mut templates = PathTemplates::new(10);
        for _ in 0..20_000 {
            let depth = random.usize(0..14);
            let path: String = (0..depth)
                .map(|_| format!("/{}", (0..random.usize(0..4)).map(|_| random.lowercase()).collect::<String>()))
                .collect();
            let id = templates.learn(&METHODS[random.usize(0..9)], &path, 0);
            assert!(id.index() < templates.len());
        }
        assert!(templates.live <= 10);
        assert!(templates.len() <= 10 * NAMED_PER_LIVE + 1);
        assert!(templates.nodes.len() <= METHODS.len() + 10 * DEPTH_MAX + DEPTH_MAX);
    }

    #[test]
    fn a_full_table_still_knows_what_it_learned() {
        let mut templates = PathTemplates::new(2);
        let first = templates.learn(&Method::GET, "/a", 0);
        let second = templates.learn(&Method::GET, "/b", 0);
        assert_eq!(templates.learn(&Method::GET, "/c", 0), TemplateId::OTHER);
        assert_eq!(templates.learn(&Method::GET, "/a", 0), first);
        assert_eq!(templates.learn(&Method::GET, "/b", 0), second);
    }

    #[test]
    fn what_nobody_asks_for_gives_way_and_what_somebody_does_stays() {
        let idle = limits::SIGNALS_IDLE.as_secs() as u32;
        let mut templates = PathTemplates::new(4);
        for path in ["/a", "/a/x", "/b", "/users/12"] {
            templates.learn(&Method::GET, path, 0);
        }
        assert_eq!(templates.learn(&Method::GET, "/new", 1), TemplateId::OTHER, "there is no room");
        for path in ["/a/x", "/users/13"] {
            assert_ne!(templates.learn(&Method::GET, path, idle), TemplateId::OTHER);
        }
        assert_eq!(templates.generation(), 0);
        for (path, name) in
            [("/new", "GET /new"), ("/a/x", "GET /a/x"), ("/users/14", "GET /users/:id"), ("/n2", "GET /n2")]
        {
            let id = templates.learn(&Method::GET, path, idle + 1);
            assert_eq!(&*templates.name(id), name);
            assert_eq!(templates.generation(), 1, "ids were given anew, once");
        }
        assert_eq!((templates.live, templates.len()), (4, 5));
        assert_eq!(templates.learn(&Method::GET, "/b", idle + 1), TemplateId::OTHER, "it had its time");
    }

    #[test]
    fn a_parameter_learned_from_many_words_outlives_the_sweep() {
        let idle = limits::SIGNALS_IDLE.as_secs() as u32;
        let mut templates = PathTemplates::new(3);
        for word in 0..=CHILDREN_MAX {
            templates.learn(&Method::GET, &format!("/people/{}", "x".repeat(word + 1)), idle);
        }
        templates.learn(&Method::GET, "/old", 0);
        templates.learn(&Method::GET, "/older", 0);
        let later = idle + limits::SIGNALS_SWEEP.as_secs() as u32;
        templates.learn(&Method::GET, "/new", later);
        assert_eq!(templates.generation(), 1);
        let id = templates.learn(&Method::GET, "/people/ada", later);
        assert_eq!(&*templates.name(id), "GET /people/:id");
    }
}
