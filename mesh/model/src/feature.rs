//! What a proxy can carry out, by name: the closed set of which it tells discovery. What a proxy cannot carry out is
//! replaced by its closed form before it is sent, rule by rule.
//!
//! In: rules and ports. Out: which features each needs, and what of it holds for a proxy that has fewer. A feature is added
//! with the first thing that needs it, and never taken away: proxies outlive the discovery that they started with.

use crate::{
    Backend, BackendKind, BackendSettings, ConnectionSettings, Filter, HashSource, LoadBalancer, Locality, Outbound,
    Parent, RetryIntervals, Rule,
};
use std::{fmt, sync::Arc};

/// Something that not every proxy can carry out.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Feature {
    /// A route's rules that change header fields.
    HeaderFilters,
    /// A route's rules that redirect.
    Redirects,
    /// A route's rules that rewrite the host or the path.
    Rewrites,
    /// A route's rules that mirror.
    Mirrors,
    /// A route's rules with timeouts.
    Timeouts,
    /// A route's rules that say when to retry.
    Retries,
    /// Authorization rules that name methods or paths.
    Operations,
    /// Authorization rules that name address ranges.
    SourceRanges,
    /// Targets and backends that are no Services. Older proxies would take them for Services of the same name.
    BackendKinds,
    /// Targets with rules for connections of the application's own TLS.
    TlsRoutes,
    /// Targets with rules for connections of bytes.
    TcpRoutes,
    /// Backends that are balanced by another algorithm than peak-EWMA.
    LoadBalancers,
    /// Filters for browsers' cross-origin requests.
    Cors,
    /// Backends that say how connections to them are kept.
    Connections,
    /// Backends whose endpoints must be near.
    Localities,
    /// Settings that change while the proxy runs. For a proxy without, they are as it was started.
    Settings,
    /// A route's rules that retry by a status of gRPC.
    GrpcRetries,
    /// Backends that say over which times retries are bounded.
    RetryIntervals,
    /// Settings that say whether the proxy makes spans. For a proxy without, it is as it was started.
    Tracing,
    /// Settings that say what the proxy writes to its access log; the same.
    AccessLog,
    /// Questions of discovery that the proxy answers from its admin port. A proxy without is not asked.
    Asks,
    /// Authorization rules with any other condition than identities, namespaces, address ranges, methods and paths.
    AuthorizationConditions,
    /// Policies that decide nothing and count what they would do. A proxy without is not sent them.
    DryRun,
}

impl Feature {
    /// All that there are, in their order.
    pub const ALL: [Self; 23] = [
        Self::HeaderFilters,
        Self::Redirects,
        Self::Rewrites,
        Self::Mirrors,
        Self::Timeouts,
        Self::Retries,
        Self::Operations,
        Self::SourceRanges,
        Self::BackendKinds,
        Self::TlsRoutes,
        Self::TcpRoutes,
        Self::LoadBalancers,
        Self::Cors,
        Self::Connections,
        Self::Localities,
        Self::Settings,
        Self::GrpcRetries,
        Self::RetryIntervals,
        Self::Tracing,
        Self::AccessLog,
        Self::Asks,
        Self::AuthorizationConditions,
        Self::DryRun,
    ];

    /// Its name in logs, metrics and statuses.
    pub fn name(self) -> &'static str {
        match self {
            Self::HeaderFilters => "header-filters",
            Self::Redirects => "redirects",
            Self::Rewrites => "rewrites",
            Self::Mirrors => "mirrors",
            Self::Timeouts => "timeouts",
            Self::Retries => "retries",
            Self::Operations => "operations",
            Self::SourceRanges => "source-ranges",
            Self::BackendKinds => "backend-kinds",
            Self::TlsRoutes => "tls-routes",
            Self::TcpRoutes => "tcp-routes",
            Self::LoadBalancers => "load-balancers",
            Self::Cors => "cors",
            Self::Connections => "connections",
            Self::Localities => "localities",
            Self::Settings => "settings",
            Self::GrpcRetries => "grpc-retries",
            Self::RetryIntervals => "retry-intervals",
            Self::Tracing => "tracing",
            Self::AccessLog => "access-log",
            Self::Asks => "asks",
            Self::AuthorizationConditions => "authorization-conditions",
            Self::DryRun => "dry-run",
        }
    }

    fn bit(self) -> u32 {
        1 << self as u32
    }
}

