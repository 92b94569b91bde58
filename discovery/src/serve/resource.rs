//! One version of a resource: made once, encoded once, shared by all who are sent it.
//!
//! In: an [`Answer`] of the index. Out: the bytes of the message that carries it whole, and of the messages that lead to it from
//! versions before. Its version is a digest of what it says. Immutable, but for the deltas that it remembers.

use super::limits::{DELTAS_MAX, RESPONSE_BYTES_MAX};
use crate::index::{Answer, Own, Proof};
use prost::{Message as _, bytes::BufMut as _};
use remora_api::{
    sync::Delta,
    v1::{self, SyncResponse, sync_response::Kind},
};
use remora_model::{
    AuthorizationRule, Backend, BackendId, Closed, Features, Inbound, InboundDefault, Outbound, Rule, TcpRule, TlsRule,
};
use std::sync::{Arc, Mutex, PoisonError};
use tonic::codegen::Bytes;

/// Of a message in gRPC: not compressed, and its length.
pub(super) const PREFIX_BYTES: usize = 5;

/// A message as it goes out, its prefix included.
pub(super) type Encoded = Bytes;

/// A version of what was asked for.
#[derive(Debug)]
pub(super) struct Resource {
    /// A digest; 0 as long as nobody knows an answer.
    pub(super) version: u64,
    /// The message that carries it whole.
    pub(super) whole: Encoded,
    pub(super) says: Says,
    /// Rules that its readers cannot carry out, and that are sent in their closed form.
    pub(super) closed: Box<[Closed]>,
}

/// What of a resource matters to who sends it.
#[derive(Debug)]
pub(super) enum Says {
    /// Nobody knows yet.
    Nothing,
    /// Nothing beside its version.
    Inbound,
    /// The backends that a target leads to.
    Outbound(Box<[BackendId]>),
    Backend(Arc<Backend>, Deltas),
    Own(Box<Known>),
}

/// What is known of a proxy's own pod. The message beside it says its zone.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) proof: Proof,
    /// Whether its zone is known.
    pub(super) zoned: bool,
    /// The version of its proxy's settings, and the message that carries them.
    pub(super) settings: Option<(u64, Encoded)>,
}

/// Messages from earlier versions: none where the whole says no more.
#[derive(Debug, Default)]
pub(super) struct Deltas(Mutex<Vec<(u64, Option<Encoded>)>>);

impl Resource {
    /// As far as `known` can carry it out.
    pub(super) fn of(answer: Answer, known: Features) -> Self {
        match answer {
            Answer::Networks(networks) => {
                let cidrs = networks.iter().map(ToString::to_string).collect();
                Self::made(v1::Networks { cidrs }, Says::Inbound, |_, networks| Kind::Networks(networks))
            }
            Answer::Revocations(revocations) => {
                let kind =
                    |version, all| Kind::Revocations(v1::RevocationsResource { version, revocations: Some(all) });
                Self::made(v1::Revocations::from(&*revocations), Says::Inbound, kind)
            }
            Answer::Own(own) => {
                let version = digest(format!("{own:?}").as_bytes());
                let Own { proof, zone, settings } = own;
                let (settings, closed) = settings.map(|settings| settings.within(known)).unzip();
                let settings = settings.map(|settings| {
                    let kind =
                        |version, settings| Kind::Settings(v1::SettingsResource { version, settings: Some(settings) });
                    let made = Self::made(v1::ProxySettings::from(&settings), Says::Nothing, kind);
                    (made.version, made.whole)
                });
                let says = Says::Own(Box::new(Known { proof, zoned: zone.is_some(), settings }));
                let closed = closed.unwrap_or_default().into();
                Self { version, whole: message(Kind::Zone(zone.unwrap_or_default())), says, closed }
            }
            Answer::Outbound(outbound) => {
                let (outbound, closed) = outbound.within(known);
                let (outbound, message) = outbound_message(outbound);
                let backends = outbound.backends().into_iter().cloned().collect();
                let kind =
                    |version, outbound| Kind::Outbound(v1::OutboundResource { version, outbound: Some(outbound) });
                Self { closed: closed.into(), ..Self::made(message, Says::Outbound(backends), kind) }
            }
            Answer::Backend(Some(backend)) => {
                let (backend, closed) = as_far_as(backend, known);
                let message = v1::Backend::from(&*backend);
                let kind = |version, backend| Kind::Backend(v1::BackendResource { version, backend: Some(backend) });
                let says = Says::Backend(backend, Deltas::default());
                Self { closed: closed.into(), ..Self::made(message, says, kind) }
            }
            Answer::Inbound(Some(inbound)) => {
                let (inbound, closed) = inbound.within(known);
                let kind = |version, inbound| Kind::Inbound(v1::InboundResource { version, inbound: Some(inbound) });
                Self { closed: closed.into(), ..Self::made(inbound_message(inbound), Says::Inbound, kind) }
            }
            Answer::InboundDefault(Some(default)) => {
                let (InboundDefault { inbound, declared }, closed) = default.within(known);
                let (inbound, declared) = (inbound_message(inbound), declared.into_iter().map(u32::from).collect());
                let message = v1::InboundDefault { inbound: Some(inbound), declared };
                let kind = |version, default| {
                    Kind::InboundDefault(v1::InboundDefaultResource { version, inbound_default: Some(default) })
                };
                Self { closed: closed.into(), ..Self::made(message, Says::Inbound, kind) }
            }
            Answer::Backend(None) | Answer::Inbound(None) | Answer::InboundDefault(None) => {
                Self { version: 0, whole: Encoded::new(), says: Says::Nothing, closed: Box::default() }
            }
        }
    }

