//! Objects to resources: the configuration of a target, a backend, an inbound port.
//!
//! In: changes of objects, and what proxies ask for. Out: what became another of that. Pure: no IO, no clock. An object that
//! makes no sense is reported and does the least harm: a broken rule answers 500, a broken policy denies, a pod whose identity
//! cannot be told is no endpoint.
//!
//! ```text
//!  Change ─► given ─► facts ◄──── cells: Policy, Service, Route, Rules ─► facts ─► cells: Asked ─► Answer
//!                    (tables)     each run notes which facts it read, and runs again when one of them is another
//! ```
//!
//! A change costs what it touches, for everything that is derived is a cell of the [`graph`], and its dependencies are the
//! facts that it did read ([`tables`]). There is one answer for one set of objects, in whatever order they came: `tests/orders`
//! compares.

mod answers;
mod attached;
mod backends;
mod change;
mod connection;
mod cors;
mod default_inbound;
mod derived;
mod facts;
mod fields;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod given;
mod graph;
mod grpc_retry;
mod inbound;
mod kinds;
mod load_balancer;
mod matches;
mod mesh;
mod networks;
mod pods;
mod policies;
mod proxies;
mod retry_constraint;
mod revoked;
mod routes;
mod rules;
mod schema;
mod settings;
mod sort;
pub mod status;
mod tables;
mod targets;
mod traffic;
mod values;
mod workloads;

#[cfg(test)]
pub(crate) mod tests;

pub use answers::{Answer, Asked, Own};
pub use change::Change;
pub use derived::Unable;
pub use pods::Proof;
pub use workloads::{Member, Workload};

use crate::objects::{
    Metadata, Object, Origin,
    core::Service,
    jwks::{AllowedHost, JwksUrl},
};
use facts::Facts;
use given::Taking;
use graph::Graph;
use ipnet::IpNet;
use remora_model::{BackendId, DefaultInbound, Feature, ProxySettings, Revocations, TrustDomain};
use std::{collections::BTreeMap, sync::Arc};
use tables::reading;

/// Namespace and name.
pub type Key = (String, String);

/// What the objects do not say of the mesh.
#[derive(Debug, Clone, PartialEq)]
pub struct Mesh {
    pub trust_domain: TrustDomain,
    /// The control plane's namespace: policies that are attached to it hold for the whole mesh.
    pub namespace: String,
    /// The cluster's DNS domain.
    pub cluster_domain: String,
    /// Ranges of the cluster's addresses, beside those that its objects name.
    pub networks: Vec<IpNet>,
    /// Settings of running proxies that no annotation says.
    pub proxies: ProxySettings,
    /// Whom keys of issuers may be fetched from.
    pub jwks_hosts: Vec<AllowedHost>,
    /// Who may call a port that no Allow policy selects, where no annotation says it.
    pub default_inbound: DefaultInbound,
}

impl Default for Mesh {
    /// An unchanged installation's.
    fn default() -> Self {
        Self {
            trust_domain: TrustDomain::new(CLUSTER_DOMAIN).expect("a trust domain"),
            namespace: remora_kube::names::NAMESPACE.to_owned(),
            cluster_domain: CLUSTER_DOMAIN.to_owned(),
            networks: Vec::new(),
            proxies: ProxySettings::default(),
            jwks_hosts: Vec::new(),
            default_inbound: DefaultInbound::default(),
        }
    }
}

/// The domain of a cluster that says nothing else, and the trust domain after it.
pub const CLUSTER_DOMAIN: &str = "cluster.local";

/// An object by name; a policy by where it stands as well, for each is kept that is given: what any of them forbids is
/// forbidden.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct ObjectId {
    kind: &'static str,
    key: Key,
    copy: Origin,
}

impl ObjectId {
    fn new(kind: &'static str, key: Key) -> Self {
        Self { kind, key, copy: Origin::default() }
    }

    fn of(object: &Object) -> Self {
        let meta = object.metadata();
        let id = Self::new(object.kind(), (meta.namespace.clone(), meta.name.clone()));
        if object.restricts() { Self { copy: meta.origin.clone(), ..id } } else { id }
    }
}

/// Everything that is derived, in the order in which it is: a cell reads nothing that is written by one after it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Cell {
    /// The cluster's ranges.
    Networks,
    /// Who is trusted no more.
    Revocations,
    /// A policy, read.
    Policy(ObjectId),
    /// What a Service leads to: its backends.
    Service(Key),
    /// A route, read.
    Route(ObjectId),
    /// The routes of a Service port.
    Rules(BackendId),
    /// What somebody asked for. One copy of its name serves all who keep it: there are some for each proxy.
    Asked(Arc<Asked>),
    // From here on: what is to be said to people, which waits until somebody wants to know.
    Status(ObjectId),
    PoliciesOf(String),
    /// Never runs: reports of an object alone are kept under this name.
    Given(ObjectId),
}