/// A set of features.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Features(u32);

impl Features {
    /// All that this version has.
    pub fn all() -> Self {
        Feature::ALL.into_iter().collect()
    }

    /// What a proxy has that names none at all: it is older than their names.
    pub fn unnamed() -> Self {
        Feature::ALL.into_iter().take_while(|feature| *feature <= Feature::SourceRanges).collect()
    }

    /// Whether there is none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether `feature` is one of them.
    pub fn contain(self, feature: Feature) -> bool {
        self.0 & feature.bit() != 0
    }

    /// Those that `others` lack.
    #[must_use]
    pub fn beyond(self, others: Self) -> Self {
        Self(self.0 & !others.0)
    }

    /// These and another one.
    #[must_use]
    pub fn and(self, other: Option<Feature>) -> Self {
        self.iter().chain(other).collect()
    }

    /// One after the other.
    pub fn iter(self) -> impl Iterator<Item = Feature> {
        Feature::ALL.into_iter().filter(move |feature| self.contain(*feature))
    }
}

impl FromIterator<Feature> for Features {
    fn from_iter<I: IntoIterator<Item = Feature>>(all: I) -> Self {
        Self(all.into_iter().fold(0, |set, feature| set | feature.bit()))
    }
}

impl fmt::Display for Features {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, feature) in self.iter().enumerate() {
            write!(f, "{}{}", if i == 0 { "" } else { ", " }, feature.name())?;
        }
        Ok(())
    }
}

impl fmt::Debug for Features {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

/// A rule that stands in its closed form, or a setting at its default, and which features a proxy would need for it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Closed {
    /// The rule's label or name, or the field of the setting.
    pub rule: Arc<str>,
    /// Never empty.
    pub lacks: Features,
}

impl Rule {
    /// What a proxy needs to carry it out.
    pub fn needs(&self) -> Features {
        let filters = self.filters.iter().chain(self.backends.iter().flat_map(|backend| &backend.filters));
        let timeouts = self.timeouts.request.or(self.timeouts.backend_request).map(|_| Feature::Timeouts);
        let retries = self.retry.as_ref().map(|_| Feature::Retries);
        let grpc = self.retry.as_ref().filter(|retry| !retry.grpc_codes.is_empty()).map(|_| Feature::GrpcRetries);
        let kinds = self.named().any(|id| id.kind != BackendKind::Service).then_some(Feature::BackendKinds);
        filters.map(of_filter).chain(timeouts).chain(retries).chain(grpc).chain(kinds).collect()
    }

    /// What of it holds for a proxy that can carry out `known`: it, or its closed form.
    fn within(self, known: Features, closed: &mut Vec<Closed>) -> Self {
        let lacks = self.needs().beyond(known);
        if lacks.is_empty() {
            return self;
        }
        closed.push(Closed { rule: self.label.clone(), lacks });
        Self::closed(self.label)
    }
}

fn of_filter(filter: &Filter) -> Feature {
    match filter {
        Filter::RequestHeaders(_) | Filter::ResponseHeaders(_) => Feature::HeaderFilters,
        Filter::Redirect(_) => Feature::Redirects,
        Filter::Rewrite { .. } => Feature::Rewrites,
        Filter::Mirror { .. } => Feature::Mirrors,
        Filter::Cors(_) => Feature::Cors,
    }
}

impl Outbound {
    /// What a proxy needs to know what it is, beside its rules.
    fn needs(&self) -> Features {
        let of_bytes = self.tls.iter().map(|rule| &rule.backends).chain(self.tcp.as_ref().map(|rule| &rule.backends));
        let named = self.parent.backend().into_iter().chain(of_bytes.flatten().map(|one| &one.backend));
        let kinds = named.into_iter().any(|id| id.kind != BackendKind::Service).then_some(Feature::BackendKinds);
        let tls = (!self.tls.is_empty()).then_some(Feature::TlsRoutes);
        kinds.into_iter().chain(tls).chain(self.tcp.as_ref().map(|_| Feature::TcpRoutes)).collect()
    }

