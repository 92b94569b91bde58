//! See [`crate::fuzzing`]: objects, whatever they are, to messages that can be read.

use super::{Mesh, Snapshot, Versioned};
use crate::source::parse::parse;
use remora_api::{
    sync::Update,
    v1::{self, SyncResponse, sync_response::Kind},
};
use remora_model::Target;
use std::sync::Arc;

/// What is read of a text does not depend on what stands around it; the snapshot of it is told in messages that a proxy can
/// read whole; and what did not change is shared with the snapshot before.
pub fn manifests(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let parsed = parse(&text, "fuzzed.yaml");
    // In YAML a carriage return ends a line too.
    let lines = text.matches(['\n', '\r']).count() + 1;
    for mistake in &parsed.mistakes {
        assert!((1..=lines).contains(&mistake.line) && !mistake.problem.is_empty(), "{mistake}");
    }
    let mesh = Mesh::default();
    let world = Snapshot::build(parsed.objects.clone(), &mesh, None);
    let again = Snapshot::build(parsed.objects, &mesh, Some(&world));
    let differ = |(id, backend): (_, &Versioned)| !Arc::ptr_eq(&again.backends[id].backend, &backend.backend);
    assert!(!world.backends.iter().any(differ), "what did not change is not shared");
    assert_eq!(world.reports, again.reports);
    assert_eq!(unreadable(&world), Vec::<String>::new());
}

/// What a proxy could not read of all that it may be told, whichever pod it is in.
pub(super) fn unreadable(world: &Snapshot) -> Vec<String> {
    let mut kinds = Vec::new();
    let named = world.backends.keys().map(|id| format!("{}.{}:{}", id.name, id.namespace, id.port));
    let ips = world.service_by_ip.keys().chain(world.pod_by_ip.keys()).map(|ip| format!("{ip}:80"));
    let targets = named.chain(ips).chain(["api.shop:90", "other.shop:80", "example.com:80"].map(str::to_owned));
    for target in targets.filter_map(|text| text.parse::<Target>().ok()).filter(|target| target.port() != 0) {
        let outbound = world.outbound("shop", &target);
        for id in outbound.backends() {
            let Some(known) = world.backend(id) else { continue };
            kinds.push(Kind::Backend(v1::BackendResource { version: 1, backend: Some((&*known.backend).into()) }));
        }
        kinds.push(Kind::Outbound(v1::OutboundResource { version: 1, outbound: Some((&outbound).into()) }));
    }
    for (namespace, pod) in world.pods.keys() {
        for port in [80, 8000, 9000] {
            let inbound = world.inbound(namespace, pod, port).map(|one| v1::Inbound::from(&one));
            kinds.extend(inbound.map(|one| Kind::Inbound(v1::InboundResource { version: 1, inbound: Some(one) })));
        }
        let default = world.inbound_default(namespace, pod).map(|one| v1::InboundDefault::from(&one));
        kinds.extend(default.map(|inbound_default| {
            let inbound_default = Some(inbound_default);
            Kind::InboundDefault(v1::InboundDefaultResource { version: 1, inbound_default })
        }));
    }
    let read = |kind| match Update::try_from(SyncResponse { kind: Some(kind) }) {
        Ok(Update::Whole { closed, .. }) => closed.iter().map(ToString::to_string).collect(),
        Ok(other) => vec![format!("{other:?}")],
        Err(error) => vec![error.to_string()],
    };
    kinds.into_iter().flat_map(read).collect()
}
