//! Who a workload is: SPIFFE identities as strict, cheap-to-clone values.
//!
//! In: text from certificates, discovery and configuration. Out: a [`SpiffeId`] or the rule it broke.
//! Every MUST of the SPIFFE-ID standard is checked here and nowhere else, so a value of these types is
//! always well formed and can be compared as bytes. Deliberately no normalisation: text that is not
//! already in canonical form (an upper-case scheme or trust domain, say) is refused, because two spellings
//! of one identity are one too many for a policy.

use std::{fmt, str::FromStr, sync::Arc};

/// The longest SPIFFE ID that is accepted (SPIFFE-ID §2.3: implementations MUST support 2048 bytes).
pub const SPIFFE_ID_BYTES_MAX: usize = 2048;
/// The longest trust domain name (SPIFFE-ID §2.1).
pub const TRUST_DOMAIN_BYTES_MAX: usize = 255;

const SCHEME: &str = "spiffe://";

/// Which rule of the SPIFFE-ID standard a text breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidSpiffeId {
    /// SPIFFE-ID §2.3.
    #[error("SPIFFE id is longer than {SPIFFE_ID_BYTES_MAX} bytes")]
    TooLong,
    /// SPIFFE-ID §2: the scheme is `spiffe`, in lower case here.
    #[error("SPIFFE id does not start with `spiffe://`")]
    Scheme,
    /// SPIFFE-ID §2.1: the trust domain must not be empty.
    #[error("trust domain is empty")]
    TrustDomainEmpty,
    /// SPIFFE-ID §2.1.
    #[error("trust domain is longer than {TRUST_DOMAIN_BYTES_MAX} bytes")]
    TrustDomainTooLong,
    /// SPIFFE-ID §2.1: only `[a-z0-9.-_]`, hence no user info, port, or percent-encoding.
    #[error("trust domain holds {0:?}; only lower-case letters, digits, `.`, `-` and `_` are allowed")]
    TrustDomainCharacter(char),
    /// SPIFFE-ID §2.2: no empty path segment, and thus no trailing slash.
    #[error("path has an empty segment or ends in `/`")]
    EmptySegment,
    /// SPIFFE-ID §2.2: no relative path modifier.
    #[error("path has a `.` or `..` segment")]
    DotSegment,
    /// SPIFFE-ID §2.2: only `[a-zA-Z0-9.-_]`, hence no percent-encoding.
    #[error("path holds {0:?}; only letters, digits, `.`, `-` and `_` are allowed")]
    PathCharacter(char),
    /// SPIFFE-ID §2: no query component.
    #[error("SPIFFE id has a query")]
    Query,
    /// SPIFFE-ID §2: no fragment component.
    #[error("SPIFFE id has a fragment")]
    Fragment,
}

/// The name under which a set of trust anchors vouches: `cluster.local`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TrustDomain(Arc<str>);

impl TrustDomain {
    /// Checks `name` (without scheme) against SPIFFE-ID §2.1.
    pub fn new(name: &str) -> Result<Self, InvalidSpiffeId> {
        check_trust_domain(name)?;
        Ok(Self(name.into()))
    }

    /// The bare name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The identity of the trust domain itself, `spiffe://NAME`, which signing certificates carry.
    #[must_use]
    pub fn id(&self) -> SpiffeId {
        SpiffeId { text: format!("{SCHEME}{}", self.0).into(), trust_domain_end: SCHEME.len() + self.0.len() }
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl FromStr for TrustDomain {
    type Err = InvalidSpiffeId;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::new(name)
    }
}

/// A SPIFFE identity, checked. Cloning is a reference count; comparing is comparing bytes.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpiffeId {
    text: Arc<str>,
    /// Where the trust domain ends in `text`: derived from it, so it never decides a comparison.
    trust_domain_end: usize,
}

