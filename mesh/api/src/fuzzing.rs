//! Fuzz targets of the control protocol's messages: one function per direction, which reads as the receiver does and asserts
//! what the conversions promise. In: any bytes. Out: nothing, or a panic. Built for tests, which replay `fuzz/corpus` and changes
//! of it, and for `cargo fuzz` (which sets `cfg(fuzzing)`) alone.

use crate::{
    Received,
    sync::{Delta, Name, Resource, Update},
    v1::{self, sync_request, sync_response::Kind},
};
use prost::Message as _;
use remora_model::{
    Action, AuthorizationRule, Backend, Inbound, InboundDefault, Outbound, Parent, ProxySettings, Revocations,
};

#[cfg(test)]
remora_replay::replays! {
    what_discovery_says_is_read_as_it_is_written: discovery_updates, 20_000;
    what_a_proxy_asks_for_is_read_as_it_is_written: discovery_requests, 20_000;
}

/// What is read is written so that it is read as the same, with nothing left to close; a rule that cannot be read is never
/// lost; and reading in the closed form is reading strictly where strict reading goes through.
pub fn discovery_updates(data: &[u8]) {
    let Ok(Received { message, known }) = Received::decode(data) else { return };
    let envelope = crate::sync::envelope(&message);
    if !known {
        no_rule_is_left(message.clone());
    }
    match Update::try_from(message.clone()) {
        Err(mistake) => assert!(!mistake.path.to_string().is_empty() && !mistake.to_string().is_empty()),
        Ok(Update::Whole { resource, closed, version }) => {
            let (name, told) = envelope.expect("what is read has a name");
            assert_eq!(told, version);
            if !matches!(resource, Resource::Outbound(_)) {
                assert_eq!(Name::try_from(name), Ok(resource.name()));
            }
            no_rule_is_lost(&message, &resource);
            if closed.is_empty() {
                assert_eq!(strictly(message, &resource), Some(resource.clone()));
            }
            match Update::try_from(written(&resource, version)) {
                Ok(Update::Whole { resource: again, closed, .. }) => {
                    assert_eq!((again, closed), (resource.clone(), Vec::new()));
                }
                other => panic!("{resource:#?} is written and read as {other:#?}"),
            }
            if let Resource::Backend(backend) = &resource {
                half_of_it_changes(backend);
            }
        }
        Ok(Update::Delta(delta)) => assert_eq!(Delta::try_from(v1::BackendDelta::from(&delta)), Ok(delta)),
        Ok(Update::Current { name, .. } | Update::Refused { name, .. }) => read_back(&name),
        Ok(Update::Zone(_) | Update::Networks(_) | Update::Ask { .. }) => assert_eq!(envelope, None),
        Ok(Update::Settings { version, settings }) => {
            assert_eq!(envelope, Some(((&Name::Settings).into(), version)));
            assert_eq!(ProxySettings::try_from(v1::ProxySettings::from(&settings)), Ok(settings));
        }
        Ok(Update::Revocations { version, revocations }) => {
            assert_eq!(envelope, Some(((&Name::Revocations).into(), version)));
            assert_eq!(Revocations::try_from(v1::Revocations::from(&revocations)), Ok(revocations));
        }
    }
}

/// Of what has fields that nobody knows, nothing holds.
fn no_rule_is_left(message: v1::SyncResponse) {
    let Ok(Update::Whole { resource, closed, .. }) = Update::try_from(Received { message, known: false }) else {
        return;
    };
    let denied =
        |inbound: &Inbound| inbound.rules.iter().all(|rule| rule.action == Action::Deny) && inbound.default_deny;
    assert!(match &resource {
        Resource::Outbound(outbound) => *outbound == Outbound::bare(outbound.target.clone(), Parent::Unknown),
        Resource::Backend(backend) => backend.endpoints.is_empty(),
        Resource::Inbound(inbound) => denied(inbound),
        Resource::InboundDefault(default) => denied(&default.inbound),
    });
    assert_eq!(closed.len(), 1);
}

