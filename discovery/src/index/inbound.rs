//! Inbound ports: which callers each accepts, and how.
//!
//! Discovery sends nothing while a pod has no address: Services may target the pod by address alone, and then it is unknown
//! which of their policies hold. Until then the proxy accepts nothing.

use super::{
    Key, ObjectId,
    derived::{Hold, Level, ReadIssuer, ReadPolicy, Says, TlsMode},
    facts::Facts,
    values,
};
use crate::objects::{
    Kind as _,
    core::Pod,
    policy::{AuthorizationPolicy, MeshTlsPolicy, Selector},
};
use remora_api::convert::{LIST_MAX, jwt::ISSUERS_MAX};
use remora_model::{
    Action, AuthorizationRule, BackendId, DryRun, Inbound, InboundDefault, JwtIssuer, MtlsMode, Protocol,
    policy::DRY_RUN_POLICIES_MAX,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// Ports of one pod that have a resource of their own: each costs its proxy a subscription.
pub(super) const DECLARED_MAX: usize = 512;

impl Facts {
    /// What a proxy must know of `port` of its pod. `None` while the pod is unknown, or has no address.
    pub(crate) fn inbound(&self, namespace: &str, pod: &str, port: u16) -> Option<Inbound> {
        let (key, pod) = self.workload(namespace, pod)?;
        Some(self.inbound_at(&key, pod, port))
    }

    /// The policy of all undeclared ports of a pod, and the list of the declared ones. `None` like
    /// [`Self::inbound`].
    pub(crate) fn inbound_default(&self, namespace: &str, pod: &str) -> Option<InboundDefault> {
        let (key, pod) = self.workload(namespace, pod)?;
        let mut inbound = self.inbound_at(&key, pod, 0);
        inbound.parent = format!("{}/{}:other", key.0, key.1).into();
        let (declared, left_out) = self.declared(&key, pod);
        match left_out {
            // Whatever holds for those that have no place may not be missed.
            LeftOut::Served => inbound.rules = vec![AuthorizationRule::deny_everything("too many ports".into())],
            LeftOut::Opaque => inbound.protocol = Protocol::Opaque,
            LeftOut::Nothing => {}
        }
        Some(InboundDefault { inbound, declared })
    }

    fn workload(&self, namespace: &str, pod: &str) -> Option<(Key, &Arc<Pod>)> {
        let key = (namespace.to_owned(), pod.to_owned());
        let pod = self.pods.get(&key)?;
        (!values::pod_ips(pod).is_empty()).then_some((key, pod))
    }

    fn inbound_at(&self, key: &Key, pod: &Pod, port: u16) -> Inbound {
        let ids = self.served_by(pod, port);
        let (mut rules, mut default_deny, mut dry_allow) = (Vec::new(), false, Vec::new());
        let mut issuers = Vec::new();
        for (policy, hold) in self.access_rules(key, pod, &ids) {
            if let Says::Authorization(policy) = &policy.says {
                default_deny |= policy.denies_the_rest();
                issuers.extend(policy.issuers.iter().map(|one| self.with_keys(one)));
                dry_allow.extend(policy.would_deny_the_rest().then(|| Arc::clone(&policy.name)));
                // Where it is closed, only what it forbids holds.
                let kept = policy.rules.iter().filter(|rule| hold == Hold::Said || rule.action == Action::Deny);
                rules.extend(kept.cloned());
            }
        }
        if !default_deny {
            let (rule, denies) = self.default_inbound(pod).rule(&pod.metadata.namespace);
            rules.extend(rule);
            default_deny = denies;
        }
        dry_allow.truncate(DRY_RUN_POLICIES_MAX);
        // What decides nothing goes first.
        issuers.sort_by_key(|issuer: &JwtIssuer| issuer.dry_run);
        if issuers.get(ISSUERS_MAX).is_some_and(|issuer| !issuer.dry_run) {
            rules = vec![AuthorizationRule::deny_everything("too many issuers".into())];
        }
        issuers.truncate(ISSUERS_MAX);
        let (mtls, strict) = self.mtls(key, pod, &ids);
        let parent = ids.first().map_or_else(|| format!("{}/{}:{port}", key.0, key.1), ToString::to_string);
        Inbound {
            port,
            parent: parent.into(),
            protocol: self.protocol_at(pod, port),
            mtls,
            rules: bounded(rules),
            default_deny,
            dry_run: DryRun { strict, allow: dry_allow },
            issuers,
            ending: pod.metadata.deletion_timestamp.is_some(),
            trust_domain: self.mesh.trust_domain.clone(),
            traffic: self.traffic(key, pod, &ids),
        }
    }

    /// An issuer with what was fetched of its keys.
    fn with_keys(&self, one: &ReadIssuer) -> JwtIssuer {
        let fetched = one.url.as_ref().and_then(|url| self.jwks.get(url)?.clone().ok());
        JwtIssuer { keys: one.issuer.keys.clone().or(fetched), ..one.issuer.clone() }
    }

    /// The AuthorizationPolicies that select a port of a pod, in the order of their names, and what of each holds there.
    fn access_rules(&self, key: &Key, pod: &Pod, ids: &[&BackendId]) -> Vec<(Arc<ReadPolicy>, Hold)> {
        let mut all: BTreeMap<ObjectId, Hold> = BTreeMap::new();
        for place in self.places_over(Some(key), ids) {
            for id in self.policies_on.get(&(AuthorizationPolicy::KIND, place.clone())) {
                let hold = self.read_policies.get(id).and_then(|read| read.places.get(&place).copied());
                let Some(hold) = hold else { continue };
                all.entry(id.clone()).and_modify(|before| *before = hold.min(*before)).or_insert(hold);
            }
        }
        let read = all.into_iter().filter_map(|(id, hold)| Some((Arc::clone(self.read_policies.get(&id)?), hold)));
        read.filter(|(policy, _)| policy.selects(pod)).collect()
    }

    /// The most specific policy wins: port, workload, namespace, mesh; of equals, the strict one. And the policy in dry run that would
    /// make it strict, if none does.
    pub(super) fn mtls(&self, key: &Key, pod: &Pod, ids: &[&BackendId]) -> (MtlsMode, Option<Arc<str>>) {
        let mut most: Option<(Level, bool)> = None;
        let mut would: Option<(Level, ObjectId)> = None;
        for place in self.places_over(Some(key), ids) {
            for id in self.policies_on.get(&(MeshTlsPolicy::KIND, place.clone())) {
                let Some(read) = self.read_policies.get(id).filter(|read| read.selects(pod)) else { continue };
                let Says::MeshTls(mode) = read.says else { continue };
                let level = place.level(read.selector.as_ref());
                if mode == TlsMode::DryRun {
                    would = would.max(Some((level, id.clone())));
                    continue;
                }
                let strict = mode == TlsMode::Strict || read.places.get(&place) == Some(&Hold::Closed);
                most = most.max(Some((level, strict)));
            }
        }
        let name = |id: &ObjectId| format!("{}/{}", id.key.0, id.key.1).into();
        match (most, would) {
            (Some((_, true)), _) => (MtlsMode::Strict, None),
            // Of equals the strict one would count.
            (Some((held, false)), Some((level, _))) if held > level => (MtlsMode::Permissive, None),
            (_, would) => (MtlsMode::Permissive, would.map(|(_, id)| name(&id))),
        }
    }

    /// The ports of a pod that have a resource of their own, in order: those that Services lead to, those of its
    /// containers, those that annotations make opaque; and whether [`DECLARED_MAX`] left some out.
    pub(super) fn declared(&self, key: &Key, pod: &Pod) -> (Vec<u16>, LeftOut) {
        let mut ports: Vec<u16> = self.selecting.get(key).map(|(port, _)| *port).collect();
        for ip in values::pod_ips(pod) {
            ports.extend(self.served.get(&ip).map(|(port, _)| *port));
        }
        let mut left_out = LeftOut::Nothing;
        let mut seen = BTreeSet::new();
        ports.sort_unstable();
        for port in ports {
            if !seen.contains(&port) && seen.len() == DECLARED_MAX {
                return (seen.into_iter().collect(), LeftOut::Served);
            }
            seen.insert(port);
        }
        // Nothing that holds for one of these alone is lost with it, but for what it speaks.
        seen.extend(super::pods::container_ports(pod).take(DECLARED_MAX - seen.len()));
        for port in self.opaque_ports(&pod.metadata) {
            if seen.len() == DECLARED_MAX && !seen.contains(&port) {
                left_out = LeftOut::Opaque;
                break;
            }
            seen.insert(port);
        }
        (seen.into_iter().collect(), left_out)
    }
}

/// What found no place among the declared ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LeftOut {
    Nothing,
    /// Ports that are opaque: so all are that have no place.
    Opaque,
    /// Ports that Services lead to, for which policies of theirs may hold.
    Served,
}

