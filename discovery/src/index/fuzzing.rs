//! See [`crate::fuzzing`]: objects, whatever they are, to messages that can be read.

use super::{Change, Facts, Mesh, World};
use crate::{objects::Object, source::parse::parse};
use remora_api::{
    sync::Update,
    v1::{self, SyncResponse, sync_response::Kind},
};
use remora_model::Target;

/// What is read of a text does not depend on what stands around it; what is known of it is told in messages that a proxy can
/// read whole; and it is the same if its objects come one by one, the last first.
pub fn manifests(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let parsed = parse(&text, "fuzzed.yaml");
    // In YAML a carriage return ends a line too.
    let lines = text.matches(['\n', '\r']).count() + 1;
    for mistake in &parsed.mistakes {
        assert!((1..=lines).contains(&mistake.line) && !mistake.problem.is_empty(), "{mistake}");
    }
    let mesh = Mesh::default();
    let world = |changes: Vec<Vec<Object>>| {
        let mut world = World::new(mesh.clone());
        for objects in changes {
            world.apply(objects.into_iter().map(Change::Put), &mut |_, _| {});
        }
        world.settle();
        world
    };
    let (once, one_by_one) =
        (world(vec![parsed.objects.clone()]), world(parsed.objects.into_iter().rev().map(|one| vec![one]).collect()));
    let said = |world: &World| {
        let backends = world.facts.backends.unnoted().clone();
        (backends, world.reports().cloned().collect::<Vec<_>>(), world.statuses().cloned().collect::<Vec<_>>())
    };
    assert_eq!(said(&once), said(&one_by_one));
    assert_eq!(unreadable(&once.facts), Vec::<String>::new());
}

/// What a proxy could not read of all that it may be told, whichever pod it is in.
pub(super) fn unreadable(world: &Facts) -> Vec<String> {
    let mut kinds = Vec::new();
    let named = world.backends.unnoted().keys().map(|id| format!("{}.{}:{}", id.name, id.namespace, id.port));
    let ips = world.service_by_ip.unnoted().keys().chain(world.pod_by_ip.unnoted().keys()).map(|ip| format!("{ip}:80"));
    let targets = named.chain(ips).chain(["api.shop:90", "other.shop:80", "example.com:80"].map(str::to_owned));
    for target in targets.filter_map(|text| text.parse::<Target>().ok()).filter(|target| target.port() != 0) {
        let outbound = world.outbound("shop", &target);
        for id in outbound.backends() {
            let Some(known) = world.backend(id) else { continue };
            kinds.push(Kind::Backend(v1::BackendResource { version: 1, backend: Some((&*known).into()) }));
        }
        kinds.push(Kind::Outbound(v1::OutboundResource { version: 1, outbound: Some((&outbound).into()) }));
    }
    for (namespace, pod) in world.pods.unnoted().keys() {
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
