//! Inbound ports: who may come in, and how.

use super::{Key, Snapshot, values};
use crate::objects::core::{OPAQUE_PORTS, Pod};
use crate::objects::policy::{
    AuthorizationPolicy, Mode, PolicyAction, PolicyOperation, PolicyRule, PolicySource, PolicyTarget, TargetKind,
};
use http::Method;
use remora_model::{
    Action, AuthorizationRule, BackendId, Inbound, MtlsMode, Operation, PathPattern, Protocol, Source, SpiffeId,
};
use std::net::SocketAddr;

/// The namespace whose policies without targets hold for the whole mesh.
const ROOT_NAMESPACE: &str = "remora";

impl Snapshot {
    /// What a proxy must know of `port` of its pod. `None` while the pod is unknown.
    pub fn inbound(&self, namespace: &str, pod: &str, port: u16) -> Option<Inbound> {
        let key = (namespace.to_owned(), pod.to_owned());
        let pod = self.pods.get(&key)?;
        let ids = values::pod_ips(pod).into_iter().filter_map(|ip| self.served.get(&SocketAddr::new(ip, port)));
        let mut ids: Vec<&BackendId> = ids.flatten().filter(|id| *id.namespace == key.0).collect();
        // A Service with an address before one without: that is how clients call the pod.
        ids.sort_by_key(|id| (!self.has_address(id), *id));
        ids.dedup();
        let opaque = values::names_port(pod.metadata.annotations.get(OPAQUE_PORTS), port);
        let said = ids.iter().filter_map(|id| self.backends.get(*id)).map(|b| b.protocol);
        let protocol = if opaque { Protocol::Opaque } else { said.into_iter().next().unwrap_or_default() };
        let selected = |targets: &[PolicyTarget]| {
            targets.iter().any(|target| match target.kind {
                TargetKind::Pod => target.name == key.1,
                TargetKind::Service => ids.iter().any(|id| *id.name == *target.name),
            })
        };
        let (mut rules, mut default_deny) = (Vec::new(), false);
        for policy in self.authorization.iter().filter(|policy| selects(policy, &key, pod, &selected)) {
            default_deny |= policy.spec.action == PolicyAction::Allow;
            rules.extend(policy.spec.rules.iter().enumerate().filter_map(|(i, rule)| authorization(policy, i, rule)));
        }
        let parent = ids.first().map_or_else(|| format!("{}/{}:{port}", key.0, key.1), ToString::to_string);
        let mtls = self.mtls(&key, &selected);
        Some(Inbound { port, parent: parent.into(), protocol, mtls, rules, default_deny })
    }

    fn has_address(&self, id: &BackendId) -> bool {
        let service = self.services.get(&(id.namespace.to_string(), id.name.to_string()));
        service.and_then(|s| s.spec.cluster_ip.as_deref()).is_some_and(|ip| ip != "None")
    }

    /// The most specific policy wins: workload, namespace, mesh; of equals, the strict one.
    fn mtls(&self, key: &Key, selected: &dyn Fn(&[PolicyTarget]) -> bool) -> MtlsMode {
        let level = |policy: &&crate::objects::policy::MeshTlsPolicy| {
            let (own, targets) = (policy.metadata.namespace == key.0, &policy.spec.target_refs);
            match (own, targets.is_empty()) {
                (true, false) if selected(targets) => Some(3),
                (true, true) => Some(2),
                (false, true) if policy.metadata.namespace == ROOT_NAMESPACE => Some(1),
                _ => None,
            }
        };
        let ranked =
            self.mesh_tls.iter().filter_map(|policy| Some((level(&policy)?, policy.spec.mode == Mode::Strict)));
        match ranked.max() {
            Some((_, true)) => MtlsMode::Strict,
            _ => MtlsMode::Permissive,
        }
    }
}

fn selects(policy: &AuthorizationPolicy, key: &Key, pod: &Pod, selected: &dyn Fn(&[PolicyTarget]) -> bool) -> bool {
    let spec = &policy.spec;
    let labels = |selector: &crate::objects::policy::Selector| {
        selector.match_labels.iter().all(|(k, v)| pod.metadata.labels.get(k) == Some(v))
    };
    let targets = spec.target_refs.is_empty() || selected(&spec.target_refs);
    policy.metadata.namespace == key.0 && targets && spec.selector.as_ref().is_none_or(labels)
}

/// A rule that cannot be read denies: a deny rule then matches everything, an allow rule nothing.
fn authorization(policy: &AuthorizationPolicy, index: usize, rule: &PolicyRule) -> Option<AuthorizationRule> {
    let name = format!("{}/{} rule {index}", policy.metadata.namespace, policy.metadata.name);
    let action = match policy.spec.action {
        PolicyAction::Allow => Action::Allow,
        PolicyAction::Deny => Action::Deny,
        PolicyAction::Audit => Action::Audit,
    };
    let read = || -> Result<_, String> {
        let from = rule.from.iter().map(source).collect::<Result<Vec<_>, _>>()?;
        Ok((from, rule.to.iter().map(operation).collect::<Result<Vec<_>, _>>()?))
    };
    match read() {
        Ok((from, to)) => Some(AuthorizationRule { name: name.into(), action, from, to }),
        Err(problem) => {
            tracing::warn!(rule = name, problem, "unreadable authorization rule; it denies");
            let everything = AuthorizationRule { name: name.into(), action, from: Vec::new(), to: Vec::new() };
            (action == Action::Deny).then_some(everything)
        }
    }
}

fn source(source: &PolicySource) -> Result<Source, String> {
    let id = |id: &String| SpiffeId::parse(id).map_err(|e| format!("from.identities: {id:?}: {e}"));
    let cidr = |cidr: &String| cidr.parse().map_err(|_| format!("from.cidrs: {cidr:?} is no CIDR"));
    Ok(Source {
        identities: source.identities.iter().map(id).collect::<Result<_, _>>()?,
        namespaces: source.namespaces.iter().map(|n| n.as_str().into()).collect(),
        cidrs: source.cidrs.iter().map(cidr).collect::<Result<_, _>>()?,
    })
}

fn operation(operation: &PolicyOperation) -> Result<Operation, String> {
    let method = |m: &String| Method::from_bytes(m.as_bytes()).map_err(|_| format!("to.methods: {m:?} is no method"));
    let path = |path: &String| match path.strip_suffix("/*") {
        _ if !path.starts_with('/') => Err(format!("to.paths: {path:?} does not start with a slash")),
        Some(prefix) => Ok(PathPattern::Prefix(prefix.into())),
        None if path.contains('*') => Err(format!("to.paths: {path:?} has a star that is not its last segment")),
        None => Ok(PathPattern::Exact(path.as_str().into())),
    };
    Ok(Operation {
        methods: operation.methods.iter().map(method).collect::<Result<_, _>>()?,
        paths: operation.paths.iter().map(path).collect::<Result<_, _>>()?,
    })
}
