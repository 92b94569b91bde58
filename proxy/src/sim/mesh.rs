//! The two proxies of a simulation, as a worker makes them, and the discovery that they are told by.

use super::{
    ledger::Shared,
    net::Host,
    plan::{Event, Plan},
    proxy::Proxy,
};
use crate::{
    account::Peer,
    config::{self, Mode},
    inbound, outbound,
};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ED25519, SanType, SerialNumber,
};
use remora_api::sync::Resource;
use remora_model::{
    AuthorizationRule, Backend, BackendId, BackendRef, BackendRefState, BackendSettings, Endpoint, Filter, Inbound,
    InboundDefault, MtlsMode, Outbound, Parent, PathMatch, Protocol, RouteMatch, Rule, SpiffeId, Target, TrustDomain,
};
use remora_runtime::tls::{Credentials, Svid, TrustBundle};
use std::{
    net::SocketAddr,
    sync::{Arc, OnceLock},
};

const TRUST_DOMAIN: &str = "cluster.local";

/// Where clients in the mesh go.
pub(super) fn service() -> SocketAddr {
    ([10, 96, 0, 1], 80).into()
}

/// Where other pods reach an endpoint of this number.
pub(super) fn pod(number: usize) -> SocketAddr {
    ([10, 1, 0, 1], 8081 + number as u16).into()
}

/// Where its application listens.
pub(super) fn app(number: usize) -> SocketAddr {
    ([10, 9, 0, 1], 8081 + number as u16).into()
}

/// Where copies go.
pub(super) fn mirror() -> SocketAddr {
    ([10, 9, 0, 9], 80).into()
}

/// Where the endpoints' proxy listens.
fn listener() -> SocketAddr {
    ([10, 1, 0, 1], 4143).into()
}

fn identity(name: &str) -> SpiffeId {
    SpiffeId::parse(&format!("spiffe://{TRUST_DOMAIN}/ns/shop/sa/{name}")).unwrap()
}

pub(super) fn backend(name: &str) -> BackendId {
    BackendId::service("shop", name, 80)
}

/// The certificates of both proxies. Ed25519, whose signatures have one length, and serials that have one too: two runs of a seed
/// write as many bytes.
fn credentials(which: usize) -> Arc<Credentials> {
    static MADE: OnceLock<[Arc<Credentials>; 2]> = OnceLock::new();
    let make = || {
        let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
        let mut root = CertificateParams::default();
        root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        root.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let anchor = root.self_signed(&key).unwrap();
        ["default", "api"].map(|name| {
            let own = KeyPair::generate_for(&PKCS_ED25519).unwrap();
            let mut leaf = CertificateParams::default();
            leaf.distinguished_name = DistinguishedName::new();
            leaf.serial_number = Some(SerialNumber::from(0x4242));
            leaf.subject_alt_names = vec![SanType::URI(identity(name).as_str().try_into().unwrap())];
            leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
            leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
            let leaf = leaf.signed_by(&own, &Issuer::from_params(&root, &key)).unwrap();
            let svid = Svid::new([leaf.der().to_vec()], own.serialize_der()).unwrap();
            let bundle = TrustBundle::new(TrustDomain::new(TRUST_DOMAIN).unwrap(), [anchor.der().to_vec()]).unwrap();
            Arc::new(Credentials { svid, bundle, generation: 1 })
        })
    };
    MADE.get_or_init(make)[which].clone()
}

/// Both proxies.
pub(super) struct Mesh {
    pub outbound: Proxy,
    pub inbound: Proxy,
}

impl Mesh {
    pub(super) fn new(shared: &Shared) -> Self {
        let plan = &shared.plan;
        let mut config = config::tests::least();
        if plan.explicit {
            config.mode = Mode::Explicit;
        }
        let outbound = Proxy::new(config, Some(credentials(0)), plan.seed);
        let mut config = config::tests::least();
        config.service_account = "api".to_owned();
        config.app_host = app(0).ip();
        if plan.named {
            config.mode = Mode::Explicit;
            config.inbound_listen = vec![listener()];
        }
        let inbound = Proxy::new(config, Some(credentials(1)), plan.seed ^ 1);
        let mesh = Self { outbound, inbound };
        mesh.tell(plan);
        let quiet = plan.quiet;
        let weather = move |rng: &mut fastrand::Rng| Plan::weather(quiet, rng);
        let net = &shared.net;
        mesh.outbound.listen(net.listen(service(), None, weather), |_| Peer::Pod, outbound::serve);
        let of_peer = |from: SocketAddr| Peer::at(from.ip());
        if plan.named {
            mesh.inbound.listen(net.listen(listener(), None, weather), of_peer, inbound::serve);
        } else {
            for number in 0..plan.endpoints.len() {
                let incoming = net.listen(pod(number), Some(app(number)), weather);
                mesh.inbound.listen(incoming, of_peer, inbound::serve);
            }
        }
        mesh
    }

