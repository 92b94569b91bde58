//! Everything that is known of the cluster, by what it is about. Cells read it; [`super::given`] and cells write it.

use super::{
    Key, Mesh, ObjectId,
    attached::Ruled,
    derived::{Place, Ranges, ReadPolicy, ReadRoute, Said, Served, Unable},
    tables::{Relation, Table},
};
use crate::objects::{
    Object,
    core::{EndpointSlice, Namespace, Pod, Service},
    jwks::JwksUrl,
    mesh::XMesh,
    revoked::RevokedIdentity,
    routes::ReferenceGrant,
};
use ipnet::IpNet;
use remora_model::{Backend, BackendId, Feature, Features, Protocol, Revocations};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
};

/// A label that a Service selects by: its namespace, its name, its value.
pub(super) type Label = (String, String, String);

/// All tables. Those after the line are written by cells.
#[derive(Debug)]
pub(crate) struct Facts {
    pub(super) mesh: Mesh,
    /// Objects that are given more than once, in the order of where they stand. The last counts.
    pub(super) copies: BTreeMap<ObjectId, Vec<Object>>,
    pub(super) namespaces: BTreeMap<Key, Arc<Namespace>>,
    /// The opaque ports of a namespace's pods and Services that name none themselves.
    pub(super) opaque: Table<String, String>,
    /// Who may call the ports of a namespace's pods that no Allow policy selects, where the pods say nothing themselves.
    pub(super) default_inbound: Table<String, String>,
    /// What a namespace says of the settings of its pods' proxies.
    pub(super) proxies_of: Table<String, Said>,
    /// The namespaces in which faults may happen.
    pub(super) faults_allowed: Table<String, ()>,
    /// The zones of nodes.
    pub(super) zones: Table<String, String>,
    pub(super) services: Table<Key, Arc<Service>>,
    pub(super) pods: Table<Key, Arc<Pod>>,
    pub(super) slices: Table<Key, Arc<EndpointSlice>>,
    pub(super) grants: Table<Key, Arc<ReferenceGrant>>,
    /// HTTPRoutes and GRPCRoutes.
    pub(super) routes: Table<ObjectId, Object>,
    /// Policies of all kinds.
    pub(super) policies: Table<ObjectId, Object>,
    /// Nodes and ServiceCIDRs, which name ranges of addresses.
    pub(super) ranged: BTreeMap<ObjectId, Object>,
    /// What says that a mesh is there.
    pub(super) meshes: BTreeMap<ObjectId, Arc<XMesh>>,
    /// What was fetched of the keys of issuers that policies name by URL, or why nothing was.
    pub(super) jwks: Table<JwksUrl, Result<Arc<str>, String>>,
    pub(super) revoked: BTreeMap<ObjectId, Arc<RevokedIdentity>>,
    /// Pods whose proxies cannot refuse the revoked, with how many streams each has; and what is told of them.
    pub(super) unable: BTreeMap<String, usize>,
    pub(super) told_unable: Table<(), Unable>,
    pub(super) ranges: Table<(), Ranges>,
    /// Addresses of Services and pods in none of the ranges.
    pub(super) strays: BTreeSet<IpAddr>,
    /// Which namespaces have a pod or Service.
    pub(super) peopled: Table<String, ()>,
    /// How many pods and Services a namespace has, and how often pods came and went.
    pub(super) population: HashMap<String, usize>,
    pub(super) pods_moved: Table<String, u64>,
    pub(super) services_at: Relation<IpAddr, Key>,
    pub(super) service_by_ip: Table<IpAddr, Key>,
    /// Pods that say they have an address of their own; and of these, whose it is.
    pub(super) pods_at: Relation<IpAddr, Key>,
    pub(super) pod_by_ip: Table<IpAddr, Key>,
    /// Addresses of nodes, by the pods in their networks.
    pub(super) node_ips: Relation<IpAddr, Key>,
    /// Services by the first label that they select by, so that a pod is held against few of them.
    pub(super) by_label: HashMap<Label, BTreeSet<Key>>,
    /// The pods that a Service selects; its EndpointSlices.
    pub(super) selected: Relation<Key, Key>,
    pub(super) slices_of: Relation<Key, Key>,
    pub(super) grants_in: Relation<String, Key>,
    /// What some proxy cannot carry out.
    pub(super) lacking: Table<Feature, ()>,
    // ----
    /// What each Service leads to, which the next five are made of.
    pub(super) led: BTreeMap<Key, Served>,
    pub(super) backends: Table<BackendId, Arc<Backend>>,
    /// Which backends there are and what they speak, for those whom no endpoint concerns.
    pub(super) ports: Table<BackendId, Protocol>,
    /// Which backends a port of an address serves, or will once it is ready: policies hold for a pod that is not, too.
    pub(super) served: Relation<IpAddr, (u16, BackendId)>,
    /// Which Services' ports select which port of a pod, whether it has an address or not.
    pub(super) selecting: Relation<Key, (u16, BackendId)>,
    /// Endpoints of Services by their own name: (service, pod or host name).
    pub(super) named: Table<(Key, String), IpAddr>,
    pub(super) read_routes: Table<ObjectId, Arc<ReadRoute>>,
    /// The routes that name a Service port.
    pub(super) routes_at: Relation<BackendId, ObjectId>,
    pub(super) ruled: Table<BackendId, Arc<Ruled>>,
    pub(super) read_policies: Table<ObjectId, Arc<ReadPolicy>>,
    /// The policies of a kind at a place; those in a namespace; all.
    pub(super) policies_on: Relation<(&'static str, Place), ObjectId>,
    pub(super) policies_in: Relation<(&'static str, String), ObjectId>,
    pub(super) policies_of: Relation<&'static str, ObjectId>,
    pub(super) told_networks: Table<(), Arc<[IpNet]>>,
    /// The policies that name a URL of keys.
    pub(super) wanted_jwks: BTreeMap<JwksUrl, BTreeSet<ObjectId>>,
    pub(super) told_revocations: Table<(), Arc<Revocations>>,
    /// Those for which there is no room.
    pub(super) revoked_beyond: Table<(), BTreeSet<String>>,
}

impl Facts {
    pub(super) fn new(mesh: Mesh) -> Self {
        Self {
            mesh,
            copies: BTreeMap::new(),
            namespaces: BTreeMap::new(),
            opaque: Table::new("opaque"),
            default_inbound: Table::new("default_inbound"),
            proxies_of: Table::new("proxies_of"),
            faults_allowed: Table::new("faults_allowed"),
            zones: Table::new("zones"),
            services: Table::new("services"),
            pods: Table::new("pods"),
            slices: Table::new("slices"),
            grants: Table::new("grants"),
            routes: Table::new("routes"),
            policies: Table::new("policies"),
            ranged: BTreeMap::new(),
            meshes: BTreeMap::new(),
            jwks: Table::new("jwks"),
            revoked: BTreeMap::new(),
            unable: BTreeMap::new(),
            told_unable: Table::new("told_unable"),
            ranges: Table::new("ranges"),
            strays: BTreeSet::new(),
            peopled: Table::new("peopled"),
            population: HashMap::new(),
            pods_moved: Table::new("pods_moved"),
            services_at: Relation::new("services_at"),
            service_by_ip: Table::new("service_by_ip"),
            pods_at: Relation::new("pods_at"),
            pod_by_ip: Table::new("pod_by_ip"),
            node_ips: Relation::new("node_ips"),
            by_label: HashMap::new(),
            selected: Relation::new("selected"),
            slices_of: Relation::new("slices_of"),
            grants_in: Relation::new("grants_in"),
            lacking: Table::new("lacking"),
            led: BTreeMap::new(),
            backends: Table::new("backends"),
            ports: Table::new("ports"),
            served: Relation::new("served"),
            selecting: Relation::new("selecting"),
            named: Table::new("named"),
            read_routes: Table::new("read_routes"),
            routes_at: Relation::new("routes_at"),
            ruled: Table::new("ruled"),
            read_policies: Table::new("read_policies"),
            policies_on: Relation::new("policies_on"),
            policies_in: Relation::new("policies_in"),
            policies_of: Relation::new("policies_of"),
            told_networks: Table::new("told_networks"),
            wanted_jwks: BTreeMap::new(),
            told_revocations: Table::new("told_revocations"),
            revoked_beyond: Table::new("revoked_beyond"),
        }
    }
}

impl Facts {
    /// What of `needed` some proxy lacks, and what holds there instead, in words.
    pub(super) fn lacked(&self, needed: Features, instead: &str) -> Option<String> {
        let lacking: Features = needed.iter().filter(|feature| self.lacking.contains_key(feature)).collect();
        (!lacking.is_empty())
            .then(|| format!("needs what some connected proxies are too old for ({lacking}); there {instead}"))
    }
}