    /// The backends that a target leads to.
    pub(super) fn leads(&self) -> &[BackendId] {
        if let Says::Outbound(backends) = &self.says { backends } else { &[] }
    }

    fn made<M: prost::Message>(inner: M, says: Says, kind: impl FnOnce(u64, M) -> Kind) -> Self {
        let version = digest(&inner.encode_to_vec());
        Self { version, whole: message(kind(version, inner)), says, closed: Box::default() }
    }

    /// The message that leads here from `before`, which the proxy holds: a delta, or the whole where that says no more.
    pub(super) fn after(&self, before: Option<&Self>) -> (Encoded, bool) {
        let whole = || (self.whole.clone(), false);
        let (Says::Backend(backend, deltas), Some(before)) = (&self.says, before) else { return whole() };
        let Says::Backend(old, _) = &before.says else { return whole() };
        let mut known = deltas.0.lock().unwrap_or_else(PoisonError::into_inner);
        let delta = known.iter().find(|(from, _)| *from == before.version).map(|(_, delta)| delta.clone());
        let delta = delta.unwrap_or_else(|| {
            let delta = Delta::between((old, before.version), (backend, self.version));
            let delta = delta.filter(|d| 2 * (d.upserted.len() + d.removed.len()) < backend.endpoints.len().max(3));
            let delta = delta.map(|delta| message(Kind::BackendDelta((&delta).into())));
            if known.len() == DELTAS_MAX {
                known.remove(0);
            }
            known.push((before.version, delta.clone()));
            delta
        });
        delta.map_or_else(whole, |delta| (delta, true))
    }
}

/// What of a backend holds for proxies that can carry out `known`. Nearly always that is all of it, which is shared.
fn as_far_as(backend: Arc<Backend>, known: Features) -> (Arc<Backend>, Vec<Closed>) {
    if backend.settings.needs().beyond(known).is_empty() {
        return (backend, Vec::new());
    }
    let (less, closed) = Arc::unwrap_or_clone(backend).within(known);
    (Arc::new(less), closed)
}

pub(super) fn message(kind: Kind) -> Encoded {
    let message = SyncResponse { kind: Some(kind) };
    let length = message.encoded_len();
    let mut framed = Vec::with_capacity(PREFIX_BYTES + length);
    framed.put_u8(0);
    framed.put_u32(u32::try_from(length).expect("no message is larger than a proxy takes"));
    message.encode(&mut framed).expect("a vector grows");
    framed.into()
}

/// What a target is, and as a message. One that is too large for a proxy would end its stream again and again: all rules are
/// closed.
fn outbound_message(outbound: Outbound) -> (Outbound, v1::Outbound) {
    let message = v1::Outbound::from(&outbound);
    if message.encoded_len() <= RESPONSE_BYTES_MAX {
        return (outbound, message);
    }
    let label = || "too large".into();
    let tls = TlsRule { label: label(), hostnames: Vec::new(), backends: Vec::new() };
    let outbound = Outbound {
        matches: Vec::new(),
        rules: vec![Rule::closed(label())],
        tls: if outbound.tls.is_empty() { Vec::new() } else { vec![tls] },
        tcp: outbound.tcp.map(|_| TcpRule { label: label(), backends: Vec::new() }),
        ..outbound
    };
    let message = v1::Outbound::from(&outbound);
    (outbound, message)
}

/// The same of an inbound port: everything is denied.
fn inbound_message(inbound: Inbound) -> v1::Inbound {
    let message = v1::Inbound::from(&inbound);
    if message.encoded_len() <= RESPONSE_BYTES_MAX {
        return message;
    }
    let rules = vec![AuthorizationRule::deny_everything("too large".into())];
    v1::Inbound::from(&Inbound { rules, ..inbound })
}

/// FNV-1a, which is the same everywhere and for ever; 0 is kept for "nothing".
fn digest(bytes: &[u8]) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, step).max(1)
}
