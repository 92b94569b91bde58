//! Random rules and requests, as texts that users and clients would write. In: choices. Out: a [`Scene`], of which the interpreter reads
//! the texts and the matcher what the model makes of them. The texts are few and alike, so that rules and requests meet.

use crate::{Act, Caller};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use remora_jose::claims::Verified;
use remora_model::{
    Action, AuthorizationRule, ClaimCondition, DryRun, FieldMatch, FieldRule, GrpcRule, HostRule, Inbound,
    JwtCondition, MtlsMode, Operation, OperationExcept, PathPattern, Protocol, ServiceAccount, Source, SourceExcept,
    SpiffeId, TrustDomain, Unidentified, network, policy,
};

pub(super) const ALLOW: usize = 0;
pub(super) const DENY: usize = 1;

/// The mesh's own trust domain.
pub(super) const OWN: &str = "td";

const IDENTITIES: [&str; 6] = [
    "spiffe://td/ns/shop/sa/web",
    "spiffe://td/ns/shop/sa/api",
    "spiffe://td/ns/evil/sa/web",
    "spiffe://partner/ns/shop/sa/web",
    "spiffe://td/other/ns/shop/sa/web",
    "spiffe://td",
];
const NAMESPACES: [&str; 3] = ["shop", "evil", "none"];
const ACCOUNTS: [&str; 3] = ["shop/web", "shop/api", "evil/web"];
const DOMAINS: [&str; 3] = ["td", "partner", "t"];
const ISSUERS: [&str; 3] = ["idp", "other", "third"];
const ROLES: [&[&str]; 3] = [&[], &["dev"], &["ops", "dev"]];
const CIDRS: [&str; 5] = ["10.0.0.0/8", "10.1.0.0/16", "10.0.0.9/32", "fd00::/8", "0.0.0.0/0"];
const ADDRESSES: [&str; 5] = ["10.0.0.9", "10.1.2.3", "192.168.0.1", "fd00::1", "2001:db8::1"];
const PORTS: [u16; 3] = [80, 8080, 9090];
const RULE_METHODS: [&str; 5] = ["GET", "POST", "DELETE", "HEAD", "OPTIONS"];
const METHODS: [&str; 8] = ["GET", "POST", "DELETE", "HEAD", "OPTIONS", "get", "Delete", "CONNECT"];
const PATTERNS: [&str; 17] = [
    "/",
    "/*",
    "/a",
    "/a/",
    "/a/*",
    "/a/b",
    "/a/b/*",
    "//a",
    "/%61",
    "/a;v=1/b",
    "/{x}",
    "/a/{id}",
    "/a/{id}/c",
    "/{*}/b",
    "/a/{**}/c",
    "/{**}/b",
    "/s.T/M",
];
const PATHS: [&str; 24] = [
    "/", "/a", "/a/", "/a/b", "/a/b/c", "/a/c", "/a/b/b", "/b", "/b/b", "/ab", "//a", "/a//b", "/%61", "/a;x/b",
    "/./a", "/a/../b", "/a%2Fb", "/a%00", "/a\\b", "/%zz", "*", "", "/s.T/M", "/s.T/M/x",
];
const RULE_HOSTS: [&str; 9] =
    ["api", "API", "api:80", "api:8080", "*.shop", "*.shop:80", "10.0.0.1", "[fd00::1]", "api.shop."];
const HOSTS: [&str; 18] = [
    "api",
    "Api:80",
    "api.",
    "api:8080",
    "api:",
    "api.shop",
    "A.b.SHOP",
    "shop",
    "10.0.0.1",
    "10.0.0.1:80",
    "[FD00:0::1]:9",
    "[::ffff:10.0.0.1]",
    "10.1",
    "0x0a.1",
    "a..b",
    "[fe80::1%251]",
    "api:x",
    "%61pi",
];
const FIELDS: [&str; 3] = ["x-role", "X-Tenant", "x_old"];
const RULE_VALUES: [&str; 4] = ["admin", "a", "root user", "Ad"];
const ASKED_FIELDS: [&str; 5] = ["x-role", "x_role", "x-tenant", "x-old", "x-other"];
const VALUES: [&[u8]; 12] = [
    b"admin",
    b"Admin",
    b"a",
    b"b",
    b"",
    b"admin, a",
    b"user,admin",
    b"root user",
    b"a,,",
    b"\xff",
    b"administrator",
    b"adm",
];
const SERVICES: [(&str, Option<&str>); 3] = [("s.T", Some("M")), ("s.T", None), ("a", Some("b"))];