    /// What discovery says at first.
    fn tell(&self, plan: &Plan) {
        self.outbound.control.say(Resource::Backend(endpoints(plan, u32::MAX)));
        let copies = Endpoint { address: mirror(), ..endpoint(plan, 0) };
        self.outbound.control.say(Resource::Backend(Backend {
            id: backend("copies"),
            protocol: Protocol::Detect,
            settings: BackendSettings::default(),
            endpoints: vec![Endpoint { identity: None, proxy: None, ..copies }],
        }));
        self.outbound.control.say(Resource::Outbound(routes(plan)));
        let numbers = 0..plan.endpoints.len();
        let declared = numbers.clone().map(|number| app(number).port()).collect();
        let inbound = policy(0, false);
        self.inbound.control.say(Resource::InboundDefault(InboundDefault { inbound, declared }));
        for number in numbers {
            self.inbound.control.say(Resource::Inbound(policy(app(number).port(), false)));
        }
    }

    /// Something changes.
    pub(super) fn change(&self, shared: &Shared, event: Event) {
        let (plan, net) = (&shared.plan, &shared.net);
        shared.trace.say("event", format_args!("{event:?}"));
        match event {
            Event::App(number, host) => net.set(app(number), host),
            Event::Proxy(_, host) if plan.named => net.set(listener(), host),
            Event::Proxy(number, host) => net.set(pod(number), host),
            Event::Endpoints(bits) => self.outbound.control.say(Resource::Backend(endpoints(plan, bits))),
            Event::Denied(number, denied) => {
                self.inbound.control.say(Resource::Inbound(policy(app(number).port(), denied)));
            }
            Event::Drain => {
                net.set(listener(), Host::Refuses);
                (0..plan.endpoints.len()).for_each(|number| net.set(pod(number), Host::Refuses));
                self.inbound.drain.start();
            }
        }
    }
}

fn endpoint(plan: &Plan, number: usize) -> Endpoint {
    let meshed = plan.endpoints[number].meshed;
    Endpoint {
        address: if meshed { pod(number) } else { app(number) },
        identity: meshed.then(|| identity("api")),
        proxy: (meshed && plan.named).then(listener),
        weight: 1,
        zone: "".into(),
        pod: "".into(),
        node: None,
    }
}

fn endpoints(plan: &Plan, bits: u32) -> Backend {
    let endpoints = (0..plan.endpoints.len()).filter(|number| bits & (1 << number) > 0);
    Backend {
        id: backend("api"),
        protocol: Protocol::Detect,
        settings: plan.settings.clone(),
        endpoints: endpoints.map(|number| endpoint(plan, number)).collect(),
    }
}

fn routes(plan: &Plan) -> Outbound {
    let matched = |number: usize| RouteMatch {
        path: Some(PathMatch::Prefix(format!("/r{number}").into())),
        method: None,
        headers: Vec::new(),
        query: Vec::new(),
        rule: number,
    };
    let to = BackendRef { backend: backend("api"), weight: 1, state: BackendRefState::Valid, filters: Vec::new() };
    let copies = Filter::Mirror { backend: backend("copies"), numerator: 1, denominator: 1 };
    let rule = |(number, rule): (usize, &super::plan::Rule)| Rule {
        label: format!("HTTPRoute/shop/api rule {number}").into(),
        filters: if rule.mirrored { vec![copies.clone()] } else { Vec::new() },
        backends: vec![to.clone()],
        timeouts: rule.timeouts,
        retry: rule.retry.clone(),
    };
    let target = if plan.explicit { Target::Authority("api.shop".into(), 80) } else { Target::Address(service()) };
    Outbound {
        matches: (0..plan.rules.len()).map(matched).collect(),
        rules: plan.rules.iter().enumerate().map(rule).collect(),
        ..Outbound::bare(target, Parent::Backend(backend("api")))
    }
}

pub(super) fn policy(port: u16, denied: bool) -> Inbound {
    let deny = || AuthorizationRule::deny_everything("shop/nobody rule 0".into());
    Inbound {
        port,
        parent: format!("shop/api:{port}").into(),
        protocol: Protocol::Detect,
        mtls: MtlsMode::Permissive,
        rules: if denied { vec![deny()] } else { Vec::new() },
        default_deny: false,
        dry_run: Default::default(),
        ending: false,
        trust_domain: TrustDomain::new(TRUST_DOMAIN).unwrap(),
    }
}