impl Cell {
    fn waits(&self) -> bool {
        matches!(self, Self::Status(_) | Self::PoliciesOf(_) | Self::Given(_))
    }
}

/// Everything that is known, and what follows from it.
#[derive(Debug)]
pub struct World {
    facts: Facts,
    graph: Graph<Cell>,
    /// What makes no sense, by who found it.
    said: BTreeMap<Cell, Vec<String>>,
    statuses: BTreeMap<ObjectId, Arc<status::ObjectStatus>>,
    /// Whether any is another than when this was asked last.
    statuses_changed: bool,
    news: News,
}

/// Reports that are new, and of these those of endpoints whose pods are not known yet.
type News = (Vec<String>, Vec<String>);

impl World {
    /// Without any object.
    pub fn new(mesh: Mesh) -> Self {
        let (facts, mut graph) = (Facts::new(mesh), Graph::new());
        graph.wake(Cell::Networks);
        let (said, statuses) = (BTreeMap::new(), BTreeMap::new());
        Self { facts, graph, said, statuses, statuses_changed: false, news: News::default() }
    }

    /// Takes changes, all at once. Tells what may be another of that which was asked for.
    pub fn apply(&mut self, changes: impl IntoIterator<Item = Change>, tell: &mut dyn FnMut(&Asked, Answer)) {
        for change in changes {
            let Self { facts, graph, .. } = self;
            let (id, told) = Taking { facts, graph }.take(change);
            self.say(Cell::Given(id), told);
        }
        self.run(Cell::waits, tell);
    }

    /// Answers, and tells from now on when the answer may be another, until it is [forgotten](Self::forget).
    pub fn ask(&mut self, asked: &Arc<Asked>) -> Answer {
        let (answer, read) = reading(|| self.facts.answer(asked));
        self.graph.ran(Cell::Asked(Arc::clone(asked)), read);
        answer
    }

    /// Nobody asks for it any more.
    pub fn forget(&mut self, asked: &Arc<Asked>) {
        self.graph.forget(&Cell::Asked(Arc::clone(asked)));
    }

    /// Whether there is a proxy that lacks a feature.
    pub fn lack(&mut self, feature: Feature, there: bool) {
        self.facts.lacking.put(feature, there.then_some(()));
        // What was noted of tables is noted by thread, and the next may be another.
        for fact in tables::changed() {
            self.graph.changed(fact);
        }
    }

    /// Takes what was fetched of an issuer's keys, or why nothing was; `None`: nobody asks for them any more.
    pub fn keys(
        &mut self,
        url: &JwksUrl,
        found: Option<Result<Arc<str>, String>>,
        tell: &mut dyn FnMut(&Asked, Answer),
    ) {
        self.facts.jwks.put(url.clone(), found);
        self.run(Cell::waits, tell);
    }

    /// What is known of the keys of a URL.
    #[cfg(test)]
    pub(crate) fn held_keys(&self, url: &JwksUrl) -> Option<Result<Arc<str>, String>> {
        self.facts.jwks.get(url).cloned()
    }

    /// Takes it that all keys that policies name by URL are known: for tools that judge objects and fetch nothing.
    pub fn assume_keys(&mut self) {
        let urls: Vec<_> = self.wanted_keys().cloned().collect();
        for url in urls {
            self.keys(&url, Some(Ok("{\"keys\":[]}".into())), &mut |_, _| {});
        }
    }

    /// The URLs of keys that policies name.
    pub fn wanted_keys(&self) -> impl Iterator<Item = &JwksUrl> {
        self.facts.wanted_jwks.keys()
    }

    /// A pod's proxy that cannot refuse the revoked has a stream, or one fewer.
    pub fn unable(&mut self, pod: &str, there: bool) {
        self.facts.unable(pod, there);
        for fact in tables::changed() {
            self.graph.changed(fact);
        }
    }

    /// Who is trusted no more, and whose proxies cannot refuse them.
    pub fn revocations(&self) -> (Arc<Revocations>, Unable) {
        let unable = self.facts.told_unable.unnoted().get(&()).cloned().unwrap_or_default();
        (self.facts.told_revocations.unnoted().get(&()).cloned().unwrap_or_default(), unable)
    }

    /// Brings up to date what is to be said to people. Whether any status is another.
    pub fn settle(&mut self) -> bool {
        self.run(|cell| matches!(cell, Cell::Given(_)), &mut |_, _| {});
        std::mem::take(&mut self.statuses_changed)
    }

    fn say(&mut self, cell: Cell, told: Vec<String>) {
        let before = self.said.get(&cell).map_or(&[][..], Vec::as_slice);
        self.news.0.extend(told.iter().filter(|line| !before.contains(line)).cloned());
        match told.is_empty() {
            true => drop(self.said.remove(&cell)),
            false => drop(self.said.insert(cell, told)),
        }
    }