impl SpiffeId {
    /// Parses `text`, refusing whatever is not a canonical SPIFFE ID.
    pub fn parse(text: &str) -> Result<Self, InvalidSpiffeId> {
        if text.len() > SPIFFE_ID_BYTES_MAX {
            return Err(InvalidSpiffeId::TooLong);
        }
        let rest = text.strip_prefix(SCHEME).ok_or(InvalidSpiffeId::Scheme)?;
        if rest.contains('?') {
            return Err(InvalidSpiffeId::Query);
        }
        if rest.contains('#') {
            return Err(InvalidSpiffeId::Fragment);
        }
        let (domain, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        check_trust_domain(domain)?;
        check_path(path)?;
        Ok(Self { text: text.into(), trust_domain_end: SCHEME.len() + domain.len() })
    }

    /// The identity of a Kubernetes workload: `spiffe://TD/ns/NAMESPACE/sa/SERVICE_ACCOUNT`.
    pub fn workload(
        trust_domain: &TrustDomain,
        namespace: &str,
        service_account: &str,
    ) -> Result<Self, InvalidSpiffeId> {
        // A segment with a slash inside would parse, but as another identity.
        if namespace.contains('/') || service_account.contains('/') {
            return Err(InvalidSpiffeId::PathCharacter('/'));
        }
        Self::parse(&format!("{SCHEME}{trust_domain}/ns/{namespace}/sa/{service_account}"))
    }

    /// The whole identity as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The trust domain as its own value.
    #[must_use]
    pub fn trust_domain(&self) -> TrustDomain {
        TrustDomain(self.trust_domain_str().into())
    }

    /// The trust domain's name, borrowed.
    #[must_use]
    pub fn trust_domain_str(&self) -> &str {
        self.text.get(SCHEME.len()..self.trust_domain_end).unwrap_or_default()
    }

    /// Whether this identity belongs to `trust_domain`.
    #[must_use]
    pub fn member_of(&self, trust_domain: &TrustDomain) -> bool {
        self.trust_domain_str() == trust_domain.as_str()
    }

    /// The path with its leading slash, or `""` for a trust domain's own identity.
    #[must_use]
    pub fn path(&self) -> &str {
        self.text.get(self.trust_domain_end..).unwrap_or_default()
    }

    /// The namespace, if the path has the form `/ns/NAMESPACE/sa/SERVICE_ACCOUNT`.
    #[must_use]
    pub fn namespace(&self) -> Option<&str> {
        self.kubernetes().map(|(namespace, _)| namespace)
    }

    /// The service account, if the path has the form `/ns/NAMESPACE/sa/SERVICE_ACCOUNT`.
    #[must_use]
    pub fn service_account(&self) -> Option<&str> {
        self.kubernetes().map(|(_, service_account)| service_account)
    }

    fn kubernetes(&self) -> Option<(&str, &str)> {
        let (namespace, rest) = self.path().strip_prefix("/ns/")?.split_once('/')?;
        let service_account = rest.strip_prefix("sa/")?;
        (!service_account.contains('/')).then_some((namespace, service_account))
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.text, f)
    }
}