/// Where choices come from.
pub(super) enum Chance<'a> {
    Bytes(std::slice::Iter<'a, u8>),
    #[cfg(test)]
    Random(fastrand::Rng),
}

impl<'a> Chance<'a> {
    /// Once they are used up, each choice is the first.
    pub(super) fn of_bytes(bytes: &'a [u8]) -> Self {
        Self::Bytes(bytes.iter())
    }

    /// One of so many, of which there is at least one.
    pub(super) fn of(&mut self, many: usize) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.next().map_or(0, |byte| usize::from(*byte) % many),
            #[cfg(test)]
            Self::Random(rng) => rng.usize(..many),
        }
    }

    fn one<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.of(of.len())]
    }

    /// Mostly nothing, else one or two.
    fn some<T: Copy>(&mut self, of: &[T]) -> Vec<T> {
        let many = [0, 0, 0, 1, 2][self.of(5)];
        (0..many).map(|_| self.one(of)).collect()
    }
}

#[derive(Debug, Clone)]
pub(super) struct RawSource {
    pub identities: Vec<&'static str>,
    pub namespaces: Vec<&'static str>,
    pub accounts: Vec<&'static str>,
    pub domains: Vec<&'static str>,
    pub authenticated: Option<bool>,
    pub cidrs: Vec<&'static str>,
    /// Issuers, and a role.
    pub jwt: Option<(Vec<&'static str>, Option<&'static str>)>,
    pub not_identities: Vec<&'static str>,
    pub not_namespaces: Vec<&'static str>,
    pub not_cidrs: Vec<&'static str>,
}

#[derive(Debug, Clone)]
pub(super) struct RawOperation {
    pub methods: Vec<&'static str>,
    pub paths: Vec<&'static str>,
    pub hosts: Vec<&'static str>,
    /// Name, whether its values are prefixes, values.
    pub headers: Vec<(&'static str, bool, Vec<&'static str>)>,
    pub grpc: Vec<(&'static str, Option<&'static str>)>,
    pub ports: Vec<u16>,
    pub not_methods: Vec<&'static str>,
    pub not_paths: Vec<&'static str>,
}

#[derive(Debug, Clone)]
pub(super) struct RawRule {
    pub name: String,
    /// 0 allows, 1 denies, 2 audits.
    pub action: usize,
    pub from: Vec<RawSource>,
    pub to: Vec<RawOperation>,
    pub ignores_unidentified: bool,
    pub dry_run: bool,
    pub by_default: bool,
}

/// A port with its rules.
#[derive(Debug, Clone)]
pub(super) struct Scene {
    pub number: u16,
    pub strict: bool,
    pub default_deny: bool,
    pub rules: Vec<RawRule>,
    dry_strict: bool,
    dry_allow: bool,
}

#[derive(Debug, Clone)]
pub(super) struct RawAct {
    pub identity: Option<&'static str>,
    pub address: &'static str,
    pub port: u16,
    /// `None`: bytes.
    pub request: Option<RawRequest>,
}

