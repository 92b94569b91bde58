//! Rules of one kind, by who calls and by path, so that a request costs what may match it, however many other rules there are.
//! In: rules, and who asks for what. Out: the first rule that means it, or all.
//!
//! Rules that name the same callers are one group, which has a tree of their paths. A caller finds its groups by its identity, its
//! service account, its namespace or its trust domain, whichever is the first of these that a source names; sources that name none of
//! them are looked at in turn. Nothing is allocated for a request.

use super::{
    rule::{Asking, Rule, names},
    tree::Tree,
};
use remora_model::Source;
use std::collections::HashMap;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Set {
    rules: Vec<Rule>,
    groups: Vec<Group>,
    by: Callers,
}

/// Rules that name the same callers.
#[derive(Debug)]
struct Group {
    from: Vec<Source>,
    unidentified: bool,
    rules: Vec<u32>,
    tree: Tree<At>,
}

/// An operation of a rule; `None`: it means anything.
#[derive(Debug, Clone, Copy)]
struct At {
    rule: u32,
    to: Option<u32>,
}

/// A source of a group; `None`: it means anybody.
#[derive(Debug, Clone, Copy)]
struct Entry {
    group: u32,
    source: Option<u32>,
}

#[derive(Debug, Default)]
struct Callers {
    any: Vec<Entry>,
    /// By the whole text.
    identities: HashMap<Box<str>, Vec<Entry>>,
    /// By the path of the identity, which is the same in all trust domains.
    accounts: HashMap<Box<str>, Vec<Entry>>,
    namespaces: HashMap<Box<str>, Vec<Entry>>,
    trust_domains: HashMap<Box<str>, Vec<Entry>>,
    /// What counts callers without an identity as named.
    unidentified: Vec<Entry>,
}

/// What is looked for.
trait Search {
    /// Whether it matters that this rule matches.
    fn wants(&self, rule: u32) -> bool;
    fn take(&mut self, rule: u32);
}

/// The first of the rules.
impl Search for Option<u32> {
    fn wants(&self, rule: u32) -> bool {
        self.is_none_or(|first| rule < first)
    }

    fn take(&mut self, rule: u32) {
        *self = Some(rule);
    }
}

/// All of them.
impl Search for Vec<u32> {
    fn wants(&self, _rule: u32) -> bool {
        true
    }

    fn take(&mut self, rule: u32) {
        self.push(rule);
    }
}

impl Set {
    pub(crate) fn new(rules: Vec<Rule>) -> Self {
        let mut same: HashMap<(Vec<Source>, bool), usize> = HashMap::new();
        let (mut groups, mut by): (Vec<Group>, Callers) = (Vec::new(), Callers::default());
        for (rule, number) in rules.iter().zip(0_u32..) {
            let group = *same.entry((rule.from.clone(), rule.unidentified)).or_insert_with(|| {
                by.insert(rule, u32::try_from(groups.len()).unwrap_or(u32::MAX));
                groups.push(Group {
                    from: rule.from.clone(),
                    unidentified: rule.unidentified,
                    rules: Vec::new(),
                    tree: Tree::default(),
                });
                groups.len() - 1
            });
            if let Some(group) = groups.get_mut(group) {
                group.insert(rule, number);
            }
        }
        Self { rules, groups, by }
    }

    pub(crate) fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// The first rule that means what is asked.
    pub(crate) fn first(&self, asking: &Asking<'_>) -> Option<&Rule> {
        let mut first = None;
        self.search(asking, &mut first);
        self.rules.get(first? as usize)
    }

    /// All that mean it, by their index in [`Set::rules`].
    pub(crate) fn all(&self, asking: &Asking<'_>) -> Vec<u32> {
        let mut all = Vec::new();
        self.search(asking, &mut all);
        all.sort_unstable();
        all.dedup();
        all
    }

    fn search(&self, asking: &Asking<'_>, search: &mut impl Search) {
        if self.rules.is_empty() {
            return;
        }
        let mut each = |entry: &Entry| {
            let Some(group) = self.groups.get(entry.group as usize) else { return };
            let named = match entry.source {
                None => true,
                Some(source) => {
                    group.from.get(source as usize).is_some_and(|source| names(source, group.unidentified, asking))
                }
            };
            if named {
                self.search_group(group, asking, search);
            }
        };
        self.by.any.iter().for_each(&mut each);
        let Some(id) = asking.identity() else { return self.by.unidentified.iter().for_each(each) };
        let lists = [
            (&self.by.identities, Some(id.as_str())),
            (&self.by.accounts, Some(id.path())),
            (&self.by.namespaces, asking.namespace()),
            (&self.by.trust_domains, Some(id.trust_domain_str())),
        ];
        for (list, key) in lists {
            if list.is_empty() {
                continue;
            }
            key.and_then(|key| list.get(key)).into_iter().flatten().for_each(&mut each);
        }
    }

    fn search_group(&self, group: &Group, asking: &Asking<'_>, search: &mut impl Search) {
        let mut try_one = |At { rule: number, to }: At| {
            let Some(rule) = self.rules.get(number as usize).filter(|_| search.wants(number)) else { return };
            let means = match to {
                None => true,
                Some(to) => rule.to.get(to as usize).is_some_and(|to| rule.means(to, asking)),
            };
            if means {
                search.take(number);
            }
        };
        if !asking.is_bytes() {
            return group.tree.find(&asking.path, try_one);
        }
        // Once for a connection: bytes have no path by which anything could be left out.
        for number in &group.rules {
            let operations = self.rules.get(*number as usize).map_or(0, |rule| rule.to.len());
            if operations == 0 {
                try_one(At { rule: *number, to: None });
            }
            (0_u32..).take(operations).for_each(|to| try_one(At { rule: *number, to: Some(to) }));
        }
    }
}

impl Group {
    fn insert(&mut self, rule: &Rule, number: u32) {
        self.rules.push(number);
        if rule.to.is_empty() {
            self.tree.insert(&[], At { rule: number, to: None });
        }
        for (to, index) in rule.to.iter().zip(0_u32..) {
            self.tree.insert(to.paths(), At { rule: number, to: Some(index) });
        }
    }
}

impl Callers {
    fn insert(&mut self, rule: &Rule, group: u32) {
        if rule.from.is_empty() {
            self.any.push(Entry { group, source: None });
        }
        for (source, index) in rule.from.iter().zip(0_u32..) {
            let entry = Entry { group, source: Some(index) };
            let mut put = |list: fn(&mut Self) -> &mut HashMap<Box<str>, Vec<Entry>>, key: &str| {
                list(self).entry(key.into()).or_default().push(entry);
            };
            if !source.identities.is_empty() {
                source.identities.iter().for_each(|id| put(|by| &mut by.identities, id.as_str()));
            } else if !source.service_accounts.is_empty() {
                let path = |one: &remora_model::ServiceAccount| format!("/ns/{}/sa/{}", one.namespace, one.name);
                source.service_accounts.iter().for_each(|one| put(|by| &mut by.accounts, &path(one)));
            } else if !source.namespaces.is_empty() {
                source.namespaces.iter().for_each(|name| put(|by| &mut by.namespaces, name));
            } else if !source.trust_domains.is_empty() {
                source.trust_domains.iter().for_each(|domain| put(|by| &mut by.trust_domains, domain.as_str()));
            } else {
                self.any.push(entry);
                continue;
            }
            if rule.unidentified {
                self.unidentified.push(entry);
            }
        }
    }
}