impl FromStr for SpiffeId {
    type Err = InvalidSpiffeId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

fn check_trust_domain(name: &str) -> Result<(), InvalidSpiffeId> {
    if name.is_empty() {
        return Err(InvalidSpiffeId::TrustDomainEmpty);
    }
    if name.len() > TRUST_DOMAIN_BYTES_MAX {
        return Err(InvalidSpiffeId::TrustDomainTooLong);
    }
    match name.chars().find(|c| !matches!(c, 'a'..='z' | '0'..='9' | '.' | '-' | '_')) {
        Some(c) => Err(InvalidSpiffeId::TrustDomainCharacter(c)),
        None => Ok(()),
    }
}

/// `path` is empty or starts with `/`.
fn check_path(path: &str) -> Result<(), InvalidSpiffeId> {
    let Some(segments) = path.strip_prefix('/') else { return Ok(()) };
    for segment in segments.split('/') {
        match segment {
            "" => return Err(InvalidSpiffeId::EmptySegment),
            "." | ".." => return Err(InvalidSpiffeId::DotSegment),
            _ => {}
        }
        if let Some(c) = segment.chars().find(|c| !matches!(c, 'a'..='z' | 'A'..='Z' | '0'..='9' | '.' | '-' | '_')) {
            return Err(InvalidSpiffeId::PathCharacter(c));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn refused(text: &str, why: InvalidSpiffeId) {
        assert_eq!(SpiffeId::parse(text), Err(why), "{text:?}");
    }

    #[test]
    fn workload_ids_take_apart_into_what_they_were_made_of() {
        let td = TrustDomain::new("cluster.local").unwrap();
        let id = SpiffeId::workload(&td, "shop", "web.v2").unwrap();
        assert_eq!(id.as_str(), "spiffe://cluster.local/ns/shop/sa/web.v2");
        assert_eq!(id.trust_domain(), td);
        assert!(id.member_of(&td));
        assert_eq!((id.namespace(), id.service_account()), (Some("shop"), Some("web.v2")));
        assert_eq!(SpiffeId::parse(id.as_str()), Ok(id.clone()));
        assert_eq!(id.to_string().parse(), Ok(id));
    }

    #[test]
    fn a_trust_domain_id_has_no_path_and_no_workload() {
        let id = TrustDomain::new("td_1").unwrap().id();
        assert_eq!(Ok(&id), SpiffeId::parse("spiffe://td_1").as_ref());
        assert_eq!((id.path(), id.namespace(), id.service_account()), ("", None, None));
    }

    #[test]
    fn paths_of_another_shape_are_valid_but_name_no_service_account() {
        for text in [
            "spiffe://td/a",
            "spiffe://td/ns/a/sa",
            "spiffe://td/ns/a/sb/c",
            "spiffe://td/ns/a/sa/b/c",
            "spiffe://td/NS/a/sa/b",
        ] {
            let id = SpiffeId::parse(text).unwrap();
            assert_eq!((id.namespace(), id.service_account()), (None, None), "{text}");
        }
    }

    #[test]
    fn every_must_of_the_standard_is_enforced() {
        use InvalidSpiffeId as E;
        refused("", E::Scheme);
        refused("https://td/a", E::Scheme);
        refused("SPIFFE://td/a", E::Scheme);
        refused("spiffe:/td/a", E::Scheme);
        refused("spiffe://", E::TrustDomainEmpty);
        refused("spiffe:///ns/a/sa/b", E::TrustDomainEmpty);
        refused("spiffe://TD/a", E::TrustDomainCharacter('T'));
        refused("spiffe://user@td/a", E::TrustDomainCharacter('@'));
        refused("spiffe://td:443/a", E::TrustDomainCharacter(':'));
        refused("spiffe://t%64/a", E::TrustDomainCharacter('%'));
        refused("spiffe://tд/a", E::TrustDomainCharacter('д'));
        refused("spiffe://td/", E::EmptySegment);
        refused("spiffe://td/a/", E::EmptySegment);
        refused("spiffe://td//a", E::EmptySegment);
        refused("spiffe://td/ns//sa/", E::EmptySegment);
        refused("spiffe://td/./a", E::DotSegment);
        refused("spiffe://td/a/..", E::DotSegment);
        refused("spiffe://td/a%2fb", E::PathCharacter('%'));
        refused("spiffe://td/a b", E::PathCharacter(' '));
        refused("spiffe://td/a\0", E::PathCharacter('\0'));
        refused("spiffe://td/a?b", E::Query);
        refused("spiffe://td?b", E::Query);
        refused("spiffe://td/a#b", E::Fragment);
    }

    #[test]
    fn lengths_are_accepted_up_to_the_limit_and_not_beyond() {
        let longest = format!("spiffe://td/{}", "a".repeat(SPIFFE_ID_BYTES_MAX - "spiffe://td/".len()));
        assert!(SpiffeId::parse(&longest).is_ok());
        refused(&format!("{longest}a"), InvalidSpiffeId::TooLong);
        assert!(TrustDomain::new(&"a".repeat(255)).is_ok());
        assert_eq!(TrustDomain::new(&"a".repeat(256)), Err(InvalidSpiffeId::TrustDomainTooLong));
    }

    #[test]
    fn paths_differing_in_case_are_different_identities() {
        assert_ne!(SpiffeId::parse("spiffe://td/a"), SpiffeId::parse("spiffe://td/A"));
    }

    #[test]
    fn a_slash_in_a_name_cannot_forge_another_identity() {
        let td = TrustDomain::new("td").unwrap();
        assert!(SpiffeId::workload(&td, "a/sa/b", "c").is_err());
        assert!(SpiffeId::workload(&td, "a", "b/c").is_err());
        assert!(SpiffeId::workload(&td, "", "b").is_err());
        assert!(SpiffeId::workload(&td, "..", "b").is_err());
    }
}
