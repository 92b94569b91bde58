//! What a proxy needs to carry out the rules of an inbound port, and what of them holds for one that has less: nothing is let in by what
//! it does not know.
//!
//! In: rules, and the features of a proxy. Out: the rules for it, each as it is or in its closed form, and which are closed.

use crate::{
    Action, AuthorizationRule, Closed, DryRun, Feature, Features, Inbound, InboundDefault, Operation, OperationExcept,
    PathPattern, Source, SourceExcept,
};

impl AuthorizationRule {
    /// What a proxy needs to carry it out.
    pub fn needs(&self) -> Features {
        let ranges = self.from.iter().any(|source| !source.cidrs.is_empty()).then_some(Feature::SourceRanges);
        let named = self.to.iter().any(|to| !to.methods.is_empty() || !to.paths.is_empty());
        let conditions = self.from.iter().any(Source::has_conditions) || self.to.iter().any(Operation::has_conditions);
        let conditions = conditions.then_some(Feature::AuthorizationConditions);
        let dry_run = self.dry_run.then_some(Feature::DryRun);
        let jwt = self.from.iter().any(|source| source.jwt.is_some()).then_some(Feature::Jwt);
        ranges
            .into_iter()
            .chain(named.then_some(Feature::Operations))
            .chain(conditions)
            .chain(dry_run)
            .chain(jwt)
            .collect()
    }

    /// What of it holds for a proxy that can carry out `known`: it, or its closed form. That of a deny rule denies
    /// everything; that of an allow rule allows nothing, and so there is none; nor is there one of a dry run.
    fn within(mut self, known: Features, closed: &mut Vec<Closed>) -> Option<Self> {
        let lacks = self.needs().beyond(known);
        // It tells a dry run which rules would not be there.
        self.by_default &= known.contain(Feature::DryRun);
        if lacks.is_empty() {
            return Some(self);
        }
        closed.push(Closed { rule: self.name.clone(), lacks });
        (self.action == Action::Deny && self.decides()).then(|| Self::deny_everything(self.name))
    }
}

impl Source {
    fn has_conditions(&self) -> bool {
        !self.service_accounts.is_empty()
            || !self.trust_domains.is_empty()
            || self.authenticated.is_some()
            || self.except != SourceExcept::default()
    }
}

impl Operation {
    fn has_conditions(&self) -> bool {
        !self.hosts.is_empty()
            || !self.headers.is_empty()
            || !self.grpc.is_empty()
            || !self.ports.is_empty()
            || self.except != OperationExcept::default()
            || self.paths.iter().any(PathPattern::is_template)
    }
}

impl Inbound {
    /// As of [`Outbound::within`](crate::Outbound::within). An allow rule that is gone still denies the rest.
    pub fn within(self, known: Features) -> (Self, Vec<Closed>) {
        let mut closed = Vec::new();
        let allows = |rule: &AuthorizationRule| rule.action == Action::Allow && rule.decides();
        let default_deny = self.default_deny || self.rules.iter().any(allows);
        let rules = self.rules.into_iter().filter_map(|rule| rule.within(known, &mut closed)).collect();
        let dry_run = if known.contain(Feature::DryRun) {
            self.dry_run
        } else {
            let lacks: Features = [Feature::DryRun].into_iter().collect();
            closed.extend(self.dry_run.strict.into_iter().map(|rule| Closed { rule, lacks }));
            DryRun::default()
        };
        let (mut issuers, mut rules): (_, Vec<_>) = (self.issuers, rules);
        if !known.contain(Feature::Jwt) && !issuers.is_empty() {
            // Without them bad tokens would pass, and clients could set the fields in which applications are told of claims.
            let lacks: Features = [Feature::Jwt].into_iter().collect();
            closed.extend(issuers.iter().map(|issuer| Closed { rule: issuer.name.clone(), lacks }));
            let decides = issuers.iter().find(|issuer| !issuer.dry_run);
            rules.extend(decides.map(|issuer| AuthorizationRule::deny_everything(issuer.name.clone())));
            issuers.clear();
        }
        let traffic = self.traffic.within(known, &mut closed);
        (Self { rules, default_deny, dry_run, issuers, traffic, ..self }, closed)
    }
}