    fn run(&mut self, end: impl Fn(&Cell) -> bool, tell: &mut dyn FnMut(&Asked, Answer)) {
        loop {
            for fact in tables::changed() {
                self.graph.changed(fact);
            }
            let Some(cell) = self.graph.next(&end) else { return };
            self.run_one(cell, tell);
        }
    }

    fn run_one(&mut self, cell: Cell, tell: &mut dyn FnMut(&Asked, Answer)) {
        let facts = &mut self.facts;
        let (told, read, there) = match &cell {
            Cell::Networks => (facts.index_networks(), Box::default(), true),
            Cell::Revocations => (facts.index_revocations(), Box::default(), true),
            Cell::Service(key) => {
                let (mut served, read) = reading(|| facts.serve(key));
                let told = std::mem::take(&mut served.reports);
                self.news.1.extend(facts.take_served(key, served));
                (told, read, facts.services.contains_key(key))
            }
            Cell::Route(id) => {
                let (route, read) = reading(|| facts.read_route(id));
                let there = route.is_some();
                let (told, ports) = facts.take_route(id, route);
                ports.into_iter().for_each(|port| self.graph.wake(Cell::Rules(port)));
                self.graph.wake(Cell::Status(id.clone()));
                (told, read, there)
            }
            Cell::Rules(port) => {
                let (ruled, read) = reading(|| facts.rule(port));
                let there = ruled != attached::Ruled::default();
                facts.ruled.put(port.clone(), there.then(|| Arc::new(ruled)));
                (Vec::new(), read, there)
            }
            Cell::Policy(id) => {
                let (policy, read) = reading(|| facts.read_policy(id));
                let there = policy.is_some();
                facts.take_policy(id, policy);
                self.graph.wake(Cell::Status(id.clone()));
                (Vec::new(), read, there)
            }
            Cell::Asked(asked) => {
                let (answer, read) = reading(|| facts.answer(asked));
                tell(asked, answer);
                (Vec::new(), read, true)
            }
            Cell::Status(id) => {
                let (judged, read) = reading(|| kinds::judge(facts, id));
                let there = judged.is_some();
                let (status, told) = judged.unwrap_or_default();
                if self.statuses.get(id).map(|before| &**before) != status.as_ref() {
                    self.statuses_changed = true;
                    match status {
                        Some(status) => drop(self.statuses.insert(id.clone(), Arc::new(status))),
                        None => drop(self.statuses.remove(id)),
                    }
                }
                (told, read, there)
            }
            Cell::PoliciesOf(namespace) => {
                let (told, read) = reading(|| facts.judge_namespace(namespace));
                (told, read, true)
            }
            Cell::Given(_) => return,
        };
        if there {
            self.graph.ran(cell.clone(), read)
        } else {
            self.graph.forget(&cell)
        }
        self.say(cell, told);
    }

    /// Reports that are new since this was asked last; and of these, those of endpoints that are left out until their pod is
    /// known, which in a cluster passes by itself.
    pub fn news(&mut self) -> (Vec<String>, Vec<String>) {
        std::mem::take(&mut self.news)
    }

    /// Whether what is said of an object is what should be said, or nothing should be.
    pub fn is_said(&self, object: &Object) -> bool {
        let wanted = self.statuses.get(&ObjectId::of(object));
        wanted.is_none_or(|wanted| wanted.is_said(&object.said()))
    }

    /// What makes no sense, for the log.
    pub fn reports(&self) -> impl Iterator<Item = &String> {
        self.said.values().flatten()
    }

    /// Endpoints that are left out until their pod is known. In a cluster that passes by itself.
    pub fn unseen(&self) -> Vec<String> {
        self.facts.unseen()
    }

    /// What the statuses of routes and policies should say.
    pub fn statuses(&self) -> impl Iterator<Item = &Arc<status::ObjectStatus>> {
        self.statuses.values()
    }

    /// How many Services, pods and backends there are.
    pub fn counts(&self) -> (usize, usize, usize) {
        let facts = &self.facts;
        (facts.services.unnoted().len(), facts.pods.unnoted().len(), facts.backends.unnoted().len())
    }

    /// How many cells there are.
    pub fn cells(&self) -> usize {
        self.graph.len()
    }
}

/// A line for the log: where, what, and what is the matter with it.
fn report(meta: &Metadata, kind: &str, problem: String) -> String {
    // The API's objects have no line.
    let origin = if meta.origin.file.is_empty() { String::new() } else { format!("{}: ", meta.origin) };
    format!("{origin}{kind} {}/{}: {problem}", meta.namespace, meta.name)
}

fn is_headless(service: &Service) -> bool {
    service.spec.cluster_ip.as_deref() == Some("None")
}

fn is_external(service: &Service) -> bool {
    service.spec.kind.as_deref() == Some("ExternalName")
}

fn backend_id(key: &Key, port: u16) -> BackendId {
    BackendId::service(&key.0, &key.1, port)
}

fn pod_backend(key: &Key, port: u16) -> BackendId {
    BackendId::pod(&key.0, &key.1, port)
}
