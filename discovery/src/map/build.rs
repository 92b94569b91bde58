//! The map: answers of proxies, added up by workload.
//!
//! In: the pods that are known, and what each proxy told or why it did not. Out: a [`Map`], the same in whatever order the answers came, and its JSON
//! (docs/admin-api.md). Pure.

use super::{
    told::{Caller, Failed, Sums, Told},
    workloads::{Id, Node, Nodes, OUTSIDE},
};
use crate::{
    index::Member,
    serve::{
        Proxy,
        limits::{MAP_EDGES_MAX, MAP_SILENT_MAX},
    },
};
use serde_json::{Map as Object, Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// Answers as they come.
#[derive(Debug)]
pub(super) struct Builder {
    nodes: Nodes,
    pods_meshed: usize,
    asked: usize,
    edges: BTreeMap<Ends, Edge>,
    /// Who called whom, by those who were called: whether the callers tell it themselves is known in the end.
    callers: Vec<(Id, Vec<Caller>)>,
    answered: BTreeSet<Pod>,
    silent: BTreeMap<Pod, String>,
}

/// Namespace and name.
type Pod = (String, String);

/// Whom an edge is between: the caller, and what it calls.
type Ends = (Id, String);

/// What is known of one.
#[derive(Debug, Clone, Default, PartialEq)]
struct Edge {
    windows: Sums,
    /// By how they were protected: requests since the proxies started, and thousandths of a request a second now.
    tls: BTreeMap<String, (u64, u64)>,
    peers: BTreeSet<String>,
    to: BTreeSet<Id>,
    failures: BTreeMap<(String, String), u64>,
}

/// See the module.
#[derive(Debug, PartialEq)]
pub(super) struct Map {
    nodes: BTreeMap<Id, Node>,
    edges: BTreeMap<Ends, Edge>,
    edges_left_out: usize,
    silent: BTreeMap<Pod, String>,
    pods_meshed: usize,
    asked: usize,
    answered: usize,
}

impl Builder {
    pub(super) fn new(members: &[Member], proxies: &[Proxy]) -> Self {
        let mut nodes = Nodes::new(members);
        proxies.iter().for_each(|proxy| nodes.asked(proxy));
        Self {
            nodes,
            pods_meshed: members.iter().filter(|member| member.meshed).count(),
            asked: proxies.len(),
            edges: BTreeMap::new(),
            callers: Vec::new(),
            answered: BTreeSet::new(),
            silent: BTreeMap::new(),
        }
    }

    /// Takes an answer, or why there is none.
    pub(super) fn take(&mut self, proxy: &Proxy, told: Result<Told, String>) {
        let pod = (proxy.namespace.clone(), proxy.pod.clone());
        let told = match told {
            Ok(told) => told,
            Err(why) => return drop(self.silent.insert(pod, why)),
        };
        let Some(id) = self.nodes.answered(proxy, &told) else { return };
        for call in told.calls {
            let edge = self.edges.entry((id.clone(), call.parent.0)).or_default();
            edge.windows.add(&call.windows);
            for end in call.to {
                edge.protect(&end.tls.0, end.requests, end.rps);
                edge.peers.insert(end.peer.0);
            }
            edge.fail(&call.failures);
        }
        let served = told.callers.iter().filter(|caller| !caller.is_refused());
        self.nodes.serves(&id, served.map(|caller| &caller.windows));
        self.callers.push((id, told.callers));
        self.answered.insert(pod);
    }

    pub(super) fn build(self) -> Map {
        let Self { mut nodes, pods_meshed, asked, mut edges, mut callers, answered, mut silent } = self;
        for ((_, service), edge) in &mut edges {
            let peers: Vec<&str> = edge.peers.iter().map(String::as_str).collect();
            edge.to = nodes.lands(service, &peers);
        }
        // Which nodes are made for what is unknown must not depend on the order of answers.
        callers.sort_by(|a, b| a.0.cmp(&b.0));
        for (id, callers) in &callers {
            callers.iter().for_each(|caller| called_by(&mut nodes, &mut edges, id, caller));
        }
        let edges_left_out = trim(&mut edges);
        silent.retain(|pod, _| !answered.contains(pod));
        Map { nodes: nodes.all, edges, edges_left_out, silent, pods_meshed, asked, answered: answered.len() }
    }
}

/// Adds an edge from a caller that does not tell of it itself: it is outside the mesh, or its proxy was not asked here.
fn called_by(nodes: &mut Nodes, edges: &mut BTreeMap<Ends, Edge>, id: &Id, caller: &Caller) {
    let peer = caller.peer.0.as_str();
    if caller.is_refused() {
        let denied = caller.windows.m1.as_ref().map_or(0, |window| window.requests);
        if let Some(node) = nodes.all.get_mut(id) {
            node.denied = node.denied.saturating_add(denied);
        }
        return;
    }
    if !peer.is_empty() && nodes.tells(peer) {
        return;
    }
    // Which of the Services it called is not told: one name stands for all.
    let service = match caller.parents.as_slice() {
        [] => return,
        [one] => one.0.clone(),
        [first, rest @ ..] => format!("{} and {} more", first.0, rest.len()),
    };
    let from = nodes.caller(peer);
    if from == *id {
        return;
    }
    let edge = edges.entry((from, service)).or_default();
    edge.windows.add(&caller.windows);
    let requests = caller.windows.m15.as_ref().map_or(0, |window| window.requests);
    let rps = caller.windows.s10.as_ref().map_or(0.0, |window| window.rps);
    edge.protect(&caller.tls.0, requests, rps);
    edge.peers.insert(peer.to_owned());
    edge.to.insert(id.clone());
    edge.fail(&caller.failures);
}

/// Leaves out those with least traffic of what is beyond the bound; how many.
fn trim(edges: &mut BTreeMap<Ends, Edge>) -> usize {
    let beyond = edges.len().saturating_sub(MAP_EDGES_MAX);
    if beyond > 0 {
        let mut least: Vec<_> = edges.iter().map(|(ends, edge)| (edge.windows.lately(), ends.clone())).collect();
        least.sort_unstable();
        least.iter().take(beyond).for_each(|(_, ends)| drop(edges.remove(ends)));
    }
    beyond
}

impl Edge {
    /// So many requests were protected like this, and so many a second are.
    fn protect(&mut self, tls: &str, requests: u64, rps: f64) {
        let (sum, milli_rps) = self.tls.entry(tls.to_owned()).or_default();
        *sum = sum.saturating_add(requests);
        *milli_rps = milli_rps.saturating_add((rps * 1e3).round() as u64);
    }

    fn fail(&mut self, failures: &[Failed]) {
        for failed in failures {
            let count = self.failures.entry((failed.reason.0.clone(), failed.fault.0.clone())).or_default();
            *count = count.saturating_add(failed.count);
        }
    }

    fn json(&self, (from, service): &Ends) -> Value {
        let failures = self.failures.iter();
        let failures =
            failures.map(|((reason, fault), count)| json!({"reason": reason, "fault": fault, "count": count}));
        let tls: Object<String, Value> =
            self.tls.iter().map(|(tls, (requests, _))| (tls.clone(), json!(requests))).collect();
        json!({
            "from": from, "service": service, "to": self.to, "windows": self.windows.json(), "mtls": self.mtls(), "tls": tls,
            "failures": failures.collect::<Value>(),
        })
    }

    /// The share of requests under mTLS: of the last ten seconds, or of all if there was none.
    fn mtls(&self) -> Option<f64> {
        let now = self.tls.values().any(|(_, milli_rps)| *milli_rps > 0);
        let of = |(requests, milli_rps): &(u64, u64)| if now { *milli_rps } else { *requests } as f64;
        let all: f64 = self.tls.values().map(of).sum();
        let mtls = self.tls.get("mtls").map_or(0.0, of);
        (all > 0.0).then(|| (mtls / all * 1e4).round() / 1e4)
    }

    fn is_near(&self, nodes: &BTreeMap<Id, Node>, (from, service): &Ends, namespace: &str) -> bool {
        let of = |id: &Id| nodes.get(id).is_some_and(|node| node.namespace == namespace);
        of(from) || self.to.iter().any(of) || service.split_once('/').is_some_and(|(its, _)| its == namespace)
    }
}

impl Map {
    /// All of it, or what is in a namespace and at the other ends of its edges.
    pub(super) fn json(&self, namespace: Option<&str>, at_ms: u64, took_ms: u64) -> String {
        let shown = |ends: &Ends, edge: &Edge| namespace.is_none_or(|it| edge.is_near(&self.nodes, ends, it));
        let edges: Vec<(&Ends, &Edge)> = self.edges.iter().filter(|(ends, edge)| shown(ends, edge)).collect();
        let touched: BTreeSet<&Id> = edges.iter().flat_map(|(ends, edge)| edge.to.iter().chain([&ends.0])).collect();
        let node = |(id, node): &(&Id, &Node)| touched.contains(id) || namespace.is_none_or(|it| it == node.namespace);
        // A made-up node whose edges were left out says nothing.
        let real =
            |id: &Id, node: &Node| touched.contains(id) || !["service", "identity", OUTSIDE].contains(&&*node.kind);
        let nodes = self.nodes.iter().filter(node).filter(|(id, node)| real(id, node));
        let silent = self.silent.iter().filter(|((its, _), _)| namespace.is_none_or(|it| it == its));
        let silent: Vec<Value> = silent
            .map(|((namespace, pod), why)| json!({"namespace": namespace, "pod": pod, "why": why}))
            .take(MAP_SILENT_MAX)
            .collect();
        json!({
            "at_ms": at_ms, "took_ms": took_ms, "asked": self.asked, "answered": self.answered, "meshed": self.pods_meshed,
            "nodes": nodes.map(|(id, node)| node.json(id)).collect::<Value>(),
            "edges": edges.iter().map(|(ends, edge)| edge.json(ends)).collect::<Value>(),
            "edges_left_out": self.edges_left_out,
            "silent": silent,
        })
        .to_string()
    }
}