#[derive(Debug, Clone)]
pub(super) struct RawRequest {
    pub method: &'static str,
    pub path: &'static str,
    pub host: Option<&'static str>,
    pub headers: Vec<(&'static str, &'static [u8])>,
    /// Its issuer, and what roles it names.
    pub token: Option<(&'static str, &'static [&'static str])>,
}

impl Scene {
    pub(super) fn random(chance: &mut Chance<'_>) -> Self {
        let number = chance.one(&[80, 8080, 0]);
        let mut rules: Vec<RawRule> = (0..chance.of(6)).map(|at| raw_rule(chance, at)).collect();
        let holds = |rule: &RawRule| rule.action == ALLOW && !rule.dry_run;
        let default_deny = rules.iter().any(holds) || chance.of(4) == 0;
        let dry_allow = rules.iter().any(|rule| rule.action == ALLOW && rule.dry_run) || chance.of(8) == 0;
        // A default holds where no Allow policy does.
        let by_default = rules.iter().filter(|rule| holds(rule)).count() > 0 && chance.of(4) == 0;
        rules.iter_mut().filter(|rule| holds(rule)).for_each(|rule| rule.by_default = by_default);
        Self { number, strict: chance.of(8) == 0, default_deny, rules, dry_strict: chance.of(4) == 0, dry_allow }
    }

    pub(super) fn inbound(&self) -> Inbound {
        Inbound {
            port: self.number,
            parent: "shop/api:80".into(),
            protocol: Protocol::Detect,
            mtls: if self.strict { MtlsMode::Strict } else { MtlsMode::Permissive },
            rules: self.rules.iter().map(RawRule::read).collect(),
            default_deny: self.default_deny,
            dry_run: DryRun {
                strict: self.dry_strict.then(|| "shop/strict".into()),
                allow: if self.dry_allow { vec!["shop/allow".into()] } else { Vec::new() },
            },
            issuers: Vec::new(),
            traffic: Default::default(),
            ending: false,
            trust_domain: TrustDomain::new(OWN).expect("the texts are sound"),
        }
    }

    /// Another rule, with a given action, that decides.
    pub(super) fn rule(&self, chance: &mut Chance<'_>, action: usize) -> AuthorizationRule {
        RawRule { action, dry_run: false, ..raw_rule(chance, self.rules.len()) }.read()
    }

    pub(super) fn act(&self, chance: &mut Chance<'_>) -> RawAct {
        let request = (chance.of(5) > 0).then(|| RawRequest {
            method: chance.one(&METHODS),
            path: chance.one(&PATHS),
            host: (chance.of(5) > 0).then(|| chance.one(&HOSTS)),
            headers: (0..chance.of(4)).map(|_| (chance.one(&ASKED_FIELDS), chance.one(&VALUES))).collect(),
            token: (chance.of(3) > 0).then(|| (chance.one(&ISSUERS), chance.one(&ROLES))),
        });
        RawAct {
            identity: (chance.of(4) > 0).then(|| chance.one(&IDENTITIES)),
            address: chance.one(&ADDRESSES),
            port: if self.number == 0 { chance.one(&PORTS) } else { self.number },
            request,
        }
    }
}

fn raw_rule(chance: &mut Chance<'_>, at: usize) -> RawRule {
    RawRule {
        name: format!("rule {at}"),
        action: chance.one(&[ALLOW, ALLOW, DENY, DENY, 2]),
        from: (0..[0, 1, 1, 2][chance.of(4)]).map(|_| raw_source(chance)).collect(),
        to: (0..[0, 1, 1, 2][chance.of(4)]).map(|_| raw_operation(chance)).collect(),
        ignores_unidentified: chance.of(4) == 0,
        dry_run: chance.of(4) == 0,
        by_default: false,
    }
    .sound()
}

fn raw_source(chance: &mut Chance<'_>) -> RawSource {
    RawSource {
        identities: chance.some(&IDENTITIES),
        namespaces: chance.some(&NAMESPACES),
        accounts: chance.some(&ACCOUNTS),
        domains: chance.some(&DOMAINS),
        authenticated: [None, None, None, Some(true), Some(false)][chance.of(5)],
        cidrs: chance.some(&CIDRS),
        jwt: (chance.of(4) == 0).then(|| {
            (vec![chance.one(&ISSUERS), chance.one(&ISSUERS)], [None, Some("dev"), Some("ops")][chance.of(3)])
        }),
        not_identities: chance.some(&IDENTITIES),
        not_namespaces: chance.some(&NAMESPACES),
        not_cidrs: chance.some(&CIDRS),
    }
}

fn raw_operation(chance: &mut Chance<'_>) -> RawOperation {
    let mut header =
        |_| (chance.one(&FIELDS), chance.of(2) == 0, vec![chance.one(&RULE_VALUES), chance.one(&RULE_VALUES)]);
    let headers = (0..2).map(&mut header).collect::<Vec<_>>();
    RawOperation {
        headers: headers.into_iter().take([0, 0, 0, 1, 2][chance.of(5)]).collect(),
        methods: chance.some(&RULE_METHODS),
        paths: if chance.of(2) == 0 { vec![chance.one(&PATTERNS)] } else { chance.some(&PATTERNS) },
        hosts: chance.some(&RULE_HOSTS),
        grpc: if chance.of(4) == 0 { chance.some(&SERVICES) } else { Vec::new() },
        ports: chance.some(&PORTS),
        not_methods: chance.some(&RULE_METHODS),
        not_paths: chance.some(&PATTERNS),
    }
}

impl RawRule {
    /// An audit rule is in no dry run.
    fn sound(self) -> Self {
        Self { dry_run: self.dry_run && self.action != 2, ..self }
    }

    fn read(&self) -> AuthorizationRule {
        let action = [Action::Allow, Action::Deny, Action::Audit][self.action];
        AuthorizationRule {
            from: self.from.iter().map(RawSource::read).collect(),
            to: self.to.iter().map(RawOperation::read).collect(),
            unidentified: if self.ignores_unidentified { Unidentified::Ignore } else { Unidentified::Match },
            dry_run: self.dry_run,
            by_default: self.by_default,
            ..AuthorizationRule::of(self.name.as_str().into(), action)
        }
    }
}

fn read<T, E: std::fmt::Debug>(texts: &[&str], parse: impl Fn(&str) -> Result<T, E>) -> Vec<T> {
    texts.iter().map(|text| parse(text).unwrap_or_else(|error| panic!("{text}: {error:?}"))).collect()
}

impl RawSource {
    fn read(&self) -> Source {
        let name = |text: &str| Ok::<_, ()>(text.into());
        Source {
            identities: read(&self.identities, SpiffeId::parse),
            namespaces: read(&self.namespaces, name),
            service_accounts: read(&self.accounts, ServiceAccount::parse),
            trust_domains: read(&self.domains, TrustDomain::new),
            authenticated: self.authenticated,
            cidrs: read(&self.cidrs, network::parse),
            jwt: self.jwt.as_ref().map(|(issuers, role)| JwtCondition {
                issuers: issuers.iter().map(|issuer| (*issuer).into()).collect(),
                claims: role
                    .iter()
                    .map(|role| ClaimCondition { claim: vec!["roles".into()], values: vec![(*role).into()] })
                    .collect(),
            }),
            except: SourceExcept {
                identities: read(&self.not_identities, SpiffeId::parse),
                namespaces: read(&self.not_namespaces, name),
                cidrs: read(&self.not_cidrs, network::parse),
            },
        }
    }
}

impl RawOperation {
    fn read(&self) -> Operation {
        let header = |(name, prefix, values): &(&str, bool, Vec<&str>)| {
            FieldRule::new(name, if *prefix { FieldMatch::Prefix } else { FieldMatch::Exact }, values)
                .expect("the texts are sound")
        };
        Operation {
            methods: read(&self.methods, policy::method),
            paths: read(&self.paths, PathPattern::parse),
            hosts: read(&self.hosts, HostRule::parse),
            headers: self.headers.iter().map(header).collect(),
            grpc: self
                .grpc
                .iter()
                .map(|(service, method)| GrpcRule::new(service, *method).expect("the texts are sound"))
                .collect(),
            ports: self.ports.clone(),
            except: OperationExcept {
                methods: read(&self.not_methods, policy::method),
                paths: read(&self.not_paths, PathPattern::parse),
            },
        }
    }
}

/// A request as the matcher takes it.
pub(super) struct Read {
    caller: Caller,
    port: u16,
    request: Option<(Method, &'static str, Option<&'static str>, HeaderMap)>,
    token: Option<Verified>,
}

impl RawAct {
    pub(super) fn read(&self) -> Read {
        let identity = self.identity.map(|id| SpiffeId::parse(id).expect("the texts are sound"));
        let request = self.request.as_ref().map(|request| {
            let mut headers = HeaderMap::new();
            for (name, value) in &request.headers {
                headers.append(
                    HeaderName::from_static(name),
                    HeaderValue::from_bytes(value).expect("the texts are sound"),
                );
            }
            (
                Method::from_bytes(request.method.as_bytes()).expect("the texts are sound"),
                request.path,
                request.host,
                headers,
            )
        });
        let token = self.request.as_ref().and_then(|request| request.token).map(|(issuer, roles)| Verified {
            issuers: vec![issuer.into()],
            claims: [("roles".to_owned(), roles.iter().copied().collect())].into_iter().collect(),
        });
        Read {
            token,
            caller: Caller { identity, address: self.address.parse().expect("the texts are sound") },
            port: self.port,
            request,
        }
    }
}

impl Read {
    pub(super) fn asked(&self) -> (&Caller, u16, Act<'_>) {
        let act = match &self.request {
            None => Act::Bytes,
            Some((method, path, host, headers)) => {
                Act::Request { method, path, host: *host, headers, tokens: [self.token.as_ref(), None] }
            }
        };
        (&self.caller, self.port, act)
    }
}
