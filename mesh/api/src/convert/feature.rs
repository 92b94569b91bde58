//! The features that a proxy names in its Hello.

use crate::v1;
use remora_model::{Feature, Features};

impl From<Feature> for v1::Feature {
    fn from(feature: Feature) -> Self {
        match feature {
            Feature::HeaderFilters => Self::HeaderFilters,
            Feature::Redirects => Self::Redirects,
            Feature::Rewrites => Self::Rewrites,
            Feature::Mirrors => Self::Mirrors,
            Feature::Timeouts => Self::Timeouts,
            Feature::Retries => Self::Retries,
            Feature::Operations => Self::Operations,
            Feature::SourceRanges => Self::SourceRanges,
            Feature::BackendKinds => Self::BackendKinds,
            Feature::TlsRoutes => Self::TlsRoutes,
            Feature::TcpRoutes => Self::TcpRoutes,
            Feature::LoadBalancers => Self::LoadBalancers,
            Feature::Cors => Self::Cors,
            Feature::Connections => Self::Connections,
            Feature::Localities => Self::Localities,
            Feature::Settings => Self::Settings,
            Feature::GrpcRetries => Self::GrpcRetries,
            Feature::RetryIntervals => Self::RetryIntervals,
            Feature::Tracing => Self::Tracing,
            Feature::AccessLog => Self::AccessLog,
            Feature::Asks => Self::Asks,
            Feature::AuthorizationConditions => Self::AuthorizationConditions,
            Feature::DryRun => Self::DryRun,
        }
    }
}

/// As [`v1::Hello::features`] has them.
pub fn to_features(features: Features) -> Vec<i32> {
    features.iter().map(|feature| v1::Feature::from(feature).into()).collect()
}

/// What a proxy can carry out that says this. What this version does not know is left out, for nothing needs it.
pub fn features(said: &[i32]) -> Features {
    let known = |value: &i32| Feature::ALL.into_iter().find(|feature| i32::from(v1::Feature::from(*feature)) == *value);
    if said.is_empty() { Features::unnamed() } else { said.iter().filter_map(known).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_has_what_it_names_and_an_older_one_what_there_was() {
        assert_eq!(features(&to_features(Features::all())), Features::all());
        let one: Features = [Feature::Mirrors].into_iter().collect();
        assert_eq!(features(&to_features(one)), one);
        assert_eq!(features(&[4, 4, 0, -1, 1_000_000]), one, "what a newer one names besides does not matter");
        assert_eq!(features(&[0]), Features::default(), "who names any has those only");
        assert_eq!(features(&[]), Features::unnamed());
    }
}