/// A rule that denies stays one that denies, and an outbound rule that cannot be read keeps its place.
fn no_rule_is_lost(message: &v1::SyncResponse, resource: &Resource) {
    let denies = |rules: &[v1::AuthorizationRule]| {
        let harmless = |rule: &v1::AuthorizationRule| {
            let of = |action: v1::Action| rule.action == i32::from(action);
            of(v1::Action::Allow) || of(v1::Action::Audit) || (rule.dry_run && of(v1::Action::Deny))
        };
        rules.iter().filter(|rule| !harmless(rule)).count()
    };
    let still =
        |rules: &[AuthorizationRule]| rules.iter().filter(|rule| !rule.dry_run && rule.action == Action::Deny).count();
    match (&message.kind, resource) {
        (Some(Kind::Outbound(v1::OutboundResource { outbound: Some(sent), .. })), Resource::Outbound(read)) => {
            if read.parent == Parent::Unknown && read.rules.is_empty() {
                return;
            }
            assert_eq!((read.rules.len(), read.tls.len()), (sent.rules.len(), sent.tls.len()));
            assert_eq!(read.tcp.is_some(), sent.tcp.is_some());
            assert!(read.matches.len() <= sent.matches.len());
            assert!(read.matches.iter().all(|one| one.rule < read.rules.len()), "{read:#?}");
        }
        (Some(Kind::Inbound(v1::InboundResource { inbound: Some(sent), .. })), Resource::Inbound(read)) => {
            assert_eq!(still(&read.rules), denies(&sent.rules));
            assert!(read.default_deny || !sent.default_deny);
        }
        (
            Some(Kind::InboundDefault(v1::InboundDefaultResource { inbound_default: Some(sent), .. })),
            Resource::InboundDefault(read),
        ) => {
            let sent = sent.inbound.as_ref().expect("what is read was there");
            assert_eq!(still(&read.inbound.rules), denies(&sent.rules));
            assert!(read.inbound.default_deny || !sent.default_deny);
        }
        _ => {}
    }
}

/// As a reader that closes nothing would have it, but for what an allow rule says of the rest, which is as in `read`.
fn strictly(message: v1::SyncResponse, read: &Resource) -> Option<Resource> {
    let implied = |inbound: Inbound, read: &Inbound| Inbound { default_deny: read.default_deny, ..inbound };
    Some(match (message.kind?, read) {
        (Kind::Outbound(one), _) => Resource::Outbound(Outbound::try_from(one.outbound?).ok()?),
        (Kind::Backend(one), _) => Resource::Backend(Backend::try_from(one.backend?).ok()?),
        (Kind::Inbound(one), Resource::Inbound(read)) => {
            Resource::Inbound(implied(Inbound::try_from(one.inbound?).ok()?, read))
        }
        (Kind::InboundDefault(one), Resource::InboundDefault(read)) => {
            let strict = InboundDefault::try_from(one.inbound_default?).ok()?;
            Resource::InboundDefault(InboundDefault { inbound: implied(strict.inbound, &read.inbound), ..strict })
        }
        _ => return None,
    })
}

/// On its way through bytes.
pub(crate) fn written(resource: &Resource, version: u64) -> v1::SyncResponse {
    let kind = match resource {
        Resource::Outbound(one) => Kind::Outbound(v1::OutboundResource { version, outbound: Some(one.into()) }),
        Resource::Backend(one) => Kind::Backend(v1::BackendResource { version, backend: Some(one.into()) }),
        Resource::Inbound(one) => Kind::Inbound(v1::InboundResource { version, inbound: Some(one.into()) }),
        Resource::InboundDefault(one) => {
            Kind::InboundDefault(v1::InboundDefaultResource { version, inbound_default: Some(one.into()) })
        }
    };
    let bytes = v1::SyncResponse { kind: Some(kind) }.encode_to_vec();
    v1::SyncResponse::decode(&*bytes).expect("what we write we read")
}

/// The change from every other endpoint to all of them leads there, and back.
fn half_of_it_changes(all: &Backend) {
    let half = Backend { endpoints: all.endpoints.iter().step_by(2).cloned().collect(), ..all.clone() };
    for (from, to) in [(&half, all), (all, &half)] {
        let delta = Delta::between((from, 1), (to, 2)).expect("nothing but endpoints differs");
        assert_eq!(delta.apply(from, 1).as_ref(), Ok(to));
        assert!(delta.apply(from, 2).is_err(), "of another version");
    }
}

/// The names of what a proxy asks for, has and refuses.
pub fn discovery_requests(data: &[u8]) {
    let Ok(message) = v1::SyncRequest::decode(data) else { return };
    let names: Vec<v1::ResourceName> = match message.kind {
        Some(sync_request::Kind::Hello(hello)) => hello.held.into_iter().filter_map(|held| held.name).collect(),
        Some(sync_request::Kind::Subscribe(name) | sync_request::Kind::Unsubscribe(name)) => vec![name],
        Some(sync_request::Kind::Ack(ack)) => ack.name.into_iter().collect(),
        Some(sync_request::Kind::Nack(nack)) => nack.name.into_iter().collect(),
        Some(sync_request::Kind::Answer(_)) | None => Vec::new(),
    };
    for name in names {
        match Name::try_from(name) {
            Ok(name) => read_back(&name),
            Err(mistake) => assert!(!mistake.to_string().is_empty()),
        }
    }
}

fn read_back(name: &Name) {
    assert_eq!(Name::try_from(v1::ResourceName::from(name)).as_ref(), Ok(name));
}