    /// What of it holds for a proxy that can carry out `known`, and which rules are closed for that. A target that the proxy
    /// would take for another is unknown to it.
    pub fn within(self, known: Features) -> (Self, Vec<Closed>) {
        let mut closed = Vec::new();
        let lacks = self.needs().beyond(known);
        if !lacks.is_empty() {
            let closed = Closed { rule: self.target.to_string().into(), lacks };
            return (Self::bare(self.target, Parent::Unknown), vec![closed]);
        }
        let rules = self.rules.into_iter().map(|rule| rule.within(known, &mut closed)).collect();
        (Self { rules, ..self }, closed)
    }
}

impl BackendSettings {
    /// What a proxy needs to carry them out.
    pub fn needs(&self) -> Features {
        let load_balancer = match self.load_balancer {
            LoadBalancer::PeakEwma | LoadBalancer::SourceHash(HashSource::Ip) => None,
            LoadBalancer::LeastRequest
            | LoadBalancer::RoundRobin
            | LoadBalancer::SourceHash(HashSource::Identity)
            | LoadBalancer::RequestHash(_) => Some(Feature::LoadBalancers),
        };
        let connection = (self.connection != ConnectionSettings::default()).then_some(Feature::Connections);
        let locality = (self.locality != Locality::default()).then_some(Feature::Localities);
        let intervals = (self.retry_intervals != RetryIntervals::default()).then_some(Feature::RetryIntervals);
        load_balancer.into_iter().chain(connection).chain(locality).chain(intervals).collect()
    }
}

