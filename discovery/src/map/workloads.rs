//! The nodes of the map: workloads, and what is at the other end of an edge without being one that is known.
//!
//! In: the pods that are known, and the proxies that were asked. Out: by pod, by identity and by Service the node that is meant.

use super::told::{Name, Sums, Told, Windows};
use crate::{
    index::Member,
    serve::{Proxy, limits::MAP_PODS_NAMED_MAX},
};
use remora_model::SpiffeId;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// The name of a node in the map: `shop/deploy/web`.
pub(super) type Id = String;

/// Callers without an identity.
pub(super) const OUTSIDE: &str = "outside";

/// A node.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Node {
    pub(super) namespace: String,
    /// A workload's, or `outside`, `service` (a Service whose pods are outside, or that no proxy tells of) or `identity` (a peer whose proxy this
    /// replica cannot ask).
    pub(super) kind: String,
    pub(super) name: String,
    accounts: BTreeSet<String>,
    pods: usize,
    meshed: usize,
    asked: usize,
    answered: usize,
    versions: BTreeSet<String>,
    named: Vec<String>,
    /// What policy refused in the last minute, whoever asked.
    pub(super) denied: u64,
    /// What its own proxies served, whoever asked.
    served: Sums,
}

impl Node {
    fn new(namespace: &str, kind: &str, name: &str) -> Self {
        let [namespace, kind, name] = [namespace, kind, name].map(str::to_owned);
        Self { namespace, kind, name, ..Self::default() }
    }

    pub(super) fn json(&self, id: &Id) -> Value {
        json!({
            "id": id, "namespace": self.namespace, "kind": self.kind, "name": self.name, "accounts": self.accounts,
            "pods": self.pods, "meshed": self.meshed, "asked": self.asked, "answered": self.answered,
            "versions": self.versions, "named": self.named, "denied": self.denied,
            "served": self.served.json(),
        })
    }

    fn counts(&mut self, pod: &str, account: &str) {
        self.accounts.insert(account.to_owned());
        self.pods += 1;
        if self.named.len() < MAP_PODS_NAMED_MAX {
            self.named.push(pod.to_owned());
        }
    }
}

/// All nodes, and how they are found.
#[derive(Debug, Default)]
pub(super) struct Nodes {
    pub(super) all: BTreeMap<Id, Node>,
    by_pod: HashMap<(String, String), Id>,
    /// The workloads that an identity has, by namespace and account.
    by_account: HashMap<(String, String), BTreeSet<Id>>,
    /// Which workloads serve a Service, as their proxies tell.
    serving: HashMap<String, BTreeSet<Id>>,
}

impl Nodes {
    /// The workloads of these pods.
    pub(super) fn new(members: &[Member]) -> Self {
        let mut nodes = Self::default();
        for member in members {
            let Member { namespace, pod, account, workload, meshed } = member;
            let id = format!("{namespace}/{workload}");
            let fresh = || Node::new(namespace, workload.kind, &workload.name);
            let node = nodes.all.entry(id.clone()).or_insert_with(fresh);
            node.counts(pod, account);
            node.meshed += usize::from(*meshed);
            if *meshed {
                nodes.by_account.entry((namespace.clone(), account.clone())).or_default().insert(id.clone());
            }
            nodes.by_pod.insert((namespace.clone(), pod.clone()), id);
        }
        // What has nothing to do with the mesh is not on its map.
        nodes.all.retain(|_, node| node.meshed > 0);
        nodes
    }

    /// A proxy is asked. If its pod is not known any more, it has a node by its account.
    pub(super) fn asked(&mut self, proxy: &Proxy) {
        let key = (proxy.namespace.clone(), proxy.pod.clone());
        let id = self.by_pod.get(&key).filter(|id| self.all.contains_key(*id)).cloned();
        let id = id.unwrap_or_else(|| {
            let account = account(&proxy.identity).map_or_else(|| proxy.pod.clone(), |(_, account)| account);
            let id = format!("{}/sa/{account}", proxy.namespace);
            let node = self.all.entry(id.clone()).or_insert_with(|| Node::new(&proxy.namespace, "sa", &account));
            node.counts(&proxy.pod, &account);
            node.meshed += 1;
            self.by_account.entry((proxy.namespace.clone(), account)).or_default().insert(id.clone());
            self.by_pod.insert(key, id.clone());
            id
        });
        if let Some(node) = self.all.get_mut(&id) {
            node.asked += 1;
        }
    }