impl ReadPolicy {
    /// Whether it holds for a pod at one of its places.
    pub(super) fn selects(&self, pod: &Pod) -> bool {
        self.selector.as_ref().is_none_or(|selector| selector.selects(pod))
    }
}

impl Selector {
    /// Whether it selects the pod.
    pub(super) fn selects(&self, pod: &Pod) -> bool {
        self.match_labels.iter().all(|(label, value)| pod.metadata.labels.get(label) == Some(value))
    }
}

/// No more rules than a message carries. What an allow rule beyond would allow is not allowed; a deny rule beyond might
/// deny anything, so everything is denied.
fn bounded(rules: Vec<AuthorizationRule>) -> Vec<AuthorizationRule> {
    if rules.len() <= LIST_MAX {
        return rules;
    }
    let (decide, others): (Vec<_>, Vec<_>) = rules.into_iter().partition(AuthorizationRule::decides);
    let (mut kept, rest): (Vec<_>, Vec<_>) = decide.into_iter().partition(|rule| rule.action == Action::Deny);
    if kept.len() > LIST_MAX {
        return vec![AuthorizationRule::deny_everything("too many rules".into())];
    }
    let room = LIST_MAX - kept.len();
    kept.extend(rest.into_iter().chain(others).take(room));
    kept
}