impl Backend {
    /// What of it holds for a proxy that can carry out `known`: settings that it lacks are at their default, for none of them
    /// forbids anything, and without its endpoints the backend could not be called at all.
    pub fn within(mut self, known: Features) -> (Self, Vec<Closed>) {
        let mut closed = Vec::new();
        for feature in self.settings.needs().beyond(known).iter() {
            let field = match feature {
                Feature::LoadBalancers => {
                    self.settings.load_balancer = LoadBalancer::default();
                    "loadBalancer"
                }
                Feature::Connections => {
                    self.settings.connection = ConnectionSettings::default();
                    "connection"
                }
                Feature::Localities => {
                    self.settings.locality = Locality::default();
                    self.endpoints.iter_mut().for_each(|endpoint| endpoint.node = None);
                    "locality"
                }
                Feature::RetryIntervals => {
                    let rate = self.settings.retry_intervals.rate.as_secs().max(1);
                    self.settings.min_retries =
                        u32::try_from(u64::from(self.settings.min_retries) / rate).unwrap_or(u32::MAX);
                    self.settings.retry_intervals = RetryIntervals::default();
                    "retryConstraint"
                }
                _ => continue,
            };
            closed.push(Closed { rule: format!("{} {field}", self.id).into(), lacks: [feature].into_iter().collect() });
        }
        (self, closed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{BackendId, GrpcCodes, Protocol};

    fn without(feature: Feature) -> Features {
        Features::all().beyond([feature].into_iter().collect())
    }

    #[test]
    fn a_set_is_what_was_put_into_it() {
        assert_eq!(Features::all().iter().collect::<Vec<_>>(), Feature::ALL);
        let one = without(Feature::Mirrors);
        assert!(!one.contain(Feature::Mirrors) && one.contain(Feature::Retries));
        assert_eq!(Features::all().beyond(one).to_string(), "mirrors");
        let names: std::collections::BTreeSet<_> = Feature::ALL.iter().map(|feature| feature.name()).collect();
        assert_eq!(names.len(), Feature::ALL.len(), "each has a name of its own");
    }

    #[test]
    fn a_route_rule_that_a_proxy_lacks_a_feature_for_answers_500_and_leaves_the_others_alone() {
        let plain = Rule::closed("a".into());
        let retry = |grpc_codes| {
            let backoff = Default::default();
            Some(crate::Retry { attempts: 1, codes: Vec::new(), grpc_codes, backoff, any_method: false })
        };
        let by_status = Rule { retry: retry(GrpcCodes::parse("unavailable").unwrap()), ..Rule::closed("c".into()) };
        assert_eq!(by_status.needs().to_string(), "retries, grpc-retries");
        let retries = Rule { retry: retry(GrpcCodes::default()), ..Rule::closed("b".into()) };
        let bare = Outbound::bare(crate::Target::parse("api", 80).unwrap(), Parent::Unknown);
        let outbound = Outbound { rules: vec![plain.clone(), retries], ..bare };
        assert_eq!(outbound.clone().within(Features::all()), (outbound.clone(), Vec::new()));
        let (less, closed) = outbound.within(without(Feature::Retries));
        assert_eq!(less.rules, [plain, Rule::closed("b".into())]);
        assert_eq!(closed, [Closed { rule: "b".into(), lacks: [Feature::Retries].into_iter().collect() }]);
    }

    #[test]
    fn a_pod_is_unknown_to_a_proxy_that_would_take_it_for_a_service() {
        let target = crate::Target::parse("10.1.0.7:80", 80).unwrap();
        let outbound = Outbound::bare(target, Parent::Backend(BackendId::pod("shop", "api", 80)));
        assert_eq!(outbound.clone().within(Features::all()).0, outbound);
        let (less, closed) = outbound.within(Features::unnamed());
        assert_eq!((less.parent, closed.len()), (Parent::Unknown, 1));
        let kinds = Features::all().beyond(Features::unnamed());
        assert!(kinds.contain(Feature::BackendKinds));
        assert_eq!(closed[0].lacks, [Feature::BackendKinds].into_iter().collect());
    }

    #[test]
    fn a_setting_that_a_proxy_lacks_is_at_its_default_and_the_backend_keeps_its_endpoints() {
        let backend = |load_balancer| Backend {
            id: BackendId::service("shop", "api", 80),
            protocol: Protocol::Detect,
            settings: BackendSettings { pending_max: 7, load_balancer, ..BackendSettings::default() },
            endpoints: Vec::new(),
        };
        let mut kept = backend(LoadBalancer::PeakEwma);
        kept.settings.connection.idle_timeout = Some(std::time::Duration::from_secs(1));
        let (less, closed) = kept.within(without(Feature::Connections));
        assert_eq!((less, &*closed[0].rule), (backend(LoadBalancer::PeakEwma), "shop/api:80 connection"));
        let mut near = backend(LoadBalancer::PeakEwma);
        near.settings.locality = Locality::NodeOnly;
        let (less, closed) = near.within(without(Feature::Localities));
        assert_eq!((less, &*closed[0].rule), (backend(LoadBalancer::PeakEwma), "shop/api:80 locality"));
        let mut seldom = backend(LoadBalancer::PeakEwma);
        (seldom.settings.min_retries, seldom.settings.retry_intervals.rate) = (100, std::time::Duration::from_secs(60));
        let (less, closed) = seldom.within(without(Feature::RetryIntervals));
        assert_eq!((less.settings.min_retries, &*closed[0].rule), (1, "shop/api:80 retryConstraint"));
        assert_eq!(less.settings.retry_intervals, RetryIntervals::default());
        for needs_none in [LoadBalancer::PeakEwma, LoadBalancer::SourceHash(HashSource::Ip)] {
            let backend = backend(needs_none);
            assert_eq!(backend.clone().within(Features::unnamed()), (backend, Vec::new()));
        }
        for lacked in [LoadBalancer::RoundRobin, LoadBalancer::SourceHash(HashSource::Identity)] {
            let (less, closed) = backend(lacked).within(without(Feature::LoadBalancers));
            assert_eq!(less, backend(LoadBalancer::PeakEwma));
            let lacks = [Feature::LoadBalancers].into_iter().collect();
            assert_eq!(closed, [Closed { rule: "shop/api:80 loadBalancer".into(), lacks }]);
        }
    }

    #[test]
    fn a_target_whose_bytes_have_routes_is_unknown_to_a_proxy_that_would_send_them_elsewhere() {
        let parent = || Parent::Backend(BackendId::service("shop", "db", 5432));
        let bare = || Outbound::bare(crate::Target::parse("db", 5432).unwrap(), parent());
        let tcp = crate::TcpRule { label: "t".into(), backends: Vec::new() };
        let tls = crate::TlsRule { label: "t".into(), hostnames: Vec::new(), backends: Vec::new() };
        for (outbound, needed) in [
            (Outbound { tcp: Some(tcp), ..bare() }, Feature::TcpRoutes),
            (Outbound { tls: vec![tls], ..bare() }, Feature::TlsRoutes),
        ] {
            assert_eq!(outbound.clone().within(Features::all()).0, outbound);
            let (less, closed) = outbound.within(without(needed));
            assert_eq!(less, Outbound::bare(crate::Target::parse("db", 5432).unwrap(), Parent::Unknown));
            assert_eq!(closed[0].lacks, [needed].into_iter().collect());
        }
    }
}