    /// It answered. Its node.
    pub(super) fn answered(&mut self, proxy: &Proxy, told: &Told) -> Option<Id> {
        let id = self.by_pod.get(&(proxy.namespace.clone(), proxy.pod.clone()))?;
        let node = self.all.get_mut(id)?;
        node.answered += 1;
        // One proxy cannot make the list long.
        if node.versions.len() < MAP_PODS_NAMED_MAX && told.version.0.len() < 64 {
            node.versions.insert(told.version.0.clone());
        }
        for Name(service) in &told.serves {
            self.serving.entry(service.clone()).or_default().insert(id.clone());
        }
        Some(id.clone())
    }

    /// Its proxy served that.
    pub(super) fn serves<'a>(&mut self, id: &Id, windows: impl Iterator<Item = &'a Windows>) {
        if let Some(node) = self.all.get_mut(id) {
            windows.for_each(|windows| node.served.add(windows));
        }
    }

    /// Whether the proxies of an identity tell themselves whom they call.
    pub(super) fn tells(&self, peer: &str) -> bool {
        let Some(ids) = account(peer).and_then(|key| self.by_account.get(&key)) else { return false };
        ids.iter().filter_map(|id| self.all.get(id)).any(|node| node.answered > 0)
    }

    /// Who has an identity, if it is one workload that is known; else a node of its own.
    pub(super) fn caller(&mut self, peer: &str) -> Id {
        if peer.is_empty() {
            self.all.entry(OUTSIDE.to_owned()).or_insert_with(|| Node::new("", OUTSIDE, "no identity"));
            return OUTSIDE.to_owned();
        }
        let key = account(peer);
        let known = key.as_ref().and_then(|key| self.by_account.get(key)).filter(|ids| ids.len() == 1);
        if let Some(id) = known.and_then(BTreeSet::first) {
            return id.clone();
        }
        let (namespace, name) = key.unwrap_or_else(|| (String::new(), peer.to_owned()));
        let id = format!("identity:{peer}");
        self.all.entry(id.clone()).or_insert_with(|| Node::new(&namespace, "identity", &name));
        id
    }

    /// What a call lands on: the workloads that serve the Service, of those that have the identities which answered; where no proxy
    /// tells, the workloads of these identities; else the Service itself.
    pub(super) fn lands(&mut self, service: &str, peers: &[&str]) -> BTreeSet<Id> {
        let nobody = BTreeSet::new();
        let of = |peer: &&str| account(peer).and_then(|key| self.by_account.get(&key)).into_iter().flatten();
        let answering: BTreeSet<&Id> = peers.iter().flat_map(of).collect();
        let serving = self.serving.get(service).unwrap_or(&nobody);
        let both: BTreeSet<Id> = serving.iter().filter(|id| answering.contains(id)).cloned().collect();
        let mut found = match (both.is_empty(), answering.is_empty()) {
            (false, _) => both,
            (true, false) => answering.into_iter().cloned().collect(),
            (true, true) => serving.clone(),
        };
        // Some of it may be answered outside the mesh.
        if found.is_empty() || peers.contains(&"") && serving.is_empty() {
            let (namespace, name) = service.split_once('/').unwrap_or(("", service));
            let id = format!("service:{service}");
            self.all.entry(id.clone()).or_insert_with(|| Node::new(namespace, "service", name));
            found.insert(id);
        }
        found
    }
}

/// The namespace and the service account of an identity.
fn account(peer: &str) -> Option<(String, String)> {
    let id = SpiffeId::parse(peer).ok()?;
    Some((id.namespace()?.to_owned(), id.service_account()?.to_owned()))
}