impl InboundDefault {
    /// As of [`Inbound::within`].
    pub fn within(self, known: Features) -> (Self, Vec<Closed>) {
        let (inbound, closed) = self.inbound.within(known);
        (Self { inbound, ..self }, closed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{MtlsMode, Protocol, TrustDomain};

    fn without(feature: Feature) -> Features {
        Features::all().beyond([feature].into_iter().collect())
    }

    fn rule(action: Action, from: Source, to: Operation) -> AuthorizationRule {
        AuthorizationRule { from: vec![from], to: vec![to], ..AuthorizationRule::of("p".into(), action) }
    }

    fn inbound(rules: Vec<AuthorizationRule>) -> Inbound {
        Inbound {
            port: 80,
            parent: "shop/api:80".into(),
            protocol: Protocol::Detect,
            mtls: MtlsMode::Permissive,
            rules,
            default_deny: false,
            dry_run: DryRun::default(),
            issuers: Vec::new(),
            traffic: Default::default(),
            ending: false,
            trust_domain: TrustDomain::new("cluster.local").unwrap(),
        }
    }

    #[test]
    fn a_policy_that_a_proxy_lacks_a_feature_for_denies() {
        let ranges = Source { cidrs: vec!["10.0.0.0/8".parse().unwrap()], ..Source::default() };
        let paths = |text| vec![PathPattern::parse(text).unwrap()];
        let meshed = Source { authenticated: Some(true), ..Source::default() };
        let but = SourceExcept { namespaces: vec!["shop".into()], ..SourceExcept::default() };
        let but = Source { except: but, ..Source::default() };
        let port = Operation { ports: vec![80], ..Operation::default() };
        let host = Operation { hosts: vec![crate::HostRule::parse("api").unwrap()], ..Operation::default() };
        let template = Operation { paths: paths("/{x}"), ..Operation::default() };
        let get = Operation { methods: vec![http::Method::GET], ..Operation::default() };
        for (action, rules, default_deny) in [
            (Action::Allow, Vec::new(), true),
            (Action::Deny, vec![AuthorizationRule::deny_everything("p".into())], false),
            (Action::Audit, Vec::new(), false),
        ] {
            for (from, to, feature) in [
                (ranges.clone(), Operation::default(), Feature::SourceRanges),
                (Source::default(), get.clone(), Feature::Operations),
                (Source::default(), template.clone(), Feature::AuthorizationConditions),
                (Source::default(), host.clone(), Feature::AuthorizationConditions),
                (Source::default(), port.clone(), Feature::AuthorizationConditions),
                (meshed.clone(), Operation::default(), Feature::AuthorizationConditions),
                (but.clone(), Operation::default(), Feature::AuthorizationConditions),
            ] {
                let whole = inbound(vec![rule(action, from, to)]);
                let (same, closed) = whole.clone().within(Features::all());
                assert_eq!((same.rules, closed.len()), (whole.rules.clone(), 0));
                let (less, closed) = whole.clone().within(without(feature));
                assert_eq!((less.rules, less.default_deny), (rules.clone(), default_deny), "{action:?} {feature:?}");
                assert_eq!(closed, [Closed { rule: "p".into(), lacks: [feature].into_iter().collect() }]);
                // What decides nothing leaves nothing behind, and denies no rest.
                let dry = |mut inbound: Inbound| {
                    inbound.rules.iter_mut().for_each(|rule| rule.dry_run = true);
                    inbound
                };
                for lacked in [feature, Feature::DryRun] {
                    let (less, closed) = dry(whole.clone()).within(without(lacked));
                    assert_eq!((less.rules, less.default_deny, closed.len()), (Vec::new(), false, 1));
                }
            }
        }
    }

    #[test]
    fn a_proxy_that_knows_no_dry_run_is_told_nothing_of_one() {
        let dry_run = DryRun { strict: Some("shop/p".into()), allow: vec!["shop/q".into()] };
        let by_default = AuthorizationRule { by_default: true, ..AuthorizationRule::of("p".into(), Action::Allow) };
        let whole = Inbound { dry_run, ..inbound(vec![by_default]) };
        let (same, closed) = whole.clone().within(Features::all());
        assert_eq!((same.dry_run, same.rules, closed.len()), (whole.dry_run.clone(), whole.rules.clone(), 0));
        let (less, closed) = whole.within(without(Feature::DryRun));
        assert_eq!((less.dry_run, less.rules.iter().any(|rule| rule.by_default)), (DryRun::default(), false));
        assert_eq!((less.rules.len(), closed.len()), (1, 1), "the rule holds all the same");
    }
}
