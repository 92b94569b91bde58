//! The service over real sockets, with the real client; and its page in docs/.

pub(crate) mod tokens;
mod revoking;
mod rotating;
mod serving;

/// The sources that count or show something.
const SOURCES: [&str; 8] = [
    include_str!("../authority/mod.rs"),
    include_str!("../authority/gauges.rs"),
    include_str!("../store/mod.rs"),
    include_str!("../service.rs"),
    include_str!("../source/mod.rs"),
    include_str!("../token/jwks.rs"),
    include_str!("../anchors/mod.rs"),
    include_str!("../revoked/mod.rs"),
];

#[test]
fn every_metric_and_condition_is_on_the_page() {
    let page = include_str!("../../../docs/identity.md");
    let begun = SOURCES.iter().flat_map(|source| source.split("\"remora_identity_").skip(1));
    let metrics: Vec<_> = begun.filter_map(|rest| rest.split('"').next()).collect();
    assert_eq!(metrics.len(), 16, "{metrics:?}");
    let (keys, review) = (crate::token::jwks::TOKEN_KEYS, crate::token::review::TOKEN_REVIEW);
    let conditions = [crate::server::ISSUER, keys, review, crate::revoked::REVOCATIONS];
    let conditions = conditions.map(str::to_owned);
    for name in metrics.iter().map(|rest| format!("remora_identity_{rest}")).chain(conditions) {
        assert!(page.contains(&format!("| `{name}` |")), "{name} is not in docs/identity.md");
    }
}
