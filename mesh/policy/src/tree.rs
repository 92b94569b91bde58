//! Operations by their paths. In: which operations have which patterns, and a path. Out: those that may mean it. Each stands at the
//! last segment that all paths of its pattern have in common, so that the cost is of the path's own length, and of what may match.

use super::rule::Compared;
use remora_model::PathPattern;
use std::{collections::HashMap, sync::Arc};

/// See the module. `T` is cheap to copy.
#[derive(Debug)]
pub(crate) struct Tree<T> {
    /// What may mean every path.
    anywhere: Vec<T>,
    root: Node<T>,
}

#[derive(Debug)]
struct Node<T> {
    /// What may mean the path that ends here, or goes on.
    at: Vec<T>,
    next: HashMap<Arc<str>, Self>,
}

impl<T> Default for Tree<T> {
    fn default() -> Self {
        Self { anywhere: Vec::new(), root: Node::default() }
    }
}

impl<T> Default for Node<T> {
    fn default() -> Self {
        Self { at: Vec::new(), next: HashMap::new() }
    }
}

impl<T: Copy> Tree<T> {
    /// Without patterns it may mean every path.
    pub(crate) fn insert(&mut self, patterns: &[PathPattern], what: T) {
        if patterns.is_empty() {
            self.anywhere.push(what);
        }
        for pattern in patterns {
            let mut node = &mut self.root;
            for segment in pattern.literal().split('/').skip(1) {
                node = node.next.entry(segment.into()).or_default();
            }
            node.at.push(what);
        }
    }

    /// What may mean `path`, some of it more than once.
    pub(crate) fn find(&self, path: &Compared<'_>, mut found: impl FnMut(T)) {
        self.anywhere.iter().copied().for_each(&mut found);
        let Compared::Path(path) = path else { return };
        let mut node = &self.root;
        node.at.iter().copied().for_each(&mut found);
        for segment in path.split('/').skip(1) {
            let Some(next) = node.next.get(segment) else { return };
            node = next;
            node.at.iter().copied().for_each(&mut found);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_found_is_what_may_match_and_little_else() {
        let patterns = ["/", "/*", "/a", "/a/*", "/a/b", "/a/{x}/c", "/{**}/b", "/b/c"];
        let patterns = patterns.map(|text| PathPattern::parse(text).unwrap());
        let mut tree = Tree::default();
        for (at, pattern) in patterns.iter().enumerate() {
            tree.insert(std::slice::from_ref(pattern), at);
        }
        tree.insert(&[], 99);
        for (path, looked_at) in [("/", 4), ("/a", 7), ("/a/b", 8), ("/a/x/c", 7), ("/b/c", 5), ("/b", 4), ("/x/y", 4)]
        {
            let mut found = Vec::new();
            tree.find(&Compared::Path(path.into()), |what| found.push(what));
            let matching = patterns.iter().enumerate().filter(|(_, pattern)| pattern.matches(path));
            for (at, pattern) in matching {
                assert!(found.contains(&at), "{pattern} {path}");
            }
            assert_eq!((found.len(), found.contains(&99)), (looked_at, true), "{path} {found:?}");
        }
        let mut found = Vec::new();
        tree.find(&Compared::None, |what| found.push(what));
        assert_eq!(found, [99], "`*` is no path");
    }
}
